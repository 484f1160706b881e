//! The format of workflow files as a JSON Schema, for editors.

use serde_json::{Map, Value, json};

use crate::kinds::StepKinds;
use crate::limits::{LimitKey, LimitUnit};

/// Returns the JSON Schema (draft 2020-12) of a workflow file, with the built-in steps' settings.
///
/// It refuses misspelt keys and wrong types while a file is written. What takes more than a schema
/// (the order of steps, what they read and write) only a check of the workflow finds. Settings of a
/// declared plugin are not looked at.
pub fn json_schema(kinds: &dyn StepKinds) -> Value {
    let mut definitions = definitions();
    let mut by_kind = Vec::new();
    for name in kinds.names() {
        let Some(kind) = kinds.builtin(&name) else {
            continue;
        };
        let key = format!("with-{name}");
        let base = format!("#/$defs/{key}");
        let mut settings = kind.settings.clone();
        move_references(&mut settings, &base);
        by_kind.push(json!({
            "if": {"properties": {"uses": {"const": name}}, "required": ["uses"]},
            "then": {
                "properties": {"with": {"$ref": base}},
                "required": if has_required(&kind.settings) { json!(["with"]) } else { json!([]) },
            },
        }));
        definitions.insert(key, settings);
    }
    let uses: Vec<Value> = kinds
        .names()
        .into_iter()
        .filter_map(|name| kinds.builtin(&name).map(|kind| (name, kind.summary)))
        .map(|(name, summary)| json!({"const": name, "description": summary}))
        .collect();
    definitions.insert("step".into(), step(uses, by_kind));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Stepwell workflow",
        "description": "One playbook: tables kept up to date batch by batch.",
        "type": "object",
        "properties": top(),
        "required": ["stepwell", "playbook", "steps"],
        "additionalProperties": false,
        "$defs": definitions,
    })
}

fn has_required(settings: &Value) -> bool {
    settings
        .get("required")
        .and_then(Value::as_array)
        .is_some_and(|keys| !keys.is_empty())
}

/// Lets references of a schema hold at its new place.
fn move_references(schema: &mut Value, base: &str) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get_mut("$ref")
                && let Some(pointer) = target.strip_prefix('#')
            {
                *target = format!("{base}{pointer}");
            }
            map.values_mut()
                .for_each(|value| move_references(value, base));
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|value| move_references(value, base)),
        _ => {}
    }
}

/// A schema that refers to a definition, with a description of its own.
fn of(name: &str, description: &str) -> Value {
    json!({"$ref": format!("#/$defs/{name}"), "description": description})
}

fn map(description: &str, required: &[&str], properties: &Value) -> Value {
    json!({
        "description": description,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn top() -> Value {
    json!({
        "stepwell": {"description": "Version of the file format.", "const": crate::FORMAT},
        "playbook": of("playbook", "Name under which processed batches are kept."),
        "description": {"description": "What the playbook is for.", "type": "string"},
        "vars": {
            "description": "Defaults of variables, below `--var NAME=VALUE`. Empty: none.",
            "type": "object",
            "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
        },
        "warehouse": warehouse(),
        "schemas": map("Where tables are made.", &[], &json!({
            "scratch": of("schema", "Schema of tables that a run may empty. Default: scratch."),
            "derived": of("schema", "Schema of tables that readers query. Default: derived."),
        })),
        "manifest": of("table", "Table of processed batches. Default: `<derived>.manifest`."),
        "source": source(),
        "trust": map("Whose signatures of plugins count, and which plugins need one.", &[], &json!({
            "keys": {
                "description": "Public keys, as `stepwell plugin keygen` prints them.",
                "type": "array",
                "items": text_of("^ed25519:[0-9a-f]{64}$", "ed25519:…"),
            },
            "require": {
                "description": "Which plugins need a signature. Default: third-party where keys are listed, \
                    otherwise nothing.",
                "enum": ["third-party", "all", "nothing"],
            },
        })),
        "plugins": {
            "description": "Plugins that are not built in, by the name that `uses` has.",
            "type": "object",
            "additionalProperties": {"$ref": "#/$defs/plugin"},
            "propertyNames": {"$ref": "#/$defs/id"},
        },
        "steps": {
            "description": "What to do, each step after the one above it unless it has `needs`.",
            "type": "array",
            "items": {"$ref": "#/$defs/step"},
            "minItems": 1,
            "maxItems": crate::STEPS_MAX,
        },
    })
}

fn warehouse() -> Value {
    map(
        "Where the tables are.",
        &[],
        &json!({
            "url": {
                "description": "Connection string, best as `${env:DATABASE_URL}`. \
                    `local`, or without it: the private local Postgres.",
                "type": "string",
            },
            "statement-timeout": of("duration", "Longest time for one statement."),
            "lock-timeout": of("duration", "Longest wait for a lock."),
            "retries": {
                "description": "How often a step, or the connection, is tried again after a \
                    failure that may pass by itself: a deadlock, a lost connection, a server that \
                    starts. Default: 4; 0 turns it off.",
                "type": "integer",
                "minimum": 0,
                "maximum": crate::workflow::RETRIES_MAX,
            },
            "lease-expiry": of(
                "duration",
                "Time without a sign of life after which a run counts as dead and another one may \
                    take over, from 1s to 1h. Default: 30s.",
            ),
            "settings": {
                "description": "Session parameters, for example work_mem.",
                "type": "object",
                "additionalProperties": {"type": ["string", "number", "boolean"]},
            },
        }),
    )
}

fn source() -> Value {
    let context = map(
        "A table with more about an event.",
        &["table", "event-id", "columns"],
        &json!({
            "table": of("table", "The table."),
            "event-id": of("column", "Its column that names the event."),
            "time": of("column", "Its column to bound scans on."),
            "columns": {
                "description": "Columns that steps may use.",
                "type": "array",
                "minItems": 1,
                "items": {"$ref": "#/$defs/column"},
            },
        }),
    );
    map(
        "Where events come from.",
        &["events", "batch", "time", "lookback"],
        &json!({
            "events": of("table", "Table of events."),
            "batch": {
                "description": "Column of batches, or an SQL expression over columns.",
                "type": "string",
                "minLength": 1,
            },
            "time": of("column", "Column that every scan is bounded on: the sort key."),
            "event-id": of("column", "Column that names an event, by which duplicates are found."),
            "lookback": of("duration", "How far back new batches are looked for. A day: 24h."),
            "contexts": {
                "description": "Tables with more about an event, by alias.",
                "type": "object",
                "additionalProperties": context,
                "propertyNames": {"$ref": "#/$defs/word"},
            },
        }),
    )
}

fn step(uses: Vec<Value>, by_kind: Vec<Value>) -> Value {
    let mut uses = uses;
    uses.push(json!({"$ref": "#/$defs/id", "description": "A plugin declared under `plugins`."}));
    let mut step = map(
        "One step.",
        &["id", "uses"],
        &json!({
            "id": of("id", "Name of the step."),
            "uses": {"description": "Built-in step or declared plugin.", "anyOf": uses},
            "with": {"description": "Settings of the step.", "type": "object"},
            "needs": {
                "description": "Steps to be done before. Default: the one above; `[]`: none.",
                "type": "array",
                "items": {"$ref": "#/$defs/id"},
            },
            "critical": {
                "description": "Whether the step's failure fails the run. Default: true.",
                "anyOf": [{"type": "boolean"}, {"$ref": "#/$defs/variable"}],
            },
        }),
    );
    step["allOf"] = by_kind.into();
    step
}

fn connection() -> Value {
    map(
        "How a third party's plugin logs in, to the warehouse's own database. Without it, on the \
            private local Postgres: a role that is made by itself.",
        &[],
        &json!({
            "role": {
                "description": "A login role that is nobody else's. `stepwell plugin grants` \
                    prints what makes it.",
                "type": "string",
                "minLength": 1,
            },
            "password": {
                "description": "Its password, best as `${env:…}`. Without it, the server lets the \
                    role in by other means.",
                "type": "string",
            },
            "url": {
                "description": "A connection string of its own, instead of `role`.",
                "type": "string",
            },
        }),
    )
}

fn limits() -> Value {
    let keys = LimitKey::ALL.map(|limit| {
        let of_unit = match limit.unit() {
            LimitUnit::Size => of("size", limit.about()),
            LimitUnit::Duration => of("duration", limit.about()),
            LimitUnit::Count => json!({
                "description": limit.about(),
                "anyOf": [{"type": "integer", "minimum": 1}, {"$ref": "#/$defs/variable"}],
            }),
        };
        (limit.name().to_owned(), of_unit)
    });
    map(
        "What the plugin may use.",
        &[],
        &Value::Object(keys.into_iter().collect()),
    )
}

/// A text with a variable in it fits everywhere: what it stands for, only a check knows.
fn text_of(pattern: &str, example: &str) -> Value {
    json!({
        "type": "string",
        "anyOf": [{"pattern": pattern}, {"$ref": "#/$defs/variable"}],
        "examples": [example],
    })
}

fn definitions() -> Map<String, Value> {
    let text = text_of;
    let duration = r"^\s*\d+(\.\d+)?\s*[A-Za-zµ]";
    let part = r#"([A-Za-z_][A-Za-z0-9_$]*|"[^"]+")"#;
    let definitions = json!({
        "variable": {"type": "string", "pattern": r"\$\{(env|var):"},
        "word": {"type": "string", "pattern": "^[a-z][a-z0-9_]*$"},
        "id": text("^[a-z][a-z0-9_-]{0,63}$", "session-ids"),
        "playbook": text("^[a-z][a-z0-9_]{0,39}$", "sessions"),
        "schema": text("^[a-z][a-z0-9_]{0,62}$", "derived"),
        "table": text(&format!("^{part}\\.{part}$"), "derived.sessions"),
        "column": text(&format!("^{part}$"), "collector_tstamp"),
        "duration": text(duration, "7 days"),
        "size": text(r"^\s*\d+\s*([kKMG]i?)?[bB]\s*$", "128MiB"),
        "tables": {"type": "array", "items": {"$ref": "#/$defs/table"}},
        "plugin": map("A plugin that is not built in.", &["component"], &json!({
            "component": {
                "description": "Path of the `.wasm` file, relative to this file.",
                "type": "string",
            },
            "digest": {
                "$ref": "#/$defs/digest",
                "description": "SHA-256 of the file. Another file at the path is refused.",
            },
            "signature": {
                "description": "File with its signatures, which must be there. Default: the component's with `.sig` behind, which need not be where no signature is required.",
                "type": "string",
            },
            "trust": {
                "description": "Who wrote the plugin. Default: third-party.",
                "enum": ["own", "third-party"],
            },
            "grants": map(
                "What the plugin's statements may touch; a third party's nothing else.", &[], &json!({
                "read": of("tables", "Tables it may read; scratch tables as `scratch.<alias>`."),
                "write": of("tables", "Tables it may write, and read."),
                "statements": {
                    "description": "What a third party's plugin may do to the tables of `write`. \
                        Default: select and insert, which fills scratch tables.",
                    "type": "array",
                    "items": {"enum": ["select", "insert", "update", "delete", "truncate"]},
                },
            })),
            "connection": connection(),
            "limits": limits(),
        })),
        "digest": text("^sha256:[0-9a-fA-F]{64}$", "sha256:…"),
    });
    match definitions {
        Value::Object(definitions) => definitions,
        _ => Map::new(),
    }
}
