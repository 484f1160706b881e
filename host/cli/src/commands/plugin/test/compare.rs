//! Rows found against rows expected, cell by cell.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A row: each value in its text form, none for NULL.
pub(super) type Row = Vec<Option<String>>;

/// A table in which rows may differ.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) names: Vec<String>,
    /// Places of the columns by which rows are told apart.
    pub(super) key: Vec<usize>,
}

/// One thing that is not as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Difference {
    /// A value of the row with this key.
    Cell {
        key: String,
        column: String,
        expected: Option<String>,
        found: Option<String>,
    },
    /// A row that is not there.
    Missing(String),
    /// A row that nobody expected.
    Unexpected(String),
}

impl Difference {
    /// Returns it as a line.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Cell {
                key,
                column,
                expected,
                found,
            } => format!(
                "{key}: {column} is {}, expected {}",
                shown(found),
                shown(expected)
            ),
            Self::Missing(row) => format!("missing: {row}"),
            Self::Unexpected(row) => format!("not expected: {row}"),
        }
    }

    pub(super) fn json(&self) -> Value {
        match self {
            Self::Cell {
                key,
                column,
                expected,
                found,
            } => json!({ "row": key, "column": column, "expected": expected, "found": found }),
            Self::Missing(row) => json!({ "missing": row }),
            Self::Unexpected(row) => json!({ "unexpected": row }),
        }
    }
}

/// Returns what differs, in the order of the keys. Rows of one key are paired in their order.
pub(super) fn compare(columns: &Columns, expected: Vec<Row>, found: Vec<Row>) -> Vec<Difference> {
    let mut by_key: BTreeMap<Row, (Vec<Row>, Vec<Row>)> = BTreeMap::new();
    let key = |row: &Row| -> Row { columns.key.iter().map(|&at| row[at].clone()).collect() };
    for row in expected {
        by_key.entry(key(&row)).or_default().0.push(row);
    }
    for row in found {
        by_key.entry(key(&row)).or_default().1.push(row);
    }
    let mut differences = Vec::new();
    for (mut expected, mut found) in by_key.into_values() {
        expected.sort();
        found.sort();
        let paired = expected.len().min(found.len());
        for (expected, found) in expected.iter().zip(&found) {
            differences.extend(cells(columns, expected, found));
        }
        let words = |row: &Row| words(columns, row, 0..columns.names.len());
        differences.extend(
            expected[paired..]
                .iter()
                .map(|row| Difference::Missing(words(row))),
        );
        differences.extend(
            found[paired..]
                .iter()
                .map(|row| Difference::Unexpected(words(row))),
        );
    }
    differences
}

fn cells(columns: &Columns, expected: &Row, found: &Row) -> Vec<Difference> {
    let differing = (0..columns.names.len()).filter(|&at| expected[at] != found[at]);
    let cell = |at: usize| Difference::Cell {
        key: words(columns, expected, columns.key.iter().copied()),
        column: columns.names[at].clone(),
        expected: expected[at].clone(),
        found: found[at].clone(),
    };
    differing.map(cell).collect()
}

/// `session_id = 'a', day = NULL`.
fn words(columns: &Columns, row: &Row, places: impl Iterator<Item = usize>) -> String {
    let parts: Vec<String> = places
        .map(|at| format!("{} = {}", columns.names[at], shown(&row[at])))
        .collect();
    parts.join(", ")
}

fn shown(value: &Option<String>) -> String {
    match value {
        Some(text) => format!("'{text}'"),
        None => "NULL".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[[&str; 2]]) -> Vec<Row> {
        let value = |text: &&str| (*text != "-").then(|| (*text).to_owned());
        rows.iter()
            .map(|row| row.iter().map(value).collect())
            .collect()
    }

    fn differences(key: &[usize], expected: &[[&str; 2]], found: &[[&str; 2]]) -> Vec<String> {
        let columns = Columns {
            names: vec!["id".into(), "n".into()],
            key: key.to_vec(),
        };
        let differences = compare(&columns, rows(expected), rows(found));
        differences.iter().map(Difference::words).collect()
    }

    #[test]
    fn with_a_key_cells_differ() {
        assert_eq!(
            differences(
                &[0],
                &[["a", "1"], ["b", "2"], ["c", "-"]],
                &[["c", ""], ["a", "1"], ["d", "4"]]
            ),
            [
                "missing: id = 'b', n = '2'",
                "id = 'c': n is '', expected NULL",
                "not expected: id = 'd', n = '4'",
            ]
        );
    }

    #[test]
    fn without_a_key_rows_differ_and_count() {
        let all = &[0, 1];
        assert_eq!(
            differences(all, &[["a", "1"], ["a", "1"]], &[["a", "1"], ["a", "1"]]),
            [""; 0]
        );
        assert_eq!(
            differences(all, &[["a", "1"], ["a", "1"]], &[["a", "1"], ["a", "2"]]),
            [
                "missing: id = 'a', n = '1'",
                "not expected: id = 'a', n = '2'"
            ]
        );
    }

    #[test]
    fn rows_of_one_key_are_paired() {
        assert_eq!(
            differences(
                &[0],
                &[["a", "1"], ["a", "2"]],
                &[["a", "2"], ["a", "1"], ["a", "1"]]
            ),
            [
                "id = 'a': n is '1', expected '2'",
                "not expected: id = 'a', n = '2'"
            ]
        );
    }
}
