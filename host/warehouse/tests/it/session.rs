//! Statements, transactions, limits and what becomes of them when something goes wrong.

use std::time::Duration;

use stepwell_sql::TableName;
use stepwell_warehouse::{
    Access, AnswerLimits, Param, RetryClass, Session, SessionOptions, WarehouseError, catalog,
};

use crate::harness::{Server, ask, text};

async fn setting(session: &Session, name: &str) -> String {
    text(
        session,
        "SELECT current_setting($1)",
        &[Param::Text(name.into())],
    )
    .await
    .unwrap_or_default()
}

/// Waits until the server shows that the session sleeps.
async fn wait_for_sleep(other: &Session, pid: i32) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'";
    let pid = [Param::Int64(pid.into())];
    while text(other, sql, &pid).await.as_deref() != Some("1") {
        tokio::task::yield_now().await;
    }
}

async fn terminate(other: &Session, pid: i32) {
    let pid = [Param::Typed(23, pid.to_string())];
    ask(other, "SELECT pg_terminate_backend($1)", &pid).await;
}

#[tokio::test]
async fn what_could_change_a_statements_meaning_is_pinned() {
    let server = Server::shared();
    let admin = server.session().await;
    admin
        .execute("CREATE DATABASE pinned", &[])
        .await
        .expect("created");
    // What an administrator may have set for a database does not win.
    admin
        .batch(
            "ALTER DATABASE pinned SET DateStyle = 'German';
             ALTER DATABASE pinned SET search_path = 'public';
             ALTER DATABASE pinned SET standard_conforming_strings = off;",
        )
        .await
        .expect("created");
    let options = SessionOptions {
        application_name: "stepwell tests".into(),
        statement_timeout: Some(Duration::from_millis(1500)),
        lock_timeout: Some(Duration::from_secs(2)),
        settings: vec![("geqo_threshold".into(), "7".into())],
        message_bytes_max: None,
    };
    let target = server.target.with_database("pinned");
    let session = Session::connect(&target, &options)
        .await
        .expect("connected");
    for (name, value) in [
        ("DateStyle", "ISO, MDY"),
        ("TimeZone", "UTC"),
        ("IntervalStyle", "postgres"),
        ("search_path", "pg_catalog, pg_temp"),
        ("standard_conforming_strings", "on"),
        ("jit", "off"),
        ("work_mem", "64MB"),
        ("default_transaction_isolation", "read committed"),
        ("idle_in_transaction_session_timeout", "10min"),
        ("application_name", "stepwell tests"),
        ("statement_timeout", "1500ms"),
        ("lock_timeout", "2s"),
        ("geqo_threshold", "7"),
    ] {
        assert_eq!(setting(&session, name).await, value, "{name}");
    }
    if session.server_major() >= 14 {
        assert_eq!(
            setting(&session, "client_connection_check_interval").await,
            "2s"
        );
    }
    assert_eq!(ask(&session, "SELECT 1", &[]).await.rows, 1);
    let pid = session.backend_pid().await.expect("a process");
    let known = text(&session, "SELECT pg_backend_pid()", &[]).await;
    assert_eq!(known, Some(pid.to_string()));
    drop(session);
    admin
        .execute("DROP DATABASE pinned WITH (FORCE)", &[])
        .await
        .expect("dropped");
}

/// A setting that the server refuses in the start-up packet is tried afterwards, as for servers and
/// poolers that take none there; then it is an error that names it.
#[tokio::test]
async fn settings_that_the_server_refuses() {
    let server = Server::shared();
    for (name, value, sqlstate) in [("work_mem", "much", "22023"), ("no_such", "1", "42704")] {
        let options = SessionOptions {
            settings: vec![(name.into(), value.into())],
            ..SessionOptions::default()
        };
        let error = Session::connect(&server.target, &options)
            .await
            .expect_err("refused");
        assert_eq!(error.sqlstate(), Some(sqlstate), "{error:?}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[tokio::test]
async fn errors_say_what_the_server_said() {
    let server = Server::shared();
    let session = server.session().await;
    let error = session
        .execute("SELECT 'ä' FROM public.nowhere", &[])
        .await
        .expect_err("no table");
    let said = error.statement().expect("the server's words");
    assert!(matches!(error, WarehouseError::Statement(_)));
    assert_eq!(said.sqlstate, "42P01");
    assert_eq!(
        error.to_string(),
        "relation \"public.nowhere\" does not exist"
    );
    assert_eq!(said.position, Some(17), "in characters, from 1");
    assert_eq!(error.retry_class(), RetryClass::Never);

    session
        .batch("CREATE TEMPORARY TABLE once (id int CONSTRAINT only_once PRIMARY KEY)")
        .await
        .expect("created");
    let insert = "INSERT INTO once VALUES (1), (1)";
    let error = session.execute(insert, &[]).await.expect_err("twice");
    let said = error.statement().expect("the server's words");
    assert_eq!(said.sqlstate, "23505");
    assert_eq!(said.table.as_deref(), Some("once"));
    assert_eq!(said.constraint.as_deref(), Some("only_once"));
    assert_eq!(said.detail.as_deref(), Some("Key (id)=(1) already exists."));

    let error = session
        .execute("SELECT 1; SELECT 2", &[])
        .await
        .expect_err("two statements");
    assert_eq!(error.sqlstate(), Some("42601"));
    let error = session
        .execute("DO $$BEGIN PERFORM 1/0; END$$", &[])
        .await
        .expect_err("division");
    let said = error.statement().expect("the server's words");
    assert!(
        said.context
            .as_deref()
            .unwrap_or_default()
            .contains("PL/pgSQL"),
        "{said:?}"
    );
    assert!(!session.is_closed());
}

#[tokio::test]
async fn rows_touched_are_counted() {
    let server = Server::shared();
    let session = server.session().await;
    let count = |sql: &'static str| {
        let session = &session;
        async move { session.execute(sql, &[]).await.expect(sql) }
    };
    assert_eq!(
        count("CREATE TEMPORARY TABLE t AS SELECT generate_series(1, 5) AS n").await,
        5
    );
    assert_eq!(count("INSERT INTO t SELECT generate_series(6, 8)").await, 3);
    assert_eq!(count("UPDATE t SET n = -n WHERE n > 6").await, 2);
    assert_eq!(count("DELETE FROM t WHERE n < 0").await, 2);
    assert_eq!(count("ANALYZE t").await, 0);
    assert_eq!(count("").await, 0);
}

#[tokio::test]
async fn a_read_only_transaction_refuses_to_write() {
    let server = Server::shared();
    let session = server.session().await;
    session.begin(Access::ReadOnly).await.expect("begun");
    let error = session
        .execute("CREATE TABLE public.t (n int)", &[])
        .await
        .expect_err("refused");
    assert_eq!(error.sqlstate(), Some("25006"));
    session.rollback().await.expect("rolled back");
    session.begin(Access::ReadWrite).await.expect("begun");
    session
        .execute("CREATE TABLE public.not_kept (n int)", &[])
        .await
        .expect("created");
    session.rollback().await.expect("rolled back");
    let table = TableName::new("public", "not_kept");
    assert!(
        !catalog::table_exists(&session, &table)
            .await
            .expect("asked")
    );
    assert!(
        catalog::schema_exists(&session, "public")
            .await
            .expect("asked")
    );
    assert!(
        !catalog::schema_exists(&session, "PUBLIC")
            .await
            .expect("asked")
    );
}

/// COMMIT after a failed statement succeeds as ROLLBACK, which is told in its tag alone.
#[tokio::test]
async fn commit_of_a_failed_transaction_is_an_error() {
    let server = Server::shared();
    let session = server.session().await;
    session.begin(Access::ReadWrite).await.expect("begun");
    session
        .execute("CREATE TABLE public.half (n int)", &[])
        .await
        .expect("created");
    session
        .execute("SELECT 1/0", &[])
        .await
        .expect_err("division");
    let error = session.commit().await.expect_err("nothing was committed");
    assert_eq!(error.sqlstate(), Some("25P02"), "{error:?}");
    let table = TableName::new("public", "half");
    assert!(
        !catalog::table_exists(&session, &table)
            .await
            .expect("asked")
    );
    session.begin(Access::ReadWrite).await.expect("begun");
    session
        .execute("CREATE TABLE public.half (n int)", &[])
        .await
        .expect("created");
    session.commit().await.expect("committed");
    assert!(
        catalog::table_exists(&session, &table)
            .await
            .expect("asked")
    );
    session
        .batch("DROP TABLE public.half")
        .await
        .expect("dropped");
}

#[tokio::test]
async fn a_constraint_that_fails_at_commit() {
    let server = Server::shared();
    let session = server.session().await;
    session
        .batch("CREATE TEMPORARY TABLE late (id int, UNIQUE (id) DEFERRABLE INITIALLY DEFERRED)")
        .await
        .expect("created");
    session.begin(Access::ReadWrite).await.expect("begun");
    session
        .execute("INSERT INTO late VALUES (1), (1)", &[])
        .await
        .expect("inserted");
    let error = session.commit().await.expect_err("twice");
    assert_eq!(error.sqlstate(), Some("23505"));
    assert!(matches!(error, WarehouseError::Statement(_)));
    assert_eq!(
        text(&session, "SELECT count(*) FROM late", &[])
            .await
            .as_deref(),
        Some("0")
    );
}

/// A row of another's query may have a gigabyte, and the client library would keep all of it.
#[tokio::test]
async fn a_message_that_is_too_long_never_arrives() {
    let server = Server::shared();
    let options = SessionOptions {
        message_bytes_max: Some(1 << 20),
        ..SessionOptions::default()
    };
    let connect = async || {
        Session::connect(&server.target, &options)
            .await
            .expect("connected")
    };
    let limits = AnswerLimits {
        rows: 10,
        bytes: u64::MAX,
    };
    let session = connect().await;
    // Together more than one message may have.
    let fits = "SELECT repeat('x', 1000000) AS x FROM generate_series(1, 5)";
    let answer = session.ask(fits, &[], &limits).await.expect("it fits");
    assert_eq!(answer.rows, 5);
    let canceller = session.canceller();
    let pid = session.backend_pid().await.expect("a process");
    let sleeping = session.execute("SELECT pg_sleep(60)", &[]);
    let cancelling = async {
        let other = server.session().await;
        wait_for_sleep(&other, pid).await;
        canceller.cancel().await.expect("asked");
    };
    let (slept, ()) = tokio::join!(sleeping, cancelling);
    assert!(
        matches!(slept, Err(WarehouseError::Cancelled(_))),
        "{slept:?}"
    );
    for long in [
        "SELECT repeat('x', 40000000) AS x",
        "SELECT repeat('x', 1048577) AS x",
    ] {
        let session = connect().await;
        let error = session.ask(long, &[], &limits).await.expect_err("too long");
        assert_eq!(
            error.to_string(),
            "the answer has more than 1048576 bytes in one message"
        );
        assert!(
            session.execute("SELECT 1", &[]).await.is_err(),
            "it is closed"
        );
    }
    let session = connect().await;
    let error = session.execute("SELECT repeat('x', 40000000)", &[]).await;
    assert!(
        matches!(error, Err(WarehouseError::AnswerTooLarge { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_statement_is_cancelled() {
    let server = Server::shared();
    let session = server.session().await;
    let canceller = session.canceller();
    let pid = session.backend_pid().await.expect("a process");
    let sleeping = session.execute("SELECT pg_sleep(60)", &[]);
    // The cancel goes out once the server shows the statement.
    let watching = async {
        let other = server.session().await;
        wait_for_sleep(&other, pid).await;
        canceller.cancel().await.expect("asked");
    };
    let (slept, ()) = tokio::join!(sleeping, watching);
    let error = slept.expect_err("cancelled");
    assert!(matches!(error, WarehouseError::Cancelled(_)), "{error:?}");
    assert_eq!(error.sqlstate(), Some("57014"));
    assert_eq!(text(&session, "SELECT 1", &[]).await.as_deref(), Some("1"));
}

#[tokio::test]
async fn timeouts_of_statements_and_locks() {
    let server = Server::shared();
    let session = server.session().await;
    session
        .set_statement_timeout(Some(Duration::from_millis(20)))
        .await
        .expect("set");
    let error = session
        .execute("SELECT pg_sleep(60)", &[])
        .await
        .expect_err("timeout");
    assert!(matches!(error, WarehouseError::Timeout(_)), "{error:?}");
    assert_eq!(error.retry_class(), RetryClass::Never);
    session.set_statement_timeout(None).await.expect("set");
    assert_eq!(setting(&session, "statement_timeout").await, "0");

    session
        .batch("CREATE TABLE public.locked (n int)")
        .await
        .expect("created");
    session.begin(Access::ReadWrite).await.expect("begun");
    session
        .execute("LOCK TABLE public.locked", &[])
        .await
        .expect("locked");
    let options = SessionOptions {
        lock_timeout: Some(Duration::from_millis(20)),
        ..SessionOptions::default()
    };
    let other = Session::connect(&server.target, &options)
        .await
        .expect("connected");
    let error = other
        .execute("SELECT FROM public.locked", &[])
        .await
        .expect_err("locked");
    assert!(matches!(error, WarehouseError::Timeout(_)), "{error:?}");
    assert_eq!(error.sqlstate(), Some("55P03"));
    assert_eq!(error.retry_class(), RetryClass::Retryable);
    session.rollback().await.expect("rolled back");
    session
        .batch("DROP TABLE public.locked")
        .await
        .expect("dropped");
}

#[tokio::test]
async fn an_answer_past_its_limit_is_an_error_and_stops() {
    let server = Server::shared();
    let session = server.session().await;
    let limits = AnswerLimits {
        rows: 10,
        bytes: 1000,
    };
    let exactly = "SELECT n FROM generate_series(1, 10) AS n";
    let answer = session.ask(exactly, &[], &limits).await.expect("ten rows");
    assert_eq!(answer.rows, 10);
    // Would run for minutes if it were not stopped.
    let endless = "SELECT generate_series(1, 1000000000000) AS n";
    let error = session
        .ask(endless, &[], &limits)
        .await
        .expect_err("too many");
    assert_eq!(error.to_string(), "the answer has more than 10 rows");
    let error = session
        .ask("SELECT repeat('x', 1001)", &[], &limits)
        .await
        .expect_err("too large");
    assert_eq!(error.to_string(), "the answer has more than 1000 bytes");
    assert_eq!(text(&session, "SELECT 1", &[]).await.as_deref(), Some("1"));
}

#[tokio::test]
async fn rows_arrive_in_batches() {
    let server = Server::shared();
    let session = server.session().await;
    let sql = "SELECT n, repeat('x', 100) AS filler FROM generate_series(1, 2500) AS n ORDER BY n";
    let mut rows = session.rows(sql, &[]).await.expect("begun");
    assert_eq!(rows.fields().len(), 2);
    let mut sizes = Vec::new();
    while let Some(batch) = rows.next_batch(1000, u64::MAX).await.expect("a batch") {
        assert_eq!(batch.columns.len(), 2);
        sizes.push(batch.rows);
    }
    assert_eq!(sizes, [1000, 1000, 500]);
    drop(rows);
    let mut rows = session.rows(sql, &[]).await.expect("begun");
    let batch = rows
        .next_batch(1000, 1040)
        .await
        .expect("a batch")
        .expect("rows");
    assert_eq!(batch.rows, 10, "104 bytes a row");
    rows.cancel().await.expect("cancelled");
    assert_eq!(text(&session, "SELECT 1", &[]).await.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_lost_connection_says_why() {
    let server = Server::shared();
    let session = server.session().await;
    let pid = session.backend_pid().await.expect("a process");
    session.begin(Access::ReadWrite).await.expect("begun");
    let sleeping = session.execute("SELECT pg_sleep(60)", &[]);
    let killing = async {
        let other = server.session().await;
        wait_for_sleep(&other, pid).await;
        terminate(&other, pid).await;
    };
    let (slept, ()) = tokio::join!(sleeping, killing);
    let error = slept.expect_err("killed");
    assert!(
        matches!(error, WarehouseError::ConnectionLost { .. }),
        "{error:?}"
    );
    assert_eq!(error.sqlstate(), Some("57P01"));
    assert_eq!(error.retry_class(), RetryClass::AfterReconnect);
    let error = session.execute("SELECT 1", &[]).await.expect_err("gone");
    assert!(
        matches!(error, WarehouseError::ConnectionLost { .. }),
        "{error:?}"
    );
    assert!(session.is_closed());
    // Never sent, so its outcome is known.
    let error = session.commit().await.expect_err("gone");
    assert!(
        matches!(error, WarehouseError::ConnectionLost { .. }),
        "{error:?}"
    );
}

/// A session that ends while nothing runs tells so at the next statement, with the server's words.
#[tokio::test]
async fn a_session_killed_while_idle_keeps_the_last_words() {
    let server = Server::shared();
    let session = server.session().await;
    let pid = session.backend_pid().await.expect("a process");
    let other = server.session().await;
    terminate(&other, pid).await;
    while !session.is_closed() {
        tokio::task::yield_now().await;
    }
    let error = session.execute("SELECT 1", &[]).await.expect_err("gone");
    assert_eq!(error.sqlstate(), Some("57P01"), "{error:?}");
    assert!(
        error.to_string().contains("administrator command"),
        "{error}"
    );
}

/// Goal: a COMMIT without an answer is told apart from one that failed.
/// Method: a deferred trigger makes COMMIT itself wait, and the session is killed there.
#[tokio::test]
async fn a_commit_without_an_answer() {
    let server = Server::shared();
    let session = server.session().await;
    session
        .batch(
            "CREATE FUNCTION pg_temp.wait() RETURNS trigger LANGUAGE plpgsql
                 AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END';
             CREATE TEMPORARY TABLE slow (n int);
             CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON slow
                 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pg_temp.wait();
             BEGIN; INSERT INTO slow VALUES (1)",
        )
        .await
        .expect("inserted");
    let pid = session.backend_pid().await.expect("a process");
    let killing = async {
        let other = server.session().await;
        wait_for_sleep(&other, pid).await;
        terminate(&other, pid).await;
    };
    let (committed, ()) = tokio::join!(session.commit(), killing);
    let error = committed.expect_err("killed");
    assert!(
        matches!(error, WarehouseError::OutcomeUnknown { .. }),
        "{error:?}"
    );
    assert_eq!(error.retry_class(), RetryClass::Never);
}

#[tokio::test]
async fn estimates_without_running() {
    let server = Server::shared();
    let session = server.session().await;
    session
        .batch(
            "CREATE TEMPORARY TABLE t AS SELECT generate_series(1, 1000) AS n;
             ANALYZE t",
        )
        .await
        .expect("created");
    let estimate = session
        .explain("SELECT * FROM t", &[])
        .await
        .expect("estimated");
    assert_eq!(estimate.rows, 1000);
    assert!(
        estimate.cost > 10.0 && estimate.plan_json.contains("Seq Scan"),
        "{estimate:?}"
    );
    let delete = "DELETE FROM t WHERE n > $1 AND n::text <> $2";
    let params = [Param::Int64(900), Param::Text("1".into())];
    let estimate = session.explain(delete, &params).await.expect("estimated");
    assert!((90..=110).contains(&estimate.rows), "{estimate:?}");
    let create = "CREATE TEMPORARY TABLE u AS SELECT * FROM t WHERE n < $1";
    session
        .explain(create, &params[..1])
        .await
        .expect("estimated");
    assert_eq!(
        text(&session, "SELECT count(*) FROM t", &[])
            .await
            .as_deref(),
        Some("1000")
    );
    let error = session
        .explain("SELECT nothing FROM t", &[])
        .await
        .expect_err("no column");
    let position = error.statement().and_then(|said| said.position);
    assert_eq!((error.sqlstate(), position), (Some("42703"), Some(8)));
}
