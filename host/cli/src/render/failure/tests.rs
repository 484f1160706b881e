use std::path::Path;
use std::time::Duration;

use annotate_snippets::Renderer;
use stepwell_runner::{Components, WarehouseState};
use stepwell_sandbox::contract::Failure;
use stepwell_sql::TableName;
use stepwell_warehouse::Target;
use stepwell_workflow::{Grants, Inputs, Limits, PluginEntry};

use super::*;
use crate::files::Vars;

pub(in crate::render) fn workflow() -> Workflow {
    let text = "\
stepwell: 1
playbook: sessions
warehouse: { url: postgres://app:hunter2@db/events }
steps:
  - id: truncate
    uses: truncate-scratch
  - id: fill
    uses: sql
    with:
      statements: SELECT 1
";
    workflow_of("w/sessions.yaml", text, &[])
}

pub(crate) fn workflow_of(path: &str, text: &str, vars: &[(&str, &str)]) -> Workflow {
    let vars = vars.iter().map(|&(k, v)| (k.to_owned(), v.to_owned()));
    let inputs = Inputs {
        vars: vars.collect(),
        env: &|_| None,
    };
    let mut kinds = Components::new(stepwell_builtin::STEPS, None);
    let read = Workflow::parse(Path::new(path), text, &inputs, &mut kinds);
    read.expect("a workflow").0
}

fn at_step(setting: Option<&str>, statement: Option<StatementPlace>) -> Option<Box<StepPlace>> {
    Some(Box::new(StepPlace {
        index: 1,
        id: "fill".into(),
        plugin: "sql 0.1.0".into(),
        setting: setting.map(str::to_owned),
        statement,
    }))
}

pub(in crate::render) fn statement_error() -> RunError {
    let source = StatementError {
        sqlstate: "42P01".into(),
        message: "relation \"scratch.ids\" does not exist".into(),
        detail: Some("It was never there.".into()),
        hint: Some("Make it first.".into()),
        position: Some(32),
        internal: None,
        context: None,
        schema: None,
        table: None,
        column: None,
        constraint: None,
    };
    let statement = StatementPlace {
        label: "fill the table".into(),
        question: false,
        number: 3,
        count: 5,
        sql: "INSERT INTO é\nSELECT *\n  FROM  scratch.ids AS i".into(),
    };
    RunError {
        problem: Box::new(Problem::Statement {
            source: WarehouseError::Statement(Box::new(source)),
        }),
        step: at_step(None, Some(statement)),
        run_id: Some("0192".into()),
        state: WarehouseState::ScratchWritten,
        continue_from: None,
    }
}

fn text(error: &RunError) -> String {
    let workflow = workflow();
    let text = message(&workflow, error, &Invocation::run()).render(&Renderer::plain());
    assert!(!text.contains("hunter2"), "{text}");
    text
}

fn without_step(problem: Problem) -> String {
    text(&RunError {
        problem: Box::new(problem),
        step: None,
        run_id: None,
        state: WarehouseState::Unchanged,
        continue_from: None,
    })
}

/// The server's word for it names a table as no workflow file does, and no key.
#[test]
fn what_a_third_partys_role_may_not_do_is_granted_by_a_key() {
    let denied = |trust: Trust| {
        let mut workflow = workflow();
        let plugin = PluginEntry {
            name: "sql".into(),
            component: "a.wasm".into(),
            digest: None,
            signature: "a.wasm.sig".into(),
            trust,
            grants: Grants::default(),
            connection: None,
            limits: Limits::default(),
            span: Span::default(),
            component_span: Span::default(),
            digest_span: None,
            signature_span: None,
        };
        workflow.plugins.insert("sql".into(), plugin);
        let mut error = statement_error();
        if let Problem::Statement {
            source: WarehouseError::Statement(source),
        } = &mut *error.problem
        {
            source.sqlstate = "42501".into();
        }
        help(&workflow, &error, &Invocation::run()).unwrap_or_default()
    };
    let help = denied(Trust::ThirdParty);
    assert!(help.contains("`plugins.sql.grants`"), "{help}");
    let own = denied(Trust::Own);
    assert!(own.starts_with("mend it and run again"), "{own}");
}

#[test]
fn a_statements_error_points_into_file_and_sql() {
    assert_eq!(
        text(&statement_error()),
        "\
error: step \"fill\" (sql 0.1.0) failed: relation \"scratch.ids\" does not exist
 --> w/sessions.yaml:7:9
  |
7 |   - id: fill
  |         ^^^^
  |
 ::: SQL of statement 3 of 5 \"fill the table\":3:9
  |
3 |   FROM  scratch.ids AS i
  |         ^^^^^^^^^^^
  |
  = detail: statement 3 of 5 \"fill the table\", SQLSTATE 42P01
  = detail: It was never there.
  = hint: Make it first.
  = state: scratch tables written, derived tables and manifest unchanged
  = help: mend it and run again; `stepwell plan w/sessions.yaml` shows the SQL of each step
  = run: 0192"
    );
}

#[test]
fn where_a_run_may_go_on_it_says_how() {
    let error = RunError {
        continue_from: Some("fill".into()),
        ..statement_error()
    };
    let text = text(&error);
    let offer = "\n  = help: what is done need not be done again: `stepwell run w/sessions.yaml --from fill`\n";
    assert!(text.contains(offer), "{text}");
}

#[test]
fn a_plugins_failure_points_at_the_setting() {
    let failure = Failure {
        code: "wrong-sql".into(),
        message: "expected \x1b[1mone statement".into(),
        setting: Some("/statements".into()),
        help: Some("Split it.".into()),
        retryable: false,
    };
    let error = RunError {
        problem: Box::new(Problem::Plugin {
            source: CallError::Failure(failure),
        }),
        step: at_step(Some("/statements/0"), None),
        run_id: None,
        state: WarehouseState::Unchanged,
        continue_from: None,
    };
    assert_eq!(
        text(&error),
        "\
error: step \"fill\" (sql 0.1.0) failed: expected \u{fffd}[1mone statement
  --> w/sessions.yaml:10:19
   |
10 |       statements: SELECT 1
   |                   ^^^^^^^^
   |
   = detail: code wrong-sql
   = state: nothing was written; derived tables and manifest unchanged
   = help: Split it."
    );
}

#[test]
fn errors_outside_of_a_step_name_the_file_and_each_cause_once() {
    let refused = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "connection refused");
    let source = WarehouseError::Unreachable {
        server: "db:5432".into(),
        source: refused.into(),
    };
    let doing = "connect to the warehouse".to_owned();
    assert_eq!(
        without_step(Problem::Warehouse { doing, source }),
        "\
error: could not connect to the warehouse
--> w/sessions.yaml
 = cause: no Postgres server answers at db:5432
 = cause: connection refused
 = help: is it running, and does it listen on that port? Without a URL the private local server \
is used"
    );
    let source = Target::parse("mysql://app:hunter2@db").expect_err("another scheme");
    let text = without_step(Problem::Url { source });
    assert!(
        text.contains("\n = cause: the connection string could not be read"),
        "{text}"
    );
}

#[test]
fn help_names_the_file_at_hand() {
    let table = TableName::new("stepwell", "version");
    let text = without_step(Problem::NotInitialised { table });
    assert!(text.contains("`stepwell init w/sessions.yaml`"), "{text}");
    // On the private server nobody has to.
    let private = workflow_of(
        "w.yaml",
        "stepwell: 1\nplaybook: sessions\nsteps: [{ id: truncate, uses: truncate-scratch }]\n",
        &[],
    );
    let error = RunError {
        problem: Box::new(Problem::NotInitialised {
            table: TableName::new("stepwell", "version"),
        }),
        step: None,
        run_id: None,
        state: WarehouseState::Unchanged,
        continue_from: None,
    };
    let plan = Invocation::new("plan", &Vars::default(), None);
    let text = message(&private, &error, &plan).render(&Renderer::plain());
    let help = "a run makes it by itself: `stepwell run w.yaml`.";
    assert!(text.contains(help), "{text}");
    let text = without_step(Problem::LeaseHeld {
        playbook: "sessions".into(),
        owner: "0191".into(),
        place: "host, process 7".into(),
        since: "2026-01-31 06:00:00".into(),
        heartbeat_age: Duration::from_secs(3),
    });
    assert!(text.contains("host, process 7"), "{text}");
    let no_binaries = LocalError::NoBinaries {
        install: "apt-get install postgresql".into(),
    };
    let text = without_step(Problem::Local {
        source: no_binaries,
    });
    assert!(text.contains("apt-get install postgresql"), "{text}");
}

#[test]
fn a_stopped_step_did_not_fail() {
    let error = RunError {
        problem: Box::new(Problem::Stopped { signal: "SIGINT" }),
        step: at_step(None, None),
        run_id: Some("0192".into()),
        state: WarehouseState::ScratchWritten,
        continue_from: None,
    };
    let text = text(&error);
    assert!(
        text.starts_with("error: stopped by SIGINT in step \"fill\"\n"),
        "{text}"
    );
    assert!(text.contains("= state: scratch tables written"), "{text}");
    assert!(
        text.contains("= help: run again to go on: `stepwell run w/sessions.yaml`\n"),
        "{text}"
    );

    // A full refresh that was interrupted goes on as one.
    let workflow = workflow();
    let refresh = Invocation::run()
        .flag("--full-refresh", true)
        .option("--as-of", Some("2026-01-31T06:00:00Z"))
        .shared_with_plan();
    let text = message(&workflow, &error, &refresh).render(&Renderer::plain());
    let again = "run again to go on: `stepwell run w/sessions.yaml --full-refresh --as-of 2026-01-31T06:00:00Z`";
    assert!(text.contains(again), "{text}");
    let text = message(&workflow, &statement_error(), &refresh).render(&Renderer::plain());
    let plan = "`stepwell plan w/sessions.yaml --full-refresh --as-of 2026-01-31T06:00:00Z` shows the SQL of each step";
    assert!(text.contains(plan), "{text}");
    // What a verification or a replay runs no plan shows.
    let verify = Invocation::new("verify", &Vars::default(), None).option("--sample", Some("1%"));
    let text = message(&workflow, &statement_error(), &verify).render(&Renderer::plain());
    let again = "= help: mend it and run again: `stepwell verify w/sessions.yaml --sample 1%`";
    assert!(text.contains(again), "{text}");
}

#[test]
fn a_crash_shows_where_and_what_it_said_last() {
    let error = RunError {
        problem: Box::new(Problem::Plugin {
            source: CallError::Trap {
                message: "index out of bounds".into(),
                backtrace: (0..9).map(|n| format!("f{n}")).collect(),
                log: vec![],
            },
        }),
        step: at_step(None, None),
        run_id: None,
        state: WarehouseState::Unchanged,
        continue_from: None,
    };
    let text = text(&error);
    assert!(
        text.contains("the plugin crashed: index out of bounds"),
        "{text}"
    );
    assert!(text.contains("f4") && !text.contains("f5"), "{text}");
}

#[test]
fn positions_count_characters() {
    for (sql, position, word) in [
        ("SELECT a.b FROM c", 8, Some("a.b")),
        ("é \"x y\" z", 3, Some("\"x y\"")),
        ("é \"x y", 3, Some("\"x y")),
        ("a + b", 3, Some("+")),
        ("abc", 3, Some("c")),
        ("abc", 4, None),
        ("abc", 0, None),
    ] {
        assert_eq!(
            word_at(sql, position).map(|range| &sql[range]),
            word,
            "{sql}"
        );
    }
}
