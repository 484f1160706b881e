//! What is wrong with a workflow file, and where.

use std::fmt;

use crate::source_file::{SourceFile, Span, mask_message};

/// Most problems that one check reports; the rest are counted.
pub const PROBLEMS_MAX: usize = 100;

/// Whether a problem keeps a workflow from running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The workflow cannot run.
    Error,
    /// The workflow can run, and something in it looks unintended.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One thing that is wrong with a workflow file. Its texts hold no password and no value of an
/// environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whether the workflow can run all the same.
    pub severity: Severity,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// Where in the file, on one line; none for what is not in the file, as a flag of the command
    /// line.
    pub span: Option<Span>,
    /// Remarks that help to understand.
    pub detail: Vec<String>,
    /// What to do next.
    pub help: Option<String>,
}

impl Problem {
    /// Returns an error without a place.
    pub fn error(message: impl AsRef<str>) -> Self {
        Self {
            severity: Severity::Error,
            message: mask_message(message.as_ref()),
            span: None,
            detail: Vec::new(),
            help: None,
        }
    }

    /// Returns a warning without a place.
    pub fn warning(message: impl AsRef<str>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(message)
        }
    }

    /// Sets the place.
    #[must_use]
    pub fn at(mut self, span: Span) -> Self {
        self.span = Some(span);
        self
    }

    /// Adds a remark.
    #[must_use]
    pub fn with_detail(mut self, detail: impl AsRef<str>) -> Self {
        self.detail.push(mask_message(detail.as_ref()));
        self
    }

    /// Sets what to do next.
    #[must_use]
    pub fn with_help(mut self, help: impl AsRef<str>) -> Self {
        self.help = Some(mask_message(help.as_ref()));
        self
    }

    /// Returns the problem as plain lines, without a line end at the end: `path:line:column: error:
    /// message`, then detail and help, indented.
    pub fn to_plain(&self, file: &SourceFile) -> String {
        let mut text = file.path.display().to_string();
        if let Some(span) = self.span {
            let (line, column) = file.line_column(span.start);
            text.push_str(&format!(":{line}:{column}"));
        }
        text.push_str(&format!(": {}: {}", self.severity, self.message));
        for detail in &self.detail {
            text.push_str(&format!("\n  detail: {detail}"));
        }
        if let Some(help) = &self.help {
            text.push_str(&format!("\n  help: {help}"));
        }
        text
    }
}

/// Gathers problems while a file is checked.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    list: Vec<Problem>,
}

impl Problems {
    pub(crate) fn push(&mut self, problem: Problem) {
        self.list.push(problem);
    }

    /// Adds an error at a place.
    pub(crate) fn error(&mut self, span: Span, message: impl AsRef<str>) {
        self.push(Problem::error(message).at(span));
    }

    /// Adds an error at a place, with what to do next.
    pub(crate) fn error_help(
        &mut self,
        span: Span,
        message: impl AsRef<str>,
        help: impl AsRef<str>,
    ) {
        self.push(Problem::error(message).at(span).with_help(help));
    }

    /// Whether there is one that keeps the workflow from running.
    pub(crate) fn fatal(&self) -> bool {
        self.list.iter().any(|p| p.severity == Severity::Error)
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Returns all in file order, each on one line of `text`; those without a place come last.
    pub(crate) fn finish(mut self, text: &str) -> Vec<Problem> {
        for problem in &mut self.list {
            problem.span = problem.span.map(|span| span.first_line(text));
        }
        self.list
            .sort_by_key(|p| p.span.map_or(usize::MAX, |span| span.start));
        // One cause can reach the same words on two ways.
        self.list.dedup();
        if self.list.len() > PROBLEMS_MAX {
            let left_out = self.list.len() - PROBLEMS_MAX;
            // Errors stay: a cut that left warnings alone would let the workflow run.
            self.list.sort_by_key(|p| p.severity);
            self.list.truncate(PROBLEMS_MAX);
            self.list
                .sort_by_key(|p| p.span.map_or(usize::MAX, |span| span.start));
            self.list.push(
                Problem::error(format!("{left_out} more problems are not shown"))
                    .with_help("mend these first and check again"),
            );
        }
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_has_place_detail_and_help() {
        let file = SourceFile::new("a.yml", "x: 1\ny: 2\n");
        let problem = Problem::error("key \"y\" is odd")
            .at(Span::new(5, 6))
            .with_detail("seen")
            .with_help("remove it");
        assert_eq!(
            problem.to_plain(&file),
            "a.yml:2:1: error: key \"y\" is odd\n  detail: seen\n  help: remove it"
        );
    }

    #[test]
    fn problems_come_in_file_order_and_are_bounded() {
        let text = "x".repeat(200);
        let mut problems = Problems::default();
        problems.push(Problem::warning("no place"));
        for start in (0..150).rev() {
            problems.error(Span::new(start, start + 1), "odd");
        }
        let list = problems.finish(&text);
        assert_eq!(list.len(), PROBLEMS_MAX + 1);
        assert_eq!(list[0].span, Some(Span::new(0, 1)));
        assert_eq!(list[PROBLEMS_MAX].message, "51 more problems are not shown");
    }

    #[test]
    fn texts_hold_no_password() {
        let problem = Problem::error("found text \"postgres://a:secret@b/c\"");
        assert!(!problem.message.contains("secret"));
        let problem = Problem::error("key \"password\": expected text\u{1b}[31m");
        assert_eq!(problem.message, "key \"password\": expected text [31m");
    }
}
