//! `sessionize`: sessions by inactivity and campaign rather than by the tracker's session id, per visitor and day.
//!
//! ```yaml
//! - id: sessions
//!   uses: sessionize
//!   with:
//!     ids: visitor_day_ids
//!     into: visitor_sessions
//!     dedupe: { by: event_id, earliest: [collector_tstamp, etl_tstamp] }
//!     time: derived_tstamp
//!     event: event_name
//!     campaign: mkt_campaign
//!     inactivity: 30 minutes
//! ```
//!
//! A session ends when the visitor does nothing for longer than the inactivity, when an event comes with another campaign
//! than the session began with (an event without one goes on with it), and at midnight.
//!
//! At midnight, so that a session is a function of its visitor and day. A session that went on into the next day would
//! depend on the day before it, and that one on the day before; an event that lands late would touch rows of days for
//! which nothing was collected. The only key that holds would be the visitor, and every visit of a loyal one would read
//! their whole history.

use std::rc::Rc;

use stepwell_sdk::incremental::{Dedupe, EventRows, event_id};
use stepwell_sdk::planner::{Ask, Run, Stop};
use stepwell_sdk::reducer::{Out, Reducer, Shape};
use stepwell_sdk::settings::{Duration, Expr, ScratchInput, ScratchOutput};
use stepwell_sdk::values::{Date, Timestamp};
use stepwell_sdk::{Failure, Row, Settings, export_reducer};

/// Settings of `sessionize`.
#[derive(serde::Deserialize, Settings)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct With {
    /// The visitor-days whose sessions are computed: ids by `visitor` and `day`, from `collect-ids`.
    ids: ScratchInput,
    /// Takes the rows: one for each session.
    into: ScratchOutput,
    /// Which copy of an event counts when it was sent more than once.
    dedupe: Option<Dedupe>,
    /// When an event happened: a timestamp, by the clock that the day is taken from. No event may be without one.
    time: Expr,
    /// What an event is: a text.
    event: Expr,
    /// The word in `event` for a page view; `page_view` if not given.
    #[serde(default = "page_view")]
    page_view: String,
    /// The campaign that brought the visitor: a text, NULL for most events.
    campaign: Expr,
    /// How long nothing may happen within a session.
    inactivity: Duration,
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
    /// When.
    #[row(order)]
    pub at: Timestamp,
    /// Which event: two at the same time may have different campaigns, and then their order counts.
    #[row(order)]
    pub id: &'a str,
    /// What it is.
    pub event: Option<&'a str>,
    /// The campaign that it came with. Copies of an event may differ in it, where they all count.
    #[row(order)]
    pub campaign: Option<&'a str>,
    /// The source's own time of the event.
    pub source_time: Timestamp,
}

/// The row of a session.
#[derive(Debug, Clone, PartialEq, Eq, Row)]
pub struct Session<'a> {
    /// Who.
    pub visitor: &'a str,
    /// The day.
    pub day: Date,
    /// The how manieth of the day, from 1.
    pub session: i64,
    /// Why it began: `first` of the day, `inactivity` or `campaign`.
    pub began_by: &'a str,
    /// The time of its first event.
    pub start_time: Timestamp,
    /// The time of its last event.
    pub end_time: Timestamp,
    /// Number of events.
    pub events: i64,
    /// Number of page views.
    pub page_views: i64,
    /// The campaign that it began with.
    pub campaign: Option<&'a str>,
    /// The earliest of the source's own times, for `since:` of `collect-ids`.
    pub first_time: Timestamp,
}

fn shape(run: &Run, with: &With, ask: &mut Ask<'_>) -> Result<Shape, Stop> {
    let id = Expr::column(event_id(run.source()?)?);
    let rows = EventRows::of(run, &with.ids)?
        .key(&["visitor", "day"])?
        .dedupe(with.dedupe.as_ref())
        .column("at", &with.time)
        .column("id", &id)
        .column("event", &with.event)
        .column("campaign", &with.campaign)
        .source_time("source_time")?
        .select(ask)?;
    Ok(Shape::of::<VisitorDay>(rows, &with.into))
}

/// A visitor's day: the session that goes on.
pub struct VisitorDay {
    with: Rc<With>,
    /// The how manieth it is; 0 before the first event.
    session: i64,
    began_by: &'static str,
    start_time: Timestamp,
    end_time: Timestamp,
    events: i64,
    page_views: i64,
    campaign: Option<String>,
    first_time: Timestamp,
}

impl VisitorDay {
    /// Why a session begins with this event; none if the last one goes on.
    fn begins(&self, event: &Event<'_>) -> Option<&'static str> {
        let other_campaign = event.campaign.is_some() && event.campaign != self.campaign.as_deref();
        if self.session == 0 {
            Some("first")
        } else if event.at.us_since(self.end_time) > self.with.inactivity.us() {
            Some("inactivity")
        } else if other_campaign {
            Some("campaign")
        } else {
            None
        }
    }

    fn begin_session(&mut self, event: &Event<'_>, began_by: &'static str) {
        self.session += 1;
        self.began_by = began_by;
        self.start_time = event.at;
        self.events = 0;
        self.page_views = 0;
        self.campaign = event.campaign.map(str::to_owned);
        self.first_time = event.source_time;
    }

    /// Gives the session back. `event` is one of the same day.
    fn end_session(&self, event: &Event<'_>, out: &mut Out<Session<'static>>) {
        out.push(Session {
            visitor: event.visitor,
            day: event.day,
            session: self.session,
            began_by: self.began_by,
            start_time: self.start_time,
            end_time: self.end_time,
            events: self.events,
            page_views: self.page_views,
            campaign: self.campaign.as_deref(),
            first_time: self.first_time,
        });
    }
}

impl Reducer for VisitorDay {
    type With = With;
    type Input = Event<'static>;
    type Output = Session<'static>;

    fn begin(with: &Rc<With>) -> Self {
        Self {
            with: Rc::clone(with),
            session: 0,
            began_by: "",
            start_time: Timestamp::MIN,
            end_time: Timestamp::MIN,
            events: 0,
            page_views: 0,
            campaign: None,
            first_time: Timestamp::MAX,
        }
    }

    fn fold(&mut self, event: Event<'_>, out: &mut Out<Self::Output>) -> Result<(), Failure> {
        if let Some(began_by) = self.begins(&event) {
            if self.session > 0 {
                self.end_session(&event, out);
            }
            self.begin_session(&event, began_by);
        }
        self.end_time = event.at;
        self.events += 1;
        self.page_views += i64::from(event.event == Some(self.with.page_view.as_str()));
        self.first_time = self.first_time.min(event.source_time);
        Ok(())
    }

    fn finish(self, last: Event<'_>, out: &mut Out<Self::Output>) -> Result<(), Failure> {
        self.end_session(&last, out);
        Ok(())
    }
}

export_reducer! {
    name: "sessionize",
    summary: "Computes sessions by inactivity and campaign, per visitor and day",
    settings: With,
    shape: shape,
    fold: VisitorDay,
    reads: ["events", "manifest"],
}

#[cfg(test)]
mod tests;
