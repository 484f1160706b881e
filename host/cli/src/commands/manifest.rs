//! `stepwell manifest`: the batches that a playbook has processed. One module a subcommand that writes.

mod forget;
mod replay;

use std::path::PathBuf;

use clap::{Args, Subcommand, value_parser};
use jiff::Timestamp;
use stepwell_runner::{Batches, ManifestQuery, ManifestRow};

use super::{Context, Outcome, block_on, read_one};
use crate::exit;
use crate::failed::Failed;
use crate::files::Vars;
use crate::invocation::Invocation;
use crate::render::table::{Column, table};
use crate::render::words::number;
use crate::times::{check_stretch, parse_time};

/// Look at the batches that a playbook has processed, forget them, or process them again
#[derive(Debug, Args)]
pub(crate) struct ManifestArgs {
    #[command(subcommand)]
    command: ManifestCommand,
}

#[derive(Debug, Subcommand)]
enum ManifestCommand {
    List(ListArgs),
    Forget(forget::ForgetArgs),
    Replay(replay::ReplayArgs),
}

/// List processed batches, the newest first
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell manifest list workflows/sessions.yaml --limit 10
  stepwell manifest list workflows/sessions.yaml --since 2026-01-01 --until 2026-01-08
  stepwell manifest list workflows/sessions.yaml --json | jq '.[0].batch'")]
struct ListArgs {
    /// Workflow file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    which: Which,
    /// Most batches to list
    #[arg(long, value_name = "N", default_value_t = 50)]
    #[arg(value_parser = value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Also list when each was first processed, and the last run that did
    #[arg(long, conflicts_with = "json")]
    long: bool,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    vars: Vars,
}

/// Which batches a command means.
#[derive(Debug, Args)]
struct Which {
    /// This batch, as `manifest list` writes it; may be repeated
    #[arg(long = "batch", value_name = "BATCH", conflicts_with_all = ["since", "until"])]
    batches: Vec<String>,
    /// Batches with an event at this time or later: `2026-01-31T06:00:00Z`, or a date
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Timestamp>,
    /// Batches with an event before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Timestamp>,
}

impl Which {
    fn batches(&self) -> Result<Batches, Failed> {
        let (since, until) = (self.since, self.until);
        check_stretch(since, until)?;
        Ok(match (self.batches.is_empty(), since, until) {
            (false, ..) => Batches::Named(self.batches.clone()),
            (true, None, None) => Batches::All,
            _ => Batches::Range { since, until },
        })
    }

    /// Adds them to a command that names the same ones.
    fn on(&self, invocation: Invocation) -> Invocation {
        invocation
            .option("--batch", &self.batches)
            .option("--since", self.since)
            .option("--until", self.until)
    }
}

pub(crate) fn execute(args: &ManifestArgs, context: &Context) -> Outcome {
    match &args.command {
        ManifestCommand::List(args) => list(args, context),
        ManifestCommand::Forget(args) => forget::execute(args, context),
        ManifestCommand::Replay(args) => replay::execute(args, context),
    }
}

fn list(args: &ListArgs, context: &Context) -> Outcome {
    let batches = args.which.batches()?;
    let (Some(workflow), _) = read_one(&args.file, &args.vars, context)? else {
        return Ok(exit::WORKFLOW);
    };
    let query = ManifestQuery {
        batches,
        limit: args.limit,
    };
    let options = context.run_options();
    let invocation = context.invocation("manifest list", &args.vars);
    let rows = block_on(async {
        let rows = stepwell_runner::manifest_list(&workflow, &options, &query).await;
        rows.map_err(Failed::run(&workflow, &invocation))
    })?;
    if args.json {
        context.output.json(&rows)?;
    } else if rows.is_empty() {
        let which = match query.batches {
            Batches::All => "no batch",
            _ => "none of these batches",
        };
        let words = format!("playbook {} has processed {which}", workflow.playbook);
        context.output.result(&words)?;
    } else {
        let width = match args.long {
            true => Width::Long,
            false => Width::Short,
        };
        context.output.result(&listing(&rows, width))?;
    }
    Ok(exit::SUCCESS)
}

/// How much of each batch a list has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    /// What fits into 80 columns.
    Short,
    /// Everything.
    Long,
}

fn listing(rows: &[ManifestRow], width: Width) -> String {
    let mut columns = vec![
        Column::Text("batch"),
        Column::Number("events"),
        Column::Text("first event"),
        Column::Text("last event"),
    ];
    if width == Width::Long {
        columns.extend([Column::Text("first processed"), Column::Text("run")]);
    }
    let or_none = |time: &Option<String>| time.as_deref().map_or("-".into(), seconds);
    let mut lines = Vec::new();
    for row in rows {
        let mut line = vec![
            row.batch.clone(),
            number(row.events.unsigned_abs()),
            or_none(&row.first_time),
            or_none(&row.last_time),
        ];
        if width == Width::Long {
            line.extend([seconds(&row.processed_at), row.run_id.clone()]);
        }
        lines.push(line);
        // Those that have no row of their own.
        if let Some(before) = &row.before {
            let mut line = vec![
                format!("{} before", number(before.batches.unsigned_abs())),
                number(before.events.unsigned_abs()),
                or_none(&before.first_time),
                or_none(&before.last_time),
            ];
            line.resize(columns.len(), "-".into());
            lines.push(line);
        }
    }
    table(&columns, lines)
}

/// A time in its text form without what is shorter than a second.
fn seconds(time: &str) -> String {
    match time.split_once('.') {
        None => time.to_owned(),
        Some((seconds, rest)) => {
            let zone = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{seconds}{zone}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_fits_into_a_terminal() {
        let time = |text: &str| Some(text.to_owned());
        let row = ManifestRow {
            batch: "2026-01-07 10:00:00".into(),
            events: 1_234_567,
            first_time: time("2026-01-07 09:00:00.000001+00"),
            last_time: time("2026-01-07 10:59:59+00"),
            run_id: "01a2213f-e000-7237-8b37-1e36dd6a5f74".into(),
            processed_at: "2026-01-07 11:00:00.123456+00".into(),
            before: Some(stepwell_runner::Before {
                batches: 19,
                events: 21,
                first_time: None,
                last_time: time("2026-01-01 00:00:00+00"),
            }),
        };
        let text = listing(std::slice::from_ref(&row), Width::Short);
        assert_eq!(
            text,
            "  batch                   events  first event             last event
  2026-01-07 10:00:00  1,234,567  2026-01-07 09:00:00+00  2026-01-07 10:59:59+00
  19 before                   21  -                       2026-01-01 00:00:00+00
"
        );
        assert!(text.lines().all(|line| line.chars().count() <= 80));
        let text = listing(&[row], Width::Long);
        assert!(
            text.contains("  2026-01-07 11:00:00+00  01a2213f-e000-7237-8b37-1e36dd6a5f74\n"),
            "{text}"
        );
    }
}
