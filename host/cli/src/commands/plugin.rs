//! `stepwell plugin`: the tools around steps of your own. One module a subcommand.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use stepwell_sandbox::{COMPONENT_BYTES_MAX, DescribeError, Inspection};
use stepwell_workflow::{Declarations, Inputs, Problem, Severity};

use super::{Context, Outcome};
use crate::failed::Failed;
use crate::files::Vars;
use crate::render::problems;

mod build;
mod grants;
mod inspect;
mod list;
mod new;
mod pin;
mod sign;
mod test;

/// Write, build, test and look at steps of your own
///
/// A step is a WebAssembly component made with the SDK. Nothing here connects to a warehouse.
#[derive(Debug, Args)]
pub(crate) struct PluginArgs {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Debug, Subcommand)]
enum PluginCommand {
    New(new::NewArgs),
    Build(build::BuildArgs),
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
    let failed = |message: String, help: &str| Failed::Plugin {
        message,
        details: Vec::new(),
        help: Some(help.to_owned()),
    };
    let size = std::fs::metadata(file).map(|metadata| metadata.len());
    let bytes = match size {
        // What is too large is refused without being read.
        Ok(size) if size > COMPONENT_BYTES_MAX as u64 => {
            return Err(failed(
                format!(
                    "{} has {size} bytes, the limit is {COMPONENT_BYTES_MAX}",
                    file.display()
                ),
                "Build it with `stepwell plugin build`, which keeps components small.",
            ));
        }
        _ => std::fs::read(file).map_err(|error| {
            failed(
                format!("could not read component {}: {error}", file.display()),
                "Name the `.wasm` file that `stepwell plugin build` made.",
            )
        })?,
    };
    match stepwell_sandbox::inspect(&bytes) {
        Ok(inspection) => Ok((bytes, inspection)),
        Err(error) => Err(refused(file, &error)),
    }
}

/// Says why a file is no step that this program could run.
fn refused(file: &Path, error: &DescribeError) -> Failed {
    let help = match error {
        DescribeError::ContractTooNew { .. } => {
            "Update stepwell, or take an older build of the plugin."
        }
        DescribeError::ContractTooOld { .. } => "Build the plugin again with this version's SDK.",
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
