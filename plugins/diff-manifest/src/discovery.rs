//! The questions by which pending batches are found.

use stepwell_sdk::planner::{Run, question, text};
use stepwell_sdk::source::Source;
use stepwell_sdk::sql::{Ident, Literal, Sql, TableName};
use stepwell_sdk::{Question, sql};

use crate::{State, interval};

/// What decides how batches are looked for.
pub struct Discovery<'a> {
    pub run: &'a Run,
    pub source: &'a Source,
    pub manifest: &'a TableName,
    /// SQL type of a batch, as the manifest keeps it.
    pub batch_type: String,
    /// SQL type of the events' time.
    pub time_type: String,
    /// Whether an index gives the batches in order.
    pub ordered: bool,
    pub recount_seconds: i64,
    pub batches_max: u32,
}

impl Discovery<'_> {
    /// Asks where the manifest stands; no row when nothing was processed yet.
    ///
    /// The watermark is the newest processed event, or the run's point in time if that is earlier: an event from the
    /// future must not hide all others behind the lookback. It follows the data, not the clock, so a pipeline that stood
    /// still for longer than the lookback goes on where it stopped.
    pub fn state(&self) -> Question {
        let floor = |seconds: i64| {
            sql!(
                "CAST(least(m.last_time, to_timestamp({as_of} / 1000000.0)) - {lookback} AS {time})",
                as_of = self.run.as_of_us(),
                lookback = interval(seconds),
                time = Sql::trusted(&self.time_type),
            )
        };
        let select = sql!(
            "SELECT
              {floor}::text AS time_floor,
              {recount}::text AS recount_floor,
              (SELECT min(f.batch)
               FROM {manifest} AS f
               WHERE f.playbook = {playbook} AND f.last_time >= {floor})::text AS batch_floor
            FROM (SELECT max(last_time) AS last_time FROM {manifest} WHERE playbook = {playbook}) AS m
            WHERE m.last_time IS NOT NULL",
            floor = floor(self.source.lookback_seconds),
            recount = floor(self.recount_seconds),
            manifest = self.manifest,
            playbook = Literal(self.run.playbook()),
        );
        question("state of the manifest", select, vec![])
    }

    /// Asks for the pending batches with their events and times, and for the number of events without a batch, which
    /// comes as a batch that is NULL.
    pub fn pending(&self, state: Option<&State>) -> Question {
        let (sql, params) = match state {
            None => (self.all(), vec![]),
            Some(state) if self.ordered => {
                let floor = state.batch_floor.clone().unwrap_or_default();
                (
                    self.walk(),
                    vec![
                        text(floor),
                        text(&state.recount_floor),
                        text(&state.time_floor),
                    ],
                )
            }
            Some(state) => (
                self.scan(),
                vec![text(&state.recount_floor), text(&state.time_floor)],
            ),
        };
        question("pending batches", sql, params)
    }

    /// All batches: nothing is processed yet.
    fn all(&self) -> Sql {
        sql!(
            "SELECT e.batch::text AS batch, count(*) AS events, min(e.time)::text AS first_time,
              max(e.time)::text AS last_time, CAST(NULL AS bigint) AS events_before
            FROM (SELECT ({batch}) AS batch, {time} AS time FROM {events}) AS e
            GROUP BY e.batch
            ORDER BY e.batch NULLS FIRST
            LIMIT {limit}",
            batch = self.source.batch,
            time = Ident(&self.source.time),
            events = self.source.events,
            limit = i64::from(self.batches_max) + 1,
        )
    }

    /// From one batch to the next along the index: a probe a batch. Only pending ones have their times looked up, and
    /// those within the recount their events.
    fn walk(&self) -> Sql {
        let (batch, time, events) = (
            &self.source.batch,
            Ident(&self.source.time),
            &self.source.events,
        );
        sql!(
            "WITH RECURSIVE walk (batch) AS (
              (SELECT {batch} FROM {events} WHERE {batch} >= CAST($1 AS {batch_type}) ORDER BY {batch} LIMIT 1)
              UNION ALL
              SELECT (SELECT {batch} FROM {events} WHERE {batch} > walk.batch ORDER BY {batch} LIMIT 1)
              FROM walk
              WHERE walk.batch IS NOT NULL
            ),
            found AS (
              SELECT walk.batch, m.events AS events_before
              FROM walk
              LEFT JOIN {manifest} AS m
                ON m.playbook = {playbook} AND m.batch = walk.batch
              WHERE walk.batch IS NOT NULL
                AND (m.batch IS NULL OR m.last_time >= CAST($2 AS {time_type}))
            )
            SELECT p.batch::text AS batch, p.events, p.first_time::text AS first_time, p.last_time::text AS last_time,
              p.events_before
            FROM (
              SELECT found.batch, counted.events, span.first_time, span.last_time, found.events_before
              FROM found
              CROSS JOIN LATERAL (
                SELECT count(*) AS events FROM {events} WHERE {batch} = found.batch
              ) AS counted
              CROSS JOIN LATERAL (
                SELECT min({time}) AS first_time, max({time}) AS last_time
                FROM {events}
                WHERE {batch} = found.batch AND counted.events IS DISTINCT FROM found.events_before
              ) AS span
              WHERE counted.events IS DISTINCT FROM found.events_before
              UNION ALL
              SELECT NULL, count(*), NULL, NULL, NULL
              FROM {events}
              WHERE {batch} IS NULL AND {time} >= CAST($3 AS {time_type})
              HAVING count(*) > 0
            ) AS p
            ORDER BY p.batch NULLS FIRST
            LIMIT {limit}",
            batch = batch,
            time = time,
            events = events,
            batch_type = Sql::trusted(&self.batch_type),
            time_type = Sql::trusted(&self.time_type),
            manifest = self.manifest,
            playbook = Literal(self.run.playbook()),
            limit = i64::from(self.batches_max) + 1,
        )
    }

    /// The batches of the events within the lookback. A processed batch that began before it is seen in part, so it
    /// counts as changed only when the part alone is more than the whole was.
    fn scan(&self) -> Sql {
        sql!(
            "SELECT found.batch::text AS batch, found.events, found.first_time::text AS first_time,
              found.last_time::text AS last_time, m.events AS events_before
            FROM (
              SELECT e.batch, count(*) AS events, min(e.time) AS first_time, max(e.time) AS last_time
              FROM (SELECT ({batch}) AS batch, {time} AS time FROM {events}) AS e
              WHERE e.time >= CAST($2 AS {time_type})
              GROUP BY e.batch
            ) AS found
            LEFT JOIN {manifest} AS m
              ON m.playbook = {playbook} AND m.batch = found.batch
            WHERE m.batch IS NULL
              OR m.last_time >= CAST($1 AS {time_type})
                AND (found.events > m.events OR m.first_time >= CAST($2 AS {time_type}) AND found.events < m.events)
            ORDER BY found.batch NULLS FIRST
            LIMIT {limit}",
            batch = self.source.batch,
            time = Ident(&self.source.time),
            events = self.source.events,
            time_type = Sql::trusted(&self.time_type),
            manifest = self.manifest,
            playbook = Literal(self.run.playbook()),
            limit = i64::from(self.batches_max) + 1,
        )
    }
}
