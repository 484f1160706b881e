//! What a run is told of how batches were looked for: notes for people, numbers for programs.

use std::collections::BTreeMap;

use stepwell_sdk::planner::Measures;
use stepwell_sdk::source::Source;
use stepwell_sdk::words::count;

use crate::discovery::Discovery;
use crate::search::Pending;

/// Returns numbers by name: what this pass does, and how things stand.
pub fn measures(counts: &[(&'static str, i64)], levels: &[(&'static str, i64)]) -> Measures {
    let named = |list: &[(&'static str, i64)]| list.iter().copied().collect::<BTreeMap<_, _>>();
    Measures {
        counts: named(counts),
        levels: named(levels),
    }
}

/// What people should know.
pub fn notes(discovery: &Discovery<'_>, pending: &Pending<'_>) -> Vec<String> {
    let source = discovery.source;
    let without = u64::try_from(pending.events_without_batch).unwrap_or(0);
    let mut notes = without_batch(source, without);
    notes.extend(arrivals(pending));
    notes.extend(pending.lost().map(|lost| {
        format!("{lost}; rows that were computed from them stay as they are until a run with --full-refresh")
    }));
    let number = |list: &[String]| i64::try_from(list.len()).unwrap_or(i64::MAX);
    let first = pending.settling.first().map(String::as_str);
    notes.extend(settling(discovery, number(&pending.settling), first));
    if let Some(first) = pending.held.first() {
        let held = pending.held.len() as u64;
        notes.push(format!(
            "{} for those{}: {} events would move the lookback past batches that still settle",
            count(held, "batch waits", "batches wait"),
            first_of(held, first),
            if held == 1 { "its" } else { "their" },
        ));
    }
    notes
}

/// Which index would help.
pub fn advice(discovery: &Discovery<'_>) -> Option<String> {
    let (events, batch) = (&discovery.source.events, discovery.source.batch.as_str());
    (!discovery.ordered).then(|| {
        format!(
            "no index on {events} begins with {batch}: new batches are looked for in the events of the lookback; \
             CREATE INDEX ON {events} ({batch}) would find them without reading events"
        )
    })
}

/// Says which of the pending batches came late, and which have grown.
fn arrivals(pending: &Pending<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    let late = pending.late();
    if late > 0 {
        let beyond = match pending.beyond_lookback() {
            0 => String::new(),
            beyond => format!(
                "; those of {beyond} lie before the lookback, where an index alone finds them"
            ),
        };
        notes.push(format!(
            "{} came late: all of {} events lie before the newest processed one{beyond}",
            count(late.unsigned_abs(), "new batch", "new batches"),
            if late == 1 { "its" } else { "their" },
        ));
    }
    let grown = pending.events_before.iter().flatten().count() as u64;
    if grown > 0 {
        notes.push(format!(
            "{} {} than when processed, and {} processed again",
            count(grown, "batch has", "batches have"),
            count(
                pending.events_grown().unsigned_abs(),
                "more event",
                "more events"
            ),
            if grown == 1 { "is" } else { "are" },
        ));
    }
    notes
}

/// Says how many batches are left alone, since they may still be loaded.
pub fn settling(discovery: &Discovery<'_>, batches: i64, first: Option<&str>) -> Option<String> {
    let settle = discovery.settle.as_ref().filter(|_| batches > 0)?;
    let n = batches.unsigned_abs();
    let named = first.map_or_else(String::new, |first| first_of(n, first));
    let until = match batches {
        1 => "it is left alone until it has settled",
        _ => "they are left alone until they have settled",
    };
    Some(format!(
        "{} loaded less than {} s before the run's point in time{named}: {until}",
        count(n, "batch was", "batches were"),
        settle.seconds,
    ))
}

/// Says how many events belong to no batch.
pub fn without_batch(source: &Source, events: u64) -> Vec<String> {
    let note = || {
        let (belong, are) = match events {
            1 => ("belongs", "it is"),
            _ => ("belong", "they are"),
        };
        format!(
            "{} no {} or no {} and {belong} to no batch; {are} not processed",
            count(events, "event has", "events have"),
            source.batch.as_str(),
            source.time,
        )
    };
    (events > 0).then(note).into_iter().collect()
}

/// Names the first of so many things, behind their number.
pub fn first_of(n: u64, first: &str) -> String {
    match n {
        1 => format!(", {first}"),
        _ => format!(", the first of them {first}"),
    }
}
