//! What a statement of a third party's plan is.
//!
//! Such a plan reads, changes rows, and fills scratch tables. Filling is DDL, and whoever makes a table owns it; so the
//! host recognises the three statements that `stepwell_sdk::scratch::fill` writes, and carries them out with text of its
//! own. Nothing else that begins with CREATE, DROP or ANALYZE is known here.

use stepwell_sql::lexer::{Token, TokenKind, tokens};
use stepwell_sql::{StatementKind, TableName, split, statement_kind};
use stepwell_workflow::StatementGrant;

/// A statement of a third party's plan, as far as the host has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Form<'a> {
    /// `DROP TABLE IF EXISTS table`.
    Clear(TableName),
    /// `CREATE UNLOGGED TABLE table AS select`, or `CREATE TABLE table WITH (autovacuum_enabled = off) AS select`.
    Fill {
        /// The table.
        table: TableName,
        /// The rows.
        select: &'a str,
    },
    /// `ANALYZE table`.
    Measure(TableName),
    /// A query that changes nothing.
    Read(&'a str),
    /// A statement that changes rows. What it needs besides SELECT.
    Change(&'a str, Vec<StatementGrant>),
}

const FORMS: &str = "a third party's step may read, change rows, and fill scratch tables with DROP TABLE IF EXISTS x, \
     CREATE UNLOGGED TABLE x AS SELECT …, ANALYZE x";

/// Returns what `sql` is, without what stands around it: comments in front, a semicolon at the end.
///
/// # Errors
///
/// What it is instead of one of the forms, to be put after "statement x".
pub(crate) fn form(sql: &str) -> Result<Form<'_>, String> {
    let statements = split(sql).map_err(|error| error.to_string())?;
    let [text] = statements[..] else {
        return Err(format!(
            "holds {} statements, expected one",
            statements.len()
        ));
    };
    let kind = statement_kind(text).map_err(|error| error.to_string())?;
    let tokens = tokens(text).map_err(|error| error.to_string())?;
    match kind {
        StatementKind::Query | StatementKind::Change | StatementKind::Truncate => {
            rows(text, &tokens, &kind)
        }
        StatementKind::Define | StatementKind::Analyze => {
            definition(text, &tokens).ok_or_else(|| format!("is none that may run: {FORMS}"))?
        }
        kind => Err(format!("is {}, which no step may run", super::words(&kind))),
    }
}

/// A statement about rows. Words that may change them count wherever they stand: `WITH x AS (DELETE …) SELECT`.
fn rows<'a>(text: &'a str, tokens: &[Token<'_>], kind: &StatementKind) -> Result<Form<'a>, String> {
    let has = |word: &str| tokens.iter().any(|token| is(token, word));
    if *kind == StatementKind::Query && has("into") && !has("insert") && !has("merge") {
        return Err(format!("makes a table with INTO: {FORMS}"));
    }
    let needs: Vec<_> = StatementGrant::ALL
        .into_iter()
        .filter(|grant| match grant {
            StatementGrant::Select => false,
            StatementGrant::Truncate => *kind == StatementKind::Truncate,
            grant => has(grant.word()),
        })
        .collect();
    Ok(match (kind, needs.is_empty()) {
        (StatementKind::Query, true) => Form::Read(text),
        _ => Form::Change(text, needs),
    })
}

/// One of the three statements that fill a scratch table; none if it is anything else.
fn definition<'a>(text: &'a str, tokens: &[Token<'_>]) -> Option<Result<Form<'a>, String>> {
    if let Some(rest) = after(tokens, &["drop", "table", "if", "exists"]) {
        let (table, rest) = name(rest)?;
        return rest.is_empty().then_some(Ok(Form::Clear(table)));
    }
    if let Some(rest) = after(tokens, &["analyze"]) {
        let (table, rest) = name(rest)?;
        return rest.is_empty().then_some(Ok(Form::Measure(table)));
    }
    let (table, rest) = match after(tokens, &["create", "unlogged", "table"]) {
        Some(rest) => name(rest)?,
        None => {
            let (table, rest) = name(after(tokens, &["create", "table"])?)?;
            (table, option(rest)?)
        }
    };
    let select = &text[after(rest, &["as"])?.first()?.start..];
    Some(match form(select) {
        Ok(Form::Read(select)) => Ok(Form::Fill { table, select }),
        Ok(_) => Err("fills a table from something that changes others".into()),
        Err(error) => Err(error),
    })
}

fn is(token: &Token<'_>, word: &str) -> bool {
    token.kind == TokenKind::Word && token.text.eq_ignore_ascii_case(word)
}

/// Returns the tokens after these words; none if others stand there.
fn after<'t, 'a>(tokens: &'t [Token<'a>], words: &[&str]) -> Option<&'t [Token<'a>]> {
    let (first, rest) = tokens.split_at_checked(words.len())?;
    let same = first.iter().zip(words).all(|(token, word)| is(token, word));
    same.then_some(rest)
}

/// Returns the tokens after the storage option of small scratch tables; none if anything else stands there.
fn option<'t, 'a>(tokens: &'t [Token<'a>]) -> Option<&'t [Token<'a>]> {
    const OPTION: [&str; 6] = ["with", "(", "autovacuum_enabled", "=", "off", ")"];
    let (first, rest) = tokens.split_at_checked(OPTION.len())?;
    let same = |(token, text): (&Token<'_>, &&str)| token.text.eq_ignore_ascii_case(text);
    first.iter().zip(&OPTION).all(same).then_some(rest)
}

/// Returns the table `schema.name` at the start; none if no such name stands there. One with escapes (`U&"…"`) is none.
fn name<'t, 'a>(tokens: &'t [Token<'a>]) -> Option<(TableName, &'t [Token<'a>])> {
    let ([schema, dot, name], rest) = tokens.split_first_chunk()?;
    let apart = schema.end() != dot.start || dot.end() != name.start;
    if dot.text != "." || apart {
        return None;
    }
    Some((TableName::new(schema.ident()?, name.ident()?), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn x() -> TableName {
        TableName::new("scratch", "x")
    }

    #[test]
    fn what_the_sdk_writes_is_known() {
        for (sql, expected) in [
            ("DROP TABLE IF EXISTS scratch.x", Form::Clear(x())),
            (
                "/* a */ drop table if exists \"scratch\".x ;",
                Form::Clear(x()),
            ),
            ("ANALYZE scratch.X", Form::Measure(x())),
            (
                "CREATE UNLOGGED TABLE scratch.x AS\nSELECT 1 AS a -- one",
                Form::Fill {
                    table: x(),
                    select: "SELECT 1 AS a",
                },
            ),
            (
                "CREATE UNLOGGED TABLE scratch.x AS WITH a AS (VALUES (1)) TABLE a",
                Form::Fill {
                    table: x(),
                    select: "WITH a AS (VALUES (1)) TABLE a",
                },
            ),
            (
                "CREATE TABLE scratch.x WITH (autovacuum_enabled = off) AS\nSELECT 1 AS a",
                Form::Fill {
                    table: x(),
                    select: "SELECT 1 AS a",
                },
            ),
            ("(SELECT 1)", Form::Read("(SELECT 1)")),
        ] {
            assert_eq!(form(sql), Ok(expected), "{sql}");
        }
    }

    #[test]
    fn what_changes_rows_says_what_it_needs() {
        use StatementGrant::{Delete, Insert, Truncate, Update};
        for (sql, expected) in [
            ("INSERT INTO a.b SELECT 1", vec![Insert]),
            (
                "WITH d AS (DELETE FROM a.b RETURNING 1) SELECT 1 FROM d",
                vec![Delete],
            ),
            (
                "insert into a.b values (1) on conflict do update set a = 1",
                vec![Insert, Update],
            ),
            (
                "MERGE INTO a.b USING c.d ON true WHEN MATCHED THEN DELETE",
                vec![Delete],
            ),
            ("TRUNCATE a.b", vec![Truncate]),
            ("SELECT 1 FROM a.b FOR UPDATE", vec![Update]),
        ] {
            assert_eq!(form(sql), Ok(Form::Change(sql, expected)), "{sql}");
        }
    }

    #[test]
    fn nothing_else_is_known() {
        for sql in [
            "CREATE TABLE scratch.x AS SELECT 1",
            "CREATE UNLOGGED TABLE scratch.x (a int)",
            "CREATE UNLOGGED TABLE scratch.x AS DELETE FROM a.b RETURNING 1",
            "CREATE UNLOGGED TABLE scratch.x AS WITH d AS (DELETE FROM a.b RETURNING 1) SELECT 1 FROM d",
            "CREATE UNLOGGED TABLE scratch.x AS EXECUTE p",
            "CREATE UNLOGGED TABLE scratch.x AS SELECT 1; SELECT 2",
            "CREATE UNLOGGED TABLE scratch.x AS SELECT 1 INTO y",
            "CREATE UNLOGGED TABLE x AS SELECT 1",
            "CREATE UNLOGGED TABLE U&\"scr\\0061tch\".x AS SELECT 1",
            "CREATE UNLOGGED TABLE IF NOT EXISTS scratch.x AS SELECT 1",
            "CREATE UNLOGGED TABLE scratch.x WITH (autovacuum_enabled = off) AS SELECT 1",
            "CREATE TABLE scratch.x WITH (autovacuum_enabled = on) AS SELECT 1",
            "CREATE TABLE scratch.x WITH (fillfactor = 10) AS SELECT 1",
            "CREATE TABLE scratch.x AS SELECT 1",
            "DROP TABLE IF EXISTS scratch.x CASCADE",
            "DROP TABLE IF EXISTS scratch.x, derived.y",
            "DROP TABLE scratch.x",
            "DROP SCHEMA scratch",
            "ANALYZE",
            "ANALYZE VERBOSE scratch.x",
            "VACUUM scratch.x",
            "ALTER ROLE a PASSWORD 'b'",
            "CREATE FUNCTION scratch.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "COMMENT ON TABLE scratch.x IS 'a'",
            "SELECT 1 INTO scratch.y",
            "COPY a.b FROM STDIN",
            "EXPLAIN ANALYZE DELETE FROM a.b",
            "GRANT SELECT ON a.b TO PUBLIC",
            "SELECT 'a",
        ] {
            assert!(form(sql).is_err(), "{sql}: {:?}", form(sql));
        }
    }
}
