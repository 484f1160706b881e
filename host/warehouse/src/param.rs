//! Values for `$1`, `$2`, … of a statement.

use std::error::Error as StdError;

use bytes::BytesMut;
use tokio_postgres::types::{Format, IsNull, Kind, ToSql, Type, to_sql_checked};

/// A value of a parameter, as the contract with the steps has it. Everything travels in text form.
#[derive(Debug, Clone, PartialEq)]
pub enum Param {
    /// NULL, of the type that the statement asks for.
    Null,
    /// `boolean`.
    Bool(bool),
    /// `bigint`.
    Int64(i64),
    /// `double precision`.
    Float64(f64),
    /// Text that takes the type that the statement asks for, as a quoted literal does; `text` where
    /// it asks for none.
    Text(String),
    /// A type's OID and the value in that type's text form.
    Typed(u32, String),
}

impl Param {
    /// Returns the type to announce. `unknown` leaves it to the server, which infers it from the
    /// statement.
    pub(crate) fn announced_type(&self) -> Type {
        match self {
            Self::Null | Self::Text(_) => Type::UNKNOWN,
            Self::Bool(_) => Type::BOOL,
            Self::Int64(_) => Type::INT8,
            Self::Float64(_) => Type::FLOAT8,
            // Only the OID is sent, so the name of a type that is not built in does not matter.
            Self::Typed(oid, _) => Type::from_oid(*oid)
                .unwrap_or_else(|| Type::new(String::new(), *oid, Kind::Simple, String::new())),
        }
    }
}

impl ToSql for Param {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        match self {
            Self::Null => return Ok(IsNull::Yes),
            Self::Bool(value) => out.extend_from_slice(if *value { b"t" } else { b"f" }),
            Self::Int64(value) => out.extend_from_slice(value.to_string().as_bytes()),
            // Shortest form that reads back as the same number; `inf` and `NaN` are Postgres's
            // words as well.
            Self::Float64(value) => out.extend_from_slice(value.to_string().as_bytes()),
            Self::Text(text) | Self::Typed(_, text) => out.extend_from_slice(text.as_bytes()),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}
