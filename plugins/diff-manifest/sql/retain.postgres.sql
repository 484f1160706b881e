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

-- question: state of the manifest
SELECT
  CAST(m.newest - '604800 seconds'::interval AS timestamp without time zone)::text AS time_floor,
  (extract(epoch FROM CAST(m.newest - '604800 seconds'::interval AS timestamp without time zone)) * 1000000)::bigint AS time_floor_us,
  (extract(epoch FROM m.newest) * 1000000)::bigint AS newest_us,
  CAST(m.newest - '604800 seconds'::interval AS timestamp without time zone)::text AS recount_floor,
  greatest((SELECT CASE WHEN max(b.batch) IS NOT NULL THEN least(max(b.batch), CAST(m.newest - '604801 seconds'::interval AS timestamp without time zone)) END
   FROM derived.manifest AS b
   WHERE b.playbook = 'sessions' AND b.batch < (
     SELECT min(f.batch)
     FROM (
       SELECT batch FROM derived.manifest WHERE playbook = 'sessions' AND last_time >= CAST(m.newest - '604800 seconds'::interval AS timestamp without time zone) OFFSET 0
     ) AS f
   )), folded.batch)::text AS batch_before,
  folded.batch::text AS folded,
  (extract(epoch FROM folded.before_last_time) * 1000000)::bigint AS folded_last_us
FROM (
  SELECT coalesce(max(last_time), '0001-01-01') AS newest
  FROM derived.manifest
  WHERE playbook = 'sessions' AND last_time <= to_timestamp(1700000000000000 / 1000000.0)
) AS m
LEFT JOIN derived.manifest AS folded
  ON folded.playbook = 'sessions' AND folded.before_batches IS NOT NULL
WHERE EXISTS (SELECT FROM derived.manifest WHERE playbook = 'sessions');

-- question: batches
SELECT g.batch::text AS batch, g.events, g.first_time::text AS first_time, g.last_time::text AS last_time, g.untimed, (extract(epoch FROM g.last_time) * 1000000)::bigint AS last_us
FROM (
  SELECT e.batch, count(e.time) AS events, min(e.time) AS first_time, max(e.time) AS last_time,
    count(*) - count(e.time) AS untimed
  FROM (SELECT (etl_tstamp) AS batch, collector_tstamp AS time FROM atomic.events) AS e
  WHERE e.time >= CAST($1 AS timestamp without time zone)
  GROUP BY e.batch
) AS g
ORDER BY g.batch NULLS FIRST
LIMIT 20001;
-- $1: Param::Text("2026-01-01")

-- question: batches beside the manifest
SELECT found.place, NULL AS gone, m.events AS events_before, m.first_time >= CAST($3 AS timestamp without time zone) AS within, found.batch < CAST($4 AS timestamp without time zone) AS folded
FROM unnest(CAST($1 AS timestamp without time zone[])) WITH ORDINALITY AS found (batch, place)
LEFT JOIN derived.manifest AS m
  ON m.playbook = 'sessions' AND m.batch = found.batch
WHERE m.batch IS NULL OR m.last_time >= CAST($2 AS timestamp without time zone)
UNION ALL
SELECT NULL, m.batch::text, m.events, m.first_time >= CAST($3 AS timestamp without time zone), false
FROM derived.manifest AS m
WHERE m.playbook = 'sessions' AND m.last_time >= CAST($2 AS timestamp without time zone)
  AND NOT EXISTS (SELECT FROM unnest(CAST($1 AS timestamp without time zone[])) AS found (batch) WHERE found.batch = m.batch)
ORDER BY 1;
-- $1: Param::Text("{\"2025-12-01 01:00:00\",\"2025-12-02 01:00:00\",\"2026-01-08 01:00:00\"}")
-- $2: Param::Text("2026-01-01")
-- $3: Param::Text("2026-01-01")
-- $4: Param::Text("2025-12-20 00:00:00")

-- question: events of pending batches
SELECT found.place, g.events, g.first_time::text AS first_time, g.last_time::text AS last_time, g.untimed, (extract(epoch FROM g.last_time) * 1000000)::bigint AS last_us
FROM (
  SELECT e.batch, count(e.time) AS events, min(e.time) AS first_time, max(e.time) AS last_time,
    count(*) - count(e.time) AS untimed
  FROM (SELECT (etl_tstamp) AS batch, collector_tstamp AS time FROM atomic.events) AS e
  WHERE e.batch = ANY (CAST($1 AS timestamp without time zone[]))
  GROUP BY e.batch
) AS g
JOIN unnest(CAST($1 AS timestamp without time zone[])) WITH ORDINALITY AS found (batch, place) ON found.batch = g.batch;
-- $1: Param::Text("{\"2025-12-02 01:00:00\",\"2026-01-08 01:00:00\"}")

-- question: rows of the manifest that are old
SELECT max(m.batch)::text AS fold_before, count(*) AS fold_batches, (CAST($1 AS timestamp without time zone) - '604800 seconds'::interval)::text AS fold_older_than
FROM derived.manifest AS m
WHERE m.playbook = 'sessions' AND m.last_time < (CAST($1 AS timestamp without time zone) - '604800 seconds'::interval) AND m.batch < CAST((CAST($1 AS timestamp without time zone) - '604800 seconds'::interval) AS timestamp without time zone)
  AND coalesce(m.batch < (
    SELECT min(s.batch) FROM derived.manifest AS s WHERE s.playbook = 'sessions' AND s.last_time >= (CAST($1 AS timestamp without time zone) - '604800 seconds'::interval) AND s.batch >= CAST($2 AS timestamp without time zone)
  ), true)
  AND m.batch > CAST($2 AS timestamp without time zone)
  AND m.batch < ALL (CAST($3 AS timestamp without time zone[]));
-- $1: Param::Text("2026-01-01")
-- $2: Param::Text("2025-12-20 00:00:00")
-- $3: Param::Text("{\"2025-12-02 01:00:00\"}")

-- statement: clear sessions__batches
--   writes scratch.sessions__batches
DROP TABLE IF EXISTS scratch.sessions__batches;

-- statement: make the table of batches
--   writes scratch.sessions__batches
CREATE TABLE scratch.sessions__batches WITH (autovacuum_enabled = off) AS
SELECT
  CAST(NULL AS timestamp without time zone) AS batch, CAST(NULL AS bigint) AS events, CAST(NULL AS timestamp without time zone) AS first_time,
  CAST(NULL AS timestamp without time zone) AS last_time, CAST(NULL AS bigint) AS events_before
LIMIT 0;

-- statement: note pending batches
--   writes scratch.sessions__batches
INSERT INTO scratch.sessions__batches
SELECT *
FROM unnest(
  CAST($1 AS timestamp without time zone[]), CAST($2 AS bigint[]), CAST($3 AS timestamp without time zone[]), CAST($4 AS timestamp without time zone[]), CAST($5 AS bigint[])
) AS pending (batch, events, first_time, last_time, events_before);
-- $1: Param::Text("{\"2025-12-02 01:00:00\",\"2026-01-08 01:00:00\"}")
-- $2: Param::Text("{2,700}")
-- $3: Param::Text("{\"2026-01-07\",\"2026-01-07\"}")
-- $4: Param::Text("{\"2026-01-08\",\"2026-01-08\"}")
-- $5: Param::Text("{NULL,NULL}")

-- statement: analyze sessions__batches
--   writes scratch.sessions__batches
ANALYZE scratch.sessions__batches;

-- about batches: {"batches":2,"reopened":0,"events":702,"first":"2025-12-02 01:00:00","last":"2026-01-08 01:00:00","more":false,"from_nothing":false,"beside_folded":{"events_without_batch":0,"folded":{"before":"2025-12-20 00:00:00"}}}
-- about measures: {"counts":{"grown-batches":0,"grown-events":0,"late-batches":0,"late-batches-beyond-lookback":0},"levels":{"events-without-batch":0,"settling-batches":0,"shrunk-batches":0,"shrunk-events":0,"waiting-batches":0}}
-- about advice: ["no index on atomic.events begins with etl_tstamp: new batches are looked for in the events of the lookback; CREATE INDEX ON atomic.events (etl_tstamp) would find them without reading events"]
