//! What nobody trusts, read at random. Each function takes any bytes and panics where a promise is broken.
//!
//! `tests/fuzz/run SECONDS [TARGET …]` lets libFuzzer choose the bytes, guided by which code they reach, and ends with an
//! error when it finds some that break a promise. They then belong into `corpus/<target>/`, under a name that says what
//! they are: `cargo test` reads every file there each time, without libFuzzer.

mod batch;

use std::collections::BTreeMap;
use std::path::Path;

pub use batch::batch;

use serde_json::json;
use stepwell_sandbox::{DESCRIPTION_BYTES_MAX, SECTION, inspect};
use stepwell_sql::lexer::{Token, TokenKind, tokens};
use stepwell_sql::{
    StatementKind, placeholders, quote_ident, quote_literal, split, statement_kind,
};
use stepwell_workflow::{
    Inputs, LoadError, PROBLEMS_MAX, PluginEntry, PluginKind, StepKind, StepKinds, TableName,
    TrustPolicy, Workflow,
};

/// A workflow file: it is refused with problems that have a place in the file, or it is a workflow.
pub fn workflow(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let env = |_: &str| Some("from_the_environment".to_owned());
    let inputs = Inputs {
        vars: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        env: &env,
    };
    let (file, problems) = match Workflow::parse(Path::new("fuzz.yml"), text, &inputs, &mut Kinds) {
        Ok((workflow, warnings)) => {
            assert!(!workflow.steps.is_empty(), "a workflow has steps");
            for (index, step) in workflow.steps.iter().enumerate() {
                assert!(
                    step.needs.iter().all(|needed| *needed != index),
                    "a step needs itself"
                );
            }
            (workflow.source_file, warnings)
        }
        Err((file, problems)) => {
            assert!(!problems.is_empty(), "refused without a word");
            (file, problems)
        }
    };
    // One more says that there are more.
    assert!(problems.len() <= PROBLEMS_MAX + 1);
    for problem in &problems {
        let plain = problem.to_plain(&file);
        assert!(plain.starts_with("fuzz.yml"), "{plain}");
    }
}

/// A component, or the description in one: it is refused, or what it says of itself is of the promised form.
pub fn description(data: &[u8]) {
    // Most bytes are no component; as the description of an empty one they get further.
    let wrapped = with_section(data);
    for bytes in [data, &wrapped] {
        let Ok(inspection) = inspect(bytes) else {
            continue;
        };
        let description = &inspection.description;
        let name = &description.name;
        assert!(!name.is_empty() && name.len() <= 63, "{name:?}");
        assert!(
            name.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
            "{name:?}"
        );
        assert!(
            description.settings.is_object(),
            "{:?}",
            description.settings
        );
        assert!(
            !description.summary.contains('\n'),
            "{:?}",
            description.summary
        );
        assert_eq!(inspection.size_bytes, bytes.len());
    }
}

/// An empty component with this description.
fn with_section(description: &[u8]) -> Vec<u8> {
    let mut body = vec![u8::try_from(SECTION.len()).expect("a short name")];
    body.extend_from_slice(SECTION.as_bytes());
    body.extend_from_slice(&description[..description.len().min(DESCRIPTION_BYTES_MAX + 1)]);
    let mut bytes = b"\0asm\x0d\0\x01\0\0".to_vec();
    let mut left = body.len();
    // The length in groups of seven bits, the lowest first.
    loop {
        let group = u8::try_from(left & 0x7f).expect("seven bits");
        left >>= 7;
        bytes.push(group | if left > 0 { 0x80 } else { 0 });
        if left == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

/// SQL: tokens lie in their order and cover all but white space and comments, and nothing that is put before a
/// statement hides what it begins with.
pub fn statement(data: &[u8]) {
    let Ok(sql) = std::str::from_utf8(data) else {
        return;
    };
    quoting(sql);
    let _ = placeholders(sql);
    let Ok(found) = tokens(sql) else {
        assert!(
            statement_kind(sql).is_err() && split(sql).is_err(),
            "lenient where tokens are not"
        );
        return;
    };
    in_order(sql, &found);
    let kind = statement_kind(sql).expect("its tokens are certain");
    let statements = split(sql).expect("its tokens are certain");
    let blank = found.iter().all(|token| token.kind == TokenKind::Semicolon);
    assert_eq!(statements.is_empty(), blank, "{statements:?}");
    assert!(!blank || kind == StatementKind::Empty, "{kind:?}");
    for before in [
        "/* a /* b */ select */",
        ";;",
        "-- select\n",
        "--\r",
        "\u{c}\t",
        "/**/;/**/ ",
    ] {
        let hidden = format!("{before}{sql}");
        assert_eq!(statement_kind(&hidden).as_ref(), Ok(&kind), "{hidden:?}");
    }
    if let [one] = statements[..] {
        assert_eq!(split(one).as_deref(), Ok(&[one][..]), "a statement is one");
        assert_eq!(statement_kind(one).as_ref(), Ok(&kind));
    }
}

fn in_order(sql: &str, tokens: &[Token<'_>]) {
    let mut end = 0;
    for token in tokens {
        assert!(token.start >= end && !token.text.is_empty(), "{token:?}");
        assert_eq!(&sql[token.start..token.end()], token.text);
        end = token.end();
    }
}

/// What is quoted is one token, whatever it holds, and a table's name survives being written down.
fn quoting(text: &str) {
    if text.contains('\0') {
        return;
    }
    let literal = quote_literal(text);
    let found = tokens(&literal).expect("a literal is closed");
    assert_eq!(found.len(), 1, "{literal}");
    if !text.is_empty() {
        let ident = quote_ident(text);
        let found = tokens(&ident).expect("an identifier is closed");
        assert_eq!(found.len(), 1, "{ident}");
        assert_eq!(found[0].ident().as_deref(), Some(text), "{ident}");
    }
    if let Ok(table) = text.parse::<TableName>() {
        assert_eq!(table.to_string().parse().as_ref(), Ok(&table), "{table}");
    }
}

/// Two steps with settings of every sort, and a plugin that loads.
struct Kinds;

impl StepKinds for Kinds {
    fn builtin(&self, name: &str) -> Option<StepKind> {
        (name == "sql" || name == "commit").then(|| kind(name))
    }

    fn names(&self) -> Vec<String> {
        vec!["commit".to_owned(), "sql".to_owned()]
    }

    fn load(
        &mut self,
        plugin: &PluginEntry,
        _: &TrustPolicy,
        _: &Path,
    ) -> Result<StepKind, LoadError> {
        Ok(kind(&plugin.name))
    }
}

fn kind(name: &str) -> StepKind {
    StepKind {
        name: name.to_owned(),
        version: "1.0.0".to_owned(),
        kind: PluginKind::Planner,
        gate: false,
        summary: String::new(),
        settings: json!({
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "sql": { "x-stepwell": "sql", "type": "string" },
                "into": { "x-stepwell": "writes-scratch", "type": "string" },
                "from": { "x-stepwell": "reads-scratch", "type": "string" },
                "list": { "type": "array", "items": { "type": "integer", "minimum": 1 } },
                "map": { "type": "object", "additionalProperties": { "type": ["string", "boolean"] } }
            }
        }),
        reads: Vec::new(),
        writes: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a target on every file of a folder.
    fn run(folder: &str, target: fn(&[u8])) -> usize {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let files = std::fs::read_dir(&folder).expect("the corpus is there");
        let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
        paths.retain(|path| path.is_file());
        paths.sort();
        for path in &paths {
            let bytes = std::fs::read(path).expect("a readable file");
            let kept = std::panic::catch_unwind(|| target(&bytes));
            assert!(kept.is_ok(), "{}", path.display());
        }
        paths.len()
    }

    #[test]
    fn workflows_of_the_corpus() {
        assert!(run("corpus/workflow", workflow) > 0);
        assert!(run("../check", workflow) > 20);
        assert!(run("../../workflows", workflow) > 3);
    }

    #[test]
    fn descriptions_of_the_corpus() {
        assert!(run("corpus/description", description) > 0);
    }

    #[test]
    fn batches_of_the_corpus() {
        assert!(run("corpus/batch", batch) > 0);
    }

    #[test]
    fn statements_of_the_corpus() {
        assert!(run("corpus/statement", statement) > 0);
    }
}
