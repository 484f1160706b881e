//! Durations and sizes, which carry their unit in the value.

use std::time::Duration;

use jiff::SpanRelativeTo;
use jiff::fmt::friendly::SpanParser;

/// Returns the duration that a text names: `7 days`, `6h`, `1h 30m`, `90s`.
///
/// A day is 24 hours and a week 7 days: the clock of a run is UTC, which has no other days. Months
/// and years have no one length. The error says what was expected; it holds nothing of the text.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if is_bare_number(text) {
        return Err("a duration needs a unit, as in `7 days`, `6h`, `15m` or `90s`".into());
    }
    let expected = || "expected a duration, as `7 days`, `6h`, `15m` or `90s`".to_owned();
    let span = SpanParser::new()
        .parse_span(text.trim())
        .map_err(|_| expected())?;
    if span.get_months() != 0 || span.get_years() != 0 {
        return Err("months and years have no one length; write days".into());
    }
    let exact = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| expected())?;
    let duration = Duration::try_from(exact).map_err(|_| "a duration cannot be negative")?;
    if duration.is_zero() {
        return Err("a duration of zero has no meaning here".into());
    }
    Ok(duration)
}

/// Returns a duration in words that [`duration`] reads back: `7 days`, `6h 30m`, `250ms`.
pub(crate) fn duration_text(duration: Duration) -> String {
    const DAY: u64 = 86_400;
    let seconds = duration.as_secs();
    if duration.subsec_nanos() == 0 && seconds >= DAY && seconds.is_multiple_of(DAY) {
        let days = seconds / DAY;
        return format!("{days} {}", if days == 1 { "day" } else { "days" });
    }
    let parts = [
        (seconds / 3600, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (u64::from(duration.subsec_millis()), "ms"),
        (u64::from(duration.subsec_micros() % 1000), "us"),
        (u64::from(duration.subsec_nanos() % 1000), "ns"),
    ];
    let shown: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    shown.join(" ")
}

/// Returns the number of bytes that a text names: `128MiB`, `64 kB`. The error says what was
/// expected.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 7] = [
        ("B", 1),
        ("kB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
    ];
    if is_bare_number(text) {
        return Err("a size needs a unit, as in `128MiB`".into());
    }
    let expected = || "expected a size, as `128MiB`; units: B, kB, MB, GB, KiB, MiB, GiB";
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(0);
    let (count, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let count: u64 = count.parse().map_err(|_| expected())?;
    let (_, size) = UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .ok_or_else(expected)?;
    match count.checked_mul(*size) {
        Some(0) => Err("a size of zero has no meaning here".into()),
        Some(bytes) => Ok(bytes),
        None => Err(expected().into()),
    }
}

/// Whether a text is a number and nothing else.
fn is_bare_number(text: &str) -> bool {
    text.trim().parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, seconds) in [
            ("7 days", 604_800),
            ("1 day", 86_400),
            ("2d", 172_800),
            ("1 week", 604_800),
            ("6h", 21_600),
            ("15m", 900),
            ("90s", 90),
            ("1h 30m", 5_400),
            ("2 hours", 7_200),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for (text, part) in [
            ("6", "needs a unit"),
            ("1.5", "needs a unit"),
            ("-6h", "negative"),
            ("6h ago", "negative"),
            ("0s", "zero"),
            ("1 month", "no one length"),
            ("1y", "no one length"),
            ("soon", "expected a duration"),
            ("", "expected a duration"),
            ("9999999999999 days", "expected a duration"),
        ] {
            let error = duration(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn durations_read_back() {
        for text in [
            "7 days",
            "1 day",
            "6h",
            "25h",
            "1h 30m",
            "90s",
            "250ms",
            "1s 5ms 3us 7ns",
        ] {
            let value = duration(text).unwrap();
            assert_eq!(duration(&duration_text(value)), Ok(value), "{text}");
        }
        assert_eq!(duration_text(Duration::from_secs(604_800)), "7 days");
        assert_eq!(duration_text(Duration::from_secs(90)), "1m 30s");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("128MiB"), Ok(128 << 20));
        assert_eq!(bytes("64 kb"), Ok(64_000));
        assert_eq!(bytes("1GiB"), Ok(1 << 30));
        for (text, part) in [
            ("128", "needs a unit"),
            ("0MiB", "zero"),
            ("MiB", "expected a size"),
            ("1.5GiB", "expected a size"),
            ("1 TiB", "expected a size"),
            ("99999999999GiB", "expected a size"),
        ] {
            let error = bytes(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
