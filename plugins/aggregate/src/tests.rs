use super::*;
use stepwell_sdk::incremental::{Batches, KeyColumn};
use stepwell_sdk::testing::{Conversation, rows};

fn conversation(key: &[(&str, &str)], contexts: &[&str], with: &str) -> Conversation<With> {
    let column = |&(name, expression): &(&str, &str)| KeyColumn {
        name: name.into(),
        expression: expression.into(),
    };
    let ids = Ids {
        key: key.iter().map(column).collect(),
        batches: "batches".into(),
        bounded: true,
        contexts: contexts.iter().map(|&name| name.into()).collect(),
        ..Ids::default()
    };
    let columns: Vec<_> = [
        "event_id",
        "domain_userid",
        "domain_sessionid",
        "event_name",
        "derived_tstamp",
        "collector_tstamp",
        "etl_tstamp",
        "useragent",
    ]
    .map(|name| [Some(name), Some("text"), None, Some("r")])
    .into();
    let columns: Vec<&[Option<&str>]> = columns.iter().map(|row| &row[..]).collect();
    Conversation::new(plan, with).about("ids", &ids).answer(
        "columns of atomic.events",
        rows(&["name", "type", "type_oid", "kind"], &columns),
    )
}

const DEDUPE: &str =
    r#""dedupe": {"by": "event_id", "earliest": ["collector_tstamp", "etl_tstamp"]}"#;

#[test]
fn columns_alone_are_one_statement() {
    let with = format!(
        r#"{{"ids": "ids", "into": "sessions", {DEDUPE}, "columns": {{
            "start_tstamp": "min(derived_tstamp)", "page_views": "count(*) FILTER (WHERE event_name = 'page_view')" }} }}"#
    );
    conversation(&[("session_id", "domain_sessionid")], &[], &with)
        .check_golden("sql/columns.postgres.sql");
    conversation(&[("session_id", "domain_sessionid")], &[], &with)
        .with_trait("full-refresh")
        .check_golden("sql/columns.full-refresh.postgres.sql");
}

/// Unlogged tables cost a few rows more than they save; many rows they do not.
#[test]
fn tables_for_few_events_are_logged() {
    let with = format!(
        r#"{{"ids": "ids", "into": "sessions", {DEDUPE}, "columns": {{"events": "count(*)"}} }}"#
    );
    let create = |events: u64, from_nothing: bool| {
        let pending = Batches {
            batches: 1,
            reopened: 0,
            events,
            first: "a".into(),
            last: "a".into(),
            events_without_batch: 0,
            more: false,
            from_nothing,
            backlog: None,
            folded: None,
        };
        let (plan, _) = conversation(&[("session_id", "domain_sessionid")], &[], &with)
            .about("batches", &pending)
            .outcome();
        let create = plan.unwrap().statements.swap_remove(1);
        create.sql.lines().next().unwrap_or_default().to_owned()
    };
    let logged = "CREATE TABLE scratch.sessions__sessions WITH (autovacuum_enabled = off) AS";
    let unlogged = "CREATE UNLOGGED TABLE scratch.sessions__sessions AS";
    assert_eq!(create(20_000, false), logged);
    assert_eq!(create(20_001, false), unlogged);
    assert_eq!(create(1, true), unlogged);
}

#[test]
fn events_are_read_where_the_ids_have_any() {
    let with = r#"{"ids": "ids", "into": "sessions", "columns": {"n": "count(*)"}}"#;
    let split = Ids {
        key: vec![KeyColumn {
            name: "session_id".into(),
            expression: "domain_sessionid".into(),
        }],
        batches: "batches".into(),
        bounded: true,
        split: true,
        ..Ids::default()
    };
    let asked = "stretches of time that hold the ids' events";
    let conversation = |stretches: &[&[Option<&str>]]| {
        let columns = rows(
            &["name", "type", "type_oid", "kind"],
            &[&[
                Some("collector_tstamp"),
                Some("timestamp without time zone"),
                None,
                Some("r"),
            ]],
        );
        Conversation::new(plan, with)
            .about("ids", &split)
            .answer("columns of atomic.events", columns)
            .answer(asked, rows(&["low", "high"], stretches))
    };
    conversation(&[
        &[Some("2026-01-01 00:00:00"), Some("2026-01-01 00:20:00")],
        &[Some("2026-03-01 00:00:00"), None],
    ])
    .check_golden("sql/stretches.postgres.sql");
    let text = conversation(&[&[Some("2026-03-01 00:00:00"), None]]).golden();
    assert!(
        text.contains("WHERE (e.collector_tstamp >= CAST('2026-03-01 00:00:00' AS timestamp without time zone))"),
        "{text}"
    );
    assert!(!text.contains("measures"), "{text}");
    let (_, questions) = conversation(&[]).with_trait("planned").outcome();
    assert!(!questions.iter().any(|question| question.label == asked));
}

#[test]
fn contexts_are_staged_and_only_named_columns_copied() {
    let with = format!(
        r#"{{"ids": "ids", "into": "days", {DEDUPE}, "where": "event_name <> 'bot'", "contexts": ["page"],
            "columns": {{ "day": "derived_tstamp::date", "pages": "count(DISTINCT page.id)" }} }}"#
    );
    let key = [
        ("visitor", "domain_userid"),
        ("day", "derived_tstamp::date"),
    ];
    conversation(&key, &[], &with).check_golden("sql/contexts.postgres.sql");
}

#[test]
fn a_query_names_its_tables_in_braces() {
    let with = format!(
        r#"{{"ids": "ids", "into": "views", {DEDUPE},
            "query": {{"file": "v.sql", "text": "SELECT page.id AS page_view_id, min(e.derived_tstamp) AS start_at\nFROM {{{{ events }}}} AS e\nJOIN {{{{ page }}}} AS page ON page.stepwell_event = e.event_id\nGROUP BY page.id;\n"}} }}"#
    );
    conversation(&[("page_view_id", "page.id")], &["page"], &with)
        .check_golden("sql/query.postgres.sql");
}

#[test]
fn a_query_may_see_events_of_other_ids() {
    let key = [("session_id", "domain_sessionid")];
    let query = r#""query": "SELECT e.domain_sessionid AS session_id, rank() OVER (PARTITION BY min(e.domain_userid) ORDER BY min(e.derived_tstamp)) AS nth\nFROM {{ events }} AS e\nGROUP BY e.domain_sessionid -- All."#;
    let with = format!(
        r#"{{"ids": "ids", "read-also": "others", "into": "sessions", {DEDUPE}, {query}"}}"#
    );
    let conversation = |with: &str, others: &[(&str, &str)]| {
        let others = Ids {
            key: others
                .iter()
                .map(|&(name, expression)| KeyColumn {
                    name: name.into(),
                    expression: expression.into(),
                })
                .collect(),
            batches: "batches".into(),
            bounded: true,
            contexts: vec![],
            ..Ids::default()
        };
        conversation(&key, &[], with).about("others", &others)
    };
    conversation(&with, &key).check_golden("sql/read-also.postgres.sql");

    let failure = conversation(&with, &[("visitor", "domain_userid")])
        .outcome()
        .0
        .unwrap_err();
    assert_eq!(
        (failure.code.as_str(), failure.setting.as_deref()),
        ("other-key", Some("/read-also"))
    );
    let with =
        r#"{"ids": "ids", "read-also": "others", "into": "x", "columns": {"n": "count(*)"}}"#;
    let failure = conversation(with, &key).outcome().0.unwrap_err();
    assert_eq!(
        (failure.code.as_str(), failure.setting.as_deref()),
        ("needs-query", Some("/read-also"))
    );
}

#[test]
fn mistakes_point_at_the_setting() {
    let failure = |with: &str| {
        conversation(&[("k", "domain_userid")], &[], with)
            .outcome()
            .0
            .unwrap_err()
    };
    let found = failure(r#"{"ids": "ids", "into": "x"}"#);
    assert_eq!(
        (found.code.as_str(), found.setting.as_deref()),
        ("columns-or-query", Some("/columns"))
    );
    let found = failure(
        r#"{"ids": "ids", "into": "x", "columns": {"a": "1"}, "dedupe": {"by": "evnt", "earliest": []}}"#,
    );
    assert_eq!(
        (found.code.as_str(), found.setting.as_deref()),
        ("missing-column", Some("/dedupe/by"))
    );
    let found = failure(r#"{"ids": "ids", "into": "x", "query": "SELECT 1 FROM {{ page }}"}"#);
    assert!(
        found.message.contains("\"{{ page }}\" on line 1"),
        "{}",
        found.message
    );
    let found = failure(r#"{"ids": "ids", "into": "x", "query": "SELECT 1; SELECT 2"}"#);
    assert!(
        found.message.contains("found 2 statements"),
        "{}",
        found.message
    );
}
