//! The `steps:` list.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use stepwell_sql::TableName;

use super::graph;
use super::plugins::Declared;
use super::settings::{self, Settings, Validators};
use crate::fields::{Fields, boolean, key, list, mismatch, text};
use crate::kinds::{StepKind, StepKinds};
use crate::name::{Playbook, is_id};
use crate::problem::{Problem, Problems};
use crate::source_file::Span;
use crate::tree::{Entry, Kind, Node};
use crate::words::{listed, quoted, suggest};
use crate::workflow::{PluginEntry, Schemas, Step};

/// Most steps in a workflow.
pub const STEPS_MAX: usize = 1000;

/// What steps are checked against. What could not be read is none, and nothing is checked against
/// it.
pub(super) struct Surroundings<'a> {
    pub(super) playbook: Option<&'a Playbook>,
    pub(super) schemas: &'a Schemas,
    pub(super) manifest: Option<&'a TableName>,
    /// Whether there is a `source:` block, right or wrong.
    pub(super) has_source: bool,
    /// The source's table of events.
    pub(super) events: Option<&'a TableName>,
    /// Aliases of the source's contexts.
    pub(super) contexts: Vec<&'a str>,
    /// The folder of the workflow file.
    pub(super) folder: &'a Path,
}

/// A step, as far as it could be read.
pub(super) struct Draft {
    /// `step "commit"`, or `step 3` without an id.
    pub(super) label: String,
    pub(super) id: Option<String>,
    pub(super) span: Span,
    pub(super) uses: Option<String>,
    pub(super) kind: Option<StepKind>,
    pub(super) settings: Settings,
    /// What `needs:` lists; none without the key.
    pub(super) needs: Option<Vec<(String, Span)>>,
    pub(super) critical: bool,
}

pub(super) fn check(
    entry: &Entry,
    mut plugins: BTreeMap<String, Declared>,
    around: &Surroundings<'_>,
    kinds: &mut dyn StepKinds,
    problems: &mut Problems,
) -> Option<(Vec<Step>, BTreeMap<String, PluginEntry>)> {
    let nodes = list(entry, "a list of steps", problems)?;
    if nodes.is_empty() {
        problems.error_help(
            entry.key_span,
            "the workflow has no steps",
            "add one: `- id: …` with `uses: …`",
        );
        return None;
    }
    if nodes.len() > STEPS_MAX {
        let message = format!(
            "a workflow has at most {STEPS_MAX} steps, found {}",
            nodes.len()
        );
        problems.error(entry.key_span, message);
        return None;
    }
    let mut validators = Validators::default();
    let drafts: Vec<Draft> = nodes
        .iter()
        .enumerate()
        .filter_map(|(index, node)| {
            let mut reader = Reader {
                plugins: &mut plugins,
                around,
                kinds: &*kinds,
                validators: &mut validators,
                problems: &mut *problems,
            };
            reader.step(index, node)
        })
        .collect();
    for (name, plugin) in plugins.iter().filter(|(_, plugin)| !plugin.used) {
        if let Some(entry) = &plugin.entry {
            let message = format!("plugin {} is declared and no step uses it", quoted(name));
            let help = format!("write `uses: {name}` in a step, or remove it");
            problems.push(Problem::warning(message).at(entry.span).with_help(help));
        }
    }
    super::authority::check(&drafts, &plugins, around, problems);
    duplicate_ids(&drafts, problems);
    one_gate(&drafts, problems);
    let needs = graph::check(&drafts, drafts.len() == nodes.len(), problems);
    let steps = drafts
        .into_iter()
        .zip(needs)
        .map(|(draft, needs)| finished(draft, needs))
        .collect::<Option<Vec<Step>>>()?;
    let plugins = plugins
        .into_iter()
        .map(|(name, plugin)| Some((name, plugin.entry?)))
        .collect::<Option<_>>()?;
    Some((steps, plugins))
}

fn finished(draft: Draft, needs: Vec<usize>) -> Option<Step> {
    let marks = draft.settings.marks;
    Some(Step {
        id: draft.id?,
        uses: draft.uses?,
        kind: draft.kind?,
        with: draft.settings.value,
        needs,
        critical: draft.critical,
        span: draft.span,
        reads_scratch: marks.reads_scratch,
        writes_scratch: marks.writes_scratch,
        reads_tables: once(marks.reads_tables),
        writes_tables: once(marks.writes_tables),
        maintains_tables: once(marks.maintains_tables),
        settings_spans: draft.settings.spans,
    })
}

/// Returns the tables, each once, in the order of their first place.
fn once(tables: Vec<(TableName, Span)>) -> Vec<TableName> {
    let mut seen = Vec::with_capacity(tables.len());
    for (table, _) in tables {
        if !seen.contains(&table) {
            seen.push(table);
        }
    }
    seen
}

fn duplicate_ids(drafts: &[Draft], problems: &mut Problems) {
    let mut first: BTreeMap<&str, ()> = BTreeMap::new();
    for draft in drafts {
        let Some(id) = &draft.id else { continue };
        if first.insert(id, ()).is_some() {
            problems.error_help(
                draft.span,
                format!("two steps have the id {}", quoted(id)),
                "give each step an id of its own",
            );
        }
    }
}

fn one_gate(drafts: &[Draft], problems: &mut Problems) {
    let is_gate = |draft: &&Draft| draft.kind.as_ref().is_some_and(|kind| kind.gate);
    let mut gates = drafts.iter().filter(is_gate);
    let Some(first) = gates.next() else { return };
    for gate in gates {
        let message = format!("{} is a second gate after {}", gate.label, first.label);
        problems.push(
            Problem::error(message)
                .at(gate.span)
                .with_detail("a gate says what is pending, and ends the run when nothing is")
                .with_help("keep one; write a second playbook for other batches"),
        );
    }
}

/// Reads one step after the other.
struct Reader<'a> {
    plugins: &'a mut BTreeMap<String, Declared>,
    around: &'a Surroundings<'a>,
    kinds: &'a dyn StepKinds,
    validators: &'a mut Validators,
    problems: &'a mut Problems,
}

impl Reader<'_> {
    fn step(&mut self, index: usize, node: &Node) -> Option<Draft> {
        let label = label(index, node);
        let start = Span::new(node.span.start, node.span.start);
        let mut fields = Fields::new(node, label.as_str(), start, self.problems)?;
        let id_entry = fields.require("id", "a name for the step", self.problems);
        let uses_entry = fields.require("uses", "the step plugin to use", self.problems);
        let with = fields.take("with");
        let needs = fields.take("needs").map(|entry| self.needs(entry));
        let critical = fields
            .take("critical")
            .and_then(|entry| boolean(entry, self.problems));
        fields.done(self.problems);

        let uses = uses_entry.and_then(|entry| self.name_of_kind(entry));
        let kind = match (uses, uses_entry) {
            (Some(uses), Some(entry)) => self.kind(uses, &label, entry.value.span),
            _ => None,
        };
        let place = with.map_or(uses_entry.map_or(start, |e| e.value.span), |e| e.key_span);
        let settings = match &kind {
            Some(kind) => {
                let plugin = uses.and_then(|uses| self.plugins.get(uses)?.entry.as_ref());
                let step = settings::StepContext {
                    label: &label,
                    place,
                    kind,
                    plugin,
                    around: self.around,
                };
                settings::check(with, &step, self.validators, self.problems)
            }
            None => Settings::unknown(Value::Null),
        };
        Some(Draft {
            id: id_entry.and_then(|entry| self.id(entry)),
            span: id_entry.map_or(start, |entry| entry.value.span),
            uses: uses.map(str::to_owned),
            kind,
            settings,
            needs,
            critical: critical.unwrap_or(true),
            label,
        })
    }

    fn id(&mut self, entry: &Entry) -> Option<String> {
        let expected = "lower-case letters, digits, `-` and `_`, beginning with a letter";
        let id = text(&entry.value, &key(entry), expected, self.problems)?;
        if is_id(id) {
            return Some(id.to_owned());
        }
        mismatch(&entry.value, &key(entry), expected, self.problems);
        None
    }

    fn name_of_kind<'n>(&mut self, entry: &'n Entry) -> Option<&'n str> {
        text(
            &entry.value,
            &key(entry),
            "the name of a step plugin",
            self.problems,
        )
    }

    /// Finds the plugin that a step uses: a built-in or a declared one.
    fn kind(&mut self, uses: &str, label: &str, span: Span) -> Option<StepKind> {
        if let Some(kind) = self.kinds.builtin(uses) {
            self.reads_source(&kind, label, span);
            return Some(kind);
        }
        if let Some(declared) = self.plugins.get_mut(uses) {
            declared.used = true;
            let kind = declared.kind.clone()?;
            self.reads_source(&kind, label, span);
            return Some(kind);
        }
        let builtin = self.kinds.names();
        let declared: Vec<&str> = self.plugins.keys().map(String::as_str).collect();
        let names: Vec<&str> = builtin.iter().map(String::as_str).collect();
        let message = format!(
            "{label} uses plugin {}, which is neither built in nor declared",
            quoted(uses)
        );
        let known = names.iter().chain(&declared).copied();
        let mut problem = Problem::error(message)
            .at(span)
            .with_detail(format!("built in: {}", listed(&names)));
        if !declared.is_empty() {
            problem = problem.with_detail(format!("declared: {}", listed(&declared)));
        }
        let help = match crate::words::closest(uses, known) {
            Some(_) => suggest(uses, "known", names.iter().chain(&declared).copied()),
            None => format!("declare it under `plugins:` as `{uses}: {{ component: … }}`"),
        };
        self.problems.push(problem.with_help(help));
        None
    }

    fn reads_source(&mut self, kind: &StepKind, label: &str, span: Span) {
        let reads = kind.reads.iter().any(|relation| relation == "events");
        // A step that is no gate may read events, or do without; where it cannot, it needs what a
        // gate finds.
        if kind.gate && reads && !self.around.has_source {
            self.problems.error_help(
                span,
                format!("{label} reads events, and the workflow has no source"),
                "add `source:` with the table of events",
            );
        }
    }

    fn needs(&mut self, entry: &Entry) -> Vec<(String, Span)> {
        let items = list(entry, "a list of step ids", self.problems).unwrap_or_default();
        items
            .iter()
            .filter_map(|item| {
                let id = text(item, &key(entry), "the id of a step", self.problems)?;
                Some((id.to_owned(), item.span))
            })
            .collect()
    }
}

/// Returns what messages call a step, before it is known whether its id is right.
fn label(index: usize, node: &Node) -> String {
    if let Kind::Map(entries) = &node.kind
        && let Some(id) = entries.iter().find(|entry| entry.key == "id")
        && let Kind::Text(text) = &id.value.kind
        && !text.value.is_empty()
    {
        return format!("step {}", quoted(text.shown()));
    }
    format!("step {}", index + 1)
}
