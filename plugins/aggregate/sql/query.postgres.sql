-- question: columns of atomic.events
SELECT
    a.attname::text AS name,
    format_type(a.atttypid, a.atttypmod) AS type,
    a.atttypid::int8 AS type_oid,
    c.relkind::text AS kind
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid
WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum;
-- $1: Param::Text("atomic")
-- $2: Param::Text("events")

-- statement: clear sessions__views__events
--   writes scratch.sessions__views__events
DROP TABLE IF EXISTS scratch.sessions__views__events;

-- statement: collect events
--   reads scratch.sessions__ids, atomic.events, scratch.sessions__batches, derived.manifest, atomic.web_page
--   writes scratch.sessions__views__events
CREATE UNLOGGED TABLE scratch.sessions__views__events AS
SELECT DISTINCT ON (e.event_id) e.event_id, e.derived_tstamp
FROM scratch.sessions__ids AS ids
JOIN (
  SELECT e.*, (etl_tstamp) AS stepwell_batch, e.ctid AS stepwell_place, (page.id) AS stepwell_key_1
  FROM atomic.events AS e
  LEFT JOIN (SELECT root_id AS stepwell_event, id FROM atomic.web_page) AS page
    ON page.stepwell_event = e.event_id
) AS e
  ON e.stepwell_key_1 = ids.page_view_id
  AND e.collector_tstamp >= ids.since
WHERE e.collector_tstamp >= (SELECT min(since) FROM scratch.sessions__ids)
  AND (e.stepwell_batch IN (SELECT batch FROM scratch.sessions__batches)
  OR e.stepwell_batch IN (SELECT batch FROM derived.manifest WHERE playbook = 'sessions'))
ORDER BY e.event_id, e.collector_tstamp, e.etl_tstamp, e.stepwell_place;

-- statement: analyze sessions__views__events
--   writes scratch.sessions__views__events
ANALYZE scratch.sessions__views__events;

-- statement: clear sessions__views__page
--   writes scratch.sessions__views__page
DROP TABLE IF EXISTS scratch.sessions__views__page;

-- statement: collect page
--   reads atomic.web_page, scratch.sessions__views__events
--   writes scratch.sessions__views__page
CREATE UNLOGGED TABLE scratch.sessions__views__page AS
SELECT stepwell_event, id
FROM (
  SELECT one.*, count(*) OVER (PARTITION BY one.stepwell_event) AS stepwell_rows
  FROM (
    SELECT DISTINCT c.root_id AS stepwell_event, c.id
    FROM atomic.web_page AS c
    JOIN (SELECT DISTINCT event_id AS id FROM scratch.sessions__views__events) AS e
      ON e.id = c.root_id
  ) AS one
) AS counted
WHERE stepwell_rows = 1;

-- statement: analyze sessions__views__page
--   writes scratch.sessions__views__page
ANALYZE scratch.sessions__views__page;

-- statement: clear sessions__views
--   writes scratch.sessions__views
DROP TABLE IF EXISTS scratch.sessions__views;

-- statement: compute rows
--   reads scratch.sessions__views__events, scratch.sessions__ids, scratch.sessions__views__page
--   writes scratch.sessions__views
CREATE UNLOGGED TABLE scratch.sessions__views AS
SELECT page.id AS page_view_id, min(e.derived_tstamp) AS start_at
FROM scratch.sessions__views__events AS e
JOIN scratch.sessions__views__page AS page ON page.stepwell_event = e.event_id
GROUP BY page.id;

-- statement: analyze sessions__views
--   writes scratch.sessions__views
ANALYZE scratch.sessions__views;

