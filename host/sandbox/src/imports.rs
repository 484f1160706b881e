//! Which interfaces a step may import, and what to say about the others.

use crate::text::shown;
use crate::version::{Fit, Version};

/// The contract's package.
const CONTRACT_PACKAGE: &str = "stepwell:step/";

/// Version of WASI that `wit/wasi.wit` states. Any 0.2 is linked to it.
const WASI: Version = Version {
    major: 0,
    minor: 2,
    patch: 12,
};

/// Interfaces of the contract that hold types or are offered to steps.
const CONTRACT_SERVED: [&str; 5] = ["columnar", "log", "plans", "shapes", "types"];

/// Interfaces of WASI that are offered to steps, as `wit/wasi.wit` has them.
const WASI_SERVED: [&str; 18] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
];

/// An import that steps are not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedImport {
    /// The import as the component names it.
    pub name: String,
    /// Why not, for people.
    pub reason: &'static str,
}

/// Returns the imports that this host does not offer, all of them.
pub(crate) fn refused(imports: &[String]) -> Vec<RefusedImport> {
    const NAME_BYTES_MAX: usize = 200;

    imports
        .iter()
        .filter_map(|name| {
            let reason = reason_against(name)?;
            // The name is the plugin's own text.
            Some(RefusedImport {
                name: shown(name, NAME_BYTES_MAX),
                reason,
            })
        })
        .collect()
}

/// Whether one of `exports` is `interface` in a version that this host has.
pub(crate) fn exports(exports: &[String], interface: &str) -> bool {
    exports.iter().any(|export| {
        parse(export).is_some_and(|(name, version)| name == interface && version.fit() == Fit::Fits)
    })
}

fn reason_against(import: &str) -> Option<&'static str> {
    let package_reason = [
        ("wasi:filesystem/", "a step reads and writes no files"),
        ("wasi:sockets/", "a step has no network"),
        ("wasi:http/", "a step has no network"),
        ("wasi:keyvalue/", "a step keeps nothing between runs"),
    ];
    for (prefix, reason) in package_reason {
        if import.starts_with(prefix) {
            return Some(reason);
        }
    }
    let Some((name, version)) = parse(import) else {
        return Some("nothing of that name is offered to steps");
    };
    if let Some(interface) = name.strip_prefix(CONTRACT_PACKAGE) {
        return match version.fit() {
            Fit::TooNew => Some("this stepwell has an older contract"),
            Fit::TooOld => Some("this stepwell has a newer contract"),
            Fit::Fits if CONTRACT_SERVED.contains(&interface) => None,
            Fit::Fits => Some("nothing of that name is offered to steps"),
        };
    }
    if !WASI_SERVED.contains(&name) {
        return Some("nothing of that name is offered to steps");
    }
    if !WASI.shares_track_with(version) {
        return Some("steps are given WASI 0.2");
    }
    None
}

fn parse(name: &str) -> Option<(&str, Version)> {
    let (interface, version) = name.split_once('@')?;
    Some((interface, version.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::describe::Kind;
    use crate::version::HAS;

    fn reason(import: &str) -> Option<&'static str> {
        refused(&[import.to_owned()])
            .first()
            .map(|refused| refused.reason)
    }

    #[test]
    fn the_names_are_those_of_the_wit_file() {
        let wit = include_str!("../wit/wasi.wit");
        let imported = wit
            .lines()
            .filter_map(|line| line.trim().strip_prefix("import "));
        let mut imported: Vec<_> = imported.map(|name| name.trim_end_matches(';')).collect();

        let served = WASI_SERVED.iter().map(|name| format!("{name}@{WASI}"));
        let mut served: Vec<_> = served.collect();
        imported.sort_unstable();
        served.sort_unstable();
        assert_eq!(imported, served);
    }

    #[test]
    fn what_rust_imports_is_offered_in_any_release_of_wasi_0_2() {
        for import in [
            "wasi:cli/environment@0.2.0",
            "wasi:io/streams@0.2.6",
            "wasi:random/insecure-seed@0.2.99",
            "stepwell:step/log@0.1.0",
            "stepwell:step/plans@0.1.0",
            "stepwell:step/shapes@0.1.0",
        ] {
            assert_eq!(reason(import), None, "{import}");
        }
    }

    #[test]
    fn the_rest_is_refused_with_a_reason() {
        let cases = [
            (
                "wasi:filesystem/types@0.2.6",
                "a step reads and writes no files",
            ),
            ("wasi:sockets/tcp@0.2.6", "a step has no network"),
            ("wasi:http/outgoing-handler@0.2.6", "a step has no network"),
            ("wasi:cli/environment@0.3.0", "steps are given WASI 0.2"),
            (
                "wasi:cli/environment",
                "nothing of that name is offered to steps",
            ),
            (
                "wasi:clocks/timezone@0.2.6",
                "nothing of that name is offered to steps",
            ),
            (
                "stepwell:step/log@0.2.0",
                "this stepwell has an older contract",
            ),
            (
                "stepwell:step/log@0.0.1",
                "this stepwell has a newer contract",
            ),
            (
                "stepwell:step/sql@0.1.0",
                "nothing of that name is offered to steps",
            ),
            ("run-anything", "nothing of that name is offered to steps"),
        ];

        for (import, expected) in cases {
            assert_eq!(reason(import), Some(expected), "{import}");
        }
    }

    #[test]
    fn an_export_counts_in_a_version_that_we_have() {
        let planning = Kind::Planner.interface();
        let has = |export: &str| exports(&[export.to_owned()], planning);

        assert!(has(&format!("stepwell:step/planning@{HAS}")));
        assert!(!has("stepwell:step/planning@0.2.0"));
        assert!(!has("stepwell:step/planning"));
        assert!(!has(&format!("stepwell:step/reducing@{HAS}")));
    }
}
