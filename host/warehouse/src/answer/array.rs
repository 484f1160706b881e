//! Arrays to their text form, `{a,"b c",NULL}`.

use tokio_postgres::types::Type;

/// What the elements are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    Int2,
    Int4,
    Int8,
    Oid,
    Text,
}

impl Element {
    pub fn of(kind: &Type) -> Option<Self> {
        Some(match *kind {
            Type::INT2 => Self::Int2,
            Type::INT4 => Self::Int4,
            Type::INT8 => Self::Int8,
            Type::OID => Self::Oid,
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME => Self::Text,
            _ => return None,
        })
    }

    fn text(self, bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let number = match self {
            Self::Text => {
                quote(bytes, out);
                return Some(());
            }
            Self::Int2 => i64::from(i16::from_be_bytes(bytes.try_into().ok()?)),
            Self::Int4 => i64::from(i32::from_be_bytes(bytes.try_into().ok()?)),
            Self::Int8 => i64::from_be_bytes(bytes.try_into().ok()?),
            Self::Oid => i64::from(u32::from_be_bytes(bytes.try_into().ok()?)),
        };
        out.extend_from_slice(number.to_string().as_bytes());
        Some(())
    }
}

/// Big-endian numbers from the front of a slice; `None` past its end.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }
}

/// Appends the text form. More than one dimension is refused, as is a lower bound other than 1:
/// both are rare, and their text form has rules of its own.
pub(super) fn text(element: Element, bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut reader = Reader(bytes);
    let dimensions = reader.i32()?;
    let (_has_nulls, _element_oid) = (reader.i32()?, reader.i32()?);
    if dimensions == 0 {
        out.extend_from_slice(b"{}");
        return Some(());
    }
    let (count, lower) = (reader.i32()?, reader.i32()?);
    if dimensions != 1 || lower != 1 {
        return None;
    }
    out.push(b'{');
    for i in 0..count {
        if i > 0 {
            out.push(b',');
        }
        match usize::try_from(reader.i32()?) {
            Ok(len) => element.text(reader.take(len)?, out)?,
            Err(_) => out.extend_from_slice(b"NULL"),
        }
    }
    out.push(b'}');
    Some(())
}

/// Quotes as `array_out` does: only where the text could be read as something else.
fn quote(bytes: &[u8], out: &mut Vec<u8>) {
    let plain = !bytes.is_empty()
        && !bytes.eq_ignore_ascii_case(b"null")
        && !bytes
            .iter()
            .any(|byte| b"\"\\{}, \t\n\r\x0b\x0c".contains(byte));
    if plain {
        out.extend_from_slice(bytes);
        return;
    }
    out.push(b'"');
    for byte in bytes {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_quoted_where_needed() {
        for (text, quoted) in [
            ("a", "a"),
            ("", "\"\""),
            ("NULL", "\"NULL\""),
            ("a b", "\"a b\""),
            ("a\"\\", "\"a\\\"\\\\\""),
            ("ü", "ü"),
        ] {
            let mut out = Vec::new();
            quote(text.as_bytes(), &mut out);
            assert_eq!(String::from_utf8_lossy(&out), quoted);
        }
    }

    #[test]
    fn a_length_past_the_end_is_refused() {
        let mut bytes = Vec::new();
        for value in [1, 0, 25, 1, 1, 100] {
            bytes.extend_from_slice(&i32::to_be_bytes(value));
        }
        assert_eq!(text(Element::Text, &bytes, &mut Vec::new()), None);
    }
}
