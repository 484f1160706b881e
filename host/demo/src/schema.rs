//! The tables: `atomic.events` with those columns of the canonical Snowplow event model that a web
//! model uses, in their canonical order and with their Postgres types, and the table of the page
//! context.

/// Name and type of each column of `atomic.events`, in the order of
/// [`Batch::event_chunks`](crate::Batch::event_chunks).
pub(crate) const EVENT_COLUMNS: [(&str, &str); 48] = [
    ("app_id", "varchar(255)"),
    ("platform", "varchar(255)"),
    ("etl_tstamp", "timestamp"),
    ("collector_tstamp", "timestamp NOT NULL"),
    ("dvce_created_tstamp", "timestamp"),
    ("event", "varchar(128)"),
    ("event_id", "char(36) NOT NULL"),
    ("v_tracker", "varchar(100)"),
    ("v_collector", "varchar(100) NOT NULL"),
    ("v_etl", "varchar(100) NOT NULL"),
    ("user_id", "varchar(255)"),
    ("domain_userid", "varchar(128)"),
    ("domain_sessionidx", "smallint"),
    ("network_userid", "varchar(128)"),
    ("geo_country", "char(2)"),
    ("page_url", "text"),
    ("page_title", "varchar(2000)"),
    ("page_referrer", "text"),
    ("page_urlhost", "varchar(255)"),
    ("page_urlpath", "varchar(3000)"),
    ("refr_urlhost", "varchar(255)"),
    ("refr_medium", "varchar(25)"),
    ("refr_source", "varchar(50)"),
    ("mkt_medium", "varchar(255)"),
    ("mkt_source", "varchar(255)"),
    ("mkt_campaign", "varchar(255)"),
    ("se_category", "varchar(1000)"),
    ("se_action", "varchar(1000)"),
    ("se_label", "varchar(4096)"),
    ("pp_xoffset_min", "integer"),
    ("pp_xoffset_max", "integer"),
    ("pp_yoffset_min", "integer"),
    ("pp_yoffset_max", "integer"),
    ("useragent", "varchar(1000)"),
    ("br_family", "varchar(50)"),
    ("br_lang", "varchar(255)"),
    ("br_viewwidth", "integer"),
    ("br_viewheight", "integer"),
    ("os_family", "varchar(50)"),
    ("os_timezone", "varchar(255)"),
    ("dvce_type", "varchar(50)"),
    ("doc_width", "integer"),
    ("doc_height", "integer"),
    ("dvce_sent_tstamp", "timestamp"),
    ("domain_sessionid", "char(128)"),
    ("derived_tstamp", "timestamp"),
    ("event_name", "varchar(1000)"),
    ("load_tstamp", "timestamp"),
];

/// Name and type of each column of the page context table.
pub(crate) const PAGE_CONTEXT_COLUMNS: [(&str, &str); 10] = [
    ("schema_vendor", "varchar(128) NOT NULL"),
    ("schema_name", "varchar(128) NOT NULL"),
    ("schema_format", "varchar(128) NOT NULL"),
    ("schema_version", "varchar(128) NOT NULL"),
    ("root_id", "char(36) NOT NULL"),
    ("root_tstamp", "timestamp NOT NULL"),
    ("ref_root", "varchar(255) NOT NULL"),
    ("ref_tree", "varchar(1500) NOT NULL"),
    ("ref_parent", "varchar(255) NOT NULL"),
    ("id", "char(36)"),
];

const EVENTS: &str = "atomic.events";
const PAGE_CONTEXTS: &str = "atomic.com_snowplowanalytics_snowplow_web_page_1";

/// Returns the statements that create schema `atomic` with its two tables, to be run once and in
/// order. There are no indexes on them, as in many a warehouse: see [`indexes_sql`].
pub fn schema_sql() -> Vec<String> {
    vec![
        "CREATE SCHEMA atomic".to_owned(),
        create_table(EVENTS, &EVENT_COLUMNS),
        create_table(PAGE_CONTEXTS, &PAGE_CONTEXT_COLUMNS),
    ]
}

/// All indexes; those on the sort key first.
const INDEXES: [&str; 8] = [
    "CREATE INDEX events_collector_tstamp ON atomic.events USING brin (collector_tstamp)",
    "CREATE INDEX web_page_1_root_tstamp \
     ON atomic.com_snowplowanalytics_snowplow_web_page_1 USING brin (root_tstamp)",
    "CREATE INDEX events_etl_tstamp ON atomic.events (etl_tstamp)",
    "CREATE INDEX events_domain_sessionid ON atomic.events (domain_sessionid)",
    "CREATE INDEX events_domain_userid ON atomic.events (domain_userid)",
    "CREATE INDEX events_event_id ON atomic.events (event_id)",
    "CREATE INDEX web_page_1_root_id \
     ON atomic.com_snowplowanalytics_snowplow_web_page_1 (root_id)",
    "CREATE INDEX web_page_1_id ON atomic.com_snowplowanalytics_snowplow_web_page_1 (id)",
];

/// Returns the statements that create all indexes which help an incremental model: those of
/// [`sort_key_indexes_sql`], and B-trees on batch, session, visitor, event id and page id.
///
/// They are apart from [`schema_sql`] since the benchmark runs with and without them, and since
/// loading is faster before they exist.
pub fn indexes_sql() -> &'static [&'static str] {
    &INDEXES
}

/// Returns the statements that create only BRIN indexes on the time columns: what a sort key gives
/// on Redshift. They help as long as the tables are in order of time, which a VACUUM ends: later
/// rows then go to free space in old pages.
pub fn sort_key_indexes_sql() -> &'static [&'static str] {
    &INDEXES[..2]
}

/// Returns the statement that takes the bytes of
/// [`Batch::event_chunks`](crate::Batch::event_chunks).
pub fn copy_events_sql() -> String {
    copy_from_stdin(EVENTS, &EVENT_COLUMNS)
}

/// Returns the statement that takes the bytes of
/// [`Batch::page_context_chunks`](crate::Batch::page_context_chunks).
pub fn copy_page_contexts_sql() -> String {
    copy_from_stdin(PAGE_CONTEXTS, &PAGE_CONTEXT_COLUMNS)
}

fn create_table(table: &str, columns: &[(&str, &str)]) -> String {
    let columns: Vec<String> = columns
        .iter()
        .map(|(name, sql_type)| format!("    {name} {sql_type}"))
        .collect();
    format!("CREATE TABLE {table} (\n{}\n)", columns.join(",\n"))
}

/// Columns by name, so that a table to which somebody added columns can still be loaded.
fn copy_from_stdin(table: &str, columns: &[(&str, &str)]) -> String {
    let columns: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    format!("COPY {table} ({}) FROM STDIN", columns.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_name_each_column_once_and_in_order() {
        let [schema, events, contexts] = &schema_sql()[..] else {
            panic!("three statements")
        };
        assert_eq!(schema, "CREATE SCHEMA atomic");
        assert!(events.starts_with("CREATE TABLE atomic.events (\n    app_id varchar(255),\n"));
        assert!(
            events.contains("    domain_sessionid char(128),\n    derived_tstamp timestamp,\n")
        );
        assert!(contexts.ends_with("    id char(36)\n)"));
        assert_eq!(
            copy_page_contexts_sql(),
            "COPY atomic.com_snowplowanalytics_snowplow_web_page_1 (schema_vendor, schema_name, \
             schema_format, schema_version, root_id, root_tstamp, ref_root, ref_tree, ref_parent, \
             id) FROM STDIN"
        );
    }
}
