//! `numeric` to text, digit for digit as `::text` shows it.

use super::array::Reader;

const NEGATIVE: u16 = 0x4000;

/// Digits after the point that Postgres keeps at most.
const SCALE_MAX: i64 = 16_383;

/// Appends the text form of the binary form: how many groups of four digits, the weight of the
/// first group, the sign, how many digits stand after the point, and the groups.
pub(super) fn text(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut reader = Reader(bytes);
    let groups = usize::from(reader.u16()?);
    let weight = i32::from(reader.u16()? as i16);
    let sign = reader.u16()?;
    let scale = usize::from(reader.u16()?);
    let word: &[u8] = match sign {
        0 | NEGATIVE => b"",
        0xC000 => b"NaN",
        0xD000 => b"Infinity",
        0xF000 => b"-Infinity",
        _ => return None,
    };
    if !word.is_empty() {
        out.extend_from_slice(word);
        return Some(());
    }
    let digits = reader.take(2 * groups)?;
    // Group `at` counts ten-thousands to the power of `weight - at`; groups that are not there are
    // zero.
    let group = |power: i32| {
        let at = usize::try_from(weight - power).ok()?;
        let pair = digits.get(2 * at..2 * at + 2)?;
        Some(u16::from_be_bytes([pair[0], pair[1]]))
    };
    if sign == NEGATIVE {
        out.push(b'-');
    }
    if weight < 0 {
        out.push(b'0');
    }
    for power in (0..=weight).rev() {
        let shown = four_digits(group(power).unwrap_or(0))?;
        let leading = match power == weight {
            true => shown[..3]
                .iter()
                .take_while(|digit| **digit == b'0')
                .count(),
            false => 0,
        };
        out.extend_from_slice(&shown[leading..]);
    }
    if scale > 0 {
        out.push(b'.');
        let end = out.len() + scale;
        let mut power = -1;
        while out.len() < end {
            out.extend_from_slice(&four_digits(group(power).unwrap_or(0))?);
            power -= 1;
        }
        out.truncate(end);
    }
    Some(())
}

fn four_digits(group: u16) -> Option<[u8; 4]> {
    if group > 9999 {
        return None;
    }
    let digit = |power: u16| b'0' + (group / power % 10) as u8;
    Some([digit(1000), digit(100), digit(10), digit(1)])
}

/// Appends the binary form of a text form: digits with or without a point and an exponent, `NaN`, `Infinity`.
pub(crate) fn binary(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let text = text.trim_ascii();
    let (sign, unsigned) = match text.split_first()? {
        (b'-', rest) => (NEGATIVE, rest),
        (b'+', rest) => (0, rest),
        _ => (0, text),
    };
    let mut head = |groups: u16, weight: i16, sign: u16, scale: u16| {
        for value in [groups, weight as u16, sign, scale] {
            out.extend_from_slice(&value.to_be_bytes());
        }
    };
    let is = |word: &str| unsigned.eq_ignore_ascii_case(word.as_bytes());
    if is("infinity") || is("inf") {
        head(0, 0, if sign == NEGATIVE { 0xF000 } else { 0xD000 }, 0);
        return Some(());
    }
    if text.eq_ignore_ascii_case(b"nan") {
        head(0, 0, 0xC000, 0);
        return Some(());
    }
    let number = Decimal::read(unsigned)?;
    let scale = (number.fraction as i64 - number.exponent).max(0);
    let scale = u16::try_from(scale).ok().filter(|_| scale <= SCALE_MAX)?;
    let Some((first, last)) = number.span() else {
        head(0, 0, 0, scale);
        return Some(());
    };
    let (first, last) = (first.div_euclid(4), last.div_euclid(4));
    let groups = u16::try_from(first - last + 1).ok()?;
    head(groups, i16::try_from(first).ok()?, sign, scale);
    for group in (last..=first).rev() {
        let digits = (0..4)
            .rev()
            .map(|at| u16::from(number.digit(4 * group + at)));
        let value = digits.fold(0, |value, digit| 10 * value + digit);
        out.extend_from_slice(&value.to_be_bytes());
    }
    Some(())
}

/// Digits as they are written, with how many stand after the point, and the exponent.
struct Decimal<'a> {
    before: &'a [u8],
    after: &'a [u8],
    fraction: usize,
    exponent: i64,
}

impl<'a> Decimal<'a> {
    fn read(text: &'a [u8]) -> Option<Self> {
        let at = text.iter().position(|byte| matches!(byte, b'e' | b'E'));
        let (mantissa, exponent) = match at {
            Some(at) => {
                let exponent = std::str::from_utf8(&text[at + 1..]).ok()?;
                let exponent: i64 = exponent.parse().ok()?;
                // No number that the server takes has more.
                (&text[..at], Some(exponent).filter(|e| e.abs() < 1 << 20)?)
            }
            None => (text, 0),
        };
        let at = mantissa.iter().position(|byte| *byte == b'.');
        let (before, after) = match at {
            Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
            None => (mantissa, &[][..]),
        };
        let digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
        (digits(before) && digits(after) && !mantissa.is_empty() && mantissa != b".").then_some(
            Self {
                before,
                after,
                fraction: after.len(),
                exponent,
            },
        )
    }

    /// The powers of ten of the first and the last digit that is not zero.
    fn span(&self) -> Option<(i64, i64)> {
        let digits = || self.before.iter().chain(self.after);
        let first = digits().position(|digit| *digit != b'0')?;
        let zeros = digits().rev().position(|digit| *digit != b'0')?;
        let top = self.before.len() as i64 - 1 + self.exponent;
        let length = (self.before.len() + self.after.len()) as i64;
        Some((top - first as i64, top - (length - 1 - zeros as i64)))
    }

    fn digit(&self, power: i64) -> u8 {
        let at = self.before.len() as i64 - 1 + self.exponent - power;
        let digit = usize::try_from(at).ok().and_then(|at| {
            let after = || self.after.get(at - self.before.len());
            self.before.get(at).or_else(after)
        });
        digit.map_or(0, |digit| digit - b'0')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(groups: &[u16], weight: i16, sign: u16, scale: u16) -> Option<String> {
        let mut bytes = Vec::new();
        for value in [groups.len() as u16, weight as u16, sign, scale]
            .iter()
            .chain(groups)
        {
            bytes.extend_from_slice(&value.to_be_bytes());
        }
        let mut out = Vec::new();
        text(&bytes, &mut out)?;
        String::from_utf8(out).ok()
    }

    #[test]
    fn forms() {
        assert_eq!(shown(&[], 0, 0, 0).as_deref(), Some("0"));
        assert_eq!(shown(&[], 0, 0, 2).as_deref(), Some("0.00"));
        assert_eq!(shown(&[1, 2], 1, 0, 0).as_deref(), Some("10002"));
        assert_eq!(shown(&[1], 2, 0x4000, 0).as_deref(), Some("-100000000"));
        assert_eq!(shown(&[12, 3400], 0, 0, 2).as_deref(), Some("12.34"));
        assert_eq!(shown(&[5], -2, 0, 8).as_deref(), Some("0.00000005"));
        assert_eq!(shown(&[], 0, 0xC000, 0).as_deref(), Some("NaN"));
        assert_eq!(shown(&[], 0, 0xF000, 0).as_deref(), Some("-Infinity"));
    }

    #[test]
    fn short_bytes_are_refused() {
        assert_eq!(text(&[0, 1, 0, 0, 0, 0, 0, 0], &mut Vec::new()), None);
        assert_eq!(text(&[0], &mut Vec::new()), None);
    }

    /// Every text gives the binary form that reads back as what the server would show.
    #[test]
    fn text_to_binary_and_back() {
        for (given, shown) in [
            ("0", "0"),
            ("0.00", "0.00"),
            ("-0", "0"),
            ("10002", "10002"),
            ("-100000000", "-100000000"),
            ("12.34", "12.34"),
            ("0.00000005", "0.00000005"),
            ("00012.3400", "12.3400"),
            (".5", "0.5"),
            ("5.", "5"),
            ("+7", "7"),
            (" 7 ", "7"),
            ("1e5", "100000"),
            ("1.5E-3", "0.0015"),
            ("123.456e1", "1234.56"),
            ("NaN", "NaN"),
            ("-inf", "-Infinity"),
            ("Infinity", "Infinity"),
            ("9999999999999999.9999", "9999999999999999.9999"),
            ("10000", "10000"),
            ("0.0001", "0.0001"),
        ] {
            let (mut bytes, mut out) = (Vec::new(), Vec::new());
            binary(given.as_bytes(), &mut bytes).unwrap_or_else(|| panic!("{given}"));
            text(&bytes, &mut out).unwrap_or_else(|| panic!("{given}"));
            assert_eq!(String::from_utf8_lossy(&out), shown, "{given}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for given in [
            "",
            " ",
            ".",
            "-",
            "1e",
            "e5",
            "1.2.3",
            "0x10",
            "1_000",
            "--1",
            "-NaN",
            "1e9999999",
            "١",
        ] {
            assert_eq!(binary(given.as_bytes(), &mut Vec::new()), None, "{given}");
        }
    }
}
