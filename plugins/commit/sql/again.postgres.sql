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

-- question: columns of scratch.sessions__sessions
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
-- $1: Param::Text("scratch")
-- $2: Param::Text("sessions__sessions")

-- question: rows of scratch.sessions__sessions that belong to no id
SELECT count(*) > 0 AS strays
FROM scratch.sessions__sessions AS rows
WHERE NOT EXISTS (SELECT FROM scratch.sessions__ids AS ids WHERE rows.session_id = ids.session_id);

-- statement: delete old rows of derived.sessions
--   reads scratch.sessions__ids
--   writes derived.sessions
DELETE FROM derived.sessions AS t
USING scratch.sessions__ids AS ids
WHERE t.session_id = ids.session_id;

-- statement: insert rows into derived.sessions
--   reads scratch.sessions__sessions
--   writes derived.sessions
INSERT INTO derived.sessions (session_id, n)
SELECT session_id, n
FROM scratch.sessions__sessions;

-- statement: note batches processed again
--   reads scratch.sessions__batches
--   writes derived.manifest
UPDATE derived.manifest AS m
SET events = batches.events, first_time = batches.first_time, last_time = batches.last_time, run_id = '0192'
FROM scratch.sessions__batches AS batches
WHERE m.playbook = 'sessions'
  AND m.batch = batches.batch
  AND batches.events_before IS NOT NULL;

-- statement: note batches as processed
--   reads scratch.sessions__batches
--   writes derived.manifest
INSERT INTO derived.manifest (playbook, batch, events, first_time, last_time, run_id)
SELECT 'sessions', batch, events, first_time, last_time, '0192'
FROM scratch.sessions__batches AS batches
WHERE batches.events_before IS NULL;

