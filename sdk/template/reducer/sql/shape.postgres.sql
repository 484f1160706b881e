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

-- rows by session_id, ordered by at
--   reads scratch.sessions__session_ids, atomic.events, scratch.sessions__batches, derived.manifest
SELECT
  e.stepwell_key_1 AS session_id,
  derived_tstamp AS at,
  collector_tstamp AS source_time
FROM (
  SELECT DISTINCT ON (e.stepwell_key_1, e.event_id) e.stepwell_key_1, e.derived_tstamp, e.collector_tstamp
  FROM scratch.sessions__session_ids AS ids
  JOIN (
    SELECT e.*, (etl_tstamp) AS stepwell_batch, e.ctid AS stepwell_place, (domain_sessionid) AS stepwell_key_1
    FROM atomic.events AS e
  ) AS e
    ON e.stepwell_key_1 = ids.session_id
    AND e.collector_tstamp >= ids.since
  WHERE e.collector_tstamp >= (SELECT min(since) FROM scratch.sessions__session_ids)
    AND (e.stepwell_batch IN (SELECT batch FROM scratch.sessions__batches)
    OR e.stepwell_batch IN (SELECT batch FROM derived.manifest WHERE playbook = 'sessions'))
  ORDER BY e.stepwell_key_1, e.event_id, e.collector_tstamp, e.stepwell_place
) AS e;

-- fills pauses
--   session_id text NOT NULL
--   pauses bigint NOT NULL
--   longest_pause_seconds bigint
--   first_time timestamp NOT NULL
