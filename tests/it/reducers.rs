//! Steps that fold rows: whole runs with the guest of the sandbox's tests, which does what its settings say.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use stepwell_runner::{Outcome, RunOptions, WarehouseState};
use stepwell_workflow::Workflow;

use crate::harness::{Db, components, parse, root, stream};

/// The guest, compiled once per test run.
pub(crate) static GUEST: LazyLock<PathBuf> = LazyLock::new(|| {
    let manifest = root().join("host/sandbox/tests/guests/Cargo.toml");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args([
            "build",
            "--locked",
            "--release",
            "--package",
            "guest-reducer",
        ])
        .args(["--target", "wasm32-wasip2"])
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(&target)
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS")
        .status()
        .expect("cargo can be started");
    assert!(built.success(), "the guest did not compile");
    target.join("wasm32-wasip2/release/guest_reducer.wasm")
});

/// A workflow of one reducer that fills `out`.
fn reducer(with: &str) -> Workflow {
    parse(&format!(
        "stepwell: 1
playbook: reduced
plugins:
  guest: {{ component: {}, trust: own, grants: {{ read: [public.rows] }} }}
steps:
  - id: fold
    uses: guest
    with: {{ into: out, {with} }}
",
        GUEST.display()
    ))
}

pub(crate) const FOLD: &str = "do: fold, select: 'SELECT g, n, t FROM public.rows', reads: [public.rows], key: [g], order-by: [n]";

async fn with_rows() -> Db {
    let db = Db::empty().await;
    db.sql(
        "CREATE TABLE public.rows AS
         SELECT CASE WHEN n % 13 <> 0 THEN 'g' || n % 40 END AS g, (n % 500)::int AS n, md5(n::text) AS t
         FROM generate_series(1, 5000) AS n; ANALYZE public.rows",
    )
    .await;
    db
}

/// Goal: what comes out depends neither on the number of parts nor on where batches are cut, whether the rows are
/// scanned in parts or computed once.
/// Method: the guest gives for each group a digest over all its values in their order; ties in the order are many.
#[tokio::test(flavor = "multi_thread")]
async fn parts_and_cuts_do_not_show() {
    let db = with_rows().await;
    let distinct = FOLD.replace("SELECT g", "SELECT DISTINCT g");
    let late = FOLD.replace("do: fold", "do: fold-late");
    let digests = "SELECT * FROM scratch.reduced__out ORDER BY key";
    db.run(&reducer(FOLD)).await.expect("it runs");
    let expected = db.rows(digests).await;
    assert_eq!(expected.len(), 41, "40 groups, and the one without a key");
    let total = "SELECT sum(rows) FROM scratch.reduced__out";
    assert_eq!(db.number(total).await, 5000);
    for (with, parts, rows) in [
        (FOLD, 1, 1),
        (FOLD, 1, 100),
        (FOLD, 2, 7),
        (FOLD, 3, 65_536),
        (distinct.as_str(), 1, 50),
        (&distinct, 3, 50),
        (&late, 2, 30),
    ] {
        let options = RunOptions {
            reducer_parts: Some(parts),
            reducer_batch_rows: Some(rows),
            ..RunOptions::default()
        };
        let report = db
            .run_with(&reducer(with), &options)
            .await
            .expect("it runs");
        assert_eq!(
            db.rows(digests).await,
            expected,
            "{parts} parts, {rows} rows"
        );
        let step = &report.steps[0];
        assert_eq!((step.rows, step.measures["parts"]), (41, i64::from(parts)));
        let stored = step
            .statements
            .iter()
            .any(|statement| statement.label == "store rows");
        assert_eq!(
            stored,
            parts > 1 && with == distinct,
            "only what is no plain scan is stored"
        );
    }
    let kept = "SELECT count(*) FROM pg_class WHERE relname LIKE 'reduced\\_\\_out\\_\\_%'";
    assert_eq!(db.number(kept).await, 0, "the stored rows are gone");
    let journal = "SELECT rows_read FROM stepwell.steps ORDER BY rows_read DESC LIMIT 1";
    assert_eq!(db.number(journal).await, 5000);
}

/// Every type that a reducer may give arrives in the table as it was read; empty input leaves an empty table with all
/// columns.
#[tokio::test(flavor = "multi_thread")]
async fn all_types_and_no_rows() {
    let db = Db::empty().await;
    db.sql(
        "CREATE TABLE public.rows (id int8, b bool, i2 int2, i4 int4, f4 float4, f8 float8, t text, y bytea, u uuid, d date,
           ts timestamp, tz timestamptz, n numeric, j json, jb jsonb);
         INSERT INTO public.rows VALUES
           (1, true, 2, 3, 'NaN', '-Infinity', 'größe', '\\x00ff', 'f81d4fae-7dec-11d0-a765-00a0c91e6bf6', 'infinity',
            '-infinity', '2024-02-29 12:00+01', 12.50, '{\"a\" :1}', '{\"a\": [1.50]}'),
           (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
    )
    .await;
    let output = "[[id, 20, int64, 'not null'], [b, 16, bits], [i2, 21, int16], [i4, 23, int32], [f4, 700, single],
      [f8, 701, double], [t, 25, varlen], [y, 17, varlen], [u, 2950, fixed16], [d, 1082, int32], [ts, 1114, int64],
      [tz, 1184, int64], [n, 1700, varlen], [j, 114, varlen], [jb, 3802, varlen]]";
    let echo = |filter: &str| {
        reducer(&format!(
            "do: echo, select: 'SELECT * FROM public.rows WHERE {filter}', reads: [public.rows], key: [id], output: {output}"
        ))
    };
    db.run(&echo("true")).await.expect("it runs");
    assert_eq!(
        db.rows("SELECT record_send(o) AS r FROM scratch.reduced__out AS o ORDER BY id")
            .await,
        db.rows("SELECT record_send(o) AS r FROM public.rows AS o ORDER BY id")
            .await
    );
    let nullable = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'scratch.reduced__out'::regclass AND attnum > 0 AND NOT attnotnull";
    assert_eq!(db.number(nullable).await, 14);
    db.run(&echo("false")).await.expect("it runs");
    assert_eq!(
        db.number("SELECT count(*) FROM scratch.reduced__out").await,
        0
    );
    assert_eq!(db.number(nullable).await, 14);
}

/// Goal: what a reducer may not do ends the run with a reason and leaves the table of the run before as it was.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_refused_and_changes_nothing() {
    let db = with_rows().await;
    db.run(&reducer(FOLD)).await.expect("it runs");
    let before = db
        .rows("SELECT * FROM scratch.reduced__out ORDER BY key")
        .await;
    let select = "select: 'SELECT g, n, t FROM public.rows', reads: [public.rows], key: [g]";
    let text = "output: [[g, 25, varlen], [n, 23, int32], [t, 25, varlen]]";
    for (with, part) in [
        (format!("do: no-utf8, {select}, {text}"), "it is not UTF-8"),
        (
            format!(
                "do: nulls, {select}, {}",
                text.replace("[g, 25, varlen]", "[g, 25, varlen, 'not null']")
            ),
            "it is NULL",
        ),
        (
            format!("do: panic, {select}, {text}"),
            "the reducer gave up",
        ),
        (
            format!("do: fail-finish, {select}, {text}"),
            "cannot finish",
        ),
        (
            format!("do: echo, {select}, {}", text.replace("t, 25", "t, 3802")),
            "invalid input syntax for type json",
        ),
        (
            format!(
                "do: echo, {}, {text}",
                select.replace("key: [g]", "key: [x]")
            ),
            "no column \"x\"",
        ),
        (
            format!(
                "do: echo, {}, {text}",
                select.replace("rows', reads: [public.rows]", "rows', reads: [core.secret]")
            ),
            "was not granted",
        ),
        (
            format!("do: echo, {select}, {text}, target: other"),
            "no scratch table that the step's settings name",
        ),
        (
            format!(
                "do: echo, {}, {text}",
                select.replace(
                    "SELECT g",
                    "WITH d AS (DELETE FROM public.rows RETURNING 1) SELECT g"
                )
            ),
            "can change tables",
        ),
        (
            format!("do: echo, {}, {text}", select.replace("rows',", "rows;',")),
            "semicolon",
        ),
        (
            format!(
                "do: echo, {}, {text}",
                select.replace("SELECT g", "SELECT 1 / (n - n) AS z, g")
            ),
            "division by zero",
        ),
    ] {
        let options = RunOptions {
            reducer_parts: Some(2),
            reducer_batch_rows: Some(100),
            ..RunOptions::default()
        };
        let error = db
            .run_with(&reducer(&with), &options)
            .await
            .expect_err(&with);
        let said = format!("{error} {:?}", error.problem);
        assert!(said.contains(part), "{with}: {said}");
        assert!(matches!(
            error.state,
            WarehouseState::Unchanged | WarehouseState::ScratchWritten
        ));
        assert_eq!(
            db.rows("SELECT * FROM scratch.reduced__out ORDER BY key")
                .await,
            before,
            "{with}"
        );
    }
    assert_eq!(db.number("SELECT count(*) FROM public.rows").await, 5000);
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
    // A server process notices in its own time that its client is gone.
    db.wait_for(open, |n| n == 0).await;
    assert_eq!(db.number(open).await, 0, "nothing is left open");
}

/// Goal: rows that a reducer makes of a batch are all taken before it gets the next one.
/// Method: a guest that gives at most 1000 rows at once makes 10,000 of a batch, and fails if some are left in the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_reducer_that_multiplies_rows_gives_them_bit_by_bit() {
    let db = with_rows().await;
    let with = "do: dole, size: 100, select: 'SELECT g, n FROM public.rows', reads: [public.rows], key: [g],
      output: [[seven, 20, int64]]";
    for parts in [1, 2] {
        let options = RunOptions {
            reducer_parts: Some(parts),
            reducer_batch_rows: Some(100),
            ..RunOptions::default()
        };
        let report = db
            .run_with(&reducer(with), &options)
            .await
            .expect("it runs");
        assert_eq!(report.steps[0].rows, 500_000);
        assert_eq!(
            db.number("SELECT count(*) FROM scratch.reduced__out WHERE seven = 7")
                .await,
            500_000
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_shows_what_is_read_and_made() {
    let db = with_rows().await;
    db.run(&reducer(FOLD))
        .await
        .expect("it makes the host's tables");
    let options = db.options(&RunOptions::default());
    let (_stopper, stop) = stepwell_runner::stop();
    let report = stepwell_runner::plan(&reducer(FOLD), &components(), &options, stop)
        .await
        .expect("a plan");
    let statements = &report.steps[0].statements;
    assert_eq!(statements[0].reads, ["public.rows"]);
    assert_eq!(statements[0].estimated_rows, Some(5000));
    assert!(
        statements[0]
            .sql
            .contains("ORDER BY rows.g COLLATE \"C\", rows.n"),
        "{}",
        statements[0].sql
    );
    assert_eq!(
        statements[1].sql,
        "CREATE UNLOGGED TABLE scratch.reduced__out (\n  key text,\n  rows bigint NOT NULL,\n  digest bigint NOT NULL\n)"
    );
    assert_eq!(statements[2].writes, ["scratch.reduced__out"]);
    assert_eq!(report.steps[0].notes, ["a remark"]);
}

/// Goal: a reducer inside of the incremental flow keeps its derived table up to date, and what it folds is swapped in by
/// the commit step.
/// Method: batches land one after the other; the derived digests equal those over all events in the end.
#[tokio::test(flavor = "multi_thread")]
async fn in_the_incremental_flow() {
    let db = Db::with_tables().await;
    let workflow = |playbook: &str, table: &str| {
        parse(&format!(
            "stepwell: 1
playbook: {playbook}
source: {{ events: atomic.events, batch: etl_tstamp, time: collector_tstamp, event-id: event_id, lookback: 30 days }}
plugins:
  guest: {{ component: {}, trust: own }}
steps:
  - {{ id: truncate, uses: truncate-scratch }}
  - {{ id: new-batches, uses: diff-manifest, with: {{ into: batches }} }}
  - id: ids
    uses: collect-ids
    with: {{ batches: batches, key: {{ key: domain_userid }}, into: ids }}
  - id: fold
    uses: guest
    with:
      do: fold
      from: [ids]
      into: folded
      select: SELECT e.domain_userid AS key, e.derived_tstamp, e.event_id FROM atomic.events AS e JOIN {{{{ids}}}} AS i ON i.key = e.domain_userid
      reads: [atomic.events]
      key: [key]
      order-by: [derived_tstamp]
  - id: commit
    uses: commit
    with: {{ replace: [{{ table: {table}, from: folded, ids: ids }}], manifest: batches }}
",
            GUEST.display()
        ))
    };
    let (step, whole) = (
        workflow("folded", "derived.folded"),
        workflow("whole", "derived.whole"),
    );
    let mut batches = stream(11);
    for _ in 0..3 {
        for batch in batches.by_ref().take(4) {
            db.land(&batch).await;
        }
        let report = db
            .run(&step)
            .await
            .unwrap_or_else(|error| panic!("{error} {:?}", error.problem));
        assert_eq!(report.outcome, Outcome::Done);
    }
    db.run(&whole).await.expect("a build");
    let differing = "SELECT count(*) FROM ((SELECT * FROM derived.folded EXCEPT ALL SELECT * FROM derived.whole)
        UNION ALL (SELECT * FROM derived.whole EXCEPT ALL SELECT * FROM derived.folded)) AS d";
    assert_eq!(db.number(differing).await, 0);
    // The copies of an event that was sent twice are folded too: this reducer asks for events as they are.
    let counts = [
        "SELECT sum(rows) FROM derived.folded",
        "SELECT count(*) FROM atomic.events WHERE domain_userid IS NOT NULL",
    ];
    assert_eq!(db.number(counts[0]).await, db.number(counts[1]).await);
}

/// A run that is asked to stop while its plugin computes ends at once, and leaves the table as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_computes_is_stopped() {
    let db = with_rows().await;
    db.run(&reducer(FOLD)).await.expect("it runs");
    let (stopper, stop) = stepwell_runner::stop();
    let (options, spinning) = (
        db.options(&RunOptions::default()),
        reducer(&FOLD.replace("do: fold", "do: spin")),
    );
    let components = components();
    let running = stepwell_runner::run(
        &spinning,
        &components,
        &options,
        &stepwell_runner::Unobserved,
        stop,
    );
    let stopping = async {
        // The lease is held, and the writer waits for rows that never come.
        let writing = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'COPY scratch.%'";
        while db.number(writing).await == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        stopper.stop("SIGTERM");
    };
    let (outcome, ()) = tokio::join!(running, stopping);
    let error = outcome.expect_err("it was stopped");
    assert_eq!(
        error.failure(),
        stepwell_runner::Failure::Stopped,
        "{error}"
    );
    let rows = "SELECT sum(rows) FROM scratch.reduced__out";
    assert_eq!(db.number(rows).await, 5000);
    db.run(&reducer(FOLD)).await.expect("it runs again");
}
