//! From bytes to a component: what is read, what is refused, and what the cache does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use stepwell_sandbox::contract::Reply;
use stepwell_sandbox::{
    COMPONENT_BYTES_MAX, CallError, Component, DescribeError, Digest, Kind, Limits, Sandbox,
    SandboxError, SandboxOptions, describe, inspect,
};

use crate::guests::{AS_OF_US, COMPONENT, FILES, PLANNER, REDUCER, SANDBOX, run};

/// The planner with a text in it written over, wherever it stands, by another of the same length.
fn with(from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "sections hold their lengths");
    let mut bytes = PLANNER.clone();
    let mut found = 0;
    for at in 0..=bytes.len() - from.len() {
        if bytes[at..].starts_with(from.as_bytes()) {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
            found += 1;
        }
    }
    assert!(found > 0, "the planner holds {from}");
    bytes
}

fn cached_in(dir: &Path) -> Sandbox {
    let options = SandboxOptions {
        cache_dir: Some(dir.to_owned()),
        ..SandboxOptions::default()
    };
    Sandbox::new(options).expect("the engine starts")
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("the directory is there");
    let paths = entries.map(|entry| entry.expect("it can be listed").path());
    paths
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect()
}

fn works(sandbox: &Sandbox) -> bool {
    answers(sandbox.load(&PLANNER))
}

/// Whether the planner came from the cache, once it has answered.
fn answers(planner: Result<Component, SandboxError>) -> bool {
    let component = planner.expect("the planner fits the contract");
    let mut attempt = component
        .attempt(&Limits::own(), AS_OF_US)
        .expect("the planner starts");
    assert!(matches!(
        attempt.next(&run("ok", 0), &[]),
        Ok(Reply::Ready(_))
    ));
    component.cached()
}

#[test]
fn a_component_says_what_it_is() {
    let inspection = inspect(&PLANNER).expect("it describes itself");

    assert_eq!(inspection.description.name, "guest");
    assert_eq!(inspection.description.kind, Kind::Planner);
    assert_eq!(inspection.description.settings["type"], "object");
    assert_eq!(inspection.digest, Digest::of(&PLANNER));
    assert_eq!(inspection.size_bytes, PLANNER.len());
    assert!(
        inspection
            .imports
            .contains(&"stepwell:step/log@0.1.0".to_owned())
    );
    assert_eq!(inspection.exports, ["stepwell:step/planning@0.1.0"]);
    assert_eq!(COMPONENT.inspection(), &inspection);
}

#[test]
fn a_reducer_is_recognised_and_is_no_planner() {
    let component = SANDBOX.load(&REDUCER).expect("it fits the contract");

    assert_eq!(component.description().kind, Kind::Reducer);
    assert_eq!(
        component.inspection().exports,
        ["stepwell:step/reducing@0.1.0"]
    );
    let mut attempt = component
        .attempt(&Limits::own(), AS_OF_US)
        .expect("it starts");
    let outcome = attempt.next(&run("ok", 0), &[]);
    assert!(
        matches!(
            outcome,
            Err(CallError::OtherKind {
                wanted: Kind::Planner,
                ..
            })
        ),
        "{outcome:?}"
    );
}

#[test]
fn a_description_must_be_there_and_true() {
    let missing = describe(&with("stepwell:step{", "stepwell:stop{"));
    let newer = describe(&with(r#""contract":"0.1.0""#, r#""contract":"0.9.0""#));
    let lying = SANDBOX.load(&with(r#""kind":"planner""#, r#""kind":"reducer""#));

    assert!(
        matches!(missing, Err(DescribeError::Missing)),
        "{missing:?}"
    );
    assert!(
        matches!(newer, Err(DescribeError::ContractTooNew { .. })),
        "{newer:?}"
    );
    let lying = lying.expect_err("it exports no reducer");
    assert_eq!(
        lying.to_string(),
        "the step says that it is a reducer, but does not export `stepwell:step/reducing` of \
         contract 0.1.0"
    );
}

#[test]
fn an_import_that_steps_are_not_given_is_named() {
    let error = SANDBOX.load(&FILES).expect_err("it imports files");

    let SandboxError::Imports(refused) = &error else {
        panic!("{error:?}")
    };
    assert!(
        refused
            .iter()
            .all(|import| import.name.starts_with("wasi:filesystem/"))
    );
    assert!(
        error
            .to_string()
            .contains("`wasi:filesystem/types@0.2.6`: a step reads and writes no files"),
        "{error}"
    );
}

/// The names are the contract's, the types are not: it must not come to a call.
#[test]
fn an_import_of_another_shape_is_refused() {
    let error = SANDBOX
        .load(&with("\u{8}progress", "\u{8}regressp"))
        .expect_err("no such function");

    assert!(
        matches!(
            error,
            SandboxError::Link { .. } | SandboxError::Compile { .. }
        ),
        "{error:?}"
    );
}

#[test]
fn a_damaged_component_is_an_error_wherever_it_is_cut() {
    let step = PLANNER.len() / 40;

    for length in (0..PLANNER.len()).step_by(step) {
        let outcome = SANDBOX.load(&PLANNER[..length]);
        assert!(outcome.is_err(), "{length} bytes");
    }
}

#[test]
fn compiled_code_is_no_component() {
    let dir = tempfile::tempdir().expect("a directory");
    cached_in(dir.path())
        .load(&PLANNER)
        .expect("the planner fits the contract");
    let compiled = fs::read(&files(dir.path(), "cwasm")[0]).expect("it was cached");

    let outcome = describe(&compiled);

    assert!(
        matches!(outcome, Err(DescribeError::Precompiled)),
        "{outcome:?}"
    );
}

#[test]
fn size_is_bounded() {
    let error = SANDBOX
        .load(&vec![0; COMPONENT_BYTES_MAX + 1])
        .expect_err("too large");

    assert!(matches!(
        error,
        SandboxError::Describe(DescribeError::TooLarge { .. })
    ));
}

#[test]
fn the_second_start_finds_compiled_code() {
    let dir = tempfile::tempdir().expect("a directory");

    assert!(!works(&cached_in(dir.path())));
    assert!(works(&cached_in(dir.path())));
}

/// What one compiler made is nothing to the other, which must not be given it.
#[test]
#[cfg(target_arch = "x86_64")]
fn steps_of_our_own_are_compiled_apart() {
    let dir = tempfile::tempdir().expect("a directory");
    let builtin = || answers(cached_in(dir.path()).load_builtin(&PLANNER));

    assert!(!builtin());
    assert!(!works(&cached_in(dir.path())), "by the other compiler");
    assert!(builtin() && works(&cached_in(dir.path())));
}

#[test]
fn damaged_compiled_code_is_made_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let artefact = |dir: &Path| files(dir, "cwasm").remove(0);
    assert!(!works(&cached_in(dir.path())));

    let damages: [fn(&Path); 4] = [
        |path| {
            let mut bytes = fs::read(path).expect("it was cached");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).expect("it is ours");
        },
        |path| fs::write(path, b"").expect("it is ours"),
        |path| fs::write(path.with_extension("crc32"), "0 00000000").expect("it is ours"),
        |path| fs::remove_file(path.with_extension("crc32")).expect("it was there"),
    ];
    for damage in damages {
        damage(&artefact(dir.path()));
        assert!(!works(&cached_in(dir.path())), "the damage was seen");
        assert!(works(&cached_in(dir.path())), "and mended");
    }
}

/// Anyone who can write there could have us run machine code of theirs.
#[test]
fn a_cache_that_others_may_write_to_is_not_used() {
    let dir = tempfile::tempdir().expect("a directory");
    assert!(!works(&cached_in(dir.path())));

    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");

    assert!(
        !works(&cached_in(dir.path())),
        "what lies there is not loaded"
    );
}

#[test]
fn components_outlive_their_sandbox() {
    let sandbox = Sandbox::new(SandboxOptions::default()).expect("the engine starts");
    let component = sandbox
        .load(&PLANNER)
        .expect("the planner fits the contract");
    drop(sandbox);

    // A tick is needed to end this one.
    let limits = Limits {
        cpu: std::time::Duration::from_millis(20),
        ..Limits::own()
    };
    let mut attempt = component
        .attempt(&limits, AS_OF_US)
        .expect("the planner starts");
    drop(component);

    assert!(matches!(
        attempt.next(&run("spin", 0), &[]),
        Err(CallError::Limit(_))
    ));
}
