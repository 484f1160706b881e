//! The workflow's `source:` as a step sees it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{Deserializer, Error};

use crate::settings::Expr;
use crate::sql::TableName;

/// Where events come from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Source {
    /// The table of events.
    #[serde(deserialize_with = "table")]
    pub events: TableName,
    /// The load batch of an event: a column, or an expression over columns.
    pub batch: Expr,
    /// The event's time, the column that the table is sorted by.
    pub time: String,
    /// The column that names an event, where it has one.
    pub event_id: Option<String>,
    /// How far back on `time` new batches are looked for, in seconds.
    pub lookback_seconds: i64,
    /// Tables with more about an event, by the alias under which expressions name them.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// A table with more about an event. An event that has rows there with different values counts as having none.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Context {
    /// The table.
    #[serde(deserialize_with = "table")]
    pub table: TableName,
    /// Its column with the event's id.
    pub event_id: String,
    /// Its column with the event's time, where it has one.
    pub time: Option<String>,
    /// The columns that expressions may use.
    pub columns: Vec<String>,
}

fn table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TableName, D::Error> {
    String::deserialize(deserializer)?
        .parse()
        .map_err(D::Error::custom)
}
