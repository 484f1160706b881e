-- One row per session with a page view.
--
-- The events are those of all sessions that a row of this run depends on. Rows of sessions that are only looked at are
-- left out afterwards by the step, since not all that *they* depend on need be here.
WITH page_events AS (
    -- A page view may go on in a second session, and an event may have been sent in both: each event once.
    SELECT DISTINCT ON (e.event_id)
        page.id AS page_view_id,
        e.event_id,
        e.event_name,
        e.platform,
        e.app_id,
        e.user_id,
        e.domain_userid,
        e.network_userid,
        e.domain_sessionid,
        e.collector_tstamp,
        e.dvce_created_tstamp,
        e.derived_tstamp,
        e.page_urlhost || e.page_urlpath AS page_url,
        e.refr_urlhost || e.refr_urlpath AS referer_url,
        e.mkt_medium,
        e.mkt_source,
        e.mkt_term,
        e.mkt_campaign,
        e.mkt_content,
        e.test_add_col
    FROM {{ events }} AS e
    JOIN {{ page }} AS page ON page.stepwell_event = e.event_id
    WHERE e.event_name IN ('page_view', 'page_ping')
    ORDER BY e.event_id, e.collector_tstamp, e.load_tstamp, e.domain_sessionid
),
viewed AS (
    SELECT
        page_view_id,
        min(derived_tstamp) AS started_at,
        max(derived_tstamp) AS ended_at,
        count(*) FILTER (WHERE event_name = 'page_ping') AS pings
    FROM page_events
    GROUP BY page_view_id
),
-- The first page_view event of each, as in page_views.sql: it says to which session the page view belongs.
page_views AS (
    SELECT DISTINCT ON (page_view_id) *
    FROM page_events
    WHERE platform = 'web'
      AND event_name = 'page_view'
    ORDER BY page_view_id, dvce_created_tstamp, collector_tstamp, event_id
),
spans AS (
    SELECT
        p.domain_sessionid,
        min(v.started_at) AS started_at,
        max(v.ended_at) AS ended_at,
        30 * sum(v.pings)::bigint AS time_engaged_in_s
    FROM page_views AS p
    JOIN viewed AS v USING (page_view_id)
    GROUP BY p.domain_sessionid
),
first_views AS (
    SELECT DISTINCT ON (domain_sessionid) *
    FROM page_views
    ORDER BY domain_sessionid, dvce_created_tstamp, collector_tstamp, event_id
),
last_views AS (
    SELECT DISTINCT ON (domain_sessionid) domain_sessionid, test_add_col
    FROM page_views
    ORDER BY domain_sessionid, dvce_created_tstamp DESC, collector_tstamp DESC, event_id DESC
),
-- Who a visitor is: the last user_id seen, in whichever session. It holds for the visitor's earlier sessions too.
users AS (
    SELECT DISTINCT ON (domain_userid) domain_userid, user_id
    FROM {{ events }}
    WHERE user_id IS NOT NULL
      AND domain_userid IS NOT NULL
    ORDER BY domain_userid, collector_tstamp DESC, event_id DESC, user_id DESC
),
sessions AS (
    SELECT
        f.domain_sessionid,
        u.user_id IS NOT NULL AS known,
        coalesce(u.user_id, f.domain_userid) AS inferred_user_id
    FROM first_views AS f
    LEFT JOIN users AS u USING (domain_userid)
)
SELECT
    f.user_id AS user_custom_id,
    s.inferred_user_id,
    f.domain_userid AS user_snowplow_domain_id,
    f.network_userid AS user_snowplow_crossdomain_id,
    f.app_id,
    f.page_url AS first_page_url,
    f.mkt_medium AS marketing_medium,
    f.mkt_source AS marketing_source,
    f.mkt_term AS marketing_term,
    f.mkt_campaign AS marketing_campaign,
    f.mkt_content AS marketing_content,
    f.referer_url,
    -- In the zone of those who read the reports; the events' times are UTC.
    spans.started_at AT TIME ZONE 'UTC' AT TIME ZONE 'America/New_York' AS session_start,
    spans.ended_at AT TIME ZONE 'UTC' AT TIME ZONE 'America/New_York' AS session_end,
    f.domain_sessionid::text AS session_id,
    spans.time_engaged_in_s,
    -- Counted in UTC: in an hour that the clocks repeat, sessions would change places. `known` keeps a visitor whose id
    -- happens to be somebody's user_id apart. A session without a visitor is nobody's first.
    CASE WHEN s.inferred_user_id IS NOT NULL THEN row_number() OVER (
        PARTITION BY s.inferred_user_id, s.known
        ORDER BY spans.started_at, f.domain_sessionid
    ) END AS session_index,
    f.test_add_col AS first_test_add_col,  -- A column that its owner added to the events.
    l.test_add_col AS last_test_add_col
FROM sessions AS s
JOIN first_views AS f USING (domain_sessionid)
JOIN last_views AS l USING (domain_sessionid)
JOIN spans USING (domain_sessionid)
