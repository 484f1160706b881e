//! Rows of an answer, as columns in Arrow's buffer layout: the shape in which steps receive them.
//!
//! Hides Postgres's binary formats. A type without a layout of its own is an error that names the
//! cast.

mod array;
mod column;
mod decode;
pub(crate) mod numeric;

use crate::error::WarehouseError;

pub(crate) use column::Builder;
pub(crate) use decode::{Decode, EPOCH_DAYS, EPOCH_US};

/// How the values of a column lie in memory; the names are those of the contract with the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One bit a row, least significant first: `boolean`.
    Bits,
    /// `smallint`.
    Int16,
    /// `integer`, and `date` as days since 1970-01-01.
    Int32,
    /// `bigint`, `oid`, and timestamps as microseconds since 1970-01-01 UTC.
    Int64,
    /// `real`.
    Single,
    /// `double precision`.
    Double,
    /// 16 bytes a row: `uuid`.
    Fixed16,
    /// Bytes of any length: text in UTF-8, `bytea` as it is, and the text form of `numeric`, `json`
    /// and arrays.
    Varlen,
}

/// A column's name and type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The name in the answer; Postgres lets two columns share one.
    pub name: String,
    /// Postgres's type OID.
    pub type_oid: u32,
    /// Postgres's type modifier, for example the length of a `varchar(n)` plus 4; -1 without one.
    pub type_mod: i32,
    /// How the values lie in memory.
    pub layout: Layout,
    /// Whether NULL may occur. Always true: the protocol does not say.
    pub nullable: bool,
}

/// The values of one column. Where the value is NULL the place is kept: zero, false, or no bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// See [`Layout::Bits`].
    Bits(Vec<u8>),
    /// See [`Layout::Int16`].
    Int16(Vec<i16>),
    /// See [`Layout::Int32`]. Infinite dates are `i32::MIN` and `i32::MAX`.
    Int32(Vec<i32>),
    /// See [`Layout::Int64`]. Infinite timestamps are `i64::MIN` and `i64::MAX`.
    Int64(Vec<i64>),
    /// See [`Layout::Single`].
    Single(Vec<f32>),
    /// See [`Layout::Double`].
    Double(Vec<f64>),
    /// See [`Layout::Fixed16`].
    Fixed16(Vec<u8>),
    /// Value `i` is `data[offsets[i]..offsets[i + 1]]`; there is one offset more than rows.
    Varlen {
        /// Where each value begins, and where the last one ends.
        offsets: Vec<u32>,
        /// All values, one after the other.
        data: Vec<u8>,
    },
}

/// One column.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// One bit a row, least significant first, set where the value is not NULL; `None` when no
    /// value is NULL.
    pub validity: Option<Vec<u8>>,
    /// The values.
    pub values: Values,
}

/// Some rows of an answer that arrives in parts.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// How many.
    pub rows: u32,
    /// As many columns as the answer has fields.
    pub columns: Vec<Column>,
}

/// All rows of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What the columns are; present when there are no rows too.
    pub fields: Vec<Field>,
    /// How many rows there are.
    pub rows: u32,
    /// As many columns as fields.
    pub columns: Vec<Column>,
}

/// How large an answer may be. Reaching a limit is [`WarehouseError::AnswerTooLarge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerLimits {
    /// Rows, included.
    pub rows: u32,
    /// Bytes of values (without offsets and validity), included.
    pub bytes: u64,
}

impl Default for AnswerLimits {
    /// 100 000 rows and 64 MiB.
    fn default() -> Self {
        Self {
            rows: 100_000,
            bytes: 64 << 20,
        }
    }
}

impl Answer {
    /// Returns the column of this name, the first one if there are several.
    pub fn column(&self, name: &str) -> Option<&Column> {
        let at = self.fields.iter().position(|field| field.name == name)?;
        self.columns.get(at)
    }

    /// Returns a text value; `None` where it is NULL or there is no such row, column or layout.
    pub fn text(&self, row: usize, name: &str) -> Option<&str> {
        let column = self.column(name)?;
        let Values::Varlen { offsets, data } = &column.values else {
            return None;
        };
        if column.is_null(row) {
            return None;
        }
        let (start, end) = (*offsets.get(row)?, *offsets.get(row + 1)?);
        std::str::from_utf8(data.get(start as usize..end as usize)?).ok()
    }

    /// Returns a whole number of any width; `None` where it is NULL or there is no such row, column
    /// or layout.
    pub fn int64(&self, row: usize, name: &str) -> Option<i64> {
        let column = self.column(name)?;
        if column.is_null(row) {
            return None;
        }
        match &column.values {
            Values::Int16(values) => values.get(row).map(|value| i64::from(*value)),
            Values::Int32(values) => values.get(row).map(|value| i64::from(*value)),
            Values::Int64(values) => values.get(row).copied(),
            _ => None,
        }
    }

    /// Returns a number with a fraction; `None` where it is NULL or there is no such row, column or
    /// layout.
    pub fn float64(&self, row: usize, name: &str) -> Option<f64> {
        let column = self.column(name)?;
        if column.is_null(row) {
            return None;
        }
        match &column.values {
            Values::Single(values) => values.get(row).map(|value| f64::from(*value)),
            Values::Double(values) => values.get(row).copied(),
            _ => None,
        }
    }

    /// Returns a boolean; `None` where it is NULL or there is no such row, column or layout.
    pub fn boolean(&self, row: usize, name: &str) -> Option<bool> {
        let column = self.column(name)?;
        match &column.values {
            Values::Bits(bits) if !column.is_null(row) && row < self.rows as usize => {
                Some(bit(bits, row))
            }
            _ => None,
        }
    }
}

impl Batch {
    /// Returns the bytes of all values, without offsets and validity.
    pub fn bytes(&self) -> u64 {
        let column = |column: &Column| match &column.values {
            Values::Bits(values) | Values::Fixed16(values) => values.len(),
            Values::Int16(values) => size_of_val(values.as_slice()),
            Values::Int32(values) => size_of_val(values.as_slice()),
            Values::Int64(values) => size_of_val(values.as_slice()),
            Values::Single(values) => size_of_val(values.as_slice()),
            Values::Double(values) => size_of_val(values.as_slice()),
            Values::Varlen { data, .. } => data.len(),
        };
        self.columns.iter().map(column).sum::<usize>() as u64
    }
}

impl Column {
    /// Returns whether the value is NULL.
    pub fn is_null(&self, row: usize) -> bool {
        self.validity
            .as_ref()
            .is_some_and(|validity| !bit(validity, row))
    }
}

fn bit(bits: &[u8], at: usize) -> bool {
    bits.get(at / 8)
        .is_some_and(|byte| byte & (1 << (at % 8)) != 0)
}

/// Returns the fields of a statement's answer, and how each is decoded.
pub(crate) fn fields(
    columns: &[tokio_postgres::Column],
) -> Result<Vec<(Field, Decode)>, WarehouseError> {
    columns
        .iter()
        .map(|column| {
            let kind = column.type_();
            let decode = Decode::of(kind).ok_or_else(|| WarehouseError::UnsupportedType {
                column: column.name().to_owned(),
                type_name: type_name(kind),
            })?;
            let field = Field {
                name: column.name().to_owned(),
                type_oid: kind.oid(),
                type_mod: column.type_modifier(),
                layout: decode.layout(),
                nullable: true,
            };
            Ok((field, decode))
        })
        .collect()
}

fn type_name(kind: &tokio_postgres::types::Type) -> String {
    match kind.schema() {
        "pg_catalog" => kind.name().to_owned(),
        schema => format!("{schema}.{}", kind.name()),
    }
}
