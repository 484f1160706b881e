//! Sequences of runs: derived tables equal a rebuild after each, and nothing new costs nothing.

use stepwell_runner::{Outcome, RunOptions, StepState};

use crate::harness::{Db, parse, read, stream, workflow};
use crate::program::{Program, read_with_url};

/// A first build, batches that follow, late events among them.
///
/// Goal: after every run each derived table equals a rebuild over the processed batches.
/// Method: half of the stream lands at once; the rest in steps of one to three batches with a run after each.
#[tokio::test(flavor = "multi_thread")]
async fn runs_in_steps_equal_one_rebuild() {
    let db = Db::with_tables().await;
    let batches: Vec<_> = stream(7).collect();
    let (first, rest) = batches.split_at(batches.len() / 2);
    for batch in first {
        db.land(batch).await;
    }
    let (sessions, days) = (workflow("sessions.yaml"), workflow("visitor_days.yaml"));
    db.run(&sessions).await.unwrap();
    db.run(&days).await.unwrap();
    let mut rest = rest.iter();
    for size in [1, 2, 3].into_iter().cycle() {
        let landing: Vec<_> = rest.by_ref().take(size).collect();
        if landing.is_empty() {
            break;
        }
        for batch in &landing {
            db.land(batch).await;
        }
        let report = db.run(&sessions).await.unwrap();
        assert_eq!(report.batches, landing.len() as u64);
        db.run(&days).await.unwrap();
    }
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
    db.assert_equals_rebuild("visitor_days.yaml", "derived.visitor_days")
        .await;
    let recorded = db
        .number("SELECT sum(events) FROM derived.manifest WHERE playbook = 'sessions'")
        .await;
    assert_eq!(
        recorded,
        db.number("SELECT count(*) FROM atomic.events").await
    );
}

/// Nothing new: no write to scratch or derived.
///
/// Goal: a run without pending batches leaves every table of both schemas as it was, on disk too.
/// Method: the tables' files and transaction ids are compared before and after.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_new_writes_nothing() {
    let db = Db::with_tables().await;
    for batch in stream(1).take(8) {
        db.land(&batch).await;
    }
    let sessions = workflow("sessions.yaml");
    db.run(&sessions).await.unwrap();
    let traces = "SELECT c.relname, c.relfilenode, c.xmin::text, pg_relation_size(c.oid), s.n_tup_ins, s.n_tup_del
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        LEFT JOIN pg_stat_all_tables AS s ON s.relid = c.oid
        WHERE n.nspname IN ('scratch', 'derived') AND c.relkind = 'r' ORDER BY 1";
    db.sql("SELECT pg_stat_force_next_flush()").await;
    let before = db.rows(traces).await;
    let report = db.run(&sessions).await.unwrap();
    assert_eq!(
        report.outcome,
        Outcome::NothingNew {
            reason: "no new batches".into()
        }
    );
    assert!(before.len() >= 5, "{before:?}");
    assert_eq!(db.rows(traces).await, before);
    assert_eq!(
        db.text("SELECT state FROM stepwell.runs ORDER BY started_at DESC LIMIT 1")
            .await,
        "nothing-new"
    );
}

/// A batch that grows after it was processed is opened again; one whose events come out of order is taken.
#[tokio::test(flavor = "multi_thread")]
async fn grown_and_late_batches_are_taken() {
    let db = Db::with_tables().await;
    let batches: Vec<_> = stream(3).take(20).collect();
    let late = &batches[12];
    for batch in batches.iter().filter(|batch| batch.index() != late.index()) {
        db.land(batch).await;
    }
    let sessions = workflow("sessions.yaml");
    db.run(&sessions).await.unwrap();

    db.land(late).await;
    assert_eq!(db.run(&sessions).await.unwrap().batches, 1);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;

    // More rows of a batch that is done: events of a new session, and of one that was there.
    db.sql(&format!(
        "INSERT INTO atomic.events
         SELECT (jsonb_populate_record(e, jsonb_build_object(
             'event_id', md5(e.event_id)::uuid::text,
             'domain_sessionid', CASE WHEN random() < 0.5 THEN 'new-session' ELSE e.domain_sessionid END))).*
         FROM atomic.events AS e WHERE etl_tstamp = '{}' LIMIT 20",
        late.etl_tstamp()
    ))
    .await;
    let report = db.run(&sessions).await.unwrap();
    assert_eq!(report.batches, 1);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
    assert_eq!(db.run(&sessions).await.unwrap().batches, 0);
}

/// A backlog in slices gives what one run gives.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_in_slices_equals_a_rebuild() {
    let db = Db::with_tables().await;
    for batch in stream(5) {
        db.land(&batch).await;
    }
    let options = RunOptions {
        max_batches: Some(7),
        ..RunOptions::default()
    };
    let report = db
        .run_with(&workflow("sessions.yaml"), &options)
        .await
        .unwrap();
    let batches = db
        .number("SELECT count(DISTINCT etl_tstamp) FROM atomic.events")
        .await;
    assert_eq!(
        (report.passes, i64::try_from(report.batches)),
        (6, Ok(batches))
    );
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// Without an index on the batch column the lookback is read, and an index is recommended.
#[tokio::test(flavor = "multi_thread")]
async fn without_indexes_the_rows_are_the_same() {
    let db = Db::empty().await;
    for sql in stepwell_demo::schema_sql() {
        db.sql(&sql).await;
    }
    let batches: Vec<_> = stream(9).collect();
    let (first, rest) = batches.split_at(30);
    for batch in first {
        db.land(batch).await;
    }
    let sessions = workflow("sessions.yaml");
    db.run(&sessions).await.unwrap();
    for batch in rest {
        db.land(batch).await;
    }
    let report = db.run(&sessions).await.unwrap();
    assert_eq!(report.batches, 10);
    let notes: Vec<_> = report.steps.iter().flat_map(|step| &step.notes).collect();
    assert!(
        notes
            .iter()
            .any(|note| note.contains("CREATE INDEX ON atomic.events (etl_tstamp)")),
        "{notes:?}"
    );
    assert!(
        notes
            .iter()
            .any(|note| note.contains("CREATE INDEX ON atomic.events (domain_sessionid)")),
        "{notes:?}"
    );
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// Events that belong to no key or to no batch are counted, not passed over in silence.
#[tokio::test(flavor = "multi_thread")]
async fn events_without_key_or_batch_are_reported() {
    let db = Db::with_tables().await;
    for batch in stream(11).take(10) {
        db.land(&batch).await;
    }
    db.sql("INSERT INTO atomic.events (etl_tstamp, collector_tstamp, event_id, v_collector, v_etl, domain_sessionid)
        SELECT NULL, max(collector_tstamp), 'a', '', '', 's' FROM atomic.events").await;
    let sessions = workflow("sessions.yaml");
    let report = db.run(&sessions).await.unwrap();
    let ids = report
        .steps
        .iter()
        .find(|step| step.id == "session-ids")
        .unwrap();
    let expected = db.number("SELECT count(*) FROM atomic.events WHERE domain_sessionid IS NULL AND etl_tstamp IS NOT NULL").await;
    assert!(expected > 0);
    assert_eq!(ids.measures["events-without-key"], expected);
    let gate = report
        .steps
        .iter()
        .find(|step| step.id == "new-batches")
        .unwrap();
    assert!(
        gate.notes
            .iter()
            .any(|note| note.starts_with("1 event has no etl_tstamp")),
        "{:?}",
        gate.notes
    );
    // And also where nothing is pending.
    let (_stopper, stop) = stepwell_runner::stop();
    let plan = stepwell_runner::plan(
        &sessions,
        &crate::harness::components(),
        &db.options(&RunOptions::default()),
        stop,
    )
    .await
    .unwrap();
    assert_eq!(plan.nothing_new.as_deref(), Some("no new batches"));
    assert!(plan.steps[0].notes[0].starts_with("1 event has no etl_tstamp"));
}

/// A full refresh replaces everything, readers' old rows included, and takes other columns where that is allowed.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_refresh_starts_from_nothing() {
    let db = Db::with_tables().await;
    for batch in stream(13).take(12) {
        db.land(&batch).await;
    }
    db.run(&workflow("visitor_days.yaml")).await.unwrap();
    db.sql("UPDATE derived.visitor_days SET events = -1; GRANT SELECT ON derived.visitor_days TO PUBLIC").await;
    let text = read("visitor_days.yaml")
        .replace("      manifest: batches\n", "      manifest: batches\n      on-schema-change: rebuild\n")
        .replace("        events: count(*)\n", "        events: count(*)\n        pings: count(*) FILTER (WHERE event_name = 'page_ping')\n");
    let changed = parse(&text);
    let refresh = RunOptions {
        full_refresh: true,
        ..RunOptions::default()
    };
    db.run_with(&changed, &refresh).await.unwrap();
    assert_eq!(
        db.number("SELECT count(*) FROM derived.visitor_days WHERE events < 0 OR pings IS NULL")
            .await,
        0
    );
    assert_eq!(db.number("SELECT count(*) FROM information_schema.role_table_grants WHERE table_name = 'visitor_days' AND grantee = 'PUBLIC'").await, 1);
}

/// A plan shows every step's statements and writes nothing, not even the journal.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_never_writes() {
    let db = Db::with_tables().await;
    for batch in stream(15).take(12) {
        db.land(&batch).await;
    }
    let sessions = workflow("sessions.yaml");
    stepwell_runner::init(&sessions, &db.options(&RunOptions::default()))
        .await
        .unwrap();
    let traces = "SELECT c.oid, c.relname, c.relfilenode, pg_relation_size(c.oid) FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname IN ('scratch', 'derived', 'stepwell') ORDER BY 1";
    let before = db.rows(traces).await;
    let (_stopper, stop) = stepwell_runner::stop();
    let plan = stepwell_runner::plan(
        &sessions,
        &crate::harness::components(),
        &db.options(&RunOptions::default()),
        stop,
    )
    .await
    .unwrap();
    assert_eq!(plan.pending["batches"], 12);
    let steps: Vec<_> = plan
        .steps
        .iter()
        .map(|step| (step.id.as_str(), step.statements.len()))
        .collect();
    assert_eq!(steps.len(), 6);
    assert!(steps.contains(&("commit", 6)), "{steps:?}");
    assert_eq!(db.rows(traces).await, before);
}

/// The journal keeps what each step did, with the plugin that did it.
#[tokio::test(flavor = "multi_thread")]
async fn the_journal_says_what_each_step_did() {
    let db = Db::with_tables().await;
    for batch in stream(17).take(6) {
        db.land(&batch).await;
    }
    let report = db.run(&workflow("sessions.yaml")).await.unwrap();
    assert!(
        report
            .steps
            .iter()
            .all(|step| step.state == StepState::Done)
    );
    let run = db
        .rows("SELECT run_id, state, passes, batches, events, error FROM stepwell.runs")
        .await;
    let events = db
        .number("SELECT count(*) FROM atomic.events")
        .await
        .to_string();
    assert_eq!(
        run,
        [[
            Some(report.run_id.clone()),
            Some("done".into()),
            Some("1".into()),
            Some("6".into()),
            Some(events),
            None
        ]]
    );
    let steps = db.rows("SELECT step_id, uses, plugin_digest, rows_written, jsonb_array_length(statements) FROM stepwell.steps WHERE run_id IN (SELECT run_id FROM stepwell.runs)").await;
    assert_eq!(steps.len(), 6);
    let aggregate = steps
        .iter()
        .find(|row| row[1].as_deref() == Some("aggregate"))
        .unwrap();
    assert!(aggregate[2].as_deref().unwrap().starts_with("sha256:"));
    assert_ne!(aggregate[3].as_deref(), Some("0"));
    assert_eq!(
        db.number("SELECT count(*) FROM stepwell.leases WHERE released_at IS NULL")
            .await,
        0
    );
}

/// The very first batch of a young pipeline lands last.
///
/// It lies before every batch in the manifest, and within the lookback.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_oldest_batch_is_taken() {
    let db = Db::with_tables().await;
    let batches: Vec<_> = stream(61)
        .take(8)
        .filter(|batch| batch.events() > 0)
        .collect();
    for batch in &batches[1..] {
        db.land(batch).await;
    }
    db.run(&workflow("sessions.yaml")).await.unwrap();
    db.land(&batches[0]).await;
    assert_eq!(db.run(&workflow("sessions.yaml")).await.unwrap().batches, 1);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// A full refresh takes all batches at once, whatever the options say: readers see one change. On the command line, where
/// `--max-batches` would seem to bound it, both together are refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_refresh_has_no_slices() {
    let db = Db::with_tables().await;
    for batch in stream(63).take(12) {
        db.land(&batch).await;
    }
    let sessions = workflow("sessions.yaml");
    db.run(&sessions).await.unwrap();
    let options = RunOptions {
        full_refresh: true,
        max_batches: Some(3),
        ..RunOptions::default()
    };
    let report = db.run_with(&sessions, &options).await.unwrap();
    let batches = db
        .number("SELECT count(DISTINCT etl_tstamp) FROM atomic.events")
        .await;
    assert_eq!(
        (report.passes, i64::try_from(report.batches)),
        (1, Ok(batches))
    );
    let program = Program::new(&db);
    let file = program.file("sessions.yaml", &read_with_url(&db, "sessions.yaml"));
    let runs = db.number("SELECT count(*) FROM stepwell.runs").await;
    let ended = program.run(&["run", &file, "--full-refresh", "--max-batches", "3"]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    for words in ["one transaction without slices", "leave --max-batches out"] {
        assert!(ended.stderr.contains(words), "{}", ended.stderr);
    }
    assert_eq!(db.number("SELECT count(*) FROM stepwell.runs").await, runs);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// Slices go on although events without a batch stand first among what is found.
#[tokio::test(flavor = "multi_thread")]
async fn slices_go_on_past_events_without_a_batch() {
    let db = Db::with_tables().await;
    for batch in stream(65).take(10) {
        db.land(&batch).await;
    }
    db.sql(
        "INSERT INTO atomic.events (collector_tstamp, event_id, v_collector, v_etl)
        SELECT max(collector_tstamp), 'a', '', '' FROM atomic.events",
    )
    .await;
    let options = RunOptions {
        max_batches: Some(3),
        ..RunOptions::default()
    };
    let report = db
        .run_with(&workflow("visitor_days.yaml"), &options)
        .await
        .unwrap();
    let batches = db
        .number("SELECT count(DISTINCT etl_tstamp) FROM atomic.events")
        .await;
    assert_eq!(i64::try_from(report.batches), Ok(batches));
}

/// A derived table that was dropped, or one that was there before the manifest, is not filled in part.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_its_manifest_is_refused() {
    let db = Db::with_tables().await;
    let batches: Vec<_> = stream(67).take(10).collect();
    for batch in &batches[..8] {
        db.land(batch).await;
    }
    let sessions = workflow("sessions.yaml");
    db.run(&sessions).await.unwrap();
    db.sql("DROP TABLE derived.sessions").await;
    for batch in &batches[8..] {
        db.land(batch).await;
    }
    let error = db.run(&sessions).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("does not exist, though batches were processed"),
        "{error}"
    );
    assert!(error.help().unwrap().contains("--full-refresh"));
    let refresh = RunOptions {
        full_refresh: true,
        ..RunOptions::default()
    };
    db.run_with(&sessions, &refresh).await.unwrap();
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;

    db.sql("DELETE FROM derived.manifest").await;
    let error = db.run(&sessions).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("has rows, though playbook sessions never processed"),
        "{error}"
    );
}

/// A derived row whose first time is NULL is computed from all of its events.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_without_its_first_time_is_computed_whole() {
    let db = Db::with_tables().await;
    let batches: Vec<_> = stream(69).collect();
    for batch in &batches[..30] {
        db.land(batch).await;
    }
    db.run(&workflow("visitor_days.yaml")).await.unwrap();
    db.sql("UPDATE derived.visitor_days SET first_collector_tstamp = NULL")
        .await;
    for batch in &batches[30..] {
        db.land(batch).await;
    }
    db.run(&workflow("visitor_days.yaml")).await.unwrap();
    let cut = db.number(
        "SELECT count(*) FROM derived.visitor_days AS d WHERE first_collector_tstamp IS NOT NULL AND first_collector_tstamp <> (
           SELECT min(collector_tstamp) FROM atomic.events WHERE domain_userid = d.visitor AND derived_tstamp::date = d.day)",
    );
    assert_eq!(cut.await, 0);
}

/// Events that are gone from a processed batch are reported in every run, and their batch is left alone.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_gone_are_reported() {
    let db = Db::with_tables().await;
    for batch in stream(71).take(10) {
        db.land(&batch).await;
    }
    let sessions = workflow("sessions.yaml");
    db.run(&sessions).await.unwrap();
    db.sql(
        "DELETE FROM atomic.events WHERE etl_tstamp = (SELECT max(etl_tstamp) FROM atomic.events)",
    )
    .await;
    for _ in 0..2 {
        let (_stopper, stop) = stepwell_runner::stop();
        let options = db.options(&RunOptions::default());
        let plan = stepwell_runner::plan(&sessions, &crate::harness::components(), &options, stop)
            .await
            .unwrap();
        assert_eq!(plan.nothing_new.as_deref(), Some("no new batches"));
        assert!(
            plan.steps[0].notes[0].contains("events are gone from 1 processed batch,"),
            "{:?}",
            plan.steps[0].notes
        );
        db.run(&sessions).await.unwrap();
    }
}

/// A batch whose events lie on both sides of the lookback is read whole, with and without an index to find it by.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_reaches_beyond_the_lookback_is_read_whole() {
    for index in [true, false] {
        let db = Db::with_tables().await;
        if !index {
            db.sql("DROP INDEX atomic.events_etl_tstamp").await;
        }
        for batch in stream(73) {
            db.land(&batch).await;
        }
        let sessions = workflow("sessions.yaml");
        db.run(&sessions).await.unwrap();
        db.sql(
            "INSERT INTO atomic.events (etl_tstamp, collector_tstamp, derived_tstamp, event_id, event_name, domain_sessionid, v_collector, v_etl)
             SELECT t.newest + interval '1 hour', t.newest - days * interval '1 day', t.newest, 'late' || days, 'page_view',
               CASE WHEN days = 20 THEN 'old session' ELSE 'long session' END, '', ''
             FROM (SELECT max(etl_tstamp) AS newest FROM atomic.events) AS t, unnest(ARRAY[0, 9, 20]) AS days",
        )
        .await;
        assert_eq!(db.run(&sessions).await.unwrap().batches, 1);
        let events = "SELECT sum(events) FROM derived.sessions WHERE session_id IN ('old session', 'long session')";
        assert_eq!(db.number(events).await, 3, "index: {index}");
        db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
            .await;
    }
}

/// A step that is not critical fails: the run goes on, says so, and what needs the step is skipped.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_may_fail_does_not_fail_the_run() {
    let db = Db::with_tables().await;
    for batch in stream(75).take(6) {
        db.land(&batch).await;
    }
    let text = read("visitor_days.yaml")
        + "\n  - id: broken\n    uses: sql\n    critical: false\n    with: { statements: SELECT 1 / 0 }\n"
        + "\n  - id: after\n    uses: sql\n    critical: false\n    with: { statements: SELECT 1 }\n";
    let report = db.run(&parse(&text)).await.unwrap();
    assert_eq!(report.outcome, Outcome::DoneWithFailures);
    let states: Vec<_> = report
        .steps
        .iter()
        .map(|step| (step.id.as_str(), step.state))
        .collect();
    assert!(states.contains(&("defrag", StepState::Done)), "{states:?}");
    assert!(
        states.contains(&("broken", StepState::Failed)),
        "{states:?}"
    );
    assert!(
        states.contains(&("after", StepState::Skipped)),
        "{states:?}"
    );
    assert_eq!(
        db.text("SELECT state FROM stepwell.runs").await,
        "done-with-failures"
    );
    assert_eq!(
        db.number("SELECT count(*) FROM stepwell.leases WHERE released_at IS NULL")
            .await,
        0
    );
    db.assert_equals_rebuild("visitor_days.yaml", "derived.visitor_days")
        .await;
}

/// A manifest that keeps another type of batch is refused before anything is noted in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_another_type_is_refused() {
    let db = Db::with_tables().await;
    for batch in stream(77).take(4) {
        db.land(&batch).await;
    }
    db.run(&workflow("sessions.yaml")).await.unwrap();
    let by_day = read("visitor_days.yaml").replace("batch: etl_tstamp", "batch: etl_tstamp::date");
    let error = db.run(&parse(&by_day)).await.unwrap_err();
    assert!(
        error.to_string().contains("keeps batches of another type"),
        "{error}"
    );
    let own = by_day + "\nmanifest: derived.days_manifest\n";
    db.run(&parse(&own)).await.unwrap();
    assert!(
        db.number("SELECT count(*) FROM derived.days_manifest")
            .await
            > 0
    );
}

/// `sessions.yaml` against the same in plain SQL over all events: the rebuild itself is right.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_what_plain_sql_says() {
    let db = Db::with_tables().await;
    for batch in stream(79) {
        db.land(&batch).await;
        if batch.index() % 9 == 0 {
            db.run(&workflow("sessions.yaml")).await.unwrap();
        }
    }
    db.run(&workflow("sessions.yaml")).await.unwrap();
    let differing = db.number(
        "SELECT count(*) FROM derived.sessions AS s FULL JOIN (
           SELECT domain_sessionid AS session_id, min(derived_tstamp) AS start_tstamp, count(*) AS events,
             count(*) FILTER (WHERE event_name = 'page_view') AS page_views
           FROM (
             SELECT *, row_number() OVER (PARTITION BY domain_sessionid, event_id ORDER BY collector_tstamp, etl_tstamp, ctid) AS copy
             FROM atomic.events
           ) AS e
           WHERE copy = 1 AND domain_sessionid IS NOT NULL
           GROUP BY domain_sessionid
         ) AS p USING (session_id)
         WHERE (s.start_tstamp, s.events, s.page_views) IS DISTINCT FROM (p.start_tstamp, p.events, p.page_views)",
    );
    assert_eq!(differing.await, 0);
}

/// A playbook is added while another one's run has a transaction open on the tables that both share.
///
/// Goal: neither waits for the other; making the tables of the new one takes no lock that a run is in the way of.
/// Method: the locks of a run that is about to commit are held, and never given back while the new one runs.
#[tokio::test(flavor = "multi_thread")]
async fn adding_a_playbook_waits_for_no_other() {
    let db = Db::with_tables().await;
    for batch in stream(81).take(6) {
        db.land(&batch).await;
    }
    db.run(&workflow("sessions.yaml")).await.unwrap();
    let own = read("visitor_days.yaml") + "\nmanifest: derived.visitor_days_manifest\n";
    db.sql(
        "BEGIN; LOCK TABLE stepwell.leases, stepwell.runs, stepwell.steps, stepwell.retries, derived.manifest
         IN ROW EXCLUSIVE MODE",
    )
    .await;
    // In a workflow of its own too: its manifest is there, and init looks at it again.
    for text in [
        &own,
        &read("visitor_days.yaml").replace("visitor_days", "more_days"),
    ] {
        let (new, options) = (parse(text), db.options(&RunOptions::default()));
        stepwell_runner::init(&new, &options).await.unwrap();
        let report = db.run(&new).await.unwrap();
        assert_eq!(report.outcome, Outcome::Done);
    }
    db.sql("ROLLBACK").await;
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// A batch with a young name and old events hides none of those that lie between the lookback's beginning and its name.
///
/// The walk of the index began behind it, since it was the youngest processed batch before those that reach into the
/// lookback. A batch that landed late with a name before its own was never found.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_batch_is_walked_to_past_one_with_old_events() {
    let db = Db::with_tables().await;
    let land = async |hour: &str, events: &str, id: &str| {
        db.sql(&format!(
            "INSERT INTO atomic.events (etl_tstamp, collector_tstamp, derived_tstamp, event_id, event_name, domain_sessionid,
               v_collector, v_etl)
             VALUES ('2026-03-10 {hour}', '{events}', '{events}', '{id}', 'page_view', '{id}', '', '')"
        ))
        .await;
    };
    let text = read("sessions.yaml").replace("lookback: 7 days", "lookback: 6h");
    land("10:00", "2026-03-09 08:00", "old").await;
    land("11:00", "2026-03-10 10:55", "young").await;
    db.run(&parse(&text)).await.unwrap();
    land("09:00", "2026-03-10 08:50", "late").await;
    let report = db.run(&parse(&text)).await.unwrap();
    assert_eq!(report.batches, 1);
    assert_eq!(measure(&report, "new-batches", "late-batches"), 1);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// Compares everything with a rebuild.
async fn verify(
    db: &Db,
    workflow: &stepwell_workflow::Workflow,
    options: &RunOptions,
) -> stepwell_runner::VerifyReport {
    let asked = stepwell_runner::VerifyOptions {
        since: None,
        until: None,
        sample: None,
        seed: 0,
        limit: 10,
    };
    let (_stopper, stop) = stepwell_runner::stop();
    let (components, options) = (crate::harness::components(), db.options(options));
    let observer = stepwell_runner::Unobserved;
    let verifying =
        stepwell_runner::verify(workflow, &components, &options, &asked, &observer, stop);
    verifying.await.unwrap()
}

/// What a step measured.
fn measure(report: &stepwell_runner::RunReport, step: &str, name: &str) -> i64 {
    let step = report.steps.iter().find(|found| found.id == step);
    step.expect("the step").measures[name]
}

/// Late, grown and lost arrivals stand in the report and in the journal as numbers, also where nothing is pending.
#[tokio::test(flavor = "multi_thread")]
async fn arrivals_are_counted_in_report_and_journal() {
    let db = Db::with_tables().await;
    let batches: Vec<_> = stream(83)
        .take(20)
        .filter(|batch| batch.events() > 5)
        .collect();
    let [grown, shrunk, late] = [3, 5, 7].map(|at| &batches[at]);
    for batch in batches.iter().filter(|batch| batch.index() != late.index()) {
        db.land(batch).await;
    }
    let sessions = workflow("sessions.yaml");
    let first = db.run(&sessions).await.unwrap();
    assert_eq!(measure(&first, "new-batches", "late-batches"), 0);

    db.land(late).await;
    db.sql(&format!(
        "DELETE FROM atomic.events WHERE ctid IN (SELECT ctid FROM atomic.events WHERE etl_tstamp = '{}' LIMIT 2);
         INSERT INTO atomic.events
         SELECT (jsonb_populate_record(e, jsonb_build_object('event_id', md5(e.event_id)::uuid::text))).*
         FROM atomic.events AS e WHERE etl_tstamp = '{}' LIMIT 4;
         INSERT INTO atomic.events (collector_tstamp, event_id, v_collector, v_etl)
         SELECT max(collector_tstamp), 'without', '', '' FROM atomic.events",
        shrunk.etl_tstamp(),
        grown.etl_tstamp(),
    ))
    .await;
    let report = db.run(&sessions).await.unwrap();
    let expected = [
        ("late-batches", 1),
        ("late-batches-beyond-lookback", 0),
        ("grown-batches", 1),
        ("grown-events", 4),
        ("shrunk-batches", 1),
        ("shrunk-events", 2),
        ("events-without-batch", 1),
        ("settling-batches", 0),
        ("waiting-batches", 0),
    ];
    let journal = async |run_id: &str, name: &str| {
        let sql = format!(
            "SELECT coalesce(max((measures ->> '{name}')::bigint), -1) FROM stepwell.steps
             WHERE run_id = '{run_id}' AND step_id = 'new-batches'"
        );
        db.number(&sql).await
    };
    for (name, value) in expected {
        assert_eq!(measure(&report, "new-batches", name), value, "{name}");
        assert_eq!(journal(&report.run_id, name).await, value, "{name}");
    }

    // What cannot be mended by a run is said by each.
    let idle = db.run(&sessions).await.unwrap();
    assert_eq!(
        idle.outcome,
        Outcome::NothingNew {
            reason: "no new batches".into()
        }
    );
    for (name, value) in [
        ("grown-batches", 0),
        ("shrunk-events", 2),
        ("events-without-batch", 1),
    ] {
        assert_eq!(measure(&idle, "new-batches", name), value, "{name}");
        assert_eq!(journal(&idle.run_id, name).await, value, "{name}");
    }
    let json = serde_json::to_value(&idle).unwrap();
    assert_eq!(json["steps"][0]["measures"]["shrunk-batches"], 1);
}

/// Events that were loaded without a batch can be given one: `batch: coalesce(etl_tstamp, …)`.
#[tokio::test(flavor = "multi_thread")]
async fn events_without_a_batch_can_be_mapped() {
    let db = Db::with_tables().await;
    for batch in stream(85).take(12) {
        db.land(&batch).await;
    }
    db.sql(
        "UPDATE atomic.events SET etl_tstamp = NULL WHERE etl_tstamp IN (
           SELECT etl_tstamp FROM atomic.events GROUP BY 1 ORDER BY 1 LIMIT 3)",
    )
    .await;
    let lost = db
        .number("SELECT count(*) FROM atomic.events WHERE etl_tstamp IS NULL")
        .await;
    assert!(lost > 0);
    let plain = db.run(&workflow("visitor_days.yaml")).await.unwrap();
    assert_eq!(measure(&plain, "new-batches", "events-without-batch"), lost);

    let mapped = read("sessions.yaml").replace(
        "batch: etl_tstamp",
        "batch: coalesce(etl_tstamp, date_trunc('day', collector_tstamp))",
    );
    let report = db.run(&parse(&mapped)).await.unwrap();
    assert_eq!(measure(&report, "new-batches", "events-without-batch"), 0);
    let events = db.number("SELECT count(*) FROM atomic.events").await;
    assert_eq!(i64::try_from(report.events), Ok(events));
    // One more of a day that is done.
    db.sql(
        "INSERT INTO atomic.events
         SELECT (jsonb_populate_record(e, '{\"event_id\": \"another\"}')).*
         FROM atomic.events AS e WHERE etl_tstamp IS NULL ORDER BY collector_tstamp DESC LIMIT 1",
    )
    .await;
    let report = db.run(&parse(&mapped)).await.unwrap();
    assert_eq!(
        (
            report.batches,
            measure(&report, "new-batches", "grown-batches")
        ),
        (1, 1)
    );
    let differing = "SELECT count(*) FROM derived.sessions AS s FULL JOIN (
        SELECT domain_sessionid AS session_id, count(*) AS events
        FROM (SELECT DISTINCT domain_sessionid, event_id FROM atomic.events WHERE domain_sessionid IS NOT NULL) AS e GROUP BY 1
      ) AS p USING (session_id) WHERE s.events IS DISTINCT FROM p.events";
    assert_eq!(db.number(differing).await, 0);
}

/// An hour that is still being filled is left alone, and taken when it has settled; without `settle` it is taken as it
/// stands, and opened again as it grows.
#[tokio::test(flavor = "multi_thread")]
async fn an_hour_that_fills_is_left_alone_or_reopened() {
    for settle in [true, false] {
        let db = Db::with_tables().await;
        let text = read("sessions.yaml").replace(
            "batch: etl_tstamp",
            "batch: date_trunc('hour', load_tstamp)",
        );
        let text = match settle {
            true => text.replace(
                "into: batches }",
                "into: batches, settle: 10 minutes, loaded-at: load_tstamp }",
            ),
            false => text,
        };
        let hourly = parse(&text);
        let land = async |minute: &str| {
            db.sql(&format!(
                "INSERT INTO atomic.events (etl_tstamp, load_tstamp, collector_tstamp, derived_tstamp, event_id, event_name,
                   domain_sessionid, v_collector, v_etl)
                 SELECT t, t, t, t, 'e' || t, 'page_view', 's', '', '' FROM (SELECT timestamp '2026-03-10 {minute}' AS t) AS t"
            ))
            .await;
        };
        let run = async |minute: &str| {
            let as_of = format!("2026-03-10T{minute}:00Z").parse().unwrap();
            let options = RunOptions {
                as_of: Some(as_of),
                ..RunOptions::default()
            };
            let report = db.run_with(&hourly, &options).await.unwrap();
            let settling = measure(&report, "new-batches", "settling-batches");
            (report.batches, settling)
        };
        land("09:30").await;
        land("10:05").await;
        assert_eq!(run("10:06").await, if settle { (1, 1) } else { (2, 0) });
        let options = RunOptions {
            as_of: Some("2026-03-10T10:06:00Z".parse().unwrap()),
            ..RunOptions::default()
        };
        let batches = verify(&db, &hourly, &options).await.batches.unwrap();
        let pending = (stepwell_runner::verified::BatchKind::Pending, 1);
        let expected = settle.then_some(pending).into_iter().collect();
        assert_eq!(batches.counts, expected);
        land("10:14").await;
        // The first event of the hour has settled, the last one has not.
        assert_eq!(run("10:20").await, if settle { (0, 1) } else { (1, 0) });
        assert_eq!(run("10:24").await, if settle { (1, 0) } else { (0, 0) });
        land("10:40").await;
        assert_eq!(run("10:41").await, if settle { (0, 1) } else { (1, 0) });
        assert_eq!(run("11:41").await, if settle { (1, 0) } else { (0, 0) });
        let events = "SELECT events FROM derived.sessions";
        assert_eq!(db.number(events).await, 4, "settle: {settle}");
    }
}

/// A session that comes back after two months has events then and now: what lies between is not read for it.
///
/// Goal: without an index on the key, the run reads about as much of the events as without the old session.
/// Method: the blocks of the events that a run looks at are counted by the server, for a batch with and without an event of
/// a session of sixty days before, with and without `until`.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_comes_back_is_read_where_it_has_events() {
    let mut blocks = Vec::new();
    for (until, comes_back) in [(true, false), (true, true), (false, true)] {
        let db = Db::empty().await;
        for sql in stepwell_demo::schema_sql() {
            db.sql(&sql).await;
        }
        db.sql(
            "CREATE INDEX ON atomic.events (etl_tstamp);
             CREATE INDEX ON atomic.events USING brin (collector_tstamp) WITH (pages_per_range = 4);
             INSERT INTO atomic.events (etl_tstamp, collector_tstamp, derived_tstamp, event_id, event_name, domain_sessionid,
               page_url, v_collector, v_etl)
             SELECT date_trunc('day', t), t, t, md5(t::text)::uuid::text, 'page_view', 's' || (n / 20), repeat('x', 200), '', ''
             FROM (SELECT n, timestamp '2026-01-01' + n * interval '5 minutes' AS t FROM generate_series(0, 17279) AS n) AS t;
             ANALYZE atomic.events",
        )
        .await;
        db.sql("VACUUM atomic.events").await;
        let text = read("sessions.yaml").replace("lookback: 7 days", "lookback: 1 days");
        let text = match until {
            false => text,
            true => text
                .replace(
                    "        events: count(*)\n",
                    "        events: count(*)\n        last_at: max(collector_tstamp)\n",
                )
                .replace(
                    "      since: ",
                    "      until: derived.sessions.last_at\n      since: ",
                ),
        };
        let sessions = parse(&text);
        db.run(&sessions).await.unwrap();
        let read = "SELECT heap_blks_read + heap_blks_hit FROM pg_statio_user_tables WHERE relid = 'atomic.events'::regclass";
        // A session's figures are there once it is gone.
        let gone = async || {
            let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
            while db.number(open).await > 0 {
                tokio::task::yield_now().await;
            }
        };
        gone().await;
        let old = if comes_back { "s7" } else { "s new" };
        db.sql(&format!(
            "INSERT INTO atomic.events (etl_tstamp, collector_tstamp, derived_tstamp, event_id, event_name, domain_sessionid,
               v_collector, v_etl)
             SELECT '2026-03-02', t, t, 'e' || n, 'page_view', CASE n WHEN 0 THEN '{old}' ELSE 'n' || n / 10 END, '', ''
             FROM (SELECT n, timestamp '2026-03-02' + n * interval '1 minute' AS t FROM generate_series(0, 99) AS n) AS t;
             SELECT brin_summarize_new_values(i.indexrelid) FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
             JOIN pg_am AS a ON a.oid = c.relam WHERE a.amname = 'brin' AND i.indrelid = 'atomic.events'::regclass;
             SELECT pg_stat_force_next_flush()"
        ))
        .await;
        let before = db.number(read).await;
        let report = db.run(&sessions).await.unwrap();
        gone().await;
        blocks.push(db.number(read).await - before);
        assert_eq!(report.batches, 1);
        if comes_back {
            let events = "SELECT events FROM derived.sessions WHERE session_id = 's7'";
            assert_eq!(db.number(events).await, 21);
        }
        let rows = report.steps.iter().find(|step| step.id == "sessions");
        let stretches = rows.and_then(|step| step.measures.get("stretches-read"));
        assert_eq!(stretches.copied(), (until && comes_back).then_some(2));
        let table = db
            .number("SELECT pg_relation_size('atomic.events') / 8192")
            .await;
        blocks.push(table);
    }
    let [usual, table, split, _, whole, _] = blocks[..] else {
        panic!("{blocks:?}")
    };
    assert!(whole > table, "{blocks:?}");
    assert!(split < table / 10 && usual < table / 10, "{blocks:?}");
}

/// A visitor that never ends: its row stays as it is, and everybody is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_never_ends_is_frozen_and_named() {
    let db = Db::with_tables().await;
    let land = async |day: &str, session: &str| {
        db.sql(&format!(
            "INSERT INTO atomic.events (etl_tstamp, collector_tstamp, derived_tstamp, event_id, event_name, domain_sessionid,
               v_collector, v_etl)
             VALUES ('{day}', '{day}', '{day}', '{session}{day}', 'page_view', '{session}', '', '')"
        ))
        .await;
    };
    let with = |then: &str| {
        let runaway =
            format!("      runaway: {{ longer-than: 30 days, then: {then} }}\n      since: ");
        parse(&read("sessions.yaml").replace("      since: ", &runaway))
    };
    let row = "SELECT events FROM derived.sessions WHERE session_id = 'bot'";
    land("2026-01-01", "bot").await;
    db.run(&with("freeze")).await.unwrap();
    land("2026-01-20", "bot").await;
    let report = db.run(&with("freeze")).await.unwrap();
    assert_eq!(measure(&report, "session-ids", "runaway-keys"), 0);
    assert_eq!(db.number(row).await, 2);

    land("2026-02-20", "bot").await;
    land("2026-02-20 12:00", "human").await;
    let error = db.run(&with("fail")).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("1 key has events that lie more than 30 days apart (bot)"),
        "{error}"
    );
    let report = db.run(&with("freeze")).await.unwrap();
    assert_eq!(report.batches, 2);
    assert_eq!(
        (
            measure(&report, "session-ids", "runaway-keys"),
            measure(&report, "session-ids", "runaway-events")
        ),
        (1, 1)
    );
    assert_eq!(db.number(row).await, 2);
    let human = "SELECT events FROM derived.sessions WHERE session_id = 'human'";
    assert_eq!(db.number(human).await, 1);
    // The row differs from a rebuild, which is known and no damage.
    let compared = async |then: &str| {
        let table = verify(&db, &with(then), &RunOptions::default())
            .await
            .tables;
        (table[0].wrong(), table[0].frozen)
    };
    assert_eq!(compared("freeze").await, (0, 1));
    assert_eq!(compared("compute").await, (1, 0));

    // One before the first that the row knows of computes it, so that it knows.
    land("2025-12-25", "bot").await;
    db.sql(
        "UPDATE atomic.events SET etl_tstamp = '2026-02-20 18:00' WHERE etl_tstamp = '2025-12-25'",
    )
    .await;
    let report = db.run(&with("freeze")).await.unwrap();
    assert_eq!(measure(&report, "session-ids", "runaway-keys"), 0);
    assert_eq!(db.number(row).await, 4);
    land("2026-02-20 20:00", "bot").await;
    db.run(&with("freeze")).await.unwrap();
    assert_eq!(db.number(row).await, 4);

    // Without the cap the next event computes it from all of its events.
    land("2026-02-21", "bot").await;
    let report = db.run(&with("compute")).await.unwrap();
    assert_eq!(measure(&report, "session-ids", "runaway-keys"), 1);
    assert_eq!(db.number(row).await, 6);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// A URL that leads to a private server which is stopped: no retry starts it, so none is made, and what does is said.
#[tokio::test(flavor = "multi_thread")]
async fn a_private_server_behind_a_url_that_is_stopped_is_named() {
    let db = Db::with_tables().await;
    let program = Program::new(&db);
    let text = read_with_url(&db, "sessions.yaml").replace(
        &db.url(),
        "postgres:///stepwell?host=/a/project/.stepwell/postgres/run&user=stepwell",
    );
    let file = program.file("sessions.yaml", &text);
    let ended = program.run(&["run", &file]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    for words in [
        "/a/project/.stepwell/postgres/run/.s.PGSQL.5432",
        "the private server of /a/project",
        "`stepwell local start` there",
    ] {
        assert!(
            ended.stderr.contains(words),
            "no {words} in {}",
            ended.stderr
        );
    }
    assert!(!ended.stderr.contains("trying again"), "{}", ended.stderr);
}
