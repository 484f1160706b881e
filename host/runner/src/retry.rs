//! Trying again what failed for a reason that may pass by itself.
//!
//! Only work that cannot have taken effect is repeated: connecting, asking, and a transaction that the server has
//! rolled back as a whole. What the server said decides, by its SQLSTATE; the classes stand in
//! `stepwell_warehouse::RetryClass`. A COMMIT whose outcome is not known is never repeated, and neither is a statement
//! outside of a transaction whose connection was lost.
//!
//! The waits double from 0.5 s to 15 s, each shortened at random by up to half, so that two runs which met in a
//! deadlock do not meet again ("equal jitter": Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
//! 2015).

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use stepwell_sandbox::CallError;
use stepwell_warehouse::RetryClass;
use stepwell_workflow::Workflow;

use crate::error::{Problem, RunError, one_line};
use crate::report::RetryReport;

/// How often work is tried again unless the workflow says otherwise (`warehouse: { retries: … }`). With the waits below
/// that lasts for 4 to 8 seconds, in which a server restarts.
const RETRIES: u32 = 4;

const WAIT_FIRST: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(15);

/// The retries of one run: how many a piece of work has, and those that there were.
#[derive(Debug)]
pub(crate) struct Retries {
    limit: u32,
    taken: Mutex<Vec<RetryReport>>,
}

impl Retries {
    pub(crate) fn of(workflow: &Workflow) -> Self {
        Self {
            limit: workflow.warehouse.retries.unwrap_or(RETRIES),
            taken: Mutex::default(),
        }
    }

    /// Notes a retry and returns it, with how long to wait before it; none if `error` is not one that may pass, or if
    /// the work was tried `failed` times and the limit is reached. The first failure is number 1.
    pub(crate) fn next(
        &self,
        work: &str,
        failed: u32,
        error: &RunError,
    ) -> Option<(RetryReport, Duration)> {
        if failed > self.limit || !may_pass(error) {
            return None;
        }
        let wait = wait(failed);
        let retry = RetryReport {
            work: work.to_owned(),
            number: failed,
            of: self.limit,
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            sqlstate: error
                .warehouse_error()
                .and_then(|error| error.sqlstate())
                .map(str::to_owned),
            error: one_line(error),
        };
        self.taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(retry.clone());
        Some((retry, wait))
    }

    /// Returns the retries that there were.
    pub(crate) fn taken(&self) -> Vec<RetryReport> {
        self.taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Whether the same work may succeed later without a change, and did nothing so far.
fn may_pass(error: &RunError) -> bool {
    match &*error.problem {
        Problem::Warehouse { source, .. } | Problem::Statement { source } => {
            source.retry_class() != RetryClass::Never
        }
        Problem::Plugin {
            source: CallError::Failure(failure),
        } => failure.retryable,
        _ => false,
    }
}

/// How long to wait after failure number `failed`, from 1.
fn wait(failed: u32) -> Duration {
    let whole = WAIT_FIRST
        .saturating_mul(1 << failed.saturating_sub(1).min(16))
        .min(WAIT_MAX);
    // The keys of a hash map's hasher are the randomness that the standard library has.
    let random = RandomState::new().build_hasher().finish();
    let shortened = whole.as_secs_f64() * (random as f64 / u64::MAX as f64) / 2.0;
    whole - Duration::from_secs_f64(shortened)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_their_bounds() {
        for failed in 1..=30 {
            let whole = Duration::from_millis(500 * (1 << (failed - 1).min(5))).min(WAIT_MAX);
            for _ in 0..20 {
                let wait = wait(failed);
                assert!(wait <= whole && wait >= whole / 2, "{failed}: {wait:?}");
            }
        }
        let waits: std::collections::BTreeSet<_> = (0..20).map(|_| wait(5)).collect();
        assert!(waits.len() > 1, "all waits are alike");
    }
}
