//! The files of a new plugin: a template, and the SDK's sources beside it, all embedded in the binary.
//!
//! ```
//! use stepwell_scaffold::{Kind, PluginName, plugin};
//!
//! let name: PluginName = "engaged-time".parse()?;
//! let files = plugin(&name, Kind::Planner, None);
//! assert!(files.iter().any(|file| file.path == "src/lib.rs" && file.text.contains("engaged-time")));
//! # Ok::<(), stepwell_scaffold::NameError>(())
//! ```
//!
//! The templates are real crates under `sdk/template`, each compiled and run by the tests. What this crate does not do
//! is write: it returns paths and texts.

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/embedded.rs"));
}

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Where the SDK's sources stand in a new plugin's folder.
pub const SDK_FOLDER: &str = "vendor/stepwell-sdk";

/// The template's name of itself, which a new plugin's takes the place of.
const PLACEHOLDER: &str = "my-step";

/// Most characters of a plugin's name here: the workflow of the template names its playbook after the plugin.
const NAME_CHARS_MAX: usize = 40;

/// What a new plugin answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// SQL.
    Planner,
    /// Rows, folded from rows.
    Reducer,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Planner, Self::Reducer];
}

/// A file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Below the plugin's folder, with `/` between its parts.
    pub path: String,
    /// All of its text.
    pub text: String,
}

/// A plugin's name: lower-case letters, digits and single hyphens, a letter first, 2 to 40 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginName(String);

/// The text is no name for a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "expected 2 to 40 lower-case letters, digits and single hyphens, a letter first, for example `engaged-time`"
)]
pub struct NameError;

impl FromStr for PluginName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let part = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        let good = text.starts_with(|c: char| c.is_ascii_lowercase())
            && (2..=NAME_CHARS_MAX).contains(&text.len())
            && text.split('-').all(part);
        good.then(|| Self(text.to_owned())).ok_or(NameError)
    }
}

impl fmt::Display for PluginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PluginName {
    /// Returns the name as it stands in Rust and SQL, with underscores.
    pub fn snake(&self) -> String {
        self.0.replace('-', "_")
    }
}

/// Returns the files of a new plugin. With `sdk`, a folder (absolute, or relative to the plugin's) that holds the SDK's
/// sources already, these are used and not written once more.
pub fn plugin(name: &PluginName, kind: Kind, sdk: Option<&str>) -> Vec<File> {
    let template = match kind {
        Kind::Planner => embedded::PLANNER,
        Kind::Reducer => embedded::REDUCER,
    };
    let mut files: Vec<File> = template
        .iter()
        .map(|(path, text)| File {
            path: (*path).to_owned(),
            text: fill_in(path, text, name, sdk.unwrap_or(SDK_FOLDER)),
        })
        .collect();
    files.push(File {
        path: "Cargo.lock".into(),
        text: embedded::LOCK.to_owned(),
    });
    if sdk.is_none() {
        files.extend(sdk_sources());
    }
    files
}

/// The template with the plugin's own name, versions and place of the SDK.
fn fill_in(path: &str, text: &str, name: &PluginName, sdk: &str) -> String {
    let mut text = text
        .replace(PLACEHOLDER, &name.0)
        .replace(&PLACEHOLDER.replace('-', "_"), &name.snake());
    if path == "Cargo.toml" {
        text = text
            .replace("path = \"../..\"", &format!("path = {sdk:?}"))
            .replace(
                "version = \"1\"",
                &format!("version = {:?}", embedded::SERDE),
            );
    }
    text
}

fn sdk_sources() -> impl Iterator<Item = File> {
    let license = ("LICENSE", include_str!("../../../LICENSE"));
    let files = embedded::SDK.iter().copied().chain([license]);
    files.map(|(path, text)| File {
        path: format!("{SDK_FOLDER}/{path}"),
        text: match path {
            "Cargo.toml" => format!("{text}{}", embedded::WORKSPACE),
            _ => text.to_owned(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PluginName {
        text.parse().expect("a name")
    }

    fn text<'a>(files: &'a [File], path: &str) -> &'a str {
        let found = files.iter().find(|file| file.path == path);
        &found.unwrap_or_else(|| panic!("no file {path}")).text
    }

    #[test]
    fn names_fit_crates_playbooks_and_tables() {
        for good in ["ab", "engaged-time", "a1-2b", &"a".repeat(40)] {
            assert!(good.parse::<PluginName>().is_ok(), "{good}");
        }
        for wrong in [
            "",
            "a",
            "A-b",
            "1a",
            "a--b",
            "a-",
            "-a",
            "a_b",
            "a/b",
            "..",
            "é-a",
            &"a".repeat(41),
        ] {
            assert_eq!(wrong.parse::<PluginName>(), Err(NameError), "{wrong}");
        }
    }

    #[test]
    fn the_templates_name_is_nowhere_left() {
        for kind in Kind::ALL {
            for file in plugin(&name("engaged-time"), kind, None) {
                let template = !file.path.starts_with(SDK_FOLDER);
                let left = file.text.contains("my-step") || file.text.contains("my_step");
                assert!(!(template && left), "{kind:?}: {}", file.path);
            }
        }
    }

    #[test]
    fn the_sdk_stands_beside_the_plugin_unless_there_is_one() {
        let files = plugin(&name("engaged-time"), Kind::Planner, None);
        assert!(
            text(&files, "Cargo.toml")
                .contains("stepwell-sdk = { path = \"vendor/stepwell-sdk\" }")
        );
        let manifest = text(&files, "vendor/stepwell-sdk/Cargo.toml");
        for part in [
            "\nstepwell-sdk-macros = { path = \"macros\" }\n",
            "\nstepwell-sql = { path = \"sql\" }\n",
            "\n[workspace.package]\nversion = ",
            "\nwit-bindgen = {",
        ] {
            assert!(manifest.contains(part), "{part} is not in\n{manifest}");
        }
        assert!(!manifest.contains("tokio"), "{manifest}");
        assert!(text(&files, "Cargo.lock").contains("name = \"wit-bindgen\""));
        text(&files, "vendor/stepwell-sdk/wit/types.wit");
        text(&files, "vendor/stepwell-sdk/macros/src/lib.rs");

        let files = plugin(
            &name("other"),
            Kind::Planner,
            Some("../engaged-time/vendor/stepwell-sdk"),
        );
        assert!(
            text(&files, "Cargo.toml").contains("path = \"../engaged-time/vendor/stepwell-sdk\"")
        );
        assert!(!files.iter().any(|file| file.path.starts_with("vendor")));
    }
}
