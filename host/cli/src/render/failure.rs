//! A run, or other work against the warehouse, that failed.

use std::error::Error as StdError;
use std::ops::Range;

use stepwell_runner::{Problem, RunError, StatementPlace, StepPlace};
use stepwell_sandbox::{CallError, LimitError};
use stepwell_warehouse::local::LocalError;
use stepwell_warehouse::{StatementError, WarehouseError};
use stepwell_workflow::{Span, Trust, Workflow};

use super::message::{Excerpt, Message, Place};
use crate::invocation::{Invocation, quoted};

/// Lines of a crashed plugin's log, and functions that it was in, that are shown.
const CRASH_LINES_MAX: usize = 5;

/// SQLSTATE of a statement whose role may not do what it does.
const NOT_PERMITTED: &str = "42501";

/// Returns the message for an error of work on a workflow.
pub(crate) fn message<'a>(
    workflow: &'a Workflow,
    error: &'a RunError,
    invocation: &Invocation,
) -> Message<'a> {
    let mut message = Message::error(headline(error)).at(place(workflow, error));
    message.statement = excerpt(error);
    for cause in causes(&message.headline, error.source()) {
        message = message.remark("cause", cause);
    }
    message = statement_remarks(message, error);
    if let Problem::Plugin { source } = &*error.problem {
        message = plugin_remarks(message, source);
    }
    if error.step.is_some() || error.run_id.is_some() {
        message = message.remark("state", error.state.to_string());
    }
    message
        .remark_if("help", help(workflow, error, invocation))
        .remark_if("help", going_on(workflow, error, invocation))
        .remark_if("run", error.run_id.as_ref())
}

/// Returns the message for an error of the private server.
pub(crate) fn local(error: &LocalError) -> Message<'_> {
    let mut message = Message::error(error.to_string());
    for cause in causes(&message.headline, error.source()) {
        message = message.remark("cause", cause);
    }
    message.remark_if("help", error.help())
}

/// Returns the message for an error of the warehouse that belongs to no workflow.
pub(crate) fn warehouse(doing: &str, error: &WarehouseError) -> Message<'static> {
    let message = Message::error(format!("could not {doing}"));
    let causes = causes(&message.headline, Some(error));
    let message = causes
        .into_iter()
        .fold(message, |message, cause| message.remark("cause", cause));
    server_remarks(message, error).remark_if("help", error.help())
}

/// Returns the message for any other error.
pub(crate) fn other(error: &anyhow::Error) -> Message<'static> {
    let message = Message::error(error.to_string());
    let causes = causes(&message.headline, error.source());
    causes
        .into_iter()
        .fold(message, |message, cause| message.remark("cause", cause))
}

/// What went wrong, in one line.
pub(crate) fn headline(error: &RunError) -> String {
    match (&*error.problem, &error.step) {
        // Nothing of the step's doing.
        (Problem::Stopped { .. }, Some(step)) => {
            format!("{} in step \"{}\"", error.problem, step.id)
        }
        (Problem::NotABatch { batch, .. }, _) => {
            format!("--batch {}: {}", quoted(batch), error.problem)
        }
        _ => error.to_string(),
    }
}

/// What to do next. Commands in it do what the one at hand did.
pub(crate) fn help(
    workflow: &Workflow,
    error: &RunError,
    invocation: &Invocation,
) -> Option<String> {
    let own = match &*error.problem {
        Problem::Local { source } => source.help(),
        Problem::NotInitialised { .. } if workflow.warehouse.url.is_none() => Some(
            "On the private local server a run makes it by itself: `stepwell run <workflow>`. Or run \
             `stepwell init <workflow>`, which makes the tables and nothing else."
                .to_owned(),
        ),
        _ => error.help(),
    };
    let own = own.or_else(|| lacks_a_grant(workflow, error));
    let help = own.or_else(|| {
        let again = invocation.again(workflow);
        match &*error.problem {
            Problem::Statement { .. } if invocation.is_run() => Some(format!(
                "mend it and run again; `{}` shows the SQL of each step",
                invocation.plan(workflow)
            )),
            Problem::Statement { .. } => Some(format!("mend it and run again: `{again}`")),
            Problem::Stopped { .. } => Some(format!("run again to go on: `{again}`")),
            _ => None,
        }
    });
    help.map(|help| help.replace("<workflow>", &invocation.file(workflow)))
}

/// What to do where the server kept a third party's plugin from something: its role has what the workflow grants.
fn lacks_a_grant(workflow: &Workflow, error: &RunError) -> Option<String> {
    let step = workflow.steps.get(error.step.as_deref()?.index)?;
    let plugin = workflow.plugins.get(&step.uses)?;
    let denied = error.warehouse_error()?.sqlstate() == Some(NOT_PERMITTED);
    (denied && plugin.trust == Trust::ThirdParty).then(|| {
        format!(
            "its role can do what `plugins.{}.grants` says, and the plugin did not say that it needs more; if that is \
             meant, add the table there, a scratch table by its alias",
            plugin.name
        )
    })
}

/// How to go on without doing again what is done.
fn going_on(workflow: &Workflow, error: &RunError, invocation: &Invocation) -> Option<String> {
    let step = error.continue_from.as_deref()?;
    Some(format!(
        "what is done need not be done again: `{}`",
        invocation.from(step, workflow)
    ))
}

/// The causes of an error, each once: one that the text before it says already is left out.
pub(crate) fn causes(said: &str, first: Option<&(dyn StdError + 'static)>) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    let mut next = first;
    while let Some(cause) = next {
        let words = cause.to_string();
        let last = causes.last().map_or(said, String::as_str);
        if !last.contains(&words) {
            causes.push(words);
        }
        next = cause.source();
    }
    causes
}

/// Where in the workflow file: the setting at fault, or the step's id.
pub(crate) fn span(workflow: &Workflow, place: &StepPlace) -> Option<Span> {
    let step = workflow.steps.get(place.index)?;
    let setting = place.setting.as_deref();
    let setting = setting.and_then(|pointer| step.setting_span(pointer));
    Some(setting.unwrap_or(step.span))
}

/// Where in the workflow file an error belongs, if to one place of it.
pub(crate) fn span_of(workflow: &Workflow, error: &RunError) -> Option<Span> {
    if let Problem::Source { pointer, .. } = &*error.problem {
        return workflow.source.as_ref()?.span(pointer);
    }
    span(workflow, error.step.as_deref()?)
}

/// `statement 3 of 5 "collect ids"`; a label that says no more is left out.
pub(crate) fn statement_words(statement: &StatementPlace) -> String {
    let kind = match statement.question {
        true => "question",
        false => "statement",
    };
    let StatementPlace {
        number,
        count,
        label,
        ..
    } = statement;
    let words = format!("{kind} {number} of {count}");
    match *label == words {
        true => words,
        false => format!("{words} \"{label}\""),
    }
}

/// Returns the bytes of the word at a character, counted from 1, as a server gives positions.
pub(crate) fn word_at(sql: &str, position: u32) -> Option<Range<usize>> {
    let index = usize::try_from(position).ok()?.checked_sub(1)?;
    let (start, first) = sql.char_indices().nth(index)?;
    let rest = &sql[start..];
    let part_of_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '$');
    let length = match first {
        '"' => rest[1..].find('"').map(|end| end + 2),
        c if part_of_name(c) => rest.find(|c| !part_of_name(c)),
        c => Some(c.len_utf8()),
    };
    Some(start..start + length.unwrap_or(rest.len()))
}

fn place<'a>(workflow: &'a Workflow, error: &RunError) -> Place<'a> {
    let file = &workflow.source_file;
    match span_of(workflow, error) {
        Some(span) => Place::At(file, first_line(&file.text, span)),
        None => Place::File(&file.path),
    }
}

/// The part of a span on its first line: a message does not quote a whole query.
fn first_line(text: &str, span: Span) -> Span {
    let part = text.get(span.start..span.end).unwrap_or_default();
    let line = part.lines().next().unwrap_or_default().trim_end();
    Span::new(span.start, span.start + line.len())
}

/// The line of the statement at which the server points.
fn excerpt(error: &RunError) -> Option<Excerpt<'_>> {
    let statement = error.step.as_deref()?.statement.as_ref()?;
    let position = server(error)?.position?;
    Some(Excerpt {
        title: format!("SQL of {}", statement_words(statement)),
        text: &statement.sql,
        range: word_at(&statement.sql, position)?,
    })
}

fn server(error: &RunError) -> Option<&StatementError> {
    error.warehouse_error()?.statement()
}

fn statement_remarks<'a>(message: Message<'a>, error: &RunError) -> Message<'a> {
    let statement = error
        .step
        .as_deref()
        .and_then(|step| step.statement.as_ref());
    let sqlstate = error.warehouse_error().and_then(|error| error.sqlstate());
    let mut parts: Vec<String> = statement.map(statement_words).into_iter().collect();
    parts.extend(sqlstate.map(|code| format!("SQLSTATE {code}")));
    let message = match parts.is_empty() {
        true => message,
        false => message.remark("detail", parts.join(", ")),
    };
    match error.warehouse_error() {
        Some(error) => server_remarks(message, error),
        None => message,
    }
}

fn server_remarks<'a>(message: Message<'a>, error: &WarehouseError) -> Message<'a> {
    let Some(server) = error.statement() else {
        return message;
    };
    let internal = server.internal.as_ref();
    message
        .remark_if("detail", server.detail.as_ref())
        .remark_if("detail", internal.map(|(sql, _)| format!("it ran: {sql}")))
        .remark_if("context", server.context.as_ref())
        .remark_if("hint", server.hint.as_ref())
}

fn plugin_remarks<'a>(message: Message<'a>, error: &CallError) -> Message<'a> {
    match error {
        CallError::Failure(failure) => message.remark("detail", format!("code {}", failure.code)),
        CallError::Trap { backtrace, log, .. }
        | CallError::Limit(LimitError { backtrace, log, .. }) => {
            let functions: Vec<&str> = backtrace
                .iter()
                .take(CRASH_LINES_MAX)
                .map(String::as_str)
                .collect();
            let lines: Vec<&str> = log[log.len().saturating_sub(CRASH_LINES_MAX)..]
                .iter()
                .map(|line| line.message.as_str())
                .collect();
            let some = |lines: Vec<&str>| (!lines.is_empty()).then(|| lines.join("\n"));
            message
                .remark_if("in", some(functions))
                .remark_if("log", some(lines))
        }
        _ => message,
    }
}

#[cfg(test)]
pub(crate) mod tests;
