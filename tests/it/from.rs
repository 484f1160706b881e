//! `run --from`: a run goes on where one failed, and takes over nothing that is not as it was left.

use std::sync::Arc;

use serde_json::Value;
use stepwell_warehouse::{Session, SessionOptions};

use crate::drill::{Drill, Fault};
use crate::faults::{land, on_sessions};
use crate::harness::{Db, OwnServer, stream};
use crate::program::{Ended, Program, read_with_url};

/// A database in which a run of `sessions` has failed at its commit, and what made it fail.
struct Failed {
    db: Db,
    program: Program,
    file: String,
    text: String,
    ended: Ended,
}

/// Makes the commit fail until [`MENDED`].
const BROKEN: &str =
    "ALTER TABLE derived.sessions ADD CONSTRAINT refused CHECK (events < 0) NOT VALID";
const MENDED: &str = "ALTER TABLE derived.sessions DROP CONSTRAINT refused";

impl Failed {
    async fn at_commit(db: Db, seed: u64, args: &[&str]) -> Self {
        let batches: Vec<_> = stream(seed).take(20).collect();
        let program = Program::new(&db);
        let text = read_with_url(&db, "sessions.yaml");
        let file = program.file("sessions.yaml", &text);
        for batch in &batches[..12] {
            db.land(batch).await;
        }
        assert_eq!(program.run(&["init", &file]).code, 0);
        assert_eq!(program.run(&["run", &file]).code, 0);
        for batch in &batches[12..] {
            db.land(batch).await;
        }
        db.sql(BROKEN).await;
        let ended = program.run(&[&["run", &file], args].concat());
        assert_eq!(ended.code, 6, "{}", ended.stderr);
        Self {
            db,
            program,
            file,
            text,
            ended,
        }
    }

    fn from(&self, step: &str) -> Ended {
        self.program
            .run(&["run", &self.file, "--from", step, "--json"])
    }

    /// The files of the scratch tables, and how often the lease was taken.
    async fn traces(&self) -> (Vec<Vec<Option<String>>>, i64, i64) {
        let files = "SELECT relname, relfilenode, pg_relation_size(oid) FROM pg_class
            WHERE relnamespace = 'scratch'::regnamespace ORDER BY relname";
        (
            self.db.rows(files).await,
            self.db.number("SELECT token FROM stepwell.leases").await,
            self.db.number("SELECT count(*) FROM stepwell.runs").await,
        )
    }

    /// Asserts that going on is refused with these words, and that nothing was done.
    async fn refused(&self, step: &str, words: &[&str]) {
        let before = self.traces().await;
        let ended = self.program.run(&["run", &self.file, "--from", step]);
        assert_eq!(ended.code, 13, "{step}: {}", ended.stderr);
        for words in words {
            assert!(
                ended.stderr.contains(words),
                "no {words:?} in {}",
                ended.stderr
            );
        }
        assert_eq!(self.traces().await, before, "{step}");
    }

    fn write(&self, from: &str, to: &str) {
        assert!(self.text.contains(from), "{from}");
        self.program
            .file("sessions.yaml", &self.text.replace(from, to));
    }
}

/// The states of the steps in a report, by id.
fn states(report: &Value) -> Vec<(String, String)> {
    let steps = report["steps"].as_array().expect("steps");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    steps
        .iter()
        .map(|step| (text(&step["id"]), text(&step["state"])))
        .collect()
}

/// A run fails at its commit: the message offers to go on there, and a run that does so does the commit alone.
///
/// Goal: what was done is not done again, and the tables are those of a rebuild; events that came in between are for the
/// next run.
/// Method: the files of the scratch tables stay what they were, and the journal says what was taken over from whom.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_at_the_step_that_failed() {
    let failed = Failed::at_commit(Db::with_tables().await, 81, &[]).await;
    let db = &failed.db;
    let offer = format!("`stepwell run {} --from commit`", failed.file);
    assert!(
        failed.ended.stderr.contains(&offer),
        "{}",
        failed.ended.stderr
    );
    let (run_id, as_of) = (
        db.text("SELECT max(run_id) FROM stepwell.runs").await,
        db.text("SELECT max(as_of) FROM stepwell.runs").await,
    );
    let (files, ..) = failed.traces().await;
    // It fails once more; that the steps before it were taken over is taken over as well.
    let again = failed
        .program
        .run(&["run", &failed.file, "--from", "commit"]);
    assert_eq!(again.code, 6, "{}", again.stderr);
    assert!(again.stderr.contains(&offer), "{}", again.stderr);
    db.sql(MENDED).await;
    // Its batch is pending already: the run does not know of this event, and must not say that it does.
    db.sql(
        "INSERT INTO atomic.events (etl_tstamp, collector_tstamp, derived_tstamp, event_id, event_name, domain_sessionid,
           v_collector, v_etl)
         SELECT t.newest, t.time, t.time, 'late', 'page_view', 'a new session', '', ''
         FROM (SELECT max(etl_tstamp) AS newest, max(collector_tstamp) AS time FROM atomic.events) AS t",
    )
    .await;
    for batch in stream(81).skip(20).take(1) {
        db.land(&batch).await;
    }
    let ended = failed.from("commit");
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let report = &ended.json()[0];
    let expected = [
        ("truncate", "reused"),
        ("new-batches", "reused"),
        ("session-ids", "reused"),
        ("sessions", "reused"),
        ("commit", "done"),
        ("defrag", "done"),
    ];
    let expected = expected.map(|(id, state)| (id.to_owned(), state.to_owned()));
    assert_eq!(states(report), expected);
    assert_eq!(report["batches"], 8);
    assert_ne!(report["continues"], run_id);
    assert_eq!(failed.traces().await.0, files);
    let journal = format!(
        "SELECT count(*) FROM stepwell.runs WHERE request ->> 'from' = 'commit' AND as_of = '{as_of}'
           AND request ->> 'continues' IS NOT NULL AND state IN ('failed', 'done')"
    );
    assert_eq!(db.number(&journal).await, 2);
    assert_eq!(db.number("SELECT count(*) FROM derived.manifest").await, 20);
    assert_eq!(
        db.number("SELECT count(*) FROM derived.sessions WHERE session_id = 'a new session'")
            .await,
        0
    );
    // One batch is new, and one has grown.
    let plain = failed.program.run(&["run", &failed.file, "--json"]);
    assert_eq!(plain.json()[0]["batches"], 2, "{}", plain.stderr);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// A step is mended after it failed: it has other settings then, and those before it are taken over.
#[tokio::test(flavor = "multi_thread")]
async fn the_step_that_failed_may_be_mended() {
    let db = Db::with_tables().await;
    for batch in stream(82).take(10) {
        db.land(&batch).await;
    }
    let program = Program::new(&db);
    let text = read_with_url(&db, "sessions.yaml");
    let broken = text.replace("events: count(*)\n", "events: count(*) / 0\n");
    assert_ne!(broken, text);
    let file = program.file("sessions.yaml", &broken);
    assert_eq!(program.run(&["init", &file]).code, 0);
    let ended = program.run(&["run", &file, "--json"]);
    assert_eq!(ended.code, 6, "{}", ended.stderr);
    assert_eq!(ended.json()[0]["continue_from"], "sessions");
    program.file("sessions.yaml", &text);
    let ended = program.run(&["run", &file, "--from", "sessions"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    for words in ["goes on with run", "done before", "went on with run"] {
        let said = format!("{}{}", ended.stderr, ended.stdout);
        assert!(said.contains(words), "no {words} in {said}");
    }
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// Whatever is not as the run left it is refused with the reason, before anything is done; and once it is as it was, the
/// run goes on.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_as_it_was_left_is_refused() {
    let failed = Failed::at_commit(Db::with_tables().await, 83, &[]).await;
    let db = &failed.db;
    let whole = format!("Run all steps: `stepwell run {}`.", failed.file);
    failed
        .refused(
            "comit",
            &[
                "the workflow has no such step",
                "session-ids, sessions, commit",
            ],
        )
        .await;
    for step in ["truncate", "new-batches"] {
        let words = "step \"new-batches\" finds out what is pending";
        failed.refused(step, &[words, &whole]).await;
    }
    failed
        .refused(
            "defrag",
            &[
                "step \"commit\" of run",
                "it was not done",
                "--from commit`",
            ],
        )
        .await;

    failed.write("lookback: 7 days", "lookback: 8 days");
    failed
        .refused("commit", &["the workflow's source, schemas", &whole])
        .await;
    failed.write(
        "into: session_ids\n",
        "into: session_ids\n      expand-by: [user_id]\n",
    );
    failed
        .refused(
            "commit",
            &[
                "step \"session-ids\" of run",
                "its settings have changed since",
                "--from session-ids`",
            ],
        )
        .await;
    failed.write("", "");

    db.sql("ALTER TABLE scratch.sessions__sessions RENAME TO kept")
        .await;
    failed
        .refused(
            "commit",
            &["sessions__sessions", "is gone", "--from sessions`"],
        )
        .await;
    db.sql("CREATE TABLE scratch.sessions__sessions AS TABLE scratch.kept")
        .await;
    failed
        .refused("commit", &["was made anew", "--from sessions`"])
        .await;
    db.sql("DROP TABLE scratch.sessions__sessions; ALTER TABLE scratch.kept RENAME TO sessions__sessions")
        .await;

    // Somebody held the lease and died before the journal knew.
    db.sql("UPDATE stepwell.leases SET token = token + 1").await;
    failed
        .refused(
            "commit",
            &["somebody else held the playbook's lease", &whole],
        )
        .await;
    db.sql("UPDATE stepwell.leases SET token = token - 1").await;

    db.sql(MENDED).await;
    let ended = failed.from("commit");
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
    failed
        .refused(
            "commit",
            &["did not fail: nothing is left to go on with", &whole],
        )
        .await;
}

/// The flags that decide what a run is of are those of the run that failed.
#[tokio::test(flavor = "multi_thread")]
async fn flags_that_contradict_it_are_refused() {
    let db = Db::with_tables().await;
    let program = Program::new(&db);
    let file = program.file("sessions.yaml", &read_with_url(&db, "sessions.yaml"));
    for flags in [
        &["--full-refresh"][..],
        &["--as-of", "2026-01-01"],
        &[&file],
    ] {
        let args = [&["run", &file, "--from", "commit"], flags].concat();
        let ended = program.run(&args);
        assert_eq!(ended.code, 2, "{flags:?}: {}", ended.stderr);
    }
    assert_eq!(program.run(&["init", &file]).code, 0);
    let never = program.run(&["run", &file, "--from", "commit"]);
    assert_eq!(never.code, 13, "{}", never.stderr);
    assert!(
        never.stderr.contains("no run of playbook \"sessions\""),
        "{}",
        never.stderr
    );
}

/// Another run of the playbook in between, though it failed early or did something else: its own state counts.
#[tokio::test(flavor = "multi_thread")]
async fn another_run_in_between_is_noticed() {
    let failed = Failed::at_commit(Db::with_tables().await, 84, &[]).await;
    let db = &failed.db;
    let batch = db.text("SELECT max(batch) FROM derived.manifest").await;
    let forgotten = failed.program.run(&[
        "manifest",
        "forget",
        &failed.file,
        "--batch",
        &batch,
        "--yes",
    ]);
    assert_eq!(forgotten.code, 0, "{}", forgotten.stderr);
    failed.refused("commit", &["was a `manifest forget`"]).await;
    // Fails at the first step that acts: nothing of it can be taken over, and nothing of the run before it.
    db.sql(
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS
           $$ BEGIN IF tg_tag = 'DROP TABLE' THEN RAISE 'no drops'; END IF; END $$;
         CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse()",
    )
    .await;
    let ended = failed.program.run(&["run", &failed.file]);
    assert_eq!(ended.code, 6, "{}", ended.stderr);
    assert!(!ended.stderr.contains("--from"), "{}", ended.stderr);
    failed
        .refused("commit", &["left no step done beyond what it committed"])
        .await;
    db.sql("DROP EVENT TRIGGER refuse").await;
    db.sql(MENDED).await;
    assert_eq!(failed.program.run(&["run", &failed.file]).code, 0);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// The second of several slices fails: what is done of it is taken over, and the backlog goes on in slices of that size.
#[tokio::test(flavor = "multi_thread")]
async fn a_later_slice_goes_on() {
    let db = Db::with_tables().await;
    let program = Program::new(&db);
    let file = program.file("sessions.yaml", &read_with_url(&db, "sessions.yaml"));
    for batch in stream(85).take(9) {
        db.land(&batch).await;
    }
    assert_eq!(program.run(&["init", &file]).code, 0);
    db.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN IF (SELECT count(*) >= 4 FROM derived.manifest) THEN RAISE 'full'; END IF; RETURN NULL; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON derived.manifest EXECUTE FUNCTION refuse()",
    )
    .await;
    let ended = program.run(&["run", &file, "--max-batches", "2"]);
    assert_eq!(ended.code, 6, "{}", ended.stderr);
    assert!(ended.stderr.contains("--from commit`"), "{}", ended.stderr);
    assert_eq!(db.number("SELECT count(*) FROM derived.manifest").await, 4);
    db.sql("DROP TRIGGER refuse ON derived.manifest").await;
    let ended = program.run(&["run", &file, "--from", "commit", "--json"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let report = &ended.json()[0];
    assert_eq!(
        (&report["passes"], &report["batches"]),
        (&3.into(), &5.into())
    );
    let sizes = "SELECT count(*) FROM derived.manifest GROUP BY xmin::text ORDER BY min(batch)";
    let sizes: Vec<_> = db
        .rows(sizes)
        .await
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    assert_eq!(sizes, ["2", "2", "2", "2", "1"]);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// A full refresh that failed is gone on with as one: rows whose events are gone go.
///
/// Also by the second run that goes on with it: the journal did not say of the first one that it was a full refresh.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_refresh_goes_on_as_one() {
    let failed = Failed::at_commit(Db::with_tables().await, 86, &["--full-refresh"]).await;
    let db = &failed.db;
    let again = failed.from("commit");
    assert_eq!(again.code, 6, "{}", again.stderr);
    db.sql(
        "ALTER TABLE derived.sessions DROP CONSTRAINT refused;
         INSERT INTO derived.sessions (session_id, events) VALUES ('of no event', 1)",
    )
    .await;
    let ended = failed.from("commit");
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// A crash of the server, or of one of its processes, empties unlogged tables, in files of the same name; a restart in
/// good order does not. A full refresh has such tables.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_server_is_noticed() {
    let server = tokio::task::spawn_blocking(|| OwnServer::start("from")).await;
    let server = Arc::new(server.expect("it starts"));
    let db = Db::empty_on(server.target()).await.and_tables().await;
    let mut failed = Failed::at_commit(db, 87, &["--full-refresh"]).await;
    let (running, lost) = (server.clone(), "lost its rows in a crash of the server");
    let in_order = tokio::task::spawn_blocking(move || running.restart());
    in_order.await.expect("it restarts");
    reconnect(&mut failed.db).await;
    let again = failed.from("commit");
    assert_eq!(again.code, 6, "{}", again.stderr);

    // What the journal says of steps may be lost within the last moments before a crash, unless it is on disk.
    failed.db.sql("CHECKPOINT").await;
    // The server ends all sessions once it notices; one that was made before that would be ended with them.
    let witness = Session::connect(&failed.db.target, &SessionOptions::default()).await;
    let witness = witness.expect("a session");
    let pid = failed.db.number("SELECT pg_backend_pid()").await;
    // SAFETY: a signal to a process of the server that this test started.
    unsafe { libc::kill(pid.try_into().expect("a pid"), libc::SIGKILL) };
    while !witness.is_closed() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    reconnect(&mut failed.db).await;
    failed
        .refused(
            "commit",
            &[
                "table scratch.sessions__",
                lost,
                // What was a full refresh is to be one again.
                &format!("`stepwell run {} --full-refresh`", failed.file),
            ],
        )
        .await;

    // All over again, for the whole server.
    let ended = failed.program.run(&["run", &failed.file, "--full-refresh"]);
    assert_eq!(ended.code, 6, "{}", ended.stderr);
    failed.db.sql("CHECKPOINT").await;
    let running = server.clone();
    let crashed = tokio::task::spawn_blocking(move || running.crash());
    crashed.await.expect("it restarts");
    reconnect(&mut failed.db).await;
    failed.refused("commit", &[lost]).await;
    failed.db.sql(MENDED).await;
    assert_eq!(failed.program.run(&["run", &failed.file]).code, 0);
    failed
        .db
        .assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// The scratch tables of a small batch are in the log, before the journal's rows about them. What of it is on the disk
/// outlives a crash, and is gone on with.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_batch_outlives_a_crash_of_the_server() {
    let server = tokio::task::spawn_blocking(|| OwnServer::start("from-small")).await;
    let server = Arc::new(server.expect("it starts"));
    let db = Db::empty_on(server.target()).await.and_tables().await;
    let mut failed = Failed::at_commit(db, 89, &[]).await;
    failed.db.sql("CHECKPOINT").await;
    let crashing = server.clone();
    let crashed = tokio::task::spawn_blocking(move || crashing.crash());
    crashed.await.expect("it restarts");
    reconnect(&mut failed.db).await;
    failed.db.sql(MENDED).await;
    let ended = failed.from("commit");
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    failed
        .db
        .assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// Connects again, once the server lets somebody in.
async fn reconnect(db: &mut Db) {
    loop {
        match Session::connect(&db.target, &SessionOptions::default()).await {
            Ok(session) => break db.session = session,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
        }
    }
}

/// Tables of the version before: `init` brings them up to date, and a run that failed then is gone on with.
#[tokio::test(flavor = "multi_thread")]
async fn tables_of_the_version_before_are_brought_up_to_date() {
    let failed = Failed::at_commit(Db::with_tables().await, 88, &[]).await;
    let db = &failed.db;
    db.sql(
        "ALTER TABLE stepwell.steps DROP COLUMN settings_digest, DROP COLUMN facts, DROP COLUMN tables,
           DROP CONSTRAINT steps_state_check,
           ADD CONSTRAINT steps_state_check CHECK (state IN ('done', 'failed', 'skipped'));
         ALTER TABLE stepwell.runs DROP COLUMN workflow_digest;
         ALTER TABLE derived.manifest DROP COLUMN before_batches, DROP COLUMN before_events, DROP COLUMN before_first_time,
           DROP COLUMN before_last_time;
         UPDATE stepwell.version SET version = 3 WHERE version = (SELECT max(version) FROM stepwell.version)",
    )
    .await;
    assert_eq!(failed.program.run(&["run", &failed.file]).code, 7);
    assert_eq!(failed.program.run(&["init", &failed.file]).code, 0);
    // Of that run nobody knows what it left.
    failed.refused("commit", &["have changed"]).await;
    assert_eq!(failed.program.run(&["run", &failed.file]).code, 6);
    db.sql(MENDED).await;
    assert_eq!(failed.from("commit").code, 0);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// The host dies or loses its connection at points of a run: a run that goes on either is refused, and has done nothing
/// then, or makes everything right.
#[tokio::test(flavor = "multi_thread")]
async fn runs_go_on_after_every_fault() {
    let db = Db::with_tables().await;
    land(&db, "sessions.yaml", 89, 15).await;
    Drill {
        faults: vec![(Fault::Kill, 10), (Fault::Cut, 60)],
        from: &["commit", "sessions"],
        ..on_sessions(db)
    }
    .run()
    .await;
}

/// Steps beside the one to go on from are taken over too, unless they are not done or no longer the same; one that empties
/// scratch tables would take what is to be taken over away.
#[tokio::test(flavor = "multi_thread")]
async fn steps_beside_it_are_taken_over_where_nothing_speaks_against_it() {
    let db = Db::with_tables().await;
    let program = Program::new(&db);
    for batch in stream(90).take(6) {
        db.land(&batch).await;
    }
    let text = read_with_url(&db, "sessions.yaml");
    let with = |beside: &str, more: &str| {
        let text = text.replace(
            "  - id: sessions\n    uses: aggregate\n",
            &format!(
                "  - id: beside\n    uses: sql\n    needs: [new-batches]\n    with: {{ statements: {beside}, uses: [batches], fills: [side] }}\n\
                 {more}  - id: sessions\n    uses: aggregate\n    needs: [session-ids]\n"
            ),
        );
        program.file("sessions.yaml", &text)
    };
    let side = "DROP TABLE IF EXISTS {{ side }}; CREATE UNLOGGED TABLE {{ side }} AS SELECT * FROM {{ batches }}";
    let more = "  - { id: once-more, uses: truncate-scratch, needs: [session-ids] }\n";
    let side = format!("\"{side}\"");
    let file = with(&side, "");
    assert_eq!(program.run(&["init", &file]).code, 0);
    let refuse = "CREATE TABLE derived.sessions (session_id int)";
    db.sql(refuse).await;
    let failed = program.run(&["run", &file]);
    assert_eq!(failed.code, 6, "{}", failed.stderr);
    // The commit step would refuse the table again, so that going on is not offered; whoever has mended it may ask for it.
    assert!(!failed.stderr.contains("--from"), "{}", failed.stderr);
    // The step beside is another one now, and nothing before `sessions`: it is done once more.
    let file = with("SELECT 1", "");
    let ended = program.run(&["run", &file, "--from", "sessions", "--json"]);
    assert_eq!(ended.code, 6, "{}", ended.stderr);
    let sql =
        "SELECT string_agg(step_id || ' ' || state, ', ' ORDER BY step_id) FROM stepwell.steps
        WHERE run_id = (SELECT max(run_id) FROM stepwell.runs)";
    assert_eq!(
        db.text(sql).await,
        "beside done, commit failed, new-batches reused, session-ids reused, sessions done, truncate reused"
    );
    let ended = program.run(&["run", &file, "--from", "sessions"]);
    assert_eq!(ended.code, 6, "{}", ended.stderr);
    assert!(
        db.text(sql)
            .await
            .starts_with("beside reused, commit failed")
    );
    // Nor is this one done.
    let file = with("SELECT 1", more);
    let ended = program.run(&["run", &file, "--from", "sessions"]);
    assert_eq!(ended.code, 13, "{}", ended.stderr);
    let words = "step \"once-more\" would empty what step \"new-batches\" of run";
    assert!(ended.stderr.contains(words), "{}", ended.stderr);
    let file = with("SELECT 1", "");
    db.sql("DROP TABLE derived.sessions").await;
    let ended = program.run(&["run", &file, "--from", "session-ids"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// What a plugin refuses for good it refuses again: no run goes on there, and the cure is shown as a whole command.
///
/// Goal: whoever runs the last command that a message shows is helped.
/// Method: a derived table that was dropped, one with a column less than what is computed, and one that was there before any
/// batch. Each is refused by the commit step when all before it is done; the full refresh that is shown mends it.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_again_is_not_gone_on_with() {
    let db = Db::with_tables().await;
    let mut batches = stream(88).take(12);
    let program = Program::new(&db);
    let text = read_with_url(&db, "sessions.yaml");
    let file = program.file("sessions.yaml", &text);
    for batch in batches.by_ref().take(8) {
        db.land(&batch).await;
    }
    assert_eq!(program.run(&["init", &file]).code, 0);
    assert_eq!(program.run(&["run", &file]).code, 0);
    let cure = format!("`stepwell run {file} --full-refresh`");
    let refused = |words: &str| {
        let ended = program.run(&["run", &file]);
        assert_eq!(ended.code, 6, "{}", ended.stderr);
        for words in [words, &cure] {
            assert!(
                ended.stderr.contains(words),
                "no {words} in {}",
                ended.stderr
            );
        }
        assert!(!ended.stderr.contains("--from"), "{}", ended.stderr);
        let json = program.run(&["run", &file, "--json"]).json();
        assert_eq!(json[0]["continue_from"], Value::Null);
        assert!(json[0]["help"].to_string().contains(&cure), "{json}");
        ended
    };

    db.sql("DROP TABLE derived.sessions").await;
    db.land(&batches.next().expect("a batch")).await;
    let ended = refused("table derived.sessions does not exist, though batches were processed");
    let mended = program.run_shown(&ended.stderr, "--full-refresh");
    assert_eq!(mended.code, 0, "{}", mended.stderr);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;

    let more = "        events: count(*)\n        newest: max(collector_tstamp)\n";
    let changed = text.replace("        events: count(*)\n", more);
    assert_ne!(changed, text);
    program.file("sessions.yaml", &changed);
    db.land(&batches.next().expect("a batch")).await;
    refused("\"newest\" (timestamp without time zone) is new");
    program.file("sessions.yaml", &text);

    db.sql("DELETE FROM derived.manifest").await;
    let ended = refused("has rows, though playbook sessions never processed a batch");
    let mended = program.run_shown(&ended.stderr, "--full-refresh");
    assert_eq!(mended.code, 0, "{}", mended.stderr);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// A replay of a batch that is nowhere ends before it writes anything. What a run before it left is as it was, and can be
/// gone on with.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_wrote_nothing_does_not_count() {
    let failed = Failed::at_commit(Db::with_tables().await, 89, &[]).await;
    let db = &failed.db;
    let run_id = db.text("SELECT max(run_id) FROM stepwell.runs").await;
    let (files, ..) = failed.traces().await;
    for _ in 0..2 {
        let nowhere = ["--batch", "1999-01-01 00:00:00"];
        let replay = [&["manifest", "replay", &failed.file], &nowhere[..]].concat();
        let ended = failed.program.run(&replay);
        assert_eq!(ended.code, 6, "{}", ended.stderr);
        let state = "nothing was written";
        assert!(ended.stderr.contains(state), "{}", ended.stderr);
    }
    assert_eq!(failed.traces().await.0, files);
    // Somebody who took the lease between them and left no word may have done anything.
    db.sql("UPDATE stepwell.leases SET token = token + 1").await;
    failed
        .refused("commit", &["somebody else held the playbook's lease"])
        .await;
    db.sql("UPDATE stepwell.leases SET token = token - 1").await;
    // One that was stopped says nothing of a statement that may have been on its way.
    let newest = "run_id = (SELECT max(run_id) FROM stepwell.runs)";
    db.sql(&format!(
        "UPDATE stepwell.runs SET state = 'stopped' WHERE {newest}"
    ))
    .await;
    failed.refused("commit", &["was a `manifest replay`"]).await;
    db.sql(&format!(
        "UPDATE stepwell.runs SET state = 'failed' WHERE {newest}"
    ))
    .await;
    db.sql(MENDED).await;
    let ended = failed.from("commit");
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(ended.json()[0]["continues"], run_id.as_str());
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// A replay that failed after it had filled scratch tables counts: what was in them is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_wrote_counts() {
    let failed = Failed::at_commit(Db::with_tables().await, 90, &[]).await;
    let batch = failed
        .db
        .text("SELECT max(batch)::text FROM derived.manifest")
        .await;
    let replay = ["manifest", "replay", &failed.file, "--batch", &batch];
    let ended = failed.program.run(&replay);
    assert_eq!(ended.code, 6, "{}", ended.stderr);
    let state = "scratch tables written";
    assert!(ended.stderr.contains(state), "{}", ended.stderr);
    failed.refused("commit", &["was a `manifest replay`"]).await;
}
