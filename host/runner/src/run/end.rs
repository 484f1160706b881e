//! The end of a run: what became of a lease that was lost, the journal, the report.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use stepwell_warehouse::Session;

use super::Context;
use crate::advice;
use crate::connect;
use crate::error::{Failure, Problem, RunError};
use crate::journal::End;
use crate::report::{Outcome, RunReport};
use crate::resume;

/// How long a run that failed may take to journal that and give its lease back.
pub(super) const END_WAIT: Duration = Duration::from_millis(700);

/// How long a run that lost its control session may take to find out what became of its lease.
const LOOK_WAIT: Duration = Duration::from_secs(5);

impl Context<'_> {
    /// Journals the end, gives the lease back, and says how it went.
    pub(super) async fn end(
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
        let mut totals = self
            .totals
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let passes = totals.progress.passes;
        let continues = self.resumed.as_ref().map(|resumed| resumed.run_id.clone());
        match outcome {
            Ok(outcome) => {
                // A run with nothing to do says nothing that it need not.
                if passes > 0 {
                    let (playbook, run_id) = (&self.lease.playbook, &self.lease.run_id);
                    let known =
                        advice::compare(&self.control, playbook, run_id, &mut totals.steps).await;
                    if let Err(error) = known {
                        tracing::warn!(%error, "could not read which advice was given before");
                    }
                }
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
                    left: totals.left,
                    continues,
                    replayed_keys: self.replayed_keys,
                })
            }
            Err(mut error) => {
                let control = session.as_ref().unwrap_or(&self.control);
                error.state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
                error.run_id = Some(self.steps.run_id.clone());
                // Only committed passes count in the journal.
                let end = End::Badly(&error, totals.committed);
                let finishing = self.journal.finish(control, &self.lease, &end);
                let finished = tokio::time::timeout(END_WAIT, finishing).await;
                if let Ok(Err(journal)) = &finished {
                    tracing::warn!(error = %journal, "the failure could not be journalled");
                }
                // Of a server that went away nobody knows whether its scratch tables will be there.
                let open = passes > totals.committed && !self.replays;
                if let (Ok(Ok(())), None, true, Some(step)) =
                    (finished, &session, open, &error.step)
                    && error.failure() != Failure::Lease
                    && !error.fails_again()
                {
                    let workflow = self.steps.workflow;
                    error.continue_from = resume::offered(workflow, &totals.done, step.index);
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
        if !lost || error.failure() == Failure::Stopped {
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
