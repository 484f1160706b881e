//! `stepwell lookback`: which lookback is safe.

use std::path::PathBuf;

use clap::Args;

use super::{Context, Outcome, block_on, read_one};
use crate::exit;
use crate::failed::Failed;
use crate::files::Vars;
use crate::render::lookback;
use crate::signals;

/// Say from the data which lookback is safe
///
/// Batches are put in the order in which they were processed. A batch is behind by the time from
/// its last event to the newest event of all batches before it: a lookback of that length finds it.
/// A key's length is the time from its first event to its last. Days are of 24 hours.
///
/// The lookback decides where new batches are looked for, and nothing else: rows are always
/// computed from all events of their key, so a long key costs reading and loses nothing.
///
/// Reads all events of the source, and writes nothing.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell lookback workflows/sessions.yaml
  stepwell lookback workflows/sessions.yaml --json | jq '.batches.smallest_seconds'

Exit codes are those of `stepwell --help`.")]
pub(crate) struct LookbackArgs {
    /// Workflow file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    vars: Vars,
}

pub(crate) fn execute(args: &LookbackArgs, context: &Context) -> Outcome {
    let (Some(workflow), components) = read_one(&args.file, &args.vars, context)? else {
        return Ok(exit::WORKFLOW);
    };
    let options = context.run_options();
    let invocation = context.invocation("lookback", &args.vars);
    let report = block_on(async {
        let stop = signals::listen(&context.output)?;
        let report = stepwell_runner::lookback(&workflow, &components, &options, stop).await;
        report.map_err(Failed::run(&workflow, &invocation))
    })?;
    match args.json {
        true => context.output.json(&report)?,
        false => context
            .output
            .result(&lookback::text(&report, context.output.bars_form()))?,
    }
    Ok(exit::SUCCESS)
}
