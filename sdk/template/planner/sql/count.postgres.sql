-- statement: clear sessions__pages
--   writes scratch.sessions__pages
DROP TABLE IF EXISTS scratch.sessions__pages;

-- statement: count
--   reads scratch.sessions__session_ids, atomic.events, scratch.sessions__batches, derived.manifest
--   writes scratch.sessions__pages
CREATE UNLOGGED TABLE scratch.sessions__pages AS
SELECT e.stepwell_key_1 AS session_id,
  min(e.collector_tstamp) AS first_time,
  count(DISTINCT CASE WHEN event_name = 'page_view' THEN e.event_id END) AS n
FROM scratch.sessions__session_ids AS ids
JOIN (
  SELECT e.*, (etl_tstamp) AS stepwell_batch, (domain_sessionid) AS stepwell_key_1
  FROM atomic.events AS e
) AS e
  ON e.stepwell_key_1 = ids.session_id
  AND e.collector_tstamp >= ids.since
WHERE e.collector_tstamp >= (SELECT min(since) FROM scratch.sessions__session_ids)
  AND (e.stepwell_batch IN (SELECT batch FROM scratch.sessions__batches)
  OR e.stepwell_batch IN (SELECT batch FROM derived.manifest WHERE playbook = 'sessions'))
GROUP BY e.stepwell_key_1;

-- statement: analyze sessions__pages
--   writes scratch.sessions__pages
ANALYZE scratch.sessions__pages;

