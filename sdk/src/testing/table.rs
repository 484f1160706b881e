//! Rows as a table that stands in a test.

use std::cmp::Ordering;
use std::fmt::Write;

use crate::batch::{Row, bit, parse, text, types};
use crate::columnar::{Batch, Column, Field, Values, Varlen};

/// Returns the rows of a table. A cell is a value in Postgres's text form, `NULL`, or `''`.
///
/// # Panics
///
/// If the table does not fit the fields; the message says where.
pub(super) fn read(fields: &[Field], table: &str) -> Batch {
    let (names, rows) = cells(table);
    let expected: Vec<_> = fields.iter().map(|field| field.name.as_str()).collect();
    let column = |field: &Field| {
        let at = names.iter().position(|name| *name == field.name);
        let at = at.unwrap_or_else(|| {
            panic!(
                "the table has no column \"{}\"; expected {}",
                field.name,
                expected.join(" | ")
            )
        });
        let texts: Vec<_> = rows.iter().map(|row| value(row[at])).collect();
        let column = parse(field, &texts)
            .unwrap_or_else(|problem| panic!("column \"{}\": {problem}", field.name));
        assert!(
            field.nullable || column.validity.is_none(),
            "column \"{}\" is NULL, but its field is no `Option`",
            field.name
        );
        column
    };
    let unknown = names.iter().find(|name| !expected.contains(name));
    assert!(
        unknown.is_none(),
        "the table has a column {unknown:?}; expected {}",
        expected.join(" | ")
    );
    Batch {
        rows: rows.len().try_into().expect("a test has few rows"),
        columns: fields.iter().map(column).collect(),
    }
}

/// Returns the names and the cells of a table, row by row.
///
/// # Panics
///
/// If a row has not as many cells as there are names.
pub(super) fn cells(table: &str) -> (Vec<&str>, Vec<Vec<&str>>) {
    fn split(line: &str) -> Vec<&str> {
        line.split('|').map(str::trim).collect()
    }
    let mut lines = table.lines().map(str::trim).filter(|line| !line.is_empty());
    let names = split(
        lines
            .next()
            .expect("a table begins with the names of its columns"),
    );
    let rows: Vec<_> = lines.map(split).collect();
    for row in &rows {
        assert_eq!(
            row.len(),
            names.len(),
            "{} has not the columns {}",
            row.join(" | "),
            names.join(" | ")
        );
    }
    (names, rows)
}

fn value(cell: &str) -> Option<&str> {
    match cell {
        "NULL" => None,
        "''" => Some(""),
        text => Some(text),
    }
}

/// Returns a row of a batch as cells.
pub(super) fn row(fields: &[Field], batch: &Batch, at: usize) -> Vec<String> {
    let cell = |(field, column): (&Field, &Column)| match text(field, column, at) {
        None => "NULL".to_owned(),
        Some(text) if text.is_empty() => "''".to_owned(),
        Some(text) => text,
    };
    fields.iter().zip(&batch.columns).map(cell).collect()
}

/// Writes rows of cells as a table.
pub(super) fn write(names: &[&str], rows: &[Vec<String>]) -> String {
    let width = |at: usize| {
        let cells = rows.iter().map(|row| row[at].chars().count());
        cells.chain([names[at].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..names.len()).map(width).collect();
    let mut out = String::new();
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    for row in std::iter::once(&names).chain(rows) {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let between = if at == 0 { "" } else { " | " };
            let width = widths[at];
            write!(line, "{between}{cell:width$}").expect("a String takes every write");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Returns a batch of rows.
pub(super) fn batch<'a, R: Row>(rows: impl IntoIterator<Item = R::Of<'a>>) -> Batch {
    let mut builder = R::builder();
    let mut count = 0;
    for row in rows {
        R::push(&mut builder, row);
        count += 1;
    }
    Batch {
        rows: count,
        columns: R::take(&mut builder),
    }
}

/// Returns a batch of the rows at these places.
pub(super) fn pick(batch: &Batch, places: &[usize]) -> Batch {
    let column = |column: &Column| {
        let valid = |&at: &usize| column.validity.as_ref().is_none_or(|bits| bit(bits, at));
        let valid: Vec<_> = places.iter().map(valid).collect();
        Column {
            validity: valid.contains(&false).then(|| types::bits(&valid)),
            values: pick_values(&column.values, places),
        }
    };
    Batch {
        rows: places.len().try_into().expect("a test has few rows"),
        columns: batch.columns.iter().map(column).collect(),
    }
}

fn pick_values(values: &Values, places: &[usize]) -> Values {
    fn numbers<T: Copy>(values: &[T], places: &[usize]) -> Vec<T> {
        places.iter().map(|&at| values[at]).collect()
    }
    match values {
        Values::Bits(bits) => {
            let set: Vec<_> = places.iter().map(|&at| bit(bits, at)).collect();
            Values::Bits(types::bits(&set))
        }
        Values::Int16(values) => Values::Int16(numbers(values, places)),
        Values::Int32(values) => Values::Int32(numbers(values, places)),
        Values::Int64(values) => Values::Int64(numbers(values, places)),
        Values::Single(values) => Values::Single(numbers(values, places)),
        Values::Double(values) => Values::Double(numbers(values, places)),
        Values::Fixed16(bytes) => {
            Values::Fixed16(numbers(bytes.as_chunks::<16>().0, places).concat())
        }
        Values::Varlen(varlen) => {
            let mut picked = Varlen {
                offsets: vec![0],
                data: Vec::new(),
            };
            for &at in places {
                picked.data.extend_from_slice(varlen_value(varlen, at));
                picked
                    .offsets
                    .push(picked.data.len().try_into().expect("test data is small"));
            }
            Values::Varlen(picked)
        }
    }
}

fn varlen_value(varlen: &Varlen, at: usize) -> &[u8] {
    &varlen.data[varlen.offsets[at] as usize..varlen.offsets[at + 1] as usize]
}

/// Compares two values of a column as the host orders them: smallest first, NULL last.
pub(super) fn compare(column: &Column, a: usize, b: usize) -> Ordering {
    let null = |at: usize| column.validity.as_ref().is_some_and(|bits| !bit(bits, at));
    match (null(a), null(b)) {
        (true, true) => return Ordering::Equal,
        (false, true) => return Ordering::Less,
        (true, false) => return Ordering::Greater,
        (false, false) => {}
    }
    match &column.values {
        Values::Bits(bits) => bit(bits, a).cmp(&bit(bits, b)),
        Values::Int16(values) => values[a].cmp(&values[b]),
        Values::Int32(values) => values[a].cmp(&values[b]),
        Values::Int64(values) => values[a].cmp(&values[b]),
        Values::Single(values) => values[a].total_cmp(&values[b]),
        Values::Double(values) => values[a].total_cmp(&values[b]),
        Values::Fixed16(bytes) => bytes.as_chunks::<16>().0[a].cmp(&bytes.as_chunks::<16>().0[b]),
        Values::Varlen(varlen) => varlen_value(varlen, a).cmp(varlen_value(varlen, b)),
    }
}
