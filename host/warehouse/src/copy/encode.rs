//! Columns to the rows of a binary COPY.

use bytes::Bytes;
use thiserror::Error;

use crate::answer::{Batch, Column, EPOCH_DAYS, EPOCH_US, Field, Layout, Values, numeric};
use crate::column_type::{ColumnType, Form};

/// The signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// First and last day of Postgres, counted from 2000-01-01.
const DAYS: std::ops::RangeInclusive<i32> = -2_451_545..=2_145_031_948;
/// First and last microsecond of Postgres, counted from 2000-01-01.
const MICROSECONDS: std::ops::RangeInclusive<i64> =
    -211_813_488_000_000_000..=9_223_371_331_199_999_999;

/// A value cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("row {row} of field \"{field}\": {problem}")]
pub struct EncodeError {
    /// The field's name.
    pub field: String,
    /// The row of the batch, from 1.
    pub row: u32,
    /// What was expected.
    pub problem: &'static str,
}

/// Turns batches into the bytes of a binary COPY into a table with these fields as columns.
#[derive(Debug, Clone)]
pub struct Encoder {
    columns: Vec<(String, Form, Layout)>,
}

impl Encoder {
    /// Returns an encoder; `None` if a field has a type that cannot be written, or another layout than its type.
    pub fn new(fields: &[Field]) -> Option<Self> {
        let column = |field: &Field| {
            let kind = ColumnType::of(field.type_oid)?;
            let fits = kind.layout == field.layout;
            fits.then(|| (field.name.clone(), kind.form, kind.layout))
        };
        let columns = fields.iter().map(column).collect::<Option<_>>()?;
        Some(Self { columns })
    }

    /// What comes before the first row.
    pub fn header() -> Bytes {
        Bytes::from_static(HEADER)
    }

    /// What comes after the last row.
    pub fn trailer() -> Bytes {
        Bytes::from_static(&[0xff, 0xff])
    }

    /// Appends rows from row `from` on until `out` has `bytes` bytes or the batch is at its end; returns the row to go on
    /// with.
    ///
    /// The batch has the encoder's fields as columns, and its buffers have the lengths that its rows need.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] for a value that its type does not have: a number that is none, a date before 4714 BC, text with
    /// a zero byte is left to the server.
    pub fn rows(
        &self,
        batch: &Batch,
        from: u32,
        out: &mut Vec<u8>,
        bytes: usize,
    ) -> Result<u32, EncodeError> {
        let count = i16::try_from(self.columns.len()).unwrap_or(i16::MAX);
        let mut row = from;
        while row < batch.rows && out.len() < bytes {
            out.extend_from_slice(&count.to_be_bytes());
            for ((name, form, _), column) in self.columns.iter().zip(&batch.columns) {
                value(*form, column, row as usize, out).map_err(|problem| EncodeError {
                    field: name.clone(),
                    row: row + 1,
                    problem,
                })?;
            }
            row += 1;
        }
        Ok(row)
    }
}

/// Appends one value with its length.
#[inline]
fn value(form: Form, column: &Column, row: usize, out: &mut Vec<u8>) -> Result<(), &'static str> {
    if column.is_null(row) {
        out.extend_from_slice(&(-1_i32).to_be_bytes());
        return Ok(());
    }
    match &column.values {
        Values::Int64(values) => {
            let value = match form {
                Form::Timestamp => timestamp(values[row])?,
                _ => values[row],
            };
            fixed(value.to_be_bytes(), out);
        }
        Values::Int32(values) => {
            let value = match form {
                Form::Date => date(values[row])?,
                _ => values[row],
            };
            fixed(value.to_be_bytes(), out);
        }
        Values::Varlen { offsets, data } => {
            let bytes = &data[offsets[row] as usize..offsets[row + 1] as usize];
            varlen(form, bytes, out)?;
        }
        Values::Int16(values) => fixed(values[row].to_be_bytes(), out),
        Values::Bits(bits) => fixed([bits[row / 8] >> (row % 8) & 1], out),
        // A NaN has many forms; one is enough.
        Values::Single(values) => {
            let value = values[row];
            fixed(
                if value.is_nan() { f32::NAN } else { value }.to_be_bytes(),
                out,
            );
        }
        Values::Double(values) => {
            let value = values[row];
            fixed(
                if value.is_nan() { f64::NAN } else { value }.to_be_bytes(),
                out,
            );
        }
        Values::Fixed16(values) => {
            out.extend_from_slice(&16_i32.to_be_bytes());
            out.extend_from_slice(&values[16 * row..16 * row + 16]);
        }
    }
    Ok(())
}

#[inline]
fn fixed<const N: usize>(bytes: [u8; N], out: &mut Vec<u8>) {
    out.extend_from_slice(&(N as i32).to_be_bytes());
    out.extend_from_slice(&bytes);
}

#[inline]
fn varlen(form: Form, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    match form {
        Form::Jsonb => {
            out.push(1);
            out.extend_from_slice(bytes);
        }
        Form::Numeric => numeric::binary(bytes, out).ok_or("expected a number, such as 12.50")?,
        _ => out.extend_from_slice(bytes),
    }
    let length = i32::try_from(out.len() - at - 4).map_err(|_| "expected less than 2 GiB")?;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

fn date(value: i32) -> Result<i32, &'static str> {
    if value == i32::MIN || value == i32::MAX {
        return Ok(value);
    }
    let days = value.checked_sub(EPOCH_DAYS);
    days.filter(|days| DAYS.contains(days))
        .ok_or("expected a date from 4714-11-24 BC on")
}

fn timestamp(value: i64) -> Result<i64, &'static str> {
    if value == i64::MIN || value == i64::MAX {
        return Ok(value);
    }
    let microseconds = value.checked_sub(EPOCH_US);
    microseconds
        .filter(|microseconds| MICROSECONDS.contains(microseconds))
        .ok_or("expected a time from 4714-11-24 BC on")
}
