//! What to compute again, in place of what is pending.

use serde::Serialize;
use serde_json::{Value, json};

/// Batches or keys that a run computes again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replay {
    /// These batches of the source, each in its text form, whether they were processed or not.
    Batches(Vec<String>),
    /// The batches with events in a stretch of time, whether they were processed or not.
    Range {
        /// The earliest time, included.
        since: Option<jiff::Timestamp>,
        /// The latest time, excluded.
        until: Option<jiff::Timestamp>,
    },
    /// These keys.
    Keys(Keys),
}

/// Keys, each value in its text form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Keys {
    /// The id of the step that collects ids of this kind; every such step if none.
    pub step: Option<String>,
    /// The names of the key's columns; none stands for a key of one column.
    pub columns: Option<Vec<String>>,
    /// The values of each key, in the order of the columns.
    pub rows: Vec<Vec<String>>,
}

impl Replay {
    /// The request as the contract has it.
    pub(crate) fn json(&self) -> Value {
        json!(self)
    }

    /// The request as the journal has it: as many keys as there are need not stand there twice.
    pub(crate) fn journalled(&self) -> Value {
        match self {
            Self::Keys(keys) => json!({ "keys": {
                "step": keys.step,
                "columns": keys.columns,
                "count": keys.rows.len(),
            }}),
            other => other.json(),
        }
    }
}
