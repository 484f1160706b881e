//! The batches of a replay: those that were asked for, whether processed or not.
//!
//! Something must have been processed: there are no rows to compute again otherwise, and those of a few batches would not
//! be all that the derived tables need.

use stepwell_sdk::planner::{Ask, Plan, Stop, question, text};
use stepwell_sdk::request::Replay;
use stepwell_sdk::rows::Rows;
use stepwell_sdk::sql::{Ident, Literal, Sql};
use stepwell_sdk::{Failure, Param, Question, sql};

use crate::discovery::{Discovery, microseconds};
use crate::report::without_batch;
use crate::search::{Found, Pending};
use crate::{BATCHES_MAX, With, array, fill, quoted};

/// Answers with the batches, or with none where keys were asked for.
pub fn plan(
    with: &With,
    discovery: &Discovery<'_>,
    replay: &Replay,
    ask: &mut Ask<'_>,
) -> Result<Plan, Stop> {
    let anything = ask.one(anything(discovery))?;
    if anything.first().and_then(|row| row.bool("anything")) != Some(true) {
        return Err(nothing_processed(discovery).into());
    }
    let (wanted, params) = match replay {
        Replay::Keys(_) => return Ok(fill(discovery.run, with, discovery, &Pending::default())),
        Replay::Batches(batches) => named(discovery, batches),
        Replay::Range { since, until } => within(discovery, since.as_deref(), until.as_deref()),
    };
    let rows = ask.one(batches(discovery, &wanted, params))?;
    if rows.len() > BATCHES_MAX as usize {
        return Err(Failure::new("too-many", format!("expected at most {BATCHES_MAX} batches at once, found more"))
            .with_help("Replay a shorter stretch of time, then the next one; or everything with --full-refresh.")
            .into());
    }
    let (pending, gone) = read(rows, discovery)?;
    let plan = match pending.batches.is_empty() {
        true => Plan::nothing_to_do("no batch to replay"),
        false => fill(discovery.run, with, discovery, &pending),
    };
    let notes = notes(discovery, &pending, &gone);
    Ok(notes.into_iter().fold(plan, Plan::note))
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

/// Asks whether the playbook has processed anything.
fn anything(discovery: &Discovery<'_>) -> Question {
    let select = sql!(
        "SELECT EXISTS (SELECT FROM {manifest} WHERE playbook = {playbook}) AS anything",
        manifest = discovery.manifest,
        playbook = Literal(discovery.run.playbook()),
    );
    question("whether anything is processed", select, vec![])
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
    let playbook = Literal(discovery.run.playbook());
    let select = sql!(
        "WITH wanted AS MATERIALIZED (
          {wanted}
          LIMIT {limit}
        )
        SELECT wanted.batch::text AS batch, coalesce(g.events, 0) AS events, g.first_time::text AS first_time,
          g.last_time::text AS last_time, m.events AS events_before, coalesce(g.untimed, 0) AS untimed,
          {last_us} AS last_us
        FROM wanted
        LEFT JOIN {groups} AS g ON g.batch = wanted.batch
        LEFT JOIN {manifest} AS m ON m.playbook = {playbook} AND m.batch = wanted.batch
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

fn named(discovery: &Discovery<'_>, batches: &[String]) -> (Sql, Vec<Param>) {
    let list = array(batches.iter().map(|batch| Some(quoted(batch))));
    let batch = Sql::trusted(&discovery.batch_type);
    (
        sql!(
            "SELECT DISTINCT batch FROM unnest(CAST($1 AS {batch}[])) AS named (batch)",
            batch = batch
        ),
        vec![text(list)],
    )
}

fn within(
    discovery: &Discovery<'_>,
    since: Option<&str>,
    until: Option<&str>,
) -> (Sql, Vec<Param>) {
    let mut select = sql!(
        "SELECT batch FROM {manifest} WHERE playbook = {playbook}",
        manifest = discovery.manifest,
        playbook = Literal(discovery.run.playbook()),
    );
    let mut params = Vec::new();
    for (bound, column, compares) in [(since, "last_time", ">="), (until, "first_time", "<")] {
        let Some(bound) = bound else { continue };
        params.push(text(bound));
        select = sql!(
            "{select} AND {column} {compares} CAST({param} AS timestamptz)",
            select = select,
            column = Ident(column),
            compares = Sql::trusted(compares),
            param = Sql::trusted(format!("${}", params.len())),
        );
    }
    (select, params)
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
