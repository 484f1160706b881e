//! `stepwell manifest replay`: processes batches or keys again.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;
use stepwell_runner::{Batches, Keys, Problem, Replay, RunError, RunOptions};
use stepwell_sandbox::CallError;

use super::Which;
use crate::commands::run::{Runs, tell};
use crate::commands::{Context, Outcome, block_on, read_one};
use crate::exit;
use crate::failed::Failed;
use crate::files::Vars;
use crate::invocation::quoted;
use crate::progress::Progress;
use crate::render::words::{count, number};
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
    let replay = match (&args.keys, args.which.batches()?) {
        (Some(file), _) => Replay::Keys(keys(file, args.step.clone())?),
        (None, Batches::Named(batches)) => Replay::Batches(batches),
        (None, Batches::Range { since, until }) => Replay::Range { since, until },
        (None, Batches::All) => {
            return Err(Failed::Usage {
                message: "what to replay?".into(),
                help: format!(
                    "Name batches by --batch, --since or --until, or keys by --keys; `stepwell run {} --full-refresh` \
                     computes everything again.",
                    quoted(&args.file.display().to_string())
                ),
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
    let keys = args.keys.iter().map(|file| file.display());
    let invocation = args
        .which
        .on(context.invocation("manifest replay", &args.vars))
        .option("--keys", keys)
        .option("--step", &args.step);
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
    if let (Some(file), Err(error)) = (&args.keys, &ended)
        && let Some(failed) = of_other_keys(file, error)
    {
        return Err(failed);
    }
    tell(
        &workflows,
        vec![Some(ended)],
        args.json,
        &invocation,
        output,
    )
}

fn keys(file: &Path, step: Option<String>) -> Result<Keys, Failed> {
    use std::io::Read;

    let mut text = String::new();
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin()
            .take(KEYS_BYTES_MAX + 1)
            .read_to_string(&mut text),
        false => std::fs::File::open(file)
            .and_then(|file| file.take(KEYS_BYTES_MAX + 1).read_to_string(&mut text)),
    };
    read.map_err(|error| match error.kind() {
        ErrorKind::InvalidData => usage(file, "it is not UTF-8", "Write it in UTF-8."),
        _ => usage(
            file,
            &format!("it could not be read: {error}"),
            "Name a file with one key a line, or `-` for stdin.",
        ),
    })?;
    if text.len() as u64 > KEYS_BYTES_MAX {
        return Err(usage(
            file,
            "expected at most 8 MiB of keys",
            "Replay them in several parts.",
        ));
    }
    let form = "Write one key a line, or CSV whose first line names the key's columns.";
    let (columns, rows) = parse(&text).map_err(|message| usage(file, &message, form))?;
    Ok(Keys {
        step,
        columns,
        rows,
    })
}

fn usage(file: &Path, message: &str, help: &str) -> Failed {
    Failed::Usage {
        message: format!("--keys {}: {message}", file.display()),
        help: help.to_owned(),
    }
}

/// The error where the step that takes the keys has a key of other columns, or of other types: the file's mistake, not the
/// step's.
fn of_other_keys(file: &Path, error: &RunError) -> Option<Failed> {
    match &*error.problem {
        Problem::Plugin {
            source: CallError::Failure(failure),
        } if failure.code == "other-key" => {
            let help = failure.help.as_deref().unwrap_or_default();
            Some(usage(file, &failure.message, help))
        }
        // A data exception where the keys become rows of ids.
        Problem::Statement { source } => {
            let step = error.step.as_deref()?;
            let takes_keys = step.plugin.starts_with("collect-ids ");
            let is_data = source.sqlstate().is_some_and(|code| code.starts_with("22"));
            let help = "Write the values as the columns of the key have them in the derived table.";
            (takes_keys && is_data).then(|| usage(file, &source.to_string(), help))
        }
        _ => None,
    }
}

type Parsed = (Option<Vec<String>>, Vec<Vec<String>>);

/// Reads one key a line, or CSV with a header where the first line has a comma.
fn parse(text: &str) -> Result<Parsed, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let csv = text.lines().next().is_some_and(|line| line.contains(','));
    let mut records = match csv {
        true => records(text)?,
        false => {
            let lines = text
                .lines()
                .map(|line| line.trim_end_matches('\r'))
                .zip(1..);
            let lines = lines.filter(|(line, _)| !line.is_empty());
            lines
                .map(|(line, at)| (at, vec![line.to_owned()]))
                .collect()
        }
    };
    let columns = match csv {
        true => Some(records.remove(0).1),
        false => None,
    };
    if let Some(columns) = &columns {
        if records.is_empty() {
            return Err(format!(
                "it holds no key: its first line has a comma, so it names the columns {} of the keys below it, and \
                 there are none",
                columns.join(" and ")
            ));
        }
        let short = records.iter().find(|(_, row)| row.len() != columns.len());
        if let Some((line, row)) = short {
            return Err(format!(
                "line {line} has {}, expected {} as in the first line",
                count(row.len() as u64, "value", "values"),
                columns.len()
            ));
        }
    }
    match records.len() {
        0 => Err("it holds no key".to_owned()),
        n if n > KEYS_MAX => Err(format!(
            "it holds {} keys, expected at most {}",
            number(n as u64),
            number(KEYS_MAX as u64)
        )),
        _ => Ok((columns, records.into_iter().map(|(_, row)| row).collect())),
    }
}

/// The records of CSV by RFC 4180, each with the line on which it begins, from 1: values may stand in double quotes, in
/// which two of them are one.
fn records(text: &str) -> Result<Vec<(usize, Vec<String>)>, String> {
    let (mut records, mut record, mut value) = (Vec::new(), Vec::new(), String::new());
    let (mut quoted, mut line, mut begun, mut opened) = (false, 1, 1, 1);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\n' {
            line += 1;
        }
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                value.push('"');
            }
            '"' if quoted || value.is_empty() => {
                quoted = !quoted;
                opened = line;
            }
            c if quoted => value.push(c),
            ',' => record.push(std::mem::take(&mut value)),
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' => {
                record.push(std::mem::take(&mut value));
                records.push((begun, std::mem::take(&mut record)));
                begun = line;
            }
            c => value.push(c),
        }
    }
    if quoted {
        return Err(format!("the double quote on line {opened} is never closed"));
    }
    if !value.is_empty() || !record.is_empty() {
        record.push(value);
        records.push((begun, record));
    }
    records.retain(|(_, record)| record.len() > 1 || record.iter().any(|value| !value.is_empty()));
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
        for (wrong, message) in [
            ("", "it holds no key"),
            ("\n", "it holds no key"),
            (
                "a,b\n",
                "it holds no key: its first line has a comma, so it names the columns a and b of the keys below it, and \
                 there are none",
            ),
            (
                "a,b\n\"1\n2\",3\n\nc\n",
                "line 5 has 1 value, expected 2 as in the first line",
            ),
            ("a,b\n\"c,d", "the double quote on line 2 is never closed"),
        ] {
            assert_eq!(parse(wrong), Err(message.to_owned()), "{wrong:?}");
        }
    }
}
