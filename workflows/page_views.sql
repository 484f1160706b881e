-- One row per page view: the first page_view event names the page, page pings say how long it was looked at.
SELECT
    page.id AS page_view_id,
    min(e.domain_sessionid) AS session_id,
    min(e.domain_userid) AS domain_userid,
    min(e.derived_tstamp) AS start_tstamp,
    max(e.derived_tstamp) AS end_tstamp,
    min(e.collector_tstamp) AS first_collector_tstamp,
    10 * count(*) FILTER (WHERE e.event_name = 'page_ping') AS engaged_seconds,
    max(least(100, 100 * (e.pp_yoffset_max + e.br_viewheight) / nullif(e.doc_height, 0))) AS scrolled_percent,
    (array_agg(e.page_url ORDER BY e.derived_tstamp, e.event_id) FILTER (WHERE e.event_name = 'page_view'))[1] AS page_url
FROM {{ events }} AS e
JOIN {{ page }} AS page ON page.stepwell_event = e.event_id
WHERE page.id IN (SELECT page_view_id FROM {{ ids }})
GROUP BY page.id
