//! Reducers of third parties: their SELECT runs under the plugin's own login and reads what was granted, what they give
//! goes where was granted, and what they do to themselves hurts nobody beside them.
//!
//! The plugin is the guest of the sandbox's tests, which does what its settings say.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use stepwell_runner::{Outcome, Problem, RunError, RunOptions, RunReport};
use stepwell_sandbox::{CallError, Digest, Limit};
use stepwell_workflow::{Inputs, LimitKey, Workflow};

use crate::examples::BUILT;
use crate::harness::{Db, components, parse, read, root, stream};
use crate::hostile_sql::{SECRET, traces, words, world};
use crate::reducers::{FOLD, GUEST};

static DIGEST: LazyLock<String> = LazyLock::new(|| {
    let bytes = std::fs::read(&*GUEST).expect("it was built");
    Digest::of(&bytes).to_string()
});

const SELECT: &str = "SELECT g, n, t FROM open.rows";

/// A workflow in which a stranger's reducer fills `out`, beside a step of our own.
fn text(playbook: &str, limits: &str, with: &str) -> String {
    format!(
        "stepwell: 1
playbook: {playbook}
warehouse: {{ retries: 0 }}
plugins:
  guest:
    component: {}
    digest: {}
    grants: {{ read: [open.rows], write: [scratch.out] }}
    limits: {{ statement-timeout: 30s, lock-timeout: 2s {limits} }}
steps:
  - id: fold
    uses: guest
    needs: []
    with: {{ into: out, {with} }}
  - id: good
    uses: sql
    needs: []
    with:
      statements: DROP TABLE IF EXISTS {{{{ good }}}}; CREATE UNLOGGED TABLE {{{{ good }}}} AS SELECT count(*) AS n FROM open.rows
      reads: [open.rows]
      fills: [good]
",
        GUEST.display(),
        *DIGEST
    )
}

fn fold() -> String {
    FOLD.replace("public.rows", "open.rows")
}

async fn with_rows() -> Db {
    let db = world().await;
    db.sql(
        "CREATE TABLE open.rows AS
         SELECT CASE WHEN n % 13 <> 0 THEN 'g' || n % 40 END AS g, (n % 500)::int AS n, md5(n::text) AS t
         FROM generate_series(1, 5000) AS n; ANALYZE open.rows",
    )
    .await;
    db
}

async fn run(db: &Db, text: &str, parts: u32) -> Result<RunReport, RunError> {
    let options = RunOptions {
        reducer_parts: Some(parts),
        reducer_batch_rows: Some(100),
        ..RunOptions::default()
    };
    db.run_with(&parse(text), &options).await
}

/// Goal: who made a reducer does not show in its rows, whether they are read in parts from one snapshot or as a whole.
/// Method: the guest gives for each group a digest over all its values in their order; one of our own says what is right.
#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_reducer_gives_the_same_rows_as_ones_own() {
    let db = with_rows().await;
    let digests = "SELECT * FROM scratch.lent__out ORDER BY key";
    let own = text("lent", "", &fold()).replace("    limits:", "    trust: own\n    limits:");
    run(&db, &own, 2).await.expect("it runs");
    let expected = db.rows(digests).await;
    assert_eq!(expected.len(), 41, "40 groups, and the one without a key");
    let distinct = fold().replace("SELECT g", "SELECT DISTINCT g");
    let asks = fold()
        .replace("do: fold", "do: fold, params: ['500']")
        .replace("FROM open.rows", "FROM open.rows WHERE n < $1::int");
    for (with, parts, found) in [
        (fold(), 1, 1),
        (fold(), 3, 3),
        (fold(), 64, 4),
        (distinct, 3, 1),
        (asks, 2, 2),
    ] {
        db.sql("DROP TABLE scratch.lent__out").await;
        let report = run(&db, &text("lent", "", &with), parts)
            .await
            .unwrap_or_else(|error| panic!("{with}: {}", words(&error)));
        assert_eq!(db.rows(digests).await, expected, "{with} in {parts} parts");
        let step = report.steps.iter().find(|step| step.id == "fold");
        let step = step.expect("it ran");
        assert_eq!((step.rows, step.measures["parts"]), (41, found), "{with}");
    }
    let kept = "SELECT count(*) FROM pg_class WHERE relname LIKE 'lent\\_\\_out\\_\\_%'";
    assert_eq!(db.number(kept).await, 0, "nothing is stored for it");
    let role = "stepwell_lent_guest";
    let may = |table: &str, privilege: &str| {
        format!("SELECT has_table_privilege('{role}', '{table}', '{privilege}')::int")
    };
    for (table, privilege, expected) in [
        ("open.rows", "SELECT", 1),
        ("open.rows", "INSERT", 0),
        ("scratch.lent__out", "SELECT", 0),
        ("scratch.lent__out", "INSERT", 0),
    ] {
        let found = db.number(&may(table, privilege)).await;
        assert_eq!(found, expected, "{privilege} on {table}");
    }
    let owner = "SELECT (pg_get_userbyid(relowner) = current_user)::int FROM pg_class WHERE oid = 'scratch.lent__out'::regclass";
    assert_eq!(db.number(owner).await, 1, "the table is the workflow's");
    traces(&db, role).await;
}

/// Each of these is refused with a reason, and leaves everything as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_select_reads_what_was_granted_and_nothing_else() {
    let db = with_rows().await;
    let peace = text("bound", "", &fold());
    run(&db, &peace, 2)
        .await
        .unwrap_or_else(|error| panic!("{}", words(&error)));
    let rows = "SELECT * FROM scratch.bound__out ORDER BY key";
    let (role, filled) = ("stepwell_bound_guest", db.rows(rows).await);
    let before = traces(&db, role).await;
    let shape =
        "reads: [open.rows], key: [g], output: [[g, 25, varlen], [n, 23, int32], [t, 25, varlen]]";
    let with = |select: &str| {
        let select = select.replace('\'', "''");
        format!("do: echo, select: '{select}', {shape}")
    };
    let mut attacks = Vec::new();
    for (select, part) in [
        // Another table, by its name and by other ways.
        (
            "SELECT value AS g, 1 AS n, value AS t FROM core.secret",
            "permission denied",
        ),
        (
            "SELECT g, n, (SELECT value FROM core.secret) AS t FROM open.rows",
            "permission denied",
        ),
        (
            "SELECT query_to_xml('SELECT value FROM core.secret', true, true, '')::text AS g, 1 AS n, '' AS t",
            "permission denied",
        ),
        (
            "SELECT core.reveal() AS g, 1 AS n, '' AS t",
            "permission denied",
        ),
        (
            "SELECT pg_read_file('/etc/passwd') AS g, 1 AS n, '' AS t",
            "permission denied",
        ),
        (
            "SELECT set_config('role', 'postgres', false) AS g, 1 AS n, '' AS t",
            "permission denied",
        ),
        // Out of the brackets, and out of the statement.
        (
            "SELECT g, n, t FROM open.rows) AS rows UNION SELECT value, 1, value FROM (TABLE core.secret",
            "closes a bracket",
        ),
        (
            "SELECT g, n, t FROM open.rows) TO STDOUT",
            "closes a bracket",
        ),
        (
            "SELECT g, n, t FROM open.rows) TO STDOUT; COPY (TABLE core.secret",
            "holds 2 statements",
        ),
        (
            "SELECT g, n, t FROM open.rows; COMMIT",
            "holds 2 statements",
        ),
        ("SELECT g, n, t FROM open.rows /* ", "comment"),
        ("COPY open.rows TO STDOUT", "\"copy\""),
        // What writes, or locks.
        (
            "WITH d AS (DELETE FROM derived.own RETURNING 1) SELECT g, n, t FROM open.rows",
            "can change tables",
        ),
        ("SELECT g, n, t INTO derived.mine FROM open.rows", "INTO"),
        (
            "SELECT g, n, t FROM open.rows FOR UPDATE",
            "can change tables",
        ),
        // By its role or by its transaction, whichever is asked first.
        ("SELECT g, n, t FROM open.rows FOR SHARE", ""),
        ("SELECT lo_create(0)::text AS g, 1 AS n, '' AS t", ""),
        (
            "SELECT pg_notify('a', 'b')::text AS g, 1 AS n, '' AS t",
            "permission denied",
        ),
        (
            "SELECT pg_advisory_lock(1)::text AS g, 1 AS n, '' AS t",
            "permission denied",
        ),
        (
            "SELECT set_config('transaction_read_only', 'off', false) AS g, 1 AS n, '' AS t",
            "before any query",
        ),
        // What ends sessions: its own.
        (
            "SELECT pg_terminate_backend(pg_backend_pid())::text AS g, 1 AS n, '' AS t",
            "",
        ),
        // What no column takes.
        (
            "SELECT repeat('x', 40000000) AS g, 1 AS n, '' AS t",
            "bytes",
        ),
        ("SELECT ROW(1, 2) AS g, 1 AS n, '' AS t", "cast it to text"),
    ] {
        attacks.push((with(select), part));
    }
    for (shape, part) in [
        ("reads: [core.secret]", "was not granted"),
        (
            "reads: [open.rows], target: other",
            "no scratch table that the step's settings name",
        ),
    ] {
        attacks.push((
            format!("do: echo, select: '{SELECT}', key: [g], {shape}"),
            part,
        ));
    }
    for (with, part) in attacks {
        for parts in [1, 2] {
            let ended = run(&db, &text("bound", "", &with), parts).await;
            let error = ended.expect_err(&with);
            let said = words(&error);
            assert!(said.contains(part), "{with}: {said}");
            assert!(!said.contains(SECRET), "{with}: {said}");
            assert_eq!(db.rows(rows).await, filled, "{with}");
        }
        assert_eq!(traces(&db, role).await, before, "{with}");
        let good = db.number("SELECT n FROM scratch.bound__good").await;
        assert_eq!(good, 5000, "the step beside {with}");
    }
    assert_eq!(db.number("SELECT count(*) FROM open.rows").await, 5000);
    run(&db, &peace, 2).await.expect("the next run works");
}

/// A query that does not come to an end is ended by the server, and its time is one of the plugin's limits.
#[tokio::test(flavor = "multi_thread")]
async fn a_select_has_its_time() {
    let db = with_rows().await;
    let with = |select: &str| {
        format!("do: discard, select: \"{select}\", reads: [], key: [g], output: [[g, 25, varlen]]")
    };
    for select in [
        "SELECT pg_sleep(600)::text AS g",
        "SELECT set_config('statement_timeout', '0', false) || pg_sleep(600)::text AS g",
        "SELECT 'g' AS g FROM generate_series(1, 1000000000000)",
    ] {
        let quick = text("slow", "", &with(select))
            .replace("statement-timeout: 30s", "statement-timeout: 1s");
        let error = run(&db, &quick, 1).await.expect_err(select);
        let Problem::OutOfTime { limit, .. } = &*error.problem else {
            panic!("{select}: {}", words(&error))
        };
        assert_eq!(*limit, LimitKey::StatementTimeout, "{select}");
        assert_eq!(db.number("SELECT n FROM scratch.slow__good").await, 5000);
    }
    traces(&db, "stepwell_slow_guest").await;
}

/// What it would fill is among its grants, or nothing runs.
#[tokio::test]
async fn a_table_that_was_not_granted_is_not_filled() {
    let text =
        text("astray", "", &fold()).replace("write: [scratch.out]", "write: [scratch.other]");
    let inputs = Inputs {
        vars: [].into(),
        env: &|_| None,
    };
    let path = root().join("workflows/test.yaml");
    let (file, problems) = Workflow::parse(Path::new(&path), &text, &inputs, &mut components())
        .expect_err("it asks for more");
    let said: Vec<_> = problems
        .iter()
        .map(|problem| problem.to_plain(&file))
        .collect();
    let said = said.join("\n");
    assert!(
        said.contains("+ write scratch.\"out\": step \"fold\" names it"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_and_the_script_say_what_its_role_reads() {
    let db = with_rows().await;
    let workflow = parse(&text("shown", "", &fold()));
    db.run(&workflow).await.expect("it makes the role");
    let (_stopper, stop) = stepwell_runner::stop();
    let options = db.options(&RunOptions::default());
    let report = stepwell_runner::plan(&workflow, &components(), &options, stop)
        .await
        .unwrap_or_else(|error| panic!("{}", words(&error)));
    let step = report.steps.iter().find(|step| step.id == "fold");
    let statements = &step.expect("it is planned").statements;
    assert_eq!(statements[0].reads, ["open.rows"]);
    assert_eq!(statements[0].estimated_rows, Some(5000));
    assert_eq!(statements[2].writes, ["scratch.shown__out"]);
    let script = stepwell_runner::grants(&workflow, &options)
        .await
        .expect("a script");
    assert!(
        script.contains("GRANT SELECT ON TABLE \"open\".rows TO stepwell_shown_guest;"),
        "{script}"
    );
    assert!(!script.contains("INSERT"), "{script}");
    assert!(!script.contains("SCHEMA scratch"), "{script}");
    // What its role once was allowed to do and is not any more.
    db.sql("GRANT INSERT ON open.rows TO stepwell_shown_guest")
        .await;
    let (_stopper, stop) = stepwell_runner::stop();
    let error = stepwell_runner::plan(&workflow, &components(), &options, stop)
        .await
        .expect_err("more than it needs");
    assert!(
        matches!(&*error.problem, Problem::Role { .. }),
        "{}",
        words(&error)
    );
}

/// The example as a third party would ship it: the whole incremental flow, and the same derived rows as one's own.
#[tokio::test(flavor = "multi_thread")]
async fn engaged_time_of_a_stranger_gives_the_same_days() {
    LazyLock::force(&BUILT);
    let component = root().join("target/plugins/engaged-time.wasm");
    let digest = Digest::of(&std::fs::read(component).expect("it was built"));
    let own = read("engaged_time.yaml");
    let strange = own
        .replace("playbook: engaged_time", "playbook: strange")
        .replace("derived.engaged_days", "derived.strange_days")
        .replace(
            "    trust: own\n",
            &format!(
                "    digest: {digest}\n    grants: {{ read: [atomic.events, derived.manifest, scratch.batches, \
                 scratch.visitor_day_ids], write: [scratch.engaged_days] }}\n"
            ),
        );
    let db = Db::with_tables().await;
    let (own, strange) = (parse(&own), parse(&strange));
    let mut batches = stream(23);
    for _ in 0..3 {
        for batch in batches.by_ref().take(6) {
            db.land(&batch).await;
        }
        for workflow in [&own, &strange] {
            let report = db.run(workflow).await;
            let report = report.unwrap_or_else(|error| panic!("{}", words(&error)));
            assert_eq!(report.outcome, Outcome::Done);
        }
    }
    let differing = "SELECT count(*) FROM (
        (SELECT * FROM derived.engaged_days EXCEPT ALL SELECT * FROM derived.strange_days)
        UNION ALL (SELECT * FROM derived.strange_days EXCEPT ALL SELECT * FROM derived.engaged_days)) AS d";
    assert_eq!(db.number(differing).await, 0);
    assert!(db.number("SELECT count(*) FROM derived.strange_days").await > 20);
}

/// What a reducer does to itself ends it with a reason, and the step beside it commits.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_goes_wrong_does_not_hurt_the_one_beside_it() {
    let db = with_rows().await;
    let with = |what: &str, size: u64| {
        format!(
            "do: {what}, size: {size}, select: '{SELECT}', reads: [open.rows], key: [g], \
             output: [[g, 25, varlen], [n, 23, int32], [t, 25, varlen]]"
        )
    };
    let endless = format!(
        "do: endless, select: '{SELECT} WHERE false', reads: [open.rows], key: [g], output: [[n, 20, int64]]"
    );
    let quick = ", cpu: 1s, memory: 32MiB";
    for (with, limit) in [
        (with("spin-shape", 0), Limit::Cpu),
        (with("spin-open", 0), Limit::Cpu),
        (with("spin", 0), Limit::Cpu),
        (with("spin-finish", 0), Limit::Cpu),
        (with("hoard", 64 << 20), Limit::Memory),
        (with("handles", 5_000), Limit::Handles),
        (endless, Limit::OutputRows),
    ] {
        db.sql("DROP TABLE IF EXISTS scratch.noisy__good").await;
        let noisy = text("noisy", quick, &with);
        let error = run(&db, &noisy, 2).await.expect_err(&with);
        match &*error.problem {
            Problem::Plugin {
                source: CallError::Limit(error),
            } => assert_eq!(error.limit, limit, "{with}"),
            _ => panic!("{with}: {}", words(&error)),
        }
        assert_eq!(
            db.number("SELECT n FROM scratch.noisy__good").await,
            5000,
            "{with}"
        );
    }
    traces(&db, "stepwell_noisy_guest").await;
}

/// Goal: plugins that compute for as long as they may keep nobody from working, neither in their own workflow nor in
/// another one of the same process.
/// Method: one thread runs all that waits, and more plugins spin than there are processors. A run beside them comes to its
/// end while they still spin, which could not be if they held that thread, or the compiler, or a lock of its.
#[tokio::test]
async fn runs_go_on_while_plugins_of_others_spin() {
    let (db, other) = (with_rows().await, with_rows().await);
    let spins = format!("do: spin, select: '{SELECT}', reads: [open.rows], key: [g]");
    let patient = ", cpu: 10m, cpu-per-call: 10m, database-time: 10m";
    let spinning = text("noisy", patient, &spins);
    let spinning = parse(&spinning.replace("statement-timeout: 30s", "statement-timeout: 10m"));
    let quiet = parse(&text("quiet", "", &fold()));
    run(&other, &text("quiet", "", &fold()), 1)
        .await
        .expect("it makes the role");
    other.sql("DROP TABLE scratch.quiet__out").await;
    let (stopper, stop) = stepwell_runner::stop();
    let options = RunOptions {
        reducer_parts: Some(4),
        ..db.options(&RunOptions::default())
    };
    let components = components();
    let noise = stepwell_runner::run(
        &spinning,
        &components,
        &options,
        &stepwell_runner::Unobserved,
        stop,
    );
    let working = async {
        // Rows are awaited, and all that there are to read have gone to the plugin: its sessions are closed.
        let spinning = "SELECT (
            EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'COPY scratch.%')
            AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'stepwell_noisy_guest'))::int";
        while db.number(spinning).await == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let good = "SELECT count(*) FROM pg_class WHERE relname = 'noisy__good'";
        while db.number(good).await == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(db.number("SELECT n FROM scratch.noisy__good").await, 5000);
        let report = other.run(&quiet).await;
        let report = report.unwrap_or_else(|error| panic!("{}", words(&error)));
        assert_eq!(report.outcome, Outcome::Done);
        assert_eq!(
            other
                .number("SELECT sum(rows) FROM scratch.quiet__out")
                .await,
            5000
        );
    };
    let mut noise = std::pin::pin!(noise);
    tokio::select! {
        biased;
        ended = &mut noise => panic!("it spins for minutes: {ended:?}"),
        () = working => {}
    }
    stopper.stop("SIGTERM");
    let error = noise.await.expect_err("it was stopped");
    assert_eq!(
        error.failure(),
        stepwell_runner::Failure::Stopped,
        "{error}"
    );
}
