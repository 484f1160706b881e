//! The questions by which pending batches are found.
//!
//! All but the first two answer with the same columns: a batch, its events, their times, how many events it had when it
//! was processed (NULL if it was not), and how many of its events have no time. A batch that is NULL stands for the
//! events that belong to none.

use stepwell_sdk::planner::{Run, question, text};
use stepwell_sdk::source::Source;
use stepwell_sdk::sql::{Ident, Literal, Sql, TableName};
use stepwell_sdk::{Param, Question, sql};

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
    /// How far back processed batches are counted again; 0 turns it off.
    pub recount_seconds: i64,
    pub batches_max: u32,
}

impl Discovery<'_> {
    /// Asks where the manifest stands; no row when nothing was processed yet.
    ///
    /// The lookback counts from the newest processed event that is not in the run's future: an event with a wrong clock
    /// must not hide all others. It follows the data, not the clock, so a pipeline that stood still for longer than the
    /// lookback goes on where it stopped. Batches are walked from the one before the oldest that reaches into the
    /// lookback, so that one that lands late between the two is seen.
    pub fn state(&self) -> Question {
        let floor = |seconds: i64| {
            sql!(
                "CAST(m.newest - {lookback} AS {time})",
                lookback = interval(seconds),
                time = Sql::trusted(&self.time_type),
            )
        };
        let as_of = sql!("to_timestamp({us} / 1000000.0)", us = self.run.as_of_us());
        let select = sql!(
            "SELECT
              {floor}::text AS time_floor,
              {recount}::text AS recount_floor,
              (SELECT max(b.batch)
               FROM {manifest} AS b
               WHERE b.playbook = {playbook} AND b.batch < (
                 SELECT min(f.batch)
                 FROM {manifest} AS f
                 WHERE f.playbook = {playbook} AND f.last_time >= {floor}
               ))::text AS batch_before
            FROM (
              SELECT coalesce(max(last_time), {as_of}) AS newest
              FROM {manifest}
              WHERE playbook = {playbook} AND last_time <= {as_of}
            ) AS m
            WHERE EXISTS (SELECT FROM {manifest} WHERE playbook = {playbook})",
            floor = floor(self.source.lookback_seconds),
            recount = floor(self.recount_seconds),
            manifest = self.manifest,
            playbook = self.playbook(),
            as_of = as_of,
        );
        question("state of the manifest", select, vec![])
    }

    /// Asks for the pending batches.
    pub fn pending(&self, state: Option<&State>) -> Question {
        let (sql, params) = match state {
            None => (self.unbounded(&sql!("true")), vec![]),
            Some(state) if self.ordered => self.walk(state),
            // The slices of a backlog may go backwards in time, beyond the lookback of those before.
            Some(_) if self.run.has("backlog") => (self.unbounded(&self.is_new()), vec![]),
            Some(state) => (
                self.scan(),
                vec![text(&state.recount_floor), text(&state.time_floor)],
            ),
        };
        question("pending batches", sql, params)
    }

    /// Asks for the sums over all batches, in one row.
    pub fn totals(&self) -> Question {
        let select = sql!(
            "SELECT
              count(*) FILTER (WHERE {counts}) AS batches,
              coalesce(sum(g.events) FILTER (WHERE {counts}), 0)::bigint AS events,
              min(g.batch) FILTER (WHERE {counts})::text AS first,
              max(g.batch) FILTER (WHERE {counts})::text AS last,
              coalesce(sum(g.events) FILTER (WHERE g.batch IS NULL), 0)::bigint AS without_batch,
              coalesce(sum(g.untimed), 0)::bigint AS untimed
            FROM {groups} AS g",
            counts = sql!("g.batch IS NOT NULL AND g.events > 0"),
            groups = self.groups(&sql!("true")).indented(12),
        );
        question("all batches", select, vec![])
    }

    /// The rows of the table of batches when all of them are pending.
    pub fn all(&self) -> Sql {
        sql!(
            "SELECT g.batch, g.events, g.first_time, g.last_time, CAST(NULL AS bigint) AS events_before
            FROM {groups} AS g
            WHERE g.batch IS NOT NULL AND g.events > 0",
            groups = self.groups(&sql!("true")).indented(12),
        )
    }

    /// The batches of the events that meet `condition`, wherever they lie.
    fn unbounded(&self, condition: &Sql) -> Sql {
        sql!(
            "SELECT g.batch::text AS batch, g.events, g.first_time::text AS first_time, g.last_time::text AS last_time,
              CAST(NULL AS bigint) AS events_before, g.untimed
            FROM {groups} AS g
            WHERE g.events > 0 OR g.untimed > 0
            ORDER BY g.batch NULLS FIRST
            LIMIT {limit}",
            groups = self.groups(condition).indented(12),
            limit = self.limit(),
        )
    }

    /// The events that meet `condition` by their batches; only those with a time count as events.
    fn groups(&self, condition: &Sql) -> Sql {
        sql!(
            "(
              SELECT e.batch, count(e.time) AS events, min(e.time) AS first_time, max(e.time) AS last_time,
                count(*) - count(e.time) AS untimed
              FROM (SELECT ({batch}) AS batch, {time} AS time FROM {events}) AS e
              WHERE {condition}
              GROUP BY e.batch
            )",
            batch = self.source.batch,
            time = Ident(&self.source.time),
            events = self.source.events,
            condition = condition,
        )
    }

    /// The condition that event `e` is of a batch that was not processed.
    fn is_new(&self) -> Sql {
        sql!(
            "NOT EXISTS (SELECT FROM {manifest} AS m WHERE m.playbook = {playbook} AND m.batch = e.batch)",
            manifest = self.manifest,
            playbook = self.playbook(),
        )
    }

    /// From one batch to the next along the index: a probe a batch. Those within the recount have their events counted,
    /// and only those that are pending have their times looked up.
    fn walk(&self, state: &State) -> (Sql, Vec<Param>) {
        let mut params = vec![text(&state.time_floor), text(&state.recount_floor)];
        let (batch, time, events) = (
            &self.source.batch,
            Ident(&self.source.time),
            &self.source.events,
        );
        let start = match &state.batch_before {
            None => sql!("{batch} IS NOT NULL", batch = batch),
            Some(before) => {
                params.push(text(before));
                let batch_type = Sql::trusted(&self.batch_type);
                sql!(
                    "{batch} > CAST($3 AS {batch_type})",
                    batch = batch,
                    batch_type = batch_type
                )
            }
        };
        let select = sql!(
            "WITH RECURSIVE walk (batch) AS (
              (SELECT {batch} FROM {events} WHERE {start} ORDER BY {batch} LIMIT 1)
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
                AND (m.batch IS NULL OR {recounted})
            )
            SELECT p.batch::text AS batch, p.events, p.first_time::text AS first_time, p.last_time::text AS last_time,
              p.events_before, p.untimed
            FROM (
              SELECT found.batch, counted.rows - span.untimed AS events, span.first_time, span.last_time,
                found.events_before, span.untimed
              FROM found
              CROSS JOIN LATERAL (
                SELECT count(*) AS rows FROM {events} WHERE {batch} = found.batch
              ) AS counted
              CROSS JOIN LATERAL (
                SELECT min({time}) AS first_time, max({time}) AS last_time, count(*) - count({time}) AS untimed
                FROM {events}
                WHERE {batch} = found.batch AND counted.rows IS DISTINCT FROM found.events_before
              ) AS span
              WHERE counted.rows - span.untimed IS DISTINCT FROM found.events_before
              UNION ALL
              {gone}
              UNION ALL
              SELECT NULL, count(*), NULL, NULL, NULL, 0
              FROM {events}
              WHERE {batch} IS NULL AND {time} >= CAST($1 AS {time_type})
              HAVING count(*) > 0
            ) AS p
            ORDER BY p.events < coalesce(p.events_before, 0), p.batch NULLS FIRST
            LIMIT {limit}",
            batch = batch,
            time = time,
            events = events,
            start = start,
            recounted = self.recounted("$2"),
            gone = self.gone(&sql!("walk"), &sql!("true"), "$2").indented(14),
            time_type = Sql::trusted(&self.time_type),
            manifest = self.manifest,
            playbook = self.playbook(),
            limit = self.limit(),
        );
        (select, params)
    }

    /// The batches of the events within the lookback; those that turn out to be pending are then read whole, however far
    /// back they reach. A processed batch that began before the lookback is seen in part, so it counts as changed only
    /// when the part alone is more than the whole was.
    fn scan(&self) -> Sql {
        let floor = sql!("CAST($2 AS {time})", time = Sql::trusted(&self.time_type));
        sql!(
            "WITH found AS MATERIALIZED (
              SELECT e.batch, count(*) AS events
              FROM (SELECT ({batch}) AS batch, {time} AS time FROM {events}) AS e
              WHERE e.time >= {floor}
              GROUP BY e.batch
            ),
            changed AS MATERIALIZED (
              SELECT found.batch, m.events AS events_before
              FROM found
              LEFT JOIN {manifest} AS m
                ON m.playbook = {playbook} AND m.batch = found.batch
              WHERE found.batch IS NOT NULL
                AND (m.batch IS NULL
                  OR {recounted} AND (found.events > m.events OR m.first_time >= {floor} AND found.events < m.events))
            )
            SELECT p.batch::text AS batch, p.events, p.first_time::text AS first_time, p.last_time::text AS last_time,
              p.events_before, p.untimed
            FROM (
              SELECT g.batch, g.events, g.first_time, g.last_time, changed.events_before, g.untimed
              FROM changed
              JOIN {groups} AS g ON g.batch = changed.batch
              UNION ALL
              {gone}
              UNION ALL
              SELECT NULL, found.events, NULL, NULL, NULL, 0
              FROM found
              WHERE found.batch IS NULL
            ) AS p
            ORDER BY p.events < coalesce(p.events_before, 0), p.batch NULLS FIRST
            LIMIT {limit}",
            batch = self.source.batch,
            time = Ident(&self.source.time),
            events = self.source.events,
            floor = floor,
            recounted = self.recounted("$1"),
            groups = self
                .groups(&sql!("EXISTS (SELECT FROM changed) AND e.batch IN (SELECT batch FROM changed)"))
                .indented(14),
            gone = self.gone(&sql!("found"), &sql!("m.first_time >= {floor}", floor = floor), "$1").indented(14),
            manifest = self.manifest,
            playbook = self.playbook(),
            limit = self.limit(),
        )
    }

    /// The processed batches within the recount, which begins at parameter `recount`, of which no event is left.
    fn gone(&self, among: &Sql, condition: &Sql, recount: &str) -> Sql {
        sql!(
            "SELECT m.batch, 0, NULL, NULL, m.events, 0
            FROM {manifest} AS m
            WHERE m.playbook = {playbook} AND {recounted} AND {condition}
              AND NOT EXISTS (SELECT FROM {among} AS still WHERE still.batch = m.batch)",
            manifest = self.manifest,
            playbook = self.playbook(),
            recounted = self.recounted(recount),
            condition = condition,
            among = among,
        )
    }

    /// The condition that manifest row `m` is counted again.
    fn recounted(&self, param: &str) -> Sql {
        let param = Sql::trusted(param);
        let time = Sql::trusted(&self.time_type);
        // The parameter keeps its place, and so its type, where nothing is counted again.
        match self.recount_seconds {
            0 => sql!(
                "m.last_time > greatest(CAST({param} AS {time}), 'infinity')",
                param = param,
                time = time
            ),
            _ => sql!(
                "m.last_time >= CAST({param} AS {time})",
                param = param,
                time = time
            ),
        }
    }

    fn playbook(&self) -> Literal<'_> {
        Literal(self.run.playbook())
    }

    /// One row more than a run takes says that there is more; another may be that of the events without a batch.
    fn limit(&self) -> i64 {
        i64::from(self.batches_max) + 2
    }
}
