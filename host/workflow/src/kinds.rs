//! What the reader must know about step plugins, told by the caller: this crate runs and loads
//! nothing.

use std::path::Path;

use serde_json::Value;

use crate::source_file::Span;
use crate::workflow::{PluginEntry, TrustPolicy};

/// What a step plugin says of itself, from its descriptor.
#[derive(Debug, Clone, PartialEq)]
pub struct StepKind {
    /// The plugin's own name, for example `aggregate`.
    pub name: String,
    /// The plugin's own version.
    pub version: String,
    /// What the plugin answers with.
    pub kind: PluginKind,
    /// Whether the step may end a run because nothing is pending.
    pub gate: bool,
    /// What the step does, in one line.
    pub summary: String,
    /// JSON Schema of the settings, with `x-stepwell` marks.
    pub settings: Value,
    /// Relations that the step reads without a setting that names them: `events`, `manifest`.
    pub reads: Vec<String>,
    /// Relations that the step writes without a setting that names them.
    pub writes: Vec<String>,
}

/// What a plugin answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PluginKind {
    /// SQL statements.
    Planner,
    /// Rows for rows.
    Reducer,
}

/// The step plugins that a workflow may use.
pub trait StepKinds {
    /// Returns the built-in step of this name. Called once for each step; the answer must not
    /// change.
    fn builtin(&self, name: &str) -> Option<StepKind>;

    /// Returns the names of all built-in steps.
    fn names(&self) -> Vec<String>;

    /// Reads the descriptor of a declared plugin, without running it. Called once for each entry of
    /// `plugins:`, in the order of the file.
    ///
    /// `trust` is the workflow's, and `base` its folder, to which [`PluginEntry::component`] is
    /// relative.
    ///
    /// # Errors
    ///
    /// When there is no such file, its digest is another, it lacks a signature that it needs, or it
    /// describes no step.
    fn load(
        &mut self,
        plugin: &PluginEntry,
        trust: &TrustPolicy,
        base: &Path,
    ) -> Result<StepKind, LoadError>;
}

/// Why a plugin cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LoadError {
    /// What is wrong: lower case, no full stop, with the plugin's file named.
    pub message: String,
    /// What to do next.
    pub help: Option<String>,
    /// What in the workflow file is at fault; the component's path if none.
    pub at: Option<Span>,
}
