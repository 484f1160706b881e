//! The stream: which sessions begin when, and which rows land in which batch.

use std::collections::BTreeMap;

use jiff::civil::{Date, date};
use thiserror::Error;

use crate::batch::Batch;
use crate::calendar::Calendar;
use crate::catalogue::Catalogue;
use crate::dice::Dice;
use crate::session::{Row, Sessions};
use crate::shares::{HOUR_MS, MINUTE_MS, SESSION_ROWS_MEAN};
use crate::visitors::Visitors;

/// `etl_tstamp` minus the end of the time that a batch covers.
const ETL_MS: i64 = 5 * MINUTE_MS;
const MINUTES_PER_DAY: u32 = 24 * 60;
const DAY_MS: i64 = 24 * HOUR_MS;
const EPOCH: Date = date(1970, 1, 1);

/// What to generate. The same options give the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamOptions {
    /// Another seed gives another stream of the same nature.
    pub seed: u64,
    /// Rows of `atomic.events` that the history has, exactly, duplicates included. At least 1.
    pub events: u64,
    /// Days of the history: 1 to 36,500.
    pub days: u32,
    /// The first day; it begins at midnight UTC. Years 1970 to 8999.
    pub start: Date,
    /// Minutes that a batch covers; they divide a day.
    pub batch_minutes: u32,
    /// How late an event may arrive: 0 (none is late) to 365 days. Lateness, pauses, offline
    /// devices and duplicates add up; with this and [`pause_hours_max`](Self::pause_hours_max) left
    /// alone, all rows of a session land within a lookback of seven days.
    pub late_days_max: u32,
    /// The longest pause after which a session goes on: 0 to 8,760 hours.
    pub pause_hours_max: u32,
}

impl Default for StreamOptions {
    /// 100,000 events over 30 days from 2024-01-01, hourly.
    fn default() -> Self {
        Self {
            seed: 1,
            events: 100_000,
            days: 30,
            start: date(2024, 1, 1),
            batch_minutes: 60,
            late_days_max: 3,
            pause_hours_max: 48,
        }
    }
}

/// Options that no stream can be made from.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OptionsError {
    /// A number lies outside of its bounds.
    #[error("{option} is {found}, but it goes from {least} to {most}")]
    OutOfBounds {
        /// The field of [`StreamOptions`].
        option: &'static str,
        /// What it was.
        found: u64,
        /// Least value allowed.
        least: u64,
        /// Greatest value allowed.
        most: u64,
    },
    /// Batches would straddle midnight.
    #[error("batch_minutes is {found}, which does not divide a day of 1440 minutes")]
    UnevenBatches {
        /// What it was.
        found: u32,
    },
}

impl StreamOptions {
    fn check(&self) -> Result<(), OptionsError> {
        let year = self.start.year().max(0).unsigned_abs();
        for (option, found, least, most) in [
            ("events", self.events, 1, 1 << 48),
            ("days", self.days.into(), 1, 36_500),
            ("year of start", year.into(), 1970, 8999),
            (
                "batch_minutes",
                self.batch_minutes.into(),
                1,
                MINUTES_PER_DAY.into(),
            ),
            ("late_days_max", self.late_days_max.into(), 0, 365),
            ("pause_hours_max", self.pause_hours_max.into(), 0, 8_760),
        ] {
            if !(least..=most).contains(&found) {
                return Err(OptionsError::OutOfBounds {
                    option,
                    found,
                    least,
                    most,
                });
            }
        }
        if !MINUTES_PER_DAY.is_multiple_of(self.batch_minutes) {
            return Err(OptionsError::UnevenBatches {
                found: self.batch_minutes,
            });
        }
        Ok(())
    }
}

/// A stream of batches: first its history, as an iterator, then without end by
/// [`next_batch`](Self::next_batch).
///
/// The history has exactly [`StreamOptions::events`] rows in `days * 1440 / batch_minutes` batches
/// whose sizes follow the hours of the day. To come out even, the last batch takes a few more
/// sessions, or leaves rows to the time after.
#[derive(Debug)]
pub struct Stream {
    events: u64,
    batch_minutes: u32,
    start_ms: i64,
    history_batches: u64,
    sessions: Sessions,
    catalogue: Catalogue,
    calendar: Calendar,
    visitors: Visitors,
    dice: Dice,
    /// Index of the next batch.
    next: u64,
    /// Rows that should have landed by now, that have, and that are drawn.
    target: u64,
    landed: u64,
    drawn: u64,
    /// Smoothed number of rows in flight, by which drawing runs ahead of landing. Smoothed, since
    /// what is drawn today would otherwise decide what is drawn next, and short batches would
    /// swing.
    ahead: u64,
    /// Rows by the batch in which they will land.
    in_flight: BTreeMap<u64, Vec<Row>>,
}

/// How many rows a batch has.
#[derive(Debug, Clone, Copy)]
enum Size {
    AtMost(u64),
    Exactly(u64),
}

impl Stream {
    /// Returns the stream at its start.
    ///
    /// # Errors
    ///
    /// [`OptionsError`] names the first option that is out of its bounds.
    pub fn new(options: &StreamOptions) -> Result<Self, OptionsError> {
        options.check()?;
        let days = u64::from(options.days);
        let start_day = i64::from((options.start - EPOCH).get_days());
        Ok(Self {
            events: options.events,
            batch_minutes: options.batch_minutes,
            start_ms: start_day * DAY_MS,
            history_batches: days * u64::from(MINUTES_PER_DAY / options.batch_minutes),
            sessions: Sessions {
                late_ms_max: i64::from(options.late_days_max) * DAY_MS,
                pause_ms_max: i64::from(options.pause_hours_max) * HOUR_MS,
            },
            catalogue: Catalogue::new(),
            calendar: Calendar::new(options.start, options.days),
            visitors: Visitors::new(options.seed, options.events / days),
            dice: Dice::new(options.seed, 0),
            next: 0,
            target: 0,
            landed: 0,
            drawn: 0,
            ahead: 0,
            in_flight: BTreeMap::new(),
        })
    }

    /// The number of batches in the history.
    pub fn history_batches(&self) -> u64 {
        self.history_batches
    }

    /// Rows that are drawn and have not landed: what the stream keeps in memory. They follow the
    /// traffic of a few days, not the length of the stream.
    pub fn rows_in_flight(&self) -> usize {
        self.in_flight.values().map(Vec::len).sum()
    }

    /// Returns the next batch of the history, or after it the next one of average size: `events`
    /// divided by the number of batches, spread evenly where that leaves a rest, and at least 1.
    pub fn next_batch(&mut self) -> Batch {
        if self.next < self.history_batches {
            let quota = self.calendar.advance(self.batch_minutes, self.events);
            let quota = quota.saturating_sub(self.target);
            let left = self.events.saturating_sub(self.landed);
            let last = self.next + 1 == self.history_batches;
            return self.batch(
                quota,
                if last {
                    Size::Exactly(left)
                } else {
                    Size::AtMost(left)
                },
            );
        }
        let share = |batches: u64| {
            let cumulated =
                u128::from(self.events) * u128::from(batches) / u128::from(self.history_batches);
            u64::try_from(cumulated).unwrap_or(u64::MAX)
        };
        let after = self.next - self.history_batches;
        let rows = (share(after + 1) - share(after)).max(1);
        self.batch(rows, Size::Exactly(rows))
    }

    /// Returns the next batch with exactly `rows` rows, for a peak or a backlog; what had to land
    /// and finds no room lands in the batch after. Meant for the time after the history, whose
    /// number of rows it would change.
    pub fn next_batch_of(&mut self, rows: u64) -> Batch {
        self.batch(rows, Size::Exactly(rows))
    }

    fn batch(&mut self, quota: u64, size: Size) -> Batch {
        let index = self.next;
        let batch_ms = i64::from(self.batch_minutes) * MINUTE_MS;
        let begin_ms = self.start_ms + index as i64 * batch_ms;
        let end_ms = begin_ms + batch_ms;
        self.target += quota;

        self.begin_sessions(begin_ms, end_ms);
        if let Size::Exactly(rows) = size {
            while (self.in_flight.get(&index).map_or(0, Vec::len) as u64) < rows {
                let start_ms = self.dice.between(begin_ms, end_ms);
                self.begin_session(start_ms, batch_ms);
            }
        }
        let mut rows = self.in_flight.remove(&index).unwrap_or_default();
        rows.sort_unstable_by_key(|row| (row.arrival_ms, row.event_id, row.collector_ms));
        let (Size::AtMost(most) | Size::Exactly(most)) = size;
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        if rows.len() > most {
            self.in_flight
                .entry(index + 1)
                .or_default()
                .extend(rows.drain(most..));
        }

        self.next += 1;
        self.landed += rows.len() as u64;
        self.ahead = (self.ahead * 15 + (self.drawn - self.landed)) / 16;
        Batch {
            index,
            etl_ms: end_ms + ETL_MS,
            rows: rows.into(),
        }
    }

    /// Begins sessions, evenly over the time of the batch, until enough rows are drawn.
    fn begin_sessions(&mut self, begin_ms: i64, end_ms: i64) {
        let mut start_ms = begin_ms;
        while self.drawn < self.target + self.ahead {
            let missing = self.target + self.ahead - self.drawn;
            let gaps = (missing / SESSION_ROWS_MEAN + 1) as i64;
            // From zero to twice the even gap: uneven, and it still fills the batch.
            start_ms += self.dice.between(0, 2 * (end_ms - start_ms) / gaps);
            start_ms = start_ms.min(end_ms - 1);
            self.begin_session(start_ms, end_ms - begin_ms);
        }
    }

    fn begin_session(&mut self, start_ms: i64, batch_ms: i64) {
        let visitor = self.visitors.next(&mut self.dice, &self.catalogue);
        let Self {
            sessions,
            catalogue,
            dice,
            in_flight,
            drawn,
            start_ms: stream_start_ms,
            next,
            ..
        } = self;
        sessions.draw(start_ms, visitor, catalogue, dice, |row| {
            let batch = (row.arrival_ms - *stream_start_ms) / batch_ms;
            in_flight
                .entry(batch.unsigned_abs().max(*next))
                .or_default()
                .push(row);
            *drawn += 1;
        });
    }
}

/// The batches of the history. Then it ends, and [`next_batch`](Stream::next_batch) goes on.
impl Iterator for Stream {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        (self.next < self.history_batches).then(|| self.next_batch())
    }
}

#[cfg(test)]
mod tests;
