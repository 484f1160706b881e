//! Words that name things in a workflow file.

use std::fmt;
use std::str::FromStr;

/// Longest name of a playbook, in bytes. With `__` and an alias it is the name of a table, which
/// has 63.
pub const PLAYBOOK_BYTES_MAX: usize = 40;

/// The name of a playbook: lower-case words, `[a-z][a-z0-9_]*`, at most [`PLAYBOOK_BYTES_MAX`]
/// bytes, without `__`.
///
/// Scratch tables are named `<playbook>__<alias>`; since no playbook has `__` in its name, two
/// playbooks never share a scratch table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Playbook(String);

impl Playbook {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Playbook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Playbook {
    type Err = PlaybookError;

    fn from_str(text: &str) -> Result<Self, PlaybookError> {
        if text.len() > PLAYBOOK_BYTES_MAX {
            Err(PlaybookError::TooLong)
        } else if !is_word(text) {
            Err(PlaybookError::NotAWord)
        } else if text.contains("__") {
            Err(PlaybookError::DoubleUnderscore)
        } else {
            Ok(Self(text.to_owned()))
        }
    }
}

/// Why a text is not the name of a playbook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlaybookError {
    /// Other characters than lower-case words have.
    #[error(
        "expected a name of lower-case letters, digits and underscores that begins with a letter"
    )]
    NotAWord,
    /// `__`, which separates the playbook from the alias in the names of scratch tables.
    #[error("expected a name without two underscores in a row")]
    DoubleUnderscore,
    /// Longer than [`PLAYBOOK_BYTES_MAX`].
    #[error("expected a name of at most {PLAYBOOK_BYTES_MAX} characters")]
    TooLong,
}

/// Whether a text is `[a-z][a-z0-9_]*`, which SQL reads the same with and without quotes.
pub(crate) fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Whether a text is lower-case words joined by `_`. Without `__`, which a step puts between its
/// alias and the names of further tables of its own, the tables of two aliases are never the same.
pub(crate) fn is_alias(text: &str) -> bool {
    is_word(text) && !text.contains("__") && !text.ends_with('_')
}

/// Whether a text is `[a-z][a-z0-9_-]*` of at most 64 bytes: the id of a step, the name of a
/// plugin.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn playbooks_are_words() {
        for text in ["sessions", "page_views_2", "a"] {
            assert_eq!(text.parse::<Playbook>().unwrap().as_str(), text);
        }
        for (text, error) in [
            ("", PlaybookError::NotAWord),
            ("Sessions", PlaybookError::NotAWord),
            ("2a", PlaybookError::NotAWord),
            ("a-b", PlaybookError::NotAWord),
            ("é", PlaybookError::NotAWord),
            ("a__b", PlaybookError::DoubleUnderscore),
            (
                "abcdefghijabcdefghijabcdefghijabcdefghijk",
                PlaybookError::TooLong,
            ),
        ] {
            assert_eq!(text.parse::<Playbook>(), Err(error), "{text}");
        }
    }
}
