//! `aggregate`: the rows of this run's ids, computed again from all of their events, into scratch.
//!
//! ```yaml
//! - id: sessions
//!   uses: aggregate
//!   with:
//!     ids: session_ids
//!     into: sessions
//!     dedupe: { by: event_id, earliest: [collector_tstamp, etl_tstamp] }
//!     columns:
//!       start_tstamp: min(derived_tstamp)
//!       page_views: count(*) FILTER (WHERE event_name = 'page_view')
//! ```
//!
//! The key's columns come first by themselves. Where columns are not enough, `query:` takes a SELECT whose tables stand
//! in double braces: `{{ events }}` (the ids' events, deduplicated), `{{ ids }}`, and each context by its name.
//!
//! A query whose rows also depend on events of other keys, as a rank among all sessions of a user
//! does, names those keys with `read-also:`. It then sees their events too; of its rows, those of
//! the ids alone are kept.
//!
//! With a query, or with contexts, the events are written to a scratch table first and measured there: a statement that
//! joins rows that the database knows nothing about is planned for one row, and that is how such models fall off a cliff.
//! Only the columns that the expressions name are copied.
//!
//! What it does not do: look at the derived table. It computes what a rebuild would.

mod shape;

use stepwell_sdk::catalog;
use stepwell_sdk::incremental::{Counted, Dedupe, Ids, Stretches, context, event_id};
use stepwell_sdk::planner::{Ask, Measures, Plan, Run, Stop};
use stepwell_sdk::settings::{Columns, Expr, ScratchInput, ScratchOutput, SqlText};
use stepwell_sdk::sql::{Ident, Sql, TableName, join, render};
use stepwell_sdk::{Failure, Settings, export_planner, scratch, sql};

use shape::needed;

/// Settings of `aggregate`.
#[derive(serde::Deserialize, Settings)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct With {
    /// The ids whose rows are computed, from `collect-ids`.
    ids: ScratchInput,
    /// Ids whose events the query sees instead, those of `ids` among them; from `read-also` of
    /// `collect-ids`.
    read_also: Option<ScratchInput>,
    /// Takes the rows.
    into: ScratchOutput,
    /// Which copy of an event counts when it was sent more than once. Copies are looked for among the events of one id.
    dedupe: Option<Dedupe>,
    /// A condition that events must meet to be counted at all.
    #[serde(rename = "where")]
    condition: Option<Expr>,
    /// The columns by name, each an expression that is valid under GROUP BY the key.
    columns: Option<Columns>,
    /// Instead of columns: a SELECT that yields the rows, with the key's columns among its own.
    query: Option<SqlText>,
    /// Contexts of the source that the expressions or the query name.
    #[serde(default)]
    contexts: Vec<String>,
}

/// Answers with the statements that fill the table of rows.
pub fn plan(run: &Run, with: &With, ask: &mut Ask<'_>) -> Result<Plan, Stop> {
    let source = run.source()?;
    let ids: Ids = run
        .about(with.ids.alias())
        .map_err(|failure| failure.with_setting("/ids"))?;
    let body =
        match (&with.columns, &with.query) {
            (Some(columns), None) => Body::Columns(columns),
            (None, Some(query)) => Body::Query(query),
            _ => {
                return Err(Failure::new("columns-or-query", "expected either columns or a query")
                .with_setting("/columns")
                .with_help("Write `columns:` with an expression for each, or `query: { file: … }`.")
                .into());
            }
        };
    let read = match &with.read_also {
        Some(also) => read_also(run, also, &ids, &body)?,
        None => with.ids.alias(),
    };
    let columns = ask.one(catalog::columns(&source.events))?;
    if columns.is_empty() {
        return Err(Failure::new(
            "missing-table",
            format!("table {} does not exist", source.events),
        )
        .with_help("Check `source: { events: … }` in the workflow file.")
        .into());
    }
    let place = with.dedupe.is_some() && catalog::is_plain_table(columns);
    let columns = catalog::read_columns(columns);
    if let Some(dedupe) = &with.dedupe {
        dedupe.check("/dedupe", &source.events, &columns)?;
    }
    let time = columns.iter().find(|column| column.name == source.time);
    let stretches = match time {
        Some(time) => ids.stretches(run, read, &time.sql_type, ask)?,
        None => None,
    };
    let aggregate = Aggregate {
        run,
        with,
        ids: &ids,
        read,
        place,
        stretches: stretches.as_ref(),
    };
    let into = run.scratch(with.into.alias());
    let mut contexts = with.contexts.clone();
    contexts.extend(ids.contexts.iter().cloned());
    contexts.sort();
    contexts.dedup();

    let plan = match body {
        Body::Columns(list) if contexts.is_empty() => {
            // Only the columns that are named: copies are found by sorting, and sorting whole rows takes twice as long.
            let needed = needed(&Body::Columns(list), with, &ids, source)?.among(&columns);
            let needed: Vec<_> = needed
                .iter()
                .map(|name| sql!("e.{name}", name = Ident(name)))
                .collect();
            let rows = aggregate.deduplicated(&needed)?;
            let select =
                aggregate.grouped(list, &sql!("(\n  {rows}\n) AS e", rows = rows.indented(2)))?;
            let reads = ids.reads(run, read)?;
            Plan::new().run_all(ids.fill(run, &into, "compute rows", &select, &reads))
        }
        body => {
            let needed = needed(&body, with, &ids, source)?;
            aggregate.in_stages(&body, &needed.among(&columns), &contexts, &into)?
        }
    };
    Ok(match stretches.filter(|stretches| stretches.len() > 1) {
        None => plan,
        Some(stretches) => plan.measures(&Measures {
            levels: [(
                "stretches-read",
                i64::try_from(stretches.len()).unwrap_or(i64::MAX),
            )]
            .into(),
            ..Measures::default()
        }),
    })
}

/// What computes the rows.
pub enum Body<'a> {
    /// Expressions under GROUP BY.
    Columns(&'a Columns),
    /// A SELECT of the user's.
    Query(&'a SqlText),
}

/// Returns the alias of the ids whose events are read.
fn read_also<'a>(
    run: &Run,
    also: &'a ScratchInput,
    ids: &Ids,
    body: &Body<'_>,
) -> Result<&'a str, Failure> {
    let failure = |code: &str, message: String, help: &str| {
        Err(Failure::new(code, message)
            .with_setting("/read-also")
            .with_help(help))
    };
    if let Body::Columns(_) = body {
        return failure(
            "needs-query",
            "with columns, a row depends on the events of its own id alone".into(),
            "Take `read-also` out, or write a `query:` instead of columns.",
        );
    }
    let others: Ids = run
        .about(also.alias())
        .map_err(|failure| failure.with_setting("/read-also"))?;
    if others != *ids {
        return failure(
            "other-key",
            format!(
                "the ids in \"{}\" do not go with those in `ids`",
                also.alias()
            ),
            "Name the table that `read-also` of the same collect-ids step fills.",
        );
    }
    Ok(also.alias())
}

struct Aggregate<'a> {
    run: &'a Run,
    with: &'a With,
    ids: &'a Ids,
    /// Alias of the ids whose events are read: those whose rows are computed, and maybe more.
    read: &'a str,
    /// Whether a row's place in the table can decide between equal copies.
    place: bool,
    /// The stretches of time that hold the events, where those are not all since the first one.
    stretches: Option<&'a Stretches>,
}

impl Aggregate<'_> {
    /// The events of the ids, each once, with these columns.
    fn deduplicated(&self, columns: &[Sql]) -> Result<Sql, Failure> {
        let counted = Counted {
            dedupe: self.with.dedupe.as_ref(),
            condition: self.with.condition.as_ref(),
            place: self.place,
            stretches: self.stretches,
        };
        self.ids.deduplicated(self.run, self.read, counted, columns)
    }

    /// The rows by expressions, from events that go by `e`.
    fn grouped(&self, columns: &Columns, from: &Sql) -> Result<Sql, Failure> {
        let key = self.ids.expressions()?;
        let named = self.ids.key.iter().zip(&key);
        let missing = named.filter(|(column, _)| !columns.names().any(|name| name == column.name));
        let mut list: Vec<Sql> = missing
            .map(|(column, expr)| sql!("{expr} AS {name}", expr = expr, name = Ident(&column.name)))
            .collect();
        list.extend(
            columns
                .0
                .iter()
                .map(|(name, expr)| sql!("{expr} AS {name}", expr = expr, name = Ident(name))),
        );
        Ok(sql!(
            "SELECT\n  {list}\nFROM {from}\nGROUP BY {key}",
            list = join(list, ",\n  "),
            from = from,
            key = join(&key, ", "),
        ))
    }

    /// Events, then contexts, then rows, each in a table of its own that is measured before the next one reads it.
    fn in_stages(
        &self,
        body: &Body<'_>,
        columns: &[String],
        contexts: &[String],
        into: &TableName,
    ) -> Result<Plan, Stop> {
        let (run, source) = (self.run, self.run.source()?);
        let alias = self.with.into.alias();
        let events = run.scratch(&format!("{alias}__events"));
        let list: Vec<_> = columns
            .iter()
            .map(|name| sql!("e.{name}", name = Ident(name)))
            .collect();
        let select = self.deduplicated(&list)?;
        let reads = self.ids.reads(run, self.read)?;
        let [drop, create, analyze] =
            (self.ids).fill(run, &events, "collect events", &select, &reads);
        let analyze = match body {
            // What is to come joins by the event's id. A query may do anything.
            Body::Columns(_) => scratch::analyze_columns(&events, &[event_id(source)?]),
            Body::Query(_) => analyze,
        };
        let mut plan = Plan::new().run_all([drop, create, analyze]);
        for name in contexts {
            let table = run.scratch(&format!("{alias}__{name}"));
            let select = self.context_rows(name, &events)?;
            let reads = [context(source, name)?.table.clone(), events.clone()];
            let label = format!("collect {name}");
            plan = plan.run_all(self.ids.fill(run, &table, &label, &select, &reads));
        }
        let mut reads = vec![events.clone(), run.scratch(self.with.ids.alias())];
        reads.extend(
            contexts
                .iter()
                .map(|name| run.scratch(&format!("{alias}__{name}"))),
        );
        let select = match body {
            Body::Columns(list) => self.grouped(list, &self.joined(contexts, &events)?)?,
            Body::Query(query) => {
                self.of_ids(Sql::trusted(self.rendered(query, contexts, &events)?))
            }
        };
        let fill = (self.ids).fill(run, into, "compute rows", &select, &reads);
        Ok(plan.run_all(fill))
    }

    /// The one row that a context has for an event; none where it has several that differ.
    fn context_rows(&self, name: &str, events: &TableName) -> Result<Sql, Failure> {
        let source = self.run.source()?;
        let context = context(source, name)?;
        let columns = sql::idents(&context.columns);
        Ok(sql!(
            "SELECT stepwell_event, {columns}
            FROM (
              SELECT one.*, count(*) OVER (PARTITION BY one.stepwell_event) AS stepwell_rows
              FROM (
                SELECT DISTINCT c.{id} AS stepwell_event, {qualified}
                FROM {table} AS c
                JOIN (SELECT DISTINCT {event_id} AS id FROM {events}) AS e
                  ON e.id = c.{id}
              ) AS one
            ) AS counted
            WHERE stepwell_rows = 1",
            columns = columns,
            id = Ident(&context.event_id),
            qualified = join(
                context
                    .columns
                    .iter()
                    .map(|column| sql!("c.{column}", column = Ident(column))),
                ", "
            ),
            table = context.table,
            event_id = Ident(event_id(source)?),
            events = events,
        ))
    }

    /// The collected events with their contexts; only those of the ids, which matters where the key lies in a context.
    fn joined(&self, contexts: &[String], events: &TableName) -> Result<Sql, Failure> {
        let source = self.run.source()?;
        let mut from = sql!("{events} AS e", events = events);
        for name in contexts {
            from = sql!(
                "{from}\nLEFT JOIN {table} AS {name}\n  ON {name}.stepwell_event = e.{event_id}",
                from = from,
                table = self
                    .run
                    .scratch(&format!("{}__{name}", self.with.into.alias())),
                name = Ident(name),
                event_id = Ident(event_id(source)?),
            );
        }
        if self.ids.contexts.is_empty() {
            return Ok(from);
        }
        let key = self.ids.expressions()?;
        Ok(sql!(
            "{from}\nWHERE ({key}) IN (SELECT {names} FROM {ids})",
            from = from,
            key = join(&key, ", "),
            names = sql::idents(self.ids.key.iter().map(|column| &column.name)),
            ids = self.run.scratch(self.with.ids.alias()),
        ))
    }

    /// The rows of the ids alone, where the query saw events of others.
    fn of_ids(&self, query: Sql) -> Sql {
        if self.with.read_also.is_none() {
            return query;
        }
        let names = || self.ids.key.iter().map(|column| Ident(&column.name));
        sql!(
            "SELECT computed.*
            FROM (
              {query}
            ) AS computed
            WHERE ({key}) IN (SELECT {names} FROM {ids})",
            query = query.indented(14),
            key = join(
                names().map(|name| sql!("computed.{name}", name = name)),
                ", "
            ),
            names = join(names(), ", "),
            ids = self.run.scratch(self.with.ids.alias()),
        )
    }

    fn rendered(
        &self,
        query: &SqlText,
        contexts: &[String],
        events: &TableName,
    ) -> Result<String, Failure> {
        let fail = |message: String| {
            let file = query
                .file
                .as_ref()
                .map(|file| format!("{file}: "))
                .unwrap_or_default();
            let names = contexts
                .iter()
                .map(|name| format!(", {{{{ {name} }}}}"))
                .collect::<String>();
            Failure::new("query", format!("{file}{message}"))
                .with_setting("/query")
                .with_help(format!(
                    "The tables of this step are {{{{ events }}}}, {{{{ ids }}}}{names}."
                ))
        };
        let statements = sql::split(&query.text).map_err(|error| fail(error.to_string()))?;
        let [statement] = statements.as_slice() else {
            return Err(fail(format!(
                "expected one SELECT, found {} statements",
                statements.len()
            )));
        };
        let rendered = render(statement, |name| match name {
            "events" => Some(events.to_string()),
            "ids" => Some(self.run.scratch(self.with.ids.alias()).to_string()),
            name if contexts.iter().any(|context| context == name) => Some(
                self.run
                    .scratch(&format!("{}__{name}", self.with.into.alias()))
                    .to_string(),
            ),
            _ => None,
        });
        rendered.map_err(|error| fail(error.to_string()))
    }
}

export_planner! {
    name: "aggregate",
    summary: "Computes the rows of this run's ids again, from all of their events",
    settings: With,
    plan: plan,
    reads: ["events", "manifest"],
}

#[cfg(test)]
mod tests;
