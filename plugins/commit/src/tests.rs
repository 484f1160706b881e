use super::*;
use stepwell_sdk::Answer;
use stepwell_sdk::incremental::{KeyColumn, Rest};
use stepwell_sdk::testing::{Conversation, beside, bools, rows};

fn columns(list: &[(&str, &str)]) -> Answer {
    let list: Vec<_> = list
        .iter()
        .map(|&(name, ty)| [Some(name), Some(ty), None, Some("r")])
        .collect();
    let list: Vec<&[Option<&str>]> = list.iter().map(|row| &row[..]).collect();
    rows(&["name", "type", "type_oid", "kind"], &list)
}

fn conversation(
    policy: &str,
    derived: &[(&str, &str)],
    computed: &[(&str, &str)],
) -> Conversation<With> {
    let batches = Batches {
        batches: 1,
        events: 1,
        first: "a".into(),
        last: "a".into(),
        from_nothing: derived.is_empty(),
        ..Batches::default()
    };
    conversation_of(&batches, policy, derived, computed)
}

fn conversation_of(
    batches: &Batches,
    policy: &str,
    derived: &[(&str, &str)],
    computed: &[(&str, &str)],
) -> Conversation<With> {
    let with = format!(
        r#"{{"replace": [{{"table": "derived.sessions", "from": "sessions", "key": ["session_id"], "ids": "ids"}}],
            "manifest": "batches", "on-schema-change": "{policy}"}}"#
    );
    let key = KeyColumn {
        name: "session_id".into(),
        expression: "domain_sessionid".into(),
    };
    let ids = Ids {
        key: vec![key],
        batches: "batches".into(),
        bounded: true,
        contexts: vec![],
        ..Ids::default()
    };
    Conversation::new(plan, &with)
        .about("ids", &ids)
        .about("batches", batches)
        .answer("columns of derived.sessions", columns(derived))
        .answer("columns of scratch.sessions__sessions", columns(computed))
        .answer(
            "rows of scratch.sessions__sessions that belong to no id",
            flag("strays", false),
        )
        .answer("rows of derived.sessions", flag("filled", false))
        .answer(
            "batches without a row of their own",
            rows(&["batch", "processed_at"], &[]),
        )
}

/// A truth value, as one bit.
fn flag(name: &str, value: bool) -> Answer {
    let mut answer = rows(&[name], &[&[None]]);
    answer.fields[0].layout = stepwell_sdk::columnar::Layout::Bits;
    answer.rows.columns[0].validity = None;
    answer.rows.columns[0].values = stepwell_sdk::columnar::Values::Bits(vec![u8::from(value)]);
    answer
}

const ROWS: [(&str, &str); 2] = [("session_id", "text"), ("n", "bigint")];

#[test]
fn the_first_run_makes_the_table() {
    conversation("fail", &[], &ROWS).check_golden("sql/first.postgres.sql");
}

#[test]
fn later_runs_replace_the_rows_of_the_ids() {
    conversation("fail", &ROWS, &ROWS).check_golden("sql/again.postgres.sql");
    conversation("fail", &ROWS, &ROWS)
        .with_trait("full-refresh")
        .check_golden("sql/full-refresh.postgres.sql");
}

/// What `diff-manifest` says of old batches.
fn folding(older_than: Option<&str>, rest: Option<Rest>) -> Batches {
    Batches {
        batches: 1,
        folded: Some(Folded {
            before: "2025-12-24 00:00:00".into(),
            older_than: older_than.map(str::to_owned),
            rest,
        }),
        ..Batches::default()
    }
}

#[test]
fn rows_of_old_batches_are_folded_where_it_is_said_so() {
    let older_than = Some("2025-12-25 00:00:00");
    conversation_of(&folding(older_than, None), "fail", &ROWS, &ROWS)
        .check_golden("sql/fold.postgres.sql");
    let labels = |batches: Batches| {
        let run = conversation_of(&batches, "fail", &ROWS, &ROWS);
        let statements = run.outcome().0.unwrap().statements;
        let labels = statements.into_iter().map(|statement| statement.label);
        labels.skip(4).collect::<Vec<_>>()
    };
    assert_eq!(labels(folding(None, None)), [""; 0]);
    let rest = Rest {
        batches: 8,
        events: 97,
    };
    assert_eq!(
        labels(folding(None, Some(rest))),
        ["correct what batches without a row have"]
    );
}

#[test]
fn a_full_refresh_gives_each_batch_its_row() {
    let standing = rows(
        &["batch", "processed_at"],
        &[&[Some("2025-12-20 00:00:00"), Some("2025-12-20 01:00:00+00")]],
    );
    conversation("fail", &ROWS, &ROWS)
        .with_trait("full-refresh")
        .answer_first("batches without a row of their own", standing)
        .check_golden("sql/unfold.full-refresh.postgres.sql");
}

#[test]
fn other_columns_are_an_error_that_names_them_unless_allowed() {
    let more = [ROWS[0], ROWS[1], ("extra", "date")];
    let failure = conversation("fail", &ROWS, &more).outcome().0.unwrap_err();
    assert_eq!(failure.code, "schema-changed");
    assert!(
        failure.message.ends_with("\"extra\" (date) is new"),
        "{}",
        failure.message
    );
    assert!(failure.help.unwrap().contains("on-schema-change: append"));
    conversation("append", &ROWS, &more).check_golden("sql/append.postgres.sql");

    let fewer = [ROWS[0]];
    assert!(conversation("append", &ROWS, &fewer).outcome().0.is_err());
    assert!(conversation("rebuild", &ROWS, &fewer).outcome().0.is_err());
    assert!(rebuilt(&fewer, &[]).is_ok());
}

/// What a full refresh makes of ROWS, given what hangs on the columns.
fn rebuilt(computed: &[(&str, &str)], hangs: &[[&str; 3]]) -> Result<(), Failure> {
    let texts: Vec<[Option<&str>; 2]> = hangs
        .iter()
        .map(|&[column, what, _]| [Some(column), Some(what)])
        .collect();
    let texts: Vec<&[Option<&str>]> = texts.iter().map(|row| &row[..]).collect();
    let alone: Vec<[Option<bool>; 1]> = hangs
        .iter()
        .map(|&[.., alone]| [Some(alone == "t")])
        .collect();
    let alone: Vec<&[Option<bool>]> = alone.iter().map(|row| &row[..]).collect();
    let answer = beside(rows(&["column", "what"], &texts), bools(&["alone"], &alone));
    conversation("rebuild", &ROWS, computed)
        .with_trait("full-refresh")
        .answer("what hangs on the columns of derived.sessions", answer)
        .outcome()
        .0
        .map(drop)
}

#[test]
fn what_hangs_on_a_column_does_not_go_unseen() {
    let alone = ["n", "index by_n", "t"];
    let shared = ["n", "index by_both", "f"];
    let kept = ["session_id", "index by_id", "t"];
    let fewer = [ROWS[0]];
    assert!(rebuilt(&fewer, &[alone, kept]).is_ok());
    let failure = rebuilt(&fewer, &[alone, shared, kept]).unwrap_err();
    assert_eq!(failure.code, "would-be-lost");
    assert!(
        failure
            .message
            .ends_with(": index by_both, with column \"n\""),
        "{}",
        failure.message
    );
    // Of a column that changes its type, nothing may go.
    let other = [ROWS[0], (ROWS[1].0, "numeric")];
    let failure = rebuilt(&other, &[alone, kept]).unwrap_err();
    assert!(
        failure.message.ends_with(": index by_n, with column \"n\""),
        "{}",
        failure.message
    );
    assert!(rebuilt(&other, &[kept]).is_ok());
}

#[test]
fn rows_without_their_key_are_refused() {
    let failure = conversation("fail", &ROWS, &[("n", "bigint")])
        .outcome()
        .0
        .unwrap_err();
    assert_eq!(
        (failure.code.as_str(), failure.setting.as_deref()),
        ("missing-column", Some("/replace/0/key"))
    );
}

#[test]
fn a_table_and_its_manifest_begin_together() {
    let gone = conversation("fail", &ROWS, &ROWS)
        .answer_first("columns of derived.sessions", columns(&[]));
    let failure = gone.outcome().0.unwrap_err();
    assert!(
        failure.message.contains("does not exist, though"),
        "{}",
        failure.message
    );
    assert!(failure.help.unwrap().contains("--full-refresh"));
    let filled = conversation("fail", &[], &ROWS)
        .answer_first("columns of derived.sessions", columns(&ROWS))
        .answer_first("rows of derived.sessions", flag("filled", true))
        .answer(
            "other playbooks of the manifest",
            rows(&["playbooks"], &[&[Some("theirs")]]),
        );
    let failure = filled.outcome().0.unwrap_err();
    assert!(
        failure.message.contains("has rows, though"),
        "{}",
        failure.message
    );
    let help = failure.help.unwrap();
    assert!(
        help.starts_with("They may be another playbook's (the manifest has batches of theirs as well): then name another table"),
        "{help}"
    );
    assert!(
        help.find("another table") < help.find("--full-refresh"),
        "{help}"
    );
}

#[test]
fn rows_of_no_id_are_refused() {
    let strays = "rows of scratch.sessions__sessions that belong to no id";
    let failure = conversation("fail", &ROWS, &ROWS)
        .answer_first(strays, flag("strays", true))
        .outcome()
        .0
        .unwrap_err();
    assert_eq!(
        (failure.code.as_str(), failure.setting.as_deref()),
        ("stray-rows", Some("/replace/0/from"))
    );
    let planned = conversation("fail", &ROWS, &ROWS)
        .with_trait("planned")
        .answer_first(strays, flag("strays", true));
    assert!(planned.outcome().0.is_ok());
}
