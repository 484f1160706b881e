//! What a verification found.

use clap::builder::styling::Style;
use stepwell_runner::VerifyReport;
use stepwell_runner::verified::{BatchKind, Batches, Row, Table};

use super::table::{Column, table};
use super::words::{clean, count, milliseconds, number};

/// Returns the findings, with a line end.
pub(crate) fn text(report: &VerifyReport, heading: Style) -> String {
    let wrong: u64 = report.tables.iter().map(Table::wrong).sum();
    let words = match (report.differs, wrong) {
        (false, _) => "no row differs".to_owned(),
        (true, 0) => "the columns differ".to_owned(),
        (true, _) => count(wrong, "row differs", "rows differ"),
    };
    let took = milliseconds(report.duration_ms as f64);
    let mut text = format!(
        "{heading}{}: {words} from a rebuild, {took}{heading:#}\n\n",
        report.playbook
    );
    text += &tables(&report.tables);
    for table in &report.tables {
        text += &details(table);
    }
    if let Some(found) = &report.batches {
        text += &batches(found);
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

fn details(found: &Table) -> String {
    let mut text = String::new();
    for words in &found.schema {
        text += &format!("{}: {}\n", found.table, clean(words));
    }
    if !found.columns.is_empty() {
        let columns = found
            .columns
            .iter()
            .map(|column| format!("{} in {}", column.name, count(column.rows, "row", "rows")));
        text += &format!(
            "{}: {}\n",
            found.table,
            columns.collect::<Vec<_>>().join(", ")
        );
    }
    if !found.named.is_empty() {
        let columns = [
            Column::Text("key"),
            Column::Text("column"),
            Column::Text("derived"),
            Column::Text("rebuilt"),
        ];
        text += &format!("\n{}\n", table(&columns, found.named.iter().flat_map(rows)));
    }
    if found.unsettled > 0 {
        text += &format!(
            "note: {}: {} in batches that grow were not compared; the next run computes them again\n",
            found.table,
            count(found.unsettled, "key", "keys")
        );
    }
    if found.frozen > 0 {
        text += &format!(
            "note: {}: {} with events too far apart were not compared; runs may leave their rows as they are (`runaway:`)\n",
            found.table,
            count(found.frozen, "key", "keys")
        );
    }
    text
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

fn batches(found: &Batches) -> String {
    let mut text = format!(
        "\n{} in the manifest",
        count(found.processed, "batch", "batches")
    );
    for (kind, n) in &found.counts {
        text += &format!(", {} {}", number(*n), word(*kind));
    }
    text += "\n";
    if found.events_without_batch > 0 {
        let events = count(found.events_without_batch, "event", "events");
        text += &format!("{events} without a batch or a time, which are not processed\n");
    }
    let named: Vec<_> = found
        .named
        .iter()
        .filter(|batch| batch.kind.is_out_of_reach())
        .collect();
    if named.is_empty() {
        return text;
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
    text + "\n"
        + &table(&columns, rows)
        + "No run comes by these; `stepwell manifest replay` does.\n"
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
