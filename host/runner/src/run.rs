//! A run: lease, gate, steps, and the end of it.

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use stepwell_sandbox::contract::Plan;
use stepwell_warehouse::{Session, Target, WarehouseError};
use stepwell_workflow::Workflow;
use tokio::sync::watch;

use crate::components::Components;
use crate::connect;
use crate::conversation::or_cancelled;
use crate::error::{Problem, RunError, WarehouseState};
use crate::execute::{Executed, Execution};
use crate::journal::{End, Journal, Progress};
use crate::lease::Lease;
use crate::observe::{Event, Observer};
use crate::pool::Pool;
use crate::report::{Outcome, RetryReport, RunReport, StepReport, StepState};
use crate::retry::Retries;
use crate::start::Start;
use crate::step::Steps;
use crate::stop::Stop;

/// Passes through the steps of one run, each of up to 10,000 batches. Reaching it is an error: a gate step that always
/// finds something would otherwise keep the run going for ever.
const PASSES_MAX: u32 = 100_000;

/// How long the work of a run may go on after it was asked to stop, for its statements to be cancelled and rolled back.
/// With [`END_WAIT`] this is within two seconds.
const STOP_WAIT: Duration = Duration::from_millis(1000);

/// How long a run that failed may take to journal that and give its lease back.
const END_WAIT: Duration = Duration::from_millis(700);

/// How long a run that lost its control session may take to find out what became of its lease.
const LOOK_WAIT: Duration = Duration::from_secs(5);

/// How to run a workflow.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// The run's point in time; now unless given.
    pub as_of: Option<jiff::Timestamp>,
    /// Computes everything again, and replaces the derived tables whole.
    pub full_refresh: bool,
    /// Most batches of one pass; a longer backlog takes several, each committed on its own.
    pub max_batches: Option<u32>,
    /// The folder whose `.stepwell` holds the private local server.
    pub project_dir: PathBuf,
    /// Goes there rather than where the workflow says. Counts as private: missing tables of the host are made.
    pub target: Option<Target>,
}

impl RunOptions {
    /// Returns `as_of`, or now: the one place where a run reads the clock.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the runner, and the clock is read once"
    )]
    pub(crate) fn point_in_time(&self) -> jiff::Timestamp {
        self.as_of.unwrap_or_else(jiff::Timestamp::now)
    }
}

/// Runs a workflow until nothing is pending.
///
/// # Errors
///
/// [`RunError`], which says in what state the warehouse was left. The lease is given back in each case in which the
/// warehouse can still be reached.
pub async fn run(
    workflow: &Workflow,
    components: &Components,
    options: &RunOptions,
    observer: &dyn Observer,
    stop: Stop,
) -> Result<RunReport, RunError> {
    let begun = Instant::now();
    let as_of = options.point_in_time();
    let as_of_us = as_of.as_microsecond();
    let run_id = uuid::Uuid::now_v7().to_string();
    let retries = Retries::of(workflow);
    let start = Start {
        workflow,
        components,
        options,
        observer,
        retries: &retries,
        run_id: &run_id,
        as_of_us,
    };
    let started = start.run(stop.clone()).await?;
    let target = &started.target;
    let context = Context {
        steps: Steps::new(workflow, started.loaded, options, run_id.clone(), as_of_us),
        components,
        target,
        lease: started.lease,
        journal: started.journal,
        control: started.control,
        pool: Pool::new(workflow, target, run_id.clone(), started.first),
        interrupts: Interrupts::new(workflow.playbook.as_str()),
        observer,
        retries: &retries,
        committing: AtomicBool::new(false),
        state: Mutex::new(WarehouseState::Unchanged),
        totals: Mutex::new(Totals::default()),
    };
    context.event(&Event::RunStarted { run_id: &run_id });
    if let Some(died) = &context.lease.took_over {
        context.event(&Event::TookOver { run_id: died });
    }
    let outcome = tokio::select! {
        outcome = context.passes() => outcome,
        overdue = context.overdue(stop.clone()) => Err(overdue),
        never = context.watch(stop) => match never {},
    };
    context.end(outcome, as_of, begun).await
}

/// All that the steps of one run share.
pub(crate) struct Context<'a> {
    pub(crate) steps: Steps<'a>,
    components: &'a Components,
    pub(crate) target: &'a Target,
    pub(crate) lease: Lease,
    pub(crate) journal: Journal,
    pub(crate) interrupts: Interrupts,
    control: Session,
    pool: Pool<'a>,
    observer: &'a dyn Observer,
    retries: &'a Retries,
    /// Whether a COMMIT with the manifest is on its way.
    pub(crate) committing: AtomicBool,
    state: Mutex<WarehouseState>,
    totals: Mutex<Totals>,
}

/// What the run has done so far.
#[derive(Debug, Default)]
struct Totals {
    progress: Progress,
    /// The last pass that is committed.
    committed: u32,
    steps: Vec<StepReport>,
}

/// A step that ended.
struct Ended {
    /// The step, unless it failed without failing the run: what needs it is then skipped.
    done: Option<usize>,
    /// The run ends here, for this reason.
    ends_run: Option<String>,
}

impl Context<'_> {
    pub(crate) fn event(&self, event: &Event<'_>) {
        self.observer
            .event(self.steps.workflow.playbook.as_str(), event);
    }

    /// Notes that something was written.
    pub(crate) fn wrote(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state == WarehouseState::Unchanged {
            *state = WarehouseState::ScratchWritten;
        }
    }

    /// Notes that a step changed tables beyond scratch in a transaction of its own.
    pub(crate) fn wrote_beyond_scratch(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(
            *state,
            WarehouseState::Unchanged | WarehouseState::ScratchWritten
        ) {
            *state = WarehouseState::BeyondScratch;
        }
    }

    /// Notes that a pass is committed.
    pub(crate) fn committed(&self) {
        self.set_state(WarehouseState::Committed);
        let pass = {
            let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
            totals.committed = totals.progress.passes;
            totals.committed
        };
        self.event(&Event::Committed { pass });
    }

    pub(crate) fn set_state(&self, state: WarehouseState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// The last pass that is committed; 0 if none is.
    fn committed_pass(&self) -> u32 {
        self.totals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .committed
    }

    fn progress(&self) -> Progress {
        self.totals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .progress
    }

    /// Gives signs of life, and listens for a request to stop. Never ends.
    async fn watch(&self, mut stop: Stop) -> std::convert::Infallible {
        let listening = async {
            let signal = stop.asked().await;
            self.interrupts.raise(Interrupt::Signal(signal));
        };
        tokio::join!(listening, self.beat());
        std::future::pending().await
    }

    /// Returns an error when the run was asked to stop and did not within [`STOP_WAIT`]: the server does not answer, say,
    /// or a plugin computes. What is open on the server is then undone as its connection closes.
    async fn overdue(&self, mut stop: Stop) -> RunError {
        let signal = stop.asked().await;
        tokio::time::sleep(STOP_WAIT).await;
        if self.committing.load(Ordering::Relaxed) {
            self.set_state(WarehouseState::Unknown);
        }
        RunError::new(Problem::Stopped { signal })
    }

    /// Gives signs of life until the lease is gone.
    async fn beat(&self) {
        loop {
            tokio::time::sleep(self.lease.heartbeat()).await;
            let patience = self.lease.expiry / 2;
            let beating = tokio::time::timeout(patience, self.lease.beat(&self.control)).await;
            let interrupt = match beating {
                Ok(Ok(())) => continue,
                Ok(Err(error)) if matches!(*error.problem, Problem::LeaseLost { .. }) => {
                    Interrupt::LeaseLost
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "no sign of life could be given");
                    Interrupt::ControlLost
                }
                Err(_) => Interrupt::ControlLost,
            };
            self.interrupts.raise(interrupt);
            return;
        }
    }

    /// Passes through the steps until the gate finds nothing.
    async fn passes(&self) -> Result<Outcome, RunError> {
        for pass in 1..=PASSES_MAX {
            let gate = match self.steps.gate() {
                Some(index) => Some((index, self.ask_gate(index).await?)),
                None => None,
            };
            let more = match &gate {
                Some((index, plan)) => {
                    if let Some(reason) = &plan.ends_run {
                        self.note(*index, plan);
                        let worked = pass > 1;
                        return Ok(if worked {
                            self.outcome()
                        } else {
                            Outcome::NothingNew {
                                reason: reason.clone(),
                            }
                        });
                    }
                    self.begin_pass(pass, &self.steps.pending(plan))
                }
                None => self.begin_pass(pass, &serde_json::Value::Null),
            };
            let missing = self.steps.without_component();
            if !missing.is_empty() {
                let workflow = self.steps.workflow;
                self.steps
                    .add(self.components.load(workflow, missing.into_iter()).await?);
            }
            if let Some(reason) = self.pass(pass, gate).await? {
                return Ok(if pass > 1 {
                    self.outcome()
                } else {
                    Outcome::NothingNew { reason }
                });
            }
            if !more {
                return Ok(self.outcome());
            }
            if self.committed_pass() < pass {
                let message = "the gate step says that more is pending, but no step noted batches as processed";
                return Err(RunError::new(Problem::Refused(message.into())));
            }
            self.steps.next_pass();
        }
        Err(RunError::new(Problem::Refused(format!(
            "the gate step still finds work after {PASSES_MAX} passes"
        ))))
    }

    fn outcome(&self) -> Outcome {
        let totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        match totals
            .steps
            .iter()
            .all(|step| step.state == StepState::Done)
        {
            true => Outcome::Done,
            false => Outcome::DoneWithFailures,
        }
    }

    /// Asks the gate step what is pending, before any step acts.
    async fn ask_gate(&self, index: usize) -> Result<Plan, RunError> {
        let asking = async || {
            let session = self.pool.take().await?;
            let plan = self
                .steps
                .conversation(index)
                .plan(&session, &self.interrupts)
                .await?;
            self.pool.give_back(session).await;
            Ok(plan)
        };
        let step = &self.steps.workflow.steps[index].id;
        self.repeated(step, asking, || true).await
    }

    /// Does work, and does it again while it fails for a reason that may pass, `safe` says that it did nothing, and its
    /// retries last.
    async fn repeated<T>(
        &self,
        name: &str,
        work: impl AsyncFn() -> Result<T, RunError>,
        safe: impl Fn() -> bool,
    ) -> Result<T, RunError> {
        let mut failed = 0;
        loop {
            let error = match work().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            failed += 1;
            // Without the control session the run cannot go on, whatever it does.
            if !safe() || self.control.is_closed() {
                return Err(error);
            }
            match self.retries.next(name, failed, &error) {
                Some((retry, wait)) => self.wait(&retry, wait).await?,
                None => return Err(error),
            }
        }
    }

    /// Shows and journals a retry, and waits for its time to come unless the run is to end.
    pub(crate) async fn wait(&self, retry: &RetryReport, wait: Duration) -> Result<(), RunError> {
        self.interrupts.check()?;
        self.event(&Event::Retrying { retry });
        if let Err(error) = self.journal.retry(&self.control, retry).await {
            tracing::warn!(%error, "a retry could not be journalled");
        }
        self.interrupts.sleep(wait).await
    }

    /// Returns a retry of a statement of a step, if it has one.
    pub(crate) fn retry(
        &self,
        work: &str,
        failed: u32,
        error: &RunError,
    ) -> Option<(RetryReport, Duration)> {
        self.retries.next(work, failed, error)
    }

    /// Adds what is pending to the totals; returns whether there is more than this pass takes.
    fn begin_pass(&self, pass: u32, pending: &serde_json::Value) -> bool {
        let (batches, events) = (pending["batches"].as_u64(), pending["events"].as_u64());
        {
            let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
            totals.progress.passes = pass;
            totals.progress.batches += batches.unwrap_or(0);
            totals.progress.events += events.unwrap_or(0);
        }
        if pass > 1 {
            self.set_state(WarehouseState::EarlierPassesCommitted);
        }
        self.event(&Event::PassStarted {
            pass,
            batches,
            events,
        });
        pending["more"].as_bool().unwrap_or(false)
    }

    /// Runs each step once all that it needs are done, those that do not need each other side by side.
    ///
    /// Returns the reason if a step ended the run.
    async fn pass(
        &self,
        pass: u32,
        gate: Option<(usize, Plan)>,
    ) -> Result<Option<String>, RunError> {
        let steps = &self.steps.workflow.steps;
        let (mut started, mut done) = (vec![false; steps.len()], vec![false; steps.len()]);
        let mut gate = gate;
        let mut running = FuturesUnordered::new();
        let (mut failure, mut ends_run) = (None::<RunError>, None);
        loop {
            if failure.is_none() && ends_run.is_none() {
                for index in 0..steps.len() {
                    if !started[index] && steps[index].needs.iter().all(|&needed| done[needed]) {
                        started[index] = true;
                        let plan = gate
                            .take_if(|(gate, _)| *gate == index)
                            .map(|(_, plan)| plan);
                        running.push(self.step(pass, index, plan));
                    }
                }
            }
            match running.next().await {
                None => break,
                Some(Ok(ended)) => {
                    if let Some(index) = ended.done {
                        done[index] = true;
                    }
                    ends_run = ends_run.or(ended.ends_run);
                }
                Some(Err(error)) => {
                    // The first failure is the one that counts; those after it follow from the cancelling.
                    failure.get_or_insert(error);
                    self.interrupts.raise(Interrupt::Sibling);
                }
            }
        }
        match failure {
            Some(failure) => Err(failure),
            None => {
                if ends_run.is_none() {
                    self.skip(pass, &started).await?;
                }
                Ok(ends_run)
            }
        }
    }

    /// Reports the steps that could not start, since one that they need failed without failing the run.
    async fn skip(&self, pass: u32, started: &[bool]) -> Result<(), RunError> {
        for index in (0..started.len()).filter(|&index| !started[index]) {
            let mut report = self.report(index, Duration::ZERO, Executed::default(), &[]);
            report.state = StepState::Skipped;
            self.journal.step(&self.control, pass, 0, &report).await?;
            self.add(report);
        }
        Ok(())
    }

    /// One step: asked, checked, run, journalled.
    async fn step(&self, pass: u32, index: usize, plan: Option<Plan>) -> Result<Ended, RunError> {
        let step = &self.steps.workflow.steps[index];
        self.event(&Event::StepStarted { step: &step.id });
        let begun = Instant::now();
        let beyond_repeat = AtomicBool::new(false);
        let attempt = async || self.attempt(index, plan.clone(), &beyond_repeat).await;
        let safe = || !beyond_repeat.load(Ordering::Relaxed);
        match self.repeated(&step.id, attempt, safe).await {
            Ok((plan, mut executed)) => {
                self.note(index, &plan);
                let (ends_run, rows_read) = (executed.ends_run.take(), executed.rows_read);
                let report = self.report(index, begun.elapsed(), executed, &plan.notes);
                self.event(&Event::StepDone {
                    step: &step.id,
                    duration: begun.elapsed(),
                    rows: report.rows,
                });
                self.journal
                    .step(&self.control, pass, rows_read, &report)
                    .await?;
                self.add(report);
                Ok(Ended {
                    done: Some(index),
                    ends_run,
                })
            }
            Err(error) if self.may_fail(index) && self.interrupts.check().is_ok() => {
                let message = crate::error::one_line(&error);
                self.event(&Event::StepFailed {
                    step: &step.id,
                    message: &message,
                });
                let mut report = self.report(index, begun.elapsed(), Executed::default(), &[]);
                (report.state, report.error) = (StepState::Failed, Some(message));
                self.journal.step(&self.control, pass, 0, &report).await?;
                self.add(report);
                Ok(Ended {
                    done: None,
                    ends_run: None,
                })
            }
            Err(error) => {
                let mut report = self.report(index, begun.elapsed(), Executed::default(), &[]);
                (report.state, report.error) =
                    (StepState::Failed, Some(crate::error::one_line(&error)));
                // The failure itself is worth more than a journal that cannot be written.
                let _ = self.journal.step(&self.control, pass, 0, &report).await;
                Err(error)
            }
        }
    }

    /// Whether the run goes on without the step: it is not critical, and neither is anything that needs it. A step that
    /// writes the manifest always counts.
    fn may_fail(&self, index: usize) -> bool {
        let steps = &self.steps.workflow.steps;
        !steps[index].critical
            && !steps[index]
                .kind
                .writes
                .iter()
                .any(|word| word == "manifest")
            && (0..steps.len())
                .filter(|&other| steps[other].needs.contains(&index))
                .all(|other| self.may_fail(other))
    }

    async fn attempt(
        &self,
        index: usize,
        plan: Option<Plan>,
        beyond_repeat: &AtomicBool,
    ) -> Result<(Plan, Executed), RunError> {
        let place = self.steps.place(index);
        let session = self
            .pool
            .take()
            .await
            .map_err(|error| error.at(place.clone()))?;
        let plan = match plan {
            Some(plan) => plan,
            None => {
                self.steps
                    .conversation(index)
                    .plan(&session, &self.interrupts)
                    .await?
            }
        };
        let rights = self.steps.rights(index);
        rights
            .check(&plan)
            .map_err(|message| RunError::new(Problem::Refused(message)).at(place.clone()))?;
        let execution = Execution {
            context: self,
            session: &session,
            plan: &plan,
            place: place.clone(),
            commits: rights.commits(&plan).then(|| self.progress()),
            wall: self.steps.wall(index),
        };
        // Outside of a transaction each statement counts at once; the execution repeats single ones.
        beyond_repeat.store(!plan.atomic, Ordering::Relaxed);
        let executed = execution.run().await?;
        self.steps.publish(index, &plan);
        self.pool.give_back(session).await;
        Ok((plan, executed))
    }

    fn note(&self, index: usize, plan: &Plan) {
        for note in &plan.notes {
            self.event(&Event::Note {
                step: &self.steps.workflow.steps[index].id,
                note,
            });
        }
    }

    fn report(
        &self,
        index: usize,
        duration: Duration,
        executed: Executed,
        notes: &[String],
    ) -> StepReport {
        let (step, component) = (
            &self.steps.workflow.steps[index],
            self.steps.component(index),
        );
        StepReport {
            id: step.id.clone(),
            uses: step.uses.clone(),
            version: component.description().version.clone(),
            digest: component.digest().to_string(),
            state: StepState::Done,
            duration_ms: duration.as_secs_f64() * 1000.0,
            rows: executed.rows_written,
            statements: executed.statements,
            measures: executed.measures,
            notes: notes.to_vec(),
            error: None,
        }
    }

    /// Adds a step's report to those of earlier passes.
    fn add(&self, report: StepReport) {
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        match totals.steps.iter_mut().find(|known| known.id == report.id) {
            None => totals.steps.push(report),
            Some(known) => {
                let measures = std::mem::take(&mut known.measures);
                let (duration_ms, rows, failed) = (
                    known.duration_ms,
                    known.rows,
                    known.state == StepState::Failed,
                );
                *known = report;
                known.duration_ms += duration_ms;
                known.rows += rows;
                for (name, value) in measures {
                    *known.measures.entry(name).or_default() += value;
                }
                if failed {
                    known.state = StepState::Failed;
                }
            }
        }
    }

    /// Journals the end, gives the lease back, and says how it went.
    async fn end(
        self,
        outcome: Result<Outcome, RunError>,
        as_of: jiff::Timestamp,
        begun: Instant,
    ) -> Result<RunReport, RunError> {
        let (session, outcome) = match outcome {
            Ok(outcome) => (None, Ok(outcome)),
            Err(error) => {
                let (session, error) = self.explain(error).await;
                (session, Err(error))
            }
        };
        let totals = self
            .totals
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let passes = totals.progress.passes;
        match outcome {
            Ok(outcome) => {
                let end = End::Well(&outcome, passes);
                let finishing = self.journal.finish(&self.control, &self.lease, &end);
                finishing.await.map_err(|mut error| {
                    error.state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
                    error.run_id = Some(self.steps.run_id.clone());
                    error
                })?;
                Ok(RunReport {
                    playbook: self.steps.workflow.playbook.as_str().to_owned(),
                    run_id: self.steps.run_id.clone(),
                    outcome,
                    passes,
                    batches: totals.progress.batches,
                    events: totals.progress.events,
                    as_of: as_of.to_string(),
                    duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                    steps: totals.steps,
                    retries: self.retries.taken(),
                })
            }
            Err(mut error) => {
                let control = session.as_ref().unwrap_or(&self.control);
                error.state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
                error.run_id = Some(self.steps.run_id.clone());
                // Only committed passes count in the journal.
                let end = End::Badly(&error, totals.committed);
                let finishing = self.journal.finish(control, &self.lease, &end);
                if let Ok(Err(journal)) = tokio::time::timeout(END_WAIT, finishing).await {
                    tracing::warn!(error = %journal, "the failure could not be journalled");
                }
                Err(error)
            }
        }
    }
}

impl Context<'_> {
    /// Returns a session in place of a control session that was lost, and finds out for an error that may come from that
    /// what became of the lease: another run has it, or nobody has.
    async fn explain(&self, error: RunError) -> (Option<Session>, RunError) {
        let lost = self.control.is_closed()
            || matches!(
                *error.problem,
                Problem::LeaseLost { .. } | Problem::ControlLost { .. }
            );
        if !lost || error.failure() == crate::error::Failure::Stopped {
            return (None, error);
        }
        let looking = async {
            let session =
                connect::control(self.steps.workflow, self.target, &self.lease.run_id).await?;
            let held = self.lease.is_held(&session).await?;
            Ok::<_, RunError>((session, held))
        };
        let Ok(Ok((session, held))) = tokio::time::timeout(LOOK_WAIT, looking).await else {
            return (None, error);
        };
        let playbook = self.lease.playbook.clone();
        let problem = match (held, &*error.problem) {
            (false, _) => Problem::LeaseLost { playbook },
            (true, Problem::LeaseLost { .. }) => Problem::ControlLost { playbook },
            _ => return (Some(session), error),
        };
        let RunError { step, .. } = error;
        let explained = RunError {
            step,
            ..RunError::new(problem)
        };
        (Some(session), explained)
    }
}

/// Why the work of a run is to end early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupt {
    Signal(&'static str),
    LeaseLost,
    ControlLost,
    /// Another step of the run failed.
    Sibling,
}

/// Ends the work of a run early. The first reason is the one that counts.
pub(crate) struct Interrupts {
    raised: watch::Sender<Option<Interrupt>>,
    playbook: String,
}

impl Interrupts {
    pub(crate) fn new(playbook: &str) -> Self {
        Self {
            raised: watch::Sender::new(None),
            playbook: playbook.to_owned(),
        }
    }

    pub(crate) fn raise(&self, interrupt: Interrupt) {
        self.raised.send_if_modified(|raised| {
            let first = raised.is_none();
            raised.get_or_insert(interrupt);
            first
        });
    }

    /// Waits for a time to pass unless the work is to end.
    pub(crate) async fn sleep(&self, time: Duration) -> Result<(), RunError> {
        let mut raised = self.raised.subscribe();
        // Over either way when this returns, and asked for below.
        let _ = tokio::time::timeout(time, raised.wait_for(Option::is_some)).await;
        self.check()
    }

    /// Returns an error if the work is to end.
    pub(crate) fn check(&self) -> Result<(), RunError> {
        match *self.raised.borrow() {
            None => Ok(()),
            Some(interrupt) => Err(self.error(interrupt)),
        }
    }

    /// Waits for work on a session unless the work of the run is to end, in which case it is cancelled on the server.
    pub(crate) async fn guard<T>(
        &self,
        session: &Session,
        work: impl Future<Output = Result<T, WarehouseError>>,
    ) -> Result<Result<T, WarehouseError>, RunError> {
        self.check()?;
        let mut raised = self.raised.subscribe();
        let interrupted = async {
            let found = raised
                .wait_for(Option::is_some)
                .await
                .map(|interrupt| *interrupt);
            match found {
                Ok(Some(interrupt)) => interrupt,
                // The sender lives as long as `self`.
                _ => std::future::pending().await,
            }
        };
        or_cancelled(session.canceller(), work, interrupted)
            .await
            .map_err(|interrupt| self.error(interrupt))
    }

    fn error(&self, interrupt: Interrupt) -> RunError {
        RunError::new(match interrupt {
            Interrupt::Signal(signal) => Problem::Stopped { signal },
            Interrupt::LeaseLost => Problem::LeaseLost {
                playbook: self.playbook.clone(),
            },
            Interrupt::ControlLost => Problem::ControlLost {
                playbook: self.playbook.clone(),
            },
            Interrupt::Sibling => Problem::Refused("another step of the run failed".into()),
        })
    }
}
