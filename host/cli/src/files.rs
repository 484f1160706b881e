//! From the files on the command line to checked workflows: all of them, or every problem of each.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use stepwell_runner::Components;
use stepwell_sql::TableName;
use stepwell_workflow::{FILE_BYTES_MAX, Inputs, Outcome, Problem, SourceFile, Workflow};

use crate::failed::Failed;
use crate::output::Output;
use crate::render::problems;

/// Variables of workflow files, as flags.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Vars {
    /// Gives a variable of the workflow file, `${var:NAME}`, its value; may be repeated
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = parse_var)]
    pub given: Vec<(String, String)>,
}

/// The outcome for one file.
pub(crate) struct Read {
    pub file: SourceFile,
    pub problems: Vec<Problem>,
    /// None if a problem keeps it from running.
    pub workflow: Option<Workflow>,
}

impl From<Outcome> for Read {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Ok((workflow, problems)) => Self {
                file: workflow.source_file.clone(),
                problems,
                workflow: Some(workflow),
            },
            Err((file, problems)) => Self {
                file,
                problems,
                workflow: None,
            },
        }
    }
}

/// Reads and checks all files, in their order. With several files, a variable goes to those that
/// mention it.
pub(crate) fn read(paths: &[PathBuf], vars: &Vars, components: &mut Components) -> Vec<Read> {
    let shares = shares(paths, vars);
    let env = |name: &str| std::env::var(name).ok();
    let read = paths.iter().zip(shares).map(|(path, vars)| {
        let inputs = Inputs { vars, env: &env };
        Workflow::read(path, &inputs, components).into()
    });
    let mut files: Vec<Read> = read.collect();
    refuse_shared_tables(&mut files);
    files
}

/// Refuses a derived table that several playbooks write: each would take the other's rows for its own, and a full refresh
/// of one would replace them all.
fn refuse_shared_tables(files: &mut [Read]) {
    let mut writers: BTreeMap<(Option<String>, TableName), (String, PathBuf)> = BTreeMap::new();
    for read in files {
        let Some(workflow) = &read.workflow else {
            continue;
        };
        let playbook = workflow.playbook.as_str();
        let url = workflow.warehouse.url.as_ref();
        let url = url.map(|url| url.expose().to_owned());
        let mut problems = Vec::new();
        for step in &workflow.steps {
            for table in &step.writes_tables {
                let writer = writers
                    .entry((url.clone(), table.clone()))
                    .or_insert_with(|| (playbook.to_owned(), read.file.path.clone()));
                if writer.0 != playbook {
                    let message = format!(
                        "table {table} is a derived table of two playbooks: {playbook}, and {} in {}",
                        writer.0,
                        writer.1.display()
                    );
                    let help = "each would take the other's rows for its own, and a full refresh of one would replace \
                                them all: give one of them a table of its own";
                    let problem = Problem::error(message).at(step.table_span(table));
                    problems.push(problem.with_help(help));
                }
            }
        }
        if !problems.is_empty() {
            read.problems.extend(problems);
            read.workflow = None;
        }
    }
}

/// Reads and checks one file whose plugins need not be pinned yet. What comes of it is not to be run.
pub(crate) fn read_unpinned(path: &Path, vars: &Vars, components: &mut Components) -> Read {
    let inputs = Inputs {
        vars: vars.given.iter().cloned().collect(),
        env: &|name| std::env::var(name).ok(),
    };
    Workflow::read_unpinned(path, &inputs, components).into()
}

/// Writes all problems to stderr, in the order of the files.
pub(crate) fn tell(files: &[Read], output: &Output) {
    for read in files.iter().filter(|read| !read.problems.is_empty()) {
        output.say(&problems::render(
            &read.file,
            &read.problems,
            &output.renderer(),
        ));
    }
}

/// Returns the workflows if every file is one.
pub(crate) fn workflows(files: Vec<Read>) -> Result<Vec<Workflow>, Vec<Read>> {
    match files.iter().all(|read| read.workflow.is_some()) {
        true => Ok(files.into_iter().filter_map(|read| read.workflow).collect()),
        false => Err(files),
    }
}

/// Refuses two files of one playbook: they would wait for each other's lease, and the second one
/// would find nothing to do.
pub(crate) fn refuse_duplicates(workflows: &[Workflow]) -> Result<(), Failed> {
    let mut seen: BTreeMap<&str, &Path> = BTreeMap::new();
    for workflow in workflows {
        let path = &workflow.source_file.path;
        if let Some(first) = seen.insert(workflow.playbook.as_str(), path) {
            return Err(Failed::Usage {
                message: format!(
                    "files {} and {} are both of playbook \"{}\"",
                    first.display(),
                    path.display(),
                    workflow.playbook
                ),
                help: "give each file a playbook of its own, or run one of them".into(),
            });
        }
    }
    Ok(())
}

/// The variables of each file. A file refuses what it does not use, so a variable that several
/// files share can only go to those that mention it; one that no file mentions goes to all, which
/// say so.
fn shares(paths: &[PathBuf], vars: &Vars) -> Vec<BTreeMap<String, String>> {
    let all: BTreeMap<String, String> = vars.given.iter().cloned().collect();
    if paths.len() < 2 || all.is_empty() {
        return vec![all; paths.len()];
    }
    let texts: Vec<String> = paths.iter().map(|path| text(path)).collect();
    texts
        .iter()
        .map(|own| {
            let goes =
                |name: &str| mentions(own, name) || !texts.iter().any(|text| mentions(text, name));
            let given = all.iter().filter(|(name, _)| goes(name));
            given.map(|(k, v)| (k.clone(), v.clone())).collect()
        })
        .collect()
}

/// Whether the text of a workflow file takes a variable.
pub(crate) fn mentions(text: &str, name: &str) -> bool {
    [format!("${{var:{name}}}"), format!("${{var:{name}:")]
        .iter()
        .any(|mention| text.contains(mention))
}

/// The text of a file; empty if it cannot be read, which the reading proper reports.
fn text(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(FILE_BYTES_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn parse_var(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workflow(path: &str, playbook: &str) -> Workflow {
        let text = format!(
            "stepwell: 1\nplaybook: {playbook}\n\
             steps: [{{ id: truncate, uses: truncate-scratch }}]\n"
        );
        let inputs = Inputs {
            vars: BTreeMap::new(),
            env: &|_| None,
        };
        let mut kinds = Components::new(stepwell_builtin::STEPS, None);
        let read = Workflow::parse(Path::new(path), &text, &inputs, &mut kinds);
        read.expect("a workflow").0
    }

    #[test]
    fn one_playbook_runs_once() {
        let [a, b, c] = [("a.yml", "x"), ("b.yml", "y"), ("c.yml", "x")]
            .map(|(path, playbook)| workflow(path, playbook));
        assert!(refuse_duplicates(&[a.clone(), b.clone()]).is_ok());
        let Err(Failed::Usage { message, .. }) = refuse_duplicates(&[a, b, c]) else {
            panic!("two files of playbook x")
        };
        assert_eq!(message, "files a.yml and c.yml are both of playbook \"x\"");
    }

    #[test]
    fn a_derived_table_has_one_playbook() {
        let workflow = |playbook: &str, url: &str, table: &str| {
            let text = format!(
                "stepwell: 1
playbook: {playbook}
warehouse: {{ url: \"{url}\" }}
source: {{ events: atomic.events, batch: etl_tstamp, time: collector_tstamp, event-id: event_id, lookback: 7 days }}
steps:
  - {{ id: new, uses: diff-manifest, with: {{ into: batches }} }}
  - {{ id: ids, uses: collect-ids, with: {{ batches: batches, key: {{ id: sid }}, into: ids }} }}
  - {{ id: rows, uses: aggregate, with: {{ ids: ids, into: rows, columns: {{ n: count(*) }} }} }}
  - id: commit
    uses: commit
    with:
      replace: [{{ table: {table}, from: rows, ids: ids }}]
      manifest: batches
"
            );
            let inputs = Inputs {
                vars: BTreeMap::new(),
                env: &|_| None,
            };
            let mut kinds = Components::new(stepwell_builtin::STEPS, None);
            let path = PathBuf::from(format!("{playbook}.yml"));
            Read::from(Workflow::parse(&path, &text, &inputs, &mut kinds))
        };
        let (here, there) = ("postgres://a/b", "postgres://c/d");
        let refused = |mut files: Vec<Read>| {
            refuse_shared_tables(&mut files);
            files
                .into_iter()
                .filter(|read| read.workflow.is_none())
                .collect::<Vec<_>>()
        };
        let found = refused(vec![
            workflow("a", here, "derived.sessions"),
            workflow("b", here, "derived.others"),
            workflow("c", here, "derived.sessions"),
        ]);
        assert_eq!(found.len(), 1);
        let (file, problem) = (&found[0].file, &found[0].problems[0]);
        assert_eq!(
            problem.message,
            "table derived.sessions is a derived table of two playbooks: c, and a in a.yml"
        );
        let span = problem.span.expect("a place");
        assert_eq!(&file.text[span.start..span.end], "derived.sessions");
        // Another warehouse has a table of its own; one playbook in two files is refused by its name.
        for second in [
            workflow("c", there, "derived.sessions"),
            workflow("a", here, "derived.sessions"),
        ] {
            assert!(refused(vec![workflow("a", here, "derived.sessions"), second]).is_empty());
        }
    }

    #[test]
    fn a_variable_goes_to_the_files_that_mention_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths: Vec<PathBuf> = ["a.yml", "b.yml"]
            .map(|name| folder.path().join(name))
            .into();
        std::fs::write(&paths[0], "a: ${var:one}\n").expect("written");
        std::fs::write(&paths[1], "a: ${var:two:-x}\n").expect("written");
        let given = ["one=1", "two=2", "three=3"].map(|pair| parse_var(pair).expect("a pair"));
        let vars = Vars {
            given: given.into(),
        };
        let names =
            |shares: &BTreeMap<String, String>| -> Vec<String> { shares.keys().cloned().collect() };
        let found = shares(&paths, &vars);
        assert_eq!(names(&found[0]), ["one", "three"]);
        assert_eq!(names(&found[1]), ["three", "two"]);
        assert_eq!(
            names(&shares(&paths[..1], &vars)[0]),
            ["one", "three", "two"]
        );
    }

    #[test]
    fn a_variable_has_a_name_and_a_value() {
        assert_eq!(parse_var("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_var("a="), Ok(("a".into(), String::new())));
        assert!(parse_var("=b").is_err() && parse_var("a").is_err());
    }
}
