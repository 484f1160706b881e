//! Which columns of the events a body needs.

use std::collections::BTreeSet;

use stepwell_sdk::Failure;
use stepwell_sdk::catalog::ColumnInfo;
use stepwell_sdk::incremental::Ids;
use stepwell_sdk::settings::{has_star, idents};
use stepwell_sdk::source::Source;

use crate::{Body, With};

/// The words that may name a column: more than there are, never fewer.
///
/// SQL is not parsed for this; a word that stands in the text and is also a column's name counts as that column. A star
/// that could stand for columns, or the events' own alias as a whole row, means all of them.
pub struct Needed {
    all: bool,
    words: BTreeSet<String>,
}

impl Needed {
    pub fn of(body: &Body<'_>, with: &With, ids: &Ids, source: &Source) -> Result<Self, Failure> {
        let mut needed = Self {
            all: false,
            words: BTreeSet::new(),
        };
        match body {
            Body::Columns(columns) => columns
                .0
                .iter()
                .for_each(|(_, expr)| needed.text(expr.as_str())),
            Body::Query(query) => {
                needed.text(&query.text);
                let aliases = aliases(&query.text);
                needed.all |= aliases.iter().any(|alias| whole_row(&query.text, alias));
            }
        }
        for expression in ids.expressions()? {
            needed.text(expression.as_str());
        }
        needed.words.extend(source.event_id.clone());
        needed
            .words
            .extend(with.dedupe.iter().map(|dedupe| dedupe.by.clone()));
        Ok(needed)
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

    fn text(&mut self, sql: &str) {
        self.all |= has_star(sql) || whole_row(sql, "e");
        self.words.extend(idents(sql));
    }
}

/// The words that stand for the events in a query: `ev` in `FROM {{ events }} AS ev`.
fn aliases(sql: &str) -> Vec<String> {
    let Ok(tokens) = stepwell_sdk::sql::lexer::tokens(sql) else {
        return Vec::new();
    };
    let words: Vec<_> = tokens.iter().map(|token| token.text).collect();
    let alias = |at: usize| match words.get(at) {
        Some(word) if word.eq_ignore_ascii_case("as") => tokens.get(at + 1)?.ident(),
        _ => tokens.get(at)?.ident(),
    };
    let braces = words
        .windows(5)
        .enumerate()
        .filter(|(_, five)| **five == ["{", "{", "events", "}", "}"]);
    braces.filter_map(|(at, _)| alias(at + 5)).collect()
}

/// Whether `alias` stands alone, as in `to_jsonb(e)`, and not before a dot or as an alias after a table.
fn whole_row(sql: &str, alias: &str) -> bool {
    let Ok(tokens) = stepwell_sdk::sql::lexer::tokens(sql) else {
        return true;
    };
    tokens.iter().enumerate().any(|(at, token)| {
        let next = tokens.get(at + 1).map_or("", |token| token.text);
        let before = at.checked_sub(1).map_or("", |at| tokens[at].text);
        token.ident().as_deref() == Some(alias) && next != "." && matches!(before, "(" | ",")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_as_a_whole_is_found_under_any_alias() {
        let query =
            "SELECT to_jsonb(ev) FROM {{ events }} AS ev JOIN {{events}} two ON ev.a = two.b";
        assert_eq!(aliases(query), ["ev", "two"]);
        assert!(whole_row(query, "ev"));
        assert!(!whole_row(query, "two"));
    }
}
