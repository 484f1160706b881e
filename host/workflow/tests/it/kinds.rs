//! Step plugins for tests: their settings have the shape of the built-in steps', so far as messages depend on it.

use std::path::Path;

use serde_json::{Value, json};
use stepwell_workflow::{LoadError, PluginEntry, PluginKind, StepKind, StepKinds};

/// The built-in steps, and any declared plugin whose file ends in `.wasm`.
pub struct TestKinds;

impl StepKinds for TestKinds {
    fn builtin(&self, name: &str) -> Option<StepKind> {
        let (settings, reads, writes) = match name {
            "truncate-scratch" => (map(&[], json!({})), [].as_slice(), [].as_slice()),
            "diff-manifest" => (diff_manifest(), &["events", "manifest"][..], &[][..]),
            "collect-ids" => (collect_ids(), &["events"][..], &[][..]),
            "aggregate" => (aggregate(), &["events"][..], &[][..]),
            "commit" => (commit(), &["manifest"][..], &["manifest"][..]),
            "defrag" => (defrag(), &[][..], &[][..]),
            "sql" => (sql_step(), &[][..], &[][..]),
            _ => return None,
        };
        Some(StepKind {
            name: name.into(),
            version: "0.1.0".into(),
            kind: PluginKind::Planner,
            gate: name == "diff-manifest",
            summary: format!("the step {name}"),
            settings,
            reads: reads.iter().map(ToString::to_string).collect(),
            writes: writes.iter().map(ToString::to_string).collect(),
        })
    }

    fn names(&self) -> Vec<String> {
        let names = [
            "aggregate",
            "collect-ids",
            "commit",
            "defrag",
            "diff-manifest",
            "sql",
            "truncate-scratch",
        ];
        names.map(String::from).to_vec()
    }

    fn load(&mut self, plugin: &PluginEntry, _: &Path) -> Result<StepKind, LoadError> {
        if plugin.component.extension().is_none_or(|e| e != "wasm") {
            return Err(LoadError {
                message: format!("\"{}\" is not a component", plugin.component.display()),
                help: Some("build it with `stepwell plugin build`".into()),
            });
        }
        let settings = match plugin.name.as_str() {
            "wrong-schema" => json!({"type": "strin"}),
            "shapes" => shapes(),
            _ => map(
                &["into"],
                json!({
                    "into": writes_scratch("Alias of the table that takes the rows."),
                    "from": {"type": "string", "x-stepwell": "reads-scratch"},
                    "table": {"type": "string", "x-stepwell": "writes-derived"},
                    "events": {"type": "string", "x-stepwell": "reads-table"},
                }),
            ),
        };
        Ok(StepKind {
            name: plugin.name.clone(),
            version: "1.2.3".into(),
            kind: PluginKind::Planner,
            gate: false,
            summary: "a plugin".into(),
            settings,
            reads: vec![],
            writes: vec![],
        })
    }
}

fn map(required: &[&str], properties: Value) -> Value {
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

fn reads_scratch(description: &str) -> Value {
    json!({"type": "string", "x-stepwell": "reads-scratch", "description": description})
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

fn texts(description: &str) -> Value {
    json!({"type": "array", "items": {"type": "string"}, "minItems": 1, "description": description})
}

fn diff_manifest() -> Value {
    map(
        &["into"],
        json!({
            "into": writes_scratch("Alias of the scratch table that takes the pending batches."),
            "max-batches": {"type": "integer", "minimum": 1, "maximum": 100_000},
        }),
    )
}

fn collect_ids() -> Value {
    map(
        &["batches", "key", "into"],
        json!({
            "batches": reads_scratch("Alias of the pending batches."),
            "key": texts("Columns or expressions that name a row."),
            "into": writes_scratch("Alias of the scratch table that takes the keys."),
            "since": {"type": "string", "x-stepwell": "reads-column"},
        }),
    )
}

fn aggregate() -> Value {
    map(
        &["ids", "into"],
        json!({
            "ids": reads_scratch("Alias of the keys to compute."),
            "into": writes_scratch("Alias of the scratch table that takes the rows."),
            "dedupe": {"$ref": "#/$defs/dedupe"},
            "columns": {
                "type": "object",
                "additionalProperties": sql("An expression over columns."),
                "propertyNames": {"pattern": "^[a-z_]+$"},
                "minProperties": 1,
            },
            "query": sql("A query."),
        }),
    )
    .with(
        "$defs",
        json!({"dedupe": map(
            &["by"],
            json!({
                "by": {"type": "string", "description": "Column that names an event."},
                "earliest": texts("Columns of which the smallest wins."),
            }),
        )}),
    )
}

fn commit() -> Value {
    map(
        &["replace"],
        json!({
            "replace": {"type": "array", "minItems": 1, "items": map(
                &["table", "from", "key"],
                json!({
                    "table": {"type": "string", "x-stepwell": "writes-derived"},
                    "from": reads_scratch("Alias of the rows."),
                    "key": texts("Columns that name a row."),
                    "ids": reads_scratch("Alias of the keys."),
                }),
            )},
            "manifest": reads_scratch("Alias of the pending batches."),
            "on-schema-change": {"enum": ["fail", "append", "rebuild"]},
        }),
    )
}

fn defrag() -> Value {
    let share = || {
        json!({
            "type": "string",
            "pattern": "^[0-9]{1,3}%$",
            "description": "Share of rows, in percent. More is allowed.",
            "examples": ["20%"],
        })
    };
    map(
        &["tables"],
        json!({
            "tables": {"type": "array", "items": {"type": "string", "x-stepwell": "reads-table"}},
            "when": map(&[], json!({"dead-rows": share(), "stats-off": share()})),
        }),
    )
}

fn sql_step() -> Value {
    map(
        &["run"],
        json!({
            "run": sql("Statements."),
            "reads": {"type": "array", "items": {"type": "string", "x-stepwell": "reads-scratch"}},
            "reads-tables": {"type": "array", "items": {"type": "string", "x-stepwell": "reads-table"}},
            "writes": {"type": "array", "items": {"type": "string", "x-stepwell": "writes-scratch"}},
            "writes-tables": {"type": "array", "items": {"type": "string", "x-stepwell": "writes-derived"}},
        }),
    )
}

/// Each kind of refusal that a schema knows.
fn shapes() -> Value {
    map(
        &[],
        json!({
            "number": {"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.5},
            "less": {"type": "number", "exclusiveMaximum": 10},
            "flag": {"type": "boolean"},
            "short": {"type": "string", "minLength": 1, "maxLength": 3},
            "items": {"type": "array", "items": {"type": "integer"}, "maxItems": 2, "uniqueItems": true},
            "const": {"const": "only"},
            "choice": {"oneOf": [
                {"const": "left", "description": "Left."},
                {"const": "right", "description": "Right."},
            ]},
            "amount": {"anyOf": [{"const": "all"}, {"type": "integer", "minimum": 1}]},
            "target": {"oneOf": [
                {"type": "string"},
                map(&["table"], json!({"table": {"type": "string"}, "where": {"type": "string"}})),
            ]},
            "pair": {"oneOf": [
                map(&["left"], json!({"left": {"type": "string"}})),
                map(&["right"], json!({"right": {"type": "string"}})),
            ]},
            "either": {"oneOf": [{"type": "integer"}, {"type": "number"}]},
            "keys": {"type": "object", "maxProperties": 1},
            "type": {"type": ["string", "null"]},
            "never": {"not": {"type": "string"}},
            "any": {},
        }),
    )
}

/// Adds a key to a JSON map.
trait With {
    fn with(self, key: &str, value: Value) -> Value;
}

impl With for Value {
    fn with(mut self, key: &str, value: Value) -> Value {
        self[key] = value;
        self
    }
}
