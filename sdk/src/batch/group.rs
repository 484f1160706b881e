//! Where groups end in a batch.

use super::bit;
use super::text::text;
use super::types;
use crate::Failure;
use crate::columnar::{Batch, Column, Field, Values};

/// Tells groups apart by the values of their key's columns.
///
/// Columns are compared one after the other, each by its own loop over numbers, and nothing is allocated per group.
#[derive(Debug)]
pub(crate) struct Groups {
    key: Vec<usize>,
    /// Whether a row begins a group, while a batch is looked at.
    begins: Vec<bool>,
    /// Behind the last row of each group.
    pub ends: Vec<usize>,
}

impl Groups {
    /// Returns groups by these columns, named as in `fields`.
    ///
    /// # Errors
    ///
    /// [`Failure`] if there is none, or one whose equal values may be written differently: the database takes them for
    /// one group, and they would be told apart here.
    pub(crate) fn by(key: &[&str], fields: &[Field]) -> Result<Self, Failure> {
        let mut positions = Vec::with_capacity(key.len());
        for name in key {
            let at = fields.iter().position(|field| field.name == *name);
            let at = at.ok_or_else(|| {
                Failure::new(
                    "wrong-columns",
                    format!("there is no column \"{name}\" for the key"),
                )
            })?;
            let oid = fields[at].type_oid;
            if matches!(
                oid,
                types::NUMERIC | types::INTERVAL | types::JSON | types::JSONB
            ) {
                let message = format!(
                    "column \"{name}\" of the key is {}, whose equal values may be written differently",
                    types::name(oid)
                );
                return Err(Failure::new("wrong-columns", message).with_help(format!(
                    "Cast it to another type in the SELECT: `{name}::text`."
                )));
            }
            positions.push(at);
        }
        if positions.is_empty() {
            return Err(Failure::new("no-key", "the rows have no key").with_help(
                "Mark the fields of the input struct that name a group with `#[row(key)]`.",
            ));
        }
        Ok(Self {
            key: positions,
            begins: Vec::new(),
            ends: Vec::new(),
        })
    }

    /// Finds the groups of a batch.
    pub(crate) fn find(&mut self, batch: &Batch) {
        let rows = batch.rows as usize;
        self.begins.clear();
        self.begins.resize(rows, false);
        for &at in &self.key {
            mark(&batch.columns[at], rows, &mut self.begins);
        }
        self.ends.clear();
        let later = self.begins.iter().enumerate().skip(1);
        self.ends
            .extend(later.filter(|(_, begins)| **begins).map(|(row, _)| row));
        self.ends.push(rows);
    }

    /// Returns a row's key, for comparison with one of another batch.
    pub(crate) fn key_of(
        &self,
        fields: &[Field],
        batch: &Batch,
        row: usize,
    ) -> Vec<Option<String>> {
        let value = |&at: &usize| text(&fields[at], &batch.columns[at], row);
        self.key.iter().map(value).collect()
    }

    /// Returns a row's key for people: `visitor a, day 2024-01-01`.
    pub(crate) fn words(&self, fields: &[Field], batch: &Batch, row: usize) -> String {
        const VALUE_CHARS_MAX: usize = 64;
        let word = |&at: &usize| {
            let value = text(&fields[at], &batch.columns[at], row);
            let value: String = value
                .as_deref()
                .unwrap_or("NULL")
                .chars()
                .take(VALUE_CHARS_MAX)
                .collect();
            format!("{} {value}", fields[at].name)
        };
        self.key.iter().map(word).collect::<Vec<_>>().join(", ")
    }
}

/// Marks the rows whose value in this column is another than in the row before. NULL is like NULL.
fn mark(column: &Column, rows: usize, begins: &mut [bool]) {
    match &column.values {
        Values::Bits(bits) => mark_by(begins, |row| bit(bits, row) != bit(bits, row - 1)),
        Values::Int16(values) => mark_numbers(values, begins),
        Values::Int32(values) => mark_numbers(values, begins),
        Values::Int64(values) => mark_numbers(values, begins),
        // As Postgres compares them: one zero, and one NaN.
        Values::Single(values) => mark_by(begins, |row| {
            let (a, b) = (values[row], values[row - 1]);
            !(a == b || a.is_nan() && b.is_nan())
        }),
        Values::Double(values) => mark_by(begins, |row| {
            let (a, b) = (values[row], values[row - 1]);
            !(a == b || a.is_nan() && b.is_nan())
        }),
        Values::Fixed16(bytes) => mark_numbers(bytes.as_chunks::<16>().0, begins),
        Values::Varlen(varlen) => {
            let (offsets, data) = (&varlen.offsets[..=rows], &varlen.data);
            for (begins, ends) in begins.iter_mut().skip(1).zip(offsets.windows(3)) {
                let (start, middle, end) = (ends[0] as usize, ends[1] as usize, ends[2] as usize);
                *begins = *begins || differ(&data[start..middle], &data[middle..end]);
            }
        }
    }
    // The place of a NULL holds some value, which most hosts leave at zero: what counts is whether it is one.
    if let Some(validity) = &column.validity {
        mark_by(begins, |row| bit(validity, row) != bit(validity, row - 1));
    }
}

/// Whether two texts differ.
///
/// Four words a turn: the host's limit on time is looked at in each turn of a loop, and what else is done in one for a
/// row of a few columns takes hardly longer.
#[inline]
fn differ(a: &[u8], b: &[u8]) -> bool {
    let (Some(a_end), Some(b_end)) = (a.last_chunk(), b.last_chunk()) else {
        return a != b;
    };
    let word = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
    // What the whole words leave over lies in the last one, which may overlap them.
    if a.len() != b.len() || word(a_end) != word(b_end) {
        return true;
    }
    let words = |bytes| <[u8]>::as_chunks::<8>(bytes).0;
    let ((a, a_rest), (b, b_rest)) = (words(a).as_chunks::<4>(), words(b).as_chunks::<4>());
    let four = |(a, b): (&[[u8; 8]; 4], &[[u8; 8]; 4])| {
        let at = |at: usize| word(&a[at]) ^ word(&b[at]);
        at(0) | at(1) | at(2) | at(3) != 0
    };
    a.iter().zip(b).any(four) || a_rest.iter().zip(b_rest).any(|(a, b)| word(a) != word(b))
}

#[inline]
fn mark_by(begins: &mut [bool], differs: impl Fn(usize) -> bool) {
    for (row, begins) in begins.iter_mut().enumerate().skip(1) {
        *begins |= differs(row);
    }
}

/// A loop without branches, which the compiler turns into one over vectors.
#[inline]
fn mark_numbers<T: PartialEq>(values: &[T], begins: &mut [bool]) {
    for (begins, pair) in begins.iter_mut().skip(1).zip(values.windows(2)) {
        *begins |= pair[0] != pair[1];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every length up to some blocks of words, with each byte the only one that differs.
    #[test]
    fn texts_differ_in_any_byte() {
        const BYTES: u8 = 80;
        for length in 0..=BYTES {
            let text: Vec<u8> = (0..length).collect();
            assert!(!differ(&text, &text.clone()), "{length}");
            for at in 0..usize::from(length) {
                let mut other = text.clone();
                other[at] ^= 1;
                assert!(differ(&text, &other), "byte {at} of {length}");
                assert!(differ(&text, &text[..at]), "{at} bytes of {length}");
            }
        }
    }
}
