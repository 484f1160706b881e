//! `my-step`: for each session, how often it paused, and for how long at most.
//!
//! ```yaml
//! - id: pauses
//!   uses: my-step
//!   with: { ids: session_ids, into: pauses, time: derived_tstamp, pause: 5m }
//! ```
//!
//! A reducer names the rows that it wants and gives rows back. It holds no connection: Stepwell runs the SELECT, streams
//! the rows in, session after session, over several instances at once, checks what comes out and copies it into a
//! scratch table.

use std::rc::Rc;

use stepwell_sdk::incremental::{Dedupe, EventRows};
use stepwell_sdk::planner::{Ask, Run, Stop};
use stepwell_sdk::reducer::{Out, Reducer, Shape};
use stepwell_sdk::settings::{Duration, Expr, ScratchInput, ScratchOutput};
use stepwell_sdk::values::{SECOND_US, Timestamp};
use stepwell_sdk::{Failure, Row, Settings, export_reducer};

/// Settings of `my-step`, its `with:` block. Doc comments become the help in editors.
#[derive(serde::Deserialize, Settings)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct With {
    /// The sessions whose rows are computed again: ids by `session_id`, from a `collect-ids` step.
    ids: ScratchInput,
    /// Takes one row a session.
    into: ScratchOutput,
    /// Which copy of an event counts when it was sent more than once; all of them if not given.
    dedupe: Option<Dedupe>,
    /// SQL over the columns of an event: when it happened. No event may be without a time.
    time: Expr,
    /// Longer without an event is a pause.
    pause: Duration,
}

/// A row that comes: the columns of the SELECT. An `Option` where a column may be NULL; a NULL elsewhere ends the step.
#[derive(Debug, Clone, Copy, Row)]
pub struct Event<'a> {
    /// Rows of one key are one group, and come one after another.
    #[row(key)]
    pub session_id: &'a str,
    /// Rows of a group come in this order.
    #[row(order)]
    pub at: Timestamp,
    /// The source's own time of the event.
    pub source_time: Timestamp,
}

/// A row that goes: the columns of the scratch table.
#[derive(Debug, Clone, PartialEq, Eq, Row)]
pub struct Pauses<'a> {
    /// The session.
    pub session_id: &'a str,
    /// How many pauses it had.
    pub pauses: i64,
    /// The longest of them, in whole seconds, rounded down; NULL without one.
    pub longest_pause_seconds: Option<i64>,
    /// The earliest of the source's own times, for `since:` of `collect-ids`.
    pub first_time: Timestamp,
}

/// Names the rows that are wanted: the events of the ids, each once, with the columns of [`Event`].
///
/// Called again and again with the same input while it asks questions (here the events' columns), so it must be pure.
fn shape(run: &Run, with: &With, ask: &mut Ask<'_>) -> Result<Shape, Stop> {
    let rows = EventRows::of(run, &with.ids)?
        .key(&["session_id"])?
        .dedupe(with.dedupe.as_ref())
        .column("at", &with.time)
        .source_time("source_time")?
        .select(ask)?;
    Ok(Shape::of::<Session>(rows, &with.into))
}

/// The state of one group: what is known of a session after some of its events.
pub struct Session {
    pause_us: i64,
    last: Option<Timestamp>,
    pauses: i64,
    longest_us: i64,
    first_time: Timestamp,
}

impl Reducer for Session {
    type With = With;
    type Input = Event<'static>;
    type Output = Pauses<'static>;

    fn begin(with: &Rc<With>) -> Self {
        Self {
            pause_us: with.pause.us(),
            last: None,
            pauses: 0,
            longest_us: 0,
            first_time: Timestamp::MAX,
        }
    }

    fn fold(&mut self, event: Event<'_>, _: &mut Out<Self::Output>) -> Result<(), Failure> {
        let since_last_us = self.last.map_or(0, |last| event.at.us_since(last));
        if since_last_us > self.pause_us {
            self.pauses += 1;
            self.longest_us = self.longest_us.max(since_last_us);
        }
        self.last = Some(event.at);
        self.first_time = self.first_time.min(event.source_time);
        Ok(())
    }

    fn finish(self, last: Event<'_>, out: &mut Out<Self::Output>) -> Result<(), Failure> {
        out.push(Pauses {
            session_id: last.session_id,
            pauses: self.pauses,
            longest_pause_seconds: (self.pauses > 0).then_some(self.longest_us / SECOND_US),
            first_time: self.first_time,
        });
        Ok(())
    }
}

export_reducer! {
    name: "my-step",
    summary: "Counts the pauses of each session, and measures the longest",
    settings: With,
    shape: shape,
    fold: Session,
    reads: ["events", "manifest"],
}

#[cfg(test)]
mod tests {
    use super::*;
    use stepwell_sdk::incremental::{Ids, KeyColumn};
    use stepwell_sdk::testing::{Conversation, Reduction};

    const WITH: &str = r#"{
        "ids": "session_ids", "into": "pauses", "time": "derived_tstamp", "pause": "5m",
        "dedupe": { "by": "event_id", "earliest": ["collector_tstamp"] }
    }"#;

    fn conversation(key: &str) -> Conversation<With, Shape> {
        let ids = Ids {
            key: vec![KeyColumn {
                name: key.into(),
                expression: "domain_sessionid".into(),
            }],
            batches: "batches".into(),
            bounded: true,
            ..Ids::default()
        };
        let columns = ["event_id", "derived_tstamp", "collector_tstamp"];
        Conversation::new(shape, WITH)
            .about("session_ids", &ids)
            .columns("atomic.events", &columns)
    }

    /// The SELECT is compared with the file; `BLESS=1 cargo test` writes it anew. Read it before you commit it.
    #[test]
    fn it_wants_the_events_of_the_sessions() {
        conversation("session_id").check_golden("sql/shape.postgres.sql");
    }

    #[test]
    fn ids_by_another_key_are_refused() {
        let failure = conversation("visitor").outcome().0.unwrap_err();
        assert_eq!(failure.code, "other-key");
        assert_eq!(failure.setting.as_deref(), Some("/ids"));
    }

    #[test]
    fn longer_than_the_setting_is_a_pause() {
        let reduction = Reduction::of::<Session>(WITH).table(
            "session_id | at                    | source_time
             a          | 2026-01-01 10:00:00   | 2026-01-01 10:00:01
             a          | 2026-01-01 10:05:00   | 2026-01-01 10:05:01
             a          | 2026-01-01 10:10:00.9 | 2026-01-01 09:59:59
             a          | 2026-01-01 10:20:00   | 2026-01-01 10:20:01
             b          | 2026-01-01 10:00:00   | 2026-01-01 10:00:01",
        );
        reduction.check_table(
            "session_id | pauses | longest_pause_seconds | first_time
             a          | 2      | 599                   | 2026-01-01 09:59:59
             b          | 0      | NULL                  | 2026-01-01 10:00:01",
        );
        // However Stepwell cuts the rows into batches and the groups into parts.
        reduction.check_invariance(1);
    }
}
