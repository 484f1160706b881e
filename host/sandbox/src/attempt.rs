//! Talking to a planner.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::Store;
use wasmtime::component::InstancePre;

use crate::bindings::planner::{Planner, PlannerIndices};
use crate::call::{self, CallError};
use crate::contract::{Answer, Reply, RunInfo};
use crate::limits::Limits;
use crate::log::{LogLine, Progress};
use crate::reply;
use crate::sandbox::Runtime;
use crate::state::State;

/// One attempt of a step: an instance of the plugin and what it has used so far.
///
/// It may move between threads from call to call; a thread needs 1 MiB of stack. A call blocks, for
/// as long as the limits allow, and needs no async runtime.
pub struct Attempt {
    store: Store<State>,
    planner: Planner,
    runtime: Arc<Runtime>,
    limits: Limits,
    is_over: bool,
}

pub(crate) fn begin(
    runtime: &Arc<Runtime>,
    pre: &InstancePre<State>,
    indices: &PlannerIndices,
    state: State,
    limits: &Limits,
) -> Result<Attempt, CallError> {
    let mut store = call::store(runtime, state, limits);
    let instance = call::guarded(runtime, &mut store, |store| pre.instantiate(store))?;
    let planner = indices
        .load(&mut store, &instance)
        .map_err(|error| CallError::Contract {
            problem: format!("`next` has another type: {}", error.root_cause()),
        })?;
    let (runtime, limits) = (Arc::clone(runtime), limits.clone());
    Ok(Attempt {
        store,
        planner,
        runtime,
        limits,
        is_over: false,
    })
}

impl Attempt {
    /// Asks the plugin what to do next: first without answers, then again with all answers so far,
    /// in the order of the questions, for as long as the reply is [`Reply::Ask`].
    ///
    /// # Errors
    ///
    /// If the plugin fails, crashes, wants more than its limits or replies with something that the
    /// contract does not allow. After an error the attempt is over, and each further call is
    /// [`CallError::Over`].
    pub fn next(&mut self, run: &RunInfo, answers: &[Answer]) -> Result<Reply, CallError> {
        // Set first, and taken back on success: no way out of here leaves a broken instance open.
        if std::mem::replace(&mut self.is_over, true) {
            return Err(CallError::Over);
        }
        let planning = self.planner.stepwell_step_planning();
        let outcome = call::guarded(&self.runtime, &mut self.store, |store| {
            planning.call_next(store, run, answers)
        })?;
        let reply = match outcome {
            Ok(reply) => reply,
            Err(failure) => {
                return Err(CallError::Failure(reply::tidy(failure, &self.limits)));
            }
        };
        reply::check(&reply, answers.len(), &self.limits)?;
        self.is_over = false;
        Ok(reply)
    }

    /// Returns what the plugin said so far, oldest line first. Bounded: see
    /// [`log_dropped`](Self::log_dropped).
    pub fn log(&self) -> &[LogLine] {
        self.store.data().log.lines()
    }

    /// Takes out what the plugin said since the last time, oldest line first: for a caller that
    /// passes lines on after each call. An error brings the lines of its own call with it.
    pub fn take_log(&mut self) -> Vec<LogLine> {
        self.store.data_mut().log.take_lines()
    }

    /// Returns how many of the oldest lines gave way to newer ones.
    pub fn log_dropped(&self) -> u64 {
        self.store.data().log.dropped()
    }

    /// Returns how far the plugin last said it had come.
    pub fn progress(&self) -> Option<&Progress> {
        self.store.data().log.last_progress()
    }

    /// Returns the CPU time used so far, initialisation included.
    pub fn cpu(&self) -> Duration {
        self.store.data().meter.cpu()
    }

    /// Returns the most linear memory in use so far, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.store.data().meter.memory_bytes()
    }

    /// Returns what is left of [`Limits::wall`]: the most that the host may spend on the next
    /// answer.
    pub fn wall_left(&self) -> Duration {
        self.store.data().meter.wall_left()
    }
}

impl std::fmt::Debug for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attempt")
            .field("is_over", &self.is_over)
            .finish_non_exhaustive()
    }
}
