//! `stepwell verify`: derived tables beside a rebuild.

use std::path::PathBuf;

use clap::{Args, value_parser};
use stepwell_runner::{Sample, VerifyOptions, VerifyReport};

use super::run::refuse;
use super::{Context, Outcome, block_on, first_failure};
use crate::exit;
use crate::files::{self, Vars};
use crate::progress::Progress;
use crate::render::json::Element;
use crate::render::{failure, verify};
use crate::signals;
use crate::times::{check_stretch, parse_time};

/// Compare derived tables with a rebuild, and say which keys and columns differ
///
/// The steps of the workflow compute the rows again from the events of all processed batches, into
/// scratch tables of their own, and each derived table is compared with them inside the database.
/// All of it happens in one transaction that is rolled back in the end: it sees one state of the
/// warehouse, so batches that land meanwhile change nothing, no run waits for it, and nothing of it
/// stays. While it lasts the server cannot clean up deleted rows, as with any long query.
///
/// The rows that a reducer computes pass through a temporary file in TMPDIR, which has no name and
/// is gone with the program. A third party's step cannot take part, since its login does not see
/// that transaction's tables: such a workflow is refused with exit code 6.
///
/// It also compares the batches of the whole source with the manifest: `pending` and `growing` ones
/// are the next run's; `late`, `grown`, `shrunk` and `unknown` ones are out of the reach of a run.
/// Keys in growing batches are not compared.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell verify workflows/sessions.yaml
  stepwell verify workflows/sessions.yaml --sample 1%
  stepwell verify workflows/sessions.yaml --since 2026-01-01 --until 2026-02-01 --json

A late or grown batch is processed by `stepwell manifest replay FILE --batch BATCH`, rows that
differ are computed again by `stepwell manifest replay FILE --keys KEYS`.

Exit codes: 0 no row differs, 11 rows differ, 12 no row differs but batches are out of the reach of
a run; the others as in `stepwell --help`.")]
pub(crate) struct VerifyArgs {
    /// Workflow files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Only keys with an event at this time or later: `2026-01-31T06:00:00Z`, or a date
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<jiff::Timestamp>,
    /// Only keys with an event before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<jiff::Timestamp>,
    /// Only some of the keys: a share (`1%`) or a number (`500`), chosen by a hash of the key
    #[arg(long, value_name = "SHARE|N", value_parser = parse_sample)]
    sample: Option<Chosen>,
    /// Another seed chooses other keys
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Most rows to name for each table and kind of difference, and most batches of each kind
    #[arg(long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = value_parser!(u32).range(0..=10_000))]
    limit: u32,
    /// Print the findings as one JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    vars: Vars,
}

pub(crate) fn execute(args: &VerifyArgs, context: &Context) -> Outcome {
    check_stretch(args.since, args.until)?;
    let output = &context.output;
    let mut components = context.components();
    let files = files::read(&args.files, &args.vars, &mut components);
    files::tell(&files, output);
    let workflows = match files::workflows(files) {
        Ok(workflows) => workflows,
        Err(files) => return refuse::<VerifyReport>(&files, args.json, output),
    };
    let what = VerifyOptions {
        since: args.since,
        until: args.until,
        sample: args.sample.as_ref().map(|chosen| chosen.sample),
        seed: args.seed,
        limit: args.limit,
    };
    let options = context.run_options();
    let invocation = context
        .invocation("verify", &args.vars)
        .option("--since", args.since)
        .option("--until", args.until)
        .option("--sample", args.sample.as_ref().map(|chosen| &chosen.text))
        .option("--seed", (args.seed != 0).then_some(args.seed));
    let progress = Progress::new(output, workflows.iter().map(|w| w.playbook.as_str()));
    let found = block_on(async {
        let stop = signals::listen(output)?;
        let mut found = Vec::new();
        for workflow in &workflows {
            let stop = stop.clone();
            let report =
                stepwell_runner::verify(workflow, &components, &options, &what, &progress, stop)
                    .await;
            progress.over(workflow.playbook.as_str());
            found.push(report);
        }
        Ok(found)
    })?;
    output.finish();
    let (mut texts, mut elements, mut codes) = (Vec::new(), Vec::new(), Vec::new());
    for (workflow, found) in workflows.iter().zip(found) {
        match found {
            Ok(report) => {
                codes.push(code(&report));
                texts.push(verify::text(
                    &report,
                    workflow,
                    &invocation,
                    output.heading(),
                ));
                elements.push(Element::report(workflow, report));
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

fn code(report: &VerifyReport) -> u8 {
    let out_of_reach = report
        .batches
        .as_ref()
        .is_some_and(|batches| batches.out_of_reach() > 0);
    match (report.differs, out_of_reach) {
        (true, _) => exit::DIFFERS,
        (false, true) => exit::OUT_OF_REACH,
        (false, false) => exit::SUCCESS,
    }
}

/// A sample, and how it was written.
#[derive(Debug, Clone, PartialEq)]
struct Chosen {
    sample: Sample,
    text: String,
}

fn parse_sample(text: &str) -> Result<Chosen, String> {
    let chosen = |sample| Chosen {
        sample,
        text: text.to_owned(),
    };
    let expected =
        || "expected a share as 1%, more than 0% and at most 100%, or a number of keys".to_owned();
    match text.strip_suffix('%') {
        Some(percent) => {
            let percent: f64 = percent.trim().parse().map_err(|_| expected())?;
            match percent > 0.0 && percent <= 100.0 {
                true => Ok(chosen(Sample::Share(percent / 100.0))),
                false => Err(expected()),
            }
        }
        None => match text.parse() {
            Ok(0) | Err(_) => Err(expected()),
            Ok(keys) => Ok(chosen(Sample::Keys(keys))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_a_share_or_a_number() {
        let sample = |text: &str| parse_sample(text).map(|chosen| chosen.sample);
        assert_eq!(sample("1%"), Ok(Sample::Share(0.01)));
        assert_eq!(sample("500"), Ok(Sample::Keys(500)));
        for wrong in ["0%", "101%", "0", "-1", "NaN%", "few"] {
            assert!(parse_sample(wrong).is_err(), "{wrong}");
        }
    }
}
