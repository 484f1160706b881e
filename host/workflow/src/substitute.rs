//! `${env:NAME}` and `${var:NAME}` in texts of the workflow file.
//!
//! Done after parsing and inside one scalar at a time, so a value cannot add a key, a list or a
//! comment. What was put in never shows in a message: the text as written does.

use std::collections::{BTreeMap, BTreeSet};

use crate::problem::{Problem, Problems};
use crate::source_file::Span;
use crate::tree::{Entry, Kind, Node, Text};
use crate::words::{closest, quoted};

/// Longest text that substitution may make, in bytes.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// What the world outside the file gives to it.
pub struct Inputs<'a> {
    /// Values of `--var NAME=VALUE`.
    pub vars: BTreeMap<String, String>,
    /// Returns the value of an environment variable. Called for the names that the file asks for,
    /// and for no other.
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

impl std::fmt::Debug for Inputs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values may be secrets.
        f.debug_struct("Inputs")
            .field("vars", &self.vars.keys())
            .finish_non_exhaustive()
    }
}

/// Puts variables into every text of `root` and reports what is missing, unknown or unused.
pub(crate) fn substitute(root: &mut Node, inputs: &Inputs<'_>, problems: &mut Problems) {
    let Kind::Map(entries) = &mut root.kind else {
        return;
    };
    let defaults = defaults(entries, inputs, problems);
    let mut pass = Pass {
        inputs,
        defaults: Some(&defaults),
        used: BTreeSet::new(),
        problems,
    };
    for entry in entries.iter_mut().filter(|entry| entry.key != "vars") {
        pass.node(&mut entry.value);
    }
    let used = pass.used;
    for (name, declared) in defaults.iter().filter(|(name, _)| !used.contains(*name)) {
        let message = format!("variable {} is declared and not used", quoted(name));
        let help = format!("write `${{var:{name}}}` where its value belongs, or remove it");
        problems.push(Problem::warning(message).at(declared.span).with_help(help));
    }
    for name in inputs.vars.keys().filter(|name| !used.contains(*name)) {
        let message = format!("variable {} is given and not used", quoted(name));
        let help = match closest(name, used.iter().map(String::as_str)) {
            Some(known) => format!("did you mean `--var {known}=…`?"),
            None => "remove the flag `--var`, or write `${var:NAME}` into the workflow file".into(),
        };
        problems.push(Problem::error(message).with_help(help));
    }
}

/// Reads the `vars:` map: names with the values that hold when no flag gives one. A default of
/// nothing declares a variable that must be given.
fn defaults(entries: &mut [Entry], inputs: &Inputs<'_>, problems: &mut Problems) -> Defaults {
    let mut defaults = BTreeMap::new();
    let Some(vars) = entries.iter_mut().find(|entry| entry.key == "vars") else {
        return defaults;
    };
    let Kind::Map(vars) = &mut vars.value.kind else {
        let found = vars.value.describe();
        let message = format!("key \"vars\": expected a map of names and values, found {found}");
        problems.error(vars.value.span, message);
        return defaults;
    };
    for var in vars {
        let before = problems.len();
        if !is_name(&var.key) {
            problems.error_help(
                var.key_span,
                format!("variable {} is not a name", quoted(&var.key)),
                "a variable's name has letters, digits, `_` and `-`, and begins with a letter",
            );
            continue;
        }
        Pass {
            inputs,
            defaults: None,
            used: BTreeSet::new(),
            problems,
        }
        .node(&mut var.value);
        let value = match &var.value.kind {
            Kind::Null | Kind::Unknown => None,
            Kind::Bool(value) => Some(value.to_string()),
            Kind::Number(_, written) => Some(written.clone()),
            Kind::Text(text) => Some(text.value.clone()),
            Kind::Seq(_) | Kind::Map(_) => {
                let found = var.value.describe();
                let name = quoted(&var.key);
                let message = format!("variable {name}: expected text or a number, found {found}");
                problems.error(var.value.span, message);
                None
            }
        };
        let declared = Declared {
            default: value,
            broken: problems.len() > before,
            span: var.key_span,
        };
        defaults.insert(var.key.clone(), declared);
    }
    defaults
}

/// What `vars:` says of one variable.
struct Declared {
    /// The default; none if the variable must be given.
    default: Option<String>,
    /// Whether the default could not be read, which is reported where it stands and nowhere else.
    broken: bool,
    span: Span,
}

type Defaults = BTreeMap<String, Declared>;

/// One walk over values.
struct Pass<'a> {
    inputs: &'a Inputs<'a>,
    /// None inside `vars:`, where one variable cannot refer to another.
    defaults: Option<&'a Defaults>,
    used: BTreeSet<String>,
    problems: &'a mut Problems,
}

impl Pass<'_> {
    fn node(&mut self, node: &mut Node) {
        match &mut node.kind {
            Kind::Seq(items) => items.iter_mut().for_each(|item| self.node(item)),
            Kind::Map(entries) => entries
                .iter_mut()
                .for_each(|entry| self.node(&mut entry.value)),
            Kind::Text(text) => {
                let known = !text.value.contains("${") || self.text(text, node.span);
                if !known {
                    node.kind = Kind::Unknown;
                }
            }
            _ => {}
        }
    }

    /// Returns false, with a problem, if the text cannot be known.
    fn text(&mut self, text: &mut Text, span: Span) -> bool {
        let mut known = true;
        let mut value = String::with_capacity(text.value.len());
        let mut put_in = false;
        let mut rest = text.value.as_str();
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                value.push_str(&rest[..at - 1]);
                value.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            value.push_str(&rest[..at]);
            let Some(end) = rest[at..].find('}') else {
                let help = "close it with `}`, or write `$${` for the characters `${`";
                self.problems
                    .error_help(span, "`${` begins a variable that does not end", help);
                return false;
            };
            match self.variable(&rest[at + 2..at + end], span) {
                Some(found) => value.push_str(&found),
                // The rest is read all the same, for its own problems.
                None => known = false,
            }
            put_in = true;
            rest = &rest[at + end + 1..];
            if value.len() > TEXT_BYTES_MAX {
                let message = "the text is longer than 1 MiB with its variables put in";
                self.problems.error(span, message);
                return false;
            }
        }
        value.push_str(rest);
        let written = std::mem::replace(&mut text.value, value);
        text.written = put_in.then_some(written);
        known
    }

    /// Returns the value of what stands between `${` and `}`.
    fn variable(&mut self, inner: &str, span: Span) -> Option<String> {
        let (from, name) = inner.split_once(':').unwrap_or(("", inner));
        let (name, default) = match name.split_once(":-") {
            Some((name, default)) => (name, Some(default.to_owned())),
            None => (name, None),
        };
        if !matches!(from, "env" | "var") || !is_name(name) {
            self.problems.error_help(
                span,
                format!("\"${{{inner}}}\" is not a variable"),
                "write `${env:NAME}`, `${var:NAME}` or `${var:NAME:-default}`; `$${` is `${`",
            );
            return None;
        }
        if from == "env" {
            return (self.inputs.env)(name).or(default).or_else(|| {
                let message = format!("environment variable {} is not set", quoted(name));
                let help = format!("set {name}, or give a default: `${{env:{name}:-…}}`");
                self.problems.error_help(span, message, help);
                None
            });
        }
        let Some(defaults) = self.defaults else {
            let message = "the default of a variable cannot refer to another variable";
            self.problems.error(span, message);
            return None;
        };
        self.used.insert(name.to_owned());
        let declared = defaults.get(name);
        let own = declared.and_then(|declared| declared.default.clone());
        let given = self.inputs.vars.get(name).cloned();
        given.or(default).or(own).or_else(|| {
            if declared.is_some_and(|declared| declared.broken) {
                return None;
            }
            let message = format!("variable {} has no value", quoted(name));
            let mut help = format!("give it with `--var {name}=…`, or a default under `vars:`");
            let known = defaults.keys().chain(self.inputs.vars.keys());
            if let Some(known) = closest(name, known.map(String::as_str).filter(|k| *k != name)) {
                help = format!("did you mean \"{known}\"? Or {help}");
            }
            self.problems.error_help(span, message, help);
            None
        })
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SourceFile;

    fn run(text: &str, vars: &[(&str, &str)]) -> (String, Vec<String>) {
        let mut problems = Problems::default();
        let mut root = crate::tree::parse(text, &mut problems).unwrap();
        let env = |name: &str| (name == "HOME").then(|| "/h: [x] # no".to_owned());
        let inputs = Inputs {
            vars: vars
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect(),
            env: &env,
        };
        substitute(&mut root, &inputs, &mut problems);
        let file = SourceFile::new("f", text);
        let list = problems.finish(text);
        let plain = list.iter().map(|p| p.to_plain(&file)).collect();
        (root.to_json()["a"].to_string(), plain)
    }

    #[test]
    fn values_go_into_texts_and_cannot_become_yaml() {
        let value = |text, vars: &[(&str, &str)]| {
            let (value, problems) = run(text, vars);
            assert_eq!(problems, Vec::<String>::new());
            value
        };
        assert_eq!(value("a: x${env:HOME}y", &[]), r#""x/h: [x] # noy""#);
        assert_eq!(value("a: [\"${var:b}\"]", &[("b", "1, 2")]), r#"["1, 2"]"#);
        assert_eq!(value("a: ${var:b:-de:-f}", &[]), r#""de:-f""#);
        assert_eq!(value("vars: {b: 1.10}\na: ${var:b}", &[]), r#""1.10""#);
        assert_eq!(value("vars: {b: 1}\na: ${var:b}", &[("b", "2")]), r#""2""#);
        assert_eq!(value("a: $${var:b} $1 $$", &[]), r#""${var:b} $1 $$""#);
        // A value is not read again.
        assert_eq!(
            value("a: ${var:b}", &[("b", "${env:HOME}")]),
            r#""${env:HOME}""#
        );
    }

    #[test]
    fn what_is_missing_unknown_or_unused_is_a_problem() {
        for (text, vars, expected) in [
            (
                "a: ${env:NOPE}",
                &[][..],
                "f:1:4: error: environment variable \"NOPE\" is not set",
            ),
            (
                "a: ${var:x}",
                &[],
                "f:1:4: error: variable \"x\" has no value",
            ),
            ("a: ${var:x", &[], "f:1:4: error: `${` begins a variable"),
            (
                "a: ${HOME}",
                &[],
                "f:1:4: error: \"${HOME}\" is not a variable",
            ),
            (
                "a: 1",
                &[("x", "1")],
                "f: error: variable \"x\" is given and not used",
            ),
            (
                "vars: {x: 1}\na: 1",
                &[],
                "f:1:8: warning: variable \"x\" is declared",
            ),
            (
                "vars: {x: [1]}\na: ${var:x:-1}",
                &[],
                "f:1:11: error: variable \"x\": expected text",
            ),
            (
                "vars: {x: '${var:y}'}\na: ${var:x}",
                &[],
                "f:1:11: error: the default of a variable",
            ),
        ] {
            let (_, problems) = run(text, vars);
            assert!(
                problems.len() == 1 && problems[0].starts_with(expected),
                "{text:?} gave {problems:?}"
            );
        }
        let (_, problems) = run("a: ${var:since}", &[("sinc", "1")]);
        assert!(
            problems[0].contains("did you mean \"sinc\"?"),
            "{problems:?}"
        );
        assert!(
            problems[1].contains("did you mean `--var since=…`?"),
            "{problems:?}"
        );
    }
}
