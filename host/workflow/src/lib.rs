//! Reads workflow files: YAML text to checked types with positions.
//!
//! [`Workflow::read`] is the way in. It gives back a workflow that holds together, or every problem
//! of the file at once, each with its place and what to do next.
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::path::Path;
//! use stepwell_workflow::{Inputs, LoadError, PluginEntry, PluginKind, StepKind, StepKinds};
//! use stepwell_workflow::{TrustPolicy, Workflow};
//!
//! /// A world with one step, `sql`.
//! struct Sql;
//!
//! impl StepKinds for Sql {
//!     fn builtin(&self, name: &str) -> Option<StepKind> {
//!         (name == "sql").then(|| StepKind {
//!             name: name.into(),
//!             version: "0.1.0".into(),
//!             kind: PluginKind::Planner,
//!             gate: false,
//!             summary: "runs statements".into(),
//!             settings: serde_json::json!({
//!                 "type": "object",
//!                 "properties": {"run": {"type": "string", "x-stepwell": "sql"}},
//!                 "required": ["run"],
//!                 "additionalProperties": false,
//!             }),
//!             reads: vec![],
//!             writes: vec![],
//!         })
//!     }
//!     fn names(&self) -> Vec<String> {
//!         vec!["sql".into()]
//!     }
//!     fn load(&mut self, plugin: &PluginEntry, _: &TrustPolicy, _: &Path) -> Result<StepKind, LoadError> {
//!         let message = format!("there is no file \"{}\"", plugin.component.display());
//!         Err(LoadError { message, help: None, at: None })
//!     }
//! }
//!
//! let inputs = Inputs { vars: BTreeMap::new(), env: &|_| None };
//! let read = |text| Workflow::parse(Path::new("a.yml"), text, &inputs, &mut Sql);
//!
//! let good = "\
//! stepwell: 1
//! playbook: a
//! steps: [{ id: one, uses: sql, with: { run: SELECT 1 } }]
//! ";
//! let (workflow, warnings) = read(good).unwrap();
//! assert_eq!(workflow.steps[0].with["run"], "SELECT 1");
//! assert!(warnings.is_empty());
//!
//! let (file, problems) = read(&good.replace("run:", "ran:")).unwrap_err();
//! assert_eq!(
//!     problems[0].to_plain(&file),
//!     "a.yml:3:39: error: unknown setting \"ran\" of step \"one\"\n  help: did you mean \"run\"?"
//! );
//! ```
//!
//! Reading order: [`Workflow`], [`Step`], [`StepKinds`], [`Problem`]. [`json_schema`] describes the
//! format for editors.
//!
//! What this crate does not do: connect to a database, load or run a plugin ([`StepKinds`] tells it
//! what they are), ask the environment or the clock, or print. It reads the workflow file and the
//! SQL files that it names, and no other.

mod check;
mod fields;
mod json_schema;
mod kinds;
mod limits;
mod name;
mod problem;
mod quantity;
mod read;
mod source_file;
mod substitute;
mod tree;
mod words;
mod workflow;

pub use check::{FORMAT, STEPS_MAX};
pub use json_schema::json_schema;
pub use kinds::{LoadError, PluginKind, StepKind, StepKinds};
pub use limits::{LimitKey, LimitUnit, Limits};
pub use name::{PLAYBOOK_BYTES_MAX, Playbook, PlaybookError};
pub use problem::{PROBLEMS_MAX, Problem, Severity};
pub use read::{Declarations, FILE_BYTES_MAX, Outcome};
pub use source_file::{SourceFile, Span};
pub use stepwell_sql::TableName;
pub use substitute::Inputs;
pub use tree::{DEPTH_MAX, NODES_MAX};
pub use workflow::{
    Connection, Context, Grants, Login, Lookback, PluginEntry, RETRIES_MAX, Require, Schemas,
    Secret, Source, StatementGrant, Step, Trust, TrustPolicy, Warehouse, Workflow,
};
