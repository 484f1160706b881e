//! What a verification found, and the commands that mend it.

use clap::builder::styling::Style;
use jiff::{Timestamp, ToSpan, Unit};
use stepwell_runner::verified::{Batch, BatchKind, Batches, Row, Table};
use stepwell_runner::{Sample, VerifyOptions, VerifyReport};
use stepwell_workflow::Workflow;

use super::table::{Column, table};
use super::words::{clean, count, list, milliseconds, number};
use crate::invocation::{Invocation, quoted};
use crate::times::parse_time;

/// Most batches, and most keys, that a command names one by one.
const NAMED_MAX: usize = 5;

/// Returns the findings, with a line end. An empty line stands between their parts.
pub(crate) fn text(
    report: &VerifyReport,
    workflow: &Workflow,
    invocation: &Invocation,
    heading: Style,
) -> String {
    let took = milliseconds(report.duration_ms as f64);
    let mut parts = vec![
        format!(
            "{heading}{}: {}, {took}{heading:#}\n",
            report.playbook,
            outcome(report)
        ),
        tables(&report.tables),
    ];
    for table in &report.tables {
        parts.extend(details(table));
    }
    if let Some(found) = &report.batches {
        parts.extend(batches(found));
    }
    parts.push(notes(report));
    let mends = mends(report, workflow, invocation);
    parts.push(mends.iter().map(|mend| format!("help: {mend}\n")).collect());
    parts.retain(|part| !part.is_empty());
    parts.join("\n")
}

/// What came of it. Where less than all was compared, this says how much, and by which options: nobody should take a
/// sample for the whole.
fn outcome(report: &VerifyReport) -> String {
    let wrong: u64 = report.tables.iter().map(Table::wrong).sum();
    let compared = report.tables.iter().map(|table| table.rows + table.missing);
    let compared: u64 = compared.sum();
    let words = match (part(&report.compared), report.differs, wrong) {
        (None, false, _) => "no row differs".to_owned(),
        (None, true, 0) => "the columns differ".to_owned(),
        (None, true, _) => count(wrong, "row differs", "rows differ"),
        (Some(options), false, _) if compared == 0 => {
            return format!("no row was compared ({options})");
        }
        (Some(options), differs, wrong) => {
            let compared = count(compared, "row", "rows");
            let found = match (differs, wrong) {
                (false, _) => "none differs".to_owned(),
                (true, 0) => "the columns differ".to_owned(),
                (true, _) => count(wrong, "differs", "differ"),
            };
            format!("{compared} compared ({options}), {found}")
        }
    };
    format!("{words} from a rebuild")
}

/// The options that chose a part of the keys; none where all were compared.
fn part(compared: &VerifyOptions) -> Option<String> {
    let sample = compared.sample.map(|sample| match sample {
        Sample::Keys(keys) => format!("--sample {keys}"),
        // 7 % is 7.000000000000001 otherwise.
        Sample::Share(share) => format!("--sample {}%", (share * 1e10).round() / 1e8),
    });
    let bounds = [("--since", compared.since), ("--until", compared.until)];
    let bounds = bounds.map(|(name, time)| time.map(|time| format!("{name} {time}")));
    let options: Vec<String> = bounds.into_iter().chain([sample]).flatten().collect();
    (!options.is_empty()).then(|| options.join(" "))
}

fn notes(report: &VerifyReport) -> String {
    let mut text = String::new();
    for table in &report.tables {
        if table.unsettled > 0 {
            text += &format!(
                "note: {}: {} in batches that grow {} not compared; the next run computes {} again\n",
                table.table,
                count(table.unsettled, "key", "keys"),
                if table.unsettled == 1 { "was" } else { "were" },
                if table.unsettled == 1 { "it" } else { "them" },
            );
        }
        if table.frozen > 0 {
            text += &format!(
                "note: {}: {} with events too far apart {} not compared; runs may leave {} (`runaway:`)\n",
                table.table,
                count(table.frozen, "key", "keys"),
                if table.frozen == 1 { "was" } else { "were" },
                if table.frozen == 1 {
                    "its row as it is"
                } else {
                    "their rows as they are"
                },
            );
        }
    }
    for left in &report.left_out {
        text += &format!(
            "note: step {} took no part: {}\n",
            left.step,
            clean(&left.reason)
        );
    }
    for note in &report.notes {
        text += &format!("note: {}\n", clean(note));
    }
    text
}

/// Returns the commands that put right what was found, each with what it does.
fn mends(report: &VerifyReport, workflow: &Workflow, invocation: &Invocation) -> Vec<String> {
    let mut mends = Vec::new();
    let named = report.batches.iter().flat_map(|found| &found.named);
    let (unknown, replayed): (Vec<&Batch>, Vec<&Batch>) = named
        .filter(|batch| batch.kind.is_out_of_reach())
        .partition(|batch| batch.kind == BatchKind::Unknown);
    if !replayed.is_empty() {
        let command = invocation.line("manifest replay", workflow, &which(&replayed));
        let mut kinds: Vec<&str> = replayed.iter().map(|batch| word(batch.kind)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        // A row that stands for others is several, whatever it says.
        let (batches, them) = match replayed.as_slice() {
            [one] if !one.stands_for_others() => ("batch", "it"),
            _ => ("batches", "them"),
        };
        mends.push(format!(
            "no run comes by the {} {batches}; `{command}` processes {them}",
            list(&kinds)
        ));
    }
    if !unknown.is_empty() {
        let command = invocation.line("manifest forget", workflow, &one_by_one(&unknown));
        mends.push(format!(
            "`{command}` takes out of the manifest what the source does not have"
        ));
    }
    if report.differs {
        let refresh = invocation.line("run", workflow, &["--full-refresh".to_owned()]);
        let columns = columns(report, workflow, &refresh);
        mends.push(match (columns, keys(report, workflow, invocation)) {
            (Some(columns), _) => columns,
            (None, Some(replay)) => {
                format!("`{replay}` computes these rows again, `{refresh}` all of them")
            }
            (None, None) => format!("`{refresh}` computes all rows again"),
        });
    }
    mends
}

/// Returns what to do where a table has other columns than were computed and its step does not change them unasked: a full
/// refresh by itself would compute all rows and be refused in the end.
fn columns(report: &VerifyReport, workflow: &Workflow, refresh: &str) -> Option<String> {
    let tables = report
        .tables
        .iter()
        .filter(|table| table.has_other_columns());
    let tables: Vec<&str> = tables.map(|table| table.table.as_str()).collect();
    let mut commits = workflow.steps.iter().filter(|step| {
        let mut written = step.writes_tables.iter().map(ToString::to_string);
        step.uses == "commit" && written.any(|table| tables.contains(&table.as_str()))
    });
    commits.find_map(|step| {
        let policy = step.with.get("on-schema-change");
        match policy.and_then(|policy| policy.as_str()) {
            Some("rebuild") => None,
            Some("append") => Some(format!(
                "`{refresh}` adds columns that are new and computes all rows again; for other differences, set \
                 `on-schema-change: rebuild` on step \"{}\" first",
                step.id
            )),
            _ => Some(format!(
                "set `on-schema-change: rebuild` on step \"{}\", which changes no column otherwise; then `{refresh}` \
                 changes them and computes all rows again. With `append` it adds columns that are new, and no others",
                step.id
            )),
        }
    })
}

/// The options that name batches: one by one where they are few, or the stretch of time that their events lie in.
fn which(batches: &[&Batch]) -> Vec<String> {
    // What stands for all batches before another one is no name of a batch.
    let several = batches.iter().any(|batch| batch.stands_for_others());
    if batches.len() <= NAMED_MAX && !several {
        return one_by_one(batches);
    }
    let time = |text: &Option<String>| text.as_deref().and_then(|text| parse_time(text).ok());
    let first = batches.iter().filter_map(|batch| time(&batch.first_time));
    let last = batches.iter().filter_map(|batch| time(&batch.last_time));
    match (first.min(), last.max().and_then(second_after)) {
        (Some(since), Some(until)) => vec![
            "--since".to_owned(),
            since.to_string(),
            "--until".to_owned(),
            until.to_string(),
        ],
        // None of them has an event any more, or their times are beyond what is a time here.
        _ => one_by_one(batches),
    }
}

fn one_by_one(batches: &[&Batch]) -> Vec<String> {
    let names = batches.iter().filter(|batch| !batch.stands_for_others());
    names
        .flat_map(|batch| ["--batch".to_owned(), clean(&batch.batch)])
        .collect()
}

/// The first whole second after a time, which a bound that is excluded has to be.
fn second_after(time: Timestamp) -> Option<Timestamp> {
    let next = time.checked_add(1.second()).ok()?;
    let whole = jiff::TimestampRound::new()
        .smallest(Unit::Second)
        .mode(jiff::RoundMode::Trunc);
    next.round(whole).ok()
}

/// Returns the command that computes the rows again which differ, where all of them are named and a shell can say them.
fn keys(report: &VerifyReport, workflow: &Workflow, invocation: &Invocation) -> Option<String> {
    let mut wrong = report.tables.iter().filter(|table| table.differs());
    let (table, None) = (wrong.next()?, wrong.next()) else {
        return None;
    };
    let mut collects = workflow
        .steps
        .iter()
        .filter(|step| step.uses == "collect-ids");
    let (step, None) = (collects.next()?, collects.next()) else {
        return None;
    };
    // The rows of another table's keys.
    let key = step.with.get("key")?;
    let mut names: Vec<&str> = match (key.as_object(), key.as_array()) {
        (Some(map), _) => map.keys().map(String::as_str).collect(),
        (None, Some(list)) => list.iter().filter_map(|name| name.as_str()).collect(),
        (None, None) => key.as_str().into_iter().collect(),
    };
    let mut own: Vec<&str> = table.key.iter().map(String::as_str).collect();
    names.sort_unstable();
    own.sort_unstable();
    let all_named = table.named.len() as u64 == table.wrong() && table.named.len() <= NAMED_MAX;
    if names != own || !all_named || !table.schema.is_empty() {
        return None;
    }
    let mut lines = Vec::new();
    if table.key.len() > 1 {
        lines.push(quoted(&table.key.join(",")));
    }
    for row in &table.named {
        let values: Option<Vec<&str>> = row.key.iter().map(Option::as_deref).collect();
        let values = values?;
        let plain = |value: &&str| {
            !value.is_empty() && !value.contains(|c: char| c.is_control() || matches!(c, ',' | '"'))
        };
        if !values.iter().all(plain) {
            return None;
        }
        lines.push(quoted(&values.join(",")));
    }
    let replay = ["--keys".to_owned(), "-".to_owned()];
    let replay = invocation.line("manifest replay", workflow, &replay);
    Some(format!("printf '%s\\n' {} | {replay}", lines.join(" ")))
}

fn tables(tables: &[Table]) -> String {
    let columns = [
        Column::Text("table"),
        Column::Number("rows"),
        Column::Number("rebuilt"),
        Column::Number("missing"),
        Column::Number("surplus"),
        Column::Number("differing"),
    ];
    table(
        &columns,
        tables.iter().map(|table| {
            let mut row = vec![table.table.clone()];
            row.extend(
                [
                    table.rows,
                    table.computed,
                    table.missing,
                    table.surplus,
                    table.differing,
                ]
                .map(number),
            );
            row
        }),
    )
}

/// The parts about one table; none where nothing is the matter with it.
fn details(found: &Table) -> Vec<String> {
    let mut words = String::new();
    for difference in &found.schema {
        words += &format!("{}: {}\n", found.table, clean(difference));
    }
    if !found.columns.is_empty() {
        let columns = found
            .columns
            .iter()
            .map(|column| format!("{} in {}", column.name, count(column.rows, "row", "rows")));
        words += &format!(
            "{}: {}\n",
            found.table,
            columns.collect::<Vec<_>>().join(", ")
        );
    }
    let mut named = String::new();
    if !found.named.is_empty() {
        let columns = [
            Column::Text("key"),
            Column::Text("column"),
            Column::Text("derived"),
            Column::Text("rebuilt"),
        ];
        named = table(&columns, found.named.iter().flat_map(rows));
    }
    named += &and_more(found.wrong(), found.named.len(), "row", "rows");
    [words, named]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect()
}

/// The line that says how many of all were not named; empty if none. Without any that is, the numbers above say it all:
/// the rows of a table that does not exist are never named.
fn and_more(all: u64, named: usize, one: &str, many: &str) -> String {
    match all.saturating_sub(named as u64) {
        0 => String::new(),
        _ if named == 0 => String::new(),
        more => format!(
            "  and {}; `--limit` says how many are named\n",
            count(more, &format!("more {one}"), &format!("more {many}"))
        ),
    }
}

/// A line for each value of a row that differs; one for a row that is missing or surplus.
fn rows(row: &Row) -> Vec<Vec<String>> {
    let value = |value: &Option<String>| {
        value
            .as_deref()
            .map_or("NULL".to_owned(), |text| clean(text).replace('\n', " "))
    };
    let key = row.key.iter().map(value).collect::<Vec<_>>().join(", ");
    if row.values.is_empty() {
        let (derived, rebuilt) = match row.kind.as_str() {
            "missing" => ("(missing)", ""),
            _ => ("", "(missing)"),
        };
        return vec![vec![
            key,
            "(whole row)".to_owned(),
            derived.to_owned(),
            rebuilt.to_owned(),
        ]];
    }
    let line = |found: &stepwell_runner::verified::Value| {
        vec![
            key.clone(),
            found.column.clone(),
            value(&found.derived),
            value(&found.computed),
        ]
    };
    row.values.iter().map(line).collect()
}

fn batches(found: &Batches) -> Vec<String> {
    let mut text = format!(
        "{} in the manifest",
        count(found.processed, "batch", "batches")
    );
    for (kind, n) in &found.counts {
        text += &format!(", {} {}", number(*n), word(*kind));
    }
    text += "\n";
    if found.events_without_batch > 0 {
        text += &format!(
            "{} without a batch or a time, which {} not processed\n",
            count(found.events_without_batch, "event", "events"),
            if found.events_without_batch == 1 {
                "is"
            } else {
                "are"
            },
        );
    }
    let named: Vec<_> = found
        .named
        .iter()
        .filter(|batch| batch.kind.is_out_of_reach())
        .collect();
    // One row may stand for many of them.
    let several = named.iter().any(|batch| batch.stands_for_others());
    let more = match several {
        true => String::new(),
        false => and_more(found.out_of_reach(), named.len(), "batch", "batches"),
    };
    if named.is_empty() {
        return vec![text + &more];
    }
    let columns = [
        Column::Text("batch"),
        Column::Text("state"),
        Column::Number("events"),
        Column::Number("when processed"),
        Column::Text("first event"),
        Column::Text("last event"),
    ];
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let rows = named.iter().map(|batch| {
        vec![
            clean(&batch.batch),
            word(batch.kind).to_owned(),
            number(batch.events),
            batch.noted.map_or("-".to_owned(), number),
            or_none(&batch.first_time),
            or_none(&batch.last_time),
        ]
    });
    vec![text, table(&columns, rows) + &more]
}

fn word(kind: BatchKind) -> &'static str {
    match kind {
        BatchKind::Pending => "pending",
        BatchKind::Late => "late",
        BatchKind::Growing => "growing",
        BatchKind::Grown => "grown",
        BatchKind::Shrunk => "shrunk",
        BatchKind::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests;
