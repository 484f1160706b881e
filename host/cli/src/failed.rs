//! Why a command did not do what it was asked.

use stepwell_runner::RunError;
use stepwell_warehouse::WarehouseError;
use stepwell_warehouse::local::LocalError;
use stepwell_workflow::{Problem, SourceFile, Workflow};

use crate::exit;
use crate::invocation::Invocation;
use crate::output::Output;
use crate::render::failure;
use crate::render::message::Message;
use crate::render::problems;

/// Why a command ends without success, where the words are still to be told.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The command line contradicts itself in a way that clap does not see.
    Usage { message: String, help: String },
    /// The private server cannot be had.
    Local(LocalError),
    /// Work on a workflow failed.
    Run {
        workflow: Box<Workflow>,
        error: Box<RunError>,
        /// What was asked for.
        invocation: Box<Invocation>,
    },
    /// The warehouse refused something that belongs to no workflow.
    Warehouse {
        /// What was tried: `create the database`.
        doing: String,
        error: Box<WarehouseError>,
    },
    /// A plugin is not what it should be, outside of any run.
    Plugin {
        message: String,
        /// More, each under a name: `detail`, `cause`.
        details: Vec<(&'static str, String)>,
        help: Option<String>,
    },
    /// The site's trust file cannot be used, so nothing that it may forbid is done.
    TrustFile {
        file: SourceFile,
        problems: Vec<Problem>,
    },
    /// Stopped by this signal, between two pieces of work.
    Stopped(&'static str),
    /// Everything else.
    Other(anyhow::Error),
}

impl Failed {
    pub(crate) fn run(
        workflow: &Workflow,
        invocation: &Invocation,
    ) -> impl FnOnce(RunError) -> Self {
        |error| Self::Run {
            workflow: Box::new(workflow.clone()),
            error: Box::new(error),
            invocation: Box::new(invocation.clone()),
        }
    }

    pub(crate) fn warehouse(doing: impl Into<String>) -> impl FnOnce(WarehouseError) -> Self {
        let doing = doing.into();
        |error| Self::Warehouse {
            doing,
            error: Box::new(error),
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => exit::USAGE,
            Self::Local(error) => exit::of_local(error),
            Self::Run { error, .. } => exit::of_run(error),
            Self::Warehouse { .. } => exit::WAREHOUSE,
            Self::Plugin { .. } => exit::PLUGIN,
            Self::TrustFile { .. } => exit::WORKFLOW,
            Self::Stopped(signal) => exit::of_signal(signal),
            Self::Other(_) => exit::INTERNAL,
        }
    }

    /// Returns what the user reads.
    pub(crate) fn render(&self, output: &Output) -> String {
        let message = match self {
            Self::Usage { message, help } => Message::error(message).remark("help", help),
            Self::Local(error) => failure::local(error),
            Self::Run {
                workflow,
                error,
                invocation,
            } => failure::message(workflow, error, invocation),
            Self::Warehouse { doing, error } => failure::warehouse(doing, error),
            Self::Plugin {
                message,
                details,
                help,
            } => details
                .iter()
                .fold(Message::error(message), |message, (name, detail)| {
                    message.remark(name, detail)
                })
                .remark_if("help", help.as_ref()),
            Self::TrustFile { file, problems } => {
                return problems::render(file, problems, &output.renderer());
            }
            Self::Stopped(signal) => Message::error(format!("stopped by {signal}")),
            Self::Other(error) => failure::other(error),
        };
        message.render(&output.renderer())
    }
}

impl From<LocalError> for Failed {
    fn from(error: LocalError) -> Self {
        Self::Local(error)
    }
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}
