//! Calling into a plugin: time is counted around it, and whatever goes wrong becomes a
//! [`CallError`].

use std::sync::Arc;

use thiserror::Error;
use wasmtime::{Store, Trap, UpdateDeadline, WasmBacktrace};

use crate::contract::Failure;
use crate::describe::Kind;
use crate::limits::{Limit, LimitError, Limits};
use crate::log::{LogLine, Origin};
use crate::runtime::Runtime;
use crate::state::State;
use crate::text::shown;

/// A call did not give a usable answer. The attempt is over.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum CallError {
    /// The plugin says why it cannot go on. Its texts are cleaned and cut to
    /// [`Limits::text_bytes`].
    #[error("{}", .0.message)]
    Failure(Failure),
    /// The plugin crashed.
    #[error("the plugin crashed: {message}")]
    Trap {
        /// Its panic message, or the processor's view.
        message: String,
        /// Functions that were running, innermost first; names only where the component carries
        /// them.
        backtrace: Vec<String>,
        /// The last lines that it said.
        log: Vec<LogLine>,
    },
    /// The plugin wanted more than it may use.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The plugin answered with something that the contract does not allow.
    #[error("the plugin's reply breaks the contract: {problem}")]
    Contract {
        /// What was wrong, and where.
        problem: String,
    },
    /// The host asked for the attempt to end: see [`Reducer::stop_on`](crate::Reducer::stop_on).
    #[error("the plugin was stopped")]
    Stopped,
    /// An earlier call of this attempt ended with an error.
    #[error("this attempt ended with an earlier error")]
    Over,
    /// The component is of another kind.
    #[error("the plugin is a {}, not a {}", .is.as_str(), .wanted.as_str())]
    OtherKind {
        /// What it is.
        is: Kind,
        /// What was called.
        wanted: Kind,
    },
}

/// Log lines that go with an error.
const ERROR_LOG_LINES: usize = 20;

/// Text of wasmtime's private error for [`Limits::hostcall_bytes`]; a test holds it.
const HOSTCALL_FUEL: &str = "fuel allocated for hostcalls has been exhausted";

/// Text of wasmtime's private error for [`Limits::handles`]; a test holds it.
const HANDLES: &str = "store handle limit exceeded";

/// Returns a store in which a plugin cannot use more than `limits`.
pub(crate) fn store(runtime: &Runtime, state: State, limits: &Limits) -> Store<State> {
    let mut store = Store::new(&runtime.engine, state);
    store.limiter(|state| &mut state.meter);
    store.set_hostcall_fuel(saturated(limits.hostcall_bytes));
    store.set_max_component_handles(saturated(limits.handles));
    store.epoch_deadline_callback(|mut store| {
        let meter = &mut store.data_mut().meter;
        if meter.is_stopped() {
            return Err(wasmtime::Error::msg("stopped"));
        }
        meter.check_time().map_err(wasmtime::Error::new)?;
        Ok(UpdateDeadline::Continue(1))
    });
    store
}

/// Adds to a broken limit what the plugin said before it answered.
pub(crate) fn with_log(store: &Store<State>, error: CallError) -> CallError {
    match error {
        CallError::Limit(breach) => CallError::Limit(LimitError {
            log: last(store.data().log.lines()),
            ..breach
        }),
        other => other,
    }
}

/// Runs `call`, which runs the plugin's code.
pub(crate) fn guarded<T>(
    runtime: &Arc<Runtime>,
    store: &mut Store<State>,
    call: impl FnOnce(&mut Store<State>) -> wasmtime::Result<T>,
) -> Result<T, CallError> {
    if store.data().meter.is_stopped() {
        return Err(CallError::Stopped);
    }
    store.data_mut().meter.check_wall()?;
    let outcome = {
        let _running = runtime.ticker.run();
        store.set_epoch_deadline(1);
        store.data_mut().meter.enter();
        let outcome = call(store);
        store.data_mut().meter.leave();
        outcome
    };
    store.data_mut().log.settle();
    outcome.map_err(|error| explain(store, &error))
}

fn explain(store: &mut Store<State>, error: &wasmtime::Error) -> CallError {
    let breach = store.data_mut().meter.take_breach();
    let lines = store.data().log.lines();
    if let Some(breach) = breach {
        return CallError::Limit(LimitError {
            backtrace: backtrace(error),
            log: last(lines),
            ..breach
        });
    }
    if store.data().meter.is_stopped() {
        return CallError::Stopped;
    }
    let says = |text: &str| error.chain().any(|cause| cause.to_string().contains(text));
    let unnumbered = [
        (
            HOSTCALL_FUEL,
            Limit::Hostcall,
            "data handed over in one call",
            store.hostcall_fuel(),
        ),
        (
            HANDLES,
            Limit::Handles,
            "resource handles alive at once",
            store.max_component_handles(),
        ),
    ];
    for (text, limit, what, allowed) in unnumbered {
        if says(text) {
            return CallError::Limit(LimitError {
                limit,
                what: what.to_owned(),
                allowed: allowed as u64,
                asked: None,
                backtrace: backtrace(error),
                log: last(lines),
            });
        }
    }
    CallError::Trap {
        message: trap_message(error, lines),
        backtrace: backtrace(error),
        log: last(lines),
    }
}

/// Returns the lines that go with an error.
fn last(lines: &[LogLine]) -> Vec<LogLine> {
    lines[lines.len().saturating_sub(ERROR_LOG_LINES)..].to_vec()
}

fn trap_message(error: &wasmtime::Error, lines: &[LogLine]) -> String {
    const MESSAGE_BYTES_MAX: usize = 2_000;

    let trap = error.downcast_ref::<Trap>();
    let panic = trap
        .filter(|trap| **trap == Trap::UnreachableCodeReached)
        .and_then(|_| panic_message(lines));
    let message = match (panic, trap) {
        (Some(panic), _) => panic,
        (None, Some(trap)) => trap.to_string().replace("wasm trap: ", ""),
        (None, None) => error.root_cause().to_string(),
    };
    shown(&message, MESSAGE_BYTES_MAX)
}

/// Returns what Rust's panic handler wrote: `panicked at src/lib.rs:8:5: message`.
fn panic_message(lines: &[LogLine]) -> Option<String> {
    let stderr: Vec<_> = lines
        .iter()
        .filter(|line| line.origin == Origin::Stderr)
        .collect();
    let at = stderr
        .iter()
        .rposition(|line| line.message.contains("panicked at "))?;
    let (_, place) = stderr[at].message.split_once("panicked at ")?;
    let message = stderr.get(at + 1).map_or("", |line| line.message.as_str());
    Some(
        format!("panicked at {place} {message}")
            .trim_end()
            .to_owned(),
    )
}

fn backtrace(error: &wasmtime::Error) -> Vec<String> {
    const NAME_BYTES_MAX: usize = 200;

    let frames = error
        .downcast_ref::<WasmBacktrace>()
        .map_or(&[][..], WasmBacktrace::frames);
    frames
        .iter()
        .map(|frame| match frame.func_name() {
            Some(name) => shown(name, NAME_BYTES_MAX),
            None => format!("function {}", frame.func_index()),
        })
        .collect()
}

fn saturated(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Level;

    fn stderr(messages: &[&str]) -> Vec<LogLine> {
        let line = |message: &&str| LogLine {
            level: Level::Warn,
            origin: Origin::Stderr,
            message: (*message).to_owned(),
            fields: Vec::new(),
        };
        messages.iter().map(line).collect()
    }

    #[test]
    fn a_panic_is_found_in_what_was_said() {
        let lines = stderr(&[
            "before",
            "thread '<unnamed>' (1) panicked at src/lib.rs:8:5:",
            "no such column",
            "note: run with `RUST_BACKTRACE=1`",
        ]);

        let message = panic_message(&lines);
        assert_eq!(
            message.as_deref(),
            Some("panicked at src/lib.rs:8:5: no such column")
        );
        assert_eq!(panic_message(&lines[..1]), None);
        assert_eq!(
            panic_message(&lines[..2]).as_deref(),
            Some("panicked at src/lib.rs:8:5:")
        );
    }

    #[test]
    fn a_trap_without_a_panic_speaks_for_itself() {
        let error = wasmtime::Error::new(Trap::StackOverflow);

        assert_eq!(trap_message(&error, &[]), "call stack exhausted");
    }
}
