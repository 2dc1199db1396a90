//! Days on which something was used: how many, how many in a row.
//!
//! A day is a UTC day, in days since 1970-01-01. Out of scope: how a year
//! looks (see [`super::heatmap`]).

use time::{Date, Duration, Month};

/// What the days of an account say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Activity {
    /// Days with at least one record.
    pub(super) active: u32,
    /// Days in a row up to today; up to yesterday where today has none yet.
    pub(super) streak: u32,
    /// The most days in a row.
    pub(super) longest: u32,
}

/// Counts days, which ascend; one may be there more than once.
pub(super) fn activity(days: impl IntoIterator<Item = u32>, today: u32) -> Activity {
    let mut activity = Activity::default();
    let (mut run, mut before) = (0, None::<u32>);
    for day in days {
        match before {
            Some(before) if before == day => continue,
            Some(before) if before.checked_add(1) == Some(day) => run += 1,
            _ => run = 1,
        }
        activity.active += 1;
        activity.longest = activity.longest.max(run);
        before = Some(day);
    }
    // The log's clock may be ahead of ours, so that its last day is after today.
    let goes_on = before.is_some_and(|last| last.saturating_add(1) >= today);
    activity.streak = if goes_on { run } else { 0 };
    activity
}

/// The calendar's date of a day; the last there is for what lies beyond.
pub(super) fn date(day: u32) -> Date {
    let epoch = Date::from_calendar_date(1970, Month::January, 1).expect("a date");
    let date = epoch.checked_add(Duration::days(day.into()));
    date.unwrap_or(Date::MAX)
}

/// The day of the week, 0 for Sunday.
pub(super) fn weekday(day: u32) -> u32 {
    // 1970-01-01 was a Thursday.
    (day % 7 + 4) % 7
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_in_a_row_are_a_streak_until_a_whole_day_was_missed() {
        let check = |days: &[u32], today: u32, active, streak, longest| {
            let expected = Activity {
                active,
                streak,
                longest,
            };
            let found = activity(days.iter().copied(), today);
            assert_eq!(found, expected, "{days:?}, today {today}");
        };
        check(&[], 100, 0, 0, 0);
        check(&[100], 100, 1, 1, 1);
        check(&[99], 100, 1, 1, 1);
        check(&[98], 100, 1, 0, 1);
        check(&[98, 99, 100], 100, 3, 3, 3);
        check(&[90, 91, 92, 99, 100], 100, 5, 2, 3);
        check(&[90, 91, 92, 97, 98], 100, 5, 0, 3);
        // By two sources on one day.
        check(&[99, 99, 100, 100], 100, 2, 2, 2);
        check(&[0], 0, 1, 1, 1);
        check(&[100, 101], 100, 2, 2, 2);
        check(&[u32::MAX - 1, u32::MAX], u32::MAX, 2, 2, 2);
    }

    #[test]
    fn days_fall_on_their_weekdays() {
        for (day, weekday, date) in [
            (0, 4, "1970-01-01"),
            (3, 0, "1970-01-04"),
            (20_781, 2, "2026-11-24"),
        ] {
            assert_eq!(super::weekday(day), weekday, "{day}");
            assert_eq!(super::date(day).to_string(), date);
        }
    }
}
