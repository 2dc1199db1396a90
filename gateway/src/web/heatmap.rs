//! A year of days as a picture: 53 columns of weeks, the darker the more.
//!
//! Drawn on the server; colours are the style sheet's (`heat-0` to `heat-4`).
//! What a person who sees no picture needs is in the titles and in the months'
//! table.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::days::{date, weekday};
use super::figures::counted;
use super::format::{count, day as written};

/// Columns: so many that every day of a year back has its place.
const WEEKS: u32 = 53;

/// A day's square and the gap after it, in units of the picture.
const STEP: u32 = 13;
const SQUARE: u32 = 11;

/// What is left of the columns, and above the rows.
const LEFT: u32 = 30;
const TOP: u32 = 18;

/// What is shown of a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Day {
    /// Input and output.
    pub(super) tokens: u64,
    /// Usage entries.
    pub(super) records: u64,
}

/// The year that ends with today.
#[derive(Debug)]
pub(super) struct Year<'a> {
    days: &'a BTreeMap<u32, Day>,
    first: u32,
    today: u32,
    /// From how many tokens on a day is of level 2, 3 and 4.
    steps: [u64; 3],
}

impl<'a> Year<'a> {
    /// The 53 weeks, Sunday to Saturday, that end with the one of `today`.
    pub(super) fn of(days: &'a BTreeMap<u32, Day>, today: u32) -> Self {
        let first = today.saturating_sub(weekday(today) + (WEEKS - 1) * 7);
        let mut used: Vec<u64> = days
            .range(first..=today)
            .map(|(_, day)| day.tokens)
            .filter(|tokens| *tokens > 0)
            .collect();
        used.sort_unstable();
        let quantile = |quarter: usize| used.get(used.len() * quarter / 4).copied();
        let steps = [1, 2, 3].map(|quarter| quantile(quarter).unwrap_or(u64::MAX));
        Self {
            days,
            first,
            today,
            steps,
        }
    }

    /// 0 for a day without records, else 1 to 4, by quarters of the days with tokens.
    fn level(&self, day: Day) -> usize {
        match day {
            Day { records: 0, .. } => 0,
            Day { tokens: 0, .. } => 1,
            Day { tokens, .. } => 1 + self.steps.iter().filter(|step| tokens >= **step).count(),
        }
    }

    fn shown(&self) -> impl Iterator<Item = (u32, Day)> + '_ {
        (self.first..=self.today).map(|day| (day, self.days.get(&day).copied().unwrap_or_default()))
    }

    /// The picture, called `name`, with the months as a table below.
    pub(super) fn draw(&self, name: &str) -> Markup {
        let (width, height) = (LEFT + WEEKS * STEP, TOP + 7 * STEP);
        html! {
            div.wide.newest tabindex="0" role="region" aria-label=(name) {
                svg.heatmap viewBox=(format!("0 0 {width} {height}")) width=(width) height=(height)
                    role="img" aria-label=(self.summary(name)) {
                    @for (x, month) in self.months() {
                        text x=(x) y=(TOP - 6) { (month) }
                    }
                    @for (row, weekday) in [(1, "Mon"), (3, "Wed"), (5, "Fri")] {
                        text x="0" y=(TOP + row * STEP + SQUARE - 2) { (weekday) }
                    }
                    @for (day, used) in self.shown() {
                        rect class=(format!("heat-{}", self.level(used)))
                            x=(LEFT + self.column(day) * STEP) y=(TOP + weekday(day) * STEP)
                            width=(SQUARE) height=(SQUARE) rx="2" {
                            title { (told(day, used)) }
                        }
                    }
                }
            }
            (legend())
            details {
                summary { "By month" }
                (self.table(name))
            }
        }
    }

    /// The squares alone, at a place of a larger picture: (x, y, level).
    pub(super) fn squares(&self) -> impl Iterator<Item = (u32, u32, usize)> + '_ {
        self.shown()
            .map(|(day, used)| (self.column(day), weekday(day), self.level(used)))
    }

    fn column(&self, day: u32) -> u32 {
        // The first column of a young clock's year begins in its middle.
        (day - self.first + weekday(self.first)) / 7
    }

    fn summary(&self, name: &str) -> String {
        let active = self.shown().filter(|(_, day)| day.records > 0).count();
        format!(
            "{name}: {} with records from {} to {}",
            counted(active as u64, "day"),
            iso(self.first),
            iso(self.today)
        )
    }

    /// Where each month begins, but for those that begin right before another.
    fn months(&self) -> Vec<(u32, String)> {
        let firsts = (self.first..=self.today).filter(|day| date(*day).day() == 1);
        let mut months: Vec<_> = firsts
            .map(|day| (LEFT + self.column(day) * STEP, short_month(day)))
            .collect();
        // A label is wider than a column: the last one must not stick out.
        months.retain(|(x, _)| *x <= LEFT + (WEEKS - 2) * STEP);
        months
    }

    fn table(&self, name: &str) -> Markup {
        let mut months = BTreeMap::<String, (u64, Day)>::new();
        for (day, used) in self.shown().filter(|(_, used)| used.records > 0) {
            let month = iso(day).get(..7).unwrap_or_default().to_owned();
            let (active, sums) = months.entry(month).or_default();
            *active += 1;
            sums.tokens = sums.tokens.saturating_add(used.tokens);
            sums.records = sums.records.saturating_add(used.records);
        }
        html! {
            table.rows {
                caption { (name) ", by month" }
                thead { tr {
                    th scope="col" { "Month" }
                    th.n scope="col" { "Days" }
                    th.n scope="col" { "Records" }
                    th.n scope="col" { "Tokens" }
                } }
                tbody {
                    @for (month, (active, sums)) in months.iter().rev() {
                        tr {
                            th scope="row" { (month) }
                            td.n data-label="Days" { (active) }
                            td.n data-label="Records" { (count(sums.records)) }
                            td.n data-label="Tokens" { (count(sums.tokens)) }
                        }
                    }
                    @if months.is_empty() {
                        tr { td colspan="4" { "no records" } }
                    }
                }
            }
        }
    }
}

fn legend() -> Markup {
    html! {
        p.legend.muted.small {
            "Less "
            svg.heatmap viewBox="0 0 65 11" width="65" height="11" aria-hidden="true" {
                @for level in 0..5_u32 {
                    rect class=(format!("heat-{level}")) x=(level * STEP) y="0"
                        width=(SQUARE) height=(SQUARE) rx="2" {}
                }
            }
            " more tokens; days are UTC"
        }
    }
}

fn iso(day: u32) -> String {
    written(day.into())
}

fn told(day: u32, used: Day) -> String {
    let day = iso(day);
    match used.records {
        0 => format!("{day}: none"),
        records => format!(
            "{day}: {}, {}",
            counted(used.tokens, "token"),
            counted(records, "record")
        ),
    }
}

fn short_month(day: u32) -> String {
    let month = date(day).month().to_string();
    month.get(..3).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: u32 = 20_781; // Tuesday, 2026-11-24

    fn days(used: &[(u32, u64)]) -> BTreeMap<u32, Day> {
        let day = |(day, tokens): &(u32, u64)| {
            let tokens = *tokens;
            (*day, Day { tokens, records: 1 })
        };
        used.iter().map(day).collect()
    }

    #[test]
    fn a_year_is_53_weeks_of_which_the_last_is_not_over() {
        let none = days(&[]);
        let squares: Vec<_> = Year::of(&none, TODAY).squares().collect();
        assert_eq!(squares.len(), 52 * 7 + 3);
        assert_eq!(squares.first(), Some(&(0, 0, 0)));
        assert_eq!(squares.last(), Some(&(52, 2, 0)));
        // A clock that stands at the beginning has no year behind it.
        let young: Vec<_> = Year::of(&none, 3).squares().collect();
        assert_eq!(young, [(0, 4, 0), (0, 5, 0), (0, 6, 0), (1, 0, 0)]);
    }

    #[test]
    fn levels_are_quarters_of_the_days_that_were_used() {
        let check = |tokens: &[u64], levels: &[usize]| {
            let used: Vec<_> = (TODAY - 50..).zip(tokens.iter().copied()).collect();
            let used = days(&used);
            let year = Year::of(&used, TODAY);
            let found: Vec<_> = used.values().map(|day| year.level(*day)).collect();
            assert_eq!(found, levels, "{tokens:?}");
        };
        check(&[5], &[4]);
        check(&[5, 5, 5], &[4, 4, 4]);
        check(&[1, 2, 3, 4], &[1, 2, 3, 4]);
        check(&[1, 1_000_000], &[2, 4]);
        check(&[8, 1, 4, 2, 5, 7, 3, 6], &[4, 1, 2, 1, 3, 4, 2, 3]);
        // Records without counts are seen, and shift nothing.
        check(&[0, 1, 2, 3, 4], &[1, 1, 2, 3, 4]);
    }

    #[test]
    fn days_before_the_year_count_for_nothing() {
        let long_ago = days(&[(TODAY - 400, 1 << 60), (TODAY, 7)]);
        let year = Year::of(&long_ago, TODAY);
        assert_eq!(year.level(long_ago[&TODAY]), 4);
        let drawn = year.draw("Tokens").into_string();
        assert!(
            drawn.contains("<title>2026-11-24: 7 tokens, 1 record</title>"),
            "{drawn}"
        );
        assert!(drawn.contains("1 day with records"), "{drawn}");
        assert_eq!(drawn.matches("<title>").count(), 52 * 7 + 3);
        assert!(!drawn.contains("style="), "{drawn}");
    }
}
