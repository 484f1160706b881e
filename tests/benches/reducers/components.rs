//! The components that are measured, built as their makers build them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::figures::note;
use crate::program::{finish, root};

const TARGET: &str = "wasm32-wasip2";

/// Components of this benchmark.
pub struct Plugins {
    /// The guest of the sandbox's tests, which does what its settings say.
    pub guest: Plugin,
    /// `plugins/engaged-time`, as its README says.
    pub engaged_time: Plugin,
}

/// A component, and where it stands.
pub struct Plugin {
    pub file: PathBuf,
    pub bytes: Vec<u8>,
}

impl Plugins {
    /// Builds both, unless that was done before.
    pub fn build() -> Result<Self> {
        note("building the components");
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let guest = build(
            &root().join("host/sandbox/tests/guests"),
            &["--release", "-p", "guest-reducer"],
            &tmp.join("guests"),
            "release/guest_reducer.wasm",
        )?;
        // Beside the built-in steps, whose build has compiled the SDK already.
        let engaged_time = build(
            root(),
            &["--profile", "plugin", "-p", "stepwell-step-engaged-time"],
            &tmp.join("../steps"),
            "plugin/stepwell_step_engaged_time.wasm",
        )?;
        Ok(Self {
            guest,
            engaged_time,
        })
    }
}

fn build(workspace: &Path, args: &[&str], target_dir: &Path, file: &str) -> Result<Plugin> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace);
    cargo.args(["build", "--locked", "--quiet", "--target", TARGET]);
    cargo.args(args).arg("--target-dir").arg(target_dir);
    finish(cargo)?;
    let file = target_dir.join(TARGET).join(file);
    let file = file
        .canonicalize()
        .with_context(|| format!("find {}", file.display()))?;
    let bytes = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
    Ok(Plugin { file, bytes })
}
