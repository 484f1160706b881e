//! `stepwell plugin new`: a crate that compiles, passes its tests and runs in a workflow as it stands.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use stepwell_scaffold::PluginName;

use crate::commands::{Context, Outcome};
use crate::exit;
use crate::failed::Failed;

/// Write a new plugin that compiles, passes its tests and runs as it stands
///
/// Makes a folder with a crate, its tests, a fixture for `stepwell plugin test`, a workflow that
/// uses the step, and the SDK's sources as of this program. Nothing is fetched.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell plugin new touched-pages --kind planner
  stepwell plugin new engaged-time --kind reducer --path steps/engaged-time
  stepwell plugin new bounce --kind reducer --sdk touched-pages/vendor/stepwell-sdk

Exit codes: 0 done, 2 the name or the folder cannot be used.")]
pub(crate) struct NewArgs {
    /// The plugin's name: lower-case letters, digits and single hyphens
    #[arg(value_name = "NAME")]
    name: PluginName,
    /// What it answers with
    #[arg(long, value_name = "planner|reducer", value_enum)]
    kind: Kind,
    /// The folder to make, instead of one with the plugin's name here
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Use the SDK's sources in this folder, another plugin's say, and write none
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
}

/// Kinds of plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Settings in, SQL out: for what SQL can say
    Planner,
    /// Rows in, rows out: for what it cannot, or only with pain
    Reducer,
}

pub(crate) fn execute(args: &NewArgs, context: &Context) -> Outcome {
    let name = args.name.to_string();
    if stepwell_builtin::STEPS
        .iter()
        .any(|(builtin, _)| *builtin == name)
    {
        return Err(Failed::Usage {
            message: format!("plugin \"{name}\" would have the name of a built-in step"),
            help: "give it another name".into(),
        });
    }
    let folder = args.path.clone().unwrap_or_else(|| PathBuf::from(&name));
    prepare(&folder)?;
    let sdk = match &args.sdk {
        Some(sdk) => Some(path_to_sdk(&folder, sdk)?),
        None => None,
    };
    let (kind, tests) = match args.kind {
        Kind::Planner => (
            stepwell_scaffold::Kind::Planner,
            "the SQL that it answers with",
        ),
        Kind::Reducer => (
            stepwell_scaffold::Kind::Reducer,
            "the rows that it wants and gives",
        ),
    };
    for file in stepwell_scaffold::plugin(&args.name, kind, sdk.as_deref()) {
        let path = folder.join(file.path);
        write(&path, &file.text).with_context(|| format!("could not write {}", path.display()))?;
    }
    context.output.result(&format!(
        "{folder} holds plugin {name}. Next:\n  \
         cd {folder}\n  \
         cargo test                  {tests}\n  \
         stepwell plugin build       makes target/plugins/{name}.wasm\n  \
         stepwell plugin test        runs the component on fixtures/\n  \
         stepwell run workflow.yaml  README.md says on which events",
        folder = folder.display(),
    ))?;
    Ok(exit::SUCCESS)
}

/// Makes the folder; one that is there must be empty.
fn prepare(folder: &Path) -> Result<(), Failed> {
    fs::create_dir_all(folder)
        .with_context(|| format!("could not make folder {}", folder.display()))?;
    let mut entries = fs::read_dir(folder)
        .with_context(|| format!("could not read folder {}", folder.display()))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(Failed::Usage {
            message: format!("folder {} is not empty", folder.display()),
            help: "name another one with `--path`; nothing was written".into(),
        }),
    }
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text)
}

/// The path of the SDK as the plugin's manifest names it: relative, so that both may move together.
fn path_to_sdk(folder: &Path, sdk: &Path) -> Result<String, Failed> {
    let manifest = fs::read_to_string(sdk.join("Cargo.toml")).unwrap_or_default();
    if !manifest.contains("name = \"stepwell-sdk\"") {
        return Err(Failed::Usage {
            message: format!("{} does not hold the SDK's sources", sdk.display()),
            help: "name the `vendor/stepwell-sdk` of a plugin, or leave out `--sdk`".into(),
        });
    }
    let absolute = |path: &Path| {
        path.canonicalize()
            .with_context(|| format!("could not find {}", path.display()))
    };
    let path = relative(&absolute(folder)?, &absolute(sdk)?);
    let text = path.to_str().context("the path of the SDK is not UTF-8")?;
    Ok(text.to_owned())
}

/// The way from one folder to another, both absolute and without links.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let (from, to): (Vec<_>, Vec<_>) = (from.components().collect(), to.components().collect());
    let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from[shared..].iter().map(|_| Component::ParentDir);
    up.chain(to[shared..].iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sdk_is_named_relative_to_the_plugin() {
        for (from, to, expected) in [
            ("/a/b", "/a/c/vendor/sdk", "../c/vendor/sdk"),
            ("/a/b", "/a/b/sdk", "sdk"),
            ("/a/b/c", "/x", "../../../x"),
        ] {
            assert_eq!(
                relative(Path::new(from), Path::new(to)),
                Path::new(expected)
            );
        }
    }

    #[test]
    fn a_folder_with_something_in_it_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(prepare(&folder.path().join("new/one")).is_ok());
        assert!(matches!(prepare(folder.path()), Err(Failed::Usage { .. })));
    }
}
