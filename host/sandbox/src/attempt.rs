//! Asking a plugin: a planner for its plan, a reducer for its shape.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use wasmtime::Store;

use crate::bindings::planner::Planner;
use crate::bindings::reducer::Reducer;
use crate::call::{self, CallError};
use crate::component::Program;
use crate::contract::{Answer, Failure, Reply, RunInfo, ShapeReply};
use crate::describe::Kind;
use crate::limits::Limits;
use crate::log::{LogLine, Progress};
use crate::reply;
use crate::runtime::Runtime;
use crate::state::State;

/// One attempt of a step: an instance of the plugin and what it has used so far.
///
/// It may move between threads from call to call; a thread needs 1 MiB of stack. A call blocks, for
/// as long as the limits allow, and needs no async runtime.
pub struct Attempt {
    exports: Exports,
    instance: Instance,
}

/// What the instance can be called for.
enum Exports {
    Planner(Planner),
    Reducer(Reducer),
}

pub(crate) fn begin(
    runtime: &Arc<Runtime>,
    program: &Program,
    state: State,
    limits: &Limits,
) -> Result<Attempt, CallError> {
    let pre = match program {
        Program::Planner { pre, .. } | Program::Reducer { pre, .. } => pre,
    };
    let mut store = call::store(runtime, state, limits);
    let instance = call::guarded(runtime, &mut store, |store| pre.instantiate(store))?;
    let exports = match program {
        Program::Planner { indices, .. } => indices
            .load(&mut store, &instance)
            .map(Exports::Planner)
            .map_err(|error| format!("`next` has another type: {}", error.root_cause())),
        Program::Reducer { indices, .. } => indices
            .load(&mut store, &instance)
            .map(Exports::Reducer)
            .map_err(|error| format!("`reducing` has another type: {}", error.root_cause())),
    };
    let exports = exports.map_err(|problem| CallError::Contract { problem })?;
    let instance = Instance {
        store,
        runtime: Arc::clone(runtime),
        limits: limits.clone(),
        is_over: false,
    };
    Ok(Attempt { exports, instance })
}

/// An instance that is called until it answers with an error, and never again after that.
pub(crate) struct Instance {
    pub(crate) limits: Limits,
    store: Store<State>,
    runtime: Arc<Runtime>,
    is_over: bool,
}

impl Instance {
    pub(crate) fn call<T>(
        &mut self,
        call: impl FnOnce(&mut Store<State>) -> wasmtime::Result<Result<T, Failure>>,
    ) -> Result<T, CallError> {
        // Set first, and taken back on success: no way out of here leaves a broken instance open.
        if std::mem::replace(&mut self.is_over, true) {
            return Err(CallError::Over);
        }
        match call::guarded(&self.runtime, &mut self.store, call)? {
            Ok(answer) => {
                self.is_over = false;
                Ok(answer)
            }
            Err(failure) => Err(CallError::Failure(reply::tidy(failure, &self.limits))),
        }
    }

    pub(crate) fn stop_on(&mut self, stop: Arc<AtomicBool>) {
        self.store.data_mut().meter.stop_on(stop);
    }

    /// Ends the attempt if what the plugin answered is not what it may answer.
    pub(crate) fn checked(&mut self, checked: Result<(), CallError>) -> Result<(), CallError> {
        self.is_over |= checked.is_err();
        checked.map_err(|error| call::with_log(&self.store, error))
    }
}

impl Attempt {
    /// Asks a planner what to do next: first without answers, then again with all answers so far,
    /// in the order of the questions, for as long as the reply is [`Reply::Ask`].
    ///
    /// # Errors
    ///
    /// If the plugin fails, crashes, wants more than its limits or replies with something that the
    /// contract does not allow. After an error the attempt is over, and each further call is
    /// [`CallError::Over`].
    pub fn next(&mut self, run: &RunInfo, answers: &[Answer]) -> Result<Reply, CallError> {
        let Exports::Planner(planner) = &self.exports else {
            let (is, wanted) = (Kind::Reducer, Kind::Planner);
            return Err(CallError::OtherKind { is, wanted });
        };
        let planning = planner.stepwell_step_planning();
        let reply = self
            .instance
            .call(|store| planning.call_next(store, run, answers))?;
        let checked = reply::check(&reply, answers.len(), &self.instance.limits);
        self.instance.checked(checked)?;
        Ok(reply)
    }

    /// Asks a reducer for its shape, as [`next`](Self::next) asks a planner for its plan.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub fn next_shape(
        &mut self,
        run: &RunInfo,
        answers: &[Answer],
    ) -> Result<ShapeReply, CallError> {
        let (exports, instance) = self.reducing()?;
        let reducing = exports.stepwell_step_reducing();
        let reply = instance.call(|store| reducing.call_shape_of(store, run, answers))?;
        let checked = reply::check_shape(&reply, answers.len(), &instance.limits);
        instance.checked(checked)?;
        Ok(reply)
    }

    pub(crate) fn instance(&mut self) -> &mut Instance {
        &mut self.instance
    }

    /// Returns what a reducer is called with.
    pub(crate) fn reducing(&mut self) -> Result<(&Reducer, &mut Instance), CallError> {
        match &self.exports {
            Exports::Reducer(reducer) => Ok((reducer, &mut self.instance)),
            Exports::Planner(_) => {
                let (is, wanted) = (Kind::Planner, Kind::Reducer);
                Err(CallError::OtherKind { is, wanted })
            }
        }
    }

    /// Returns what the plugin said so far, oldest line first. Bounded: see
    /// [`log_dropped`](Self::log_dropped).
    pub fn log(&self) -> &[LogLine] {
        self.instance.store.data().log.lines()
    }

    /// Takes out what the plugin said since the last time, oldest line first: for a caller that
    /// passes lines on after each call. An error brings the lines of its own call with it.
    pub fn take_log(&mut self) -> Vec<LogLine> {
        self.instance.store.data_mut().log.take_lines()
    }

    /// Returns how many of the oldest lines gave way to newer ones.
    pub fn log_dropped(&self) -> u64 {
        self.instance.store.data().log.dropped()
    }

    /// Returns how far the plugin last said it had come.
    pub fn progress(&self) -> Option<&Progress> {
        self.instance.store.data().log.last_progress()
    }

    /// Returns the CPU time used so far, initialisation included.
    pub fn cpu(&self) -> Duration {
        self.instance.store.data().meter.cpu()
    }

    /// Returns the most linear memory in use so far, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.instance.store.data().meter.memory_bytes()
    }

    /// Returns what is left of [`Limits::wall`]: the most that the host may spend on the next
    /// answer.
    pub fn wall_left(&self) -> Duration {
        self.instance.store.data().meter.wall_left()
    }
}

impl std::fmt::Debug for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attempt")
            .field("is_over", &self.instance.is_over)
            .finish_non_exhaustive()
    }
}
