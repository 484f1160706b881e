//! `tests/check/<case>.yml` with what the user reads of it in `<case>.stderr`. A first line
//! `# args: --var a=b` gives variables; the environment has `DATABASE_URL` and `SECRET`.
//!
//! `BLESS=1 cargo test -p stepwell` writes the `.stderr` files anew. Read them before you commit
//! them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use stepwell_runner::Components;
use stepwell_workflow::{Inputs, Workflow};

use super::*;

/// What must never be read in a message.
const SECRET: &str = "hunter2";

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/check");
    let entries = std::fs::read_dir(folder).expect("the folder of cases");
    let mut cases: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a case").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yml"))
        .collect();
    cases.sort();
    assert!(cases.len() > 20, "the cases are where they were");
    cases
}

fn vars(text: &str) -> BTreeMap<String, String> {
    let first = text.lines().next().unwrap_or_default();
    let Some(args) = first.strip_prefix("# args:") else {
        return BTreeMap::new();
    };
    args.split_whitespace()
        .filter(|word| *word != "--var")
        .map(|pair| {
            let (name, value) = pair.split_once('=').expect("a name and a value");
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

/// Returns what the user reads of the file, or nothing if all is well.
fn read(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("a case is UTF-8 text");
    let env = |name: &str| match name {
        "DATABASE_URL" => Some(format!("postgres://app:{SECRET}@db/events")),
        "SECRET" => Some(SECRET.to_owned()),
        _ => None,
    };
    let inputs = Inputs {
        vars: vars(&text),
        env: &env,
    };
    // Paths in messages do not depend on where the sources are.
    let shown = Path::new("tests/check").join(path.file_name().expect("a file"));
    let mut kinds = Components::new(stepwell_builtin::STEPS, None);
    let (mut file, problems) = match Workflow::parse(path, &text, &inputs, &mut kinds) {
        Ok((workflow, warnings)) => (workflow.source_file, warnings),
        Err(refused) => refused,
    };
    let folder = path.parent().expect("a folder").display().to_string();
    file.path = shown;
    match problems.is_empty() {
        true => String::new(),
        false => render(&file, &problems, &Renderer::plain()).replace(&folder, "tests/check"),
    }
}

#[test]
fn every_case_reads_as_its_golden_file() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut differ = Vec::new();
    for path in cases() {
        let found = read(&path);
        assert!(!found.contains(SECRET), "{} shows a secret", path.display());
        let golden = path.with_extension("stderr");
        if bless {
            std::fs::write(&golden, &found).expect("written");
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != found {
            differ.push(format!("{}:\n{found}", golden.display()));
        }
    }
    assert!(
        differ.is_empty(),
        "{}\nBLESS=1 writes them anew",
        differ.join("\n")
    );
}

#[test]
fn every_case_has_something_to_say() {
    for path in cases() {
        assert_ne!(read(&path), "", "{}", path.display());
    }
}

/// The checks of `stepwell-workflow` are tested with descriptors that it keeps, since it loads no component: they are those
/// that the built-in steps carry.
#[test]
fn the_kept_descriptors_are_those_of_the_steps() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../workflow/tests/kinds.json");
    let steps = stepwell_builtin::STEPS.iter().map(|(name, bytes)| {
        let found = stepwell_sandbox::describe(bytes).expect("a built-in step describes itself");
        assert_eq!(found.name, *name);
        serde_json::json!({
            "name": found.name,
            "version": found.version,
            "kind": "planner",
            "summary": found.summary,
            "gate": found.gate,
            "reads": found.reads,
            "writes": found.writes,
            "settings": found.settings,
        })
    });
    let mut steps: Vec<_> = steps.collect();
    steps.sort_by_key(|step| step["name"].to_string());
    let found = serde_json::to_string_pretty(&steps).expect("JSON") + "\n";
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &found).expect("written");
    }
    let kept = std::fs::read_to_string(&path).expect("the kept descriptors");
    assert!(kept == found, "BLESS=1 renews {}", path.display());
}
