//! The events of this run's ids as the rows of a reducer.

use crate::Failure;
use crate::catalog::{self, ColumnInfo};
use crate::incremental::{Counted, Dedupe, Ids, Needed, key_alias};
use crate::planner::{Ask, Run, Stop};
use crate::reducer::Select;
use crate::settings::{Expr, ScratchInput};
use crate::sql;
use crate::sql::{Ident, Sql, TableName, join};

/// Builds the SELECT of a reducer that computes the rows of this run's ids: their events, each once, with the key's
/// columns first and such expressions over the events as the reducer needs.
///
/// The events are those that the aggregate step computes from: all of an id's, of processed and pending batches.
#[derive(Debug, Clone)]
pub struct EventRows<'a> {
    run: &'a Run,
    alias: &'a str,
    ids: Ids,
    counted: Counted<'a>,
    columns: Vec<(String, Expr)>,
}

impl<'a> EventRows<'a> {
    /// Returns the events of the ids in a scratch table, which `collect-ids` fills. Expects the setting to be called
    /// `ids`.
    ///
    /// # Errors
    ///
    /// [`Failure`] that points at `/ids` if the table holds no ids, or ids whose key lies in a context: which of
    /// several contexts of an event counts is not settled here.
    pub fn of(run: &'a Run, ids: &'a ScratchInput) -> Result<Self, Failure> {
        let alias = ids.alias();
        let ids: Ids = run
            .about(alias)
            .map_err(|failure| failure.with_setting("/ids"))?;
        if !ids.contexts.is_empty() {
            return Err(
                Failure::new("key-in-context", "the key of these ids lies in a context")
                    .with_setting("/ids")
                    .with_help("Collect ids by columns of the events themselves."),
            );
        }
        Ok(Self {
            run,
            alias,
            ids,
            counted: Counted::default(),
            columns: Vec::new(),
        })
    }

    /// Checks that the key has exactly these columns, in this order, which is what an input struct with these fields
    /// needs.
    ///
    /// # Errors
    ///
    /// [`Failure`] that points at `/ids` and says how to name the key.
    pub fn key(self, names: &[&str]) -> Result<Self, Failure> {
        let found: Vec<_> = self
            .ids
            .key
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        if found == names {
            return Ok(self);
        }
        let columns = names
            .iter()
            .map(|name| format!("{name}: …"))
            .collect::<Vec<_>>();
        Err(Failure::new(
            "other-key",
            format!(
                "expected ids by {}, found ids by {}",
                names.join(", "),
                found.join(", ")
            ),
        )
        .with_setting("/ids")
        .with_help(format!(
            "Name the key in the step that collects them: `key: {{ {} }}`.",
            columns.join(", ")
        )))
    }

    /// Lets one copy of each event count. Expects the setting to be called `dedupe`.
    #[must_use]
    pub fn dedupe(mut self, dedupe: Option<&'a Dedupe>) -> Self {
        self.counted.dedupe = dedupe;
        self
    }

    /// Lets only events count that meet a condition. Mind that every id with events must get a row where `collect-ids`
    /// has a `since`.
    #[must_use]
    pub fn condition(mut self, condition: Option<&'a Expr>) -> Self {
        self.counted.condition = condition;
        self
    }

    /// Adds a column: an expression over those of the events.
    #[must_use]
    pub fn column(mut self, name: &str, expression: &Expr) -> Self {
        self.columns.push((name.to_owned(), expression.clone()));
        self
    }

    /// Adds the events' time, the source's `time:`, as a column.
    ///
    /// # Errors
    ///
    /// [`Failure`] if the workflow has no source.
    pub fn source_time(self, name: &str) -> Result<Self, Failure> {
        let time = Expr::column(&self.run.source()?.time);
        Ok(self.column(name, &time))
    }

    /// Returns the SELECT. Asks for the columns of the events, since only those that are needed are sorted to find copies.
    ///
    /// # Errors
    ///
    /// [`Stop`] to be passed on: the question, or a [`Failure`] if the events have not the columns that `dedupe` names.
    pub fn select(mut self, ask: &mut Ask<'_>) -> Result<Select, Stop> {
        let events = &self.run.source()?.events;
        let answer = ask.one(catalog::columns(events))?;
        if answer.is_empty() {
            return Err(missing(events).into());
        }
        self.counted.place = catalog::is_plain_table(answer);
        let columns = catalog::read_columns(answer);
        let mut needed = Needed::default();
        for (_, expression) in &self.columns {
            needed.add(expression.as_str());
        }
        if let Some(dedupe) = self.counted.dedupe {
            dedupe.check("/dedupe", events, &columns)?;
        }
        let key = |at: usize| sql!("e.{key}", key = Ident(&key_alias(at)));
        let mut inner: Vec<Sql> = (0..self.ids.key.len()).map(key).collect();
        let needed = needed.among(&columns);
        inner.extend(
            needed
                .iter()
                .map(|name| sql!("e.{name}", name = Ident(name))),
        );
        let rows = self
            .ids
            .deduplicated(self.run, self.alias, self.counted, &inner)?;
        let keys = self.ids.key.iter().enumerate().map(|(at, column)| {
            let (key, name) = (key(at), Ident(&column.name));
            match is_padded(&column.expression, &columns) {
                true => sql!("{key}::text AS {name}", key = key, name = name),
                false => sql!("{key} AS {name}", key = key, name = name),
            }
        });
        let given = self.columns.iter();
        let given =
            given.map(|(name, expr)| sql!("{expr} AS {name}", expr = expr, name = Ident(name)));
        let select = sql!(
            "SELECT\n  {list}\nFROM (\n  {rows}\n) AS e",
            list = join(keys.chain(given), ",\n  "),
            rows = rows.indented(2),
        );
        Ok(Select::new(select).reads_all(&self.ids.reads(self.run, self.alias)?))
    }
}

/// Whether an expression is a column of type `char(n)`. Equal values of that type may differ in form, so the host groups
/// no rows by it. Only what is selected is cast: an index on the column still finds the events.
fn is_padded(expression: &str, columns: &[ColumnInfo]) -> bool {
    let column = Expr::new(expression).ok().and_then(|expr| expr.as_column());
    let found = columns
        .iter()
        .find(|found| Some(&found.name) == column.as_ref());
    found.is_some_and(|found| found.sql_type.starts_with("character("))
}

fn missing(events: &TableName) -> Failure {
    Failure::new("missing-table", format!("table {events} does not exist"))
        .with_help("Check `source: { events: … }` in the workflow file.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bare_column_of_char_is_padded() {
        let column = |name: &str, sql_type: &str| ColumnInfo {
            name: name.into(),
            sql_type: sql_type.into(),
        };
        let columns = [
            column("session", "character(128)"),
            column("visitor", "character varying(128)"),
        ];
        for (expression, padded) in [
            ("session", true),
            ("\"session\"", true),
            ("session::text", false),
            ("visitor", false),
            ("other", false),
        ] {
            assert_eq!(is_padded(expression, &columns), padded, "{expression}");
        }
    }
}
