//! Runs step plugins, which are WebAssembly components that nobody needs to trust: they hold no
//! connection, and here they get no files, no network, no clock, and no more time and memory than
//! their limits.
//!
//! ```no_run
//! use stepwell_sandbox::contract::{Reply, RunInfo};
//! use stepwell_sandbox::{Limits, Sandbox, SandboxOptions, describe};
//!
//! # fn run_info() -> RunInfo { unimplemented!() }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bytes = std::fs::read("engaged_time.wasm")?;
//! println!("{}", describe(&bytes)?.summary); // Nothing of it has run.
//!
//! let sandbox = Sandbox::new(SandboxOptions::default())?;
//! let component = sandbox.load(&bytes)?;
//! let run = run_info();
//! let mut attempt = component.attempt(&Limits::third_party(), run.as_of_us)?;
//! match attempt.next(&run, &[])? {
//!     Reply::Ask(questions) => println!("{} questions first", questions.len()),
//!     Reply::Ready(plan) => println!("{} statements", plan.statements.len()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! In reading order: [`describe`](describe()) reads what a plugin says about itself.
//! [`Sandbox::load`] checks and compiles it into a [`Component`]. [`Component::attempt`] gives an
//! [`Attempt`], one instance within [`Limits`], which is asked with [`Attempt::next`] for a plan or
//! [`Attempt::next_shape`] for a shape; [`contract`] holds the types that cross.
//! [`Component::reducer`] gives a [`Reducer`], which folds one partition and whose every batch is
//! held against the fields that it declared. A wrong answer is a [`CallError`].
//!
//! What it does not do: it does not run, check or understand SQL, knows no grants and no database,
//! and does not decide whom to trust.
//! Compiling is bounded in memory and time for strangers' components alone, in a child process ([`ChildCompiler`]).

mod attempt;
mod batch;
mod bindings;
mod cache;
mod call;
mod compile;
mod component;
pub mod contract;
mod describe;
mod digest;
mod engine;
mod imports;
mod limits;
mod log;
mod meter;
mod reducer;
mod reply;
mod runtime;
mod sandbox;
mod shape;
mod state;
mod text;
mod ticker;
mod version;
mod wasi;

pub use attempt::Attempt;
pub use batch::{bytes as batch_bytes, check_output};
pub use call::CallError;
pub use compile::child::{ARGUMENT, ChildCompiler, ChildError, compile_for_parent};
pub use component::Component;
pub use describe::{
    COMPONENT_BYTES_MAX, DESCRIPTION_BYTES_MAX, DescribeError, Description, Inspection, Kind,
    SECTION, STRANGER_BYTES_MAX, describe, inspect, with_description,
};
pub use digest::{Digest, ParseDigestError};
pub use imports::RefusedImport;
pub use limits::{Limit, LimitError, Limits};
pub use log::{Level, LogLine, Origin, Progress};
pub use reducer::Reducer;
pub use sandbox::{EngineError, Sandbox, SandboxError, SandboxOptions};
