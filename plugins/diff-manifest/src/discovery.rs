//! The questions by which pending batches are found.
//!
//! Those that read events name neither the playbook nor its manifest: playbooks in the same state put the same ones, and
//! the host may answer them once. What they find is then compared with the manifest in a question of its own, by place
//! in a list, so that batches are told apart as the database does it and not by how they are written.

use stepwell_sdk::planner::{Run, question, text};
use stepwell_sdk::source::Source;
use stepwell_sdk::sql::{Ident, Literal, Sql, TableName, join};
use stepwell_sdk::{Param, Question, sql};

use crate::retain::Retain;
use crate::search::Found;
use crate::settle::{Settle, is_time};
use crate::{State, array, interval};

/// Batches that one question brings. More are asked for page by page.
pub const PAGE: usize = 20_000;

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
    /// Which batches are left alone; none if all are taken as they are.
    pub settle: Option<Settle>,
    /// How far back each batch keeps a row of its own; none for ever.
    pub retain: Option<Retain>,
}

impl Discovery<'_> {
    /// Asks where the manifest stands; no row when nothing was processed yet.
    ///
    /// The lookback counts from the newest processed event that is not in the run's future: an event with a wrong clock
    /// must not hide all others. It follows the data, never the run's point in time, so a pipeline that stood still for
    /// longer than the lookback goes on where it stopped; where all processed events lie in the future, that is the
    /// beginning. Batches are walked from the one before the oldest that reaches into the
    /// lookback, so that one that lands late between the two is seen. Where batches are times they are walked from the
    /// lookback's own beginning at the latest: that one may have a young name and old events. Among those before a row that
    /// stands for all of them, a name alone does not tell which is new: the walk begins behind it.
    ///
    /// The slices of a backlog look as far back as the first of them did, unless that had nothing before it: what one of
    /// them takes must not hide from the next that an old batch has grown.
    ///
    /// OFFSET keeps Postgres from looking for the first of the batches in their order, among all that were ever processed:
    /// those within the lookback are few, and found by their times.
    pub fn state(&self) -> Question {
        let floor = |seconds: i64| {
            sql!(
                "CAST(m.newest - {lookback} AS {time})",
                lookback = interval(seconds),
                time = Sql::trusted(&self.time_type),
            )
        };
        let as_of = sql!("to_timestamp({us} / 1000000.0)", us = self.run.as_of_us());
        let newest = match self.of_earlier_runs("") {
            None => sql!("max(last_time)"),
            Some(earlier) => sql!(
                "max(last_time) FILTER (WHERE {earlier}), max(last_time)",
                earlier = earlier
            ),
        };
        let select = sql!(
            "SELECT
              {floor}::text AS time_floor,
              {floor_us} AS time_floor_us,
              {newest_us} AS newest_us,
              {recount}::text AS recount_floor,
              greatest((SELECT {before}
               FROM {manifest} AS b
               WHERE b.playbook = {playbook} AND b.batch < (
                 SELECT min(f.batch)
                 FROM (
                   SELECT batch FROM {manifest} WHERE playbook = {playbook} AND last_time >= {floor} OFFSET 0
                 ) AS f
               )), folded.batch)::text AS batch_before,
              folded.batch::text AS folded,
              {folded_last_us} AS folded_last_us
            FROM (
              SELECT coalesce({newest}, '0001-01-01') AS newest
              FROM {manifest}
              WHERE playbook = {playbook} AND last_time <= {as_of}
            ) AS m
            LEFT JOIN {manifest} AS folded
              ON {stands_for_others}
            WHERE EXISTS (SELECT FROM {manifest} WHERE playbook = {playbook})",
            floor = floor(self.source.lookback_seconds),
            floor_us = microseconds(&floor(self.source.lookback_seconds)),
            newest_us = microseconds(&sql!("m.newest")),
            recount = floor(self.recount_seconds),
            before = self.walked_from(),
            newest = newest,
            folded_last_us = microseconds(&sql!("folded.before_last_time")),
            stands_for_others = self.stands_for_others("folded"),
            manifest = self.manifest,
            playbook = self.playbook(),
            as_of = as_of,
        );
        question("state of the manifest", select, vec![])
    }

    /// The condition that a row of the manifest is not of an earlier slice of this run; none in the first.
    fn of_earlier_runs(&self, table: &str) -> Option<Sql> {
        self.run.has("backlog").then(|| {
            sql!(
                "{table}run_id <> {run}",
                table = Sql::trusted(table),
                run = Literal(self.run.id())
            )
        })
    }

    /// The batch after which batches are walked, among the `b` that lie before the lookback.
    fn walked_from(&self) -> Sql {
        // The walk leaves out where it begins.
        let before = match self.batch_type.as_str() {
            "date" => 86_400,
            kind if is_time(kind) => 1,
            _ => return sql!("max(b.batch)"),
        };
        sql!(
            "CASE WHEN max(b.batch) IS NOT NULL THEN least(max(b.batch), CAST(m.newest - {lookback} AS {batch})) END",
            lookback = interval(self.source.lookback_seconds.saturating_add(before)),
            batch = Sql::trusted(&self.batch_type),
        )
    }

    /// Asks for the batches after `state.batch_before` and the page before, in order: a probe of the index a batch.
    pub fn walk(&self, state: &State, page: &Page) -> Question {
        let (batch, events) = (&self.source.batch, &self.source.events);
        let before = state
            .batch_before
            .as_ref()
            .filter(|_| self.batches_follow_time());
        let (start, params) = match page.after.as_ref().or(before) {
            None => (sql!("{batch} IS NOT NULL", batch = batch), vec![]),
            Some(before) => {
                let params = vec![text(before)];
                let before = cast(&params, &self.batch_type);
                (
                    sql!("{batch} > {before}", batch = batch, before = before),
                    params,
                )
            }
        };
        let select = sql!(
            "WITH RECURSIVE walk (batch, place) AS (
              (SELECT {batch}, 1 FROM {events} WHERE {start} ORDER BY {batch} LIMIT 1)
              UNION ALL
              SELECT (SELECT {batch} FROM {events} WHERE {batch} > walk.batch ORDER BY {batch} LIMIT 1), walk.place + 1
              FROM walk
              WHERE walk.batch IS NOT NULL AND walk.place < {page}
            )
            SELECT walk.batch::text AS batch
            FROM walk
            WHERE walk.batch IS NOT NULL
            ORDER BY walk.place",
            batch = batch,
            events = events,
            start = start,
            page = page_size(),
        );
        question(&page.label("batches"), select, params)
    }

    /// Whether a batch that comes later has the greater name. Ids do not say which came first: a new one may stand before
    /// any that is known, so all of them are walked.
    pub fn batches_follow_time(&self) -> bool {
        const KINDS: [&str; 6] = [
            "timestamp",
            "date",
            "smallint",
            "integer",
            "bigint",
            "numeric",
        ];
        KINDS.iter().any(|kind| self.batch_type.starts_with(kind))
    }

    /// Asks how many events within the lookback have no batch.
    pub fn without_batch(&self, state: &State) -> Question {
        let select = sql!(
            "SELECT count(*) AS events
            FROM {events}
            WHERE {batch} IS NULL AND {time} >= CAST($1 AS {time_type})",
            events = self.source.events,
            batch = self.source.batch,
            time = Ident(&self.source.time),
            time_type = Sql::trusted(&self.time_type),
        );
        question(
            "events without a batch",
            select,
            vec![text(&state.time_floor)],
        )
    }

    /// Asks for the batches of the events since a time, or of all, with what of them lies there. A NULL stands for the
    /// events without a batch.
    pub fn scan(&self, since: Option<&str>, page: &Page, limit: usize) -> Question {
        let mut params = Vec::new();
        let mut conditions = Vec::new();
        if let Some(since) = since {
            params.push(text(since));
            conditions.push(sql!(
                "e.time >= {since}",
                since = cast(&params, &self.time_type)
            ));
        }
        if let Some(after) = &page.after {
            params.push(text(after));
            conditions.push(sql!(
                "e.batch > {after}",
                after = cast(&params, &self.batch_type)
            ));
        }
        let condition = match conditions.is_empty() {
            true => sql!("true"),
            false => join(conditions, " AND "),
        };
        let select = sql!(
            "SELECT g.batch::text AS batch, {columns}
            FROM {groups} AS g
            ORDER BY g.batch NULLS FIRST
            LIMIT {limit}",
            columns = self.columns_of_groups(),
            groups = self.groups(&condition).indented(12),
            limit = i64::try_from(limit).unwrap_or(i64::MAX),
        );
        question(&page.label("batches"), select, params)
    }

    /// Asks for all batches, the first of them, with how many there are, and how far back those lie that are left alone.
    pub fn scan_all(&self, limit: usize) -> Question {
        let reach = self.settle.as_ref().map_or_else(
            || sql!(""),
            |settle| {
                sql!(
                    ",\n  min(least({last_us}, {named_us})) FILTER (WHERE {usable} AND g.loaded > to_timestamp({us} / 1000000.0) - {settle}) OVER () AS reach_us",
                    last_us = microseconds(&sql!("g.last_time")),
                    named_us = self.named_us(),
                    usable = usable(),
                    us = self.run.as_of_us(),
                    settle = interval(settle.seconds),
                )
            },
        );
        let reach = reach.indented(14);
        let select = sql!(
            "SELECT g.batch::text AS batch, {columns}, count(g.batch) OVER () AS batches{reach}
            FROM {groups} AS g
            ORDER BY g.batch NULLS FIRST
            LIMIT {limit}",
            columns = self.columns_of_groups(),
            reach = reach,
            groups = self.groups(&sql!("true")).indented(12),
            limit = i64::try_from(limit).unwrap_or(i64::MAX),
        );
        question("batches", select, vec![])
    }

    /// Asks which of the batches found are to be looked at: those that the manifest does not have, by their place from
    /// 1, and those that are counted again, with the events that they had. Those of the latter that were not found come
    /// by their names. `until` is the last of the page if more follow. `folded` says of a batch that it may be one of those
    /// that have no row.
    pub fn compare(
        &self,
        found: &[String],
        state: &State,
        page: &Page,
        until: Option<&String>,
    ) -> Question {
        let mut params = vec![
            batches(found),
            match self.recount_seconds {
                // Nothing is at or after NULL.
                0 => Param::Null,
                _ => text(&state.recount_floor),
            },
            text(&state.time_floor),
        ];
        let mut bounds = Vec::new();
        if let Some(after) = &page.after {
            params.push(text(after));
            bounds.push(sql!(
                " AND m.batch > {after}",
                after = cast(&params, &self.batch_type)
            ));
        }
        if let Some(until) = until {
            params.push(text(until));
            bounds.push(sql!(
                " AND m.batch <= {until}",
                until = cast(&params, &self.batch_type)
            ));
        }
        // What an earlier slice has just processed need not be counted again.
        let earlier = self.of_earlier_runs("m.");
        let earlier = earlier.map_or_else(
            || sql!(""),
            |earlier| sql!(" AND {earlier}", earlier = earlier),
        );
        let mut folded = (sql!(""), sql!(""));
        if let Some(standing) = &state.folded {
            params.push(text(&standing.before));
            let before = cast(&params, &self.batch_type);
            match self.ordered {
                // The walk came by those behind it alone.
                true => bounds.push(sql!(" AND m.batch > {before}", before = before)),
                false => {
                    folded = (
                        sql!(", found.batch < {before} AS folded", before = before),
                        sql!(", false"),
                    );
                }
            }
        }
        let time = Sql::trusted(&self.time_type);
        let select = sql!(
            "SELECT found.place, NULL AS gone, m.events AS events_before, m.first_time >= CAST($3 AS {time}) AS within{folded}
            FROM {found} WITH ORDINALITY AS found (batch, place)
            LEFT JOIN {manifest} AS m
              ON m.playbook = {playbook} AND m.batch = found.batch
            WHERE m.batch IS NULL OR m.last_time >= CAST($2 AS {time}){earlier}
            UNION ALL
            SELECT NULL, m.batch::text, m.events, m.first_time >= CAST($3 AS {time}){never}
            FROM {manifest} AS m
            WHERE m.playbook = {playbook} AND m.last_time >= CAST($2 AS {time}){earlier}{bounds}
              AND NOT EXISTS (SELECT FROM {found} AS found (batch) WHERE found.batch = m.batch)
            ORDER BY 1",
            found = self.list(),
            manifest = self.manifest,
            playbook = self.playbook(),
            time = time,
            bounds = join(bounds, ""),
            earlier = earlier,
            folded = folded.0,
            never = folded.1,
        );
        question(&page.label("batches beside the manifest"), select, params)
    }

    /// Asks how many rows each of these batches has, through the index. `part` is as for [`whole`](Self::whole).
    pub fn count(&self, counted: &[String], page: &Page, part: usize) -> Question {
        let select = sql!(
            "SELECT found.place, counted.rows
            FROM {found} WITH ORDINALITY AS found (batch, place)
            CROSS JOIN LATERAL (
              SELECT count(*) AS rows FROM {events} WHERE {batch} = found.batch
            ) AS counted",
            found = self.list(),
            events = self.source.events,
            batch = self.source.batch,
        );
        let label = page.label_of_part("rows of processed batches", part);
        question(&label, select, vec![batches(counted)])
    }

    /// Asks for the events of these batches, wherever they lie, by place from 1. `part` tells the questions of a page
    /// apart.
    pub fn whole(&self, wanted: &[String], page: &Page, part: usize) -> Question {
        let select = sql!(
            "SELECT found.place, {columns}
            FROM {groups} AS g
            JOIN {found} WITH ORDINALITY AS found (batch, place) ON found.batch = g.batch",
            columns = self.columns_of_groups(),
            groups = self
                .groups(&sql!(
                    "e.batch = ANY (CAST($1 AS {kind}[]))",
                    kind = Sql::trusted(&self.batch_type)
                ))
                .indented(12),
            found = self.list(),
        );
        let label = page.label_of_part("events of pending batches", part);
        question(&label, select, vec![batches(wanted)])
    }

    /// Asks for the sums over all batches, in one row.
    pub fn totals(&self) -> Question {
        let (counts, settling) = match self.settle {
            None => (sql!("{usable}", usable = usable()), sql!("")),
            Some(_) => (
                sql!("{usable} AND NOT g.settling", usable = usable()),
                sql!(
                    ",\n  count(*) FILTER (WHERE {usable} AND g.settling) AS settling",
                    usable = usable()
                ),
            ),
        };
        let all_groups = self.all_groups();
        // Where rows are folded the groups are looked at more than once.
        let groups = match self.retain {
            None => all_groups.clone(),
            Some(_) => sql!("groups"),
        };
        let select = sql!(
            "SELECT
              count(*) FILTER (WHERE {counts}) AS batches,
              coalesce(sum(g.events) FILTER (WHERE {counts}), 0)::bigint AS events,
              min(g.batch) FILTER (WHERE {counts})::text AS first,
              max(g.batch) FILTER (WHERE {counts})::text AS last,
              coalesce(sum(g.events) FILTER (WHERE g.batch IS NULL), 0)::bigint AS without_batch,
              coalesce(sum(g.untimed), 0)::bigint AS untimed{settling}
            FROM {groups} AS g",
            counts = counts,
            settling = settling.indented(12),
            groups = groups.indented(12),
        );
        let select = match &self.retain {
            None => select,
            Some(retain) => retain.beside_totals(self, &all_groups, &counts, &select),
        };
        question("all batches", select, vec![])
    }

    /// The rows of the table of batches when all of them are pending.
    pub fn all(&self) -> Sql {
        sql!(
            "SELECT g.batch, g.events, g.first_time, g.last_time, CAST(NULL AS bigint) AS events_before
            FROM {groups} AS g
            WHERE {usable}{settled}",
            groups = self.all_groups().indented(12),
            usable = usable(),
            settled = match self.settle {
                None => sql!(""),
                Some(_) => sql!(" AND NOT g.settling"),
            },
        )
    }

    /// All batches, with whether they are left alone. One that was processed before is taken again, or its rows would go
    /// for a while; so is one that no later run would find, since all others move the lookback past it.
    fn all_groups(&self) -> Sql {
        let groups = self.groups(&sql!("true"));
        let Some(settle) = &self.settle else {
            return groups;
        };
        let as_of = sql!("to_timestamp({us} / 1000000.0)", us = self.run.as_of_us());
        sql!(
            "(
              SELECT g.*, coalesce(g.loaded > {as_of} - {settle}, false)
                AND g.last_time >= max(g.last_time) FILTER (WHERE g.last_time <= {as_of}) OVER () - {lookback}
                AND NOT EXISTS (SELECT FROM {manifest} AS m WHERE m.playbook = {playbook} AND m.batch = g.batch)
                AND NOT EXISTS (
                  SELECT FROM {manifest} AS m
                  WHERE {stands_for_others} AND g.batch < m.batch
                ) AS settling
              FROM {groups} AS g
            )",
            as_of = as_of,
            settle = interval(settle.seconds),
            lookback = interval(self.source.lookback_seconds),
            manifest = self.manifest,
            playbook = self.playbook(),
            stands_for_others = self.stands_for_others("m"),
            groups = groups.indented(14),
        )
    }

    /// The events that meet `condition` by their batches; only those with a time count as events.
    pub fn groups(&self, condition: &Sql) -> Sql {
        let (newest, loaded) = match &self.settle {
            None => (sql!(""), sql!("")),
            Some(settle) => (
                sql!(", max(e.loaded) AS loaded"),
                sql!(", ({at}) AS loaded", at = settle.loaded_at),
            ),
        };
        sql!(
            "(
              SELECT e.batch, count(e.time) AS events, min(e.time) AS first_time, max(e.time) AS last_time,
                count(*) - count(e.time) AS untimed{newest}
              FROM (SELECT ({batch}) AS batch, {time} AS time{loaded} FROM {events}) AS e
              WHERE {condition}
              GROUP BY e.batch
            )",
            newest = newest,
            batch = self.source.batch,
            time = Ident(&self.source.time),
            loaded = loaded,
            events = self.source.events,
            condition = condition,
        )
    }

    /// What is asked of batches whose events are read.
    fn columns_of_groups(&self) -> Sql {
        let columns = sql!(
            "g.events, g.first_time::text AS first_time, g.last_time::text AS last_time, g.untimed, {last_us} AS last_us",
            last_us = microseconds(&sql!("g.last_time")),
        );
        if self.settle.is_none() {
            return columns;
        }
        sql!(
            "{columns}, {loaded_us} AS loaded_us, {named_us} AS named_us",
            columns = columns,
            loaded_us = microseconds(&sql!("g.loaded")),
            named_us = self.named_us(),
        )
    }

    /// The batch itself, where it is a time and found by it.
    fn named_us(&self) -> Sql {
        match self.ordered && is_time(&self.batch_type) {
            true => microseconds(&sql!("g.batch")),
            false => sql!("CAST(NULL AS bigint)"),
        }
    }

    /// The condition that a row of the manifest is the one that stands for all batches before its own (`retain`). At most
    /// one of a playbook's is, and an index holds them alone.
    pub fn stands_for_others(&self, row: &str) -> Sql {
        sql!(
            "{row}.playbook = {playbook} AND {row}.before_batches IS NOT NULL",
            row = Ident(row),
            playbook = self.playbook(),
        )
    }

    /// Whether a batch may still be loaded.
    pub fn is_settling(&self, found: &Found) -> bool {
        let settle = self.settle.as_ref();
        settle.is_some_and(|settle| settle.is_settling(found.loaded_us, self.run.as_of_us()))
    }

    /// The batches of the first parameter, as rows.
    fn list(&self) -> Sql {
        sql!(
            "unnest(CAST($1 AS {kind}[]))",
            kind = Sql::trusted(&self.batch_type)
        )
    }

    pub fn playbook(&self) -> Literal<'_> {
        Literal(self.run.playbook())
    }
}

/// Where a search among very many batches stands.
#[derive(Debug, Default)]
pub struct Page {
    /// Pages before this one.
    pub number: usize,
    /// The last batch of the page before.
    pub after: Option<String>,
}

impl Page {
    fn label(&self, what: &str) -> String {
        match self.number {
            0 => what.to_owned(),
            before => format!("{what}, page {}", before + 1),
        }
    }

    fn label_of_part(&self, what: &str, part: usize) -> String {
        match part {
            0 => self.label(what),
            before => format!("{}, part {}", self.label(what), before + 1),
        }
    }
}

fn page_size() -> i64 {
    i64::try_from(PAGE).unwrap_or(i64::MAX)
}

/// The last of the parameters as a value of a type.
pub fn cast(params: &[Param], kind: &str) -> Sql {
    sql!(
        "CAST({param} AS {kind})",
        param = Sql::trusted(format!("${}", params.len())),
        kind = Sql::trusted(kind),
    )
}

/// The condition that there is something to process in batch `g`.
pub fn usable() -> Sql {
    sql!("g.batch IS NOT NULL AND g.events > 0")
}

/// A time in microseconds since 1970.
pub fn microseconds(time: &Sql) -> Sql {
    sql!(
        "(extract(epoch FROM {time}) * 1000000)::bigint",
        time = time
    )
}

/// Batches as one parameter.
pub fn batches(list: &[String]) -> Param {
    text(array(list.iter().map(|batch| Some(crate::quoted(batch)))))
}
