//! Shares and money in words. Whole numbers only, always rounded down: money is
//! never a float. Plain numbers are [`super::format`]'s.

use super::format::count;

/// A number and what is counted, in the plural where there are others than one.
pub(super) fn counted(number: u64, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{} {what}{s}", count(number))
}

/// A part of a whole, in tenths of a percent.
pub(super) fn percent(part: u64, whole: u64) -> String {
    let tenths = permille(part, whole);
    match (tenths, part) {
        (0, 1..) => "< 0.1%".into(),
        _ => format!("{}.{}%", tenths / 10, tenths % 10),
    }
}

/// A part of a whole in thousandths.
pub(super) fn permille(part: u64, whole: u64) -> u64 {
    let thousandths = u128::from(part) * 1_000 / u128::from(whole.max(1));
    u64::try_from(thousandths).unwrap_or(u64::MAX)
}

/// Micro-dollars as dollars: in cents, or to the micro-dollar below ten cents.
pub(super) fn dollars(micros: u128) -> String {
    let whole = count(u64::try_from(micros / 1_000_000).unwrap_or(u64::MAX));
    let rest = micros % 1_000_000;
    match micros {
        0 => "$0.00".into(),
        1..100_000 => format!("${whole}.{rest:06}"),
        _ => format!("${whole}.{:02}", rest / 10_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_rounded_down_and_never_vanish() {
        for (part, whole, text) in [
            (0, 0, "0.0%"),
            (0, 5, "0.0%"),
            (1, 3, "33.3%"),
            (1, 10_000, "< 0.1%"),
            (5, 5, "100.0%"),
            (u64::MAX, u64::MAX, "100.0%"),
        ] {
            assert_eq!(percent(part, whole), text, "{part} of {whole}");
        }
    }

    #[test]
    fn small_sums_keep_their_micro_dollars() {
        for (micros, text) in [
            (0, "$0.00"),
            (1, "$0.000001"),
            (99_999, "$0.099999"),
            (100_000, "$0.10"),
            (1_999_999, "$1.99"),
            (1_234_567_890_000, "$1 234 567.89"),
        ] {
            assert_eq!(dollars(micros), text.replace(' ', "\u{202f}"));
        }
    }

    #[test]
    fn one_is_singular() {
        for (number, text) in [(0, "0 days"), (1, "1 day"), (2, "2 days")] {
            assert_eq!(counted(number, "day"), text);
        }
    }
}
