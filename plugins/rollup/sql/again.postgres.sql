-- question: columns of derived.visitor_days
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
-- $2: Param::Text("visitor_days")

-- question: columns of scratch.sessions__visitor_days
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
-- $2: Param::Text("sessions__visitor_days")

-- statement: clear sessions__visitor_ids
--   writes scratch.sessions__visitor_ids
DROP TABLE IF EXISTS scratch.sessions__visitor_ids;

-- statement: collect coarser ids
--   reads scratch.sessions__visitor_day_ids
--   writes scratch.sessions__visitor_ids
CREATE UNLOGGED TABLE scratch.sessions__visitor_ids AS
SELECT visitor, min(since) AS since, sum(events)::bigint AS events
FROM scratch.sessions__visitor_day_ids
WHERE visitor IS NOT NULL
  AND day IS NOT NULL
GROUP BY visitor;

-- statement: analyze sessions__visitor_ids
--   writes scratch.sessions__visitor_ids
ANALYZE scratch.sessions__visitor_ids;

-- statement: clear sessions__visitors
--   writes scratch.sessions__visitors
DROP TABLE IF EXISTS scratch.sessions__visitors;

-- statement: roll rows up
--   reads scratch.sessions__visitor_days, derived.visitor_days, scratch.sessions__visitor_day_ids, scratch.sessions__visitor_ids
--   writes scratch.sessions__visitors
CREATE UNLOGGED TABLE scratch.sessions__visitors AS
SELECT
  visitor,
  min(day) AS first_day,
  count(*) AS days,
  sum(page_views)::bigint AS page_views
FROM (
  SELECT visitor, day, page_views
  FROM scratch.sessions__visitor_days
  UNION ALL
  SELECT t.visitor, t.day, t.page_views
  FROM scratch.sessions__visitor_ids AS touched
  JOIN derived.visitor_days AS t
    ON touched.visitor = t.visitor
  WHERE NOT EXISTS (SELECT FROM scratch.sessions__visitor_day_ids AS ids WHERE ids.visitor = t.visitor AND ids.day = t.day)
) AS r
GROUP BY r.visitor;

-- statement: analyze sessions__visitors
--   writes scratch.sessions__visitors
ANALYZE scratch.sessions__visitors;

-- about visitor_ids: {"key":[{"name":"visitor","expression":"domain_userid"}],"batches":"batches","bounded":false,"contexts":[],"all":false,"indexed":false}
