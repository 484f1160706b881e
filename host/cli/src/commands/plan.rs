//! `stepwell plan`: what a run would do.

use std::path::PathBuf;

use clap::Args;
use futures_util::future::join_all;

use super::run::{RunFlags, refuse};
use super::{Context, Outcome, block_on, first_failure};
use crate::exit;
use crate::files;
use crate::render::json::Element;
use crate::render::{failure, plan};
use crate::signals;

/// Show what a run would do, with the exact SQL of each step; nothing is written
///
/// The steps are asked as in a run, in read-only transactions, and what they answer is shown
/// instead of run: the pending batches, each statement with the tables that it reads and writes,
/// the rows and the cost that the database expects, and which index would help.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell plan workflows/sessions.yaml
  stepwell plan workflows/sessions.yaml --full-refresh | less
  stepwell plan workflows/sessions.yaml --json | jq '.[0].pending'")]
pub(crate) struct PlanArgs {
    /// Workflow files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    shared: RunFlags,
    /// Print the plans as one JSON array
    #[arg(long)]
    json: bool,
}

pub(crate) fn execute(args: &PlanArgs, context: &Context) -> Outcome {
    let output = &context.output;
    let mut components = context.components();
    let files = files::read(&args.files, &args.shared.vars, &mut components);
    files::tell(&files, output);
    let workflows = match files::workflows(files) {
        Ok(workflows) => workflows,
        Err(files) => return refuse::<stepwell_runner::PlanReport>(&files, args.json, output),
    };
    let options = args.shared.options(context);
    let invocation = args
        .shared
        .on(context.invocation("plan", &args.shared.vars));
    let plans = block_on(async {
        let stop = signals::listen(output)?;
        let plan = |w| stepwell_runner::plan(w, &components, &options, stop.clone());
        Ok(join_all(workflows.iter().map(plan)).await)
    })?;
    let mut texts = Vec::new();
    let mut elements = Vec::new();
    let mut codes = Vec::new();
    for (workflow, plan) in workflows.iter().zip(plans) {
        match plan {
            Ok(report) => {
                texts.push(plan::text(&report, output.heading()));
                elements.push(Element::report(workflow, report));
                codes.push(exit::SUCCESS);
            }
            Err(error) => {
                let code = exit::of_run(&error);
                let message = failure::message(workflow, &error, &invocation);
                output.say(&message.render(&output.renderer()));
                elements.push(Element::error(workflow, &error, code, &invocation));
                codes.push(code);
            }
        }
    }
    if args.json {
        output.json(&elements)?;
    } else if !texts.is_empty() {
        output.result(&texts.join("\n"))?;
    }
    Ok(first_failure(codes))
}
