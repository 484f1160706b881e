//! Going on with a run that failed: which of its steps need not be done again.
//!
//! For each step that is done the journal keeps what later steps need of it: what it published, and which scratch tables
//! it filled, with the files that they lie in. Beside that stand digests of all that decided what it did: its settings
//! and plugin in its own row, the workflow's source and schemas in that of the run. A later run takes the step's work for
//! its own only where all of this is as it was, and where nobody held the playbook's lease in between: then the manifest
//! is as it was too.
//!
//! A run that failed before it wrote anything, as a replay of a batch that is nowhere does, is as if it had not been: the
//! one before it counts. It says so itself, by an end without a digest, and no step of it is in the journal. What was
//! stopped or died may have had a statement on its way, and counts.
//!
//! Scratch tables that may be large are unlogged, so a crash of the server, or of one of its processes, leaves them empty,
//! in the same files. (Small ones are in the log, ahead of the journal's row: where that outlived a crash, so did they.) A
//! table that had pages then has none, which is how that is found out; the time at which the server started
//! does not change where it only recovers.
//!
//! Steps that are done again may have other settings than before: to mend the one that failed is what going on is for.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use stepwell_sandbox::{Component, Digest};
use stepwell_warehouse::{AnswerLimits, Param, Session};
use stepwell_workflow::{Trust, Workflow};

use crate::error::{Problem, RunError};
use crate::lease::Lease;
use crate::replay::Replay;
use crate::run::RunOptions;
use crate::step;

/// What a run takes over from one that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resumed {
    /// The run that failed.
    pub(crate) run_id: String,
    /// The pass that it failed in.
    pub(crate) pass: i64,
    /// The step to go on from.
    pub(crate) from: String,
    /// By index: whether the step is not done again.
    pub(crate) reused: Vec<bool>,
    /// What those steps published, by scratch alias.
    pub(crate) facts: Vec<(String, String)>,
    /// The run's point in time, in microseconds since 1970, UTC.
    pub(crate) as_of_us: i64,
    pub(crate) full_refresh: bool,
    pub(crate) max_batches: Option<u32>,
}

/// Decides whether a run can go on from a step, by what the last run left. Nothing is written.
///
/// # Errors
///
/// [`Problem::CannotContinue`] with the reason if it cannot.
pub(crate) async fn resume(
    control: &Session,
    workflow: &Workflow,
    components: &BTreeMap<usize, Component>,
    from: &str,
) -> Result<Resumed, RunError> {
    let refuse = |refusal: Refusal| refusal.into_error(from);
    let index = position(workflow, from).map_err(refuse)?;
    let left = Left::read(control, workflow).await?.ok_or_else(|| {
        refuse(Refusal::whole(format!(
            "no run of playbook \"{}\" is in the journal",
            workflow.playbook
        )))
    })?;
    left.resumed(workflow, &plugin_digests(workflow, components), index)
        .map_err(|refusal| refuse(left.anew(refusal)))
}

/// Makes sure that nobody held the lease between the run that failed and this one, which holds it now.
///
/// # Errors
///
/// [`Problem::CannotContinue`] if somebody did.
pub(crate) async fn still(
    control: &Session,
    workflow: &Workflow,
    components: &BTreeMap<usize, Component>,
    lease: &Lease,
    before: &Resumed,
) -> Result<(), RunError> {
    // The lease is this run's, and this run not yet in the journal.
    let now = Left::read(control, workflow).await?;
    let in_between = || Refusal::whole("another run of the playbook began in the meantime");
    let index = position(workflow, &before.from);
    let resumed = index.and_then(|index| {
        let now = now.ok_or_else(in_between)?;
        let now = Left {
            lease_token: lease.token - 1,
            ..now
        };
        now.resumed(workflow, &plugin_digests(workflow, components), index)
    });
    let refusal = match resumed {
        Ok(resumed) if resumed == *before => return Ok(()),
        Ok(_) => in_between(),
        Err(refusal) => refusal,
    };
    Err(refusal.into_error(&before.from))
}

/// Returns the step at which a run that failed in `failed` could go on; none if it could not. `done` says which steps of
/// the pass are.
pub(crate) fn offered(workflow: &Workflow, done: &[bool], failed: usize) -> Option<String> {
    let finished = |index: usize| match done.get(index) {
        Some(true) => Ok(()),
        _ => Err("it is not done".to_owned()),
    };
    reused(workflow, failed, &finished, "this run").ok()?;
    Some(workflow.steps[failed].id.clone())
}

/// Returns the digest of all that decides what any step of the workflow does.
pub(crate) fn workflow_digest(workflow: &Workflow) -> String {
    let source = workflow.source.as_ref();
    digest(&json!({
        "stepwell": env!("CARGO_PKG_VERSION"),
        "playbook": workflow.playbook.as_str(),
        "scratch": workflow.schemas.scratch,
        "derived": workflow.schemas.derived,
        "manifest": workflow.manifest.to_string(),
        "source": source.map(stepwell_workflow::Source::json),
        "session": workflow.warehouse.settings,
    }))
}

/// Returns the digest of the settings of a step, SQL files and variables included.
pub(crate) fn settings_digest(workflow: &Workflow, index: usize) -> String {
    let step = &workflow.steps[index];
    digest(&json!({ "uses": step.uses, "with": step.with }))
}

/// What was asked of a run, for the journal and for a run that goes on with it. Null for an ordinary one.
pub(crate) fn request(options: &RunOptions, resumed: Option<&Resumed>) -> Value {
    if let Some(replay) = &options.replay {
        return Replay::journalled(replay);
    }
    let mut request = serde_json::Map::new();
    // What it takes over from the run before it, the one after it takes over too.
    if options.full_refresh || resumed.is_some_and(|it| it.full_refresh) {
        request.insert("full-refresh".into(), true.into());
    }
    let batches = options.max_batches;
    if let Some(batches) = batches.or(resumed.and_then(|it| it.max_batches)) {
        request.insert("max-batches".into(), batches.into());
    }
    if let Some(resumed) = resumed {
        request.insert("from".into(), resumed.from.as_str().into());
        request.insert("continues".into(), resumed.run_id.as_str().into());
    }
    match request.is_empty() {
        true => Value::Null,
        false => Value::Object(request),
    }
}

/// What to do where nothing can be taken over.
const RUN_ALL: &str = "Run all steps: `stepwell run <workflow>`.";

/// Why a run cannot go on, and what to do instead.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal {
    why: String,
    help: String,
    /// The step from which going on might be possible.
    earlier: Option<usize>,
}

impl Refusal {
    /// Nothing can be taken over.
    fn whole(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            help: RUN_ALL.into(),
            earlier: None,
        }
    }

    /// What comes before a step can be.
    fn from(why: String, earlier: usize) -> Self {
        Self {
            earlier: Some(earlier),
            ..Self::whole(why)
        }
    }

    /// The error of a run that was to go on `from` a step.
    fn into_error(self, from: &str) -> RunError {
        RunError::new(Problem::CannotContinue {
            from: from.to_owned(),
            why: self.why,
            help: self.help,
        })
    }
}

/// What the last run of a playbook left, as the journal and the catalog have it.
#[derive(Debug, Clone)]
struct Left {
    run_id: String,
    command: String,
    state: String,
    /// The token under which it ran.
    token: i64,
    /// The token that the lease has.
    lease_token: i64,
    /// Runs after it, none of which wrote anything; each took a token.
    later_runs: i64,
    as_of_us: i64,
    request: Value,
    workflow_digest: Option<String>,
    /// The first pass that is not committed.
    pass: i64,
    /// Its steps in that pass, by id.
    steps: BTreeMap<String, LeftStep>,
}

/// A step of that run.
#[derive(Debug, Clone, Default)]
struct LeftStep {
    done: bool,
    plugin_digest: String,
    settings_digest: String,
    facts: Vec<(String, String)>,
    /// A scratch table that is not as the step left it, and what became of it.
    changed: Option<String>,
}

impl Left {
    async fn read(control: &Session, workflow: &Workflow) -> Result<Option<Self>, RunError> {
        let reading = || RunError::warehouse("read what the last run left");
        // Whoever takes the lease takes the next token, so that runs which wrote nothing can be told from anybody else.
        let sql = "SELECT r.run_id, r.command, r.state, r.lease_token, l.token,
              (SELECT count(*) FROM stepwell.runs AS later
               WHERE later.playbook = l.playbook AND later.lease_token > r.lease_token) AS later_runs,
              round(extract(epoch FROM r.as_of)::numeric * 1000000)::bigint AS as_of_us,
              r.request::text AS request, r.workflow_digest, r.passes + 1 AS pass
            FROM stepwell.leases AS l
            JOIN stepwell.runs AS r ON r.playbook = l.playbook
            WHERE l.playbook = $1
            ORDER BY r.state = 'failed' AND r.command <> 'forget' AND r.workflow_digest IS NULL
                AND NOT EXISTS (SELECT FROM stepwell.steps AS s WHERE s.run_id = r.run_id),
              r.lease_token DESC, r.started_at DESC
            LIMIT 1";
        let playbook = [Param::Text(workflow.playbook.as_str().to_owned())];
        let run = control.ask(sql, &playbook, &AnswerLimits::default()).await;
        let run = run.map_err(reading())?;
        if run.rows == 0 {
            return Ok(None);
        }
        let text = |name: &str| run.text(0, name).unwrap_or_default().to_owned();
        let number = |name: &str| run.int64(0, name).unwrap_or_default();
        let mut left = Self {
            run_id: text("run_id"),
            command: text("command"),
            state: text("state"),
            token: number("lease_token"),
            lease_token: number("token"),
            later_runs: number("later_runs"),
            as_of_us: number("as_of_us"),
            request: serde_json::from_str(&text("request")).unwrap_or_default(),
            workflow_digest: run.text(0, "workflow_digest").map(str::to_owned),
            pass: number("pass"),
            steps: BTreeMap::new(),
        };
        let sql = "SELECT s.step_id, s.state IN ('done', 'reused') AS done, s.plugin_digest, s.settings_digest,
              s.facts::text AS facts, (
                SELECT 'table ' || t.name || CASE
                    WHEN c.oid IS NULL THEN ' is gone'
                    WHEN t.oid IS NULL OR c.oid <> t.oid::oid OR pg_relation_filenode(c.oid) <> t.file::oid
                    THEN ' was made anew'
                    ELSE ' lost its rows in a crash of the server'
                  END
                FROM jsonb_to_recordset(s.tables) AS t (name text, oid bigint, file bigint, filled boolean)
                LEFT JOIN pg_catalog.pg_class AS c ON c.oid = to_regclass(t.name)
                WHERE c.oid IS DISTINCT FROM t.oid::oid
                  OR pg_relation_filenode(c.oid) IS DISTINCT FROM t.file::oid
                  OR t.filled AND pg_relation_size(c.oid) = 0
                LIMIT 1
              ) AS changed
            FROM stepwell.steps AS s
            WHERE s.run_id = $1 AND s.pass = $2";
        let params = [Param::Text(left.run_id.clone()), Param::Int64(left.pass)];
        let steps = control.ask(sql, &params, &AnswerLimits::default()).await;
        let steps = steps.map_err(reading())?;
        for row in 0..steps.rows as usize {
            let text = |name: &str| steps.text(row, name).unwrap_or_default().to_owned();
            let step = LeftStep {
                done: steps.boolean(row, "done").unwrap_or(false),
                plugin_digest: text("plugin_digest"),
                settings_digest: text("settings_digest"),
                facts: serde_json::from_str(&text("facts")).unwrap_or_default(),
                changed: steps.text(row, "changed").map(str::to_owned),
            };
            left.steps.insert(text("step_id"), step);
        }
        Ok(Some(left))
    }

    /// Decides, and says from where else it could go on if not from there.
    fn resumed(
        &self,
        workflow: &Workflow,
        plugins: &[String],
        from: usize,
    ) -> Result<Resumed, Refusal> {
        self.open(workflow)?;
        let as_left = |index: usize| self.as_left(workflow, plugins, index);
        let run = format!("run {}", self.run_id);
        let decide = |from| reused(workflow, from, &as_left, &run);
        let reused = decide(from).map_err(|refusal| {
            let (mut earlier, mut tries) = (refusal.earlier, workflow.steps.len());
            while let Some(step) = earlier.filter(|_| tries > 0) {
                tries -= 1;
                match decide(step) {
                    Ok(_) => {
                        let id = &workflow.steps[step].id;
                        let help =
                            format!("Go on from there: `stepwell run <workflow> --from {id}`.");
                        return Refusal { help, ..refusal };
                    }
                    Err(other) => earlier = other.earlier,
                }
            }
            refusal
        })?;
        // What a plugin said before it was called a third party's is not heard any more.
        let own = |index: &usize| {
            let entry = workflow.plugins.get(&workflow.steps[*index].uses);
            entry.is_none_or(|entry| entry.trust == Trust::Own)
        };
        let facts = (0..reused.len()).filter(|&index| reused[index]).filter(own);
        let facts = facts.flat_map(|index| self.steps[&workflow.steps[index].id].facts.clone());
        let batches = self.request["max-batches"].as_u64();
        Ok(Resumed {
            run_id: self.run_id.clone(),
            pass: self.pass,
            from: workflow.steps[from].id.clone(),
            facts: facts.collect(),
            reused,
            as_of_us: self.as_of_us,
            full_refresh: self.request["full-refresh"].as_bool().unwrap_or(false),
            max_batches: batches.and_then(|batches| u32::try_from(batches).ok()),
        })
    }

    /// Says how to do all of it again: what began as a full refresh and did not end is to be one.
    fn anew(&self, refusal: Refusal) -> Refusal {
        let ended = matches!(
            self.state.as_str(),
            "done" | "nothing-new" | "done-with-failures"
        );
        match self.request["full-refresh"].as_bool() {
            Some(true) if !ended && refusal.help == RUN_ALL => Refusal {
                help: RUN_ALL.replace("<workflow>", "<workflow> --full-refresh"),
                ..refusal
            },
            _ => refusal,
        }
    }

    /// Whether the run left anything that a run of this workflow could go on with.
    fn open(&self, workflow: &Workflow) -> Result<(), Refusal> {
        let run = &self.run_id;
        if self.token + self.later_runs != self.lease_token {
            return Err(Refusal::whole(format!(
                "after run {run} somebody else held the playbook's lease, and may have changed its tables"
            )));
        }
        if self.command != "run" {
            return Err(Refusal::whole(format!(
                "the last run, {run}, was a `manifest {}`",
                self.command
            )));
        }
        // `committed` is the state of a run that died in a later slice.
        if !matches!(
            self.state.as_str(),
            "failed" | "stopped" | "running" | "committed"
        ) {
            return Err(Refusal::whole(format!(
                "the last run, {run}, did not fail: nothing is left to go on with"
            )));
        }
        if !self.steps.values().any(|step| step.done) {
            return Err(Refusal::whole(format!(
                "run {run} left no step done beyond what it committed"
            )));
        }
        if self.workflow_digest.as_deref() != Some(&workflow_digest(workflow)) {
            return Err(Refusal::whole(format!(
                "since run {run} the workflow's source, schemas, manifest or session settings have changed, or Stepwell \
                 itself"
            )));
        }
        Ok(())
    }

    /// Whether a step need not be done again; otherwise why.
    fn as_left(&self, workflow: &Workflow, plugins: &[String], index: usize) -> Result<(), String> {
        let step = match self.steps.get(&workflow.steps[index].id) {
            Some(step) if step.done => step,
            _ => return Err("it was not done".into()),
        };
        if step.settings_digest != settings_digest(workflow, index) {
            return Err("its settings have changed since".into());
        }
        if step.plugin_digest != plugins[index] {
            return Err("its plugin has changed since".into());
        }
        match &step.changed {
            Some(changed) => Err(changed.clone()),
            None => Ok(()),
        }
    }
}

/// Decides which steps need not be done again in a run that begins at `from`. `as_left` says of a step whether it is as
/// `run` left it, and why not otherwise.
///
/// Done again are that step, steps that are not as they were left, and all that need one of these.
fn reused(
    workflow: &Workflow,
    from: usize,
    as_left: &impl Fn(usize) -> Result<(), String>,
    run: &str,
) -> Result<Vec<bool>, Refusal> {
    let steps = &workflow.steps;
    let id = |index: usize| format!("\"{}\"", steps[index].id);
    let before = before(workflow, from);
    let gate = step::gate(workflow);
    if gate.is_some_and(|gate| gate == from || before_of(workflow, gate, from)) {
        let gate = gate.map(id).unwrap_or_default();
        return Err(Refusal::whole(format!(
            "step {gate} finds out what is pending, and a run can only go on after it"
        )));
    }
    let mut again = vec![false; steps.len()];
    for index in workflow.order() {
        let left = as_left(index);
        again[index] =
            index == from || left.is_err() || steps[index].needs.iter().any(|&n| again[n]);
        // Without the gate nobody knows what is pending, wherever it stands.
        if let (Err(why), true) = (left, before[index] || Some(index) == gate) {
            return Err(Refusal::from(
                format!("step {} of {run} cannot be taken over: {why}", id(index)),
                index,
            ));
        }
    }
    // A scratch table has one step that fills it; what empties all of them is the one thing that could be in the way.
    let empties = |index: usize| {
        let writes = &steps[index].kind.writes;
        again[index] && writes.iter().any(|word| word == "scratch")
    };
    let filled = (0..steps.len()).find(|&i| !again[i] && !steps[i].writes_scratch.is_empty());
    if let (Some(empties), Some(filled)) = ((0..steps.len()).find(|&i| empties(i)), filled) {
        return Err(Refusal::whole(format!(
            "step {} would empty what step {} of {run} filled",
            id(empties),
            id(filled)
        )));
    }
    Ok(again.into_iter().map(|again| !again).collect())
}

/// Returns, by index, whether a step must be done before `step`.
fn before(workflow: &Workflow, step: usize) -> Vec<bool> {
    let mut before = vec![false; workflow.steps.len()];
    let mut open = vec![step];
    while let Some(index) = open.pop() {
        for &needed in &workflow.steps[index].needs {
            if !std::mem::replace(&mut before[needed], true) {
                open.push(needed);
            }
        }
    }
    before
}

/// Whether `step` must be done before `later`.
fn before_of(workflow: &Workflow, later: usize, step: usize) -> bool {
    before(workflow, later)[step]
}

fn position(workflow: &Workflow, from: &str) -> Result<usize, Refusal> {
    let found = workflow.steps.iter().position(|step| step.id == from);
    found.ok_or_else(|| {
        let ids: Vec<&str> = workflow.steps.iter().map(|step| step.id.as_str()).collect();
        Refusal {
            why: "the workflow has no such step".into(),
            help: format!("Its steps are: {}.", ids.join(", ")),
            earlier: None,
        }
    })
}

fn plugin_digests(workflow: &Workflow, components: &BTreeMap<usize, Component>) -> Vec<String> {
    (0..workflow.steps.len())
        .map(|index| {
            let component = components.get(&index);
            component.map_or_else(String::new, |component| component.digest().to_string())
        })
        .collect()
}

fn digest(value: &Value) -> String {
    Digest::of(value.to_string().as_bytes()).to_string()
}
