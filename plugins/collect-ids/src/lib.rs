//! `collect-ids`: the keys whose derived rows must be computed again in this run.
//!
//! ```yaml
//! - id: session-ids
//!   uses: collect-ids
//!   with:
//!     batches: batches
//!     key: { session_id: domain_sessionid }
//!     into: session_ids
//!     since: derived.sessions.first_collector_tstamp
//! ```
//!
//! A key is taken if at least one of its events is in a pending batch. Beside each key stands the time since which its
//! events must be read: the earliest of its pending events and of what its derived row says. That bound is tight, and it
//! is sufficient, however far back the key began: a row is never computed from a part of its events.
//!
//! `expand-by` adds keys that share a value with a taken one: with `[domain_userid]` every session of a touched visitor.
//!
//! What it does not do: drop events whose key is NULL without a word; they are counted and reported.

use stepwell_sdk::catalog::{self, Indexes};
use stepwell_sdk::incremental::{
    Batches, IDS_COLUMNS, Ids, KeyColumn, event_id, is_processed, key_alias, keyed_events,
};
use stepwell_sdk::planner::{Ask, Plan, Run, Statement, Stop};
use stepwell_sdk::settings::{Columns, Expr, ReadColumn, ScratchInput, ScratchOutput};
use stepwell_sdk::sql::{Ident, Sql, TableName, join};
use stepwell_sdk::{Failure, Settings, export_planner, scratch, sql};

/// Settings of `collect-ids`.
#[derive(serde::Deserialize, Settings)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct With {
    /// The pending batches, from `diff-manifest`.
    batches: ScratchInput,
    /// The key of the derived rows: columns of the events, or names with SQL expressions over them. The names are those
    /// of the derived table.
    key: Columns,
    /// Takes the ids: the key's columns, `since` and `events`.
    into: ScratchOutput,
    /// The column of the derived table that keeps the earliest time of a row's events. Without it all events of an id
    /// are read, which needs an index on the key.
    since: Option<ReadColumn>,
    /// Contexts of the source that the key's expressions name.
    #[serde(default)]
    contexts: Vec<String>,
    /// Expressions over the events. Keys that share a value of the first with a touched key are touched too, then those
    /// that share a value of the second, and so on.
    #[serde(default)]
    expand_by: Vec<Expr>,
    /// Takes the ids of all events of the keys, with the key's columns: for joins with tables that hold more about events.
    events: Option<ScratchOutput>,
}

/// Answers with the statements that fill the table of ids.
pub fn plan(run: &Run, with: With, ask: &mut Ask<'_>) -> Result<Plan, Stop> {
    let source = run.source()?;
    let batches = run.scratch(with.batches.alias());
    let pending: Batches = run
        .about(with.batches.alias())
        .map_err(|failure| failure.with_setting("/batches"))?;
    check_key(&with.key)?;
    let since = match pending.from_nothing {
        true => None,
        false => derived_since(&with, ask)?,
    };
    let indexes = Indexes::read(ask.one(catalog::indexes(&source.events))?);

    let into = run.scratch(with.into.alias());
    let about = Ids {
        key: with
            .key
            .0
            .iter()
            .map(|(name, expr)| KeyColumn {
                name: name.clone(),
                expression: expr.as_str().to_owned(),
            })
            .collect(),
        batches: with.batches.alias().to_owned(),
        bounded: with.since.is_some(),
        contexts: with.contexts.clone(),
        all: pending.from_nothing,
    };
    let touched = touched(run, &with, &batches)?;
    let select = with_since(&about, &touched, since.as_ref(), "touched");
    let mut reads = vec![batches.clone(), source.events.clone()];
    reads.extend(since.iter().map(|column| column.0.table.clone()));
    for name in &with.contexts {
        reads.push(
            stepwell_sdk::incremental::context(source, name)?
                .table
                .clone(),
        );
    }
    let mut plan = Plan::new().run_all(scratch::fill(
        run,
        &into,
        "collect touched ids",
        &select,
        &reads,
    ));
    reads.push(run.manifest()?);
    // Where these are all ids that there are, none can be missing.
    for expression in with.expand_by.iter().filter(|_| !about.all) {
        let expanded = expanded(run, &with, &about, expression)?;
        let select = with_since(&about, &expanded, since.as_ref(), "expanded");
        let insert = sql!("INSERT INTO {into}\n{select}", into = into, select = select);
        let label = format!("add ids that share {}", expression.as_str());
        plan = plan
            .run(
                Statement::new(label, insert)
                    .reads_all(&reads)
                    .writes(&into),
            )
            .run(scratch::analyze(&into));
    }
    plan = plan.run(events_without_key(&about, &into));
    if let Some(events) = &with.events {
        let table = run.scratch(events.alias());
        let select = event_ids(run, &with, &about)?;
        plan = plan.run_all(scratch::fill(
            run,
            &table,
            "collect event ids",
            &select,
            &about.reads(run, with.into.alias())?,
        ));
    }
    for column in about
        .key
        .iter()
        .take(1)
        .filter(|_| with.contexts.is_empty())
    {
        if !indexes.finds(&column.expression) {
            plan = plan.note(format!(
                "no index on {} begins with {}: events of the ids are found by reading the table from their first time on; \
                 CREATE INDEX ON {} ({}) would read only theirs",
                source.events, column.expression, source.events, column.expression,
            ));
        }
    }
    Ok(plan.publish(with.into.alias(), &about))
}

fn check_key(key: &Columns) -> Result<(), Failure> {
    match key.names().find(|name| IDS_COLUMNS.contains(name)) {
        Some(name) => Err(Failure::new(
            "key-name",
            format!("a key column cannot be called \"{name}\""),
        )
        .with_setting("/key")
        .with_help(format!(
            "The table of ids has a column {name} of its own. Give the key another name."
        ))),
        None => Ok(()),
    }
}

/// Returns `since:` if its table exists; on the first run it does not.
fn derived_since(with: &With, ask: &mut Ask<'_>) -> Result<Option<ReadColumn>, Stop> {
    let Some(since) = &with.since else {
        return Ok(None);
    };
    let found = catalog::read_columns(ask.one(catalog::columns(&since.0.table))?);
    if found.is_empty() {
        return Ok(None);
    }
    let missing = |name: &str| !found.iter().any(|column| column.name == name);
    if missing(&since.0.column) {
        return Err(Failure::new("missing-column", format!("table {} has no column \"{}\"", since.0.table, since.0.column))
            .with_setting("/since")
            .with_help("Name the column that keeps the earliest time of a row's events, and compute it in the aggregate step: `min(<time>)`.")
            .into());
    }
    if let Some(name) = with.key.names().find(|name| missing(name)) {
        return Err(Failure::new("missing-column", format!("table {} has no column \"{name}\"", since.0.table))
            .with_setting("/key")
            .with_help(format!(
                "Name the key as the derived table does, with the expression behind it: `key: {{ <column of {}>: {name} }}`.",
                since.0.table
            ))
            .into());
    }
    Ok(Some(since.clone()))
}

/// The keys of the events in pending batches, with the time of their first pending event.
fn touched(run: &Run, with: &With, batches: &TableName) -> Result<Sql, Failure> {
    let source = run.source()?;
    let expressions: Vec<_> = with.key.0.iter().map(|(_, expr)| expr.clone()).collect();
    let rows = keyed_events(source, &expressions, &with.contexts, false)?;
    Ok(sql!(
        "SELECT {keys}, min(e.{time}) AS since, count(*) AS events
        FROM {batches} AS batches
        JOIN {rows} AS e
          ON e.stepwell_batch = batches.batch
        WHERE e.{time} >= (SELECT min(first_time) FROM {batches})
        GROUP BY {groups}",
        keys = named_keys(with.key.names()),
        time = Ident(&source.time),
        batches = batches,
        rows = rows.indented(8),
        groups = groups(with.key.0.len()),
    ))
}

/// The keys that share a value of `expression` with an id, and are no ids yet.
fn expanded(run: &Run, with: &With, ids: &Ids, expression: &Expr) -> Result<Sql, Failure> {
    let source = run.source()?;
    let into = run.scratch(with.into.alias());
    let expressions: Vec<_> = with.key.0.iter().map(|(_, expr)| expr.clone()).collect();
    let mut keyed = expressions;
    keyed.push(expression.clone());
    let shared = Ident("stepwell_shared");
    let same = ids.key.iter().enumerate().map(|(at, column)| {
        sql!(
            "ids.{name} = e.{key}",
            name = Ident(&column.name),
            key = Ident(&key_alias(at))
        )
    });
    let same = join(same, " AND ");
    let present =
        (0..ids.key.len()).map(|at| sql!("e.{key} IS NOT NULL", key = Ident(&key_alias(at))));
    // The values come from all events of an id, not from its pending ones: a visitor that changes hands belongs to the
    // old owner's rows as well as to the new one's.
    let with_value = Ids {
        key: ids.key.clone(),
        ..ids.clone()
    };
    let events = with_value.events(run, with.into.alias(), false)?;
    Ok(sql!(
        "SELECT {keys}, min(e.{time}) AS since, 0::bigint AS events
        FROM (
          SELECT DISTINCT ({expression}) AS {shared}
          FROM (
            SELECT e.*
            {events}
          ) AS e
          WHERE ({expression}) IS NOT NULL
        ) AS common
        JOIN {rows} AS e
          ON e.{value} = common.{shared}
        WHERE {present}
          AND {processed}
          AND NOT EXISTS (SELECT FROM {into} AS ids WHERE {same})
        GROUP BY {groups}",
        keys = named_keys(with.key.names()),
        time = Ident(&source.time),
        expression = expression,
        shared = shared,
        events = events.indented(12),
        rows = keyed_events(source, &keyed, &with.contexts, false)?.indented(8),
        value = Ident(&key_alias(ids.key.len())),
        present = join(present, " AND "),
        processed = is_processed(run, &run.scratch(&ids.batches))?.indented(10),
        into = into,
        same = same,
        groups = groups(ids.key.len()),
    ))
}

/// Moves `since` back to what the derived rows say.
fn with_since(ids: &Ids, keys: &Sql, derived: Option<&ReadColumn>, name: &str) -> Sql {
    let name = Ident(name);
    let Some(ReadColumn(derived)) = derived else {
        return keys.clone();
    };
    let column = |at: &KeyColumn| sql!("{name}.{key}", name = name, key = Ident(&at.name));
    let on = ids.key.iter().map(|key| {
        sql!(
            "derived.{key} = {column}",
            key = Ident(&key.name),
            column = column(key)
        )
    });
    sql!(
        "SELECT {columns}, least({name}.since, min(derived.{since})) AS since, {name}.events\nFROM (\n  {keys}\n) AS {name}\nLEFT JOIN {table} AS derived\n  ON {on}\nGROUP BY {columns}, {name}.since, {name}.events",
        columns = join(ids.key.iter().map(column), ", "),
        name = name,
        since = Ident(&derived.column),
        keys = keys.indented(2),
        table = derived.table,
        on = join(on, " AND "),
    )
}

/// Counts the pending events that belong to no key, since a part of theirs is NULL.
fn events_without_key(ids: &Ids, into: &TableName) -> Statement {
    let null = ids
        .key
        .iter()
        .map(|column| sql!("{name} IS NULL", name = Ident(&column.name)));
    let select = sql!(
        "SELECT coalesce(sum(events), 0)::bigint\nFROM {into}\nWHERE {null}",
        into = into,
        null = join(null, " OR "),
    );
    Statement::new("count events without a key", select)
        .reads(into)
        .measure("events-without-key")
}

fn event_ids(run: &Run, with: &With, ids: &Ids) -> Result<Sql, Failure> {
    let source = run.source()?;
    Ok(sql!(
        "SELECT DISTINCT e.{event_id}, {keys}\n{events}",
        event_id = Ident(event_id(source)?),
        keys = named_keys(with.key.names()),
        events = ids.events(run, with.into.alias(), false)?,
    ))
}

fn named_keys<'a>(names: impl Iterator<Item = &'a str>) -> Sql {
    let named = names.enumerate().map(|(at, name)| {
        sql!(
            "e.{key} AS {name}",
            key = Ident(&key_alias(at)),
            name = Ident(name)
        )
    });
    join(named, ", ")
}

fn groups(count: usize) -> Sql {
    join(
        (0..count).map(|at| sql!("e.{key}", key = Ident(&key_alias(at)))),
        ", ",
    )
}

export_planner! {
    name: "collect-ids",
    summary: "Collects the keys that pending batches touch, with the time since which each must be read",
    settings: With,
    plan: plan,
    reads: ["events", "manifest"],
}

#[cfg(test)]
mod tests {
    use super::*;
    use stepwell_sdk::Answer;
    use stepwell_sdk::testing::{Conversation, rows};

    fn columns(names: &[&str]) -> Answer {
        let list: Vec<_> = names
            .iter()
            .map(|&name| [Some(name), Some("text"), None, Some("r")])
            .collect();
        let list: Vec<&[Option<&str>]> = list.iter().map(|row| &row[..]).collect();
        rows(&["name", "type", "type_oid", "kind"], &list)
    }

    fn conversation(with: &str, derived: &[&str]) -> Conversation<With> {
        let batches = Batches {
            batches: 1,
            reopened: 0,
            events: 700,
            first: "a".into(),
            last: "a".into(),
            events_without_batch: 0,
            more: false,
            from_nothing: derived.is_empty(),
        };
        Conversation::new(plan, with)
            .about("batches", &batches)
            .answer("columns of derived.sessions", columns(derived))
            .answer(
                "indexes of atomic.events",
                rows(
                    &["method", "leading"],
                    &[&[Some("btree"), Some("domain_sessionid")]],
                ),
            )
    }

    const SESSIONS: &str = r#""batches": "batches", "key": {"session_id": "domain_sessionid"}, "into": "ids", "since": "derived.sessions.first_at""#;

    #[test]
    fn the_first_run_has_no_derived_rows_to_ask() {
        conversation(&format!("{{{SESSIONS}}}"), &[]).check_golden("sql/first.postgres.sql");
    }

    #[test]
    fn later_runs_go_back_to_what_the_derived_rows_say() {
        conversation(&format!("{{{SESSIONS}}}"), &["session_id", "first_at"])
            .check_golden("sql/since.postgres.sql");
    }

    #[test]
    fn keys_that_share_a_value_follow() {
        let with =
            format!(r#"{{{SESSIONS}, "expand-by": ["domain_userid"], "events": "event_ids"}}"#);
        conversation(&with, &["session_id", "first_at"]).check_golden("sql/expand.postgres.sql");
    }

    #[test]
    fn composite_keys_and_contexts() {
        let with = r#"{"batches": "batches", "key": {"visitor": "domain_userid", "page": "page.id"}, "into": "ids", "contexts": ["page"]}"#;
        conversation(with, &[]).check_golden("sql/composite.postgres.sql");
    }

    #[test]
    fn mistakes_point_at_the_setting() {
        let failure = |with: &str| conversation(with, &["session_id"]).outcome().0.unwrap_err();
        let found = failure(&format!("{{{SESSIONS}}}"));
        assert_eq!(
            (found.message.as_str(), found.setting.as_deref()),
            (
                "table derived.sessions has no column \"first_at\"",
                Some("/since")
            )
        );
        let found = failure(r#"{"batches": "batches", "key": {"since": "a"}, "into": "ids"}"#);
        assert_eq!(found.code, "key-name");
        let found = failure(r#"{"batches": "other", "key": ["a"], "into": "ids"}"#);
        assert_eq!(
            (found.code.as_str(), found.setting.as_deref()),
            ("wrong-table", Some("/batches"))
        );
        let found = failure(
            r#"{"batches": "batches", "key": {"a": "pg.id"}, "into": "ids", "contexts": ["pg"]}"#,
        );
        assert_eq!(
            (found.code.as_str(), found.setting.as_deref()),
            ("unknown-context", Some("/contexts"))
        );
    }
}
