//! The host's own tables: journal, leases, and the manifest of a playbook.

use serde::Serialize;
use stepwell_sql::{TableName, quote_ident, quote_literal};
use stepwell_warehouse::{Access, AnswerLimits, Param, Session, WarehouseError};
use stepwell_workflow::Workflow;

use crate::connect;
use crate::error::{Problem, RunError};
use crate::run::RunOptions;
use crate::source;

/// Version of the tables that this build works with. Raised with every change to them; [`init`] brings older ones up.
///
/// 2: `leases.expiry`, `retries`. 3: `runs.command`, `runs.request`. 4: `runs.workflow_digest`, `steps.settings_digest`,
/// `steps.facts`, `steps.tables`, and steps that were `reused`. 5: `before_batches` and its companions in each manifest.
pub(crate) const VERSION: i64 = 5;

/// The version from which on a manifest has `before_batches`. A manifest of a playbook's own may be older than the tables
/// of the host, which are the same for all.
const FOLDING_VERSION: i64 = 5;

/// What [`init`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InitReport {
    /// The tables that it made; none when all were there.
    pub created: Vec<String>,
    /// The version of the tables.
    pub version: i64,
}

/// The tables of the host itself, the same for all playbooks. Each statement may be run again.
const HOST_TABLES: &str = "\
CREATE SCHEMA IF NOT EXISTS stepwell;

-- The version of these tables.
CREATE TABLE IF NOT EXISTS stepwell.version (
  version bigint NOT NULL PRIMARY KEY,
  installed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Who may write a playbook's tables. The unique key on (playbook, token) is what makes a takeover wait for transactions
-- of the holder, and a sign of life not.
CREATE TABLE IF NOT EXISTS stepwell.leases (
  playbook text NOT NULL PRIMARY KEY,
  token bigint NOT NULL,
  run_id text NOT NULL,
  place text NOT NULL,
  backend_pid integer NOT NULL,
  backend_start timestamptz NOT NULL,
  acquired_at timestamptz NOT NULL,
  heartbeat_at timestamptz NOT NULL,
  released_at timestamptz,
  UNIQUE (playbook, token)
);
-- Time without a sign of life after which the holder counts as dead, as the holder wants it. Asked for first, since
-- ALTER TABLE would wait for every run even where the column is there.
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute
    WHERE attrelid = 'stepwell.leases'::regclass AND attname = 'expiry' AND NOT attisdropped)
  THEN
    ALTER TABLE stepwell.leases ADD COLUMN expiry interval NOT NULL DEFAULT '30 s';
  END IF;
END $$;

-- One row a run.
CREATE TABLE IF NOT EXISTS stepwell.runs (
  run_id text NOT NULL PRIMARY KEY,
  playbook text NOT NULL,
  state text NOT NULL CHECK (state IN ('running', 'committed', 'nothing-new', 'done', 'done-with-failures', 'failed', 'stopped')),
  place text NOT NULL,
  stepwell_version text NOT NULL,
  lease_token bigint NOT NULL,
  took_over text,
  as_of timestamptz NOT NULL,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  committed_at timestamptz,
  finished_at timestamptz,
  passes bigint NOT NULL DEFAULT 0,
  batches bigint NOT NULL DEFAULT 0,
  events bigint NOT NULL DEFAULT 0,
  error text
);
-- Asked for first, here and below: CREATE INDEX would wait for every run even where the index is there.
DO $$ BEGIN
  IF to_regclass('stepwell.runs_playbook_started_at') IS NULL THEN
    CREATE INDEX runs_playbook_started_at ON stepwell.runs (playbook, started_at);
  END IF;
END $$;
-- What the run was for (`run`, `replay`, `forget`), and what of it was asked for.
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute
    WHERE attrelid = 'stepwell.runs'::regclass AND attname = 'command' AND NOT attisdropped)
  THEN
    ALTER TABLE stepwell.runs ADD COLUMN command text NOT NULL DEFAULT 'run', ADD COLUMN request jsonb;
  END IF;
END $$;
-- By what a later run tells that the workflow is still that of this one.
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute
    WHERE attrelid = 'stepwell.runs'::regclass AND attname = 'workflow_digest' AND NOT attisdropped)
  THEN
    ALTER TABLE stepwell.runs ADD COLUMN workflow_digest text;
  END IF;
END $$;

-- One row a step and pass.
CREATE TABLE IF NOT EXISTS stepwell.steps (
  run_id text NOT NULL REFERENCES stepwell.runs ON DELETE CASCADE,
  pass bigint NOT NULL,
  step_id text NOT NULL,
  uses text NOT NULL,
  plugin_version text NOT NULL,
  plugin_digest text NOT NULL,
  state text NOT NULL CHECK (state IN ('done', 'failed', 'skipped')),
  finished_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  duration_ms double precision NOT NULL,
  rows_read bigint NOT NULL,
  rows_written bigint NOT NULL,
  statements jsonb NOT NULL,
  measures jsonb NOT NULL,
  notes jsonb NOT NULL,
  error text,
  PRIMARY KEY (run_id, pass, step_id)
);
-- What a later run needs to go on without doing the step again: a digest of its settings, what it published, and the
-- scratch tables that it filled, each with its OID and the number of its file.
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute
    WHERE attrelid = 'stepwell.steps'::regclass AND attname = 'tables' AND NOT attisdropped)
  THEN
    ALTER TABLE stepwell.steps
      ADD COLUMN settings_digest text, ADD COLUMN facts jsonb, ADD COLUMN tables jsonb,
      DROP CONSTRAINT IF EXISTS steps_state_check,
      ADD CONSTRAINT steps_state_check CHECK (state IN ('done', 'failed', 'skipped', 'reused'));
  END IF;
END $$;

-- One row for each time that work of a run was tried again, with the failure before it.
CREATE TABLE IF NOT EXISTS stepwell.retries (
  run_id text NOT NULL REFERENCES stepwell.runs ON DELETE CASCADE,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  work text NOT NULL,
  number bigint NOT NULL,
  wait_ms bigint NOT NULL,
  sqlstate text,
  error text NOT NULL
);
DO $$ BEGIN
  IF to_regclass('stepwell.retries_run_id') IS NULL THEN
    CREATE INDEX retries_run_id ON stepwell.retries (run_id);
  END IF;
END $$;
";

/// The statements that make the tables of one playbook.
fn playbook_tables(workflow: &Workflow, batch_type: Option<&str>) -> String {
    let mut ddl = String::new();
    let schemas = [&workflow.schemas.scratch, &workflow.schemas.derived];
    let manifest_schema = workflow.manifest.schema().to_owned();
    for schema in schemas
        .into_iter()
        .chain((!schemas.contains(&&manifest_schema)).then_some(&manifest_schema))
    {
        ddl += &format!("CREATE SCHEMA IF NOT EXISTS {};\n", quote_ident(schema));
    }
    if let Some(batch_type) = batch_type {
        let table = &workflow.manifest;
        let index = TableName::new(table.schema(), format!("{}_last_time", table.name()));
        let folded = TableName::new(table.schema(), format!("{}_folded", table.name()));
        ddl += &format!(
            "
-- The batches that playbooks have processed: run_id is the last run that did, processed_at the time of the first. Where
-- before_batches is set, all batches before this one are processed; those without a row of their own are so many.
CREATE TABLE IF NOT EXISTS {table} (
  playbook text NOT NULL,
  batch {batch_type} NOT NULL,
  events bigint NOT NULL,
  first_time timestamptz,
  last_time timestamptz,
  run_id text NOT NULL,
  processed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  before_batches bigint,
  before_events bigint,
  before_first_time timestamptz,
  before_last_time timestamptz,
  PRIMARY KEY (playbook, batch)
);
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute
    WHERE attrelid = {manifest}::regclass AND attname = 'before_batches' AND NOT attisdropped)
  THEN
    ALTER TABLE {table}
      ADD COLUMN before_batches bigint, ADD COLUMN before_events bigint,
      ADD COLUMN before_first_time timestamptz, ADD COLUMN before_last_time timestamptz;
  END IF;
  IF to_regclass({literal}) IS NULL THEN
    CREATE INDEX {name} ON {table} (playbook, last_time);
  END IF;
  IF to_regclass({folded_literal}) IS NULL THEN
    CREATE INDEX {folded_name} ON {table} (playbook) WHERE before_batches IS NOT NULL;
  END IF;
END $$;
",
            manifest = quote_literal(&table.to_string()),
            literal = quote_literal(&index.to_string()),
            name = quote_ident(index.name()),
            folded_literal = quote_literal(&folded.to_string()),
            folded_name = quote_ident(folded.name()),
        );
    }
    ddl
}

/// Makes what is missing of the host's tables, the workflow's schemas and its manifest, in one transaction.
///
/// # Errors
///
/// If the warehouse is not reached or refuses, if the tables are of a newer version, or if the manifest is there with
/// another type of batch than the workflow's source has.
pub async fn init(workflow: &Workflow, options: &RunOptions) -> Result<InitReport, RunError> {
    let target = connect::target(workflow, options).await?;
    let session = connect::session(workflow, &target, "init").await?;
    source::check(&session, workflow, options).await?;
    init_on(&session, workflow).await
}

/// [`init`] on a session that is there.
pub(crate) async fn init_on(
    session: &Session,
    workflow: &Workflow,
) -> Result<InitReport, RunError> {
    let batch_type = batch_type(session, workflow).await?;
    let ddl = full_ddl(workflow, batch_type.as_deref());
    check_manifest(session, workflow, batch_type).await?;
    let doing = || RunError::warehouse("make the host's tables");
    session.begin(Access::ReadWrite).await.map_err(doing())?;
    // Two processes may come here at once, and CREATE … IF NOT EXISTS is not safe against itself.
    session
        .batch("SELECT pg_advisory_xact_lock(7834911)")
        .await
        .map_err(doing())?;
    let before = missing(session, workflow).await?;
    let made = session.batch(&ddl).await;
    if let Err(error) = made {
        session.rollback().await.map_err(doing())?;
        return Err(doing()(error));
    }
    let found = all_there(session, workflow).await?.unwrap_or(0);
    if found != VERSION {
        session.rollback().await.map_err(doing())?;
        return Err(RunError::new(Problem::Version {
            found,
            expected: VERSION,
        }));
    }
    session.commit().await.map_err(doing())?;
    Ok(InitReport {
        created: before.iter().map(TableName::to_string).collect(),
        version: VERSION,
    })
}

/// Refuses a manifest that is there and keeps batches of another type than the workflow's source has.
async fn check_manifest(
    session: &Session,
    workflow: &Workflow,
    batch_type: Option<String>,
) -> Result<(), RunError> {
    let Some(expected) = batch_type else {
        return Ok(());
    };
    let sql = "SELECT format_type(atttypid, -1) AS type FROM pg_catalog.pg_attribute
        WHERE attrelid = to_regclass($1) AND attname = 'batch' AND NOT attisdropped";
    let params = [Param::Text(workflow.manifest.to_string())];
    let found = session.ask(sql, &params, &AnswerLimits::default()).await;
    let found = found.map_err(RunError::warehouse(format!(
        "look at manifest {}",
        workflow.manifest
    )))?;
    match found.text(0, "type").filter(|_| found.rows > 0) {
        Some(found) if found != expected => Err(RunError::new(Problem::BatchType {
            manifest: workflow.manifest.clone(),
            found: found.to_owned(),
            expected,
        })),
        _ => Ok(()),
    }
}

/// Returns the statements that [`init`] runs, for a DBA. Connects to learn the type of a batch, and writes nothing.
///
/// # Errors
///
/// If the warehouse is not reached, or the source is not there.
pub async fn ddl(workflow: &Workflow, options: &RunOptions) -> Result<String, RunError> {
    let target = connect::target(workflow, options).await?;
    let session = connect::session(workflow, &target, "init").await?;
    source::check(&session, workflow, options).await?;
    let batch_type = batch_type(&session, workflow).await?;
    Ok(full_ddl(workflow, batch_type.as_deref()))
}

fn full_ddl(workflow: &Workflow, batch_type: Option<&str>) -> String {
    format!(
        "{HOST_TABLES}INSERT INTO stepwell.version (version) VALUES ({VERSION}) ON CONFLICT DO NOTHING;\n\n{}",
        playbook_tables(workflow, batch_type)
    )
}

/// Returns the SQL type of the source's batches; none without a source.
async fn batch_type(session: &Session, workflow: &Workflow) -> Result<Option<String>, RunError> {
    let Some(source) = &workflow.source else {
        return Ok(None);
    };
    // The expression comes from the workflow file, hence the read-only transaction around it.
    let probe = format!(
        "SELECT ({}) AS batch FROM {} LIMIT 0",
        source.batch, source.events
    );
    let doing =
        || RunError::warehouse(format!("find out the type of a batch in {}", source.events));
    session.begin(Access::ReadOnly).await.map_err(doing())?;
    let fields = session.ask(&probe, &[], &AnswerLimits::default()).await;
    session.rollback().await.map_err(doing())?;
    let oid = fields
        .map_err(doing())?
        .fields
        .first()
        .map_or(0, |field| field.type_oid);
    let name = session
        .ask(
            "SELECT format_type($1::oid, -1) AS name",
            &[Param::Int64(oid.into())],
            &AnswerLimits::default(),
        )
        .await
        .map_err(doing())?;
    Ok(name.text(0, "name").map(str::to_owned))
}

/// Returns those of the host's tables, the manifest among them, that are not there.
pub(crate) async fn missing(
    session: &Session,
    workflow: &Workflow,
) -> Result<Vec<TableName>, RunError> {
    let mut tables: Vec<_> = ["version", "leases", "runs", "steps", "retries"]
        .map(|name| TableName::new("stepwell", name))
        .into();
    tables.extend(workflow.source.as_ref().map(|_| workflow.manifest.clone()));
    let names: Vec<_> = tables.iter().map(TableName::to_string).collect();
    // Names are quoted, so none holds a bare comma or brace that an array would take for its own.
    let list = names
        .iter()
        .map(|name| format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"")));
    let list = format!("{{{}}}", list.collect::<Vec<_>>().join(","));
    let sql = "SELECT t.number::int8 AS number FROM unnest($1::text[]) WITH ORDINALITY AS t (name, number)
        WHERE to_regclass(t.name) IS NULL ORDER BY t.number";
    let found = session
        .ask(sql, &[Param::Text(list)], &AnswerLimits::default())
        .await;
    let found = found.map_err(RunError::warehouse("look for the host's tables"))?;
    let numbers = (0..found.rows as usize).filter_map(|row| found.int64(row, "number"));
    Ok(numbers
        .filter_map(|number| {
            tables
                .get(usize::try_from(number).ok()?.checked_sub(1)?)
                .cloned()
        })
        .collect())
}

/// Refuses to go on where one of the host's tables, the manifest among them, is not there, or the manifest is older than
/// this build: for commands that write nothing, and so bring nothing up to date.
pub(crate) async fn check(session: &Session, workflow: &Workflow) -> Result<(), RunError> {
    if let Some(table) = missing(session, workflow).await?.into_iter().next() {
        return Err(RunError::new(Problem::NotInitialised { table }));
    }
    match all_there(session, workflow).await?.unwrap_or(0) {
        found if found < FOLDING_VERSION => Err(RunError::new(Problem::Version {
            found,
            expected: VERSION,
        })),
        _ => Ok(()),
    }
}

/// Whether the warehouse is the host's own, so that it makes there what it needs.
pub(crate) fn is_private(workflow: &Workflow, options: &RunOptions) -> bool {
    workflow.warehouse.url.is_none() || options.target.is_some()
}

/// Makes sure that the host's tables are there and of this build's version; on a private server it makes them.
pub(crate) async fn ensure(
    session: &Session,
    workflow: &Workflow,
    options: &RunOptions,
) -> Result<(), RunError> {
    let private = is_private(workflow, options);
    let found = match all_there(session, workflow).await? {
        Some(version) if version < VERSION && private => init_on(session, workflow).await?.version,
        Some(version) => version,
        None => match missing(session, workflow).await?.into_iter().next() {
            Some(table) if !private => {
                return Err(RunError::new(Problem::NotInitialised { table }));
            }
            _ => init_on(session, workflow).await?.version,
        },
    };
    match found == VERSION {
        true => Ok(()),
        false => Err(RunError::new(Problem::Version {
            found,
            expected: VERSION,
        })),
    }
}

/// Returns the version of the host's tables if they and the manifest are there; that of the manifest where it is older. One
/// question, since every run asks it.
async fn all_there(session: &Session, workflow: &Workflow) -> Result<Option<i64>, RunError> {
    let sql = "SELECT max(version) AS version, to_regclass($1) IS NOT NULL AS manifest,
          EXISTS (SELECT FROM pg_catalog.pg_attribute
            WHERE attrelid = to_regclass($1) AND attname = 'before_batches' AND NOT attisdropped) AS folds
        FROM stepwell.version";
    let manifest = [Param::Text(workflow.manifest.to_string())];
    match session.ask_briefly(sql, &manifest).await {
        Ok(row) => {
            let there =
                |name: &str| workflow.source.is_none() || row.boolean(0, name) == Some(true);
            let version = row.int64(0, "version").filter(|_| there("manifest"));
            Ok(version.map(|version| match there("folds") {
                true => version,
                false => version.min(FOLDING_VERSION - 1),
            }))
        }
        Err(WarehouseError::Statement(error))
            if matches!(error.sqlstate.as_str(), "42P01" | "3F000") =>
        {
            Ok(None)
        }
        Err(error) => Err(RunError::warehouse("read the version of the host's tables")(error)),
    }
}
