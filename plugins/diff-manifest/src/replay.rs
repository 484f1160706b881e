//! The batches of a replay: those that were asked for, whether processed or not.
//!
//! Something must have been processed: there are no rows to compute again otherwise, and those of a few batches would not
//! be all that the derived tables need.
//!
//! A stretch of time stands for the batches with an event in it: those of the manifest, and those of the source, since
//! what came too late for any run, was forgotten or has been folded has no row. Of the source no more is read for that than
//! lies in the stretch, where an index on its time allows. Batches that no run has processed are left to the next run where
//! they would be taken too early: since they may still be loaded (`settle`), or since their events would move the lookback
//! past others that are pending. A batch that is named is taken all the same.
//!
//! Batches that have no row in the manifest, since it folds rows of old ones, are found in the source. Those that are
//! replayed get a row, and what is left of the others is counted again: how many events each of them had is not known any
//! more, so that what the manifest has for all of them is corrected by what the source has.

use std::collections::BTreeSet;

use stepwell_sdk::incremental::{Folded, Rest};
use stepwell_sdk::planner::{Ask, Plan, Stop, question, text};
use stepwell_sdk::request::Replay;
use stepwell_sdk::rows::Rows;
use stepwell_sdk::sql::{Ident, Sql, join};
use stepwell_sdk::words::count;
use stepwell_sdk::{Failure, Question, sql};

use crate::discovery::{self, Discovery, microseconds};
use crate::report::{first_of, settling, without_batch};
use crate::retain::{WithoutRow, standing, without_row};
use crate::search::{self, Found, Pending};
use crate::{BATCHES_MAX, State, With, fill};

/// Answers with the batches, or with none where keys were asked for.
pub fn plan(
    with: &With,
    discovery: &Discovery<'_>,
    replay: &Replay,
    ask: &mut Ask<'_>,
) -> Result<Plan, Stop> {
    let Some(state) = State::read(ask.one(discovery.state())?) else {
        return Err(nothing_processed(discovery).into());
    };
    let (wanted, named) = match replay {
        Replay::Keys(_) => {
            let (none, folded) = (Pending::default(), standing(&state));
            return Ok(fill(discovery.run, with, discovery, &none, folded));
        }
        Replay::Batches(batches) => (batches.clone(), true),
        Replay::Range { since, until } => {
            let found = ask.one(within(discovery, since.as_deref(), until.as_deref()))?;
            let names = found.iter().filter_map(|row| row.text("batch"));
            (names.map(str::to_owned).collect(), false)
        }
    };
    if wanted.len() > BATCHES_MAX as usize {
        return Err(Failure::new("too-many", format!("expected at most {BATCHES_MAX} batches at once, found more"))
            .with_help("Replay a shorter stretch of time, then the next one; or everything: `stepwell run <workflow> --full-refresh`.")
            .into());
    }
    let rows = ask.one(batches(discovery, &wanted))?;
    let (candidates, gone) = read(rows, discovery, named)?;
    let reach_us = match named {
        true => None,
        false => reach(discovery, &state, &candidates, ask)?,
    };
    let pending = take(discovery, candidates, named, reach_us);
    let among_folded = rows.iter().any(|row| row.bool("folded") == Some(true));
    let mut notes = notes(discovery, &pending, &gone);
    let mut folded = standing(&state);
    if among_folded && !pending.batches.is_empty() {
        let counted = without_row(discovery, &pending.batches, ask)?;
        notes.extend(counted.as_ref().and_then(corrected));
        folded = counted.map(|counted| Folded {
            rest: Some(left(&counted)),
            before: counted.before,
            older_than: None,
        });
    }
    let plan = match pending.batches.is_empty() {
        true => Plan::nothing_to_do("no batch to replay"),
        false => fill(discovery.run, with, discovery, &pending, folded),
    };
    Ok(notes.into_iter().fold(plan, Plan::note))
}

/// What the manifest is to have for the batches without a row, but for those that are replayed and get one: what the source
/// has, and never more than was noted, since what is more was never processed.
fn left(counted: &WithoutRow) -> Rest {
    let (noted, found) = (counted.noted, counted.found);
    Rest {
        batches: noted.batches.min(found.batches),
        events: noted.events.min(found.events),
    }
}

/// Says what became of the difference.
fn corrected(counted: &WithoutRow) -> Option<String> {
    let (noted, found) = (counted.noted, counted.found);
    let before = &counted.before;
    match found.events - noted.events {
        0 => None,
        more @ 1.. => Some(format!(
            "batches before {before} have {} than when they were processed, besides those that are replayed; \
             `stepwell verify` goes on naming them until those are replayed as well",
            count(more.unsigned_abs(), "more event", "more events"),
        )),
        less => Some(format!(
            "{} that {} noted for batches before {before} count as events of those that are replayed from now on",
            count(less.unsigned_abs(), "event", "events"),
            if less == -1 { "was" } else { "were" },
        )),
    }
}

/// What people should know: the manifest has the batches as they are now afterwards, so no later run says it.
fn notes(discovery: &Discovery<'_>, pending: &Pending<'_>, gone: &[String]) -> Vec<String> {
    let without = u64::try_from(pending.events_without_batch).unwrap_or(0);
    let mut notes = without_batch(discovery.source, without);
    let left = i64::try_from(pending.settling.len()).unwrap_or(i64::MAX);
    notes.extend(settling(
        discovery,
        left,
        pending.settling.first().map(String::as_str),
    ));
    notes.extend(pending.held.first().map(|first| {
        let held = pending.held.len() as u64;
        let (are, their) = match held {
            1 => ("is", "its"),
            _ => ("are", "their"),
        };
        format!(
            "{}{}, {are} left to later runs: {their} events would move the lookback past batches that are pending",
            count(held, "batch", "batches"),
            first_of(held, first),
        )
    }));
    notes.extend(pending.lost().map(|lost| {
        format!(
            "{lost}; which keys they had is not known: rows of keys that have no event left in these batches stay as they \
             are until a run with --full-refresh"
        )
    }));
    notes.extend(gone.first().map(|first| {
        let batches = gone.len() as u64;
        format!(
            "the source has no event of {}{}; which keys they had is not known, so nothing is computed again for {}; \
             `stepwell manifest forget` takes {} out of the manifest",
            count(batches, "processed batch", "processed batches"),
            first_of(batches, first),
            if batches == 1 { "it" } else { "them" },
            if batches == 1 { "it" } else { "them" },
        )
    }));
    notes
}

fn nothing_processed(discovery: &Discovery<'_>) -> Failure {
    Failure::new(
        "nothing-processed",
        format!(
            "there is nothing to replay: playbook {} has no processed batch in {}",
            discovery.run.playbook(),
            discovery.manifest
        ),
    )
    .with_help(
        "Run the workflow first: `stepwell run <workflow>`; with --full-refresh where its derived tables have rows of its own already.",
    )
}

/// Asks for the batches with their events now and when they were processed.
fn batches(discovery: &Discovery<'_>, wanted: &[String]) -> Question {
    let playbook = discovery.playbook();
    let loaded = match &discovery.settle {
        None => sql!(""),
        Some(_) => sql!(
            ", {loaded_us} AS loaded_us",
            loaded_us = microseconds(&sql!("g.loaded"))
        ),
    };
    let select = sql!(
        "WITH wanted AS MATERIALIZED (
          SELECT DISTINCT batch FROM unnest(CAST($1 AS {batch}[])) AS named (batch)
        )
        SELECT wanted.batch::text AS batch, coalesce(g.events, 0) AS events, g.first_time::text AS first_time,
          g.last_time::text AS last_time, m.events AS events_before, coalesce(g.untimed, 0) AS untimed,
          {last_us} AS last_us{loaded}, coalesce(wanted.batch < w.batch, false) AS folded
        FROM wanted
        LEFT JOIN {groups} AS g ON g.batch = wanted.batch
        LEFT JOIN {manifest} AS m ON m.playbook = {playbook} AND m.batch = wanted.batch
        LEFT JOIN {manifest} AS w ON {stands_for_others}
        ORDER BY wanted.batch",
        batch = Sql::trusted(&discovery.batch_type),
        last_us = microseconds(&sql!("g.last_time")),
        loaded = loaded,
        groups = discovery.groups(&sql!("e.batch IN (SELECT batch FROM wanted)")).indented(8),
        manifest = discovery.manifest,
        playbook = playbook,
        stands_for_others = discovery.stands_for_others("w"),
    );
    question(
        "batches to replay",
        select,
        vec![discovery::batches(wanted)],
    )
}

/// Asks for the batches with an event in a stretch of time: by what the manifest has, and by the events themselves. One more
/// than a replay takes says that there are more.
fn within(discovery: &Discovery<'_>, since: Option<&str>, until: Option<&str>) -> Question {
    let mut params = Vec::new();
    let (mut noted, mut found) = (Vec::new(), Vec::new());
    for (bound, column, compares) in [(since, "last_time", ">="), (until, "first_time", "<")] {
        let Some(bound) = bound else { continue };
        params.push(text(bound));
        let bound = sql!(
            "{compares} CAST({param} AS timestamptz)",
            compares = Sql::trusted(compares),
            param = Sql::trusted(format!("${}", params.len())),
        );
        noted.push(sql!(
            " AND {column} {bound}",
            column = Ident(column),
            bound = bound
        ));
        found.push(sql!(" AND e.time {bound}", bound = bound));
    }
    let select = sql!(
        "SELECT b.batch::text AS batch
        FROM (
          SELECT batch FROM {manifest} WHERE playbook = {playbook}{noted}
          UNION
          SELECT e.batch
          FROM (SELECT ({batch}) AS batch, {time} AS time FROM {events}) AS e
          WHERE e.batch IS NOT NULL{found}
        ) AS b
        ORDER BY b.batch
        LIMIT {limit}",
        manifest = discovery.manifest,
        playbook = discovery.playbook(),
        noted = join(noted, ""),
        batch = discovery.source.batch,
        time = Ident(&discovery.source.time),
        events = discovery.source.events,
        found = join(found, ""),
        limit = i64::from(BATCHES_MAX) + 1,
    );
    question("batches of the stretch of time", select, params)
}

/// A batch that may be replayed.
struct Candidate {
    batch: String,
    found: Found,
    before: Option<i64>,
    /// Whether no run has processed it.
    is_new: bool,
}

/// Also returns the processed batches of which the source has no event.
fn read(
    rows: Rows<'_>,
    discovery: &Discovery<'_>,
    named: bool,
) -> Result<(Vec<Candidate>, Vec<String>), Failure> {
    let (mut candidates, mut gone) = (Vec::new(), Vec::new());
    for row in rows.iter() {
        let batch = row.text("batch").unwrap_or_default();
        let (events, before) = (row.int("events").unwrap_or(0), row.int("events_before"));
        match (events, before) {
            (0, Some(_)) => gone.push(batch.to_owned()),
            (0, None) if named => {
                return Err(Failure::new("no-batch", format!("{} has no batch {batch}", discovery.source.events))
                    .with_help("`stepwell manifest list <workflow>` shows those that are processed, `stepwell plan <workflow>` those that are pending."));
            }
            // It went between the two questions.
            (0, None) => {}
            _ => candidates.push(Candidate {
                batch: batch.to_owned(),
                found: match &discovery.settle {
                    None => Found::read(row),
                    Some(_) => Found::read(row).loaded(row.int("loaded_us")),
                },
                before,
                is_new: before.is_none() && row.bool("folded") != Some(true),
            }),
        }
    }
    Ok((candidates, gone))
}

/// Returns the earliest time that must stay within the lookback, so that runs find what is pending besides the candidates;
/// none where these do not move the lookback.
fn reach(
    discovery: &Discovery<'_>,
    state: &State,
    candidates: &[Candidate],
    ask: &mut Ask<'_>,
) -> Result<Option<i64>, Stop> {
    let moves =
        |it: &Candidate| it.is_new && it.found.last_us.is_some_and(|us| us > state.newest_us);
    if !candidates.iter().any(moves) {
        return Ok(None);
    }
    let new = candidates.iter().filter(|it| it.is_new);
    let new: BTreeSet<&str> = new.map(|it| it.batch.as_str()).collect();
    let pending = search::pending(discovery, Some(state), ask)?;
    Ok(pending.reach_without(|batch| new.contains(batch)))
}

/// Takes the candidates, but for those that are left to a later run.
fn take(
    discovery: &Discovery<'_>,
    candidates: Vec<Candidate>,
    named: bool,
    reach_us: Option<i64>,
) -> Pending<'static> {
    let lookback_us = discovery.source.lookback_seconds.saturating_mul(1_000_000);
    let mut pending = Pending::default();
    for Candidate {
        batch,
        found,
        before,
        is_new,
    } in candidates
    {
        let may_wait = is_new && !named;
        let limit_us = reach_us.map(|reach| reach.saturating_add(lookback_us));
        if may_wait && discovery.is_settling(&found) {
            pending.settling.push(batch);
        } else if may_wait && limit_us.is_some_and(|limit| found.last_us > Some(limit)) {
            pending.held.push(batch);
        } else {
            pending.take_again(&batch, &found, before);
        }
    }
    pending
}
