//! Comparing derived tables with a rebuild, inside the database.
//!
//! The steps themselves compute the rebuild, asked with the trait `verify`, and the step that would commit answers with
//! what differs. All of it happens in one transaction on one session, which sees one state of the warehouse from the first
//! question to the last: a batch that lands or is processed meanwhile is neither rebuilt nor compared. Its scratch tables
//! have names of their own, so no run waits for it and it waits for none, and it takes no lease. In the end, or whatever
//! happens, it is rolled back: nothing of it stays, even if the host is killed.
//!
//! A reducer reads on that session too, in one part: others do not see the scratch tables.
//!
//! What it costs while it lasts: the server cannot clean up rows that were deleted since it began, as with any long query.

pub mod found;

use std::time::Instant;

use serde::Serialize;
use serde_json::json;
use stepwell_sandbox::contract::Plan;
use stepwell_warehouse::{Access, AnswerLimits, Session};
use stepwell_workflow::{Step, Workflow};

use crate::components::Components;
use crate::connect;
use crate::conversation::{Conversation, Whom};
use crate::convert;
use crate::error::{Problem, RunError, one_line};
use crate::init;
use crate::observe::{Event, Observer};
use crate::policy::Checked;
use crate::reduce::{self, Prepared, ReductionWithin};
use crate::run::{Interrupts, RunOptions};
use crate::source;
use crate::step::{self, Asked, Steps};
use crate::stop::Stop;

/// The alias under which steps publish what they found.
const VERIFY: &str = "verify";

/// What to compare; everything unless it says less.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct VerifyOptions {
    /// Only keys with an event at this time or later.
    pub since: Option<jiff::Timestamp>,
    /// Only keys with an event before this time.
    pub until: Option<jiff::Timestamp>,
    /// Only some of the keys.
    pub sample: Option<Sample>,
    /// Another seed chooses other keys.
    pub seed: u64,
    /// Most rows that are named for each table and kind of difference.
    pub limit: u32,
}

/// Some of the keys, chosen by a hash of their values: the same ones each time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sample {
    /// A share of them, more than 0 and at most 1.
    Share(f64),
    /// So many, or all if there are fewer.
    Keys(u64),
}

impl VerifyOptions {
    /// The request as the contract has it.
    fn json(&self) -> serde_json::Value {
        let (share, keys) = match self.sample {
            Some(Sample::Share(share)) => (Some(share), None),
            Some(Sample::Keys(keys)) => (None, Some(keys)),
            None => (None, None),
        };
        json!({
            "since": self.since.map(|time| time.to_string()),
            "until": self.until.map(|time| time.to_string()),
            "share": share,
            "keys": keys,
            "seed": self.seed,
            "limit": self.limit,
        })
    }
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerifyReport {
    /// The playbook.
    pub playbook: String,
    /// What was compared.
    pub compared: VerifyOptions,
    /// Whether a derived table is not as in the rebuild.
    pub differs: bool,
    /// The batches; none where the workflow has no step that knows them.
    pub batches: Option<found::Batches>,
    /// The derived tables.
    pub tables: Vec<found::Table>,
    /// Steps that took no part, with the reason.
    pub left_out: Vec<LeftOut>,
    /// Remarks of steps.
    pub notes: Vec<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// A step that took no part in a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Its id.
    pub step: String,
    /// Why.
    pub reason: String,
}

/// Compares the derived tables of a workflow with a rebuild over the batches in its manifest. Nothing is written that
/// stays.
///
/// # Errors
///
/// [`RunError`] if a step fails, or if no step of the workflow compares anything; [`Problem::NotVerifiable`], before the
/// warehouse is connected to, if a step is a third party's.
pub async fn verify(
    workflow: &Workflow,
    components: &Components,
    options: &RunOptions,
    what: &VerifyOptions,
    observer: &dyn Observer,
    stop: Stop,
) -> Result<VerifyReport, RunError> {
    let begun = Instant::now();
    refuse_third_parties(workflow)?;
    let run_id = uuid::Uuid::now_v7().to_string();
    // Random, so that two verifications of a playbook do not meet either; and short, since names are cut at 63 bytes.
    let workflow = &workflow.with_scratch_family(&format!("v${}", &run_id[run_id.len() - 6..]));
    let target = connect::target(workflow, options).await?;
    let (session, loaded) = tokio::try_join!(
        connect::session(workflow, &target, "verify"),
        components.load(workflow, 0..workflow.steps.len())
    )?;
    source::check(&session, workflow, options).await?;
    init::check(&session, workflow).await?;
    let as_of_us = options.point_in_time().as_microsecond();
    let verification = Verification {
        steps: Steps::new(workflow, loaded, options, run_id, as_of_us)
            .asking(Asked::Verify(what.json())),
        session,
        interrupts: Interrupts::new(workflow.playbook.as_str()),
        observer,
    };
    let listening = verification
        .interrupts
        .while_listening(stop, verification.run(what));
    let mut report = listening.await?;
    report.duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}

/// Refuses a workflow with a third party's step, before any work: all that comes before that step would be for nothing. Its
/// SQL must not run here at all, since every statement of a verification is the workflow's login's.
fn refuse_third_parties(workflow: &Workflow) -> Result<(), RunError> {
    for index in 0..workflow.steps.len() {
        if let Some(plugin) = step::third_party(workflow, index) {
            let problem = Problem::NotVerifiable {
                plugin: plugin.name.clone(),
            };
            return Err(RunError::new(problem).at(step::place(workflow, index)));
        }
    }
    Ok(())
}

struct Verification<'a> {
    steps: Steps<'a>,
    session: Session,
    interrupts: Interrupts,
    observer: &'a dyn Observer,
}

impl Verification<'_> {
    async fn run(&self, what: &VerifyOptions) -> Result<VerifyReport, RunError> {
        let workflow = self.steps.workflow;
        let mut report = VerifyReport {
            playbook: workflow.playbook.as_str().to_owned(),
            compared: what.clone(),
            differs: false,
            batches: None,
            tables: Vec::new(),
            left_out: Vec::new(),
            notes: Vec::new(),
            duration_ms: 0,
        };
        let began = self
            .interrupts
            .guard(&self.session, self.session.begin(Access::Snapshot))
            .await?;
        began.map_err(RunError::warehouse("begin to verify"))?;
        let outcome = self.all(&mut report).await;
        // The connection closes in the end, which undoes the transaction as well.
        let undoing =
            tokio::time::timeout(std::time::Duration::from_secs(1), self.session.rollback());
        let _ = undoing.await;
        outcome?;
        if report.tables.is_empty() {
            return Err(RunError::new(Problem::Refused(
                "no step of this workflow compares a derived table when it is asked to verify"
                    .into(),
            )));
        }
        report.differs = report.tables.iter().any(found::Table::differs);
        Ok(report)
    }

    async fn all(&self, report: &mut VerifyReport) -> Result<(), RunError> {
        let workflow = self.steps.workflow;
        let mut done = vec![false; workflow.steps.len()];
        for index in workflow.order() {
            let step = &workflow.steps[index];
            let reason = match step.needs.iter().find(|&&needed| !done[needed]) {
                // What only waits for another step, and reads nothing of it, can do without.
                Some(&needed) if reads_from(step, &workflow.steps[needed]) => {
                    Some(format!("it needs step \"{}\"", workflow.steps[needed].id))
                }
                // As in a run: in one piece the future of a step fills half of a thread's stack. So what asks a plugin
                // or folds rows waits on the heap by itself, below.
                _ => Box::pin(self.step(index, report)).await?,
            };
            match reason {
                None => done[index] = true,
                Some(reason) => report.left_out.push(LeftOut {
                    step: step.id.clone(),
                    reason,
                }),
            }
        }
        Ok(())
    }

    /// One step: asked, checked, run. Returns the reason if it takes no part.
    async fn step(
        &self,
        index: usize,
        report: &mut VerifyReport,
    ) -> Result<Option<String>, RunError> {
        let begun = Instant::now();
        let workflow = self.steps.workflow;
        let step = &workflow.steps[index];
        self.event(&Event::StepStarted { step: &step.id });
        let (plan, reducer) = match self.plan(index).await {
            Ok(planned) => planned,
            Err(error) if !step.critical && self.interrupts.check().is_ok() => {
                return Ok(Some(one_line(&error)));
            }
            Err(error) => return Err(error),
        };
        if let Some(reason) = self.beyond_scratch(&plan) {
            return Ok(Some(reason));
        }
        let rows = match reducer {
            None => self.statements(index, &plan).await?,
            Some(prepared) => Box::pin(self.fold(index, prepared)).await?,
        };
        self.steps.publish(index, &plan);
        for publication in plan
            .publishes
            .iter()
            .filter(|publication| publication.alias == VERIFY)
        {
            let published: found::Published =
                serde_json::from_str(&publication.about).map_err(|error| {
                    let message =
                        format!("it says of the verification what cannot be read: {error}");
                    RunError::new(Problem::Refused(message)).at(self.steps.place(index))
                })?;
            report.batches = published.batches.or(report.batches.take());
            report.tables.extend(published.tables);
        }
        for note in &plan.notes {
            self.event(&Event::Note {
                step: &step.id,
                note,
            });
            report.notes.push(format!("{}: {note}", step.id));
        }
        self.event(&Event::StepDone {
            step: &step.id,
            duration: begun.elapsed(),
            rows,
        });
        Ok(None)
    }

    /// Asks a step for its plan, a reducer for its shape. One that fails leaves the transaction as it was.
    async fn plan(&self, index: usize) -> Result<(Checked<Plan>, Option<Prepared>), RunError> {
        let doing = || RunError::warehouse("verify");
        self.session
            .batch("SAVEPOINT step")
            .await
            .map_err(doing())?;
        let planned = match self.steps.is_reducer(index) {
            true => Box::pin(self.shape(index)).await,
            false => {
                let conversation = self.steps.conversation(index);
                let plan = conversation.plan(Whom::Workflow(&self.session), &self.interrupts);
                Box::pin(plan).await.map(|plan| (plan, None))
            }
        };
        let end = match planned {
            Ok(_) => "RELEASE SAVEPOINT step",
            Err(_) => "ROLLBACK TO SAVEPOINT step; RELEASE SAVEPOINT step",
        };
        match (planned, self.session.batch(end).await) {
            (Ok(planned), ended) => ended.map_err(doing()).map(|()| planned),
            // The first error is the one that counts.
            (Err(error), _) => Err(error),
        }
    }

    async fn shape(&self, index: usize) -> Result<(Checked<Plan>, Option<Prepared>), RunError> {
        let (steps, session, interrupts) = (&self.steps, &self.session, &self.interrupts);
        let conversation = steps.conversation(index);
        let shape = conversation
            .shape(Whom::Workflow(session), interrupts)
            .await?;
        let plan = reduce::as_plan(&shape, steps, index)?;
        let prepared = Prepared::new(shape, steps, index, session, interrupts).await?;
        Ok((plan, Some(prepared)))
    }

    /// Lets rows through a reducer; returns how many it gave.
    async fn fold(&self, index: usize, prepared: Prepared) -> Result<u64, RunError> {
        let Conversation {
            component,
            limits,
            info,
            place,
            ..
        } = self.steps.conversation(index);
        self.event(&Event::StatementStarted {
            step: &place.id,
            label: "fold rows",
            number: 1,
            count: 1,
        });
        let reduction = ReductionWithin {
            session: &self.session,
            interrupts: &self.interrupts,
            prepared,
            component,
            limits: limits.clone(),
            info,
            place,
            batch_rows: self.steps.reducer_batch_rows,
        };
        reduction.run().await
    }

    /// Returns why a plan is no part of a verification, if it would change more than scratch tables.
    fn beyond_scratch(&self, plan: &Plan) -> Option<String> {
        let scratch = &self.steps.workflow.schemas.scratch;
        let beyond = |name: &&String| {
            name.parse::<stepwell_sql::TableName>()
                .map_or(true, |table| table.schema() != scratch)
        };
        if !plan.atomic {
            return Some("it works outside of a transaction".to_owned());
        }
        let mut writes = plan
            .statements
            .iter()
            .flat_map(|statement| &statement.writes);
        writes
            .find(beyond)
            .map(|table| format!("it would write {table}"))
    }

    /// Runs the statements; returns how many rows they wrote.
    async fn statements(&self, index: usize, plan: &Checked<Plan>) -> Result<u64, RunError> {
        let place = self.steps.place(index);
        let count = plan.statements.len();
        let mut written = 0;
        for (at, statement) in plan.statements.iter().enumerate() {
            let number = at + 1;
            self.event(&Event::StatementStarted {
                step: &place.id,
                label: &statement.label,
                number,
                count,
            });
            let params = convert::params(&statement.params);
            let running = async {
                match &statement.measure {
                    None => self.session.execute(&statement.sql, &params).await,
                    Some(_) => {
                        let limits = AnswerLimits {
                            rows: 1,
                            bytes: 1 << 16,
                        };
                        self.session
                            .ask(&statement.sql, &params, &limits)
                            .await
                            .map(|_| 0)
                    }
                }
            };
            let done = self.interrupts.guard(&self.session, running).await?;
            let rows = done.map_err(|source| {
                let place = place.of_statement(statement, number, count);
                RunError::new(Problem::Statement { source }).at(place)
            })?;
            if !statement.writes.is_empty() {
                written += rows;
            }
        }
        Ok(written)
    }

    fn event(&self, event: &Event<'_>) {
        self.observer
            .event(self.steps.workflow.playbook.as_str(), event);
    }
}

/// Whether a step reads a scratch table that another one fills.
fn reads_from(step: &Step, other: &Step) -> bool {
    step.reads_scratch.iter().any(|(read, _)| {
        other
            .writes_scratch
            .iter()
            .any(|(written, _)| read == written)
    })
}
