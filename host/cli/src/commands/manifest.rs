//! `stepwell manifest`: the batches that a playbook has processed.

use std::path::PathBuf;

use clap::{Args, Subcommand, value_parser};
use stepwell_runner::{ManifestQuery, ManifestRow};

use super::{Context, Outcome, block_on, read_one};
use crate::exit;
use crate::failed::Failed;
use crate::files::Vars;
use crate::render::table::{Column, table};
use crate::render::words::number;

/// Look at the batches that a playbook has processed
#[derive(Debug, Args)]
pub(crate) struct ManifestArgs {
    #[command(subcommand)]
    command: ManifestCommand,
}

#[derive(Debug, Subcommand)]
enum ManifestCommand {
    List(ListArgs),
}

/// List processed batches, the newest first
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell manifest list workflows/sessions.yaml --limit 10
  stepwell manifest list workflows/sessions.yaml --json | jq '.[0].batch'")]
struct ListArgs {
    /// Workflow file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Most batches to list
    #[arg(long, value_name = "N", default_value_t = 50)]
    #[arg(value_parser = value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    vars: Vars,
}

pub(crate) fn execute(args: &ManifestArgs, context: &Context) -> Outcome {
    let ManifestCommand::List(args) = &args.command;
    let (Some(workflow), _) = read_one(&args.file, &args.vars, context)? else {
        return Ok(exit::WORKFLOW);
    };
    let query = ManifestQuery { limit: args.limit };
    let options = context.run_options();
    let rows = block_on(async {
        let rows = stepwell_runner::manifest_list(&workflow, &options, &query).await;
        rows.map_err(Failed::run(&workflow))
    })?;
    if args.json {
        context.output.json(&rows)?;
    } else if rows.is_empty() {
        let words = format!("playbook {} has processed no batch", workflow.playbook);
        context.output.result(&words)?;
    } else {
        context.output.result(&listing(&rows))?;
    }
    Ok(exit::SUCCESS)
}

fn listing(rows: &[ManifestRow]) -> String {
    let columns = [
        Column::Text("batch"),
        Column::Number("events"),
        Column::Text("first event"),
        Column::Text("last event"),
        Column::Text("processed at"),
        Column::Text("run"),
    ];
    let or_none = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".into());
    table(
        &columns,
        rows.iter().map(|row| {
            vec![
                row.batch.clone(),
                number(row.events.unsigned_abs()),
                or_none(&row.first_time),
                or_none(&row.last_time),
                row.processed_at.clone(),
                row.run_id.clone(),
            ]
        }),
    )
}
