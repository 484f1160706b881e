//! `stepwell check`: everything that can be checked without a database.

use std::path::PathBuf;

use clap::Args;

use super::{Context, Outcome, first_failure};
use crate::exit;
use crate::files::{self, Read, Vars};
use crate::render::words::count;

/// Check workflow files without a database, and tell every problem at once
///
/// Names, types, settings of the steps, what they read and write, the order in which they run,
/// components of plugins and their digests: all that does not take a connection. Nothing is run.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell check workflows/*.yaml
  stepwell check sessions.yaml --var schema=derived_test
  stepwell check --schema > .vscode/stepwell.schema.json

Exit codes: 0 all files hold together, 3 a file has a problem.")]
pub(crate) struct CheckArgs {
    /// Workflow files
    #[arg(value_name = "FILE", required_unless_present = "schema")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    vars: Vars,
    /// Print the JSON Schema of workflow files, for editors, and check nothing
    #[arg(long, conflicts_with_all = ["files", "given"])]
    schema: bool,
}

pub(crate) fn execute(args: &CheckArgs, context: &Context) -> Outcome {
    let mut components = context.components();
    if args.schema {
        let schema = stepwell_workflow::json_schema(&components);
        context.output.json(&schema)?;
        return Ok(exit::SUCCESS);
    }
    let files = files::read(&args.files, &args.vars, &mut components);
    files::tell(&files, &context.output);
    let good: Vec<String> = files.iter().filter_map(line).collect();
    if !good.is_empty() {
        context.output.result(&good.join("\n"))?;
    }
    Ok(first_failure(files.iter().map(
        |read| match read.workflow {
            Some(_) => exit::SUCCESS,
            None => exit::WORKFLOW,
        },
    )))
}

/// `workflows/sessions.yaml: ok, playbook sessions, 7 steps`.
fn line(read: &Read) -> Option<String> {
    let workflow = read.workflow.as_ref()?;
    let warnings = match read.problems.len() as u64 {
        0 => String::new(),
        n => format!(", {}", count(n, "warning", "warnings")),
    };
    Some(format!(
        "{}: ok, playbook {}, {}{warnings}",
        read.file.path.display(),
        workflow.playbook,
        count(workflow.steps.len() as u64, "step", "steps"),
    ))
}
