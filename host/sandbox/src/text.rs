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
/// ellipsis. The work is bounded by `bytes_max`, however long the text.
pub(crate) fn cut(text: &str, bytes_max: usize) -> String {
    const ELLIPSIS: char = '…';
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let room = bytes_max.saturating_sub(ELLIPSIS.len_utf8());
    let mut cut = text[..text.floor_char_boundary(room)].to_owned();
    if bytes_max >= ELLIPSIS.len_utf8() {
        cut.push(ELLIPSIS);
    }
    cut
}

/// Returns `text` cut and cleaned, never longer than `bytes_max` bytes.
pub(crate) fn shown(text: &str, bytes_max: usize) -> String {
    // Cut before cleaning, which bounds the work, and after it, since an escape is longer than the
    // character that it stands for.
    cut(&clean(&cut(text, bytes_max)), bytes_max)
}

// Beside control characters those that turn the direction of writing: with them a text can read
// other than it is.
pub(crate) fn is_steering(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_between_characters() {
        assert_eq!(cut("grün", 5), "grün");
        assert_eq!(cut("grüner", 6), "gr…");
        assert_eq!(cut("grüner", 2), "");
    }

    #[test]
    fn escapes_count_as_well() {
        assert_eq!(shown("\u{1b}\u{1b}\u{1b}", 9), "\\u{1b}…");
    }

    #[test]
    fn other_scripts_stay_as_they_are() {
        assert_eq!(clean("größe 日本 🙂"), "größe 日本 🙂");
        assert_eq!(clean("a\u{202e}b\u{0}"), "a\\u{202e}b\\u{0}");
    }
}
