//! One value from Postgres's binary format.

use tokio_postgres::types::{Kind, Type};

use super::{Layout, array, numeric};

/// Days from 1970-01-01 to Postgres's own day zero.
pub(crate) const EPOCH_DAYS: i32 = 10_957;
/// Microseconds from 1970-01-01 to Postgres's own midnight zero.
pub(crate) const EPOCH_US: i64 = 946_684_800_000_000;

/// How the bytes of a column are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decode {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Date,
    Timestamp,
    Uuid,
    /// The bytes as they are.
    Raw,
    /// A version byte, then text.
    Jsonb,
    Numeric,
    Array(array::Element),
}

impl Decode {
    pub fn of(kind: &Type) -> Option<Self> {
        Some(match *kind {
            Type::BOOL => Self::Bool,
            Type::INT2 => Self::Int2,
            Type::INT4 => Self::Int4,
            Type::INT8 => Self::Int8,
            Type::OID => Self::Oid,
            Type::FLOAT4 => Self::Float4,
            Type::FLOAT8 => Self::Float8,
            Type::DATE => Self::Date,
            Type::TIMESTAMP | Type::TIMESTAMPTZ => Self::Timestamp,
            Type::UUID => Self::Uuid,
            Type::NUMERIC => Self::Numeric,
            Type::JSONB => Self::Jsonb,
            Type::TEXT
            | Type::VARCHAR
            | Type::BPCHAR
            | Type::NAME
            | Type::CHAR
            | Type::JSON
            | Type::UNKNOWN
            | Type::BYTEA => Self::Raw,
            _ => match kind.kind() {
                // An enum is sent as its label. (A domain never shows: the server names its base
                // type.)
                Kind::Enum(_) => Self::Raw,
                Kind::Array(element) => Self::Array(array::Element::of(element)?),
                _ => return None,
            },
        })
    }

    pub fn layout(self) -> Layout {
        match self {
            Self::Bool => Layout::Bits,
            Self::Int2 => Layout::Int16,
            Self::Int4 | Self::Date => Layout::Int32,
            Self::Int8 | Self::Oid | Self::Timestamp => Layout::Int64,
            Self::Float4 => Layout::Single,
            Self::Float8 => Layout::Double,
            Self::Uuid => Layout::Fixed16,
            Self::Raw | Self::Jsonb | Self::Numeric | Self::Array(_) => Layout::Varlen,
        }
    }

    pub fn int32(self, bytes: &[u8]) -> Option<i32> {
        let value = i32::from_be_bytes(bytes.try_into().ok()?);
        Some(match self {
            // Infinite dates stay at the ends.
            Self::Date if value == i32::MIN || value == i32::MAX => value,
            Self::Date => value.checked_add(EPOCH_DAYS)?,
            _ => value,
        })
    }

    pub fn int64(self, bytes: &[u8]) -> Option<i64> {
        if self == Self::Oid {
            return Some(i64::from(u32::from_be_bytes(bytes.try_into().ok()?)));
        }
        let value = i64::from_be_bytes(bytes.try_into().ok()?);
        Some(match self {
            Self::Timestamp if value == i64::MIN || value == i64::MAX => value,
            Self::Timestamp => value.checked_add(EPOCH_US)?,
            _ => value,
        })
    }

    /// Appends a value of the layout [`Layout::Varlen`].
    pub fn varlen(self, bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Jsonb => match bytes.split_first()? {
                (1, text) => out.extend_from_slice(text),
                _ => return None,
            },
            Self::Numeric => numeric::text(bytes, out)?,
            Self::Array(element) => array::text(element, bytes, out)?,
            _ => out.extend_from_slice(bytes),
        }
        Some(())
    }
}
