//! The batches of a replay: those that were asked for, whether processed or not.
//!
//! Something must have been processed: there are no rows to compute again otherwise, and those of a few batches would not
//! be all that the derived tables need.
//!
//! Batches that have no row in the manifest, since it folds rows of old ones, are found in the source. Those that are
//! replayed get a row, and what is left of the others is counted again: how many events each of them had is not known any
//! more, so that what the manifest has for all of them is corrected by what the source has.

use stepwell_sdk::incremental::{Folded, Rest};
use stepwell_sdk::planner::{Ask, Plan, Stop, question, text};
use stepwell_sdk::request::Replay;
use stepwell_sdk::rows::Rows;
use stepwell_sdk::sql::{Ident, Literal, Sql};
use stepwell_sdk::{Failure, Param, Question, sql};

use crate::discovery::{self, Discovery, microseconds};
use crate::report::without_batch;
use crate::retain::{WithoutRow, standing, without_row};
use crate::search::{Found, Pending};
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
    let (wanted, params) = match replay {
        Replay::Keys(_) => {
            let (none, folded) = (Pending::default(), standing(&state));
            return Ok(fill(discovery.run, with, discovery, &none, folded));
        }
        Replay::Batches(batches) => named(discovery, batches),
        Replay::Range { since, until } => {
            within(discovery, &state, since.as_deref(), until.as_deref())
        }
    };
    let rows = ask.one(batches(discovery, &wanted, params))?;
    if rows.len() > BATCHES_MAX as usize {
        return Err(Failure::new("too-many", format!("expected at most {BATCHES_MAX} batches at once, found more"))
            .with_help("Replay a shorter stretch of time, then the next one; or everything with --full-refresh.")
            .into());
    }
    let (pending, gone) = read(rows, discovery)?;
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
            "batches before {before} have {more} more events than when they were processed, besides those that are \
             replayed; `stepwell verify` goes on naming them until those are replayed as well"
        )),
        less => Some(format!(
            "{} events that were noted for batches before {before} count as events of those that are replayed from now on",
            -less
        )),
    }
}

/// What people should know: the manifest has the batches as they are now afterwards, so no later run says it.
fn notes(discovery: &Discovery<'_>, pending: &Pending<'_>, gone: &[String]) -> Vec<String> {
    let without = u64::try_from(pending.events_without_batch).unwrap_or(0);
    let mut notes = without_batch(discovery.source, without);
    notes.extend(pending.lost().map(|lost| {
        format!(
            "{lost}; which keys they had is not known: rows of keys that have no event left in these batches stay as they \
             are until a run with --full-refresh"
        )
    }));
    notes.extend(gone.first().map(|first| {
        format!(
            "the source has no event of {} processed batches, the first of them {first}; which keys they had is not known, \
             so nothing is computed again for them; `stepwell manifest forget` takes them out of the manifest",
            gone.len(),
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
        "Run the workflow first: `stepwell run`; with --full-refresh where its derived tables have rows already.",
    )
}

/// Asks for the batches with their events now and when they were processed.
fn batches(discovery: &Discovery<'_>, wanted: &Sql, params: Vec<Param>) -> Question {
    let playbook = discovery.playbook();
    let select = sql!(
        "WITH wanted AS MATERIALIZED (
          {wanted}
          LIMIT {limit}
        )
        SELECT wanted.batch::text AS batch, coalesce(g.events, 0) AS events, g.first_time::text AS first_time,
          g.last_time::text AS last_time, m.events AS events_before, coalesce(g.untimed, 0) AS untimed,
          {last_us} AS last_us, coalesce(wanted.batch < w.batch, false) AS folded
        FROM wanted
        LEFT JOIN {groups} AS g ON g.batch = wanted.batch
        LEFT JOIN {manifest} AS m ON m.playbook = {playbook} AND m.batch = wanted.batch
        LEFT JOIN {manifest} AS w ON w.playbook = {playbook} AND w.before_batches IS NOT NULL
        ORDER BY wanted.batch",
        wanted = wanted.indented(10),
        last_us = microseconds(&sql!("g.last_time")),
        groups = discovery.groups(&sql!("e.batch IN (SELECT batch FROM wanted)")).indented(8),
        manifest = discovery.manifest,
        playbook = playbook,
        limit = i64::from(BATCHES_MAX) + 1,
    );
    question("batches to replay", select, params)
}

fn named(discovery: &Discovery<'_>, list: &[String]) -> (Sql, Vec<Param>) {
    let batch = Sql::trusted(&discovery.batch_type);
    (
        sql!(
            "SELECT DISTINCT batch FROM unnest(CAST($1 AS {batch}[])) AS named (batch)",
            batch = batch
        ),
        vec![discovery::batches(list)],
    )
}

fn within(
    discovery: &Discovery<'_>,
    state: &State,
    since: Option<&str>,
    until: Option<&str>,
) -> (Sql, Vec<Param>) {
    let mut select = sql!(
        "SELECT batch FROM {manifest} WHERE playbook = {playbook}",
        manifest = discovery.manifest,
        playbook = discovery.playbook(),
    );
    // Those that have no row are known by their events alone.
    let mut found = state.folded.as_ref().map(|standing| {
        sql!(
            "SELECT e.batch FROM (SELECT ({batch}) AS batch, {time} AS time FROM {events}) AS e WHERE e.batch < {before}",
            batch = discovery.source.batch,
            time = Ident(&discovery.source.time),
            events = discovery.source.events,
            before = Literal(&standing.before),
        )
    });
    let mut params = Vec::new();
    for (bound, column, compares) in [(since, "last_time", ">="), (until, "first_time", "<")] {
        let Some(bound) = bound else { continue };
        params.push(text(bound));
        let bound = sql!(
            "{compares} CAST({param} AS timestamptz)",
            compares = Sql::trusted(compares),
            param = Sql::trusted(format!("${}", params.len())),
        );
        select = sql!(
            "{select} AND {column} {bound}",
            select = select,
            column = Ident(column),
            bound = bound,
        );
        found = found.map(|found| sql!("{found} AND e.time {bound}", found = found, bound = bound));
    }
    match found {
        None => (select, params),
        Some(found) => (
            sql!("({select}\nUNION\n{found})", select = select, found = found),
            params,
        ),
    }
}

/// Also returns the processed batches of which the source has no event.
fn read(
    rows: Rows<'_>,
    discovery: &Discovery<'_>,
) -> Result<(Pending<'static>, Vec<String>), Failure> {
    let (mut pending, mut gone) = (Pending::default(), Vec::new());
    for row in rows.iter() {
        let batch = row.text("batch").unwrap_or_default();
        let (events, before) = (row.int("events").unwrap_or(0), row.int("events_before"));
        match (events, before) {
            (0, Some(_)) => gone.push(batch.to_owned()),
            (0, None) => {
                return Err(Failure::new("no-batch", format!("{} has no batch {batch}", discovery.source.events))
                    .with_help("`stepwell manifest list` shows those that are processed, `stepwell plan` those that are pending."));
            }
            _ => pending.take_again(batch, &Found::read(row), before),
        }
    }
    Ok((pending, gone))
}
