//! Carries a checked workflow out.
//!
//! [`run`] takes the playbook's lease, asks the gate step what is pending, and runs the steps: each is asked for a plan,
//! the plan is held against what the step may do, and its statements run in one transaction that begins by making sure
//! that this run still holds the lease. The transaction that writes the manifest also writes the journal. [`plan`] does
//! the asking alone and writes nothing.
//!
//! Reading order: [`run`] and [`RunOptions`], [`RunReport`], [`RunError`], [`Components`], [`Observer`].
//!
//! What it does not do: read YAML, name tokio-postgres or wasmtime, print.

mod advice;
mod components;
mod confined;
mod connect;
mod conversation;
mod convert;
mod error;
mod execute;
mod init;
mod journal;
mod lease;
mod lookback;
mod manifest;
mod measures;
mod observe;
mod plan;
mod policy;
mod pool;
mod reduce;
mod replay;
mod report;
mod resume;
mod retry;
mod roles;
mod run;
mod source;
mod start;
mod step;
mod stop;
mod together;
mod trust;
mod verify;

pub use advice::Advice;
pub use components::Components;
pub use connect::{local_server, target};
pub use error::{Failure, Problem, RunError, StatementPlace, StepPlace, WarehouseState};
pub use init::{InitReport, ddl, init};
pub use lookback::{LateBatches, LookbackReport, lookback};
pub use manifest::{
    Batches, Before, ForgetReport, Forgettable, ManifestQuery, ManifestRow, forget, forgettable,
    manifest_list,
};
pub use measures::Published;
pub use observe::{Backlog, Event, Observer, Unobserved};
pub use plan::plan;
pub use replay::{Keys, Replay};
pub use report::{
    Outcome, PlanReport, PlannedStatement, PlannedStep, RetryReport, RunReport, StatementReport,
    StepReport, StepState,
};
pub use roles::{Finding, grants};
pub use run::{RunOptions, run};
pub use stop::{Stop, Stopper, stop};
pub use together::Together;
pub use trust::{SignatureState, keys as trusted_keys};
pub use verify::{LeftOut, Sample, VerifyOptions, VerifyReport, found as verified, verify};
