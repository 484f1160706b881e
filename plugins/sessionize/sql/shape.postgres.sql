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

-- rows by visitor, day, ordered by at, id, campaign
--   reads scratch.sessions__visitor_day_ids, atomic.events, scratch.sessions__batches, derived.manifest
SELECT
  e.stepwell_key_1 AS visitor,
  e.stepwell_key_2 AS day,
  derived_tstamp AS at,
  event_id AS id,
  event_name AS event,
  mkt_campaign AS campaign,
  collector_tstamp AS source_time
FROM (
  SELECT DISTINCT ON (e.stepwell_key_1, e.stepwell_key_2, e.event_id) e.stepwell_key_1, e.stepwell_key_2, e.event_id, e.event_name, e.derived_tstamp, e.collector_tstamp, e.mkt_campaign
  FROM (
    SELECT e.*, (etl_tstamp) AS stepwell_batch, e.ctid AS stepwell_place, (domain_userid) AS stepwell_key_1, (derived_tstamp::date) AS stepwell_key_2
    FROM atomic.events AS e
  ) AS e
  WHERE e.stepwell_key_1 IS NOT NULL
    AND e.stepwell_key_2 IS NOT NULL
    AND e.collector_tstamp IS NOT NULL
    AND e.stepwell_batch IN (SELECT batch FROM scratch.sessions__batches)
  ORDER BY e.stepwell_key_1, e.stepwell_key_2, e.event_id, e.collector_tstamp, e.stepwell_place
) AS e;

-- fills visitor_sessions
--   visitor text NOT NULL
--   day date NOT NULL
--   session bigint NOT NULL
--   began_by text NOT NULL
--   start_time timestamp NOT NULL
--   end_time timestamp NOT NULL
--   events bigint NOT NULL
--   page_views bigint NOT NULL
--   campaign text
--   first_time timestamp NOT NULL
