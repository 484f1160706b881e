//! Takes keys out of a map one by one and reports what nobody took.
//!
//! Every reader returns none after reporting a problem, so that a check goes on and finds the next
//! one.

use std::ops::RangeInclusive;
use std::time::Duration;

use stepwell_sql::TableName;

use crate::problem::Problems;
use crate::quantity;
use crate::source_file::Span;
use crate::tree::{Entry, Kind, Node};
use crate::words::{closest, quoted, suggest};

/// The keys of one map.
pub(crate) struct Fields<'a> {
    /// What messages call the map: `"source"`, `step "commit"`, `the workflow file`.
    owner: String,
    /// Where a missing key is reported: the key that holds the map.
    span: Span,
    entries: Vec<&'a Entry>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// Returns the keys of `node`, or reports that it is no map.
    pub(crate) fn new(
        node: &'a Node,
        owner: impl Into<String>,
        span: Span,
        problems: &mut Problems,
    ) -> Option<Self> {
        let owner = owner.into();
        match &node.kind {
            Kind::Map(entries) => Some(Self {
                owner,
                span,
                entries: entries.iter().collect(),
                known: Vec::new(),
            }),
            _ => {
                mismatch(node, &owner, "a map", problems);
                None
            }
        }
    }

    /// Returns the keys of the map that `entry` holds.
    pub(crate) fn of(entry: &'a Entry, problems: &mut Problems) -> Option<Self> {
        Self::new(&entry.value, key(entry), entry.key_span, problems)
    }

    /// Takes a key that may be missing.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<&'a Entry> {
        self.known.push(key);
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(at))
    }

    /// Takes a key that must be there; `what` says what it is for.
    pub(crate) fn require(
        &mut self,
        key: &'static str,
        what: &str,
        problems: &mut Problems,
    ) -> Option<&'a Entry> {
        let entry = self.take(key);
        // A misspelt key is reported once, as an unknown one.
        let misspelt = || closest(key, self.entries.iter().map(|e| e.key.as_str())).is_some();
        if entry.is_none() && !misspelt() {
            let message = format!("{} lacks key {}", self.owner, quoted(key));
            problems.error_help(self.span, message, format!("add `{key}:`, {what}"));
        }
        entry
    }

    /// Reports each key that nobody took.
    pub(crate) fn done(self, problems: &mut Problems) {
        for entry in self.entries {
            let message = format!("unknown key {} in {}", quoted(&entry.key), self.owner);
            let help = suggest(&entry.key, "keys here", self.known.iter().copied());
            problems.error_help(entry.key_span, message, help);
        }
    }
}

/// Returns what messages call an entry: `key "lookback"`.
pub(crate) fn key(entry: &Entry) -> String {
    format!("key {}", quoted(&entry.key))
}

/// Reports that a value is of another type. `what` is what the message calls the value.
pub(crate) fn mismatch(node: &Node, what: &str, expected: &str, problems: &mut Problems) {
    if !matches!(node.kind, Kind::Unknown) {
        let message = format!("{what}: expected {expected}, found {}", node.describe());
        problems.error(node.span, message);
    }
}

/// Reads a text that is not empty.
pub(crate) fn text<'a>(
    node: &'a Node,
    what: &str,
    expected: &str,
    problems: &mut Problems,
) -> Option<&'a str> {
    match &node.kind {
        Kind::Text(text) if !text.value.trim().is_empty() => Some(&text.value),
        _ => {
            mismatch(node, what, expected, problems);
            None
        }
    }
}

/// Reads `true` or `false`. A variable may stand for it.
pub(crate) fn boolean(entry: &Entry, problems: &mut Problems) -> Option<bool> {
    match &entry.value.kind {
        Kind::Bool(value) => return Some(*value),
        Kind::Text(text) if text.written.is_some() => match text.value.as_str() {
            "true" => return Some(true),
            "false" => return Some(false),
            _ => {}
        },
        _ => {}
    }
    mismatch(&entry.value, &key(entry), "`true` or `false`", problems);
    None
}

/// Reads a list; `expected` names it: `a list of steps`.
pub(crate) fn list<'a>(
    entry: &'a Entry,
    expected: &str,
    problems: &mut Problems,
) -> Option<&'a [Node]> {
    match &entry.value.kind {
        Kind::Seq(items) => Some(items),
        _ => {
            mismatch(&entry.value, &key(entry), expected, problems);
            None
        }
    }
}

/// Reads `schema.table`.
pub(crate) fn table(node: &Node, what: &str, problems: &mut Problems) -> Option<TableName> {
    let expected = "a table as `schema.table`";
    match text(node, what, expected, problems)?.parse() {
        Ok(table) => Some(table),
        Err(_) => {
            mismatch(node, what, expected, problems);
            None
        }
    }
}

/// Reads the name of a column, quoted where SQL needs it.
pub(crate) fn column(node: &Node, what: &str, problems: &mut Problems) -> Option<String> {
    let expected = "the name of a column";
    let name = text(node, what, expected, problems)?;
    // A column's name obeys the rules of a table's, so the table parser is asked, with a schema in
    // front.
    match format!("x.{}", name.trim()).parse::<TableName>() {
        Ok(_) => Some(name.trim().to_owned()),
        Err(_) => {
            mismatch(node, what, expected, problems);
            None
        }
    }
}

/// Reads a whole number within a range, both ends included. A variable may stand for it.
pub(crate) fn whole(
    entry: &Entry,
    range: RangeInclusive<u64>,
    problems: &mut Problems,
) -> Option<u64> {
    let written = match &entry.value.kind {
        Kind::Number(_, written) => written.as_str(),
        Kind::Text(text) if text.written.is_some() => text.value.trim(),
        Kind::Unknown => return None,
        _ => "",
    };
    match written.parse() {
        Ok(number) if range.contains(&number) => Some(number),
        _ => {
            let (least, most) = range.into_inner();
            let expected = format!("a whole number from {least} to {most}");
            mismatch(&entry.value, &key(entry), &expected, problems);
            None
        }
    }
}

/// Reads a duration with its unit.
pub(crate) fn duration(entry: &Entry, problems: &mut Problems) -> Option<Duration> {
    quantity(entry, quantity::duration, problems)
}

/// Reads a size with its unit, in bytes.
pub(crate) fn bytes(entry: &Entry, problems: &mut Problems) -> Option<u64> {
    quantity(entry, quantity::bytes, problems)
}

fn quantity<T>(
    entry: &Entry,
    read: impl Fn(&str) -> Result<T, String>,
    problems: &mut Problems,
) -> Option<T> {
    let text = match &entry.value.kind {
        Kind::Number(_, written) => written,
        Kind::Text(text) => &text.value,
        Kind::Unknown => return None,
        _ => "",
    };
    match read(text) {
        Ok(value) => Some(value),
        Err(why) => {
            let found = entry.value.describe();
            let message = format!("{}: {why}; found {found}", key(entry));
            problems.error(entry.value.span, message);
            None
        }
    }
}
