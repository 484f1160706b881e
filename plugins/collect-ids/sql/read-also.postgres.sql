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

-- statement: clear sessions__ids
--   writes scratch.sessions__ids
DROP TABLE IF EXISTS scratch.sessions__ids;

-- statement: collect touched ids
--   reads scratch.sessions__batches, atomic.events, derived.sessions, atomic.web_page
--   writes scratch.sessions__ids
CREATE TABLE scratch.sessions__ids WITH (autovacuum_enabled = off) AS
SELECT touched.session_id, least(touched.since, derived.since) AS since, touched.events
FROM (
  SELECT e.stepwell_key_1 AS session_id, min(e.collector_tstamp) AS since, count(*) AS events
  FROM scratch.sessions__batches AS batches
  JOIN (
    SELECT e.*, (etl_tstamp) AS stepwell_batch, (domain_sessionid) AS stepwell_key_1
    FROM atomic.events AS e
  ) AS e
    ON e.stepwell_batch = batches.batch
  WHERE e.collector_tstamp >= (SELECT min(first_time) FROM scratch.sessions__batches)
  GROUP BY e.stepwell_key_1
) AS touched
CROSS JOIN LATERAL (
  SELECT CASE WHEN count(derived.session_id) > count(derived.first_at) THEN '0001-01-01' ELSE min(derived.first_at) END AS since
  FROM derived.sessions AS derived
  WHERE derived.session_id = touched.session_id
) AS derived;

-- statement: analyze sessions__ids
--   writes scratch.sessions__ids
ANALYZE scratch.sessions__ids;

-- statement: add ids that share page.id
--   reads scratch.sessions__batches, atomic.events, derived.sessions, atomic.web_page, derived.manifest
--   writes scratch.sessions__ids
INSERT INTO scratch.sessions__ids
SELECT expanded.session_id, least(expanded.since, derived.since) AS since, expanded.events
FROM (
  SELECT e.stepwell_key_1 AS session_id, min(e.collector_tstamp) AS since, 0::bigint AS events
  FROM (
    SELECT DISTINCT e.stepwell_key_2 AS stepwell_shared
    FROM scratch.sessions__ids AS ids
    JOIN (
      SELECT e.*, (etl_tstamp) AS stepwell_batch, (domain_sessionid) AS stepwell_key_1, (page.id) AS stepwell_key_2
      FROM atomic.events AS e
      LEFT JOIN (SELECT root_id AS stepwell_event, id FROM atomic.web_page) AS page
        ON page.stepwell_event = e.event_id
    ) AS e
      ON e.stepwell_key_1 = ids.session_id
      AND e.collector_tstamp >= ids.since
    WHERE e.collector_tstamp >= (SELECT min(since) FROM scratch.sessions__ids)
      AND (e.stepwell_batch IN (SELECT batch FROM scratch.sessions__batches)
      OR e.stepwell_batch IN (SELECT batch FROM derived.manifest WHERE playbook = 'sessions'))
      AND e.stepwell_key_2 IS NOT NULL
    UNION
    SELECT e.stepwell_key_2
    FROM scratch.sessions__batches AS batches
    JOIN (
      SELECT e.*, (etl_tstamp) AS stepwell_batch, (domain_sessionid) AS stepwell_key_1, (page.id) AS stepwell_key_2
      FROM atomic.events AS e
      LEFT JOIN (SELECT root_id AS stepwell_event, id FROM atomic.web_page) AS page
        ON page.stepwell_event = e.event_id
    ) AS e
      ON e.stepwell_batch = batches.batch
    WHERE e.collector_tstamp >= (SELECT min(first_time) FROM scratch.sessions__batches)
      AND (e.stepwell_key_1 IS NULL)
      AND e.stepwell_key_2 IS NOT NULL
  ) AS common
  JOIN (
    SELECT e.*, (etl_tstamp) AS stepwell_batch, (domain_sessionid) AS stepwell_key_1, (page.id) AS stepwell_key_2
    FROM atomic.events AS e
    LEFT JOIN (SELECT root_id AS stepwell_event, id FROM atomic.web_page) AS page
      ON page.stepwell_event = e.event_id
  ) AS e
    ON e.stepwell_key_2 = common.stepwell_shared
  WHERE e.stepwell_key_1 IS NOT NULL
    AND (e.stepwell_batch IN (SELECT batch FROM scratch.sessions__batches)
    OR e.stepwell_batch IN (SELECT batch FROM derived.manifest WHERE playbook = 'sessions'))
    AND NOT EXISTS (SELECT FROM scratch.sessions__ids AS ids WHERE ids.session_id = e.stepwell_key_1)
  GROUP BY e.stepwell_key_1
) AS expanded
CROSS JOIN LATERAL (
  SELECT CASE WHEN count(derived.session_id) > count(derived.first_at) THEN '0001-01-01' ELSE coalesce(min(derived.first_at), '0001-01-01') END AS since
  FROM derived.sessions AS derived
  WHERE derived.session_id = expanded.session_id
) AS derived;

-- statement: analyze sessions__ids
--   writes scratch.sessions__ids
ANALYZE scratch.sessions__ids;

-- statement: add ids that share user_id
--   reads scratch.sessions__batches, atomic.events, derived.sessions, atomic.web_page, derived.manifest
--   writes scratch.sessions__ids
INSERT INTO scratch.sessions__ids
SELECT expanded.session_id, least(expanded.since, derived.since) AS since, expanded.events
FROM (
  SELECT e.stepwell_key_1 AS session_id, min(e.collector_tstamp) AS since, 0::bigint AS events
  FROM (
    SELECT DISTINCT e.stepwell_key_2 AS stepwell_shared
    FROM scratch.sessions__ids AS ids
    JOIN (
      SELECT e.*, (etl_tstamp) AS stepwell_batch, (domain_sessionid) AS stepwell_key_1, (user_id) AS stepwell_key_2
      FROM atomic.events AS e
    ) AS e
      ON e.stepwell_key_1 = ids.session_id
      AND e.collector_tstamp >= ids.since
    WHERE e.collector_tstamp >= (SELECT min(since) FROM scratch.sessions__ids)
      AND (e.stepwell_batch IN (SELECT batch FROM scratch.sessions__batches)
      OR e.stepwell_batch IN (SELECT batch FROM derived.manifest WHERE playbook = 'sessions'))
      AND e.stepwell_key_2 IS NOT NULL
  ) AS common
  JOIN (
    SELECT e.*, (etl_tstamp) AS stepwell_batch, (domain_sessionid) AS stepwell_key_1, (user_id) AS stepwell_key_2
    FROM atomic.events AS e
  ) AS e
    ON e.stepwell_key_2 = common.stepwell_shared
  WHERE e.stepwell_key_1 IS NOT NULL
    AND (e.stepwell_batch IN (SELECT batch FROM scratch.sessions__batches)
    OR e.stepwell_batch IN (SELECT batch FROM derived.manifest WHERE playbook = 'sessions'))
    AND NOT EXISTS (SELECT FROM scratch.sessions__ids AS ids WHERE ids.session_id = e.stepwell_key_1)
  GROUP BY e.stepwell_key_1
) AS expanded
CROSS JOIN LATERAL (
  SELECT CASE WHEN count(derived.session_id) > count(derived.first_at) THEN '0001-01-01' ELSE coalesce(min(derived.first_at), '0001-01-01') END AS since
  FROM derived.sessions AS derived
  WHERE derived.session_id = expanded.session_id
) AS derived;

-- statement: analyze sessions__ids
--   writes scratch.sessions__ids
ANALYZE scratch.sessions__ids;

-- statement: clear sessions__neighbours
--   writes scratch.sessions__neighbours
DROP TABLE IF EXISTS scratch.sessions__neighbours;

-- statement: begin with the ids
--   reads scratch.sessions__ids
--   writes scratch.sessions__neighbours
CREATE TABLE scratch.sessions__neighbours WITH (autovacuum_enabled = off) AS
SELECT *
FROM scratch.sessions__ids;

-- statement: analyze sessions__neighbours
--   writes scratch.sessions__neighbours
ANALYZE scratch.sessions__neighbours;

-- statement: add ids that share user_id
--   reads scratch.sessions__batches, atomic.events, derived.sessions, atomic.web_page, derived.manifest
--   writes scratch.sessions__neighbours
INSERT INTO scratch.sessions__neighbours
SELECT expanded.session_id, least(expanded.since, derived.since) AS since, expanded.events
FROM (
  SELECT e.stepwell_key_1 AS session_id, min(e.collector_tstamp) AS since, 0::bigint AS events
  FROM (
    SELECT DISTINCT e.stepwell_key_2 AS stepwell_shared
    FROM scratch.sessions__neighbours AS ids
    JOIN (
      SELECT e.*, (etl_tstamp) AS stepwell_batch, (domain_sessionid) AS stepwell_key_1, (user_id) AS stepwell_key_2
      FROM atomic.events AS e
    ) AS e
      ON e.stepwell_key_1 = ids.session_id
      AND e.collector_tstamp >= ids.since
    WHERE e.collector_tstamp >= (SELECT min(since) FROM scratch.sessions__neighbours)
      AND (e.stepwell_batch IN (SELECT batch FROM scratch.sessions__batches)
      OR e.stepwell_batch IN (SELECT batch FROM derived.manifest WHERE playbook = 'sessions'))
      AND e.stepwell_key_2 IS NOT NULL
  ) AS common
  JOIN (
    SELECT e.*, (etl_tstamp) AS stepwell_batch, (domain_sessionid) AS stepwell_key_1, (user_id) AS stepwell_key_2
    FROM atomic.events AS e
  ) AS e
    ON e.stepwell_key_2 = common.stepwell_shared
  WHERE e.stepwell_key_1 IS NOT NULL
    AND (e.stepwell_batch IN (SELECT batch FROM scratch.sessions__batches)
    OR e.stepwell_batch IN (SELECT batch FROM derived.manifest WHERE playbook = 'sessions'))
    AND NOT EXISTS (SELECT FROM scratch.sessions__neighbours AS ids WHERE ids.session_id = e.stepwell_key_1)
  GROUP BY e.stepwell_key_1
) AS expanded
CROSS JOIN LATERAL (
  SELECT CASE WHEN count(derived.session_id) > count(derived.first_at) THEN '0001-01-01' ELSE coalesce(min(derived.first_at), '0001-01-01') END AS since
  FROM derived.sessions AS derived
  WHERE derived.session_id = expanded.session_id
) AS derived;

-- statement: analyze sessions__neighbours
--   writes scratch.sessions__neighbours
ANALYZE scratch.sessions__neighbours;

-- statement: count events without a key
--   reads scratch.sessions__ids
--   measures: events-without-key
SELECT coalesce(sum(events), 0)::bigint
FROM scratch.sessions__ids
WHERE session_id IS NULL;

-- about neighbours: {"key":[{"name":"session_id","expression":"domain_sessionid"}],"batches":"batches","bounded":true,"contexts":[],"all":false,"indexed":false}
-- about advice: ["no index on atomic.events begins with user_id: keys that share it are found by reading the whole table; CREATE INDEX ON atomic.events (user_id) would read only their events"]
-- about ids: {"key":[{"name":"session_id","expression":"domain_sessionid"}],"batches":"batches","bounded":true,"contexts":[],"all":false,"indexed":false}
