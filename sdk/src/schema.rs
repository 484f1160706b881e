//! JSON Schemas as constants.
//!
//! A plugin's description stands in a custom section, so its bytes must be known when the plugin compiles. [`Json`] is
//! a text of bounded length that constant functions can build; `#[derive(Settings)]` and [`export_planner!`] use it.
//!
//! [`export_planner!`]: crate::export_planner

use std::collections::BTreeMap;

/// Longest description, in bytes. The host refuses sections above 256 KiB; ours stay far below.
const BYTES_MAX: usize = 16 * 1024;

/// A type that settings are made of, with the JSON Schema of what it reads.
///
/// Derived with `#[derive(Settings)]` for structs and for enums of plain words.
pub trait Settings {
    /// The schema, one JSON object.
    const SCHEMA: Json;
}

/// A JSON text that is built while the plugin compiles.
#[derive(Clone, Copy)]
pub struct Json {
    bytes: [u8; BYTES_MAX],
    length: usize,
}

impl Json {
    /// Returns an empty text.
    #[expect(clippy::new_without_default, reason = "`Default` cannot be constant")]
    pub const fn new() -> Self {
        Self {
            bytes: [0; BYTES_MAX],
            length: 0,
        }
    }

    /// Returns `schema`, a JSON text, as it stands.
    pub const fn raw(schema: &str) -> Self {
        Self::new().text(schema)
    }

    /// Appends `text` as it stands. A description that grows too long stops the compiler.
    pub const fn text(self, text: &str) -> Self {
        self.append(text.as_bytes(), 0, text.len())
    }

    /// Appends another text.
    pub const fn json(self, other: &Self) -> Self {
        self.append(&other.bytes, 0, other.length)
    }

    /// Appends the object `schema` behind `open`, an object that has begun and is not closed.
    pub const fn described(self, open: &str, schema: &Self) -> Self {
        let begun = self.text(open);
        let begun = if schema.length > 2 {
            begun.text(",")
        } else {
            begun
        };
        begun.append(&schema.bytes, 1, schema.length)
    }

    /// Appends `text` as a JSON string.
    pub const fn string(self, text: &str) -> Self {
        let mut out = self.text("\"");
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            assert!(
                bytes[at] >= 0x20,
                "a description holds no control characters"
            );
            if bytes[at] == b'"' || bytes[at] == b'\\' {
                out = out.text("\\");
            }
            out = out.append(bytes, at, at + 1);
            at += 1;
        }
        out.text("\"")
    }

    /// Appends a list of JSON strings.
    pub const fn strings(self, texts: &[&str]) -> Self {
        let mut out = self.text("[");
        let mut at = 0;
        while at < texts.len() {
            if at > 0 {
                out = out.text(",");
            }
            out = out.string(texts[at]);
            at += 1;
        }
        out.text("]")
    }

    /// Length in bytes.
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing was appended yet.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Returns the first `N` bytes; `N` is [`len`](Self::len).
    pub const fn to_array<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        let mut at = 0;
        while at < N {
            out[at] = self.bytes[at];
            at += 1;
        }
        out
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).expect("only whole strings were appended")
    }

    const fn append(mut self, from: &[u8], start: usize, end: usize) -> Self {
        assert!(
            self.length + end - start <= BYTES_MAX,
            "the description is longer than 16 KiB"
        );
        let mut at = start;
        while at < end {
            self.bytes[self.length] = from[at];
            self.length += 1;
            at += 1;
        }
        self
    }
}

impl Settings for bool {
    const SCHEMA: Json = Json::raw("{\"type\":\"boolean\"}");
}

impl Settings for String {
    const SCHEMA: Json = Json::raw("{\"type\":\"string\"}");
}

macro_rules! integers {
    ($($type:ty: $minimum:literal),*) => {$(
        impl Settings for $type {
            const SCHEMA: Json =
                Json::raw(concat!("{\"type\":\"integer\",\"minimum\":", $minimum, "}"));
        }
    )*};
}
integers!(u16: 0, u32: 0, u64: 0, i32: "-2147483648", i64: "-9223372036854775808");

impl Settings for f64 {
    const SCHEMA: Json = Json::raw("{\"type\":\"number\"}");
}

impl<T: Settings> Settings for Option<T> {
    const SCHEMA: Json = T::SCHEMA;
}

impl<T: Settings> Settings for Vec<T> {
    const SCHEMA: Json = Json::new()
        .text("{\"type\":\"array\",\"items\":")
        .json(&T::SCHEMA)
        .text("}");
}

impl<T: Settings> Settings for BTreeMap<String, T> {
    const SCHEMA: Json = Json::new()
        .text("{\"type\":\"object\",\"additionalProperties\":")
        .json(&T::SCHEMA)
        .text("}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use stepwell_sdk_macros::Settings;

    /// What a step takes.
    #[derive(serde::Deserialize, Settings)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    #[expect(dead_code, reason = "only the schema is looked at")]
    struct With {
        /// A "quoted" word.
        max_batches: Option<u32>,
        names: Vec<String>,
        #[serde(default)]
        policy: Policy,
    }

    #[derive(Default, serde::Deserialize, Settings)]
    #[serde(rename_all = "kebab-case")]
    enum Policy {
        #[default]
        Fail,
        AppendOnly,
    }

    #[test]
    fn the_schema_follows_the_serde_attributes() {
        let schema: serde_json::Value = serde_json::from_str(With::SCHEMA.as_str()).unwrap();
        assert_eq!(
            schema,
            json!({
                "type": "object",
                "properties": {
                    "max-batches": { "description": "A \"quoted\" word.", "type": "integer", "minimum": 0 },
                    "names": { "description": "", "type": "array", "items": { "type": "string" } },
                    "policy": { "description": "", "type": "string", "enum": ["fail", "append-only"] },
                },
                "required": ["names"],
                "additionalProperties": false,
            })
        );
    }
}
