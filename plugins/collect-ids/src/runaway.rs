//! Keys whose events lie too far apart.
//!
//! How long a key is, its derived row and its pending events say: nothing else is read for it. The keys are asked for
//! before they are collected, so that a run can end before it writes, and people get to see some of them.

use std::collections::BTreeMap;

use stepwell_sdk::planner::{Ask, Measures, Plan, Stop, question};
use stepwell_sdk::sql::{Ident, Literal, Sql, join};
use stepwell_sdk::words::count;
use stepwell_sdk::{Failure, Question, sql};

use crate::{Collect, NoRow, Runaway, Then, With};

/// Keys that are named.
const NAMED_MAX: i64 = 5;

/// Refuses what cannot be right.
pub fn check(with: &With) -> Result<(), Failure> {
    let Some(runaway) = with.runaway else {
        return Ok(());
    };
    let failure = |code: &str, message: &str, help: &str| {
        Err(Failure::new(code, message)
            .with_setting("/runaway")
            .with_help(help))
    };
    if with.since.is_none() {
        return failure(
            "no-since",
            "how long a key is cannot be known without the time of its first event",
            "Name the column of the derived table that keeps it: `since: derived.<table>.<column>`.",
        );
    }
    if runaway.then == Then::Freeze && with.until.is_some() {
        return failure(
            "stale-until",
            "a frozen row does not keep the time of its last event, which `until` goes by",
            "Take `until` out, or choose `then: compute` or `then: fail`.",
        );
    }
    if runaway.then == Then::Freeze && (!with.expand_by.is_empty() || with.read_also.is_some()) {
        return failure(
            "others-depend",
            "rows of other keys depend on the events of a key that would be frozen",
            "With `expand-by` or `read-also`, choose `then: compute` or `then: fail`.",
        );
    }
    Ok(())
}

/// Keys that are too long, as they were found.
#[derive(Debug, PartialEq)]
pub struct Found {
    runaway: Runaway,
    keys: i64,
    /// Pending events of theirs.
    events: i64,
    /// Those with the most pending events.
    named: Vec<String>,
}

impl Found {
    /// Tells people and programs.
    pub fn report(&self, plan: Plan) -> Plan {
        let counts = [("runaway-keys", self.keys), ("runaway-events", self.events)];
        let plan = plan.measures(&Measures {
            counts: counts.into(),
            levels: BTreeMap::new(),
        });
        if self.keys == 0 {
            return plan;
        }
        let what = match (self.runaway.then, self.keys) {
            (Then::Freeze, 1) => {
                "its row stays as it is until a replay of the key or a full refresh"
            }
            (Then::Freeze, _) => {
                "their rows stay as they are until a replay of the keys or a full refresh"
            }
            (Then::Compute | Then::Fail, 1) => "its row is computed from all of its events",
            (Then::Compute | Then::Fail, _) => "their rows are computed from all of their events",
        };
        plan.note(format!(
            "{}, with {}; {what}",
            self.words(),
            count(
                self.events.unsigned_abs(),
                "pending event",
                "pending events"
            ),
        ))
    }

    fn words(&self) -> String {
        let seconds = self.runaway.longer_than.seconds;
        let length = match seconds % 86_400 {
            0 => count(seconds / 86_400, "day", "days"),
            _ => format!("{seconds} s"),
        };
        format!(
            "{} events that lie more than {length} apart ({}{})",
            count(self.keys.unsigned_abs(), "key has", "keys have"),
            self.named.join("; "),
            if self.keys > NAMED_MAX { "; …" } else { "" },
        )
    }
}

impl Collect<'_> {
    /// Returns the touched keys that are too long; none where that does not matter.
    ///
    /// # Errors
    ///
    /// [`Failure`] if there are some and the run is to end then.
    pub fn runaways(&self, ask: &mut Ask<'_>) -> Result<Option<Found>, Stop> {
        let (Some(runaway), Some(condition)) = (self.with.runaway, self.is_runaway("touched"))
        else {
            return Ok(None);
        };
        // Where nothing is run, the pending batches are not there to look at.
        if self.run.has("planned") {
            return Ok(None);
        }
        let rows = ask.one(self.runaway_question(&condition)?)?;
        let first = rows.first();
        let number = |name: &str| first.and_then(|row| row.int(name)).unwrap_or(0);
        let found = Found {
            runaway,
            keys: number("stepwell_keys"),
            events: number("stepwell_events"),
            named: rows
                .iter()
                .filter_map(|row| row.text("stepwell_key"))
                .map(str::to_owned)
                .collect(),
        };
        if found.keys > 0 && runaway.then == Then::Fail {
            return Err(Failure::new("runaway-keys", found.words())
                .with_setting("/runaway")
                .with_help(
                    "Keep their events out where events come from, or let the rows be: `then: freeze`, or `compute`.",
                )
                .into());
        }
        Ok(Some(found))
    }

    /// The condition that a key is too long, among the keys `name` that stand beside their derived rows. One that has no
    /// row gets one, and one whose first time is not known is computed to know it. So is one with an event before its
    /// first time, where rows are frozen: a row that no longer is must be computed from all events since then.
    pub fn is_runaway(&self, name: &str) -> Option<Sql> {
        let (runaway, since) = (self.with.runaway?, self.since.as_ref()?);
        if !self.capped {
            return None;
        }
        let (key, column) = (
            Ident(&self.about.key[0].name),
            Ident(&since.column.0.column),
        );
        let first = match self.about.frozen {
            true => sql!(
                "\n  AND {name}.since >= min(derived.{column})",
                name = Ident(name),
                column = column
            ),
            false => sql!(""),
        };
        Some(sql!(
            "count(derived.{key}) > 0 AND count(derived.{key}) = count(derived.{column}){first}
              AND CAST(max({name}.last) AS timestamp) - CAST(least({name}.since, min(derived.{column})) AS timestamp) > {length}",
            key = key,
            first = first.indented(12),
            column = column,
            name = Ident(name),
            length = runaway.interval(),
        ))
    }

    fn runaway_question(&self, condition: &Sql) -> Result<Question, Failure> {
        let keys = self.with_since(&self.touched_keys()?, "touched", NoRow::IsNew);
        let names = self.about.key.iter().map(|column| Ident(&column.name));
        let texts = self
            .about
            .key
            .iter()
            .map(|column| sql!("runaway.{name}::text", name = Ident(&column.name)));
        let select = sql!(
            "SELECT concat_ws(', ', {texts}) AS stepwell_key, count(*) OVER () AS stepwell_keys,
              (sum(runaway.events) OVER ())::bigint AS stepwell_events
            FROM (
              {keys}
              HAVING {condition}
            ) AS runaway
            ORDER BY runaway.events DESC, {names}
            LIMIT {limit}",
            texts = join(texts, ", "),
            keys = keys.indented(14),
            condition = condition.indented(14),
            names = join(names.map(|name| sql!("runaway.{name}", name = name)), ", "),
            limit = NAMED_MAX,
        );
        Ok(question(
            "keys whose events lie too far apart",
            select,
            vec![],
        ))
    }
}

impl Runaway {
    /// The longest time that is not too long, as an SQL interval.
    pub fn interval(&self) -> Sql {
        sql!(
            "{text}::interval",
            text = Literal(&format!("{} seconds", self.longer_than.seconds))
        )
    }
}
