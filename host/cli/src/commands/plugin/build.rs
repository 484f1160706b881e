//! `stepwell plugin build`: a crate to a component.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use stepwell_sandbox::Inspection;

use super::{check_interfaces, inspect, read_component, write_component};
use crate::commands::{Context, Outcome};
use crate::exit;
use crate::failed::Failed;
use crate::render::words::{clean, number};

const TARGET: &str = "wasm32-wasip2";

/// The profile's name. The values below hold, whatever the crate says under that name.
const PROFILE: &str = "plugin";

/// Small, since the code is compiled once per machine and loaded at every start.
const PROFILE_VALUES: [(&str, &str); 6] = [
    ("inherits", "\"release\""),
    ("opt-level", "\"s\""),
    ("lto", "\"fat\""),
    ("codegen-units", "1"),
    ("strip", "true"),
    ("panic", "\"abort\""),
];

/// Build plugins for `wasm32-wasip2`, small, whatever profiles their crates have
///
/// Writes `<target>/plugins/<name>.wasm`, where <target> is cargo's target folder and <name> the
/// one under which the plugin describes itself, and prints size and digest. A component that does
/// not describe itself, or imports what steps are not given, is refused.
///
/// The compiler's target is added with rustup if it is missing. Paths of this machine are kept out
/// of the component, so that the same sources give the same digest elsewhere.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell plugin build
  stepwell plugin build plugins/engaged-time plugins/sessionize
  stepwell plugin build . -- --locked --offline

Exit codes: 0 built, 10 it does not compile or is no step that runs here.")]
pub(crate) struct BuildArgs {
    /// Folders of crates; the current one if none is named
    #[arg(value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
    /// More arguments for `cargo build`
    #[arg(value_name = "CARGO ARGS", last = true)]
    cargo: Vec<String>,
}

/// A component that was built.
pub(super) struct Built {
    pub(super) file: PathBuf,
    pub(super) inspection: Inspection,
}

pub(crate) fn execute(args: &BuildArgs, context: &Context) -> Outcome {
    let mut built = Vec::new();
    for folder in folders(&args.folders) {
        built.extend(build(&folder, &args.cargo)?);
    }
    match args.json {
        true => {
            let built: Vec<Value> = built.iter().map(as_json).collect();
            context.output.json(&built)?;
        }
        false => {
            let built: Vec<String> = built.iter().map(as_text).collect();
            context.output.result(&built.join("\n"))?;
        }
    }
    Ok(exit::SUCCESS)
}

fn folders(given: &[PathBuf]) -> Vec<PathBuf> {
    match given {
        [] => vec![PathBuf::from(".")],
        given => given.to_vec(),
    }
}

pub(super) fn as_json(built: &Built) -> Value {
    let mut json = json!({ "component": built.file.display().to_string() });
    let about = inspect::as_json(&built.inspection);
    if let (Value::Object(json), Value::Object(about)) = (&mut json, about) {
        json.extend(about);
    }
    json
}

pub(super) fn as_text(built: &Built) -> String {
    let about = &built.inspection.description;
    format!(
        "{} {}, {}: {}\n  component {}\n  size      {} bytes\n  digest    {}",
        clean(&about.name),
        clean(&about.version),
        about.kind.as_str(),
        clean(&about.summary),
        near(&built.file).display(),
        number(built.inspection.size_bytes as u64),
        built.inspection.digest,
    )
}

/// The path as it is seen from here.
fn near(path: &Path) -> PathBuf {
    let current = std::env::current_dir()
        .and_then(|current| current.canonicalize())
        .ok();
    let below = current.and_then(|current| Some(path.strip_prefix(current).ok()?.to_owned()));
    below.unwrap_or_else(|| path.to_owned())
}

/// Builds the crate in a folder, and puts what it made where workflows look for it.
///
/// # Errors
///
/// [`Failed::Plugin`] if there is no crate, it does not compile, or makes no step that runs here.
pub(super) fn build(folder: &Path, more: &[String]) -> Result<Vec<Built>, Failed> {
    let manifest = folder.join("Cargo.toml");
    if !manifest.is_file() {
        return Err(failed(
            format!(
                "there is no crate in {}: it has no Cargo.toml",
                folder.display()
            ),
            "Name the plugin's folder, or make one with `stepwell plugin new NAME --kind planner|reducer`.",
        ));
    }
    ensure_target(folder)?;
    let workspace = Workspace::of(folder)?;
    let components = compile(folder, &workspace, more)?;
    if components.is_empty() {
        return Err(failed(
            format!("the crate in {} makes no component", folder.display()),
            "Add `crate-type = [\"cdylib\", \"rlib\"]` under `[lib]` in its Cargo.toml.",
        ));
    }
    let install = |component: PathBuf| install(&component, &workspace.target);
    components.into_iter().map(install).collect()
}

/// What cargo says of the workspace that a crate is part of.
struct Workspace {
    root: PathBuf,
    target: PathBuf,
    /// The manifest of the crate itself, none if the folder holds a workspace alone.
    package: Option<String>,
}

impl Workspace {
    fn of(folder: &Path) -> Result<Self, Failed> {
        let output = cargo(folder)
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .stderr(Stdio::inherit())
            .output()
            .context("could not start cargo")?;
        if !output.status.success() {
            return Err(failed(
                format!(
                    "cargo does not understand the crate in {}",
                    folder.display()
                ),
                "Mend what cargo says above.",
            ));
        }
        let metadata: Value =
            serde_json::from_slice(&output.stdout).context("could not read cargo's metadata")?;
        let path = |name: &str| {
            let text = metadata[name].as_str();
            text.map(PathBuf::from)
                .with_context(|| format!("cargo's metadata have no {name}"))
        };
        let manifest = folder.join("Cargo.toml").canonicalize();
        let manifest = manifest.context("could not find the crate's Cargo.toml")?;
        let packages = metadata["packages"].as_array().into_iter().flatten();
        let manifests = packages.filter_map(|package| package["manifest_path"].as_str());
        Ok(Self {
            root: path("workspace_root")?,
            target: path("target_directory")?,
            package: manifests
                .map(str::to_owned)
                .find(|found| Path::new(found) == manifest),
        })
    }
}

/// Adds the target to the toolchain if it is missing.
fn ensure_target(folder: &Path) -> Result<(), Failed> {
    let installed = || {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let output = Command::new(rustc)
            .current_dir(folder)
            .args(["--print", "target-libdir", "--target", TARGET])
            .output();
        output.is_ok_and(|output| {
            output.status.success()
                && Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir()
        })
    };
    if installed() {
        return Ok(());
    }
    // Its words go to stderr, where they belong.
    let _ = Command::new("rustup")
        .current_dir(folder)
        .args(["target", "add", TARGET])
        .stdout(Stdio::null())
        .status();
    match installed() {
        true => Ok(()),
        false => Err(failed(
            format!("the Rust toolchain has no target {TARGET}"),
            &format!("Install it with `rustup target add {TARGET}`."),
        )),
    }
}

/// Compiles, with cargo's words on stderr, and returns the components of the crate.
fn compile(folder: &Path, workspace: &Workspace, more: &[String]) -> Result<Vec<PathBuf>, Failed> {
    let mut cargo = cargo(folder);
    cargo
        .args(["build", "--target", TARGET, "--profile", PROFILE])
        .arg("--message-format=json-render-diagnostics")
        // What an environment asks of the host's programs is not meant for components.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS");
    for (name, value) in PROFILE_VALUES {
        cargo.args(["--config", &format!("profile.{PROFILE}.{name}={value}")]);
    }
    cargo.args(["--config", &remapped_paths(&workspace.root)]);
    cargo.args(more);
    let mut running = cargo
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("could not start cargo")?;
    let messages = BufReader::new(running.stdout.take().expect("it is piped"));
    let mut components = Vec::new();
    for line in messages.lines() {
        let line = line.context("could not read cargo's messages")?;
        // A build script may print lines of its own.
        if let Ok(message) = serde_json::from_str(&line) {
            components.extend(component(&message, workspace));
        }
    }
    let status = running.wait().context("could not wait for cargo")?;
    match status.success() {
        true => Ok(components),
        false => Err(failed(
            format!("the crate in {} does not compile", folder.display()),
            "Mend what the compiler says above.",
        )),
    }
}

/// The component that one of cargo's messages tells of, unless it belongs to a dependency.
fn component(message: &Value, workspace: &Workspace) -> Option<PathBuf> {
    let manifest = message["manifest_path"].as_str()?;
    let own = match &workspace.package {
        Some(package) => manifest == package,
        None => Path::new(manifest).starts_with(&workspace.root),
    };
    let files = message["filenames"].as_array()?;
    let mut files = files.iter().filter_map(Value::as_str);
    let file = files.find(|file| file.ends_with(".wasm"))?;
    (own && message["reason"] == "compiler-artifact").then(|| PathBuf::from(file))
}

/// The setting that replaces paths of this machine, which panics would carry into the component.
fn remapped_paths(root: &Path) -> String {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let remap = |from: &Path, to: &str| {
        let flag = format!("--remap-path-prefix={}={to}", from.display());
        Value::String(flag).to_string()
    };
    let flags: Vec<String> = [
        home.map(|home| remap(&home, "cargo")),
        Some(remap(root, ".")),
    ]
    .into_iter()
    .flatten()
    .collect();
    format!("target.{TARGET}.rustflags=[{}]", flags.join(", "))
}

/// Puts a component at `<target>/plugins/<name>.wasm`.
fn install(component: &Path, target: &Path) -> Result<Built, Failed> {
    let (bytes, inspection) = read_component(component)?;
    check_interfaces(&inspection)?;
    let name = format!("{}.wasm", inspection.description.name);
    let file = target.join("plugins").join(name);
    write_component(&file, &bytes)?;
    Ok(Built { file, inspection })
}

fn cargo(folder: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(folder);
    cargo
}

fn failed(message: String, help: &str) -> Failed {
    Failed::Plugin {
        message,
        details: Vec::new(),
        help: Some(help.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(package: Option<&str>) -> Workspace {
        Workspace {
            root: "/w".into(),
            target: "/w/target".into(),
            package: package.map(str::to_owned),
        }
    }

    #[test]
    fn components_of_dependencies_are_left_out() {
        let message = |manifest: &str, file: &str| json!({ "reason": "compiler-artifact", "manifest_path": manifest, "filenames": [file] });
        let own = message("/w/a/Cargo.toml", "/w/target/a.wasm");
        let other = message("/w/b/Cargo.toml", "/w/target/b.wasm");
        let foreign = message("/r/c/Cargo.toml", "/w/target/c.wasm");
        let library = message("/w/a/Cargo.toml", "/w/target/liba.rlib");

        let of_a = workspace(Some("/w/a/Cargo.toml"));
        let found = |message| component(message, &of_a).is_some();
        assert_eq!(
            [&own, &other, &foreign, &library].map(found),
            [true, false, false, false]
        );
        let of_all = workspace(None);
        let found = |message| component(message, &of_all).is_some();
        assert_eq!(
            [&own, &other, &foreign, &library].map(found),
            [true, true, false, false]
        );
    }

    #[test]
    fn a_folder_without_a_crate_is_said_to_be_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let Err(Failed::Plugin { message, .. }) = build(folder.path(), &[]) else {
            panic!("there is no crate")
        };
        assert!(message.contains("it has no Cargo.toml"), "{message}");
    }
}
