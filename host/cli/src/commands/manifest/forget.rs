//! `stepwell manifest forget`: takes batches out of the manifest.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

use clap::Args;
use stepwell_runner::{Batches, Forgettable};

use super::{Which, Width, listing};
use crate::commands::{Context, Outcome, block_on, read_one};
use crate::exit;
use crate::failed::Failed;
use crate::files::Vars;
use crate::render::words::{clean, count, number};

/// Batches that the preview lists.
const LISTED: usize = 20;

/// Take batches out of the manifest, as if they had never been processed
///
/// The next run finds a forgotten batch again where it looks: within the lookback. The derived
/// tables stay as they are until then, so they hold events of batches that the manifest does not
/// have. To compute rows again at once, use `manifest replay`.
///
/// What would be forgotten is shown first, and asked for on a terminal; batches that the next run
/// may not find again are named. It happens under the playbook's lease, and the journal keeps it.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell manifest forget workflows/sessions.yaml --since 2026-01-07 --until 2026-01-08
  stepwell manifest forget workflows/sessions.yaml --batch '2026-01-07 10:00:00' --yes

Exit codes: 0 also where there was nothing to forget or the answer was no; the others as in
`stepwell --help`.")]
pub(super) struct ForgetArgs {
    /// Workflow file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    which: Which,
    /// All batches; the derived tables are then to be built with `run --full-refresh`
    #[arg(long, conflicts_with_all = ["batches", "since", "until"])]
    all: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print what was forgotten as JSON; needs --yes
    #[arg(long, requires = "yes")]
    json: bool,
    #[command(flatten)]
    vars: Vars,
}

pub(super) fn execute(args: &ForgetArgs, context: &Context) -> Outcome {
    let which = args.which.batches()?;
    if which == Batches::All && !args.all {
        return Err(Failed::Usage {
            message: "which batches?".into(),
            help: "Name them by --batch, --since or --until, or say --all.".into(),
        });
    }
    let (Some(workflow), _) = read_one(&args.file, &args.vars, context)? else {
        return Ok(exit::WORKFLOW);
    };
    let (options, output) = (context.run_options(), &context.output);
    let invocation = args
        .which
        .on(context.invocation("manifest forget", &args.vars))
        .flag("--all", args.all)
        .flag("--yes", args.yes);
    let found = block_on(async {
        let found = stepwell_runner::forgettable(&workflow, &options, &which).await;
        found.map_err(Failed::run(&workflow, &invocation))
    })?;
    output.say(&preview(&found, |batch| {
        let batch = ["--batch".to_owned(), clean(batch)];
        invocation.line("manifest replay", &workflow, &batch)
    }));
    let names: Vec<String> = found.rows.iter().map(|row| row.batch.clone()).collect();
    if !names.is_empty() && !args.yes && !confirmed(output)? {
        output.say("nothing was forgotten");
        return Ok(exit::SUCCESS);
    }
    if names.is_empty() && !args.json {
        return Ok(exit::SUCCESS);
    }
    let report = block_on(async {
        let report = stepwell_runner::forget(&workflow, &options, &names).await;
        report.map_err(Failed::run(&workflow, &invocation))
    })?;
    match args.json {
        true => output.json(&report)?,
        false => output.result(&format!(
            "{}: {} with {} forgotten, run {}",
            report.playbook,
            count(report.batches, "batch", "batches"),
            count(report.events, "event", "events"),
            report.run_id
        ))?,
    }
    Ok(exit::SUCCESS)
}

/// What would be forgotten, and what comes of it. `replay`: the command line that processes a batch.
fn preview(found: &Forgettable, replay: impl Fn(&str) -> String) -> String {
    let shown = &found.rows[..found.rows.len().min(LISTED)];
    let mut text = match shown.is_empty() {
        true => "no such batch is in the manifest\n".to_owned(),
        false => listing(shown, Width::Short),
    };
    let more = found.rows.len() - shown.len();
    if more > 0 {
        text += &format!("  and {} more\n", number(more as u64));
    }
    for batch in found.unknown.iter().filter(|_| !shown.is_empty()) {
        text += &format!("note: batch {} is not in the manifest\n", clean(batch));
    }
    if let (Some(first), true) = (found.out_of_reach.first(), found.remaining > 0) {
        text += &format!(
            "note: the next run may not find {} again, since it looks for later ones; `{}` processes {}\n",
            match (found.out_of_reach.len() as u64, found.rows.len()) {
                (_, 1) => "it".to_owned(),
                (n, _) => format!("{} of them", number(n)),
            },
            replay(first),
            match found.out_of_reach.len() {
                1 => "it",
                _ => "one",
            },
        );
    }
    if found.remaining == 0 && !found.rows.is_empty() {
        text += "note: no batch stays in the manifest; the next run has to be one with --full-refresh\n";
    }
    text
}

fn confirmed(output: &crate::output::Output) -> Result<bool, Failed> {
    if !std::io::stdin().is_terminal() {
        return Err(Failed::Usage {
            message: "nobody is here to ask whether to forget them".into(),
            help: "Say --yes.".into(),
        });
    }
    output.say("Forget them? [y/N]");
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.map_err(|error| anyhow::Error::new(error).context("could not read the answer"))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use stepwell_runner::ManifestRow;

    use super::*;

    #[test]
    fn what_is_out_of_reach_is_processed_by_the_command_that_is_shown() {
        let row = |batch: &str| ManifestRow {
            batch: batch.into(),
            events: 3,
            first_time: None,
            last_time: None,
            run_id: "r".into(),
            processed_at: "2026-01-07 10:00:00".into(),
            before: None,
        };
        let note = |rows: &[&str], out_of_reach: &[&str]| {
            let found = Forgettable {
                rows: rows.iter().copied().map(row).collect(),
                unknown: vec![],
                out_of_reach: out_of_reach.iter().map(|&batch| batch.into()).collect(),
                remaining: 9,
            };
            let text = preview(&found, |batch| format!("replay w.yaml {batch}"));
            let note = text.lines().find_map(|line| line.strip_prefix("note: "));
            note.unwrap_or_default().to_owned()
        };
        let end = "since it looks for later ones; `replay w.yaml b1` processes";
        assert_eq!(
            note(&["b1"], &["b1"]),
            format!("the next run may not find it again, {end} it")
        );
        assert_eq!(
            note(&["b1", "b2"], &["b1"]),
            format!("the next run may not find 1 of them again, {end} it")
        );
        assert_eq!(
            note(&["b1", "b2"], &["b1", "b2"]),
            format!("the next run may not find 2 of them again, {end} one")
        );
        assert_eq!(note(&["b1"], &[]), "");
    }
}
