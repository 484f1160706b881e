//! Rows that a question brought back.

use crate::bindings::stepwell::step::columnar::{Column, Values};
use crate::bindings::stepwell::step::plans::Answer;

/// The answer to one question, read by row and column name.
///
/// A name that the question does not select is a mistake in the step and panics, which the host reports as such.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    answer: &'a Answer,
}

impl<'a> Rows<'a> {
    /// Returns a view of `answer`.
    pub fn new(answer: &'a Answer) -> Self {
        Self { answer }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.answer.rows.rows as usize
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the rows in order.
    pub fn iter(&self) -> impl Iterator<Item = Row<'a>> + use<'a> {
        let answer = self.answer;
        (0..self.len()).map(move |at| Row { answer, at })
    }

    /// Returns the first row.
    pub fn first(&self) -> Option<Row<'a>> {
        self.iter().next()
    }

    /// Returns the names and type OIDs of the columns, also when there is no row.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, u32)> + use<'a> {
        self.answer
            .fields
            .iter()
            .map(|field| (field.name.as_str(), field.type_oid))
    }
}

/// One row of an answer.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    answer: &'a Answer,
    at: usize,
}

impl<'a> Row<'a> {
    /// Returns a text value, none if it is NULL or of another layout.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        match self.value(name)? {
            Values::Varlen(varlen) => {
                let start = *varlen.offsets.get(self.at)? as usize;
                let end = *varlen.offsets.get(self.at + 1)? as usize;
                std::str::from_utf8(varlen.data.get(start..end)?).ok()
            }
            _ => None,
        }
    }

    /// Returns an integer of any width, none if it is NULL or of another layout.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.value(name)? {
            Values::Int16(values) => values.get(self.at).map(|&v| v.into()),
            Values::Int32(values) => values.get(self.at).map(|&v| v.into()),
            Values::Int64(values) => values.get(self.at).copied(),
            _ => None,
        }
    }

    /// Returns a floating point value, none if it is NULL or of another layout.
    pub fn float(&self, name: &str) -> Option<f64> {
        match self.value(name)? {
            Values::Single(values) => values.get(self.at).map(|&v| v.into()),
            Values::Double(values) => values.get(self.at).copied(),
            _ => None,
        }
    }

    /// Returns a truth value, none if it is NULL or of another layout.
    pub fn bool(&self, name: &str) -> Option<bool> {
        match self.value(name)? {
            Values::Bits(bits) => bit(bits, self.at),
            _ => None,
        }
    }

    /// Returns the values of a column if this row's value is not NULL.
    fn value(&self, name: &str) -> Option<&'a Values> {
        let index = self
            .answer
            .fields
            .iter()
            .position(|field| field.name == name);
        let index = index.unwrap_or_else(|| panic!("the question does not select a column {name}"));
        let Column { validity, values } = self.answer.rows.columns.get(index)?;
        let valid = validity
            .as_ref()
            .is_none_or(|bits| bit(bits, self.at).unwrap_or(false));
        valid.then_some(values)
    }
}

fn bit(bits: &[u8], at: usize) -> Option<bool> {
    bits.get(at / 8).map(|byte| byte >> (at % 8) & 1 == 1)
}
