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
//! With `until: derived.sessions.last_collector_tstamp` it is tight on the other side too. A key that comes back after two
//! months has events then and now; without an index on the key, steps then read the two stretches of time in which it has
//! any, and not the two months between for the sake of one row.
//!
//! Some keys never end: a bot that is the same visitor for months has its row computed again from ever more events. With
//! `runaway: { longer-than: 30 days, then: freeze }` such a row stays as it is and is reported; `compute` reports alone,
//! and `fail` ends the run. A row is never computed from a part of its events.
//!
//! `expand-by` adds keys that share a value with a taken one: with `[domain_userid]` every session
//! of a touched visitor. Each expression goes one step further, so one that stands in the list
//! twice is followed twice: `[domain_userid, user_id, domain_userid]` takes the sessions of all
//! visitors that ever were the same user as a touched one.
//!
//! Where a row also depends on events of other keys, the keys whose rows may change are fewer than
//! those whose events must be read. `read-also` collects the latter into a table of their own, by
//! further steps:
//!
//! ```yaml
//!     expand-by: [user_id]
//!     read-also: { into: sessions_of_users, expand-by: [user_id] }
//! ```
//!
//! What it does not do: drop events whose key is NULL without a word; they are counted and
//! reported. No row is computed from them. Pending ones still take the first step of `expand-by`:
//! the copy of an event that lost its session on the way may have brought another page context for
//! it, which the session of the first copy then has to do without.

mod lookback;
mod replay;
mod runaway;
mod verify;

use stepwell_sdk::catalog::{self, Indexes};
use stepwell_sdk::incremental::{
    Batches, IDS_COLUMNS, Ids, KeyColumn, SPLIT_COLUMNS, context, event_id, is_processed,
    key_alias, keyed_events,
};
use stepwell_sdk::planner::{Ask, Dialect, Plan, Run, Statement, Stop};
use stepwell_sdk::request::Replay;
use stepwell_sdk::rows::Rows;
use stepwell_sdk::settings::{Columns, Duration, Expr, ReadColumn, ScratchInput, ScratchOutput};
use stepwell_sdk::source::Source;
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
    /// The column of the derived table that keeps the earliest time of a row's events. Without it
    /// all events of an id are read, which needs an index on the key. Every id with events must
    /// have a row there: where rows are left out, as those of sessions without a page view, the
    /// events of a missing row would not be found again.
    since: Option<ReadColumn>,
    /// The column of the same table that keeps the latest time of a row's events: `max(<time>)`. Where no index finds the
    /// events of a key, a key that comes back is then read where it has events, and not all the time between. Not with rows
    /// that were frozen (`runaway`) and not computed since: replay those keys first.
    until: Option<ReadColumn>,
    /// What becomes of keys whose events lie far apart; their rows are computed like all others unless given.
    runaway: Option<Runaway>,
    /// Contexts of the source that the expressions of `key` and `expand-by` name.
    #[serde(default)]
    contexts: Vec<String>,
    /// Expressions over the events. Keys that share a value of the first with a touched key are touched too, then those
    /// that share a value of the second, and so on.
    #[serde(default)]
    expand_by: Vec<Expr>,
    /// Keys whose events are read besides, since the rows of the ids depend on them; their own rows
    /// stay as they are. For `read-also` of the aggregate step.
    read_also: Option<ReadAlso>,
    /// Takes the ids of all events of the keys, with the key's columns: for joins with tables that hold more about events.
    events: Option<ScratchOutput>,
}

/// Keys beyond those of the ids.
#[derive(serde::Deserialize, Settings)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ReadAlso {
    /// Takes the ids and these keys.
    into: ScratchOutput,
    /// Expressions as in `expand-by` above, which go on from where that list ends.
    expand_by: Vec<Expr>,
}

/// Keys whose events lie too far apart: needs `since`.
#[derive(Debug, Clone, Copy, PartialEq, serde::Deserialize, Settings)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Runaway {
    /// The longest time from a key's first event to its last one.
    longer_than: Duration,
    /// What becomes of a key that has a row and is longer.
    then: Then,
}

/// What becomes of keys whose events lie too far apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, Settings)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// Their rows are computed from all of their events, and they are reported.
    Compute,
    /// Their rows stay as they are, and they are reported. The rows differ from a rebuild then, which `stepwell verify`
    /// knows; a replay of the keys, or a full refresh, computes them. Not together with `until`, nor with `expand-by`, where
    /// rows of other keys depend on their events.
    Freeze,
    /// The run ends with an error.
    Fail,
}

/// Answers with the statements that fill the table of ids.
pub fn plan(run: &Run, with: &With, ask: &mut Ask<'_>) -> Result<Plan, Stop> {
    let source = run.source()?;
    let pending: Batches = run
        .about(with.batches.alias())
        .map_err(|failure| failure.with_setting("/batches"))?;
    check_key(with)?;
    runaway::check(with)?;
    let (verify, replay) = (run.verify()?, run.replay()?);
    let (since, indexes) = match pending.from_nothing && verify.is_none() {
        true => (None, ask.one(catalog::indexes(&source.events))?),
        false => derived_since(with, source, ask)?,
    };
    let indexes = Indexes::read(indexes);
    let mut about = about(with, source, &pending, &indexes)?;
    if verify.is_some() || replay.is_some() {
        // What the derived rows say of their first times is in question.
        about.bounded = false;
        about.all = verify.as_ref().is_some_and(|verify| verify.is_whole());
    }
    about.split = about.bounded && since.is_some() && with.until.is_some();
    let collect = Collect {
        run,
        with,
        source,
        pending: &pending,
        since,
        about,
        capped: replay.is_none(),
    };
    Ok(match (&verify, &replay) {
        _ if run.has("lookback") => collect.spans(ask)?,
        (Some(verify), _) => collect.verified(verify, pending.reopened > 0)?,
        (_, Some(Replay::Keys(keys))) => collect.replayed(keys)?,
        _ => collect.plan(&indexes, ask)?,
    })
}

/// What later steps may know about the ids.
fn about(
    with: &With,
    source: &Source,
    pending: &Batches,
    indexes: &Indexes,
) -> Result<Ids, Failure> {
    let key = with.key.0.iter().map(|(name, expr)| KeyColumn {
        name: name.clone(),
        expression: expr.as_str().to_owned(),
    });
    for name in &with.contexts {
        context(source, name)?;
    }
    Ok(Ids {
        key: key.collect(),
        batches: with.batches.alias().to_owned(),
        bounded: with.since.is_some(),
        contexts: named(with, source, with.key.0.iter().map(|(_, expr)| expr))?,
        all: pending.from_nothing,
        // Of a key with several parts the index finds one alone, and a bound on time narrows that down.
        indexed: with.key.0.len() == 1
            && with.contexts.is_empty()
            && indexes.finds(with.key.0[0].1.as_str()),
        split: false,
        frozen: with
            .runaway
            .is_some_and(|runaway| runaway.then == Then::Freeze),
        folded: pending.folded.as_ref().map(|folded| folded.before.clone()),
    })
}

/// Returns the contexts that the expressions may name, by the context's own name or by a column:
/// each is a join over all events of the ids, so one that only `expand-by` needs is left out
/// elsewhere.
fn named<'a>(
    with: &With,
    source: &Source,
    expressions: impl IntoIterator<Item = &'a Expr>,
) -> Result<Vec<String>, Failure> {
    let words: Vec<String> = expressions.into_iter().flat_map(Expr::idents).collect();
    let mut found = Vec::new();
    for name in &with.contexts {
        let columns = &context(source, name)?.columns;
        if words.contains(name) || columns.iter().any(|column| words.contains(column)) {
            found.push(name.clone());
        }
    }
    Ok(found)
}

fn check_key(with: &With) -> Result<(), Failure> {
    let is_taken = |name: &&str| {
        IDS_COLUMNS.contains(name) || with.until.is_some() && SPLIT_COLUMNS.contains(name)
    };
    match with.key.names().find(is_taken) {
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

/// Where the derived rows keep the time since which their events count.
struct Since {
    column: ReadColumn,
    /// Whether an index finds the row of a key.
    indexed: bool,
}

/// Returns `since:` if its table exists, which on the first run it does not, and the indexes of the events.
fn derived_since<'a>(
    with: &With,
    source: &Source,
    ask: &mut Ask<'a>,
) -> Result<(Option<Since>, Rows<'a>), Stop> {
    let Some(since) = &with.since else {
        return match &with.until {
            None => Ok((None, ask.one(catalog::indexes(&source.events))?)),
            Some(_) => Err(Failure::new(
                "no-since",
                "until needs to know since when a key has events",
            )
            .with_setting("/until")
            .with_help("Name the column of the first time as well: `since: …`.")
            .into()),
        };
    };
    let [found, own, indexes] = ask.all([
        catalog::columns(&since.0.table),
        catalog::indexes(&since.0.table),
        catalog::indexes(&source.events),
    ])?;
    let found = catalog::read_columns(found);
    if found.is_empty() {
        return Ok((None, indexes));
    }
    let missing = |name: &str| !found.iter().any(|column| column.name == name);
    if missing(&since.0.column) {
        return Err(Failure::new("missing-column", format!("table {} has no column \"{}\"", since.0.table, since.0.column))
            .with_setting("/since")
            .with_help("Name the column that keeps the earliest time of a row's events, and compute it in the aggregate step: `min(<time>)`.")
            .into());
    }
    if let Some(until) = &with.until {
        let wrong = |code: &str, message: String, help: &str| {
            let failure = Failure::new(code, message)
                .with_setting("/until")
                .with_help(help);
            Err(Stop::Failed(failure))
        };
        if until.0.table != since.0.table {
            return wrong(
                "other-table",
                format!(
                    "expected a column of {}, as `since` is, found one of {}",
                    since.0.table, until.0.table
                ),
                "Name the column of the table with the key's rows.",
            );
        }
        if missing(&until.0.column) {
            return wrong(
                "missing-column",
                format!(
                    "table {} has no column \"{}\"",
                    until.0.table, until.0.column
                ),
                "Compute it in the aggregate step, `max(<time>)`, and have it in the table before it is named here: a run with \
                 `on-schema-change: append` adds it.",
            );
        }
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
    let key: Vec<&str> = with.key.names().collect();
    let since = Since {
        column: since.clone(),
        indexed: Indexes::read(own).finds_key(&key),
    };
    Ok((Some(since), indexes))
}

/// What the statements are made from.
struct Collect<'a> {
    run: &'a Run,
    with: &'a With,
    source: &'a Source,
    pending: &'a Batches,
    since: Option<Since>,
    about: Ids,
    /// Whether `runaway` counts: whoever asks for keys by name gets them.
    capped: bool,
}

impl Collect<'_> {
    fn plan(&self, indexes: &Indexes, ask: &mut Ask<'_>) -> Result<Plan, Stop> {
        let with = &self.with;
        let mut plan = self.touched()?;
        if let Some(found) = self.runaways(ask)? {
            plan = found.report(plan);
        }
        plan = self.expand(plan, with.into.alias(), &with.expand_by)?;
        if let Some(also) = &with.read_also {
            plan = self.start_from_ids(plan, also);
            plan = self.expand(plan, also.into.alias(), &also.expand_by)?;
            plan = plan.publish(also.into.alias(), &self.about);
        }
        plan = plan.run(self.events_without_key());
        if let Some(events) = &with.events {
            plan = self.event_ids(plan, events)?;
        }
        for advice in self.missing_indexes(indexes) {
            plan = plan.advise(advice);
        }
        Ok(plan.publish(with.into.alias(), &self.about))
    }

    /// Takes the keys of the events in pending batches.
    fn touched(&self) -> Result<Plan, Failure> {
        let run = self.run;
        let mut select = self.with_since(&self.touched_keys()?, "touched", NoRow::IsNew);
        if let Some(runaway) = self.is_runaway("touched")
            && self.about.frozen
        {
            select = sql!(
                "{select}\nHAVING NOT ({runaway})",
                select = select,
                runaway = runaway
            );
        }
        let reads = self.reads(&run.scratch(&self.about.batches))?;
        let into = run.scratch(self.with.into.alias());
        let fill = (self.pending).fill(run, &into, "collect touched ids", &select, &reads);
        Ok(Plan::new().run_all(fill))
    }

    /// The keys of the events in pending batches, with the times of their first and, where that matters, last pending
    /// event.
    fn touched_keys(&self) -> Result<Sql, Failure> {
        let source = self.source;
        let batches = self.run.scratch(&self.about.batches);
        let last = match self.is_runaway("touched") {
            None => sql!(""),
            Some(_) => sql!(", max(e.{time}) AS last", time = Ident(&source.time)),
        };
        let rows = keyed_events(
            source,
            &self.about.expressions()?,
            &self.about.contexts,
            false,
        )?;
        Ok(sql!(
            "SELECT {keys}, min(e.{time}) AS since, count(*) AS events{last}
            FROM {batches} AS batches
            JOIN {rows} AS e
              ON e.stepwell_batch = batches.batch
            WHERE e.{time} >= (SELECT min(first_time) FROM {batches})
            GROUP BY {groups}",
            keys = named_keys(self.with.key.names()),
            time = Ident(&source.time),
            last = last,
            batches = batches,
            rows = rows.indented(12),
            groups = groups(self.about.key.len()),
        ))
    }

    /// Adds to the ids in `alias` those that share a value, expression by expression.
    fn expand(&self, mut plan: Plan, alias: &str, expand_by: &[Expr]) -> Result<Plan, Failure> {
        // Where these are all ids that there are, none can be missing.
        if self.about.all {
            return Ok(plan);
        }
        let into = self.run.scratch(alias);
        let mut reads = self.reads(&self.run.scratch(&self.about.batches))?;
        reads.push(self.run.manifest()?);
        // The table of `read-also` begins where the ids end; their pending events are spent.
        let first = alias == self.with.into.alias();
        for (at, expression) in expand_by.iter().enumerate() {
            let expanded = self.expanded(&into, alias, expression, first && at == 0)?;
            let select = self.with_since(&expanded, "expanded", NoRow::IsUnknown);
            let insert = sql!("INSERT INTO {into}\n{select}", into = into, select = select);
            let label = format!("add ids that share {}", expression.as_str());
            let insert = Statement::new(label, insert)
                .reads_all(&reads)
                .writes(&into);
            plan = plan.run(insert).run(scratch::analyze(&into));
        }
        Ok(plan)
    }

    /// The keys that share a value of `expression` with an id in `into`, and are no ids there yet.
    ///
    /// The values come from all events of an id, not from its pending ones: a visitor that changes
    /// hands belongs to the old owner's rows as well as to the new one's. In the `first` step they
    /// also come from pending events without a key.
    fn expanded(
        &self,
        into: &TableName,
        alias: &str,
        expression: &Expr,
        first: bool,
    ) -> Result<Sql, Failure> {
        let (run, about) = (self.run, &self.about);
        let mut expressions = about.expressions()?;
        expressions.push(expression.clone());
        let contexts = named(self.with, self.source, &expressions)?;
        let rows = keyed_events(self.source, &expressions, &contexts, false)?;
        let key = |at: usize| key_alias(at);
        let same = about.key.iter().enumerate().map(|(at, column)| {
            sql!(
                "ids.{name} = e.{key}",
                name = Ident(&column.name),
                key = Ident(&key(at))
            )
        });
        let present =
            (0..about.key.len()).map(|at| sql!("e.{key} IS NOT NULL", key = Ident(&key(at))));
        let value = key(about.key.len());
        let mut values = sql!(
            "SELECT DISTINCT e.{value} AS stepwell_shared\n{events}\n  AND e.{value} IS NOT NULL",
            value = Ident(&value),
            events = about.events_with(run, alias, expression, &contexts)?,
        );
        if first {
            let keyless = self.pending_without_key(&rows, &value);
            values = sql!(
                "{values}\nUNION\n{keyless}",
                values = values,
                keyless = keyless
            );
        }
        Ok(sql!(
            "SELECT {keys}, min(e.{time}) AS since, 0::bigint AS events
            FROM (
              {values}
            ) AS common
            JOIN {rows} AS e
              ON e.{value} = common.stepwell_shared
            WHERE {present}
              AND {processed}
              AND NOT EXISTS (SELECT FROM {into} AS ids WHERE {same})
            GROUP BY {groups}",
            keys = named_keys(self.with.key.names()),
            time = Ident(&self.source.time),
            values = values.indented(14),
            value = Ident(&value),
            rows = rows.indented(12),
            present = join(present, " AND "),
            processed = is_processed(run, &run.scratch(&about.batches), about.folded.as_deref())?
                .indented(14),
            into = into,
            same = join(same, " AND "),
            groups = groups(about.key.len()),
        ))
    }

    /// The values of pending events without a key. No row is computed from such an event, but a row
    /// may depend on it: where it is a copy of one that has a key, its contexts count for both.
    fn pending_without_key(&self, rows: &Sql, value: &str) -> Sql {
        let null = (0..self.about.key.len())
            .map(|at| sql!("e.{key} IS NULL", key = Ident(&key_alias(at))));
        sql!(
            "SELECT e.{value}
            FROM {batches} AS batches
            JOIN {rows} AS e
              ON e.stepwell_batch = batches.batch
            WHERE e.{time} >= (SELECT min(first_time) FROM {batches})
              AND ({null})
              AND e.{value} IS NOT NULL",
            value = Ident(value),
            batches = self.run.scratch(&self.about.batches),
            rows = rows.indented(12),
            time = Ident(&self.source.time),
            null = join(null, " OR "),
        )
    }

    /// Begins the table of `read-also` with the ids themselves.
    fn start_from_ids(&self, plan: Plan, also: &ReadAlso) -> Plan {
        let (ids, into) = (
            self.run.scratch(self.with.into.alias()),
            self.run.scratch(also.into.alias()),
        );
        let select = sql!("SELECT *\nFROM {ids}", ids = ids);
        let fill = (self.pending).fill(self.run, &into, "begin with the ids", &select, [&ids]);
        plan.run_all(fill)
    }

    /// Moves `since` back to what the derived rows say.
    fn with_since(&self, keys: &Sql, name: &str, no_row: NoRow) -> Sql {
        let name = Ident(name);
        let Some(Since { column, indexed }) = &self.since else {
            return keys.clone();
        };
        let ReadColumn(derived) = column;
        let column = |at: &KeyColumn| sql!("{name}.{key}", name = name, key = Ident(&at.name));
        let on = self.about.key.iter().map(|key| {
            sql!(
                "derived.{key} = {column}",
                key = Ident(&key.name),
                column = column(key)
            )
        });
        let earliest = sql!("min(derived.{since})", since = Ident(&derived.column));
        let earliest = match no_row {
            NoRow::IsNew => earliest,
            NoRow::IsUnknown => sql!("coalesce({earliest}, '0001-01-01')", earliest = earliest),
        };
        // A derived row may be older than the column that keeps its first time: then all of its events are read.
        let first = &self.about.key[0].name;
        let earliest = sql!(
            "CASE WHEN count(derived.{key}) > count(derived.{since}) THEN '0001-01-01' ELSE {earliest} END",
            key = Ident(first),
            since = Ident(&derived.column),
            earliest = earliest,
        );
        let split = match (&self.with.until, self.about.split) {
            (Some(until), true) => sql!(
                ",\n  CASE WHEN count(derived.{key}) > least(count(derived.{since}), count(derived.{until})) THEN NULL ELSE max(derived.{until}) END AS until,\n  {again} AS again",
                key = Ident(first),
                since = Ident(&derived.column),
                until = Ident(&until.0.column),
                again = match no_row {
                    NoRow::IsNew => sql!("{name}.since", name = name),
                    // One with pending events would have been touched.
                    NoRow::IsUnknown => sql!("CAST(NULL AS timestamp)"),
                },
            ),
            _ => sql!(""),
        };
        let columns = join(self.about.key.iter().map(column), ", ");
        // Postgres cannot know how few keys there are, takes them for many, and would read all derived rows.
        let look_up = *indexed && self.pending.are_few() && self.run.dialect() == Dialect::Postgres;
        if look_up && self.with.until.is_none() && self.with.runaway.is_none() {
            return sql!(
                "SELECT {columns}, least({name}.since, derived.since) AS since, {name}.events\nFROM (\n  {keys}\n) AS {name}\nCROSS JOIN LATERAL (\n  SELECT {earliest} AS since\n  FROM {table} AS derived\n  WHERE {on}\n) AS derived",
                columns = columns,
                name = name,
                earliest = earliest,
                keys = keys.indented(2),
                table = derived.table,
                on = join(on, " AND "),
            );
        }
        sql!(
            "SELECT {columns}, least({name}.since, {earliest}) AS since, {name}.events{split}\nFROM (\n  {keys}\n) AS {name}\nLEFT JOIN {table} AS derived\n  ON {on}\nGROUP BY {columns}, {name}.since, {name}.events",
            columns = columns,
            name = name,
            earliest = earliest,
            split = split,
            keys = keys.indented(2),
            table = derived.table,
            on = join(on, " AND "),
        )
    }

    /// Counts the pending events that belong to no key, since a part of theirs is NULL.
    fn events_without_key(&self) -> Statement {
        let into = self.run.scratch(self.with.into.alias());
        let null = self
            .about
            .key
            .iter()
            .map(|column| sql!("{name} IS NULL", name = Ident(&column.name)));
        let select = sql!(
            "SELECT coalesce(sum(events), 0)::bigint\nFROM {into}\nWHERE {null}",
            into = into,
            null = join(null, " OR "),
        );
        Statement::new("count events without a key", select)
            .reads(&into)
            .measure("events-without-key")
    }

    fn event_ids(&self, plan: Plan, events: &ScratchOutput) -> Result<Plan, Failure> {
        let (run, ids) = (self.run, self.with.into.alias());
        let select = sql!(
            "SELECT DISTINCT e.{event_id}, {keys}\n{events}",
            event_id = Ident(event_id(self.source)?),
            keys = named_keys(self.with.key.names()),
            events = self.about.events(run, ids, false)?,
        );
        let reads = self.about.reads(run, ids)?;
        let table = run.scratch(events.alias());
        let fill = (self.pending).fill(run, &table, "collect event ids", &select, &reads);
        Ok(plan.run_all(fill))
    }

    /// The tables that the ids come from.
    fn reads(&self, batches: &TableName) -> Result<Vec<TableName>, Failure> {
        let mut reads = vec![batches.clone(), self.source.events.clone()];
        let derived = self.since.iter().map(|since| &since.column.0.table);
        reads.extend(derived.cloned());
        for name in &self.with.contexts {
            reads.push(context(self.source, name)?.table.clone());
        }
        Ok(reads)
    }

    /// Which indexes on the events would help: one that begins with the key, and one for each step
    /// of `expand-by`.
    fn missing_indexes(&self, indexes: &Indexes) -> Vec<String> {
        let events = &self.source.events;
        let mut notes = Vec::new();
        let key = self.about.key.iter().take(1);
        for column in key.filter(|_| self.about.contexts.is_empty()) {
            if !indexes.finds(&column.expression) {
                notes.push(format!(
                    "no index on {events} begins with {}: events of the ids are found by reading the table from their first time on; \
                     CREATE INDEX ON {events} ({}) would read only theirs",
                    column.expression, column.expression,
                ));
            }
        }
        let further = self.with.read_also.iter().flat_map(|also| &also.expand_by);
        let mut seen = Vec::new();
        for expression in self.with.expand_by.iter().chain(further) {
            let text = expression.as_str();
            // What lies in a context is found by that table's indexes.
            let contexts = named(self.with, self.source, [expression]).unwrap_or_default();
            if !contexts.is_empty() || seen.contains(&text) || indexes.finds(text) {
                continue;
            }
            seen.push(text);
            notes.push(format!(
                "no index on {events} begins with {text}: keys that share it are found by reading the whole table; \
                 CREATE INDEX ON {events} ({text}) would read only their events",
            ));
        }
        notes
    }
}

/// What it means that a key has no derived row.
#[derive(Clone, Copy)]
enum NoRow {
    /// The key has pending events, and was never seen before.
    IsNew,
    /// The key was reached by a value that some of its events share, and nothing says when its
    /// others were: all of them are read. A literal, since Redshift knows no infinite time.
    IsUnknown,
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
mod tests;
