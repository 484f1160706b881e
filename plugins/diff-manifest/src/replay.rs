//! The batches of a replay: those that were asked for, whether processed or not.

use stepwell_sdk::planner::{Ask, Plan, Stop, question, text};
use stepwell_sdk::request::Replay;
use stepwell_sdk::rows::Rows;
use stepwell_sdk::sql::{Ident, Literal, Sql};
use stepwell_sdk::{Failure, Param, Question, sql};

use crate::discovery::{Discovery, microseconds};
use crate::search::{Found, Pending};
use crate::{BATCHES_MAX, With, array, fill, quoted};

/// Answers with the batches, or with none where keys were asked for.
pub fn plan(
    with: &With,
    discovery: &Discovery<'_>,
    replay: &Replay,
    ask: &mut Ask<'_>,
) -> Result<Plan, Stop> {
    if matches!(replay, Replay::Keys(_)) {
        return Ok(fill(discovery.run, with, discovery, &Pending::default()));
    }
    let rows = ask.one(wanted(discovery, replay))?;
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
    Ok(match gone.first() {
        None => plan,
        Some(first) => plan.note(format!(
            "the source has no event of {} processed batches, the first of them {first}; which keys they had is not known, \
             so nothing is computed again for them; `stepwell manifest forget` takes them out of the manifest",
            gone.len(),
        )),
    })
}

/// Asks for the batches with their events now and when they were processed.
fn wanted(discovery: &Discovery<'_>, replay: &Replay) -> Question {
    let playbook = Literal(discovery.run.playbook());
    let (wanted, params) = match replay {
        Replay::Batches(batches) => named(discovery, batches),
        Replay::Range { since, until } => within(discovery, since.as_deref(), until.as_deref()),
        Replay::Keys(_) => (
            sql!(
                "SELECT batch FROM {manifest} LIMIT 0",
                manifest = discovery.manifest
            ),
            vec![],
        ),
    };
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
            _ => pending.take(batch, &Found::read(row), before),
        }
    }
    Ok((pending, gone))
}
