//! At which hours of the day a wallet is used: 24 columns, in UTC.

use maud::{Markup, html};
use protocol::record::Source;

use super::figures::counted;
use super::format::count;

/// A column and the gap after it, and how high the highest is.
const STEP: u64 = 20;
const COLUMN: u64 = 16;
const HEIGHT: u64 = 80;

/// The records of each hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hours([u64; 24]);

impl Hours {
    /// Of one source, among what the ledger keeps by hour and source.
    pub(super) fn of(hours: &[(u8, Source, u32)], source: Source) -> Self {
        let mut of = [0; 24];
        for (hour, by, records) in hours {
            if let Some(sum) = of.get_mut(usize::from(*hour)).filter(|_| *by == source) {
                *sum += u64::from(*records);
            }
        }
        Self(of)
    }

    /// The columns, with the numbers as a table below.
    pub(super) fn draw(&self) -> Markup {
        let most = self.0.iter().copied().max().unwrap_or_default().max(1);
        // What is there is seen, however little.
        let height = |records: u64| match records {
            0 => 0,
            some => (some * HEIGHT / most).max(2),
        };
        html! {
            div.wide tabindex="0" role="region" aria-label="Records by hour of the day" {
                svg.hours viewBox=(format!("0 0 {} {}", 24 * STEP, HEIGHT + 16))
                    width=(24 * STEP) height=(HEIGHT + 16)
                    role="img" aria-label="Records by UTC hour of the day; the table below has the numbers" {
                    @for (hour, records) in (0..).zip(self.0) {
                        rect.bar-part x=(hour * STEP) y=(HEIGHT - height(records))
                            width=(COLUMN) height=(height(records)) rx="2" {
                            title { (span(hour)) ": " (counted(records, "record")) }
                        }
                        @if hour % 6 == 0 {
                            text x=(hour * STEP) y=(HEIGHT + 13) { (format!("{hour:02}")) }
                        }
                    }
                }
            }
            details {
                summary { "By hour" }
                table.rows {
                    caption { "Records by UTC hour of the day" }
                    thead { tr { th scope="col" { "Hour" } th.n scope="col" { "Records" } } }
                    tbody {
                        @for (hour, records) in (0..).zip(self.0).filter(|(_, records)| *records > 0) {
                            tr {
                                th scope="row" { (span(hour)) }
                                td.n data-label="Records" { (count(records)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn span(hour: u64) -> String {
    format!("{hour:02}:00 to {:02}:00", (hour + 1) % 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_those_of_one_source() {
        let kept = [
            (0, Source::Proxy, 1),
            (0, Source::Custom, 50),
            (23, Source::Proxy, 1_000),
            // No ledger has such an hour.
            (24, Source::Proxy, 9),
        ];
        let hours = Hours::of(&kept, Source::Proxy);
        assert_eq!((hours.0[0], hours.0[23]), (1, 1_000));
        assert_eq!(hours.0.iter().sum::<u64>(), 1_001);
        let drawn = hours.draw().into_string();
        assert!(drawn.contains("<title>23:00 to 00:00: 1\u{202f}000 records</title>"));
        assert!(drawn.contains(r#"height="2" rx="2"><title>00:00 to 01:00: 1 record<"#));
        assert_eq!(drawn.matches("<rect").count(), 24);
    }
}
