//! A run: lease, gate, steps, and the end of it.

mod end;
mod interrupts;
mod pass;

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use stepwell_sandbox::contract::Plan;
use stepwell_warehouse::{Session, Target};
use stepwell_workflow::Workflow;

use crate::components::Components;
use crate::conversation::{Conversation, Whom};
use crate::error::{Problem, RunError, WarehouseState};
use crate::journal::{Journal, Progress};
use crate::lease::Lease;
use crate::observe::{Backlog, Event, Observer};
use crate::policy::Checked;
use crate::pool::Pool;
use crate::replay::Replay;
use crate::report::{Outcome, RetryReport, RunReport, StepReport, StepState};
use crate::resume::Resumed;
use crate::retry::Retries;
use crate::roles::Logins;
use crate::start::Start;
use crate::step::Steps;
use crate::stop::Stop;
use crate::together::{Member, Together};

pub(crate) use interrupts::{Interrupt, Interrupts};

/// Passes through the steps of one run, each of up to 10,000 batches. Reaching it is an error: a gate step that always
/// finds something would otherwise keep the run going for ever.
const PASSES_MAX: u32 = 100_000;

/// How long the work of a run may go on after it was asked to stop, for its statements to be cancelled and rolled back.
/// With [`end::END_WAIT`] this is within two seconds.
const STOP_WAIT: Duration = Duration::from_millis(1000);

/// How to run a workflow.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// The run's point in time; now unless given.
    pub as_of: Option<jiff::Timestamp>,
    /// Computes everything again, and replaces the derived tables whole.
    pub full_refresh: bool,
    /// Most batches of one pass; a longer backlog takes several, each committed on its own. A full refresh takes all batches
    /// in one pass, whatever this says.
    pub max_batches: Option<u32>,
    /// Computes these again instead of what is pending.
    pub replay: Option<Replay>,
    /// Most slices that this run works off; the rest of a backlog is left for the next one.
    pub max_slices: Option<u32>,
    /// Goes on with the last run of the playbook, which failed, at the step of this id. Point in time, full refresh and
    /// `max_batches`, unless given, are that run's.
    pub from: Option<String>,
    /// The folder whose `.stepwell` holds the private local server.
    pub project_dir: PathBuf,
    /// Goes there rather than where the workflow says. Counts as private: missing tables of the host are made.
    pub target: Option<Target>,
    /// In how many parts the rows of a reducer are read, and most rows of its batches. What comes out depends on neither;
    /// a test shows it.
    pub reducer_parts: Option<u32>,
    /// See `reducer_parts`.
    pub reducer_batch_rows: Option<u32>,
    /// The runs that start together with this one.
    pub together: Together,
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
    let together = options.together.join();
    let as_of = options.point_in_time();
    let run_id = uuid::Uuid::now_v7().to_string();
    let retries = Retries::of(workflow);
    let start = Start {
        workflow,
        components,
        options,
        observer,
        retries: &retries,
        run_id: &run_id,
        as_of_us: as_of.as_microsecond(),
    };
    // The parts of a run wait on the heap: in one piece its future is larger than a thread's stack should have to hold.
    let started = Box::pin(start.run(stop.clone())).await?;
    let target = &started.target;
    let resumed = started.resumed;
    let as_of = match &resumed {
        Some(resumed) => jiff::Timestamp::from_microsecond(resumed.as_of_us).unwrap_or(as_of),
        None => as_of,
    };
    let asked = RunOptions {
        full_refresh: resumed
            .as_ref()
            .map_or(options.full_refresh, |it| it.full_refresh),
        max_batches: options
            .max_batches
            .or(resumed.as_ref().and_then(|it| it.max_batches)),
        ..options.clone()
    };
    let as_of_us = as_of.as_microsecond();
    let context = Context {
        steps: Steps::new(workflow, started.loaded, &asked, run_id.clone(), as_of_us),
        resumed,
        components,
        target,
        lease: started.lease,
        journal: started.journal,
        control: started.control,
        pool: Pool::new(workflow, target, run_id.clone(), started.first),
        logins: started.logins,
        granting: tokio::sync::Mutex::new(()),
        interrupts: Interrupts::new(workflow.playbook.as_str()),
        observer,
        retries: &retries,
        together,
        committing: AtomicBool::new(false),
        state: Mutex::new(WarehouseState::Unchanged),
        totals: Mutex::new(Totals::default()),
        max_slices: options.max_slices,
        replays: options.replay.is_some(),
        replayed_keys: match &options.replay {
            Some(Replay::Keys(keys)) => Some(keys.rows.len() as u64),
            _ => None,
        },
        passes_begun: Instant::now(),
    };
    context.event(&Event::RunStarted { run_id: &run_id });
    if let Some(died) = &context.lease.took_over {
        context.event(&Event::TookOver { run_id: died });
    }
    if let Some(Resumed { run_id, from, .. }) = &context.resumed {
        context.event(&Event::Continues { run_id, step: from });
    }
    let outcome = tokio::select! {
        outcome = Box::pin(context.passes()) => outcome,
        overdue = context.overdue(stop.clone()) => Err(overdue),
        never = context.watch(stop) => match never {},
    };
    context.end(outcome, as_of, begun).await
}

/// All that the steps of one run share.
pub(crate) struct Context<'a> {
    pub(crate) steps: Steps<'a>,
    /// What the first pass takes over from a run that failed.
    resumed: Option<Resumed>,
    components: &'a Components,
    pub(crate) target: &'a Target,
    pub(crate) lease: Lease,
    pub(crate) journal: Journal,
    pub(crate) interrupts: Interrupts,
    control: Session,
    pool: Pool<'a>,
    /// How third parties' plugins log in.
    logins: Logins,
    /// Held while a role is granted tables: access lists do not take two changes at a time.
    granting: tokio::sync::Mutex<()>,
    observer: &'a dyn Observer,
    retries: &'a Retries,
    together: Member,
    /// Whether a COMMIT with the manifest is on its way.
    pub(crate) committing: AtomicBool,
    state: Mutex<WarehouseState>,
    totals: Mutex<Totals>,
    max_slices: Option<u32>,
    /// Whether it computes again what was asked for, rather than what is pending.
    replays: bool,
    /// How many keys were asked for.
    replayed_keys: Option<u64>,
    /// When the first pass began.
    passes_begun: Instant,
}

/// What the run has done so far.
#[derive(Debug, Default)]
struct Totals {
    progress: Progress,
    /// The last pass that is committed.
    committed: u32,
    steps: Vec<StepReport>,
    /// Batches that this run works off in all its slices, as far as is known.
    backlog: Option<u64>,
    /// Batches that were left for another run.
    left: u64,
    /// By index: which steps of this pass are done.
    done: Vec<bool>,
}

impl Context<'_> {
    /// Returns a session for a step's work.
    pub(crate) async fn take_session(&self) -> Result<Session, RunError> {
        self.pool.take().await
    }

    /// Takes a session back after work that went well.
    pub(crate) async fn give_back_session(&self, session: Session) {
        self.pool.give_back(session).await;
    }

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

    /// Loads the components that are not there yet.
    async fn load_missing(&self) -> Result<(), RunError> {
        let missing = self.steps.without_component();
        if !missing.is_empty() {
            let loading = self
                .components
                .load(self.steps.workflow, missing.into_iter());
            self.steps.add(loading.await?);
        }
        Ok(())
    }

    /// Waits for work, and loads components meanwhile. Once the work is done they are not waited for, and what cannot be loaded is
    /// found out when it is needed: there may be nothing to do.
    async fn while_loading<T>(&self, work: impl Future<Output = T>) -> T {
        let (mut work, mut loading) = (Box::pin(work), Box::pin(self.load_missing()));
        tokio::select! {
            biased;
            done = &mut work => done,
            _ = &mut loading => work.await,
        }
    }

    /// Passes through the steps until the gate finds nothing.
    async fn passes(&self) -> Result<Outcome, RunError> {
        for pass in 1..=PASSES_MAX {
            let begun = Instant::now();
            let resumed = self.resumed.as_ref().filter(|_| pass == 1);
            let gate = match self.steps.gate().filter(|_| resumed.is_none()) {
                Some(index) => Some((index, self.while_loading(self.ask_gate(index)).await?)),
                None => None,
            };
            let more = match (&gate, resumed) {
                (_, Some(resumed)) => {
                    let more = self.begin_pass(pass, &self.steps.pending_of(&resumed.facts));
                    self.take_over(resumed).await?;
                    more
                }
                (Some((index, plan)), None) => {
                    if let Some(reason) = &plan.ends_run {
                        self.idle(pass, *index, plan, begun.elapsed()).await?;
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
                (None, None) => self.begin_pass(pass, &serde_json::Value::Null),
            };
            self.load_missing().await?;
            if let Some(reason) = Box::pin(self.pass(pass, gate)).await? {
                return Ok(if pass > 1 {
                    self.outcome()
                } else {
                    Outcome::NothingNew { reason }
                });
            }
            let enough = self.max_slices.is_some_and(|slices| pass >= slices);
            if !more || enough {
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
            .all(|step| matches!(step.state, StepState::Done | StepState::Reused))
        {
            true => Outcome::Done,
            false => Outcome::DoneWithFailures,
        }
    }

    /// Asks the gate step what is pending, before any step acts.
    async fn ask_gate(&self, index: usize) -> Result<Checked<Plan>, RunError> {
        self.together.begin_pass();
        self.together.meet().await;
        let asking = async || {
            let session = self.pool.take().await?;
            let confined = Box::pin(self.confined(index, &session)).await?;
            let conversation = Conversation {
                // A third party's answers are its own.
                together: confined.is_none().then_some(&self.together),
                ..self.steps.conversation(index)
            };
            let asked = Whom::of(confined.as_ref(), &session);
            let plan = Box::pin(conversation.plan(asked, &self.interrupts)).await?;
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
        let backlog = {
            let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
            let done = totals.progress.batches;
            totals.progress.passes = pass;
            totals.done = vec![false; self.steps.workflow.steps.len()];
            totals.progress.batches += batches.unwrap_or(0);
            totals.progress.events += events.unwrap_or(0);
            // Counted anew in each pass: more may have landed.
            let counted = pending["backlog"].as_u64().map(|left| done + left);
            totals.backlog = counted
                .or(totals.backlog)
                .map(|total| total.max(totals.progress.batches));
            totals.left = totals
                .backlog
                .unwrap_or(0)
                .saturating_sub(totals.progress.batches);
            totals.backlog.map(|total| {
                let left = (done > 0).then(|| {
                    self.passes_begun
                        .elapsed()
                        .mul_f64((total - done) as f64 / done as f64)
                });
                Backlog { done, total, left }
            })
        };
        if pass > 1 {
            self.set_state(WarehouseState::EarlierPassesCommitted);
        }
        self.event(&Event::PassStarted {
            pass,
            batches,
            events,
            backlog,
        });
        pending["more"].as_bool().unwrap_or(false)
    }
}
