//! Columns while rows arrive.

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use super::{Batch, Column, Decode, Field, Layout, Values};
use crate::error::WarehouseError;

/// Rows turned into columns, one row at a time.
pub(crate) struct Builder {
    columns: Vec<Growing>,
    rows: u32,
    bytes: u64,
}

struct Growing {
    decode: Decode,
    values: Values,
    validity: Vec<u8>,
    has_null: bool,
}

/// A value's bytes as they came; `None` for NULL.
struct Raw<'a>(Option<&'a [u8]>);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(Some(raw)))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

impl Builder {
    pub fn new(fields: &[(Field, Decode)]) -> Self {
        let columns = fields
            .iter()
            .map(|(_, decode)| Growing::new(*decode))
            .collect();
        Self {
            columns,
            rows: 0,
            bytes: 0,
        }
    }

    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Bytes of values so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn push(&mut self, row: &Row) -> Result<(), WarehouseError> {
        for (at, column) in self.columns.iter_mut().enumerate() {
            let Raw(value) = row
                .try_get(at)
                .map_err(|error| undecodable(row, at, Some(error)))?;
            self.bytes += column
                .push(self.rows, value)
                .ok_or_else(|| undecodable(row, at, None))?;
        }
        self.rows += 1;
        Ok(())
    }

    /// Appends a row of values in binary form, one for each column.
    ///
    /// # Errors
    ///
    /// The number of the first column whose value is not in the form of its type.
    pub fn push_raw<'a>(
        &mut self,
        values: impl Iterator<Item = Option<&'a [u8]>>,
    ) -> Result<(), usize> {
        for (at, (column, value)) in self.columns.iter_mut().zip(values).enumerate() {
            self.bytes += column.push(self.rows, value).ok_or(at)?;
        }
        self.rows += 1;
        Ok(())
    }

    /// Returns what came since the last call.
    pub fn take(&mut self) -> Batch {
        self.take_until(self.rows)
    }

    /// Returns the first `rows` of what came since the last call, and keeps the others.
    pub fn take_until(&mut self, rows: u32) -> Batch {
        let kept = self.rows - rows;
        let columns = self.columns.iter_mut();
        let columns = columns.map(|column| column.take(rows, kept)).collect();
        self.rows = kept;
        self.bytes = self.columns.iter().map(Growing::bytes).sum();
        Batch { rows, columns }
    }
}

fn undecodable(row: &Row, at: usize, source: Option<tokio_postgres::Error>) -> WarehouseError {
    let column = row.columns().get(at);
    WarehouseError::Protocol {
        what: format!(
            "a value of column \"{}\" is not in the form of its type {}: cast it to text",
            column.map_or("", tokio_postgres::Column::name),
            column.map_or("", |column| column.type_().name()),
        ),
        source: source.map(Into::into),
    }
}

impl Growing {
    fn new(decode: Decode) -> Self {
        let values = match decode.layout() {
            Layout::Bits => Values::Bits(Vec::new()),
            Layout::Int16 => Values::Int16(Vec::new()),
            Layout::Int32 => Values::Int32(Vec::new()),
            Layout::Int64 => Values::Int64(Vec::new()),
            Layout::Single => Values::Single(Vec::new()),
            Layout::Double => Values::Double(Vec::new()),
            Layout::Fixed16 => Values::Fixed16(Vec::new()),
            Layout::Varlen => Values::Varlen {
                offsets: vec![0],
                data: Vec::new(),
            },
        };
        Self {
            decode,
            values,
            validity: Vec::new(),
            has_null: false,
        }
    }

    /// Takes out the first `rows`; `kept` more stay.
    fn take(&mut self, rows: u32, kept: u32) -> Column {
        let at = rows as usize;
        let rest = match &mut self.values {
            Values::Bits(bits) => Values::Bits(bits_from(bits, rows, kept)),
            Values::Int16(values) => Values::Int16(tail(values, at)),
            Values::Int32(values) => Values::Int32(tail(values, at)),
            Values::Int64(values) => Values::Int64(tail(values, at)),
            Values::Single(values) => Values::Single(tail(values, at)),
            Values::Double(values) => Values::Double(tail(values, at)),
            Values::Fixed16(values) => Values::Fixed16(tail(values, 16 * at)),
            Values::Varlen { offsets, data } => {
                let begins = offsets.get(at).copied().unwrap_or(0);
                let mut moved = Vec::with_capacity(offsets.len());
                moved.extend(offsets.iter().skip(at).map(|offset| offset - begins));
                offsets.truncate(at + 1);
                Values::Varlen {
                    offsets: moved,
                    data: tail(data, begins as usize),
                }
            }
        };
        let validity = bits_from(&mut self.validity, rows, kept);
        let taken = std::mem::replace(&mut self.validity, validity);
        let has_null = self.has_null && has_zero(&taken, rows);
        self.has_null &= has_zero(&self.validity, kept);
        Column {
            validity: has_null.then_some(taken),
            values: std::mem::replace(&mut self.values, rest),
        }
    }

    /// Bytes of values, counted as [`push`](Self::push) does.
    fn bytes(&self) -> u64 {
        let bytes = match &self.values {
            Values::Bits(bits) => 8 * bits.len(),
            Values::Int16(values) => 2 * values.len(),
            Values::Int32(values) => 4 * values.len(),
            Values::Int64(values) => 8 * values.len(),
            Values::Single(values) => 4 * values.len(),
            Values::Double(values) => 8 * values.len(),
            Values::Fixed16(values) => values.len(),
            Values::Varlen { data, .. } => data.len(),
        };
        bytes as u64
    }

    /// Returns how many bytes the value takes, or `None` if it cannot be read.
    fn push(&mut self, row: u32, value: Option<&[u8]>) -> Option<u64> {
        set_bit(&mut self.validity, row, value.is_some());
        self.has_null |= value.is_none();
        let decode = self.decode;
        Some(match &mut self.values {
            Values::Bits(bits) => {
                let set = match value {
                    None | Some([0]) => false,
                    Some([1]) => true,
                    Some(_) => return None,
                };
                set_bit(bits, row, set);
                1
            }
            Values::Int16(values) => push(values, value, |b| Some(i16::from_be_bytes(fixed(b)?)))?,
            Values::Int32(values) => push(values, value, |b| decode.int32(b))?,
            Values::Int64(values) => push(values, value, |b| decode.int64(b))?,
            Values::Single(values) => push(values, value, |b| Some(f32::from_be_bytes(fixed(b)?)))?,
            Values::Double(values) => push(values, value, |b| Some(f64::from_be_bytes(fixed(b)?)))?,
            Values::Fixed16(values) => {
                let bytes: [u8; 16] = value.map_or(Some([0; 16]), fixed)?;
                values.extend_from_slice(&bytes);
                16
            }
            Values::Varlen { offsets, data } => {
                let before = data.len();
                if let Some(bytes) = value {
                    decode.varlen(bytes, data)?;
                }
                offsets.push(u32::try_from(data.len()).ok()?);
                (data.len() - before) as u64
            }
        })
    }
}

fn push<T: Default>(
    values: &mut Vec<T>,
    value: Option<&[u8]>,
    decode: impl FnOnce(&[u8]) -> Option<T>,
) -> Option<u64> {
    values.push(value.map_or(Some(T::default()), decode)?);
    Some(size_of::<T>() as u64)
}

fn fixed<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

/// Takes out the values from `at` on. What comes next is probably as many as there were, and has room.
fn tail<T: Copy>(values: &mut Vec<T>, at: usize) -> Vec<T> {
    let mut rest = Vec::with_capacity(values.len());
    rest.extend_from_slice(values.get(at..).unwrap_or_default());
    values.truncate(at);
    rest
}

/// Takes out `count` bits from bit `at` on.
fn bits_from(bits: &mut Vec<u8>, at: u32, count: u32) -> Vec<u8> {
    let mut rest = Vec::with_capacity(bits.len());
    for n in 0..count {
        let from = at + n;
        let byte = bits.get(from as usize / 8).copied().unwrap_or(0);
        set_bit(&mut rest, n, byte & (1 << (from % 8)) != 0);
    }
    bits.truncate(at.div_ceil(8) as usize);
    // What follows the last bit in its byte belongs to a row that is not there any more.
    if let Some(last) = bits.last_mut().filter(|_| !at.is_multiple_of(8)) {
        *last &= (1 << (at % 8)) - 1;
    }
    rest
}

fn has_zero(bits: &[u8], count: u32) -> bool {
    let ones: u32 = bits.iter().map(|byte| byte.count_ones()).sum();
    ones < count
}

fn set_bit(bits: &mut Vec<u8>, at: u32, set: bool) {
    if at.is_multiple_of(8) {
        bits.push(0);
    }
    if let Some(last) = bits.last_mut() {
        *last |= u8::from(set) << (at % 8);
    }
}
