//! Stretches of time that hold all events of a run's ids.
//!
//! A session that is taken up again after two months has events then and now, and none between. One bound for all ids
//! would have the database read everything since its first event, for the sake of one row. What its derived row was
//! computed from lies between that row's first and last time, and what is new since then is pending: so its events lie in
//! two short stretches, and those of all ids in the few that are left when such stretches are put together.

use crate::Failure;
use crate::incremental::Ids;
use crate::planner::{Ask, Run, Stop, question};
use crate::sql;
use crate::sql::{Ident, Literal, Sql, join};

/// Shortest time without an event that is left out, in seconds. Below that, the index on time is looked up once more for
/// nothing: a BRIN index knows ranges of a hundred and more pages, which hold about as much of a busy stream.
const GAP_SECONDS_MIN: i64 = 3600;

/// Most stretches before the last one, which has no end. Each is a scan of the index on time; the longest gaps are kept.
const PAST_MAX: i64 = 16;

/// Stretches of time outside of which no id of a table has an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretches {
    time_type: String,
    /// Lower and upper limit of each, both included; one without an upper limit goes on for ever.
    list: Vec<(String, Option<String>)>,
}

impl Stretches {
    /// Number of stretches, one or more.
    #[expect(
        clippy::len_without_is_empty,
        reason = "there is none without a stretch"
    )]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// The condition that the column `time` of an event `e` lies in one of them. The limits are written out, so that the
    /// database knows how much of the table they take.
    pub(super) fn condition(&self, time: &str) -> Sql {
        let limit = |compares: &str, limit: &str| {
            sql!(
                "e.{time} {compares} CAST({limit} AS {time_type})",
                time = Ident(time),
                compares = Sql::trusted(compares),
                limit = Literal(limit),
                time_type = Sql::trusted(&self.time_type),
            )
        };
        let stretches = self.list.iter().map(|(low, high)| match high {
            None => limit(">=", low),
            Some(high) => sql!(
                "{low} AND {high}",
                low = limit(">=", low),
                high = limit("<=", high)
            ),
        });
        sql!("({any})", any = join(stretches, "\n  OR "))
    }
}

impl Ids {
    /// Asks for the stretches of time that hold all events of the ids in the scratch table `alias`; none where nothing
    /// says when an id had none, or an index finds the events of each id anyway. `time_type` is the SQL type of the events'
    /// time.
    ///
    /// # Errors
    ///
    /// [`Stop::Unanswered`], to be passed on.
    pub fn stretches(
        &self,
        run: &Run,
        alias: &str,
        time_type: &str,
        ask: &mut Ask<'_>,
    ) -> Result<Option<Stretches>, Stop> {
        // Where nothing is run, the table is that of another run.
        if !self.split || !self.bounded || self.indexed || self.all || run.has("planned") {
            return Ok(None);
        }
        let select = sql!(
            "WITH ids AS (
              SELECT CAST(since AS timestamp) AS since, CAST(until AS timestamp) AS until, CAST(again AS timestamp) AS again,
                until IS NOT NULL
                  AND (again IS NULL OR CAST(again AS timestamp) - CAST(until AS timestamp) > {gap}) AS is_split
              FROM {ids}
            ),
            recent AS (
              SELECT min(CASE WHEN is_split THEN again ELSE since END) AS low FROM ids
            ),
            past AS (
              SELECT ids.since, ids.until, ids.since - max(ids.until) OVER (
                ORDER BY ids.since, ids.until ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
              ) AS gap
              FROM ids
              CROSS JOIN recent
              WHERE ids.is_split AND (recent.low IS NULL OR ids.since < recent.low)
            ),
            cut AS (
              SELECT since, until,
                gap IS NULL OR gap > {gap} AND row_number() OVER (ORDER BY gap DESC NULLS FIRST) <= {most} AS begins
              FROM past
            ),
            stretches AS (
              SELECT since, until, count(*) FILTER (WHERE begins) OVER (
                ORDER BY since, until ROWS UNBOUNDED PRECEDING
              ) AS nth
              FROM cut
            )
            SELECT min(since)::text AS low, max(until)::text AS high FROM stretches GROUP BY nth
            UNION ALL
            SELECT low::text, NULL FROM recent WHERE low IS NOT NULL
            ORDER BY 1",
            ids = run.scratch(alias),
            gap = sql!(
                "{seconds}::interval",
                seconds = Literal(&format!("{GAP_SECONDS_MIN} seconds"))
            ),
            most = PAST_MAX,
        );
        let rows = ask.one(question(
            "stretches of time that hold the ids' events",
            select,
            vec![],
        ))?;
        let limit = |text: Option<&str>| {
            text.map(str::to_owned).ok_or_else(|| {
                Failure::new(
                    "no-limit",
                    "the database named no limit of a stretch of time",
                )
            })
        };
        let mut list = Vec::new();
        for row in rows.iter() {
            list.push((limit(row.text("low"))?, row.text("high").map(str::to_owned)));
        }
        Ok((!list.is_empty()).then(|| Stretches {
            time_type: time_type.to_owned(),
            list,
        }))
    }
}
