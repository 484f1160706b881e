//! What a third party's SQL can do: what it was granted, and nothing else.
//!
//! The plugin is a real component that says the SQL which its settings hold. Attacks run one after the other, each
//! beside a good step, and after each the whole database is looked at: nothing was read or written outside the grants,
//! nothing is left behind, and the next run works.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::{Value, json};
use stepwell_runner::{Problem, RunError, RunOptions, RunReport};
use stepwell_sandbox::Digest;
use stepwell_warehouse::{Session, SessionOptions, Target};
use stepwell_workflow::{Inputs, Workflow};

use crate::harness::{Db, components, fresh_components, parse, root};

const TARGET: &str = "wasm32-wasip2";
const TARGET_DIR: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/guests-hostile");

/// What stands in the table that nobody was granted.
pub(crate) const SECRET: &str = "the-secret-of-core";

/// The component's file and digest, compiled once per test run.
static HOSTILE: LazyLock<(String, String)> = LazyLock::new(|| {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/guests/hostile/Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--locked", "--release", "--target", TARGET])
        .args(["--manifest-path", manifest, "--target-dir", TARGET_DIR])
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS")
        .output()
        .expect("cargo can be started");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let path = format!("{TARGET_DIR}/{TARGET}/release/guest_hostile.wasm");
    let bytes = std::fs::read(&path).expect("cargo made the component");
    (path, Digest::of(&bytes).to_string())
});

/// A database with a secret, something to read, something to write, and something that others write.
pub(crate) async fn world() -> Db {
    let db = Db::empty().await;
    db.sql(&format!(
        "CREATE SCHEMA core; CREATE TABLE core.secret AS SELECT '{SECRET}' AS value;
         CREATE SCHEMA open; CREATE TABLE open.facts AS SELECT g AS id FROM generate_series(1, 3) AS g;
         CREATE SCHEMA derived; CREATE TABLE derived.own (id bigint); CREATE TABLE derived.other AS SELECT 7 AS id;
         CREATE FUNCTION core.reveal() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT value FROM core.secret'"
    ))
    .await;
    db
}

/// A workflow in which the plugin does what `with` says, beside a step of our own.
fn text(playbook: &str, more: &str, with: &Value) -> String {
    let (path, digest) = &*HOSTILE;
    format!(
        "stepwell: 1
playbook: {playbook}
warehouse: {{ retries: 0{more} }}
plugins:
  hostile:
    component: {path}
    digest: {digest}
    grants: {{ read: [open.facts], write: [scratch.into, derived.own] }}
    limits: {{ statement-timeout: 3s, database-time: 4s, lock-timeout: 1s }}
    connection: {{ role: stepwell_{playbook} }}
steps:
  - {{ id: attack, uses: hostile, needs: [], with: {with} }}
  - id: good
    uses: sql
    needs: []
    with:
      statements: DROP TABLE IF EXISTS {{{{ good }}}}; CREATE UNLOGGED TABLE {{{{ good }}}} AS SELECT pg_sleep(0.05)::text AS slept, count(*) AS n FROM open.facts
      reads: [open.facts]
      fills: [good]
"
    )
}

fn statement(sql: &str) -> Value {
    json!({"into": "into", "statements": [sql], "writes": ["derived.own"], "reads": ["open.facts"]})
}

fn question(sql: &str) -> Value {
    json!({"questions": [sql]})
}

fn fill(select: &str) -> Value {
    json!({"into": "into", "fill": select, "reads": ["open.facts"]})
}

/// All of an error, causes included.
pub(crate) fn words(error: &RunError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// All that an attack might have changed.
pub(crate) async fn traces(db: &Db, role: &str) -> Vec<Vec<Option<String>>> {
    // A connection that was dropped ends when the server sees it.
    let sessions = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'");
    let begun = std::time::Instant::now();
    while db.number(&sessions).await > 0 {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "a session of the plugin is left"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    db.rows(&format!(
        "SELECT (SELECT array_agg(value) FROM core.secret) AS secret, (SELECT array_agg(id) FROM derived.other) AS other,
           (SELECT rolpassword FROM pg_authid WHERE rolname = '{role}') AS password,
           (SELECT rolconnlimit FROM pg_authid WHERE rolname = '{role}') AS connections,
           (SELECT count(*) FROM pg_db_role_setting AS s JOIN pg_roles AS r ON r.oid = s.setrole WHERE r.rolname = '{role}')
             AS settings,
           (SELECT count(*) FROM pg_shdepend AS d JOIN pg_roles AS r ON r.oid = d.refobjid
             WHERE r.rolname = '{role}' AND d.deptype = 'o') AS owned,
           (SELECT array_agg(c.oid::regclass::text ORDER BY c.oid::regclass::text) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema', 'scratch')) AS relations,
           (SELECT count(*) FROM pg_proc) AS functions, (SELECT count(*) FROM pg_trigger) AS triggers,
           (SELECT count(*) FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast_temp)') AS schemas,
           (SELECT count(*) FROM pg_largeobject_metadata) AS large_objects,
           (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS advisory_locks,
           (SELECT count(*) FROM pg_prepared_xacts) AS prepared"
    ))
    .await
}

/// What an attack comes to.
enum End {
    /// The run fails, with this in its message.
    Fails(&'static str),
    /// The run goes well: the attack came to nothing.
    Nothing,
    /// Nothing comes of it: some versions of the server refuse it with an error that holds this, others do not.
    NothingOr(&'static str),
}
use End::{Fails, Nothing, NothingOr};

/// Runs each attack, and looks at all that it might have changed.
async fn attacked(db: &Db, playbook: &str, more: &str, attacks: Vec<(Value, End)>) {
    let role = format!("stepwell_{playbook}");
    let peace = text(
        playbook,
        more,
        &fill("SELECT count(*) AS n FROM open.facts"),
    );
    let peace = parse(&peace);
    run(db, &peace, more)
        .await
        .unwrap_or_else(|error| panic!("{}", words(&error)));
    let before = traces(db, &role).await;
    for (with, end) in attacks {
        db.sql(&format!(
            "TRUNCATE derived.own; DROP TABLE IF EXISTS scratch.{playbook}__good"
        ))
        .await;
        let ended = run(db, &parse(&text(playbook, more, &with)), more).await;
        match (&ended, &end) {
            (Ok(report), Nothing | NothingOr(_)) => {
                let notes = report.steps.iter().flat_map(|step| &step.notes);
                assert!(
                    !notes
                        .collect::<Vec<_>>()
                        .iter()
                        .any(|note| note.contains(SECRET)),
                    "{with} learnt the secret"
                );
            }
            (Err(error), Fails(part) | NothingOr(part)) => {
                assert!(words(error).contains(part), "{with}: {}", words(error));
            }
            (Ok(report), Fails(part)) => {
                panic!("{with} went well, expected \"{part}\": {report:?}")
            }
            (Err(error), Nothing) => panic!("{with}: {}", words(error)),
        }
        assert_eq!(traces(db, &role).await, before, "{with}");
        if matches!(end, Fails(_)) {
            assert_eq!(
                db.number("SELECT count(*) FROM derived.own").await,
                0,
                "{with}"
            );
        }
        let good = format!("SELECT n FROM scratch.{playbook}__good");
        assert_eq!(db.number(&good).await, 3, "the step beside {with}");
    }
    run(db, &peace, more).await.expect("the next run works");
    let filled = format!("SELECT n FROM scratch.{playbook}__into");
    assert_eq!(db.number(&filled).await, 3);
}

async fn run(db: &Db, workflow: &Workflow, more: &str) -> Result<RunReport, RunError> {
    let options = match more.is_empty() {
        true => db.options(&RunOptions::default()),
        // Where the workflow says itself where to.
        false => RunOptions::default(),
    };
    let (_stopper, stop) = stepwell_runner::stop();
    stepwell_runner::run(
        workflow,
        &components(),
        &options,
        &stepwell_runner::Unobserved,
        stop,
    )
    .await
}

/// Statements that are none of those which a third party may run: the host sends none of them.
#[tokio::test(flavor = "multi_thread")]
async fn statements_that_are_not_about_rows_are_never_sent() {
    let db = world().await;
    let mut attacks = Vec::new();
    for sql in [
        "COMMIT",
        ";; commit",
        "/* a /* b */ select */ commit",
        "-- select\rcommit",
        "(((commit",
        "COMMIT AND CHAIN",
        "ROLLBACK",
        "BEGIN",
        "SAVEPOINT a",
        "PREPARE TRANSACTION 'a'",
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "SET LOCAL statement_timeout = 0",
        "SET TRANSACTION READ WRITE",
        "RESET ROLE",
        "DISCARD ALL",
        "DO $$ BEGIN COMMIT; END $$",
        "CALL derived.p()",
        "COPY derived.own FROM STDIN",
        "COPY derived.own TO PROGRAM 'id'",
        "LISTEN a",
        "NOTIFY a",
        "LOCK TABLE derived.own",
        "PREPARE a AS SELECT 1",
        "EXECUTE a",
        "DECLARE a CURSOR WITH HOLD FOR SELECT 1",
        "EXPLAIN ANALYZE DELETE FROM derived.own",
        "GRANT SELECT ON derived.own TO PUBLIC",
        "SECURITY LABEL ON TABLE derived.own IS 'a'",
        "U&\"sel\\0065ct\" 1",
        "\u{a0}select 1",
    ] {
        attacks.push((statement(sql), Fails("which no step may run")));
    }
    for sql in [
        "ALTER ROLE stepwell_refused PASSWORD 'mine'",
        "ALTER ROLE stepwell_refused SET statement_timeout = 0",
        "CREATE TEMP TABLE a AS SELECT 1",
        "CREATE TABLE derived.mine AS SELECT 1",
        "CREATE FUNCTION derived.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TRIGGER t BEFORE INSERT ON derived.own FOR EACH ROW EXECUTE FUNCTION core.reveal()",
        "DROP TABLE derived.own",
        "COMMENT ON TABLE derived.own IS 'mine'",
        "ANALYZE",
        "VACUUM derived.own",
        "CREATE UNLOGGED TABLE {into} AS EXECUTE a",
    ] {
        attacks.push((statement(sql), Fails("")));
    }
    attacks.extend([
        (statement("SELECT 1; SELECT 2"), Fails("holds 2 statements")),
        (
            statement("SELECT 1 AS a INTO derived.mine"),
            Fails("makes a table with INTO"),
        ),
        (statement("DELETE FROM derived.own"), Fails("+ delete")),
        (
            statement("WITH d AS (DELETE FROM derived.own RETURNING 1) SELECT 1 FROM d"),
            Fails("+ delete"),
        ),
        (statement("TRUNCATE derived.own"), Fails("+ truncate")),
        (
            statement("DROP TABLE IF EXISTS derived.other"),
            Fails("no scratch table that it was granted"),
        ),
        (
            statement("CREATE UNLOGGED TABLE scratch.refused__good AS SELECT 1 AS n"),
            Fails("no scratch table that it was granted"),
        ),
        (
            question("WITH i AS (INSERT INTO derived.own VALUES (1) RETURNING 1) SELECT 1 FROM i"),
            Fails("can change tables"),
        ),
        (question("SELECT 1; COMMIT"), Fails("holds 2 statements")),
        (
            question("COPY derived.own FROM STDIN"),
            Fails("expected a SELECT"),
        ),
    ]);
    attacked(&db, "refused", "", attacks).await;
}

/// Queries that look like any other: what they may is for the database to say, under the plugin's own role.
#[tokio::test(flavor = "multi_thread")]
async fn queries_reach_what_was_granted_and_nothing_else() {
    let db = world().await;
    let mut attacks = Vec::new();
    for sql in [
        "SELECT value AS said FROM core.secret",
        "SELECT 1/0 AS said FROM core.secret WHERE value LIKE 'the%'",
        "SELECT CAST(value AS int)::text AS said FROM core.secret",
        "WITH a AS (SELECT set_config('role', 'postgres', true)) SELECT value AS said FROM a, core.secret",
        "SELECT set_config('role', 'postgres', false) AS said",
        "SELECT set_config('session_authorization', 'postgres', false) AS said",
        "SELECT core.reveal() AS said",
        "SELECT query_to_xml('SELECT value FROM core.secret', true, true, '')::text AS said",
        "SELECT database_to_xml(true, true, '')::text AS said FROM core.secret",
        "SELECT pg_read_file('/etc/passwd') AS said",
        "SELECT U&\"pg_read_fil\\0065\"('/etc/passwd') AS said",
        "SELECT said FROM pg_read_file('/etc/passwd') AS said",
        "SELECT lo_import('/etc/passwd')::text AS said",
        "SELECT lo_create(0)::text AS said",
        "SELECT lo_from_bytea(0, 'a')::text AS said",
        "SELECT pg_notify('a', 'b')::text AS said",
        "SELECT pg_logical_emit_message(false, 'a', 'b')::text AS said",
        "SELECT pg_advisory_lock(1)::text AS said",
        "SELECT pg_try_advisory_xact_lock(7834911)::text AS said",
        "SELECT rolpassword AS said FROM pg_authid",
        "SELECT pg_reload_conf()::text AS said",
        "SELECT pg_terminate_backend(pid)::text AS said FROM pg_stat_activity WHERE usename = 'postgres'",
        "SELECT run_id AS said FROM stepwell.runs",
        "SELECT id::text AS said FROM derived.other",
        "SELECT id::text AS said FROM derived.own FOR UPDATE",
    ] {
        attacks.push((question(sql), Fails("")));
    }
    for select in [
        "SELECT value FROM core.secret",
        "SELECT lo_create(0) AS a",
        "SELECT query_to_xml('SELECT value FROM core.secret', true, true, '')::text AS a",
    ] {
        attacks.push((fill(select), Fails("permission denied")));
    }
    attacks.extend([
        (fill("SELECT ROW(1, 2) AS a"), Fails("not built in")),
        (fill("SELECT f FROM open.facts AS f"), Fails("not built in")),
        (fill("SELECT 1 AS a, 2 AS a"), Fails("more than once")),
        (fill("(id) SELECT 1"), Fails("no step may run")),
        (statement("INSERT INTO derived.other SELECT 1"), Fails("permission denied")),
        (statement("INSERT INTO stepwell.leases SELECT 1"), Fails("permission denied")),
        (statement("INSERT INTO derived.own SELECT 1 FROM core.secret"), Fails("permission denied")),
        // After changes of its own, which must not be kept.
        (json!({"writes": ["derived.own"], "statements": ["INSERT INTO derived.own VALUES (1)", "SELECT 1/0"]}), Fails("division by zero")),
        // What it may call leads nowhere.
        (json!({"questions": ["SELECT set_config('search_path', 'core, open', false) AS said", "SELECT value AS said FROM secret"]}), Fails("does not exist")),
        (json!({"questions": ["SELECT set_config('transaction_read_only', 'off', false) AS said"]}), Fails("")),
        (question("SELECT string_agg(query, '') AS said FROM pg_stat_activity WHERE usename = 'postgres'"), Nothing),
        (question("SELECT string_agg(prosrc, '') AS said FROM pg_proc WHERE prosrc LIKE '%nothing-like-it%'"), Nothing),
        (question("SELECT pg_terminate_backend(pid)::text AS said FROM pg_stat_activity WHERE usename = session_user AND pid <> pg_backend_pid()"), Nothing),
        (question("SELECT pg_terminate_backend(pg_backend_pid())::text AS said"), Fails("")),
        (json!({"questions": ["SELECT set_config('standard_conforming_strings', 'off', false) AS said", "SELECT current_setting('standard_conforming_strings') || ''' core' AS said"]}), Nothing),
        // Memory of the host: a row is kept until all of it is there, so it is measured as it begins.
        (question("SELECT repeat('x', 40000000) AS said"), Fails("bytes in one message")),
        (statement("SELECT repeat('x', 40000000) AS said"), Fails("bytes in one message")),
        // Time: a limit that was set off, one sleep, many sleeps.
        (json!({"questions": ["SELECT set_config('statement_timeout', '0', false) AS said", "SELECT pg_sleep(60)::text AS said"]}), Fails("\"statement-timeout\"")),
        // In one statement, which the server's clock was started for before.
        (question("SELECT set_config('statement_timeout', '0', false) || pg_sleep(60)::text AS said"), Fails("\"statement-timeout\"")),
        (json!({"questions": ["SELECT pg_sleep(1.5)::text AS said", "SELECT pg_sleep(1.5)::text AS said", "SELECT pg_sleep(1.5)::text AS said"]}), Fails("\"database-time\"")),
    ]);
    attacked(&db, "denied", "", attacks).await;
}

/// What the host keeps for a plugin counts as the plugin's memory: each of its answers is small enough, and all of them
/// together are not.
#[tokio::test(flavor = "multi_thread")]
async fn answers_fit_into_the_plugins_memory() {
    let db = world().await;
    let with = json!({"sixteen": "SELECT repeat('x', 2000000) AS said"});
    let limited = text("hoard", "", &with).replace(
        "statement-timeout: 3s, database-time: 4s",
        "memory: 16MiB, database-time: 60s",
    );
    let error = run(&db, &parse(&limited), "").await.expect_err("too much");
    let words = words(&error);
    assert!(words.contains("memory for the answers"), "{words}");
    assert!(words.contains("the limit is 16 MiB"), "{words}");
}

/// A url of its own leads a plugin to where nobody looked at what its role may do.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_another_database_is_refused() {
    let (db, other) = (world().await, Db::empty().await);
    let workflow = parse(&text("astray", "", &fill("SELECT 1 AS n")));
    run(&db, &workflow, "").await.expect("a role is made");
    other
        .sql("CREATE SCHEMA open; GRANT USAGE ON SCHEMA open TO PUBLIC;
              CREATE TABLE open.facts AS SELECT 'of another database' AS id; GRANT SELECT ON open.facts TO PUBLIC")
        .await;
    for (target, goes) in [(&other, false), (&db, true)] {
        let url = target.url();
        let (_, place) = url.split_once('@').expect("a url with a user");
        let url = format!("postgres://stepwell_astray@{place}");
        let astray = text(
            "astray",
            "",
            &question("SELECT id::text AS said FROM open.facts"),
        )
        .replace("role: stepwell_astray", &format!("url: \"{url}\""));
        let ended = run(&db, &parse(&astray), "").await;
        match ended {
            Ok(_) => assert!(goes, "{url}"),
            Err(error) => {
                assert!(!goes, "{url}: {}", words(&error));
                assert!(
                    words(&error).contains("goes to another database"),
                    "{}",
                    words(&error)
                );
            }
        }
    }
}

/// A component is pinned by what was read, not by its path.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_checked_is_the_one_that_runs() {
    let (path, digest) = &*HOSTILE;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("plugin.wasm");
    std::fs::copy(path, &file).expect("a copy");
    let pinned =
        text("pinned", "", &fill("SELECT 1 AS n")).replace(path, &file.display().to_string());
    let own = format!("    digest: {digest}\n");
    assert!(pinned.contains(&own), "{pinned}");
    let inputs = Inputs {
        vars: [].into(),
        env: &|_| None,
    };
    let at = root().join("workflows/test.yaml");
    let mut components = fresh_components();
    let (workflow, _) =
        Workflow::parse(&at, &pinned, &inputs, &mut components).expect("the pinned file");
    // Another workflow of the same process names the same path, at which something else stands by now.
    let (_, other) = stepwell_builtin::STEPS[0];
    std::fs::write(&file, other).expect("exchanged");
    let unpinned = format!(
        "stepwell: 1\nplaybook: other\nplugins: {{ hostile: {{ component: {}, trust: own }} }}\nsteps: [{{ id: a, uses: hostile }}]\n",
        file.display()
    );
    let (again, _) =
        Workflow::parse(&at, &unpinned, &inputs, &mut components).expect("the file as it was");
    assert_eq!(again.steps[0].kind.name, "hostile");
    let db = world().await;
    let (_stopper, stop) = stepwell_runner::stop();
    let options = db.options(&RunOptions::default());
    let report = stepwell_runner::run(
        &workflow,
        &components,
        &options,
        &stepwell_runner::Unobserved,
        stop,
    );
    let report = report
        .await
        .unwrap_or_else(|error| panic!("{}", words(&error)));
    let ran = report.steps.iter().find(|step| step.id == "attack");
    assert_eq!(ran.expect("it ran").digest, *digest);
}

/// A server whose DBA ran the script, without the part that needs a superuser.
///
/// Goal: the role that the script makes is what a run asks for, and what everybody may call leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn the_script_makes_what_a_run_asks_for() {
    let db = world().await;
    let more = format!(", url: \"{}\"", db.url());
    let workflow = parse(&text("scripted", &more, &fill("SELECT 1 AS n")));
    stepwell_runner::init(&workflow, &RunOptions::default())
        .await
        .expect("the host's tables");
    let error = run(&db, &workflow, &more)
        .await
        .expect_err("there is no role");
    assert!(
        words(&error).contains("it does not exist"),
        "{}",
        words(&error)
    );
    let script = stepwell_runner::grants(&workflow, &RunOptions::default())
        .await
        .expect("a script");
    let (script, _) = script
        .split_once("-- For a superuser")
        .expect("its last part");
    db.sql(script).await;
    let owns = "owns 1 object(s)";
    let attacks = vec![
        (fill("SELECT lo_create(0) AS a"), Fails(owns)),
        (
            statement("INSERT INTO derived.own SELECT lo_from_bytea(0, 'a')::text::bigint"),
            Fails(owns),
        ),
        (
            question("SELECT lo_create(0)::text AS said"),
            NothingOr("in a read-only transaction"),
        ),
        (
            question("SELECT pg_advisory_lock(1)::text AS said"),
            Nothing,
        ),
        (
            question("SELECT pg_advisory_lock(7834911)::text AS said"),
            Nothing,
        ),
        (
            question("SELECT pg_notify('a', 'b')::text AS said"),
            Nothing,
        ),
    ];
    attacked(&db, "scripted", &more, attacks).await;
}

/// A role that can do more than is granted is refused, with what mends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_can_do_more_is_refused_until_it_is_mended() {
    let db = world().await;
    let workflow = parse(&text(
        "wide",
        "",
        &fill("SELECT count(*) AS n FROM open.facts"),
    ));
    run(&db, &workflow, "").await.expect("a role is made");
    db.sql("CREATE FUNCTION open.reveal() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT value FROM core.secret';
            REVOKE EXECUTE ON FUNCTION open.reveal() FROM PUBLIC; SELECT lo_create(4711)").await;
    for (widened, found) in [
        (
            "GRANT SELECT ON core.secret TO stepwell_wide",
            "may SELECT on core.secret",
        ),
        (
            "GRANT SELECT (value) ON core.secret TO stepwell_wide",
            "column value",
        ),
        (
            "GRANT UPDATE ON derived.own TO stepwell_wide",
            "may UPDATE on derived.own",
        ),
        (
            "GRANT SELECT ON derived.other TO PUBLIC",
            "may SELECT on derived.other",
        ),
        ("GRANT SELECT ON pg_authid TO stepwell_wide", "pg_authid"),
        (
            "GRANT CREATE ON SCHEMA open TO stepwell_wide",
            "has CREATE on schema open",
        ),
        (
            "GRANT USAGE ON SCHEMA core TO stepwell_wide",
            "has USAGE on schema core",
        ),
        (
            "GRANT TEMPORARY ON DATABASE {db} TO PUBLIC",
            "may TEMPORARY in database",
        ),
        (
            "GRANT CREATE ON DATABASE {db} TO stepwell_wide",
            "may CREATE in database",
        ),
        ("ALTER ROLE stepwell_wide CREATEDB", "has CREATEDB"),
        ("ALTER ROLE stepwell_wide CREATEROLE", "has CREATEROLE"),
        ("ALTER ROLE stepwell_wide REPLICATION", "has REPLICATION"),
        ("ALTER ROLE stepwell_wide BYPASSRLS", "has BYPASSRLS"),
        (
            "GRANT pg_monitor TO stepwell_wide",
            "is a member of role pg_monitor",
        ),
        (
            "ALTER TABLE derived.other OWNER TO stepwell_wide",
            "owns table derived.other",
        ),
        (
            "GRANT EXECUTE ON FUNCTION open.reveal() TO stepwell_wide",
            "may call open.reveal(), which runs as its owner",
        ),
        (
            "GRANT EXECUTE ON FUNCTION pg_read_file(text) TO stepwell_wide",
            "may call pg_read_file(text)",
        ),
        // What everybody got that nobody but a superuser has by default.
        (
            "GRANT EXECUTE ON FUNCTION pg_read_file(text) TO PUBLIC",
            "may call pg_read_file(text)",
        ),
        (
            "GRANT SELECT ON pg_authid TO PUBLIC",
            "may SELECT on pg_authid",
        ),
        (
            "CREATE FUNCTION open.ls(text) RETURNS SETOF text LANGUAGE internal AS 'pg_ls_dir_1arg'",
            "may call open.ls(text), which reaches beyond the database",
        ),
        (
            "CREATE SEQUENCE open.numbers; GRANT UPDATE ON SEQUENCE open.numbers TO stepwell_wide",
            "may UPDATE on open.numbers",
        ),
        (
            "GRANT SELECT ON open.facts TO stepwell_wide WITH GRANT OPTION",
            "may pass on SELECT on open.facts",
        ),
        (
            "GRANT USAGE ON SCHEMA open TO stepwell_wide WITH GRANT OPTION",
            "may pass on USAGE on schema open",
        ),
        (
            "GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC",
            "may SELECT large object 4711",
        ),
        (
            "ALTER DEFAULT PRIVILEGES IN SCHEMA core GRANT SELECT ON TABLES TO stepwell_wide",
            "default privileges",
        ),
        (
            "CREATE FOREIGN DATA WRAPPER far; GRANT USAGE ON FOREIGN DATA WRAPPER far TO stepwell_wide",
            "may use foreign data wrapper far",
        ),
        (
            "CREATE SERVER away FOREIGN DATA WRAPPER far; GRANT USAGE ON FOREIGN SERVER away TO stepwell_wide",
            "may use foreign server away",
        ),
        ("ALTER ROLE stepwell_wide NOLOGIN", "may not log in"),
    ] {
        let widened = widened.replace("{db}", db.target.database());
        db.sql(&widened).await;
        let planned = plan(&db, &workflow).await.expect_err(&widened);
        let Problem::Role { findings, .. } = &*planned.problem else {
            panic!("{widened}: {}", words(&planned));
        };
        assert!(
            findings.iter().any(|finding| finding.what.contains(found)),
            "{widened}: {findings:?}"
        );
        for mend in findings.iter().filter_map(|finding| finding.mend.as_ref()) {
            db.sql(mend).await;
        }
        let mended = run(&db, &workflow, "").await;
        mended
            .unwrap_or_else(|error| panic!("{widened}, mended by {findings:?}: {}", words(&error)));
    }
}

/// Where the role is somebody else's, a DBA's or the workflow's own, no message says how to take its rights from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_anothers_is_left_alone() {
    let db = world().await;
    db.sql("CREATE ROLE stepwell_dba LOGIN SUPERUSER").await;
    for (role, found) in [
        (db.target.user(), "is the role of the workflow itself"),
        ("stepwell_dba", "is a superuser"),
    ] {
        let workflow = text("anothers", "", &fill("SELECT 1 AS n"));
        let workflow = workflow.replace("role: stepwell_anothers", &format!("role: {role}"));
        let refused = run(&db, &parse(&workflow), "").await.expect_err(role);
        let Problem::Role { findings, .. } = &*refused.problem else {
            panic!("{role}: {}", words(&refused));
        };
        let what: Vec<_> = findings.iter().map(|finding| &finding.what[..]).collect();
        assert_eq!(what, [found]);
        let help = refused.help().unwrap_or_default();
        assert!(help.contains("`plugins.hostile.connection`"), "{help}");
        assert!(
            !help.contains("ALTER") && !help.contains("REVOKE"),
            "{help}"
        );
    }
    // Only of a role that was given nothing.
    db.sql("DROP ROLE stepwell_dba").await;
}

/// Functions in machine code count by where they come from: known extensions compute, and of any others nobody knows what
/// they reach.
#[tokio::test(flavor = "multi_thread")]
async fn functions_in_c_are_those_of_known_extensions() {
    let db = world().await;
    let workflow = parse(&text(
        "native",
        "",
        &fill("SELECT count(*) AS n FROM open.facts"),
    ));
    run(&db, &workflow, "").await.expect("a role is made");
    // Everybody may call them, in a schema that the role uses.
    db.sql("CREATE EXTENSION pg_trgm SCHEMA open; CREATE EXTENSION pgcrypto SCHEMA open")
        .await;
    run(&db, &workflow, "").await.expect("they only compute");
    for (widened, found) in [
        (
            "CREATE EXTENSION dblink SCHEMA open",
            "may call open.dblink(text), which reaches beyond the database",
        ),
        // The library of an extension that is known, and a function that is none of it.
        (
            "CREATE FUNCTION open.handler() RETURNS language_handler LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler'",
            "may call open.handler(), which reaches beyond the database",
        ),
        // It calls other functions, and those of its owner's.
        (
            "ALTER FUNCTION open.similarity(text, text) SECURITY DEFINER",
            "may call open.similarity(text,text), which runs as its owner",
        ),
    ] {
        db.sql(widened).await;
        let refused = run(&db, &workflow, "").await.expect_err(widened);
        let Problem::Role { findings, .. } = &*refused.problem else {
            panic!("{widened}: {}", words(&refused));
        };
        assert!(
            findings.iter().any(|finding| finding.what == found),
            "{widened}: {findings:?}"
        );
        for mend in findings.iter().filter_map(|finding| finding.mend.as_ref()) {
            db.sql(mend).await;
        }
        let mended = run(&db, &workflow, "").await;
        mended
            .unwrap_or_else(|error| panic!("{widened}, mended by {findings:?}: {}", words(&error)));
    }
}

async fn plan(db: &Db, workflow: &Workflow) -> Result<stepwell_runner::PlanReport, RunError> {
    let (_stopper, stop) = stepwell_runner::stop();
    stepwell_runner::plan(
        workflow,
        &components(),
        &db.options(&RunOptions::default()),
        stop,
    )
    .await
}

/// A workflow whose plugin publishes ids with a key of its own invention, and a built-in step that makes SQL of what is
/// published.
fn trap(playbook: &str) -> String {
    let about = json!({
        "key": [{"name": "id", "expression": "(SELECT value FROM core.secret)::int4"}],
        "batches": "into", "bounded": false, "contexts": [], "all": true,
    });
    let with = json!({
        "into": "into", "fill": "SELECT 1 AS id, 1 AS since, 1 AS events, 1 AS batch", "about": about.to_string()
    });
    let source =
        "source: { events: open.facts, batch: id, time: at, event-id: id, lookback: 7 days }\n";
    let steps = "  - { id: trap, uses: aggregate, needs: [attack], with: { ids: into, into: rows, columns: { n: count(*) } } }\n";
    text(playbook, "", &with) + steps + source
}

/// What a third party publishes would become SQL of a built-in step, under the workflow's login.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_third_party_publishes_is_not_heard() {
    let db = world().await;
    db.sql("ALTER TABLE open.facts ADD at timestamptz").await;
    let error = run(&db, &parse(&trap("deputy")), "").await;
    let error = words(&error.expect_err("the ids are none"));
    assert!(
        error.contains("is not one that this step can use"),
        "{error}"
    );
}

/// Nor is what it published while it was one of our own: a run that goes on with what that run left does not hear it.
///
/// Method: as one of our own it is heard, and its SQL reads the secret; so the run fails at the step after it, and goes
/// on there as a third party's.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_third_party_published_as_our_own_is_not_taken_over() {
    let db = world().await;
    db.sql("ALTER TABLE open.facts ADD at timestamptz").await;
    let (theirs, mut ours) = (trap("deputised"), String::new());
    for line in theirs.lines() {
        // Whoever is our own has no login, and no limits of the database's time.
        if !["    connection:", "    limits:"]
            .iter()
            .any(|key| line.starts_with(key))
        {
            ours += &format!("{line}\n");
        }
    }
    let ours = ours.replace("    digest:", "    trust: own\n    digest:");
    let error = run(&db, &parse(&ours), "").await;
    let error = error.expect_err("the secret is no number");
    let place = error.step.as_ref().map(|step| step.id.as_str());
    assert_eq!(place, Some("trap"), "{}", words(&error));
    assert!(words(&error).contains(SECRET), "{}", words(&error));
    let options = RunOptions {
        from: Some("trap".into()),
        ..RunOptions::default()
    };
    let error = db.run_with(&parse(&theirs), &options).await;
    let error = words(&error.expect_err("the ids are none"));
    assert!(
        error.contains("is not one that this step can use"),
        "{error}"
    );
}

/// One point decides what reaches a database, whoever made a plugin, whichever world of the contract it has, and whatever it is
/// asked for.
///
/// Goal: no way to the database goes around it.
/// Method: what no step may say, said on each way: as a question, as a statement, as a reducer's SELECT; to a run, a plan, a
/// verification, and about the lookback. Each ends with the words of that point, and nothing is changed.
#[tokio::test(flavor = "multi_thread")]
async fn no_way_to_the_database_goes_around_the_policy() {
    let db = world().await;
    let planner = |with: &Value| {
        text("ways", "", with).replace(
            "    connection: { role: stepwell_ways }\n",
            "    trust: own\n",
        )
    };
    let reducer = |trust: &str, select: &str| {
        let guest = &*crate::reducers::GUEST;
        let digest = Digest::of(&std::fs::read(guest).expect("it was built"));
        let with = json!({"into": "out", "select": select, "key": ["id"], "reads": ["open.facts"]});
        format!(
            "stepwell: 1
playbook: ways
warehouse: {{ retries: 0 }}
plugins:
  guest:
    component: {}
    digest: {digest}
    trust: {trust}
    grants: {{ read: [open.facts], write: [scratch.out] }}
steps: [{{ id: fold, uses: guest, with: {with} }}]
",
            guest.display()
        )
    };
    run(&db, &parse(&planner(&json!({"questions": []}))), "")
        .await
        .expect("the host's tables");
    db.sql("INSERT INTO derived.own VALUES (1)").await;
    let changes = "DELETE FROM derived.own RETURNING 1 AS id";
    let mut ways = Vec::new();
    for asked in ["run", "plan", "verify", "lookback"] {
        ways.push((asked, planner(&question(changes)), "expected a SELECT"));
        ways.push((
            asked,
            planner(&question("SELECT 1; COMMIT")),
            "holds 2 statements",
        ));
        if asked != "lookback" {
            ways.push((
                asked,
                planner(&statement("COMMIT")),
                "which no step may run",
            ));
            ways.push((
                asked,
                planner(&statement("DELETE FROM core.secret; SELECT 1")),
                "holds 2 statements",
            ));
        }
    }
    for asked in ["run", "plan"] {
        for trust in ["own", "third-party"] {
            let hidden = format!("WITH d AS ({changes}) SELECT id FROM d");
            ways.push((asked, reducer(trust, &hidden), "can change tables"));
            ways.push((
                asked,
                reducer(trust, "SELECT 1 AS id; COMMIT"),
                "holds 2 statements",
            ));
            ways.push((
                asked,
                reducer(trust, "COPY core.secret TO STDOUT"),
                "\"copy\"",
            ));
        }
        ways.push((
            asked,
            text("ways", "", &question(changes)),
            "expected a SELECT",
        ));
        ways.push((
            asked,
            text("ways", "", &statement("COMMIT")),
            "which no step may run",
        ));
    }
    // Where it would be part of the host's own transaction, a third party is not asked at all.
    ways.push((
        "verify",
        text("ways", "", &question(changes)),
        "a login of its own",
    ));
    for (asked, text, part) in ways {
        let (workflow, options) = (parse(&text), db.options(&RunOptions::default()));
        let (_stopper, stop) = stepwell_runner::stop();
        let unobserved = &stepwell_runner::Unobserved;
        let components = components();
        let said = match asked {
            "run" => run(&db, &workflow, "")
                .await
                .map(|_| ())
                .map_err(|error| words(&error)),
            "plan" => plan(&db, &workflow)
                .await
                .map(|_| ())
                .map_err(|error| words(&error)),
            "verify" => {
                let what = stepwell_runner::VerifyOptions::default();
                stepwell_runner::verify(&workflow, &components, &options, &what, unobserved, stop)
                    .await
                    .map(|_| ())
                    .map_err(|error| words(&error))
            }
            _ => {
                let report =
                    stepwell_runner::lookback(&workflow, &components, &options, stop).await;
                report.map(|_| ()).map_err(|error| words(&error))
            }
        };
        let said = said.expect_err(&text);
        // A step that knows nothing of the lookback is left out, whatever the reason.
        let left_out = asked == "lookback" && said.contains("knows anything about its lookback");
        assert!(left_out || said.contains(part), "{asked}: {text}: {said}");
        assert_eq!(
            db.number("SELECT count(*) FROM derived.own").await,
            1,
            "{asked}: {text}"
        );
        assert_eq!(
            db.number("SELECT count(*) FROM core.secret").await,
            1,
            "{asked}: {text}"
        );
    }
}

/// A verification in which a third party's step would take part is refused before the warehouse is so much as connected to,
/// with the place of the step and what to do.
#[tokio::test]
async fn a_third_partys_step_is_not_verified() {
    let workflow = parse(&text("ways", "", &question("SELECT 1 AS id")));
    let options = RunOptions {
        target: Some(Target::parse("postgres://me@127.0.0.1:1/nowhere").expect("a target")),
        ..RunOptions::default()
    };
    let (_stopper, stop) = stepwell_runner::stop();
    let what = stepwell_runner::VerifyOptions::default();
    let unobserved = &stepwell_runner::Unobserved;
    let verifying =
        stepwell_runner::verify(&workflow, &components(), &options, &what, unobserved, stop).await;
    let error = verifying.expect_err("it is a third party's");
    let said = words(&error);
    assert!(said.starts_with("step \"attack\" (hostile "), "{said}");
    assert!(
        said.contains("): a third party's step cannot be verified"),
        "{said}"
    );
    assert_eq!(error.failure(), stepwell_runner::Failure::Step);
    let help = error.help().expect("a help");
    assert!(help.contains("without this step"), "{help}");
    assert!(help.contains("`plugins.hostile`"), "{help}");
}

/// Another file under the same name has not been granted anything.
#[tokio::test(flavor = "multi_thread")]
async fn another_file_is_refused_with_what_it_says_of_itself() {
    let (_, digest) = &*HOSTILE;
    let other = text("other", "", &fill("SELECT 1 AS n"))
        .replace(digest, &format!("sha256:{}", "0".repeat(64)));
    let inputs = Inputs {
        vars: [].into(),
        env: &|_| None,
    };
    let path = root().join("workflows/test.yaml");
    let (file, problems) = Workflow::parse(Path::new(&path), &other, &inputs, &mut components())
        .expect_err("another digest");
    let said: Vec<_> = problems
        .iter()
        .map(|problem| problem.to_plain(&file))
        .collect();
    let said = said.join("\n");
    for part in [
        "not the one that is pinned",
        &format!("+ {digest}"),
        "says that it is hostile 1.0.0",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

/// The second line: if a statement that ends the transaction came through, its work would not be committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_exchanged_is_noticed() {
    let db = world().await;
    let session = Session::connect(&db.target, &SessionOptions::default())
        .await
        .expect("connect");
    session
        .begin(stepwell_warehouse::Access::ReadWrite)
        .await
        .expect("begin");
    let begun = session.transaction_identity().await.expect("who");
    assert_eq!(
        begun.differs(&session.transaction_identity().await.expect("who")),
        None
    );
    session
        .execute("COMMIT AND CHAIN", &[])
        .await
        .expect("it runs");
    let later = session.transaction_identity().await.expect("who");
    assert!(
        begun
            .differs(&later)
            .expect("another")
            .contains("runs in transaction")
    );
    session.rollback().await.expect("rollback");
    session
        .begin(stepwell_warehouse::Access::ReadWrite)
        .await
        .expect("begin");
    let begun = session.transaction_identity().await.expect("who");
    session
        .execute("SET LOCAL ROLE pg_monitor", &[])
        .await
        .expect("it runs");
    assert!(
        begun
            .differs(&session.transaction_identity().await.expect("who"))
            .expect("another")
            .contains("pg_monitor")
    );
}
