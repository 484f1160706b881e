//! What the steps of an incremental run tell each other, and the SQL that follows from it.
//!
//! `diff-manifest` publishes [`Batches`] about the table of pending batches, `collect-ids` publishes [`Ids`] about the
//! table of ids. A step of your own that takes ids reads the events of exactly these ids with [`Ids::events`], so that
//! it keeps the promises of the built-in one: whole keys, no event of a batch that is not processed.

mod dedupe;
mod event_rows;
mod folded;
mod needed;
mod stretches;

use serde::{Deserialize, Serialize};

use crate::bindings::stepwell::step::types::Failure;
use crate::planner::{Run, Statement};
use crate::scratch;
use crate::settings::Expr;
use crate::source::Source;
use crate::sql;
use crate::sql::{Ident, Literal, Sql, TableName, join};

pub use dedupe::{Counted, Dedupe};
pub use event_rows::EventRows;
pub use folded::{Folded, Rest};
pub use needed::{Needed, whole_row};
pub use stretches::Stretches;

/// Columns that a table of ids has besides its key; no key column may be called so.
pub const IDS_COLUMNS: [&str; 2] = ["since", "events"];

/// Columns that a table of [split](Ids::split) ids has besides.
pub const SPLIT_COLUMNS: [&str; 2] = ["until", "again"];

/// What is known about the table of pending batches. Its columns: `batch`, `events`, `first_time`, `last_time`,
/// `events_before` (NULL unless the batch was processed before and has changed since).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    into = "folded::BatchesAsPublished",
    try_from = "folded::BatchesAsPublished"
)]
pub struct Batches {
    /// Number of pending batches.
    pub batches: u64,
    /// Number of those that were processed before and have changed since.
    pub reopened: u64,
    /// Number of events in pending batches.
    pub events: u64,
    /// The oldest pending batch, in its text form.
    pub first: String,
    /// The youngest pending batch, in its text form.
    pub last: String,
    /// Number of events within the lookback that belong to no batch, since theirs is NULL.
    pub events_without_batch: u64,
    /// Whether more batches are pending than one run takes. The host then runs the workflow again, for as long as the
    /// gate step publishes this.
    pub more: bool,
    /// Whether the playbook has processed nothing before, or starts anew: the pending batches are then all that counts.
    pub from_nothing: bool,
    /// How many batches are pending in all, where the gate step knows: for a run in slices to say how far it is.
    pub backlog: Option<u64>,
    /// Processed batches that have no row of their own in the manifest, or will have none once this run is committed.
    pub folded: Option<Folded>,
}

/// Most pending events of a run whose scratch tables count as small. Of each event a few hundred bytes get there, and the
/// keys that it touches may bring ten times as many.
const FEW_EVENTS: u64 = 20_000;

impl Batches {
    /// Returns whether so few events are pending that [`scratch::fill_small`] is the cheaper
    /// way to fill tables with what follows from them.
    pub fn are_few(&self) -> bool {
        !self.from_nothing && self.events <= FEW_EVENTS
    }

    /// Returns the statements that fill a scratch table with what follows from these batches, by
    /// [`scratch::fill`] or [`scratch::fill_small`].
    pub fn fill<'a>(
        &self,
        run: &Run,
        table: &TableName,
        label: &str,
        select: &Sql,
        reads: impl IntoIterator<Item = &'a TableName>,
    ) -> [Statement; 3] {
        match self.are_few() {
            true => scratch::fill_small(run, table, label, select, reads),
            false => scratch::fill(run, table, label, select, reads),
        }
    }
}

/// What is known about a table of ids. Its columns: those of the key, `since` (the time from which the id's events must
/// be read, included) and `events` (how many of them are in pending batches).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "folded::IdsAsPublished", try_from = "folded::IdsAsPublished")]
pub struct Ids {
    /// The key's columns with their expressions over events and contexts.
    pub key: Vec<KeyColumn>,
    /// Alias of the table of pending batches.
    pub batches: String,
    /// Whether `since` bounds the events of an id from below; without it they are all read.
    pub bounded: bool,
    /// Contexts that the key's expressions name.
    pub contexts: Vec<String>,
    /// Whether these are all ids that there are, since nothing was processed before. Their events are then those of the
    /// pending batches, and need not be looked up id by id.
    pub all: bool,
    /// Whether an index finds the events of an id, and no others.
    pub indexed: bool,
    /// Whether the table also has `until`, the time of the last event that an id's derived row was computed from, and
    /// `again`, that of its first pending one: it has no event between the two. Without `until` it has events from `since`
    /// on, without `again` it has no pending one.
    pub split: bool,
    /// Whether derived rows of ids whose events lie too far apart stay as they are. In a verification such ids have
    /// negative `events`.
    pub frozen: bool,
    /// The batch, in its text form, before which all count as processed, though the manifest has no rows of them; none
    /// where every processed batch has its row.
    pub folded: Option<String>,
}

/// One column of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyColumn {
    /// Its name in the table of ids and in the derived table.
    pub name: String,
    /// Its expression over the columns of the events.
    pub expression: String,
}

impl Ids {
    /// Returns the statements that fill a scratch table with what follows from these ids, as [`Batches::fill`] does where
    /// it is known how much is pending; otherwise by [`scratch::fill`].
    pub fn fill<'a>(
        &self,
        run: &Run,
        table: &TableName,
        label: &str,
        select: &Sql,
        reads: impl IntoIterator<Item = &'a TableName>,
    ) -> [Statement; 3] {
        match run.about::<Batches>(&self.batches) {
            Ok(pending) => pending.fill(run, table, label, select, reads),
            // Who made the ids may have made them without batches.
            Err(_) => scratch::fill(run, table, label, select, reads),
        }
    }

    /// Returns the expressions of the key, in order.
    ///
    /// # Errors
    ///
    /// [`Failure`] if the step that published them wrote no expressions.
    pub fn expressions(&self) -> Result<Vec<Expr>, Failure> {
        let read = |column: &KeyColumn| {
            Expr::new(column.expression.clone()).map_err(|error| Failure::new("wrong-table", error))
        };
        self.key.iter().map(read).collect()
    }

    /// Returns `FROM … WHERE …`: the events of the ids in the scratch table `alias`, as `e`.
    ///
    /// Only events of processed and of pending batches come, so that what is computed from them
    /// equals a rebuild over the batches in the manifest; a batch that is still being loaded waits
    /// for its own run. Events without a key come never: they belong to no row. `e` also has
    /// `stepwell_key_1`, … for the key, and `stepwell_place`, the row's place in the table, if
    /// `place`.
    ///
    /// # Errors
    ///
    /// [`Failure`] if the workflow has no source, or a context that the key names is not declared there.
    pub fn events(&self, run: &Run, alias: &str, place: bool) -> Result<Sql, Failure> {
        self.events_within(run, alias, place, None)
    }

    /// Returns the same, read from such stretches of time alone.
    fn events_within(
        &self,
        run: &Run,
        alias: &str,
        place: bool,
        stretches: Option<&Stretches>,
    ) -> Result<Sql, Failure> {
        let key = self.expressions()?;
        self.events_of(run, alias, &key, &self.contexts, place, stretches)
    }

    /// Returns the same with the value of one more expression, which follows those of the key:
    /// `stepwell_key_<n + 1>`.
    ///
    /// `contexts` are those that the expression or the key names.
    ///
    /// # Errors
    ///
    /// [`Failure`] as for [`events`](Self::events).
    pub fn events_with(
        &self,
        run: &Run,
        alias: &str,
        value: &Expr,
        contexts: &[String],
    ) -> Result<Sql, Failure> {
        let mut expressions = self.expressions()?;
        expressions.push(value.clone());
        self.events_of(run, alias, &expressions, contexts, false, None)
    }

    fn events_of(
        &self,
        run: &Run,
        alias: &str,
        expressions: &[Expr],
        contexts: &[String],
        place: bool,
        stretches: Option<&Stretches>,
    ) -> Result<Sql, Failure> {
        let source = run.source()?;
        let ids = run.scratch(alias);
        let rows = keyed_events(source, expressions, contexts, place)?;
        let batches = run.scratch(&self.batches);
        let processed = match self.all {
            true => sql!(
                "e.stepwell_batch IN (SELECT batch FROM {batches})",
                batches = batches
            ),
            false => is_processed(run, &batches, self.folded.as_deref())?.indented(2),
        };
        // An event without a time belongs to no batch.
        let timed = sql!("e.{time} IS NOT NULL", time = Ident(&source.time));
        if self.all {
            let present = (0..self.key.len())
                .map(|at| sql!("e.{key} IS NOT NULL", key = Ident(&key_alias(at))));
            return Ok(sql!(
                "FROM {rows} AS e\nWHERE {present}\n  AND {timed}\n  AND {processed}",
                rows = rows,
                timed = timed,
                present = join(present, "\n  AND "),
                processed = processed,
            ));
        }
        let mut on: Vec<Sql> = self
            .key
            .iter()
            .enumerate()
            .map(|(at, column)| {
                sql!(
                    "e.{key} = ids.{name}",
                    key = Ident(&key_alias(at)),
                    name = Ident(&column.name)
                )
            })
            .collect();
        let mut conditions = Vec::new();
        if self.bounded {
            let time = Ident(&source.time);
            on.push(sql!("e.{time} >= ids.since", time = time));
            // The same bound for all ids at once lets a sort key, or a BRIN index, skip what lies before it.
            // Where an index finds the events of an id, Postgres would read the BRIN index once more for each id.
            match stretches {
                _ if self.indexed => {}
                Some(stretches) => conditions.push(stretches.condition(&source.time)),
                None => conditions.push(sql!(
                    "e.{time} >= (SELECT min(since) FROM {ids})",
                    time = time,
                    ids = ids
                )),
            }
        } else {
            conditions.push(timed);
        }
        conditions.push(processed);
        Ok(sql!(
            "FROM {ids} AS ids\nJOIN {rows} AS e\n  ON {on}\nWHERE {conditions}",
            ids = ids,
            rows = rows,
            on = join(on, "\n  AND "),
            conditions = join(conditions, "\n  AND "),
        ))
    }

    /// Returns the tables that [`events`](Self::events) reads.
    ///
    /// # Errors
    ///
    /// [`Failure`] as for [`events`](Self::events).
    pub fn reads(&self, run: &Run, alias: &str) -> Result<Vec<TableName>, Failure> {
        let source = run.source()?;
        let mut tables = vec![
            run.scratch(alias),
            source.events.clone(),
            run.scratch(&self.batches),
            run.manifest()?,
        ];
        for name in &self.contexts {
            tables.push(context(source, name)?.table.clone());
        }
        Ok(tables)
    }
}

/// Returns the condition that event `e` of [`keyed_events`] belongs to a pending or a processed batch. `folded` is what
/// [`Ids::folded`] or [`Folded::before`] says.
///
/// The parts are joined by OR, so that the condition can only filter what the keys have found.
/// As one IN over a UNION it could also lead: where the manifest has no statistics yet, Postgres
/// would read all events batch by batch.
///
/// # Errors
///
/// [`Failure`] if the host did not name the manifest.
pub fn is_processed(run: &Run, batches: &TableName, folded: Option<&str>) -> Result<Sql, Failure> {
    if run.full_refresh() {
        return Ok(sql!(
            "e.stepwell_batch IN (SELECT batch FROM {batches})",
            batches = batches
        ));
    }
    // Written out, so that it holds before the commit step folds these batches and after it.
    let folded = folded.map_or_else(
        || sql!(""),
        |before| {
            sql!(
                "\n  OR e.stepwell_batch < {before}",
                before = Literal(before)
            )
        },
    );
    Ok(sql!(
        "(e.stepwell_batch IN (SELECT batch FROM {batches})\n  OR e.stepwell_batch IN (SELECT batch FROM {manifest} WHERE playbook = {playbook}){folded})",
        batches = batches,
        manifest = run.manifest()?,
        playbook = Literal(run.playbook()),
        folded = folded.indented(2),
    ))
}

/// Returns, in brackets, the events with the columns `stepwell_batch` and `stepwell_key_1`, …
///
/// An event without a row in a context comes with NULLs there. The expressions stand in a subquery of their own, where no other table's columns can be meant by a bare name. Postgres
/// folds it into the query around it, so that an index on a column is used all the same.
///
/// # Errors
///
/// [`Failure`] if a context is not declared, or the source has no event id to join it by.
pub fn keyed_events(
    source: &Source,
    key: &[Expr],
    contexts: &[String],
    place: bool,
) -> Result<Sql, Failure> {
    let mut columns = vec![
        sql!("e.*"),
        sql!("({batch}) AS stepwell_batch", batch = source.batch),
    ];
    if place {
        columns.push(sql!("e.ctid AS stepwell_place"));
    }
    for (at, expression) in key.iter().enumerate() {
        columns.push(sql!(
            "({expression}) AS {alias}",
            expression = expression,
            alias = Ident(&key_alias(at))
        ));
    }
    let mut from = sql!("{events} AS e", events = source.events);
    for name in contexts {
        let context = context(source, name)?;
        from = sql!(
            "{from}\n  LEFT JOIN (SELECT {id} AS stepwell_event, {columns} FROM {table}) AS {name}\n    ON {name}.stepwell_event = e.{event_id}",
            from = from,
            id = Ident(&context.event_id),
            columns = sql::idents(&context.columns),
            table = context.table,
            name = Ident(name),
            event_id = Ident(event_id(source)?),
        );
    }
    Ok(sql!(
        "(\n  SELECT {columns}\n  FROM {from}\n)",
        columns = join(columns, ", "),
        from = from.indented(2),
    ))
}

/// Returns the name of the key's column `at`, from 0, in [`keyed_events`].
pub fn key_alias(at: usize) -> String {
    format!("stepwell_key_{}", at + 1)
}

/// Returns a declared context.
///
/// # Errors
///
/// [`Failure`] if the source declares none of that name.
pub fn context<'a>(source: &'a Source, name: &str) -> Result<&'a crate::source::Context, Failure> {
    source.contexts.get(name).ok_or_else(|| {
        Failure::new(
            "unknown-context",
            format!("context \"{name}\" is not declared"),
        )
        .with_setting("/contexts")
        .with_help(format!(
            "Declare it in the workflow: `source: {{ contexts: {{ {name}: … }} }}`."
        ))
    })
}

/// Returns the column that names an event.
///
/// # Errors
///
/// [`Failure`] if the source does not say.
pub fn event_id(source: &Source) -> Result<&str, Failure> {
    source.event_id.as_deref().ok_or_else(|| {
        Failure::new(
            "no-event-id",
            "contexts and event ids need to know which column names an event",
        )
        .with_help("Add `event-id:` to the workflow's `source:`.")
    })
}
