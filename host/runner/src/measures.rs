//! Numbers that a step publishes about its work, beside those that its statements measure.

use std::collections::BTreeMap;

use serde::Deserialize;
use stepwell_sandbox::contract::Plan;

/// The alias under which steps publish them: `MEASURES` of the SDK's `planner`.
const MEASURES: &str = "measures";

/// Most numbers of one step, and the longest name in bytes. What is beyond either is left out.
const NAMES_MAX: usize = 100;
const NAME_BYTES_MAX: usize = 64;

/// What a step published, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Published {
    /// What this pass did; the passes of a run are added up.
    pub counts: BTreeMap<String, i64>,
    /// How things stand; those of the last pass count.
    pub levels: BTreeMap<String, i64>,
}

impl Published {
    /// Returns what a plan publishes; nothing if that cannot be read.
    pub(crate) fn of(plan: &Plan) -> Self {
        let found = plan
            .publishes
            .iter()
            .find(|publication| publication.alias == MEASURES);
        let Some(found) = found else {
            return Self::default();
        };
        match serde_json::from_str::<Self>(&found.about) {
            Ok(mut published) => {
                bound(&mut published.counts);
                bound(&mut published.levels);
                published
            }
            Err(error) => {
                tracing::warn!(%error, "a step's measures could not be read");
                Self::default()
            }
        }
    }

    /// Returns all of them by name.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&String, i64)> {
        let all = self.counts.iter().chain(&self.levels);
        all.map(|(name, value)| (name, *value))
    }

    /// Whether one of them has this name.
    #[must_use]
    pub fn names(&self, name: &str) -> bool {
        self.counts.contains_key(name) || self.levels.contains_key(name)
    }
}

fn bound(numbers: &mut BTreeMap<String, i64>) {
    numbers.retain(|name, _| name.len() <= NAME_BYTES_MAX);
    while numbers.len() > NAMES_MAX {
        numbers.pop_last();
    }
}

#[cfg(test)]
mod tests {
    use stepwell_sandbox::contract::Publication;

    use super::*;

    fn published(about: &str) -> Published {
        Published::of(&Plan {
            statements: vec![],
            atomic: true,
            publishes: vec![Publication {
                alias: MEASURES.into(),
                about: about.into(),
            }],
            notes: vec![],
            ends_run: None,
        })
    }

    #[test]
    fn what_a_step_publishes_is_bounded() {
        let found = published(r#"{"counts": {"a": 1}, "levels": {"b": 2}, "other": 3}"#);
        assert_eq!((found.counts["a"], found.levels["b"]), (1, 2));
        assert!(found.names("a") && found.names("b") && !found.names("other"));

        let many: BTreeMap<String, i64> = (0..200).map(|n| (format!("{n:03}"), n)).collect();
        let text = serde_json::json!({ "counts": many, "levels": { "x".repeat(65): 1 } });
        let found = published(&text.to_string());
        assert_eq!((found.counts.len(), found.levels.len()), (100, 0));

        assert_eq!(published("no JSON"), Published::default());
    }
}
