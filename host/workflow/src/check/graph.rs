//! What steps need of each other, and whether that agrees with what they read and write.

use std::collections::BTreeMap;

use stepwell_sql::TableName;

use super::steps::Draft;
use crate::problem::{Problem, Problems};
use crate::source_file::Span;
use crate::words::{quoted, suggest};

/// Returns the indices of the steps that each step needs, in the order of `drafts`.
///
/// `complete` says that no step is missing from `drafts`; otherwise, or where a step's settings
/// could not be read, what is not there may only not be known, and nothing is said about it.
pub(super) fn check(drafts: &[Draft], complete: bool, problems: &mut Problems) -> Vec<Vec<usize>> {
    let before = problems.len();
    let needs = resolve(drafts, problems);
    let resolved = problems.len() == before;
    let complete = complete && drafts.iter().all(|draft| draft.settings.complete);
    let writers = one_writer_each(drafts, problems);
    if complete {
        reads_are_written(drafts, &writers, problems);
    }
    if resolved && let Some(ancestors) = ancestors(drafts, &needs, problems) {
        reads_come_after(drafts, &writers, &ancestors, problems);
        tables_have_an_order(drafts, &ancestors, problems);
    }
    needs
}

/// Turns ids into indices; the step above is the default.
fn resolve(drafts: &[Draft], problems: &mut Problems) -> Vec<Vec<usize>> {
    let ids: Vec<&str> = drafts.iter().filter_map(|d| d.id.as_deref()).collect();
    let index = |id: &str| drafts.iter().position(|d| d.id.as_deref() == Some(id));
    let mut all = Vec::with_capacity(drafts.len());
    for (own, draft) in drafts.iter().enumerate() {
        let mut needs: Vec<usize> = match &draft.needs {
            None => own.checked_sub(1).into_iter().collect(),
            Some(_) => Vec::new(),
        };
        for (id, span) in draft.needs.iter().flatten() {
            match index(id) {
                Some(found) if found == own => {
                    let message = format!("{} needs itself", draft.label);
                    problems.error_help(*span, message, "remove it");
                }
                Some(found) => needs.push(found),
                None => {
                    let message = format!(
                        "{} needs step {}, which there is not",
                        draft.label,
                        quoted(id)
                    );
                    let help = suggest(id, "steps here", ids.iter().copied());
                    problems.error_help(*span, message, help);
                }
            }
        }
        needs.sort_unstable();
        needs.dedup();
        all.push(needs);
    }
    all
}

/// For each step, which steps are done before it in every run.
struct Ancestors(Vec<Vec<bool>>);

impl Ancestors {
    /// Whether step `first` is always done before step `then` begins.
    fn before(&self, first: usize, then: usize) -> bool {
        self.0[then][first]
    }

    /// Whether two steps may run side by side.
    fn apart(&self, a: usize, b: usize) -> bool {
        a != b && !self.before(a, b) && !self.before(b, a)
    }
}

/// Returns the ancestors of each step, or reports a cycle. At most 1000 steps: a million bits at
/// worst.
fn ancestors(drafts: &[Draft], needs: &[Vec<usize>], problems: &mut Problems) -> Option<Ancestors> {
    let count = needs.len();
    let mut ancestors = vec![vec![false; count]; count];
    let mut waiting: Vec<usize> = needs.iter().map(Vec::len).collect();
    let mut needed_by = vec![Vec::new(); count];
    for (step, needs) in needs.iter().enumerate() {
        for &need in needs {
            needed_by[need].push(step);
        }
    }
    let mut ready: Vec<usize> = (0..count).filter(|&step| waiting[step] == 0).collect();
    let mut done = 0;
    while let Some(step) = ready.pop() {
        done += 1;
        let mut own = ancestors[step].clone();
        own[step] = true;
        for &next in &needed_by[step] {
            for (bit, &set) in ancestors[next].iter_mut().zip(&own) {
                *bit |= set;
            }
            waiting[next] -= 1;
            if waiting[next] == 0 {
                ready.push(next);
            }
        }
    }
    if done == count {
        return Some(Ancestors(ancestors));
    }
    report_cycle(drafts, needs, &waiting, problems);
    None
}

/// Names one cycle among the steps that still wait for another.
fn report_cycle(
    drafts: &[Draft],
    needs: &[Vec<usize>],
    waiting: &[usize],
    problems: &mut Problems,
) {
    let Some(start) = waiting.iter().position(|&count| count > 0) else {
        return;
    };
    // Each waiting step needs a waiting one, so this walk comes back to where it was.
    let mut walk = vec![start];
    let cycle = loop {
        let last = walk[walk.len() - 1];
        let Some(&next) = needs[last].iter().find(|&&need| waiting[need] > 0) else {
            return;
        };
        if let Some(at) = walk.iter().position(|&step| step == next) {
            break walk.split_off(at);
        }
        walk.push(next);
    };
    let first = cycle.iter().copied().min().unwrap_or(start);
    let turn = cycle.iter().position(|&step| step == first).unwrap_or(0);
    let mut names: Vec<&str> = Vec::with_capacity(cycle.len() + 1);
    for at in 0..=cycle.len() {
        let step = cycle[(turn + at) % cycle.len()];
        names.push(drafts[step].id.as_deref().unwrap_or("?"));
    }
    problems.push(
        Problem::error(format!("steps need each other: {}", names.join(" -> ")))
            .at(drafts[first].span)
            .with_detail("a step without `needs:` needs the one above it")
            .with_help("remove one of these needs"),
    );
}

type Writers<'a> = BTreeMap<&'a str, usize>;

/// Returns the step that writes each alias; a second one is a problem.
fn one_writer_each<'a>(drafts: &'a [Draft], problems: &mut Problems) -> Writers<'a> {
    let mut writers = Writers::new();
    for (step, draft) in drafts.iter().enumerate() {
        for (alias, span) in &draft.settings.marks.writes_scratch {
            let first = *writers.entry(alias).or_insert(step);
            if first != step {
                let alias = quoted(alias);
                let message = format!(
                    "scratch table {alias} is written by {} and by {}",
                    drafts[first].label, draft.label
                );
                problems.error_help(*span, message, "write into an alias of its own");
            }
        }
    }
    writers
}

fn reads_are_written(drafts: &[Draft], writers: &Writers<'_>, problems: &mut Problems) {
    for draft in drafts {
        for (alias, span) in &draft.settings.marks.reads_scratch {
            if !writers.contains_key(alias.as_str()) {
                let message = format!(
                    "{} reads scratch table {}, which no step writes",
                    draft.label,
                    quoted(alias)
                );
                let help = suggest(alias, "written here", writers.keys().copied());
                problems.error_help(*span, message, help);
            }
        }
    }
}

/// A step reads what is written before it.
fn reads_come_after(
    drafts: &[Draft],
    writers: &Writers<'_>,
    ancestors: &Ancestors,
    problems: &mut Problems,
) {
    for (reader, draft) in drafts.iter().enumerate() {
        for (alias, span) in &draft.settings.marks.reads_scratch {
            let Some(&writer) = writers.get(alias.as_str()) else {
                continue;
            };
            if writer == reader || ancestors.before(writer, reader) {
                continue;
            }
            let alias = quoted(alias);
            let (reads, writes) = (&draft.label, &drafts[writer].label);
            let (when, help) = if ancestors.before(reader, writer) {
                (
                    "runs after it",
                    format!("let {writes} run first: move it up"),
                )
            } else {
                let id = drafts[writer].id.as_deref().unwrap_or("…");
                let help = format!("add \"{id}\" to the `needs:` of {reads}");
                ("may run at the same time", help)
            };
            let message = format!(
                "{reads} reads scratch table {alias}, but {writes}, which writes it, {when}"
            );
            problems.error_help(*span, message, help);
        }
    }
}

/// Two steps that may run side by side do not meet in a table that one of them writes.
fn tables_have_an_order(drafts: &[Draft], ancestors: &Ancestors, problems: &mut Problems) {
    let mut users: BTreeMap<&TableName, Vec<(usize, Span, bool)>> = BTreeMap::new();
    for (step, draft) in drafts.iter().enumerate() {
        let marks = &draft.settings.marks;
        for (tables, writes) in [
            (&marks.reads_tables, false),
            (&marks.maintains_tables, false),
            (&marks.writes_tables, true),
        ] {
            for (table, span) in tables {
                users.entry(table).or_default().push((step, *span, writes));
            }
        }
    }
    for (table, users) in users {
        for (at, &(step, span, writes)) in users.iter().enumerate() {
            let clash = users[..at].iter().find(|&&(other, _, other_writes)| {
                (writes || other_writes) && ancestors.apart(other, step)
            });
            let Some(&(other, _, _)) = clash else {
                continue;
            };
            let message = format!(
                "{} and {} may use table {} at the same time, and one writes it",
                drafts[other].label,
                drafts[step].label,
                quoted(&table.to_string())
            );
            let help = "let one need the other, with `needs:`";
            problems.error_help(span, message, help);
        }
    }
}
