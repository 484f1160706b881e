//! Values in Postgres's text form, for messages and for the tables of tests.

use super::bit;
use super::types;
use crate::columnar::{Column, Field, Layout, Values, Varlen};
use crate::values::{Date, Timestamp, TimestampTz};

/// Returns the value in row `at`; none if it is NULL.
pub(crate) fn text(field: &Field, column: &Column, at: usize) -> Option<String> {
    if column
        .validity
        .as_ref()
        .is_some_and(|validity| !bit(validity, at))
    {
        return None;
    }
    Some(match &column.values {
        Values::Bits(bits) => (if bit(bits, at) { "t" } else { "f" }).to_owned(),
        Values::Int16(values) => values[at].to_string(),
        Values::Int32(values) if field.type_oid == types::DATE => Date(values[at]).to_string(),
        Values::Int32(values) => values[at].to_string(),
        Values::Int64(values) => match field.type_oid {
            types::TIMESTAMP => Timestamp(values[at]).to_string(),
            types::TIMESTAMPTZ => TimestampTz(values[at]).to_string(),
            _ => values[at].to_string(),
        },
        Values::Single(values) => values[at].to_string(),
        Values::Double(values) => values[at].to_string(),
        Values::Fixed16(bytes) => uuid(&bytes[at * 16..at * 16 + 16]),
        Values::Varlen(varlen) => {
            let value = &varlen.data[varlen.offsets[at] as usize..varlen.offsets[at + 1] as usize];
            match field.type_oid {
                types::BYTEA => format!("\\x{}", hex(value)),
                _ => String::from_utf8_lossy(value).into_owned(),
            }
        }
    })
}

/// Reads the values of a column, each in its text form; `None` is NULL.
///
/// # Errors
///
/// A sentence about the first value that the field's type does not have.
pub(crate) fn parse(field: &Field, texts: &[Option<&str>]) -> Result<Column, String> {
    fn each<T>(
        texts: &[Option<&str>],
        null: T,
        read: impl Fn(&str) -> Option<T>,
        expected: &str,
    ) -> Result<Vec<T>, String>
    where
        T: Clone,
    {
        let value = |text: &Option<&str>| match text {
            None => Ok(null.clone()),
            Some(text) => {
                read(text).ok_or_else(|| format!("expected {expected}, found \"{text}\""))
            }
        };
        texts.iter().map(value).collect()
    }
    let type_name = types::name(field.type_oid);
    let name = type_name.as_str();
    let values = match field.layout {
        Layout::Bits => Values::Bits(types::bits(&each(texts, false, boolean, "t or f")?)),
        Layout::Int16 => Values::Int16(each(texts, 0, |text| text.parse().ok(), name)?),
        Layout::Int32 if field.type_oid == types::DATE => {
            let date = |text: &str| text.parse::<Date>().ok().map(|date| date.0);
            Values::Int32(each(texts, 0, date, "a date such as 2024-12-31")?)
        }
        Layout::Int32 => Values::Int32(each(texts, 0, |text| text.parse().ok(), name)?),
        Layout::Int64 if matches!(field.type_oid, types::TIMESTAMP | types::TIMESTAMPTZ) => {
            let time = |text: &str| text.parse::<TimestampTz>().ok().map(|time| time.0);
            Values::Int64(each(texts, 0, time, "a time such as 2024-12-31 23:59:59")?)
        }
        Layout::Int64 => Values::Int64(each(texts, 0, |text| text.parse().ok(), name)?),
        Layout::Single => Values::Single(each(texts, 0.0, |text| text.parse().ok(), name)?),
        Layout::Double => Values::Double(each(texts, 0.0, |text| text.parse().ok(), name)?),
        Layout::Fixed16 => {
            let uuid = |text: &str| bytes(&text.replace('-', "")).filter(|id| id.len() == 16);
            Values::Fixed16(each(texts, vec![0; 16], uuid, "a uuid")?.concat())
        }
        Layout::Varlen => {
            let value = |text: &str| match field.type_oid {
                types::BYTEA => text.strip_prefix("\\x").and_then(bytes),
                _ => Some(text.as_bytes().to_vec()),
            };
            let mut varlen = Varlen {
                offsets: vec![0],
                data: Vec::new(),
            };
            for value in each(texts, Vec::new(), value, "bytes such as \\x00ff")? {
                varlen.data.extend(value);
                varlen
                    .offsets
                    .push(varlen.data.len().try_into().map_err(|_| "too much text")?);
            }
            Values::Varlen(varlen)
        }
    };
    let has_null = texts.iter().any(Option::is_none);
    let valid: Vec<bool> = texts.iter().map(Option::is_some).collect();
    Ok(Column {
        validity: has_null.then(|| types::bits(&valid)),
        values,
    })
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "t" | "true" => Some(true),
        "f" | "false" => Some(false),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn uuid(bytes: &[u8]) -> String {
    let parts = [
        &bytes[..4],
        &bytes[4..6],
        &bytes[6..8],
        &bytes[8..10],
        &bytes[10..],
    ];
    parts.map(hex).join("-")
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    if !hex.len().is_multiple_of(2) || !hex.is_ascii() {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).ok();
    (0..hex.len()).step_by(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{DataType, Value, types};
    use crate::values::{Decimal, Json};

    /// Every type's values come back as they were written.
    #[test]
    fn values_go_to_text_and_back() {
        fn check<V: Value>(texts: &[Option<&str>]) {
            let DataType { oid, layout, .. } = V::TYPE;
            let field = Field {
                name: "x".to_owned(),
                type_oid: oid,
                type_mod: -1,
                layout,
                nullable: true,
            };
            let column = parse(&field, texts).expect("values of the type");
            for (at, expected) in texts.iter().enumerate() {
                assert_eq!(
                    text(&field, &column, at).as_deref(),
                    *expected,
                    "{}",
                    types::name(oid)
                );
            }
        }
        check::<bool>(&[Some("t"), Some("f"), None]);
        check::<i16>(&[Some("-32768"), None]);
        check::<i32>(&[Some("2147483647"), None]);
        check::<i64>(&[None, Some("-9223372036854775808")]);
        check::<f32>(&[Some("0.5"), None]);
        check::<f64>(&[Some("NaN"), Some("-0.25")]);
        check::<Date>(&[Some("2024-02-29"), None]);
        check::<Timestamp>(&[Some("2024-02-29 12:00:00.25"), None, Some("infinity")]);
        check::<TimestampTz>(&[Some("2024-02-29 12:00:00+00")]);
        check::<&str>(&[Some("é"), Some(""), None]);
        check::<&[u8]>(&[Some("\\x00ff"), Some("\\x")]);
        check::<[u8; 16]>(&[Some("00010203-0405-0607-0809-0a0b0c0d0e0f"), None]);
        check::<Decimal<'_>>(&[Some("12.50")]);
        check::<Json<'_>>(&[Some("{\"a\": 1}")]);
    }
}
