//! Step plugins for tests.

use std::path::Path;

use serde_json::{Value, json};
use stepwell_workflow::{LoadError, PluginEntry, PluginKind, StepKind, StepKinds, TrustPolicy};

/// The built-in steps with the descriptors of `kinds.json`, and any declared plugin whose file ends
/// in `.wasm`.
pub struct TestKinds;

impl StepKinds for TestKinds {
    fn builtin(&self, name: &str) -> Option<StepKind> {
        let descriptors = builtin();
        let descriptor = descriptors.iter().find(|d| d["name"] == name)?;
        let relations = |key: &str| -> Vec<String> {
            let relations = descriptor[key].as_array().unwrap();
            relations
                .iter()
                .map(|relation| relation.as_str().unwrap().to_owned())
                .collect()
        };
        Some(StepKind {
            name: name.into(),
            version: descriptor["version"].as_str().unwrap().into(),
            kind: PluginKind::Planner,
            gate: descriptor["gate"].as_bool().unwrap(),
            summary: descriptor["summary"].as_str().unwrap().into(),
            settings: descriptor["settings"].clone(),
            reads: relations("reads"),
            writes: relations("writes"),
        })
    }

    fn names(&self) -> Vec<String> {
        let descriptors = builtin();
        let names = descriptors.iter().map(|d| d["name"].as_str().unwrap());
        names.map(str::to_owned).collect()
    }

    fn load(
        &mut self,
        plugin: &PluginEntry,
        _: &TrustPolicy,
        _: &Path,
    ) -> Result<StepKind, LoadError> {
        if plugin.component.extension().is_none_or(|e| e != "wasm") {
            return Err(LoadError {
                message: format!("\"{}\" is not a component", plugin.component.display()),
                help: Some("build it with `stepwell plugin build`".into()),
                at: None,
            });
        }
        let settings = match plugin.name.as_str() {
            "wrong-schema" => json!({"type": "strin"}),
            "shapes" => shapes(),
            // Takes anything, and says that it is a built-in step.
            "impostor" => json!({"type": "object"}),
            _ => map(
                &["into"],
                &json!({
                    "into": writes_scratch("Alias of the table that takes the rows."),
                    "query": sql("A query."),
                    "from": {"type": "string", "x-stepwell": "reads-scratch"},
                    "table": {"type": "string", "x-stepwell": "writes-derived"},
                    "events": {"type": "string", "x-stepwell": "reads-table"},
                }),
            ),
        };
        let greedy = plugin.name == "greedy";
        Ok(StepKind {
            name: match plugin.name.as_str() {
                "impostor" => "truncate-scratch".into(),
                name => name.into(),
            },
            version: match plugin.name.as_str() {
                "impostor" => "0.1.0".into(),
                _ => "1.2.3".into(),
            },
            kind: PluginKind::Planner,
            gate: greedy,
            summary: "a plugin".into(),
            settings,
            reads: match plugin.name.as_str() {
                "greedy" | "reads-events" => vec!["events".to_owned(), "manifest".to_owned()],
                _ => Vec::new(),
            },
            writes: match greedy {
                true => vec!["scratch".to_owned()],
                false => Vec::new(),
            },
        })
    }
}

/// Returns the descriptors that the built-in steps carry: what users read depends on them.
fn builtin() -> Vec<Value> {
    serde_json::from_str(include_str!("../kinds.json")).unwrap()
}

fn map(required: &[&str], properties: &Value) -> Value {
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn writes_scratch(description: &str) -> Value {
    json!({"type": "string", "x-stepwell": "writes-scratch", "description": description})
}

fn sql(description: &str) -> Value {
    json!({
        "x-stepwell": "sql",
        "description": description,
        "anyOf": [
            {"type": "string"},
            {
                "type": "object",
                "properties": {"file": {"type": "string"}},
                "required": ["file"],
                "additionalProperties": false,
            },
        ],
    })
}

/// Each kind of refusal that a schema knows.
fn shapes() -> Value {
    map(
        &[],
        &json!({
            "number": {"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.5},
            "less": {"type": "number", "exclusiveMaximum": 10},
            "flag": {"type": "boolean"},
            "short": {"type": "string", "minLength": 1, "maxLength": 3},
            "items": {
                "type": "array",
                "items": {"type": "integer"},
                "maxItems": 2,
                "uniqueItems": true,
            },
            "const": {"const": "only"},
            "choice": {"oneOf": [
                {"const": "left", "description": "Left."},
                {"const": "right", "description": "Right."},
            ]},
            "amount": {"anyOf": [{"const": "all"}, {"type": "integer", "minimum": 1}]},
            "target": {"oneOf": [
                {"type": "string"},
                map(&["table"], &json!({"table": {"type": "string"}, "where": {"type": "string"}})),
            ]},
            "pair": {"oneOf": [
                map(&["left"], &json!({"left": {"type": "string"}})),
                map(&["right"], &json!({"right": {"type": "string"}})),
            ]},
            "either": {"oneOf": [{"type": "integer"}, {"type": "number"}]},
            "keys": {"type": "object", "maxProperties": 1},
            "type": {"type": ["string", "null"]},
            "never": {"not": {"type": "string"}},
            "any": {},
        }),
    )
}
