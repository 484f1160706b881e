//! A manifest that keeps no rows of old batches: what is found, computed and compared must be as with all rows.

use std::path::Path;

use stepwell_runner::verified::BatchKind;
use stepwell_runner::{
    Batches, Outcome, Problem, Replay, RunError, RunOptions, VerifyReport, forget, forgettable,
};
use stepwell_workflow::Workflow;

use crate::commands::{everything, land, replay, verify};
use crate::harness::{Db, components, parse, read, root, workflow};
use crate::program::{Program, read_with_url};

/// The batches of the tests, one a day in January 2026.
const DAYS: i64 = 30;

/// The workflow of a file, with rows kept for so many days.
fn retaining(file: &str, days: i64) -> Workflow {
    let text = read(file);
    assert!(text.contains("into: batches }"));
    parse(&text.replace(
        "into: batches }",
        &format!("into: batches, retain: {days} days }}"),
    ))
}

/// Lands the batch of a day: a session of its own, and one that goes on every tenth day.
async fn land_day(db: &Db, day: i64) {
    let (batch, time) = (
        format!("2026-01-{day:02} 12:00:00"),
        format!("2026-01-{day:02} 11:00:00"),
    );
    let own = format!("day {day}");
    let mut events = vec![(batch.as_str(), time.as_str(), own.as_str(), "v")];
    if day % 10 == 1 {
        events.push((&batch, &time, "long", "w"));
    }
    land(db, &events).await;
}

/// A database with all days but the last processed, and the last in a run of its own that folds the rows of all but the
/// last eight or nine.
async fn folded(workflow: &Workflow) -> Db {
    let db = Db::with_tables().await;
    for day in 1..DAYS {
        land_day(&db, day).await;
    }
    db.run(workflow).await.expect("the first run");
    assert_eq!(
        db.number("SELECT count(*) FROM derived.manifest").await,
        DAYS - 1
    );
    land_day(&db, DAYS).await;
    db.run(workflow).await.expect("the run that folds");
    db
}

/// The rows of the manifest: how many, the batch that stands for others, how many those are, and the events of all.
async fn standing(db: &Db, playbook: &str) -> String {
    db.text(&format!(
        "SELECT concat_ws(' ', count(*), max(batch) FILTER (WHERE before_batches IS NOT NULL), sum(before_batches),
           sum(events + coalesce(before_events, 0)), to_char(min(before_first_time), 'DD'), to_char(max(before_last_time), 'DD'))
         FROM derived.manifest WHERE playbook = '{playbook}'"
    ))
    .await
}

async fn verified(db: &Db, workflow: &Workflow) -> VerifyReport {
    verify(db, workflow, &everything())
        .await
        .expect("it can be compared")
}

/// Asserts that no row differs, and that of the batches these are not as they were noted.
async fn assert_verified(db: &Db, workflow: &Workflow, expected: &[(BatchKind, u64)]) {
    let found = verified(db, workflow).await;
    assert!(!found.differs, "{:?}", found.tables);
    let counts: Vec<_> = found
        .batches
        .expect("they are compared")
        .counts
        .into_iter()
        .collect();
    assert_eq!(counts, expected);
}

async fn assert_nothing_new(db: &Db, workflow: &Workflow) {
    let outcome = db.run(workflow).await.expect("it runs").outcome;
    assert!(matches!(outcome, Outcome::NothingNew { .. }), "{outcome:?}");
}

async fn event_count(db: &Db, session: &str) -> i64 {
    db.number(&format!(
        "SELECT coalesce(sum(events), 0)::bigint FROM derived.sessions WHERE session_id = '{session}'"
    ))
    .await
}

/// Goal: rows are folded as a run commits, and everything is found, computed and compared as before.
/// Method: a key with events in batches without a row is touched again, by an index and by reading the lookback; what stands
/// in the manifest is known to the row.
#[tokio::test(flavor = "multi_thread")]
async fn old_batches_need_no_row() {
    let sessions = retaining("sessions.yaml", 8);
    let days = retaining("visitor_days.yaml", 9);
    let db = folded(&sessions).await;
    // Eight days before the newest event that was processed then, of the 29th at 11:00. The batch of the 20th is the last
    // before that.
    let after = "11 2026-01-20 12:00:00 19 33 01 19";
    assert_eq!(standing(&db, "sessions").await, after);
    assert_verified(&db, &sessions, &[]).await;
    let batches = verified(&db, &sessions).await.batches.unwrap();
    assert_eq!(batches.processed, 30);

    // Nothing new costs nothing; another playbook in the same manifest has its own rows.
    let rows = "SELECT string_agg(xmin::text, ',' ORDER BY batch) FROM derived.manifest WHERE playbook = 'sessions'";
    let before = db.text(rows).await;
    assert_nothing_new(&db, &sessions).await;
    assert_eq!(db.run(&days).await.unwrap().batches, 30);
    assert_eq!(db.text(rows).await, before);
    assert_eq!(standing(&db, "visitor_days").await, "30 33");
    assert_verified(&db, &days, &[]).await;

    // A key goes on that has events in batches without a row. The next run folds one more.
    land_day(&db, 31).await;
    db.run(&sessions).await.unwrap();
    db.run(&days).await.unwrap();
    assert_eq!(event_count(&db, "long").await, 4);
    assert_eq!(
        standing(&db, "sessions").await,
        "11 2026-01-21 12:00:00 20 35 01 20"
    );
    assert_eq!(
        standing(&db, "visitor_days").await,
        "12 2026-01-20 12:00:00 19 35 01 19"
    );
    for (workflow, file, table) in [
        (&sessions, "sessions.yaml", "derived.sessions"),
        (&days, "visitor_days.yaml", "derived.visitor_days"),
    ] {
        assert_verified(&db, workflow, &[]).await;
        db.assert_equals_rebuild(file, table).await;
    }

    // Taken out of the workflow, the rows that are there stay as they are, and so does what they mean.
    db.sql("DROP INDEX atomic.events_etl_tstamp").await;
    land(
        &db,
        &[("2026-02-01 12:00", "2026-02-01 11:00", "long", "w")],
    )
    .await;
    let plain = workflow("sessions.yaml");
    db.run(&plain).await.unwrap();
    assert_eq!(event_count(&db, "long").await, 5);
    assert_eq!(
        standing(&db, "sessions").await,
        "12 2026-01-21 12:00:00 20 36 01 20"
    );
    assert_verified(&db, &plain, &[]).await;
    // Longer, it does not bring rows back, and folds no more before its time.
    land(
        &db,
        &[("2026-02-02 12:00", "2026-02-02 11:00", "long", "w")],
    )
    .await;
    db.run(&retaining("sessions.yaml", 300)).await.unwrap();
    assert_eq!(
        standing(&db, "sessions").await,
        "13 2026-01-21 12:00:00 20 37 01 20"
    );
    // Shorter, it folds at once what is older now.
    land(
        &db,
        &[("2026-02-03 12:00", "2026-02-03 11:00", "long", "w")],
    )
    .await;
    let shorter = retaining("sessions.yaml", 7);
    db.run(&shorter).await.unwrap();
    assert_eq!(
        standing(&db, "sessions").await,
        "10 2026-01-25 12:00:00 24 38 01 24"
    );
    assert_verified(&db, &shorter, &[]).await;
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// What comes late to batches without a row, or goes from them, `verify` says of all of them together, and a replay puts it
/// right, a full refresh too.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_late_to_batches_without_a_row_is_named_and_replayed() {
    let sessions = retaining("sessions.yaml", 8);
    let db = folded(&sessions).await;
    let named = |found: VerifyReport| {
        let named = found.batches.unwrap().named;
        let words = named.iter().map(|batch| {
            let (name, kind, noted) = (&batch.batch, batch.kind, batch.noted.unwrap_or(0));
            format!("{name}: {kind:?}, {} events, {noted} noted", batch.events)
        });
        words.collect::<Vec<_>>()
    };
    land(
        &db,
        &[("2026-01-03 18:00", "2026-01-03 17:00", "late", "v")],
    )
    .await;
    assert_nothing_new(&db, &sessions).await;
    let found = verified(&db, &sessions).await;
    // By its name it counts as processed, and its row is missing.
    assert_eq!(found.tables[0].missing, 1, "{:?}", found.tables[0]);
    let counts = &found.batches.as_ref().unwrap().counts;
    assert_eq!(counts.get(&BatchKind::Late), Some(&1));
    assert_eq!(
        named(found),
        ["before 2026-01-20 12:00:00: Late, 22 events, 21 noted"]
    );
    let one = |batch: &str| Replay::Batches(vec![batch.to_owned()]);
    let report = replay(&db, &sessions, one("2026-01-03 18:00:00"))
        .await
        .unwrap();
    assert_eq!((report.batches, report.outcome), (1, Outcome::Done));
    assert_eq!(event_count(&db, "late").await, 1);
    assert_verified(&db, &sessions, &[]).await;
    assert_eq!(
        standing(&db, "sessions").await,
        "12 2026-01-20 12:00:00 19 34 01 19"
    );

    // One that was folded has grown: what it had before nobody knows, and the sums are right again all the same.
    land(
        &db,
        &[
            ("2026-01-05 12:00", "2026-01-05 10:00", "more", "v"),
            ("2026-01-05 12:00", "2026-01-05 10:00", "long", "w"),
        ],
    )
    .await;
    assert_eq!(
        named(verified(&db, &sessions).await),
        ["before 2026-01-20 12:00:00: Grown, 23 events, 21 noted"]
    );
    replay(&db, &sessions, one("2026-01-05 12:00:00"))
        .await
        .unwrap();
    assert_eq!(event_count(&db, "long").await, 4);
    assert_verified(&db, &sessions, &[]).await;
    assert_eq!(
        standing(&db, "sessions").await,
        "13 2026-01-20 12:00:00 18 36 01 19"
    );

    // A stretch of time, of which one batch has a row by now.
    let range = Replay::Range {
        since: None,
        until: Some("2026-01-06T00:00:00Z".parse().unwrap()),
    };
    assert_eq!(replay(&db, &sessions, range).await.unwrap().batches, 6);
    assert_verified(&db, &sessions, &[]).await;
    assert_eq!(
        standing(&db, "sessions").await,
        "17 2026-01-20 12:00:00 14 36 01 19"
    );

    // Events that are gone.
    db.sql("DELETE FROM atomic.events WHERE etl_tstamp = '2026-01-08 12:00'")
        .await;
    let found = verified(&db, &sessions).await;
    assert_eq!(found.tables[0].surplus, 1);
    assert_eq!(
        named(found),
        ["before 2026-01-20 12:00:00: Shrunk, 14 events, 15 noted"]
    );

    // The next run that folds takes the rows of what was replayed as well.
    land_day(&db, 31).await;
    db.run(&sessions).await.unwrap();
    assert_eq!(
        standing(&db, "sessions").await,
        "11 2026-01-21 12:00:00 21 38 01 20"
    );

    // A full refresh makes all rows anew, folds them by the same rule, and knows when the others came.
    let full = RunOptions {
        full_refresh: true,
        ..RunOptions::default()
    };
    let came = "SELECT batch, processed_at FROM derived.manifest WHERE batch >= '2026-01-22' ORDER BY batch";
    let before = db.rows(came).await;
    db.run_with(&sessions, &full).await.unwrap();
    assert_eq!(
        standing(&db, "sessions").await,
        "10 2026-01-22 12:00:00 21 37 01 21"
    );
    assert_eq!(db.rows(came).await, before);
    assert_verified(&db, &sessions, &[]).await;
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;

    // Without `retain`, each has its row again; those that had none came no later than the one that stood for them.
    let plain = workflow("sessions.yaml");
    db.run_with(&plain, &full).await.unwrap();
    assert_eq!(standing(&db, "sessions").await, "31 37");
    assert_eq!(
        db.number(
            "SELECT count(*) FROM derived.manifest WHERE batch < '2026-01-22' AND processed_at > (
               SELECT processed_at FROM derived.manifest WHERE batch = '2026-01-22 12:00')"
        )
        .await,
        0
    );
    // A source that has lost its beginning, so that one batch alone is old.
    land(
        &db,
        &[("2026-02-01 12:00", "2026-02-01 11:00", "long", "w")],
    )
    .await;
    db.run(&sessions).await.unwrap();
    db.sql("DELETE FROM atomic.events WHERE etl_tstamp < '2026-01-23'")
        .await;
    db.run_with(&sessions, &full).await.unwrap();
    assert_eq!(standing(&db, "sessions").await, "10 11");
    assert_verified(&db, &sessions, &[]).await;
}

/// A batch with a name before that of the row that stands for others, and an event within the lookback: where events are
/// read, it is as new as without `retain`.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_finds_does_not_change() {
    let sessions = retaining("sessions.yaml", 8);
    let db = folded(&sessions).await;
    db.sql("DROP INDEX atomic.events_etl_tstamp").await;
    land(
        &db,
        &[
            ("2026-01-04 18:00", "2026-01-28 11:00", "new", "v"),
            ("2026-01-04 18:00", "2026-01-04 17:00", "new", "v"),
        ],
    )
    .await;
    // The keys that the next run computes are no difference.
    assert_verified(&db, &sessions, &[(BatchKind::Pending, 1)]).await;
    assert_eq!(db.run(&sessions).await.unwrap().batches, 1);
    assert_eq!(event_count(&db, "new").await, 2);
    assert_eq!(
        standing(&db, "sessions").await,
        "12 2026-01-20 12:00:00 19 35 01 19"
    );
    assert_nothing_new(&db, &sessions).await;
    // It has a row now, so that its growth is seen, once there are more events in the lookback than it had.
    land(
        &db,
        &[
            ("2026-01-04 18:00", "2026-01-28 12:00", "new", "v"),
            ("2026-01-04 18:00", "2026-01-28 13:00", "new", "v"),
        ],
    )
    .await;
    assert_eq!(db.run(&sessions).await.unwrap().batches, 1);
    assert_eq!(event_count(&db, "new").await, 4);
    // The batch whose row stands for the others has a row like any other.
    land(&db, &[("2026-01-20 12:00", "2026-01-20 10:00", "old", "v")]).await;
    let counts = verified(&db, &sessions).await.batches.unwrap().counts;
    assert_eq!(
        counts.into_iter().collect::<Vec<_>>(),
        [(BatchKind::Grown, 1)]
    );
    let carrier = Replay::Batches(vec!["2026-01-20 12:00:00".into()]);
    replay(&db, &sessions, carrier).await.unwrap();
    assert_verified(&db, &sessions, &[]).await;
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// How late batches came, as far as they have rows, is what it is with rows for all.
#[tokio::test(flavor = "multi_thread")]
async fn the_lookback_knows_batches_without_a_row() {
    let mut reports = Vec::new();
    for sessions in [workflow("sessions.yaml"), retaining("sessions.yaml", 8)] {
        let db = folded(&sessions).await;
        land(
            &db,
            &[("2026-01-28 18:00", "2026-01-25 11:00", "late", "v")],
        )
        .await;
        assert_eq!(db.run(&sessions).await.unwrap().batches, 1);
        let (_stopper, stop) = stepwell_runner::stop();
        let options = db.options(&RunOptions::default());
        let report = stepwell_runner::lookback(&sessions, &components(), &options, stop).await;
        reports.push(report.unwrap());
    }
    let late = reports[1].batches.as_ref().unwrap();
    assert_eq!((late.batches, late.processed), (31, 31));
    assert_eq!(late.smallest_seconds, 5 * 86_400);
    assert_eq!(reports[0], reports[1]);
}

/// One row stands for many: they are listed, and cannot be forgotten one by one.
#[tokio::test(flavor = "multi_thread")]
async fn batches_without_a_row_are_listed_and_not_forgotten() {
    let sessions = retaining("sessions.yaml", 8);
    let db = folded(&sessions).await;
    let options = db.options(&RunOptions::default());
    let program = Program::new(&db);
    let file = program.file("sessions.yaml", &read_with_url(&db, "sessions.yaml"));
    let text = program.run(&["manifest", "list", &file]).stdout;
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert_eq!(lines.len(), 13, "{text}");
    assert!(lines[11].starts_with("2026-01-20 12:00:00"), "{text}");
    assert!(
        lines[12].starts_with("19 before") && lines[12].contains("21"),
        "{text}"
    );
    let early = ["manifest", "list", &file, "--json", "--until", "2026-01-03"];
    let json = program.run(&early).json();
    assert_eq!(json[0]["batch"], "2026-01-20 12:00:00");
    assert_eq!(json[0]["before"]["batches"], 19);
    assert_eq!(json[0]["before"]["events"], 21);
    assert_eq!(json[1], serde_json::Value::Null);

    let until: jiff::Timestamp = "2026-01-03T00:00:00Z".parse().unwrap();
    let named = |name: &str| Batches::Named(vec![name.to_owned()]);
    for refused in [
        named("2026-01-04 12:00:00"),
        named("2026-01-20 12:00:00"),
        Batches::Range {
            since: None,
            until: Some(until),
        },
    ] {
        let error = forgettable(&sessions, &options, &refused)
            .await
            .unwrap_err();
        assert_folded(&error);
        assert!(error.help().unwrap().contains("manifest replay"));
    }
    let names = ["2026-01-20 12:00:00", "2026-01-21 12:00:00"].map(str::to_owned);
    assert_folded(&forget(&sessions, &options, &names[..1]).await.unwrap_err());
    assert_eq!(db.number("SELECT count(*) FROM derived.manifest").await, 11);
    // Those behind it can.
    let found = forgettable(&sessions, &options, &named(&names[1]))
        .await
        .unwrap();
    assert_eq!((found.rows.len(), found.remaining), (1, 10));
    forget(&sessions, &options, &names[1..]).await.unwrap();
    assert_eq!(db.number("SELECT count(*) FROM derived.manifest").await, 10);
    // And everything: nothing is processed then.
    let all = forgettable(&sessions, &options, &Batches::All)
        .await
        .unwrap();
    let all: Vec<String> = all.rows.into_iter().map(|row| row.batch).collect();
    forget(&sessions, &options, &all).await.unwrap();
    assert_eq!(db.number("SELECT count(*) FROM derived.manifest").await, 0);
}

fn assert_folded(error: &RunError) {
    match &*error.problem {
        Problem::Folded { batch, batches } => {
            assert_eq!((batch.as_str(), *batches), ("2026-01-20 12:00:00", 19));
        }
        problem => panic!("{problem:?}"),
    }
}

/// A step that was built before batches were folded would take them for unprocessed: it ends the run before anything is
/// written, and works on where none are.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_knows_nothing_of_it_refuses() {
    let kept = root().join("tests/contract/planner-0.1.0.wasm");
    let text = |with: &str| {
        let sessions = read("sessions.yaml").replace("into: batches }", with);
        let sessions = sessions.replace(
            "  - id: commit\n",
            "  - { id: kept, uses: kept-planner, with: { ids: session_ids, into: counted, condition: \"true\" } }\n\n  - id: commit\n",
        );
        let path = Path::new(&kept).display();
        format!(
            "{sessions}\nplugins: {{ kept-planner: {{ component: \"{path}\", trust: own }} }}\n"
        )
    };
    let (with, without) = (
        parse(&text("into: batches, retain: 8 days }")),
        parse(&text("into: batches }")),
    );
    let db = folded(&without).await;
    let rows = "SELECT md5(string_agg(m::text, '' ORDER BY batch)) FROM derived.manifest AS m";
    let before = db.text(rows).await;
    land_day(&db, 31).await;
    let error = db.run(&with).await.unwrap_err();
    assert_eq!(error.step.as_ref().unwrap().id, "kept");
    assert!(
        error
            .to_string()
            .contains("is not one that this step can use"),
        "{error}"
    );
    assert_eq!(db.text(rows).await, before);
    // Nothing was folded, so that it can go on as before.
    db.run(&without).await.unwrap();
    let counted = "SELECT sum(n) FROM scratch.sessions__counted WHERE session_id = 'long'";
    assert_eq!(db.number(counted).await, 4);
}

/// Batches that are days or numbers are folded as well, walked by an index or not.
#[tokio::test(flavor = "multi_thread")]
async fn days_and_numbers_are_folded_too() {
    for (batch, indexed) in [
        ("etl_tstamp::date", true),
        ("etl_tstamp AT TIME ZONE 'UTC'", false),
        ("(extract(epoch FROM etl_tstamp)::bigint)", true),
        ("(extract(epoch FROM etl_tstamp)::integer)", false),
        ("(extract(epoch FROM etl_tstamp)::numeric)", true),
    ] {
        let text = read("sessions.yaml")
            .replace("batch: etl_tstamp", &format!("batch: {batch}"))
            .replace("into: batches }", "into: batches, retain: 8 days }");
        let sessions = parse(&text);
        let db = Db::with_tables().await;
        if indexed {
            db.sql(&format!("CREATE INDEX ON atomic.events (({batch}))"))
                .await;
        }
        for day in 1..DAYS {
            land_day(&db, day).await;
        }
        db.run(&sessions)
            .await
            .unwrap_or_else(|error| panic!("{batch}: {error}"));
        for day in [DAYS, DAYS + 1] {
            land_day(&db, day).await;
            assert_eq!(db.run(&sessions).await.unwrap().batches, 1, "{batch}");
        }
        assert_nothing_new(&db, &sessions).await;
        let standing = "SELECT concat_ws(' ', count(*), sum(before_batches), sum(before_events)) FROM derived.manifest";
        assert_eq!(db.text(standing).await, "11 20 22", "{batch}");
        assert_eq!(event_count(&db, "long").await, 4, "{batch}");
        assert_verified(&db, &sessions, &[]).await;
        let until = Replay::Range {
            since: None,
            until: Some("2026-01-05T00:00:00Z".parse().unwrap()),
        };
        assert_eq!(
            replay(&db, &sessions, until).await.unwrap().batches,
            4,
            "{batch}"
        );
        assert_verified(&db, &sessions, &[]).await;
        assert_eq!(db.text(standing).await, "15 16 17", "{batch}");
    }
}

/// A reducer reads the events of batches without a row like those of others.
#[tokio::test(flavor = "multi_thread")]
async fn a_reducer_folds_events_of_batches_without_a_row() {
    std::sync::LazyLock::force(&crate::examples::BUILT);
    let engaged = retaining("engaged_time.yaml", 8);
    let db = folded(&engaged).await;
    land(
        &db,
        &[("2026-01-31 12:00", "2026-01-31 11:00", "long", "v")],
    )
    .await;
    // What was sent late belongs to the first day.
    db.sql(
        "UPDATE atomic.events SET derived_tstamp = '2026-01-01 11:05' WHERE etl_tstamp = '2026-01-31 12:00'",
    )
    .await;
    assert_eq!(db.run(&engaged).await.unwrap().batches, 1);
    let views =
        "SELECT page_views FROM derived.engaged_days WHERE visitor = 'v' AND day = '2026-01-01'";
    assert_eq!(db.number(views).await, 2);
    assert_verified(&db, &engaged, &[]).await;
}

/// A manifest of a playbook's own that is older than the host's tables.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_the_version_before_is_brought_up_to_date() {
    let sessions = retaining("sessions.yaml", 8);
    let db = folded(&sessions).await;
    db.sql(
        "ALTER TABLE derived.manifest DROP COLUMN before_batches, DROP COLUMN before_events, DROP COLUMN before_first_time,
           DROP COLUMN before_last_time;
         DELETE FROM derived.manifest WHERE batch < '2026-01-21'",
    )
    .await;
    let error = verify(&db, &sessions, &everything()).await.unwrap_err();
    assert!(
        matches!(*error.problem, Problem::Version { found: 4, .. }),
        "{error:?}"
    );
    assert!(error.help().unwrap().contains("stepwell init"));
    let program = Program::new(&db);
    let file = program.file("sessions.yaml", &read_with_url(&db, "sessions.yaml"));
    for command in [&["run", &file][..], &["manifest", "list", &file]] {
        assert_eq!(program.run(command).code, 7);
    }
    assert_eq!(program.run(&["init", &file]).code, 0);
    let listed = program.run(&["manifest", "list", &file]);
    assert_eq!(listed.code, 0, "{}", listed.stderr);
    let index = "SELECT count(*) FROM pg_indexes WHERE indexname = 'manifest_folded'";
    assert_eq!(db.number(index).await, 1);
}
