//! Cuts SQL into tokens as PostgreSQL's scanner does, as far as it matters for where words begin and end.
//!
//! Followed: nested block comments, line comments that end at LF or CR, string literals (plain, `E''`, `B''`, `X''`,
//! `N''`, `U&''`), quoted identifiers, dollar quotes, parameters. Where the scanner cannot be sure it refuses, so that a
//! caller who forbids things is never lenient by mistake.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// An unquoted word: keyword or identifier.
    Word,
    /// An identifier in double quotes, `U&"…"` included.
    QuotedIdent,
    /// A string literal of any kind, dollar quotes included.
    String,
    /// A number.
    Number,
    /// `$1`.
    Param,
    /// `;`.
    Semicolon,
    /// Any other single character: operators, brackets, commas.
    Symbol,
}

/// One token and where it stands, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// What it is.
    pub kind: TokenKind,
    /// Its text, quotes included.
    pub text: &'a str,
    /// Byte offset of its first byte.
    pub start: usize,
}

impl Token<'_> {
    /// Returns the name that an identifier token stands for: folded or unquoted; none for other tokens and for `U&"…"`.
    pub fn ident(&self) -> Option<String> {
        match self.kind {
            TokenKind::Word => Some(self.text.to_ascii_lowercase()),
            TokenKind::QuotedIdent => {
                let inner = self.text.strip_prefix('"')?.strip_suffix('"')?;
                Some(inner.replace("\"\"", "\""))
            }
            _ => None,
        }
    }

    /// Byte offset just after the token.
    pub fn end(&self) -> usize {
        self.start + self.text.len()
    }
}

/// SQL text that does not end where it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} that begins at byte {start} is never closed")]
pub struct LexError {
    /// What was left open.
    pub what: &'static str,
    /// Byte offset at which it begins.
    pub start: usize,
}

/// Returns the tokens of `sql`, without white space and comments.
///
/// # Errors
///
/// [`LexError`] if a comment, a literal or a quoted identifier is never closed.
pub fn tokens(sql: &str) -> Result<Vec<Token<'_>>, LexError> {
    let mut lexer = Lexer { sql, at: 0 };
    let mut tokens = Vec::new();
    while let Some(token) = lexer.next_token()? {
        tokens.push(token);
    }
    Ok(tokens)
}

struct Lexer<'a> {
    sql: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.sql[self.at..]
    }

    fn next_token(&mut self) -> Result<Option<Token<'a>>, LexError> {
        self.skip_blank()?;
        let start = self.at;
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Ok(None);
        };
        let (kind, length) = match first {
            ';' => (TokenKind::Semicolon, 1),
            '\'' => (
                TokenKind::String,
                self.quoted('\'', false, 0, "string literal")?,
            ),
            '"' => (
                TokenKind::QuotedIdent,
                self.quoted('"', false, 0, "quoted identifier")?,
            ),
            '$' => self.dollar()?,
            '0'..='9' => {
                let length = number_length(rest);
                if rest[length..].starts_with('$') {
                    // Servers differ in whether a name or a dollar-quoted literal goes on here.
                    let what = "number with a \"$\" behind it";
                    return Err(LexError { what, start });
                }
                (TokenKind::Number, length)
            }
            '.' if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                (TokenKind::Number, 1 + number_length(&rest[1..]))
            }
            c if starts_word(c) => self.word_or_prefixed()?,
            c => (TokenKind::Symbol, c.len_utf8()),
        };
        self.at += length;
        Ok(Some(Token {
            kind,
            text: &self.sql[start..self.at],
            start,
        }))
    }

    /// Skips white space and comments. White space is what Postgres takes for it, and nothing more: a no-break space
    /// before a keyword is a syntax error there, and a symbol here.
    fn skip_blank(&mut self) -> Result<(), LexError> {
        loop {
            let rest = self.rest();
            if rest.starts_with([' ', '\t', '\n', '\r', '\x0c']) {
                self.at += 1;
            } else if rest.starts_with("--") {
                self.at += rest.find(['\n', '\r']).unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                self.at += block_comment_length(rest).ok_or(LexError {
                    what: "comment",
                    start: self.at,
                })?;
            } else {
                return Ok(());
            }
        }
    }

    /// Length of the quoted text whose opening quote stands `prefix` bytes after the current position.
    fn quoted(
        &self,
        quote: char,
        backslashes: bool,
        prefix: usize,
        what: &'static str,
    ) -> Result<usize, LexError> {
        let rest = self.rest();
        let body = &rest[prefix + 1..];
        let mut chars = body.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if backslashes && c == '\\' {
                chars.next();
            } else if c == quote {
                if chars.peek().is_some_and(|&(_, next)| next == quote) {
                    chars.next();
                } else {
                    return Ok(prefix + 1 + at + 1);
                }
            }
        }
        Err(LexError {
            what,
            start: self.at,
        })
    }

    /// Length of an `E''` literal. It may go on after white space with a line end in it, and there backslashes still
    /// escape; as a literal of its own what follows would end elsewhere.
    fn escaped(&self) -> Result<usize, LexError> {
        let what = "string literal";
        let mut length = self.quoted('\'', true, 1, what)?;
        loop {
            let mut next = Lexer {
                sql: self.sql,
                at: self.at + length,
            };
            next.skip_blank()?;
            let between = &self.sql[self.at + length..next.at];
            if !next.rest().starts_with('\'') || !between.contains(['\n', '\r']) {
                return Ok(length);
            }
            length = next.at - self.at + next.quoted('\'', true, 0, what)?;
        }
    }

    /// A parameter, a dollar-quoted literal, or a lone `$`.
    fn dollar(&self) -> Result<(TokenKind, usize), LexError> {
        let rest = self.rest();
        let digits = rest[1..].bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 {
            return Ok((TokenKind::Param, 1 + digits));
        }
        let tag = rest[1..].find(|c: char| !(starts_word(c) || c.is_ascii_digit()));
        match tag.map(|end| end + 1) {
            Some(end) if rest[end..].starts_with('$') => {
                let delimiter = &rest[..=end];
                let body = &rest[delimiter.len()..];
                let close = body.find(delimiter).ok_or(LexError {
                    what: "dollar-quoted literal",
                    start: self.at,
                })?;
                Ok((TokenKind::String, delimiter.len() * 2 + close))
            }
            _ => Ok((TokenKind::Symbol, 1)),
        }
    }

    fn word_or_prefixed(&self) -> Result<(TokenKind, usize), LexError> {
        let rest = self.rest();
        let length = rest.find(|c| !continues_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(length);
        match word {
            "e" | "E" if after.starts_with('\'') => Ok((TokenKind::String, self.escaped()?)),
            "b" | "B" | "x" | "X" | "n" | "N" if after.starts_with('\'') => Ok((
                TokenKind::String,
                self.quoted('\'', false, 1, "string literal")?,
            )),
            "u" | "U" if after.starts_with("&'") => Ok((
                TokenKind::String,
                self.quoted('\'', false, 2, "string literal")?,
            )),
            "u" | "U" if after.starts_with("&\"") => Ok((
                TokenKind::QuotedIdent,
                self.quoted('"', false, 2, "quoted identifier")?,
            )),
            _ => Ok((TokenKind::Word, length)),
        }
    }
}

fn starts_word(c: char) -> bool {
    c == '_' || c.is_ascii_alphabetic() || !c.is_ascii()
}

fn continues_word(c: char) -> bool {
    starts_word(c) || c == '$' || c.is_ascii_digit()
}

fn number_length(text: &str) -> usize {
    let mut length = 0;
    let mut previous = '0';
    for c in text.chars() {
        let sign = matches!(c, '+' | '-') && matches!(previous, 'e' | 'E');
        if !(c.is_ascii_alphanumeric() || c == '.' || c == '_' || sign) {
            break;
        }
        length += 1;
        previous = c;
    }
    length
}

/// Length of the block comment at the start of `text`; none if it is never closed.
fn block_comment_length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0_u32);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => {
                depth += 1;
                at += 2;
            }
            b"*/" => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(sql: &str) -> Vec<&str> {
        tokens(sql).unwrap().into_iter().map(|t| t.text).collect()
    }

    #[test]
    fn literals_are_one_token_whatever_they_hold() {
        assert_eq!(
            texts("SELECT 'a;b''c', E'it\\'s;', \"x\"\";y\""),
            ["SELECT", "'a;b''c'", ",", "E'it\\'s;'", ",", "\"x\"\";y\""]
        );
        assert_eq!(
            texts("$$ a; $b$ $$ $q$ $$ ; $q$ $1"),
            ["$$ a; $b$ $$", "$q$ $$ ; $q$", "$1"]
        );
        assert_eq!(
            texts("U&\"d\\0061\" U&'x' a$b$c"),
            ["U&\"d\\0061\"", "U&'x'", "a$b$c"]
        );
    }

    #[test]
    fn comments_end_where_postgres_ends_them() {
        assert_eq!(texts("/* a /* b */ select */ commit"), ["commit"]);
        assert_eq!(texts("-- x\rcommit"), ["commit"]);
        assert_eq!(texts("a--b\n+c"), ["a", "+", "c"]);
    }

    #[test]
    fn open_ends_are_refused() {
        for (sql, what) in [
            ("SELECT 'a", "string literal"),
            ("/* /* */", "comment"),
            ("$a$ b", "dollar-quoted literal"),
            ("\"a", "quoted identifier"),
            ("E'\\'", "string literal"),
        ] {
            assert_eq!(tokens(sql).unwrap_err().what, what, "{sql}");
        }
    }

    /// Taken for literals of their own, the parts would end elsewhere, and code would look like text.
    #[test]
    fn an_escaping_literal_goes_on_after_a_line_end() {
        assert_eq!(
            texts("E'a'\n'b\\'' , c, 'd'"),
            ["E'a'\n'b\\''", ",", "c", ",", "'d'"]
        );
        assert_eq!(
            texts("E'a' -- x\n 'b\\'' , c"),
            ["E'a' -- x\n 'b\\''", ",", "c"]
        );
        assert_eq!(
            texts("E'a' || 'b\\' , c"),
            ["E'a'", "|", "|", "'b\\'", ",", "c"]
        );
        assert!(tokens("SELECT 1a$$, 2, $$").is_err());
    }

    #[test]
    fn numbers_do_not_swallow_operators() {
        assert_eq!(
            texts("1.5e-3-a .5 1..2"),
            ["1.5e-3", "-", "a", ".5", "1..2"]
        );
    }

    #[test]
    fn identifiers_fold_as_names_do() {
        let idents: Vec<_> = tokens("Foo \"Bar\"")
            .unwrap()
            .iter()
            .filter_map(Token::ident)
            .collect();
        assert_eq!(idents, ["foo", "Bar"]);
    }
}
