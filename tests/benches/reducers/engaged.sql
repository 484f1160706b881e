-- What `engaged-time` does, in the best SQL that we could write: gaps and islands, with one sort for both windows and for
-- the grouping after them. A page ping speaks for the heartbeat before it, not beyond midnight; windows no further apart
-- than the tolerance are one.
--
-- Variables of psql: rows (the reducer's SELECT), heartbeat and tolerance in seconds, into.

DROP TABLE IF EXISTS :into;

CREATE UNLOGGED TABLE :into AS
WITH events AS (
  SELECT
    visitor,
    day,
    at,
    source_time,
    event IS NOT DISTINCT FROM 'page_view' AS is_view,
    event IS NOT DISTINCT FROM 'page_ping' AND at IS NOT NULL AS is_ping,
    greatest(at - make_interval(secs => :heartbeat), day) AS begins
  FROM (:rows) AS rows
),
marked AS (
  SELECT
    *,
    is_ping AND begins - lag(at) OVER pings <= make_interval(secs => :tolerance) AS goes_on
  FROM events
  WINDOW pings AS (PARTITION BY visitor, day, is_ping ORDER BY at)
),
numbered AS (
  SELECT
    *,
    count(*) FILTER (WHERE is_ping AND goes_on IS NOT TRUE) OVER pings AS island
  FROM marked
  WINDOW pings AS (PARTITION BY visitor, day, is_ping ORDER BY at ROWS UNBOUNDED PRECEDING)
),
islands AS (
  SELECT
    visitor,
    day,
    is_ping,
    count(*) AS events,
    count(*) FILTER (WHERE is_view) AS views,
    CASE WHEN is_ping THEN max(at) - min(begins) END AS engaged,
    min(source_time) AS first_time
  FROM numbered
  GROUP BY visitor, day, is_ping, island
)
SELECT
  visitor,
  day,
  coalesce(sum(views), 0)::bigint AS page_views,
  coalesce(sum(events) FILTER (WHERE is_ping), 0)::bigint AS page_pings,
  floor(extract(epoch FROM coalesce(sum(engaged), '0')))::bigint AS engaged_seconds,
  floor(extract(epoch FROM coalesce(max(engaged), '0')))::bigint AS longest_streak_seconds,
  sum(views) = 1 AND count(*) FILTER (WHERE is_ping) = 0 AS bounced,
  min(first_time) AS first_time
FROM islands
GROUP BY visitor, day;
