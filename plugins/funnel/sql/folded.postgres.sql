-- clear shop__funnel
--   writes "scratch"."shop__funnel"
DROP TABLE IF EXISTS "scratch"."shop__funnel";

-- funnel
--   reads "scratch"."shop__visitor_day_ids"
--   reads "atomic"."events"
--   reads "scratch"."shop__batches"
--   reads "derived"."manifest"
--   writes "scratch"."shop__funnel"
CREATE UNLOGGED TABLE "scratch"."shop__funnel" AS
SELECT
  k0 AS "visitor",
  k1 AS "day",
  min(source_time) AS first_time,
  (max(at_0) IS NOT NULL)::int + (max(at_1) IS NOT NULL)::int + (max(at_2) IS NOT NULL)::int AS reached,
  max(at_0) AS "viewed_at",
  max(at_1) AS "clicked_at",
  max(at_2) AS "sent_at"
FROM (
  SELECT *, min(CASE WHEN is_2 AND occurred >= at_1 THEN occurred END) OVER (PARTITION BY k0, k1) AS at_2
  FROM (
    SELECT *, min(CASE WHEN is_1 AND occurred >= at_0 THEN occurred END) OVER (PARTITION BY k0, k1) AS at_1
    FROM (
      SELECT *, min(CASE WHEN is_0 THEN occurred END) OVER (PARTITION BY k0, k1) AS at_0
      FROM (
        SELECT e.k0, e.k1
          , e.source_time, e.occurred, e.is_0, e.is_1, e.is_2
        FROM "scratch"."shop__visitor_day_ids" AS ids
        JOIN (
          SELECT e."collector_tstamp" AS source_time,
            (
              domain_userid
            ) AS k0,
            (
              derived_tstamp::date
            ) AS k1,
            (
              derived_tstamp
            ) AS occurred,
            (
              etl_tstamp
            ) AS batch,
            (
              event_name = 'page_view'
            ) AS is_0,
            (
              event_name = 'link_click' -- any link
            ) AS is_1,
            (
              event_name = 'submit_form'
            ) AS is_2
          FROM "atomic"."events" AS e
        ) AS e
          ON e.k0 = ids."visitor"
          AND e.k1 = ids."day"
          AND e.source_time >= ids.since
        WHERE (e.batch IN (SELECT batch FROM "scratch"."shop__batches")
          OR e.batch < '2026-01-01 00:00:00'
          OR e.batch IN (SELECT batch FROM "derived"."manifest" WHERE playbook = 'shop'))
      ) AS events_0
    ) AS events_1
  ) AS events_2
) AS funnel
GROUP BY k0, k1;

-- analyze shop__funnel
--   writes "scratch"."shop__funnel"
ANALYZE "scratch"."shop__funnel";

