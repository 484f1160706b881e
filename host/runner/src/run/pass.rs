//! One pass through the steps: each once all that it needs are done, asked, checked, run and journalled.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join;
use futures_util::stream::FuturesUnordered;
use stepwell_sandbox::contract::Plan;
use stepwell_warehouse::Session;

use super::{Context, Interrupt};
use crate::advice::{self, Advice};
use crate::confined::Confined;
use crate::confined::execute::ConfinedExecution;
use crate::conversation::{Conversation, Whom};
use crate::error::RunError;
use crate::execute::{Executed, Execution};
use crate::journal::Kept;
use crate::measures::Published;
use crate::observe::Event;
use crate::policy::Checked;
use crate::reduce::{self, Prepared, Reduction, Source};
use crate::report::{StepReport, StepState};
use crate::resume::{self, Resumed};
use crate::roles;

/// A step that ended.
struct Ended {
    /// The step, unless it failed without failing the run: what needs it is then skipped.
    done: Option<usize>,
    /// The run ends here, for this reason.
    ends_run: Option<String>,
}

impl Context<'_> {
    /// Runs each step once all that it needs are done, those that do not need each other side by side.
    ///
    /// Returns the reason if a step ended the run.
    pub(super) async fn pass(
        &self,
        pass: u32,
        gate: Option<(usize, Checked<Plan>)>,
    ) -> Result<Option<String>, RunError> {
        let steps = &self.steps.workflow.steps;
        let mut done = self.done();
        let mut started = done.clone();
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
                        running.push(Box::pin(self.step(pass, index, plan)));
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
                    let place = error.step.as_ref();
                    let strange =
                        place.is_some_and(|place| self.steps.third_party(place.index).is_some());
                    // The first failure is the one that counts; those after it follow from the cancelling.
                    failure.get_or_insert(error);
                    // A third party's failure is no reason to end work that does not need it.
                    if !strange {
                        self.interrupts.raise(Interrupt::Sibling);
                    }
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
            let mut report = self.report(index, Duration::ZERO, Executed::default(), None);
            report.state = StepState::Skipped;
            self.journal
                .step(&self.control, pass, 0, &report, None)
                .await?;
            self.add(report);
        }
        Ok(())
    }

    /// Takes what steps of a run that failed did for this run's own.
    pub(super) async fn take_over(&self, resumed: &Resumed) -> Result<(), RunError> {
        let steps = &self.steps.workflow.steps;
        let reused: Vec<usize> = (0..steps.len())
            .filter(|&index| resumed.reused[index])
            .collect();
        let ids: Vec<&str> = reused
            .iter()
            .map(|&index| steps[index].id.as_str())
            .collect();
        self.journal
            .reuse(&self.control, &resumed.run_id, resumed.pass, &ids)
            .await?;
        self.steps.restore(&resumed.facts);
        // It is there already, should this run fail before it writes anything.
        self.wrote();
        for index in reused {
            let mut report = self.report(index, Duration::ZERO, Executed::default(), None);
            report.state = StepState::Reused;
            self.add(report);
            self.is_done(index);
        }
        Ok(())
    }

    /// Returns, by index, which steps of the pass are done.
    pub(super) fn done(&self) -> Vec<bool> {
        let totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.done.clone()
    }

    fn is_done(&self, index: usize) {
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.done[index] = true;
    }

    /// One step: asked, checked, run, journalled.
    async fn step(
        &self,
        pass: u32,
        index: usize,
        plan: Option<Checked<Plan>>,
    ) -> Result<Ended, RunError> {
        let step = &self.steps.workflow.steps[index];
        self.event(&Event::StepStarted { step: &step.id });
        let begun = Instant::now();
        let beyond_repeat = AtomicBool::new(false);
        let attempt = async || Box::pin(self.attempt(index, plan.clone(), &beyond_repeat)).await;
        let safe = || !beyond_repeat.load(Ordering::Relaxed);
        match self.repeated(&step.id, attempt, safe).await {
            Ok((plan, mut executed, session)) => {
                self.note(index, &plan);
                let (ends_run, rows_read) = (executed.ends_run.take(), executed.rows_read);
                let report = self.report(index, begun.elapsed(), executed, Some(&plan));
                self.event(&Event::StepDone {
                    step: &step.id,
                    duration: begun.elapsed(),
                    rows: report.rows,
                });
                let kept = Kept {
                    settings_digest: resume::settings_digest(self.steps.workflow, index),
                    facts: self.steps.facts(index, &plan),
                    tables: self.steps.fills(index),
                };
                let giving_back = async {
                    if let Some(session) = session {
                        self.pool.give_back(session).await;
                    }
                };
                let journalling =
                    (self.journal).step(&self.control, pass, rows_read, &report, Some(&kept));
                let ((), journalled) = join(giving_back, journalling).await;
                journalled?;
                self.add(report);
                self.is_done(index);
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
                let mut report = self.report(index, begun.elapsed(), Executed::default(), None);
                (report.state, report.error) = (StepState::Failed, Some(message));
                self.journal
                    .step(&self.control, pass, 0, &report, None)
                    .await?;
                self.add(report);
                Ok(Ended {
                    done: None,
                    ends_run: None,
                })
            }
            Err(error) => {
                let mut report = self.report(index, begun.elapsed(), Executed::default(), None);
                (report.state, report.error) =
                    (StepState::Failed, Some(crate::error::one_line(&error)));
                // The failure itself is worth more than a journal that cannot be written.
                let _ = self
                    .journal
                    .step(&self.control, pass, 0, &report, None)
                    .await;
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

    /// Returns what was planned and done, and the session on which it was, to be given back.
    // The parts wait on the heap: in one piece the future of a step fills half of a thread's stack.
    async fn attempt(
        &self,
        index: usize,
        plan: Option<Checked<Plan>>,
        beyond_repeat: &AtomicBool,
    ) -> Result<(Checked<Plan>, Executed, Option<Session>), RunError> {
        let place = self.steps.place(index);
        let session = self
            .pool
            .take()
            .await
            .map_err(|error| error.at(place.clone()))?;
        if self.steps.component(index).is_none() {
            let loaded = self
                .components
                .load(self.steps.workflow, [index].into_iter())
                .await;
            self.steps
                .add(loaded.map_err(|error| error.at(place.clone()))?);
        }
        if self.steps.is_reducer(index) {
            let (plan, executed) = Box::pin(self.reduce(index, session)).await?;
            return Ok((plan, executed, None));
        }
        let confined = Box::pin(self.confined(index, &session)).await;
        let confined = confined.map_err(|error| error.at(place.clone()))?;
        let asked = Whom::of(confined.as_ref(), &session);
        let plan = match plan {
            Some(plan) => plan,
            None => {
                let conversation = self.steps.conversation(index);
                Box::pin(conversation.plan(asked, &self.interrupts)).await?
            }
        };
        if let Some(confined) = &confined {
            let execution = ConfinedExecution {
                context: self,
                host: &session,
                confined,
                plan: &plan,
                place,
            };
            let executed = Box::pin(execution.run()).await?;
            self.steps.publish(index, &plan);
            return Ok((plan, executed, Some(session)));
        }
        let rights = self.steps.rights(index);
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
        let executed = Box::pin(execution.run()).await?;
        self.steps.publish(index, &plan);
        Ok((plan, executed, Some(session)))
    }

    /// A step that folds rows. Nothing but its scratch tables changes, so it may be repeated as a whole.
    async fn reduce(
        &self,
        index: usize,
        session: Session,
    ) -> Result<(Checked<Plan>, Executed), RunError> {
        let steps = &self.steps;
        let confined = Box::pin(self.confined(index, &session)).await;
        let confined = confined.map_err(|error| error.at(steps.place(index)))?;
        let shape = steps.conversation(index);
        let shape = shape
            .shape(Whom::of(confined.as_ref(), &session), &self.interrupts)
            .await?;
        let plan = reduce::as_plan(&shape, steps, index)?;
        let prepared = Prepared::new(shape, steps, index, &session, &self.interrupts).await?;
        let Conversation {
            component,
            limits,
            info,
            place,
            ..
        } = steps.conversation(index);
        let reduction = Reduction {
            context: self,
            prepared,
            component,
            limits: limits.clone(),
            info,
            place,
            parts: steps.reducer_parts,
            batch_rows: steps.reducer_batch_rows,
        };
        let source = match confined {
            None => Source::Workflow(session),
            Some(reader) => Source::Confined {
                reader: Box::new(reader),
                writer: session,
            },
        };
        let executed = reduction.run(source).await?;
        steps.publish(index, &plan);
        Ok((plan, executed))
    }

    /// Connects as the plugin of a third party's step, which is granted its tables before; none for a step of our own.
    pub(crate) async fn confined(
        &self,
        index: usize,
        host: &Session,
    ) -> Result<Option<Confined>, RunError> {
        let Some(entry) = self.steps.third_party(index) else {
            return Ok(None);
        };
        let workflow = self.steps.workflow;
        {
            let _alone = self.granting.lock().await;
            roles::grant(host, workflow, &self.logins, entry).await?;
        }
        Confined::open(workflow, &self.logins, entry, &self.steps.run_id, host)
            .await
            .map(Some)
    }

    pub(super) fn note(&self, index: usize, plan: &Plan) {
        for note in &advice::notes(plan) {
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
        plan: Option<&Plan>,
    ) -> StepReport {
        let published = plan.map(Published::of).unwrap_or_default();
        let advised = plan.map(advice::of).unwrap_or_default();
        let noted = plan.into_iter().flat_map(|plan| &plan.notes);
        let mut measures = executed.measures;
        for (name, value) in published.all() {
            *measures.entry(name.clone()).or_default() += value;
        }
        let (step, component) = (
            &self.steps.workflow.steps[index],
            self.steps.component(index),
        );
        StepReport {
            id: step.id.clone(),
            uses: step.uses.clone(),
            version: step.kind.version.clone(),
            // Of one that could not be loaded nothing ran.
            digest: component.map_or_else(String::new, |component| component.digest().to_string()),
            state: StepState::Done,
            duration_ms: duration.as_secs_f64() * 1000.0,
            rows: executed.rows_written,
            statements: executed.statements,
            measures,
            published,
            notes: noted.chain(&advised).cloned().collect(),
            advice: advised
                .into_iter()
                .map(|note| Advice {
                    note,
                    is_new: false,
                })
                .collect(),
            error: None,
        }
    }

    /// Reports what the gate step says where it finds nothing to do. It is journalled only if it measured something: a
    /// run with nothing to do is to cost next to nothing.
    pub(super) async fn idle(
        &self,
        pass: u32,
        index: usize,
        plan: &Plan,
        took: Duration,
    ) -> Result<(), RunError> {
        self.note(index, plan);
        let report = self.report(index, took, Executed::default(), Some(plan));
        if pass == 1 {
            if report.measures.values().any(|value| *value != 0) {
                self.journal
                    .step(&self.control, pass, 0, &report, None)
                    .await?;
            }
            self.add(report);
            return Ok(());
        }
        // The passes before it did something; of this one nothing counts but how things stand after them.
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = totals.steps.iter_mut().find(|known| known.id == report.id) {
            known.measures.extend(report.published.levels);
        }
        Ok(())
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
                    if !known.published.levels.contains_key(&name) {
                        *known.measures.entry(name).or_default() += value;
                    }
                }
                if failed {
                    known.state = StepState::Failed;
                }
            }
        }
    }
}
