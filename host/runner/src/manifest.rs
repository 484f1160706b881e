//! Reading a playbook's manifest, and taking batches out of it.

use serde::Serialize;
use serde_json::json;
use stepwell_warehouse::{AnswerLimits, Param, Session};
use stepwell_workflow::Workflow;

use crate::connect;
use crate::error::{Problem, RunError, WarehouseState};
use crate::init;
use crate::journal::{End, Journal, Progress, Purpose};
use crate::lease::{self, Applicant, Durability, Lease};
use crate::report::Outcome;
use crate::run::RunOptions;
use crate::start::place;

/// Most batches that are listed or forgotten at once.
const BATCHES_MAX: u32 = 100_000;

/// Which of the processed batches.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Batches {
    /// All of them.
    #[default]
    All,
    /// These, each in its text form.
    Named(Vec<String>),
    /// Those with events in a stretch of time.
    Range {
        /// The earliest time, included.
        since: Option<jiff::Timestamp>,
        /// The latest time, excluded.
        until: Option<jiff::Timestamp>,
    },
}

/// Which rows to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ManifestQuery {
    /// Which batches.
    pub batches: Batches,
    /// At most so many, the youngest batches first; at most 100,000.
    pub limit: u32,
}

/// A batch in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ManifestRow {
    /// The batch, in its text form.
    pub batch: String,
    /// Its events when it was processed.
    pub events: i64,
    /// Time of its first event, in text form, UTC.
    pub first_time: Option<String>,
    /// Time of its last event, in text form, UTC.
    pub last_time: Option<String>,
    /// The run that processed it last.
    pub run_id: String,
    /// When it was processed first, in text form, UTC: not changed by processing it again, by a full refresh neither.
    pub processed_at: String,
    /// Set where the row stands for all batches before this one as well (`retain`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
}

/// Processed batches that have no row of their own: those before a batch, by their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Before {
    /// How many there are.
    pub batches: i64,
    /// Their events when they were processed.
    pub events: i64,
    /// Time of their first event, in text form, UTC.
    pub first_time: Option<String>,
    /// Time of their last event, in text form, UTC.
    pub last_time: Option<String>,
}

/// Batches that can be taken out of the manifest, and what would come of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Forgettable {
    /// The batches, the youngest first.
    pub rows: Vec<ManifestRow>,
    /// Batches that were named and are not in the manifest.
    pub unknown: Vec<String>,
    /// Those of the batches that the next run may not find again: all their events lie before the lookback, or they come
    /// before the batch from which an index on the batch column is walked.
    pub out_of_reach: Vec<String>,
    /// How many batches stay in the manifest.
    pub remaining: u64,
}

/// What was taken out of the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ForgetReport {
    /// The playbook.
    pub playbook: String,
    /// The run under which the journal has it.
    pub run_id: String,
    /// Batches that are no longer in the manifest.
    pub batches: u64,
    /// Events that they had.
    pub events: u64,
}

/// Returns batches that the playbook has processed, the youngest first.
///
/// # Errors
///
/// If the warehouse is not reached, or has no manifest.
pub async fn manifest_list(
    workflow: &Workflow,
    options: &RunOptions,
    query: &ManifestQuery,
) -> Result<Vec<ManifestRow>, RunError> {
    let session = session(workflow, options).await?;
    rows(
        &session,
        workflow,
        &query.batches,
        query.limit.min(BATCHES_MAX),
    )
    .await
}

/// Returns what [`forget`] would take out of the manifest. Nothing is written.
///
/// # Errors
///
/// As [`manifest_list`], and if there are more than 100,000 batches, or some of them have no row of their own.
pub async fn forgettable(
    workflow: &Workflow,
    options: &RunOptions,
    batches: &Batches,
) -> Result<Forgettable, RunError> {
    let session = session(workflow, options).await?;
    let rows = rows(&session, workflow, batches, BATCHES_MAX + 1).await?;
    if rows.len() > BATCHES_MAX as usize {
        return Err(RunError::new(Problem::Refused(format!(
            "more than {BATCHES_MAX} batches at once; give a shorter stretch of time"
        ))));
    }
    let names: Vec<String> = rows.iter().map(|row| row.batch.clone()).collect();
    if *batches != Batches::All {
        refuse_folded(&session, workflow, &names).await?;
    }
    let unknown = match batches {
        Batches::Named(named) => unknown(&session, workflow, named).await?,
        _ => Vec::new(),
    };
    let (remaining, out_of_reach) = reach(&session, workflow, options, &names).await?;
    Ok(Forgettable {
        rows,
        unknown,
        out_of_reach,
        remaining,
    })
}

/// Takes batches out of the manifest, under the playbook's lease and journalled. The derived tables stay as they are.
///
/// # Errors
///
/// [`RunError`], after which the manifest is as it was; [`Problem::LeaseHeld`] while a run is alive; [`Problem::Refused`]
/// where batches that have no row would stay, but not the row that stands for them.
pub async fn forget(
    workflow: &Workflow,
    options: &RunOptions,
    batches: &[String],
) -> Result<ForgetReport, RunError> {
    let run_id = uuid::Uuid::now_v7().to_string();
    let target = connect::target(workflow, options).await?;
    let (control, session) = tokio::try_join!(
        connect::control(workflow, &target, &run_id),
        connect::step(workflow, &target, &run_id),
    )?;
    init::ensure(&control, workflow, options).await?;
    let place = place();
    let applicant = Applicant {
        playbook: workflow.playbook.as_str(),
        run_id: &run_id,
        place: &place,
        expiry: lease::expiry(workflow),
    };
    let lease = Lease::take(&control, &applicant).await?;
    let purpose = Purpose {
        command: "forget",
        request: json!({ "batches": batches }),
        workflow_digest: None,
    };
    let as_of_us = options.point_in_time().as_microsecond();
    let journal = Journal::begin(&control, &lease, &place, as_of_us, &purpose).await?;
    let forgotten = delete(&session, workflow, &lease, &journal, batches).await;
    let finishing = match &forgotten {
        Ok(_) => {
            journal
                .finish(&control, &lease, &End::Well(&Outcome::Done, 1))
                .await
        }
        Err(error) => {
            journal
                .finish(&control, &lease, &End::Badly(error, 0))
                .await
        }
    };
    let at = |mut error: RunError, state| {
        (error.run_id, error.state) = (Some(run_id.clone()), state);
        error
    };
    let (batches, events) = forgotten.map_err(|error| at(error, WarehouseState::Unchanged))?;
    finishing.map_err(|error| at(error, WarehouseState::Committed))?;
    let playbook = workflow.playbook.as_str().to_owned();
    Ok(ForgetReport {
        playbook,
        run_id,
        batches,
        events,
    })
}

/// Deletes and journals in one transaction; returns the number of batches and of their events.
async fn delete(
    session: &Session,
    workflow: &Workflow,
    lease: &Lease,
    journal: &Journal,
    batches: &[String],
) -> Result<(u64, u64), RunError> {
    let doing = || RunError::warehouse("take batches out of the manifest");
    let kind = batch_type(session, workflow).await?;
    lease.begin(session, Durability::Derived).await?;
    let sql = format!(
        "WITH forgotten AS (
          DELETE FROM {} WHERE playbook = $1 AND batch = ANY (CAST($2 AS {kind}[])) RETURNING events
        )
        SELECT count(*) AS batches, coalesce(sum(events), 0)::bigint AS events FROM forgotten",
        workflow.manifest
    );
    let params = [playbook(workflow), list(batches)];
    let deleting = async {
        if remaining(session, workflow, batches).await? > 0 {
            refuse_folded(session, workflow, batches).await?;
        }
        let row = session
            .ask(&sql, &params, &AnswerLimits::default())
            .await
            .map_err(doing())?;
        let number = |name: &str| row.int64(0, name).unwrap_or(0).unsigned_abs();
        let (batches, events) = (number("batches"), number("events"));
        journal
            .commit(
                session,
                Progress {
                    passes: 1,
                    batches,
                    events,
                },
            )
            .await?;
        session.commit().await.map_err(doing())?;
        Ok((batches, events))
    };
    let deleted = deleting.await;
    if deleted.is_err() {
        // If this fails the connection is gone, and the transaction with it.
        let _ = session.rollback().await;
    }
    deleted
}

async fn session(workflow: &Workflow, options: &RunOptions) -> Result<Session, RunError> {
    let target = connect::target(workflow, options).await?;
    let session = connect::session(workflow, &target, "manifest").await?;
    init::check(&session, workflow).await?;
    Ok(session)
}

/// Refuses batches up to the one whose row stands for all before it: without that row it would not be known any more that
/// they are processed, and without one of theirs they would be processed all the same.
async fn refuse_folded(
    session: &Session,
    workflow: &Workflow,
    batches: &[String],
) -> Result<(), RunError> {
    let sql = format!(
        "SELECT m.batch::text AS batch, m.before_batches AS before
        FROM {} AS m
        WHERE m.playbook = $1 AND m.before_batches IS NOT NULL AND m.batch >= ANY (CAST($2 AS {}[]))",
        workflow.manifest,
        batch_type(session, workflow).await?,
    );
    let params = [playbook(workflow), list(batches)];
    let found = session
        .ask(&sql, &params, &AnswerLimits::default())
        .await
        .map_err(reading(workflow))?;
    match found.rows {
        0 => Ok(()),
        _ => Err(RunError::new(Problem::Folded {
            batch: found.text(0, "batch").unwrap_or_default().to_owned(),
            batches: found.int64(0, "before").unwrap_or(0).unsigned_abs(),
        })),
    }
}

/// Refuses a name that no batch can have, before a statement of a step trips over it.
///
/// # Errors
///
/// [`Problem::NotABatch`] with the first of them.
pub(crate) async fn check_names(
    session: &Session,
    workflow: &Workflow,
    names: &[String],
) -> Result<(), RunError> {
    let kind = batch_type(session, workflow).await?;
    let sql = format!(
        "SELECT count(CAST(named.batch AS {kind})) AS n FROM unnest(CAST($1 AS text[])) AS named (batch)"
    );
    let are_batches = async |names: &[String]| {
        let params = [list(names)];
        let counted = session.ask(&sql, &params, &AnswerLimits::default()).await;
        match counted {
            Ok(_) => Ok(true),
            // Data exceptions: of another form, or out of range.
            Err(error) if error.sqlstate().is_some_and(|code| code.starts_with("22")) => Ok(false),
            Err(error) => Err(reading(workflow)(error)),
        }
    };
    if are_batches(names).await? {
        return Ok(());
    }
    for name in names {
        if !are_batches(std::slice::from_ref(name)).await? {
            return Err(RunError::new(Problem::NotABatch {
                playbook: workflow.playbook.as_str().to_owned(),
                kind,
                batch: name.clone(),
            }));
        }
    }
    Ok(())
}

async fn rows(
    session: &Session,
    workflow: &Workflow,
    batches: &Batches,
    limit: u32,
) -> Result<Vec<ManifestRow>, RunError> {
    let mut params = vec![playbook(workflow), Param::Int64(limit.into())];
    let condition = match batches {
        Batches::All => String::new(),
        Batches::Named(named) => {
            check_names(session, workflow, named).await?;
            params.push(list(named));
            format!(
                " AND (m.batch = ANY (CAST($3 AS {kind}[]))
                  OR m.before_batches IS NOT NULL AND m.batch > ANY (CAST($3 AS {kind}[])))",
                kind = batch_type(session, workflow).await?
            )
        }
        Batches::Range { since, until } => {
            let (mut own, mut before) = (Vec::new(), vec!["m.before_batches > 0".to_owned()]);
            let bounds = [(since, "last_time >="), (until, "first_time <")];
            for (bound, compares) in bounds {
                if let Some(bound) = bound {
                    params.push(Param::Text(bound.to_string()));
                    let bound = format!("CAST(${} AS timestamptz)", params.len());
                    own.push(format!("m.{compares} {bound}"));
                    before.push(format!("m.before_{compares} {bound}"));
                }
            }
            let or_true = |list: Vec<String>| match list.is_empty() {
                true => "true".to_owned(),
                false => list.join(" AND "),
            };
            format!(" AND ({} OR {})", or_true(own), before.join(" AND "))
        }
    };
    let sql = format!(
        "SELECT m.batch::text AS batch, m.events, m.first_time::text AS first_time, m.last_time::text AS last_time, m.run_id,
          m.processed_at::text AS processed_at, m.before_batches, m.before_events,
          m.before_first_time::text AS before_first_time, m.before_last_time::text AS before_last_time
        FROM {} AS m
        WHERE m.playbook = $1{condition}
        ORDER BY m.batch DESC
        LIMIT $2",
        workflow.manifest,
    );
    let limits = AnswerLimits {
        rows: BATCHES_MAX + 1,
        bytes: 64 << 20,
    };
    let rows = session
        .ask(&sql, &params, &limits)
        .await
        .map_err(reading(workflow))?;
    let text = |row: usize, name: &str| rows.text(row, name).map(str::to_owned);
    Ok((0..rows.rows as usize)
        .map(|row| ManifestRow {
            batch: text(row, "batch").unwrap_or_default(),
            events: rows.int64(row, "events").unwrap_or(0),
            first_time: text(row, "first_time"),
            last_time: text(row, "last_time"),
            run_id: text(row, "run_id").unwrap_or_default(),
            processed_at: text(row, "processed_at").unwrap_or_default(),
            before: rows.int64(row, "before_batches").map(|batches| Before {
                batches,
                events: rows.int64(row, "before_events").unwrap_or(0),
                first_time: text(row, "before_first_time"),
                last_time: text(row, "before_last_time"),
            }),
        })
        .collect())
}

/// Returns those of the batches that are not in the manifest, as they were named.
async fn unknown(
    session: &Session,
    workflow: &Workflow,
    named: &[String],
) -> Result<Vec<String>, RunError> {
    let sql = format!(
        "SELECT named.batch
        FROM unnest(CAST($2 AS text[])) AS named (batch)
        WHERE NOT EXISTS (SELECT FROM {} AS m WHERE m.playbook = $1 AND m.batch = CAST(named.batch AS {}))",
        workflow.manifest,
        batch_type(session, workflow).await?,
    );
    let params = [playbook(workflow), list(named)];
    texts(session, workflow, &sql, &params).await
}

/// Returns how many batches stay, and which of these may not be found again.
///
/// The rules are those by which `diff-manifest` looks, with the batches that stay: from the lookback before the newest event
/// on where events are read, and from the batch before the oldest that reaches into the lookback where an index is walked.
/// Which of the two it will be, and whether it walks from further back, is the step's to say, so either is enough to be named.
/// All batches are walked where they are neither times nor numbers.
async fn reach(
    session: &Session,
    workflow: &Workflow,
    options: &RunOptions,
    batches: &[String],
) -> Result<(u64, Vec<String>), RunError> {
    let remaining = remaining(session, workflow, batches).await?;
    let kind = batch_type(session, workflow).await?;
    let chosen = format!("m.batch = ANY (CAST($2 AS {kind}[]))");
    let manifest = &workflow.manifest;
    let lookback = workflow
        .source
        .as_ref()
        .map_or(0.0, |source| source.lookback.duration().as_secs_f64());
    let sql = format!(
        "WITH stays AS (
          SELECT m.batch, m.last_time FROM {manifest} AS m WHERE m.playbook = $1 AND NOT {chosen}
        ),
        floor AS (
          SELECT coalesce(max(last_time) FILTER (WHERE last_time <= CAST($4 AS timestamptz)), '0001-01-01')
            - make_interval(secs => $3) AS time
          FROM stays
        ),
        walk AS (
          SELECT max(batch) AS before
          FROM stays
          WHERE batch < (SELECT min(batch) FROM stays, floor WHERE last_time >= floor.time)
            AND (SELECT typcategory IN ('D', 'N') FROM pg_catalog.pg_type WHERE oid = to_regtype($5))
        )
        SELECT m.batch::text AS batch
        FROM {manifest} AS m, floor, walk
        WHERE m.playbook = $1 AND {chosen} AND (m.last_time < floor.time OR m.batch <= walk.before)
        ORDER BY m.batch"
    );
    let params = [
        playbook(workflow),
        list(batches),
        Param::Float64(lookback),
        Param::Text(options.point_in_time().to_string()),
        Param::Text(kind),
    ];
    Ok((remaining, texts(session, workflow, &sql, &params).await?))
}

/// Returns how many rows stay.
async fn remaining(
    session: &Session,
    workflow: &Workflow,
    batches: &[String],
) -> Result<u64, RunError> {
    let sql = format!(
        "SELECT count(*) AS n FROM {} AS m WHERE m.playbook = $1 AND NOT m.batch = ANY (CAST($2 AS {}[]))",
        workflow.manifest,
        batch_type(session, workflow).await?,
    );
    let params = [playbook(workflow), list(batches)];
    let counted = session
        .ask(&sql, &params, &AnswerLimits::default())
        .await
        .map_err(reading(workflow))?;
    Ok(counted.int64(0, "n").unwrap_or(0).unsigned_abs())
}

async fn texts(
    session: &Session,
    workflow: &Workflow,
    sql: &str,
    params: &[Param],
) -> Result<Vec<String>, RunError> {
    let limits = AnswerLimits {
        rows: BATCHES_MAX,
        bytes: 16 << 20,
    };
    let rows = session
        .ask(sql, params, &limits)
        .await
        .map_err(reading(workflow))?;
    Ok((0..rows.rows as usize)
        .filter_map(|row| rows.text(row, "batch").map(str::to_owned))
        .collect())
}

/// Returns the SQL type of a batch, as the manifest keeps it.
async fn batch_type(session: &Session, workflow: &Workflow) -> Result<String, RunError> {
    let sql = "SELECT format_type(atttypid, -1) AS type FROM pg_catalog.pg_attribute
        WHERE attrelid = to_regclass($1) AND attname = 'batch' AND NOT attisdropped";
    let params = [Param::Text(workflow.manifest.to_string())];
    let row = session
        .ask(sql, &params, &AnswerLimits::default())
        .await
        .map_err(reading(workflow))?;
    let missing = || {
        RunError::new(Problem::NotInitialised {
            table: workflow.manifest.clone(),
        })
    };
    match row.rows {
        0 => Err(missing()),
        _ => row.text(0, "type").map(str::to_owned).ok_or_else(missing),
    }
}

fn reading(workflow: &Workflow) -> impl FnOnce(stepwell_warehouse::WarehouseError) -> RunError {
    RunError::warehouse(format!("read manifest {}", workflow.manifest))
}

fn playbook(workflow: &Workflow) -> Param {
    Param::Text(workflow.playbook.as_str().to_owned())
}

/// Texts as one parameter, an array in its text form.
fn list(texts: &[String]) -> Param {
    let quoted = texts
        .iter()
        .map(|text| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")));
    Param::Text(format!("{{{}}}", quoted.collect::<Vec<_>>().join(",")))
}
