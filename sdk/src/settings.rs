//! The types that settings are made of.
//!
//! Each one checks what it reads and carries a mark in its JSON Schema (`x-stepwell`) that tells the host what the value
//! stands for: so `stepwell check` finds a scratch table that nobody fills, and the host knows which tables a step may
//! touch, without running the step.

mod place;

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use stepwell_sql::expression;
use stepwell_sql::lexer::{Token, TokenKind, tokens};

use crate::Failure;
use crate::schema::{Json, Settings};
use crate::sql::{ColumnPath, TableName, quote_ident};

/// Reads a step's settings.
///
/// # Errors
///
/// [`Failure`] with code `settings` that says what is wrong and points at the setting.
pub fn read<S: de::DeserializeOwned>(json: &str) -> Result<S, Failure> {
    serde_json::from_str(json).map_err(|error| {
        let text = error.to_string();
        // The place is one in a text that nobody has seen: the pointer says it better.
        let message = text
            .rsplit_once(" at line ")
            .map_or(text.as_str(), |(message, _)| message);
        let about = match message.starts_with("missing field") {
            true => place::About::Whole,
            false => place::About::Value,
        };
        Failure::new("settings", message).with_setting(place::pointer(
            json,
            error.line(),
            error.column(),
            about,
        ))
    })
}

macro_rules! alias {
    ($(#[$doc:meta])* $name:ident, $mark:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Returns the word that the workflow file uses for the table.
            pub fn alias(&self) -> &str {
                &self.0
            }
        }

        impl Settings for $name {
            const SCHEMA: Json = Json::raw(concat!(
                "{\"type\":\"string\",\"pattern\":\"^[a-z][a-z0-9]*(_[a-z0-9]+)*$\",\"x-stepwell\":\"",
                $mark,
                "\"}"
            ));
        }
    };
}

alias! {
    /// A scratch table that an earlier step fills.
    ScratchInput, "reads-scratch"
}
alias! {
    /// A scratch table that this step fills. Tables whose alias begins with this one and two underscores are its own too.
    ScratchOutput, "writes-scratch"
}

macro_rules! table {
    ($(#[$doc:meta])* $name:ident, $mark:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name(pub TableName);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map(Self).map_err(de::Error::custom)
            }
        }

        impl Settings for $name {
            const SCHEMA: Json =
                Json::raw(concat!("{\"type\":\"string\",\"x-stepwell\":\"", $mark, "\"}"));
        }
    };
}

table! {
    /// A table that this step reads, `schema.table`.
    ReadTable, "reads-table"
}
table! {
    /// A derived table that this step changes, `schema.table`.
    DerivedTable, "writes-derived"
}

table! {
    /// A table that this step vacuums or analyses, `schema.table`; its rows stay as they are.
    MaintainedTable, "maintains-table"
}

/// A column that this step reads, `schema.table.column`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadColumn(pub ColumnPath);

impl<'de> Deserialize<'de> for ReadColumn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map(Self)
            .map_err(de::Error::custom)
    }
}

impl Settings for ReadColumn {
    const SCHEMA: Json = Json::raw("{\"type\":\"string\",\"x-stepwell\":\"reads-column\"}");
}

/// An SQL expression over the columns of the events: one expression, closed in itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expr(String);

impl Expr {
    /// Reads an expression.
    ///
    /// # Errors
    ///
    /// A sentence if the text is empty, has a semicolon, or leaves a bracket, literal or comment open: such a text would
    /// change the statement around it.
    pub fn new(text: impl Into<String>) -> Result<Self, String> {
        let text: String = text.into();
        let end = match expression(&text) {
            // A comment after the last token could swallow what follows in the statement.
            Ok(tokens) => tokens.last().map_or(0, Token::end),
            Err(error) => return Err(error.to_string()),
        };
        Ok(Self(text[..end].trim_start().to_owned()))
    }

    /// Returns the expression that is one column.
    pub fn column(name: &str) -> Self {
        Self(quote_ident(name))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the words in the text that may name a column, as they are stored.
    pub fn idents(&self) -> Vec<String> {
        idents(&self.0)
    }

    /// Returns the column's name if the expression is one bare column.
    pub fn as_column(&self) -> Option<String> {
        match tokens(&self.0).ok()?.as_slice() {
            [token] => token.ident(),
            _ => None,
        }
    }
}

/// Returns the words of an SQL text that may name a column: more than there are, never fewer.
pub fn idents(sql: &str) -> Vec<String> {
    let tokens = tokens(sql).unwrap_or_default();
    let mut idents: Vec<_> = tokens.iter().filter_map(|token| token.ident()).collect();
    idents.sort();
    idents.dedup();
    idents
}

/// Whether an SQL text may name all columns at once, with a star that is no multiplication and not `count(*)`.
pub fn has_star(sql: &str) -> bool {
    let tokens = tokens(sql).unwrap_or_default();
    tokens.iter().enumerate().any(|(at, token)| {
        let before = at.checked_sub(1).map(|at| tokens[at]);
        token.text == "*"
            && token.kind == TokenKind::Symbol
            && before.is_none_or(|before| {
                matches!(before.text, "." | ",") || before.text.eq_ignore_ascii_case("select")
            })
    })
}

impl<'de> Deserialize<'de> for Expr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl Settings for Expr {
    const SCHEMA: Json =
        Json::raw("{\"type\":\"string\",\"minLength\":1,\"x-stepwell\":\"expression\"}");
}

/// SQL that stands in the workflow file or, as `{ file: … }`, beside it. The host reads the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlText {
    /// The file's path as the workflow gives it; none when the text stands in the workflow file.
    pub file: Option<String>,
    /// The SQL.
    pub text: String,
}

impl<'de> Deserialize<'de> for SqlText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = SqlText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("SQL text, or `{ file: path }`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<SqlText, E> {
                Ok(SqlText {
                    file: None,
                    text: text.to_owned(),
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SqlText, A::Error> {
                let (mut file, mut text) = (None, None);
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "file" => file = Some(map.next_value()?),
                        "text" => text = Some(map.next_value()?),
                        other => return Err(de::Error::unknown_field(other, &["file"])),
                    }
                }
                let text = text.ok_or_else(|| de::Error::missing_field("text"))?;
                Ok(SqlText { file, text })
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl Settings for SqlText {
    const SCHEMA: Json = Json::raw(
        "{\"x-stepwell\":\"sql\",\"anyOf\":[{\"type\":\"string\",\"minLength\":1},{\"type\":\"object\",\
         \"properties\":{\"file\":{\"type\":\"string\"}},\"required\":[\"file\"],\"additionalProperties\":false}]}",
    );
}

/// Columns by name, in the order of the workflow file, each with its expression.
///
/// Read from a map (`visitor: domain_userid`) or, where name and expression are the same, from a list of columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Columns(pub Vec<(String, Expr)>);

impl Columns {
    /// Returns the names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }
}

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Columns;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of columns, or a map from names to SQL expressions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Columns, A::Error> {
                let mut columns = Vec::new();
                while let Some(expr) = list.next_element::<Expr>()? {
                    let name = expr.as_column().ok_or_else(|| {
                        let text = expr.as_str();
                        de::Error::custom(format!(
                            "\"{text}\" is no plain column: give it a name, as in `name: {text}`"
                        ))
                    })?;
                    columns.push((name, expr));
                }
                Ok(Columns(columns))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Columns, A::Error> {
                let mut columns = Vec::new();
                while let Some(entry) = map.next_entry::<String, Expr>()? {
                    columns.push(entry);
                }
                Ok(Columns(columns))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl Settings for Columns {
    const SCHEMA: Json = Json::raw(
        "{\"anyOf\":[{\"type\":\"object\",\"minProperties\":1,\
         \"additionalProperties\":{\"type\":\"string\",\"minLength\":1,\"x-stepwell\":\"expression\"}},\
         {\"type\":\"array\",\"minItems\":1,\"items\":{\"type\":\"string\",\"minLength\":1,\"x-stepwell\":\"expression\"}}]}",
    );
}

/// A share written with its sign: `20%`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Percent(pub f64);

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let number = text
            .strip_suffix('%')
            .and_then(|number| number.trim().parse::<f64>().ok());
        match number {
            Some(percent) if (0.0..=100.0).contains(&percent) => Ok(Self(percent)),
            _ => Err(de::Error::custom(format!(
                "expected a share such as 20%, found \"{text}\""
            ))),
        }
    }
}

impl Settings for Percent {
    const SCHEMA: Json =
        Json::raw("{\"type\":\"string\",\"pattern\":\"^[0-9]+(\\\\.[0-9]+)? ?%$\"}");
}

/// A length of time written with its unit: `7 days`, `24h`, `90 minutes`, `30s`. A day is 24 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration {
    /// The length in seconds.
    pub seconds: u64,
}

impl Duration {
    /// Returns the length in microseconds, as times are counted; the largest number if it is longer than that.
    #[inline]
    pub fn us(self) -> i64 {
        // Not `saturating_mul`, which WebAssembly has to do in 128 bits.
        const SECONDS_MAX: u64 = i64::MAX as u64 / 1_000_000;
        match self.seconds {
            0..=SECONDS_MAX => self.seconds as i64 * 1_000_000,
            _ => i64::MAX,
        }
    }
}

impl std::str::FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || {
            format!(
                "expected a length of time with its unit, such as 6h or 7 days, found \"{text}\""
            )
        };
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
        let number: u64 = text[..digits].parse().map_err(|_| error())?;
        let unit = match text[digits..].trim() {
            "s" | "second" | "seconds" => 1,
            "m" | "min" | "minute" | "minutes" => 60,
            "h" | "hour" | "hours" => 3600,
            "d" | "day" | "days" => 86_400,
            _ => return Err(error()),
        };
        number
            .checked_mul(unit)
            .map(|seconds| Self { seconds })
            .ok_or_else(error)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl Settings for Duration {
    const SCHEMA: Json = Json::raw(
        "{\"type\":\"string\",\"pattern\":\"^[0-9]+ ?(s|seconds?|m|min|minutes?|h|hours?|d|days?)$\"}",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_cannot_change_the_statement_around_them() {
        for text in [
            "",
            " -- a",
            "a; DROP TABLE b",
            "a) FROM b --",
            "(a",
            "a]",
            "'a",
            "/* a",
        ] {
            assert!(Expr::new(text).is_err(), "{text}");
        }
        assert_eq!(Expr::new(" min(a) -- tail").unwrap().as_str(), "min(a)");
        assert_eq!(Expr::new("\"A\"").unwrap().as_column(), Some("A".into()));
        assert_eq!(Expr::new("a::date").unwrap().as_column(), None);
    }

    #[test]
    fn columns_keep_their_order() {
        let columns: Columns = serde_json::from_str(r#"{"b": "x", "a": "min(y)"}"#).unwrap();
        assert_eq!(columns.names().collect::<Vec<_>>(), ["b", "a"]);
        let columns: Columns = serde_json::from_str(r#"["b", "a"]"#).unwrap();
        assert_eq!(columns.names().collect::<Vec<_>>(), ["b", "a"]);
        let error = serde_json::from_str::<Columns>(r#"["a::date"]"#).unwrap_err();
        assert!(error.to_string().contains("give it a name"), "{error}");
    }

    #[test]
    fn quantities_carry_their_unit() {
        assert_eq!("7 days".parse::<Duration>().unwrap().seconds, 604_800);
        assert_eq!("6h".parse::<Duration>().unwrap().seconds, 21_600);
        assert!("6".parse::<Duration>().is_err());
        for (seconds, us) in [
            (9_223_372_036_854, 9_223_372_036_854_000_000),
            (9_223_372_036_855, i64::MAX),
            (u64::MAX, i64::MAX),
        ] {
            assert_eq!(Duration { seconds }.us(), us);
        }
        assert!("6 weeks".parse::<Duration>().is_err());
        assert_eq!(
            serde_json::from_str::<Percent>("\"12.5%\"").unwrap(),
            Percent(12.5)
        );
        assert!(serde_json::from_str::<Percent>("\"20\"").is_err());
        assert!(serde_json::from_str::<Percent>("\"120%\"").is_err());
    }

    #[test]
    fn stars_that_stand_for_columns_are_found() {
        for (sql, star) in [
            ("SELECT * FROM e", true),
            ("SELECT e.* FROM e", true),
            ("SELECT a, * FROM e", true),
            ("count(*)", false),
            ("10 * sum(a)", false),
            ("a*b", false),
            ("'*'", false),
        ] {
            assert_eq!(has_star(sql), star, "{sql}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_pointed_at() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "nothing but its errors is looked at")]
        struct With {
            columns: Columns,
            lists: Vec<Expr>,
            table: Option<DerivedTable>,
        }
        for (json, pointer, message) in [
            (
                r#"{"columns": {"a": "1", "b/c": "min(x"}, "lists": []}"#,
                "/columns/b~1c",
                "never closed",
            ),
            (
                r#"{"columns": ["a"], "lists": ["x", "y)", "z"]}"#,
                "/lists/1",
                "closes no bracket",
            ),
            (
                r#"{"columns": ["a"], "lists": [], "table": "no_schema"}"#,
                "/table",
                "",
            ),
            (
                r#"{"columns": ["a"], "lists": [], "tables": 1}"#,
                "/tables",
                "unknown field",
            ),
            (r#"{"columns": ["a"]}"#, "", "missing field `lists`"),
        ] {
            let failure = read::<With>(json).unwrap_err();
            assert_eq!(failure.setting.as_deref(), Some(pointer), "{failure:?}");
            assert!(
                failure.message.contains(message) && !failure.message.contains("line"),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn every_schema_is_json() {
        fn check<S: Settings>() {
            let value: serde_json::Result<serde_json::Value> =
                serde_json::from_str(S::SCHEMA.as_str());
            assert!(
                value.is_ok_and(|value| value.is_object()),
                "{}",
                std::any::type_name::<S>()
            );
        }
        check::<ScratchInput>();
        check::<DerivedTable>();
        check::<ReadColumn>();
        check::<Expr>();
        check::<SqlText>();
        check::<Columns>();
        check::<Percent>();
        check::<Duration>();
    }
}
