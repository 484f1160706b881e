//! Counts what one attempt uses, and says no.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use wasmtime::ResourceLimiter;

use crate::limits::{Limit, LimitError, Limits};

/// Memory, tables and time of one attempt.
///
/// wasmtime's own `StoreLimits` bounds each memory by itself, so a component with four memories
/// would get four times its limit; here all memories draw on one sum.
pub(crate) struct Meter {
    memory_limit: u64,
    memory_bytes: u64,
    table_limit: u64,
    table_elements: u64,
    /// What the host keeps for the plugin, in bytes: log lines.
    held_bytes: u64,
    cpu_limit: Duration,
    call_cpu_limit: Duration,
    cpu_before: Duration,
    /// Thread CPU time at which the running call began.
    cpu_at_entry: Duration,
    wall_limit: Duration,
    began: Instant,
    breach: Option<LimitError>,
    /// Set by whoever does not want an answer any more.
    stop: Option<Arc<AtomicBool>>,
}

impl Meter {
    /// Core instances a component may be made of. CPython, linked from its libraries, is made of 38.
    const INSTANCES: usize = 64;
    /// Memories over all of them.
    const MEMORIES: usize = 4;
    /// Tables over all of them.
    const TABLES: usize = 16;
    /// What an element of a table takes of the host's memory: a pointer.
    const TABLE_ELEMENT_BYTES: u64 = 8;

    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            memory_limit: limits.memory_bytes,
            memory_bytes: 0,
            table_limit: limits.table_elements,
            table_elements: 0,
            held_bytes: 0,
            cpu_limit: limits.cpu,
            call_cpu_limit: limits.call_cpu,
            cpu_before: Duration::ZERO,
            cpu_at_entry: Duration::ZERO,
            wall_limit: limits.wall,
            began: Instant::now(),
            breach: None,
            stop: None,
        }
    }

    /// Ends the calls of the attempt once `stop` is set.
    pub(crate) fn stop_on(&mut self, stop: Arc<AtomicBool>) {
        self.stop = Some(stop);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        let stop = self.stop.as_ref();
        stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    /// Begins to count CPU time. A call stays on one thread; the next one may be on another.
    pub(crate) fn enter(&mut self) {
        self.cpu_at_entry = thread_cpu();
    }

    /// Ends what [`enter`](Self::enter) began.
    pub(crate) fn leave(&mut self) {
        self.cpu_before += thread_cpu().saturating_sub(self.cpu_at_entry);
    }

    /// Compares the time used inside of a call with the limits. Called on every tick.
    ///
    /// CPU time comes from the thread's own clock rather than from counting ticks, so that a plugin
    /// on a busy machine does not pay for its neighbours.
    pub(crate) fn check_time(&mut self) -> Result<(), LimitError> {
        let of_call = thread_cpu().saturating_sub(self.cpu_at_entry);
        let cpu = self.cpu_before + of_call;
        if cpu > self.cpu_limit {
            return Err(self.breached(Limit::Cpu, "CPU time", millis(self.cpu_limit), millis(cpu)));
        }
        if of_call > self.call_cpu_limit {
            let (allowed, asked) = (millis(self.call_cpu_limit), millis(of_call));
            return Err(self.breached(Limit::CallCpu, "CPU time of one call", allowed, asked));
        }
        self.check_wall()
    }

    /// Compares the time since the attempt began with its limit.
    pub(crate) fn check_wall(&mut self) -> Result<(), LimitError> {
        let wall = self.began.elapsed();
        if wall > self.wall_limit {
            let (allowed, asked) = (millis(self.wall_limit), millis(wall));
            return Err(self.breached(Limit::Wall, "time since the start", allowed, asked));
        }
        Ok(())
    }

    /// Returns CPU time over all finished calls.
    pub(crate) fn cpu(&self) -> Duration {
        self.cpu_before
    }

    /// Returns the memory in use, in bytes. Memories never shrink, so this is the most there was.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Returns what is left until the limit on time since the attempt began.
    pub(crate) fn wall_left(&self) -> Duration {
        self.wall_limit.saturating_sub(self.began.elapsed())
    }

    /// Returns the breach that ended the attempt, if one did.
    ///
    /// It is kept here since wasmtime's own errors on the way out may wrap or replace the one that
    /// we raised.
    pub(crate) fn take_breach(&mut self) -> Option<LimitError> {
        self.breach.take()
    }

    /// Notes how much the host keeps for the plugin.
    pub(crate) fn hold(&mut self, held_bytes: u64) -> Result<(), LimitError> {
        self.check_memory(self.memory_bytes, self.table_elements, held_bytes)?;
        self.held_bytes = held_bytes;
        Ok(())
    }

    /// All that the plugin takes of the host's memory draws on one sum.
    fn check_memory(
        &mut self,
        memory_bytes: u64,
        table_elements: u64,
        held_bytes: u64,
    ) -> Result<(), LimitError> {
        let tables = table_elements.saturating_mul(Self::TABLE_ELEMENT_BYTES);
        let asked = memory_bytes
            .saturating_add(tables)
            .saturating_add(held_bytes);
        match asked > self.memory_limit {
            true => Err(self.breached(Limit::Memory, "memory", self.memory_limit, asked)),
            false => Ok(()),
        }
    }

    fn breached(&mut self, limit: Limit, what: &str, allowed: u64, asked: u64) -> LimitError {
        let error = LimitError::new(limit, what, allowed, asked);
        self.breach.get_or_insert_with(|| error.clone());
        error
    }
}

// Growth that is allowed here and fails later stays counted. To take it back in
// `memory_grow_failed` would be wrong: that is also called for growth that never came past
// `memory_growing`, and a plugin could lower its sum that way.
impl ResourceLimiter for Meter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let memory_bytes = self.memory_bytes.saturating_add(grown(current, desired));
        // An error traps at once. To answer "no" would let the plugin's allocator abort with a
        // message of its own.
        self.check_memory(memory_bytes, self.table_elements, self.held_bytes)
            .map_err(wasmtime::Error::new)?;
        self.memory_bytes = memory_bytes;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let asked = self.table_elements.saturating_add(grown(current, desired));
        if asked > self.table_limit {
            let (limit, allowed) = (Limit::TableElements, self.table_limit);
            return Err(wasmtime::Error::new(self.breached(
                limit,
                "table elements",
                allowed,
                asked,
            )));
        }
        self.check_memory(self.memory_bytes, asked, self.held_bytes)
            .map_err(wasmtime::Error::new)?;
        self.table_elements = asked;
        Ok(true)
    }

    fn instances(&self) -> usize {
        Self::INSTANCES
    }

    fn tables(&self) -> usize {
        Self::TABLES
    }

    fn memories(&self) -> usize {
        Self::MEMORIES
    }
}

fn grown(current: usize, desired: usize) -> u64 {
    desired.saturating_sub(current) as u64
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn thread_cpu() -> Duration {
    // The clock counts from the thread's start, so it is never negative.
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 65_536;

    fn meter(memory_bytes: u64) -> Meter {
        Meter::new(&Limits {
            memory_bytes,
            table_elements: 10,
            ..Limits::own()
        })
    }

    #[test]
    fn memories_draw_on_one_sum() {
        let mut meter = meter(4 * PAGE as u64);

        assert!(
            meter
                .memory_growing(0, 2 * PAGE, None)
                .expect("first memory")
        );
        assert!(
            meter
                .memory_growing(0, 2 * PAGE, None)
                .expect("second memory, up to the limit")
        );
        assert!(meter.memory_growing(2 * PAGE, 3 * PAGE, None).is_err());

        let breach = meter.take_breach().expect("a breach was kept");
        assert_eq!(
            (breach.limit, breach.asked),
            (Limit::Memory, Some(5 * PAGE as u64))
        );
    }

    /// A plugin that fails to grow on purpose must not get memory back that it still holds.
    #[test]
    fn failed_growth_is_not_given_back() {
        let mut meter = meter(2 * PAGE as u64);
        assert!(
            meter
                .memory_growing(0, 2 * PAGE, None)
                .expect("up to the limit")
        );

        meter
            .memory_grow_failed(wasmtime::Error::msg("above its maximum"))
            .expect("no error");

        assert_eq!(meter.memory_bytes(), 2 * PAGE as u64);
        assert!(meter.memory_growing(0, PAGE, None).is_err());
    }

    #[test]
    fn growth_above_its_own_maximum_is_no_breach() {
        let mut meter = meter(10 * PAGE as u64);

        assert!(
            !meter
                .memory_growing(PAGE, 3 * PAGE, Some(2 * PAGE))
                .expect("a plain no")
        );
        assert_eq!((meter.memory_bytes(), meter.take_breach()), (0, None));
    }

    #[test]
    fn what_the_host_keeps_counts_as_memory() {
        let mut meter = meter(PAGE as u64 + 100);
        assert!(meter.memory_growing(0, PAGE, None).expect("it fits"));
        meter.hold(60).expect("it fits");
        assert!(meter.table_growing(0, 5, None).expect("up to the limit"));

        assert_eq!(
            meter.hold(61).expect_err("too much").asked,
            Some(PAGE as u64 + 101)
        );
        meter.hold(0).expect("what is given back is free");
        assert!(meter.table_growing(5, 10, None).expect("it fits again"));
    }

    #[test]
    fn tables_draw_on_one_sum() {
        let mut meter = meter(1_000);

        assert!(meter.table_growing(0, 6, None).expect("first table"));
        assert!(meter.table_growing(0, 5, None).is_err());
    }

    #[test]
    fn time_since_the_start_is_bounded() {
        let limits = Limits {
            wall: Duration::ZERO,
            ..Limits::own()
        };
        let mut meter = Meter::new(&limits);

        assert_eq!(
            meter.check_wall().expect_err("no time at all").limit,
            Limit::Wall
        );
        assert_eq!(meter.wall_left(), Duration::ZERO);
    }
}
