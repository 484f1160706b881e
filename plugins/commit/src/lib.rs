//! `commit`: swaps the rows in and notes the batches as processed, in one transaction.
//!
//! ```yaml
//! - id: commit
//!   uses: commit
//!   with:
//!     replace: [{ table: derived.sessions, from: sessions, key: [session_id], ids: session_ids }]
//!     manifest: batches
//! ```
//!
//! For each derived table: the rows of this run's ids go, the rows computed for them come. A reader sees the old rows or
//! the new ones. DELETE and INSERT rather than ALTER TABLE APPEND or TRUNCATE, since both of those commit by themselves
//! on Redshift. On the first run the table is made as its scratch table is; readers' grants are then still to be given.
//!
//! Where `diff-manifest` says so (its `retain`), rows of old batches are folded into one in the same transaction.
//!
//! What it does not do: change a derived table's columns unless `on-schema-change` says so.

mod columns;
mod verify;

use stepwell_sdk::catalog::{self, ColumnInfo};
use stepwell_sdk::incremental::{Batches, Folded, Ids};
use stepwell_sdk::planner::{Ask, Dialect, Plan, Run, Statement, Stop, question};
use stepwell_sdk::rows::Rows;
use stepwell_sdk::settings::{DerivedTable, ScratchInput};
use stepwell_sdk::sql::{Ident, Literal, Sql, TableName, idents, join};
use stepwell_sdk::{Failure, Question, Settings, export_planner, scratch, sql};

use columns::Difference;

/// Settings of `commit`.
#[derive(serde::Deserialize, Settings)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct With {
    /// The derived tables, all changed together.
    replace: Vec<Replace>,
    /// The pending batches, which become processed ones.
    manifest: ScratchInput,
    /// What to do when the computed rows have other columns than the derived table.
    #[serde(default)]
    on_schema_change: OnSchemaChange,
}

/// One derived table.
#[derive(serde::Deserialize, Settings)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Replace {
    /// The derived table.
    table: DerivedTable,
    /// The scratch table with the rows computed for the ids.
    from: ScratchInput,
    /// The ids whose rows are replaced.
    ids: ScratchInput,
    /// The columns of the derived table that hold the key, in the order of the ids' own; theirs unless given.
    key: Option<Vec<String>>,
}

/// What to do about other columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, Settings)]
#[serde(rename_all = "kebab-case")]
pub enum OnSchemaChange {
    /// Stop, and say which columns differ.
    #[default]
    Fail,
    /// Add columns that are new; they are NULL in rows that no run has computed since.
    Append,
    /// Stop unless the run is a full refresh, which then adds and drops columns.
    Rebuild,
}

/// Answers with the one transaction that changes what readers see.
pub fn plan(run: &Run, with: &With, ask: &mut Ask<'_>) -> Result<Plan, Stop> {
    if let Some(verify) = run.verify()? {
        return verify::plan(run, with, &verify, ask);
    }
    if run.has("lookback") {
        return Ok(Plan::new());
    }
    let pending: Batches = run
        .about(with.manifest.alias())
        .map_err(|failure| failure.with_setting("/manifest"))?;
    let mut plan = Plan::new();
    for (at, replace) in with.replace.iter().enumerate() {
        let from = run.scratch(replace.from.alias());
        let [target, source] =
            ask.all([catalog::columns(&replace.table.0), catalog::columns(&from)])?;
        let (target, source) = (catalog::read_columns(target), catalog::read_columns(source));
        let ids: Ids = run
            .about(replace.ids.alias())
            .map_err(|failure| failure.with_setting(format!("/replace/{at}/ids")))?;
        let key = replace
            .key
            .clone()
            .unwrap_or_else(|| ids.key.iter().map(|column| column.name.clone()).collect());
        check_key(at, &key, &ids, &from, &source)?;
        let swap = Swap {
            run,
            table: &replace.table.0,
            from: &from,
            ids: run.scratch(replace.ids.alias()),
            about: &ids,
            key: &key,
        };
        check_life(run, &pending, at, &replace.table.0, &target, ask)?;
        if !source.is_empty() && !run.has("planned") {
            check_rows(at, &swap, ask)?;
        }
        plan = match target.is_empty() {
            true => swap.first(plan),
            false => {
                let difference = Difference::between(&target, &source);
                let pointer = format!("/replace/{at}/table");
                let policy = with.on_schema_change;
                difference.check_losses(policy, run, &replace.table.0, &pointer, ask)?;
                let changes = difference.settle(policy, run, &replace.table.0, &pointer)?;
                swap.again(plan.run_all(changes), &source)
            }
        };
    }
    let standing = match run.full_refresh() {
        true => Standing::read(ask.one(standing(run)?)?),
        false => None,
    };
    let batches = run.scratch(with.manifest.alias());
    let mut plan = plan.run_all(note_batches(run, &batches, standing.as_ref())?);
    if let Some(folded) = &pending.folded {
        plan = plan.run_all(fold(run, folded)?);
    }
    // Later runs join the manifest, and autovacuum comes round too late for the next one.
    Ok(match pending.from_nothing {
        true => plan.run(scratch::analyze(&run.manifest()?)),
        false => plan,
    })
}

/// A derived table and the manifest begin together: each is there because the other one is.
fn check_life(
    run: &Run,
    pending: &Batches,
    at: usize,
    table: &TableName,
    target: &[ColumnInfo],
    ask: &mut Ask<'_>,
) -> Result<(), Stop> {
    if run.full_refresh() {
        return Ok(());
    }
    let failure = |message: String, help: &str| {
        Failure::new("no-match", message)
            .with_setting(format!("/replace/{at}/table"))
            .with_help(help)
    };
    match (pending.from_nothing, target.is_empty()) {
        // Only the rows of this run's ids would come: a table with holes.
        (false, true) => Err(failure(
            format!("table {table} does not exist, though batches were processed into it"),
            "`stepwell run <workflow> --full-refresh` computes all of its rows, once; or correct the name.",
        )
        .into()),
        (true, false) => {
            let rows = question(
                &format!("rows of {table}"),
                sql!(
                    "SELECT EXISTS (SELECT FROM {table}) AS filled",
                    table = table
                ),
                vec![],
            );
            match ask.one(rows)?.first().and_then(|row| row.bool("filled")) {
                // Rows of keys that are gone from the events would stay for ever.
                Some(true) => {
                    let others = ask.one(others(run)?)?;
                    let others = others.first().and_then(|row| row.text("playbooks"));
                    Err(failure(
                        format!(
                            "table {table} has rows, though playbook {} never processed a batch into it",
                            run.playbook()
                        ),
                        &foreign_rows(others),
                    )
                    .into())
                }
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Asks which other playbooks note their batches in the manifest.
fn others(run: &Run) -> Result<Question, Failure> {
    let select = sql!(
        "SELECT string_agg(playbook, ', ') AS playbooks
        FROM (SELECT DISTINCT playbook FROM {manifest} WHERE playbook <> {playbook} ORDER BY playbook LIMIT 5) AS others",
        manifest = run.manifest()?,
        playbook = Literal(run.playbook()),
    );
    Ok(question("other playbooks of the manifest", select, vec![]))
}

/// What to do where a table has rows that this playbook did not write. A full refresh would replace those of another one,
/// so that comes last.
fn foreign_rows(others: Option<&str>) -> String {
    let whose = match others {
        Some(others) => {
            format!("They may be another playbook's (the manifest has batches of {others} as well)")
        }
        None => "They may be another playbook's".to_owned(),
    };
    format!(
        "{whose}: then name another table here, since a derived table belongs to one playbook alone. If they are nobody's, \
         `stepwell run <workflow> --full-refresh` replaces all rows of the table, once."
    )
}

/// Rows whose key is not among the ids would never be replaced, and pile up.
fn check_rows(at: usize, swap: &Swap<'_>, ask: &mut Ask<'_>) -> Result<(), Stop> {
    let (from, ids) = (swap.from, &swap.ids);
    let pairs = swap.key.iter().zip(&swap.about.key).map(|(key, id)| {
        sql!(
            "rows.{key} = ids.{id}",
            key = Ident(key),
            id = Ident(&id.name)
        )
    });
    // Not EXISTS: for the first row alone Postgres prefers to compare each pair where a key is `text` on one side and
    // `char(n)` on the other, and there is hardly ever a first row.
    let strays = question(
        &format!("rows of {from} that belong to no id"),
        sql!(
            "SELECT count(*) > 0 AS strays\nFROM {from} AS rows\nWHERE NOT EXISTS (SELECT FROM {ids} AS ids WHERE {pairs})",
            from = from,
            ids = ids,
            pairs = join(pairs, " AND "),
        ),
        vec![],
    );
    match ask.one(strays)?.first().and_then(|row| row.bool("strays")) {
        Some(true) => Err(Failure::new("stray-rows", format!("{from} holds rows whose key is NULL or not among the ids of this run"))
            .with_setting(format!("/replace/{at}/from"))
            .with_help("Such rows would never be replaced. Compute the key's columns by the expressions that collect-ids has, and leave rows of other keys out.")
            .into()),
        _ => Ok(()),
    }
}

fn check_key(
    at: usize,
    key: &[String],
    ids: &Ids,
    from: &TableName,
    columns: &[ColumnInfo],
) -> Result<(), Failure> {
    let pointer = format!("/replace/{at}/key");
    if key.len() != ids.key.len() {
        return Err(Failure::new(
            "key-length",
            format!(
                "expected {} key columns, as the ids have, found {}",
                ids.key.len(),
                key.len()
            ),
        )
        .with_setting(pointer));
    }
    // Before the first run there is nothing to look at.
    let missing = key
        .iter()
        .find(|name| !columns.is_empty() && !columns.iter().any(|c| c.name == **name));
    match missing {
        Some(name) => Err(Failure::new(
            "missing-column",
            format!("the rows in {from} have no column \"{name}\""),
        )
        .with_setting(pointer)
        .with_help(
            "Every row must carry its key: add the column to the step that computes the rows.",
        )),
        None => Ok(()),
    }
}

struct Swap<'a> {
    run: &'a Run,
    table: &'a TableName,
    from: &'a TableName,
    ids: TableName,
    about: &'a Ids,
    key: &'a [String],
}

impl Swap<'_> {
    /// Makes the derived table.
    fn first(&self, plan: Plan) -> Plan {
        let (table, from) = (self.table, self.from);
        let plan = plan
            .run(
                Statement::new(
                    format!("create {table}"),
                    sql!(
                        "CREATE TABLE {table} (LIKE {from})",
                        table = table,
                        from = from
                    ),
                )
                .reads(from)
                .writes(table),
            )
            .run(
                Statement::new(
                    format!("insert rows into {table}"),
                    sql!(
                        "INSERT INTO {table}\nSELECT *\nFROM {from}",
                        table = table,
                        from = from
                    ),
                )
                .reads(from)
                .writes(table),
            );
        match self.run.dialect() {
            // The rows of a few keys are looked up and deleted in every run.
            Dialect::Postgres => plan.run(
                Statement::new(
                    format!("index {table} by its key"),
                    sql!(
                        "CREATE INDEX ON {table} ({key})",
                        table = table,
                        key = idents(self.key)
                    ),
                )
                .writes(table),
            ),
            Dialect::Redshift => plan,
        }
    }

    /// Replaces the rows of the ids, or all rows in a full refresh.
    fn again(&self, plan: Plan, columns: &[ColumnInfo]) -> Plan {
        let (table, from, ids) = (self.table, self.from, &self.ids);
        let pairs =
            self.key.iter().zip(&self.about.key).map(|(key, id)| {
                sql!("t.{key} = ids.{id}", key = Ident(key), id = Ident(&id.name))
            });
        let delete = match self.run.full_refresh() {
            // Not TRUNCATE: it would empty the table for readers whose snapshot is older than this transaction.
            true => sql!("DELETE FROM {table}", table = table),
            false => sql!(
                "DELETE FROM {table} AS t\nUSING {ids} AS ids\nWHERE {pairs}",
                table = table,
                ids = ids,
                pairs = join(pairs, "\n  AND "),
            ),
        };
        let names = idents(columns.iter().map(|column| &column.name));
        let insert = sql!(
            "INSERT INTO {table} ({names})\nSELECT {names}\nFROM {from}",
            table = table,
            names = names,
            from = from,
        );
        plan.run(
            Statement::new(format!("delete old rows of {table}"), delete)
                .reads(ids)
                .writes(table),
        )
        .run(
            Statement::new(format!("insert rows into {table}"), insert)
                .reads(from)
                .writes(table),
        )
    }
}

/// A row of the manifest that stands for all batches before its own.
struct Standing {
    batch: String,
    /// When its batch was processed first; nobody knows better of the others.
    processed_at: String,
}

impl Standing {
    fn read(rows: Rows<'_>) -> Option<Self> {
        let row = rows.first()?;
        Some(Self {
            batch: row.text("batch")?.to_owned(),
            processed_at: row.text("processed_at")?.to_owned(),
        })
    }
}

/// Asks for the row that stands for all batches before its own.
fn standing(run: &Run) -> Result<Question, Failure> {
    let select = sql!(
        "SELECT batch::text AS batch, processed_at::text AS processed_at\nFROM {manifest}\nWHERE playbook = {playbook} AND before_batches IS NOT NULL",
        manifest = run.manifest()?,
        playbook = Literal(run.playbook()),
    );
    Ok(question(
        "batches without a row of their own",
        select,
        vec![],
    ))
}

/// Notes the pending batches as processed. One that was processed before keeps the time at which it first was: how late
/// it came (`stepwell lookback`) does not change by being processed again.
///
/// A full refresh gives each batch a row of its own, those too that had none: `standing`.
fn note_batches(
    run: &Run,
    batches: &TableName,
    standing: Option<&Standing>,
) -> Result<Vec<Statement>, Failure> {
    let manifest = run.manifest()?;
    let playbook = Literal(run.playbook());
    let same = [
        sql!("m.playbook = {playbook}", playbook = playbook),
        sql!("m.batch = batches.batch"),
    ];
    let statement =
        |label: &str, sql: Sql| Statement::new(label, sql).reads(batches).writes(&manifest);
    let mut statements = Vec::new();
    // A full refresh takes all batches alike: which of them are known already is not said beside them.
    let (known, new) = match run.full_refresh() {
        true => {
            let forget = sql!(
                "DELETE FROM {manifest} AS m\nWHERE m.playbook = {playbook}\n  AND NOT EXISTS (SELECT FROM {batches} AS batches WHERE batches.batch = m.batch)",
                manifest = manifest,
                playbook = playbook,
                batches = batches,
            );
            statements.push(statement("forget batches that are gone", forget));
            let new = sql!(
                "NOT EXISTS (SELECT FROM {manifest} AS m WHERE {same})",
                manifest = manifest,
                same = join(&same, " AND "),
            );
            (join(&same, "\n  AND "), new)
        }
        false => {
            let reopened = sql!("batches.events_before IS NOT NULL");
            let known = join(same.iter().chain([&reopened]), "\n  AND ");
            (known, sql!("batches.events_before IS NULL"))
        }
    };
    let alone = match standing {
        None => sql!(""),
        Some(_) => sql!(
            ",\n  before_batches = NULL, before_events = NULL, before_first_time = NULL, before_last_time = NULL"
        ),
    };
    let renew = sql!(
        "UPDATE {manifest} AS m\nSET events = batches.events, first_time = batches.first_time, last_time = batches.last_time, run_id = {run}{alone}\nFROM {batches} AS batches\nWHERE {known}",
        manifest = manifest,
        run = Literal(run.id()),
        alone = alone.indented(2),
        batches = batches,
        known = known,
    );
    let (column, value) = match standing {
        None => (sql!(""), sql!("")),
        Some(standing) => (
            sql!(", processed_at"),
            sql!(
                ",\n  CASE WHEN batch < {batch} THEN CAST({processed_at} AS timestamptz) ELSE clock_timestamp() END",
                batch = Literal(&standing.batch),
                processed_at = Literal(&standing.processed_at),
            ),
        ),
    };
    let note = sql!(
        "INSERT INTO {manifest} (playbook, batch, events, first_time, last_time, run_id{column})\nSELECT {playbook}, batch, events, first_time, last_time, {run}{value}\nFROM {batches} AS batches\nWHERE {new}",
        manifest = manifest,
        column = column,
        playbook = playbook,
        run = Literal(run.id()),
        value = value.indented(2),
        batches = batches,
        new = new,
    );
    statements.push(statement("note batches processed again", renew));
    statements.push(statement("note batches as processed", note));
    Ok(statements)
}

/// Lets the row of one batch stand for all before it, and takes the rows of old ones among those out; or corrects what that
/// row says of the others, where they were counted again.
fn fold(run: &Run, folded: &Folded) -> Result<Vec<Statement>, Failure> {
    let manifest = run.manifest()?;
    let (playbook, before) = (Literal(run.playbook()), Literal(&folded.before));
    let statement = |label: &str, sql: Sql| {
        Statement::new(label, sql)
            .reads(&manifest)
            .writes(&manifest)
    };
    let mut statements = Vec::new();
    if let Some(rest) = &folded.rest {
        let correct = sql!(
            "UPDATE {manifest}\nSET before_batches = {batches}, before_events = {events}\nWHERE playbook = {playbook} AND batch = {before} AND before_batches IS NOT NULL",
            manifest = manifest,
            batches = rest.batches,
            events = rest.events,
            playbook = playbook,
            before = before,
        );
        statements.push(statement(
            "correct what batches without a row have",
            correct,
        ));
    }
    if let Some(older_than) = &folded.older_than {
        let old = sql!(
            "playbook = {playbook} AND batch < {before} AND last_time < {older_than}",
            playbook = playbook,
            before = before,
            older_than = Literal(older_than),
        );
        let stand = sql!(
            "UPDATE {manifest} AS m
            SET before_batches = old.batches, before_events = old.events, before_first_time = old.first_time,
              before_last_time = old.last_time
            FROM (
              SELECT sum(1 + coalesce(before_batches, 0))::bigint AS batches,
                sum(events + coalesce(before_events, 0))::bigint AS events,
                min(least(first_time, before_first_time)) AS first_time, max(greatest(last_time, before_last_time)) AS last_time
              FROM {manifest}
              WHERE {old}
            ) AS old
            WHERE m.playbook = {playbook} AND m.batch = {before} AND old.batches > 0",
            manifest = manifest,
            old = old,
            playbook = playbook,
            before = before,
        );
        // Not without the row that stands for them.
        let take_out = sql!(
            "DELETE FROM {manifest}
            WHERE {old}
              AND EXISTS (
                SELECT FROM {manifest} AS m
                WHERE m.playbook = {playbook} AND m.batch = {before} AND m.before_batches IS NOT NULL
              )",
            manifest = manifest,
            old = old,
            playbook = playbook,
            before = before,
        );
        statements.push(statement("let one row stand for old batches", stand));
        statements.push(statement("take the rows of old batches out", take_out));
    }
    Ok(statements)
}

export_planner! {
    name: "commit",
    summary: "Swaps rows into derived tables and notes the batches as processed, in one transaction",
    settings: With,
    plan: plan,
    reads: ["manifest"],
    writes: ["manifest"],
}

#[cfg(test)]
mod tests;
