//! The documents that `--json` prints: an array with one element a file, in the order given.
//!
//! An element is a report of the runner with its `file` before it, or an [`ErrorObject`]. Keys are
//! part of the interface; words in `error`, `detail`, `hint` and `help` are not.

use serde::Serialize;
use stepwell_runner::{RunError, WarehouseState};
use stepwell_workflow::{Problem, SourceFile, Workflow};

use super::failure;
use super::problems;
use crate::invocation::Invocation;

/// What became of a file.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Element<R> {
    Report {
        file: String,
        #[serde(flatten)]
        report: R,
    },
    Error(Box<ErrorObject>),
}

/// A file whose work failed, or was not begun.
#[derive(Debug, Serialize, Default)]
pub(crate) struct ErrorObject {
    pub file: String,
    pub playbook: Option<String>,
    /// What is wrong, in one line.
    pub error: String,
    pub exit_code: u8,
    /// Line and column in the file, from 1.
    pub line: Option<usize>,
    pub column: Option<usize>,
    pub step: Option<StepObject>,
    /// Causes, the outermost first.
    pub causes: Vec<String>,
    pub sqlstate: Option<String>,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// `unchanged`, `scratch-written`, `earlier-passes-committed`, `committed` or `unknown`.
    pub state: Option<&'static str>,
    pub help: Option<String>,
    /// The step for `run --from`, where a run can go on without doing again what is done.
    pub continue_from: Option<String>,
    pub run_id: Option<String>,
    /// All problems of the file, where that is why.
    pub problems: Vec<ProblemObject>,
}

/// The step that failed.
#[derive(Debug, Serialize)]
pub(crate) struct StepObject {
    pub id: String,
    pub plugin: String,
    pub setting: Option<String>,
    pub statement: Option<StatementObject>,
}

/// The statement that failed.
#[derive(Debug, Serialize)]
pub(crate) struct StatementObject {
    pub label: String,
    /// Whether it is one of the step's questions, which come before its plan.
    pub question: bool,
    pub number: usize,
    pub count: usize,
    pub sql: String,
    /// Where the server points, in characters, from 1.
    pub position: Option<u32>,
}

/// A problem of a workflow file.
#[derive(Debug, Serialize)]
pub(crate) struct ProblemObject {
    pub severity: String,
    pub message: String,
    pub line: Option<usize>,
    pub column: Option<usize>,
    pub detail: Vec<String>,
    pub help: Option<String>,
}

impl<R> Element<R> {
    pub(crate) fn report(workflow: &Workflow, report: R) -> Self {
        Self::Report {
            file: workflow.source_file.path.display().to_string(),
            report,
        }
    }

    /// A file with problems; `exit_code` is 0 for one that is good and was not run because of
    /// others.
    pub(crate) fn problems(file: &SourceFile, problems: &[Problem], exit_code: u8) -> Self {
        let error = match exit_code {
            0 => "not run, since another file has problems".to_owned(),
            _ => problems::counts(problems),
        };
        let objects = problems.iter().map(|problem| {
            let place = problem.span.map(|span| file.line_column(span.start));
            ProblemObject {
                severity: problem.severity.to_string(),
                message: problem.message.clone(),
                line: place.map(|(line, _)| line),
                column: place.map(|(_, column)| column),
                detail: problem.detail.clone(),
                help: problems::help(file, problem),
            }
        });
        Self::Error(Box::new(ErrorObject {
            file: file.path.display().to_string(),
            error,
            exit_code,
            problems: objects.collect(),
            ..ErrorObject::default()
        }))
    }

    /// A file that was not run, since one before it failed.
    pub(crate) fn not_run(workflow: &Workflow, exit_code: u8) -> Self {
        Self::Error(Box::new(ErrorObject {
            file: workflow.source_file.path.display().to_string(),
            playbook: Some(workflow.playbook.to_string()),
            error: "not run, since a file before it failed".to_owned(),
            exit_code,
            ..ErrorObject::default()
        }))
    }

    pub(crate) fn error(
        workflow: &Workflow,
        error: &RunError,
        exit_code: u8,
        invocation: &Invocation,
    ) -> Self {
        let file = &workflow.source_file;
        let step = error.step.as_deref();
        let place = failure::span_of(workflow, error).map(|span| file.line_column(span.start));
        let warehouse = error.warehouse_error();
        let server = warehouse.and_then(|error| error.statement());
        let headline = failure::headline(error);
        Self::Error(Box::new(ErrorObject {
            file: file.path.display().to_string(),
            playbook: Some(workflow.playbook.to_string()),
            exit_code,
            line: place.map(|(line, _)| line),
            column: place.map(|(_, column)| column),
            step: step.map(|step| StepObject {
                id: step.id.clone(),
                plugin: step.plugin.clone(),
                setting: step.setting.clone(),
                statement: step.statement.as_ref().map(|statement| StatementObject {
                    label: statement.label.clone(),
                    question: statement.question,
                    number: statement.number,
                    count: statement.count,
                    sql: statement.sql.clone(),
                    position: server.and_then(|server| server.position),
                }),
            }),
            causes: failure::causes(&headline, std::error::Error::source(error)),
            error: headline,
            sqlstate: warehouse
                .and_then(|error| error.sqlstate())
                .map(str::to_owned),
            detail: server.and_then(|server| server.detail.clone()),
            hint: server.and_then(|server| server.hint.clone()),
            state: Some(state(error.state)),
            help: failure::help(workflow, error, invocation),
            continue_from: error.continue_from.clone(),
            run_id: error.run_id.clone(),
            problems: vec![],
        }))
    }
}

fn state(state: WarehouseState) -> &'static str {
    match state {
        WarehouseState::Unchanged => "unchanged",
        WarehouseState::ScratchWritten => "scratch-written",
        WarehouseState::BeyondScratch => "beyond-scratch",
        WarehouseState::EarlierPassesCommitted => "earlier-passes-committed",
        WarehouseState::Committed => "committed",
        WarehouseState::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::exit;
    use crate::render::failure::tests::{statement_error, workflow};
    use crate::render::report::tests::report;

    fn value<R: Serialize>(element: &Element<R>) -> Value {
        serde_json::to_value(element).expect("JSON")
    }

    #[test]
    fn a_report_has_its_file_before_it() {
        let value = value(&Element::report(&workflow(), report()));
        let keys: Vec<&String> = value.as_object().expect("an object").keys().collect();
        assert_eq!(
            keys,
            [
                "file",
                "playbook",
                "run_id",
                "outcome",
                "passes",
                "batches",
                "events",
                "as_of",
                "duration_ms",
                "steps",
                "retries",
                "left",
                "continues",
                "replayed_keys"
            ]
        );
        assert_eq!(value["file"], "w/sessions.yaml");
        assert_eq!(value["outcome"], json!({"state": "done"}));
        assert_eq!(value["steps"][1]["rows"], 1234);
    }

    #[test]
    fn an_error_says_all_that_is_known() {
        let element = Element::<()>::error(
            &workflow(),
            &statement_error(),
            exit::STEP,
            &Invocation::run(),
        );
        assert_eq!(
            value(&element),
            json!({
                "file": "w/sessions.yaml",
                "playbook": "sessions",
                "error": "step \"fill\" (sql 0.1.0) failed: \
                          relation \"scratch.ids\" does not exist",
                "exit_code": 6,
                "line": 7,
                "column": 9,
                "step": {
                    "id": "fill",
                    "plugin": "sql 0.1.0",
                    "setting": null,
                    "statement": {
                        "label": "fill the table",
                        "question": false,
                        "number": 3,
                        "count": 5,
                        "sql": "INSERT INTO é\nSELECT *\n  FROM  scratch.ids AS i",
                        "position": 32,
                    },
                },
                "causes": [],
                "sqlstate": "42P01",
                "detail": "It was never there.",
                "hint": "Make it first.",
                "state": "scratch-written",
                "help": "mend it and run again; `stepwell plan w/sessions.yaml` shows the SQL of \
                         each step",
                "continue_from": null,
                "run_id": "0192",
                "problems": [],
            })
        );
    }

    #[test]
    fn problems_are_listed_with_their_places() {
        let file = SourceFile::new("a.yml", "x: 1\ny: 2\n");
        let problem = Problem::error("odd").at(stepwell_workflow::Span::new(5, 6));
        let found = value(&Element::<()>::problems(&file, &[problem], exit::WORKFLOW));
        assert_eq!(found["error"], "1 error");
        assert_eq!(found["exit_code"], 3);
        assert_eq!(found["problems"][0]["line"], 2);
        assert_eq!(found["problems"][0]["severity"], "error");
        let good = value(&Element::<()>::problems(&file, &[], exit::SUCCESS));
        assert_eq!(good["error"], "not run, since another file has problems");
    }
}
