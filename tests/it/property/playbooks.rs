//! The playbooks under test, each with the rows that plain SQL says it must have.
//!
//! The SQL is written by hand from what the workflow files mean, not from what the steps send: a mistake in a step must
//! not cancel itself out. It sees `counted`, the events with a time whose batch is in the manifest, `once`, those of them
//! that have a session, each once in it, `page`, the one page view that an event's context names, and `unsettled`, the
//! events that came to a processed batch or went from it since, and were not found.

use crate::harness::read;

use super::case::Case;

/// A playbook.
pub struct Playbook {
    pub name: &'static str,
    /// The derived table, without its schema.
    pub table: &'static str,
    /// Its key.
    pub key: &'static str,
    workflow: fn() -> String,
    /// Its rows, column by column in the table's order; `{last}` stands for the column that keeps a row's last time.
    rows: &'static str,
    /// The keys whose events lie more than `{days}` days apart; none where their rows cannot be frozen.
    runaway: Option<&'static str>,
    /// The keys whose rows depend on an unsettled event.
    pub unsettled: &'static str,
}

impl Playbook {
    /// Returns the workflow file's text for a case.
    pub fn text(&self, case: &Case) -> String {
        let text = (self.workflow)().replace(
            "lookback: 7 days",
            &format!("lookback: {}h", case.lookback_hours),
        );
        let text = text.replace(
            "batch: etl_tstamp",
            &format!("batch: {}", case.batch.expression()),
        );
        let loaded_at = match case.batch.is_load_time() {
            true => "",
            false => ", loaded-at: load_tstamp",
        };
        let settle = case.settle_minutes.map_or_else(String::new, |minutes| {
            format!(", settle: {minutes} minutes{loaded_at}")
        });
        let retain = (case.retain_hours)
            .map_or_else(String::new, |hours| format!(", retain: {hours} hours"));
        let text = text.replace(
            "into: batches }",
            &format!("into: batches{settle}{retain} }}"),
        );
        let table = self.table;
        let text = match self.last(case) {
            None => text,
            Some(_) => text
                .replace(
                    "        first_collector_tstamp: min(collector_tstamp)\n",
                    "        first_collector_tstamp: min(collector_tstamp)\n        last_at: max(collector_tstamp)\n",
                )
                .replace("AS first_at, count(*)", "AS first_at, max(e.collector_tstamp) AS last_at, count(*)")
                .replace(
                    "      since: ",
                    &format!("      until: derived.{table}.last_at\n      since: "),
                ),
        };
        let text = match (case.freeze_days, self.runaway) {
            (Some(days), Some(_)) => text.replace(
                "      since: ",
                &format!(
                    "      runaway: {{ longer-than: {days} days, then: freeze }}\n      since: "
                ),
            ),
            _ => text,
        };
        // What defrag does changes no row, and takes longer than everything else.
        let text = text.split("\n  - id: defrag").next().unwrap_or_default();
        format!("{text}\nmanifest: {}\n", self.manifest(case))
    }

    /// Returns the SELECT of its rows for a case.
    pub fn rows(&self, case: &Case) -> String {
        let last = self.last(case).unwrap_or_default();
        // In the days of visitors it is the last column.
        let at_the_end = last.trim_end_matches(',');
        let comma = if last.is_empty() { "" } else { "," };
        self.rows
            .replace("{last_of_all}", &format!("{comma}{at_the_end}"))
            .replace("{last}", last)
    }

    /// Returns the SELECT of the keys whose rows may be frozen.
    pub fn frozen(&self, case: &Case) -> Option<String> {
        let (runaway, days) = (self.runaway?, case.freeze_days?);
        Some(runaway.replace("{days}", &days.to_string()))
    }

    /// The column that keeps a row's last time; none where nothing goes by it, or rows may be frozen.
    fn last(&self, case: &Case) -> Option<&'static str> {
        if !case.until || self.frozen(case).is_some() {
            return None;
        }
        match self.name {
            "sessions" | "visitor_days" => Some(" max(collector_tstamp) AS last_at,"),
            "stitched" => Some(" max(s.collector_tstamp) AS last_at,"),
            _ => None,
        }
    }

    /// Returns the table of its processed batches.
    pub fn manifest(&self, case: &Case) -> String {
        match case.own_manifests {
            true => format!("derived.{}_manifest", self.name),
            false => "derived.manifest".to_owned(),
        }
    }
}

/// All of them.
pub const PLAYBOOKS: [Playbook; 4] = [
    Playbook {
        name: "sessions",
        table: "sessions",
        key: "session_id",
        workflow: || read("sessions.yaml"),
        rows: "
            SELECT domain_sessionid AS session_id, min(domain_userid) AS domain_userid, min(derived_tstamp) AS start_tstamp,
              max(derived_tstamp) AS end_tstamp, min(collector_tstamp) AS first_collector_tstamp,{last} count(*) AS events,
              sum(CASE event_name WHEN 'page_view' THEN 1 ELSE 0 END)::bigint AS page_views,
              count(DISTINCT page.id) AS pages,
              10 * sum(CASE event_name WHEN 'page_ping' THEN 1 ELSE 0 END)::bigint AS engaged_seconds,
              (SELECT f.page_url FROM once AS f
               WHERE f.domain_sessionid = once.domain_sessionid AND f.event_name = 'page_view'
               ORDER BY f.derived_tstamp, f.event_id LIMIT 1) AS first_page_url
            FROM once
            LEFT JOIN page ON page.root_id = once.event_id
            GROUP BY domain_sessionid",
        runaway: Some("
            SELECT domain_sessionid AS session_id FROM counted WHERE domain_sessionid IS NOT NULL
            GROUP BY 1 HAVING max(collector_tstamp) - min(collector_tstamp) > interval '{days} days'"),
        unsettled: "SELECT domain_sessionid AS session_id FROM unsettled WHERE domain_sessionid IS NOT NULL",
    },
    Playbook {
        name: "visitor_days",
        table: "visitor_days",
        key: "visitor, day",
        workflow: || read("visitor_days.yaml"),
        rows: "
            SELECT domain_userid AS visitor, derived_tstamp::date AS day, count(DISTINCT domain_sessionid) AS sessions,
              count(nullif(event_name = 'page_view', false)) AS page_views, count(*) AS events,
              min(collector_tstamp) AS first_collector_tstamp{last_of_all}
            FROM (
              SELECT *, row_number() OVER (
                PARTITION BY domain_userid, derived_tstamp::date, event_id ORDER BY collector_tstamp, etl_tstamp, place) AS nth
              FROM counted
            ) AS copies
            WHERE nth = 1 AND domain_userid IS NOT NULL AND derived_tstamp IS NOT NULL
            GROUP BY 1, 2",
        runaway: Some("
            SELECT domain_userid AS visitor, derived_tstamp::date AS day FROM counted
            WHERE domain_userid IS NOT NULL AND derived_tstamp IS NOT NULL
            GROUP BY 1, 2 HAVING max(collector_tstamp) - min(collector_tstamp) > interval '{days} days'"),
        unsettled: "
            SELECT domain_userid AS visitor, derived_tstamp::date AS day FROM unsettled
            WHERE domain_userid IS NOT NULL AND derived_tstamp IS NOT NULL",
    },
    Playbook {
        name: "page_views",
        table: "page_views",
        key: "page_view_id",
        workflow: || read("page_views.yaml"),
        rows: "
            SELECT page.id AS page_view_id, min(domain_sessionid) AS session_id, min(domain_userid) AS domain_userid,
              min(derived_tstamp) AS start_tstamp, max(derived_tstamp) AS end_tstamp,
              min(collector_tstamp) AS first_collector_tstamp,
              10 * sum(CASE event_name WHEN 'page_ping' THEN 1 ELSE 0 END)::bigint AS engaged_seconds,
              max(least(100, 100 * (pp_yoffset_max + br_viewheight) / nullif(doc_height, 0))) AS scrolled_percent,
              (array_agg(page_url ORDER BY event_name = 'page_view' DESC, derived_tstamp, event_id)
               FILTER (WHERE event_name = 'page_view'))[1] AS page_url
            FROM (
              SELECT *, row_number() OVER (PARTITION BY event_id ORDER BY collector_tstamp, etl_tstamp, place) AS nth
              FROM counted
            ) AS copies
            JOIN page ON page.root_id = copies.event_id
            WHERE nth = 1 AND page.id IS NOT NULL
            GROUP BY page.id",
        runaway: Some("
            SELECT c.id AS page_view_id FROM counted JOIN atomic.com_snowplowanalytics_snowplow_web_page_1 AS c ON c.root_id = event_id
            GROUP BY 1 HAVING max(collector_tstamp) - min(collector_tstamp) > interval '{days} days'"),
        unsettled: "
            SELECT c.id AS page_view_id FROM unsettled
            JOIN atomic.com_snowplowanalytics_snowplow_web_page_1 AS c ON c.root_id = event_id",
    },
    Playbook {
        name: "stitched",
        table: "stitched",
        key: "session_id",
        workflow: || STITCHED.to_owned(),
        rows: "
            SELECT s.domain_sessionid AS session_id, min(s.collector_tstamp) AS first_at,{last} count(*) AS events,
              max(s.domain_userid) AS visitor, max((
                SELECT u.user_id FROM once AS u
                WHERE u.domain_userid = s.domain_userid AND u.user_id IS NOT NULL
                ORDER BY u.collector_tstamp DESC, u.event_id DESC, u.user_id DESC LIMIT 1)) AS known_as
            FROM once AS s
            GROUP BY s.domain_sessionid",
        runaway: None,
        unsettled: "
            SELECT e.domain_sessionid AS session_id
            FROM (SELECT domain_sessionid, domain_userid FROM counted
                  UNION SELECT domain_sessionid, domain_userid FROM unsettled) AS e
            WHERE e.domain_sessionid IN (SELECT domain_sessionid FROM unsettled)
              OR e.domain_userid IN (SELECT domain_userid FROM unsettled)",
    },
];

/// Sessions with who their visitor turned out to be: a row depends on events of other sessions.
const STITCHED: &str = "
stepwell: 1
playbook: stitched
source:
  events: atomic.events
  batch: etl_tstamp
  time: collector_tstamp
  event-id: event_id
  lookback: 7 days
steps:
  - { id: new-batches, uses: diff-manifest, with: { into: batches } }
  - id: ids
    uses: collect-ids
    with:
      batches: batches
      key: { session_id: domain_sessionid }
      into: ids
      since: derived.stitched.first_at
      expand-by: [domain_userid]
      read-also: { into: read, expand-by: [domain_userid] }
  - id: rows
    uses: aggregate
    with:
      ids: ids
      read-also: read
      into: rows
      dedupe: { by: event_id, earliest: [collector_tstamp, etl_tstamp] }
      query: >-
        WITH users AS (
          SELECT DISTINCT ON (domain_userid) domain_userid, user_id
          FROM {{ events }}
          WHERE user_id IS NOT NULL AND domain_userid IS NOT NULL
          ORDER BY domain_userid, collector_tstamp DESC, event_id DESC, user_id DESC
        )
        SELECT e.domain_sessionid AS session_id, min(e.collector_tstamp) AS first_at, count(*) AS events,
          max(e.domain_userid) AS visitor, max(u.user_id) AS known_as
        FROM {{ events }} AS e
        LEFT JOIN users AS u USING (domain_userid)
        GROUP BY e.domain_sessionid
  - id: commit
    uses: commit
    with: { replace: [{ table: derived.stitched, from: rows, ids: ids }], manifest: batches }
";
