//! The `source:` block.

use std::collections::BTreeMap;

use stepwell_sql::{ExpressionError, expression};

use crate::fields::{Fields, column, duration, key, list, mismatch, table, text};
use crate::name::is_alias;
use crate::problem::Problems;
use crate::source_file::Span;
use crate::tree::{Entry, Kind, Node};
use crate::words::quoted;
use crate::workflow::{Context, Lookback, Source};

/// Aliases that are not a workflow's to give.
pub(super) const RESERVED_ALIASES: [&str; 3] = ["events", "manifest", "scratch"];

pub(super) fn check(entry: &Entry, problems: &mut Problems) -> Option<Source> {
    let mut fields = Fields::of(entry, problems)?;
    let events = fields
        .require("events", "the table of events as `schema.table`", problems)
        .and_then(|entry| table(&entry.value, &key(entry), problems));
    let batch = fields
        .require("batch", "the column whose values are batches", problems)
        .and_then(|entry| batch(entry, problems));
    let time = fields
        .require(
            "time",
            "the column that scans are bounded on: the sort key",
            problems,
        )
        .and_then(|entry| column(&entry.value, &key(entry), problems));
    let event_id = fields
        .take("event-id")
        .map(|entry| column(&entry.value, &key(entry), problems));
    let lookback = fields
        .require(
            "lookback",
            "how far back new batches are looked for, as `7 days`",
            problems,
        )
        .and_then(|entry| duration(entry, problems));
    let contexts = fields
        .take("contexts")
        .map(|entry| contexts(entry, problems))
        .unwrap_or_default();
    fields.done(problems);
    let mut spans = BTreeMap::new();
    places(&entry.value, String::new(), &mut spans);
    Some(Source {
        spans,
        events: events?,
        batch: batch?,
        time: time?,
        event_id: match event_id {
            Some(event_id) => Some(event_id?),
            None => None,
        },
        lookback: Lookback(lookback?),
        contexts,
    })
}

/// Notes where each key's value stands, by its JSON pointer.
fn places(node: &Node, pointer: String, spans: &mut BTreeMap<String, Span>) {
    match &node.kind {
        Kind::Map(entries) => {
            for entry in entries {
                // Keys here are words or aliases; others are refused.
                places(&entry.value, format!("{pointer}/{}", entry.key), spans);
            }
        }
        Kind::Seq(items) => {
            for (at, item) in items.iter().enumerate() {
                places(item, format!("{pointer}/{at}"), spans);
            }
        }
        _ => {}
    }
    spans.insert(pointer, node.span);
}

/// Reads a column or an SQL expression over columns: one, and closed.
fn batch(entry: &Entry, problems: &mut Problems) -> Option<String> {
    let expected = "a column or an SQL expression";
    let sql = text(&entry.value, &key(entry), expected, problems)?.trim();
    match expression(sql) {
        Ok(_) => Some(sql.to_owned()),
        Err(ExpressionError::Empty) => {
            mismatch(&entry.value, &key(entry), expected, problems);
            None
        }
        Err(error) => {
            let message = format!("{}: {error}", key(entry));
            problems.error(entry.value.span, message);
            None
        }
    }
}

fn contexts(entry: &Entry, problems: &mut Problems) -> BTreeMap<String, Context> {
    let Kind::Map(entries) = &entry.value.kind else {
        mismatch(
            &entry.value,
            &key(entry),
            "a map of aliases and tables",
            problems,
        );
        return BTreeMap::new();
    };
    entries
        .iter()
        .filter_map(|entry| Some((alias(entry, problems)?, context(entry, problems)?)))
        .collect()
}

fn alias(entry: &Entry, problems: &mut Problems) -> Option<String> {
    let alias = entry.key.as_str();
    if !is_alias(alias) {
        let message = format!("{} is not an alias", quoted(alias));
        let help = "an alias is lower-case words joined by `_`";
        problems.error_help(entry.key_span, message, help);
        return None;
    }
    if RESERVED_ALIASES.contains(&alias) {
        let message = format!("alias {} is the host's own", quoted(alias));
        problems.error_help(entry.key_span, message, "choose another alias");
        return None;
    }
    Some(alias.to_owned())
}

fn context(entry: &Entry, problems: &mut Problems) -> Option<Context> {
    let owner = format!("context {}", quoted(&entry.key));
    let mut fields = Fields::new(&entry.value, owner, entry.key_span, problems)?;
    let table = fields
        .require("table", "the context's table as `schema.table`", problems)
        .and_then(|entry| table(&entry.value, &key(entry), problems));
    let event_id = fields
        .require("event-id", "the column that names the event", problems)
        .and_then(|entry| column(&entry.value, &key(entry), problems));
    let time = fields
        .take("time")
        .and_then(|entry| column(&entry.value, &key(entry), problems));
    let columns = fields
        .require(
            "columns",
            "the list of columns that steps may use",
            problems,
        )
        .and_then(|entry| columns(entry, problems));
    fields.done(problems);
    Some(Context {
        table: table?,
        event_id: event_id?,
        time,
        columns: columns?,
    })
}

fn columns(entry: &Entry, problems: &mut Problems) -> Option<Vec<String>> {
    let items = list(entry, "a list of columns", problems)?;
    if items.is_empty() {
        let message = format!("{}: expected at least one column", key(entry));
        problems.error(entry.value.span, message);
        return None;
    }
    let columns: Vec<String> = items
        .iter()
        .filter_map(|item| column(item, &key(entry), problems))
        .collect();
    (columns.len() == items.len()).then_some(columns)
}
