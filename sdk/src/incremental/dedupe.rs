//! Each event once.

use crate::catalog::ColumnInfo;
use crate::incremental::{Ids, Stretches, key_alias};
use crate::planner::Run;
use crate::settings::Expr;
use crate::sql;
use crate::sql::{Ident, Sql, TableName, join};
use crate::{Failure, Settings};

/// How copies of an event are told apart: a setting of steps that read events.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, Settings)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Dedupe {
    /// The column that names an event.
    pub by: String,
    /// The copy with the smallest values of these columns counts, the first column before the second. Of copies that are
    /// equal in all of them the one that was stored first counts, where the database can tell.
    pub earliest: Vec<String>,
}

impl Dedupe {
    /// Checks that `events`, which has these columns, has those that are named here. `pointer` is where the setting
    /// stands: `/dedupe`.
    ///
    /// # Errors
    ///
    /// [`Failure`] that points at the first column that is missing.
    pub fn check(
        &self,
        pointer: &str,
        events: &TableName,
        columns: &[ColumnInfo],
    ) -> Result<(), Failure> {
        let by = [(format!("{pointer}/by"), &self.by)].into_iter();
        let earliest = self
            .earliest
            .iter()
            .map(|name| (format!("{pointer}/earliest"), name));
        for (pointer, name) in by.chain(earliest) {
            if !columns.iter().any(|column| column.name == *name) {
                return Err(Failure::new(
                    "missing-column",
                    format!("table {events} has no column \"{name}\""),
                )
                .with_setting(pointer));
            }
        }
        Ok(())
    }
}

/// Which of the events of the ids count, and which copy of each.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counted<'a> {
    /// Without it, every copy counts.
    pub dedupe: Option<&'a Dedupe>,
    /// What an event must meet. It sees the events alone, so that its bare names mean their columns.
    pub condition: Option<&'a Expr>,
    /// Whether a row's place in the table can decide between equal copies, as it can in an ordinary table
    /// ([`catalog::is_plain_table`](crate::catalog::is_plain_table)).
    pub place: bool,
    /// Reads the events from these stretches of time alone, which hold all of them ([`Ids::stretches`]).
    pub stretches: Option<&'a Stretches>,
}

impl Ids {
    /// Returns a SELECT of the events of the ids in the scratch table `alias`, each once, with these columns of theirs;
    /// the events go by `e`.
    ///
    /// Copies are looked for among the events of one id.
    ///
    /// # Errors
    ///
    /// [`Failure`] as for [`events`](Self::events).
    pub fn deduplicated(
        &self,
        run: &Run,
        alias: &str,
        counted: Counted<'_>,
        columns: &[Sql],
    ) -> Result<Sql, Failure> {
        let place = counted.place && counted.dedupe.is_some();
        let events = self.events_within(run, alias, place, counted.stretches)?;
        let events = match counted.condition {
            Some(condition) => filtered(&events, condition),
            None => events,
        };
        let columns = join(columns, ", ");
        let Some(dedupe) = counted.dedupe else {
            return Ok(sql!(
                "SELECT {columns}\n{events}",
                columns = columns,
                events = events
            ));
        };
        let mut one: Vec<Sql> = Vec::new();
        // A key that lies in a context is not yet settled here: an event may have several rows there, and counts as
        // having none then.
        if self.contexts.is_empty() {
            one.extend((0..self.key.len()).map(|at| sql!("e.{key}", key = Ident(&key_alias(at)))));
        }
        one.push(sql!("e.{by}", by = Ident(&dedupe.by)));
        let one = join(one, ", ");
        let mut order = vec![one.clone()];
        order.extend(
            dedupe
                .earliest
                .iter()
                .map(|name| sql!("e.{name}", name = Ident(name))),
        );
        if place {
            order.push(sql!("e.stepwell_place"));
        }
        Ok(sql!(
            "SELECT DISTINCT ON ({one}) {columns}\n{events}\nORDER BY {order}",
            one = one,
            columns = columns,
            events = events,
            order = join(order, ", "),
        ))
    }
}

fn filtered(events: &Sql, condition: &Expr) -> Sql {
    sql!(
        "FROM (\n  SELECT e.*\n  {events}\n) AS e\nWHERE ({condition})",
        events = events.indented(2),
        condition = condition,
    )
}
