//! Whether the steps of third parties ask for no more than they are granted.
//!
//! What a plugin asks for stands in its description and in the settings of its steps. What is
//! missing from its grants is shown as a diff against them, before anything runs.

use std::collections::BTreeMap;

use stepwell_sql::TableName;

use super::plugins::Declared;
use super::steps::{Draft, Surroundings};
use crate::problem::{Problem, Problems};
use crate::source_file::Span;
use crate::words::quoted;
use crate::workflow::{PluginEntry, StatementGrant, Trust};

/// What a plugin asks for and was not granted.
#[derive(Default)]
struct Missing {
    /// By what it would do and to which table: who asks.
    tables: BTreeMap<(Access, TableName), String>,
    /// Lines about what can never be granted.
    never: Vec<String>,
    insert: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Access {
    Read,
    Write,
}

impl Access {
    fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

pub(super) fn check(
    drafts: &[Draft],
    plugins: &BTreeMap<String, Declared>,
    around: &Surroundings<'_>,
    problems: &mut Problems,
) {
    for (name, declared) in plugins {
        let Some(entry) = declared.entry.as_ref() else {
            continue;
        };
        if entry.trust != Trust::ThirdParty {
            continue;
        }
        let mut missing = Missing::default();
        for draft in drafts
            .iter()
            .filter(|draft| draft.uses.as_ref() == Some(name))
        {
            missing.add(draft, drafts, entry, around);
        }
        if let Some(problem) = missing.problem(entry, around) {
            problems.push(problem);
        }
    }
}

impl Missing {
    fn add(
        &mut self,
        draft: &Draft,
        drafts: &[Draft],
        entry: &PluginEntry,
        around: &Surroundings<'_>,
    ) {
        let Some(kind) = &draft.kind else { return };
        if kind.gate {
            // What a gate says is believed: it could end each run as if nothing were pending.
            let line = "be the gate: its description says so".to_owned();
            if !self.never.contains(&line) {
                self.never.push(line);
            }
        }
        let described = |word: &str| format!("its description says \"{word}\"");
        for word in &kind.reads {
            let table = match word.as_str() {
                "events" => around.events,
                "manifest" => around.manifest,
                _ => None,
            };
            if let Some(table) = table {
                self.ask(
                    Access::Read,
                    table.clone(),
                    entry,
                    &described(&format!("reads {word}")),
                );
            }
        }
        for word in &kind.writes {
            let line = format!("write {word}: {}", described(&format!("writes {word}")));
            if !self.never.contains(&line) {
                self.never.push(line);
            }
        }
        let who = format!("{} names it", draft.label);
        let marks = &draft.settings.marks;
        let scratch = |alias: &str| {
            let playbook = around.playbook?;
            Some(TableName::new(
                &around.schemas.scratch,
                format!("{playbook}__{alias}"),
            ))
        };
        if kind.reads.iter().any(|word| word == "events") {
            for (ids, batches) in batches_of(draft, drafts) {
                let who = format!(
                    "{} says which events count of {}, which {} names",
                    quoted(batches),
                    quoted(ids),
                    draft.label
                );
                scratch(batches)
                    .into_iter()
                    .for_each(|table| self.ask(Access::Read, table, entry, &who));
            }
        }
        for (alias, _) in &marks.reads_scratch {
            scratch(alias)
                .into_iter()
                .for_each(|table| self.ask(Access::Read, table, entry, &who));
        }
        for (alias, _) in &marks.writes_scratch {
            scratch(alias)
                .into_iter()
                .for_each(|table| self.ask(Access::Write, table, entry, &who));
        }
        for (table, _) in &marks.reads_tables {
            self.ask(Access::Read, table.clone(), entry, &who);
        }
        for (table, _) in &marks.writes_tables {
            self.ask(Access::Write, table.clone(), entry, &who);
        }
        for (table, _) in &marks.maintains_tables {
            self.never.push(format!("maintain {table}: {who}"));
        }
        let writes = !(marks.writes_scratch.is_empty() && marks.writes_tables.is_empty());
        let changes = entry
            .grants
            .statements
            .iter()
            .any(|kind| *kind != StatementGrant::Select);
        self.insert |= (!marks.writes_scratch.is_empty()
            && !entry.grants.statements.contains(&StatementGrant::Insert))
            || (writes && !changes);
    }

    fn ask(&mut self, access: Access, table: TableName, entry: &PluginEntry, who: &str) {
        let grants = &entry.grants;
        let granted =
            grants.write.contains(&table) || access == Access::Read && grants.read.contains(&table);
        if !granted {
            self.tables
                .entry((access, table))
                .or_insert_with(|| who.to_owned());
        }
    }

    fn problem(&self, entry: &PluginEntry, around: &Surroundings<'_>) -> Option<Problem> {
        if self.tables.is_empty() && self.never.is_empty() && !self.insert {
            return None;
        }
        let message = format!(
            "plugin {} asks for more than it is granted",
            quoted(&entry.name)
        );
        let mut problem = Problem::error(message).at(entry.grants.span.unwrap_or(entry.span));
        for ((access, table), who) in &self.tables {
            let line = format!("+ {} {}: {who}", access.word(), shown(table, around));
            problem = problem.with_detail(line);
        }
        if self.insert {
            problem = problem.with_detail("+ statements insert: its steps fill tables");
        }
        for line in &self.never {
            problem = problem.with_detail(format!("! {line}, which no third party can be granted"));
        }
        Some(
            problem.with_help(match self.tables.is_empty() && !self.insert {
                true => "use a built-in step for that, or a plugin of your own".to_owned(),
                false => format!(
                    "if that is meant, write `grants: {}`",
                    self.wanted(entry, around)
                ),
            }),
        )
    }

    /// Returns the grants with what is missing.
    fn wanted(&self, entry: &PluginEntry, around: &Surroundings<'_>) -> String {
        let grants = &entry.grants;
        let tables = |access: Access, given: &[TableName]| {
            let missing = self.tables.keys().filter(|(asked, _)| *asked == access);
            let all = given.iter().chain(missing.map(|(_, table)| table));
            all.map(|table| shown(table, around))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let mut parts = Vec::new();
        for (access, given) in [(Access::Read, &grants.read), (Access::Write, &grants.write)] {
            let list = tables(access, given);
            if !list.is_empty() {
                parts.push(format!("{}: [{list}]", access.word()));
            }
        }
        let mut statements = grants.statements.clone();
        if self.insert {
            statements.insert(StatementGrant::Insert);
        }
        if statements != super::grants::none().statements {
            let words: Vec<_> = statements.iter().map(|kind| kind.word()).collect();
            parts.push(format!("statements: [{}]", words.join(", ")));
        }
        format!("{{ {} }}", parts.join(", "))
    }
}

/// Returns the scratch tables of a step that hold ids, each with the table of batches that it was filled from.
///
/// Whoever reads the events of ids reads those of pending and of processed batches alone (`Ids::events` of the SDK), and
/// hence that table too, though no setting of the step names it.
fn batches_of<'a>(draft: &'a Draft, drafts: &'a [Draft]) -> Vec<(&'a str, &'a str)> {
    let aliases = |names: &'a [(String, Span)]| names.iter().map(|(alias, _)| alias.as_str());
    let fills = |draft: &'a Draft, wanted: &str| {
        aliases(&draft.settings.marks.writes_scratch).any(|alias| alias == wanted)
    };
    let is_gate = |draft: &Draft| draft.kind.as_ref().is_some_and(|kind| kind.gate);
    let gates: Vec<&Draft> = drafts.iter().filter(|draft| is_gate(draft)).collect();
    let mut found = Vec::new();
    for ids in aliases(&draft.settings.marks.reads_scratch) {
        for maker in drafts.iter().filter(|maker| fills(maker, ids)) {
            let reads = aliases(&maker.settings.marks.reads_scratch);
            let batches = reads.filter(|alias| gates.iter().any(|&gate| fills(gate, alias)));
            found.extend(batches.map(|batches| (ids, batches)));
        }
    }
    found
}

/// Writes a table as `grants:` has it.
fn shown(table: &TableName, around: &Surroundings<'_>) -> String {
    let prefix = around.playbook.map(|playbook| format!("{playbook}__"));
    let alias = prefix.and_then(|prefix| table.name().strip_prefix(&prefix));
    match alias {
        Some(alias) if table.schema() == around.schemas.scratch => {
            TableName::new(table.schema(), alias).to_string()
        }
        _ => table.to_string(),
    }
}
