//! Carries a case out, and compares after every run.

use std::fmt::Write as _;

use stepwell_runner::{Event as RunEvent, Observer, Problem, RunOptions, Stopper};
use stepwell_workflow::Workflow;

use crate::harness::{Db, components, parse};

use super::case::{Batch, Case, Event, Op, Run};
use super::playbooks::{PLAYBOOKS, Playbook};

const CONTEXTS: &str = "atomic.com_snowplowanalytics_snowplow_web_page_1";

/// Returns a database for cases, one after the other.
pub async fn database() -> Db {
    let db = Db::empty().await;
    for sql in stepwell_demo::schema_sql() {
        db.sql(&sql).await;
    }
    db.sql(&format!(
        "ALTER TABLE atomic.events SET UNLOGGED, ALTER collector_tstamp DROP NOT NULL;
         ALTER TABLE {CONTEXTS} SET UNLOGGED;
         CREATE SCHEMA model;
         CREATE UNLOGGED TABLE model.taken (playbook text, batch text);
         CREATE FUNCTION model.take() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN INSERT INTO model.taken VALUES (NEW.playbook, NEW.batch::text); RETURN NULL; END $$;
         CREATE UNLOGGED TABLE model.noted (playbook text, batch text, processed boolean);
         CREATE UNLOGGED TABLE model.left_alone (playbook text, batch text);
         CREATE UNLOGGED TABLE model.seen AS SELECT ''::text AS playbook, * FROM atomic.events;
         CREATE UNLOGGED TABLE model.gone AS TABLE model.seen"
    ))
    .await;
    db
}

/// Carries a case out in a database of [`database`]; returns what is wrong after which operation, if something is.
pub async fn failure(db: &Db, case: &Case) -> Option<String> {
    let bench = Bench::new(db, case).await;
    let all = |full_refresh: bool| {
        Op::Run(Run {
            playbook: None,
            max_batches: None,
            stop_after: None,
            full_refresh,
            as_of: case.end(),
        })
    };
    let (last, healing) = (all(false), all(true));
    let mut row = 0;
    for (at, op) in case.ops.iter().chain([&last, &healing]).enumerate() {
        match op {
            Op::Land { batch, events } => bench.land(*batch, events, &mut row).await,
            Op::DeleteSession(session) => {
                bench
                    .delete(&format!("domain_sessionid = 's{session}'"))
                    .await;
            }
            Op::DeleteBatch(batch) => {
                bench
                    .delete(&format!("etl_tstamp = {}", at_minute(*batch)))
                    .await;
            }
            Op::DeleteEvent(id) => bench.delete(&format!("event_id = 'e{id}'")).await,
            Op::Run(run) => {
                let heals = run.full_refresh && at > case.ops.len();
                if heals && case.freeze_days.is_none() && !bench.anything_unsettled().await {
                    continue;
                }
                if let Err(why) = bench.run(run).await {
                    return Some(format!("operation {}: {why}", at + 1));
                }
            }
        }
    }
    None
}

/// A case in its database.
struct Bench<'a> {
    db: &'a Db,
    case: &'a Case,
    /// The case's playbooks.
    workflows: Vec<(&'static Playbook, Workflow)>,
}

impl<'a> Bench<'a> {
    /// Empties the database.
    async fn new(db: &'a Db, case: &'a Case) -> Self {
        let mut sql = format!(
            "DROP SCHEMA IF EXISTS derived, scratch CASCADE;
             TRUNCATE atomic.events, {CONTEXTS}, model.taken, model.noted, model.left_alone, model.seen, model.gone;
             DROP INDEX IF EXISTS atomic.by_batch, atomic.by_session, atomic.by_visitor, atomic.by_event, atomic.by_root,
               atomic.by_page;"
        );
        if case.batch_index {
            let _ = write!(
                sql,
                "CREATE INDEX by_batch ON atomic.events (({}));",
                case.batch.expression()
            );
        }
        if case.key_indexes {
            let _ = write!(
                sql,
                "CREATE INDEX by_session ON atomic.events (domain_sessionid);
                 CREATE INDEX by_visitor ON atomic.events (domain_userid);
                 CREATE INDEX by_event ON atomic.events (event_id);
                 CREATE INDEX by_root ON {CONTEXTS} (root_id);
                 CREATE INDEX by_page ON {CONTEXTS} (id);"
            );
        }
        db.sql(&sql).await;
        let workflows = case.playbooks.iter().map(|&place| {
            let playbook = &PLAYBOOKS[place];
            (playbook, parse(&playbook.text(case)))
        });
        let workflows: Vec<_> = workflows.collect();
        for (playbook, workflow) in &workflows {
            // Which batches a run takes the manifest does not say in the end, where it has no rows of old ones.
            let made = stepwell_runner::init(workflow, &db.options(&RunOptions::default())).await;
            made.expect("the host's tables are made");
            let manifest = playbook.manifest(case);
            db.sql(&format!(
                "DROP TRIGGER IF EXISTS take ON {manifest};
                 CREATE TRIGGER take AFTER INSERT OR UPDATE OF run_id ON {manifest}
                 FOR EACH ROW EXECUTE FUNCTION model.take()"
            ))
            .await;
        }
        Self {
            db,
            case,
            workflows,
        }
    }

    /// Inserts events. `row` numbers all rows of a case.
    async fn land(&self, batch: Option<i64>, events: &[Event], row: &mut u32) {
        if events.is_empty() {
            return;
        }
        let optional = |prefix: &str, number: Option<u8>| match number {
            Some(number) => format!("'{prefix}{number}'"),
            None => "CAST(NULL AS text)".to_owned(),
        };
        let time =
            |minute: Option<i64>| minute.map_or("CAST(NULL AS timestamp)".to_owned(), at_minute);
        let (mut rows, mut contexts) = (Vec::new(), Vec::new());
        for event in events {
            *row += 1;
            rows.push(format!(
                "('', '', {tracker}, {batch}, {batch}, {time}, {derived}, 'e{id}', '{name}', {session}, {visitor}, {user}, '/{id}/{variant}',
                  {variant} * 50, 600, 1000, '{row}')",
                // In no order, and the same for the same batch.
                tracker = batch.map_or("CAST(NULL AS text)".to_owned(), |batch| format!("md5('{batch}')")),
                batch = time(batch),
                time = time(event.time),
                derived = time(event.derived),
                id = event.id,
                name = if event.ping { "page_ping" } else { "page_view" },
                session = optional("s", event.session),
                visitor = optional("v", event.visitor),
                user = optional("u", event.user),
                variant = event.variant,
            ));
            for page in &event.pages {
                contexts.push(format!(
                    "('', '', '', '', 'e{}', coalesce({}, 'epoch'), '', '', '', 'p{page}')",
                    event.id,
                    time(event.time)
                ));
            }
        }
        let mut sql = format!(
            "INSERT INTO atomic.events (v_collector, v_etl, v_tracker, etl_tstamp, load_tstamp, collector_tstamp, derived_tstamp, event_id, event_name,
               domain_sessionid, domain_userid, user_id, page_url, pp_yoffset_max, br_viewheight, doc_height, se_label)
             VALUES {};",
            rows.join(", ")
        );
        if !contexts.is_empty() {
            let _ = write!(sql, "INSERT INTO {CONTEXTS} VALUES {}", contexts.join(", "));
        }
        self.db.sql(&sql).await;
    }

    async fn delete(&self, condition: &str) {
        self.db
            .sql(&format!("DELETE FROM atomic.events WHERE {condition}"))
            .await;
    }

    async fn run(&self, run: &Run) -> Result<(), String> {
        let chosen = self
            .workflows
            .iter()
            .enumerate()
            .filter(|(at, _)| run.playbook.is_none_or(|place| place == *at));
        let options = RunOptions {
            as_of: Some(instant(run.as_of)),
            full_refresh: run.full_refresh,
            max_batches: run.max_batches,
            ..RunOptions::default()
        };
        let runs = chosen.map(|(_, (playbook, workflow))| {
            let options = &options;
            async move {
                let wrong = |why: String| format!("{}: {why}", playbook.name);
                let floor = self.floor(playbook, run).await;
                let (stopper, stop) = stepwell_runner::stop();
                let observer = StopAfter {
                    pass: run.stop_after,
                    stopper,
                };
                let (components, options) = (components(), self.db.options(options));
                let ran = stepwell_runner::run(workflow, &components, &options, &observer, stop);
                let ended = match ran.await {
                    Ok(report) => Some(report.run_id),
                    Err(error) if matches!(*error.problem, Problem::Stopped { .. }) => None,
                    Err(error) => {
                        let help = error.help().unwrap_or_default();
                        return Err(wrong(format!("{error}: {:?}; {help}", error.problem)));
                    }
                };
                self.note(playbook, run).await;
                if let Some(run_id) = ended {
                    let found = self.found(playbook, run, floor, &run_id).await;
                    found.map_err(wrong)?;
                }
                self.equal(playbook, run).await.map_err(wrong)
            }
        });
        let all = futures_util::future::join_all(runs).await;
        all.into_iter().collect()
    }

    /// The time from which on new batches are looked for, as an SQL expression; none before the first batch.
    async fn floor(&self, playbook: &Playbook, run: &Run) -> Option<String> {
        let manifest = playbook.manifest(self.case);
        let there = format!("CASE WHEN to_regclass('{manifest}') IS NULL THEN 0 ELSE 1 END");
        if run.full_refresh || self.db.number(&there).await == 0 {
            return None;
        }
        let as_of = at_minute(run.as_of);
        let floor = format!(
            "SELECT (coalesce(max(last_time::timestamp) FILTER (WHERE last_time <= {as_of}), '0001-01-01')
               - interval '{} hours')::text AS floor
             FROM {manifest} WHERE playbook = '{}' HAVING count(*) > 0",
            self.case.lookback_hours, playbook.name
        );
        let rows = self.db.rows(&floor).await;
        let floor = rows.first()?[0].as_deref()?;
        Some(format!("timestamp '{floor}'"))
    }

    /// The condition that a batch is processed: it has a row in the manifest, or stands before one that stands for all
    /// before it.
    fn is_processed(&self, playbook: &Playbook, batch: &str) -> String {
        let (name, manifest) = (playbook.name, playbook.manifest(self.case));
        let has_row =
            format!("{batch} IN (SELECT batch FROM {manifest} WHERE playbook = '{name}')");
        match self.folded(playbook) {
            None => has_row,
            Some(folded) => format!("({has_row} OR {batch} < {folded})"),
        }
    }

    /// The batch whose row stands for all before it, as an SQL expression; none where each batch has a row.
    fn folded(&self, playbook: &Playbook) -> Option<String> {
        let (name, manifest) = (playbook.name, playbook.manifest(self.case));
        self.case.retain_hours.map(|_| {
            format!(
                "(SELECT batch FROM {manifest} WHERE playbook = '{name}' AND before_batches IS NOT NULL)"
            )
        })
    }

    /// Notes which events the batches had that were processed by the run. A batch that was never processed and counts as
    /// processed by its name is noted without any: its events are unsettled until they are found.
    async fn note(&self, playbook: &Playbook, run: &Run) {
        let (name, manifest) = (playbook.name, playbook.manifest(self.case));
        let expression = self.case.batch.expression();
        let batch = format!("({expression})::text");
        let gone = match run.full_refresh {
            true => format!("DELETE FROM model.gone WHERE playbook = '{name}'"),
            false => format!(
                "INSERT INTO model.gone SELECT s.* FROM model.seen AS s
                 WHERE s.playbook = '{name}'
                   AND NOT EXISTS (SELECT FROM model.noted AS n WHERE n.playbook = '{name}' AND n.batch = {batch})
                   AND NOT EXISTS (SELECT FROM atomic.events AS e WHERE e.se_label = s.se_label)"
            ),
        };
        let (before, never) = match self.folded(playbook) {
            None => (String::new(), String::new()),
            Some(folded) => (
                format!(" OR n.batch::timestamp < {folded}"),
                format!(
                    "INSERT INTO model.noted SELECT DISTINCT '{name}', {batch}, false FROM atomic.events
                     WHERE {expression} < {folded} AND collector_tstamp IS NOT NULL
                       AND {batch} NOT IN (SELECT batch FROM model.noted WHERE playbook = '{name}');"
                ),
            ),
        };
        let taken = format!("SELECT batch FROM model.taken WHERE playbook = '{name}'");
        self.db
            .sql(&format!(
                "DELETE FROM model.noted AS n WHERE n.playbook = '{name}' AND (n.batch IN ({taken}) OR NOT coalesce(
                   n.batch IN (SELECT batch::text FROM {manifest} WHERE playbook = '{name}'){before}, false));
                 {gone};
                 DELETE FROM model.seen AS s WHERE s.playbook = '{name}' AND NOT EXISTS (
                   SELECT FROM model.noted AS n WHERE n.playbook = '{name}' AND n.batch = {batch});
                 INSERT INTO model.seen SELECT '{name}', e.* FROM atomic.events AS e WHERE {batch} IN ({taken});
                 INSERT INTO model.noted SELECT DISTINCT '{name}', batch, true FROM ({taken}) AS taken;
                 {never}
                 DELETE FROM model.taken WHERE playbook = '{name}'"
            ))
            .await;
    }

    /// Whether a table may differ from a rebuild, since events are gone or were not found.
    async fn anything_unsettled(&self) -> bool {
        for (playbook, _) in &self.workflows {
            let unsettled = format!(
                "WITH {} SELECT count(*) FROM unsettled",
                self.given(playbook)
            );
            if self.db.number(&unsettled).await > 0 {
                return true;
            }
        }
        false
    }

    /// Asserts that what is within the lookback was found, new or grown, but for what may still be loaded: that was left
    /// alone, and is found by a later run, wherever the lookback lies by then.
    async fn found(
        &self,
        playbook: &Playbook,
        run: &Run,
        floor: Option<String>,
        run_id: &str,
    ) -> Result<(), String> {
        let floor = floor.unwrap_or_else(|| "timestamp '-infinity'".to_owned());
        let expression = self.case.batch.expression();
        let (seen, counted) = match (self.case.batch_index, run.full_refresh) {
            (_, true) => ("true", "true"),
            // All of them are walked.
            (true, false) if self.case.batch == Batch::Id => ("true", "true"),
            // Batches are times, none before its events, but for those that are made up to be.
            (true, false) => ("b.batch >= b.floor", "b.batch >= b.floor"),
            // Only events since the floor are counted.
            (false, false) => ("true", "b.inside > b.noted"),
        };
        let (name, manifest) = (playbook.name, playbook.manifest(self.case));
        // A batch that settles keeps those back whose events would move the lookback past its own.
        let settling = match self.case.settle_minutes {
            None => "false".to_owned(),
            Some(minutes) => format!(
                "coalesce(max(load_tstamp) > {} - interval '{minutes} minutes', false)",
                at_minute(run.as_of)
            ),
        };
        let reach = match (self.case.batch_index, self.case.batch) {
            (false, _) => "min(b.last) FILTER (WHERE b.last >= b.floor)",
            (true, Batch::Id) => "min(b.last)",
            (true, _) => "min(least(b.last, b.batch))",
        };
        // One that has been folded was so old that it was not looked at before either, if it has grown.
        let without_row = match self.folded(playbook) {
            None => "false".to_owned(),
            Some(folded) => format!(
                "coalesce(c.batch < {folded}, false) AND c.batch::text IN (
                   SELECT batch FROM model.noted WHERE playbook = '{name}' AND processed)"
            ),
        };
        let batches = format!(
            "WITH counted AS (
               SELECT {expression} AS batch, count(collector_tstamp) AS events, max(collector_tstamp) AS last,
                 count(*) FILTER (WHERE collector_tstamp >= f.floor) AS inside, {settling} AS settling, f.floor
               FROM atomic.events CROSS JOIN (SELECT {floor} AS floor) AS f
               WHERE {expression} IS NOT NULL GROUP BY 1, f.floor HAVING count(collector_tstamp) > 0
             ), b AS (
               SELECT c.*, m.events AS noted, m.last_time, m.run_id, {without_row} AS without_row
               FROM counted AS c LEFT JOIN {manifest} AS m ON m.playbook = '{name}' AND m.batch = c.batch
             ), kept AS (
               SELECT b.*, b.settling OR coalesce(b.last > (
                 SELECT {reach} + interval '{hours} hours' FROM b
                 WHERE b.settling AND (b.noted IS NULL OR b.events > b.noted)
               ), false) AS waits
               FROM b
             )",
            hours = self.case.lookback_hours,
        );
        let wrong = format!(
            "{batches}
             SELECT CASE WHEN b.settling THEN 'too early' WHEN b.waits THEN 'out of turn' ELSE 'not found' END AS why,
               b.batch::text AS batch, b.events AS has, b.noted, b.floor::text AS floor
             FROM kept AS b
             WHERE CASE
               WHEN b.settling THEN b.run_id = '{run_id}' AND NOT {full_refresh}
               WHEN b.waits THEN false
               WHEN b.noted IS NULL THEN NOT b.without_row AND b.last >= b.floor AND {seen}
                 OR NOT b.without_row AND b.batch::text IN (SELECT batch FROM model.left_alone WHERE playbook = '{name}')
               ELSE b.events > b.noted AND b.last_time >= b.floor AND {counted} END",
            full_refresh = run.full_refresh,
        );
        let wrong = self.db.rows(&wrong).await;
        if !wrong.is_empty() {
            return Err(format!(
                "batches that were not taken as they should be: {wrong:?}"
            ));
        }
        // A batch that does not settle is not within reach because another one is.
        let remember = format!(
            "DELETE FROM model.left_alone WHERE playbook = '{name}';
             INSERT INTO model.left_alone {batches}
             SELECT '{name}', b.batch::text FROM kept AS b
             WHERE b.settling AND b.noted IS NULL AND b.last >= b.floor AND {seen}"
        );
        self.db.sql(&remember).await;
        Ok(())
    }

    /// What the SQL of a playbook sees.
    fn given(&self, playbook: &Playbook) -> String {
        let name = playbook.name;
        let batch = self.case.batch.expression();
        let processed = self.is_processed(playbook, batch);
        format!(
            "counted AS (
               SELECT *, ctid AS place FROM atomic.events
               WHERE collector_tstamp IS NOT NULL
                 AND {processed}
             ), once AS (
               SELECT * FROM (
                 SELECT *, row_number() OVER (
                   PARTITION BY domain_sessionid, event_id ORDER BY collector_tstamp, etl_tstamp, place) AS nth
                 FROM counted WHERE domain_sessionid IS NOT NULL
               ) AS copies
               WHERE nth = 1
             ), page AS (
               SELECT root_id, min(id) AS id FROM {CONTEXTS} GROUP BY root_id HAVING count(DISTINCT coalesce(id, '-')) = 1
             ), unsettled AS (
               SELECT * FROM model.gone WHERE playbook = '{name}'
               UNION ALL
               SELECT * FROM model.seen AS s
               WHERE playbook = '{name}' AND NOT EXISTS (SELECT FROM atomic.events AS e WHERE e.se_label = s.se_label)
               UNION ALL
               SELECT '{name}', e.* FROM atomic.events AS e
               WHERE ({batch})::text IN (SELECT batch FROM model.noted WHERE playbook = '{name}')
                 AND NOT EXISTS (SELECT FROM model.seen AS s WHERE s.playbook = '{name}' AND s.se_label = e.se_label)
             )"
        )
    }

    /// Asserts that the derived table has the rows that plain SQL says, but for keys with unsettled events.
    async fn equal(&self, playbook: &Playbook, run: &Run) -> Result<(), String> {
        let (table, key) = (playbook.table, playbook.key);
        let there = format!("CASE WHEN to_regclass('derived.{table}') IS NULL THEN 0 ELSE 1 END");
        if self.db.number(&there).await == 0 {
            // Nothing was ever processed, which `found` has looked at.
            return Ok(());
        }
        // A frozen row is as it was when its key was shorter; it is there all the same.
        let frozen = playbook.frozen(self.case).filter(|_| !run.full_refresh);
        let spared = match &frozen {
            None => playbook.unsettled.to_owned(),
            Some(frozen) => format!("{} UNION {frozen}", playbook.unsettled),
        };
        if let Some(frozen) = &frozen {
            let missing = format!(
                "WITH {given}, expected AS ({rows})
                 SELECT * FROM ({frozen}) AS f
                 WHERE ({key}) IN (SELECT {key} FROM expected)
                   AND ({key}) NOT IN (SELECT {key} FROM derived.{table}) AND ({key}) NOT IN ({unsettled})",
                given = self.given(playbook),
                rows = playbook.rows(self.case),
                unsettled = playbook.unsettled,
            );
            let missing = self.db.rows(&missing).await;
            if !missing.is_empty() {
                return Err(format!("frozen rows are missing: {missing:?}"));
            }
        }
        let differing = format!(
            "WITH {given}, expected AS ({rows}), spared AS ({spared})
             SELECT 'derived' AS which, row_to_json(a)::text AS row
             FROM (TABLE derived.{table} EXCEPT ALL TABLE expected) AS a
             WHERE ({key}) NOT IN (TABLE spared)
             UNION ALL
             SELECT 'expected', row_to_json(b)::text
             FROM (TABLE expected EXCEPT ALL TABLE derived.{table}) AS b
             WHERE ({key}) NOT IN (TABLE spared)",
            given = self.given(playbook),
            rows = playbook.rows(self.case),
        );
        let differing = self.db.rows(&differing).await;
        if differing.is_empty() {
            return Ok(());
        }
        let lines: Vec<_> = differing
            .iter()
            .map(|row| format!("{row:?}").replace("\\\"", "'"))
            .collect();
        Err(format!("rows differ:\n{}", lines.join("\n")))
    }
}

/// Asks the run to stop when a pass is committed.
struct StopAfter {
    pass: Option<u32>,
    stopper: Stopper,
}

impl Observer for StopAfter {
    fn event(&self, _: &str, event: &RunEvent<'_>) {
        if let RunEvent::Committed { pass } = event
            && Some(*pass) == self.pass
        {
            self.stopper.stop("the case");
        }
    }
}

/// A time of the source as an SQL expression.
fn at_minute(minute: i64) -> String {
    format!("(timestamp '2024-01-01' + {minute} * interval '1 minute')")
}

fn instant(minute: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_704_067_200 + 60 * minute).expect("a time of this century")
}
