//! Embeds what a new plugin is made of: the templates in `sdk/template`, and the SDK's sources, since the SDK is on no
//! registry.
//!
//! The sources become a workspace of their own, so that their manifests stand as they are: the root's versions, lints
//! and package fields are copied into it. The locked versions of what they need go along.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders of `sdk/` that a build of the SDK does without.
const LEFT_OUT: [&str; 4] = ["examples", "target", "template", "tests"];

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("../..")
        .canonicalize()
        .expect("the workspace lies above this crate");
    for watched in ["sdk", "Cargo.lock", "Cargo.toml"] {
        // Relative, so that a checkout elsewhere that shares the target directory looks at its own files; and where they
        // were, so that it does not take those of one that is gone.
        println!("cargo::rerun-if-changed=../../{watched}");
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    let sdk = root.join("sdk");
    let mut source = String::new();
    let files = files(&sdk, &|top| !LEFT_OUT.contains(&top));
    let manifests: Vec<String> = files
        .iter()
        .filter(|path| path.ends_with("Cargo.toml"))
        .map(|path| read(&sdk.join(path)))
        .collect();
    list(&mut source, "SDK", &sdk, &files);
    let templates = sdk.join("template");
    let mut kinds: Vec<String> = children(&templates);
    kinds.sort();
    for kind in &kinds {
        let folder = templates.join(kind);
        let files = files_of_template(&folder);
        list(&mut source, &kind.to_uppercase(), &folder, &files);
    }
    let root_manifest = read(&root.join("Cargo.toml"));
    constant(
        &mut source,
        "WORKSPACE",
        &workspace(&root_manifest, &manifests),
    );
    constant(&mut source, "LOCK", &lock(&read(&root.join("Cargo.lock"))));
    constant(&mut source, "SERDE", &version_of(&root_manifest, "serde"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("embedded.rs"), source).expect("OUT_DIR can be written");
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("could not read {}: {e}", path.display()))
}

fn children(folder: &Path) -> Vec<String> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|e| panic!("could not read {}: {e}", folder.display()));
    entries
        .map(|entry| {
            entry
                .expect("a readable folder lists its entries")
                .file_name()
        })
        .map(|name| name.into_string().expect("our file names are UTF-8"))
        .collect()
}

/// The files below a folder, sorted, for each name in it that is wanted.
fn files(folder: &Path, wanted: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for name in children(folder).into_iter().filter(|name| wanted(name)) {
        let path = folder.join(&name);
        if path.is_dir() {
            let below = files(&path, &|_| true);
            found.extend(below.into_iter().map(|file| format!("{name}/{file}")));
        } else {
            found.push(name);
        }
    }
    found.sort();
    found
}

/// A template may have been built in its place.
fn files_of_template(folder: &Path) -> Vec<String> {
    files(folder, &|top| !matches!(top, "target" | "Cargo.lock"))
}

fn list(source: &mut String, name: &str, folder: &Path, files: &[String]) {
    writeln!(source, "pub(crate) const {name}: &[(&str, &str)] = &[").expect("a String takes it");
    for file in files {
        let path = folder.join(file).display().to_string();
        writeln!(source, "    ({file:?}, include_str!({path:?})),").expect("a String takes it");
    }
    source.push_str("];\n");
}

fn constant(source: &mut String, name: &str, value: &str) {
    writeln!(source, "pub(crate) const {name}: &str = {value:?};").expect("a String takes it");
}

/// The tables that make the SDK's folder a workspace, to stand after its manifest.
fn workspace(root: &str, manifests: &[String]) -> String {
    let mut text =
        String::from("\n[workspace]\nmembers = [\"macros\", \"sql\"]\nresolver = \"3\"\n");
    for (header, body) in sections(root) {
        match header {
            "[workspace.dependencies]" => {
                writeln!(text, "\n{header}").expect("a String takes it");
                for line in body.lines().filter(|line| needed(line, manifests)) {
                    writeln!(text, "{}", line.replace("path = \"sdk/", "path = \""))
                        .expect("a String takes it");
                }
            }
            header if header == "[workspace.package]" || header.starts_with("[workspace.lints") => {
                write!(text, "\n{header}\n{}\n", body.trim_end()).expect("a String takes it");
            }
            _ => {}
        }
    }
    text
}

/// The tables of a manifest with their lines.
fn sections(manifest: &str) -> Vec<(&str, &str)> {
    let starts: Vec<usize> = manifest
        .match_indices("\n[")
        .map(|(at, _)| at + 1)
        .collect();
    let ends = starts.iter().skip(1).copied().chain([manifest.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(&start, end)| {
            let section = &manifest[start..end];
            section.split_once('\n').unwrap_or((section, ""))
        })
        .collect()
}

/// Whether a line of the root's dependencies is one that a manifest takes.
fn needed(line: &str, manifests: &[String]) -> bool {
    let Some((name, _)) = line.split_once(" =") else {
        return false;
    };
    let takes = |line: &str| {
        line.starts_with(&format!("{name}.workspace"))
            || line.starts_with(&format!("{name} = {{ workspace"))
    };
    manifests.iter().any(|manifest| manifest.lines().any(takes))
}

/// The version that the root asks for.
fn version_of(root: &str, name: &str) -> String {
    let line = root
        .lines()
        .find(|line| line.starts_with(&format!("{name} = ")))
        .unwrap_or_else(|| panic!("the root's dependencies have no {name}"));
    let mut quoted = line.split('"').skip(1).step_by(2);
    quoted
        .next()
        .expect("a version stands in quotes")
        .to_owned()
}

/// The part of the lock file that the SDK needs. Cargo drops what a plugin needs not and adds what it needs more.
fn lock(root: &str) -> String {
    let packages: Vec<&str> = root.split("[[package]]\n").skip(1).collect();
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, package) in packages.iter().enumerate() {
        by_name.entry(field(package, "name")).or_default().push(at);
    }
    let mut wanted = vec!["stepwell-sdk".to_owned()];
    let mut taken = BTreeSet::new();
    while let Some(spec) = wanted.pop() {
        // `name`, or `name version` where there are several.
        let (name, version) = spec.split_once(' ').unwrap_or((&spec, ""));
        let found = by_name.get(name).into_iter().flatten().copied();
        for at in
            found.filter(|&at| version.is_empty() || field(packages[at], "version") == version)
        {
            if taken.insert(at) {
                wanted.extend(dependencies(packages[at]));
            }
        }
    }
    let mut text = String::from(
        "# This file is automatically @generated by Cargo.\n# It is not intended for manual editing.\nversion = 4\n",
    );
    for at in taken {
        write!(text, "\n[[package]]\n{}\n", packages[at].trim_end()).expect("a String takes it");
    }
    text
}

fn field<'a>(package: &'a str, name: &str) -> &'a str {
    let line = package
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name} = \"")));
    line.and_then(|rest| rest.strip_suffix('"')).unwrap_or("")
}

fn dependencies(package: &str) -> Vec<String> {
    let lines = package
        .lines()
        .skip_while(|line| !line.starts_with("dependencies = ["));
    lines
        .skip(1)
        .take_while(|line| *line != "]")
        .map(|line| line.trim_matches([' ', ',', '"']).to_owned())
        .collect()
}
