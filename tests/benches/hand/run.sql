-- One run of both models by hand: sessions and visitor-days, kept up to date batch by batch.
--
--     psql -X -f run.sql
--
-- The way of the well-known tutorial. New batches are those of the last seven days that the manifest does not have;
-- their keys are recomputed in full from the last seven days; old rows are replaced in the transaction that records
-- the batches. Each step is a table of its own, analysed, so that the planner knows how little there is to do: as one
-- statement with CTEs it guesses, and the join with the page context may become a nested loop over millions of pairs.
--
-- As in the tutorial, nothing keeps two runs apart, and what arrives more than seven days late is not seen.

\set ON_ERROR_STOP on
\set QUIET on
SET client_min_messages = warning;

-- A literal, so that the planner sees it. Both playbooks look as far back as the one that is further behind; a playbook
-- with an empty manifest is built, from everything.
SELECT
    CASE WHEN count(newest) = 2 THEN min(newest) - interval '7 days' ELSE '-infinity' END AS since,
    count(newest) < 2 AS first_build
FROM (
    SELECT max(manifest.etl_tstamp) AS newest
    FROM (VALUES ('sessions'), ('visitor_days')) AS playbooks (playbook)
    LEFT JOIN hand_derived.manifest USING (playbook)
    GROUP BY playbook
) AS newest_by_playbook
\gset

-- A first build wants every row, which no index gives faster than a scan. Postgres has no statistics on pairs of visitor
-- and day, takes a million rows for forty thousand and would look each pair up in the index on domain_userid: 38 s.
\if :first_build
SET enable_nestloop = off;
\endif

-- CREATE TABLE AS rather than INSERT, here and below: only it may use a parallel plan.
DROP TABLE IF EXISTS hand_scratch.recent_batches;
CREATE UNLOGGED TABLE hand_scratch.recent_batches AS
SELECT etl_tstamp, count(*) AS events
FROM atomic.events
WHERE collector_tstamp >= :'since'
GROUP BY etl_tstamp;

SELECT
    coalesce(bool_or(NOT EXISTS (
        SELECT FROM hand_derived.manifest
        WHERE playbook = 'sessions' AND manifest.etl_tstamp = recent_batches.etl_tstamp
    )), false) AS sessions_pending,
    coalesce(bool_or(NOT EXISTS (
        SELECT FROM hand_derived.manifest
        WHERE playbook = 'visitor_days' AND manifest.etl_tstamp = recent_batches.etl_tstamp
    )), false) AS visitor_days_pending
FROM hand_scratch.recent_batches
\gset

\if :sessions_pending

DROP TABLE IF EXISTS hand_scratch.sessions_batches;
CREATE UNLOGGED TABLE hand_scratch.sessions_batches AS
SELECT etl_tstamp, events
FROM hand_scratch.recent_batches
WHERE NOT EXISTS (
    SELECT FROM hand_derived.manifest
    WHERE playbook = 'sessions' AND manifest.etl_tstamp = recent_batches.etl_tstamp
);
ANALYZE hand_scratch.sessions_batches;

DROP TABLE IF EXISTS hand_scratch.session_ids;
CREATE UNLOGGED TABLE hand_scratch.session_ids AS
SELECT DISTINCT domain_sessionid
FROM atomic.events
WHERE collector_tstamp >= :'since'
  AND etl_tstamp IN (SELECT etl_tstamp FROM hand_scratch.sessions_batches)
  AND domain_sessionid IS NOT NULL;
ANALYZE hand_scratch.session_ids;

-- Of the copies of an event the first collected counts. They are of one session, so event_id alone tells them.
DROP TABLE IF EXISTS hand_scratch.session_events;
CREATE UNLOGGED TABLE hand_scratch.session_events AS
SELECT DISTINCT ON (event_id)
    event_id, domain_sessionid, domain_userid, derived_tstamp, collector_tstamp, event_name, page_url
FROM atomic.events
JOIN hand_scratch.session_ids USING (domain_sessionid)
WHERE collector_tstamp >= :'since'
ORDER BY event_id, collector_tstamp, etl_tstamp;
ANALYZE hand_scratch.session_events;

-- Two different page ids: nobody knows which one is right.
DROP TABLE IF EXISTS hand_scratch.page_ids;
CREATE UNLOGGED TABLE hand_scratch.page_ids AS
SELECT root_id, min(id) AS page_id
FROM atomic.com_snowplowanalytics_snowplow_web_page_1
WHERE root_tstamp >= :'since'
  AND root_id IN (SELECT event_id FROM hand_scratch.session_events)
GROUP BY root_id
HAVING min(id) = max(id);
ANALYZE hand_scratch.page_ids;

DROP TABLE IF EXISTS hand_scratch.sessions;
CREATE UNLOGGED TABLE hand_scratch.sessions AS
SELECT
    domain_sessionid AS session_id,
    min(domain_userid) AS domain_userid,
    min(derived_tstamp) AS start_tstamp,
    max(derived_tstamp) AS end_tstamp,
    min(collector_tstamp) AS first_collector_tstamp,
    count(*) AS events,
    count(*) FILTER (WHERE event_name = 'page_view') AS page_views,
    count(DISTINCT page_id) AS pages,
    10 * count(*) FILTER (WHERE event_name = 'page_ping') AS engaged_seconds,
    (array_agg(page_url ORDER BY derived_tstamp, event_id)
        FILTER (WHERE event_name = 'page_view'))[1] AS first_page_url
FROM hand_scratch.session_events
LEFT JOIN hand_scratch.page_ids ON page_ids.root_id = session_events.event_id
GROUP BY domain_sessionid;
ANALYZE hand_scratch.sessions;

BEGIN;
DELETE FROM hand_derived.sessions
USING hand_scratch.session_ids
WHERE sessions.session_id = session_ids.domain_sessionid;
INSERT INTO hand_derived.sessions
SELECT * FROM hand_scratch.sessions;
INSERT INTO hand_derived.manifest (playbook, etl_tstamp, events)
SELECT 'sessions', etl_tstamp, events FROM hand_scratch.sessions_batches;
COMMIT;

\endif

\if :visitor_days_pending

DROP TABLE IF EXISTS hand_scratch.visitor_days_batches;
CREATE UNLOGGED TABLE hand_scratch.visitor_days_batches AS
SELECT etl_tstamp, events
FROM hand_scratch.recent_batches
WHERE NOT EXISTS (
    SELECT FROM hand_derived.manifest
    WHERE playbook = 'visitor_days' AND manifest.etl_tstamp = recent_batches.etl_tstamp
);
ANALYZE hand_scratch.visitor_days_batches;

DROP TABLE IF EXISTS hand_scratch.visitor_day_ids;
CREATE UNLOGGED TABLE hand_scratch.visitor_day_ids AS
SELECT DISTINCT domain_userid AS visitor, derived_tstamp::date AS day
FROM atomic.events
WHERE collector_tstamp >= :'since'
  AND etl_tstamp IN (SELECT etl_tstamp FROM hand_scratch.visitor_days_batches)
  AND domain_userid IS NOT NULL;
ANALYZE hand_scratch.visitor_day_ids;

-- The copies of an event are of one visitor, but one sent again after midnight is of another day. Copies are therefore
-- told apart within their day: else a day's row would depend on which other days were recomputed with it.
DROP TABLE IF EXISTS hand_scratch.visitor_day_events;
CREATE UNLOGGED TABLE hand_scratch.visitor_day_events AS
SELECT DISTINCT ON (event_id, day)
    event_id, visitor, day, domain_sessionid, collector_tstamp, event_name
FROM atomic.events
JOIN hand_scratch.visitor_day_ids
    ON visitor_day_ids.visitor = events.domain_userid
    AND visitor_day_ids.day = events.derived_tstamp::date
WHERE collector_tstamp >= :'since'
ORDER BY event_id, day, collector_tstamp, etl_tstamp;
ANALYZE hand_scratch.visitor_day_events;

DROP TABLE IF EXISTS hand_scratch.visitor_days;
CREATE UNLOGGED TABLE hand_scratch.visitor_days AS
SELECT
    visitor,
    day,
    count(DISTINCT domain_sessionid) AS sessions,
    count(*) FILTER (WHERE event_name = 'page_view') AS page_views,
    count(*) AS events,
    min(collector_tstamp) AS first_collector_tstamp
FROM hand_scratch.visitor_day_events
GROUP BY visitor, day;
ANALYZE hand_scratch.visitor_days;

BEGIN;
DELETE FROM hand_derived.visitor_days
USING hand_scratch.visitor_day_ids
WHERE visitor_days.visitor = visitor_day_ids.visitor
  AND visitor_days.day = visitor_day_ids.day;
INSERT INTO hand_derived.visitor_days
SELECT * FROM hand_scratch.visitor_days;
INSERT INTO hand_derived.manifest (playbook, etl_tstamp, events)
SELECT 'visitor_days', etl_tstamp, events FROM hand_scratch.visitor_days_batches;
COMMIT;

\endif
