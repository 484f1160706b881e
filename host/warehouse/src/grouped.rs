//! A SELECT whose rows are read group by group, in parts that share no group.
//!
//! Hides which expressions give the same order and the same part wherever they are computed. Two rows are of one group
//! when the bytes of their keys are the same, so keys are of types for which that is what `=` says.

use stepwell_sql::lexer::{TokenKind, tokens};
use stepwell_sql::{TableName, quote_ident, quote_literal};
use thiserror::Error;
use tokio_postgres::types::{Kind, Type};

use crate::answer::{AnswerLimits, Decode, Field};
use crate::error::WarehouseError;
use crate::param::Param;
use crate::session::Session;

/// One SELECT and its columns, as the server describes them. Nothing has run.
#[derive(Debug, Clone)]
pub struct Selection {
    sql: String,
    columns: Vec<Described>,
}

/// A selection with its groups.
#[derive(Debug, Clone)]
pub struct Grouped {
    sql: String,
    described: Vec<Described>,
    columns: Vec<(Field, Decode)>,
    key: Vec<usize>,
    order: Vec<usize>,
}

#[derive(Debug, Clone)]
struct Described {
    field: Field,
    decode: Decode,
    kind: Type,
}

/// What a selection cannot be grouped by.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum GroupingError {
    #[error("the SELECT has no columns")]
    NoColumns,
    #[error("the SELECT has two columns named \"{name}\"")]
    TwoColumns { name: String },
    #[error("the SELECT has no column \"{name}\"; it has {columns}")]
    NoColumn { name: String, columns: String },
    #[error("the key has no column")]
    NoKey,
    #[error("column \"{name}\" is named twice in key and order")]
    Twice { name: String },
    #[error(
        "column \"{name}\" of the key is of type {type_name}, whose equal values may differ in form; cast it to text"
    )]
    KeyType { name: String, type_name: String },
}

impl Session {
    /// Asks what columns a SELECT has. A type without a layout of its own is delivered as text.
    ///
    /// The text is described as it is, by itself: what the server takes as one statement also stands safely between
    /// brackets, which is where [`Grouped`] puts it.
    ///
    /// # Errors
    ///
    /// All kinds that concern a statement.
    pub async fn describe(&self, sql: &str) -> Result<Selection, WarehouseError> {
        self.begin_statement();
        let statement = self
            .client
            .prepare_typed(sql, &[])
            .await
            .map_err(|error| self.failed(error))?;
        if !statement.params().is_empty() {
            return Err(WarehouseError::ParameterCount {
                expected: statement.params().len(),
                given: 0,
            });
        }
        let columns = statement.columns().iter().map(|column| {
            let kind = column.type_().clone();
            let decode = match kind.kind() {
                // Their text form is the server's business.
                Kind::Array(_) => None,
                _ => Decode::of(&kind),
            };
            let decode = decode.unwrap_or(Decode::Raw);
            let field = Field {
                name: column.name().to_owned(),
                type_oid: kind.oid(),
                type_mod: column.type_modifier(),
                layout: decode.layout(),
                nullable: true,
            };
            Described {
                field,
                decode,
                kind,
            }
        });
        Ok(Selection {
            sql: sql.to_owned(),
            columns: columns.collect(),
        })
    }

    /// Returns the names that SQL has for types, in the order of `oids`; none for an OID that is no type's.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub async fn type_names(&self, oids: &[u32]) -> Result<Vec<Option<String>>, WarehouseError> {
        let mut names = Vec::with_capacity(oids.len());
        for oid in oids {
            let sql = "SELECT pg_catalog.format_type(oid, NULL) AS name FROM pg_catalog.pg_type WHERE oid = $1";
            let params = [Param::Typed(Type::OID.oid(), oid.to_string())];
            let answer = self.ask(sql, &params, &AnswerLimits::default()).await?;
            names.push(answer.text(0, "name").map(str::to_owned));
        }
        Ok(names)
    }
}

impl Selection {
    /// Returns what the columns are.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        self.columns.iter().map(|column| &column.field)
    }

    /// Returns the selection with the columns that name a group, and those by which the rows of a group are ordered.
    ///
    /// # Errors
    ///
    /// [`GroupingError`], for the first thing found.
    pub fn grouped(self, key: &[String], order_by: &[String]) -> Result<Grouped, GroupingError> {
        let names: Vec<&str> = self.fields().map(|field| field.name.as_str()).collect();
        if names.is_empty() {
            return Err(GroupingError::NoColumns);
        }
        for (at, name) in names.iter().enumerate() {
            if names[..at].contains(name) {
                return Err(GroupingError::TwoColumns {
                    name: (*name).to_owned(),
                });
            }
        }
        let mut found = Vec::new();
        for name in key.iter().chain(order_by) {
            let at = names.iter().position(|column| column == name);
            let at = at.ok_or_else(|| GroupingError::NoColumn {
                name: name.clone(),
                columns: names.join(", "),
            })?;
            if found.contains(&at) {
                return Err(GroupingError::Twice { name: name.clone() });
            }
            found.push(at);
        }
        let order = found.split_off(key.len());
        if found.is_empty() {
            return Err(GroupingError::NoKey);
        }
        for column in found.iter().map(|&at| &self.columns[at]) {
            if !column.has_one_form() {
                return Err(GroupingError::KeyType {
                    name: column.field.name.clone(),
                    type_name: column.kind.name().to_owned(),
                });
            }
        }
        Ok(Grouped {
            columns: self
                .columns
                .iter()
                .map(|column| (column.field.clone(), column.decode))
                .collect(),
            sql: self.sql,
            described: self.columns,
            key: found,
            order,
        })
    }
}

impl Described {
    /// Whether values are equal exactly when their bytes are.
    fn has_one_form(&self) -> bool {
        matches!(self.kind.kind(), Kind::Enum(_))
            || matches!(
                self.kind,
                Type::BOOL
                    | Type::INT2
                    | Type::INT4
                    | Type::INT8
                    | Type::OID
                    | Type::TEXT
                    | Type::VARCHAR
                    | Type::NAME
                    | Type::CHAR
                    | Type::BYTEA
                    | Type::UUID
                    | Type::DATE
                    | Type::TIMESTAMP
                    | Type::TIMESTAMPTZ
            )
    }

    /// Whether the values have a layout of their own, rather than travel in their text form.
    fn is_own(&self) -> bool {
        Decode::of(&self.kind).is_some() && !matches!(self.kind.kind(), Kind::Array(_))
    }

    /// The column as it is delivered.
    fn delivered(&self) -> String {
        let name = quote_ident(&self.field.name);
        match self.is_own() {
            true => format!("rows.{name}"),
            false => format!("rows.{name}::text AS {name}"),
        }
    }

    /// Expressions that put the values in an order that depends on nothing else, values that are equal and differ in
    /// form included.
    fn total_order(&self, by_value: bool) -> Vec<String> {
        let name = format!("rows.{}", quote_ident(&self.field.name));
        let form = match self.kind {
            Type::TEXT | Type::VARCHAR | Type::NAME => {
                return vec![format!("{name} COLLATE \"C\"")];
            }
            // What the bits are is also what there is to tell apart.
            Type::NUMERIC => format!("numeric_send({name})"),
            Type::FLOAT4 => format!("float4send({name})"),
            Type::FLOAT8 => format!("float8send({name})"),
            _ if self.has_one_form() => return vec![name],
            _ => format!("{name}::text COLLATE \"C\""),
        };
        match (by_value, &self.kind) {
            (true, &Type::BPCHAR) => vec![format!("{name} COLLATE \"C\""), form],
            (true, _) => vec![name, form],
            (false, _) => vec![form],
        }
    }

    /// A 64-bit hash that is the same for equal values, never NULL.
    fn hash(&self, seed: usize) -> String {
        let name = format!("rows.{}", quote_ident(&self.field.name));
        let hash = match self.kind {
            Type::INT2 | Type::INT4 | Type::OID => {
                format!("hashint8extended({name}::int8, {seed})")
            }
            Type::INT8 => format!("hashint8extended({name}, {seed})"),
            Type::UUID => format!("uuid_hash_extended({name}, {seed})"),
            Type::TIMESTAMP => format!("timestamp_hash_extended({name}, {seed})"),
            Type::TIMESTAMPTZ => {
                format!("timestamp_hash_extended({name} AT TIME ZONE 'UTC', {seed})")
            }
            Type::TEXT => format!("hashtextextended({name} COLLATE \"C\", {seed})"),
            _ => format!("hashtextextended({name}::text COLLATE \"C\", {seed})"),
        };
        format!("coalesce({hash}, 0)")
    }
}

impl Grouped {
    /// Returns what the columns are, as they are delivered.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        self.columns.iter().map(|(field, _)| field)
    }

    pub(crate) fn columns(&self) -> &[(Field, Decode)] {
        &self.columns
    }

    pub(crate) fn key(&self) -> &[usize] {
        &self.key
    }

    /// Returns the SELECT that gives one of `parts` parts, group after group and each group in its order.
    ///
    /// Rows that the order leaves equal are ordered by all other columns, so that it is the same every time. Texts are
    /// ordered by their bytes. Parts are counted from 0; a group is in one part, whole.
    pub fn rows_sql(&self, part: u32, parts: u32) -> String {
        let source = format!("(\n{}\n) AS rows", self.sql);
        let filter = match parts {
            0 | 1 => String::new(),
            _ => format!("\nWHERE {} = {part}", self.part_sql(parts)),
        };
        self.select(&source, &filter)
    }

    /// Returns the statement that keeps all rows in a table of their own, each with the number of its part.
    pub fn store_sql(&self, table: &TableName, parts: u32) -> String {
        format!(
            "CREATE UNLOGGED TABLE {table} AS\nSELECT ({})::int4 AS {}, rows.*\nFROM (\n{}\n) AS rows",
            self.part_sql(parts.max(1)),
            quote_ident(&self.part_column()),
            self.sql
        )
    }

    /// Returns what [`rows_sql`](Self::rows_sql) does, from the table that [`store_sql`](Self::store_sql) made.
    pub fn stored_rows_sql(&self, table: &TableName, part: u32) -> String {
        let column = quote_ident(&self.part_column());
        let filter = format!("\nWHERE rows.{column} = {part}");
        self.select(&format!("{table} AS rows"), &filter)
    }

    fn select(&self, source: &str, filter: &str) -> String {
        let columns: Vec<String> = self.described.iter().map(Described::delivered).collect();
        let named = self.key.iter().chain(&self.order);
        let others = (0..self.described.len()).filter(|at| !named.clone().any(|named| named == at));
        let ordered = |at: usize, by_value| self.described[at].total_order(by_value);
        let by: Vec<String> = named
            .clone()
            .flat_map(|&at| ordered(at, true))
            .chain(others.flat_map(|at| ordered(at, false)))
            .collect();
        format!(
            "SELECT {}\nFROM {source}{filter}\nORDER BY {}",
            columns.join(", "),
            by.join(", ")
        )
    }

    fn part_sql(&self, parts: u32) -> String {
        let hashes = self.key.iter().enumerate();
        let hashes: Vec<String> = hashes
            .map(|(seed, &at)| self.described[at].hash(seed))
            .collect();
        format!("(({}) & {}) % {parts}", hashes.join(" # "), i64::MAX)
    }

    /// A name that no column has.
    fn part_column(&self) -> String {
        let mut name = "part".to_owned();
        while self.fields().any(|field| field.name == name) {
            name.push('_');
        }
        name
    }
}

/// Returns a statement with its parameters as literals, for where the protocol has none, such as COPY.
///
/// A text stands as a quoted literal, which takes the type that the statement asks for, as the parameter does.
/// `type_name` gives the name of a type by its OID.
///
/// # Errors
///
/// A sentence if a parameter is missing or left over, if its type is unknown, or if the text does not end where it
/// should.
pub fn inlined(
    sql: &str,
    params: &[Param],
    type_name: impl Fn(u32) -> Option<String>,
) -> Result<String, String> {
    let mut text = String::with_capacity(sql.len());
    let (mut at, mut used) = (0, vec![false; params.len()]);
    for token in tokens(sql).map_err(|error| error.to_string())? {
        if token.kind != TokenKind::Param {
            continue;
        }
        let number = token.text[1..].parse().ok().filter(|number| *number > 0);
        let index = number.map(|number: usize| number - 1);
        let param = index.and_then(|index| {
            *used.get_mut(index)? = true;
            params.get(index)
        });
        let param = param.ok_or_else(|| {
            format!(
                "there is no parameter for {}; there are {}",
                token.text,
                params.len()
            )
        })?;
        text.push_str(&sql[at..token.start]);
        text.push_str(&literal(param, &type_name)?);
        at = token.end();
    }
    if let Some(unused) = used.iter().position(|used| !used) {
        return Err(format!("parameter ${} is not used", unused + 1));
    }
    text.push_str(&sql[at..]);
    Ok(text)
}

/// In brackets and with blanks around, so that it cannot grow together with its neighbours.
fn literal(param: &Param, type_name: impl Fn(u32) -> Option<String>) -> Result<String, String> {
    Ok(match param {
        Param::Null => " NULL ".to_owned(),
        Param::Bool(value) => format!(" {value} "),
        Param::Int64(value) => format!(" ('{value}'::bigint) "),
        Param::Float64(value) => format!(" ('{value}'::double precision) "),
        Param::Text(text) => format!(" {} ", quote_literal(text)),
        Param::Typed(oid, text) => {
            let name = type_name(*oid).ok_or_else(|| format!("there is no type with OID {oid}"))?;
            format!(" ({}::{name}) ", quote_literal(text))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grouped(
        columns: &[(&str, Type)],
        key: &[&str],
        order: &[&str],
    ) -> Result<Grouped, GroupingError> {
        let described = |(name, kind): &(&str, Type)| {
            let decode = Decode::of(kind).unwrap_or(Decode::Raw);
            Described {
                field: Field {
                    name: (*name).to_owned(),
                    type_oid: kind.oid(),
                    type_mod: -1,
                    layout: decode.layout(),
                    nullable: true,
                },
                decode,
                kind: kind.clone(),
            }
        };
        let selection = Selection {
            sql: "SELECT 1".into(),
            columns: columns.iter().map(described).collect(),
        };
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        selection.grouped(&names(key), &names(order))
    }

    #[test]
    fn the_order_is_total_and_the_same_everywhere() {
        let columns = [
            ("visitor", Type::TEXT),
            ("at", Type::TIMESTAMP),
            ("Amount", Type::NUMERIC),
            ("about", Type::JSONB),
        ];
        let grouped = grouped(&columns, &["visitor"], &["at"]).expect("it can be grouped");
        assert_eq!(
            grouped.rows_sql(1, 4),
            "SELECT rows.visitor, rows.at, rows.\"Amount\", rows.about\n\
             FROM (\nSELECT 1\n) AS rows\n\
             WHERE ((coalesce(hashtextextended(rows.visitor COLLATE \"C\", 0), 0)) & 9223372036854775807) % 4 = 1\n\
             ORDER BY rows.visitor COLLATE \"C\", rows.at, numeric_send(rows.\"Amount\"), \
             rows.about::text COLLATE \"C\""
        );
        assert!(!grouped.rows_sql(0, 1).contains("WHERE"));
        let table = TableName::new("scratch", "kept");
        assert!(
            grouped
                .stored_rows_sql(&table, 1)
                .contains("FROM scratch.kept AS rows\nWHERE rows.part = 1\n")
        );
    }

    #[test]
    fn other_types_are_delivered_as_text() {
        let columns = [
            ("id", Type::INT4),
            ("took", Type::INTERVAL),
            ("part", Type::TEXT_ARRAY),
        ];
        let grouped = grouped(&columns, &["id"], &["took"]).expect("it can be grouped");
        assert!(
            grouped
                .rows_sql(0, 1)
                .starts_with("SELECT rows.id, rows.took::text AS took, rows.part::text AS part\n")
        );
        let stored = grouped.store_sql(&TableName::new("scratch", "kept"), 2);
        assert!(stored.contains("::int4 AS part_, rows.*"), "{stored}");
    }

    #[test]
    fn what_cannot_be_grouped_is_said() {
        let columns = [("a", Type::INT4), ("n", Type::NUMERIC)];
        for (key, order, part) in [
            (&["x"][..], &[][..], "has no column \"x\"; it has a, n"),
            (&[], &["a"], "key has no column"),
            (&["a"], &["a"], "twice"),
            (&["n"], &[], "is of type numeric"),
        ] {
            let error = grouped(&columns, key, order).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
        let twice = grouped(&[("a", Type::INT4), ("a", Type::INT4)], &["a"], &[]);
        assert!(matches!(twice, Err(GroupingError::TwoColumns { .. })));
        assert!(matches!(
            grouped(&[], &[], &[]),
            Err(GroupingError::NoColumns)
        ));
    }

    #[test]
    fn parameters_become_literals() {
        let params = [
            Param::Text("it's".into()),
            Param::Int64(-5),
            Param::Typed(1082, "2024-01-01".into()),
            Param::Null,
        ];
        let name = |oid| (oid == 1082).then(|| "date".to_owned());
        let sql = "SELECT $2, '$1', $1 -- $9\n WHERE d = $3 OR $4 IS NULL";
        assert_eq!(
            inlined(sql, &params, name).as_deref(),
            Ok(
                "SELECT  ('-5'::bigint) , '$1',  'it''s'  -- $9\n WHERE d =  ('2024-01-01'::date)  OR  NULL  IS NULL"
            )
        );
        assert!(
            inlined("SELECT $1", &params, name)
                .expect_err("unused")
                .contains("$2 is not used")
        );
        assert!(
            inlined("SELECT $5", &params, name)
                .expect_err("none")
                .contains("no parameter for $5")
        );
        assert!(inlined("SELECT 'a", &[], name).is_err());
        assert!(
            inlined("SELECT $1", &[Param::Typed(9, String::new())], name)
                .expect_err("type")
                .contains("OID 9")
        );
    }
}
