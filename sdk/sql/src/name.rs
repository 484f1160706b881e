//! Names of tables and columns, always with their schema: `search_path` is pinned, so a bare name would mean nothing.

use std::fmt;
use std::str::FromStr;

use crate::quote_ident;

/// Longest identifier that Postgres keeps, in bytes (`NAMEDATALEN - 1`); it cuts longer ones without an error.
pub const IDENT_BYTES_MAX: usize = 63;

/// A table or view, with its schema.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    schema: String,
    name: String,
}

impl TableName {
    /// Returns the table `name` of `schema`; both as they are stored, without quotes.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            schema: schema.into(),
            name: name.into(),
        }
    }

    /// Returns the schema as it is stored, without quotes.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// Returns the table's name as it is stored, without quotes.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Writes the name as SQL reads it back, quoted where needed.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{}",
            quote_ident(&self.schema),
            quote_ident(&self.name)
        )
    }
}

impl FromStr for TableName {
    type Err = NameError;

    /// Reads `schema.table` as SQL would: unquoted parts are folded to lower case, quoted ones kept.
    fn from_str(text: &str) -> Result<Self, NameError> {
        match parts(text)?.as_slice() {
            [schema, name] => Ok(Self::new(schema, name)),
            found => Err(NameError::Parts {
                text: text.into(),
                expected: "schema.table",
                found: found.len(),
            }),
        }
    }
}

/// A column of a table, written `schema.table.column`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ColumnPath {
    /// The table that has the column.
    pub table: TableName,
    /// The column's name as it is stored, without quotes.
    pub column: String,
}

impl fmt::Display for ColumnPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.table, quote_ident(&self.column))
    }
}

impl FromStr for ColumnPath {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match parts(text)?.as_slice() {
            [schema, name, column] => Ok(Self {
                table: TableName::new(schema, name),
                column: column.clone(),
            }),
            found => Err(NameError::Parts {
                text: text.into(),
                expected: "schema.table.column",
                found: found.len(),
            }),
        }
    }
}

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Too few or too many parts between dots.
    #[error("expected {expected}, found {found} part(s) in \"{text}\"")]
    Parts {
        /// The text as it was given.
        text: String,
        /// The form expected.
        expected: &'static str,
        /// How many parts there were.
        found: usize,
    },
    /// A part that SQL would not read as an identifier.
    #[error(
        "expected a name of letters, digits and underscores, or one in double quotes, at byte {at} of \"{text}\""
    )]
    Syntax {
        /// The text as it was given.
        text: String,
        /// Byte offset of the part at fault.
        at: usize,
    },
    /// A part that Postgres would cut.
    #[error("name \"{part}\" is longer than {IDENT_BYTES_MAX} bytes")]
    TooLong {
        /// The part at fault.
        part: String,
    },
}

/// Splits a dotted name into its parts as SQL reads them.
fn parts(text: &str) -> Result<Vec<String>, NameError> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let at = text.len() - rest.len();
        let syntax = || NameError::Syntax {
            text: text.into(),
            at,
        };
        let (part, after) = part(rest).ok_or_else(syntax)?;
        if part.len() > IDENT_BYTES_MAX {
            return Err(NameError::TooLong { part });
        }
        parts.push(part);
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(parts),
            None => return Err(syntax()),
        }
    }
}

/// Reads one part from the start of `text`; none when no identifier stands there.
fn part(text: &str) -> Option<(String, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        let mut part = String::new();
        let mut chars = quoted.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' if chars.peek().is_some_and(|&(_, next)| next == '"') => {
                    chars.next();
                    part.push('"');
                }
                '"' if part.is_empty() => return None,
                '"' => return Some((part, &quoted[at + 1..])),
                '\0' => return None,
                _ => part.push(c),
            }
        }
        return None;
    }
    let starts = |c: char| c == '_' || c.is_alphabetic();
    let goes_on = |c: char| starts(c) || c == '$' || c.is_ascii_digit();
    let end = text.find(|c| !goes_on(c)).unwrap_or(text.len());
    // Postgres folds ASCII only in the common encodings; so do we.
    text.starts_with(starts)
        .then(|| (text[..end].to_ascii_lowercase(), &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_as_sql_does() {
        let name = |text: &str| text.parse::<TableName>().map(|n| (n.schema, n.name));
        assert_eq!(
            name("derived.Sessions"),
            Ok(("derived".into(), "sessions".into()))
        );
        assert_eq!(
            name("\"Odd.one\".\"a\"\"b\""),
            Ok(("Odd.one".into(), "a\"b".into()))
        );
        assert!(matches!(
            name("sessions"),
            Err(NameError::Parts { found: 1, .. })
        ));
        assert!(matches!(
            name("a.b.c"),
            Err(NameError::Parts { found: 3, .. })
        ));
        for text in [
            "",
            "a.",
            ".b",
            "a b.c",
            "a.b; DROP TABLE c",
            "a.\"b",
            "1a.b",
            "a.\"\"",
        ] {
            assert!(
                matches!(name(text), Err(NameError::Syntax { .. })),
                "{text}"
            );
        }
        assert!(matches!(
            name(&format!("a.{}", "b".repeat(64))),
            Err(NameError::TooLong { .. })
        ));
    }

    #[test]
    fn display_reads_back() {
        for text in ["derived.sessions", "\"Odd.one\".\"a\"\"b\"", "\"select\".t"] {
            let name: TableName = text.parse().unwrap();
            assert_eq!(name.to_string(), text);
            assert_eq!(name.to_string().parse(), Ok(name));
        }
    }

    #[test]
    fn column_paths_have_three_parts() {
        let path: ColumnPath = "derived.sessions.first_at".parse().unwrap();
        assert_eq!(path.table, TableName::new("derived", "sessions"));
        assert_eq!(path.column, "first_at");
        assert!("derived.sessions".parse::<ColumnPath>().is_err());
    }
}
