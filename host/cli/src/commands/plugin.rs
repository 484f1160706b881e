//! `stepwell plugin`: the tools around steps of your own. One module a subcommand.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use stepwell_sandbox::{COMPONENT_BYTES_MAX, DescribeError, Inspection};

use super::{Context, Outcome};
use crate::failed::Failed;

mod inspect;

/// Write, build, test and look at steps of your own
///
/// A step is a WebAssembly component made with the SDK. Nothing here takes a workflow's warehouse.
#[derive(Debug, Args)]
pub(crate) struct PluginArgs {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Debug, Subcommand)]
enum PluginCommand {
    Inspect(inspect::InspectArgs),
}

pub(crate) fn execute(args: &PluginArgs, context: &Context) -> Outcome {
    match &args.command {
        PluginCommand::Inspect(args) => inspect::execute(args, context),
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

/// A plugin's component as an argument.
#[derive(Debug, Args)]
struct ComponentFile {
    /// The component, a `.wasm` file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}
