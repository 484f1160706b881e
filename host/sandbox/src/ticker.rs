//! Advances the engine's epoch while plugins run, so that a loop cannot hold its thread for ever.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

use wasmtime::EngineWeak;

/// How often a running plugin is looked at.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// The thread that ticks. It sleeps while no plugin runs, and ends when the `Ticker` is dropped.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
}

impl Ticker {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// If the system gives no thread.
    pub(crate) fn start(engine: EngineWeak) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        thread::Builder::new()
            .name("stepwell-ticker".to_owned())
            .spawn(move || tick(&theirs, &engine))?;
        Ok(Self { shared })
    }

    /// Ticks for as long as the returned guard lives.
    pub(crate) fn run(&self) -> Running {
        self.shared.lock().running += 1;
        self.shared.wake.notify_one();
        Running {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        // Not joined: the thread may be asleep for one more tick, and nobody needs to wait for
        // that.
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
    }
}

/// A plugin is running.
pub(crate) struct Running {
    shared: Arc<Shared>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.lock().running -= 1;
    }
}

#[derive(Default)]
struct State {
    running: usize,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and two numbers cannot be left half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a plugin runs; false when there is nothing left to do.
    fn wait_for_work(&self) -> bool {
        let state = self
            .wake
            .wait_while(self.lock(), |state| state.running == 0 && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        !state.closed
    }
}

fn tick(shared: &Shared, engine: &EngineWeak) {
    while shared.wait_for_work() {
        thread::sleep(TICK);
        let Some(engine) = engine.upgrade() else {
            return;
        };
        engine.increment_epoch();
    }
}
