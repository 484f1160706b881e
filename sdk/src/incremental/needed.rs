//! Which columns of the events SQL texts need.

use std::collections::BTreeSet;

use crate::catalog::ColumnInfo;
use crate::settings::{has_star, idents};
use crate::sql::lexer::tokens;

/// The words of SQL texts that may name a column of the events: more than there are, never fewer.
///
/// SQL is not parsed for this; a word that stands in the text and is also a column's name counts as that column. A star
/// that could stand for columns, or the events' own alias `e` as a whole row, means all of them.
#[derive(Debug, Clone, Default)]
pub struct Needed {
    all: bool,
    words: BTreeSet<String>,
}

impl Needed {
    /// Adds what a text needs.
    pub fn add(&mut self, sql: &str) {
        self.all |= has_star(sql) || whole_row(sql, "e");
        self.words.extend(idents(sql));
    }

    /// Adds a column by its name.
    pub fn add_column(&mut self, name: impl Into<String>) {
        self.words.insert(name.into());
    }

    /// Adds all columns.
    pub fn add_all(&mut self) {
        self.all = true;
    }

    /// Returns those columns of the events that are needed, in the table's order.
    pub fn among(&self, columns: &[ColumnInfo]) -> Vec<String> {
        let wanted = |column: &&ColumnInfo| self.all || self.words.contains(&column.name);
        columns
            .iter()
            .filter(wanted)
            .map(|column| column.name.clone())
            .collect()
    }
}

/// Whether `alias` stands alone in a text, as in `to_jsonb(e)`, and not before a dot or as an alias after a table.
pub fn whole_row(sql: &str, alias: &str) -> bool {
    let Ok(tokens) = tokens(sql) else {
        return true;
    };
    tokens.iter().enumerate().any(|(at, token)| {
        let next = tokens.get(at + 1).map_or("", |token| token.text);
        let before = at.checked_sub(1).map_or("", |at| tokens[at].text);
        token.ident().as_deref() == Some(alias) && next != "." && matches!(before, "(" | ",")
    })
}
