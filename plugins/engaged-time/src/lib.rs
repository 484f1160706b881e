//! `engaged-time`: engaged seconds per visitor and day, from page pings.
//!
//! ```yaml
//! - id: engaged-days
//!   uses: engaged-time
//!   with:
//!     ids: visitor_day_ids
//!     into: engaged_days
//!     dedupe: { by: event_id, earliest: [collector_tstamp, etl_tstamp] }
//!     time: derived_tstamp
//!     event: event_name
//!     heartbeat: 10s
//!     tolerance: 1s
//! ```
//!
//! A page ping says that its tab was used for the heartbeat before it. A visitor with several tabs sends pings that
//! overlap, and those seconds count once: what is summed up is the union of the pings' windows. Windows that lie no
//! further apart than the tolerance are joined, the time between them included, since trackers do not tick exactly.
//!
//! A window does not reach back over midnight, so that the row of a day depends on the events of that day alone.

use std::rc::Rc;

use stepwell_sdk::incremental::{Dedupe, EventRows};
use stepwell_sdk::planner::{Ask, Run, Stop};
use stepwell_sdk::reducer::{Out, Reducer, Shape};
use stepwell_sdk::settings::{Duration, Expr, ScratchInput, ScratchOutput};
use stepwell_sdk::values::{Date, SECOND_US, Timestamp};
use stepwell_sdk::{Failure, Row, Settings, export_reducer};

/// Settings of `engaged-time`.
#[derive(serde::Deserialize, Settings)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct With {
    /// The visitor-days whose rows are computed: ids by `visitor` and `day`, from `collect-ids`.
    ids: ScratchInput,
    /// Takes the rows: one for each visitor and day.
    into: ScratchOutput,
    /// Which copy of an event counts when it was sent more than once.
    dedupe: Option<Dedupe>,
    /// When an event happened: a timestamp, by the clock that the day is taken from.
    time: Expr,
    /// What an event is: a text.
    event: Expr,
    /// The word in `event` for a page ping; `page_ping` if not given.
    #[serde(default = "page_ping")]
    page_ping: String,
    /// The word in `event` for a page view; `page_view` if not given.
    #[serde(default = "page_view")]
    page_view: String,
    /// How long before it a ping speaks for: the heartbeat that the tracker is set to.
    heartbeat: Duration,
    /// How far apart two windows may lie that count as one; not at all if not given.
    tolerance: Option<Duration>,
}

fn page_ping() -> String {
    "page_ping".to_owned()
}

fn page_view() -> String {
    "page_view".to_owned()
}

/// An event of a visitor's day.
#[derive(Debug, Clone, Copy, Row)]
pub struct Event<'a> {
    /// Who.
    #[row(key)]
    pub visitor: &'a str,
    /// The day, by the clock that `at` is read from.
    #[row(key)]
    pub day: Date,
    /// When; an event without a time counts, but says nothing of engagement.
    #[row(order)]
    pub at: Option<Timestamp>,
    /// What it is.
    pub event: Option<&'a str>,
    /// The source's own time of the event.
    pub source_time: Timestamp,
}

/// The row of a visitor's day.
#[derive(Debug, Clone, PartialEq, Eq, Row)]
pub struct EngagedDay<'a> {
    /// Who.
    pub visitor: &'a str,
    /// The day.
    pub day: Date,
    /// Number of page views.
    pub page_views: i64,
    /// Number of page pings.
    pub page_pings: i64,
    /// How long the visitor was engaged, in whole seconds, rounded down.
    pub engaged_seconds: i64,
    /// The longest time of engagement without a pause, in whole seconds, rounded down.
    pub longest_streak_seconds: i64,
    /// Whether the visitor saw one page and left without a ping.
    pub bounced: bool,
    /// The earliest of the source's own times, for `since:` of `collect-ids`.
    pub first_time: Timestamp,
}

fn shape(run: &Run, with: &With, ask: &mut Ask<'_>) -> Result<Shape, Stop> {
    if with.heartbeat.seconds == 0 {
        return Err(
            Failure::new("no-heartbeat", "a heartbeat of 0 says nothing")
                .with_setting("/heartbeat")
                .with_help(
                    "Write the heartbeat that the tracker is set to, for example `heartbeat: 10s`.",
                )
                .into(),
        );
    }
    // Every event of the day, not only pings: a day without one has a row too, and its first time is that of them all.
    let rows = EventRows::of(run, &with.ids)?
        .key(&["visitor", "day"])?
        .dedupe(with.dedupe.as_ref())
        .column("at", &with.time)
        .column("event", &with.event)
        .source_time("source_time")?
        .select(ask)?;
    Ok(Shape::of::<Engaged>(rows, &with.into))
}

/// What is known of a visitor's day after some of its events.
pub struct Engaged {
    with: Rc<With>,
    page_views: i64,
    page_pings: i64,
    /// The window that still grows: from, included, to.
    window: Option<(Timestamp, Timestamp)>,
    engaged_us: i64,
    longest_us: i64,
    first_time: Timestamp,
}

impl Engaged {
    /// Takes a ping. Pings come in order of time, so that windows begin and end in order too.
    fn ping(&mut self, day: Date, at: Timestamp) {
        self.page_pings += 1;
        let from = at
            .plus_us(-self.with.heartbeat.us())
            .max(day.start())
            .min(at);
        let tolerance_us = self.with.tolerance.map_or(0, Duration::us);
        match &mut self.window {
            Some((_, to)) if from.us_since(*to) <= tolerance_us => *to = at,
            _ => {
                self.close();
                self.window = Some((from, at));
            }
        }
    }

    fn close(&mut self) {
        if let Some((from, to)) = self.window.take() {
            let us = to.us_since(from);
            self.engaged_us += us;
            self.longest_us = self.longest_us.max(us);
        }
    }
}

impl Reducer for Engaged {
    type With = With;
    type Input = Event<'static>;
    type Output = EngagedDay<'static>;

    fn begin(with: &Rc<With>) -> Self {
        Self {
            with: Rc::clone(with),
            page_views: 0,
            page_pings: 0,
            window: None,
            engaged_us: 0,
            longest_us: 0,
            first_time: Timestamp::MAX,
        }
    }

    fn fold(&mut self, event: Event<'_>, _: &mut Out<Self::Output>) -> Result<(), Failure> {
        self.first_time = self.first_time.min(event.source_time);
        match (event.event, event.at) {
            (Some(name), Some(at)) if name == self.with.page_ping => self.ping(event.day, at),
            (Some(name), _) if name == self.with.page_view => self.page_views += 1,
            _ => {}
        }
        Ok(())
    }

    fn finish(mut self, last: Event<'_>, out: &mut Out<Self::Output>) -> Result<(), Failure> {
        self.close();
        out.push(EngagedDay {
            visitor: last.visitor,
            day: last.day,
            page_views: self.page_views,
            page_pings: self.page_pings,
            engaged_seconds: self.engaged_us / SECOND_US,
            longest_streak_seconds: self.longest_us / SECOND_US,
            bounced: self.page_views == 1 && self.page_pings == 0,
            first_time: self.first_time,
        });
        Ok(())
    }
}

export_reducer! {
    name: "engaged-time",
    summary: "Computes engaged seconds per visitor and day from page pings, merged across tabs",
    settings: With,
    shape: shape,
    fold: Engaged,
    reads: ["events", "manifest"],
}

#[cfg(test)]
mod tests;
