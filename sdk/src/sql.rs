//! SQL text that is put together from checked pieces.
//!
//! [`sql!`](crate::sql!) takes a pattern and named pieces; a piece is a table, an identifier, a literal, an expression of
//! the workflow file, or SQL built the same way. A plain string is none of these, so text from settings or from the
//! database cannot slip into a statement unquoted.
//!
//! ```
//! use stepwell_sdk::sql::{Ident, TableName};
//! use stepwell_sdk::sql;
//!
//! let table = TableName::new("derived", "sessions");
//! let statement = sql!("SELECT {column}\nFROM {table}", column = Ident("user"), table = table);
//! assert_eq!(statement.as_str(), "SELECT \"user\"\nFROM derived.sessions");
//! ```

use std::fmt;

pub use stepwell_sql::lexer;
pub use stepwell_sql::{
    ColumnPath, LexError, NameError, StatementKind, TableName, TemplateError, placeholders,
    quote_ident, quote_literal, render, split, statement_kind,
};

use crate::settings::{Expr, SqlText};

/// SQL that was put together by [`sql!`](crate::sql!) and [`join`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sql(String);

impl Sql {
    /// Takes `text` as SQL. For text that no piece can express, as the statements of a user's file.
    pub fn trusted(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Takes `text` as SQL, without the indentation that all lines after the first share.
    #[doc(hidden)]
    pub fn dedented(text: &str) -> Self {
        let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
        let lines = text.lines().skip(1).filter(|line| !line.trim().is_empty());
        let blank = " ".repeat(lines.map(indent).min().unwrap_or(0));
        Self(moved(text, |line| {
            line.strip_prefix(&blank).unwrap_or(line).to_owned()
        }))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the text with every line but the first moved right, for a piece that stands inside a statement.
    #[must_use]
    pub fn indented(&self, columns: usize) -> Self {
        let blank = " ".repeat(columns);
        Self(moved(&self.0, |line| format!("{blank}{line}")))
    }
}

impl From<Sql> for String {
    fn from(sql: Sql) -> Self {
        sql.0
    }
}

impl fmt::Display for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Changes the indentation of every line but the first. A line that begins inside a literal or a quoted name stays as it
/// is: there a space is part of the value.
fn moved(text: &str, line: impl Fn(&str) -> String) -> String {
    // A piece that is no SQL by itself, such as half of a literal, cannot be made: pieces quote themselves.
    let tokens = lexer::tokens(text).unwrap_or_default();
    let within = |at: usize| {
        tokens
            .iter()
            .any(|token| token.start < at && at < token.end())
    };
    let mut out = String::with_capacity(text.len() * 2);
    let mut at = 0;
    for (number, part) in text.split('\n').enumerate() {
        if number > 0 {
            out.push('\n');
        }
        match number == 0 || within(at) {
            true => out.push_str(part),
            false => out.push_str(&line(part)),
        }
        at += part.len() + 1;
    }
    out
}

/// A column or an alias, quoted where needed.
#[derive(Debug, Clone, Copy)]
pub struct Ident<'a>(pub &'a str);

/// A string literal.
#[derive(Debug, Clone, Copy)]
pub struct Literal<'a>(pub &'a str);

/// What [`sql!`](crate::sql!) accepts as a piece.
pub trait Piece {
    /// Returns the piece as SQL.
    fn piece(&self) -> String;
}

macro_rules! pieces {
    ($($type:ty => |$it:ident| $text:expr),* $(,)?) => {$(
        impl Piece for $type {
            fn piece(&self) -> String {
                let $it = self;
                $text
            }
        }
    )*};
}
pieces! {
    Sql => |it| it.0.clone(),
    TableName => |it| it.to_string(),
    Ident<'_> => |it| quote_ident(it.0),
    Literal<'_> => |it| quote_literal(it.0),
    Expr => |it| it.as_str().to_owned(),
    SqlText => |it| it.text.clone(),
    u32 => |it| it.to_string(),
    i64 => |it| it.to_string(),
}

impl<T: Piece> Piece for &T {
    fn piece(&self) -> String {
        T::piece(self)
    }
}

/// Puts pieces together with `separator` between them.
pub fn join<T: Piece>(pieces: impl IntoIterator<Item = T>, separator: &str) -> Sql {
    let pieces: Vec<_> = pieces.into_iter().map(|piece| piece.piece()).collect();
    Sql(pieces.join(separator))
}

/// Puts identifiers together as a list: `a, "B"`.
pub fn idents<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> Sql {
    let names: Vec<_> = names
        .into_iter()
        .map(|name| quote_ident(name.as_ref()))
        .collect();
    Sql(names.join(", "))
}

/// Builds [`Sql`](crate::sql::Sql) from a pattern and named pieces, each a [`Piece`](crate::sql::Piece).
///
/// Indentation that all lines after the first share is taken off, so that a statement can stand in the code where it is
/// used. Variables are not captured from the scope: each piece is named, and so checked.
#[macro_export]
macro_rules! sql {
    ($pattern:literal $(, $name:ident = $piece:expr)* $(,)?) => {
        // `concat!` keeps `format!` from capturing variables that are no pieces.
        $crate::sql::Sql::dedented(&format!(
            concat!($pattern),
            $($name = $crate::sql::Piece::piece(&$piece)),*
        ))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indentation_stops_at_literals() {
        let piece = Sql::trusted("SELECT 'a\n  b',\n  c");
        assert_eq!(piece.indented(2).as_str(), "SELECT 'a\n  b',\n    c");
        let sql = crate::sql!("SELECT 1,\n    {piece}\n    FROM t", piece = piece);
        assert_eq!(sql.as_str(), "SELECT 1,\n  SELECT 'a\n  b',\nc\n  FROM t");
    }

    #[test]
    fn pieces_are_quoted() {
        let table = TableName::new("a b", "c");
        let sql = crate::sql!(
            "SELECT {columns} FROM {table} WHERE x = {text}",
            columns = idents(["a", "B"]),
            table = table,
            text = Literal("it's"),
        );
        assert_eq!(
            sql.as_str(),
            "SELECT a, \"B\" FROM \"a b\".c WHERE x = 'it''s'"
        );
    }
}
