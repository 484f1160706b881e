//! Numbers and times as people write them.

use std::time::Duration;

/// Writes a number with a comma between thousands: `1,234,567`.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a number of things: `1 batch`, `1,234 batches`.
pub(crate) fn count(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", number(n), if n == 1 { one } else { many })
}

/// Writes a length of time with two or three digits that mean something: `340 ms`, `3.4 s`,
/// `2 min 05 s`, `1 h 02 min`. Cut, not rounded, from minutes on.
pub(crate) fn duration(duration: Duration) -> String {
    let (ms, s) = (duration.as_millis(), duration.as_secs());
    match s {
        0 if ms == 0 => "<1 ms".to_owned(),
        0 => format!("{ms} ms"),
        1..60 => format!("{}.{} s", s, (ms % 1000) / 100),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
    }
}

/// [`duration`] of milliseconds; what is not a length of time counts as none.
pub(crate) fn milliseconds(ms: f64) -> String {
    duration(Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default())
}

/// Leaves out of an error what the name of the work before it says already: `connect to the warehouse: could not connect
/// to the warehouse: …`.
pub(crate) fn without_work<'a>(work: &str, error: &'a str) -> &'a str {
    let rest = error.strip_prefix("could not ");
    let rest = rest.and_then(|rest| rest.strip_prefix(work));
    rest.and_then(|rest| rest.strip_prefix(": "))
        .unwrap_or(error)
}

/// Joins names as in a sentence: `a, b and c`.
pub(crate) fn list(names: &[impl AsRef<str>]) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Replaces what would steer a terminal (control characters, changes of the writing direction) by
/// `�`, for texts that come from plugins, servers and files. Line ends stay, tabs become a space.
pub(crate) fn clean(text: &str) -> String {
    // As the sandbox's own, which goes over texts of plugins; servers and files have no other.
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
    };
    text.replace("\r\n", "\n")
        .chars()
        .map(|c| match c {
            '\n' => '\n',
            '\t' => ' ',
            c if steers(c) => '\u{FFFD}',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated() {
        for (n, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (123_456, "123,456"),
            (1_234_567, "1,234,567"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(number(n), text);
        }
        assert_eq!(count(1, "batch", "batches"), "1 batch");
        assert_eq!(count(0, "batch", "batches"), "0 batches");
        assert_eq!(count(1200, "batch", "batches"), "1,200 batches");
    }

    #[test]
    fn durations_are_plain() {
        for (ms, text) in [
            (0, "<1 ms"),
            (1, "1 ms"),
            (999, "999 ms"),
            (1_000, "1.0 s"),
            (3_449, "3.4 s"),
            (59_999, "59.9 s"),
            (60_000, "1 min 00 s"),
            (125_000, "2 min 05 s"),
            (3_599_999, "59 min 59 s"),
            (3_600_000, "1 h 00 min"),
            (90_061_000, "25 h 01 min"),
        ] {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
        assert_eq!(milliseconds(0.4), "<1 ms");
        assert_eq!(milliseconds(12.7), "12 ms");
        assert_eq!(milliseconds(f64::NAN), "<1 ms");
        assert_eq!(milliseconds(-1.0), "<1 ms");
    }

    #[test]
    fn lists_read_as_sentences() {
        assert_eq!(list(&[] as &[&str]), "");
        assert_eq!(list(&["a"]), "a");
        assert_eq!(list(&["a", "b"]), "a and b");
        assert_eq!(list(&["a", "b", "c"]), "a, b and c");
    }

    #[test]
    fn what_steers_a_terminal_does_not_reach_it() {
        assert_eq!(
            clean("a\x1b[31mb\u{202e}c\r\n\td"),
            "a\u{fffd}[31mb\u{fffd}c\n d"
        );
        assert_eq!(clean("é 訪 🙂"), "é 訪 🙂");
        let marks = "a\u{61c}b\u{200e}c\u{200f}";
        assert_eq!(clean(marks), "a\u{fffd}b\u{fffd}c\u{fffd}");
    }
}
