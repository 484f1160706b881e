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

    /// Returns what came since the last call.
    pub fn take(&mut self) -> Batch {
        let columns = self
            .columns
            .iter_mut()
            .map(|column| std::mem::replace(column, Growing::new(column.decode)).finish())
            .collect();
        self.bytes = 0;
        Batch {
            rows: std::mem::take(&mut self.rows),
            columns,
        }
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

    fn finish(self) -> Column {
        Column {
            validity: self.has_null.then_some(self.validity),
            values: self.values,
        }
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

fn set_bit(bits: &mut Vec<u8>, at: u32, set: bool) {
    if at.is_multiple_of(8) {
        bits.push(0);
    }
    if let Some(last) = bits.last_mut() {
        *last |= u8::from(set) << (at % 8);
    }
}
