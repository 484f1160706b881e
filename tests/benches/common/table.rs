//! The Markdown of a part: what was measured, what it is held to, and whether it keeps to that.

use std::fmt::Write as _;

use anyhow::Result;

use crate::figures;

/// A table with columns of its own between `case` and `target`.
pub struct Table {
    title: String,
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    below: Vec<String>,
}

/// What a figure must be, in words, and whether it is.
pub struct Target {
    words: String,
    met: Option<bool>,
}

impl Target {
    /// Nothing in particular.
    pub fn none() -> Self {
        Self {
            words: String::new(),
            met: None,
        }
    }

    /// `words` says what `met` decides.
    pub fn of(words: impl Into<String>, met: bool) -> Self {
        Self {
            words: words.into(),
            met: Some(met),
        }
    }
}

impl Table {
    pub fn new(title: impl Into<String>, columns: &[&'static str]) -> Self {
        Self {
            title: title.into(),
            columns: columns.to_vec(),
            rows: Vec::new(),
            below: Vec::new(),
        }
    }

    /// Adds a row: its case, and a cell for each column.
    pub fn row(&mut self, case: &str, cells: &[String], target: &Target) {
        let mut row = vec![case.to_owned()];
        row.extend_from_slice(cells);
        row.resize(self.columns.len() + 1, String::new());
        row.extend([target.words.clone(), figures::met(target.met).to_owned()]);
        self.rows.push(row);
    }

    /// Adds a sentence below the table.
    pub fn note(&mut self, sentence: impl Into<String>) {
        self.below.push(sentence.into());
    }

    /// Writes it to stdout.
    pub fn print(&self) -> Result<()> {
        let mut text = format!("### {}\n\n", self.title);
        let heading = [&["case"], self.columns.as_slice(), &["target", "met"]].concat();
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        text += &line(
            &heading
                .iter()
                .map(|&cell| cell.to_owned())
                .collect::<Vec<_>>(),
        );
        let _ = writeln!(text, "|{}", "---|".repeat(heading.len()));
        for row in &self.rows {
            text += &line(row);
        }
        for sentence in &self.below {
            let _ = write!(text, "\n{sentence}\n");
        }
        figures::print(&text)
    }
}
