//! Reads what a component says about itself, without an engine and without running any of it.

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;
use wasmtime::Engine;

use crate::digest::Digest;
use crate::imports::{self, RefusedImport};
use crate::version::{Fit, HAS, Version};

mod scan;

/// Largest component that is read at all, in bytes. Those in Rust have some hundred KiB; languages that bring an
/// interpreter along need tens of MiB.
pub const COMPONENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Largest component of a third party, in bytes, unless the workflow allows it more.
pub const STRANGER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Largest description, in bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 256 * 1024;

/// Name of the custom section that holds the description.
pub const SECTION: &str = "stepwell:step";

/// What a plugin says about itself. The plugin wrote it: a claim, which
/// [`Sandbox::load`](crate::Sandbox::load) compares with what the component exports.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Lower-case letters, digits and hyphens, at most 63.
    pub name: String,
    /// The plugin's own version, for people.
    pub version: String,
    /// What it can do.
    pub kind: Kind,
    /// Version of the contract that it was built for; this host has that one.
    pub contract: String,
    /// What the step is for, in one line.
    #[serde(default)]
    pub summary: String,
    /// Whether its plans may end the run as having nothing to do.
    #[serde(default)]
    pub gate: bool,
    /// JSON Schema of the step's settings; an object.
    pub settings: Value,
    /// Implicit relations that it reads: `events`, `manifest`.
    #[serde(default)]
    pub reads: Vec<String>,
    /// Implicit relations that it writes.
    #[serde(default)]
    pub writes: Vec<String>,
}

/// What a plugin can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It answers with SQL.
    Planner,
    /// It folds rows into rows.
    Reducer,
}

impl Kind {
    /// Returns the word used in a description.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planner => "planner",
            Self::Reducer => "reducer",
        }
    }

    /// Returns the interface that a plugin of this kind exports, without its version.
    pub(crate) fn interface(self) -> &'static str {
        match self {
            Self::Planner => "stepwell:step/planning",
            Self::Reducer => "stepwell:step/reducing",
        }
    }
}

/// All that can be said about a component without compiling it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// What it says about itself.
    pub description: Description,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: usize,
    /// Interfaces that it imports, with versions, in its own order.
    pub imports: Vec<String>,
    /// Interfaces that it exports, likewise.
    pub exports: Vec<String>,
}

impl Inspection {
    /// Returns the imports that steps are not given, with reasons; a component that has any is not
    /// loaded.
    pub fn refused_imports(&self) -> Vec<RefusedImport> {
        imports::refused(&self.imports)
    }

    /// Returns the interface that a step of the described kind exports, if this component does not; it
    /// is not loaded then.
    pub fn missing_export(&self) -> Option<&'static str> {
        let interface = self.description.kind.interface();
        (!imports::exports(&self.exports, interface)).then_some(interface)
    }
}

/// A component does not say what it is, or it is no component.
#[derive(Debug, Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum DescribeError {
    #[error("the component has {size_bytes} bytes, the limit is {limit_bytes}")]
    TooLarge {
        size_bytes: usize,
        limit_bytes: usize,
    },
    #[error("the file is compiled machine code; a step is given as the `.wasm` before that")]
    Precompiled,
    #[error("the file is a core WebAssembly module, not a component; build it for `wasm32-wasip2`")]
    CoreModule,
    #[error("the file is not a WebAssembly component")]
    NotWasm {
        source: wasmparser::BinaryReaderError,
    },
    #[error("the component has no description (custom section `{SECTION}`), so it is not a step")]
    Missing,
    #[error("the component has {count} descriptions, expected one")]
    Several { count: usize },
    #[error("the component has a description already")]
    Described,
    #[error("the description has {size_bytes} bytes, the limit is {DESCRIPTION_BYTES_MAX}")]
    DescriptionTooLarge { size_bytes: usize },
    #[error("the description does not have the expected form")]
    Form { source: serde_json::Error },
    #[error("`{field}` of the description: {problem}")]
    Field {
        field: &'static str,
        problem: String,
    },
    #[error("the step needs contract {needs}, this stepwell has {has}: a newer stepwell is needed")]
    ContractTooNew { needs: String, has: &'static str },
    #[error(
        "the step was built for contract {needs}, this stepwell has {has}: a newer SDK is needed"
    )]
    ContractTooOld { needs: String, has: &'static str },
}

/// Returns what the component says about itself.
///
/// Pure: no engine is made and nothing is run, so it may be called on bytes that nobody trusts yet.
///
/// # Errors
///
/// If the bytes are no component of at most [`COMPONENT_BYTES_MAX`], or do not hold exactly one
/// description of the expected form for a contract that this host has.
pub fn describe(bytes: &[u8]) -> Result<Description, DescribeError> {
    description(&scanned(bytes)?)
}

/// Returns the description and everything else that can be read off the bytes. As [`describe`], and
/// with its errors.
///
/// # Errors
///
/// As [`describe`].
pub fn inspect(bytes: &[u8]) -> Result<Inspection, DescribeError> {
    let found = scanned(bytes)?;
    Ok(Inspection {
        description: description(&found)?,
        digest: Digest::of(bytes),
        size_bytes: bytes.len(),
        imports: found.imports,
        exports: found.exports,
    })
}

fn description(found: &scan::Found<'_>) -> Result<Description, DescribeError> {
    match found.descriptions[..] {
        [] => Err(DescribeError::Missing),
        [section] => read(section),
        _ => Err(DescribeError::Several {
            count: found.descriptions.len(),
        }),
    }
}

/// Returns the component with a description written into it: for those made by tools that, unlike the
/// SDK's macro, know nothing of [`SECTION`].
///
/// `description` is the JSON text of a [`Description`].
///
/// # Errors
///
/// As [`describe`], of what would come out; also if the component has a description already.
pub fn with_description(component: &[u8], description: &[u8]) -> Result<Vec<u8>, DescribeError> {
    if !scanned(component)?.descriptions.is_empty() {
        return Err(DescribeError::Described);
    }
    read(description)?;
    // A custom section: its number, its length, the length of its name, the name, the content.
    let mut section = leb(SECTION.len());
    section.extend_from_slice(SECTION.as_bytes());
    section.extend_from_slice(description);
    let mut out = component.to_vec();
    out.push(0);
    out.extend(leb(section.len()));
    out.extend(section);
    describe(&out)?;
    Ok(out)
}

/// Reads off a component what can be read without knowing what it says.
fn scanned(bytes: &[u8]) -> Result<scan::Found<'_>, DescribeError> {
    if bytes.len() > COMPONENT_BYTES_MAX {
        return Err(DescribeError::TooLarge {
            size_bytes: bytes.len(),
            limit_bytes: COMPONENT_BYTES_MAX,
        });
    }
    if Engine::detect_precompiled(bytes).is_some() {
        return Err(DescribeError::Precompiled);
    }
    scan::scan(bytes)
}

/// A number as WebAssembly writes it: seven bits a byte, the lowest first.
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn read(section: &[u8]) -> Result<Description, DescribeError> {
    if section.len() > DESCRIPTION_BYTES_MAX {
        return Err(DescribeError::DescriptionTooLarge {
            size_bytes: section.len(),
        });
    }
    // The version comes first: a newer contract may have fields that we do not know, and then its
    // number is the news.
    check_contract(section)?;
    let description: Description =
        serde_json::from_slice(section).map_err(|source| DescribeError::Form { source })?;
    check_fields(&description)?;
    Ok(description)
}

fn check_contract(section: &[u8]) -> Result<(), DescribeError> {
    #[derive(Deserialize)]
    struct ContractAlone {
        contract: String,
    }

    let ContractAlone { contract } =
        serde_json::from_slice(section).map_err(|source| DescribeError::Form { source })?;
    let version: Version = contract.parse().map_err(|()| DescribeError::Field {
        field: "contract",
        problem: format!("expected a version such as {HAS}"),
    })?;
    let (needs, has) = (version.to_string(), crate::contract::CONTRACT);
    match version.fit() {
        Fit::Fits => Ok(()),
        Fit::TooNew => Err(DescribeError::ContractTooNew { needs, has }),
        Fit::TooOld => Err(DescribeError::ContractTooOld { needs, has }),
    }
}

fn check_fields(description: &Description) -> Result<(), DescribeError> {
    const NAME_BYTES_MAX: usize = 63;
    const SUMMARY_BYTES_MAX: usize = 500;
    const RELATIONS: [&str; 3] = ["events", "manifest", "scratch"];

    let problem = |field, problem: &str| {
        Err(DescribeError::Field {
            field,
            problem: problem.to_owned(),
        })
    };
    let is_name_byte = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    let name = &description.name;
    if name.len() > NAME_BYTES_MAX
        || !name.starts_with(|c: char| c.is_ascii_lowercase())
        || !name.bytes().all(is_name_byte)
    {
        return problem(
            "name",
            "expected a lower-case letter, then lower-case letters, digits and hyphens, at most 63",
        );
    }
    let version = &description.version;
    let is_version_byte = |byte: u8| byte.is_ascii_alphanumeric() || b".-+".contains(&byte);
    if version.is_empty() || version.len() > NAME_BYTES_MAX || !version.bytes().all(is_version_byte)
    {
        return problem("version", "expected a version such as 1.2.0");
    }
    if description.summary.len() > SUMMARY_BYTES_MAX
        || description.summary.chars().any(char::is_control)
    {
        return problem("summary", "expected one line of at most 500 bytes");
    }
    if !description.settings.is_object() {
        return problem("settings", "expected a JSON Schema, an object");
    }
    for (field, names) in [
        ("reads", &description.reads),
        ("writes", &description.writes),
    ] {
        if !names.iter().all(|name| RELATIONS.contains(&name.as_str())) {
            return problem(
                field,
                "expected words of `events`, `manifest` and `scratch`",
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"name":"aggregate","version":"0.1.0","kind":"planner","contract":"0.1.0",
        "summary":"Aggregates.","gate":false,"settings":{"type":"object"},
        "reads":["events"],"writes":[]}"#;

    /// An empty component with the given custom sections.
    fn component(sections: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        for (name, data) in sections {
            let mut body = leb(name.len());
            body.extend_from_slice(name.as_bytes());
            body.extend_from_slice(data);
            bytes.push(0);
            bytes.extend(leb(body.len()));
            bytes.extend(body);
        }
        bytes
    }

    fn with(description: &str) -> Result<Description, DescribeError> {
        describe(&component(&[(SECTION, description.as_bytes())]))
    }

    #[test]
    fn reads_the_section() {
        let description = with(GOOD).expect("a good description");

        assert_eq!(description.name, "aggregate");
        assert_eq!(description.kind, Kind::Planner);
        assert_eq!(description.reads, ["events"]);
    }

    #[test]
    fn wants_exactly_one_section() {
        let none = describe(&component(&[("other", b"{}")]));
        let twice = describe(&component(&[(SECTION, GOOD.as_bytes()), (SECTION, b"{}")]));

        assert!(matches!(none, Err(DescribeError::Missing)), "{none:?}");
        assert!(
            matches!(twice, Err(DescribeError::Several { count: 2 })),
            "{twice:?}"
        );
    }

    #[test]
    fn a_description_can_be_written_into_a_component_once() {
        let bare = component(&[("other", b"{}")]);
        let written = with_description(&bare, GOOD.as_bytes()).expect("it fits");

        assert_eq!(describe(&written).expect("it is there").name, "aggregate");
        assert_eq!(written[..bare.len()], bare, "nothing else has changed");
        let again = with_description(&written, GOOD.as_bytes());
        assert!(matches!(again, Err(DescribeError::Described)), "{again:?}");
        let wrong = with_description(&bare, b"{}");
        assert!(
            matches!(wrong, Err(DescribeError::Form { .. })),
            "{wrong:?}"
        );
        let module = with_description(b"\0asm\x01\0\0\0", GOOD.as_bytes());
        assert!(
            matches!(module, Err(DescribeError::CoreModule)),
            "{module:?}"
        );
    }

    /// The linker joins equal sections of several object files into one.
    #[test]
    fn two_descriptions_in_one_section_are_refused() {
        let joined = with(&format!("{GOOD}{GOOD}"));

        assert!(
            matches!(joined, Err(DescribeError::Form { .. })),
            "{joined:?}"
        );
    }

    #[test]
    fn sizes_are_bounded() {
        let long = with(&GOOD.replace("Aggregates.", &"a".repeat(DESCRIPTION_BYTES_MAX)));
        let large = describe(&vec![0; COMPONENT_BYTES_MAX + 1]);

        assert!(
            matches!(long, Err(DescribeError::DescriptionTooLarge { .. })),
            "{long:?}"
        );
        assert!(
            matches!(large, Err(DescribeError::TooLarge { .. })),
            "{large:?}"
        );
    }

    #[test]
    fn a_newer_contract_is_named_before_unknown_fields() {
        let newer = with(r#"{"contract":"0.2.0","brand-new":true}"#).expect_err("too new");

        assert_eq!(
            newer.to_string(),
            "the step needs contract 0.2.0, this stepwell has 0.1.0: a newer stepwell is needed"
        );
    }

    #[test]
    fn an_older_contract_asks_for_a_rebuild() {
        let older = with(r#"{"contract":"0.0.3"}"#);

        assert!(
            matches!(older, Err(DescribeError::ContractTooOld { .. })),
            "{older:?}"
        );
    }

    #[test]
    fn each_field_is_held_to_its_form() {
        let changes = [
            ("name", r#""aggregate""#, r#""../aggregate""#),
            ("name", r#""aggregate""#, r#""""#),
            ("version", r#""version":"0.1.0""#, r#""version":"1 2""#),
            (
                "contract",
                r#""contract":"0.1.0""#,
                r#""contract":"newest""#,
            ),
            ("summary", "Aggregates.", r"two\nlines"),
            ("settings", r#"{"type":"object"}"#, "true"),
            ("reads", r#"["events"]"#, r#"["pg_authid"]"#),
        ];

        for (field, from, to) in changes {
            match with(&GOOD.replace(from, to)) {
                Err(DescribeError::Field { field: found, .. }) => assert_eq!(found, field),
                other => panic!("{to}: {other:?}"),
            }
        }
    }

    #[test]
    fn unknown_fields_and_kinds_are_refused() {
        let unknown = with(&GOOD.replace(r#""gate""#, r#""gait""#));
        let kind = with(&GOOD.replace(r#""planner""#, r#""oracle""#));

        assert!(
            matches!(unknown, Err(DescribeError::Form { .. })),
            "{unknown:?}"
        );
        assert!(matches!(kind, Err(DescribeError::Form { .. })), "{kind:?}");
    }

    #[test]
    fn other_files_are_told_apart() {
        let module = describe(b"\0asm\x01\0\0\0");
        let text = describe(b"(component)");
        let cut = describe(&component(&[(SECTION, GOOD.as_bytes())])[..40]);

        assert!(
            matches!(module, Err(DescribeError::CoreModule)),
            "{module:?}"
        );
        assert!(
            matches!(text, Err(DescribeError::NotWasm { .. })),
            "{text:?}"
        );
        assert!(matches!(cut, Err(DescribeError::NotWasm { .. })), "{cut:?}");
    }
}
