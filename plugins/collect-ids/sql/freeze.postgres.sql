-- question: columns of derived.sessions
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
-- $2: Param::Text("sessions")

-- question: indexes of derived.sessions
SELECT am.amname::text AS method, pg_get_indexdef(i.indexrelid, 1, false) AS leading,
  i.indnkeyatts::text AS columns
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
JOIN pg_catalog.pg_am AS am ON am.oid = x.relam
JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2 AND i.indisvalid AND i.indpred IS NULL
ORDER BY x.relname;
-- $1: Param::Text("derived")
-- $2: Param::Text("sessions")

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

-- question: keys whose events lie too far apart
SELECT concat_ws(', ', runaway.session_id::text) AS stepwell_key, count(*) OVER () AS stepwell_keys,
  (sum(runaway.events) OVER ())::bigint AS stepwell_events
FROM (
  SELECT touched.session_id, least(touched.since, CASE WHEN count(derived.session_id) > count(derived.first_at) THEN '0001-01-01' ELSE min(derived.first_at) END) AS since, touched.events
  FROM (
    SELECT e.stepwell_key_1 AS session_id, min(e.collector_tstamp) AS since, count(*) AS events, max(e.collector_tstamp) AS last
    FROM scratch.sessions__batches AS batches
    JOIN (
      SELECT e.*, (etl_tstamp) AS stepwell_batch, (domain_sessionid) AS stepwell_key_1
      FROM atomic.events AS e
    ) AS e
      ON e.stepwell_batch = batches.batch
    WHERE e.collector_tstamp >= (SELECT min(first_time) FROM scratch.sessions__batches)
    GROUP BY e.stepwell_key_1
  ) AS touched
  LEFT JOIN derived.sessions AS derived
    ON derived.session_id = touched.session_id
  GROUP BY touched.session_id, touched.since, touched.events
  HAVING count(derived.session_id) > 0 AND count(derived.session_id) = count(derived.first_at)
  AND touched.since >= min(derived.first_at)
    AND CAST(max(touched.last) AS timestamp) - CAST(least(touched.since, min(derived.first_at)) AS timestamp) > '2592000 seconds'::interval
) AS runaway
ORDER BY runaway.events DESC, runaway.session_id
LIMIT 5;

-- statement: clear sessions__ids
--   writes scratch.sessions__ids
DROP TABLE IF EXISTS scratch.sessions__ids;

-- statement: collect touched ids
--   reads scratch.sessions__batches, atomic.events, derived.sessions
--   writes scratch.sessions__ids
CREATE TABLE scratch.sessions__ids WITH (autovacuum_enabled = off) AS
SELECT touched.session_id, least(touched.since, CASE WHEN count(derived.session_id) > count(derived.first_at) THEN '0001-01-01' ELSE min(derived.first_at) END) AS since, touched.events
FROM (
  SELECT e.stepwell_key_1 AS session_id, min(e.collector_tstamp) AS since, count(*) AS events, max(e.collector_tstamp) AS last
  FROM scratch.sessions__batches AS batches
  JOIN (
    SELECT e.*, (etl_tstamp) AS stepwell_batch, (domain_sessionid) AS stepwell_key_1
    FROM atomic.events AS e
  ) AS e
    ON e.stepwell_batch = batches.batch
  WHERE e.collector_tstamp >= (SELECT min(first_time) FROM scratch.sessions__batches)
  GROUP BY e.stepwell_key_1
) AS touched
LEFT JOIN derived.sessions AS derived
  ON derived.session_id = touched.session_id
GROUP BY touched.session_id, touched.since, touched.events
HAVING NOT (count(derived.session_id) > 0 AND count(derived.session_id) = count(derived.first_at)
AND touched.since >= min(derived.first_at)
  AND CAST(max(touched.last) AS timestamp) - CAST(least(touched.since, min(derived.first_at)) AS timestamp) > '2592000 seconds'::interval);

-- statement: analyze sessions__ids
--   writes scratch.sessions__ids
ANALYZE scratch.sessions__ids;

-- statement: count events without a key
--   reads scratch.sessions__ids
--   measures: events-without-key
SELECT coalesce(sum(events), 0)::bigint
FROM scratch.sessions__ids
WHERE session_id IS NULL;

-- about measures: {"counts":{"runaway-events":400,"runaway-keys":7},"levels":{}}
-- about ids: {"key":[{"name":"session_id","expression":"domain_sessionid"}],"batches":"batches","bounded":true,"contexts":[],"all":false,"indexed":true,"frozen":true}
-- note: 7 keys have events that lie more than 30 days apart (a; b; c; d; e; …), with 400 pending events; their rows stay as they are until a replay of the keys or a full refresh
