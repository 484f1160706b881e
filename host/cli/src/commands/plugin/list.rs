//! `stepwell plugin list`: the steps that workflows may use, and what stands behind each.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use stepwell_runner::SignatureState;
use stepwell_sandbox::Inspection;
use stepwell_workflow::{Declarations, PluginEntry, Trust};

use super::{inputs, read_component, say_problems};
use crate::commands::{Context, Outcome};
use crate::exit;
use crate::failed::Failed;
use crate::files::Vars;
use crate::render::table::{Column, table};
use crate::render::words::clean;

/// Digits of a digest that the table shows.
const DIGEST_CHARS: usize = "sha256:".len() + 12;

/// List built-in steps and the plugins of workflow files
///
/// For each its version, kind and contract; for plugins also whether the workflow pins the file at
/// their path, who wrote them, and whether they are signed: `good` by a trusted key, by an
/// `unknown-key`, not at all (`none`), or `refused`, where there is a signature file and nobody signed
/// this component in it. Nothing is run.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell plugin list
  stepwell plugin list workflows/*.yaml
  stepwell plugin list workflows/*.yaml --json | jq '.[] | select(.pinned == \"no\") | .name'

Exit codes: 0 listed, 3 a workflow file has problems, 10 a plugin's component cannot be used.")]
pub(crate) struct ListArgs {
    /// Workflow files
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    vars: Vars,
}

/// A step that workflows may use.
struct Listed {
    name: String,
    /// What the component says, or why there is none.
    component: Result<Inspection, String>,
    /// None for built-in steps.
    declared: Option<Declared>,
}

/// What a workflow file says of a plugin.
struct Declared {
    workflow: PathBuf,
    component: PathBuf,
    pinned: &'static str,
    trust: Trust,
    signature: SignatureState,
    signature_file: PathBuf,
}

pub(crate) fn execute(args: &ListArgs, context: &Context) -> Outcome {
    let inputs = inputs(&args.vars);
    let mut listed: Vec<Listed> = stepwell_builtin::STEPS
        .iter()
        .map(|(name, bytes)| Listed {
            name: (*name).to_owned(),
            component: stepwell_sandbox::inspect(bytes).map_err(|error| error.to_string()),
            declared: None,
        })
        .collect();
    let mut problems = false;
    for path in &args.files {
        let declared = Declarations::read(path, &inputs);
        problems |= say_problems(&declared, context);
        let keys = stepwell_runner::trusted_keys(&context.site_trust, &declared.trust);
        let plugins = declared.plugins.iter();
        listed.extend(plugins.map(|entry| plugin(entry, path, &declared, &keys)));
    }
    match args.json {
        true => {
            let rows: Vec<Value> = listed.iter().map(as_json).collect();
            context.output.json(&rows)?;
        }
        false => context.output.result(&as_text(&listed))?,
    }
    let broken = listed.iter().any(|listed| listed.component.is_err());
    Ok(match (problems, broken) {
        (true, _) => exit::WORKFLOW,
        (false, true) => exit::PLUGIN,
        (false, false) => exit::SUCCESS,
    })
}

fn plugin(
    entry: &PluginEntry,
    workflow: &Path,
    declared: &Declarations,
    keys: &[stepwell_signature::PublicKey],
) -> Listed {
    let folder = declared.source_file.folder();
    let (component, signature_file) =
        (folder.join(&entry.component), folder.join(&entry.signature));
    let read = read_component(&component).map(|(_, inspection)| inspection);
    let inspection = read.map_err(|failed| match failed {
        Failed::Plugin { message, .. } => message,
        failed => format!("{failed:?}"),
    });
    let signature = match &inspection {
        Ok(inspection) => SignatureState::read(&signature_file, inspection.digest, keys),
        Err(_) => SignatureState::Unsigned,
    };
    Listed {
        name: entry.name.clone(),
        declared: Some(Declared {
            workflow: workflow.to_owned(),
            component,
            pinned: pinned(entry, inspection.as_ref().ok()),
            trust: entry.trust,
            signature,
            signature_file,
        }),
        component: inspection,
    }
}

/// Whether a workflow pins the file at the plugin's path: `yes`, `no`, or to `another` file.
fn pinned(entry: &PluginEntry, found: Option<&Inspection>) -> &'static str {
    match (&entry.digest, found) {
        (None, _) => "no",
        (Some(hex), Some(found)) if found.digest.to_string() == format!("sha256:{hex}") => "yes",
        (Some(_), _) => "another",
    }
}

fn trust(trust: Trust) -> &'static str {
    match trust {
        Trust::Own => "own",
        Trust::ThirdParty => "third-party",
    }
}

fn signature(state: &SignatureState) -> &'static str {
    match state {
        SignatureState::Good(_) => "good",
        SignatureState::Unsigned => "none",
        SignatureState::Unknown(_) => "unknown-key",
        SignatureState::Refused(_) => "refused",
    }
}

fn as_json(listed: &Listed) -> Value {
    let about = listed.component.as_ref().ok();
    let mut json = json!({
        "name": listed.name,
        "built-in": listed.declared.is_none(),
        "version": about.map(|found| &found.description.version),
        "kind": about.map(|found| found.description.kind.as_str()),
        "contract": about.map(|found| &found.description.contract),
        "summary": about.map(|found| &found.description.summary),
        "size-bytes": about.map(|found| found.size_bytes),
        "digest": about.map(|found| found.digest.to_string()),
        "error": listed.component.as_ref().err(),
    });
    if let Some(declared) = &listed.declared {
        json["workflow"] = declared.workflow.display().to_string().into();
        json["component"] = declared.component.display().to_string().into();
        json["pinned"] = declared.pinned.into();
        json["trust"] = trust(declared.trust).into();
        json["signature"] = signature(&declared.signature).into();
        json["signature-reason"] = declared.signature.reason(&declared.signature_file).into();
        if let SignatureState::Good(key) = &declared.signature {
            json["signed-by"] = key.to_string().into();
        }
    }
    json
}

fn as_text(listed: &[Listed]) -> String {
    let columns = [
        "name",
        "version",
        "kind",
        "contract",
        "from",
        "pinned",
        "trust",
        "signature",
        "digest",
    ]
    .map(Column::Text);
    let mut text = table(&columns, listed.iter().map(row));
    for listed in listed {
        if let Some(declared) = &listed.declared
            && !matches!(declared.signature, SignatureState::Unsigned)
            && let Some(reason) = declared.signature.reason(&declared.signature_file)
        {
            text.push_str(&format!("  {}: {}\n", listed.name, clean(&reason)));
        }
        if let Err(message) = &listed.component {
            text.push_str(&format!("  {}: {}\n", listed.name, clean(message)));
        }
    }
    text
}

fn row(listed: &Listed) -> Vec<String> {
    let about = |word: &dyn Fn(&Inspection) -> String| match &listed.component {
        Ok(found) => clean(&word(found)),
        Err(_) => "?".to_owned(),
    };
    let declared = |word: &dyn Fn(&Declared) -> String| match &listed.declared {
        Some(declared) => word(declared),
        None => "-".to_owned(),
    };
    vec![
        listed.name.clone(),
        about(&|found| found.description.version.clone()),
        about(&|found| found.description.kind.as_str().to_owned()),
        about(&|found| found.description.contract.clone()),
        match &listed.declared {
            Some(declared) => declared.workflow.display().to_string(),
            None => "built in".to_owned(),
        },
        declared(&|declared| declared.pinned.to_owned()),
        declared(&|declared| trust(declared.trust).to_owned()),
        declared(&|declared| signature(&declared.signature).to_owned()),
        about(&|found| {
            found
                .digest
                .to_string()
                .chars()
                .take(DIGEST_CHARS)
                .collect()
        }),
    ]
}
