//! A component that was checked and compiled.

use std::fmt;
use std::sync::Arc;

use wasmtime::component::{InstancePre, Linker};

use crate::attempt::{self, Attempt};
use crate::bindings::planner::PlannerIndices;
use crate::bindings::reducer::ReducerIndices;
use crate::call::CallError;
use crate::contract::{Field, RunInfo};
use crate::describe::{Description, Inspection, Kind};
use crate::digest::Digest;
use crate::limits::Limits;
use crate::reducer::Reducer;
use crate::runtime::Runtime;
use crate::state::State;

/// A loaded component. Cheap to clone, and free to go to other threads; it outlives its sandbox.
#[derive(Clone)]
pub struct Component(Arc<Inner>);

struct Inner {
    inspection: Inspection,
    program: Program,
    artefact_bytes: u64,
    cached: bool,
    runtime: Arc<Runtime>,
}

/// Compiled code with its imports in place, for each kind of plugin.
pub(crate) enum Program {
    Planner {
        pre: InstancePre<State>,
        indices: PlannerIndices,
    },
    Reducer {
        pre: InstancePre<State>,
        indices: ReducerIndices,
    },
}

impl Program {
    pub(crate) fn link(
        kind: Kind,
        linker: &Linker<State>,
        compiled: &wasmtime::component::Component,
    ) -> wasmtime::Result<Self> {
        let pre = linker.instantiate_pre(compiled)?;
        match kind {
            Kind::Planner => Ok(Self::Planner {
                indices: PlannerIndices::new(&pre)?,
                pre,
            }),
            Kind::Reducer => Ok(Self::Reducer {
                indices: ReducerIndices::new(&pre)?,
                pre,
            }),
        }
    }
}

impl Component {
    pub(crate) fn new(
        inspection: Inspection,
        program: Program,
        artefact_bytes: u64,
        cached: bool,
        runtime: Arc<Runtime>,
    ) -> Self {
        Self(Arc::new(Inner {
            inspection,
            program,
            artefact_bytes,
            cached,
            runtime,
        }))
    }

    /// Returns what the component says about itself.
    pub fn description(&self) -> &Description {
        &self.0.inspection.description
    }

    /// Returns the SHA-256 of the component's bytes.
    pub fn digest(&self) -> Digest {
        self.0.inspection.digest
    }

    /// Returns the description with imports, exports and size.
    pub fn inspection(&self) -> &Inspection {
        &self.0.inspection
    }

    /// Returns the size of the compiled code in bytes.
    pub fn artefact_bytes(&self) -> u64 {
        self.0.artefact_bytes
    }

    /// Whether the compiled code came from the cache.
    pub fn cached(&self) -> bool {
        self.0.cached
    }

    /// Begins an attempt: a fresh instance with memory of its own, at the point in time `as_of_us`
    /// (microseconds since 1970-01-01 UTC). The component's initialisation runs here, within the
    /// limits.
    ///
    /// # Errors
    ///
    /// If its initialisation traps or breaks a limit.
    pub fn attempt(&self, limits: &Limits, as_of_us: i64) -> Result<Attempt, CallError> {
        let state = State::new(limits, self.digest(), as_of_us);
        attempt::begin(&self.0.runtime, &self.0.program, state, limits)
    }

    /// Begins an attempt to fold one partition: a fresh instance, opened for rows of the fields `input`, whose answers
    /// are held against the fields `output`, those of its shape.
    ///
    /// # Errors
    ///
    /// If the component is no reducer, if it fails to open, or if it traps or breaks a limit.
    pub fn reducer(
        &self,
        limits: &Limits,
        run: &RunInfo,
        input: &[Field],
        output: &[Field],
    ) -> Result<Reducer, CallError> {
        Reducer::open(self.attempt(limits, run.as_of_us)?, run, input, output)
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Component")
            .field("name", &self.description().name)
            .field("digest", &self.digest())
            .finish_non_exhaustive()
    }
}
