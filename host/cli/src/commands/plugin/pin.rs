//! `stepwell plugin pin`: the digests of components, written into workflow files.
//!
//! The file is changed at the places that the parser reports, and nowhere else: comments, order and
//! layout stay. What comes out is read once more before it is kept.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use stepwell_sandbox::Digest;
use stepwell_workflow::{Declarations, Inputs, PluginEntry, Span};

use super::{inputs, read_component, say_problems};
use crate::commands::{Context, Outcome};
use crate::exit;
use crate::failed::Failed;
use crate::files::Vars;

/// Write the digests of plugins into workflow files, and leave all else in them as it is
///
/// From then on another file at a plugin's path is refused. Run it again after you have built a
/// plugin anew and mean it.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell plugin pin workflows/visitors.yaml
  stepwell plugin pin workflows/*.yaml --plugin engaged-time
  stepwell plugin pin workflows/*.yaml --check

Exit codes: 0 done, or all is pinned, 3 a workflow file has problems, 10 a component cannot be read,
or with --check a plugin is not pinned to the file at its path.")]
pub(crate) struct PinArgs {
    /// Workflow files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Pin only this plugin; may be repeated
    #[arg(long, value_name = "NAME")]
    plugin: Vec<String>,
    /// Change nothing, and say what is not pinned
    #[arg(long)]
    check: bool,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    vars: Vars,
}

/// What became, or would become, of one plugin.
struct Pinned {
    file: PathBuf,
    plugin: String,
    digest: Digest,
    /// The digest that the file had.
    before: Option<String>,
}

impl Pinned {
    fn changes(&self) -> bool {
        self.before.as_deref() != Some(&self.digest.to_string())
    }
}

pub(crate) fn execute(args: &PinArgs, context: &Context) -> Outcome {
    let inputs = inputs(&args.vars);
    let mut all = Vec::new();
    // All files are read before any is changed.
    let mut changed = Vec::new();
    for path in &args.files {
        let declared = Declarations::read(path, &inputs);
        if say_problems(&declared, context) {
            return Ok(exit::WORKFLOW);
        }
        let wanted =
            |entry: &&PluginEntry| args.plugin.is_empty() || args.plugin.contains(&entry.name);
        let entries: Vec<&PluginEntry> = declared.plugins.iter().filter(wanted).collect();
        let mut digests = Vec::new();
        for entry in &entries {
            let file = declared.source_file.folder().join(&entry.component);
            let (_, inspection) = read_component(&file)?;
            all.push(Pinned {
                file: path.clone(),
                plugin: entry.name.clone(),
                digest: inspection.digest,
                before: entry.digest.as_ref().map(|hex| format!("sha256:{hex}")),
            });
            digests.push(inspection.digest);
        }
        // As it stands on disk: the parsed one has its passwords masked.
        let text = fs::read_to_string(path)
            .with_context(|| format!("could not read {}", path.display()))?;
        let new = pinned(path, &text, &entries, &digests, &inputs)?;
        if new != text {
            changed.push((path, new));
        }
    }
    for name in &args.plugin {
        if !all.iter().any(|pinned| pinned.plugin == *name) {
            return Err(Failed::Usage {
                message: format!("no plugin \"{name}\" is declared in these files"),
                help: "name one that stands under `plugins:`; nothing was changed".into(),
            });
        }
    }
    if !args.check {
        for (path, text) in changed {
            replace(path, &text)?;
        }
    }
    let due = args.check && all.iter().any(Pinned::changes);
    tell(&all, args, context)?;
    Ok(if due { exit::PLUGIN } else { exit::SUCCESS })
}

fn tell(all: &[Pinned], args: &PinArgs, context: &Context) -> anyhow::Result<()> {
    if args.json {
        let rows: Vec<Value> = all.iter().map(as_json).collect();
        return context.output.json(&rows);
    }
    let lines: Vec<String> = all.iter().map(|pinned| line(pinned, args.check)).collect();
    match lines.is_empty() {
        true => context.output.result("no plugin is declared"),
        false => context.output.result(&lines.join("\n")),
    }
}

fn as_json(pinned: &Pinned) -> Value {
    json!({
        "file": pinned.file.display().to_string(),
        "plugin": pinned.plugin,
        "digest": pinned.digest.to_string(),
        "before": pinned.before,
        "changes": pinned.changes(),
    })
}

fn line(pinned: &Pinned, check: bool) -> String {
    let state = match (pinned.changes(), check, &pinned.before) {
        (false, _, _) => "is pinned to",
        (true, false, _) => "pinned to",
        (true, true, None) => "is not pinned; its component has",
        (true, true, Some(_)) => "is pinned to another file; its component has",
    };
    let (file, plugin) = (pinned.file.display(), &pinned.plugin);
    format!("{file}: {plugin} {state} {}", pinned.digest)
}

/// Writes a file in place of another: readers see the old text or the new one.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let doing = || format!("could not write {}", path.display());
    // A link stays a link.
    let path = path.canonicalize().with_context(doing)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".{name}-{}", std::process::id()));
    fs::write(&aside, text)
        .and_then(|()| fs::set_permissions(&aside, fs::metadata(&path)?.permissions()))
        .and_then(|()| fs::rename(&aside, &path))
        .with_context(doing)
}

/// Returns the text with the digests in it.
fn pinned(
    path: &Path,
    text: &str,
    entries: &[&PluginEntry],
    digests: &[Digest],
    inputs: &Inputs<'_>,
) -> Result<String, Failed> {
    let by_hand = |entry: &PluginEntry, digest: &Digest| Failed::Plugin {
        message: format!(
            "plugin \"{}\" in {} is written in a way that cannot be changed safely",
            entry.name,
            path.display()
        ),
        details: Vec::new(),
        help: Some(format!(
            "Write `digest: {digest}` below its `component:` yourself."
        )),
    };
    let mut new = text.to_owned();
    // From the end, so that the places before stay where they are.
    let mut edits: Vec<_> = entries.iter().zip(digests).collect();
    edits.sort_by_key(|(entry, _)| std::cmp::Reverse(entry.span));
    for (entry, digest) in &edits {
        let (place, words) = edit(text, entry, digest).ok_or_else(|| by_hand(entry, digest))?;
        new.replace_range(place.start..place.end, &words);
    }
    let read = Declarations::parse(path, &new, inputs);
    for (entry, digest) in edits {
        let found = read.plugins.iter().find(|found| found.name == entry.name);
        let digest_found = found.and_then(|found| found.digest.clone());
        let as_meant = digest_found.map(|hex| format!("sha256:{hex}")) == Some(digest.to_string());
        let as_before = found.is_some_and(|found| {
            (&found.component, found.trust) == (&entry.component, entry.trust)
        });
        if !(as_meant && as_before && read.plugins.len() >= entries.len()) {
            return Err(by_hand(entry, digest));
        }
    }
    Ok(new)
}

/// The place in the text, and what to write there; none if the entry is written in a way that this
/// does not know.
fn edit(text: &str, entry: &PluginEntry, digest: &Digest) -> Option<(Span, String)> {
    if let Some(span) = entry.digest_span {
        let written = text.get(span.start..span.end)?;
        let replaceable = !written.contains("${") && !written.starts_with('*');
        return replaceable.then(|| (span, digest.to_string()));
    }
    let component = entry.component_span;
    if text.get(component.start..)?.starts_with('*') {
        return None;
    }
    if is_flow(text, entry) {
        let place = Span::new(component.end, component.end);
        return Some((place, format!(", digest: {digest}")));
    }
    // A line below the one with the component, indented as that one.
    let line_start = text[..component.start].rfind('\n').map_or(0, |at| at + 1);
    let line = &text[line_start..];
    let indent = &line[..line.len() - line.trim_start_matches(' ').len()];
    let key = line.trim_start_matches(' ');
    let keys = ["component", "\"component\"", "'component'"];
    if !keys.iter().any(|written| key.starts_with(written)) {
        return None;
    }
    let rest = &text[component.end..];
    Some(match rest.find('\n') {
        Some(length) => {
            let at = component.end + length + 1;
            let end = if rest[..length].ends_with('\r') {
                "\r\n"
            } else {
                "\n"
            };
            (Span::new(at, at), format!("{indent}digest: {digest}{end}"))
        }
        None => {
            let at = text.len();
            (Span::new(at, at), format!("\n{indent}digest: {digest}"))
        }
    })
}

/// Whether the plugin's keys stand in braces.
fn is_flow(text: &str, entry: &PluginEntry) -> bool {
    let between = text.get(entry.span.end..entry.component_span.start);
    // What the plugin's value begins with, behind its colon and comments: keys before the component have braces of their own.
    let mut words = between.unwrap_or_default().lines().map(|line| {
        let line = line.split(" #").next().unwrap_or_default();
        line.trim().trim_start_matches(':').trim_start()
    });
    let first = words.find(|line| !(line.is_empty() || line.starts_with('#')));
    first.is_some_and(|line| line.starts_with('{'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(text: &str) -> Result<String, String> {
        let inputs = Inputs {
            vars: Default::default(),
            env: &|_| None,
        };
        let path = Path::new("w.yaml");
        let declared = Declarations::parse(path, text, &inputs);
        let entries: Vec<_> = declared.plugins.iter().collect();
        let digests: Vec<_> = entries
            .iter()
            .map(|entry| Digest::of(entry.name.as_bytes()))
            .collect();
        match pinned(path, text, &entries, &digests, &inputs) {
            Ok(text) => Ok(digests.iter().enumerate().fold(text, |text, (at, digest)| {
                text.replace(&digest.to_string(), &format!("<{at}>"))
            })),
            Err(Failed::Plugin { message, .. }) => Err(message),
            Err(_) => panic!("another failure"),
        }
    }

    #[test]
    fn a_digest_goes_below_the_component_and_the_rest_stays() {
        let old = format!("sha256:{}", "0".repeat(64));
        let text = format!(
            "# Ours.\nplugins:\n  a:   # The first.\n    # Built here.\n    component: a.wasm   # Not that one.\n    trust: own\n\n  b:\n      trust: own\n      component: \"b b.wasm\"\n  c: {{ component: c.wasm, trust: own }} # Short.\n  d: {{trust: own, component: 'd.wasm'}}\n  e:\n    digest: \"{old}\" # Old.\n    component: e.wasm\n    trust: own\nsteps: []  # Not looked at.\n"
        );
        let expected = text
            .replace("that one.\n", "that one.\n    digest: <0>\n")
            .replace("\"b b.wasm\"\n", "\"b b.wasm\"\n      digest: <1>\n")
            .replace("component: c.wasm", "component: c.wasm, digest: <2>")
            .replace("'d.wasm'", "'d.wasm', digest: <3>")
            .replace(&format!("\"{old}\""), "<4>");
        assert_eq!(pin(&text), Ok(expected.clone()));
        // Once more changes nothing: the digests stand where they are.
        let again = expected.replace("<0>", &Digest::of(b"a").to_string());
        assert!(pin(&again).is_ok_and(|text| text.contains("digest: <0>\n")));
    }

    #[test]
    fn line_ends_and_a_missing_last_one_stay() {
        assert_eq!(
            pin("plugins:\r\n  a:\r\n    component: a.wasm\r\n    trust: own\r\n"),
            Ok("plugins:\r\n  a:\r\n    component: a.wasm\r\n    digest: <0>\r\n    trust: own\r\n".into())
        );
        assert_eq!(
            pin("plugins:\n  a:\n    trust: own\n    component: a.wasm"),
            Ok("plugins:\n  a:\n    trust: own\n    component: a.wasm\n    digest: <0>".into())
        );
        assert_eq!(
            pin("plugins:\n  a: {\n    component: a.wasm,\n    trust: own }\n"),
            Ok("plugins:\n  a: {\n    component: a.wasm, digest: <0>,\n    trust: own }\n".into())
        );
        assert_eq!(
            pin("plugins:\n  a:  # {\n    # {\n    grants: { read: [b.c] }\n    component: a.wasm\n"),
            Ok("plugins:\n  a:  # {\n    # {\n    grants: { read: [b.c] }\n    component: a.wasm\n    digest: <0>\n".into())
        );
    }

    /// Nobody could pin it otherwise.
    #[test]
    fn a_third_partys_plugin_need_not_be_pinned_to_be_pinned() {
        assert_eq!(
            pin("warehouse: { url: 'postgres://db/a' }\nplugins:\n  a:\n    component: a.wasm\n"),
            Ok("warehouse: { url: 'postgres://db/a' }\nplugins:\n  a:\n    component: a.wasm\n    digest: <0>\n".into())
        );
        let inputs = Inputs {
            vars: Default::default(),
            env: &|_| None,
        };
        let text = "plugins:\n  a: { component: a.wasm }\n";
        let declared = Declarations::parse(Path::new("w.yaml"), text, &inputs);
        assert_eq!(declared.problems, []);
    }

    /// Rather nothing than a file that means something else.
    #[test]
    fn what_cannot_be_changed_safely_is_left_to_its_writer() {
        for text in [
            "plugins:\n  a:\n    component:\n      a.wasm\n    trust: own\n",
            "x: &a a.wasm\nplugins:\n  a: { component: *a, trust: own }\n",
            "plugins:\n  ? a\n  : {component: a.wasm, trust: own, digest: '${var:d}'}\n",
        ] {
            let result = pin(text);
            let unchanged = result
                .as_ref()
                .is_err_and(|message| message.contains("safely"));
            assert!(
                unchanged || result.as_deref() == Ok(text),
                "{text}{result:?}"
            );
        }
    }
}
