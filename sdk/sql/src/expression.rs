//! Whether an expression stays within itself when it is put into a statement.

use crate::lexer::{LexError, Token, TokenKind, tokens};

/// Why a text is no expression that is closed in itself. Each word says where, in bytes from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// There is nothing but white space and comments.
    #[error("expected an SQL expression, found nothing")]
    Empty,
    /// A comment, a literal or a quoted identifier is never closed.
    #[error(transparent)]
    Lex(#[from] LexError),
    /// A bracket has no counterpart.
    #[error(transparent)]
    Bracket(#[from] BracketError),
    /// There is more than one expression.
    #[error("`;` at byte {start} ends the expression, which has to be one")]
    Semicolon {
        /// Byte offset of the semicolon.
        start: usize,
    },
}

/// A round or square bracket without its counterpart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{bracket}` at byte {start} {}", if matches!(bracket, '(' | '[') { "is never closed" } else { "closes no bracket" })]
pub struct BracketError {
    /// The bracket.
    pub bracket: char,
    /// Byte offset at which it stands.
    pub start: usize,
}

/// Returns the tokens of a text that is one expression: put between brackets it cannot change the statement around it.
///
/// # Errors
///
/// [`ExpressionError`] at the first thing that is wrong.
pub fn expression(sql: &str) -> Result<Vec<Token<'_>>, ExpressionError> {
    let tokens = tokens(sql)?;
    if let Some(semicolon) = tokens.iter().find(|t| t.kind == TokenKind::Semicolon) {
        let start = semicolon.start;
        return Err(ExpressionError::Semicolon { start });
    }
    brackets(&tokens)?;
    match tokens.is_empty() {
        true => Err(ExpressionError::Empty),
        false => Ok(tokens),
    }
}

/// Looks for the counterpart of each round and square bracket.
///
/// # Errors
///
/// [`BracketError`] for the first that closes none or another kind; where there is none such, for the innermost that is
/// left open.
pub fn brackets(tokens: &[Token<'_>]) -> Result<(), BracketError> {
    let mut open: Vec<(char, usize)> = Vec::new();
    for token in tokens.iter().filter(|t| t.kind == TokenKind::Symbol) {
        let bracket = token.text.chars().next().unwrap_or_default();
        let start = token.start;
        let opening = match bracket {
            '(' | '[' => {
                open.push((bracket, start));
                continue;
            }
            ')' => '(',
            ']' => '[',
            _ => continue,
        };
        match open.pop() {
            Some((found, _)) if found == opening => {}
            _ => return Err(BracketError { bracket, start }),
        }
    }
    match open.pop() {
        Some((bracket, start)) => Err(BracketError { bracket, start }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_one_and_closed() {
        for (text, message) in [
            ("", "expected an SQL expression, found nothing"),
            (" -- a", "expected an SQL expression, found nothing"),
            (
                "a;",
                "`;` at byte 1 ends the expression, which has to be one",
            ),
            ("count(*", "`(` at byte 5 is never closed"),
            ("a) FROM b --", "`)` at byte 1 closes no bracket"),
            ("(a[1)]", "`)` at byte 4 closes no bracket"),
            ("'a", "string literal that begins at byte 0 is never closed"),
        ] {
            assert_eq!(expression(text).unwrap_err().to_string(), message, "{text}");
        }
        for text in ["a", "(array_agg(b ORDER BY c))[1]", "')' || \"(\" /* ( */"] {
            assert!(expression(text).is_ok(), "{text}");
        }
    }
}
