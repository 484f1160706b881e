//! Bad files and what the user reads: `<case>.yml` with its problems, one after the other, in
//! `<case>.plain`.
//!
//! Two folders: cases that need no plugin are in `tests/check` at the root, where the command line
//! is held to them too; those with the plugins of these tests are here. A first line `# args: --var
//! a=b` gives variables; the environment has `DATABASE_URL` and `SECRET`.
//!
//! `BLESS=1 cargo test -p stepwell-workflow` writes the `.plain` files anew. Read them before you
//! commit them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use stepwell_workflow::{Inputs, Workflow};

use crate::kinds::TestKinds;

/// What must never be read in a message.
const SECRET: &str = "hunter2";

fn folders() -> [PathBuf; 2] {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    [own.join("../../tests/check"), own.join("tests/check")]
}

/// Returns all cases of both folders, sorted.
fn cases() -> Vec<PathBuf> {
    let mut cases = Vec::new();
    for folder in folders() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "yml") {
                cases.push(path);
            }
        }
    }
    cases.sort();
    assert!(cases.len() > 20, "the corpus is where it was");
    cases
}

/// Returns what the user reads of a text, as if it stood at `path`.
fn problems(path: &Path, text: &str) -> String {
    let env = |name: &str| match name {
        "DATABASE_URL" => Some(format!("postgres://app:{SECRET}@db/events")),
        "SECRET" => Some(SECRET.to_owned()),
        _ => None,
    };
    let inputs = Inputs {
        vars: vars(text),
        env: &env,
    };
    let (file, problems) = match Workflow::parse(path, text, &inputs, &mut TestKinds) {
        Ok((workflow, warnings)) => (workflow.source_file, warnings),
        Err(refused) => refused,
    };
    assert!(
        !file.text.contains(SECRET),
        "{} shows a secret",
        path.display()
    );
    let plain = problems
        .iter()
        .map(|problem| problem.to_plain(&file) + "\n");
    // The folder is the machine's own.
    let folder = format!("{}/", path.parent().unwrap().display());
    plain.collect::<String>().replace(&folder, "")
}

fn vars(text: &str) -> BTreeMap<String, String> {
    let first = text.lines().next().unwrap_or("");
    let args = first.strip_prefix("# args: ").unwrap_or("");
    let given = args
        .split("--var ")
        .filter_map(|arg| arg.trim().split_once('='));
    given
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

#[test]
fn every_bad_file_has_its_messages() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    for path in cases() {
        let found = problems(&path, &std::fs::read_to_string(&path).unwrap());
        assert!(!found.contains(SECRET), "{} shows a secret", path.display());
        assert!(!found.is_empty(), "{} has no problem", path.display());
        let golden = path.with_extension("plain");
        if bless {
            std::fs::write(&golden, &found).unwrap();
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != found {
            wrong.push(format!("{}:\n{found}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Lines may end as they do on Windows: the same problems stand at the same lines and columns.
#[test]
fn line_ends_do_not_move_a_problem() {
    for path in cases() {
        let text = std::fs::read_to_string(&path).unwrap();
        let found = problems(&path, &text.replace('\n', "\r\n"));
        assert_eq!(found, problems(&path, &text), "{}", path.display());
    }
}

/// No file makes the reader panic, however it is cut.
#[test]
fn a_file_cut_anywhere_is_read_or_refused() {
    for path in cases() {
        let text = std::fs::read_to_string(&path).unwrap();
        let cuts = text.char_indices().map(|(at, _)| at).step_by(7);
        for at in cuts {
            problems(&path, &text[..at]);
        }
    }
}
