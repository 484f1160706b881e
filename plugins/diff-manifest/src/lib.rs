//! `diff-manifest`: the batches that are not processed yet, or have changed since they were.
//!
//! ```yaml
//! - id: new-batches
//!   uses: diff-manifest
//!   with: { into: batches }
//! ```
//!
//! It is the gate of a run: what is pending is found with questions alone, before any step acts, so a run with nothing to
//! do writes nothing. With a b-tree on the batch column the batches are walked value by value, which costs as much as
//! there are batches in the lookback, not events. Without one, the lookback's events are read. Where batches are no times
//! or numbers but ids, their order says nothing of when they came, and all that the events have are walked.
//!
//! New batches are looked for from the lookback before the newest processed event on. Batches in that stretch are also
//! counted again (`recount`): one that has grown is pending once more; one that has lost events is reported, since the
//! keys of what is gone cannot be known, until a full refresh.
//!
//! A batch that may still be loaded is left alone with `settle: 10 minutes`: it is counted, and taken by a run whose point
//! in time lies that long after it was loaded. For a batch that is a time, that time says when; where events of a batch
//! come bit by bit, as with `date_trunc('hour', load_tstamp)`, `loaded-at: load_tstamp` says so for each. Such a batch is
//! not lost to the lookback meanwhile: no batch is taken whose events would move the lookback past it.
//!
//! The manifest has a row for each batch, for ever, unless `retain: 90 days` says otherwise: rows of batches whose events
//! lie wholly longer ago than that, before the newest processed event, are folded into the row of the youngest of them as
//! a run commits. All batches before that one then count as processed. What a run finds does not change by that, since it
//! looks for batches no further back than the lookback. One that came too late for that is named by `stepwell verify` as
//! before, if not by its name: those before that batch are compared as a whole; a replay of it puts things right.
//!
//! What it does not do: skip events whose batch or time is NULL without a word; they are counted and reported. It does
//! not look for batches, or changes in them, that lie wholly before the lookback.

mod discovery;
mod lookback;
mod replay;
mod report;
mod retain;
mod search;
mod settle;
mod verify;

use stepwell_sdk::catalog::{self, Indexes};
use stepwell_sdk::incremental::{Batches, Folded};
use stepwell_sdk::planner::{Ask, Plan, Run, Statement, Stop, question, text};
use stepwell_sdk::rows::Rows;
use stepwell_sdk::settings::{Duration, Expr, ScratchOutput};
use stepwell_sdk::source::Source;
use stepwell_sdk::sql::{Literal, Sql, TableName};
use stepwell_sdk::{Failure, Question, Settings, export_planner, scratch, sql};

use discovery::Discovery;
use search::Pending;

/// Most batches of one run unless `max-batches` says less. A longer backlog is worked off in several runs; the limit
/// keeps the list of batches, which crosses the plugin boundary, at a few megabytes.
const BATCHES_MAX: u32 = 10_000;

/// Settings of `diff-manifest`.
#[derive(serde::Deserialize, Settings)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct With {
    /// Takes the pending batches.
    into: ScratchOutput,
    /// Most batches of one run, the oldest first; 10000 unless given. The rest follows in runs of their own.
    max_batches: Option<u32>,
    /// How far back, before the newest processed event, processed batches are counted again to find those that have
    /// changed; the lookback unless given, and never more. `0s` turns it off.
    recount: Option<Duration>,
    /// Leaves a batch alone that was loaded less than this before the run's point in time, since it may still be loaded.
    /// At most the lookback; a run takes a batch as it finds it unless given.
    settle: Option<Duration>,
    /// When an event was loaded, as an expression over the events: `load_tstamp`. What `settle` goes by, with the youngest
    /// event of a batch; the batch itself unless given, which must be a time then.
    loaded_at: Option<Expr>,
    /// How far back, before the newest processed event, each batch keeps a row of its own in the manifest; for ever unless
    /// given. Older rows are folded into one, which stands for all batches before it. At least the lookback; batches must be
    /// times or numbers.
    retain: Option<Duration>,
}

/// Answers with the pending batches, or with the end of the run.
pub fn plan(run: &Run, with: &With, ask: &mut Ask<'_>) -> Result<Plan, Stop> {
    let source = run.source()?;
    let manifest = run.manifest()?;
    let [events, columns, indexes] = ask.all([
        catalog::columns(&source.events),
        catalog::columns(&manifest),
        catalog::indexes(&source.events),
    ])?;
    let recount = with.recount.map_or(source.lookback_seconds, |recount| {
        let seconds = i64::try_from(recount.seconds).unwrap_or(i64::MAX);
        seconds.min(source.lookback_seconds)
    });
    let mut discovery = Discovery {
        run,
        source,
        manifest: &manifest,
        batch_type: column_type(columns, &manifest, "batch")?,
        time_type: column_type(events, &source.events, &source.time)
            .map_err(|failure| failure.with_help("Correct `source:` in the workflow file."))?,
        ordered: Indexes::read(indexes).ordered_by(source.batch.as_str()),
        recount_seconds: recount,
        batches_max: with
            .max_batches
            .unwrap_or(BATCHES_MAX)
            .clamp(1, BATCHES_MAX),
        settle: None,
        retain: None,
    };
    // A plain column says its type by itself; an expression has to be asked.
    let plain = source
        .batch
        .as_column()
        .and_then(|name| column_oid(events, &name));
    let batch = match plain {
        Some(oid) => Some(oid),
        None => ask
            .one(batch_of(source))?
            .fields()
            .next()
            .map(|(_, oid)| i64::from(oid)),
    };
    check_batch_type(column_oid(columns, "batch"), batch, source, &manifest)?;
    discovery.settle = settle::settle(with, &discovery, events, ask)?;
    discovery.retain = retain::retain(with, &discovery)?;
    if let Some(verify) = run.verify()? {
        return verify::plan(with, discovery, &verify, ask);
    }
    if let Some(replay) = run.replay()? {
        return replay::plan(with, &discovery, &replay, ask);
    }
    if run.has("lookback") {
        return lookback::plan(with, &discovery, ask);
    }
    if run.full_refresh() {
        return full_refresh(with, &discovery, ask);
    }
    let state = State::read(ask.one(discovery.state())?);
    let pending = search::pending(&discovery, state.as_ref(), ask)?;
    let plan = match (pending.batches.is_empty(), pending.settling.is_empty()) {
        (true, true) => Plan::nothing_to_do("no new batches"),
        (true, false) => Plan::nothing_to_do("no new batches that have settled"),
        (false, _) => {
            let folded = retain::folded(&discovery, state.as_ref(), &pending, ask)?;
            fill(run, with, &discovery, &pending, folded)
        }
    };
    let notes = report::notes(&discovery, &pending);
    let plan = plan.measures(&pending.measures());
    let plan = notes.into_iter().fold(plan, Plan::note);
    Ok(report::advice(&discovery)
        .into_iter()
        .fold(plan, Plan::advise))
}

/// Takes all batches at once, however many: they stay in the database, and readers see one change.
fn full_refresh(with: &With, discovery: &Discovery<'_>, ask: &mut Ask<'_>) -> Result<Plan, Stop> {
    let totals = ask.one(discovery.totals())?;
    let totals = totals.first();
    let number = |name: &str| {
        let number = totals.and_then(|row| row.int(name)).unwrap_or(0);
        u64::try_from(number).unwrap_or(0)
    };
    let text = |name: &str| {
        totals
            .and_then(|row| row.text(name))
            .unwrap_or_default()
            .to_owned()
    };
    let about = Batches {
        batches: number("batches"),
        events: number("events"),
        first: text("first"),
        last: text("last"),
        events_without_batch: number("without_batch") + number("untimed"),
        from_nothing: true,
        folded: (discovery.retain).and_then(|_| retain::folded_whole(totals?)),
        ..Batches::default()
    };
    let plan = match about.batches {
        0 => Plan::nothing_to_do("no batches"),
        _ => {
            let run = discovery.run;
            let into = run.scratch(with.into.alias());
            let reads = [discovery.source.events.clone()];
            Plan::new()
                .run_all(scratch::fill(
                    run,
                    &into,
                    "note all batches",
                    &discovery.all(),
                    &reads,
                ))
                .publish(with.into.alias(), &about)
        }
    };
    let settling = match &discovery.settle {
        Some(_) => i64::try_from(number("settling")).unwrap_or(i64::MAX),
        None => 0,
    };
    let mut notes = report::without_batch(discovery.source, about.events_without_batch);
    notes.extend(report::settling(discovery, settling, None));
    let measures = report::measures(
        &[],
        &[
            (
                "events-without-batch",
                i64::try_from(about.events_without_batch).unwrap_or(i64::MAX),
            ),
            ("settling-batches", settling),
        ],
    );
    let plan = plan.measures(&measures);
    Ok(notes.into_iter().fold(plan, Plan::note))
}

/// Asks for the type of a batch, without a row.
fn batch_of(source: &Source) -> Question {
    let select = sql!(
        "SELECT ({batch}) AS batch\nFROM {events}\nLIMIT 0",
        batch = source.batch,
        events = source.events
    );
    question("type of a batch", select, vec![])
}

/// A batch that the manifest can only keep by changing it would be another one when it is looked for again.
fn check_batch_type(
    kept: Option<i64>,
    found: Option<i64>,
    source: &Source,
    manifest: &TableName,
) -> Result<(), Failure> {
    match (kept, found) {
        (Some(kept), Some(found)) if kept != found => Err(Failure::new(
            "batch-type",
            format!("manifest {manifest} keeps batches of another type than {}", source.batch.as_str()),
        )
        .with_help("Give this playbook a manifest of its own: `manifest: derived.<playbook>_manifest`, then `stepwell init`.")),
        _ => Ok(()),
    }
}

/// Where the manifest stands, each value in its text form.
#[derive(Debug)]
struct State {
    /// The lower limit of the lookback, included.
    time_floor: String,
    /// The same in microseconds since 1970.
    time_floor_us: i64,
    /// The time of the newest processed event, in microseconds since 1970.
    newest_us: i64,
    /// The lower limit of recounting, included.
    recount_floor: String,
    /// The processed batch after which batches are walked; none to begin with the first.
    batch_before: Option<String>,
    /// The processed batch before which batches need not have a row of their own; none where each has.
    folded: Option<Standing>,
}

/// A row of the manifest that stands for all batches before its own.
#[derive(Debug)]
struct Standing {
    /// Its batch.
    before: String,
    /// The time of the last event of those without a row when they were processed, in microseconds since 1970.
    last_us: i64,
}

impl State {
    fn read(rows: Rows<'_>) -> Option<Self> {
        let row = rows.first()?;
        Some(Self {
            time_floor: row.text("time_floor")?.to_owned(),
            time_floor_us: row.int("time_floor_us")?,
            newest_us: row.int("newest_us")?,
            recount_floor: row.text("recount_floor")?.to_owned(),
            batch_before: row.text("batch_before").map(str::to_owned),
            folded: row.text("folded").map(|before| Standing {
                before: before.to_owned(),
                last_us: row.int("folded_last_us").unwrap_or(i64::MAX),
            }),
        })
    }
}

/// Writes down what was found, so that every later step means the same batches.
fn fill(
    run: &Run,
    with: &With,
    discovery: &Discovery<'_>,
    pending: &Pending<'_>,
    folded: Option<Folded>,
) -> Plan {
    let into = run.scratch(with.into.alias());
    let (batch, time) = (
        Sql::trusted(&discovery.batch_type),
        Sql::trusted(&discovery.time_type),
    );
    // CREATE TABLE AS takes no parameters on the server's side, so the table is made first.
    let columns = sql!(
        "SELECT
          CAST(NULL AS {batch}) AS batch, CAST(NULL AS bigint) AS events, CAST(NULL AS {time}) AS first_time,
          CAST(NULL AS {time}) AS last_time, CAST(NULL AS bigint) AS events_before
        LIMIT 0",
        batch = batch,
        time = time,
    );
    let [drop, create, analyze] =
        scratch::fill_small(run, &into, "make the table of batches", &columns, []);
    let insert = sql!(
        "INSERT INTO {into}
        SELECT *
        FROM unnest(
          CAST($1 AS {batch}[]), CAST($2 AS bigint[]), CAST($3 AS {time}[]), CAST($4 AS {time}[]), CAST($5 AS bigint[])
        ) AS pending (batch, events, first_time, last_time, events_before)",
        into = into,
        batch = batch,
        time = time,
    );
    let texts = |values: &[String]| text(array(values.iter().map(|value| Some(quoted(value)))));
    let insert = Statement::new("note pending batches", insert)
        .param(texts(&pending.batches))
        .param(text(array(
            pending.events.iter().map(|events| Some(events.to_string())),
        )))
        .param(texts(&pending.first_times))
        .param(texts(&pending.last_times))
        .param(text(array(
            pending
                .events_before
                .iter()
                .map(|events| events.map(|n| n.to_string())),
        )))
        .writes(&into);
    Plan::new()
        .run(drop)
        .run(create)
        .run(insert)
        .run(analyze)
        .publish(
            with.into.alias(),
            &Batches {
                folded,
                ..pending.about()
            },
        )
}

/// Returns the type of a column by its OID.
fn column_oid(rows: Rows<'_>, name: &str) -> Option<i64> {
    rows.iter()
        .find(|row| row.text("name") == Some(name))?
        .int("type_oid")
}

/// Returns the SQL type of a column.
fn column_type(rows: Rows<'_>, table: &TableName, name: &str) -> Result<String, Failure> {
    let columns = catalog::read_columns(rows);
    if columns.is_empty() {
        return Err(Failure::new(
            "missing-table",
            format!("table {table} does not exist, or this login may not see it"),
        )
        .with_help("Check the name in the workflow file; `stepwell init` makes the manifest."));
    }
    let found = columns.into_iter().find(|column| column.name == name);
    found.map(|column| column.sql_type).ok_or_else(|| {
        Failure::new(
            "missing-column",
            format!("table {table} has no column \"{name}\""),
        )
    })
}

/// Returns a Postgres array in its text form.
fn array(values: impl Iterator<Item = Option<String>>) -> String {
    let values: Vec<_> = values
        .map(|value| value.unwrap_or_else(|| "NULL".into()))
        .collect();
    format!("{{{}}}", values.join(","))
}

/// Returns an element of an array in its text form.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Returns a length of time as an SQL interval.
fn interval(seconds: i64) -> Sql {
    sql!(
        "{text}::interval",
        text = Literal(&format!("{seconds} seconds"))
    )
}

export_planner! {
    name: "diff-manifest",
    summary: "Finds the batches that are not processed yet, or have changed since",
    settings: With,
    plan: plan,
    gate: true,
    reads: ["events", "manifest"],
}

#[cfg(test)]
mod tests;
