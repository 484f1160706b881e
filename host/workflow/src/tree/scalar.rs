//! What a plain scalar means: the core schema of YAML 1.2, so that `yes`, `on` and `012` stay text.

use super::{Kind, Text};

/// Returns the value of a scalar without quotes.
pub(crate) fn resolve(value: &str) -> Kind {
    match value {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "true" | "True" | "TRUE" => Kind::Bool(true),
        "false" | "False" | "FALSE" => Kind::Bool(false),
        _ => match number(value) {
            Some(number) => Kind::Number(number, value.into()),
            None => text(value),
        },
    }
}

/// Returns the value of a scalar that is text whatever it says.
pub(super) fn text(value: &str) -> Kind {
    Kind::Text(Text {
        value: value.into(),
        written: None,
    })
}

/// Returns the number that a text writes in decimal.
///
/// Left out of the core schema: `0o7`, `0x1F`, `.inf` and `.nan`, which no setting has a use for
/// and JSON cannot say, and leading zeros, which are codes (`007`) rather than numbers.
fn number(value: &str) -> Option<serde_json::Number> {
    let digits = value.trim_start_matches(['+', '-']);
    let first = digits.strip_prefix('.').unwrap_or(digits);
    let plain = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    if value.len() - digits.len() > 1
        || !first.starts_with(|c: char| c.is_ascii_digit())
        || !digits.chars().all(plain)
        || (digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0."))
    {
        return None;
    }
    let unsigned_plus = value.strip_prefix('+').unwrap_or(value);
    if let Ok(number) = unsigned_plus.parse::<i64>() {
        return Some(number.into());
    }
    if let Ok(number) = unsigned_plus.parse::<u64>() {
        return Some(number.into());
    }
    serde_json::Number::from_f64(unsigned_plus.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_core_schema() {
        for text in [
            "yes", "no", "on", "Off", "012", "-", "1.2.3", "1_000", "0x1F", ".inf", "7 days", "+-1",
        ] {
            assert!(matches!(resolve(text), Kind::Text(_)), "{text}");
        }
        for (text, json) in [
            ("0", "0"),
            ("-7", "-7"),
            ("+7", "7"),
            ("1.50", "1.5"),
            (".5", "0.5"),
            ("1e3", "1000.0"),
            ("18446744073709551615", "18446744073709551615"),
        ] {
            let Kind::Number(number, written) = resolve(text) else {
                panic!("{text} is not a number");
            };
            assert_eq!(
                (number.to_string().as_str(), written.as_str()),
                (json, text)
            );
        }
        assert!(matches!(resolve("True"), Kind::Bool(true)));
        assert!(matches!(resolve("~"), Kind::Null));
    }
}
