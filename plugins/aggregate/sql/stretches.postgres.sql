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

-- question: stretches of time that hold the ids' events
WITH ids AS (
  SELECT CAST(since AS timestamp) AS since, CAST(until AS timestamp) AS until, CAST(again AS timestamp) AS again,
    until IS NOT NULL
      AND (again IS NULL OR CAST(again AS timestamp) - CAST(until AS timestamp) > '3600 seconds'::interval) AS is_split
  FROM scratch.sessions__ids
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
    gap IS NULL OR gap > '3600 seconds'::interval AND row_number() OVER (ORDER BY gap DESC NULLS FIRST) <= 16 AS begins
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
ORDER BY 1;

-- statement: clear sessions__sessions
--   writes scratch.sessions__sessions
DROP TABLE IF EXISTS scratch.sessions__sessions;

-- statement: compute rows
--   reads scratch.sessions__ids, atomic.events, scratch.sessions__batches, derived.manifest
--   writes scratch.sessions__sessions
CREATE UNLOGGED TABLE scratch.sessions__sessions AS
SELECT
  domain_sessionid AS session_id,
  count(*) AS n
FROM (
  SELECT 
  FROM scratch.sessions__ids AS ids
  JOIN (
    SELECT e.*, (etl_tstamp) AS stepwell_batch, (domain_sessionid) AS stepwell_key_1
    FROM atomic.events AS e
  ) AS e
    ON e.stepwell_key_1 = ids.session_id
    AND e.collector_tstamp >= ids.since
  WHERE (e.collector_tstamp >= CAST('2026-01-01 00:00:00' AS timestamp without time zone) AND e.collector_tstamp <= CAST('2026-01-01 00:20:00' AS timestamp without time zone)
  OR e.collector_tstamp >= CAST('2026-03-01 00:00:00' AS timestamp without time zone))
    AND (e.stepwell_batch IN (SELECT batch FROM scratch.sessions__batches)
    OR e.stepwell_batch IN (SELECT batch FROM derived.manifest WHERE playbook = 'sessions'))
) AS e
GROUP BY domain_sessionid;

-- statement: analyze sessions__sessions
--   writes scratch.sessions__sessions
ANALYZE scratch.sessions__sessions;

-- about measures: {"counts":{},"levels":{"stretches-read":2}}
