//! How late batches came, for `stepwell lookback`.
//!
//! Batches are put in the order in which they were first processed, which a replay or a full refresh leaves as it is; those
//! of one run and those that are not processed in their own order. A batch is behind by the time from its events to the
//! newest event of all batches before it. What counts for the lookback is its last event: a run finds a batch of which one
//! event lies within the lookback. Batches that have no row in the manifest, since it folds rows of old ones, come before
//! all that have one: how late they came is not known any more.

use stepwell_sdk::incremental::Batches;
use stepwell_sdk::planner::{Ask, Plan, Stop, question};
use stepwell_sdk::request::{LOOKBACK, LateBatches, LateWithin, LatestBatch, Lookback};
use stepwell_sdk::sql::{Ident, join};
use stepwell_sdk::{Question, sql};

use crate::With;
use crate::discovery::Discovery;

/// The stretches of time, in days, by which batches are counted.
const DAYS: [u32; 7] = [0, 1, 2, 3, 7, 14, 30];

/// Publishes how late batches came.
pub fn plan(with: &With, discovery: &Discovery<'_>, ask: &mut Ask<'_>) -> Result<Plan, Stop> {
    let rows = ask.one(batches(discovery))?;
    let Some(row) = rows.first() else {
        return Ok(Plan::new());
    };
    let number = |name: &str| u64::try_from(row.int(name).unwrap_or(0)).unwrap_or(0);
    let within = DAYS.iter().map(|&days| LateWithin {
        days,
        batches: number(&format!("last_{days}")),
        whole: number(&format!("first_{days}")),
    });
    let word = |name: &str| row.text(name).unwrap_or_default().to_owned();
    let latest = row.text("batch").map(|batch| LatestBatch {
        batch: batch.to_owned(),
        first_time: word("first_time"),
        last_time: word("last_time"),
        newest_before: word("newest"),
    });
    let about = Batches {
        batches: number("batches"),
        from_nothing: true,
        ..Batches::default()
    };
    let late = LateBatches {
        batches: number("batches"),
        processed: number("processed"),
        runs: number("runs"),
        within: within.collect(),
        beyond_lookback: number("beyond_lookback"),
        lookback_seconds: u64::try_from(discovery.source.lookback_seconds).unwrap_or(0),
        smallest_seconds: number("smallest_seconds"),
        reach_seconds: number("reach_seconds"),
        latest,
    };
    let found = Lookback {
        batches: Some(late),
        keys: None,
    };
    Ok(Plan::new()
        .publish(with.into.alias(), &about)
        .publish(LOOKBACK, &found))
}

fn batches(discovery: &Discovery<'_>) -> Question {
    let counts = DAYS.iter().map(|days| {
        let seconds = i64::from(*days) * 86_400;
        sql!(
            "count(*) FILTER (WHERE last_behind <= {seconds}) AS {last}, count(*) FILTER (WHERE first_behind <= {seconds}) AS {first}",
            seconds = seconds,
            last = Ident(&format!("last_{days}")),
            first = Ident(&format!("first_{days}")),
        )
    });
    let as_of = sql!(
        "to_timestamp({us} / 1000000.0)",
        us = discovery.run.as_of_us()
    );
    let select = sql!(
        "WITH placed AS (
          SELECT g.batch, g.first_time, g.last_time, m.batch IS NOT NULL OR w.batch IS NOT NULL AS is_processed,
            coalesce(m.run_id, w.run_id) AS run_id,
            max(CASE WHEN g.last_time <= {as_of} THEN g.last_time END) OVER (
              ORDER BY m.batch IS NULL AND w.batch IS NOT NULL DESC, m.processed_at NULLS LAST, g.batch ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS newest
          FROM {groups} AS g
          LEFT JOIN {manifest} AS m ON m.playbook = {playbook} AND m.batch = g.batch
          LEFT JOIN {manifest} AS w ON {stands_for_others} AND g.batch < w.batch
          WHERE g.batch IS NOT NULL AND g.events > 0
        ),
        behind AS MATERIALIZED (
          SELECT batch, first_time, last_time, newest, is_processed, run_id,
            greatest(coalesce(extract(epoch FROM CAST(newest AS timestamp) - CAST(last_time AS timestamp)), 0), 0) AS last_behind,
            greatest(coalesce(extract(epoch FROM CAST(newest AS timestamp) - CAST(first_time AS timestamp)), 0), 0) AS first_behind
          FROM placed
        )
        SELECT s.*, l.batch::text AS batch, l.first_time::text AS first_time, l.last_time::text AS last_time,
          l.newest::text AS newest
        FROM (
          SELECT count(*) AS batches, count(*) FILTER (WHERE is_processed) AS processed,
            count(DISTINCT run_id) AS runs,
            {counts},
            count(*) FILTER (WHERE last_behind > {lookback}) AS beyond_lookback,
            ceil(coalesce(max(last_behind), 0))::bigint AS smallest_seconds,
            ceil(coalesce(max(first_behind), 0))::bigint AS reach_seconds
          FROM behind
        ) AS s
        LEFT JOIN (SELECT * FROM behind WHERE last_behind > 0 ORDER BY last_behind DESC, batch LIMIT 1) AS l ON true",
        as_of = as_of,
        groups = discovery.groups(&sql!("true")).indented(10),
        manifest = discovery.manifest,
        playbook = discovery.playbook(),
        stands_for_others = discovery.stands_for_others("w"),
        counts = join(counts, ",\n            "),
        lookback = discovery.source.lookback_seconds,
    );
    question("how late batches came", select, vec![])
}
