//! What the settings of a step name: scratch tables, tables, SQL. The schema says where, by
//! `x-stepwell`.

use std::collections::BTreeSet;

use serde_json::Value;

/// Deepest that a schema's references and branches are followed.
const DEPTH_MAX: usize = 64;

/// Most schemas that are looked at for one step; a schema that refers to itself cannot ask for
/// more.
const VISITS_MAX: usize = 200_000;

/// What a marked value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    ReadsScratch,
    WritesScratch,
    ReadsTable,
    WritesDerived,
    ReadsColumn,
    MaintainsTable,
    Sql,
    Expression,
}

impl Mark {
    /// Returns the mark of a schema. A mark that this build does not know means nothing to it.
    pub(super) fn of(schema: &Value) -> Option<Self> {
        match schema.get("x-stepwell")?.as_str()? {
            "reads-scratch" => Some(Self::ReadsScratch),
            "writes-scratch" => Some(Self::WritesScratch),
            "reads-table" => Some(Self::ReadsTable),
            "writes-derived" => Some(Self::WritesDerived),
            "reads-column" => Some(Self::ReadsColumn),
            "maintains-table" => Some(Self::MaintainsTable),
            "sql" => Some(Self::Sql),
            "expression" => Some(Self::Expression),
            _ => None,
        }
    }
}

/// Returns the marked values with their JSON pointers, each once.
pub(super) fn find(schema: &Value, settings: &Value) -> BTreeSet<(String, Mark)> {
    let mut walk = Walk {
        root: schema,
        found: BTreeSet::new(),
        visits: 0,
    };
    walk.visit(schema, settings, "", 0);
    walk.found
}

/// Returns the schema that `schema` refers to within `root`, or itself.
pub(super) fn referred<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let target = schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|target| target.strip_prefix('#'))
        .and_then(|pointer| root.pointer(pointer));
    target.unwrap_or(schema)
}

/// Returns a key as a part of a JSON pointer.
pub(super) fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

struct Walk<'a> {
    root: &'a Value,
    found: BTreeSet<(String, Mark)>,
    visits: usize,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, schema: &'a Value, value: &Value, pointer: &str, depth: usize) {
        self.visits += 1;
        if depth > DEPTH_MAX || self.visits > VISITS_MAX {
            return;
        }
        if let Some(mark) = Mark::of(schema)
            && (value.is_string() || mark == Mark::Sql)
        {
            self.found.insert((pointer.to_owned(), mark));
        }
        let target = referred(self.root, schema);
        if !std::ptr::eq(target, schema) {
            self.visit(target, value, pointer, depth + 1);
        }
        for keyword in ["allOf", "anyOf", "oneOf"] {
            for branch in array(schema, keyword) {
                if fits(referred(self.root, branch), value) {
                    self.visit(branch, value, pointer, depth + 1);
                }
            }
        }
        for keyword in ["if", "then", "else"] {
            if let Some(branch) = schema.get(keyword) {
                self.visit(branch, value, pointer, depth + 1);
            }
        }
        match value {
            Value::Object(settings) => {
                for (key, value) in settings {
                    let pointer = format!("{pointer}/{}", escaped(key));
                    self.property(schema, key, value, &pointer, depth);
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let own = array(schema, "prefixItems").get(index);
                    if let Some(schema) = own.or_else(|| schema.get("items")) {
                        self.visit(schema, item, &format!("{pointer}/{index}"), depth + 1);
                    }
                }
            }
            _ => {}
        }
    }

    fn property(
        &mut self,
        schema: &'a Value,
        key: &str,
        value: &Value,
        pointer: &str,
        depth: usize,
    ) {
        if let Some(own) = schema.get("properties").and_then(|p| p.get(key)) {
            self.visit(own, value, pointer, depth + 1);
            return;
        }
        // Which pattern a key matches is not looked at: a mark too many is checked, one too few
        // would be let through.
        let patterns = schema.get("patternProperties").and_then(Value::as_object);
        for schema in patterns.into_iter().flat_map(|patterns| patterns.values()) {
            self.visit(schema, value, pointer, depth + 1);
        }
        if let Some(schema) = schema.get("additionalProperties") {
            self.visit(schema, value, pointer, depth + 1);
        }
    }
}

/// Returns a keyword's list of schemas; empty without it.
pub(super) fn array<'a>(schema: &'a Value, keyword: &str) -> &'a [Value] {
    schema
        .get(keyword)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Whether a value may be meant by a branch, as far as type and keys tell.
fn fits(schema: &Value, value: &Value) -> bool {
    let name = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let names = |wanted: &str| wanted == name || (wanted == "integer" && name == "number");
    let of_type = match schema.get("type") {
        Some(Value::String(wanted)) => names(wanted),
        Some(Value::Array(wanted)) => wanted.iter().filter_map(Value::as_str).any(names),
        _ => true,
    };
    let same = schema.get("const").is_none_or(|wanted| wanted == value);
    let listed = schema.get("enum").is_none() || array(schema, "enum").contains(value);
    let has_keys = array(schema, "required")
        .iter()
        .filter_map(Value::as_str)
        .all(|key| !value.is_object() || value.get(key).is_some());
    of_type && same && listed && has_keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn finds_marks_through_lists_maps_references_and_branches() {
        let schema = json!({
            "type": "object",
            "properties": {
                "into": {"type": "string", "x-stepwell": "writes-scratch"},
                "replace": {"type": "array", "items": {"$ref": "#/$defs/target"}},
                "columns": {"type": "object", "additionalProperties": {"$ref": "#/$defs/sql"}},
                "from": {"anyOf": [
                    {"type": "string", "x-stepwell": "reads-scratch"},
                    {"type": "object", "required": ["table"], "properties": {
                        "table": {"type": "string", "x-stepwell": "reads-table"}}}]}
            },
            "$defs": {
                "target": {"type": "object", "properties": {
                    "table": {"type": "string", "x-stepwell": "writes-derived"},
                    "next": {"$ref": "#/$defs/target"}}},
                "sql": {"x-stepwell": "sql", "anyOf": [
                    {"type": "string"},
                    {"type": "object", "properties": {"file": {"type": "string"}},
                     "required": ["file"], "additionalProperties": false}]}
            }
        });
        let settings = json!({
            "into": "a",
            "replace": [{"table": "d.t", "next": {"table": "d.u"}}],
            "columns": {"x/y": "min(z)", "f": {"file": "f.sql"}},
            "from": {"table": "s.e"}
        });
        let found: Vec<(String, Mark)> = find(&schema, &settings).into_iter().collect();
        let expected = [
            ("/columns/f", Mark::Sql),
            ("/columns/x~1y", Mark::Sql),
            ("/from/table", Mark::ReadsTable),
            ("/into", Mark::WritesScratch),
            ("/replace/0/next/table", Mark::WritesDerived),
            ("/replace/0/table", Mark::WritesDerived),
        ];
        assert_eq!(found, expected.map(|(p, m)| (p.to_owned(), m)));
        let found = find(&schema, &json!({"from": "b"}));
        assert_eq!(
            found.into_iter().next(),
            Some(("/from".into(), Mark::ReadsScratch))
        );
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        let schema = json!({"$ref": "#", "allOf": [{"$ref": "#"}, {"$ref": "#"}, {"$ref": "#"}]});
        assert!(find(&schema, &json!({"a": [1, 2, 3]})).is_empty());
    }
}
