-- One row per page view.
--
-- The first page_view event says what was viewed, by whom and how they came; page views and page pings together say for
-- how long and how far down. Every "first" is settled to the end by the event's id: a row must not depend on the order
-- in which events are read.
WITH viewed AS (
    SELECT
        page.id AS page_view_id,
        min(e.derived_tstamp) AS started_at,
        max(e.derived_tstamp) AS ended_at,
        count(*) FILTER (WHERE e.event_name = 'page_ping') AS pings,
        max(coalesce(e.pp_xoffset_max, 0) + e.br_viewwidth) AS seen_width,
        max(coalesce(e.pp_yoffset_max, 0) + e.br_viewheight) AS seen_height,
        max(e.doc_width) AS doc_width,
        max(e.doc_height) AS doc_height
    FROM {{ events }} AS e
    JOIN {{ page }} AS page ON page.stepwell_event = e.event_id
    WHERE page.id IN (SELECT page_view_id FROM {{ ids }})
    GROUP BY page.id
),
first_event AS (
    SELECT DISTINCT ON (page.id)
        page.id AS page_view_id,
        e.user_id,
        e.domain_userid,
        e.network_userid,
        e.domain_sessionid,
        e.domain_sessionidx,
        e.page_urlhost || e.page_urlpath AS page_url,
        e.mkt_medium,
        e.mkt_source,
        e.mkt_term,
        e.mkt_content,
        e.mkt_campaign,
        e.test_add_col
    FROM {{ events }} AS e
    JOIN {{ page }} AS page ON page.stepwell_event = e.event_id
    WHERE e.platform = 'web'
      AND e.event_name = 'page_view'
    ORDER BY page.id, e.dvce_created_tstamp, e.collector_tstamp, e.event_id
)
SELECT
    f.user_id AS user_custom_id,
    f.domain_userid AS user_snowplow_domain_id,
    f.network_userid AS user_snowplow_crossdomain_id,
    f.domain_sessionid::text AS session_id,  -- char(128) in the events; readers want it without the blanks.
    f.domain_sessionidx AS session_index,
    f.page_view_id::text AS page_view_id,
    -- In the zone of those who read the reports; the events' times are UTC.
    v.ended_at AT TIME ZONE 'UTC' AT TIME ZONE 'America/New_York' AS page_view_end,
    v.started_at AT TIME ZONE 'UTC' AT TIME ZONE 'America/New_York' AS page_view_start,
    30 * v.pings AS time_engaged_in_s,  -- The tracker pings every 30 s while the visitor does something.
    round(100.0 * least(v.seen_width, v.doc_width) / nullif(v.doc_width, 0))::integer
        AS horizontal_percentage_scrolled,
    round(100.0 * least(v.seen_height, v.doc_height) / nullif(v.doc_height, 0))::integer
        AS vertical_percentage_scrolled,
    f.page_url,
    f.mkt_medium AS marketing_medium,
    f.mkt_source AS marketing_source,
    f.mkt_term AS marketing_term,
    f.mkt_content AS marketing_content,
    f.mkt_campaign AS marketing_campaign,
    f.test_add_col  -- A column that its owner added to the events.
FROM first_event AS f
JOIN viewed AS v USING (page_view_id)
