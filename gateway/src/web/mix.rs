//! Which models were used how much: a bar of shares, and the table it is of.

use maud::{Markup, html};
use protocol::record::Source;

use super::figures::{counted, percent, permille};
use super::format::{count, tokens};
use crate::ledger::{Category, Sums};

/// Parts of the bar with a colour of their own; what is over shares the last one.
const PARTS: usize = 6;

/// What models of one source were used, the most used first.
#[derive(Debug)]
pub(super) struct Mix<'a> {
    rows: Vec<&'a (Category, Sums)>,
    total: u64,
}

impl<'a> Mix<'a> {
    /// Of the models of `source` among these.
    pub(super) fn of(models: &'a [(Category, Sums)], source: Source) -> Self {
        let mut rows: Vec<_> = models.iter().filter(|(c, _)| c.source == source).collect();
        rows.sort_by_key(|(_, sums)| std::cmp::Reverse(sums.total()));
        let total = rows
            .iter()
            .fold(0_u64, |all, (_, sums)| all.saturating_add(sums.total()));
        Self { rows, total }
    }

    /// How many models there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Up to so many, the most used first.
    pub(super) fn most(&self, count: usize) -> impl Iterator<Item = &'a (Category, Sums)> + '_ {
        self.rows.iter().take(count).copied()
    }

    /// The bar's parts: a name, tokens, and the colour's number, from 0.
    fn parts(&self) -> Vec<(String, u64, usize)> {
        let own = self.rows.iter().take(PARTS);
        let own = own.enumerate().map(|(at, (category, sums))| {
            let name = format!("{} {}", category.provider, model(category));
            (name, sums.total(), at)
        });
        let mut parts: Vec<_> = own.filter(|(_, tokens, _)| *tokens > 0).collect();
        let over = self.rows.iter().skip(PARTS);
        let over = over.fold(0_u64, |all, (_, sums)| all.saturating_add(sums.total()));
        if over > 0 {
            parts.push(("others".into(), over, PARTS));
        }
        parts
    }

    /// The bar and the table below it; what has no colour of its own is folded away.
    pub(super) fn draw(&self) -> Markup {
        let (own, others) = self.rows.split_at(self.rows.len().min(PARTS));
        let caption = "By model, the most tokens first. Cached tokens are part of input, reasoning is part of output.";
        html! {
            (self.bar())
            (self.table(own, 0, caption))
            @if !others.is_empty() {
                details {
                    summary { (counted(others.len() as u64, "more model")) }
                    (self.table(others, PARTS, "The other models"))
                }
            }
        }
    }

    fn table(&self, rows: &[&(Category, Sums)], first: usize, caption: &str) -> Markup {
        html! {
            div.wide {
                table.rows {
                    caption { (caption) }
                    thead { tr {
                        th scope="col" { "Model" }
                        th scope="col" { "Provider" }
                        th.n scope="col" { "Records" }
                        th.n scope="col" { "Input" }
                        th.n scope="col" { "Cached" }
                        th.n scope="col" { "Output" }
                        th.n scope="col" { "Total" }
                        th.n scope="col" { "Share" }
                    } }
                    tbody {
                        @for (at, (category, sums)) in (first..).zip(rows) {
                            tr {
                                td.first {
                                    svg viewBox="0 0 10 10" width="10" height="10" aria-hidden="true" {
                                        rect class=(format!("mix-{}", at.min(PARTS))) width="10" height="10" rx="2" {}
                                    }
                                    " " (model(category))
                                }
                                td data-label="Provider" { (category.provider.as_str()) }
                                td.n data-label="Records" { (count(sums.records)) }
                                td.n data-label="Input" { (tokens(sums.input)) }
                                td.n data-label="Cached" { (tokens(sums.cache_read)) }
                                td.n data-label="Output" { (tokens(sums.output)) }
                                td.n data-label="Total" { (tokens(sums.total())) }
                                td.n data-label="Share" { (percent(sums.total(), self.total)) }
                            }
                        }
                    }
                }
            }
        }
    }

    fn bar(&self) -> Markup {
        let mut before = 0_u64;
        let parts = self.parts().into_iter().map(|(name, part, colour)| {
            // From the sums, so that rounding leaves no gaps.
            let x = permille(before, self.total);
            before = before.saturating_add(part);
            let width = permille(before, self.total) - x;
            (name, part, colour, x, width)
        });
        html! {
            svg.mix viewBox="0 0 1000 20" preserveAspectRatio="none" role="img"
                aria-label="Shares of the models; the table below has the numbers" {
                @for (name, part, colour, x, width) in parts {
                    rect class=(format!("mix-{colour}")) x=(x) y="0" width=(width) height="20" {
                        title { (name) ": " (count(part)) " tokens, " (percent(part, self.total)) }
                    }
                }
            }
        }
    }
}

/// A model's name as it is shown.
pub(super) fn model(category: &Category) -> &str {
    let model = category.model.as_ref();
    model.map_or("(no model named)", |model| model.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::name::Name;

    fn used(source: Source, model: &str, input: u64, output: u64) -> (Category, Sums) {
        let category = Category {
            source,
            provider: Name::new("openai").expect("a name"),
            model: Name::new(model),
        };
        let sums = Sums {
            records: 1,
            input,
            output,
            ..Sums::default()
        };
        (category, sums)
    }

    #[test]
    fn sources_are_not_mixed_and_the_most_used_comes_first() {
        let models = [
            used(Source::Proxy, "few", 1, 1),
            used(Source::Proxy, "many", 5, 5),
            used(Source::Custom, "elsewhere", 1_000, 0),
            used(Source::Proxy, "", 0, 4),
        ];
        let mix = Mix::of(&models, Source::Proxy);
        let parts = mix.parts();
        let named: Vec<_> = parts.iter().map(|(n, tokens, _)| (&**n, *tokens)).collect();
        let expected = [
            ("openai many", 10),
            ("openai (no model named)", 4),
            ("openai few", 2),
        ];
        assert_eq!(named, expected);
        assert_eq!((mix.len(), mix.total), (3, 16));
    }

    #[test]
    fn the_bar_is_as_wide_as_the_whole_and_no_part_is_lost() {
        let models: Vec<_> = (1..=9)
            .map(|n| used(Source::Proxy, &format!("m{n}"), n * n, 0))
            .collect();
        let mix = Mix::of(&models, Source::Proxy);
        let parts = mix.parts();
        assert_eq!(parts.len(), PARTS + 1);
        assert_eq!(parts[PARTS], ("others".into(), 1 + 4 + 9, PARTS));
        let sum: u64 = parts.iter().map(|(_, tokens, _)| tokens).sum();
        assert_eq!(sum, mix.total);
        let bar = mix.bar().into_string();
        let number = |text: &str, name: &str| -> u64 {
            let (_, rest) = text.split_once(&format!(" {name}=\"")).expect("there");
            let (number, _) = rest.split_once('"').expect("closed");
            number.parse().expect("a number")
        };
        let mut end = 0;
        for rect in bar.split("<rect").skip(1) {
            assert_eq!(number(rect, "x"), end);
            end += number(rect, "width");
        }
        assert_eq!(end, 1_000);
    }

    #[test]
    fn names_are_no_markup() {
        let models = [used(Source::Proxy, "<img src=x onerror='x'>&", 1, 1)];
        let drawn = Mix::of(&models, Source::Proxy).draw().into_string();
        assert!(!drawn.contains("<img"), "{drawn}");
        assert_eq!(
            drawn.matches("&lt;img src=x onerror='x'&gt;&amp;").count(),
            2
        );
    }
}
