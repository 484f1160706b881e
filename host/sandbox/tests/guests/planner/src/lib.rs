//! A planner that does what its settings say: `{"do":"spin"}`. The tests of the sandbox send it.

use std::collections::HashMap;
use std::hint::black_box;

wit_bindgen::generate!({ path: "../../../../../sdk/wit", world: "planner" });

use exports::stepwell::step::planning::{Answer, Failure, Guest, Reply, RunInfo};
use stepwell::step::log;
use stepwell::step::plans::{Plan, Publication, Question, Statement};
use stepwell::step::types::Param;

const DESCRIPTION: &[u8] = br#"{"name":"guest","version":"1.2.3","kind":"planner",
"contract":"0.1.0","summary":"Does what its settings say.","gate":false,"reads":["events"],
"writes":[],"settings":{"type":"object","properties":{"do":{"type":"string"}}}}"#;

#[unsafe(link_section = "stepwell:step")]
#[used]
static SECTION: [u8; DESCRIPTION.len()] = *DESCRIPTION.first_chunk().expect("its own length");

struct Step;

export!(Step);

impl Guest for Step {
    fn next(run: RunInfo, answers: Vec<Answer>) -> Result<Reply, Failure> {
        let size = number(&run.settings_json, "size");
        match word(&run.settings_json, "do") {
            "ok" => Ok(Reply::Ready(plan_of(&run))),
            "ask" if answers.is_empty() => Ok(Reply::Ask(vec![question("types", "select 1")])),
            "ask" => Ok(note(format!(
                "{} answers, {} rows",
                answers.len(),
                answers[0].rows.rows
            ))),
            "fail" => Err(Failure {
                code: "no-column".to_owned(),
                message: format!("column \"a\u{1b}[31m\" is missing{}", "!".repeat(size)),
                setting: Some("/columns/a".to_owned()),
                help: Some("add it".to_owned()),
                retryable: true,
            }),
            "spin" => loop {
                black_box(());
            },
            "talk-and-spin" => {
                talk();
                loop {
                    black_box(());
                }
            }
            "talk-and-answer" => {
                talk();
                Ok(plan(vec![statement("select 1"); 2]))
            }
            "sleep" => {
                std::thread::sleep(std::time::Duration::from_secs(1_000_000));
                Ok(note("slept".to_owned()))
            }
            "panic" => panic!("the plugin gave up on {}", run.playbook),
            "exit" => std::process::exit(3),
            "recurse" => Ok(note(recurse(1).to_string())),
            "recurse-in-memory" => Ok(note(recurse_in_memory(1).to_string())),
            "alloc" => Ok(note(alloc(size).to_string())),
            "clock" => Ok(note(clock())),
            "random" => Ok(note(random())),
            "environment" => Ok(note(environment())),
            "input" => Ok(note(input())),
            "flood" => {
                flood(size);
                Ok(note("flooded".to_owned()))
            }
            "log" => {
                log::emit(
                    log::Level::Info,
                    "working",
                    &[("rows".to_owned(), "7".to_owned())],
                );
                log::progress(3, Some(10), "tables");
                println!("to stdout");
                eprint!("to stderr, unfinished");
                Ok(note("logged".to_owned()))
            }
            // One call of the host with more than it takes.
            "shout" => {
                log::emit(log::Level::Info, &"a".repeat(size), &[]);
                Ok(note("shouted".to_owned()))
            }
            "huge-sql" => Ok(one(&"x".repeat(size))),
            "huge-param" => Ok(param(Param::Text("x".repeat(size)))),
            "huge-reply" => Ok(notes(vec!["x".repeat(1_000); size])),
            "many-statements" => Ok(plan(vec![statement("select 1"); size])),
            "many-questions" => Ok(Reply::Ask(vec![question("q", "select 1"); size])),
            "many-params" => {
                let params = vec![Param::Null; size];
                Ok(plan(vec![Statement {
                    params,
                    ..statement("select 1")
                }]))
            }
            "long-label" => {
                let label = "x".repeat(size);
                Ok(plan(vec![Statement {
                    label,
                    ..statement("select 1")
                }]))
            }
            "nul-sql" => Ok(one("select '\0'")),
            "nul-param" => Ok(param(Param::Typed((25, "a\0b".to_owned())))),
            "no-oid" => Ok(param(Param::Typed((0, "a".to_owned())))),
            "empty-sql" => Ok(one(" \n")),
            "escape-label" => {
                let label = "\u{1b}[2J".to_owned();
                Ok(plan(vec![Statement {
                    label,
                    ..statement("select 1")
                }]))
            }
            "no-questions" => Ok(Reply::Ask(Vec::new())),
            "bad-about" => Ok(Reply::Ready(Plan {
                publishes: vec![Publication {
                    alias: "a".to_owned(),
                    about: "{".to_owned(),
                }],
                ..empty()
            })),
            #[cfg(feature = "files")]
            "files" => Ok(note(format!("{:?}", std::fs::read("/etc/passwd")))),
            other => panic!("no such behaviour: {other}"),
        }
    }
}

fn talk() {
    log::emit(log::Level::Info, "begun", &[]);
    log::emit(log::Level::Info, "far from done", &[]);
}

/// A plan that uses every field.
fn plan_of(run: &RunInfo) -> Plan {
    Plan {
        statements: vec![Statement {
            label: "collect ids".to_owned(),
            sql: format!("insert into {}.ids select $1", run.relations[0].schema),
            params: vec![Param::Int64(run.as_of_us), Param::Null, Param::Float64(0.5)],
            reads: vec![run.relations[0].name.clone()],
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
    }
}

fn empty() -> Plan {
    Plan {
        statements: Vec::new(),
        atomic: true,
        publishes: Vec::new(),
        notes: Vec::new(),
        ends_run: None,
    }
}

fn plan(statements: Vec<Statement>) -> Reply {
    Reply::Ready(Plan {
        statements,
        ..empty()
    })
}

fn notes(notes: Vec<String>) -> Reply {
    Reply::Ready(Plan { notes, ..empty() })
}

fn note(note: String) -> Reply {
    notes(vec![note])
}

fn one(sql: &str) -> Reply {
    plan(vec![statement(sql)])
}

fn param(param: Param) -> Reply {
    plan(vec![Statement {
        params: vec![param],
        ..statement("select $1")
    }])
}

fn statement(sql: &str) -> Statement {
    Statement {
        label: "statement".to_owned(),
        sql: sql.to_owned(),
        params: Vec::new(),
        reads: Vec::new(),
        writes: Vec::new(),
        ends_run_when_zero: None,
        measure: None,
    }
}

fn question(label: &str, sql: &str) -> Question {
    Question {
        label: label.to_owned(),
        sql: sql.to_owned(),
        params: Vec::new(),
    }
}

// Its argument is never 0, which the compiler cannot know: it wraps after the stack is long gone.
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    if depth == 0 {
        return 0;
    }
    recurse(depth.wrapping_mul(3)).rotate_left(7) ^ depth
}

#[inline(never)]
fn recurse_in_memory(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    if depth == 0 {
        return 0;
    }
    recurse_in_memory(depth.wrapping_mul(3)) + frame[63]
}

fn alloc(size: usize) -> usize {
    let mut hoard = Vec::new();
    for _ in 0..size {
        hoard.push(black_box(vec![1_u8; 1 << 20]));
    }
    hoard.len()
}

fn clock() -> String {
    use std::time::{Instant, SystemTime};

    let (first, started) = (SystemTime::now(), Instant::now());
    for n in 0..1_000_000_u64 {
        black_box(n);
    }
    let since_1970 = first
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970");
    let passed = SystemTime::now().duration_since(first).expect("not back");
    format!(
        "{} {} {}",
        since_1970.as_micros(),
        passed.as_nanos(),
        started.elapsed().as_nanos()
    )
}

/// What two maps with random seeds make of the same keys.
fn random() -> String {
    let order = || {
        let map: HashMap<u32, ()> = (0..100).map(|key| (key, ())).collect();
        map.into_keys()
            .map(|key| key.to_string())
            .collect::<Vec<_>>()
            .join(",")
    };
    format!("{} {}", order(), order())
}

fn environment() -> String {
    format!(
        "{} variables, {} arguments",
        std::env::vars().count(),
        std::env::args().count()
    )
}

fn input() -> String {
    let mut line = String::new();
    let read = std::io::stdin()
        .read_line(&mut line)
        .map_err(|error| error.kind());
    format!("{read:?}")
}

fn flood(lines: usize) {
    for n in 0..lines {
        log::emit(log::Level::Info, &format!("line {n}"), &[]);
        println!("{n}");
    }
}

/// The string under `key` in a flat JSON object; a parser would be most of this component.
fn word<'a>(json: &'a str, key: &str) -> &'a str {
    after(json, key)
        .trim_start_matches('"')
        .split('"')
        .next()
        .unwrap_or("")
}

fn number(json: &str, key: &str) -> usize {
    let digits = after(json, key).split(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

fn after<'a>(json: &'a str, key: &str) -> &'a str {
    json.split_once(&format!("\"{key}\":"))
        .map_or("", |(_, rest)| rest)
}
