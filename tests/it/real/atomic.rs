//! The tables of a Snowplow warehouse, and rows for them from CSV files or from a test.

use std::path::Path;

use stepwell_sql::quote_literal;

use crate::harness::Db;

const EVENTS: &str = "atomic.events";
const PAGE_CONTEXTS: &str = "atomic.com_snowplowanalytics_snowplow_web_page_1";

/// Columns with the types of the canonical event model, as far as the real events have them, and
/// when a row was loaded.
///
/// Ids of events are longer than the model's 36 letters in the real events, so they are texts here.
/// `test_add_col` is a column that its owner added.
const COLUMNS: &str = "
    app_id varchar(255), platform varchar(255), etl_tstamp timestamp, collector_tstamp timestamp NOT
    NULL, dvce_created_tstamp timestamp, event varchar(128), event_id text NOT NULL, name_tracker
    varchar(128), v_tracker varchar(100), v_collector varchar(100), v_etl varchar(100), user_id
    varchar(255), user_ipaddress varchar(128), user_fingerprint varchar(128), domain_userid
    varchar(128), domain_sessionidx smallint, network_userid varchar(128), geo_country char(2),
    geo_region char(3), geo_city varchar(75), geo_zipcode varchar(15), geo_latitude double
    precision, geo_longitude double precision, geo_region_name varchar(100), ip_isp varchar(100),
    ip_organization varchar(128), ip_domain varchar(128), ip_netspeed varchar(100), page_url text,
    page_title varchar(2000), page_referrer text, page_urlscheme varchar(16), page_urlhost
    varchar(255), page_urlport integer, page_urlpath varchar(3000), page_urlquery varchar(6000),
    page_urlfragment varchar(3000), refr_urlscheme varchar(16), refr_urlhost varchar(255),
    refr_urlport integer, refr_urlpath varchar(6000), refr_urlquery varchar(6000), refr_urlfragment
    varchar(3000), refr_medium varchar(25), refr_source varchar(50), refr_term varchar(255),
    mkt_medium varchar(255), mkt_source varchar(255), mkt_term varchar(255), mkt_content
    varchar(500), mkt_campaign varchar(255), se_category varchar(1000), se_action varchar(1000),
    se_label varchar(4096), se_property varchar(1000), pp_xoffset_min integer, pp_xoffset_max
    integer, pp_yoffset_min integer, pp_yoffset_max integer, useragent varchar(1000), br_name
    varchar(50), br_family varchar(50), br_version varchar(50), br_type varchar(50), br_renderengine
    varchar(50), br_lang varchar(255), br_features_pdf boolean, br_features_flash boolean,
    br_features_java boolean, br_features_director boolean, br_features_quicktime boolean,
    br_features_realplayer boolean, br_features_windowsmedia boolean, br_features_gears boolean,
    br_features_silverlight boolean, br_cookies boolean, br_colordepth varchar(12), br_viewwidth
    integer, br_viewheight integer, os_name varchar(50), os_family varchar(50), os_manufacturer
    varchar(50), os_timezone varchar(255), dvce_type varchar(50), dvce_ismobile boolean,
    dvce_screenwidth integer, dvce_screenheight integer, doc_charset varchar(128), doc_width
    integer, doc_height integer, geo_timezone varchar(64), mkt_clickid varchar(128), mkt_network
    varchar(64), dvce_sent_tstamp timestamp, domain_sessionid char(128), derived_tstamp timestamp,
    event_vendor varchar(1000), event_name varchar(1000), event_format varchar(128), event_version
    varchar(128), load_tstamp timestamp, test_add_col text";

/// Returns a database with empty tables, and the indexes that the workflow asks for.
pub async fn with_tables() -> Db {
    let db = Db::empty().await;
    db.sql(&format!(
        "CREATE SCHEMA atomic;
         CREATE TABLE {EVENTS} ({COLUMNS});
         CREATE TABLE {PAGE_CONTEXTS} (root_id text NOT NULL, root_tstamp timestamp, id char(36))"
    ))
    .await;
    for column in [
        "load_tstamp",
        "domain_sessionid",
        "domain_userid",
        "user_id",
        "event_id",
    ] {
        db.sql(&format!("CREATE INDEX ON {EVENTS} ({column})"))
            .await;
    }
    db.sql(&format!(
        "CREATE INDEX ON {PAGE_CONTEXTS} (root_id); CREATE INDEX ON {PAGE_CONTEXTS} (id)"
    ))
    .await;
    db
}

/// A CSV file. A cell that says NULL, in whichever case, or nothing at all is NULL.
pub struct Csv {
    pub header: Vec<String>,
    pub rows: Vec<Vec<Option<String>>>,
}

impl Csv {
    pub fn read(path: &Path) -> Self {
        let fail = |error: csv::Error| -> ! { panic!("{}: {error}", path.display()) };
        let mut reader = csv::Reader::from_path(path).unwrap_or_else(|error| fail(error));
        let cell = |text: &str| {
            (!text.is_empty() && !text.eq_ignore_ascii_case("null")).then(|| text.to_owned())
        };
        let header = reader.headers().unwrap_or_else(|error| fail(error));
        let header = header.iter().map(str::to_owned).collect();
        let rows = reader
            .records()
            .map(|row| {
                let row = row.unwrap_or_else(|error| fail(error));
                row.iter().map(cell).collect()
            })
            .collect();
        Self { header, rows }
    }
}

/// Loads events and their page contexts as one batch.
pub async fn land(db: &Db, events: &Csv, contexts: &Csv, load_tstamp: &str) {
    insert(db, EVENTS, &events.header, &events.rows).await;
    insert(db, PAGE_CONTEXTS, &contexts.header, &contexts.rows).await;
    stamp(db, load_tstamp).await;
}

/// An event that a test makes up. Times are seconds after 2024-01-01 12:00 UTC.
#[derive(Debug, Clone, Default)]
pub struct Event {
    pub id: String,
    pub name: &'static str,
    pub collected: u32,
    /// When the visitor's device says that it happened.
    pub created: u32,
    pub session: Option<String>,
    pub visitor: Option<String>,
    pub user: Option<String>,
    pub page_view: Option<String>,
}

/// Loads made-up events as one batch.
pub async fn land_made_up(db: &Db, events: &[Event], load_tstamp: &str) {
    let header = [
        "event_id",
        "event_name",
        "platform",
        "collector_tstamp",
        "derived_tstamp",
        "dvce_created_tstamp",
        "domain_sessionid",
        "domain_userid",
        "user_id",
        "test_add_col",
    ];
    let at = |seconds: u32| {
        Some(format!(
            "2024-01-01 {:02}:{:02}:{:02}",
            12 + seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        ))
    };
    let rows: Vec<_> = events
        .iter()
        .map(|event| {
            vec![
                Some(event.id.clone()),
                Some(event.name.to_owned()),
                Some("web".to_owned()),
                at(event.collected),
                at(event.created),
                at(event.created),
                event.session.clone(),
                event.visitor.clone(),
                event.user.clone(),
                Some(format!("{}-{}", event.id, event.created)),
            ]
        })
        .collect();
    insert(db, EVENTS, &header, &rows).await;
    let contexts: Vec<_> = events
        .iter()
        .filter(|event| event.page_view.is_some())
        .map(|event| vec![Some(event.id.clone()), event.page_view.clone()])
        .collect();
    insert(db, PAGE_CONTEXTS, &["root_id", "id"], &contexts).await;
    stamp(db, load_tstamp).await;
}

async fn insert<S: AsRef<str>>(db: &Db, table: &str, columns: &[S], rows: &[Vec<Option<String>>]) {
    if rows.is_empty() {
        return;
    }
    let literal = |cell: &Option<String>| match cell {
        Some(text) => quote_literal(text),
        None => "NULL".to_owned(),
    };
    let row = |row: &Vec<Option<String>>| {
        let cells: Vec<_> = row.iter().map(literal).collect();
        format!("({})", cells.join(", "))
    };
    let columns: Vec<_> = columns.iter().map(AsRef::as_ref).collect();
    let rows: Vec<_> = rows.iter().map(row).collect();
    let (columns, rows) = (columns.join(", "), rows.join(",\n"));
    db.sql(&format!("INSERT INTO {table} ({columns}) VALUES {rows}"))
        .await;
}

async fn stamp(db: &Db, load_tstamp: &str) {
    let load_tstamp = quote_literal(load_tstamp);
    db.sql(&format!(
        "UPDATE {EVENTS} SET load_tstamp = {load_tstamp} WHERE load_tstamp IS NULL;
         UPDATE {PAGE_CONTEXTS} SET root_tstamp = collector_tstamp FROM {EVENTS}
         WHERE event_id = root_id AND root_tstamp IS NULL"
    ))
    .await;
}
