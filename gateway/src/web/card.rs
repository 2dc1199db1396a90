//! A card to share: a wallet's usage in one picture of 1200 by 630.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};
use protocol::name::Address;
use protocol::record::Source;

use super::badge::{picture, wallet_of};
use super::days::{Activity, activity};
use super::figures::{counted, percent};
use super::format::{count, rounded};
use super::heatmap::Year;
use super::mix::{self, Mix};
use super::{raster, today, usage, visited};
use crate::api::Api;
use crate::ledger::{Sums, WalletSums};
use crate::reply::ApiError;

/// Answers a wallet's card, as SVG or, for who takes none, as PNG.
pub(super) async fn card(
    State(api): State<Arc<Api>>,
    Path(file): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let png = file.strip_suffix(".png").map(|name| format!("{name}.svg"));
    let wallet = wallet_of(png.as_ref().unwrap_or(&file))?;
    let sums = api.sums.read().wallet(&wallet);
    let base = visited(&headers);
    let host = base
        .split_once("://")
        .map_or(base.as_str(), |(_, host)| host);
    let card = Card {
        wallet,
        origin: api.verifier.origin().as_str(),
        host,
        sums: &sums,
        today: today(&api),
    };
    if png.is_some() {
        return Ok(picture("image/png", raster::png(SIZE, card.draw()).await?));
    }
    let svg = svg(&card.draw(), &card.told());
    Ok(picture("image/svg+xml", svg.into_string()))
}

/// What is on a card.
#[derive(Debug)]
struct Card<'a> {
    wallet: Address,
    origin: &'a str,
    host: &'a str,
    sums: &'a WalletSums,
    today: u32,
}

/// What a card is made of. Colours are `#` and six hex digits.
#[derive(Debug)]
pub(super) enum Shape {
    Rect {
        at: (u32, u32),
        size: (u32, u32),
        round: u32,
        colour: &'static str,
    },
    Text {
        /// Where its baseline begins, or ends.
        at: (u32, u32),
        ends: bool,
        size: u32,
        font: Font,
        colour: &'static str,
        text: String,
    },
}

/// In what a card's texts are set.
#[derive(Clone, Copy, Debug)]
pub(super) enum Font {
    Plain,
    Bold,
    Mono,
}

const SIZE: (u32, u32) = (1_200, 630);
const MARGIN: u32 = 64;

const GROUND: &str = "#0e1316";
const TEXT: &str = "#e4eaed";
const MUTED: &str = "#9aa8b0";
const ACCENT: &str = "#5cc8d4";

/// From nothing to most, as in the style sheet's dark half.
const HEAT: [&str; 5] = ["#1b2327", "#12414a", "#176b78", "#2aa0af", "#7fe0ea"];

/// Letters in the line of models.
const MODELS_ROOM: usize = 76;

/// A day's square and the gap after it.
const STEP: u32 = 20;
const SQUARE: u32 = 17;

impl Card<'_> {
    /// Bound sums of the source that is shown: sources are never added.
    fn shown(&self) -> Option<&(Source, Sums)> {
        self.sums.bound.first()
    }

    fn activity(&self) -> Activity {
        let shown = self.shown().map(|(source, _)| *source);
        let days = self.sums.days.iter();
        let days = days.filter(|(_, source, _)| Some(*source) == shown);
        activity(days.map(|(day, ..)| *day), self.today)
    }

    fn draw(&self) -> Vec<Shape> {
        let mut shapes = vec![rect((0, 0), SIZE, 0, GROUND)];
        self.head(&mut shapes);
        self.numbers(&mut shapes);
        self.days(&mut shapes);
        self.models(&mut shapes);
        shapes
    }

    fn head(&self, shapes: &mut Vec<Shape>) {
        shapes.push(text((MARGIN, 88), 30, Font::Bold, ACCENT, "Tallystick"));
        let right = (SIZE.0 - MARGIN, 88);
        shapes.push(ending(text(right, 24, Font::Mono, MUTED, self.origin)));
        let wallet = self.wallet.checksummed();
        shapes.push(text((MARGIN, 150), 34, Font::Mono, TEXT, &wallet));
    }

    fn numbers(&self, shapes: &mut Vec<Shape>) {
        let (big, small) = match self.shown() {
            Some((by, sums)) => (
                format!("{} tokens", rounded(sums.total())),
                format!(
                    "{} in, {} out, {} · bound by signature · {}",
                    rounded(sums.input),
                    rounded(sums.output),
                    counted(sums.records, "record"),
                    seen(*by)
                ),
            ),
            None => (
                "0 tokens".into(),
                "Nothing in this log is bound to it".into(),
            ),
        };
        shapes.push(text((MARGIN, 262), 92, Font::Bold, TEXT, &big));
        shapes.push(text((MARGIN, 314), 26, Font::Plain, MUTED, &small));
    }

    fn days(&self, shapes: &mut Vec<Shape>) {
        let none = BTreeMap::new();
        let by_source = usage::by_source(&self.sums.days);
        let of = self.shown().and_then(|(by, _)| by_source.get(by));
        let year = Year::of(of.unwrap_or(&none), self.today);
        for (column, row, level) in year.squares() {
            let at = (MARGIN + column * STEP, 350 + row * STEP);
            shapes.push(rect(at, (SQUARE, SQUARE), 3, HEAT[level]));
        }
    }

    fn models(&self, shapes: &mut Vec<Shape>) {
        let Activity {
            active,
            streak,
            longest,
        } = self.activity();
        let days = format!(
            "{} · streak {} · longest {}",
            counted(active.into(), "active day"),
            count(streak.into()),
            count(longest.into())
        );
        shapes.push(text((MARGIN, 536), 26, Font::Plain, TEXT, &days));
        if let Some((by, sums)) = self.shown() {
            let mix = Mix::of(&self.sums.models, *by);
            let named = mix.most(3).map(|(category, of)| {
                let share = percent(of.total(), sums.total());
                format!("{} {share}", cut(mix::model(category)))
            });
            let named = within(MODELS_ROOM, named);
            shapes.push(text((MARGIN, 574), 24, Font::Plain, MUTED, &named));
        }
        let check = format!("Check it: {}", self.host);
        shapes.push(ending(text(
            (SIZE.0 - MARGIN, 610),
            20,
            Font::Mono,
            MUTED,
            &check,
        )));
    }

    fn told(&self) -> String {
        let wallet = self.wallet.checksummed();
        match self.shown() {
            Some((by, sums)) => format!(
                "{wallet}: {}, {}, bound in the log {}",
                counted(sums.total(), "token"),
                seen(*by),
                self.origin
            ),
            None => format!(
                "{wallet}: nothing is bound to it in the log {}",
                self.origin
            ),
        }
    }
}

fn seen(source: Source) -> &'static str {
    match source {
        Source::Proxy => "seen by the gateway",
        Source::Custom => "of hosts that clients named",
    }
}

/// As many of these as a line has room for, in letters; the first in any case.
fn within(room: usize, words: impl Iterator<Item = String>) -> String {
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            if line.chars().count() + 3 + word.chars().count() > room {
                break;
            }
            line.push_str(" · ");
        }
        line.push_str(&word);
    }
    line
}

/// A name that leaves room for two others.
fn cut(name: &str) -> String {
    match name.char_indices().nth(30) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

fn rect(at: (u32, u32), size: (u32, u32), round: u32, colour: &'static str) -> Shape {
    Shape::Rect {
        at,
        size,
        round,
        colour,
    }
}

fn text(at: (u32, u32), size: u32, font: Font, colour: &'static str, text: &str) -> Shape {
    Shape::Text {
        at,
        ends: false,
        size,
        font,
        colour,
        text: text.to_owned(),
    }
}

/// The same text, but ending where it would begin.
fn ending(shape: Shape) -> Shape {
    match shape {
        Shape::Text {
            at,
            size,
            font,
            colour,
            text,
            ..
        } => Shape::Text {
            at,
            ends: true,
            size,
            font,
            colour,
            text,
        },
        rect @ Shape::Rect { .. } => rect,
    }
}

fn svg(shapes: &[Shape], title: &str) -> Markup {
    html! {
        svg xmlns="http://www.w3.org/2000/svg" width=(SIZE.0) height=(SIZE.1)
            viewBox=(format!("0 0 {} {}", SIZE.0, SIZE.1)) role="img" {
            title { (title) }
            @for shape in shapes { (one(shape)) }
        }
    }
}

fn one(shape: &Shape) -> Markup {
    match shape {
        Shape::Rect {
            at: (x, y),
            size: (width, height),
            round,
            colour,
        } => html! {
            rect x=(x) y=(y) width=(width) height=(height) rx=(round) fill=(colour) {}
        },
        Shape::Text {
            at: (x, y),
            ends,
            size,
            font,
            colour,
            text,
        } => {
            let (family, weight) = match font {
                Font::Plain => ("system-ui,Segoe UI,Roboto,DejaVu Sans,sans-serif", "400"),
                Font::Bold => ("system-ui,Segoe UI,Roboto,DejaVu Sans,sans-serif", "700"),
                Font::Mono => (
                    "ui-monospace,Menlo,Consolas,DejaVu Sans Mono,monospace",
                    "400",
                ),
            };
            html! {
                text x=(x) y=(y) font-size=(size) font-family=(family) font-weight=(weight)
                    fill=(colour) text-anchor=[ends.then_some("end")] { (text) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Category;
    use protocol::name::Name;

    fn drawn(sums: &WalletSums) -> String {
        let card = Card {
            wallet: Address::from_bytes([0xab; 20]),
            origin: "log.example.org",
            host: "log.example.org",
            sums,
            today: 20_781,
        };
        svg(&card.draw(), &card.told()).into_string()
    }

    #[test]
    fn a_line_ends_before_it_is_too_long() {
        let check = |words: &[&str], line: &str| {
            let words = words.iter().map(|word| (*word).to_owned());
            assert_eq!(within(9, words), line);
        };
        check(&[], "");
        check(&["abc", "def"], "abc · def");
        check(&["abc", "defg", "h"], "abc");
        check(&["longer than that"], "longer than that");
    }

    #[test]
    fn claims_are_not_shown_and_sources_are_not_added() {
        let sums = |input| Sums {
            records: 2,
            input,
            ..Sums::default()
        };
        let none = drawn(&WalletSums::default());
        assert!(none.contains(">0 tokens<"), "{none}");
        let claimed = drawn(&WalletSums {
            claimed: vec![(Source::Proxy, sums(7_777_777))],
            ..WalletSums::default()
        });
        assert!(claimed.contains(">0 tokens<") && !claimed.contains("7.77"));
        let category = Category {
            source: Source::Proxy,
            provider: Name::new("openai").expect("a name"),
            model: Name::new("<b>a model of a name that is far too long for a card"),
        };
        let bound = drawn(&WalletSums {
            bound: vec![
                (Source::Proxy, sums(1_500)),
                (Source::Custom, sums(1 << 40)),
            ],
            models: vec![(category, sums(1_500))],
            days: vec![(20_781, Source::Proxy, sums(1_500))],
            ..WalletSums::default()
        });
        for part in [
            ">1.50k tokens<",
            "2 records",
            "seen by the gateway",
            "&lt;b&gt;a model of a name that is f… 100.0%",
            "1 active day",
            HEAT[4],
        ] {
            assert!(bound.contains(part), "{part} in {bound}");
        }
        assert!(!bound.contains("<b>"));
    }
}
