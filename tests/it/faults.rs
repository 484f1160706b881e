//! The program is killed, stopped and suspended at points of a run; one plain run afterwards is always right.

use std::time::{Duration, Instant};

use crate::harness::{Db, stream, workflow};
use crate::program::{Ended, Program, read_with_url};

/// The tables that a run of `sessions` makes or changes, in their order: a fault at each.
const SCRATCH: [&str; 4] = [
    "scratch.sessions__batches",
    "scratch.sessions__session_ids",
    "scratch.sessions__sessions__events",
    "scratch.sessions__sessions",
];

/// A database with 20 batches, of which 15 are processed, and a program.
async fn with_pending(seed: u64) -> (Db, Program, String) {
    let db = Db::with_tables().await;
    let batches: Vec<_> = stream(seed).take(20).collect();
    for batch in &batches[..15] {
        db.land(batch).await;
    }
    db.run(&workflow("sessions.yaml"))
        .await
        .expect("a first build");
    for batch in &batches[15..] {
        db.land(batch).await;
    }
    let program = Program::new(&db);
    let file = program.file("sessions.yaml", &read_with_url(&db, "sessions.yaml"));
    (db, program, file)
}

/// Kills the host with SIGKILL while it makes each of its tables and inside its commit, then runs once more.
///
/// Goal: no point of death loses or doubles a row, and nobody has to clean up.
/// Method: the server announces that it has come to the point and then sleeps, so the host dies exactly there.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_host_is_healed_by_the_next_run() {
    let (db, program, file) = with_pending(51).await;
    let before = db
        .rows("SELECT * FROM derived.sessions ORDER BY session_id")
        .await;
    for table in SCRATCH {
        db.on_create(
            table,
            "PERFORM pg_advisory_lock_shared(1); PERFORM pg_sleep(600)",
        )
        .await;
        kill_there(&db, &program, &file).await;
        assert_eq!(
            db.rows("SELECT * FROM derived.sessions ORDER BY session_id")
                .await,
            before,
            "{table}"
        );
        db.sql("DROP EVENT TRIGGER on_create").await;
    }
    db.sql(
        "CREATE FUNCTION derived.halt() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_lock_shared(1); PERFORM pg_sleep(600); RETURN NULL; END $$;
        CREATE TRIGGER halt AFTER INSERT ON derived.manifest EXECUTE FUNCTION derived.halt()",
    )
    .await;
    kill_there(&db, &program, &file).await;
    assert_eq!(
        db.rows("SELECT * FROM derived.sessions ORDER BY session_id")
            .await,
        before,
        "commit"
    );
    db.sql("DROP TRIGGER halt ON derived.manifest").await;

    let run = program.run(&["run", &file]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
    assert_eq!(
        db.number(
            "SELECT count(*) FROM stepwell.runs WHERE took_over IS NOT NULL AND state = 'done'"
        )
        .await,
        1
    );
}

/// Starts a run, waits until it sleeps at the point, kills it, and waits until the server has noticed.
async fn kill_there(db: &Db, program: &Program, file: &str) {
    let mut child = program.start(&["run", file]);
    db.wait_until_there().await;
    child.kill().expect("it lives");
    assert_eq!(Ended::of(child).code, -libc::SIGKILL);
    db.wait_until_gone().await;
}

/// SIGINT and SIGTERM cancel on the server, roll back and give the lease back, each with its code.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_run_leaves_everything_as_it_was() {
    let (db, program, file) = with_pending(53).await;
    let before = db
        .rows("SELECT * FROM derived.sessions ORDER BY session_id")
        .await;
    db.on_create(
        SCRATCH[3],
        "PERFORM pg_advisory_lock_shared(1); PERFORM pg_sleep(600)",
    )
    .await;
    for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let child = program.start(&["run", &file]);
        db.wait_until_there().await;
        // SAFETY: the child is ours and not yet waited for.
        unsafe { libc::kill(child.id().try_into().expect("a pid"), signal) };
        let ended = tokio::task::spawn_blocking(|| Ended::of(child))
            .await
            .expect("no panic");
        assert_eq!(ended.code, code, "{}", ended.stderr);
        assert!(
            ended
                .stderr
                .contains("derived tables and manifest unchanged"),
            "{}",
            ended.stderr
        );
        db.wait_until_gone().await;
        assert_eq!(
            db.number("SELECT count(*) FROM stepwell.leases WHERE released_at IS NULL")
                .await,
            0
        );
        assert_eq!(
            db.text("SELECT state FROM stepwell.runs ORDER BY started_at DESC LIMIT 1")
                .await,
            "stopped"
        );
        assert_eq!(
            db.rows("SELECT * FROM derived.sessions ORDER BY session_id")
                .await,
            before
        );
    }
}

/// Two processes started together, many times: one does the work, the other ends with the code for it.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_one_commits() {
    let (db, program, file) = with_pending(55).await;
    let later: Vec<_> = stream(55).skip(20).collect();
    for batch in &later {
        let children = [
            program.start(&["run", &file]),
            program.start(&["run", &file]),
        ];
        let codes = children.map(|child| Ended::of(child).code);
        assert!(
            codes.contains(&0) && codes.iter().all(|code| matches!(code, 0 | 5)),
            "{codes:?}"
        );
        db.land(batch).await;
    }
    assert_eq!(program.run(&["run", &file]).code, 0);
    assert_eq!(
        db.number("SELECT count(*) - count(DISTINCT session_id) FROM derived.sessions")
            .await,
        0
    );
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

impl Db {
    /// Runs `plpgsql` whenever this scratch table is made.
    pub async fn on_create(&self, table: &str, plpgsql: &str) {
        self.sql(&format!(
            "CREATE OR REPLACE FUNCTION derived.on_create() RETURNS event_trigger LANGUAGE plpgsql AS $$
             BEGIN
               IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity = '{table}') THEN
                 {plpgsql};
               END IF;
             END $$;
             CREATE EVENT TRIGGER on_create ON ddl_command_end WHEN TAG IN ('CREATE TABLE AS')
               EXECUTE FUNCTION derived.on_create()"
        ))
        .await;
    }

    /// Waits until a run has come to the point that [`on_create`](Self::on_create) or a trigger marks with a lock.
    async fn wait_until_there(&self) {
        let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        self.wait_for(locks, |n| n > 0).await;
    }

    /// Waits until the server has ended every session of a run.
    async fn wait_until_gone(&self) {
        let sessions = "SELECT count(*) FROM pg_stat_activity
            WHERE application_name LIKE 'stepwell sessions %' AND datname = current_database()";
        self.wait_for(sessions, |n| n == 0).await;
    }

    /// Waits until a query selects a number that fits, for at most a minute.
    pub async fn wait_for(&self, sql: &str, fits: impl Fn(i64) -> bool) {
        let begun = Instant::now();
        while !fits(self.number(sql).await) {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "still not: {sql}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
