//! `stepwell plugin grants`: what makes the login roles of third parties' plugins.

use std::path::PathBuf;

use clap::Args;

use crate::commands::{Context, Outcome, block_on};
use crate::exit;
use crate::failed::Failed;
use crate::files::{self, Vars};

/// Print the SQL that makes the login roles of a workflow's third-party plugins
///
/// A third party's plugin runs its SQL as a role of its own, which can do what the workflow grants
/// and nothing more. On the private local server a run makes that role by itself; elsewhere a DBA
/// runs this script, and each run looks whether it holds. Plugins need not be pinned yet. Does not
/// connect.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell plugin grants workflows/sessions.yaml > for-the-dba.sql
  stepwell plugin grants workflows/sessions.yaml | stepwell local psql -d stepwell_demo")]
pub(crate) struct GrantsArgs {
    /// Workflow file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    vars: Vars,
}

pub(crate) fn execute(args: &GrantsArgs, context: &Context) -> Outcome {
    let read = files::read_unpinned(&args.file, &args.vars, &mut context.components());
    files::tell(std::slice::from_ref(&read), &context.output);
    let Some(workflow) = read.workflow else {
        return Ok(exit::WORKFLOW);
    };
    let options = context.run_options();
    let invocation = context.invocation("plugin grants", &args.vars);
    let script = block_on(async {
        let script = stepwell_runner::grants(&workflow, &options).await;
        script.map_err(Failed::run(&workflow, &invocation))
    })?;
    match script.is_empty() {
        true => context
            .output
            .result("-- no step of this workflow uses a third party's plugin")?,
        false => context.output.result(script.trim_end())?,
    }
    Ok(exit::SUCCESS)
}
