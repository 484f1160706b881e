//! Runs that meet, runs that die, and readers who watch.

use stepwell_runner::{Failure, Problem, RunOptions, Unobserved};
use stepwell_warehouse::{Session, SessionOptions};

use crate::harness::{Db, components, parse, read, stream, workflow};

/// A second run while the first one is at work says who is, and changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_lease_is_not_taken() {
    let db = Db::with_tables().await;
    for batch in stream(31).take(10) {
        db.land(&batch).await;
    }
    let sessions = workflow("sessions.yaml");
    stepwell_runner::init(&sessions, &db.options(&Default::default()))
        .await
        .unwrap();
    // The first run waits inside of its aggregate step until the test lets go of the lock.
    db.on_create(
        "scratch.sessions__sessions",
        "PERFORM pg_advisory_xact_lock_shared(7)",
    )
    .await;
    db.sql("SELECT pg_advisory_lock(7)").await;
    let second = async {
        db.wait_for("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())", |n| n > 0).await;
        let error = db.run(&sessions).await.unwrap_err();
        db.sql("SELECT pg_advisory_unlock(7)").await;
        error
    };
    let (first, error) = tokio::join!(db.run(&sessions), second);
    assert_eq!(error.failure(), Failure::Lease, "{error}");
    assert!(
        matches!(*error.problem, Problem::LeaseHeld { .. }),
        "{error}"
    );
    assert_eq!(first.unwrap().batches, 10);
    db.sql("DROP EVENT TRIGGER on_create").await;
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// A lease whose holder is gone is taken over at once, and the journal says from whom.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_lease_is_taken_over() {
    let db = Db::with_tables().await;
    for batch in stream(33).take(5) {
        db.land(&batch).await;
    }
    let sessions = workflow("sessions.yaml");
    stepwell_runner::init(&sessions, &db.options(&Default::default()))
        .await
        .unwrap();
    // A process that does not exist held it a moment ago.
    db.sql("INSERT INTO stepwell.leases VALUES ('sessions', 41, 'dead-run', 'elsewhere', 2147483647, now(), now(), clock_timestamp())").await;
    let report = db.run(&sessions).await.unwrap();
    assert_eq!(report.batches, 5);
    assert_eq!(
        db.text("SELECT took_over FROM stepwell.runs").await,
        "dead-run"
    );
    assert_eq!(db.number("SELECT token FROM stepwell.leases").await, 42);
}

/// What a dead run left open is ended before its lease is taken over, and nothing else is: anybody may give his session
/// the name of one of its.
///
/// Method: its sessions keep the lease's row to themselves, so a takeover that does not end them fails. Among them are
/// sessions of a stranger by the same names, which the login of the runs may not end: to try would be an error.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_borrow_a_dead_runs_name_do_not_save_it() {
    let db = Db::with_tables().await;
    for batch in stream(34).take(5) {
        db.land(&batch).await;
    }
    db.sql(&format!(
        "DROP ROLE IF EXISTS lease_worker, lease_stranger; CREATE ROLE lease_worker LOGIN; CREATE ROLE lease_stranger LOGIN;
         GRANT CREATE ON DATABASE {} TO lease_worker; GRANT USAGE ON SCHEMA atomic TO lease_worker;
         GRANT SELECT ON ALL TABLES IN SCHEMA atomic TO lease_worker",
        db.target.database()
    ))
    .await;
    let options = RunOptions {
        target: Some(db.target.with_login("lease_worker", None)),
        ..RunOptions::default()
    };
    let text = read("sessions.yaml") + "\nwarehouse: { lock-timeout: 2s, retries: 0 }\n";
    let sessions = parse(&text);
    stepwell_runner::init(&sessions, &options)
        .await
        .expect("its own schemas");
    db.sql("INSERT INTO stepwell.leases VALUES ('sessions', 41, 'dead-run', 'elsewhere', 2147483647, now(), now(), clock_timestamp())")
        .await;
    let (mut left, mut borrowed) = (Vec::new(), Vec::new());
    for (login, name) in [
        ("lease_stranger", "step"),
        ("lease_stranger", "control"),
        ("lease_worker", "step"),
        ("lease_stranger", "plugin"),
        ("lease_worker", "control"),
        ("lease_stranger", "step"),
    ] {
        let session = SessionOptions {
            application_name: format!("stepwell sessions {name} dead-run"),
            ..SessionOptions::default()
        };
        let target = db.target.with_login(login, None);
        let session = Session::connect(&target, &session).await.expect("a login");
        match login {
            "lease_worker" => {
                let holding =
                    "BEGIN; SELECT FROM stepwell.leases WHERE playbook = 'sessions' FOR KEY SHARE";
                session.batch(holding).await.expect("a lock");
                left.push(session);
            }
            _ => borrowed.push(session),
        }
    }
    let (_stopper, stop) = stepwell_runner::stop();
    let report = stepwell_runner::run(&sessions, &components(), &options, &Unobserved, stop).await;
    let report = report.unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(report.batches, 5);
    assert_eq!(
        db.text("SELECT took_over FROM stepwell.runs").await,
        "dead-run"
    );
    for session in left {
        assert!(session.batch("SELECT 1").await.is_err(), "it was ended");
    }
    for session in borrowed {
        session.batch("SELECT 1").await.expect("it goes on");
    }
}

/// A run whose lease went to another one cannot commit, wherever it had come to.
///
/// Method: a trigger on the scratch side is not possible (tables are made anew), so the token is moved on by a second
/// session as soon as the run is journalled; the run's next transaction must find out.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_its_lease_commits_nothing() {
    let db = Db::with_tables().await;
    for batch in stream(35).take(20) {
        db.land(&batch).await;
    }
    let sessions = workflow("sessions.yaml");
    stepwell_runner::init(&sessions, &db.options(&Default::default()))
        .await
        .unwrap();
    db.sql("CREATE FUNCTION derived.steal() RETURNS event_trigger LANGUAGE plpgsql AS $$
        BEGIN
          -- What a takeover does, from inside the run: the holder's own transaction does not wait for itself.
          IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity = 'scratch.sessions__sessions') THEN
            UPDATE stepwell.leases SET token = token + 1, run_id = 'thief' WHERE playbook = 'sessions';
          END IF;
        END $$;
        CREATE EVENT TRIGGER steal ON ddl_command_end WHEN TAG IN ('CREATE TABLE AS') EXECUTE FUNCTION derived.steal()").await;
    let error = db.run(&sessions).await.unwrap_err();
    assert!(
        matches!(*error.problem, Problem::LeaseLost { .. }),
        "{error}"
    );
    assert_eq!(db.number("SELECT count(*) FROM derived.manifest").await, 0);
    assert_eq!(
        db.number(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'derived' AND tablename = 'sessions'"
        )
        .await,
        0
    );
    // The thief keeps its lease: the loser did not give it back.
    assert_eq!(
        db.number(
            "SELECT count(*) FROM stepwell.leases WHERE run_id = 'thief' AND released_at IS NULL"
        )
        .await,
        1
    );
}

/// A reader sees the old rows or the new ones, never a gap.
#[tokio::test(flavor = "multi_thread")]
async fn readers_never_see_a_gap() {
    let db = Db::with_tables().await;
    let batches: Vec<_> = stream(37).collect();
    for batch in &batches[..30] {
        db.land(batch).await;
    }
    let sessions = workflow("sessions.yaml");
    db.run(&sessions).await.unwrap();
    let reader = Db {
        target: db.target.clone(),
        session: connect(&db).await,
    };
    let (done, mut finished) = tokio::sync::watch::channel(false);
    let watching = async {
        let mut least = i64::MAX;
        let before = reader.number("SELECT count(*) FROM derived.sessions").await;
        let mut looks = 0;
        while !*finished.borrow_and_update() {
            least = least.min(reader.number("SELECT count(*) FROM derived.sessions").await);
            looks += 1;
        }
        assert!(looks > 5);
        assert!(
            least >= before,
            "a reader saw {least} sessions where there were {before}"
        );
    };
    let running = async {
        for batch in &batches[30..] {
            db.land(batch).await;
            db.run(&sessions).await.unwrap();
        }
        done.send_replace(true);
    };
    tokio::join!(watching, running);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// A backend that is killed in the middle fails the run, leaves everything as it was, and the next run is right.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_backend_leaves_everything_as_it_was() {
    let db = Db::with_tables().await;
    for batch in stream(39).take(20) {
        db.land(&batch).await;
    }
    let sessions = workflow("sessions.yaml");
    stepwell_runner::init(&sessions, &db.options(&Default::default()))
        .await
        .unwrap();
    db.sql(
        "CREATE FUNCTION derived.die() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
        CREATE TRIGGER die AFTER INSERT ON derived.manifest EXECUTE FUNCTION derived.die()",
    )
    .await;
    let error = db.run(&sessions).await.unwrap_err();
    assert_eq!(error.failure(), Failure::Connection, "{error}");
    assert_eq!(
        error.step.as_ref().map(|step| step.id.as_str()),
        Some("commit")
    );
    assert_eq!(db.number("SELECT count(*) FROM derived.manifest").await, 0);
    assert_eq!(
        db.number(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'derived' AND tablename = 'sessions'"
        )
        .await,
        0
    );
    assert_eq!(db.text("SELECT state FROM stepwell.runs").await, "failed");
    db.sql("DROP TRIGGER die ON derived.manifest").await;
    db.run(&sessions).await.unwrap();
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

async fn connect(db: &Db) -> stepwell_warehouse::Session {
    stepwell_warehouse::Session::connect(&db.target, &Default::default())
        .await
        .expect("connect")
}
