//! How far back each batch keeps a row of its own in the manifest.
//!
//! Rows are folded from the front: those up to a batch before which everything is old, so that one name says which batches
//! have none. Old is a batch whose last event lies longer ago than `retain`, and which is called so where batches are times:
//! no run looks for it again, by its events or by its name. Nothing is folded past a batch that is pending.

use stepwell_sdk::incremental::{Folded, Rest};
use stepwell_sdk::planner::{Ask, Stop, question, text};
use stepwell_sdk::rows::Row;
use stepwell_sdk::sql::{Sql, join};
use stepwell_sdk::{Failure, Param, Question, sql};

use crate::discovery::{Discovery, batches, cast, usable};
use crate::search::Pending;
use crate::settle::is_time;
use crate::{State, With, interval};

/// How far back, before the newest processed event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retain {
    seconds: i64,
}

/// Reads the setting.
pub fn retain(with: &With, discovery: &Discovery<'_>) -> Result<Option<Retain>, Failure> {
    let Some(retain) = with.retain else {
        return Ok(None);
    };
    let failure = |message: String, help: &str| {
        let failure = Failure::new("retain", message).with_setting("/retain");
        Err(failure.with_help(help))
    };
    let seconds = i64::try_from(retain.seconds).unwrap_or(i64::MAX);
    let lookback = discovery.source.lookback_seconds;
    if seconds < lookback {
        return failure(
            format!(
                "expected retain to be at least the lookback of {lookback} s, found {seconds} s"
            ),
            "Batches within the lookback are looked at one by one: make `retain` longer, or the source's `lookback` shorter.",
        );
    }
    if !discovery.batches_follow_time() {
        return failure(
            format!(
                "a batch is a {}, whose order does not say which one came first",
                discovery.batch_type
            ),
            "Take `retain` out, or let a batch be a time or a number that grows with each load.",
        );
    }
    Ok(Some(Retain { seconds }))
}

impl Retain {
    /// The condition that a batch of this name is old, where the name says so.
    fn is_called_old(discovery: &Discovery<'_>, batch: &Sql, cutoff: &Sql) -> Sql {
        match is_time(&discovery.batch_type) {
            true => sql!(
                " AND {batch} < CAST({cutoff} AS {kind})",
                batch = batch,
                cutoff = cutoff,
                kind = Sql::trusted(&discovery.batch_type),
            ),
            false => sql!(""),
        }
    }

    /// The question for all batches, which go by `groups`, with the one up to which their rows can be folded.
    pub fn beside_totals(
        self,
        discovery: &Discovery<'_>,
        groups: &Sql,
        counts: &Sql,
        totals: &Sql,
    ) -> Sql {
        let settling = match discovery.settle {
            None => sql!(""),
            Some(_) => sql!(" OR g.settling"),
        };
        sql!(
            "WITH groups AS MATERIALIZED (
              SELECT * FROM {groups} AS g
            ),
            cutoff AS (
              SELECT max(g.last_time) FILTER (WHERE {counts} AND g.last_time <= {as_of}) - {retain} AS at
              FROM groups AS g
            ),
            stays AS (
              SELECT min(g.batch) AS first
              FROM groups AS g
              CROSS JOIN cutoff
              WHERE {usable} AND (g.last_time >= cutoff.at{settling})
            )
            SELECT totals.*, folded.*
            FROM (
              {totals}
            ) AS totals
            LEFT JOIN (
              SELECT max(g.batch)::text AS fold_before, count(*) AS fold_batches, cutoff.at::text AS fold_older_than
              FROM groups AS g
              CROSS JOIN cutoff
              CROSS JOIN stays
              WHERE {counts} AND g.last_time < cutoff.at{called_old} AND coalesce(g.batch < stays.first, true)
              GROUP BY cutoff.at
            ) AS folded
              ON true",
            groups = groups.indented(14),
            counts = counts,
            usable = usable(),
            settling = settling,
            as_of = sql!("to_timestamp({us} / 1000000.0)", us = discovery.run.as_of_us()),
            retain = interval(self.seconds),
            totals = totals.indented(14),
            called_old = Self::is_called_old(discovery, &sql!("g.batch"), &sql!("cutoff.at")),
        )
    }

    /// Asks for the batch up to which rows can be folded: one before all of these, which are not processed yet.
    fn question(
        self,
        discovery: &Discovery<'_>,
        state: &State,
        unprocessed: &[String],
    ) -> Question {
        let mut params = vec![text(&state.time_floor)];
        let cutoff = sql!(
            "(CAST($1 AS {time}) - {further})",
            time = Sql::trusted(&discovery.time_type),
            further = interval(self.seconds - discovery.source.lookback_seconds),
        );
        let mut before = Vec::new();
        let mut stays = sql!("");
        if let Some(standing) = &state.folded {
            params.push(text(&standing.before));
            let standing = cast(&params, &discovery.batch_type);
            before.push(sql!("\nAND m.batch > {standing}", standing = standing));
            stays = sql!(" AND s.batch >= {standing}", standing = standing);
        }
        if !unprocessed.is_empty() {
            params.push(batches(unprocessed));
            let list = sql!(
                "CAST({param} AS {kind}[])",
                param = Sql::trusted(format!("${}", params.len())),
                kind = Sql::trusted(&discovery.batch_type),
            );
            before.push(sql!("\nAND m.batch < ALL ({list})", list = list));
        }
        let select = sql!(
            "SELECT max(m.batch)::text AS fold_before, count(*) AS fold_batches, {cutoff}::text AS fold_older_than
            FROM {manifest} AS m
            WHERE m.playbook = {playbook} AND m.last_time < {cutoff}{called_old}
              AND coalesce(m.batch < (
                SELECT min(s.batch) FROM {manifest} AS s WHERE s.playbook = {playbook} AND s.last_time >= {cutoff}{stays}
              ), true){before}",
            cutoff = cutoff,
            manifest = discovery.manifest,
            playbook = discovery.playbook(),
            called_old = Self::is_called_old(discovery, &sql!("m.batch"), &cutoff),
            stays = stays,
            before = join(before, "").indented(14),
        );
        question("rows of the manifest that are old", select, params)
    }
}

/// Returns what a run that takes the pending batches does with the rows of old ones, and which have none.
pub fn folded(
    discovery: &Discovery<'_>,
    state: Option<&State>,
    pending: &Pending<'_>,
    ask: &mut Ask<'_>,
) -> Result<Option<Folded>, Stop> {
    let Some(state) = state else {
        return Ok(None);
    };
    let Some(retain) = discovery.retain else {
        return Ok(standing(state));
    };
    // Pending batches are in order, and what was not looked at lies behind them.
    let first = pending.batches.first().into_iter();
    let waiting = pending.settling.iter().chain(&pending.held);
    let unprocessed: Vec<String> = first.chain(waiting).cloned().collect();
    let rows = ask.one(retain.question(discovery, state, &unprocessed))?;
    // One row alone stands for itself.
    let least = if state.folded.is_some() { 1 } else { 2 };
    let more = rows.first().and_then(|row| fold(row, least));
    Ok(more.or_else(|| standing(state)))
}

/// Returns what stays as it is.
pub fn standing(state: &State) -> Option<Folded> {
    state.folded.as_ref().map(|standing| Folded {
        before: standing.before.clone(),
        ..Folded::default()
    })
}

/// Reads what [`Retain::beside_totals`] adds.
pub fn folded_whole(row: Row<'_>) -> Option<Folded> {
    fold(row, 2)
}

fn fold(row: Row<'_>, least: i64) -> Option<Folded> {
    row.int("fold_batches").filter(|&rows| rows >= least)?;
    Some(Folded {
        before: row.text("fold_before")?.to_owned(),
        older_than: Some(row.text("fold_older_than")?.to_owned()),
        rest: None,
    })
}

/// Batches before a row that stands for all of them, which have no row of their own.
pub struct WithoutRow {
    /// The batch whose row it is.
    pub before: String,
    /// How many there are by the manifest, and their events.
    pub noted: Rest,
    /// How many the source has, and their events.
    pub found: Rest,
    /// The times of the first and of the last of these events; none if there are none.
    pub first_time: Option<String>,
    pub last_time: Option<String>,
}

/// Asks the source for the batches without a row but for these, and the manifest for what they were; none where each batch
/// has a row. Reads the whole source.
pub fn without_row(
    discovery: &Discovery<'_>,
    but: &[String],
    ask: &mut Ask<'_>,
) -> Result<Option<WithoutRow>, Stop> {
    let rows = ask.one(question_without_row(discovery, but))?;
    let found = rows.first().and_then(|row| {
        let number = |name: &str| row.int(name).unwrap_or(0);
        Some(WithoutRow {
            before: row.text("before")?.to_owned(),
            noted: Rest {
                batches: number("noted_batches"),
                events: number("noted_events"),
            },
            found: Rest {
                batches: number("batches"),
                events: number("events"),
            },
            first_time: row.text("first_time").map(str::to_owned),
            last_time: row.text("last_time").map(str::to_owned),
        })
    });
    Ok(found)
}

fn question_without_row(discovery: &Discovery<'_>, but: &[String]) -> Question {
    let (params, but) = match but {
        [] => (Vec::<Param>::new(), sql!("")),
        _ => {
            let kind = Sql::trusted(&discovery.batch_type);
            (
                vec![batches(but)],
                sql!(" AND NOT g.batch = ANY (CAST($1 AS {kind}[]))", kind = kind),
            )
        }
    };
    let select = sql!(
        "SELECT w.batch::text AS before, w.before_batches AS noted_batches, w.before_events AS noted_events,
          count(g.batch) AS batches, coalesce(sum(g.events), 0)::bigint AS events,
          min(g.first_time)::text AS first_time, max(g.last_time)::text AS last_time
        FROM {manifest} AS w
        LEFT JOIN {groups} AS g
          ON g.batch < w.batch AND g.events > 0{but}
          AND NOT EXISTS (SELECT FROM {manifest} AS m WHERE m.playbook = {playbook} AND m.batch = g.batch)
        WHERE {stands_for_others}
        GROUP BY w.batch, w.before_batches, w.before_events",
        manifest = discovery.manifest,
        groups = discovery.groups(&sql!("true")).indented(8),
        but = but,
        playbook = discovery.playbook(),
        stands_for_others = discovery.stands_for_others("w"),
    );
    question("batches without a row in the manifest", select, params)
}
