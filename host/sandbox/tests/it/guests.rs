//! The components in `tests/guests`, compiled once per test run.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use stepwell_sandbox::contract::{Relation, Reply, RunInfo};
use stepwell_sandbox::{Attempt, CallError, Component, Limits, Sandbox, SandboxOptions};

/// 2024-05-06 07:08:09.123456 UTC.
pub const AS_OF_US: i64 = 1_714_979_289_123_456;

/// Bytes of the planner that does what its settings say.
pub static PLANNER: LazyLock<Vec<u8>> = LazyLock::new(|| read("guest_planner"));
/// Bytes of the same planner, which also imports files.
pub static FILES: LazyLock<Vec<u8>> = LazyLock::new(|| read("guest_files"));
/// Bytes of a reducer.
pub static REDUCER: LazyLock<Vec<u8>> = LazyLock::new(|| read("guest_reducer"));

/// A sandbox without a cache, and the planner loaded in it.
pub static SANDBOX: LazyLock<Sandbox> =
    LazyLock::new(|| Sandbox::new(SandboxOptions::default()).expect("the engine starts"));
pub static COMPONENT: LazyLock<Component> = LazyLock::new(|| {
    SANDBOX
        .load(&PLANNER)
        .expect("the planner fits the contract")
});

const TARGET: &str = "wasm32-wasip2";
const TARGET_DIR: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/guests");

fn read(name: &str) -> Vec<u8> {
    static BUILT: LazyLock<()> = LazyLock::new(build);
    LazyLock::force(&BUILT);
    let path = Path::new(TARGET_DIR)
        .join(TARGET)
        .join("release")
        .join(format!("{name}.wasm"));
    fs::read(path).expect("cargo made the component")
}

fn build() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guests/Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--locked", "--release", "--target", TARGET])
        .args(["--manifest-path", manifest, "--target-dir", TARGET_DIR])
        // What coverage or a sanitizer asked of the tests is not meant for components.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS")
        .output()
        .expect("cargo can be started");
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        panic!("the guests did not compile");
    }
}

/// What a run tells the planner that is to do `what`.
pub fn run(what: &str, size: usize) -> RunInfo {
    RunInfo {
        run_id: "0192".to_owned(),
        playbook: "sessions".to_owned(),
        step_id: "ids".to_owned(),
        as_of_us: AS_OF_US,
        dialect: "postgres".to_owned(),
        traits: vec!["no-indexes".to_owned()],
        source_json: "null".to_owned(),
        settings_json: format!(r#"{{"do":"{what}","size":{size}}}"#),
        relations: vec![Relation {
            alias: "events".to_owned(),
            schema: "atomic".to_owned(),
            name: "events".to_owned(),
            about: String::new(),
        }],
    }
}

pub fn attempt(limits: &Limits) -> Attempt {
    COMPONENT
        .attempt(limits, AS_OF_US)
        .expect("the planner starts")
}

/// Asks a fresh instance to do `what` within `limits`.
pub fn within(limits: &Limits, what: &str, size: usize) -> Result<Reply, CallError> {
    attempt(limits).next(&run(what, size), &[])
}

/// Asks a fresh instance to do `what` within the limits of a stranger.
pub fn ask(what: &str, size: usize) -> Result<Reply, CallError> {
    within(&Limits::third_party(), what, size)
}

/// The note that `what` answers with.
pub fn note(what: &str) -> String {
    match ask(what, 0) {
        Ok(Reply::Ready(plan)) => plan.notes.concat(),
        other => panic!("{what}: {other:?}"),
    }
}
