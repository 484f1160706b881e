//! Compiles the steps in `plugins/` to components, for the crate to embed.
//!
//! Every crate there that says `builtin = true` under `[package.metadata.stepwell]` is taken, so adding a step touches its
//! own folder only.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "wasm32-wasip2";

/// What installs rustup, as <https://rustup.rs> has it.
const RUSTUP: &str = "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh";

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("../..")
        .canonicalize()
        .expect("the workspace lies above this crate");
    // Not all of `sdk`: its template and examples are no part of a step.
    for watched in [
        "plugins",
        "sdk/Cargo.toml",
        "sdk/macros",
        "sdk/sql",
        "sdk/src",
        "sdk/wit",
        "Cargo.lock",
        "Cargo.toml",
    ] {
        // Relative, so that a checkout elsewhere that shares the target directory looks at its own files; and where they
        // were, so that it does not take those of one that is gone.
        println!("cargo::rerun-if-changed=../../{watched}");
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    let steps = steps(&root.join("plugins"));
    if let Err(missing) = ensure_target() {
        // Cargo ends the build with this line. It would bury a panic, and all that a script says which fails.
        println!("cargo::error={missing}");
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let target_dir = target_dir(&out);
    compile(&root, &steps, &target_dir);
    embed(&steps, &target_dir, &out);
}

/// The names of the built-in steps, which are those of their folders.
fn steps(plugins: &Path) -> Vec<String> {
    let folders = fs::read_dir(plugins)
        .unwrap_or_else(|e| panic!("could not read {}: {e}", plugins.display()));
    let builtin = |folder: &Path| {
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
        manifest.lines().any(|line| line.trim() == "builtin = true")
    };
    let mut names: Vec<_> = folders
        .map(|entry| entry.expect("a readable folder lists its entries").path())
        .filter(|folder| builtin(folder))
        .filter_map(|folder| Some(folder.file_name()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

/// Adds the target to the toolchain if it is missing, or says what does.
fn ensure_target() -> Result<(), String> {
    let rustc = env::var_os("RUSTC").expect("cargo sets it");
    let installed = || {
        let output = Command::new(&rustc)
            .args(["--print", "target-libdir", "--target", TARGET])
            .output();
        output
            .is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
    };
    if installed() {
        return Ok(());
    }
    let added = Command::new("rustup")
        .args(["target", "add", TARGET])
        .status();
    let install = match added {
        Ok(status) if status.success() && installed() => return Ok(()),
        // A toolchain that rustup has and this one, of a distribution say, are not the same.
        Ok(status) if status.success() => {
            let rustc = rustc.display();
            format!(
                "this build uses {rustc}, which is not rustup's: put `~/.cargo/bin` first in PATH"
            )
        }
        Ok(_) => format!("install it with `rustup target add {TARGET}`, which needs the network"),
        Err(_) => format!(
            "install rustup with `{RUSTUP}`, which brings the toolchain and the target with it"
        ),
    };
    Err(format!(
        "the steps are compiled for {TARGET}, which this toolchain does not have; {install}"
    ))
}

/// A target directory of its own, beside the profiles: cargo holds a lock on the one that this build uses.
fn target_dir(out: &Path) -> PathBuf {
    // OUT_DIR is <target>/<profile>/build/<package>/out.
    out.ancestors()
        .nth(4)
        .expect("OUT_DIR lies four levels below the target directory")
        .join("steps")
}

fn compile(root: &Path, steps: &[String], target_dir: &Path) {
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets it"));
    cargo
        .current_dir(root)
        .args(["build", "--profile", "plugin", "--target", TARGET])
        .arg("--target-dir")
        .arg(target_dir)
        // What clippy, coverage or a sanitizer asked of the host is not meant for components.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS");
    for step in steps {
        cargo.arg("-p").arg(package(step));
    }
    let status = cargo.status().expect("cargo can be started again");
    assert!(
        status.success(),
        "the steps did not compile; the messages stand above"
    );
}

fn package(step: &str) -> String {
    format!("stepwell-step-{step}")
}

fn embed(steps: &[String], target_dir: &Path, out: &Path) {
    let mut source = String::from("&[\n");
    for step in steps {
        let file = format!("{}.wasm", package(step).replace('-', "_"));
        let path = target_dir.join(TARGET).join("plugin").join(file);
        writeln!(
            source,
            "    ({step:?}, include_bytes!({:?})),",
            path.display().to_string()
        )
        .expect("a String takes every write");
    }
    source.push_str("]\n");
    fs::write(out.join("steps.rs"), source).expect("OUT_DIR can be written");
}
