//! Runs that are asked for something else than the pending batches.
//!
//! `stepwell verify`, `manifest replay` and `lookback` go through the same steps as a run. Each is a trait of the run
//! ([`Run::has`]) with what was asked as JSON beside it. A step that fills scratch tables from those of the steps before
//! it takes part without a word: the gate names the batches, the step after it the ids, and all others compute what they
//! always do.
//!
//! - `verify`: rows are computed as in a full refresh, from the batches in the manifest, in scratch tables that are gone
//!   afterwards. The host runs no statement that writes anything else. The step that would commit answers with questions
//!   that compare, and publishes a [`Verified`] under [`VERIFY`].
//! - `replay`: the gate names the batches that were asked for, whether processed or not; with keys instead of batches it
//!   names none, and the step that collects ids takes the keys.
//! - `lookback`: no statement is run. Steps publish what they know under [`LOOKBACK`].

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::planner::Run;
use crate::sql;
use crate::sql::{Literal, Sql, join};

/// Alias under which a step publishes what a verification found.
pub const VERIFY: &str = "verify";

/// Alias under which a step publishes what it knows about the lookback.
pub const LOOKBACK: &str = "lookback";

/// Alias of the relation whose `about` holds what was asked.
const REQUEST: &str = "request";

/// What to compare.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
pub struct Verify {
    /// Only keys with an event at this time or later.
    pub since: Option<String>,
    /// Only keys with an event before this time.
    pub until: Option<String>,
    /// Only this share of the keys, more than 0 and at most 1, chosen by a hash.
    pub share: Option<f64>,
    /// Only so many keys, chosen by the same hash.
    pub keys: Option<u64>,
    /// Another seed chooses other keys.
    pub seed: u64,
    /// Most keys that are named for each table.
    pub limit: u32,
}

impl Verify {
    /// Whether all keys are compared.
    pub fn is_whole(&self) -> bool {
        *self
            == Self {
                seed: self.seed,
                limit: self.limit,
                ..Self::default()
            }
    }

    /// Returns a number from 0 to 2³² − 1 that depends on the values of a key alone, the same on every server.
    ///
    /// Values are taken by their text: a `char(n)` and a `text` that are equal, of which one is padded, have one number.
    pub fn hash<'a>(&self, key: impl IntoIterator<Item = &'a Sql>) -> Sql {
        sql!(
            "('x' || substr(md5({seed} || ROW({key})::text), 1, 8))::bit(32)::bigint",
            seed = Literal(&format!("{}:", self.seed)),
            key = join(
                key.into_iter()
                    .map(|value| sql!("{value}::text", value = value)),
                ", "
            ),
        )
    }

    /// Returns the number below which the hashes of the chosen share lie.
    pub fn share_limit(&self) -> Option<i64> {
        // Both are far below 2⁵³.
        self.share
            .map(|share| (share.clamp(0.0, 1.0) * 4_294_967_296.0).ceil() as i64)
    }
}

/// What to compute again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replay {
    /// These batches, each in its text form, whether they were processed or not.
    Batches(Vec<String>),
    /// The batches with an event in this stretch of time, whether they were processed or not.
    Range {
        /// The earliest time, included.
        since: Option<String>,
        /// The latest time, excluded.
        until: Option<String>,
    },
    /// These keys.
    Keys(Keys),
}

/// Keys, each value in its text form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// The step whose keys these are; any if none.
    #[serde(default)]
    pub step: Option<String>,
    /// The names of the key's columns; none where they were not given, which stands for a key of one column.
    pub columns: Option<Vec<String>>,
    /// The values of each key, in the order of the columns.
    pub rows: Vec<Vec<String>>,
}

/// What a step found when it compared derived tables with what was computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Verified {
    /// The batches, from the gate step.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub batches: Option<Batches>,
    /// The derived tables, from the step that would commit.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub tables: Vec<Table>,
}

/// The batches of the source beside those of the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Batches {
    /// Batches in the manifest.
    pub processed: u64,
    /// Number of batches of each kind that is named in `named`.
    pub counts: std::collections::BTreeMap<BatchKind, u64>,
    /// Batches of which the manifest and the source do not say the same; of each kind so many as were asked for.
    pub named: Vec<Batch>,
    /// Events whose batch or time is NULL.
    pub events_without_batch: u64,
}

/// A batch of which the manifest and the source do not say the same.
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
    /// The first event's time in its text form.
    pub first_time: Option<String>,
    /// The last event's time in its text form.
    pub last_time: Option<String>,
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
    /// Columns with the number of rows in which they differ; those without one are left out.
    pub columns: Vec<Column>,
    /// Columns that one side alone has, in words.
    pub schema: Vec<String>,
    /// The first rows that differ, are missing or surplus, in the order of their keys.
    pub named: Vec<Row>,
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

/// What a step knows about the lookback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Lookback {
    /// How late batches came, from the gate step.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub batches: Option<LateBatches>,
    /// How long keys are, from a step that collects ids.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub keys: Option<KeySpans>,
}

/// How late batches came: how far their events lie behind the newest event of all batches processed before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct LateBatches {
    /// Batches of the source.
    pub batches: u64,
    /// Those of them that are processed.
    pub processed: u64,
    /// Runs that processed them, the last one for each. Batches of one run have no order but that of their names.
    #[serde(default)]
    pub runs: u64,
    /// How many are behind by at most so many days, in rising order of the days.
    pub within: Vec<LateWithin>,
    /// Batches whose last event is behind by more than the workflow's lookback.
    pub beyond_lookback: u64,
    /// The workflow's lookback, in seconds.
    pub lookback_seconds: u64,
    /// The farthest that a last event is behind: a lookback of this length finds every batch.
    pub smallest_seconds: u64,
    /// The farthest that a first event is behind.
    pub reach_seconds: u64,
    /// The batch whose last event is farthest behind; none if none is.
    pub latest: Option<LatestBatch>,
}

/// A number of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateWithin {
    /// Days of 24 hours.
    pub days: u32,
    /// Batches whose last event is behind by no more: a lookback of these days finds them.
    pub batches: u64,
    /// Batches whose first event is behind by no more.
    pub whole: u64,
}

/// The batch whose last event is farthest behind. Times are in their text form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatestBatch {
    /// The batch.
    pub batch: String,
    /// Its first event's time.
    pub first_time: String,
    /// Its last event's time.
    pub last_time: String,
    /// The newest event of the batches before it.
    pub newest_before: String,
}

/// How long keys are: the time from the first event of a key to its last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct KeySpans {
    /// The key's columns.
    pub key: Vec<String>,
    /// Keys that have events.
    pub keys: u64,
    /// How many keys are at most so many days long, in rising order of the days.
    pub within: Vec<KeysWithin>,
    /// The longest key, in seconds.
    pub longest_seconds: u64,
}

/// A number of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysWithin {
    /// Days of 24 hours.
    pub days: u32,
    /// Keys that are no longer.
    pub keys: u64,
}

impl Run {
    /// Returns what to compare, if this run verifies.
    ///
    /// # Errors
    ///
    /// [`Failure`] with code `contract` if the host did not say what.
    pub fn verify(&self) -> Result<Option<Verify>, Failure> {
        self.request("verify")
    }

    /// Returns what to compute again, if this run replays.
    ///
    /// # Errors
    ///
    /// [`Failure`] with code `contract` if the host did not say what.
    pub fn replay(&self) -> Result<Option<Replay>, Failure> {
        self.request("replay")
    }

    fn request<T: serde::de::DeserializeOwned>(&self, word: &str) -> Result<Option<T>, Failure> {
        match self.has(word) {
            true => self.about(REQUEST).map(Some).map_err(|_| {
                Failure::new("contract", format!("the host did not say what to {word}"))
            }),
            false => Ok(None),
        }
    }
}
