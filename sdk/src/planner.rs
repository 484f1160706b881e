//! What a planner is given and what it answers with.
//!
//! A planner is one function that reads from top to bottom:
//!
//! ```
//! use stepwell_sdk::planner::{Ask, Plan, Run, Statement, Stop};
//! use stepwell_sdk::settings::ScratchOutput;
//! use stepwell_sdk::{Settings, sql};
//!
//! #[derive(serde::Deserialize, Settings)]
//! #[serde(deny_unknown_fields, rename_all = "kebab-case")]
//! struct With {
//!     /// Takes one row, the number of events.
//!     into: ScratchOutput,
//! }
//!
//! fn plan(run: &Run, with: &With, _ask: &mut Ask<'_>) -> Result<Plan, Stop> {
//!     let (into, events) = (run.scratch(with.into.alias()), &run.source()?.events);
//!     let create = sql!("CREATE TABLE {into} AS\nSELECT count(*) AS events\nFROM {events}", into = into, events = events);
//!     Ok(Plan::new().run(Statement::new("count events", create).reads(events).writes(&into)))
//! }
//! # let _ = plan;
//! ```
//!
//! A question is put with [`Ask`] and answered at once, as far as the function can tell. In truth the host calls the
//! function again with the answer, so a planner must come to the same questions every time.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::bindings::stepwell::step::plans::{self, Answer, Publication, Question};
use crate::bindings::stepwell::step::shapes::ShapeReply;
use crate::bindings::stepwell::step::types::{Failure, Param, Relation, RunInfo};
use crate::reducer::Shape;
use crate::rows::Rows;
use crate::source::Source;
use crate::sql::{Sql, TableName};

/// Alias under which a step publishes numbers about its work: [`Measures`].
pub const MEASURES: &str = "measures";

/// Alias under which a step publishes advice: [`Plan::advise`].
pub const ADVICE: &str = "advice";

/// The databases whose SQL a step may have to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL 14 or newer.
    Postgres,
    /// Amazon Redshift.
    Redshift,
}

/// What a step knows of the run that it is part of.
#[derive(Debug, Clone)]
pub struct Run {
    info: RunInfo,
    source: Option<Source>,
}

impl Run {
    /// Reads what the host sent.
    ///
    /// # Errors
    ///
    /// [`Failure`] with code `contract` if the host's JSON is not what the contract says.
    pub fn new(info: RunInfo) -> Result<Self, Failure> {
        let source = serde_json::from_str(&info.source_json).map_err(|error| {
            Failure::new("contract", format!("could not read the source: {error}"))
        })?;
        Ok(Self { info, source })
    }

    /// Returns the run's id, unique for ever.
    pub fn id(&self) -> &str {
        &self.info.run_id
    }

    /// Returns the playbook's name: lower-case letters, digits and single underscores.
    pub fn playbook(&self) -> &str {
        &self.info.playbook
    }

    /// Returns the id of the step in the workflow file.
    pub fn step_id(&self) -> &str {
        &self.info.step_id
    }

    /// Returns the run's point in time, in microseconds since 1970-01-01 UTC. Nothing else tells the time.
    pub fn as_of_us(&self) -> i64 {
        self.info.as_of_us
    }

    /// Returns the dialect to write.
    pub fn dialect(&self) -> Dialect {
        match self.info.dialect.as_str() {
            "redshift" => Dialect::Redshift,
            _ => Dialect::Postgres,
        }
    }

    /// Whether this run computes everything again and replaces the derived tables whole.
    pub fn full_refresh(&self) -> bool {
        self.has("full-refresh")
    }

    /// Whether the warehouse or the run has a trait, for example `truncate-commits`.
    pub fn has(&self, name: &str) -> bool {
        self.info.traits.iter().any(|found| found == name)
    }

    /// Returns the workflow's `source:`.
    ///
    /// # Errors
    ///
    /// [`Failure`] if the workflow has none.
    pub fn source(&self) -> Result<&Source, Failure> {
        self.source.as_ref().ok_or_else(|| {
            Failure::new(
                "no-source",
                "this step reads events, but the workflow has no source",
            )
            .with_help("Add a `source:` block with `events`, `batch`, `time` and `lookback`.")
        })
    }

    /// Returns the playbook's manifest.
    ///
    /// # Errors
    ///
    /// [`Failure`] with code `contract` if the host did not name it.
    pub fn manifest(&self) -> Result<TableName, Failure> {
        let found = self.relation("manifest").ok_or_else(|| {
            Failure::new("contract", "the host did not say where the manifest is")
        })?;
        Ok(TableName::new(&found.schema, &found.name))
    }

    /// Returns the scratch table that the workflow calls `alias`.
    pub fn scratch(&self, alias: &str) -> TableName {
        let (schema, prefix) = self.scratch_prefix();
        TableName::new(schema, format!("{prefix}{alias}"))
    }

    /// Returns the schema of this playbook's scratch tables and the prefix of their names.
    pub fn scratch_prefix(&self) -> (&str, &str) {
        match self.relation("scratch") {
            Some(found) => (&found.schema, &found.name),
            None => ("scratch", ""),
        }
    }

    /// Returns what the step that fills the scratch table `alias` said about it.
    ///
    /// # Errors
    ///
    /// [`Failure`] if it said nothing, or something of another shape.
    pub fn about<T: serde::de::DeserializeOwned>(&self, alias: &str) -> Result<T, Failure> {
        let about = self
            .relation(alias)
            .map_or("", |found| found.about.as_str());
        serde_json::from_str(about).map_err(|_| {
            Failure::new("wrong-table", format!("scratch table \"{alias}\" is not one that this step can use"))
                .with_help("Look at which kind of step fills it: ids come from `collect-ids`, batches from `diff-manifest`.")
        })
    }

    fn relation(&self, alias: &str) -> Option<&Relation> {
        self.info
            .relations
            .iter()
            .find(|relation| relation.alias == alias)
    }
}

/// Why a planner's function ended without a plan.
#[derive(Debug, Clone, PartialEq)]
pub enum Stop {
    /// It has questions that are not answered yet. Made by [`Ask`]; pass it on with `?`.
    Unanswered(Vec<Question>),
    /// It cannot go on.
    Failed(Failure),
}

/// The function of a step: it answers with a `P`, a [`Plan`] or a [`Shape`].
pub type Asked<S, P> = fn(&Run, &S, &mut Ask<'_>) -> Result<P, Stop>;

/// How a call of a step's function ended, if it did not fail.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome<P> {
    /// It has questions.
    Ask(Vec<Question>),
    /// It answers.
    Ready(P),
}

impl From<Outcome<Plan>> for plans::Reply {
    fn from(outcome: Outcome<Plan>) -> Self {
        match outcome {
            Outcome::Ask(questions) => Self::Ask(questions),
            Outcome::Ready(plan) => Self::Ready(plan.into_contract()),
        }
    }
}

impl From<Outcome<Shape>> for ShapeReply {
    fn from(outcome: Outcome<Shape>) -> Self {
        match outcome {
            Outcome::Ask(questions) => Self::Ask(questions),
            Outcome::Ready(shape) => Self::Ready(shape.into_contract()),
        }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Failure {
    /// Returns a failure. `code` is a stable word for programs; `message` says what is wrong: lower case, no full stop.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            setting: None,
            help: None,
            retryable: false,
        }
    }

    /// Names the setting at fault, as a JSON pointer below `with`: `/columns/page_views`.
    #[must_use]
    pub fn with_setting(mut self, pointer: impl Into<String>) -> Self {
        self.setting = Some(pointer.into());
        self
    }

    /// Says what to do next, as a sentence. `<workflow>` in it becomes the path of the workflow file, with the variables that
    /// were given: `stepwell run <workflow> --full-refresh`.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Puts questions to the database.
#[derive(Debug)]
pub struct Ask<'a> {
    answers: &'a [Answer],
    taken: usize,
}

impl<'a> Ask<'a> {
    /// Returns an asker that has these answers, in the order of the questions.
    pub fn new(answers: &'a [Answer]) -> Self {
        Self { answers, taken: 0 }
    }

    /// Returns the rows of one read-only statement.
    ///
    /// # Errors
    ///
    /// [`Stop::Unanswered`], to be passed on: the host answers and calls again.
    pub fn one(&mut self, question: Question) -> Result<Rows<'a>, Stop> {
        let [rows] = self.all([question])?;
        Ok(rows)
    }

    /// Returns the rows of several statements that the host may run in one go.
    ///
    /// # Errors
    ///
    /// [`Stop::Unanswered`], to be passed on.
    pub fn all<const N: usize>(&mut self, questions: [Question; N]) -> Result<[Rows<'a>; N], Stop> {
        let Some(answers) = self.answers.get(self.taken..self.taken + N) else {
            return Err(Stop::Unanswered(questions.into()));
        };
        self.taken += N;
        Ok(std::array::from_fn(|at| Rows::new(&answers[at])))
    }
}

/// Returns a question: one read-only statement. `label` says what it asks, for people.
pub fn question(label: &str, sql: Sql, params: Vec<Param>) -> Question {
    Question {
        label: label.to_owned(),
        sql: sql.into(),
        params,
    }
}

/// Returns a text parameter; Postgres reads it as the type that the statement expects in its place.
pub fn text(value: impl Into<String>) -> Param {
    Param::Text(value.into())
}

/// One statement of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement(plans::Statement);

impl Statement {
    /// Returns a statement. `label` says what it does, for people: `collect ids`.
    pub fn new(label: impl Into<String>, sql: Sql) -> Self {
        Self(plans::Statement {
            label: label.into(),
            sql: sql.into(),
            params: Vec::new(),
            reads: Vec::new(),
            writes: Vec::new(),
            ends_run_when_zero: None,
            measure: None,
        })
    }

    /// Adds the next parameter, `$1` first.
    #[must_use]
    pub fn param(mut self, param: Param) -> Self {
        self.0.params.push(param);
        self
    }

    /// Declares a table that the statement reads.
    #[must_use]
    pub fn reads(mut self, table: &TableName) -> Self {
        self.0.reads.push(table.to_string());
        self
    }

    /// Declares tables that the statement reads.
    #[must_use]
    pub fn reads_all<'a>(self, tables: impl IntoIterator<Item = &'a TableName>) -> Self {
        tables.into_iter().fold(self, Self::reads)
    }

    /// Declares a table that the statement changes, creates or drops.
    #[must_use]
    pub fn writes(mut self, table: &TableName) -> Self {
        self.0.writes.push(table.to_string());
        self
    }

    /// Ends the run as a success, for this reason, if the statement touches no row.
    #[must_use]
    pub fn ends_run_when_zero(mut self, reason: impl Into<String>) -> Self {
        self.0.ends_run_when_zero = Some(reason.into());
        self
    }

    /// The statement is a SELECT of one number, reported under this name.
    #[must_use]
    pub fn measure(mut self, name: &str) -> Self {
        self.0.measure = Some(name.to_owned());
        self
    }
}

/// Numbers about a step's work by name, in lower case with hyphens: `late-batches`. At most 100 of each sort.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Measures {
    /// What this pass does; a run adds up its passes.
    pub counts: BTreeMap<&'static str, i64>,
    /// How things stand; those of a run's last pass count.
    pub levels: BTreeMap<&'static str, i64>,
}

/// What a planner answers with.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan(plans::Plan);

impl Default for Plan {
    fn default() -> Self {
        Self::new()
    }
}

impl Plan {
    /// Returns a plan without statements whose statements will run in one transaction.
    pub fn new() -> Self {
        Self(plans::Plan {
            statements: Vec::new(),
            atomic: true,
            publishes: Vec::new(),
            notes: Vec::new(),
            ends_run: None,
        })
    }

    /// Returns the plan of a gate step that found nothing to do.
    pub fn nothing_to_do(reason: impl Into<String>) -> Self {
        let mut plan = Self::new();
        plan.0.ends_run = Some(reason.into());
        plan
    }

    /// Adds a statement.
    #[must_use]
    pub fn run(mut self, statement: Statement) -> Self {
        self.0.statements.push(statement.0);
        self
    }

    /// Adds statements.
    #[must_use]
    pub fn run_all(self, statements: impl IntoIterator<Item = Statement>) -> Self {
        statements.into_iter().fold(self, Self::run)
    }

    /// Runs each statement by itself, for those that refuse a transaction (VACUUM).
    #[must_use]
    pub fn without_transaction(mut self) -> Self {
        self.0.atomic = false;
        self
    }

    /// Adds a remark for people.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.0.notes.push(note.into());
        self
    }

    /// Tells later steps about the scratch table `alias`.
    #[must_use]
    pub fn publish(mut self, alias: &str, about: &impl Serialize) -> Self {
        let about = serde_json::to_string(about).expect("what a step publishes is plain data");
        self.0.publishes.push(Publication {
            alias: alias.to_owned(),
            about,
        });
        self
    }

    /// Advises people who set the workflow or the warehouse up: which index would help, say. A plan shows it each time; a
    /// run shows it once, and again where it is asked to say more. What a run found is a [`note`](Self::note) instead.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        let mut published = self.0.publishes.iter();
        let known = published.position(|publication| publication.alias == ADVICE);
        let known = known.map(|at| self.0.publishes.remove(at));
        let known = known.and_then(|known| serde_json::from_str(&known.about).ok());
        let mut all: Vec<String> = known.unwrap_or_default();
        all.push(advice.into());
        self.publish(ADVICE, &all)
    }

    /// Tells people and programs numbers that are known as the plan is made: they stand in the run's report and in the
    /// journal, also where the plan ends the run. What they mean is for the notes to say. Once a plan.
    #[must_use]
    pub fn measures(self, measures: &Measures) -> Self {
        self.publish(MEASURES, measures)
    }

    /// Returns the plan as it crosses the boundary.
    pub fn into_contract(self) -> plans::Plan {
        self.0
    }
}
