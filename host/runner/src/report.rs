//! What is left of a run: the same figures for the summary, for `--json` and for the journal.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::advice::Advice;
use crate::measures::Published;

/// A run that ended well.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunReport {
    /// The playbook.
    pub playbook: String,
    /// The run's id.
    pub run_id: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Passes through the steps; several when a backlog was worked off in slices, 0 when nothing was pending.
    pub passes: u32,
    /// Batches processed.
    pub batches: u64,
    /// Events in them.
    pub events: u64,
    /// The run's point in time, RFC 3339, UTC.
    pub as_of: String,
    /// From the lease to its release, in milliseconds.
    pub duration_ms: u64,
    /// The steps in the order in which they ended, the passes added up.
    pub steps: Vec<StepReport>,
    /// What was tried again, in that order; empty in most runs.
    pub retries: Vec<RetryReport>,
    /// Batches that were pending when the last slice began and are left for another run, as far as is known.
    pub left: u64,
    /// The run that failed and that this one went on with.
    pub continues: Option<String>,
    /// Keys whose rows were to be computed again, where a replay named keys.
    pub replayed_keys: Option<u64>,
}

/// Work that failed for a reason that may pass, and was tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetryReport {
    /// The step's id, or what else it was: `connect to the warehouse`.
    pub work: String,
    /// Its number for this work, from 1.
    pub number: u32,
    /// Most retries that this work has.
    pub of: u32,
    /// How long the run waited before it, in milliseconds.
    pub wait_ms: u64,
    /// What the server called the failure before it, if it was the server.
    pub sqlstate: Option<String>,
    /// The failure before it.
    pub error: String,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Outcome {
    /// There was nothing to do.
    NothingNew {
        /// Why, in the gate step's words.
        reason: String,
    },
    /// All steps are done.
    Done,
    /// The derived tables are right, and a step that is not critical failed.
    DoneWithFailures,
}

/// A step of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepReport {
    /// Its id in the workflow file.
    pub id: String,
    /// The plugin that implements it.
    pub uses: String,
    /// The plugin's version.
    pub version: String,
    /// SHA-256 of the component.
    pub digest: String,
    /// How it ended.
    pub state: StepState,
    /// From the first question to the end of its transaction, in milliseconds.
    pub duration_ms: f64,
    /// Rows that its statements wrote.
    pub rows: u64,
    /// Its statements in order; those of the last pass.
    pub statements: Vec<StatementReport>,
    /// Numbers that it measured or published, by name; passes added up, but for those that say how things stand.
    pub measures: BTreeMap<String, i64>,
    /// Those of them that it published, whose meaning its notes say in words; of the last pass.
    #[serde(skip)]
    pub published: Published,
    /// Remarks for people, advice among them.
    pub notes: Vec<String>,
    /// Which of them are advice; those of the last pass.
    #[serde(skip)]
    pub advice: Vec<Advice>,
    /// Why it failed, if it did and was not critical.
    pub error: Option<String>,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    /// It did what it is for.
    Done,
    /// It failed, and was not critical.
    Failed,
    /// It was not run, since a step that it needs failed.
    Skipped,
    /// It was not run, since the run that this one goes on with had done it.
    Reused,
}

/// A statement of a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StatementReport {
    /// What it does.
    pub label: String,
    /// Rows that it inserted, updated, deleted, or returned.
    pub rows: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: f64,
}

/// What a run would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanReport {
    /// The playbook.
    pub playbook: String,
    /// Why there would be nothing to do, if so; no step is planned then.
    pub nothing_new: Option<String>,
    /// The gate step's findings, as it published them; null without a gate.
    pub pending: serde_json::Value,
    /// The steps in their order.
    pub steps: Vec<PlannedStep>,
}

/// What a step would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlannedStep {
    /// Its id in the workflow file.
    pub id: String,
    /// The plugin that implements it.
    pub uses: String,
    /// Whether all its statements run in one transaction.
    pub atomic: bool,
    /// The steps that it waits for, by id.
    pub needs: Vec<String>,
    /// Its statements in order.
    pub statements: Vec<PlannedStatement>,
    /// Remarks for people, for example which index would help.
    pub notes: Vec<String>,
}

/// A statement that a step would run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlannedStatement {
    /// What it does.
    pub label: String,
    /// The exact SQL.
    pub sql: String,
    /// Its parameters in their text form, cut to 200 characters.
    pub params: Vec<String>,
    /// Tables that it reads.
    pub reads: Vec<String>,
    /// Tables that it changes.
    pub writes: Vec<String>,
    /// Rows that the database expects it to yield, where it can tell: scratch tables of an earlier step may not be there
    /// yet.
    pub estimated_rows: Option<u64>,
    /// The database's estimate of the cost, in its own units.
    pub estimated_cost: Option<f64>,
}
