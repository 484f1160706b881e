//! Why a run did not end well, and in what state it left the warehouse.

use std::fmt;
use std::time::Duration;

use stepwell_sandbox::contract::Statement;
use stepwell_sandbox::{CallError, SandboxError};
use stepwell_sql::TableName;
use stepwell_warehouse::WarehouseError;
use stepwell_workflow::LimitKey;

use crate::policy::Refusal;
use crate::roles::Finding;

/// A run, or another piece of work against the warehouse, that failed.
///
/// `Display` is one line with the step's name; `source` goes on behind the problem.
#[derive(Debug)]
pub struct RunError {
    /// What went wrong.
    pub problem: Box<Problem>,
    /// Where in the workflow, if in a step.
    pub step: Option<Box<StepPlace>>,
    /// The run, once it is journalled.
    pub run_id: Option<String>,
    /// In what state the warehouse was left.
    pub state: WarehouseState,
    /// The step at which a run may go on, if what was done before it need not be done again. None where a plugin refused for
    /// good: it would do so again.
    pub continue_from: Option<String>,
}

/// A step and, where it came that far, a statement of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepPlace {
    /// Index in the workflow's `steps`.
    pub index: usize,
    /// The step's id.
    pub id: String,
    /// Name and version of the plugin: `aggregate 0.1.0`.
    pub plugin: String,
    /// The setting at fault as a JSON pointer below `with`, where the plugin says.
    pub setting: Option<String>,
    /// The statement at fault.
    pub statement: Option<StatementPlace>,
}

impl StepPlace {
    /// Returns the place of a statement of the step's plan: `number` of `count`, from 1.
    pub(crate) fn of_statement(&self, statement: &Statement, number: usize, count: usize) -> Self {
        Self {
            statement: Some(StatementPlace {
                label: statement.label.clone(),
                question: false,
                number,
                count,
                sql: statement.sql.clone(),
            }),
            ..self.clone()
        }
    }
}

/// A statement of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementPlace {
    /// What it does.
    pub label: String,
    /// Whether it is a question; otherwise it is a statement of the plan.
    pub question: bool,
    /// Its number, from 1.
    pub number: usize,
    /// How many there are.
    pub count: usize,
    /// Its text.
    pub sql: String,
}

/// In what state a failure left the warehouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WarehouseState {
    /// Nothing was written but the journal.
    #[default]
    Unchanged,
    /// Scratch tables were written; derived tables and manifest are as before.
    ScratchWritten,
    /// A step other than the commit step changed tables beyond scratch; the manifest is as before.
    BeyondScratch,
    /// Earlier passes are committed; what this one computed is in scratch only.
    EarlierPassesCommitted,
    /// Derived rows, manifest and journal are committed.
    Committed,
    /// The connection was lost during COMMIT and the server could not be asked since.
    Unknown,
}

impl fmt::Display for WarehouseState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unchanged => "nothing was written; derived tables and manifest unchanged",
            Self::ScratchWritten => "scratch tables written, derived tables and manifest unchanged",
            Self::BeyondScratch => {
                "tables that a step writes by itself were changed; the commit step's tables and the manifest unchanged"
            }
            Self::EarlierPassesCommitted => {
                "earlier slices committed; of this one scratch tables written, derived tables and manifest unchanged"
            }
            Self::Committed => "derived tables and manifest committed",
            Self::Unknown => {
                "not known: the connection was lost during COMMIT; the next run finds out by the manifest"
            }
        })
    }
}

/// Statements that mend a role which are shown.
const MENDS_MAX: usize = 20;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The warehouse refused or was not there.
    #[error("could not {doing}")]
    Warehouse {
        /// What was tried: `take the lease`.
        doing: String,
        /// What the warehouse said.
        source: WarehouseError,
    },
    /// The private local Postgres could not be started.
    #[error("could not start the private local Postgres")]
    Local {
        /// Why not.
        source: stepwell_warehouse::local::LocalError,
    },
    /// The connection string cannot be read.
    #[error("the warehouse's url is not one")]
    Url {
        /// Why not.
        source: stepwell_warehouse::TargetError,
    },
    /// A statement of a step failed.
    #[error(transparent)]
    Statement {
        /// What the warehouse said.
        source: WarehouseError,
    },
    /// A plugin did not answer with a plan.
    #[error(transparent)]
    Plugin {
        /// What it said, or how it went down.
        source: CallError,
    },
    /// A plugin cannot be loaded.
    #[error("plugin \"{name}\" cannot be loaded")]
    Load {
        /// Its name in the workflow.
        name: String,
        /// Why not.
        source: SandboxError,
    },
    /// A plan holds what the step may not do.
    #[error("{0}")]
    Refused(String),
    /// A plan holds what the workflow file does not grant to its step, and could.
    #[error("{what}")]
    NotGranted {
        /// What the plan holds, in the workflow file's own names.
        what: String,
        /// The key of the workflow file that would allow it, as a sentence.
        mend: String,
    },
    /// The login role of a third party's plugin is not as the workflow's grants have it.
    #[error(
        "role \"{role}\" of plugin \"{plugin}\" is not as the workflow grants it: {}",
        first(findings)
    )]
    Role {
        /// The plugin's name in the workflow.
        plugin: String,
        /// The role.
        role: String,
        /// All that it can do beyond its grants, and all that it lacks of them; at least one.
        findings: Vec<Finding>,
    },
    /// A third party's step cannot take part in a verification; nothing was done.
    #[error(
        "a third party's step cannot be verified: its SQL runs under a login of its own, which does not see the tables of a \
         verification, made in one transaction of the workflow's login that is never committed"
    )]
    NotVerifiable {
        /// The plugin's name in the workflow.
        plugin: String,
    },
    /// The statements of a third party's step took longer than they may.
    #[error("the step's statements took longer than the limit \"{}\" of {} s", limit.name(), value.as_secs_f64())]
    OutOfTime {
        /// The plugin's name in the workflow.
        plugin: String,
        /// The limit.
        limit: LimitKey,
        /// Its value.
        value: Duration,
    },
    /// What a reducer gives could not be kept until it can be written.
    #[error("could not keep the reducer's rows in a temporary file in {}", folder.display())]
    TemporaryFile {
        /// Where the file is, or was to be.
        folder: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Another run of the playbook is alive.
    #[error("run {owner} holds playbook \"{playbook}\", since {since}")]
    LeaseHeld {
        /// The playbook.
        playbook: String,
        /// The other run's id.
        owner: String,
        /// Where it runs: host and process.
        place: String,
        /// When it began, in text form.
        since: String,
        /// Time since its last sign of life.
        heartbeat_age: Duration,
    },
    /// The lease went to another run while this one was going on.
    #[error("this run no longer holds the lease of playbook \"{playbook}\"")]
    LeaseLost {
        /// The playbook.
        playbook: String,
    },
    /// The session that holds the lease was lost.
    #[error("the session that holds the lease of playbook \"{playbook}\" was lost")]
    ControlLost {
        /// The playbook.
        playbook: String,
    },
    /// A key of the workflow's `source:` does not fit the warehouse.
    #[error("{what}")]
    Source {
        /// The key as a JSON pointer below `source`, for [`Source::span`](stepwell_workflow::Source::span).
        pointer: String,
        /// What is wrong.
        what: String,
        /// What to do next.
        help: Option<String>,
    },
    /// The host's own tables are not there.
    #[error("the warehouse has no table {table}")]
    NotInitialised {
        /// The first one that is missing.
        table: TableName,
    },
    /// The manifest keeps batches of another type than the source has.
    #[error(
        "manifest {manifest} keeps batches of type {found}, those of the source are {expected}"
    )]
    BatchType {
        /// The manifest.
        manifest: TableName,
        /// The type that it keeps.
        found: String,
        /// The type of the source's batches.
        expected: String,
    },
    /// The host's own tables were made by another version.
    #[error("the tables in schema stepwell have version {found}, this build needs {expected}")]
    Version {
        /// The version found.
        found: i64,
        /// The version that this build works with.
        expected: i64,
    },
    /// What was named is no batch, by the type that batches have.
    #[error("expected a batch of playbook \"{playbook}\", which is a {kind}, found \"{batch}\"")]
    NotABatch {
        /// The playbook.
        playbook: String,
        /// The SQL type of its batches.
        kind: String,
        /// What was named.
        batch: String,
    },
    /// Batches cannot be forgotten, since one row of the manifest stands for many.
    #[error(
        "batch {batch} and those before it cannot be forgotten: its row stands for {}",
        match batches {
            1 => "a batch without a row of its own".to_owned(),
            _ => format!("{batches} batches without a row of their own"),
        }
    )]
    Folded {
        /// The batch whose row it is.
        batch: String,
        /// How many batches have none.
        batches: u64,
    },
    /// The last run did not leave what a run needs to go on at a step.
    #[error("cannot go on from step \"{from}\": {why}")]
    CannotContinue {
        /// The step's id, as it was given.
        from: String,
        /// Why not.
        why: String,
        /// What to do instead.
        help: String,
    },
    /// Somebody asked the run to stop.
    #[error("stopped by {signal}")]
    Stopped {
        /// The signal, or who asked.
        signal: &'static str,
    },
}

/// The first finding, and how many more there are.
fn first(findings: &[Finding]) -> String {
    let first = findings.first().map_or("", |finding| &finding.what);
    match findings.len() {
        0 | 1 => format!("it {first}"),
        count => format!("it {first}, and {} more", count - 1),
    }
}

/// What kind of failure it is, for the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The warehouse was not reached, or did not let us in.
    Connection,
    /// A step failed.
    Step,
    /// What was asked for makes no sense for this workflow; nothing was tried.
    Request,
    /// Another run holds the playbook, or took it over.
    Lease,
    /// The workflow file does not fit the warehouse.
    Workflow,
    /// `stepwell init` is due.
    NotInitialised,
    /// The last run did not leave what a run needs to go on at a step.
    CannotContinue,
    /// Stopped by a signal.
    Stopped,
}

impl RunError {
    pub(crate) fn new(problem: Problem) -> Self {
        Self {
            problem: Box::new(problem),
            step: None,
            run_id: None,
            state: WarehouseState::Unchanged,
            continue_from: None,
        }
    }

    pub(crate) fn refused(refusal: Refusal) -> Self {
        let Refusal { what, mend } = refusal;
        Self::new(match mend {
            Some(mend) => Problem::NotGranted { what, mend },
            None => Problem::Refused(what),
        })
    }

    pub(crate) fn warehouse(doing: impl Into<String>) -> impl FnOnce(WarehouseError) -> Self {
        let doing = doing.into();
        |source| Self::new(Problem::Warehouse { doing, source })
    }

    pub(crate) fn at(mut self, step: StepPlace) -> Self {
        self.step.get_or_insert_with(|| Box::new(step));
        self
    }

    /// Returns the kind of failure.
    pub fn failure(&self) -> Failure {
        match &*self.problem {
            Problem::LeaseHeld { .. } | Problem::LeaseLost { .. } => Failure::Lease,
            Problem::NotInitialised { .. }
            | Problem::Version { .. }
            | Problem::BatchType { .. } => Failure::NotInitialised,
            Problem::Source { .. } => Failure::Workflow,
            Problem::CannotContinue { .. } => Failure::CannotContinue,
            Problem::Stopped { .. } => Failure::Stopped,
            Problem::NotABatch { .. } => Failure::Request,
            Problem::Local { .. } | Problem::Url { .. } | Problem::ControlLost { .. } => {
                Failure::Connection
            }
            Problem::Warehouse { source, .. } | Problem::Statement { source } => match source {
                WarehouseError::Unreachable { .. }
                | WarehouseError::Authentication { .. }
                | WarehouseError::Tls { .. }
                | WarehouseError::NoDatabase { .. }
                | WarehouseError::Refused { .. }
                | WarehouseError::ConnectionLost { .. } => Failure::Connection,
                _ => Failure::Step,
            },
            Problem::Role { .. } => Failure::Connection,
            Problem::Plugin { .. }
            | Problem::Load { .. }
            | Problem::Refused(_)
            | Problem::NotGranted { .. }
            | Problem::NotVerifiable { .. }
            | Problem::Folded { .. }
            | Problem::TemporaryFile { .. }
            | Problem::OutOfTime { .. } => Failure::Step,
        }
    }

    /// Whether a plugin refused what it found and says that the same call fails again. A run that goes on at that step finds
    /// the same: tables that a full refresh or a change of the workflow has to mend.
    pub(crate) fn fails_again(&self) -> bool {
        matches!(&*self.problem, Problem::Plugin { source: CallError::Failure(failure) } if !failure.retryable)
    }

    /// Returns the error of the warehouse behind it, if there is one.
    pub fn warehouse_error(&self) -> Option<&WarehouseError> {
        match &*self.problem {
            Problem::Warehouse { source, .. } | Problem::Statement { source } => Some(source),
            _ => None,
        }
    }

    /// Returns what to do next, as a sentence, where that is known. `<workflow>` in it, which a plugin may write too, stands
    /// for the workflow file, with what every command on it needs.
    pub fn help(&self) -> Option<String> {
        match &*self.problem {
            Problem::Warehouse { source, .. } | Problem::Statement { source } => source.help(),
            Problem::Plugin { source: CallError::Failure(failure) } => failure.help.clone(),
            Problem::Plugin { source: CallError::Limit(limit) } => {
                let plugin = self.step.as_ref().map_or("<name>", |step| step.plugin.as_str());
                let plugin = plugin.split(' ').next().unwrap_or(plugin);
                Some(limit.limit.help(plugin))
            }
            Problem::NotGranted { mend, .. } => Some(mend.clone()),
            Problem::NotVerifiable { plugin } => Some(format!(
                "To compare the tables of the other steps, verify a copy of the file, beside it, without this step and those that read \
                 from it; `stepwell plugin inspect` shows what a plugin asks for, and one that is your own says `trust: own` \
                 under `plugins.{plugin}`."
            )),
            Problem::Role { plugin, findings, .. } => {
                let script = "`stepwell plugin grants <workflow>` prints what makes";
                if findings.iter().any(Finding::is_of_anothers_role) {
                    return Some(format!(
                        "Name a role of the plugin's own under `plugins.{plugin}.connection`, one that does no other work; \
                         {script} it."
                    ));
                }
                let mut mends: Vec<_> = findings.iter().filter_map(|finding| finding.mend.as_deref()).collect();
                let more = mends.len().saturating_sub(MENDS_MAX);
                mends.truncate(MENDS_MAX);
                Some(match (mends.is_empty(), more) {
                    (true, _) => format!("{script} the role."),
                    (false, 0) => format!("{script} the role; this mends it:\n{}", mends.join("\n")),
                    (false, more) => format!(
                        "{script} the role. If it is the plugin's own and nobody else's, this mends it, and {more} \
                         statements more that come up then:\n{}",
                        mends.join("\n")
                    ),
                })
            }
            Problem::OutOfTime { plugin, limit, .. } => {
                Some(format!("If it needs more, raise `plugins.{plugin}.limits.{}`.", limit.name()))
            }
            Problem::TemporaryFile { .. } => Some(
                "It takes all rows that the step computes, once: make room there, or name another folder by TMPDIR. With `--sample`, `--since` or `--until` there are fewer.".into(),
            ),
            Problem::LeaseHeld { heartbeat_age, place, .. } => Some(format!(
                "It runs at {place} and gave a sign of life {} s ago. Wait for it to end; if it is dead, the next run takes over by itself.",
                heartbeat_age.as_secs()
            )),
            Problem::Source { help, .. } => help.clone(),
            Problem::CannotContinue { help, .. } => Some(help.clone()),
            Problem::NotABatch { .. } => {
                Some("`stepwell manifest list <workflow>` shows how batches are written.".into())
            }
            Problem::Folded { .. } => Some(
                "`stepwell manifest replay <workflow> --batch …` processes them again, as they are in the source now; \
                 `stepwell run <workflow> --full-refresh` computes everything again and gives each batch a row."
                    .into(),
            ),
            Problem::LeaseLost { .. } => {
                Some("Another run took over, since this one gave no sign of life; that one does the work.".into())
            }
            Problem::ControlLost { .. } => Some(
                "Run it again. Without that session nobody can tell that the run is alive, so it stopped.".into(),
            ),
            Problem::BatchType { .. } => {
                Some("Give this playbook a manifest of its own: `manifest: derived.<playbook>_manifest`.".into())
            }
            Problem::NotInitialised { .. } => {
                Some("Run `stepwell init <workflow>` once, or give a DBA what `stepwell init --print <workflow>` prints.".into())
            }
            Problem::Version { found, expected } if found > expected => {
                Some("A newer Stepwell has been here: update this one.".into())
            }
            Problem::Version { .. } => Some("Run `stepwell init <workflow>`: it brings the tables up to date.".into()),
            _ => None,
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.step {
            // Nothing was tried that could have failed.
            Some(step) if matches!(*self.problem, Problem::NotVerifiable { .. }) => {
                write!(
                    f,
                    "step \"{}\" ({}): {}",
                    step.id, step.plugin, self.problem
                )
            }
            Some(step) => write!(
                f,
                "step \"{}\" ({}) failed: {}",
                step.id, step.plugin, self.problem
            ),
            None => write!(f, "{}", self.problem),
        }
    }
}

impl std::error::Error for RunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.problem.source()
    }
}

/// Writes an error and its causes in one line, for the journal.
pub(crate) fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
