//! The journal: what each run did, in the warehouse itself, beside the rows that it changed.

use serde_json::json;
use stepwell_sql::TableName;
use stepwell_warehouse::{AnswerLimits, Param, Session};

use crate::error::{RunError, WarehouseState};
use crate::lease::Lease;
use crate::report::{Outcome, RetryReport, StepReport, StepState};

/// A run's row in `stepwell.runs`.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    pub(crate) run_id: String,
}

/// What a run is for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Purpose {
    /// `run`, `replay` or `forget`.
    pub(crate) command: &'static str,
    /// What was asked for; null for an ordinary run.
    pub(crate) request: serde_json::Value,
    /// The digest of the workflow; none where no step runs. It goes as a run ends that wrote nothing.
    pub(crate) workflow_digest: Option<String>,
}

/// What a later run needs to go on without doing a step again.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Kept {
    pub(crate) settings_digest: String,
    /// What the step published, by scratch alias.
    pub(crate) facts: Vec<(String, String)>,
    /// The scratch tables that it fills.
    pub(crate) tables: Vec<TableName>,
}

/// What a pass through the steps has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) passes: u32,
    pub(crate) batches: u64,
    pub(crate) events: u64,
}

impl Journal {
    /// Notes that the run has begun.
    pub(crate) async fn begin(
        control: &Session,
        lease: &Lease,
        place: &str,
        as_of_us: i64,
        purpose: &Purpose,
    ) -> Result<Self, RunError> {
        // A run that died could not say so itself; what it committed stays committed.
        let sql = "WITH died AS (
              UPDATE stepwell.runs
              SET state = CASE state WHEN 'running' THEN 'failed' ELSE state END,
                finished_at = clock_timestamp(),
                error = 'gave no sign of life any more; run ' || $1 || ' took over'
              WHERE run_id = $6 AND finished_at IS NULL
            )
            INSERT INTO stepwell.runs (run_id, playbook, state, place, stepwell_version, lease_token, took_over, as_of,
              command, request, workflow_digest)
            VALUES ($1, $2, 'running', $3, $4, $5, $6, to_timestamp($7::float8 / 1000000), $8, $9::jsonb, $10)";
        let params = [
            Param::Text(lease.run_id.clone()),
            Param::Text(lease.playbook.clone()),
            Param::Text(place.to_owned()),
            Param::Text(env!("CARGO_PKG_VERSION").to_owned()),
            Param::Int64(lease.token),
            lease.took_over.clone().map_or(Param::Null, Param::Text),
            Param::Int64(as_of_us),
            Param::Text(purpose.command.to_owned()),
            match &purpose.request {
                serde_json::Value::Null => Param::Null,
                request => Param::Text(request.to_string()),
            },
            purpose
                .workflow_digest
                .clone()
                .map_or(Param::Null, Param::Text),
        ];
        control
            .execute(sql, &params)
            .await
            .map_err(RunError::warehouse("journal the run"))?;
        Ok(Self {
            run_id: lease.run_id.clone(),
        })
    }

    /// Notes, inside the transaction that writes the manifest, that it is committed.
    pub(crate) async fn commit(
        &self,
        session: &Session,
        progress: Progress,
    ) -> Result<(), RunError> {
        let sql = "UPDATE stepwell.runs
            SET state = 'committed', committed_at = clock_timestamp(), passes = $2, batches = $3, events = $4
            WHERE run_id = $1";
        let params = [
            Param::Text(self.run_id.clone()),
            Param::Int64(progress.passes.into()),
            Param::Int64(progress.batches.try_into().unwrap_or(i64::MAX)),
            Param::Int64(progress.events.try_into().unwrap_or(i64::MAX)),
        ];
        session
            .execute(sql, &params)
            .await
            .map_err(RunError::warehouse("journal the commit"))?;
        Ok(())
    }

    /// Whether the pass is committed, read back on another session after the answer to COMMIT was lost.
    pub(crate) async fn is_committed(
        &self,
        session: &Session,
        pass: u32,
    ) -> Result<bool, RunError> {
        // Locks the row, so that it waits for a COMMIT that is still on its way, and then reads what that one wrote.
        let sql = "SELECT passes FROM stepwell.runs WHERE run_id = $1 FOR SHARE";
        let params = [Param::Text(self.run_id.clone())];
        let found = session.ask(sql, &params, &AnswerLimits::default()).await;
        let found = found.map_err(RunError::warehouse("read the journal"))?;
        Ok(found
            .int64(0, "passes")
            .is_some_and(|passes| passes >= pass.into()))
    }

    /// Notes what a step did.
    pub(crate) async fn step(
        &self,
        control: &Session,
        pass: u32,
        rows_read: u64,
        report: &StepReport,
        kept: Option<&Kept>,
    ) -> Result<(), RunError> {
        let sql = "INSERT INTO stepwell.steps
            (run_id, pass, step_id, uses, plugin_version, plugin_digest, state, duration_ms, rows_read, rows_written,
             statements, measures, notes, error, settings_digest, facts, tables)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::jsonb, $12::jsonb, $13::jsonb, $14, $15, $16::jsonb, (
              SELECT jsonb_agg(jsonb_build_object('name', t.name, 'oid', c.oid::bigint,
                'file', pg_relation_filenode(c.oid)::bigint, 'filled', pg_relation_size(c.oid) > 0))
              FROM jsonb_array_elements_text($17::jsonb) AS t (name)
              LEFT JOIN pg_catalog.pg_class AS c ON c.oid = to_regclass(t.name)
            ))";
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let params = [
            Param::Text(self.run_id.clone()),
            Param::Int64(pass.into()),
            Param::Text(report.id.clone()),
            Param::Text(report.uses.clone()),
            Param::Text(report.version.clone()),
            Param::Text(report.digest.clone()),
            Param::Text(match report.state {
                StepState::Done => "done".into(),
                StepState::Failed => "failed".into(),
                StepState::Skipped => "skipped".into(),
                StepState::Reused => "reused".into(),
            }),
            Param::Float64(report.duration_ms),
            Param::Int64(signed(rows_read)),
            Param::Int64(signed(report.rows)),
            Param::Text(json!(report.statements).to_string()),
            Param::Text(json!(report.measures).to_string()),
            Param::Text(json!(report.notes).to_string()),
            report.error.clone().map_or(Param::Null, Param::Text),
            kept.map_or(Param::Null, |kept| {
                Param::Text(kept.settings_digest.clone())
            }),
            kept.map_or(Param::Null, |kept| {
                Param::Text(json!(kept.facts).to_string())
            }),
            kept.map_or(Param::Null, |kept| {
                let names: Vec<_> = kept.tables.iter().map(TableName::to_string).collect();
                Param::Text(json!(names).to_string())
            }),
        ];
        control
            .execute(sql, &params)
            .await
            .map_err(RunError::warehouse("journal the step"))?;
        Ok(())
    }

    /// Notes that steps of another run's pass are not done again, with all that a run after this one needs to do the same.
    pub(crate) async fn reuse(
        &self,
        control: &Session,
        run_id: &str,
        pass: i64,
        steps: &[&str],
    ) -> Result<(), RunError> {
        let sql = "INSERT INTO stepwell.steps
            (run_id, pass, step_id, uses, plugin_version, plugin_digest, state, duration_ms, rows_read, rows_written,
             statements, measures, notes, settings_digest, facts, tables)
            SELECT $1, 1, step_id, uses, plugin_version, plugin_digest, 'reused', 0, 0, 0, '[]', '{}', '[]',
              settings_digest, facts, tables
            FROM stepwell.steps
            WHERE run_id = $2 AND pass = $3
              AND step_id IN (SELECT jsonb_array_elements_text($4::jsonb))";
        let params = [
            Param::Text(self.run_id.clone()),
            Param::Text(run_id.to_owned()),
            Param::Int64(pass),
            Param::Text(json!(steps).to_string()),
        ];
        control
            .execute(sql, &params)
            .await
            .map_err(RunError::warehouse("journal the steps that are done"))?;
        Ok(())
    }

    /// Notes that work is tried again.
    pub(crate) async fn retry(
        &self,
        control: &Session,
        retry: &RetryReport,
    ) -> Result<(), RunError> {
        let sql = "INSERT INTO stepwell.retries (run_id, work, number, wait_ms, sqlstate, error)
            VALUES ($1, $2, $3, $4, $5, $6)";
        let params = [
            Param::Text(self.run_id.clone()),
            Param::Text(retry.work.clone()),
            Param::Int64(retry.number.into()),
            Param::Int64(retry.wait_ms.try_into().unwrap_or(i64::MAX)),
            retry.sqlstate.clone().map_or(Param::Null, Param::Text),
            Param::Text(retry.error.clone()),
        ];
        control
            .execute(sql, &params)
            .await
            .map_err(RunError::warehouse("journal a retry"))?;
        Ok(())
    }

    /// Notes the end of the run and gives the lease back, in one statement.
    pub(crate) async fn finish(
        &self,
        control: &Session,
        lease: &Lease,
        end: &End<'_>,
    ) -> Result<(), RunError> {
        // A pass whose COMMIT got through without our knowing stays counted. What ended before it wrote anything left all to
        // a later run as the one before it did: no digest says that it could be gone on with.
        let sql = "WITH finished AS (
              UPDATE stepwell.runs
              SET state = $4, error = $5, finished_at = clock_timestamp(), passes = greatest(passes, $6),
                workflow_digest = CASE WHEN $7 THEN workflow_digest END
              WHERE run_id = $1
            )
            UPDATE stepwell.leases SET released_at = clock_timestamp() WHERE playbook = $2 AND token = $3";
        let params = [
            Param::Text(self.run_id.clone()),
            Param::Text(lease.playbook.clone()),
            Param::Int64(lease.token),
            Param::Text(end.state().to_owned()),
            end.error().map_or(Param::Null, Param::Text),
            Param::Int64(end.passes().into()),
            Param::Bool(end.wrote()),
        ];
        control
            .execute(sql, &params)
            .await
            .map_err(RunError::warehouse("journal the end of the run"))?;
        Ok(())
    }
}

/// How a run ended.
pub(crate) enum End<'a> {
    Well(&'a Outcome, u32),
    Badly(&'a RunError, u32),
}

impl End<'_> {
    fn state(&self) -> &'static str {
        match self {
            Self::Well(Outcome::NothingNew { .. }, _) => "nothing-new",
            Self::Well(Outcome::Done, _) => "done",
            Self::Well(Outcome::DoneWithFailures, _) => "done-with-failures",
            Self::Badly(error, _) => match error.failure() {
                crate::error::Failure::Stopped => "stopped",
                _ => "failed",
            },
        }
    }

    /// Whether it may have written anything but the journal.
    fn wrote(&self) -> bool {
        match self {
            Self::Well(..) => true,
            Self::Badly(error, _) => error.state != WarehouseState::Unchanged,
        }
    }

    fn error(&self) -> Option<String> {
        match self {
            Self::Well(..) => None,
            Self::Badly(error, _) => Some(error.to_string()),
        }
    }

    fn passes(&self) -> u32 {
        match self {
            Self::Well(_, passes) | Self::Badly(_, passes) => *passes,
        }
    }
}
