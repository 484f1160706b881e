//! Tests steps natively, under `cargo test`, without a host and without a database.
//!
//! [`Conversation`] plays the host to a step that asks and answers: it gives the settings, answers the questions that the
//! test scripts, and writes the plan, or a reducer's shape, as text for a golden file. [`Reduction`] plays the host to a
//! reducer's rows.
//!
//! ```
//! use stepwell_sdk::testing::{Conversation, rows};
//! # use stepwell_sdk::planner::{Ask, Plan, Run, Stop, question};
//! # use stepwell_sdk::{Settings, sql};
//! # #[derive(serde::Deserialize, Settings)]
//! # struct With {}
//! # fn plan(_: &Run, _: &With, ask: &mut Ask<'_>) -> Result<Plan, Stop> {
//! #     let found = ask.one(question("tables", sql!("SELECT 1 AS n"), vec![]))?;
//! #     Ok(Plan::new().note(format!("{} tables", found.len())))
//! # }
//!
//! let text = Conversation::new(plan, "{}").answer("tables", rows(&["name"], &[&[Some("a")]])).golden();
//! assert!(text.contains("-- note: 1 tables"));
//! ```

mod dice;
mod reduction;
mod table;

use std::fmt::Write;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::batch::types;
use crate::bindings::stepwell::step::columnar::{Batch, Column, Field, Layout, Values, Varlen};
use crate::bindings::stepwell::step::plans::{self, Answer, Question};
use crate::bindings::stepwell::step::shapes;
use crate::bindings::stepwell::step::types::{Failure, Relation, RunInfo};
use crate::planner::{Asked, Outcome, Plan};
use crate::reducer::Shape;

pub use dice::Dice;
pub use reduction::Reduction;

/// How often a step may ask before the test takes it for a mistake.
const ROUNDS_MAX: usize = 16;

/// A run that a test tells a step about. `P` is what the step's function answers with: a [`Plan`], or a [`Shape`].
#[derive(Debug)]
pub struct Conversation<S, P = Plan> {
    function: Asked<S, P>,
    run: RunInfo,
    answers: Vec<(String, Answer)>,
}

/// What a step's function answers with.
pub trait Ready {
    /// What of it crosses the boundary.
    type Contract;

    /// Returns it as it crosses the boundary.
    fn into_contract(self) -> Self::Contract;

    /// Writes it for a golden file.
    fn write(contract: Self::Contract, out: &mut String);
}

/// Returns what the host tells a step of a run: that of [`Conversation::new`].
pub fn run_info(with: &str) -> RunInfo {
    let relation = |alias: &str, schema: &str, name: &str| Relation {
        alias: alias.into(),
        schema: schema.into(),
        name: name.into(),
        about: String::new(),
    };
    RunInfo {
        run_id: "0192".into(),
        playbook: "sessions".into(),
        step_id: "step".into(),
        as_of_us: 1_700_000_000_000_000,
        dialect: "postgres".into(),
        traits: Vec::new(),
        source_json: SOURCE.into(),
        settings_json: with.into(),
        relations: vec![
            relation("manifest", "derived", "manifest"),
            relation("scratch", "scratch", "sessions__"),
        ],
    }
}

impl<S: DeserializeOwned, P: Ready> Conversation<S, P> {
    /// Returns a run of the playbook `sessions` with the settings `with`, as JSON. Its source is `atomic.events` with
    /// batch `etl_tstamp`, time `collector_tstamp`, event id `event_id`, a lookback of 7 days, and the context `page`.
    pub fn new(function: Asked<S, P>, with: &str) -> Self {
        Self {
            function,
            run: run_info(with),
            answers: Vec::new(),
        }
    }

    /// Writes for another dialect: `redshift`.
    #[must_use]
    pub fn dialect(mut self, dialect: &str) -> Self {
        self.run.dialect = dialect.into();
        self
    }

    /// Gives the run a trait, for example `full-refresh`.
    #[must_use]
    pub fn with_trait(mut self, name: &str) -> Self {
        self.run.traits.push(name.into());
        self
    }

    /// Replaces the source, as JSON.
    #[must_use]
    pub fn source(mut self, json: &str) -> Self {
        self.run.source_json = json.into();
        self
    }

    /// Says what an earlier step published about a scratch table.
    #[must_use]
    pub fn about(mut self, alias: &str, about: &impl serde::Serialize) -> Self {
        self.run.relations.push(Relation {
            alias: alias.into(),
            schema: "scratch".into(),
            name: format!("sessions__{alias}"),
            about: serde_json::to_string(about).expect("what a step publishes is plain data"),
        });
        self
    }

    /// Answers the question with this label.
    #[must_use]
    pub fn answer(mut self, label: &str, answer: Answer) -> Self {
        self.answers.push((label.into(), answer));
        self
    }

    /// Answers the question with this label, in place of an answer that was given before.
    #[must_use]
    pub fn answer_first(mut self, label: &str, answer: Answer) -> Self {
        self.answers.insert(0, (label.into(), answer));
        self
    }

    /// Answers the question about the columns of a table, an ordinary one whose columns are all text.
    #[must_use]
    pub fn columns(self, table: &str, names: &[&str]) -> Self {
        let rows_of: Vec<_> = names
            .iter()
            .map(|&name| [Some(name), Some("text"), None, Some("r")])
            .collect();
        let rows_of: Vec<&[Option<&str>]> = rows_of.iter().map(|row| &row[..]).collect();
        let answer = rows(&["name", "type", "type_oid", "kind"], &rows_of);
        self.answer(&format!("columns of {table}"), answer)
    }

    /// Returns what the step answers in the end, and the questions that it asked.
    ///
    /// # Panics
    ///
    /// If it asks something that the test does not answer, or does not stop asking.
    pub fn outcome(&self) -> (Result<P::Contract, Failure>, Vec<Question>) {
        let mut asked: Vec<Question> = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let answers: Vec<_> = asked
                .iter()
                .map(|question| self.find(&question.label))
                .collect();
            match crate::__next(self.run.clone(), &answers, self.function) {
                Ok(Outcome::Ask(questions)) => asked.extend(questions),
                Ok(Outcome::Ready(ready)) => return (Ok(ready.into_contract()), asked),
                Err(failure) => return (Err(failure), asked),
            }
        }
        panic!("the step still asks after {ROUNDS_MAX} rounds");
    }

    /// Returns questions and answer as text.
    ///
    /// # Panics
    ///
    /// If the step fails, or as [`outcome`](Self::outcome).
    pub fn golden(&self) -> String {
        let (ready, asked) = self.outcome();
        let ready = ready.expect("the step answers without a failure");
        let mut out = String::new();
        for question in asked {
            section(
                &mut out,
                &format!("question: {}", question.label),
                &question.sql,
                &question.params,
            );
        }
        P::write(ready, &mut out);
        out
    }

    /// Compares [`golden`](Self::golden) with the file at `path`; with `BLESS=1` in the environment, writes it.
    ///
    /// # Panics
    ///
    /// If they differ.
    pub fn check_golden(&self, path: impl AsRef<Path>) {
        let (path, found) = (path.as_ref(), self.golden());
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, &found).expect("the golden file can be written");
        }
        let expected = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == expected,
            "{} differs (BLESS=1 renews it); found:\n{found}",
            path.display()
        );
    }

    fn find(&self, label: &str) -> Answer {
        let found = self.answers.iter().find(|(answered, _)| answered == label);
        found
            .unwrap_or_else(|| panic!("the test has no answer to \"{label}\""))
            .1
            .clone()
    }
}

impl Ready for Plan {
    type Contract = plans::Plan;

    fn into_contract(self) -> plans::Plan {
        self.into_contract()
    }

    fn write(plan: plans::Plan, out: &mut String) {
        for statement in plan.statements {
            let mut head = format!("statement: {}", statement.label);
            for (what, names) in [("reads", &statement.reads), ("writes", &statement.writes)] {
                if !names.is_empty() {
                    write!(head, "\n--   {what} {}", names.join(", "))
                        .expect("a String takes every write");
                }
            }
            for (what, value) in [
                ("measures", &statement.measure),
                ("ends the run when zero", &statement.ends_run_when_zero),
            ] {
                if let Some(value) = value {
                    write!(head, "\n--   {what}: {value}").expect("a String takes every write");
                }
            }
            section(out, &head, &statement.sql, &statement.params);
        }
        remarks(out, plan.publishes, plan.notes);
        if let Some(reason) = plan.ends_run {
            writeln!(out, "-- ends the run: {reason}").expect("a String takes every write");
        }
        if !plan.atomic {
            out.push_str("-- without a transaction\n");
        }
    }
}

impl Ready for Shape {
    type Contract = shapes::Shape;

    fn into_contract(self) -> shapes::Shape {
        self.into_contract()
    }

    fn write(shape: shapes::Shape, out: &mut String) {
        let mut head = format!("rows by {}", shape.key.join(", "));
        if !shape.order_by.is_empty() {
            write!(head, ", ordered by {}", shape.order_by.join(", "))
                .expect("a String takes every write");
        }
        if !shape.reads.is_empty() {
            write!(head, "\n--   reads {}", shape.reads.join(", "))
                .expect("a String takes every write");
        }
        section(out, &head, &shape.select_sql, &shape.params);
        writeln!(out, "-- fills {}", shape.target).expect("a String takes every write");
        for field in shape.output {
            let null = if field.nullable { "" } else { " NOT NULL" };
            writeln!(
                out,
                "--   {} {}{null}",
                field.name,
                types::name(field.type_oid)
            )
            .expect("a String takes every write");
        }
        remarks(out, shape.publishes, shape.notes);
    }
}

fn remarks(out: &mut String, publishes: Vec<plans::Publication>, notes: Vec<String>) {
    for publication in publishes {
        writeln!(out, "-- about {}: {}", publication.alias, publication.about)
            .expect("a String takes every write");
    }
    for note in notes {
        writeln!(out, "-- note: {note}").expect("a String takes every write");
    }
}

/// The source of [`Conversation::new`].
pub const SOURCE: &str = r#"{
    "events": "atomic.events", "batch": "etl_tstamp", "time": "collector_tstamp", "event-id": "event_id",
    "lookback-seconds": 604800,
    "contexts": { "page": { "table": "atomic.web_page", "event-id": "root_id", "time": "root_tstamp", "columns": ["id"] } }
}"#;

/// Returns an answer whose values are all text, or NULL.
pub fn rows(columns: &[&str], values: &[&[Option<&str>]]) -> Answer {
    let column = |at: usize| {
        let mut varlen = Varlen {
            offsets: vec![0],
            data: Vec::new(),
        };
        let mut validity = vec![0_u8; values.len().div_ceil(8)];
        for (row, value) in values.iter().enumerate() {
            if let Some(text) = value[at] {
                validity[row / 8] |= 1 << (row % 8);
                varlen.data.extend_from_slice(text.as_bytes());
            }
            varlen
                .offsets
                .push(varlen.data.len().try_into().expect("test data is small"));
        }
        Column {
            validity: Some(validity),
            values: Values::Varlen(varlen),
        }
    };
    answer(
        columns,
        values.len(),
        (0..columns.len()).map(column).collect(),
        25,
        Layout::Varlen,
    )
}

/// Returns an answer whose values are all integers, or NULL.
pub fn ints(columns: &[&str], values: &[&[Option<i64>]]) -> Answer {
    let column = |at: usize| {
        let mut validity = vec![0_u8; values.len().div_ceil(8)];
        for (row, value) in values.iter().enumerate() {
            validity[row / 8] |= u8::from(value[at].is_some()) << (row % 8);
        }
        let data = values.iter().map(|row| row[at].unwrap_or(0)).collect();
        Column {
            validity: Some(validity),
            values: Values::Int64(data),
        }
    };
    answer(
        columns,
        values.len(),
        (0..columns.len()).map(column).collect(),
        20,
        Layout::Int64,
    )
}

/// Returns an answer whose values are all truth values, or NULL.
pub fn bools(columns: &[&str], values: &[&[Option<bool>]]) -> Answer {
    let column = |at: usize| {
        let mut validity = vec![0_u8; values.len().div_ceil(8)];
        let mut bits = validity.clone();
        for (row, value) in values.iter().enumerate() {
            validity[row / 8] |= u8::from(value[at].is_some()) << (row % 8);
            bits[row / 8] |= u8::from(value[at] == Some(true)) << (row % 8);
        }
        Column {
            validity: Some(validity),
            values: Values::Bits(bits),
        }
    };
    answer(
        columns,
        values.len(),
        (0..columns.len()).map(column).collect(),
        16,
        Layout::Bits,
    )
}

/// Returns one answer with the columns of two, which have the same number of rows.
pub fn beside(left: Answer, right: Answer) -> Answer {
    let mut out = left;
    out.fields.extend(right.fields);
    out.rows.columns.extend(right.rows.columns);
    out
}

fn answer(
    names: &[&str],
    rows: usize,
    columns: Vec<Column>,
    type_oid: u32,
    layout: Layout,
) -> Answer {
    let field = |name: &&str| Field {
        name: (*name).to_owned(),
        type_oid,
        type_mod: -1,
        layout,
        nullable: true,
    };
    let rows = rows.try_into().expect("test data is small");
    Answer {
        fields: names.iter().map(field).collect(),
        rows: Batch { rows, columns },
    }
}

fn section(out: &mut String, head: &str, sql: &str, params: &[crate::Param]) {
    write!(out, "-- {head}\n{sql};\n").expect("a String takes every write");
    for (at, param) in params.iter().enumerate() {
        writeln!(out, "-- ${}: {param:?}", at + 1).expect("a String takes every write");
    }
    out.push('\n');
}
