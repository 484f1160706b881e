//! Questions about the database's own catalog, for Postgres and, where it keeps the same tables, Redshift.

use crate::bindings::stepwell::step::plans::Question;
use crate::planner::{question, text};
use crate::rows::Rows;
use crate::sql;
use crate::sql::TableName;

/// Asks for the columns of `table`. No rows: the table does not exist.
pub fn columns(table: &TableName) -> Question {
    question(
        &format!("columns of {table}"),
        sql!(
            "SELECT
                a.attname::text AS name,
                format_type(a.atttypid, a.atttypmod) AS type,
                a.atttypid::int8 AS type_oid,
                c.relkind::text AS kind
            FROM pg_catalog.pg_class AS c
            JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
            JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid
            WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped
            ORDER BY a.attnum"
        ),
        vec![text(table.schema()), text(table.name())],
    )
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnInfo {
    /// Its name as it is stored.
    pub name: String,
    /// Its type as SQL writes it, with length or precision: `character varying(255)`.
    pub sql_type: String,
}

/// Reads the answer to [`columns`].
pub fn read_columns(rows: Rows<'_>) -> Vec<ColumnInfo> {
    rows.iter()
        .map(|row| ColumnInfo {
            name: row.text("name").unwrap_or_default().to_owned(),
            sql_type: row.text("type").unwrap_or_default().to_owned(),
        })
        .collect()
}

/// Whether the answer to [`columns`] is about an ordinary table, whose rows have a place (`ctid`) of their own.
pub fn is_plain_table(rows: Rows<'_>) -> bool {
    rows.first()
        .is_some_and(|row| row.text("kind") == Some("r"))
}

/// Asks for the complete, valid indexes of `table`.
pub fn indexes(table: &TableName) -> Question {
    question(
        &format!("indexes of {table}"),
        sql!(
            "SELECT am.amname::text AS method, pg_get_indexdef(i.indexrelid, 1, false) AS leading,
              i.indnkeyatts::text AS columns
            FROM pg_catalog.pg_index AS i
            JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
            JOIN pg_catalog.pg_am AS am ON am.oid = x.relam
            JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid
            JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
            WHERE n.nspname = $1 AND c.relname = $2 AND i.indisvalid AND i.indpred IS NULL
            ORDER BY x.relname"
        ),
        vec![text(table.schema()), text(table.name())],
    )
}

/// The indexes of a table, as far as a step chooses its way by them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexes(Vec<Index>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Index {
    method: String,
    /// The expression that it begins with.
    leading: String,
    /// How many it orders by.
    columns: usize,
}

impl Indexes {
    /// Reads the answer to [`indexes`].
    pub fn read(rows: Rows<'_>) -> Self {
        let index = |row: crate::rows::Row<'_>| {
            Some(Index {
                method: row.text("method")?.to_owned(),
                leading: plain(row.text("leading")?),
                columns: row.text("columns")?.parse().ok()?,
            })
        };
        Self(rows.iter().filter_map(index).collect())
    }

    /// Whether a b-tree begins with this expression, so that its values can be walked in order.
    pub fn ordered_by(&self, expression: &str) -> bool {
        let expression = plain(expression);
        self.0
            .iter()
            .any(|index| index.method == "btree" && index.leading == expression)
    }

    /// Whether rows with one value of this expression can be found without reading the table.
    pub fn finds(&self, expression: &str) -> bool {
        let expression = plain(expression);
        self.0.iter().any(|index| {
            matches!(index.method.as_str(), "btree" | "hash") && index.leading == expression
        })
    }

    /// Whether a b-tree begins with one of these columns and has at least as many: it then finds the few rows with one
    /// value of all of them, as the one on the key of a derived table does.
    pub fn finds_key(&self, columns: &[&str]) -> bool {
        let columns: Vec<String> = columns
            .iter()
            .map(|column| plain(&crate::sql::quote_ident(column)))
            .collect();
        self.0.iter().any(|index| {
            index.method == "btree"
                && columns.contains(&index.leading)
                && index.columns >= columns.len()
        })
    }
}

/// Takes off what Postgres adds or leaves out when it prints an expression: spaces, outer brackets, case.
fn plain(expression: &str) -> String {
    let mut text: String = expression.chars().filter(|c| !c.is_whitespace()).collect();
    text.make_ascii_lowercase();
    text = text.replace("::text", "");
    while text.starts_with('(') && text.ends_with(')') {
        text = text[1..text.len() - 1].to_owned();
    }
    text
}
