//! Says in the house's words what a JSON Schema refuses. The validator's own words quote values,
//! which may be secret.

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind as Refusal;
use serde_json::Value;

use super::marks::{Mark, array, escaped, referred};
use super::settings::Places;
use crate::problem::{Problem, Problems};
use crate::words::{closest, quoted, suggest};

/// Deepest that alternatives inside alternatives are told apart.
const DEPTH_MAX: usize = 8;

/// What is needed to word a refusal.
pub(super) struct Words<'a> {
    pub(super) label: &'a str,
    pub(super) schema: &'a Value,
    pub(super) places: &'a Places<'a>,
}

/// Returns what messages call a setting: `setting "dedupe.by" of step "sessions"`.
pub(super) fn setting(pointer: &str, label: &str) -> String {
    if pointer.is_empty() {
        format!("the settings of {label}")
    } else {
        format!("setting {} of {label}", quoted(&path(pointer)))
    }
}

/// Returns a JSON pointer as people write it: `dedupe.earliest[0]`.
fn path(pointer: &str) -> String {
    let mut path = String::new();
    for part in pointer.split('/').skip(1) {
        if !part.is_empty() && part.chars().all(|c| c.is_ascii_digit()) {
            path.push_str(&format!("[{part}]"));
            continue;
        }
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(&part.replace("~1", "/").replace("~0", "~"));
    }
    path
}

impl Words<'_> {
    /// Adds one problem or more for a refusal.
    pub(super) fn report(&self, error: &ValidationError<'_>, problems: &mut Problems) {
        self.report_deep(error, 0, problems);
    }

    fn report_deep(&self, error: &ValidationError<'_>, depth: usize, problems: &mut Problems) {
        let pointer = error.instance_path().as_str();
        match error.kind() {
            Refusal::AdditionalProperties { unexpected }
            | Refusal::UnevaluatedProperties { unexpected } => {
                for key in unexpected {
                    problems.push(self.unknown(error, pointer, key));
                }
            }
            Refusal::Required { property } => {
                problems.push(self.missing(error, pointer, property.as_str().unwrap_or("?")));
            }
            Refusal::AnyOf { context } | Refusal::OneOfNotValid { context } => {
                match meant(context, pointer) {
                    Some(branch) if depth < DEPTH_MAX => {
                        for error in branch.iter().filter(|error| !is_misspelt(error, branch)) {
                            self.report_deep(error, depth + 1, problems);
                        }
                    }
                    _ => problems.push(self.value(error, pointer)),
                }
            }
            Refusal::PropertyNames { error: inner } => {
                let expected = expected_of(self.schema, self.parent(inner), inner.kind());
                let key = inner.instance().as_str().unwrap_or("?");
                let at = format!("{pointer}/{}", escaped(key));
                let span = self.places.keys.get(&at).copied();
                let message = format!(
                    "{}: expected {expected} as a key, found {}",
                    setting(pointer, self.label),
                    quoted(key)
                );
                problems
                    .push(Problem::error(message).at(span.unwrap_or(self.places.value(pointer))));
            }
            _ => problems.push(self.value(error, pointer)),
        }
    }

    /// Returns the schema whose keyword refused.
    fn parent(&self, error: &ValidationError<'_>) -> &Value {
        let keyword = error.schema_path().as_str();
        let parent = &keyword[..keyword.rfind('/').unwrap_or(0)];
        self.schema.pointer(parent).unwrap_or(&Value::Null)
    }

    fn unknown(&self, error: &ValidationError<'_>, pointer: &str, key: &str) -> Problem {
        let at = format!("{pointer}/{}", escaped(key));
        let span = self.places.keys.get(&at).copied();
        let message = format!("unknown setting {} of {}", quoted(&path(&at)), self.label);
        let properties = self.parent(error).get("properties");
        let known: Vec<&str> = properties
            .and_then(Value::as_object)
            .map(|properties| properties.keys().map(String::as_str).collect())
            .unwrap_or_default();
        Problem::error(message)
            .at(span.unwrap_or(self.places.value(pointer)))
            .with_help(suggest(key, "settings here", known.iter().copied()))
    }

    fn missing(&self, error: &ValidationError<'_>, pointer: &str, key: &str) -> Problem {
        let owner = if pointer.is_empty() {
            self.label.to_owned()
        } else {
            setting(pointer, self.label)
        };
        let message = format!("{owner} lacks setting {}", quoted(key));
        let span = match self.places.keys.get(pointer) {
            Some(key) => *key,
            None => self.places.value(pointer),
        };
        let own = self
            .parent(error)
            .get("properties")
            .and_then(|p| p.get(key));
        let own = own.map(|schema| referred(self.schema, schema));
        let about = own
            .and_then(|schema| schema.get("description"))
            .and_then(Value::as_str)
            .map(sentence)
            .or_else(|| own.map(|schema| describe(self.schema, schema, 0)));
        let help = match about {
            Some(about) => format!("add `{key}: …` ({about})"),
            None => format!("add `{key}: …`"),
        };
        Problem::error(message).at(span).with_help(help)
    }

    /// Words a refusal of one value: what was expected, what is there.
    fn value(&self, error: &ValidationError<'_>, pointer: &str) -> Problem {
        let schema = self.parent(error);
        let expected = expected_of(self.schema, schema, error.kind());
        let found = match self.places.nodes.get(pointer) {
            Some(node) => found(node.describe(), error),
            None => "none".into(),
        };
        let name = setting(pointer, self.label);
        let mut problem = Problem::error(format!("{name}: expected {expected}, found {found}"))
            .at(self.places.value(pointer));
        if let Refusal::Pattern { .. } = error.kind()
            && let Some(about) = schema.get("description").and_then(Value::as_str)
        {
            problem = problem.with_detail(sentence(about));
        }
        let options = options_of(self.schema, schema, error.kind());
        let text = match self.places.nodes.get(pointer).map(|node| &node.kind) {
            Some(crate::tree::Kind::Text(text)) => text.shown(),
            _ => "",
        };
        if let Some(option) = closest(text, options.iter().map(String::as_str)) {
            return problem.with_help(format!("did you mean \"{option}\"?"));
        }
        match array(schema, "examples").first() {
            Some(Value::String(example)) => problem.with_help(format!("for example `{example}`")),
            Some(example) => problem.with_help(format!("for example `{example}`")),
            None => problem,
        }
    }
}

/// Whether an error says that a setting is missing which stands there misspelt, and is reported as
/// such.
pub(super) fn is_misspelt(missing: &ValidationError<'_>, all: &[ValidationError<'_>]) -> bool {
    let Refusal::Required { property } = missing.kind() else {
        return false;
    };
    let property = property.as_str().unwrap_or("");
    all.iter().any(|error| match error.kind() {
        Refusal::AdditionalProperties { unexpected } => {
            error.instance_path() == missing.instance_path()
                && closest(property, unexpected.iter().map(String::as_str)).is_some()
        }
        _ => false,
    })
}

/// Returns the errors of the branch that was meant: the only one whose type is that of the value.
fn meant<'e>(
    branches: &'e [Vec<ValidationError<'static>>],
    pointer: &str,
) -> Option<&'e [ValidationError<'static>]> {
    let of_other_type = |error: &ValidationError<'_>| {
        error.instance_path().as_str() == pointer
            && matches!(
                error.kind(),
                Refusal::Type { .. } | Refusal::Constant { .. } | Refusal::Enum { .. }
            )
    };
    let mut meant = branches
        .iter()
        .filter(|errors| !errors.is_empty() && !errors.iter().any(of_other_type));
    let first = meant.next()?;
    meant.next().is_none().then_some(first.as_slice())
}

/// Returns what stands there, with its length where length is what is refused.
fn found(described: String, error: &ValidationError<'_>) -> String {
    let count = match (error.kind(), error.instance().as_ref()) {
        (Refusal::MinItems { .. } | Refusal::MaxItems { .. }, Value::Array(items)) => {
            Some(items.len())
        }
        (Refusal::MinProperties { .. } | Refusal::MaxProperties { .. }, Value::Object(keys)) => {
            Some(keys.len())
        }
        _ => None,
    };
    count.map_or(described, |count| count.to_string())
}

/// Returns what a keyword wants, after "expected".
fn expected_of(root: &Value, schema: &Value, refusal: &Refusal) -> String {
    match refusal {
        Refusal::Minimum { limit } => format!("at least {limit}"),
        Refusal::Maximum { limit } => format!("at most {limit}"),
        Refusal::ExclusiveMinimum { limit } => format!("more than {limit}"),
        Refusal::ExclusiveMaximum { limit } => format!("less than {limit}"),
        Refusal::MinLength { limit: 1 } => "text that is not empty".into(),
        Refusal::MinLength { limit } => format!("at least {}", counted(*limit, "character")),
        Refusal::MaxLength { limit } => format!("at most {}", counted(*limit, "character")),
        Refusal::MinItems { limit } => format!("at least {}", counted(*limit, "item")),
        Refusal::MaxItems { limit } => format!("at most {}", counted(*limit, "item")),
        Refusal::MinProperties { limit } => format!("at least {}", counted(*limit, "key")),
        Refusal::MaxProperties { limit } => format!("at most {}", counted(*limit, "key")),
        Refusal::MultipleOf { multiple_of } => format!("a multiple of {multiple_of}"),
        Refusal::UniqueItems => "each item once".into(),
        Refusal::FalseSchema => "nothing here".into(),
        Refusal::OneOfMultipleValid { .. } => "only one of the alternatives".into(),
        Refusal::Pattern { pattern } => match Mark::of(schema) {
            Some(_) => describe(root, schema, 0),
            None => format!("text that matches `{pattern}`"),
        },
        Refusal::Format { format } => format!("text in the format `{format}`"),
        Refusal::Contains => "a list with an item of another kind".into(),
        Refusal::Not { .. } => "something else".into(),
        _ => describe(root, schema, 0),
    }
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Returns the texts that a value may be, where there are only so many.
fn options_of(root: &Value, schema: &Value, refusal: &Refusal) -> Vec<String> {
    let listed = match refusal {
        Refusal::Enum { .. } => array(schema, "enum").to_vec(),
        Refusal::AnyOf { .. } | Refusal::OneOfNotValid { .. } => ["anyOf", "oneOf"]
            .iter()
            .flat_map(|keyword| array(schema, keyword))
            .map(|branch| referred(root, branch))
            .flat_map(|branch| {
                let own = branch.get("const").into_iter();
                own.chain(array(branch, "enum")).cloned()
            })
            .collect(),
        _ => return Vec::new(),
    };
    let texts = listed.iter().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

/// Returns what a schema wants, as a noun: `text`, `a list of text`, `one of "a", "b"`.
fn describe(root: &Value, schema: &Value, depth: usize) -> String {
    if depth > DEPTH_MAX {
        return "a value".into();
    }
    let schema = referred(root, schema);
    match Mark::of(schema) {
        Some(Mark::ReadsScratch | Mark::WritesScratch) => {
            return "an alias (lower-case words joined by `_`)".into();
        }
        Some(Mark::ReadsTable | Mark::WritesDerived | Mark::MaintainsTable) => {
            return "a table as `schema.table`".into();
        }
        Some(Mark::ReadsColumn) => return "a column as `schema.table.column`".into(),
        Some(Mark::Sql) if schema.get("anyOf").is_some() => {
            return "SQL text or `{ file: path }`".into();
        }
        Some(Mark::Sql) => return "SQL text".into(),
        Some(Mark::Expression) => return "an SQL expression".into(),
        None => {}
    }
    if let Some(only) = schema.get("const") {
        return only.to_string();
    }
    if let Some(options) = schema.get("enum").and_then(Value::as_array) {
        return one_of(&options.iter().map(Value::to_string).collect::<Vec<_>>());
    }
    for keyword in ["anyOf", "oneOf"] {
        let branches = array(schema, keyword);
        if !branches.is_empty() {
            return alternatives(root, branches, depth);
        }
    }
    match schema.get("type") {
        Some(Value::String(name)) => of_type(root, schema, name, depth),
        Some(Value::Array(names)) => {
            let names = names.iter().filter_map(Value::as_str);
            let kinds: Vec<String> = names
                .map(|name| of_type(root, schema, name, depth))
                .collect();
            kinds.join(" or ")
        }
        _ => "a value".into(),
    }
}

/// Words `anyOf` and `oneOf`. Constants, which is how documented choices are written, read as one
/// choice.
fn alternatives(root: &Value, branches: &[Value], depth: usize) -> String {
    let constants: Vec<String> = branches
        .iter()
        .filter_map(|branch| referred(root, branch).get("const"))
        .map(Value::to_string)
        .collect();
    let mut kinds: Vec<String> = Vec::new();
    if constants.len() > 1 {
        kinds.push(one_of(&constants));
    }
    for branch in branches {
        let is_constant = referred(root, branch).get("const").is_some();
        let kind = describe(root, branch, depth + 1);
        if (!is_constant || kinds.is_empty()) && !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds.join(" or ")
}

fn one_of(options: &[String]) -> String {
    match options {
        [only] => only.clone(),
        _ => format!("one of {}", options.join(", ")),
    }
}

fn of_type(root: &Value, schema: &Value, name: &str, depth: usize) -> String {
    match name {
        "string" => match schema.get("pattern").and_then(Value::as_str) {
            Some(pattern) => format!("text that matches `{pattern}`"),
            None => "text".into(),
        },
        "integer" => "a whole number".into(),
        "number" => "a number".into(),
        "boolean" => "`true` or `false`".into(),
        "null" => "nothing".into(),
        "array" => match schema.get("items") {
            Some(items) => match describe(root, items, depth + 1).as_str() {
                "a value" => "a list".into(),
                "a whole number" => "a list of whole numbers".into(),
                item if item.starts_with("an alias") => "a list of aliases".into(),
                "a table as `schema.table`" => "a list of tables as `schema.table`".into(),
                "a map" => "a list of maps".into(),
                "an SQL expression" => "a list of SQL expressions".into(),
                item if item.starts_with("a map with") => {
                    format!("a list of maps{}", &item["a map".len()..])
                }
                item if item.contains(' ') => "a list".into(),
                item => format!("a list of {item}"),
            },
            None => "a list".into(),
        },
        "object" => {
            let keys: Vec<String> = array(schema, "required")
                .iter()
                .filter_map(Value::as_str)
                .map(|key| format!("`{key}`"))
                .collect();
            if keys.is_empty() {
                "a map".into()
            } else {
                format!("a map with {}", keys.join(", "))
            }
        }
        _ => "a value".into(),
    }
}

/// Returns the first sentence of a description as a part of one: without full stop and line ends,
/// begun in lower case unless it begins with a name in capitals.
fn sentence(about: &str) -> String {
    let line = about.split_whitespace().collect::<Vec<_>>().join(" ");
    let first = line.split_inclusive(". ").next().unwrap_or("").trim();
    let first = first.strip_suffix('.').unwrap_or(first);
    let mut chars = first.chars();
    let Some(begin) = chars.next() else {
        return String::new();
    };
    if chars.clone().next().is_some_and(|c| c.is_uppercase()) {
        return first.to_owned();
    }
    begin.to_lowercase().chain(chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_read_as_people_write_them() {
        assert_eq!(path("/dedupe/earliest/0"), "dedupe.earliest[0]");
        assert_eq!(path("/columns/a~1b"), "columns.a/b");
        assert_eq!(setting("", "step \"x\""), "the settings of step \"x\"");
    }

    #[test]
    fn schemas_are_described_as_nouns() {
        let root = json!({"$defs": {"t": {"type": "string", "x-stepwell": "reads-table"}}});
        for (schema, words) in [
            (json!({"type": "string"}), "text"),
            (json!({"type": ["string", "null"]}), "text or nothing"),
            (
                json!({"type": "array", "items": {"type": "string"}}),
                "a list of text",
            ),
            (
                json!({"type": "array", "items": {"$ref": "#/$defs/t"}}),
                "a list of tables as `schema.table`",
            ),
            (json!({"enum": ["a", "b"]}), "one of \"a\", \"b\""),
            (
                json!({"oneOf": [{"const": "a"}, {"const": "b"}]}),
                "one of \"a\", \"b\"",
            ),
            (
                json!({"anyOf": [{"const": "all"}, {"type": "integer"}]}),
                "\"all\" or a whole number",
            ),
            (
                json!({"type": "object", "required": ["by"]}),
                "a map with `by`",
            ),
            (json!({}), "a value"),
        ] {
            assert_eq!(describe(&root, &schema, 0), words);
        }
    }

    #[test]
    fn descriptions_become_part_of_a_sentence() {
        assert_eq!(sentence("Alias of the table.\nMore."), "alias of the table");
        assert_eq!(sentence("SQL text. More."), "SQL text");
        assert_eq!(sentence(""), "");
    }
}
