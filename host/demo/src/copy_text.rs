//! Rows in the text format of `COPY`. Hides escaping and how times are spelt.
//!
//! Text rather than binary: with this many short and NULL columns it is smaller (a tab where binary
//! has four bytes of length), Postgres takes it as fast, and it can be read and piped into psql.

use jiff::ToSpan;
use jiff::civil::{Date, date};
use uuid::Uuid;

const DAY_MS: i64 = 86_400_000;
const EPOCH: Date = date(1970, 1, 1);

/// Appends rows to a buffer, value by value.
#[derive(Debug, Default)]
pub(crate) struct RowWriter {
    /// The last day that was written, since nearly all times of a batch are of one or two days.
    day: Option<(i64, [u8; 10])>,
}

impl RowWriter {
    pub(crate) fn timestamp(&mut self, out: &mut Vec<u8>, ms: i64) {
        let (day, time) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
        let date = match self.day {
            Some((known, text)) if known == day => text,
            _ => {
                let text = date_text(day);
                self.day = Some((day, text));
                text
            }
        };
        out.extend_from_slice(&date);
        let (seconds, milliseconds) = (time / 1000, time % 1000);
        let two = |number: i64| [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        let [h, m, s] = [seconds / 3600, seconds / 60 % 60, seconds % 60].map(two);
        let [tens, ones] = two(milliseconds % 100);
        let hundreds = b'0' + (milliseconds / 100) as u8;
        out.extend_from_slice(&[
            b' ', h[0], h[1], b':', m[0], m[1], b':', s[0], s[1], b'.', hundreds, tens, ones, b'\t',
        ]);
    }
}

/// Appends a value that [`escaped`] made or that needs no escaping.
pub(crate) fn raw(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(value);
    out.push(b'\t');
}

pub(crate) fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\N\t");
}

pub(crate) fn raw_or_null(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(value) => raw(out, value),
        None => null(out),
    }
}

pub(crate) fn number(out: &mut Vec<u8>, value: u32) {
    let mut digits = [0; 10];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    raw(out, &digits[at..]);
}

pub(crate) fn uuid(out: &mut Vec<u8>, value: Uuid) {
    let mut text = Uuid::encode_buffer();
    raw(out, value.hyphenated().encode_lower(&mut text).as_bytes());
}

/// Ends a row: its last tab becomes a line feed.
pub(crate) fn end_row(out: &mut [u8]) {
    if let Some(last) = out.last_mut() {
        *last = b'\n';
    }
}

/// Returns a value in which nothing can be taken for a delimiter, an escape or NULL.
pub(crate) fn escaped(value: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            other => out.push(other),
        }
    }
    out
}

fn date_text(day: i64) -> [u8; 10] {
    // A stream begins in a year of four digits and cannot run to the end of them: `StreamOptions`
    // are checked.
    let date = i32::try_from(day)
        .ok()
        .and_then(|days| EPOCH.checked_add(days.days()).ok());
    let date = date.unwrap_or(Date::MAX);
    let mut text = *b"0000-00-00";
    let [year, month, day] = [date.year(), date.month().into(), date.day().into()];
    for (place, digit) in [
        (0, year / 1000),
        (1, year / 100),
        (2, year / 10),
        (3, year),
        (5, month / 10),
        (6, month),
        (8, day / 10),
        (9, day),
    ] {
        text[place] = b'0' + (digit % 10) as u8;
    }
    text
}

/// Reads rows as Postgres does, for tests.
#[cfg(test)]
pub(crate) fn parse(bytes: &[u8]) -> Vec<Vec<Option<String>>> {
    let text = std::str::from_utf8(bytes).expect("COPY text is UTF-8");
    assert!(text.is_empty() || text.ends_with('\n'), "rows are whole");
    let value = |field: &str| {
        if field == "\\N" {
            return None;
        }
        let mut value = String::new();
        let mut characters = field.chars();
        while let Some(character) = characters.next() {
            if character != '\\' {
                value.push(character);
                continue;
            }
            value.push(match characters.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('\\') => '\\',
                other => panic!("escape {other:?} in {field:?}"),
            });
        }
        Some(value)
    };
    text.lines()
        .map(|line| line.split('\t').map(value).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_a_row_is_escaped_and_comes_back() {
        for value in [
            "",
            "plain",
            "\\N",
            "a\tb",
            "line\nfeed\r",
            "C:\\temp\\new",
            "é → 日本",
            "\\.",
        ] {
            let mut row = Vec::new();
            raw(&mut row, &escaped(value));
            null(&mut row);
            end_row(&mut row);
            assert_eq!(parse(&row), [[Some(value.to_owned()), None]]);
        }
    }

    #[test]
    fn numbers_times_and_uuids_are_spelt_as_postgres_does() {
        let mut row = Vec::new();
        let mut writer = RowWriter::default();
        number(&mut row, 0);
        number(&mut row, u32::MAX);
        writer.timestamp(&mut row, 0);
        writer.timestamp(&mut row, 1_709_251_199_007); // 2024-02-29, one second before its end.
        writer.timestamp(&mut row, 1_709_251_200_070);
        writer.timestamp(&mut row, -1);
        uuid(
            &mut row,
            Uuid::from_u128(0xa1a2_a3a4_b1b2_c1c2_d1d2_d3d4_d5d6_d7d8),
        );
        end_row(&mut row);
        assert_eq!(
            String::from_utf8(row).unwrap(),
            "0\t4294967295\t1970-01-01 00:00:00.000\t2024-02-29 23:59:59.007\t\
             2024-03-01 00:00:00.070\t1969-12-31 23:59:59.999\t\
             a1a2a3a4-b1b2-c1c2-d1d2-d3d4d5d6d7d8\n"
        );
    }
}
