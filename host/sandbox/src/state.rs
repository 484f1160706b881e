//! What the host keeps for one attempt, behind each call that the plugin makes.

use wasmtime::Result;

use crate::bindings::planner::stepwell::step::{columnar, log, plans, types};
use crate::digest::Digest;
use crate::limits::Limits;
use crate::log::{Level, Log};
use crate::meter::Meter;
use crate::wasi::World;

/// The data of a store.
pub(crate) struct State {
    pub(crate) meter: Meter,
    pub(crate) log: Log,
    pub(crate) world: World,
}

impl State {
    pub(crate) fn new(limits: &Limits, digest: Digest, as_of_us: i64) -> Self {
        Self {
            meter: Meter::new(limits),
            log: Log::new(limits),
            world: World::new(digest, as_of_us),
        }
    }
}

impl log::Host for State {
    fn emit(
        &mut self,
        level: log::Level,
        message: String,
        fields: Vec<(String, String)>,
    ) -> Result<()> {
        let level = match level {
            log::Level::Trace => Level::Trace,
            log::Level::Debug => Level::Debug,
            log::Level::Info => Level::Info,
            log::Level::Warn => Level::Warn,
            log::Level::Error => Level::Error,
        };
        self.log.emit(level, &message, &fields);
        self.meter
            .hold(self.log.bytes())
            .map_err(wasmtime::Error::new)
    }

    fn progress(&mut self, done: u64, total: Option<u64>, label: String) -> Result<()> {
        self.log.progress(done, total, &label);
        Ok(())
    }
}

impl types::Host for State {}
impl columnar::Host for State {}
impl plans::Host for State {}
