//! Problems of workflow files.

use std::path::Path;

use annotate_snippets::Renderer;
use stepwell_workflow::{Problem, Severity, SourceFile};

use super::message::{Message, Place};
use super::words::count;
use crate::invocation::quoted;

/// Returns the problems of a file, an empty line after each, and how many there are.
pub(crate) fn render(file: &SourceFile, problems: &[Problem], renderer: &Renderer) -> String {
    let mut text = String::new();
    for problem in problems {
        text.push_str(&message(file, problem).render(renderer));
        text.push_str("\n\n");
    }
    text.push_str(&tally(&file.path, problems).render(renderer));
    text.push('\n');
    text
}

fn message<'a>(file: &'a SourceFile, problem: &Problem) -> Message<'a> {
    let message = match problem.severity {
        Severity::Error => Message::error(&problem.message),
        Severity::Warning => Message::warning(&problem.message),
    };
    let place = match problem.span {
        Some(span) => Place::At(file, span),
        None => Place::File(&file.path),
    };
    let message = problem
        .detail
        .iter()
        .fold(message.at(place), |message, detail| {
            message.remark("detail", detail)
        });
    message.remark_if("help", help(file, problem))
}

/// What to do about it. Commands in it name the file.
pub(crate) fn help(file: &SourceFile, problem: &Problem) -> Option<String> {
    let path = quoted(&file.path.display().to_string());
    let help = problem.help.as_ref();
    help.map(|help| help.replace("<workflow>", &path))
}

fn tally(path: &Path, problems: &[Problem]) -> Message<'static> {
    let words = format!("{} has {}", path.display(), counts(problems));
    match problems.iter().any(|p| p.severity == Severity::Error) {
        true => Message::error(words),
        false => Message::warning(words),
    }
}

/// `2 errors and 1 warning`.
pub(crate) fn counts(problems: &[Problem]) -> String {
    let of = |severity| problems.iter().filter(|p| p.severity == severity).count() as u64;
    let mut parts = Vec::new();
    for (severity, one, many) in [
        (Severity::Error, "error", "errors"),
        (Severity::Warning, "warning", "warnings"),
    ] {
        if of(severity) > 0 {
            parts.push(count(of(severity), one, many));
        }
    }
    parts.join(" and ")
}

#[cfg(test)]
mod tests;
