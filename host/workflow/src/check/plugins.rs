//! The `plugins:` block.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::grants::{self, Pins};
use crate::fields::{Fields, bytes, duration, key, mismatch, text, whole};
use crate::kinds::{StepKind, StepKinds};
use crate::limits::{LimitKey, LimitUnit, Limits};
use crate::name::is_id;
use crate::problem::{Problem, Problems};
use crate::tree::{Entry, Kind};
use crate::words::quoted;
use crate::workflow::{PluginEntry, Trust, TrustPolicy};

/// Where the files of plugins are, and whose signatures count.
pub(super) struct Files<'a> {
    pub(super) base: &'a Path,
    pub(super) trust: &'a TrustPolicy,
}

/// A declared plugin, as far as it could be read.
pub(super) struct Declared {
    pub(super) entry: Option<PluginEntry>,
    /// None, with a problem, if the plugin cannot be used.
    pub(super) kind: Option<StepKind>,
    pub(super) used: bool,
}

pub(super) fn check(
    entry: Option<&Entry>,
    around: &grants::Surroundings<'_>,
    kinds: &mut dyn StepKinds,
    files: &Files<'_>,
    problems: &mut Problems,
) -> BTreeMap<String, Declared> {
    let mut plugins = BTreeMap::new();
    for entry in entries(entry, problems) {
        let declared = Declared {
            entry: plugin(entry, around, problems),
            kind: None,
            used: false,
        };
        plugins.insert(
            entry.key.clone(),
            named(entry, declared, kinds, files, problems),
        );
    }
    plugins
}

/// Returns the plugins as far as they can be read, and asks nobody for their descriptors.
pub(super) fn declared(
    entry: Option<&Entry>,
    around: &grants::Surroundings<'_>,
    problems: &mut Problems,
) -> Vec<PluginEntry> {
    let entries = entries(entry, problems);
    let read = |entry| plugin(entry, around, problems);
    entries.iter().filter_map(read).collect()
}

fn entries<'a>(entry: Option<&'a Entry>, problems: &mut Problems) -> &'a [Entry] {
    match entry.map(|entry| (entry, &entry.value.kind)) {
        None => &[],
        Some((_, Kind::Map(entries))) => entries,
        Some((entry, _)) => {
            mismatch(&entry.value, &key(entry), "a map of plugins", problems);
            &[]
        }
    }
}

/// Checks the plugin's name and asks for its descriptor.
fn named(
    entry: &Entry,
    mut declared: Declared,
    kinds: &mut dyn StepKinds,
    files: &Files<'_>,
    problems: &mut Problems,
) -> Declared {
    let name = quoted(&entry.key);
    if !is_id(&entry.key) {
        problems.error_help(
            entry.key_span,
            format!("{name} is not the name of a plugin"),
            "a plugin's name has lower-case letters, digits, `-` and `_`, and begins with a letter",
        );
    } else if kinds.builtin(&entry.key).is_some() {
        problems.error_help(
            entry.key_span,
            format!("plugin {name} has the name of a built-in step"),
            "give it another name, here and where it is used",
        );
        // Whether a step means it, nobody can tell.
        declared.used = true;
    }
    if let Some(plugin) = &declared.entry {
        match kinds.load(plugin, files.trust, files.base) {
            Ok(kind) => declared.kind = Some(kind),
            Err(error) => {
                let message = format!("plugin {name}: {}", error.message);
                let at = error.at.unwrap_or(plugin.component_span);
                let mut problem = Problem::error(message).at(at);
                if let Some(help) = error.help {
                    problem = problem.with_help(help);
                }
                problems.push(problem);
            }
        }
    }
    declared
}

fn plugin(
    entry: &Entry,
    around: &grants::Surroundings<'_>,
    problems: &mut Problems,
) -> Option<PluginEntry> {
    let owner = format!("plugin {}", quoted(&entry.key));
    let mut fields = Fields::new(&entry.value, owner.as_str(), entry.key_span, problems)?;
    let component = fields.require("component", "the path of its `.wasm` file", problems);
    let path = component.and_then(|entry| {
        let expected = "the path of a `.wasm` file";
        text(&entry.value, &key(entry), expected, problems).map(PathBuf::from)
    });
    let digest = fields.take("digest");
    let signature = fields.take("signature").and_then(|entry| {
        let expected = "the path of its signature file";
        let path = text(&entry.value, &key(entry), expected, problems)?;
        Some((PathBuf::from(path), entry.value.span))
    });
    let trust = fields.take("trust");
    let trust_value = trust.map_or(Trust::default(), |entry| trust_of(entry, problems));
    let grants = fields
        .take("grants")
        .map(|entry| grants::grants(entry, around, problems))
        .unwrap_or_else(grants::none);
    let connection = fields.take("connection");
    let login = connection.and_then(|entry| grants::connection(entry, problems));
    let limits = fields
        .take("limits")
        .map(|entry| limits(entry, problems))
        .unwrap_or_default();
    fields.done(problems);
    if trust_value == Trust::ThirdParty {
        if digest.is_none() && around.pins == Pins::Required {
            let message = format!("{owner} is a third party's and lacks key \"digest\"");
            problems.error_help(
                entry.key_span,
                message,
                "what it is granted holds for one file: pin it with `stepwell plugin pin <workflow>`, or write \
                 `trust: own` if your team builds it",
            );
        }
        if connection.is_none() && around.has_url {
            let message = format!("{owner} is a third party's and lacks key \"connection\"");
            problems.error_help(
                entry.key_span,
                message,
                "its SQL runs under a login of its own: add `connection: { role: … }`; \
                 `stepwell plugin grants <workflow>` prints what makes that role",
            );
        }
    } else if let Some(connection) = connection {
        problems.error_help(
            connection.key_span,
            format!("{owner} is your own and runs under the workflow's login"),
            "remove the key, or remove `trust: own`",
        );
    }
    let path = path?;
    Some(PluginEntry {
        name: entry.key.clone(),
        signature_span: signature.as_ref().map(|(_, span)| *span),
        signature: signature.map_or_else(|| beside(&path), |(path, _)| path),
        component: path,
        digest: match digest {
            Some(entry) => Some(digest_of(entry, problems)?),
            None => None,
        },
        trust: trust_value,
        grants,
        connection: login,
        limits,
        span: entry.key_span,
        component_span: component.map(|entry| entry.value.span)?,
        digest_span: digest.map(|entry| entry.value.span),
    })
}

/// The signature file of a component that names no other.
fn beside(component: &Path) -> PathBuf {
    let mut path = component.as_os_str().to_owned();
    path.push(".sig");
    path.into()
}

/// Reads `sha256:` and 64 hexadecimal digits; returns the digits in lower case.
fn digest_of(entry: &Entry, problems: &mut Problems) -> Option<String> {
    let expected = "`sha256:` and 64 hexadecimal digits";
    let digest = text(&entry.value, &key(entry), expected, problems)?;
    let digits = digest.strip_prefix("sha256:").unwrap_or("");
    if digits.len() == 64 && digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return Some(digits.to_ascii_lowercase());
    }
    mismatch(&entry.value, &key(entry), expected, problems);
    None
}

fn trust_of(entry: &Entry, problems: &mut Problems) -> Trust {
    let expected = "`own` or `third-party`";
    match text(&entry.value, &key(entry), expected, problems) {
        Some("own") => Trust::Own,
        Some("third-party") | None => Trust::ThirdParty,
        Some(_) => {
            mismatch(&entry.value, &key(entry), expected, problems);
            Trust::ThirdParty
        }
    }
}

fn limits(entry: &Entry, problems: &mut Problems) -> Limits {
    let mut limits = Limits::default();
    let Some(mut fields) = Fields::of(entry, problems) else {
        return limits;
    };
    for limit in LimitKey::ALL {
        if let Some(entry) = fields.take(limit.name())
            && let Some(value) = limit_of(limit, entry, problems)
        {
            limits.set(limit, value);
        }
    }
    fields.done(problems);
    limits
}

fn limit_of(limit: LimitKey, entry: &Entry, problems: &mut Problems) -> Option<u64> {
    let value = match limit.unit() {
        LimitUnit::Size => bytes(entry, problems)?,
        LimitUnit::Duration => {
            let micros = duration(entry, problems)?.as_micros();
            u64::try_from(micros).unwrap_or(u64::MAX).max(1)
        }
        LimitUnit::Count => whole(entry, 1..=u64::from(u32::MAX), problems)?,
    };
    match limit.most() {
        Some((most, expected)) if value > most => {
            mismatch(&entry.value, &key(entry), expected, problems);
            None
        }
        _ => Some(value),
    }
}
