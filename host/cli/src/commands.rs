//! The subcommands, one module each, and what they share.

pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod init;
pub(crate) mod local;
pub(crate) mod lookback;
pub(crate) mod manifest;
pub(crate) mod plan;
pub(crate) mod plugin;
pub(crate) mod run;
pub(crate) mod verify;

use std::future::Future;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use stepwell_runner::{Components, RunOptions};
use stepwell_workflow::{TrustPolicy, Workflow};

use crate::cli::{Command, Global};
use crate::exit;
use crate::failed::Failed;
use crate::files::{self, Vars};
use crate::invocation::Invocation;
use crate::output::Output;
use crate::project;

/// The exit code, or why there is none yet.
pub(crate) type Outcome = Result<u8, Failed>;

/// The trust file of a machine.
const SITE_TRUST_FILE: &str = "/etc/stepwell/trust.yaml";

/// The environment variable that names one more trust file.
const SITE_TRUST_VARIABLE: &str = "STEPWELL_TRUST";

/// What every command gets.
#[derive(Debug)]
pub(crate) struct Context {
    pub output: Output,
    /// The folder whose `.stepwell/` holds the private server.
    pub project: PathBuf,
    /// The same as the command line names it, if it does.
    named_project: Option<PathBuf>,
    /// What the site requires of plugins, whatever a workflow file says.
    pub site_trust: Vec<TrustPolicy>,
}

impl Context {
    pub(crate) fn new(global: &Global, output: &Output) -> Result<Self, Failed> {
        let current = std::env::current_dir().context("could not find the current directory")?;
        Ok(Self {
            output: output.clone(),
            named_project: global.project.clone(),
            project: project::directory(global.project.as_deref(), &current),
            site_trust: site_trust()?,
        })
    }

    /// The step components, with the user's cache for compiled code.
    pub(crate) fn components(&self) -> Components {
        let cache = project::cache_directory(&|name| std::env::var_os(name).map(PathBuf::from));
        let components = Components::new(stepwell_builtin::STEPS, cache)
            .with_site_trust(self.site_trust.clone());
        match std::env::current_exe() {
            Ok(program) => components.with_compiler(program),
            // A third party's step that is not compiled yet is then refused, and says so.
            Err(_) => components,
        }
    }

    /// This command, for messages that say how to run it again: without options as yet.
    pub(crate) fn invocation(&self, command: &'static str, vars: &Vars) -> Invocation {
        Invocation::new(command, vars, self.named_project.as_deref())
    }

    pub(crate) fn run_options(&self) -> RunOptions {
        RunOptions {
            project_dir: self.project.clone(),
            ..RunOptions::default()
        }
    }
}

/// Reads the site's trust files: the machine's if there is one, and the one that the environment
/// names, which must be there.
fn site_trust() -> Result<Vec<TrustPolicy>, Failed> {
    let machine = PathBuf::from(SITE_TRUST_FILE);
    let machine = machine.exists().then_some(machine);
    let named = std::env::var_os(SITE_TRUST_VARIABLE)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let files = machine.into_iter().chain(named);
    let read = |path: PathBuf| {
        TrustPolicy::read(&path).map_err(|(file, problems)| Failed::TrustFile { file, problems })
    };
    files.map(read).collect()
}

/// Does what the command line says.
pub(crate) fn dispatch(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Run(args) => run::execute(&args, context),
        Command::Plan(args) => plan::execute(&args, context),
        Command::Verify(args) => verify::execute(&args, context),
        Command::Lookback(args) => lookback::execute(&args, context),
        Command::Check(args) => check::execute(&args, context),
        Command::Init(args) => init::execute(&args, context),
        Command::Manifest(args) => manifest::execute(&args, context),
        Command::Plugin(args) => plugin::execute(&args, context),
        Command::Local(args) => local::execute(&args, context),
        Command::Demo(args) => demo::execute(&args, context),
        Command::Completions(args) => completions::execute(&args, context),
    }
}

/// On how many threads the answers of the warehouse are taken. What computes is on threads of its own either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Threads {
    /// One: each answer then reaches the one who waits for it without another thread being woken, which counts where
    /// there are hundreds of small ones.
    One,
    /// One for each processor, for rows by the million.
    Many,
}

/// Runs what needs the warehouse. Commands that do not need it do not pay for a runtime.
fn block_on<T>(work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    block_on_threads(Threads::Many, work)
}

fn block_on_threads<T>(
    threads: Threads,
    work: impl Future<Output = Result<T, Failed>>,
) -> Result<T, Failed> {
    let mut builder = match threads {
        Threads::One => tokio::runtime::Builder::new_current_thread(),
        Threads::Many => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder
        .enable_all()
        .build()
        .context("could not start the runtime")?;
    let outcome = runtime.block_on(work);
    // A thread that still waits, for a server to start say, does not keep us.
    runtime.shutdown_background();
    outcome
}

/// Reads the one file of a command, with its problems told.
fn read_one(
    path: &Path,
    vars: &Vars,
    context: &Context,
) -> Result<(Option<Workflow>, Components), Failed> {
    let mut components = context.components();
    let mut files = files::read(&[path.to_owned()], vars, &mut components);
    files::tell(&files, &context.output);
    let workflow = files.pop().and_then(|read| read.workflow);
    Ok((workflow, components))
}

/// The code of the first that did not end well.
fn first_failure(codes: impl IntoIterator<Item = u8>) -> u8 {
    let mut codes = codes.into_iter();
    codes
        .find(|code| *code != exit::SUCCESS)
        .unwrap_or(exit::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_counts() {
        assert_eq!(first_failure([]), exit::SUCCESS);
        assert_eq!(first_failure([0, 0]), exit::SUCCESS);
        assert_eq!(first_failure([0, exit::LEASE, exit::STEP]), exit::LEASE);
    }
}
