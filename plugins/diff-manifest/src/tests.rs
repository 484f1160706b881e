use super::*;
use stepwell_sdk::Answer;
use stepwell_sdk::request::Replay;
use stepwell_sdk::testing::{Conversation, beside, bools, ints, rows};

/// The answer to a question for a table's columns: their names and types.
fn columns(list: &[(&str, &str)]) -> Answer {
    let values: Vec<[Option<&str>; 4]> = list
        .iter()
        .map(|&(name, ty)| [Some(name), Some(ty), None, Some("r")])
        .collect();
    let values: Vec<&[Option<&str>]> = values.iter().map(|row| &row[..]).collect();
    rows(&["name", "type", "type_oid", "kind"], &values)
}

fn conversation(method: &str, with: &str) -> Conversation<With> {
    let timestamp = "timestamp without time zone";
    Conversation::new(plan, with)
        .answer("type of a batch", rows(&["batch"], &[]))
        .answer(
            "columns of atomic.events",
            columns(&[("etl_tstamp", timestamp), ("collector_tstamp", timestamp)]),
        )
        .answer(
            "columns of derived.manifest",
            columns(&[("playbook", "text"), ("batch", timestamp)]),
        )
        .answer(
            "indexes of atomic.events",
            rows(
                &["method", "leading", "columns"],
                &[&[Some(method), Some("etl_tstamp"), Some("1")]],
            ),
        )
}

fn state(floor: Option<&str>) -> stepwell_sdk::Answer {
    match floor {
        Some(_) => standing(floor),
        None => rows(&["time_floor"], &[]),
    }
}

/// The first of January is the lookback's beginning, the eighth that of the newest processed event.
fn standing(before: Option<&str>) -> stepwell_sdk::Answer {
    state_of(before, None)
}

/// The same where the row of a batch stands for all before it, whose last event was on New Year's Eve.
fn folded(batch: &str) -> stepwell_sdk::Answer {
    state_of(Some(batch), Some(batch))
}

fn state_of(before: Option<&str>, folded: Option<&str>) -> stepwell_sdk::Answer {
    beside(
        rows(
            &["time_floor", "recount_floor", "batch_before", "folded"],
            &[&[Some("2026-01-01"), Some("2026-01-01"), before, folded]],
        ),
        ints(
            &["time_floor_us", "newest_us", "folded_last_us"],
            &[&[Some(day_us(1)), Some(day_us(8)), folded.map(|_| day_us(0))]],
        ),
    )
}

/// The rows that a run can fold.
fn old(before: Option<&str>, rows_of: i64) -> stepwell_sdk::Answer {
    beside(
        rows(
            &["fold_before", "fold_older_than"],
            &[&[before, Some("2025-12-25 00:00:00")]],
        ),
        ints(&["fold_batches"], &[&[Some(rows_of)]]),
    )
}

/// A day of January 2026, in microseconds since 1970.
fn day_us(day: i64) -> i64 {
    (1_767_225_600 + (day - 1) * 86_400) * 1_000_000
}

/// Batches with no more than their names.
fn names(list: &[&str]) -> stepwell_sdk::Answer {
    let list: Vec<[Option<&str>; 1]> = list.iter().map(|&name| [Some(name)]).collect();
    let list: Vec<&[Option<&str>]> = list.iter().map(|row| &row[..]).collect();
    rows(&["batch"], &list)
}

/// Batches whose events were read: their name, events, and events without a time.
fn read(list: &[(Option<&str>, i64, i64)]) -> stepwell_sdk::Answer {
    let texts: Vec<_> = list
        .iter()
        .map(|&(batch, ..)| [batch, Some("2026-01-07"), Some("2026-01-08")])
        .collect();
    let texts: Vec<&[Option<&str>]> = texts.iter().map(|row| &row[..]).collect();
    // The place counts from 1 over the whole list, as in the question about whole batches.
    let numbers: Vec<_> = list
        .iter()
        .zip(1..)
        .map(|(&(_, events, untimed), place)| {
            [Some(place), Some(events), Some(untimed), Some(day_us(8))]
        })
        .collect();
    let numbers: Vec<&[Option<i64>]> = numbers.iter().map(|row| &row[..]).collect();
    beside(
        rows(&["batch", "first_time", "last_time"], &texts),
        ints(&["place", "events", "untimed", "last_us"], &numbers),
    )
}

/// What the manifest says: the place of a batch or the name of one that is gone, its events before, and whether it
/// began within the lookback.
fn compared(list: &[(Option<i64>, Option<&str>, Option<i64>)]) -> stepwell_sdk::Answer {
    let gone: Vec<_> = list.iter().map(|&(_, gone, _)| [gone]).collect();
    let gone: Vec<&[Option<&str>]> = gone.iter().map(|row| &row[..]).collect();
    let numbers: Vec<_> = list
        .iter()
        .map(|&(place, _, before)| [place, before])
        .collect();
    let numbers: Vec<&[Option<i64>]> = numbers.iter().map(|row| &row[..]).collect();
    let within: Vec<_> = list.iter().map(|_| [Some(true)]).collect();
    let within: Vec<&[Option<bool>]> = within.iter().map(|row| &row[..]).collect();
    beside(
        beside(
            rows(&["gone"], &gone),
            ints(&["place", "events_before"], &numbers),
        ),
        bools(&["within"], &within),
    )
}

fn counts(list: &[(i64, i64)]) -> stepwell_sdk::Answer {
    let list: Vec<_> = list
        .iter()
        .map(|&(place, rows)| [Some(place), Some(rows)])
        .collect();
    let list: Vec<&[Option<i64>]> = list.iter().map(|row| &row[..]).collect();
    ints(&["place", "rows"], &list)
}

fn without(events: i64) -> stepwell_sdk::Answer {
    ints(&["events"], &[&[Some(events)]])
}

#[test]
fn an_index_is_walked() {
    conversation("btree", r#"{"into": "batches"}"#)
        .answer("state of the manifest", state(Some("2026-01-01 00:00:00")))
        .answer("batches", names(&["same", "a\"b\\", "new"]))
        .answer("events without a batch", without(3))
        .answer(
            "batches beside the manifest",
            compared(&[
                (Some(1), None, Some(9)),
                (Some(2), None, Some(4)),
                (Some(3), None, None),
            ]),
        )
        .answer("rows of processed batches", counts(&[(1, 9), (2, 5)]))
        .answer(
            "events of pending batches",
            read(&[(None, 5, 0), (None, 700, 0)]),
        )
        .check_golden("sql/walk.postgres.sql");
}

#[test]
fn without_an_index_the_lookback_is_read() {
    conversation(
        "brin",
        r#"{"into": "batches", "max-batches": 10, "recount": "1 day"}"#,
    )
    .answer("state of the manifest", state(Some("2026-01-01 00:00:00")))
    .answer(
        "batches",
        read(&[
            (None, 3, 0),
            (Some("same"), 9, 0),
            (Some("2026-01-08 01:00:00"), 600, 0),
        ]),
    )
    .answer(
        "batches beside the manifest",
        compared(&[(Some(1), None, Some(9)), (Some(2), None, None)]),
    )
    .answer("events of pending batches", read(&[(None, 700, 0)]))
    .check_golden("sql/scan.postgres.sql");
}

#[test]
fn the_first_run_reads_everything_once() {
    conversation("btree", r#"{"into": "batches"}"#)
        .answer("state of the manifest", state(None))
        .answer(
            "batches",
            beside(
                read(&[(Some("2026-01-08 01:00:00"), 700, 0)]),
                ints(&["batches"], &[&[Some(1)]]),
            ),
        )
        .check_golden("sql/first.postgres.sql");
}

#[test]
fn a_late_batch_before_all_others_is_walked_to() {
    let state = standing(None);
    let (plan, asked) = conversation("btree", r#"{"into": "batches"}"#)
        .answer("state of the manifest", state)
        .answer("batches", names(&["a"]))
        .answer("events without a batch", without(0))
        .answer(
            "batches beside the manifest",
            compared(&[(Some(1), None, None)]),
        )
        .answer("events of pending batches", read(&[(None, 1, 0)]))
        .outcome();
    assert_eq!(plan.unwrap().statements.len(), 4);
    let walk = asked
        .iter()
        .find(|question| question.label == "batches")
        .unwrap();
    assert!(
        walk.sql.contains("WHERE etl_tstamp IS NOT NULL ORDER BY"),
        "{}",
        walk.sql
    );
    assert!(walk.params.is_empty());
}

/// Playbooks in the same state must put the same questions to the events, since the host answers those once.
#[test]
fn questions_about_events_name_no_playbook() {
    for method in ["btree", "brin"] {
        let (_, asked) = conversation(method, r#"{"into": "batches"}"#)
            .answer("state of the manifest", state(Some("2026-01-01 00:00:00")))
            .answer("batches", read(&[(Some("a"), 5, 0), (Some("b"), 1, 0)]))
            .answer("events without a batch", without(0))
            .answer(
                "batches beside the manifest",
                compared(&[(Some(1), None, Some(4)), (Some(2), None, None)]),
            )
            .answer("rows of processed batches", counts(&[(1, 5)]))
            .answer(
                "events of pending batches",
                read(&[(None, 5, 0), (None, 1, 0)]),
            )
            .outcome();
        let reads_events = |question: &&Question| question.sql.contains("FROM atomic.events");
        let about_events: Vec<_> = asked.iter().filter(reads_events).collect();
        assert!(about_events.len() >= 3, "{about_events:#?}");
        for question in about_events {
            let names = ["sessions", "derived.manifest"];
            assert!(
                !names.iter().any(|name| question.sql.contains(name)),
                "{}",
                question.sql
            );
        }
    }
}

#[test]
fn slices_of_a_backlog_may_go_back_in_time() {
    let (plan, asked) = conversation("brin", r#"{"into": "batches"}"#)
        .with_trait("backlog")
        .answer("state of the manifest", state(Some("2026-01-01 00:00:00")))
        .answer(
            "batches",
            read(&[(None, 2, 1), (Some("old"), 7, 1), (Some("same"), 5, 0)]),
        )
        .answer(
            "batches beside the manifest",
            compared(&[(Some(1), None, None), (Some(2), None, Some(5))]),
        )
        .outcome();
    let read = asked
        .iter()
        .find(|question| question.label == "batches")
        .unwrap();
    assert!(read.sql.contains("WHERE true"), "{}", read.sql);
    assert!(read.params.is_empty());
    let about = &plan.unwrap().publishes[0].about;
    assert!(
        about.contains("\"batches\":1,\"reopened\":0,\"events\":7")
            && about.contains("\"events_without_batch\":4"),
        "{about}"
    );
}

#[test]
fn very_many_batches_come_page_by_page() {
    let page: Vec<String> = (0..20_000).map(|n| format!("{n:05}")).collect();
    let page: Vec<&str> = page.iter().map(String::as_str).collect();
    let (plan, asked) = conversation("btree", r#"{"into": "batches"}"#)
        .answer("state of the manifest", state(Some("2026-01-01 00:00:00")))
        .answer("batches", names(&page))
        .answer("events without a batch", without(0))
        .answer("batches beside the manifest", compared(&[]))
        .answer("batches, page 2", names(&["new"]))
        .answer(
            "batches beside the manifest, page 2",
            compared(&[(Some(1), None, None)]),
        )
        .answer("events of pending batches, page 2", read(&[(None, 1, 0)]))
        .outcome();
    assert_eq!(plan.unwrap().publishes.len(), 2);
    let params = |label: &str| {
        let found = asked.iter().find(|question| question.label == label);
        found.unwrap().params.clone()
    };
    let limit = [text("19999")];
    assert_eq!(params("batches, page 2"), limit);
    // Which of the manifest's batches are gone is asked of each page for its own stretch.
    assert_eq!(params("batches beside the manifest")[3..], limit);
    assert_eq!(params("batches beside the manifest, page 2")[3..], limit);
}

#[test]
fn a_full_refresh_leaves_the_batches_in_the_database() {
    let totals = beside(
        ints(
            &["batches", "events", "without_batch", "untimed"],
            &[&[Some(20_000), Some(9), Some(1), Some(2)]],
        ),
        rows(&["first", "last"], &[&[Some("a"), Some("z")]]),
    );
    conversation("btree", r#"{"into": "batches"}"#)
        .with_trait("full-refresh")
        .answer("all batches", totals)
        .check_golden("sql/full-refresh.postgres.sql");
}

#[test]
fn batches_that_shrank_are_reported_and_left() {
    let (plan, _) = conversation("btree", r#"{"into": "batches"}"#)
        .answer("state of the manifest", state(Some("2026-01-01 00:00:00")))
        .answer("batches", names(&["a", "untimed"]))
        .answer("events without a batch", without(0))
        .answer(
            "batches beside the manifest",
            compared(&[
                (Some(1), None, Some(5)),
                (Some(2), None, Some(8)),
                (None, Some("b"), Some(1)),
            ]),
        )
        .answer("rows of processed batches", counts(&[(1, 3), (2, 9)]))
        .answer("events of pending batches", read(&[(None, 6, 3)]))
        .outcome();
    let plan = plan.unwrap();
    assert_eq!(plan.ends_run.as_deref(), Some("no new batches"));
    assert!(
        plan.notes[1].starts_with("5 events are gone from 3 processed batches"),
        "{:?}",
        plan.notes
    );
}

#[test]
fn a_batch_seen_in_part_has_not_shrunk() {
    let numbers = ints(
        &["place", "events_before"],
        &[&[Some(1), Some(9)], &[None, Some(4)]],
    );
    let beyond = beside(
        beside(rows(&["gone"], &[&[None], &[Some("b")]]), numbers),
        bools(&["within"], &[&[Some(false)], &[Some(false)]]),
    );
    let (plan, asked) = conversation("brin", r#"{"into": "batches"}"#)
        .answer("state of the manifest", state(Some("2026-01-01 00:00:00")))
        .answer("batches", read(&[(Some("a"), 3, 0)]))
        .answer("batches beside the manifest", beyond)
        .outcome();
    let plan = plan.unwrap();
    assert_eq!(plan.notes, Vec::<String>::new());
    let advice = plan.publishes.iter().find(|it| it.alias == "advice");
    let advice = &advice.expect("one about the index").about;
    assert!(
        advice.contains("CREATE INDEX ON atomic.events (etl_tstamp)"),
        "{advice}"
    );
    assert_eq!(asked.last().unwrap().label, "batches beside the manifest");
}

#[test]
fn more_than_a_run_takes_is_said_so() {
    let (plan, _) = conversation("btree", r#"{"into": "batches", "max-batches": 1}"#)
        .answer("state of the manifest", state(Some("2026-01-01 00:00:00")))
        .answer("batches", names(&["untimed", "a", "b"]))
        .answer("events without a batch", without(3))
        .answer(
            "batches beside the manifest",
            compared(&[
                (Some(1), None, None),
                (Some(2), None, None),
                (Some(3), None, None),
            ]),
        )
        .answer(
            "events of pending batches",
            read(&[(None, 0, 2), (None, 3, 0)]),
        )
        // Of three that are pending two were asked for; one of them has no usable event.
        .answer("events of pending batches, part 2", read(&[(None, 1, 0)]))
        .outcome();
    let about = &plan.unwrap().publishes[0].about;
    assert!(
        about.contains("\"batches\":1") && about.contains("\"more\":true"),
        "{about}"
    );
    assert!(about.contains("\"first\":\"a\""), "{about}");
}

#[test]
fn nothing_pending_ends_the_run_without_a_statement() {
    let (plan, asked) = conversation("btree", r#"{"into": "batches"}"#)
        .answer("state of the manifest", state(Some("2026-01-01 00:00:00")))
        .answer("batches", names(&["a"]))
        .answer("events without a batch", without(2))
        .answer(
            "batches beside the manifest",
            compared(&[(Some(1), None, Some(7))]),
        )
        .answer("rows of processed batches", counts(&[(1, 7)]))
        .outcome();
    let plan = plan.unwrap();
    assert!(plan.statements.is_empty());
    assert_eq!(plan.ends_run.as_deref(), Some("no new batches"));
    assert!(
        plan.notes[0].starts_with("2 events have no etl_tstamp or no collector_tstamp"),
        "{:?}",
        plan.notes
    );
    assert_eq!(asked.last().unwrap().label, "rows of processed batches");
}

/// The same with when each was loaded: so many seconds before the run's point in time. Its events are as old as that,
/// and so is its name.
fn loaded(list: &[(Option<&str>, i64, Option<i64>)]) -> stepwell_sdk::Answer {
    let batches: Vec<_> = list
        .iter()
        .map(|&(batch, events, _)| (batch, events, 0))
        .collect();
    let ago: Vec<_> = list
        .iter()
        .map(|&(.., ago)| [ago.map(|ago| (1_700_000_000 - ago) * 1_000_000); 3])
        .collect();
    let ago: Vec<&[Option<i64>]> = ago.iter().map(|row| &row[..]).collect();
    let mut whole = read(&batches);
    whole.fields.truncate(whole.fields.len() - 1);
    whole.rows.columns.truncate(whole.fields.len());
    beside(whole, ints(&["last_us", "loaded_us", "named_us"], &ago))
}

const HOURLY: &str = r#"{
    "events": "atomic.events", "batch": "date_trunc('hour', load_tstamp)", "time": "collector_tstamp",
    "lookback-seconds": 604800
}"#;

#[test]
fn what_may_still_be_loaded_is_left_alone() {
    let settle = r#"{"into": "batches", "settle": "10 minutes", "loaded-at": "etl_tstamp"}"#;
    conversation("btree", settle)
        .source(HOURLY)
        .answer_first(
            "indexes of atomic.events",
            rows(
                &["method", "leading", "columns"],
                &[&[
                    Some("btree"),
                    Some("date_trunc('hour', load_tstamp)"),
                    Some("1"),
                ]],
            ),
        )
        .answer("state of the manifest", state(Some("2026-01-01 00:00:00")))
        .answer("batches", names(&["grows", "done", "new", "unknown"]))
        .answer("events without a batch", without(0))
        .answer(
            "batches beside the manifest",
            compared(&[
                (Some(1), None, Some(4)),
                (Some(2), None, None),
                (Some(3), None, None),
                (Some(4), None, None),
            ]),
        )
        .answer("rows of processed batches", counts(&[(1, 6)]))
        .answer(
            "events of pending batches",
            loaded(&[
                (None, 6, Some(599)),
                (None, 7, Some(600)),
                (None, 8, Some(3)),
                (None, 9, None),
            ]),
        )
        .check_golden("sql/settle.postgres.sql");
}

#[test]
fn a_first_run_and_a_full_refresh_leave_it_alone_too() {
    let settle = r#"{"into": "batches", "settle": "10 minutes"}"#;
    let (plan, asked) = conversation("brin", settle)
        .answer("state of the manifest", state(None))
        .answer(
            "batches",
            beside(
                loaded(&[(Some("a"), 1, Some(3)), (Some("b"), 2, Some(1))]),
                ints(
                    &["batches", "reach_us"],
                    &[&[Some(2), None], &[Some(2), None]],
                ),
            ),
        )
        .outcome();
    let (plan, batches) = (plan.unwrap(), asked.last().unwrap());
    assert_eq!(
        plan.ends_run.as_deref(),
        Some("no new batches that have settled")
    );
    assert!(
        plan.notes[0].starts_with("2 batches were loaded less than 600 s before"),
        "{:?}",
        plan.notes
    );
    assert!(
        batches.sql.contains("max(e.loaded) AS loaded"),
        "{}",
        batches.sql
    );
    let totals = beside(
        ints(
            &["batches", "events", "without_batch", "untimed", "settling"],
            &[&[Some(3), Some(9), Some(0), Some(0), Some(1)]],
        ),
        rows(&["first", "last"], &[&[Some("a"), Some("z")]]),
    );
    conversation("brin", settle)
        .with_trait("full-refresh")
        .answer("all batches", totals)
        .check_golden("sql/settle.full-refresh.postgres.sql");
}

/// Else no run would find the batch that settles: its events would lie before the lookback by then.
#[test]
fn what_would_move_the_lookback_past_it_waits_with_it() {
    const DAY: i64 = 86_400;
    let settle =
        r#"{"into": "batches", "settle": "1 day", "loaded-at": "etl_tstamp", "max-batches": 1}"#;
    let listed = |names: [Option<&str>; 3]| {
        let [beyond, old, within] = names;
        let mut listed = loaded(&[
            (beyond, 1, Some(8)),
            (old, 1, Some(7 * DAY + 9)),
            (within, 1, Some(9)),
        ]);
        // The second of them came just now, with events that are older than a week.
        let at = listed
            .fields
            .iter()
            .position(|field| field.name == "loaded_us");
        let column = &mut listed.rows.columns[at.unwrap()].values;
        *column = stepwell_sdk::columnar::Values::Int64(vec![
            (1_700_000_000 - 2 * DAY) * 1_000_000,
            1_700_000_000_000_000,
            (1_700_000_000 - 2 * DAY) * 1_000_000,
        ]);
        listed
    };
    let conversation = |names| {
        conversation("brin", settle)
            .answer("state of the manifest", state(Some("2026-01-01 00:00:00")))
            .answer("batches", listed(names))
            .answer(
                "batches beside the manifest",
                compared(&[
                    (Some(1), None, None),
                    (Some(2), None, None),
                    (Some(3), None, None),
                ]),
            )
            .answer("events of pending batches", listed([None; 3]))
            .answer(
                "events of pending batches, part 2",
                loaded(&[(None, 1, Some(2 * DAY))]),
            )
            .outcome()
    };
    let (plan, _) = conversation([Some("a"), Some("b"), Some("c")]);
    let plan = plan.unwrap();
    let measures = &plan.publishes[1].about;
    assert!(
        measures.contains("\"settling-batches\":1") && measures.contains("\"waiting-batches\":1"),
        "{measures}"
    );
    let about = &plan.publishes[0].about;
    assert!(
        about.contains("\"first\":\"c\"") && about.contains("\"batches\":1"),
        "{about}"
    );
}

#[test]
fn settle_says_what_it_cannot_go_by() {
    let conversation = |with: &str, kind: &str| {
        let (plan, _) = conversation("btree", with)
            .answer_first("columns of derived.manifest", columns(&[("batch", kind)]))
            .answer("type of loaded-at", rows(&["loaded"], &[]))
            .outcome();
        let failure = plan.unwrap_err();
        (failure.message, failure.setting.unwrap())
    };
    let timestamp = "timestamp without time zone";
    for (with, kind, message, setting) in [
        (
            r#"{"into": "b", "settle": "5 minutes"}"#,
            "uuid",
            "a batch is a uuid, which does not say when it was loaded",
            "/settle",
        ),
        (
            r#"{"into": "b", "settle": "8 days"}"#,
            timestamp,
            "expected settle to be at most the lookback of 604800 s, found 691200 s",
            "/settle",
        ),
        (
            r#"{"into": "b", "loaded-at": "etl_tstamp"}"#,
            timestamp,
            "loaded-at says when a batch has settled, but there is no settle",
            "/loaded-at",
        ),
        (
            r#"{"into": "b", "settle": "1h", "loaded-at": "loaded"}"#,
            timestamp,
            "table atomic.events has no column \"loaded\"",
            "/loaded-at",
        ),
        (
            r#"{"into": "b", "settle": "1h", "loaded-at": "lower(a)"}"#,
            timestamp,
            "expected a time, found lower(a)",
            "/loaded-at",
        ),
    ] {
        let found = conversation(with, kind);
        assert_eq!((found.0.as_str(), found.1.as_str()), (message, setting));
    }
}

#[test]
fn rows_of_old_batches_are_folded() {
    let retain = r#"{"into": "batches", "retain": "14 days"}"#;
    let named = ["2026-01-02 01:00:00", "2026-01-08 01:00:00"].map(Some);
    // Of two before the row that stands for all, one has an event that none of those had.
    let listed = beside(
        rows(
            &["batch", "first_time", "last_time"],
            &[
                &[Some("2025-12-01 01:00:00"), None, None],
                &[Some("2025-12-02 01:00:00"), None, None],
                &[named[1], None, None],
            ],
        ),
        ints(
            &["events", "untimed", "last_us"],
            &[
                &[Some(1), Some(0), Some(day_us(0))],
                &[Some(1), Some(0), Some(day_us(1))],
                &[Some(1), Some(0), Some(day_us(8))],
            ],
        ),
    );
    let not_there = compared(&[
        (Some(1), None, None),
        (Some(2), None, None),
        (Some(3), None, None),
    ]);
    let may_be = bools(&["folded"], &[&[Some(true)], &[Some(true)], &[Some(false)]]);
    conversation("brin", retain)
        .answer("state of the manifest", folded("2025-12-20 00:00:00"))
        .answer("batches", listed)
        .answer("batches beside the manifest", beside(not_there, may_be))
        .answer(
            "events of pending batches",
            read(&[(None, 2, 0), (None, 700, 0)]),
        )
        .answer("rows of the manifest that are old", old(None, 0))
        .check_golden("sql/retain.postgres.sql");
    // By its name alone, none before that batch is new.
    let about = |fold: stepwell_sdk::Answer| {
        let (plan, asked) = conversation("btree", retain)
            .answer("state of the manifest", folded("2025-12-20 00:00:00"))
            .answer("batches", names(&["2026-01-08 01:00:00"]))
            .answer("events without a batch", without(0))
            .answer(
                "batches beside the manifest",
                compared(&[(Some(1), None, None)]),
            )
            .answer("events of pending batches", read(&[(None, 2, 0)]))
            .answer("rows of the manifest that are old", fold)
            .outcome();
        let compare = asked
            .iter()
            .find(|question| question.label == "batches beside the manifest");
        assert!(compare.unwrap().sql.contains(" AND m.batch > CAST($4"));
        plan.unwrap().publishes[0].about.clone()
    };
    // What was folded stays so, where nothing more is.
    let kept = about(old(None, 0));
    assert!(
        kept.contains(r#""folded":{"before":"2025-12-20 00:00:00"}"#),
        "{kept}"
    );
    let more = about(old(Some("2025-12-24 00:00:00"), 1));
    assert!(
        more.contains(r#"{"before":"2025-12-24 00:00:00","older_than":"2025-12-25 00:00:00"}"#),
        "{more}"
    );
}

#[test]
fn one_old_row_is_not_folded_into_itself() {
    for (rows_of, folds) in [(1, false), (2, true)] {
        let (plan, _) = conversation("btree", r#"{"into": "batches", "retain": "14 days"}"#)
            .answer("state of the manifest", state(Some("2026-01-01 00:00:00")))
            .answer("batches", names(&["2026-01-08 01:00:00"]))
            .answer("events without a batch", without(0))
            .answer(
                "batches beside the manifest",
                compared(&[(Some(1), None, None)]),
            )
            .answer("events of pending batches", read(&[(None, 2, 0)]))
            .answer(
                "rows of the manifest that are old",
                old(Some("2025-12-24 00:00:00"), rows_of),
            )
            .outcome();
        let about = plan.unwrap().publishes[0].about.clone();
        assert_eq!(about.contains("folded"), folds, "{about}");
    }
}

#[test]
fn a_full_refresh_folds_as_well() {
    let totals = beside(
        ints(
            &["batches", "events", "without_batch", "untimed", "settling"],
            &[&[Some(20_000), Some(9), Some(0), Some(0), Some(0)]],
        ),
        rows(&["first", "last"], &[&[Some("a"), Some("z")]]),
    );
    let totals = beside(totals, old(Some("2025-12-24 00:00:00"), 19_000));
    conversation(
        "btree",
        r#"{"into": "batches", "retain": "14 days", "settle": "1 hour"}"#,
    )
    .with_trait("full-refresh")
    .answer("all batches", totals)
    .check_golden("sql/retain.full-refresh.postgres.sql");
}

#[test]
fn retain_says_what_it_cannot_go_by() {
    for (with, kind, message) in [
        (
            r#"{"into": "b", "retain": "6 days"}"#,
            "timestamp without time zone",
            "expected retain to be at least the lookback of 604800 s, found 518400 s",
        ),
        (
            r#"{"into": "b", "retain": "90 days"}"#,
            "text",
            "a batch is a text, whose order does not say which one came first",
        ),
    ] {
        let (plan, _) = conversation("btree", with)
            .answer_first("columns of derived.manifest", columns(&[("batch", kind)]))
            .outcome();
        let failure = plan.unwrap_err();
        assert_eq!(failure.message, message);
        assert_eq!(failure.setting.as_deref(), Some("/retain"));
    }
}

#[test]
fn nothing_is_counted_again_without_recount() {
    let (_, asked) = conversation("btree", r#"{"into": "batches", "recount": "0s"}"#)
        .answer("state of the manifest", state(Some("2026-01-01 00:00:00")))
        .answer("batches", names(&["a"]))
        .answer("events without a batch", without(0))
        .answer("batches beside the manifest", compared(&[]))
        .outcome();
    let compare = asked.last().unwrap();
    assert_eq!(compare.label, "batches beside the manifest");
    assert_eq!(compare.params[1], stepwell_sdk::Param::Null);
}

/// A replay of batches, each with its name, its events now and those that the manifest has.
fn replayed(found: &[(&str, i64, Option<i64>)]) -> Conversation<With> {
    let names = found
        .iter()
        .map(|&(batch, events, _)| (Some(batch), events, 0));
    let names: Vec<_> = names.collect();
    let before: Vec<_> = found.iter().map(|&(.., before)| [before]).collect();
    let before: Vec<&[Option<i64>]> = before.iter().map(|row| &row[..]).collect();
    let request = Replay::Batches(found.iter().map(|&(batch, ..)| batch.to_owned()).collect());
    conversation("btree", r#"{"into": "batches"}"#)
        .with_trait("replay")
        .about("request", &request)
        .answer("state of the manifest", standing(None))
        .answer(
            "batches to replay",
            beside(
                beside(read(&names), ints(&["events_before"], &before)),
                bools(
                    &["folded"],
                    &found.iter().map(|_| &[Some(false)][..]).collect::<Vec<_>>(),
                ),
            ),
        )
}

/// A replay of the first week, which the source and the manifest say holds these: each with whether it is new, its last
/// day, and how many seconds ago it was loaded.
fn replayed_week(with: &str, found: &[(&str, bool, i64, i64)]) -> Conversation<With> {
    let list: Vec<&str> = found.iter().map(|&(batch, ..)| batch).collect();
    let texts: Vec<_> = list
        .iter()
        .map(|&batch| [Some(batch), Some("2026-01-01"), Some("2026-01-08")])
        .collect();
    let texts: Vec<&[Option<&str>]> = texts.iter().map(|row| &row[..]).collect();
    let numbers: Vec<_> = found
        .iter()
        .map(|&(_, is_new, day, ago)| {
            let loaded_us = (1_700_000_000 - ago) * 1_000_000;
            let before = (!is_new).then_some(3);
            [Some(3), before, Some(0), Some(day_us(day)), Some(loaded_us)]
        })
        .collect();
    let numbers: Vec<&[Option<i64>]> = numbers.iter().map(|row| &row[..]).collect();
    let columns = ["events", "events_before", "untimed", "last_us", "loaded_us"];
    let folded: Vec<&[Option<bool>]> = list.iter().map(|_| &[Some(false)][..]).collect();
    let range = Replay::Range {
        since: Some("2026-01-01T00:00:00Z".into()),
        until: Some("2026-01-08T00:00:00Z".into()),
    };
    conversation("btree", with)
        .with_trait("replay")
        .about("request", &range)
        .answer("state of the manifest", standing(Some("2026-01-01")))
        .answer("batches of the stretch of time", names(&list))
        .answer(
            "batches to replay",
            beside(
                beside(
                    rows(&["batch", "first_time", "last_time"], &texts),
                    ints(&columns, &numbers),
                ),
                bools(&["folded"], &folded),
            ),
        )
}

#[test]
fn a_replay_of_time_asks_the_source_as_well() {
    replayed_week(
        r#"{"into": "batches"}"#,
        &[("kept", false, 7, 0), ("late", true, 2, 0)],
    )
    .check_golden("sql/replay.postgres.sql");
}

/// Taken too early, a new batch would not be seen to grow, or would hide those before it from all runs.
#[test]
fn a_replay_of_time_leaves_new_batches_to_runs_that_find_all() {
    // Of two at most, one is the first and one the last.
    let taken = |about: &str, batch: &str| about.contains(&format!("\"{batch}\""));
    // It was loaded just now; the other one stands in the manifest, and is taken whenever it was.
    let settle = r#"{"into": "batches", "settle": "10 minutes"}"#;
    let week = replayed_week(settle, &[("kept", false, 7, 5), ("new", true, 7, 5)]);
    let (plan, asked) = week.outcome();
    let plan = plan.unwrap();
    assert!(taken(&plan.publishes[0].about, "kept") && !taken(&plan.publishes[0].about, "new"));
    assert!(
        plan.notes[0].starts_with("1 batch was loaded less than 600 s before")
            && plan.notes[0].ends_with("it is left alone until it has settled"),
        "{:?}",
        plan.notes
    );
    // None of these moves the lookback, so nothing more is asked.
    assert_eq!(asked.last().unwrap().label, "batches to replay");

    // The newest processed event is of the eighth; what is pending besides is of the second and the lookback a week.
    for (last_day, waits) in [(9, false), (10, true)] {
        let other = beside(
            rows(&["first_time", "last_time"], &[&[None, None]]),
            ints(
                &["place", "events", "untimed", "last_us"],
                &[&[Some(1), Some(1), Some(0), Some(day_us(2))]],
            ),
        );
        let week = replayed_week(
            r#"{"into": "batches"}"#,
            &[("kept", false, 7, 0), ("new", true, last_day, 0)],
        );
        let (plan, _) = week
            .answer("batches", names(&["pending"]))
            .answer("events without a batch", without(0))
            .answer(
                "batches beside the manifest",
                compared(&[(Some(1), None, None)]),
            )
            .answer("events of pending batches", other)
            .outcome();
        let plan = plan.unwrap();
        assert!(taken(&plan.publishes[0].about, "kept"));
        assert_eq!(taken(&plan.publishes[0].about, "new"), !waits, "{last_day}");
        let note = plan.notes.first().map(String::as_str).unwrap_or_default();
        assert_eq!(
            note.starts_with("1 batch, new, is left to later runs:"),
            waits,
            "{note}"
        );
    }
}

#[test]
fn a_replay_says_what_is_lost() {
    let replay = replayed(&[
        ("a", 3, Some(5)),
        ("b", 4, Some(4)),
        ("c", 0, Some(9)),
        ("d", 1, None),
    ]);
    let plan = replay.outcome().0.unwrap();
    assert!(
        plan.publishes[0].about.contains("\"batches\":3"),
        "{:?}",
        plan.publishes
    );
    assert_eq!(plan.notes.len(), 2, "{:?}", plan.notes);
    assert!(plan.notes[0].starts_with("2 events are gone from 1 processed batch, a;"));
    assert!(plan.notes[1].starts_with("the source has no event of 1 processed batch, c;"));
}

#[test]
fn a_replay_among_folded_batches_corrects_what_is_noted_of_the_others() {
    for (noted, found, rest, says) in [
        ((9, 100), (9, 100), r#"{"batches":9,"events":100}"#, None),
        (
            (9, 100),
            (8, 97),
            r#"{"batches":8,"events":97}"#,
            Some("3 events that were noted for batches before w count as events of those that"),
        ),
        // One is replayed, another one came as well.
        (
            (9, 100),
            (10, 104),
            r#"{"batches":9,"events":100}"#,
            Some("batches before w have 4 more events than when they were processed"),
        ),
    ] {
        let counted = ints(
            &["noted_batches", "noted_events", "batches", "events"],
            &[&[Some(noted.0), Some(noted.1), Some(found.0), Some(found.1)]],
        );
        let wanted = beside(
            beside(
                read(&[(Some("a"), 3, 0)]),
                ints(&["events_before"], &[&[None]]),
            ),
            bools(&["folded"], &[&[Some(true)]]),
        );
        let (plan, asked) = replayed(&[("a", 3, None)])
            .answer_first("state of the manifest", folded("w"))
            .answer_first("batches to replay", wanted)
            .answer(
                "batches without a row in the manifest",
                beside(
                    counted,
                    rows(
                        &["before", "first_time", "last_time"],
                        &[&[Some("w"), None, None]],
                    ),
                ),
            )
            .outcome();
        let plan = plan.unwrap();
        let about = &plan.publishes[0].about;
        assert!(about.contains(&format!(r#""rest":{rest}"#)), "{about}");
        let note = plan.notes.first().map(String::as_str);
        assert_eq!(note.is_some(), says.is_some(), "{note:?}");
        assert!(
            note.unwrap_or_default()
                .starts_with(says.unwrap_or_default())
        );
        // Those that are replayed are counted by themselves.
        assert_eq!(asked.last().unwrap().params, [text("{\"a\"}")]);
    }
}

#[test]
fn nothing_is_replayed_where_nothing_is_processed() {
    let empty = replayed(&[("a", 3, None)]).answer_first("state of the manifest", state(None));
    let (plan, asked) = empty.outcome();
    let failure = plan.unwrap_err();
    assert_eq!(failure.code, "nothing-processed");
    assert!(failure.help.unwrap().contains("`stepwell run <workflow>`"));
    assert_eq!(asked.last().unwrap().label, "state of the manifest");
}

#[test]
fn a_missing_manifest_says_who_makes_it() {
    let empty = rows(&["name", "type", "type_oid", "kind"], &[]);
    let (plan, _) = Conversation::new(plan, r#"{"into": "batches"}"#)
        .answer("columns of atomic.events", empty.clone())
        .answer("columns of derived.manifest", empty.clone())
        .answer(
            "indexes of atomic.events",
            rows(&["method", "leading", "columns"], &[]),
        )
        .outcome();
    assert!(plan.unwrap_err().help.unwrap().contains("stepwell init"));
}
