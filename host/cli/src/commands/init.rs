//! `stepwell init`: the host's own tables.

use std::path::PathBuf;

use clap::Args;

use super::{Context, Outcome, block_on, read_one};
use crate::exit;
use crate::failed::Failed;
use crate::files::Vars;
use crate::render::words::list;

/// Make the tables that Stepwell itself needs in the warehouse of a workflow
///
/// They are the schema `stepwell` with journal and leases, the workflow's scratch and derived
/// schemas, and its manifest. What is there already stays as it is, so it may be run again at any
/// time. On the private local server a run does this by itself.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell init workflows/sessions.yaml
  stepwell init workflows/sessions.yaml --print > for-the-dba.sql")]
pub(crate) struct InitArgs {
    /// Workflow file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print the statements and run none; connects, read-only, to learn the type of a batch
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    vars: Vars,
}

pub(crate) fn execute(args: &InitArgs, context: &Context) -> Outcome {
    let (Some(workflow), _) = read_one(&args.file, &args.vars, context)? else {
        return Ok(exit::WORKFLOW);
    };
    let options = context.run_options();
    let invocation = context.invocation("init", &args.vars);
    let words = block_on(async {
        if args.print {
            let ddl = stepwell_runner::ddl(&workflow, &options).await;
            return ddl.map_err(Failed::run(&workflow, &invocation));
        }
        let made = stepwell_runner::init(&workflow, &options).await;
        let made = made.map_err(Failed::run(&workflow, &invocation))?;
        Ok(match made.created.is_empty() {
            true => format!("all tables are there, version {}", made.version),
            false => format!("made {}, version {}", list(&made.created), made.version),
        })
    })?;
    context.output.result(&words)?;
    Ok(exit::SUCCESS)
}
