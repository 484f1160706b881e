//! Whether holding settings against a schema comes to an end soon.
//!
//! Schemas come from third parties, and are read before anything of theirs is confined. A schema whose parts apply to the
//! same value may refer to itself, or to the same part twice, and that part to another one twice, and so on: the first
//! never ends and the second takes as long as its author likes. What goes down into a value (`properties`, `items`) may
//! refer to itself, since values end.

use std::collections::HashMap;

use serde_json::Value;

/// Most parts of a schema that apply to one value, each counted as often as it is come by.
const PARTS_MAX: u64 = 10_000;

/// Longest way through parts that apply to one value.
const DEPTH_MAX: usize = 64;

/// Keywords whose value is data, in which nothing is a schema.
const DATA: [&str; 4] = ["const", "enum", "default", "examples"];

/// Checks a schema before it is compiled.
///
/// # Errors
///
/// A sentence if it would take too long, or refers to anything but its own parts as `#` or `#/…`.
pub(super) fn bounded(schema: &Value) -> Result<(), String> {
    let mut costs = Costs {
        root: schema,
        known: HashMap::new(),
    };
    costs.walk(schema)
}

struct Costs<'a> {
    root: &'a Value,
    /// What was counted; none while it is being counted.
    known: HashMap<*const Value, Option<Cost>>,
}

/// What it takes to hold one value against a schema.
#[derive(Clone, Copy)]
struct Cost {
    parts: u64,
    /// Steps of the longest way.
    depth: usize,
}

impl<'a> Costs<'a> {
    /// Counts for every schema inside. The depth of a JSON text is bounded where it is parsed.
    fn walk(&mut self, value: &'a Value) -> Result<(), String> {
        match value {
            Value::Object(map) => {
                self.cost(value, 0)?;
                let schemas = map.iter().filter(|(key, _)| !DATA.contains(&key.as_str()));
                for (_, value) in schemas {
                    self.walk(value)?;
                }
                Ok(())
            }
            Value::Array(items) => items.iter().try_for_each(|value| self.walk(value)),
            _ => Ok(()),
        }
    }

    /// `above` is the number of steps that led here.
    fn cost(&mut self, schema: &'a Value, above: usize) -> Result<Cost, String> {
        let mut cost = Cost { parts: 1, depth: 0 };
        let Value::Object(map) = schema else {
            return Ok(cost);
        };
        let too_deep = || {
            Err(format!(
                "parts of it apply to the same value over more than {DEPTH_MAX} steps"
            ))
        };
        if above > DEPTH_MAX {
            return too_deep();
        }
        match self.known.get(&std::ptr::from_ref(schema)) {
            Some(Some(cost)) => return Ok(*cost),
            Some(None) => return Err("a part of it refers to itself for the same value".into()),
            None => {}
        }
        self.known.insert(schema, None);
        let mut parts: Vec<&'a Value> = Vec::new();
        for (key, value) in map {
            match (key.as_str(), value) {
                ("allOf" | "anyOf" | "oneOf", Value::Array(items)) => parts.extend(items),
                ("dependentSchemas", Value::Object(schemas)) => parts.extend(schemas.values()),
                ("not" | "if" | "then" | "else", value) => parts.push(value),
                ("$ref", Value::String(target)) => parts.push(self.target(target)?),
                ("$dynamicRef" | "$recursiveRef", Value::String(_)) => {
                    return Err(format!("it has `{key}`, expected `$ref`"));
                }
                _ => {}
            }
        }
        for part in parts {
            let part = self.cost(part, above + 1)?;
            cost.parts = cost.parts.saturating_add(part.parts);
            cost.depth = cost.depth.max(part.depth + 1);
        }
        if cost.depth > DEPTH_MAX {
            return too_deep();
        }
        if cost.parts > PARTS_MAX {
            return Err(format!(
                "more than {PARTS_MAX} parts of it apply to one value"
            ));
        }
        self.known.insert(schema, Some(cost));
        Ok(cost)
    }

    fn target(&self, reference: &str) -> Result<&'a Value, String> {
        let found = reference
            .strip_prefix('#')
            .and_then(|pointer| self.root.pointer(pointer));
        found.ok_or_else(|| format!("it refers to \"{reference}\", which is no part of it"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_goes_down_into_a_value_may_refer_to_itself() {
        let tree = json!({
            "type": "object",
            "properties": {
                "children": {"type": "array", "items": {"$ref": "#"}},
                "either": {"anyOf": [{"$ref": "#/$defs/name"}, {"$ref": "#"}]},
            },
            "$defs": {"name": {"type": "string", "enum": [{"$ref": "x"}]}},
        });
        assert_eq!(bounded(&tree), Ok(()));
        assert_eq!(bounded(&json!(true)), Ok(()));
    }

    #[test]
    fn what_does_not_end_soon_is_refused() {
        // Each part applies the next one twice: 2 to the 20th in all.
        let twice = |n: u32| {
            let next = json!({"$ref": format!("#/$defs/d{}", n + 1)});
            (format!("d{n}"), json!({"allOf": [next, next]}))
        };
        let mut doubling: serde_json::Map<_, _> = (0..20).map(twice).collect();
        doubling.insert("d20".into(), json!(true));
        // Looked at from its end too, where each step is one more than a known one.
        let chain = |next: fn(u32) -> u32| {
            let once = |n: u32| {
                let next = json!({"$ref": format!("#/$defs/d{:04}", next(n))});
                (format!("d{n:04}"), next)
            };
            let mut chain: serde_json::Map<_, _> = (1..5_000).map(once).collect();
            for end in ["d0000", "d5000"] {
                chain.insert(end.into(), json!(true));
            }
            chain
        };
        let (down, up) = (chain(|n| n - 1), chain(|n| n + 1));
        for (schema, part) in [
            (json!({"$ref": "#"}), "refers to itself"),
            (
                json!({"properties": {"a": {"anyOf": [{"not": {"$ref": "#/properties/a"}}]}}}),
                "refers to itself",
            ),
            (json!({"$defs": doubling}), "more than 10000 parts"),
            (json!({"$defs": down}), "more than 64 steps"),
            (json!({"$defs": up}), "more than 64 steps"),
            (json!({"$ref": "other.json"}), "no part of it"),
            (json!({"$ref": "#/$defs/missing"}), "no part of it"),
            (json!({"items": {"$dynamicRef": "#a"}}), "`$dynamicRef`"),
        ] {
            let refused = bounded(&schema).expect_err(part);
            assert!(refused.contains(part), "{refused}");
        }
    }
}
