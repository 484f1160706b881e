//! What a well-behaved planner gets and gives.

use stepwell_sandbox::contract::{
    Answer, Batch, Column, Field, Layout, Param, Plan, Publication, Reply, Statement, Values,
};
use stepwell_sandbox::{CallError, Level, Limits, Origin};

use crate::guests::{AS_OF_US, COMPONENT, attempt, note, run};

#[test]
fn a_plan_arrives_as_it_was_made() {
    let reply = attempt(&Limits::own()).next(&run("ok", 0), &[]);

    let expected = Plan {
        statements: vec![Statement {
            label: "collect ids".to_owned(),
            sql: "insert into atomic.ids select $1".to_owned(),
            params: vec![Param::Int64(AS_OF_US), Param::Null, Param::Float64(0.5)],
            reads: vec!["events".to_owned()],
            writes: vec!["scratch.ids".to_owned()],
            ends_run_when_zero: Some("nothing new".to_owned()),
            measure: Some("ids".to_owned()),
        }],
        atomic: true,
        publishes: vec![Publication {
            alias: "ids".to_owned(),
            about: r#"{"key":["id"]}"#.to_owned(),
        }],
        notes: vec!["an index on id\nwould help".to_owned()],
        ends_run: None,
    };
    assert_eq!(reply, Ok(Reply::Ready(expected)));
}

#[test]
fn questions_are_asked_and_answers_are_read() {
    let mut attempt = attempt(&Limits::third_party());
    let run = run("ask", 0);

    let Ok(Reply::Ask(questions)) = attempt.next(&run, &[]) else {
        panic!("it asks first");
    };
    assert_eq!(questions[0].sql, "select 1");

    let answer = Answer {
        fields: vec![Field {
            name: "n".to_owned(),
            type_oid: 20,
            type_mod: -1,
            layout: Layout::Int64,
            nullable: false,
        }],
        rows: Batch {
            rows: 3,
            columns: vec![Column {
                validity: None,
                values: Values::Int64(vec![1, 2, 3]),
            }],
        },
    };
    let Ok(Reply::Ready(plan)) = attempt.next(&run, &[answer]) else {
        panic!("then it has a plan");
    };
    assert_eq!(plan.notes, ["1 answers, 3 rows"]);
}

/// A step is asked the same on a blocking thread of an async runtime and on a plain one.
#[test]
fn attempts_move_between_threads() {
    let component = COMPONENT.clone();
    let mut attempt = component
        .attempt(&Limits::own(), AS_OF_US)
        .expect("the planner starts");

    let reply = std::thread::spawn(move || attempt.next(&run("ok", 0), &[])).join();

    assert!(matches!(reply, Ok(Ok(Reply::Ready(_)))));
}

#[test]
fn a_failure_comes_with_its_help_and_without_escapes() {
    let limits = Limits {
        text_bytes: 60,
        ..Limits::third_party()
    };
    let mut attempt = attempt(&limits);

    let Err(CallError::Failure(failure)) = attempt.next(&run("fail", 100), &[]) else {
        panic!("the plugin says that it failed");
    };

    assert_eq!(failure.code, "no-column");
    assert!(
        failure
            .message
            .starts_with("column \"a\\u{1b}[31m\" is missing!!")
    );
    assert!(failure.message.len() <= 60 && failure.message.ends_with('…'));
    assert_eq!(failure.setting.as_deref(), Some("/columns/a"));
    assert_eq!(failure.help.as_deref(), Some("add it"));
    assert!(failure.retryable);
}

#[test]
fn what_it_says_is_kept() {
    let mut attempt = attempt(&Limits::third_party());

    attempt
        .next(&run("log", 0), &[])
        .expect("it logs and answers");

    let said: Vec<_> = attempt
        .log()
        .iter()
        .map(|line| (line.level, line.origin, line.message.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            (Level::Info, Origin::Log, "working"),
            (Level::Info, Origin::Stdout, "to stdout"),
            (Level::Warn, Origin::Stderr, "to stderr, unfinished"),
        ]
    );
    assert_eq!(
        attempt.log()[0].fields,
        [("rows".to_owned(), "7".to_owned())]
    );
    let progress = attempt.progress().expect("it said how far it is");
    assert_eq!((progress.done, progress.total), (3, Some(10)));
    assert_eq!(progress.label, "tables");
}

#[test]
fn the_clock_stands_still_at_the_time_of_the_run() {
    assert_eq!(note("clock"), format!("{AS_OF_US} 0 0"));
}

#[test]
fn a_sleep_ends_at_once() {
    assert_eq!(note("sleep"), "slept");
}

#[test]
fn random_numbers_are_the_same_in_each_attempt() {
    let (first, second) = (note("random"), note("random"));

    assert_eq!(first, second);
    let (one_map, other_map) = first.split_once(' ').expect("two maps");
    assert_ne!(one_map, other_map, "within an attempt they differ");
}

#[test]
fn random_numbers_depend_on_the_time_of_the_run() {
    let at = |as_of_us| {
        let mut attempt = COMPONENT
            .attempt(&Limits::third_party(), as_of_us)
            .expect("the planner starts");
        attempt.next(&run("random", 0), &[])
    };

    assert_eq!(at(1), at(1));
    assert_ne!(at(1), at(2));
}

#[test]
fn there_is_no_environment_and_no_input() {
    assert_eq!(note("environment"), "0 variables, 0 arguments");
    assert_eq!(note("input"), "Ok(0)");
}
