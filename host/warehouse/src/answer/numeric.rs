//! `numeric` to text, digit for digit as `::text` shows it.

use super::array::Reader;

const NEGATIVE: u16 = 0x4000;

/// Appends the text form of the binary form: how many groups of four digits, the weight of the
/// first group, the sign, how many digits stand after the point, and the groups.
pub(super) fn text(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut reader = Reader(bytes);
    let groups = reader.u16()?;
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
    let digits: Vec<u16> = (0..groups).map(|_| reader.u16()).collect::<Option<_>>()?;
    // Group `at` counts ten-thousands to the power of `weight - at`; groups that are not there are
    // zero.
    let group = |power: i32| {
        let at = usize::try_from(weight - power).ok();
        at.and_then(|at| digits.get(at)).copied().unwrap_or(0)
    };
    if sign == NEGATIVE {
        out.push(b'-');
    }
    if weight < 0 {
        out.push(b'0');
    }
    for power in (0..=weight).rev() {
        let digits = group(power).to_string();
        if power != weight {
            out.extend(std::iter::repeat_n(
                b'0',
                4_usize.saturating_sub(digits.len()),
            ));
        }
        out.extend_from_slice(digits.as_bytes());
    }
    if scale > 0 {
        out.push(b'.');
        let end = out.len() + scale;
        let mut power = -1;
        while out.len() < end {
            out.extend_from_slice(format!("{:04}", group(power)).as_bytes());
            power -= 1;
        }
        out.truncate(end);
    }
    Some(())
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
}
