//! A component that was checked and compiled.

use std::fmt;
use std::sync::Arc;

use wasmtime::component::{InstancePre, Linker};

use crate::bindings::planner::PlannerIndices;
use crate::call::CallError;
use crate::describe::{Description, Inspection, Kind};
use crate::digest::Digest;
use crate::limits::Limits;
use crate::planner::{self, Attempt};
use crate::sandbox::Runtime;
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
    /// Checked, and not called by anything yet.
    Reducer,
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
            Kind::Reducer => Ok(Self::Reducer),
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
    /// If the component is no planner, or its initialisation traps or breaks a limit.
    pub fn attempt(&self, limits: &Limits, as_of_us: i64) -> Result<Attempt, CallError> {
        match &self.0.program {
            Program::Planner { pre, indices } => {
                let state = State::new(limits, self.digest(), as_of_us);
                planner::begin(&self.0.runtime, pre, indices, state, limits)
            }
            Program::Reducer => Err(CallError::NotAPlanner),
        }
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
