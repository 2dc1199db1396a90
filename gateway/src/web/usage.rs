//! What wallets and keys have in common on their pages: sums, days, models, cost.

use std::collections::BTreeMap;

use maud::{Markup, html};
use protocol::record::{Link, Source};

use super::days::activity;
use super::figures::{counted, dollars};
use super::format::{count, source_label, tokens};
use super::heatmap::{Day, Year};
use super::mix::{self, Mix};
use super::prices::PRICES;
use super::recent::link;
use crate::ledger::{Category, Sums};

/// Days and their sums, ascending, by source.
type Days = [(u32, Source, Sums)];

/// Sums of each source, those of `Link` kept apart.
pub(super) fn sums(rows: &[(Option<Link>, Source, Sums)]) -> Markup {
    html! {
        div.wide {
            table.rows {
                caption { "Sources and links are never added up. Cached tokens are part of input, reasoning is part of output." }
                thead { tr {
                    th scope="col" { "How it was seen" }
                    th.n scope="col" { "Records" }
                    th.n scope="col" { "Input" }
                    th.n scope="col" { "Cache read" }
                    th.n scope="col" { "Cache write" }
                    th.n scope="col" { "Output" }
                    th.n scope="col" { "Reasoning" }
                    th.n scope="col" { "Total" }
                } }
                tbody {
                    @for (linked, by, sums) in rows {
                        tr {
                            td.first {
                                @if let Some(linked) = linked { (link(*linked)) " " }
                                (source_label(*by))
                            }
                            td.n data-label="Records" { (count(sums.records)) }
                            td.n data-label="Input" { (count(sums.input)) }
                            td.n data-label="Cache read" { (count(sums.cache_read)) }
                            td.n data-label="Cache write" { (count(sums.cache_write)) }
                            td.n data-label="Output" { (count(sums.output)) }
                            td.n data-label="Reasoning" { (count(sums.reasoning)) }
                            td.n data-label="Total" { strong { (count(sums.total())) } }
                        }
                    }
                }
            }
        }
    }
}

/// The first numbers of a page: tokens of each source, days, and what it would cost.
pub(super) fn figures(
    sums: &[(Source, Sums)],
    days: &Days,
    models: &[(Category, Sums)],
    today: u32,
) -> Markup {
    let activity = activity(days.iter().map(|(day, ..)| *day), today);
    html! {
        dl.figures {
            @for (by, sums) in sums {
                div {
                    dt { "Tokens, " (by.as_str()) }
                    dd {
                        (tokens(sums.total()))
                        small { (tokens(sums.input)) " in, " (tokens(sums.output)) " out" }
                    }
                }
                div {
                    dt { "Records, " (by.as_str()) }
                    dd { (count(sums.records)) }
                }
            }
            @if sums.is_empty() {
                div { dt { "Tokens" } dd { (tokens(0)) } }
            }
            div {
                dt { "Active days" }
                dd { (count(activity.active.into())) }
            }
            div {
                dt { "Streak" }
                dd {
                    (counted(activity.streak.into(), "day"))
                    small { "longest " (counted(activity.longest.into(), "day")) }
                }
            }
            (priced(models))
        }
    }
}

/// What the models of each source would cost, in short.
fn priced(models: &[(Category, Sums)]) -> Markup {
    html! {
        @for by in Source::ALL {
            @let of = models.iter().filter(|(category, _)| category.source == *by);
            @let cost = PRICES.cost(of);
            @if cost.micros() > 0 {
                div {
                    dt { "At list prices, " (by.as_str()) }
                    dd {
                        a href="#cost" { (dollars(cost.micros())) }
                        @if !cost.unpriced.is_empty() {
                            small { (counted(cost.unpriced.len() as u64, "model")) " unpriced" }
                        }
                    }
                }
            }
        }
    }
}

/// A year's days, a picture for each source.
pub(super) fn year(days: &Days, today: u32) -> Markup {
    html! {
        h2 { "The year by day" }
        @for (by, days) in by_source(days) {
            h3 { "Tokens " (source_label(by)) }
            (Year::of(&days, today).draw(&format!("Tokens by day, {}", by.as_str())))
        }
    }
}

/// Days by source, of the sources that there are.
pub(super) fn by_source(days: &Days) -> BTreeMap<Source, BTreeMap<u32, Day>> {
    let mut by_source = BTreeMap::<Source, BTreeMap<u32, Day>>::new();
    for (day, by, sums) in days {
        let of = Day {
            tokens: sums.total(),
            records: sums.records,
        };
        by_source.entry(*by).or_default().insert(*day, of);
    }
    by_source
}

/// Which models were used, for each source.
pub(super) fn models(models: &[(Category, Sums)]) -> Markup {
    html! {
        h2 { "Models" }
        @for by in Source::ALL {
            @let mix = Mix::of(models, *by);
            @if mix.len() > 0 {
                h3 { (counted(mix.len() as u64, "model")) " " (source_label(*by)) }
                (mix.draw())
            }
        }
    }
}

/// What it would cost by the table of prices, and how that is made.
pub(super) fn cost(models: &[(Category, Sums)]) -> Markup {
    html! {
        h2 #cost { "Estimated cost" }
        p {
            "An estimate by a table of list prices of " (PRICES.date) ", whenever the tokens were used. "
            "What was really paid, the log does not know. " (PRICES.basis)
        }
        dl.facts {
            @for by in Source::ALL {
                @let of = models.iter().filter(|(category, _)| category.source == *by);
                @let mut of = of.peekable();
                @if of.peek().is_some() {
                    dt { "Sum " (source_label(*by)) }
                    dd { strong { (dollars(PRICES.cost(of).micros())) } " USD" }
                }
            }
            dt { "Table" }
            dd {
                a href="/assets/prices.json" { "prices.json" } ", SHA-256 "
                code.hash { (PRICES.hash) }
            }
        }
        @let unpriced = PRICES.cost(models).unpriced;
        @if !unpriced.is_empty() {
            p { "Not in the table under exactly these names, so not in the sum:" }
            ul {
                @for (category, sums) in &unpriced {
                    li {
                        (mix::model(category)) ", " (category.provider.as_str()) " "
                        (source_label(category.source)) " "
                        (tokens(sums.input)) " in, " (tokens(sums.output)) " out"
                    }
                }
            }
        }
    }
}
