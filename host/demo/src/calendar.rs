//! How the traffic of the history is spread over its batches.

use jiff::civil::{Date, Weekday};

use crate::shares::{HOUR_WEIGHTS, WEEKEND_PERCENT};

const MINUTES_PER_DAY: u64 = 1440;

/// The diurnal and weekly curve over a number of days, walked from its start to its end.
#[derive(Debug)]
pub(crate) struct Calendar {
    /// Days between a Monday and the first day.
    first_weekday: u64,
    total: u128,
    minute: u64,
    passed: u128,
}

impl Calendar {
    pub(crate) fn new(start: Date, days: u32) -> Self {
        let first_weekday = start.weekday().since(Weekday::Monday).unsigned_abs().into();
        let mut calendar = Self {
            first_weekday,
            total: 0,
            minute: 0,
            passed: 0,
        };
        calendar.total = (0..u64::from(days))
            .flat_map(|day| (0..24).map(move |hour| (day * 24 + hour) * 60))
            .map(|minute| u128::from(calendar.weight(minute)) * 60)
            .sum();
        calendar
    }

    /// Walks on by `minutes` and returns how many of `events` lie before that point in time. At the
    /// end of the days it is all of them.
    pub(crate) fn advance(&mut self, minutes: u32, events: u64) -> u64 {
        for _ in 0..minutes {
            self.passed += u128::from(self.weight(self.minute));
            self.minute += 1;
        }
        let passed = self.passed.min(self.total);
        u64::try_from(u128::from(events) * passed / self.total).unwrap_or(events)
    }

    fn weight(&self, minute: u64) -> u32 {
        let weekday = (self.first_weekday + minute / MINUTES_PER_DAY) % 7;
        let percent = if weekday >= 5 { WEEKEND_PERCENT } else { 100 };
        let hour = (minute % MINUTES_PER_DAY / 60) as usize;
        HOUR_WEIGHTS[hour] * percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    #[test]
    fn quotas_grow_to_exactly_all_events_and_follow_the_day() {
        let mut calendar = Calendar::new(date(2024, 1, 1), 7); // A Monday.
        let cumulated: Vec<u64> = (0..7 * 24).map(|_| calendar.advance(60, 100_003)).collect();
        assert!(cumulated.is_sorted());
        assert_eq!(cumulated.last(), Some(&100_003));

        let of_hour = |hour: usize| cumulated[hour] - cumulated[hour - 1];
        assert!(of_hour(20) > 8 * of_hour(4), "evening against night");
        let saturday = 5 * 24;
        assert!(of_hour(saturday + 12) < of_hour(12));
    }
}
