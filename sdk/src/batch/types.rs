//! Postgres's types, as far as a row's fields stand for them.

use crate::columnar::{Field, Layout, Values};

pub(crate) const BOOL: u32 = 16;
pub(crate) const BYTEA: u32 = 17;
pub(crate) const INT8: u32 = 20;
pub(crate) const INT2: u32 = 21;
pub(crate) const INT4: u32 = 23;
pub(crate) const TEXT: u32 = 25;
pub(crate) const JSON: u32 = 114;
pub(crate) const FLOAT4: u32 = 700;
pub(crate) const FLOAT8: u32 = 701;
pub(crate) const BPCHAR: u32 = 1042;
pub(crate) const VARCHAR: u32 = 1043;
pub(crate) const DATE: u32 = 1082;
pub(crate) const TIMESTAMP: u32 = 1114;
pub(crate) const TIMESTAMPTZ: u32 = 1184;
pub(crate) const INTERVAL: u32 = 1186;
pub(crate) const NUMERIC: u32 = 1700;
pub(crate) const UUID: u32 = 2950;
pub(crate) const JSONB: u32 = 3802;

/// The type of a column.
#[derive(Debug, Clone, Copy)]
pub struct DataType {
    /// Postgres's OID of the type that is written.
    pub oid: u32,
    /// How its values lie in memory.
    pub layout: Layout,
    /// What is read, for people: `timestamp`.
    pub expected: &'static str,
    /// Other types that are read.
    pub(crate) also: Also,
}

/// Types that are read besides the one that is written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Also {
    None,
    One(u32),
    /// Whatever travels in its text form.
    AnyText,
}

impl DataType {
    /// Whether a column that the host describes so can be read as this type.
    pub(crate) fn reads(&self, field: &Field) -> bool {
        let also = match self.also {
            Also::None => false,
            Also::One(oid) => field.type_oid == oid,
            Also::AnyText => field.type_oid != BYTEA,
        };
        field.layout == self.layout && (field.type_oid == self.oid || also)
    }
}

/// Returns a type's name, for people.
pub(crate) fn name(oid: u32) -> String {
    let name = match oid {
        BOOL => "boolean",
        BYTEA => "bytea",
        INT8 => "bigint",
        INT2 => "smallint",
        INT4 => "integer",
        TEXT => "text",
        JSON => "json",
        FLOAT4 => "real",
        FLOAT8 => "double precision",
        BPCHAR => "char(n)",
        VARCHAR => "varchar",
        DATE => "date",
        TIMESTAMP => "timestamp",
        TIMESTAMPTZ => "timestamptz",
        INTERVAL => "interval",
        NUMERIC => "numeric",
        UUID => "uuid",
        JSONB => "jsonb",
        other => return format!("of the type with OID {other}"),
    };
    name.to_owned()
}

pub(crate) fn layout_of(values: &Values) -> Layout {
    match values {
        Values::Bits(_) => Layout::Bits,
        Values::Int16(_) => Layout::Int16,
        Values::Int32(_) => Layout::Int32,
        Values::Int64(_) => Layout::Int64,
        Values::Single(_) => Layout::Single,
        Values::Double(_) => Layout::Double,
        Values::Fixed16(_) => Layout::Fixed16,
        Values::Varlen(_) => Layout::Varlen,
    }
}

/// Returns how many values there are; bits come by the byte, so that theirs are `rows` if the bytes are right.
pub(crate) fn length(values: &Values, rows: usize) -> usize {
    match values {
        Values::Bits(bits) if bits.len() == rows.div_ceil(8) => rows,
        Values::Bits(bits) => bits.len() * 8,
        Values::Int16(values) => values.len(),
        Values::Int32(values) => values.len(),
        Values::Int64(values) => values.len(),
        Values::Single(values) => values.len(),
        Values::Double(values) => values.len(),
        Values::Fixed16(bytes) if bytes.len().is_multiple_of(16) => bytes.len() / 16,
        Values::Fixed16(bytes) => bytes.len() / 16 + 1,
        Values::Varlen(varlen) => varlen.offsets.len().saturating_sub(1),
    }
}

/// Returns bits, least significant first.
pub(crate) fn bits(values: &[bool]) -> Vec<u8> {
    let byte = |chunk: &[bool]| {
        let bits = chunk.iter().enumerate();
        bits.fold(0, |byte, (at, set)| byte | u8::from(*set) << at)
    };
    values.chunks(8).map(byte).collect()
}
