//! Whether a batch is what it says it is. Nothing else of the host reads a plugin's buffers before this has.

use crate::call::CallError;
use crate::contract::{Batch, Column, Field, Layout, Values, Varlen};
use crate::shape::{BYTEA, check_fields, word};

/// Checks a batch against the fields that it should have.
///
/// Cost: one pass over offsets and texts, and over bitmaps of fields that are not nullable.
///
/// # Errors
///
/// [`CallError::Contract`], which names the field and, where there is one, the row (from 1).
pub(crate) fn check(batch: &Batch, fields: &[Field]) -> Result<(), CallError> {
    if batch.columns.len() != fields.len() {
        return Err(CallError::Contract {
            problem: format!(
                "batch: it has {} columns, expected one for each of {} fields",
                batch.columns.len(),
                fields.len()
            ),
        });
    }
    let rows = batch.rows as usize;
    for (field, column) in fields.iter().zip(&batch.columns) {
        let found = self::column(column, field, rows);
        found.map_err(|Wrong { row, problem }| {
            let row = row.map(|row| format!("row {} of ", row + 1));
            CallError::Contract {
                problem: format!(
                    "{}field `{}`: {problem}",
                    row.unwrap_or_default(),
                    field.name
                ),
            }
        })?;
    }
    Ok(())
}

/// Checks a batch and the fields that it should have, as [`Reducer`](crate::Reducer) does with all that a plugin gives.
///
/// # Errors
///
/// [`CallError::Contract`], for the first thing found.
pub fn check_output(fields: &[Field], batch: &Batch) -> Result<(), CallError> {
    check_fields(fields)?;
    check(batch, fields)
}

/// Returns a batch of these fields without rows.
pub(crate) fn empty(fields: &[Field]) -> Batch {
    let values = |layout| match layout {
        Layout::Bits => Values::Bits(Vec::new()),
        Layout::Int16 => Values::Int16(Vec::new()),
        Layout::Int32 => Values::Int32(Vec::new()),
        Layout::Int64 => Values::Int64(Vec::new()),
        Layout::Single => Values::Single(Vec::new()),
        Layout::Double => Values::Double(Vec::new()),
        Layout::Fixed16 => Values::Fixed16(Vec::new()),
        Layout::Varlen => Values::Varlen(Varlen {
            offsets: vec![0],
            data: Vec::new(),
        }),
    };
    let columns = fields.iter().map(|field| Column {
        validity: None,
        values: values(field.layout),
    });
    Batch {
        rows: 0,
        columns: columns.collect(),
    }
}

/// Returns the bytes of all buffers.
pub fn bytes(batch: &Batch) -> u64 {
    let column = |column: &Column| {
        let values = match &column.values {
            Values::Bits(values) | Values::Fixed16(values) => values.len(),
            Values::Int16(values) => size_of_val(values.as_slice()),
            Values::Int32(values) => size_of_val(values.as_slice()),
            Values::Int64(values) => size_of_val(values.as_slice()),
            Values::Single(values) => size_of_val(values.as_slice()),
            Values::Double(values) => size_of_val(values.as_slice()),
            Values::Varlen(values) => values.data.len() + size_of_val(values.offsets.as_slice()),
        };
        (values + column.validity.as_ref().map_or(0, Vec::len)) as u64
    };
    batch.columns.iter().map(column).sum()
}

/// What is wrong with a column.
struct Wrong {
    row: Option<usize>,
    problem: String,
}

fn wrong(problem: String) -> Wrong {
    Wrong { row: None, problem }
}

fn at(row: usize, problem: impl Into<String>) -> Wrong {
    Wrong {
        row: Some(row),
        problem: problem.into(),
    }
}

fn column(column: &Column, field: &Field, rows: usize) -> Result<(), Wrong> {
    if layout(&column.values) != field.layout {
        return Err(wrong(format!(
            "its values are {}, declared are {}",
            word(layout(&column.values)),
            word(field.layout)
        )));
    }
    if let Some(validity) = &column.validity {
        length("validity bitmap", validity.len(), rows.div_ceil(8), "bytes")?;
        if !field.nullable
            && let Some(row) = first_zero(validity, rows)
        {
            return Err(at(row, "it is NULL, and the field is not nullable"));
        }
    }
    match &column.values {
        Values::Bits(bits) => length("bitmap", bits.len(), rows.div_ceil(8), "bytes"),
        Values::Int16(values) => length("buffer", values.len(), rows, "values"),
        Values::Int32(values) => length("buffer", values.len(), rows, "values"),
        Values::Int64(values) => length("buffer", values.len(), rows, "values"),
        Values::Single(values) => length("buffer", values.len(), rows, "values"),
        Values::Double(values) => length("buffer", values.len(), rows, "values"),
        Values::Fixed16(bytes) => length("buffer", bytes.len(), 16 * rows, "bytes"),
        Values::Varlen(values) => {
            length("offsets", values.offsets.len(), rows + 1, "values")?;
            offsets(values)?;
            match field.type_oid {
                BYTEA => Ok(()),
                _ => texts(values, column.validity.as_deref(), rows),
            }
        }
    }
}

fn layout(values: &Values) -> Layout {
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

fn length(what: &str, found: usize, expected: usize, unit: &str) -> Result<(), Wrong> {
    if found == expected {
        return Ok(());
    }
    Err(wrong(format!(
        "its {what}: {found} {unit}, expected {expected}"
    )))
}

/// Offsets never go down, and none lies beyond the data.
fn offsets(values: &Varlen) -> Result<(), Wrong> {
    let Varlen { offsets, data } = values;
    // Without a branch inside, so that it is done for many at once.
    let falls = offsets
        .windows(2)
        .fold(false, |falls, pair| falls | (pair[0] > pair[1]));
    if falls {
        let pairs = offsets.windows(2);
        let row = pairs.take_while(|pair| pair[0] <= pair[1]).count();
        return Err(at(row, "it ends before it begins"));
    }
    let end = offsets.last().copied().unwrap_or(0) as usize;
    if end > data.len() {
        let first = offsets.partition_point(|offset| *offset as usize <= data.len());
        return Err(at(
            first.saturating_sub(1),
            format!("it ends at byte {} of {}", offsets[first], data.len()),
        ));
    }
    Ok(())
}

/// Every value that is not NULL is UTF-8 without a zero byte.
fn texts(values: &Varlen, validity: Option<&[u8]>, rows: usize) -> Result<(), Wrong> {
    let Varlen { offsets, data } = values;
    let (begin, end) = (offsets[0] as usize, offsets[rows] as usize);
    let all = &data[begin..end];
    // All at once, and that no value begins inside of a character: a character that values share has bytes on both sides.
    // Where all are ASCII there is no inside, and offsets need not be looked up in the text one by one.
    let begins = |offset: &u32| {
        data.get(*offset as usize)
            .is_none_or(|byte| byte & 0xc0 != 0x80)
    };
    let utf8 = || std::str::from_utf8(all).is_ok() && offsets.iter().all(begins);
    if (all.is_ascii() || utf8()) && !has_zero_byte(all) {
        return Ok(());
    }
    for row in 0..rows {
        if validity.is_some_and(|bits| bits[row / 8] & (1 << (row % 8)) == 0) {
            continue;
        }
        let value = &data[offsets[row] as usize..offsets[row + 1] as usize];
        if std::str::from_utf8(value).is_err() {
            return Err(at(row, "it is not UTF-8"));
        }
        if has_zero_byte(value) {
            return Err(at(row, "it holds a zero byte"));
        }
    }
    Ok(())
}

fn has_zero_byte(bytes: &[u8]) -> bool {
    // In blocks without a branch inside, so that many bytes are looked at at once.
    let any_zero = |block: &[u8]| block.iter().fold(false, |zero, byte| zero | (*byte == 0));
    bytes.chunks(4096).any(any_zero)
}

fn first_zero(bits: &[u8], count: usize) -> Option<usize> {
    let full = count / 8;
    if let Some(byte) = bits[..full].iter().position(|byte| *byte != 0xff) {
        return Some(8 * byte + bits[byte].trailing_ones() as usize);
    }
    let rest = count % 8;
    let ones = bits
        .get(full)
        .map_or(8, |byte| byte.trailing_ones() as usize);
    (ones < rest).then_some(8 * full + ones)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(type_oid: u32, layout: Layout, nullable: bool) -> Field {
        Field {
            name: "f".into(),
            type_oid,
            type_mod: -1,
            layout,
            nullable,
        }
    }

    fn checked(
        rows: u32,
        field: Field,
        validity: Option<Vec<u8>>,
        values: Values,
    ) -> Result<(), String> {
        let columns = vec![Column { validity, values }];
        check(&Batch { rows, columns }, &[field]).map_err(|error| match error {
            CallError::Contract { problem } => problem,
            other => panic!("{other:?}"),
        })
    }

    fn text(rows: u32, offsets: &[u32], data: &[u8]) -> Result<(), String> {
        let values = Values::Varlen(Varlen {
            offsets: offsets.to_vec(),
            data: data.to_vec(),
        });
        checked(rows, field(25, Layout::Varlen, true), None, values)
    }

    #[test]
    fn good_batches_pass() {
        assert_eq!(text(2, &[0, 3, 6], "aé日".as_bytes()), Ok(()));
        assert_eq!(
            text(3, &[2, 2, 2, 3], b"\xff\xffa\0"),
            Ok(()),
            "only what the offsets name counts"
        );
        assert_eq!(text(0, &[0], b""), Ok(()));
        let bytes = Values::Varlen(Varlen {
            offsets: vec![0, 2],
            data: vec![0, 0xff],
        });
        assert_eq!(
            checked(1, field(BYTEA, Layout::Varlen, false), None, bytes),
            Ok(())
        );
        let ints = Values::Int64(vec![1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(
            checked(
                9,
                field(20, Layout::Int64, false),
                Some(vec![0xff, 0x01]),
                ints
            ),
            Ok(())
        );
        let nothing = Values::Varlen(Varlen {
            offsets: vec![0, 1, 2],
            data: vec![0xff, b'a'],
        });
        assert_eq!(
            checked(
                2,
                field(25, Layout::Varlen, true),
                Some(vec![0b10]),
                nothing
            ),
            Ok(()),
            "a NULL has no value"
        );
    }

    #[test]
    fn wrong_batches_name_field_and_row() {
        assert_eq!(
            text(1, &[0], b"").unwrap_err(),
            "field `f`: its offsets: 1 values, expected 2"
        );
        assert_eq!(
            text(2, &[0, 3, 2], b"abc").unwrap_err(),
            "row 2 of field `f`: it ends before it begins"
        );
        assert_eq!(
            text(3, &[0, 1, 4, 4], b"abc").unwrap_err(),
            "row 2 of field `f`: it ends at byte 4 of 3"
        );
        assert_eq!(
            text(2, &[0, 2, 3], "aé".as_bytes()).unwrap_err(),
            "row 1 of field `f`: it is not UTF-8"
        );
        assert_eq!(
            text(2, &[0, 1, 3], b"a\0b").unwrap_err(),
            "row 2 of field `f`: it holds a zero byte"
        );
        let int = |nullable, validity, values: &[i32]| {
            checked(
                10,
                field(23, Layout::Int32, nullable),
                validity,
                Values::Int32(values.to_vec()),
            )
        };
        assert_eq!(
            int(true, None, &[1; 9]).unwrap_err(),
            "field `f`: its buffer: 9 values, expected 10"
        );
        assert_eq!(
            int(true, Some(vec![0xff]), &[1; 10]).unwrap_err(),
            "field `f`: its validity bitmap: 1 bytes, expected 2"
        );
        assert_eq!(
            int(false, Some(vec![0xff, 0b01]), &[1; 10]).unwrap_err(),
            "row 10 of field `f`: it is NULL, and the field is not nullable"
        );
        assert_eq!(
            int(false, Some(vec![0b11011111, 0b11]), &[1; 10]).unwrap_err(),
            "row 6 of field `f`: it is NULL, and the field is not nullable"
        );
        let other = checked(
            1,
            field(20, Layout::Int64, true),
            None,
            Values::Int32(vec![1]),
        );
        assert_eq!(
            other.unwrap_err(),
            "field `f`: its values are int32, declared are int64"
        );
        let uuid = checked(
            2,
            field(2950, Layout::Fixed16, true),
            None,
            Values::Fixed16(vec![0; 31]),
        );
        assert_eq!(
            uuid.unwrap_err(),
            "field `f`: its buffer: 31 bytes, expected 32"
        );
        let bits = checked(
            9,
            field(16, Layout::Bits, true),
            None,
            Values::Bits(vec![0]),
        );
        assert_eq!(
            bits.unwrap_err(),
            "field `f`: its bitmap: 1 bytes, expected 2"
        );
        let none = check(
            &Batch {
                rows: 0,
                columns: vec![],
            },
            &[field(23, Layout::Int32, true)],
        );
        assert!(
            matches!(none, Err(CallError::Contract { problem }) if problem.contains("0 columns"))
        );
    }
}
