//! The commands beside `run`: verify, replay, forget, lookback, slices.

use std::sync::Mutex;
use std::time::Duration;

use stepwell_runner::verified::{BatchKind, Table};
use stepwell_runner::{
    Batches, Event, Keys, Observer, Outcome, Replay, RunError, RunOptions, RunReport, Sample,
    Unobserved, VerifyOptions, VerifyReport,
};
use stepwell_workflow::Workflow;

use crate::examples;
use crate::harness::{Db, components, parse, read, stream, workflow};
use crate::program::{Program, read_with_url};

pub async fn verify(
    db: &Db,
    workflow: &Workflow,
    what: &VerifyOptions,
) -> Result<VerifyReport, RunError> {
    let (_stopper, stop) = stepwell_runner::stop();
    let options = db.options(&RunOptions::default());
    stepwell_runner::verify(workflow, &components(), &options, what, &Unobserved, stop).await
}

pub fn everything() -> VerifyOptions {
    VerifyOptions {
        limit: 20,
        ..VerifyOptions::default()
    }
}

pub async fn replay(db: &Db, workflow: &Workflow, replay: Replay) -> Result<RunReport, RunError> {
    let options = RunOptions {
        replay: Some(replay),
        ..RunOptions::default()
    };
    db.run_with(workflow, &options).await
}

/// Lands page views: batch, time, session and visitor of each.
pub async fn land(db: &Db, events: &[(&str, &str, &str, &str)]) {
    let rows = events.iter().map(|(batch, time, session, visitor)| {
        format!("('{batch}', '{time}', '{time}', gen_random_uuid()::text, 'page_view', '{session}', '{visitor}', '', '')")
    });
    db.sql(&format!(
        "INSERT INTO atomic.events (etl_tstamp, collector_tstamp, derived_tstamp, event_id, event_name, domain_sessionid,
           domain_userid, v_collector, v_etl)
         VALUES {}",
        rows.collect::<Vec<_>>().join(", ")
    ))
    .await;
}

/// A database with a build of `sessions` over the first batches of a stream.
async fn built(seed: u64, batches: usize) -> (Db, Workflow) {
    let db = Db::with_tables().await;
    for batch in stream(seed).take(batches) {
        db.land(&batch).await;
    }
    let sessions = workflow("sessions.yaml");
    db.run(&sessions).await.unwrap();
    (db, sessions)
}

/// Rows, files and scratch tables: what a command that only reads must leave alone.
async fn traces(db: &Db) -> Vec<Vec<Option<String>>> {
    db.rows(
        "SELECT c.relname, c.relfilenode, (SELECT string_agg(s.xmin::text || s.ctid::text, ',' ORDER BY s.ctid) FROM derived.sessions AS s),
           (SELECT string_agg(m.xmin::text, ',' ORDER BY m.batch) FROM derived.manifest AS m)
         FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname IN ('scratch', 'derived') AND c.relkind = 'r' ORDER BY 1",
    )
    .await
}

/// A column with its derived and its computed value.
pub(crate) type Cell = (String, Option<String>, Option<String>);

/// The rows that differ in this way: key and cells.
pub(crate) fn values(table: &Table, kind: &str) -> Vec<(String, Vec<Cell>)> {
    let rows = table.named.iter().filter(|row| row.kind == kind);
    rows.map(|row| {
        let values = row.values.iter();
        (
            row.key[0].clone().unwrap(),
            values
                .map(|value| {
                    (
                        value.column.clone(),
                        value.derived.clone(),
                        value.computed.clone(),
                    )
                })
                .collect(),
        )
    })
    .collect()
}

/// Verify names the key and the column of a changed cell, a row that was deleted, and one that nobody computed.
///
/// Goal: each kind of difference is found and counted, whatever part is compared, and nothing is written.
#[tokio::test(flavor = "multi_thread")]
async fn verify_names_what_differs() {
    let (db, sessions) = built(101, 20).await;
    let clean = verify(&db, &sessions, &everything()).await.unwrap();
    assert!(!clean.differs, "{clean:?}");
    assert_eq!(clean.batches.as_ref().unwrap().processed, 20);
    assert!(clean.batches.unwrap().counts.is_empty());
    assert_eq!(
        clean.tables[0].rows,
        db.number("SELECT count(*) FROM derived.sessions").await as u64
    );

    let key = |nth: u32| {
        format!("SELECT session_id FROM derived.sessions ORDER BY session_id LIMIT 1 OFFSET {nth}")
    };
    let [changed, deleted] = [db.text(&key(3)).await, db.text(&key(7)).await];
    let was = db
        .text(&format!(
            "SELECT events FROM derived.sessions WHERE session_id = '{changed}'"
        ))
        .await;
    db.sql(&format!(
        "UPDATE derived.sessions SET events = events + 5, first_page_url = NULL WHERE session_id = '{changed}';
         DELETE FROM derived.sessions WHERE session_id = '{deleted}';
         INSERT INTO derived.sessions (session_id, events, first_collector_tstamp)
           SELECT 'nobody', 1, min(first_collector_tstamp) FROM derived.sessions;"
    ))
    .await;
    let before = traces(&db).await;
    let found = verify(&db, &sessions, &everything()).await.unwrap();
    let table = &found.tables[0];
    assert!(found.differs);
    assert_eq!(
        (table.missing, table.surplus, table.differing),
        (1, 1, 1),
        "{table:?}"
    );
    assert_eq!(values(table, "missing"), [(deleted.clone(), vec![])]);
    assert_eq!(values(table, "surplus"), [("nobody".to_owned(), vec![])]);
    let differing = values(table, "differing");
    assert_eq!(differing[0].0, changed);
    let more = (was.parse::<i64>().unwrap() + 5).to_string();
    assert_eq!(
        differing[0].1[0],
        ("events".to_owned(), Some(more), Some(was))
    );
    assert_eq!(differing[0].1[1].0, "first_page_url");
    assert_eq!(differing[0].1.len(), 2, "{differing:?}");

    // A sample of so many keys that it takes all, and a stretch of time around everything, find the same.
    let samples = [
        VerifyOptions {
            sample: Some(Sample::Keys(1_000_000)),
            ..everything()
        },
        VerifyOptions {
            sample: Some(Sample::Share(1.0)),
            ..everything()
        },
        VerifyOptions {
            since: Some(jiff::Timestamp::UNIX_EPOCH),
            ..everything()
        },
    ];
    for what in samples {
        let found = verify(&db, &sessions, &what).await.unwrap();
        let table = &found.tables[0];
        assert_eq!(
            (table.missing, table.surplus, table.differing),
            (1, 1, 1),
            "{what:?}"
        );
    }
    // The parts of a hash and its rest hold every difference once between them: each is found by the share that has it.
    let mut wrong = 0;
    for seed in 0..12 {
        let what = VerifyOptions {
            sample: Some(Sample::Share(0.5)),
            seed,
            ..everything()
        };
        let found = verify(&db, &sessions, &what).await.unwrap();
        assert!(found.tables[0].computed < clean.tables[0].computed);
        wrong += found.tables[0].wrong();
        assert_eq!(
            verify(&db, &sessions, &what).await.unwrap().tables,
            found.tables
        );
    }
    assert!((1..36).contains(&wrong), "{wrong}");
    let nothing = VerifyOptions {
        until: Some(jiff::Timestamp::UNIX_EPOCH),
        ..everything()
    };
    let found = verify(&db, &sessions, &nothing).await.unwrap();
    assert_eq!((found.tables[0].rows, found.differs), (0, false));
    assert_eq!(traces(&db).await, before);
}

/// A row that is there twice is surplus, though its double is right.
#[tokio::test(flavor = "multi_thread")]
async fn verify_tells_doubles_apart() {
    let (db, sessions) = built(103, 8).await;
    db.sql(
        "INSERT INTO derived.sessions SELECT * FROM derived.sessions ORDER BY session_id LIMIT 2",
    )
    .await;
    let found = verify(&db, &sessions, &everything()).await.unwrap();
    let table = &found.tables[0];
    assert_eq!(
        (table.missing, table.surplus, table.differing),
        (0, 2, 0),
        "{table:?}"
    );
}

/// The playbooks of the repository verify as they are, contexts and queries included.
#[tokio::test(flavor = "multi_thread")]
async fn every_playbook_can_be_verified() {
    let db = Db::with_tables().await;
    for batch in stream(105).take(16) {
        db.land(&batch).await;
        if batch.index() % 6 == 5 {
            db.run(&workflow("page_views.yaml")).await.unwrap();
        }
    }
    std::sync::LazyLock::force(&examples::BUILT);
    for name in [
        "page_views.yaml",
        "visitor_days.yaml",
        "sessions.yaml",
        "visitors.yaml",
    ] {
        let playbook = workflow(name);
        db.run(&playbook).await.unwrap();
        for sample in [None, Some(Sample::Share(0.3)), Some(Sample::Keys(40))] {
            let what = VerifyOptions {
                sample,
                ..everything()
            };
            let found = verify(&db, &playbook, &what).await;
            if name == "visitors.yaml" && sample.is_some() {
                let error = found.unwrap_err().to_string();
                assert!(
                    error.contains("a rolled-up row is made of finer rows outside of it"),
                    "{error}"
                );
                continue;
            }
            let found = found.unwrap();
            assert!(!found.differs, "{name}: {:?}", found.tables);
            assert!(
                found.tables.iter().all(|table| table.computed > 0),
                "{name}"
            );
        }
    }
    // The coarser rows are compared as the finer ones are.
    db.sql("UPDATE derived.visitors SET events = events + 1 WHERE visitor = (SELECT min(visitor) FROM derived.visitors)")
        .await;
    let found = verify(&db, &workflow("visitors.yaml"), &everything())
        .await
        .unwrap();
    let wrong: Vec<_> = found
        .tables
        .iter()
        .map(|table| (table.table.as_str(), table.wrong()))
        .collect();
    assert_eq!(
        wrong,
        [("derived.visitor_activity", 0), ("derived.visitors", 1)]
    );
}

/// Sessions with the number of events that their visitor has: a row depends on events of other sessions, all of which
/// `expand-by` brings.
const SHARED: &str = "
stepwell: 1
playbook: shared
source: { events: atomic.events, batch: etl_tstamp, time: collector_tstamp, event-id: event_id, lookback: 7 days }
steps:
  - { id: new-batches, uses: diff-manifest, with: { into: batches } }
  - id: ids
    uses: collect-ids
    with:
      batches: batches
      key: { session_id: domain_sessionid }
      into: ids
      since: derived.shared.first_at
      expand-by: [domain_userid]
  - id: rows
    uses: aggregate
    with:
      ids: ids
      into: rows
      query: >-
        SELECT domain_sessionid AS session_id, min(collector_tstamp) AS first_at,
          sum(count(*)) OVER (PARTITION BY max(domain_userid))::bigint AS of_visitor
        FROM {{ events }}
        GROUP BY domain_sessionid
  - id: commit
    uses: commit
    with: { replace: [{ table: derived.shared, from: rows, ids: ids }], manifest: batches }
";

/// Rows that depend on each other are computed together, whatever was asked for.
///
/// A replay of one session's key computed its row from the events of that session alone; a verification of some sessions
/// did the same, and called right rows wrong.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_depend_on_each_other_are_computed_together() {
    let db = Db::with_tables().await;
    let time = "2026-01-10 00:30";
    land(
        &db,
        &[
            ("2026-01-10 01:00", time, "s1", "v"),
            ("2026-01-10 01:00", time, "s2", "v"),
            ("2026-01-10 01:00", time, "s2", "v"),
            ("2026-01-10 01:00", time, "s3", "w"),
        ],
    )
    .await;
    let shared = parse(SHARED);
    db.run(&shared).await.unwrap();
    let rows = "SELECT session_id::text || ' ' || of_visitor AS row FROM derived.shared ORDER BY session_id";
    let right = db.rows(rows).await;
    let texts: Vec<_> = right.iter().map(|row| row[0].as_deref().unwrap()).collect();
    assert_eq!(texts, ["s1 3", "s2 3", "s3 1"]);

    db.sql("UPDATE derived.shared SET of_visitor = 0").await;
    let keys = Keys {
        step: None,
        columns: None,
        rows: vec![vec!["s1".into()], vec!["s3".into()]],
    };
    replay(&db, &shared, Replay::Keys(keys)).await.unwrap();
    assert_eq!(db.rows(rows).await, right);

    assert!(!verify(&db, &shared, &everything()).await.unwrap().differs);
    let parts = [
        VerifyOptions {
            sample: Some(Sample::Keys(1)),
            ..everything()
        },
        VerifyOptions {
            since: Some(jiff::Timestamp::UNIX_EPOCH),
            ..everything()
        },
    ];
    for part in parts {
        let error = verify(&db, &shared, &part).await.unwrap_err().to_string();
        assert!(
            error.contains("by `expand-by` their rows depend on events of keys outside of it"),
            "{error}"
        );
    }
}

/// There is nothing to compute again where nothing was computed, and what a replay left would not be a whole table.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_replayed_before_the_first_run() {
    let db = Db::with_tables().await;
    land(&db, &[("2026-01-10 01:00", "2026-01-10", "a", "v")]).await;
    let sessions = workflow("sessions.yaml");
    let keys = Keys {
        step: None,
        columns: None,
        rows: vec![vec!["a".into()]],
    };
    for request in [
        Replay::Batches(vec!["2026-01-10 01:00:00".into()]),
        Replay::Range {
            since: Some(jiff::Timestamp::UNIX_EPOCH),
            until: None,
        },
        Replay::Keys(keys),
    ] {
        let error = replay(&db, &sessions, request)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("there is nothing to replay: playbook sessions has no processed batch"),
            "{error}"
        );
    }
    let made = "SELECT count(*) FROM derived.manifest";
    assert_eq!(db.number(made).await, 0);
    assert_eq!(db.run(&sessions).await.unwrap().batches, 1);
}

/// A replay notes what its batches have lost: the manifest has them as they are now afterwards, so no later run says it.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_says_what_its_batches_have_lost() {
    let db = Db::with_tables().await;
    land(
        &db,
        &[
            ("2026-01-10 01:00", "2026-01-10 00:10", "a", "v"),
            ("2026-01-10 01:00", "2026-01-10 00:20", "b", "v"),
            ("2026-01-10 01:00", "2026-01-10 00:30", "b", "v"),
        ],
    )
    .await;
    let sessions = workflow("sessions.yaml");
    db.run(&sessions).await.unwrap();
    db.sql("DELETE FROM atomic.events WHERE domain_sessionid = 'a' OR collector_tstamp = '2026-01-10 00:30'")
        .await;
    let batch = Replay::Batches(vec!["2026-01-10 01:00:00".into()]);
    let report = replay(&db, &sessions, batch).await.unwrap();
    let notes: Vec<_> = report.steps.iter().flat_map(|step| &step.notes).collect();
    assert!(
        notes.iter().any(|note| note.starts_with(
            "2 events are gone from 1 processed batch, 2026-01-10 01:00:00; which keys they had"
        )),
        "{notes:?}"
    );
    let left = db
        .rows("SELECT session_id, events FROM derived.sessions ORDER BY 1")
        .await;
    let left: Vec<_> = left.iter().map(|row| row[1].as_deref().unwrap()).collect();
    assert_eq!(
        left,
        ["1", "1"],
        "what is left is right, and what is gone stays, as the note says"
    );
}

/// A batch beyond the lookback is named late, is processed by a replay of it, and then everything is right.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_batch_is_named_and_replayed() {
    let (db, sessions) = built(107, 40).await;
    // Its batch comes before all others, so that no walk along the index meets it, and so do its events.
    db.sql(
        "INSERT INTO atomic.events (etl_tstamp, collector_tstamp, derived_tstamp, event_id, event_name, domain_sessionid, v_collector, v_etl)
         SELECT t.first - interval '40 days', t.first - interval '40 days', t.first, 'late', 'page_view', 'old session', '', ''
         FROM (SELECT min(etl_tstamp) AS first FROM atomic.events) AS t",
    )
    .await;
    // One more, within reach.
    db.sql(
        "INSERT INTO atomic.events (etl_tstamp, collector_tstamp, derived_tstamp, event_id, event_name, domain_sessionid, v_collector, v_etl)
         SELECT max(etl_tstamp) + interval '1 hour', max(collector_tstamp), max(collector_tstamp), 'next', 'page_view', 'new session', '', ''
         FROM atomic.events",
    )
    .await;
    db.sql("DROP INDEX atomic.events_etl_tstamp").await;
    let found = verify(&db, &sessions, &everything()).await.unwrap();
    let batches = found.batches.unwrap();
    let counts: Vec<_> = batches.counts.into_iter().collect();
    assert_eq!(counts, [(BatchKind::Pending, 1), (BatchKind::Late, 1)]);
    assert!(!found.differs);
    assert_eq!(db.run(&sessions).await.unwrap().batches, 1);

    let late = batches
        .named
        .iter()
        .find(|batch| batch.kind == BatchKind::Late)
        .unwrap();
    let report = replay(&db, &sessions, Replay::Batches(vec![late.batch.clone()]))
        .await
        .unwrap();
    assert_eq!((report.batches, report.outcome), (1, Outcome::Done));
    let found = verify(&db, &sessions, &everything()).await.unwrap();
    assert!(found.batches.unwrap().counts.is_empty());
    assert!(!found.differs);
    assert_eq!(
        db.number("SELECT count(*) FROM derived.sessions WHERE session_id = 'old session'")
            .await,
        1
    );
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
    assert_eq!(
        db.text("SELECT command || ' ' || (request #>> '{batches,0}') FROM stepwell.runs WHERE command = 'replay'").await,
        format!("replay {}", late.batch)
    );
    let error = replay(&db, &sessions, Replay::Batches(vec!["1999-01-01".into()]))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("has no batch 1999-01-01"),
        "{error}"
    );
}

/// A batch that grew is the next run's: its keys are not compared meanwhile, all others are.
#[tokio::test(flavor = "multi_thread")]
async fn keys_in_growing_batches_wait_for_the_next_run() {
    let (db, sessions) = built(109, 12).await;
    let of_batch = |batch: &str| {
        format!(
            "SELECT DISTINCT domain_sessionid FROM atomic.events WHERE etl_tstamp {batch} (SELECT max(etl_tstamp) FROM atomic.events)"
        )
    };
    let grown = db
        .text(&format!(
            "SELECT min(domain_sessionid) FROM ({}) AS s",
            of_batch("=")
        ))
        .await;
    let other = db
        .text(&format!(
            "SELECT min(domain_sessionid) FROM ({} EXCEPT {}) AS s",
            of_batch("<"),
            of_batch("=")
        ))
        .await;
    db.sql(&format!(
        "INSERT INTO atomic.events (etl_tstamp, collector_tstamp, derived_tstamp, event_id, event_name, domain_sessionid, v_collector, v_etl)
         SELECT max(etl_tstamp), max(collector_tstamp), max(collector_tstamp), 'grown', 'page_view', '{grown}', '', ''
         FROM atomic.events"
    ))
    .await;
    let found = verify(&db, &sessions, &everything()).await.unwrap();
    let counts: Vec<_> = found.batches.unwrap().counts.into_iter().collect();
    assert_eq!(counts, [(BatchKind::Growing, 1)]);
    assert!(!found.differs, "{:?}", found.tables);
    let waiting = format!(
        "SELECT count(*) FROM ({}) AS s WHERE domain_sessionid IS NOT NULL",
        of_batch("=")
    );
    assert_eq!(found.tables[0].unsettled, db.number(&waiting).await as u64);

    db.sql(&format!(
        "UPDATE derived.sessions SET events = 0 WHERE session_id IN ('{grown}', '{other}')"
    ))
    .await;
    let found = verify(&db, &sessions, &everything()).await.unwrap();
    let differing = values(&found.tables[0], "differing");
    assert_eq!(
        differing
            .iter()
            .map(|row| row.0.as_str())
            .collect::<Vec<_>>(),
        [other.as_str()]
    );
    db.run(&sessions).await.unwrap();
    let found = verify(&db, &sessions, &everything()).await.unwrap();
    assert_eq!(
        (found.tables[0].wrong(), found.tables[0].unsettled),
        (1, 0),
        "{:?}",
        found.tables
    );
}

/// A replay of keys mends their rows, and leaves others and the manifest alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_keys_moves_nothing_else() {
    let (db, sessions) = built(111, 20).await;
    let keys = db
        .rows("SELECT session_id FROM derived.sessions WHERE session_id IS NOT NULL ORDER BY events DESC LIMIT 3")
        .await;
    let keys: Vec<String> = keys
        .into_iter()
        .map(|row| row[0].clone().unwrap())
        .collect();
    db.sql(&format!(
        "UPDATE derived.sessions SET events = 0 WHERE session_id IN ('{}', '{}');
         DELETE FROM derived.sessions WHERE session_id = '{}';
         INSERT INTO derived.sessions (session_id) VALUES ('nobody');",
        keys[0], keys[1], keys[2]
    ))
    .await;
    let manifest = "SELECT * FROM derived.manifest ORDER BY batch";
    let before = db.rows(manifest).await;
    let rows = vec![
        vec![keys[0].clone()],
        vec![keys[2].clone()],
        vec!["nobody".to_owned()],
    ];
    let wanted = Keys {
        step: None,
        columns: None,
        rows,
    };
    let report = replay(&db, &sessions, Replay::Keys(wanted)).await.unwrap();
    assert_eq!(report.outcome, Outcome::Done);
    let found = verify(&db, &sessions, &everything()).await.unwrap();
    // The column is a `char`, whose text form has no blanks at its end.
    assert_eq!(
        values(&found.tables[0], "differing")[0].0,
        keys[1].trim_end()
    );
    assert_eq!(found.tables[0].wrong(), 1, "{:?}", found.tables[0]);
    assert_eq!(db.rows(manifest).await, before);

    let other = Keys {
        step: None,
        columns: Some(vec!["visitor".into()]),
        rows: vec![vec!["a".into()]],
    };
    let error = replay(&db, &sessions, Replay::Keys(other))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("expected keys with the columns session_id, found visitor"),
        "{error}"
    );
}

/// A replay of a stretch of time mends what was changed there; rows of the rest stay as they are, wrong ones too.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_time_moves_nothing_else() {
    let (db, sessions) = built(113, 30).await;
    let middle: jiff::Timestamp = format!(
        "{}Z",
        db.text("SELECT to_char(percentile_disc(0.5) WITHIN GROUP (ORDER BY first_time), 'YYYY-MM-DD\"T\"HH24:MI:SS') FROM derived.manifest").await
    )
    .parse()
    .unwrap();
    // Rows that are gone: the times of their events can then not come from them.
    db.sql("DELETE FROM derived.sessions").await;
    let range = Replay::Range {
        since: Some(middle),
        until: None,
    };
    let report = replay(&db, &sessions, range).await.unwrap();
    assert!((1..30).contains(&report.batches), "{}", report.batches);
    let found = verify(&db, &sessions, &everything()).await.unwrap();
    let table = &found.tables[0];
    assert!(table.missing > 0 && table.rows > 0, "{table:?}");
    // Each row that is there is whole, its events before the stretch included.
    assert_eq!((table.surplus, table.differing), (0, 0), "{table:?}");
}

/// A stretch of time stands for all batches with an event in it, those among them that have no row in the manifest.
///
/// A new user was told by `--help` that `--since` and `--until` name batches with an event there, and the late batch that
/// `verify` had named stayed where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_time_takes_late_and_forgotten_batches() {
    let db = Db::with_tables().await;
    let day = |day: u32| format!("2026-01-{day:02} 12:00");
    let days: Vec<String> = (1..=20).map(day).collect();
    let sessions: Vec<String> = (1..=20).map(|day| format!("s{day}")).collect();
    let events: Vec<_> = days
        .iter()
        .zip(&sessions)
        .map(|(day, session)| (day.as_str(), day.as_str(), session.as_str(), "v"))
        .collect();
    land(&db, &events).await;
    let workflow = workflow("sessions.yaml");
    assert_eq!(db.run(&workflow).await.unwrap().batches, 20);
    // One comes too late for any run, with an event in the stretch and one outside of it; another is forgotten.
    land(
        &db,
        &[
            ("2026-01-03 18:00", "2026-01-03 17:00", "late", "v"),
            ("2026-01-03 18:00", "2026-01-01 17:00", "late", "v"),
            ("2026-01-06 18:00", "2026-01-06 17:00", "later", "v"),
        ],
    )
    .await;
    let options = db.options(&RunOptions::default());
    let forgotten = ["2026-01-04 12:00:00".to_owned()];
    stepwell_runner::forget(&workflow, &options, &forgotten)
        .await
        .unwrap();
    assert_eq!(db.run(&workflow).await.unwrap().batches, 0);

    let range = |since: &str, until: &str| Replay::Range {
        since: Some(since.parse().unwrap()),
        until: Some(until.parse().unwrap()),
    };
    let stretch = range("2026-01-03T00:00:00Z", "2026-01-06T00:00:00Z");
    let report = replay(&db, &workflow, stretch).await.unwrap();
    // The third, fourth and fifth, and the late one.
    assert_eq!(report.batches, 4);
    let found = verify(&db, &workflow, &everything()).await.unwrap();
    assert!(!found.differs, "{found:?}");
    assert_eq!(found.batches.unwrap().out_of_reach(), 1);

    // What a verification shows does it as well: batch by batch, or by the time of their events where there are many.
    let program = Program::new(&db);
    let file = program.file("sessions.yaml", &read_with_url(&db, "sessions.yaml"));
    let mend = |words: &str| {
        let late = program.run(&["verify", &file]);
        assert_eq!(late.code, 12, "{}{}", late.stdout, late.stderr);
        let mended = program.run_shown(&late.stdout, words);
        assert_eq!(mended.code, 0, "{}", mended.stderr);
        let good = program.run(&["verify", &file]);
        assert_eq!(good.code, 0, "{}{}", good.stdout, good.stderr);
    };
    mend("manifest replay");
    let more: Vec<String> = (10..17)
        .map(|hour| format!("2026-01-07 {hour}:30:00.25"))
        .collect();
    let more = more
        .iter()
        .map(|time| (time.as_str(), time.as_str(), "latest", "v"));
    land(&db, &more.collect::<Vec<_>>()).await;
    mend("--since 2026-01-07T10:30:00.25Z --until 2026-01-07T16:30:01Z");
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
    // And a stretch in which nothing happened is no mistake.
    let none = range("2025-01-01T00:00:00Z", "2025-01-02T00:00:00Z");
    let report = replay(&db, &workflow, none).await.unwrap();
    assert!(
        matches!(report.outcome, Outcome::NothingNew { .. }),
        "{report:?}"
    );
}

/// What is forgotten is journalled, found again by the next run, and a lease that is held keeps it away.
#[tokio::test(flavor = "multi_thread")]
async fn forgotten_batches_are_found_again() {
    let (db, sessions) = built(115, 40).await;
    let options = db.options(&RunOptions::default());
    let newest = db.text("SELECT max(batch) FROM derived.manifest").await;
    let oldest = db.text("SELECT min(batch) FROM derived.manifest").await;
    let named = Batches::Named(vec![newest.clone(), oldest.clone(), "1999-01-01".into()]);
    let found = stepwell_runner::forgettable(&sessions, &options, &named)
        .await
        .unwrap();
    assert_eq!(found.rows.len(), 2);
    assert_eq!(found.unknown, ["1999-01-01"]);
    assert_eq!(found.out_of_reach, std::slice::from_ref(&oldest));
    assert_eq!(found.remaining, 38);

    let rows = db.rows("SELECT * FROM derived.sessions ORDER BY 1").await;
    let forgotten = stepwell_runner::forget(&sessions, &options, std::slice::from_ref(&newest))
        .await
        .unwrap();
    assert_eq!(forgotten.batches, 1);
    assert_eq!(
        db.rows("SELECT * FROM derived.sessions ORDER BY 1").await,
        rows
    );
    assert_eq!(
        db.rows("SELECT command, state, batches::text, (SELECT released_at IS NOT NULL FROM stepwell.leases)::text
                 FROM stepwell.runs ORDER BY started_at DESC LIMIT 1")
            .await,
        [["forget", "done", "1", "true"].map(|text| Some(text.to_owned())).to_vec()]
    );
    assert_eq!(db.run(&sessions).await.unwrap().batches, 1);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// Batches that the next run does not find again are named before they are forgotten, those that an index is not walked to
/// among them.
///
/// The walk begins before the oldest batch that reaches into the lookback. Once that batch is forgotten it begins later:
/// nobody was told that the batch, though within the lookback by its times, is never met.
#[tokio::test(flavor = "multi_thread")]
async fn batches_that_are_not_found_again_are_named() {
    let db = Db::with_tables().await;
    // The clock of an event in the first batch is ahead of all others.
    land(
        &db,
        &[
            ("2026-01-01", "2026-01-20", "a", "v"),
            ("2026-01-02", "2026-01-02", "b", "v"),
            ("2026-01-03", "2026-01-03", "c", "v"),
            ("2026-01-18", "2026-01-18", "d", "v"),
            ("2026-01-20", "2026-01-20", "e", "v"),
        ],
    )
    .await;
    let sessions = workflow("sessions.yaml");
    assert_eq!(db.run(&sessions).await.unwrap().batches, 5);
    let batch = |day: &str| format!("2026-01-{day} 00:00:00");
    let forgotten = ["01", "02", "18"].map(batch);
    let options = db.options(&RunOptions::default());
    let named = Batches::Named(forgotten.to_vec());
    let found = stepwell_runner::forgettable(&sessions, &options, &named)
        .await
        .unwrap();
    assert_eq!(found.out_of_reach, [batch("01"), batch("02")]);
    stepwell_runner::forget(&sessions, &options, &forgotten)
        .await
        .unwrap();
    db.run(&sessions).await.unwrap();
    let missing = format!(
        "SELECT batch FROM unnest('{{{}}}'::timestamp[]) AS batch WHERE batch NOT IN (SELECT batch FROM derived.manifest)",
        forgotten.join(",")
    );
    let missing: Vec<_> = db.rows(&missing).await.into_iter().flatten().collect();
    let missing: Vec<_> = missing
        .iter()
        .map(|batch| batch.as_ref().unwrap().replace('T', " "))
        .collect();
    assert_eq!(missing, found.out_of_reach);

    // What is named with them brings them back.
    replay(&db, &sessions, Replay::Batches(missing))
        .await
        .unwrap();
    assert_eq!(db.number("SELECT count(*) FROM derived.manifest").await, 5);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// A key that is not of the key's type is a mistake of the file, not a failure of the step that takes it.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_another_type_are_refused() {
    let db = Db::with_tables().await;
    land(&db, &[("2026-01-01", "2026-01-01", "s", "v")]).await;
    let program = Program::new(&db);
    let file = program.file(
        "visitor_days.yaml",
        &read_with_url(&db, "visitor_days.yaml"),
    );
    assert_eq!(program.run(&["init", &file]).code, 0);
    assert_eq!(program.run(&["run", &file]).code, 0);
    let replay = |day: &str| {
        let keys = program.file("keys.csv", &format!("visitor,day\nv,{day}\n"));
        program.run(&["manifest", "replay", &file, "--keys", &keys])
    };
    let refused = replay("someday");
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    let words = "keys.csv: invalid input syntax for type date: \"someday\"";
    assert!(refused.stderr.contains(words), "{}", refused.stderr);
    assert_eq!(replay("2026-01-01").code, 0);
}

/// Which index would help is said by plans, and by a run where no run before said it.
///
/// It stood below each run of a pipeline that had been told long ago, even with -qq.
#[tokio::test(flavor = "multi_thread")]
async fn advice_is_given_once() {
    let db = Db::with_tables().await;
    db.sql("DROP INDEX atomic.events_etl_tstamp").await;
    let program = Program::new(&db);
    let file = program.file("sessions.yaml", &read_with_url(&db, "sessions.yaml"));
    assert_eq!(program.run(&["init", &file]).code, 0);
    let batch = "CREATE INDEX ON atomic.events (etl_tstamp)";
    let key = "CREATE INDEX ON atomic.events (domain_sessionid)";
    let mut days = 1..;
    let mut run = async |flag: &str| {
        let day = format!("2026-01-{:02}", days.next().unwrap());
        land(&db, &[(&day, &day, "a", "v")]).await;
        let shown = program.run(&["plan", &file]).stdout;
        let ended = program.run(&["run", &file, flag]);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        [shown, ended.stdout].map(|text| [batch, key].map(|words| text.contains(words)))
    };
    assert_eq!(run("--in-order").await, [[true, false], [true, false]]);
    assert_eq!(run("--in-order").await, [[true, false], [false, false]]);
    assert_eq!(run("-v").await, [[true, false], [true, false]]);
    db.sql("DROP INDEX atomic.events_domain_sessionid").await;
    assert_eq!(run("--in-order").await, [[true, true], [false, true]]);
    assert_eq!(run("--in-order").await, [[true, true], [false, false]]);
    // Programs find it in each report, and nothing is said where nothing is to be said.
    db.sql("DELETE FROM stepwell.steps").await;
    assert_eq!(run("-qq").await, [[true, true], [false, false]]);
    land(&db, &[("2026-01-20", "2026-01-20", "a", "v")]).await;
    let json = program.run(&["run", &file, "--json"]).json();
    let notes = json[0]["steps"].to_string();
    assert!(notes.contains(batch) && notes.contains(key), "{notes}");
}

/// The commands as processes: words, JSON and exit codes.
#[tokio::test(flavor = "multi_thread")]
async fn the_commands_say_what_they_found() {
    let (db, _) = built(117, 12).await;
    let program = Program::new(&db);
    let file = program.file("sessions.yaml", &read_with_url(&db, "sessions.yaml"));
    let clean = program.run(&["verify", &file]);
    assert_eq!(clean.code, 0, "{}{}", clean.stdout, clean.stderr);
    assert!(
        clean.stdout.contains("no row differs from a rebuild"),
        "{}",
        clean.stdout
    );
    assert!(
        clean.stdout.contains("step defrag took no part"),
        "{}",
        clean.stdout
    );

    db.sql("UPDATE derived.sessions SET events = -1 WHERE session_id = (SELECT min(session_id) FROM derived.sessions)").await;
    let key = db
        .text("SELECT session_id FROM derived.sessions WHERE events = -1")
        .await;
    let wrong = program.run(&["verify", &file]);
    assert_eq!(wrong.code, 11, "{}", wrong.stderr);
    assert!(
        wrong.stdout.contains(&key) && wrong.stdout.contains("events in 1 row"),
        "{}",
        wrong.stdout
    );
    let json = program.run(&["verify", "--json", &file]).json();
    assert_eq!(json[0]["tables"][0]["named"][0]["key"][0], key.as_str());
    assert_eq!(
        json[0]["tables"][0]["named"][0]["values"][0]["derived"],
        "-1"
    );

    // It says what mends it, and that does.
    let mended = program.run_shown(&wrong.stdout, "manifest replay");
    assert_eq!(mended.code, 0, "{}", mended.stderr);
    assert!(
        mended
            .stdout
            .starts_with("sessions: 1 key computed again, "),
        "{}",
        mended.stdout
    );
    let some = program.run(&["verify", &file, "--sample", "1"]);
    assert_eq!(some.code, 0, "{}", some.stderr);
    let words = "sessions: 1 row compared (--sample 1), none differs from a rebuild, ";
    assert!(some.stdout.starts_with(words), "{}", some.stdout);

    // A full refresh alone mends a table that is gone, and not one of other columns.
    let refresh = format!("help: `stepwell run {file} --full-refresh` computes all rows again\n");
    db.sql("ALTER TABLE derived.sessions RENAME TO elsewhere")
        .await;
    let gone = program.run(&["verify", &file]);
    assert_eq!(gone.code, 11, "{}", gone.stderr);
    assert!(gone.stdout.contains(&refresh), "{}", gone.stdout);
    assert!(!gone.stdout.contains("--limit"), "{}", gone.stdout);
    db.sql("ALTER TABLE derived.elsewhere RENAME TO sessions")
        .await;
    db.sql("ALTER TABLE derived.sessions ADD COLUMN more integer")
        .await;
    let other = program.run(&["verify", &file]);
    assert_eq!(other.code, 11, "{}", other.stderr);
    let words = "help: set `on-schema-change: rebuild` on step \"commit\"";
    assert!(other.stdout.contains(words), "{}", other.stdout);
    assert!(!other.stdout.contains(&refresh), "{}", other.stdout);
    db.sql("ALTER TABLE derived.sessions DROP COLUMN more")
        .await;

    // A plugin does not know its file; the host puts it into the plugin's words.
    let batch = ["--batch", "1999-01-01 00:00:00"];
    let unknown = program.run(&[&["manifest", "replay", &file][..], &batch].concat());
    assert_eq!(unknown.code, 6, "{}", unknown.stderr);
    let words = format!("help: `stepwell manifest list {file}` shows those that are processed");
    assert!(unknown.stderr.contains(&words), "{}", unknown.stderr);
    assert_eq!(program.run(&["verify", &file]).code, 0);

    // Mistakes on the command line are no failures of steps.
    let before = db.number("SELECT count(*) FROM stepwell.runs").await;
    let empty = program.file("empty.txt", "");
    let short = program.file("short.txt", "session_id,other\na\n");
    let other = program.file("other.txt", "visitor,day\na,2026-01-01\n");
    for (args, words) in [
        (
            &["--batch", "foo"][..],
            "error: --batch foo: expected a batch of playbook \"sessions\", which is a timestamp",
        ),
        (
            &["--keys", "none.txt"],
            "error: --keys none.txt: it could not be read: No such file",
        ),
        (&["--keys", &empty], "empty.txt: it holds no key"),
        (
            &["--keys", &short],
            "short.txt: line 2 has 1 value, expected 2",
        ),
        (
            &["--since", "2026-01-02", "--until", "2026-01-02"],
            "error: --since 2026-01-02T00:00:00Z is not before --until",
        ),
    ] {
        let refused = program.run(&[&["manifest", "replay", &file], args].concat());
        assert_eq!(refused.code, 2, "{args:?}: {}", refused.stderr);
        assert!(
            refused.stderr.contains(words),
            "{args:?}: {}",
            refused.stderr
        );
    }
    for command in [&["manifest", "list"][..], &["manifest", "forget"]] {
        let refused = program.run(&[command, &[&file, "--batch", "foo"]].concat());
        assert_eq!(refused.code, 2, "{}", refused.stderr);
    }
    let never = [
        "verify",
        &file,
        "--since",
        "2026-02-01",
        "--until",
        "2026-01-01",
    ];
    assert_eq!(program.run(&never).code, 2);
    assert_eq!(
        db.number("SELECT count(*) FROM stepwell.runs").await,
        before
    );
    // Whose columns they are is known once the step is asked.
    let refused = program.run(&["manifest", "replay", &file, "--keys", &other]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    let words = "other.txt: expected keys with the columns session_id, found visitor, day";
    assert!(refused.stderr.contains(words), "{}", refused.stderr);

    // Nobody to ask, and nothing is forgotten; with --yes it is.
    let batch = db.text("SELECT max(batch) FROM derived.manifest").await;
    let asked = program.run(&["manifest", "forget", &file, "--batch", &batch]);
    assert_eq!(asked.code, 2, "{}", asked.stderr);
    assert!(
        asked.stderr.contains(&batch) && asked.stderr.contains("--yes"),
        "{}",
        asked.stderr
    );
    assert_eq!(db.number("SELECT count(*) FROM derived.manifest").await, 12);
    let forgotten = program.run(&["manifest", "forget", &file, "--batch", &batch, "--yes"]);
    assert_eq!(forgotten.code, 0, "{}", forgotten.stderr);
    assert_eq!(db.number("SELECT count(*) FROM derived.manifest").await, 11);

    assert_eq!(program.run(&["run", &file]).code, 0);
    let lookback = program.run(&["lookback", &file]);
    assert_eq!(lookback.code, 0, "{}", lookback.stderr);
    assert!(
        lookback.stdout.contains("wholly inside") && lookback.stdout.contains("####"),
        "{}",
        lookback.stdout
    );

    db.sql("UPDATE derived.manifest SET events = events + 1 WHERE batch = (SELECT min(batch) FROM derived.manifest)").await;
    let shrunk = program.run(&["verify", &file]);
    assert_eq!(shrunk.code, 12, "{}{}", shrunk.stdout, shrunk.stderr);
    assert!(shrunk.stdout.contains("shrunk"), "{}", shrunk.stdout);
}

/// The lookback's figures follow from the data.
#[tokio::test(flavor = "multi_thread")]
async fn lookback_says_what_finds_every_batch() {
    let db = Db::with_tables().await;
    let sessions = workflow("sessions.yaml");
    let first = [
        ("2026-01-10 01:00", "2026-01-10", "a", "v"),
        ("2026-01-10 01:00", "2026-01-10 00:30", "a", "v"),
    ];
    land(&db, &first).await;
    db.run(&sessions).await.unwrap();
    // Five days behind, though its batch is the younger one; the session is five days long by it.
    land(&db, &[("2026-01-10 02:00", "2026-01-05", "a", "v")]).await;
    db.run(&sessions).await.unwrap();
    // In order, with one event far back.
    let last = [
        ("2026-01-10 03:00", "2026-01-10 02:30", "b", "v"),
        ("2026-01-10 03:00", "2025-12-30", "c", "v"),
    ];
    land(&db, &last).await;
    db.run(&sessions).await.unwrap();
    let lookback = async || {
        let (_stopper, stop) = stepwell_runner::stop();
        let options = db.options(&RunOptions::default());
        let report = stepwell_runner::lookback(&sessions, &components(), &options, stop).await;
        report.unwrap()
    };
    let report = lookback().await;
    let batches = report.batches.clone().unwrap();
    assert_eq!((batches.batches, batches.processed), (3, 3));
    assert_eq!(batches.smallest_seconds, 5 * 86_400 + 1_800);
    assert_eq!(batches.reach_seconds, 11 * 86_400 + 1_800);
    assert_eq!(batches.beyond_lookback, 0);
    assert_eq!(batches.latest.unwrap().batch, "2026-01-10 02:00:00");
    let within: Vec<_> = batches
        .within
        .iter()
        .map(|within| (within.days, within.batches, within.whole))
        .collect();
    assert_eq!(
        within,
        [
            (0, 2, 1),
            (1, 2, 1),
            (2, 2, 1),
            (3, 2, 1),
            (7, 3, 2),
            (14, 3, 3),
            (30, 3, 3)
        ]
    );
    let keys = &report.keys[0];
    assert_eq!(
        (keys.step.as_str(), keys.keys, keys.longest_seconds),
        ("session-ids", 3, 5 * 86_400 + 1_800)
    );
    let within: Vec<_> = keys.within.iter().map(|within| within.keys).collect();
    assert_eq!(within, [2, 2, 2, 3, 3, 3]);

    // How late a batch came does not change by being processed again: replayed, grown, or in a full refresh.
    let came = "SELECT batch, processed_at FROM derived.manifest ORDER BY batch";
    let (before, noted) = (
        db.rows(came).await,
        "SELECT count(DISTINCT run_id) FROM derived.manifest",
    );
    let first = Replay::Batches(vec!["2026-01-10 01:00:00".into()]);
    replay(&db, &sessions, first).await.unwrap();
    assert_eq!(lookback().await, report);
    land(&db, &[("2026-01-10 01:00", "2026-01-10 00:40", "a", "v")]).await;
    db.run(&sessions).await.unwrap();
    assert_eq!(db.rows(came).await, before);
    assert_eq!(
        db.number(noted).await,
        3,
        "each by the last that processed it"
    );
    let full = RunOptions {
        full_refresh: true,
        ..RunOptions::default()
    };
    db.sql("DELETE FROM atomic.events WHERE etl_tstamp = '2026-01-10 03:00'")
        .await;
    land(&db, &[("2026-01-10 04:00", "2026-01-10 03:30", "d", "v")]).await;
    db.run_with(&sessions, &full).await.unwrap();
    let after = db.rows(came).await;
    assert_eq!(after[..2], before[..2]);
    assert_eq!(
        after[2][0].as_deref(),
        Some("2026-01-10T04:00:00"),
        "the one that is gone went, the new one came"
    );
    assert_eq!(after.len(), 3);
    assert_eq!(db.number(noted).await, 1);
}

/// What an observer hears of a backlog.
#[derive(Default)]
struct Slices(Mutex<Vec<(u64, u64, bool)>>);

impl Observer for Slices {
    fn event(&self, _: &str, event: &Event<'_>) {
        if let Event::PassStarted {
            backlog: Some(backlog),
            ..
        } = event
        {
            self.0
                .lock()
                .unwrap()
                .push((backlog.done, backlog.total, backlog.left.is_some()));
        }
    }
}

/// A backlog in slices: a run that ends between two of them leaves the earlier ones, and the next run goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_goes_on_where_it_stopped() {
    let db = Db::with_tables().await;
    for batch in stream(119).take(20) {
        db.land(&batch).await;
    }
    let sessions = workflow("sessions.yaml");
    let sliced = async |max_slices: Option<u32>| {
        let options = RunOptions {
            max_batches: Some(3),
            max_slices,
            ..db.options(&RunOptions::default())
        };
        let (slices, (_stopper, stop)) = (Slices::default(), stepwell_runner::stop());
        let report = stepwell_runner::run(&sessions, &components(), &options, &slices, stop)
            .await
            .unwrap();
        (report, slices.0.into_inner().unwrap())
    };
    let (report, heard) = sliced(Some(2)).await;
    assert_eq!((report.passes, report.batches, report.left), (2, 6, 14));
    assert_eq!(heard, [(0, 20, false), (3, 20, true)]);
    assert_eq!(db.number("SELECT count(*) FROM derived.manifest").await, 6);
    let (report, heard) = sliced(None).await;
    assert_eq!((report.passes, report.batches, report.left), (5, 14, 0));
    let expected: Vec<_> = (0..5).map(|pass| (pass * 3, 14, pass > 0)).collect();
    assert_eq!(heard, expected);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// Two databases with the same events and the same `--as-of` have the same tables, manifests and SQL.
///
/// Goal: nothing reads the wall clock in what decides rows. Method: two databases, one a second later than the other,
/// with events on both sides of the point in time.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_point_in_time_gives_the_same() {
    let options = RunOptions {
        as_of: Some("2026-01-05T00:00:00Z".parse().unwrap()),
        ..RunOptions::default()
    };
    let mut outcomes = Vec::new();
    for _ in 0..2 {
        let db = Db::with_tables().await;
        let sessions = workflow("sessions.yaml");
        let mut plans = Vec::new();
        let batches: Vec<_> = stream(121).take(30).collect();
        for landing in batches.chunks(15) {
            for batch in landing {
                db.land(batch).await;
            }
            let (_stopper, stop) = stepwell_runner::stop();
            stepwell_runner::init(&sessions, &db.options(&options))
                .await
                .unwrap();
            let plan = stepwell_runner::plan(&sessions, &components(), &db.options(&options), stop)
                .await
                .unwrap();
            let sql = plan.steps.iter().flat_map(|step| &step.statements);
            plans.push(
                sql.map(|s| (s.sql.clone(), s.params.clone()))
                    .collect::<Vec<_>>(),
            );
            db.run_with(&sessions, &options).await.unwrap();
        }
        let derived = db
            .rows("SELECT * FROM derived.sessions ORDER BY session_id")
            .await;
        let manifest = "SELECT playbook, batch, events, first_time, last_time FROM derived.manifest ORDER BY batch";
        outcomes.push((plans, derived, db.rows(manifest).await));
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    assert!(outcomes[0] == outcomes[1]);
    assert!(outcomes[0].1.len() > 50);
}

/// A batch that is processed while a verification goes on is neither rebuilt nor compared.
///
/// Method: an event trigger makes the verification wait, with its snapshot taken, until a run has committed.
#[tokio::test(flavor = "multi_thread")]
async fn verify_sees_one_state_of_the_warehouse() {
    let db = Db::with_tables().await;
    let batches: Vec<_> = stream(123).take(14).collect();
    for batch in &batches[..10] {
        db.land(batch).await;
    }
    let sessions = workflow("sessions.yaml");
    db.run(&sessions).await.unwrap();
    struct Between<'a> {
        begun: &'a tokio::sync::Notify,
    }
    impl Observer for Between<'_> {
        fn event(&self, _: &str, event: &Event<'_>) {
            if let Event::StepStarted {
                step: "session-ids",
            } = event
            {
                self.begun.notify_one();
                // The verification waits here for the run below: its task has a thread of its own meanwhile.
                tokio::task::block_in_place(|| std::thread::sleep(Duration::from_millis(1500)));
            }
        }
    }
    let begun = tokio::sync::Notify::new();
    let observer = Between { begun: &begun };
    let (_stopper, stop) = stepwell_runner::stop();
    let (options, what) = (db.options(&RunOptions::default()), everything());
    let (components, session_workflow) = (components(), workflow("sessions.yaml"));
    let verifying = stepwell_runner::verify(
        &session_workflow,
        &components,
        &options,
        &what,
        &observer,
        stop,
    );
    let running = async {
        begun.notified().await;
        for batch in &batches[10..] {
            db.land(batch).await;
        }
        db.run(&sessions).await.unwrap()
    };
    let (found, run) = tokio::join!(verifying, running);
    let found = found.unwrap();
    assert_eq!(run.batches, 4);
    assert!(!found.differs, "{:?}", found.tables);
    assert_eq!(found.batches.unwrap().processed, 10);
}

/// A step that fails while it verifies leaves no table behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_verification_that_fails_leaves_nothing() {
    let (db, _) = built(125, 6).await;
    let text = read("sessions.yaml").replace("min(derived_tstamp)", "min(derived_tstmp)");
    let before = traces(&db).await;
    let error = verify(&db, &parse(&text), &everything()).await.unwrap_err();
    assert!(error.to_string().contains("derived_tstmp"), "{error}");
    assert_eq!(traces(&db).await, before);
}
