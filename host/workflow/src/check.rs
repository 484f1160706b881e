//! Turns the tree into types that cannot be wrong. Each part reports its own problems and goes on.

mod authority;
mod grants;
mod graph;
mod marks;
mod plugins;
mod schema_cost;
pub(crate) mod settings;
mod settings_words;
mod source;
mod steps;
mod trust;
mod warehouse;

pub(crate) use grants::Pins;
pub use steps::STEPS_MAX;

use crate::fields::{Fields, key, mismatch, table, text};
use crate::kinds::StepKinds;
use crate::name::{Playbook, is_word};
use crate::problem::Problems;
use crate::source_file::{SourceFile, Span};
use crate::tree::{Entry, Kind, Node};
use crate::words::quoted;
use crate::workflow::{PluginEntry, Schemas, TrustPolicy, Workflow};

use stepwell_sql::TableName;

/// The version of the file format that this build reads.
pub const FORMAT: u64 = 1;

/// Returns the workflow, or none with at least one error among the problems.
pub(crate) fn check(
    root: &Node,
    file: &SourceFile,
    kinds: &mut dyn StepKinds,
    pins: Pins,
    problems: &mut Problems,
) -> Option<Workflow> {
    let start = Span::new(root.span.start, root.span.start);
    if matches!(root.kind, Kind::Null) {
        let message = "the workflow file: expected a map, found nothing";
        let help = "it begins with `stepwell: 1`, `playbook: <name>` and `steps:`; `stepwell check --schema` says what \
                    else it may have";
        problems.error_help(root.span, message, help);
        return None;
    }
    let mut fields = Fields::new(root, "the workflow file", start, problems)?;
    let format = fields.require(
        "stepwell",
        "the version of the file format: `stepwell: 1`",
        problems,
    );
    if !format.is_none_or(|entry| check_format(entry, problems)) {
        // What the other keys mean in another format, this build cannot say.
        return None;
    }
    let playbook = fields
        .require(
            "playbook",
            "the name under which batches are kept",
            problems,
        )
        .and_then(|entry| check_playbook(entry, problems));
    let description = fields
        .take("description")
        .and_then(|entry| text(&entry.value, &key(entry), "text", problems).map(str::to_owned));
    fields.take("vars"); // Read when variables were put in.
    let warehouse_entry = fields.take("warehouse");
    let warehouse = warehouse_entry.map(|entry| warehouse::check(entry, problems));
    let schemas = check_schemas(fields.take("schemas"), problems);
    let manifest = check_manifest(fields.take("manifest"), &schemas, problems);
    let source_entry = fields.take("source");
    let source = source_entry.map(|entry| source::check(entry, problems));
    let has_url = warehouse_entry.is_some_and(names_url);
    let granting = grants::Surroundings {
        playbook: playbook.as_ref(),
        schemas: &schemas,
        manifest: manifest.as_ref(),
        has_url,
        pins,
    };
    let trust = trust::check(fields.take("trust"), problems);
    let files = plugins::Files {
        base: file.folder(),
        trust: &trust,
    };
    let entry = fields.take("plugins");
    let plugins = plugins::check(entry, &granting, kinds, &files, problems);
    let steps = fields.require("steps", "the list of what to do", problems);
    fields.done(problems);

    let surroundings = steps::Surroundings {
        playbook: playbook.as_ref(),
        schemas: &schemas,
        manifest: manifest.as_ref(),
        has_source: source.is_some(),
        events: source.iter().flatten().map(|source| &source.events).next(),
        contexts: source
            .iter()
            .flatten()
            .flat_map(|source| source.contexts.keys())
            .map(String::as_str)
            .collect(),
        folder: file.folder(),
    };
    let (steps, plugins) = steps::check(steps?, plugins, &surroundings, kinds, problems)?;
    let source = match source {
        Some(source) => Some(source?),
        None => None,
    };
    Some(Workflow {
        source_file: file.clone(),
        playbook: playbook?,
        description: description.unwrap_or_default(),
        warehouse: warehouse.unwrap_or_default(),
        schemas,
        manifest: manifest?,
        source,
        trust,
        plugins,
        steps,
        scratch_family: None,
    })
}

/// Returns what the file declares of plugins and trust, whatever is wrong elsewhere in it.
pub(crate) fn declarations(
    root: &Node,
    problems: &mut Problems,
) -> (TrustPolicy, Vec<PluginEntry>) {
    let start = Span::new(root.span.start, root.span.start);
    // What is wrong with the rest is not asked here.
    let mut elsewhere = Problems::default();
    let Some(mut fields) = Fields::new(root, "the workflow file", start, problems) else {
        return Default::default();
    };
    let schemas = check_schemas(fields.take("schemas"), &mut elsewhere);
    let granting = grants::Surroundings {
        playbook: None,
        schemas: &schemas,
        manifest: None,
        has_url: false,
        pins: Pins::Later,
    };
    let trust = trust::check(fields.take("trust"), problems);
    let plugins = plugins::declared(fields.take("plugins"), &granting, problems);
    (trust, plugins)
}

/// Returns the policy of a site's file, which is the `trust:` block of a workflow by itself.
pub(crate) fn site_trust(root: &Node, problems: &mut Problems) -> TrustPolicy {
    let start = Span::new(root.span.start, root.span.start);
    match Fields::new(root, "the trust file", start, problems) {
        Some(fields) => trust::policy(fields, problems),
        None => TrustPolicy::default(),
    }
}

/// Whether the block names a warehouse of its own, right or wrong.
fn names_url(warehouse: &Entry) -> bool {
    match &warehouse.value.kind {
        Kind::Map(entries) => entries
            .iter()
            .any(|entry| entry.key == "url" && !warehouse::is_local(entry)),
        _ => false,
    }
}

/// Returns false, with a problem, if the file is of a format that this build does not read.
fn check_format(entry: &Entry, problems: &mut Problems) -> bool {
    match &entry.value.kind {
        Kind::Number(number, _) if number.as_u64() == Some(FORMAT) => true,
        Kind::Number(_, written) => {
            let message = format!("workflow format {written} is not one that this build reads");
            let help = format!(
                "this build reads format {FORMAT}: write `stepwell: {FORMAT}`, or use another build"
            );
            problems.error_help(entry.value.span, message, help);
            false
        }
        _ => {
            let expected = format!("the number {FORMAT}");
            mismatch(&entry.value, &key(entry), &expected, problems);
            false
        }
    }
}

fn check_playbook(entry: &Entry, problems: &mut Problems) -> Option<Playbook> {
    let name = text(
        &entry.value,
        &key(entry),
        "the name of a playbook",
        problems,
    )?;
    match name.parse() {
        Ok(playbook) => Some(playbook),
        Err(why) => {
            let found = entry.value.describe();
            let message = format!("{}: {why}, found {found}", key(entry));
            problems.error(entry.value.span, message);
            None
        }
    }
}

/// Reads the schemas; what is wrong is reported and has its default.
fn check_schemas(entry: Option<&Entry>, problems: &mut Problems) -> Schemas {
    let mut schemas = Schemas {
        scratch: "scratch".into(),
        derived: "derived".into(),
    };
    let Some(entry) = entry else { return schemas };
    let Some(mut fields) = Fields::of(entry, problems) else {
        return schemas;
    };
    let scratch = fields.take("scratch");
    let derived = fields.take("derived");
    for (entry, schema) in [
        (scratch, &mut schemas.scratch),
        (derived, &mut schemas.derived),
    ] {
        let Some(entry) = entry else { continue };
        let expected = "the name of a schema in lower case";
        let Some(name) = text(&entry.value, &key(entry), expected, problems) else {
            continue;
        };
        let reserved = name.starts_with("pg_") || name == "information_schema";
        if is_word(name) && name.len() <= 63 && !reserved {
            name.clone_into(schema);
        } else {
            mismatch(&entry.value, &key(entry), expected, problems);
        }
    }
    fields.done(problems);
    if schemas.scratch == schemas.derived {
        let message = format!(
            "scratch and derived tables cannot share schema {}",
            quoted(&schemas.scratch)
        );
        let help = "a run may empty scratch tables; keep what readers query in another schema";
        problems.error_help(entry.key_span, message, help);
    }
    schemas
}

fn check_manifest(
    entry: Option<&Entry>,
    schemas: &Schemas,
    problems: &mut Problems,
) -> Option<TableName> {
    let Some(entry) = entry else {
        return Some(TableName::new(&schemas.derived, "manifest"));
    };
    let manifest = table(&entry.value, &key(entry), problems)?;
    if manifest.schema() == schemas.scratch {
        let message = format!("manifest \"{manifest}\" is in the scratch schema");
        let help = format!(
            "a run may empty scratch tables; write `manifest: {}.manifest`",
            schemas.derived
        );
        problems.error_help(entry.value.span, message, help);
    }
    Some(manifest)
}
