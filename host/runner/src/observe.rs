//! What a run tells while it goes on.

use std::time::Duration;

use crate::report::RetryReport;

/// Watches runs. Called from the run's own tasks, several runs at once: it must not block.
pub trait Observer: Send + Sync {
    /// Takes note of something that happened in a run of `playbook`.
    fn event(&self, playbook: &str, event: &Event<'_>);
}

/// Something that happened in a run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The lease is taken and the run is journalled.
    RunStarted {
        /// The run's id.
        run_id: &'a str,
    },
    /// The lease belonged to a run that died; this run took it over.
    TookOver {
        /// The id of the run that died.
        run_id: &'a str,
    },
    /// The run goes on where another one failed.
    Continues {
        /// The id of the run that failed.
        run_id: &'a str,
        /// The step from which on steps are done again.
        step: &'a str,
    },
    /// The gate step found work: a pass through the steps begins.
    PassStarted {
        /// Its number, from 1.
        pass: u32,
        /// Pending batches, where the gate step says.
        batches: Option<u64>,
        /// Events in them.
        events: Option<u64>,
        /// Where the run stands, if it works off more than this pass takes.
        backlog: Option<Backlog>,
    },
    /// A step begins.
    StepStarted {
        /// Its id.
        step: &'a str,
    },
    /// A statement of a step begins.
    StatementStarted {
        /// The step's id.
        step: &'a str,
        /// What the statement does.
        label: &'a str,
        /// Its number, from 1.
        number: usize,
        /// How many statements the step has.
        count: usize,
    },
    /// A step is done.
    StepDone {
        /// Its id.
        step: &'a str,
        /// How long it took.
        duration: Duration,
        /// Rows that its statements wrote.
        rows: u64,
    },
    /// A step that is not critical failed; the run goes on.
    StepFailed {
        /// Its id.
        step: &'a str,
        /// Why.
        message: &'a str,
    },
    /// Something failed for a reason that may pass by itself, did nothing so far, and is tried again after a wait.
    Retrying {
        /// What, how often it was tried, and why.
        retry: &'a RetryReport,
    },
    /// A step has something to say that people should know.
    Note {
        /// The step's id.
        step: &'a str,
        /// The remark.
        note: &'a str,
    },
    /// Derived rows, manifest and journal are committed.
    Committed {
        /// The number of the pass, from 1.
        pass: u32,
    },
}

/// Where a run in slices stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Batches that this run has committed.
    pub done: u64,
    /// Batches that this run has and will have committed in the end, as far as is known.
    pub total: u64,
    /// The time that what is left takes, by the time that what is done took; none before anything is.
    pub left: Option<Duration>,
}

/// An observer that looks away.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn event(&self, _: &str, _: &Event<'_>) {}
}
