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
//! there are batches in the lookback, not events. Without one, the lookback's events are read.
//!
//! New batches are looked for from the lookback before the newest processed event on. Batches in that stretch are also
//! counted again (`recount`): one that has grown is pending once more; one that has lost events is reported, since the
//! keys of what is gone cannot be known, until a full refresh.
//!
//! What it does not do: skip events whose batch or time is NULL without a word; they are counted and reported. It does
//! not look for batches, or changes in them, that lie wholly before the lookback.

mod discovery;

use stepwell_sdk::catalog::{self, Indexes};
use stepwell_sdk::incremental::Batches;
use stepwell_sdk::planner::{Ask, Plan, Run, Statement, Stop, question, text};
use stepwell_sdk::rows::Rows;
use stepwell_sdk::settings::{Duration, ScratchOutput};
use stepwell_sdk::source::Source;
use stepwell_sdk::sql::{Literal, Sql, TableName};
use stepwell_sdk::{Failure, Question, Settings, export_planner, scratch, sql};

use discovery::Discovery;

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
    let discovery = Discovery {
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
    if run.full_refresh() {
        return full_refresh(with, &discovery, ask);
    }
    let state = State::read(ask.one(discovery.state())?);
    let mut pending = Pending::read(
        ask.one(discovery.pending(state.as_ref()))?,
        discovery.batches_max as usize,
    );
    pending.from_nothing = state.is_none();
    let plan = match pending.batches.is_empty() {
        true => Plan::nothing_to_do("no new batches"),
        false => fill(run, with, &discovery, &pending),
    };
    let notes = notes(&discovery, &pending, state.as_ref());
    Ok(notes.into_iter().fold(plan, Plan::note))
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
        reopened: 0,
        events: number("events"),
        first: text("first"),
        last: text("last"),
        events_without_batch: number("without_batch") + number("untimed"),
        more: false,
        from_nothing: true,
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
    let without = about.events_without_batch;
    let notes = without_batch(discovery.source, without);
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
    /// The lower limit of recounting, included.
    recount_floor: String,
    /// The processed batch after which batches are walked; none to begin with the first.
    batch_before: Option<String>,
}

impl State {
    fn read(rows: Rows<'_>) -> Option<Self> {
        let row = rows.first()?;
        Some(Self {
            time_floor: row.text("time_floor")?.to_owned(),
            recount_floor: row.text("recount_floor")?.to_owned(),
            batch_before: row.text("batch_before").map(str::to_owned),
        })
    }
}

/// The batches found, column by column, each value in its text form.
#[derive(Debug, Default)]
struct Pending {
    batches: Vec<String>,
    events: Vec<i64>,
    first_times: Vec<String>,
    last_times: Vec<String>,
    events_before: Vec<Option<i64>>,
    /// Processed batches that have lost events since, with how many.
    shrunk: Vec<(String, i64)>,
    /// Events whose batch or time is NULL.
    events_without_batch: i64,
    more: bool,
    from_nothing: bool,
}

impl Pending {
    fn read(rows: Rows<'_>, batches_max: usize) -> Self {
        let mut pending = Self::default();
        for row in rows.iter() {
            let (events, before) = (row.int("events").unwrap_or(0), row.int("events_before"));
            let Some(batch) = row.text("batch") else {
                pending.events_without_batch += events + row.int("untimed").unwrap_or(0);
                continue;
            };
            pending.events_without_batch += row.int("untimed").unwrap_or(0);
            match before {
                Some(before) if events < before => {
                    pending.shrunk.push((batch.to_owned(), before - events));
                }
                // All its events are without a time.
                _ if events == 0 => {}
                _ if pending.batches.len() == batches_max => pending.more = true,
                _ => {
                    pending.batches.push(batch.to_owned());
                    pending.events.push(events);
                    pending
                        .first_times
                        .push(row.text("first_time").unwrap_or_default().to_owned());
                    pending
                        .last_times
                        .push(row.text("last_time").unwrap_or_default().to_owned());
                    pending.events_before.push(before);
                }
            }
        }
        pending
    }

    fn about(&self) -> Batches {
        let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
        Batches {
            batches: self.batches.len() as u64,
            reopened: self.events_before.iter().flatten().count() as u64,
            events: unsigned(self.events.iter().sum()),
            first: self.batches.first().cloned().unwrap_or_default(),
            last: self.batches.last().cloned().unwrap_or_default(),
            events_without_batch: unsigned(self.events_without_batch),
            more: self.more,
            from_nothing: self.from_nothing,
        }
    }
}

/// Writes down what was found, so that every later step means the same batches.
fn fill(run: &Run, with: &With, discovery: &Discovery<'_>, pending: &Pending) -> Plan {
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
        scratch::fill(run, &into, "make the table of batches", &columns, []);
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
        .publish(with.into.alias(), &pending.about())
}

/// What people should know about how batches were looked for.
fn notes(discovery: &Discovery<'_>, pending: &Pending, state: Option<&State>) -> Vec<String> {
    let source = discovery.source;
    let without = u64::try_from(pending.events_without_batch).unwrap_or(0);
    let mut notes = without_batch(source, without);
    if let Some((batch, _)) = pending.shrunk.first() {
        let events: i64 = pending.shrunk.iter().map(|(_, events)| events).sum();
        notes.push(format!(
            "{events} events are gone from {} processed batches, the first of them {batch}; rows that were computed from \
             them stay as they are until a run with --full-refresh",
            pending.shrunk.len(),
        ));
    }
    if let (false, Some(state)) = (discovery.ordered, state) {
        notes.push(format!(
            "no index on {} begins with {}: new batches are looked for in the events since {}; \
             CREATE INDEX ON {} ({}) would find them without reading events",
            source.events,
            source.batch.as_str(),
            state.time_floor,
            source.events,
            source.batch.as_str(),
        ));
    }
    notes
}

/// Says how many events belong to no batch.
fn without_batch(source: &Source, events: u64) -> Vec<String> {
    let note = || {
        format!(
            "{events} events have no {} or no {} and belong to no batch; they are not processed",
            source.batch.as_str(),
            source.time,
        )
    };
    (events > 0).then(note).into_iter().collect()
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
mod tests {
    use super::*;
    use stepwell_sdk::testing::{Conversation, beside, ints, rows};

    fn conversation(method: &str, with: &str) -> Conversation<With> {
        let columns = |list: &[(&str, &str)]| {
            let values: Vec<[Option<&str>; 4]> = list
                .iter()
                .map(|&(name, ty)| [Some(name), Some(ty), None, Some("r")])
                .collect();
            let values: Vec<&[Option<&str>]> = values.iter().map(|row| &row[..]).collect();
            rows(&["name", "type", "type_oid", "kind"], &values)
        };
        let timestamp = "timestamp without time zone";
        Conversation::new(plan, with)
            .answer("type of a batch", rows(&["batch"], &[]))
            .answer(
                "columns of atomic.events",
                columns(&[("etl_tstamp", timestamp), ("collector_tstamp", timestamp)]),
            )
            .answer(
                "columns of derived.manifest",
                columns(&[("playbook", "text"), ("batch", timestamp)]),
            )
            .answer(
                "indexes of atomic.events",
                rows(
                    &["method", "leading"],
                    &[&[Some(method), Some("etl_tstamp")]],
                ),
            )
    }

    fn state(floor: Option<&str>) -> stepwell_sdk::Answer {
        let names = ["time_floor", "recount_floor", "batch_before"];
        match floor {
            Some(_) => rows(&names, &[&[Some("2026-01-01"), Some("2026-01-01"), floor]]),
            None => rows(&names, &[]),
        }
    }

    fn found(list: &[(Option<&str>, i64, Option<i64>)]) -> stepwell_sdk::Answer {
        let texts: Vec<_> = list
            .iter()
            .map(|&(batch, ..)| [batch, Some("2026-01-07"), Some("2026-01-08")])
            .collect();
        let texts: Vec<&[Option<&str>]> = texts.iter().map(|row| &row[..]).collect();
        let numbers: Vec<_> = list
            .iter()
            .map(|&(_, events, before)| [Some(events), before, Some(0)])
            .collect();
        let numbers: Vec<&[Option<i64>]> = numbers.iter().map(|row| &row[..]).collect();
        beside(
            rows(&["batch", "first_time", "last_time"], &texts),
            ints(&["events", "events_before", "untimed"], &numbers),
        )
    }

    #[test]
    fn an_index_is_walked() {
        conversation("btree", r#"{"into": "batches"}"#)
            .answer("state of the manifest", state(Some("2026-01-01 00:00:00")))
            .answer(
                "pending batches",
                found(&[
                    (Some("2026-01-08 01:00:00"), 700, None),
                    (Some("a\"b\\"), 5, Some(4)),
                    (None, 3, None),
                ]),
            )
            .check_golden("sql/walk.postgres.sql");
    }

    #[test]
    fn without_an_index_the_lookback_is_read() {
        conversation(
            "brin",
            r#"{"into": "batches", "max-batches": 10, "recount": "1 day"}"#,
        )
        .answer("state of the manifest", state(Some("2026-01-01 00:00:00")))
        .answer(
            "pending batches",
            found(&[(Some("2026-01-08 01:00:00"), 700, None)]),
        )
        .check_golden("sql/scan.postgres.sql");
    }

    #[test]
    fn the_first_run_reads_everything_once() {
        conversation("btree", r#"{"into": "batches"}"#)
            .answer("state of the manifest", state(None))
            .answer(
                "pending batches",
                found(&[(Some("2026-01-08 01:00:00"), 700, None)]),
            )
            .check_golden("sql/first.postgres.sql");
    }

    #[test]
    fn a_late_batch_before_all_others_is_walked_to() {
        let state = rows(
            &["time_floor", "recount_floor", "batch_before"],
            &[&[Some("2026-01-01"), Some("2026-01-01"), None]],
        );
        let (plan, asked) = conversation("btree", r#"{"into": "batches"}"#)
            .answer("state of the manifest", state)
            .answer("pending batches", found(&[(Some("a"), 1, None)]))
            .outcome();
        assert!(plan.is_ok());
        let question = asked.last().unwrap();
        assert!(
            question
                .sql
                .contains("WHERE etl_tstamp IS NOT NULL ORDER BY"),
            "{}",
            question.sql
        );
        assert_eq!(question.params.len(), 2);
    }

    #[test]
    fn slices_of_a_backlog_may_go_back_in_time() {
        let (_, asked) = conversation("brin", r#"{"into": "batches"}"#)
            .with_trait("backlog")
            .answer("state of the manifest", state(Some("2026-01-01 00:00:00")))
            .answer("pending batches", found(&[(Some("a"), 1, None)]))
            .outcome();
        let question = asked.last().unwrap();
        assert!(question.params.is_empty(), "{}", question.sql);
        assert!(
            question
                .sql
                .contains("NOT EXISTS (SELECT FROM derived.manifest AS m"),
            "{}",
            question.sql
        );
    }

    #[test]
    fn a_full_refresh_leaves_the_batches_in_the_database() {
        let totals = beside(
            ints(
                &["batches", "events", "without_batch", "untimed"],
                &[&[Some(20_000), Some(9), Some(1), Some(2)]],
            ),
            rows(&["first", "last"], &[&[Some("a"), Some("z")]]),
        );
        conversation("btree", r#"{"into": "batches"}"#)
            .with_trait("full-refresh")
            .answer("all batches", totals)
            .check_golden("sql/full-refresh.postgres.sql");
    }

    #[test]
    fn batches_that_shrank_are_reported_and_left() {
        let (plan, _) = conversation("btree", r#"{"into": "batches"}"#)
            .answer("state of the manifest", state(Some("2026-01-01 00:00:00")))
            .answer(
                "pending batches",
                found(&[(Some("a"), 3, Some(5)), (Some("b"), 0, Some(1))]),
            )
            .outcome();
        let plan = plan.unwrap();
        assert_eq!(plan.ends_run.as_deref(), Some("no new batches"));
        assert!(
            plan.notes[0].starts_with("3 events are gone from 2 processed batches"),
            "{:?}",
            plan.notes
        );
    }

    #[test]
    fn more_than_a_run_takes_is_said_so() {
        let (plan, _) = conversation("btree", r#"{"into": "batches", "max-batches": 1}"#)
            .answer("state of the manifest", state(Some("2026-01-01 00:00:00")))
            .answer(
                "pending batches",
                found(&[(None, 3, None), (Some("a"), 3, None), (Some("b"), 1, None)]),
            )
            .outcome();
        let about = &plan.unwrap().publishes[0].about;
        assert!(
            about.contains("\"batches\":1") && about.contains("\"more\":true"),
            "{about}"
        );
    }

    #[test]
    fn nothing_pending_ends_the_run_without_a_statement() {
        let (plan, _) = conversation("btree", r#"{"into": "batches"}"#)
            .answer("state of the manifest", state(Some("2026-01-01 00:00:00")))
            .answer("pending batches", found(&[(None, 2, None)]))
            .outcome();
        let plan = plan.unwrap();
        assert!(plan.statements.is_empty());
        assert_eq!(plan.ends_run.as_deref(), Some("no new batches"));
        assert!(
            plan.notes[0].starts_with("2 events have no etl_tstamp or no collector_tstamp"),
            "{:?}",
            plan.notes
        );
    }

    #[test]
    fn a_missing_manifest_says_who_makes_it() {
        let empty = rows(&["name", "type", "type_oid", "kind"], &[]);
        let (plan, _) = Conversation::new(plan, r#"{"into": "batches"}"#)
            .answer("columns of atomic.events", empty.clone())
            .answer("columns of derived.manifest", empty.clone())
            .answer(
                "indexes of atomic.events",
                rows(&["method", "leading"], &[]),
            )
            .outcome();
        assert!(plan.unwrap_err().help.unwrap().contains("stepwell init"));
    }
}
