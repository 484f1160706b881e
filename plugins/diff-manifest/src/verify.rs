//! The batches of a verification: those in the manifest, and what the source says of them.
//!
//! The whole source is read once. What is not processed is told apart by what a run would find: the same questions are
//! put as in a run, so `late` means that no run comes by that batch.
//!
//! Batches that have no row in the manifest, since it folds rows of old ones, are compared as a whole. They all count as
//! processed, those among them that came too late for any run as well, and the rebuild takes them as they are in the source.

use std::collections::BTreeSet;

use stepwell_sdk::incremental::Batches;
use stepwell_sdk::planner::{Ask, Plan, Statement, Stop, question, text};
use stepwell_sdk::request::{self, Batch, BatchKind, VERIFY, Verified, Verify};
use stepwell_sdk::rows::Rows;
use stepwell_sdk::sql::Sql;
use stepwell_sdk::{Question, scratch, sql};

use crate::discovery::{Discovery, batches};
use crate::retain::{WithoutRow, without_row};
use crate::search::{self, Pending};
use crate::{State, With, array, quoted};

/// Most batches of which manifest and source do not say the same that are looked at.
const BATCHES_MAX: u32 = 50_000;

/// Answers with the batches in the manifest.
pub fn plan(
    with: &With,
    mut discovery: Discovery<'_>,
    verify: &Verify,
    ask: &mut Ask<'_>,
) -> Result<Plan, Stop> {
    discovery.batches_max = BATCHES_MAX;
    let state = State::read(ask.one(discovery.state())?);
    let reach = Reach::of(search::pending(&discovery, state.as_ref(), ask)?);
    let folded = state.is_some_and(|state| state.folded.is_some());
    let in_reach: Vec<String> = reach.batches.iter().cloned().collect();
    let [processed, compared] = ask.all([
        processed(&discovery),
        compare(&discovery, folded, &in_reach),
    ])?;
    let (mut batches, growing) = read(compared, &reach, verify.limit as usize);
    if folded && let Some(without_row) = without_row(&discovery, &in_reach, ask)? {
        note(&mut batches, &without_row);
    }
    let first = processed.first();
    let number = |name: &str| {
        let number = first.and_then(|row| row.int(name)).unwrap_or(0);
        u64::try_from(number).unwrap_or(0)
    };
    let word = |name: &str| {
        first
            .and_then(|row| row.text(name))
            .unwrap_or_default()
            .to_owned()
    };
    batches.processed = number("batches");
    let about = Batches {
        batches: number("batches"),
        reopened: growing.len() as u64,
        events: number("events"),
        first: word("first"),
        last: word("last"),
        events_without_batch: batches.events_without_batch,
        from_nothing: true,
        ..Batches::default()
    };
    let verified = Verified {
        batches: Some(batches),
        tables: Vec::new(),
    };
    let mut plan = fill(with, &discovery, folded, &growing)
        .publish(with.into.alias(), &about)
        .publish(VERIFY, &verified);
    if compared.len() > BATCHES_MAX as usize {
        plan = plan.note(format!(
            "more than {BATCHES_MAX} batches are pending or not as they were; those after {} are not counted",
            compared.iter().last().and_then(|row| row.text("batch")).unwrap_or("NULL"),
        ));
    }
    Ok(plan)
}

/// What a run would find.
struct Reach {
    batches: BTreeSet<String>,
    /// Whether it would find more than was asked for.
    more: bool,
}

impl Reach {
    /// A batch that still settles is found as well, if not by the next run.
    fn of(pending: Pending<'_>) -> Self {
        let found = [pending.batches, pending.settling, pending.held];
        Self {
            more: pending.more,
            batches: found.into_iter().flatten().collect(),
        }
    }

    fn holds(&self, batch: &str) -> bool {
        self.more || self.batches.contains(batch)
    }
}

/// Asks how much is processed.
fn processed(discovery: &Discovery<'_>) -> Question {
    let select = sql!(
        "SELECT coalesce(sum(1 + coalesce(before_batches, 0)), 0)::bigint AS batches,
          coalesce(sum(events + coalesce(before_events, 0)), 0)::bigint AS events, min(batch)::text AS first,
          max(batch)::text AS last
        FROM {manifest}
        WHERE playbook = {playbook}",
        manifest = discovery.manifest,
        playbook = discovery.playbook(),
    );
    question("processed batches", select, vec![])
}

/// Asks for the batches of which the source and the manifest do not say the same. `folded`: of those before a row that
/// stands for all of them only those that have a row, or that a run would find.
fn compare(discovery: &Discovery<'_>, folded: bool, in_reach: &[String]) -> Question {
    let manifest = discovery.manifest;
    let playbook = discovery.playbook();
    let (mut params, mut is_before, mut known) = (vec![], sql!("false"), sql!(""));
    if folded {
        is_before = sql!(
            "coalesce(m.batch IS NULL AND g.batch < (SELECT w.batch FROM {manifest} AS w WHERE {stands_for_others}), false)",
            manifest = manifest,
            stands_for_others = discovery.stands_for_others("w"),
        );
        params.push(batches(in_reach));
        known = sql!(
            "\n  AND (NOT {is_before} OR g.batch = ANY (CAST($1 AS {kind}[])))",
            is_before = is_before,
            kind = Sql::trusted(&discovery.batch_type),
        );
    }
    let select = sql!(
        "SELECT coalesce(g.batch, m.batch)::text AS batch, coalesce(g.events, 0) AS events, m.events AS noted,
          g.first_time::text AS first_time, g.last_time::text AS last_time, coalesce(g.untimed, 0) AS untimed,
          {is_before} AS folded
        FROM {groups} AS g
        FULL JOIN (SELECT batch, events FROM {manifest} WHERE playbook = {playbook}) AS m ON m.batch = g.batch
        WHERE (g.events IS DISTINCT FROM m.events OR g.untimed > 0){known}
        ORDER BY coalesce(g.batch, m.batch) NULLS FIRST
        LIMIT {limit}",
        is_before = is_before,
        groups = discovery.groups(&sql!("true")).indented(8),
        manifest = manifest,
        playbook = playbook,
        known = known.indented(8),
        limit = i64::from(BATCHES_MAX) + 1,
    );
    question("batches of source and manifest", select, params)
}

/// Notes what is the matter with the batches that have no row, if something is: which of them it is nobody knows.
fn note(batches: &mut request::Batches, without_row: &WithoutRow) {
    let (noted, found) = (without_row.noted, without_row.found);
    let (kind, count) = match (found.events - noted.events, found.batches - noted.batches) {
        (0, 0) => return,
        (0.., more @ 1..) => (BatchKind::Late, more),
        (1.., _) => (BatchKind::Grown, 1),
        (_, less) => (BatchKind::Shrunk, (-less).max(1)),
    };
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    *batches.counts.entry(kind).or_default() += unsigned(count);
    batches.named.push(Batch {
        batch: format!("before {}", without_row.before),
        kind,
        events: unsigned(found.events),
        noted: Some(unsigned(noted.events)),
        first_time: without_row.first_time.clone(),
        last_time: without_row.last_time.clone(),
    });
}

/// Sorts the batches by kind. Also returns those that the next run takes again, with their events now.
fn read(rows: Rows<'_>, reach: &Reach, limit: usize) -> (request::Batches, Vec<(String, u64)>) {
    let (mut batches, mut growing) = (request::Batches::default(), Vec::new());
    for row in rows.iter().take(BATCHES_MAX as usize) {
        let number = |name: &str| u64::try_from(row.int(name).unwrap_or(0)).unwrap_or(0);
        let events = number("events");
        batches.events_without_batch += number("untimed");
        let Some(batch) = row.text("batch") else {
            batches.events_without_batch += events;
            continue;
        };
        let noted = row.int("noted").and_then(|noted| u64::try_from(noted).ok());
        let kind = match noted {
            // All its events are without a time.
            None if events == 0 => continue,
            Some(noted) if noted == events => continue,
            None if reach.holds(batch) => BatchKind::Pending,
            None => BatchKind::Late,
            Some(_) if events == 0 => BatchKind::Unknown,
            Some(noted) if events < noted => BatchKind::Shrunk,
            Some(_) if reach.holds(batch) => BatchKind::Growing,
            Some(_) => BatchKind::Grown,
        };
        // One that counts as processed already, by its name, is in the rebuild and not yet in all rows.
        if kind == BatchKind::Growing
            || kind == BatchKind::Pending && row.bool("folded") == Some(true)
        {
            growing.push((batch.to_owned(), events));
        }
        let count = batches.counts.entry(kind).or_default();
        *count += 1;
        if *count <= limit as u64 {
            batches.named.push(Batch {
                batch: batch.to_owned(),
                kind,
                events,
                noted,
                first_time: row.text("first_time").map(str::to_owned),
                last_time: row.text("last_time").map(str::to_owned),
            });
        }
    }
    (batches, growing)
}

/// The table of batches: what the manifest has, and where batches are folded, what the source has before those.
/// `events_before` is set for those that the next run takes again.
fn fill(with: &With, discovery: &Discovery<'_>, folded: bool, growing: &[(String, u64)]) -> Plan {
    let run = discovery.run;
    let into = run.scratch(with.into.alias());
    let (batch, time) = (
        Sql::trusted(&discovery.batch_type),
        Sql::trusted(&discovery.time_type),
    );
    let select = sql!(
        "SELECT batch, events, CAST(first_time AS {time}) AS first_time, CAST(last_time AS {time}) AS last_time,
          CAST(NULL AS bigint) AS events_before
        FROM {manifest}
        WHERE playbook = {playbook}",
        time = time,
        manifest = discovery.manifest,
        playbook = discovery.playbook(),
    );
    let mut reads = vec![discovery.manifest];
    let select = match folded {
        false => select,
        true => {
            reads.push(&discovery.source.events);
            sql!(
                "{select}
                UNION ALL
                SELECT g.batch, g.events, g.first_time, g.last_time, CAST(NULL AS bigint)
                FROM {manifest} AS w
                JOIN {groups} AS g ON g.batch < w.batch AND g.events > 0
                WHERE {stands_for_others}
                  AND NOT EXISTS (SELECT FROM {manifest} AS m WHERE m.playbook = {playbook} AND m.batch = g.batch)",
                select = select,
                manifest = discovery.manifest,
                groups = discovery.groups(&sql!("true")).indented(16),
                playbook = discovery.playbook(),
                stands_for_others = discovery.stands_for_others("w"),
            )
        }
    };
    let plan = Plan::new().run_all(scratch::fill(
        run,
        &into,
        "note processed batches",
        &select,
        reads,
    ));
    if growing.is_empty() {
        return plan;
    }
    let update = sql!(
        "UPDATE {into} AS b
        SET events_before = b.events, events = grown.events
        FROM unnest(CAST($1 AS {batch}[]), CAST($2 AS bigint[])) AS grown (batch, events)
        WHERE b.batch = grown.batch",
        into = into,
        batch = batch,
    );
    let names = array(growing.iter().map(|(batch, _)| Some(quoted(batch))));
    let events = array(growing.iter().map(|(_, events)| Some(events.to_string())));
    plan.run(
        Statement::new("note batches that grow", update)
            .param(text(names))
            .param(text(events))
            .writes(&into),
    )
}
