//! What steps publish when they are asked to verify: the shapes of `stepwell_sdk::request`, as the host reads them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What `schema` says of a table that does not exist.
const NO_TABLE: &str = "the table does not exist";

/// What one step found.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Published {
    pub(super) batches: Option<Batches>,
    #[serde(default)]
    pub(super) tables: Vec<Table>,
}

/// The batches of the source beside those of the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Batches {
    /// Batches in the manifest.
    pub processed: u64,
    /// Number of batches of each kind that is not as the manifest says.
    pub counts: BTreeMap<BatchKind, u64>,
    /// Those batches; of each kind so many as were asked for.
    pub named: Vec<Batch>,
    /// Events whose batch or time is NULL.
    pub events_without_batch: u64,
}

impl Batches {
    /// Returns how many batches no run will put right by itself.
    pub fn out_of_reach(&self) -> u64 {
        let out = self
            .counts
            .iter()
            .filter(|(kind, _)| kind.is_out_of_reach());
        out.map(|(_, count)| count).sum()
    }
}

/// A batch of which manifest and source do not say the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The batch in its text form; `before <batch>` stands for all before it that have no row in the manifest.
    pub batch: String,
    /// What is the matter with it.
    pub kind: BatchKind,
    /// Events in the source now.
    pub events: u64,
    /// Events when it was processed; none if it was not.
    pub noted: Option<u64>,
    /// Time of the first event in its text form.
    pub first_time: Option<String>,
    /// Time of the last event in its text form.
    pub last_time: Option<String>,
}

impl Batch {
    /// Whether it is no batch, but all before one that have no row in the manifest.
    pub fn stands_for_others(&self) -> bool {
        self.batch.starts_with("before ")
    }
}

/// What is the matter with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BatchKind {
    /// Not processed yet; the next run takes it.
    Pending,
    /// Not processed, and out of the reach of a run.
    Late,
    /// It has more events than when it was processed; the next run takes it again.
    Growing,
    /// It has more events than when it was processed, and is out of the reach of a run.
    Grown,
    /// It has fewer events than when it was processed.
    Shrunk,
    /// The manifest knows it, and the source has no event of it.
    Unknown,
}

impl BatchKind {
    /// Whether no run puts it right by itself.
    pub fn is_out_of_reach(self) -> bool {
        !matches!(self, Self::Pending | Self::Growing)
    }
}

/// A derived table beside what was computed for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The table, as `schema.name`.
    pub table: String,
    /// The columns of its key.
    pub key: Vec<String>,
    /// Rows of the derived table that were compared.
    pub rows: u64,
    /// Rows that were computed.
    pub computed: u64,
    /// Rows that were computed and are not there.
    pub missing: u64,
    /// Rows that are there and were not computed.
    pub surplus: u64,
    /// Rows that are there and have other values.
    pub differing: u64,
    /// Keys that were left out, since the next run computes them again.
    pub unsettled: u64,
    /// Keys that were left out, since their events lie so far apart that runs may leave their rows as they are.
    #[serde(default)]
    pub frozen: u64,
    /// The columns that differ, with the number of rows in which they do.
    pub columns: Vec<Column>,
    /// Columns that one side alone has, in words; or that there is no table.
    pub schema: Vec<String>,
    /// The first rows of each kind of difference, in the order of their keys.
    pub named: Vec<Row>,
}

impl Table {
    /// Returns how many rows are not as in the rebuild.
    pub fn wrong(&self) -> u64 {
        self.missing + self.surplus + self.differing
    }

    /// Whether the table is there, with other columns than were computed for it.
    pub fn has_other_columns(&self) -> bool {
        !self.schema.is_empty() && self.schema != [NO_TABLE]
    }

    /// Whether the table is not as in the rebuild.
    pub fn differs(&self) -> bool {
        self.wrong() > 0 || !self.schema.is_empty()
    }
}

/// A column that differs in some rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Rows in which it differs.
    pub rows: u64,
}

/// A row that is not as it was computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// `missing`, `surplus` or `differing`.
    pub kind: String,
    /// The values of its key, in their text form.
    pub key: Vec<Option<String>>,
    /// For a row that differs, its columns that do.
    pub values: Vec<Value>,
}

/// A value that is not as it was computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// The column's name.
    pub column: String,
    /// What the derived table has.
    pub derived: Option<String>,
    /// What was computed.
    pub computed: Option<String>,
}
