//! `stepwell plugin inspect`: what a component says about itself, without running it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use stepwell_sandbox::Inspection;

use super::read_component;
use crate::commands::{Context, Outcome};
use crate::exit;
use crate::failed::Failed;
use crate::render::words::{clean, number};

/// Show what a component says about itself, without running it
///
/// Name, kind, the version of the contract that it needs and the one that this program has,
/// settings, imports, size and digest. Nothing of the component is run or compiled, so it may be
/// anybody's.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell plugin inspect target/plugins/engaged-time.wasm
  stepwell plugin inspect engaged-time.wasm --json | jq -r .digest
  stepwell plugin inspect aggregate

Exit codes: 0 it is a step that runs here, 10 it is not.")]
pub(crate) struct InspectArgs {
    /// The component, a `.wasm` file, or the name of a built-in step
    #[arg(value_name = "FILE|STEP")]
    component: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn execute(args: &InspectArgs, context: &Context) -> Outcome {
    let inspection = inspected(&args.component)?;
    match args.json {
        true => context.output.json(&as_json(&inspection))?,
        false => context.output.result(&as_text(&inspection))?,
    }
    Ok(exit::SUCCESS)
}

/// Inspects a built-in step by its name, or else the file. Where a file is called like a step, `./` before its name says
/// that it is meant.
fn inspected(component: &Path) -> Result<Inspection, Failed> {
    let builtin = component.to_str().and_then(builtin);
    match builtin {
        Some(inspection) => Ok(inspection),
        None if !component.exists() && is_word(component) => Err(no_step(component)),
        None => Ok(read_component(component)?.1),
    }
}

fn no_step(component: &Path) -> Failed {
    let names: Vec<&str> = stepwell_builtin::STEPS
        .iter()
        .map(|(name, _)| *name)
        .collect();
    Failed::Plugin {
        message: format!(
            "{} is neither a file nor a built-in step",
            component.display()
        ),
        details: Vec::new(),
        help: Some(format!(
            "Name the `.wasm` file that `stepwell plugin build` made, or one of {}.",
            names.join(", ")
        )),
    }
}

/// Whether somebody may have meant a step: no folder before it, no `.wasm` behind.
fn is_word(component: &Path) -> bool {
    component.components().count() == 1 && component.extension().is_none()
}

fn builtin(name: &str) -> Option<Inspection> {
    let (_, bytes) = stepwell_builtin::STEPS
        .iter()
        .find(|(builtin, _)| *builtin == name)?;
    Some(
        stepwell_sandbox::inspect(bytes)
            .expect("built-in steps describe themselves; a test loads each"),
    )
}

pub(super) fn as_json(inspection: &Inspection) -> Value {
    let about = &inspection.description;
    json!({
        "name": about.name,
        "version": about.version,
        "kind": about.kind.as_str(),
        "contract": about.contract,
        "contract-of-host": stepwell_sandbox::contract::CONTRACT,
        "summary": about.summary,
        "gate": about.gate,
        "reads": about.reads,
        "writes": about.writes,
        "settings": about.settings,
        "imports": inspection.imports,
        "exports": inspection.exports,
        "size-bytes": inspection.size_bytes,
        "digest": inspection.digest.to_string(),
    })
}

fn as_text(inspection: &Inspection) -> String {
    let about = &inspection.description;
    let host = stepwell_sandbox::contract::CONTRACT;
    let words = |words: &[String]| match words {
        [] => "nothing".to_owned(),
        words => words.join(", "),
    };
    let rows = [
        ("name", format!("{} {}", about.name, about.version)),
        ("summary", about.summary.clone()),
        (
            "kind",
            format!(
                "{}{}",
                about.kind.as_str(),
                if about.gate { ", gate" } else { "" }
            ),
        ),
        (
            "contract",
            format!("needs {}, this stepwell has {host}", about.contract),
        ),
        ("reads", words(&about.reads)),
        ("writes", words(&about.writes)),
        ("imports", words(&inspection.imports)),
        ("exports", words(&inspection.exports)),
        (
            "size",
            format!("{} bytes", number(inspection.size_bytes as u64)),
        ),
        ("digest", inspection.digest.to_string()),
    ];
    let mut text = String::new();
    for (name, value) in rows {
        // The plugin wrote most of this.
        writeln!(text, "{name:<9} {}", clean(&value)).expect("a String takes every write");
    }
    text.push_str("settings\n");
    text.push_str(&clean(&settings(&about.settings)));
    text
}

/// The settings, a line each: name, type, whether required, what it is for.
fn settings(schema: &Value) -> String {
    let properties = schema.get("properties").and_then(Value::as_object);
    let Some(properties) = properties.filter(|properties| !properties.is_empty()) else {
        return "  none\n".to_owned();
    };
    let required = schema.get("required").and_then(Value::as_array);
    let mut text = String::new();
    for (name, property) in properties {
        let needed = required.is_some_and(|names| names.iter().any(|found| found == name));
        let described = property.get("description").and_then(Value::as_str);
        writeln!(
            text,
            "  {name} ({}{}): {}",
            kind_of(property),
            if needed { ", required" } else { "" },
            described
                .filter(|words| !words.is_empty())
                .unwrap_or("not described"),
        )
        .expect("a String takes every write");
    }
    text
}

/// What a setting takes, in a word or two.
fn kind_of(property: &Value) -> String {
    let text = |name: &str| property.get(name).and_then(Value::as_str);
    match (text("x-stepwell"), text("type")) {
        (Some("reads-scratch"), _) => "scratch table to read".to_owned(),
        (Some("writes-scratch"), _) => "scratch table to fill".to_owned(),
        (Some("reads-table"), _) => "table to read".to_owned(),
        (Some("reads-column"), _) => "column to read".to_owned(),
        (Some("writes-derived"), _) => "derived table to change".to_owned(),
        (Some("maintains-table"), _) => "table to maintain".to_owned(),
        (Some("sql"), _) => "SQL".to_owned(),
        (Some("expression"), _) => "SQL expression".to_owned(),
        (_, Some(kind)) => kind.to_owned(),
        _ => "value".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_in_step_is_shown_as_a_whole() {
        let Ok(inspection) = inspected(Path::new("truncate-scratch")) else {
            panic!("a built-in step")
        };
        let text = as_text(&inspection);
        assert!(
            text.contains("contract  needs 0.1.0, this stepwell has 0.1.0\n"),
            "{text}"
        );
        assert!(text.contains("kind      planner\n"), "{text}");
        assert!(text.contains("stepwell:step/planning@0.1.0"), "{text}");
        assert_eq!(as_json(&inspection)["name"], "truncate-scratch");
        // A file is meant by a path.
        assert!(matches!(
            inspected(Path::new("./truncate-scratch")),
            Err(Failed::Plugin { .. })
        ));
    }

    #[test]
    fn settings_are_listed_with_what_they_take() {
        let schema = json!({
            "type": "object", "required": ["into"],
            "properties": {
                "into": { "type": "string", "x-stepwell": "writes-scratch", "description": "Takes the rows." },
                "gap": { "type": "integer", "description": "" },
            },
        });
        assert_eq!(
            settings(&schema),
            "  into (scratch table to fill, required): Takes the rows.\n  gap (integer): not described\n"
        );
        assert_eq!(settings(&json!({})), "  none\n");
    }
}
