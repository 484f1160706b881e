//! What a reply may hold, checked before anything else of the host sees it. What a statement *does*
//! is checked where it is run; here it is about sizes, counts, and texts that the warehouse or a
//! terminal could not take.

use crate::call::CallError;
use crate::contract::{
    Failure, Field, Param, Plan, Publication, Question, Reply, Shape, ShapeReply, Statement,
};
use crate::limits::{Limit, LimitError, Limits};
use crate::shape;
use crate::text::{is_steering, shown};

/// Checks a reply to a call with `answered` answers.
///
/// # Errors
///
/// [`CallError::Limit`] or [`CallError::Contract`], for the first thing found.
pub(crate) fn check(reply: &Reply, answered: usize, limits: &Limits) -> Result<(), CallError> {
    let mut checker = Checker { limits, bytes: 0 };
    match reply {
        Reply::Ask(questions) => checker.ask(questions, answered),
        Reply::Ready(plan) => checker.plan(plan),
    }
}

/// Checks a reducer's reply to a call with `answered` answers.
///
/// # Errors
///
/// As [`check`].
pub(crate) fn check_shape(
    reply: &ShapeReply,
    answered: usize,
    limits: &Limits,
) -> Result<(), CallError> {
    let mut checker = Checker { limits, bytes: 0 };
    match reply {
        ShapeReply::Ask(questions) => checker.ask(questions, answered),
        ShapeReply::Ready(shape) => checker.shape(shape),
    }
}

/// Returns a failure fit to be shown. It is an error already, so its texts are cut rather than
/// refused.
pub(crate) fn tidy(failure: Failure, limits: &Limits) -> Failure {
    let bytes_max = usize::try_from(limits.text_bytes).unwrap_or(usize::MAX);
    let tidy = |text: String| shown(&text, bytes_max);
    Failure {
        code: tidy(failure.code),
        message: tidy(failure.message),
        setting: failure.setting.map(tidy),
        help: failure.help.map(tidy),
        retryable: failure.retryable,
    }
}

struct Checker<'a> {
    limits: &'a Limits,
    /// Host memory of the reply, counted so far.
    bytes: u64,
}

type Checked = Result<(), CallError>;

impl Checker<'_> {
    fn ask(&mut self, questions: &[Question], answered: usize) -> Checked {
        if questions.is_empty() {
            return contract("it asks, but has no question".to_owned());
        }
        let asked = (answered + questions.len()) as u64;
        self.at_most(Limit::Questions, "questions", self.limits.questions, asked)?;
        for (n, question) in questions.iter().enumerate() {
            let place = place("question", n, &question.label);
            self.count::<Question>()?;
            self.one_line(&question.label, "label", &place)?;
            self.sql(&question.sql, &place)?;
            self.params(&question.params, &place)?;
        }
        Ok(())
    }

    fn plan(&mut self, plan: &Plan) -> Checked {
        let statements = plan.statements.len() as u64;
        self.at_most(
            Limit::Statements,
            "statements",
            self.limits.statements,
            statements,
        )?;
        for (n, statement) in plan.statements.iter().enumerate() {
            self.statement(statement, &place("statement", n, &statement.label))?;
        }
        self.remarks(&plan.publishes, &plan.notes, "the plan")?;
        if let Some(reason) = &plan.ends_run {
            self.one_line(reason, "ends-run", "the plan")?;
        }
        Ok(())
    }

    fn shape(&mut self, shape: &Shape) -> Checked {
        const PLACE: &str = "the shape";

        self.sql(&shape.select_sql, PLACE)?;
        self.params(&shape.params, PLACE)?;
        for (what, names) in [
            ("table", &shape.reads),
            ("key", &shape.key),
            ("order-by", &shape.order_by),
        ] {
            for name in names {
                self.count::<String>()?;
                self.one_line(name, what, PLACE)?;
            }
        }
        self.one_line(&shape.target, "target", PLACE)?;
        for field in &shape.output {
            self.count::<Field>()?;
            self.add(field.name.len())?;
        }
        shape::check_fields(&shape.output)?;
        self.remarks(&shape.publishes, &shape.notes, PLACE)
    }

    fn remarks(&mut self, publishes: &[Publication], notes: &[String], of: &str) -> Checked {
        for (n, publication) in publishes.iter().enumerate() {
            self.publication(publication, &place("publication", n, &publication.alias))?;
        }
        for note in notes {
            self.count::<String>()?;
            self.text(note, "note", of)?;
            if note.chars().any(|c| is_steering(c) && c != '\n') {
                return contract(format!("note of {of}: it holds a control character"));
            }
        }
        Ok(())
    }

    fn statement(&mut self, statement: &Statement, place: &str) -> Checked {
        self.count::<Statement>()?;
        self.one_line(&statement.label, "label", place)?;
        self.sql(&statement.sql, place)?;
        self.params(&statement.params, place)?;
        for table in statement.reads.iter().chain(&statement.writes) {
            self.count::<String>()?;
            self.one_line(table, "table", place)?;
        }
        if let Some(reason) = &statement.ends_run_when_zero {
            self.one_line(reason, "ends-run-when-zero", place)?;
        }
        if let Some(name) = &statement.measure {
            self.one_line(name, "measure", place)?;
        }
        Ok(())
    }

    fn publication(&mut self, publication: &Publication, place: &str) -> Checked {
        self.count::<Publication>()?;
        self.one_line(&publication.alias, "alias", place)?;
        self.add(publication.about.len())?;
        match serde_json::from_str::<serde::de::IgnoredAny>(&publication.about) {
            Ok(_) => Ok(()),
            Err(error) => contract(format!("about of {place}: it is not JSON: {error}")),
        }
    }

    fn sql(&mut self, sql: &str, place: &str) -> Checked {
        let (limit, bytes) = (self.limits.sql_bytes, sql.len() as u64);
        self.at_most(Limit::Sql, &format!("sql of {place}"), limit, bytes)?;
        self.add(sql.len())?;
        if sql.trim().is_empty() {
            return contract(format!("sql of {place}: it is empty"));
        }
        no_nul(sql, "sql", place)
    }

    fn params(&mut self, params: &[Param], place: &str) -> Checked {
        let (limit, count) = (self.limits.params, params.len() as u64);
        self.at_most(Limit::Params, &format!("params of {place}"), limit, count)?;
        for param in params {
            self.count::<Param>()?;
            match param {
                Param::Text(text) | Param::Typed((_, text)) => {
                    self.add(text.len())?;
                    no_nul(text, "param", place)?;
                }
                Param::Null | Param::Boolean(_) | Param::Int64(_) | Param::Float64(_) => {}
            }
            if matches!(param, Param::Typed((0, _))) {
                return contract(format!("param of {place}: 0 is no type OID"));
            }
        }
        Ok(())
    }

    /// A text that is shown or compared as one line.
    fn one_line(&mut self, text: &str, what: &str, place: &str) -> Checked {
        self.text(text, what, place)?;
        if text.is_empty() {
            return contract(format!("{what} of {place}: it is empty"));
        }
        if text.chars().any(is_steering) {
            return contract(format!("{what} of {place}: it holds a control character"));
        }
        Ok(())
    }

    fn text(&mut self, text: &str, what: &str, place: &str) -> Checked {
        let (limit, bytes) = (self.limits.text_bytes, text.len() as u64);
        self.at_most(Limit::Text, &format!("{what} of {place}"), limit, bytes)?;
        self.add(text.len())
    }

    /// Counts one element of a list.
    fn count<T>(&mut self) -> Checked {
        self.add(size_of::<T>())
    }

    fn add(&mut self, bytes: usize) -> Checked {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.at_most(
            Limit::Reply,
            "the reply",
            self.limits.reply_bytes,
            self.bytes,
        )
    }

    fn at_most(&self, limit: Limit, what: &str, allowed: u64, asked: u64) -> Checked {
        if asked > allowed {
            return Err(LimitError::new(limit, what, allowed, asked).into());
        }
        Ok(())
    }
}

/// Postgres has no text with a zero byte in it.
fn no_nul(text: &str, what: &str, place: &str) -> Checked {
    if text.contains('\0') {
        return contract(format!("{what} of {place}: it holds a NUL character"));
    }
    Ok(())
}

/// Names an element for people, by its number from 1 and its label, which is not checked yet.
pub(crate) fn place(element: &str, n: usize, label: &str) -> String {
    const LABEL_BYTES_MAX: usize = 60;

    format!("{element} {} (`{}`)", n + 1, shown(label, LABEL_BYTES_MAX))
}

fn contract(problem: String) -> Checked {
    Err(CallError::Contract { problem })
}
