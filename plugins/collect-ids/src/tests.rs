use super::*;
use stepwell_sdk::Answer;
use stepwell_sdk::request::{Keys, Verify};
use stepwell_sdk::testing::{Conversation, rows};

fn columns(names: &[&str]) -> Answer {
    let list: Vec<_> = names
        .iter()
        .map(|&name| [Some(name), Some("text"), None, Some("r")])
        .collect();
    let list: Vec<&[Option<&str>]> = list.iter().map(|row| &row[..]).collect();
    rows(&["name", "type", "type_oid", "kind"], &list)
}

fn conversation(with: &str, derived: &[&str]) -> Conversation<With> {
    let batches = Batches {
        batches: 1,
        reopened: 0,
        events: 700,
        first: "a".into(),
        last: "a".into(),
        events_without_batch: 0,
        more: false,
        from_nothing: derived.is_empty(),
        backlog: None,
        folded: None,
    };
    Conversation::new(plan, with)
        .about("batches", &batches)
        .answer("columns of derived.sessions", columns(derived))
        .answer(
            "indexes of derived.sessions",
            rows(
                &["method", "leading", "columns"],
                &[&[Some("btree"), Some("session_id"), Some("1")]],
            ),
        )
        .answer(
            "indexes of atomic.events",
            rows(
                &["method", "leading", "columns"],
                &[&[Some("btree"), Some("domain_sessionid"), Some("1")]],
            ),
        )
}

const SESSIONS: &str = r#""batches": "batches", "key": {"session_id": "domain_sessionid"}, "into": "ids", "since": "derived.sessions.first_at""#;

#[test]
fn the_first_run_has_no_derived_rows_to_ask() {
    conversation(&format!("{{{SESSIONS}}}"), &[]).check_golden("sql/first.postgres.sql");
}

#[test]
fn later_runs_go_back_to_what_the_derived_rows_say() {
    conversation(&format!("{{{SESSIONS}}}"), &["session_id", "first_at"])
        .check_golden("sql/since.postgres.sql");
}

#[test]
fn keys_that_come_back_say_when_they_were_away() {
    let with = format!(
        r#"{{{SESSIONS}, "until": "derived.sessions.last_at", "expand-by": ["domain_userid"]}}"#
    );
    let derived = ["session_id", "first_at", "last_at"];
    conversation(&with, &derived).check_golden("sql/until.postgres.sql");
    // Nothing is known of rows that are not there yet.
    let text = conversation(&with, &[]).golden();
    assert!(!text.contains("again") && !text.contains("split"), "{text}");
}

fn runaways(list: &[&str], keys: i64) -> Answer {
    let named: Vec<[Option<&str>; 1]> = list.iter().map(|&key| [Some(key)]).collect();
    let named: Vec<&[Option<&str>]> = named.iter().map(|row| &row[..]).collect();
    let counts: Vec<_> = list.iter().map(|_| [Some(keys), Some(400)]).collect();
    let counts: Vec<&[Option<i64>]> = counts.iter().map(|row| &row[..]).collect();
    stepwell_sdk::testing::beside(
        rows(&["stepwell_key"], &named),
        stepwell_sdk::testing::ints(&["stepwell_keys", "stepwell_events"], &counts),
    )
}

#[test]
fn keys_that_never_end_are_left_as_they_are() {
    let with = |then: &str| {
        format!(r#"{{{SESSIONS}, "runaway": {{"longer-than": "30 days", "then": "{then}"}}}}"#)
    };
    let asked = "keys whose events lie too far apart";
    let conversation = |then: &str| conversation(&with(then), &["session_id", "first_at"]);
    conversation("freeze")
        .answer(asked, runaways(&["a", "b", "c", "d", "e"], 7))
        .check_golden("sql/freeze.postgres.sql");

    let text = conversation("compute")
        .answer(asked, runaways(&["a"], 1))
        .golden();
    assert!(
        !text.contains("HAVING NOT") && !text.contains("frozen"),
        "{text}"
    );
    assert!(
        text.contains("1 key has events that lie more than 30 days apart (a), with 400 pending events; its row is computed"),
        "{text}"
    );

    let failed = conversation("fail").answer(asked, runaways(&["a", "b"], 2));
    let failure = failed.outcome().0.unwrap_err();
    assert_eq!(
        (failure.code.as_str(), failure.setting.as_deref()),
        ("runaway-keys", Some("/runaway"))
    );
    assert_eq!(
        failure.message,
        "2 keys have events that lie more than 30 days apart (a; b)"
    );
    // None is too long, and nothing of the kind is asked where nothing is run.
    let (plan, _) = conversation("fail")
        .answer(asked, runaways(&[], 0))
        .outcome();
    assert!(plan.unwrap().notes.is_empty());
    let (plan, questions) = conversation("fail").with_trait("planned").outcome();
    assert!(plan.is_ok() && !questions.iter().any(|question| question.label == asked));
}

#[test]
fn keys_that_share_a_value_follow() {
    let with = format!(r#"{{{SESSIONS}, "expand-by": ["domain_userid"], "events": "event_ids"}}"#);
    conversation(&with, &["session_id", "first_at"]).check_golden("sql/expand.postgres.sql");
}

#[test]
fn steps_repeat_and_go_by_contexts() {
    let with = format!(
        r#"{{{SESSIONS}, "contexts": ["page"], "expand-by": ["page.id", "user_id"],
            "read-also": {{"into": "neighbours", "expand-by": ["user_id"]}}}}"#
    );
    let text = conversation(&with, &["session_id", "first_at"]).golden();
    // The key needs no context: events are joined with it where a step names it, and nowhere
    // else.
    assert_eq!(text.matches("LEFT JOIN (SELECT root_id").count(), 3);
    assert!(text.contains(r#""contexts":[]"#), "{text}");
    assert_eq!(text.matches("about neighbours").count(), 1);
    conversation(&with, &["session_id", "first_at"]).check_golden("sql/read-also.postgres.sql");
}

/// The labels of what is run when something else than the pending batches is asked for.
fn labels(with: &str, word: &str, request: &impl serde::Serialize) -> Vec<String> {
    let asked = conversation(with, &["session_id", "first_at"])
        .with_trait(word)
        .about("request", request);
    let statements = asked.outcome().0.unwrap().statements;
    statements.into_iter().map(|s| s.label).collect()
}

#[test]
fn a_replay_of_keys_follows_what_they_share() {
    let with = format!(r#"{{{SESSIONS}, "expand-by": ["domain_userid"]}}"#);
    let keys = |step: Option<&str>| {
        Replay::Keys(Keys {
            step: step.map(str::to_owned),
            columns: None,
            rows: vec![vec!["a".into()]],
        })
    };
    let expands = "add ids that share domain_userid".to_owned();
    let own = labels(&with, "replay", &keys(None));
    let noted = own
        .iter()
        .position(|l| l == "note the ids that were asked for");
    assert!(noted < own.iter().position(|l| *l == expands), "{own:?}");
    assert!(own.contains(&expands));
    // The keys of another step are no ids here.
    assert!(!labels(&with, "replay", &keys(Some("other"))).contains(&expands));
}

#[test]
fn a_part_of_keys_that_share_values_is_not_verified() {
    let alone = format!(r#"{{{SESSIONS}, "expand-by": ["user_id"]}}"#);
    let whole = Verify {
        limit: 20,
        ..Verify::default()
    };
    let part = Verify {
        keys: Some(9),
        ..whole.clone()
    };
    assert!(!labels(&alone, "verify", &whole).is_empty());
    let asked = conversation(&alone, &["session_id", "first_at"])
        .with_trait("verify")
        .about("request", &part);
    let failure = asked.outcome().0.unwrap_err();
    assert_eq!(
        (failure.code.as_str(), failure.setting.as_deref()),
        ("whole-only", Some("/expand-by"))
    );
    assert!(failure.help.unwrap().contains("`read-also`"));
    // What the rows depend on is read besides here.
    let also = format!(
        r#"{{{SESSIONS}, "expand-by": ["user_id"], "read-also": {{"into": "neighbours", "expand-by": ["user_id"]}}}}"#
    );
    assert!(!labels(&also, "verify", &part).is_empty());
}

#[test]
fn nothing_is_added_where_these_are_all_ids() {
    let with = format!(
        r#"{{{SESSIONS}, "expand-by": ["user_id"], "read-also": {{"into": "neighbours", "expand-by": ["user_id"]}}}}"#
    );
    let (plan, _) = conversation(&with, &[]).outcome();
    let labels: Vec<_> = plan.unwrap().statements;
    assert!(!labels.iter().any(|s| s.label.starts_with("add ids")));
    assert!(labels.iter().any(|s| s.label == "begin with the ids"));
}

#[test]
fn composite_keys_and_contexts() {
    let with = r#"{"batches": "batches", "key": {"visitor": "domain_userid", "page": "page.id"}, "into": "ids", "contexts": ["page"]}"#;
    conversation(with, &[]).check_golden("sql/composite.postgres.sql");
}

#[test]
fn mistakes_point_at_the_setting() {
    let failure = |with: &str| conversation(with, &["session_id"]).outcome().0.unwrap_err();
    let found = failure(&format!("{{{SESSIONS}}}"));
    assert_eq!(
        (found.message.as_str(), found.setting.as_deref()),
        (
            "table derived.sessions has no column \"first_at\"",
            Some("/since")
        )
    );
    let until = |column: &str| {
        let with = format!(r#"{{{SESSIONS}, "until": "{column}"}}"#);
        let failure = conversation(&with, &["session_id", "first_at"]).outcome().0;
        let failure = failure.unwrap_err();
        (failure.code, failure.setting)
    };
    let at = Some("/until".to_owned());
    assert_eq!(until("derived.days.at"), ("other-table".into(), at.clone()));
    assert_eq!(
        until("derived.sessions.last_at"),
        ("missing-column".into(), at)
    );
    let found = failure(
        r#"{"batches": "batches", "key": ["a"], "into": "ids", "runaway": {"longer-than": "1 day", "then": "fail"}}"#,
    );
    assert_eq!(
        (found.code.as_str(), found.setting.as_deref()),
        ("no-since", Some("/runaway"))
    );
    let found = failure(&format!(
        r#"{{{SESSIONS}, "expand-by": ["user_id"], "runaway": {{"longer-than": "1 day", "then": "freeze"}}}}"#
    ));
    assert_eq!(found.code, "others-depend");
    let found = failure(&format!(
        r#"{{{SESSIONS}, "until": "derived.sessions.at", "runaway": {{"longer-than": "1 day", "then": "freeze"}}}}"#
    ));
    assert_eq!(found.code, "stale-until");
    let found = failure(r#"{"batches": "batches", "key": {"since": "a"}, "into": "ids"}"#);
    assert_eq!(found.code, "key-name");
    let found = failure(r#"{"batches": "other", "key": ["a"], "into": "ids"}"#);
    assert_eq!(
        (found.code.as_str(), found.setting.as_deref()),
        ("wrong-table", Some("/batches"))
    );
    let found = failure(
        r#"{"batches": "batches", "key": {"a": "pg.id"}, "into": "ids", "contexts": ["pg"]}"#,
    );
    assert_eq!(
        (found.code.as_str(), found.setting.as_deref()),
        ("unknown-context", Some("/contexts"))
    );
}
