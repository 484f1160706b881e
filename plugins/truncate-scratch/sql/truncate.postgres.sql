-- question: scratch tables
SELECT c.relname::text AS name,
  c.relpersistence = 'u' OR coalesce('autovacuum_enabled=off' = ANY (c.reloptions), false) AS made_anew
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind = 'r' AND left(c.relname, length($2::text)) = $2::text
ORDER BY c.relname;
-- $1: Param::Text("scratch")
-- $2: Param::Text("sessions__")

-- question: scratch tables with rows
SELECT 'sessions__b'::text AS name WHERE EXISTS (SELECT FROM scratch.sessions__b)
UNION ALL
SELECT 'sessions__c'::text AS name WHERE EXISTS (SELECT FROM scratch.sessions__c);

-- statement: drop scratch tables
--   writes scratch.sessions__a
DROP TABLE IF EXISTS scratch.sessions__a;

-- statement: empty scratch tables
--   writes scratch.sessions__c
TRUNCATE scratch.sessions__c;

