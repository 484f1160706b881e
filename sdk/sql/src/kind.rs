//! Where statements end and what they begin with.

use crate::lexer::{LexError, TokenKind, tokens};

/// What a statement begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatementKind {
    /// SELECT, VALUES, TABLE or WITH. It may still write: `WITH x AS (DELETE …)`, `SELECT … INTO`.
    Query,
    /// INSERT, UPDATE, DELETE or MERGE.
    Change,
    /// TRUNCATE.
    Truncate,
    /// CREATE, ALTER, DROP or COMMENT.
    Define,
    /// ANALYZE.
    Analyze,
    /// VACUUM, REINDEX or CLUSTER.
    Maintain,
    /// Anything else: transaction control, session state, COPY, DO, CALL, LOCK, LISTEN, GRANT, … The first word, in
    /// lower case.
    Other(String),
    /// No statement at all: blank, comments or semicolons.
    Empty,
}

/// Returns what `sql`, one statement, begins with: the first word after white space, comments, semicolons and opening
/// brackets.
///
/// # Errors
///
/// [`LexError`] if the text cannot be cut into tokens with certainty.
pub fn statement_kind(sql: &str) -> Result<StatementKind, LexError> {
    let tokens = tokens(sql)?;
    let first = tokens
        .iter()
        .find(|t| t.kind != TokenKind::Semicolon && t.text != "(");
    let Some(first) = first else {
        return Ok(StatementKind::Empty);
    };
    if first.kind != TokenKind::Word {
        return Ok(StatementKind::Other(first.text.to_owned()));
    }
    let word = first.text.to_ascii_lowercase();
    Ok(match word.as_str() {
        "select" | "values" | "table" | "with" => StatementKind::Query,
        "insert" | "update" | "delete" | "merge" => StatementKind::Change,
        "truncate" => StatementKind::Truncate,
        "create" | "alter" | "drop" | "comment" => StatementKind::Define,
        "analyze" | "analyse" => StatementKind::Analyze,
        "vacuum" | "reindex" | "cluster" => StatementKind::Maintain,
        _ => StatementKind::Other(word),
    })
}

/// Returns the statements of `sql`, trimmed, without those that are blank. The text between two semicolons is one
/// statement; bodies written `BEGIN ATOMIC … END` are not understood and come out in pieces.
///
/// # Errors
///
/// [`LexError`] if a literal or a comment is never closed.
pub fn split(sql: &str) -> Result<Vec<&str>, LexError> {
    let mut statements = Vec::new();
    let mut first: Option<usize> = None;
    let mut end = 0;
    for token in tokens(sql)? {
        if token.kind == TokenKind::Semicolon {
            statements.extend(first.take().map(|start| &sql[start..end]));
        } else {
            first.get_or_insert(token.start);
            end = token.end();
        }
    }
    statements.extend(first.map(|start| &sql[start..end]));
    Ok(statements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_cannot_be_hidden() {
        for sql in [
            "commit",
            ";; commit",
            "/* a /* b */ select */ commit",
            "-- x\rcommit",
            "-- select\n COMMIT",
            "((commit",
            "\x0c\tcommit and chain",
        ] {
            assert_eq!(
                statement_kind(sql).unwrap(),
                StatementKind::Other("commit".into()),
                "{sql}"
            );
        }
        for sql in [
            "set role none",
            "reset role",
            "do $$x$$",
            "copy t from stdin",
            "lock t",
            "listen a",
            "call p()",
            "begin",
            "explain select 1",
            "grant select on t to u",
        ] {
            assert!(
                matches!(statement_kind(sql).unwrap(), StatementKind::Other(_)),
                "{sql}"
            );
        }
        for sql in [
            "\u{a0}select 1",
            "\u{feff}select 1",
            "\x0bselect 1",
            "U&\"x\" 1",
            "$1",
        ] {
            assert!(
                matches!(statement_kind(sql).unwrap(), StatementKind::Other(_)),
                "{sql}"
            );
        }
    }

    #[test]
    fn kinds() {
        assert_eq!(statement_kind("(select 1)").unwrap(), StatementKind::Query);
        assert_eq!(
            statement_kind("WITH a AS (SELECT 1) INSERT INTO t").unwrap(),
            StatementKind::Query
        );
        assert_eq!(
            statement_kind("merge into t").unwrap(),
            StatementKind::Change
        );
        assert_eq!(
            statement_kind("Vacuum (analyze) t").unwrap(),
            StatementKind::Maintain
        );
        assert_eq!(
            statement_kind(" ; -- nothing").unwrap(),
            StatementKind::Empty
        );
    }

    #[test]
    fn splits_at_semicolons_of_the_statement_level_only() {
        let sql = "-- one; two\nSELECT ';' ; ; UPDATE t SET a = $$;$$ /* ; */ WHERE b\n;";
        assert_eq!(
            split(sql).unwrap(),
            ["SELECT ';'", "UPDATE t SET a = $$;$$ /* ; */ WHERE b"]
        );
        assert_eq!(split("SELECT 1").unwrap(), ["SELECT 1"]);
        assert_eq!(split(" -- nothing").unwrap(), [""; 0]);
    }
}
