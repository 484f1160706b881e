//! `stepwell manifest replay`: processes batches or keys again.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use stepwell_runner::{Batches, Keys, Replay, RunOptions};

use super::Which;
use crate::commands::run::{Runs, tell};
use crate::commands::{Context, Outcome, block_on, read_one};
use crate::exit;
use crate::failed::Failed;
use crate::files::Vars;
use crate::progress::Progress;
use crate::signals;

/// Most keys, and most bytes of their file: they travel to the steps in one piece.
const KEYS_MAX: usize = 100_000;
const KEYS_BYTES_MAX: u64 = 8 << 20;

/// Process batches again, or compute the rows of keys again, and leave all others alone
///
/// With batches: their keys are collected, and the rows of these are computed from all of their
/// events, as in a run. A batch that was never processed is processed: one that came later than the
/// lookback, say. A stretch of time names all batches with an event in it, processed or not, but
/// leaves new ones to the next run that may still be loaded (`settle`), or that would make it pass
/// by others that are pending. With keys: the rows of these keys are computed, and the manifest stays as it is.
///
/// It is a run like any other: one transaction, under the playbook's lease, journalled.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell manifest replay workflows/sessions.yaml --batch '2026-01-07 10:00:00'
  stepwell manifest replay workflows/sessions.yaml --since 2026-01-07 --until 2026-01-08
  stepwell manifest replay workflows/sessions.yaml --keys sessions.txt

The file of keys has one key a line, or is CSV whose first line names the key's columns as the
step that collects ids does; at most 100,000 keys. Exit codes are those of `stepwell run`.")]
pub(super) struct ReplayArgs {
    /// Workflow file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    which: Which,
    /// The keys in this file; `-` reads stdin
    #[arg(long, value_name = "KEYS", conflicts_with_all = ["batches", "since", "until"])]
    keys: Option<PathBuf>,
    /// The step whose keys these are, where several steps collect ids
    #[arg(long, value_name = "ID", requires = "keys")]
    step: Option<String>,
    /// Print the report as one JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    vars: Vars,
}

pub(super) fn execute(args: &ReplayArgs, context: &Context) -> Outcome {
    let replay = match (&args.keys, args.which.batches()) {
        (Some(file), _) => Replay::Keys(keys(file, args.step.clone())?),
        (None, Batches::Named(batches)) => Replay::Batches(batches),
        (None, Batches::Range { since, until }) => Replay::Range { since, until },
        (None, Batches::All) => {
            return Err(Failed::Usage {
                message: "what to replay?".into(),
                help: "Name batches by --batch, --since or --until, or keys by --keys; `stepwell run --full-refresh` \
                       computes everything again."
                    .into(),
            });
        }
    };
    let (Some(workflow), components) = read_one(&args.file, &args.vars, context)? else {
        return Ok(exit::WORKFLOW);
    };
    if let Some(step) = args
        .step
        .as_ref()
        .filter(|id| !workflow.steps.iter().any(|step| step.id == **id))
    {
        let ids: Vec<&str> = workflow.steps.iter().map(|step| step.id.as_str()).collect();
        return Err(Failed::Usage {
            message: format!("the workflow has no step \"{step}\""),
            help: format!("Its steps are {}.", ids.join(", ")),
        });
    }
    let output = &context.output;
    let options = RunOptions {
        replay: Some(replay),
        ..context.run_options()
    };
    let workflows = [workflow];
    let ended = block_on(async {
        let runs = Runs {
            components: &components,
            options: &options,
            progress: Progress::new(output, workflows.iter().map(|w| w.playbook.as_str())),
            stop: signals::listen(output)?,
        };
        Ok(runs.one(&workflows[0]).await)
    })?;
    output.finish();
    tell(&workflows, vec![Some(ended)], args.json, output)
}

fn keys(file: &Path, step: Option<String>) -> Result<Keys, Failed> {
    use std::io::Read;

    let doing = || format!("could not read keys from {}", file.display());
    let mut text = String::new();
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin()
            .take(KEYS_BYTES_MAX + 1)
            .read_to_string(&mut text),
        false => std::fs::File::open(file)
            .and_then(|file| file.take(KEYS_BYTES_MAX + 1).read_to_string(&mut text)),
    };
    read.with_context(doing)?;
    if text.len() as u64 > KEYS_BYTES_MAX {
        return Err(usage(
            file,
            "expected at most 8 MiB of keys",
            "Replay them in several parts.",
        ));
    }
    let (columns, rows) = parse(&text).map_err(|message| {
        usage(
            file,
            &message,
            "Write one key a line, or CSV whose first line names the key's columns.",
        )
    })?;
    Ok(Keys {
        step,
        columns,
        rows,
    })
}

fn usage(file: &Path, message: &str, help: &str) -> Failed {
    Failed::Usage {
        message: format!("{}: {message}", file.display()),
        help: help.to_owned(),
    }
}

type Parsed = (Option<Vec<String>>, Vec<Vec<String>>);

/// Reads one key a line, or CSV with a header where the first line has a comma.
fn parse(text: &str) -> Result<Parsed, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let csv = text.lines().next().is_some_and(|line| line.contains(','));
    let mut rows = match csv {
        true => records(text)?,
        false => {
            let lines = text.lines().map(|line| line.trim_end_matches('\r'));
            lines
                .filter(|line| !line.is_empty())
                .map(|line| vec![line.to_owned()])
                .collect()
        }
    };
    let columns = csv.then(|| rows.remove(0));
    if let Some(columns) = &columns {
        let short = rows.iter().position(|row| row.len() != columns.len());
        if let Some(at) = short {
            return Err(format!(
                "key {} has {} values, expected {}",
                at + 1,
                rows[at].len(),
                columns.len()
            ));
        }
    }
    match rows.len() {
        0 => Err("it holds no key".to_owned()),
        n if n > KEYS_MAX => Err(format!("it holds {n} keys, expected at most {KEYS_MAX}")),
        _ => Ok((columns, rows)),
    }
}

/// The records of CSV by RFC 4180: values may stand in double quotes, in which two of them are one.
fn records(text: &str) -> Result<Vec<Vec<String>>, String> {
    let (mut records, mut record, mut value) = (Vec::new(), Vec::new(), String::new());
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                value.push('"');
            }
            '"' if quoted || value.is_empty() => quoted = !quoted,
            c if quoted => value.push(c),
            ',' => record.push(std::mem::take(&mut value)),
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' => {
                record.push(std::mem::take(&mut value));
                records.push(std::mem::take(&mut record));
            }
            c => value.push(c),
        }
    }
    if quoted {
        return Err("a double quote is never closed".to_owned());
    }
    if !value.is_empty() || !record.is_empty() {
        record.push(value);
        records.push(record);
    }
    records.retain(|record| record.len() > 1 || record.iter().any(|value| !value.is_empty()));
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_one_a_line_or_as_csv() {
        let owned = |rows: &[&[&str]]| -> Vec<Vec<String>> {
            rows.iter()
                .map(|row| row.iter().map(|&value| value.to_owned()).collect())
                .collect()
        };
        assert_eq!(parse("a b\r\n\nc"), Ok((None, owned(&[&["a b"], &["c"]]))));
        let columns = Some(vec!["visitor".to_owned(), "day".to_owned()]);
        assert_eq!(
            parse("visitor,day\n\"a,\"\"b\",2026-01-01\r\nc,2026-01-02\n"),
            Ok((
                columns,
                owned(&[&["a,\"b", "2026-01-01"], &["c", "2026-01-02"]])
            ))
        );
        for wrong in ["", "\n", "a,b\n", "a,b\nc\n", "a,b\n\"c,d"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
