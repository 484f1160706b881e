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

-- question: columns of derived.manifest
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
-- $1: Param::Text("derived")
-- $2: Param::Text("manifest")

-- question: indexes of atomic.events
SELECT am.amname::text AS method, pg_get_indexdef(i.indexrelid, 1, false) AS leading,
  i.indnkeyatts::text AS columns
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
JOIN pg_catalog.pg_am AS am ON am.oid = x.relam
JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2 AND i.indisvalid AND i.indpred IS NULL
ORDER BY x.relname;
-- $1: Param::Text("atomic")
-- $2: Param::Text("events")

-- question: type of a batch
SELECT (etl_tstamp) AS batch
FROM atomic.events
LIMIT 0;

-- question: all batches
SELECT
  count(*) FILTER (WHERE g.batch IS NOT NULL AND g.events > 0 AND NOT g.settling) AS batches,
  coalesce(sum(g.events) FILTER (WHERE g.batch IS NOT NULL AND g.events > 0 AND NOT g.settling), 0)::bigint AS events,
  min(g.batch) FILTER (WHERE g.batch IS NOT NULL AND g.events > 0 AND NOT g.settling)::text AS first,
  max(g.batch) FILTER (WHERE g.batch IS NOT NULL AND g.events > 0 AND NOT g.settling)::text AS last,
  coalesce(sum(g.events) FILTER (WHERE g.batch IS NULL), 0)::bigint AS without_batch,
  coalesce(sum(g.untimed), 0)::bigint AS untimed,
count(*) FILTER (WHERE g.batch IS NOT NULL AND g.events > 0 AND g.settling) AS settling
FROM (
  SELECT g.*, coalesce(g.loaded > to_timestamp(1700000000000000 / 1000000.0) - '600 seconds'::interval, false)
    AND g.last_time >= max(g.last_time) FILTER (WHERE g.last_time <= to_timestamp(1700000000000000 / 1000000.0)) OVER () - '604800 seconds'::interval
    AND NOT EXISTS (SELECT FROM derived.manifest AS m WHERE m.playbook = 'sessions' AND m.batch = g.batch)
    AND NOT EXISTS (
      SELECT FROM derived.manifest AS m
      WHERE m.playbook = 'sessions' AND m.before_batches IS NOT NULL AND g.batch < m.batch
    ) AS settling
  FROM (
    SELECT e.batch, count(e.time) AS events, min(e.time) AS first_time, max(e.time) AS last_time,
      count(*) - count(e.time) AS untimed, max(e.loaded) AS loaded
    FROM (SELECT (etl_tstamp) AS batch, collector_tstamp AS time, (etl_tstamp) AS loaded FROM atomic.events) AS e
    WHERE true
    GROUP BY e.batch
  ) AS g
) AS g;

-- statement: clear sessions__batches
--   writes scratch.sessions__batches
DROP TABLE IF EXISTS scratch.sessions__batches;

-- statement: note all batches
--   reads atomic.events
--   writes scratch.sessions__batches
CREATE UNLOGGED TABLE scratch.sessions__batches AS
SELECT g.batch, g.events, g.first_time, g.last_time, CAST(NULL AS bigint) AS events_before
FROM (
  SELECT g.*, coalesce(g.loaded > to_timestamp(1700000000000000 / 1000000.0) - '600 seconds'::interval, false)
    AND g.last_time >= max(g.last_time) FILTER (WHERE g.last_time <= to_timestamp(1700000000000000 / 1000000.0)) OVER () - '604800 seconds'::interval
    AND NOT EXISTS (SELECT FROM derived.manifest AS m WHERE m.playbook = 'sessions' AND m.batch = g.batch)
    AND NOT EXISTS (
      SELECT FROM derived.manifest AS m
      WHERE m.playbook = 'sessions' AND m.before_batches IS NOT NULL AND g.batch < m.batch
    ) AS settling
  FROM (
    SELECT e.batch, count(e.time) AS events, min(e.time) AS first_time, max(e.time) AS last_time,
      count(*) - count(e.time) AS untimed, max(e.loaded) AS loaded
    FROM (SELECT (etl_tstamp) AS batch, collector_tstamp AS time, (etl_tstamp) AS loaded FROM atomic.events) AS e
    WHERE true
    GROUP BY e.batch
  ) AS g
) AS g
WHERE g.batch IS NOT NULL AND g.events > 0 AND NOT g.settling;

-- statement: analyze sessions__batches
--   writes scratch.sessions__batches
ANALYZE scratch.sessions__batches;

-- about batches: {"batches":3,"reopened":0,"events":9,"first":"a","last":"z","events_without_batch":0,"more":false,"from_nothing":true}
-- about measures: {"counts":{},"levels":{"events-without-batch":0,"settling-batches":1}}
-- note: 1 batch was loaded less than 600 s before the run's point in time: it is left alone until it has settled
