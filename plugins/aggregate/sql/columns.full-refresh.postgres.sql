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

-- statement: clear sessions__sessions
--   writes scratch.sessions__sessions
DROP TABLE IF EXISTS scratch.sessions__sessions;

-- statement: compute rows
--   reads scratch.sessions__ids, atomic.events, scratch.sessions__batches, derived.manifest
--   writes scratch.sessions__sessions
CREATE UNLOGGED TABLE scratch.sessions__sessions AS
SELECT
  domain_sessionid AS session_id,
  min(derived_tstamp) AS start_tstamp,
  count(*) FILTER (WHERE event_name = 'page_view') AS page_views
FROM (
  SELECT DISTINCT ON (e.stepwell_key_1, e.event_id) e.event_id, e.domain_sessionid, e.event_name, e.derived_tstamp
  FROM scratch.sessions__ids AS ids
  JOIN (
    SELECT e.*, (etl_tstamp) AS stepwell_batch, e.ctid AS stepwell_place, (domain_sessionid) AS stepwell_key_1
    FROM atomic.events AS e
  ) AS e
    ON e.stepwell_key_1 = ids.session_id
    AND e.collector_tstamp >= ids.since
  WHERE e.collector_tstamp >= (SELECT min(since) FROM scratch.sessions__ids)
    AND e.stepwell_batch IN (SELECT batch FROM scratch.sessions__batches)
  ORDER BY e.stepwell_key_1, e.event_id, e.collector_tstamp, e.etl_tstamp, e.stepwell_place
) AS e
GROUP BY domain_sessionid;

-- statement: analyze sessions__sessions
--   writes scratch.sessions__sessions
ANALYZE scratch.sessions__sessions;

