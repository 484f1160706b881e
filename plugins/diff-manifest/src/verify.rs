//! The batches of a verification: those in the manifest, and what the source says of them.
//!
//! The whole source is read once. What is not processed is told apart by what a run would find: the same questions are
//! put as in a run, so `late` means that no run comes by that batch.

use std::collections::BTreeSet;

use stepwell_sdk::incremental::Batches;
use stepwell_sdk::planner::{Ask, Plan, Statement, Stop, question, text};
use stepwell_sdk::request::{self, Batch, BatchKind, VERIFY, Verified, Verify};
use stepwell_sdk::rows::Rows;
use stepwell_sdk::sql::{Literal, Sql};
use stepwell_sdk::{Question, scratch, sql};

use crate::discovery::Discovery;
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
    let [processed, compared] = ask.all([processed(&discovery), compare(&discovery)])?;
    let (mut batches, growing) = read(compared, &reach, verify.limit as usize);
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
        more: false,
        from_nothing: true,
        backlog: None,
    };
    let verified = Verified {
        batches: Some(batches),
        tables: Vec::new(),
    };
    let mut plan = fill(with, &discovery, &growing)
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
        "SELECT count(*) AS batches, coalesce(sum(events), 0)::bigint AS events, min(batch)::text AS first,
          max(batch)::text AS last
        FROM {manifest}
        WHERE playbook = {playbook}",
        manifest = discovery.manifest,
        playbook = Literal(discovery.run.playbook()),
    );
    question("processed batches", select, vec![])
}

/// Asks for the batches of which the source and the manifest do not say the same.
fn compare(discovery: &Discovery<'_>) -> Question {
    let select = sql!(
        "SELECT coalesce(g.batch, m.batch)::text AS batch, coalesce(g.events, 0) AS events, m.events AS noted,
          g.first_time::text AS first_time, g.last_time::text AS last_time, coalesce(g.untimed, 0) AS untimed
        FROM {groups} AS g
        FULL JOIN (SELECT batch, events FROM {manifest} WHERE playbook = {playbook}) AS m ON m.batch = g.batch
        WHERE g.events IS DISTINCT FROM m.events OR g.untimed > 0
        ORDER BY coalesce(g.batch, m.batch) NULLS FIRST
        LIMIT {limit}",
        groups = discovery.groups(&sql!("true")).indented(8),
        manifest = discovery.manifest,
        playbook = Literal(discovery.run.playbook()),
        limit = i64::from(BATCHES_MAX) + 1,
    );
    question("batches of source and manifest", select, vec![])
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
        if kind == BatchKind::Growing {
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

/// The table of batches: what the manifest has. `events_before` is set for those that the next run takes again.
fn fill(with: &With, discovery: &Discovery<'_>, growing: &[(String, u64)]) -> Plan {
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
        playbook = Literal(run.playbook()),
    );
    let plan = Plan::new().run_all(scratch::fill(
        run,
        &into,
        "note processed batches",
        &select,
        [discovery.manifest],
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
