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

-- statement: clear sessions__days__events
--   writes scratch.sessions__days__events
DROP TABLE IF EXISTS scratch.sessions__days__events;

-- statement: collect events
--   reads scratch.sessions__ids, atomic.events, scratch.sessions__batches, derived.manifest
--   writes scratch.sessions__days__events
CREATE UNLOGGED TABLE scratch.sessions__days__events AS
SELECT DISTINCT ON (e.stepwell_key_1, e.stepwell_key_2, e.event_id) e.event_id, e.domain_userid, e.derived_tstamp
FROM (
  SELECT e.*
  FROM scratch.sessions__ids AS ids
  JOIN (
    SELECT e.*, (etl_tstamp) AS stepwell_batch, e.ctid AS stepwell_place, (domain_userid) AS stepwell_key_1, (derived_tstamp::date) AS stepwell_key_2
    FROM atomic.events AS e
  ) AS e
    ON e.stepwell_key_1 = ids.visitor
    AND e.stepwell_key_2 = ids.day
    AND e.collector_tstamp >= ids.since
  WHERE e.collector_tstamp >= (SELECT min(since) FROM scratch.sessions__ids)
    AND (e.stepwell_batch IN (SELECT batch FROM scratch.sessions__batches)
    OR e.stepwell_batch IN (SELECT batch FROM derived.manifest WHERE playbook = 'sessions'))
) AS e
WHERE (event_name <> 'bot')
ORDER BY e.stepwell_key_1, e.stepwell_key_2, e.event_id, e.collector_tstamp, e.etl_tstamp, e.stepwell_place;

-- statement: analyze sessions__days__events
--   writes scratch.sessions__days__events
ANALYZE scratch.sessions__days__events (event_id);

-- statement: clear sessions__days__page
--   writes scratch.sessions__days__page
DROP TABLE IF EXISTS scratch.sessions__days__page;

-- statement: collect page
--   reads atomic.web_page, scratch.sessions__days__events
--   writes scratch.sessions__days__page
CREATE UNLOGGED TABLE scratch.sessions__days__page AS
SELECT stepwell_event, id
FROM (
  SELECT one.*, count(*) OVER (PARTITION BY one.stepwell_event) AS stepwell_rows
  FROM (
    SELECT DISTINCT c.root_id AS stepwell_event, c.id
    FROM atomic.web_page AS c
    JOIN (SELECT DISTINCT event_id AS id FROM scratch.sessions__days__events) AS e
      ON e.id = c.root_id
  ) AS one
) AS counted
WHERE stepwell_rows = 1;

-- statement: analyze sessions__days__page
--   writes scratch.sessions__days__page
ANALYZE scratch.sessions__days__page;

-- statement: clear sessions__days
--   writes scratch.sessions__days
DROP TABLE IF EXISTS scratch.sessions__days;

-- statement: compute rows
--   reads scratch.sessions__days__events, scratch.sessions__ids, scratch.sessions__days__page
--   writes scratch.sessions__days
CREATE UNLOGGED TABLE scratch.sessions__days AS
SELECT
  domain_userid AS visitor,
  derived_tstamp::date AS day,
  count(DISTINCT page.id) AS pages
FROM scratch.sessions__days__events AS e
LEFT JOIN scratch.sessions__days__page AS page
  ON page.stepwell_event = e.event_id
GROUP BY domain_userid, derived_tstamp::date;

-- statement: analyze sessions__days
--   writes scratch.sessions__days
ANALYZE scratch.sessions__days;

