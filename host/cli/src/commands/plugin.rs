//! `stepwell plugin`: the tools around steps of your own. One module a subcommand.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use stepwell_sandbox::{COMPONENT_BYTES_MAX, DescribeError, Inspection, RefusedImport};
use stepwell_workflow::{Declarations, Inputs, Problem, Severity};

use super::{Context, Outcome};
use crate::failed::Failed;
use crate::files::Vars;
use crate::render::problems;
use crate::render::words::clean;

mod build;
mod describe;
mod grants;
mod inspect;
mod list;
mod new;
mod pin;
mod sign;
mod test;

/// Write, build, test and look at steps of your own
///
/// A step is a WebAssembly component made with the SDK. Nothing here connects to a warehouse; `test`
/// runs components against the private PostgreSQL server.
#[derive(Debug, Args)]
pub(crate) struct PluginArgs {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Debug, Subcommand)]
enum PluginCommand {
    New(new::NewArgs),
    Build(build::BuildArgs),
    Describe(describe::DescribeArgs),
    Test(test::TestArgs),
    Grants(grants::GrantsArgs),
    Inspect(inspect::InspectArgs),
    List(list::ListArgs),
    Pin(pin::PinArgs),
    Keygen(sign::KeygenArgs),
    Sign(sign::SignArgs),
    Verify(sign::VerifyArgs),
}

pub(crate) fn execute(args: &PluginArgs, context: &Context) -> Outcome {
    match &args.command {
        PluginCommand::New(args) => new::execute(args, context),
        PluginCommand::Build(args) => build::execute(args, context),
        PluginCommand::Describe(args) => describe::execute(args, context),
        PluginCommand::Test(args) => test::execute(args, context),
        PluginCommand::Grants(args) => grants::execute(args, context),
        PluginCommand::Inspect(args) => inspect::execute(args, context),
        PluginCommand::List(args) => list::execute(args, context),
        PluginCommand::Pin(args) => pin::execute(args, context),
        PluginCommand::Keygen(args) => sign::keygen(args, context),
        PluginCommand::Sign(args) => sign::sign(args, context),
        PluginCommand::Verify(args) => sign::verify(args, context),
    }
}

/// Reads a component's bytes and what can be said about them without running them.
///
/// # Errors
///
/// [`Failed::Plugin`] if the file cannot be read or is no step that this program could run.
fn read_component(file: &Path) -> Result<(Vec<u8>, Inspection), Failed> {
    let bytes = read_bytes(file)?;
    match stepwell_sandbox::inspect(&bytes) {
        Ok(inspection) => Ok((bytes, inspection)),
        Err(error) => Err(refused(file, &error)),
    }
}

/// Reads a component's bytes, whatever they are.
fn read_bytes(file: &Path) -> Result<Vec<u8>, Failed> {
    let failed = |message: String, help: &str| Failed::Plugin {
        message,
        details: Vec::new(),
        help: Some(help.to_owned()),
    };
    let size = std::fs::metadata(file).map(|metadata| metadata.len());
    match size {
        // What is too large is refused without being read.
        Ok(size) if size > COMPONENT_BYTES_MAX as u64 => Err(failed(
            format!(
                "{} has {size} bytes, the limit is {COMPONENT_BYTES_MAX}",
                file.display()
            ),
            "Build it with `stepwell plugin build`, which keeps components small.",
        )),
        _ => std::fs::read(file).map_err(|error| {
            failed(
                format!("could not read component {}: {error}", file.display()),
                "Name the `.wasm` file that `stepwell plugin build` made.",
            )
        }),
    }
}

/// Refuses a component that could be read and would not be loaded, for what it imports or lacks.
fn check_interfaces(inspection: &Inspection) -> Result<(), Failed> {
    let name = &inspection.description.name;
    let refused = inspection.refused_imports();
    if !refused.is_empty() {
        let detail =
            |import: RefusedImport| ("detail", format!("{}: {}", import.name, import.reason));
        return Err(Failed::Plugin {
            message: format!("plugin \"{name}\" imports what steps are not given"),
            details: refused.into_iter().map(detail).collect(),
            help: Some("Do without the library or the call that needs it.".into()),
        });
    }
    match inspection.missing_export() {
        None => Ok(()),
        Some(interface) => Err(Failed::Plugin {
            message: format!(
                "plugin \"{name}\" says that it is a {}, but does not export `{interface}`",
                inspection.description.kind.as_str()
            ),
            details: vec![("detail", format!("it exports {}", exported(inspection)))],
            help: Some(format!(
                "Build it for the world `stepwell:step/{}` of this version's contract.",
                inspection.description.kind.as_str()
            )),
        }),
    }
}

fn exported(inspection: &Inspection) -> String {
    match &inspection.exports[..] {
        [] => "nothing".to_owned(),
        exports => clean(&exports.join(", ")),
    }
}

/// Writes a component aside and renames it: a run that starts meanwhile reads the old file or the new one.
fn write_component(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let aside = folder.join(format!(".{name}-{}", std::process::id()));
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&aside, bytes))
        .and_then(|()| std::fs::rename(&aside, file))
        .with_context(|| format!("could not write {}", file.display()))
}

/// Says why a file is no step that this program could run.
fn refused(file: &Path, error: &DescribeError) -> Failed {
    let help = match error {
        DescribeError::ContractTooNew { .. } => {
            "Update stepwell, or take an older build of the plugin."
        }
        DescribeError::ContractTooOld { .. } => "Build the plugin again with this version's SDK.",
        DescribeError::Missing => {
            "Build it with `stepwell plugin build`. What another tool made is given its description by `stepwell plugin describe`."
        }
        _ => "Build it with `stepwell plugin build`.",
    };
    let cause = std::error::Error::source(error).map(ToString::to_string);
    Failed::Plugin {
        message: format!("{} is no step that runs here: {error}", file.display()),
        details: cause.into_iter().map(|cause| ("cause", cause)).collect(),
        help: Some(help.to_owned()),
    }
}

/// Variables for workflow files, from flags and the environment.
fn inputs(vars: &Vars) -> Inputs<'static> {
    Inputs {
        vars: vars.given.iter().cloned().collect(),
        env: &|name| std::env::var(name).ok(),
    }
}

/// Tells the problems of what a workflow file declares; returns whether one of them is an error.
fn say_problems(declared: &Declarations, context: &Context) -> bool {
    if !declared.problems.is_empty() {
        let renderer = context.output.renderer();
        let text = problems::render(&declared.source_file, &declared.problems, &renderer);
        context.output.say(&text);
    }
    let is_error = |problem: &Problem| problem.severity == Severity::Error;
    declared.problems.iter().any(is_error)
}

/// A plugin's component as an argument.
#[derive(Debug, Args)]
struct ComponentFile {
    /// The component, a `.wasm` file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}
