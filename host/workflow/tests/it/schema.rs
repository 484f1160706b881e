//! The JSON Schema for editors.

use std::path::Path;

use serde_json::Value;
use stepwell_workflow::json_schema;

use crate::kinds::TestKinds;

fn accepts(text: &str) -> bool {
    let workflow: Value = serde_yaml::from_str(text).unwrap();
    let schema = json_schema(&TestKinds);
    jsonschema::validator_for(&schema)
        .unwrap()
        .is_valid(&workflow)
}

fn good() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/good/sessions.yml");
    // What a variable in `with:` stands for, an editor cannot know.
    std::fs::read_to_string(path)
        .unwrap()
        .replace("\"${var:max:-5}\"", "5")
}

#[test]
fn accepts_a_good_file() {
    assert!(accepts(&good()));
}

#[test]
fn refuses_misspelt_keys_wrong_types_and_settings() {
    for (from, to) in [
        ("lookback:", "lookbak:"),
        ("lookback: 7 days", "lookback: 7"),
        ("stepwell: 1", "stepwell: 2"),
        ("needs: [engaged, sessions]", "needs: sessions"),
        ("events: atomic.events", "events: events"),
        ("memory: 128MiB", "memory: 128"),
        (
            "with: { into: batches, max-batches: 5 }",
            "with: { in: batches }",
        ),
        // Behind a reference within the step's own schema.
        ("{ by: event_id,", "{ bye: event_id,"),
    ] {
        let text = good();
        assert!(text.contains(from), "{from}");
        assert!(!accepts(&text.replace(from, to)), "{to}");
    }
}
