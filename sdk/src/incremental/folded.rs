//! Processed batches without a row of their own, and how steps that know nothing of them are kept from reading on.
//!
//! With `retain`, the manifest's row of one batch stands for all batches before it as well. A step built before there was
//! such a thing asks the manifest whether a batch is processed, and would compute rows from a part of a key's events. So
//! where batches are folded, [`Batches`] and [`Ids`] are published with a field under another name that such a step cannot
//! do without: it fails to read them, and the run ends before it writes. Where none are, nothing changes.

use serde::{Deserialize, Serialize};

use super::{Batches, Ids, KeyColumn};

/// Processed batches that have no row of their own in the manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folded {
    /// The batch, in its text form, whose row stands for all before it: they are processed, whether they have a row or not.
    pub before: String,
    /// The commit step folds the rows of those of them whose last event lies before this time, in text form, UTC; none if
    /// it leaves the manifest as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than: Option<String>,
    /// What the batches without a row come to, where they were counted again: the commit step notes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<Rest>,
}

/// Batches without a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    /// How many there are.
    pub batches: i64,
    /// How many events they have.
    pub events: i64,
}

/// [`Batches`] as it is published. `events_without_batch` stands beside the folded batches where there are any.
#[derive(Serialize, Deserialize)]
pub(super) struct BatchesAsPublished {
    batches: u64,
    reopened: u64,
    events: u64,
    first: String,
    last: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    events_without_batch: Option<u64>,
    #[serde(default)]
    more: bool,
    #[serde(default)]
    from_nothing: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backlog: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    beside_folded: Option<BesideFolded>,
}

#[derive(Serialize, Deserialize)]
struct BesideFolded {
    events_without_batch: u64,
    folded: Folded,
}

impl From<Batches> for BatchesAsPublished {
    fn from(about: Batches) -> Self {
        let without = about.events_without_batch;
        Self {
            batches: about.batches,
            reopened: about.reopened,
            events: about.events,
            first: about.first,
            last: about.last,
            events_without_batch: about.folded.is_none().then_some(without),
            more: about.more,
            from_nothing: about.from_nothing,
            backlog: about.backlog,
            beside_folded: about.folded.map(|folded| BesideFolded {
                events_without_batch: without,
                folded,
            }),
        }
    }
}

impl TryFrom<BatchesAsPublished> for Batches {
    type Error = &'static str;

    fn try_from(published: BatchesAsPublished) -> Result<Self, Self::Error> {
        let (events_without_batch, folded) =
            match (published.events_without_batch, published.beside_folded) {
                (Some(events), None) => (events, None),
                (None, Some(beside)) => (beside.events_without_batch, Some(beside.folded)),
                _ => return Err("expected events_without_batch once"),
            };
        Ok(Self {
            batches: published.batches,
            reopened: published.reopened,
            events: published.events,
            first: published.first,
            last: published.last,
            events_without_batch,
            more: published.more,
            from_nothing: published.from_nothing,
            backlog: published.backlog,
            folded,
        })
    }
}

/// [`Ids`] as it is published. The alias of the pending batches stands beside the folded ones where there are any.
#[derive(Serialize, Deserialize)]
pub(super) struct IdsAsPublished {
    key: Vec<KeyColumn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    batches: Option<String>,
    bounded: bool,
    contexts: Vec<String>,
    #[serde(default)]
    all: bool,
    #[serde(default)]
    indexed: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    split: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    frozen: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    processed: Option<Processed>,
}

#[derive(Serialize, Deserialize)]
struct Processed {
    batches: String,
    folded: String,
}

impl From<Ids> for IdsAsPublished {
    fn from(about: Ids) -> Self {
        let (batches, processed) = match about.folded {
            None => (Some(about.batches), None),
            Some(folded) => {
                let batches = about.batches;
                (None, Some(Processed { batches, folded }))
            }
        };
        Self {
            key: about.key,
            batches,
            bounded: about.bounded,
            contexts: about.contexts,
            all: about.all,
            indexed: about.indexed,
            split: about.split,
            frozen: about.frozen,
            processed,
        }
    }
}

impl TryFrom<IdsAsPublished> for Ids {
    type Error = &'static str;

    fn try_from(published: IdsAsPublished) -> Result<Self, Self::Error> {
        let (batches, folded) = match (published.batches, published.processed) {
            (Some(batches), None) => (batches, None),
            (None, Some(processed)) => (processed.batches, Some(processed.folded)),
            _ => return Err("expected the table of batches once"),
        };
        Ok(Self {
            key: published.key,
            batches,
            bounded: published.bounded,
            contexts: published.contexts,
            all: published.all,
            indexed: published.indexed,
            split: published.split,
            frozen: published.frozen,
            folded,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a step expects that was built before batches were folded.
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only whether they can be read matters")]
    struct OldBatches {
        batches: u64,
        reopened: u64,
        events: u64,
        first: String,
        last: String,
        events_without_batch: u64,
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only whether they can be read matters")]
    struct OldIds {
        key: Vec<KeyColumn>,
        batches: String,
        bounded: bool,
        contexts: Vec<String>,
    }

    #[test]
    fn what_is_folded_is_read_by_those_alone_who_know_of_it() {
        let folded = Folded {
            before: "2026-01-01 00:00:00".into(),
            older_than: None,
            rest: Some(Rest {
                batches: 2,
                events: 9,
            }),
        };
        for folded in [None, Some(folded)] {
            let batches = Batches {
                batches: 3,
                events_without_batch: 7,
                folded: folded.clone(),
                ..Batches::default()
            };
            let ids = Ids {
                batches: "batches".into(),
                bounded: true,
                folded: folded.as_ref().map(|folded| folded.before.clone()),
                ..Ids::default()
            };
            let (first, second) = (
                serde_json::to_string(&batches).unwrap(),
                serde_json::to_string(&ids).unwrap(),
            );
            assert_eq!(serde_json::from_str::<Batches>(&first).unwrap(), batches);
            assert_eq!(serde_json::from_str::<Ids>(&second).unwrap(), ids);
            let old = serde_json::from_str::<OldBatches>(&first).is_ok();
            assert_eq!(old, folded.is_none(), "{first}");
            let old = serde_json::from_str::<OldIds>(&second).is_ok();
            assert_eq!(old, folded.is_none(), "{second}");
        }
    }
}
