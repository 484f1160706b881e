//! What the shape of a reducer may hold, and the fields that it declares.

use std::collections::BTreeSet;

use crate::call::CallError;
use crate::contract::{Field, Layout};

/// Most columns of a table.
const FIELDS_MAX: usize = 1600;

/// Longest name that Postgres keeps, in bytes.
const NAME_BYTES_MAX: usize = 63;

/// Types that a reducer may give back, and how their values lie. Other types are given as text, and cast later.
const TYPES: [(u32, &str, Layout); 18] = [
    (16, "boolean", Layout::Bits),
    (17, "bytea", Layout::Varlen),
    (19, "name", Layout::Varlen),
    (20, "bigint", Layout::Int64),
    (21, "smallint", Layout::Int16),
    (23, "integer", Layout::Int32),
    (25, "text", Layout::Varlen),
    (114, "json", Layout::Varlen),
    (700, "real", Layout::Single),
    (701, "double precision", Layout::Double),
    (1042, "character", Layout::Varlen),
    (1043, "character varying", Layout::Varlen),
    (1082, "date", Layout::Int32),
    (1114, "timestamp", Layout::Int64),
    (1184, "timestamptz", Layout::Int64),
    (1700, "numeric", Layout::Varlen),
    (2950, "uuid", Layout::Fixed16),
    (3802, "jsonb", Layout::Varlen),
];

/// `bytea`, the one type of layout `varlen` that is no text.
pub(crate) const BYTEA: u32 = 17;

/// Checks the fields of a reducer's output.
///
/// # Errors
///
/// [`CallError::Contract`], for the first thing found.
pub(crate) fn check_fields(fields: &[Field]) -> Result<(), CallError> {
    let problem = |problem: String| Err(CallError::Contract { problem });
    if fields.is_empty() {
        return problem("output: it has no field".to_owned());
    }
    if fields.len() > FIELDS_MAX {
        return problem(format!(
            "output: it has {} fields, a table has at most {FIELDS_MAX} columns",
            fields.len()
        ));
    }
    let mut names = BTreeSet::new();
    for (n, field) in fields.iter().enumerate() {
        let place = crate::reply::place("field", n, &field.name);
        if field.name.is_empty() || field.name.len() > NAME_BYTES_MAX {
            return problem(format!(
                "name of {place}: it has {} bytes, expected 1 to {NAME_BYTES_MAX}",
                field.name.len()
            ));
        }
        if field.name.chars().any(crate::text::is_steering) {
            return problem(format!("name of {place}: it holds a control character"));
        }
        if !names.insert(&field.name) {
            return problem(format!("name of {place}: another field has it too"));
        }
        let known = TYPES.iter().find(|(oid, ..)| *oid == field.type_oid);
        let Some((_, name, layout)) = known else {
            return problem(format!(
                "type of {place}: a reducer does not give OID {}; give text, and cast it in a later step",
                field.type_oid
            ));
        };
        if *layout != field.layout {
            return problem(format!(
                "layout of {place}: {name} has {}, not {}",
                word(*layout),
                word(field.layout)
            ));
        }
    }
    Ok(())
}

/// The word that the contract has for a layout.
pub(crate) fn word(layout: Layout) -> &'static str {
    match layout {
        Layout::Bits => "bits",
        Layout::Int16 => "int16",
        Layout::Int32 => "int32",
        Layout::Int64 => "int64",
        Layout::Single => "single",
        Layout::Double => "double",
        Layout::Fixed16 => "fixed16",
        Layout::Varlen => "varlen",
    }
}
