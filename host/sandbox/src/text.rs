//! Texts from a plugin, made fit to be shown.

/// Returns `text` with control characters written as escapes, so that a plugin cannot steer a
/// terminal or forge a line.
pub(crate) fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for c in text.chars() {
        if is_steering(c) {
            cleaned.extend(c.escape_default());
        } else {
            cleaned.push(c);
        }
    }
    cleaned
}

/// Returns `text`, or as much of its beginning as fits into `bytes_max` bytes together with an
/// ellipsis.
pub(crate) fn cut(mut text: String, bytes_max: usize) -> String {
    const ELLIPSIS: char = '…';
    if text.len() > bytes_max {
        let room = bytes_max.saturating_sub(ELLIPSIS.len_utf8());
        text.truncate(text.floor_char_boundary(room));
        if bytes_max >= ELLIPSIS.len_utf8() {
            text.push(ELLIPSIS);
        }
    }
    text
}

// Beside control characters those that turn the direction of writing: with them a text can read
// other than it is.
pub(crate) fn is_steering(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_between_characters() {
        assert_eq!(cut("grün".to_owned(), 5), "grün");
        assert_eq!(cut("grüner".to_owned(), 6), "gr…");
        assert_eq!(cut("grüner".to_owned(), 2), "");
    }

    #[test]
    fn other_scripts_stay_as_they_are() {
        assert_eq!(clean("größe 日本 🙂"), "größe 日本 🙂");
        assert_eq!(clean("a\u{202e}b\u{0}"), "a\\u{202e}b\\u{0}");
    }
}
