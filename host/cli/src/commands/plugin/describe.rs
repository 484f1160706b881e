//! `stepwell plugin describe`: makes a step of a component that another tool built.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use stepwell_sandbox::{DESCRIPTION_BYTES_MAX, DescribeError};

use super::build::{self, Built};
use super::{check_interfaces, read_bytes, refused, write_component};
use crate::commands::{Context, Outcome};
use crate::exit;
use crate::failed::Failed;

/// Write a step's description into a component that another tool built
///
/// A step says what it is in a custom section that Stepwell reads without running it. The Rust SDK
/// writes that section; tools for other languages know nothing of it. The description is a JSON
/// file:
///
///   { "name": "funnel", "version": "1.0.0", "kind": "planner", "contract": "0.1.0",
///     "summary": "How far each visitor came", "reads": ["events", "manifest"],
///     "settings": { "type": "object", "properties": { … }, "required": [ … ] } }
///
/// `settings` is the JSON Schema of the step's `with:`; `x-stepwell` in it says what a value stands
/// for (`stepwell plugin inspect --json` on a built step shows how). `reads` and `writes` name what
/// the step uses without a setting: `events`, `manifest`, `scratch`. The component is checked as
/// `stepwell plugin build` checks one; nothing of it is run.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_long_help = "\
Examples:
  stepwell plugin describe raw.wasm --description description.json --out target/plugins/funnel.wasm

Exit codes: 0 written, 10 the component or its description is not what a step has."
)]
pub(crate) struct DescribeArgs {
    /// The component without a description, a `.wasm` file
    #[arg(value_name = "FILE")]
    component: PathBuf,
    /// What the step says about itself
    #[arg(long, value_name = "JSON FILE")]
    description: PathBuf,
    /// The step that is written
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn execute(args: &DescribeArgs, context: &Context) -> Outcome {
    let built = describe(args)?;
    match args.json {
        true => context.output.json(&build::as_json(&built))?,
        false => context.output.result(&build::as_text(&built))?,
    }
    Ok(exit::SUCCESS)
}

fn describe(args: &DescribeArgs) -> Result<Built, Failed> {
    let component = read_bytes(&args.component)?;
    let description = read_description(&args.description)?;
    let described = stepwell_sandbox::with_description(&component, &description)
        .map_err(|error| not_described(args, &error))?;
    let inspection =
        stepwell_sandbox::inspect(&described).map_err(|error| refused(&args.component, &error))?;
    check_interfaces(&inspection)?;
    write_component(&args.out, &described)?;
    Ok(Built {
        file: args.out.clone(),
        inspection,
    })
}

/// Reads the description, and no more of the file than a description may have.
fn read_description(file: &Path) -> Result<Vec<u8>, Failed> {
    let mut text = Vec::new();
    let read = File::open(file).and_then(|file| {
        file.take(DESCRIPTION_BYTES_MAX as u64 + 1)
            .read_to_end(&mut text)
    });
    read.map_err(|error| Failed::Plugin {
        message: format!("could not read description {}: {error}", file.display()),
        details: Vec::new(),
        help: Some(HELP.into()),
    })?;
    Ok(text)
}

const HELP: &str = "`stepwell plugin describe --help` says what a description holds.";

/// Says which of the two files is at fault.
fn not_described(args: &DescribeArgs, error: &DescribeError) -> Failed {
    let (message, help) = match error {
        DescribeError::Described => (
            format!("{} has a description already", args.component.display()),
            "Name the component as the other tool made it.",
        ),
        DescribeError::Form { .. }
        | DescribeError::Field { .. }
        | DescribeError::DescriptionTooLarge { .. }
        | DescribeError::ContractTooNew { .. }
        | DescribeError::ContractTooOld { .. } => (
            format!(
                "{} does not describe a step: {error}",
                args.description.display()
            ),
            HELP,
        ),
        error => return refused(&args.component, error),
    };
    let cause = std::error::Error::source(error).map(ToString::to_string);
    Failed::Plugin {
        message,
        details: cause.into_iter().map(|cause| ("cause", cause)).collect(),
        help: Some(help.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Output;

    const PLANNER: &str = r#"{ "name": "other", "version": "1.0.0", "kind": "planner", "contract": "0.1.0",
        "settings": { "type": "object" } }"#;

    /// What `describe` says of a component in WebAssembly's text form, with the file that it wrote.
    fn told(component: &str, description: &str) -> (Result<Built, String>, Option<Vec<u8>>) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("raw.wasm"), wat::parse_str(component).expect("WAT")).expect("written");
        std::fs::write(path("d.json"), description).expect("written");
        let args = DescribeArgs {
            component: path("raw.wasm"),
            description: path("d.json"),
            out: path("made/other.wasm"),
            json: false,
        };
        let built = describe(&args).map_err(|failed| failed.render(&Output::plain()));
        (built, std::fs::read(path("made/other.wasm")).ok())
    }

    #[test]
    fn the_exports_of_its_kind_are_asked_for_and_nothing_is_written_without_them() {
        let planner =
            r#"(component (instance $i) (export "stepwell:step/planning@0.1.0" (instance $i)))"#;
        let (built, written) = told(planner, PLANNER);
        assert_eq!(built.expect("a step").inspection.description.name, "other");
        let written = written.expect("it is written");
        assert_eq!(
            stepwell_sandbox::describe(&written)
                .expect("a step")
                .version,
            "1.0.0"
        );

        let (refused, written) = told(planner, &PLANNER.replace("planner", "reducer"));
        let refused = refused.err().expect("it folds nothing");
        let words = "says that it is a reducer, but does not export `stepwell:step/reducing`";
        assert!(refused.contains(words), "{refused}");
        assert!(
            refused.contains("it exports stepwell:step/planning@0.1.0"),
            "{refused}"
        );
        assert_eq!(written, None);
    }

    #[test]
    fn the_file_at_fault_is_named() {
        for (component, description, words) in [
            (
                "(component)",
                "{ \"contract\": \"0.1.0\" }",
                "d.json does not describe a step",
            ),
            (
                "(component)",
                "{ \"contract\": \"0.1.0\" }",
                "missing field `name`",
            ),
            (
                "(component)",
                &PLANNER.replace("0.1.0", "7.0.0"),
                "a newer stepwell is needed",
            ),
            (
                "(module)",
                PLANNER,
                "raw.wasm is no step that runs here: the file is a core WebAssembly module",
            ),
            (
                r#"(component (@custom "stepwell:step" "{}"))"#,
                PLANNER,
                "raw.wasm has a description already",
            ),
        ] {
            let (refused, written) = told(component, description);
            let refused = refused.err().expect("a mistake");
            assert!(refused.contains(words), "{refused}");
            assert_eq!(written, None);
        }
    }
}
