-- Tables of the hand-written side of the benchmark: run once, before run.sql.
--
--     psql -X -f setup.sql
--
-- What a careful analyst keeps for two incremental models: a manifest of the batches that each has processed, and the
-- two derived tables. Scratch tables are made anew by each run.

\set ON_ERROR_STOP on
\set QUIET on

CREATE SCHEMA hand_scratch;
CREATE SCHEMA hand_derived;

CREATE TABLE hand_derived.manifest (
    playbook text,
    etl_tstamp timestamp,
    events bigint NOT NULL,
    processed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (playbook, etl_tstamp)
);

CREATE TABLE hand_derived.sessions (
    session_id char(128) PRIMARY KEY,
    domain_userid varchar(128),
    start_tstamp timestamp,
    end_tstamp timestamp,
    first_collector_tstamp timestamp,
    events bigint NOT NULL,
    page_views bigint NOT NULL,
    pages bigint NOT NULL,             -- distinct page ids of the page context
    engaged_seconds bigint NOT NULL,   -- ten for each page ping
    first_page_url text
);

CREATE TABLE hand_derived.visitor_days (
    visitor varchar(128),
    day date,
    sessions bigint NOT NULL,
    page_views bigint NOT NULL,
    events bigint NOT NULL,
    first_collector_tstamp timestamp,
    PRIMARY KEY (visitor, day)
);
