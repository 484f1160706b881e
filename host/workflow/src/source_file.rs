//! The text of a workflow file, places in it, and which parts of it must never be shown.

use std::path::{Path, PathBuf};

/// A workflow file as it may be shown: passwords in connection strings are written as `*`, byte for
/// byte, so that every [`Span`] holds for the shown text too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// The path as the user gave it.
    pub path: PathBuf,
    /// The text, with passwords masked.
    pub text: String,
}

impl SourceFile {
    /// Returns the file for showing; passwords in `text` are masked here, so no holder of a
    /// `SourceFile` can leak one.
    pub fn new(path: impl Into<PathBuf>, text: &str) -> Self {
        Self {
            path: path.into(),
            text: mask_secrets(text),
        }
    }

    /// Returns line and column of the byte `offset`, both from 1; the column counts characters.
    ///
    /// An offset past the end gives the place after the last character.
    pub fn line_column(&self, offset: usize) -> (usize, usize) {
        line_column(&self.text, offset)
    }

    /// Returns the folder that paths in the file are relative to; empty for a bare file name.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }
}

/// A part of the file: byte offsets, start included, end excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// The byte after the last one.
    pub end: usize,
}

impl Span {
    /// Returns the span from `start` (included) to `end` (excluded).
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// Returns the part of the span on its first line, without trailing white space: what a message
    /// underlines.
    pub(crate) fn first_line(self, text: &str) -> Self {
        let part = text.get(self.start..self.end).unwrap_or("");
        let line = part.lines().next().unwrap_or("").trim_end();
        Self::new(self.start, self.start + line.len())
    }
}

/// Returns line and column of a byte, from 1.
pub(crate) fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    // A byte order mark is no character of the first line.
    let skipped = text.len() - text.trim_start_matches('\u{feff}').len();
    let before = &text[skipped.min(offset)..offset];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.matches('\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

/// Returns `text` with each password in a connection string, and each value of a key named like
/// one, replaced by as many `*` as it has bytes.
///
/// The text is searched rather than the parsed file, because a file that is not YAML is shown too.
/// What is masked without need costs a little clarity; what is shown without need cannot be taken
/// back.
pub(crate) fn mask_secrets(text: &str) -> String {
    let mut secrets = url_passwords(text);
    secrets.extend(named_passwords(text, &['=', ':']));
    masked(text, secrets)
}

/// Returns a message as it may be shown, on one line: passwords as in [`mask_secrets`], except
/// after `:`, which in a message follows the name of any key or column.
pub(crate) fn mask_message(message: &str) -> String {
    let mut secrets = url_passwords(message);
    secrets.extend(named_passwords(message, &['=']));
    let shown = masked(message, secrets);
    // A plugin's words go to a terminal, which obeys control characters.
    shown.replace(|c: char| c.is_control(), " ")
}

fn masked(text: &str, secrets: Vec<Span>) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for span in secrets {
        bytes[span.start..span.end].fill(b'*');
    }
    // Spans begin and end at ASCII characters, hence between characters.
    String::from_utf8(bytes).unwrap_or_default()
}

/// Returns the part between `:` and the last `@` of each `scheme://user:password@host`.
fn url_passwords(text: &str) -> Vec<Span> {
    let mut spans = Vec::new();
    for (at, _) in text.match_indices("://") {
        let start = at + 3;
        let rest = &text[start..];
        let ends = |c: char| c.is_whitespace() || c == '"' || c == '\'';
        let token = &rest[..rest.find(ends).unwrap_or(rest.len())];
        let Some(user_end) = token.rfind('@') else {
            continue;
        };
        let Some(colon) = token[..user_end].find(':') else {
            continue;
        };
        let password = &token[colon + 1..user_end];
        if !refers(password) {
            spans.push(Span::new(start + colon + 1, start + user_end));
        }
    }
    spans
}

/// Returns the values after `password` and one of the separators.
fn named_passwords(text: &str, separators: &[char]) -> Vec<Span> {
    let lower = text.to_ascii_lowercase();
    let mut spans = Vec::new();
    for word in ["password", "passwd"] {
        for (at, _) in lower.match_indices(word) {
            let rest = &text[at + word.len()..];
            let rest = rest.strip_prefix(['"', '\'']).unwrap_or(rest);
            let rest = rest.trim_start_matches([' ', '\t']);
            let Some(separator) = rest.chars().next().filter(|c| separators.contains(c)) else {
                continue;
            };
            let value = rest[1..].trim_start_matches([' ', '\t']);
            let start = text.len() - text[at..].len() + (text[at..].len() - value.len());
            let end = match value.chars().next() {
                Some(quote @ ('"' | '\'')) => value[1..].find(quote).map(|end| end + 1),
                _ if separator == '=' => {
                    value.find(|c: char| c.is_whitespace() || "&\"',}".contains(c))
                }
                _ => value.find(['\n', '\r', ',', '}', '#']),
            };
            let value = value[..end.unwrap_or(value.len())].trim_end();
            if !value.is_empty() && !refers(&text[start..]) {
                spans.push(Span::new(start, start + value.len()));
            }
        }
    }
    spans
}

/// Whether a value is `${env:NAME}` or the like, which names a secret and is none.
fn refers(value: &str) -> bool {
    value.trim_start_matches(['"', '\'']).starts_with("${")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_lines_end_with_or_without_cr() {
        let text = "a: ü\r\nb: é→x\n";
        assert_eq!(line_column(text, 0), (1, 1));
        assert_eq!(line_column(text, text.find('ü').unwrap()), (1, 4));
        assert_eq!(line_column(text, text.find('x').unwrap()), (2, 6));
        assert_eq!(line_column(text, 1000), (3, 1));
        assert_eq!(line_column("\u{feff}a: 1", 3), (1, 1));
        assert_eq!(line_column("\u{feff}a: 1", 0), (1, 1));
    }

    #[test]
    fn first_line_of_a_block_has_no_carriage_return() {
        let text = "a: x\r\nb: y\r\n";
        assert_eq!(Span::new(0, text.len()).first_line(text), Span::new(0, 4));
    }

    #[test]
    fn passwords_are_masked_byte_for_byte() {
        for (text, masked) in [
            ("url: postgres://a:b@c/d", "url: postgres://a:*@c/d"),
            ("'postgres://a:p@ss@h/d'", "'postgres://a:****@h/d'"),
            (
                "url: host=x password=é1 user=y",
                "url: host=x password=*** user=y",
            ),
            ("password: hunter two # x", "password: ********** # x"),
            (
                "{ \"password\": \"a b\", x: 1 }",
                "{ \"password\": ****\", x: 1 }",
            ),
            ("postgres://a:${env:PW}@c/d", "postgres://a:${env:PW}@c/d"),
            ("password: ${env:PW}", "password: ${env:PW}"),
            ("postgres://a@c/d", "postgres://a@c/d"),
            ("see https://example.com/a:b", "see https://example.com/a:b"),
        ] {
            assert_eq!(mask_secrets(text), masked);
            assert_eq!(mask_secrets(text).len(), text.len());
        }
    }
}
