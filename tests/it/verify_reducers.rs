//! Verifying workflows with reducers: on the verification's own session, through a temporary file.

use stepwell_runner::{Failure, RunOptions, Sample, Unobserved, VerifyOptions, VerifyReport};
use stepwell_workflow::Workflow;

use crate::commands::{everything, values, verify};
use crate::examples::{self, land_and_run};
use crate::harness::{Db, components, parse, stream, workflow};
use crate::program::{Ended, Program, read_with_url};
use crate::reducers::GUEST;

/// Verifies with batches of so many rows.
async fn verify_in_batches(db: &Db, workflow: &Workflow, rows: u32) -> VerifyReport {
    let (_stopper, stop) = stepwell_runner::stop();
    let options = RunOptions {
        reducer_batch_rows: Some(rows),
        ..db.options(&RunOptions::default())
    };
    let (components, what) = (components(), everything());
    let verifying =
        stepwell_runner::verify(workflow, &components, &options, &what, &Unobserved, stop);
    verifying.await.unwrap_or_else(|error| panic!("{error:#?}"))
}

/// All relations, functions apart, and the rows of all derived tables: what a verification must leave alone.
async fn traces(db: &Db) -> Vec<Vec<Option<String>>> {
    let relations = db
        .rows(
            "SELECT n.nspname, c.relname, c.relfilenode FROM pg_class AS c
             JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND c.relkind IN ('r', 'i') ORDER BY 1, 2",
        )
        .await;
    let tables = db
        .rows(
            "SELECT format('SELECT %L AS name, string_agg(r.xmin::text || r.ctid::text, '','' ORDER BY r.ctid) FROM %I.%I AS r',
                c.relname, n.nspname, c.relname)
             FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE n.nspname = 'derived' AND c.relkind = 'r' ORDER BY 1",
        )
        .await;
    let mut all = relations;
    for table in tables {
        all.extend(db.rows(table[0].as_ref().expect("a query")).await);
    }
    all
}

/// A workflow that folds the events of each visitor with the guest of the sandbox's tests.
fn guest(do_what: &str, select: &str, more: &str) -> String {
    format!(
        "stepwell: 1
playbook: folded
source: {{ events: atomic.events, batch: etl_tstamp, time: collector_tstamp, event-id: event_id, lookback: 30 days }}
plugins:
  guest: {{ component: \"{}\", trust: own, limits: {{ wall: 10m }} }}
steps:
  - {{ id: truncate, uses: truncate-scratch }}
  - {{ id: new-batches, uses: diff-manifest, with: {{ into: batches }} }}
  - id: ids
    uses: collect-ids
    with: {{ batches: batches, key: {{ key: domain_userid }}, into: ids }}
  - id: fold
    uses: guest
    with:
      do: {do_what}
      from: [ids, batches]
      into: folded
      select: \"{select}\"
      reads: [atomic.events]
      key: [key]
      order-by: [derived_tstamp]
      {more}
  - id: commit
    uses: commit
    with: {{ replace: [{{ table: derived.folded, from: folded, ids: ids }}], manifest: batches }}
",
        GUEST.display()
    )
}

/// The events of the ids, in no way restricted to the batches: all of them are processed here.
const OF_IDS: &str = "SELECT e.domain_userid AS key, e.derived_tstamp, e.event_id FROM atomic.events AS e JOIN {{ids}} AS i ON i.key = e.domain_userid";

/// Goal: after runs over late, repeated and split events nothing differs, whatever part is compared and wherever batches
/// of rows are cut; and a part is less than the whole.
#[tokio::test(flavor = "multi_thread")]
async fn playbooks_with_reducers_verify_as_they_are() {
    std::sync::LazyLock::force(&examples::BUILT);
    for (name, table, padded) in [
        ("engaged_time.yaml", "derived.engaged_days", false),
        ("visitor_sessions.yaml", "derived.visitor_sessions", false),
        // The host groups no rows by a padded key: ids have the column's own type, rows have a text.
        ("engaged_time.yaml", "derived.engaged_days", true),
    ] {
        let db = Db::with_tables().await;
        if padded {
            db.sql("ALTER TABLE atomic.events ALTER domain_userid TYPE char(40)")
                .await;
        }
        land_and_run(&db, name, 41).await;
        let before = traces(&db).await;
        let playbook = workflow(name);
        let rows = db.number(&format!("SELECT count(*) FROM {table}")).await as u64;
        assert!(rows > 50, "{table} has {rows} rows");
        let whole = verify(&db, &playbook, &everything()).await;
        let whole = whole.unwrap_or_else(|error| panic!("{error:#?}"));
        assert!(!whole.differs, "{name}: {:?}", whole.tables);
        let compared = &whole.tables[0];
        assert_eq!((compared.rows, compared.computed), (rows, rows));
        assert!(whole.left_out.is_empty(), "{:?}", whole.left_out);
        for rows in [1, 7] {
            let cut = verify_in_batches(&db, &playbook, rows).await;
            assert_eq!(cut.tables, whole.tables, "batches of {rows} rows");
        }
        let middle = db
            .text(&format!(
                "SELECT to_char(percentile_disc(0.5) WITHIN GROUP (ORDER BY first_time), 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM {table}"
            ))
            .await
            .parse()
            .expect("a time");
        let parts = [
            VerifyOptions {
                sample: Some(Sample::Share(0.4)),
                ..everything()
            },
            VerifyOptions {
                sample: Some(Sample::Keys(30)),
                seed: 3,
                ..everything()
            },
            VerifyOptions {
                since: Some(middle),
                ..everything()
            },
            VerifyOptions {
                until: Some(middle),
                ..everything()
            },
        ];
        for part in parts {
            let found = verify(&db, &playbook, &part).await;
            let found = found.unwrap_or_else(|error| panic!("{error:#?}"));
            assert!(!found.differs, "{name}: {part:?}: {:?}", found.tables);
            let computed = found.tables[0].computed;
            assert!(0 < computed && computed < rows, "{name}: {part:?}");
        }
        assert_eq!(traces(&db).await, before, "{name}");
    }
}

/// A changed cell, a row that was deleted and one that nobody computed are named, in the whole and in a part.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_differ_from_what_a_reducer_gives_are_named() {
    std::sync::LazyLock::force(&examples::BUILT);
    let db = Db::with_tables().await;
    land_and_run(&db, "engaged_time.yaml", 42).await;
    let playbook = workflow("engaged_time.yaml");
    let key = |nth: u32| {
        format!(
            "SELECT visitor FROM derived.engaged_days GROUP BY visitor HAVING count(*) = 1 ORDER BY visitor LIMIT 1 OFFSET {nth}"
        )
    };
    let [changed, deleted] = [db.text(&key(2)).await, db.text(&key(5)).await];
    let was = db
        .number(&format!(
            "SELECT engaged_seconds FROM derived.engaged_days WHERE visitor = '{changed}'"
        ))
        .await;
    db.sql(&format!(
        "UPDATE derived.engaged_days SET engaged_seconds = engaged_seconds + 5, bounced = NOT bounced WHERE visitor = '{changed}';
         DELETE FROM derived.engaged_days WHERE visitor = '{deleted}';
         INSERT INTO derived.engaged_days SELECT (jsonb_populate_record(r, '{{\"visitor\": \"nobody\"}}')).*
           FROM derived.engaged_days AS r ORDER BY first_time, visitor LIMIT 1"
    ))
    .await;
    let before = traces(&db).await;
    for what in [
        everything(),
        VerifyOptions {
            sample: Some(Sample::Share(1.0)),
            ..everything()
        },
        VerifyOptions {
            since: Some(jiff::Timestamp::UNIX_EPOCH),
            ..everything()
        },
    ] {
        let found = verify(&db, &playbook, &what).await.expect("it verifies");
        let table = &found.tables[0];
        assert!(found.differs);
        assert_eq!(
            (table.missing, table.surplus, table.differing),
            (1, 1, 1),
            "{what:?}: {table:?}"
        );
        assert_eq!(values(table, "missing"), [(deleted.clone(), vec![])]);
        assert_eq!(values(table, "surplus"), [("nobody".to_owned(), vec![])]);
        let differing = values(table, "differing");
        assert_eq!((differing.len(), &differing[0].0), (1, &changed));
        let cells = &differing[0].1;
        assert_eq!(
            cells[0],
            (
                "engaged_seconds".to_owned(),
                Some((was + 5).to_string()),
                Some(was.to_string())
            )
        );
        assert_eq!((cells.len(), cells[1].0.as_str()), (2, "bounced"));
    }
    assert_eq!(traces(&db).await, before);
}

/// Goal: more rows than a batch takes, out and in, come through the file whole; and a step that computes more keys than
/// those that a part asks for is not blamed for them.
/// Method: the guest gives back each of 12,000 events, some megabyte of them.
#[tokio::test(flavor = "multi_thread")]
async fn many_rows_come_through_the_file() {
    let db = Db::with_tables().await;
    db.sql(
        "INSERT INTO atomic.events (etl_tstamp, collector_tstamp, derived_tstamp, event_id, event_name, domain_sessionid,
           domain_userid, v_collector, v_etl)
         SELECT '2026-01-01'::timestamp + n % 3 * interval '1 hour', '2026-01-01'::timestamp + n * interval '1 second',
           '2026-01-01'::timestamp + n * interval '1 second', gen_random_uuid()::text, 'page_view', 's' || n / 10,
           'v' || n % 997, '', ''
         FROM generate_series(1, 12000) AS n",
    )
    .await;
    let output =
        "output: [[key, 25, varlen], [derived_tstamp, 1114, int64], [event_id, 25, varlen]]";
    let regardless =
        "SELECT e.domain_userid AS key, e.derived_tstamp, e.event_id FROM atomic.events AS e";
    for select in [OF_IDS, regardless] {
        let select = select.replace(
            "e.event_id",
            "repeat(e.event_id::text, 3)::text AS event_id",
        );
        let playbook = parse(&guest("echo", &select, output));
        db.run(&playbook).await.expect("it runs");
        for sample in [None, Some(Sample::Share(0.5)), Some(Sample::Keys(100))] {
            let what = VerifyOptions {
                sample,
                ..everything()
            };
            let found = verify(&db, &playbook, &what).await.expect("it verifies");
            assert!(!found.differs, "{sample:?}: {:?}", found.tables);
            let rows = found.tables[0].computed;
            match sample {
                None => assert_eq!(rows, 12_000),
                Some(_) => assert!(0 < rows && rows < 9_000, "{sample:?}: {rows}"),
            }
        }
        // Within a part, too, what is missing is found.
        db.sql("DELETE FROM derived.folded WHERE key = 'v17'").await;
        let what = VerifyOptions {
            sample: Some(Sample::Share(1.0)),
            ..everything()
        };
        let found = verify(&db, &playbook, &what).await.expect("it verifies");
        assert_eq!(found.tables[0].missing, 13, "{:?}", found.tables);
        db.sql("DROP TABLE derived.folded; DELETE FROM derived.manifest")
            .await;
    }
}

/// Goal: whatever goes wrong in the plugin or in its SELECT ends the verification with the reason, and nothing is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_reducer_that_fails_in_a_verification_leaves_nothing() {
    let db = Db::with_tables().await;
    for batch in stream(43).take(6) {
        db.land(&batch).await;
    }
    db.sql(
        "CREATE TABLE public.written (n int);
         CREATE FUNCTION public.sneak() RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO public.written VALUES (1) RETURNING n'",
    )
    .await;
    let fold = guest("fold", OF_IDS, "");
    db.run(&parse(&fold)).await.expect("it runs");
    let before = traces(&db).await;
    let dividing = OF_IDS.replace("e.event_id", "1 / (length(e.event_id::text) - 36) AS n");
    let writing = OF_IDS.replace("e.event_id", "public.sneak() AS n");
    let text = "output: [[key, 25, varlen], [at, 1114, int64], [id, 25, varlen, 'not null']]";
    for (text, part) in [
        (guest("fail-open", OF_IDS, ""), "cannot open"),
        (guest("fail-push", OF_IDS, ""), "cannot push"),
        (guest("panic", OF_IDS, ""), "the reducer gave up"),
        (guest("fail-finish", OF_IDS, text), "cannot finish"),
        (guest("no-utf8", OF_IDS, text), "it is not UTF-8"),
        (guest("fold", &dividing, ""), "division by zero"),
        (guest("fold", &writing, ""), "read-only transaction"),
        (
            guest("spin", OF_IDS, "").replace("wall: 10m", "wall: 1s"),
            " 1 s",
        ),
        (
            guest("fold", OF_IDS, "").replace("wall: 10m", "rows-out: 3"),
            "rows given: 22, the limit is 3",
        ),
    ] {
        let error = verify(&db, &parse(&text), &everything()).await;
        let error = error.expect_err(&text);
        let said = format!("{error} {:?}", error.problem);
        assert!(said.contains(part), "{part}: {said}");
        assert_eq!(
            error.step.as_ref().map(|step| step.id.as_str()),
            Some("fold")
        );
        assert_eq!(error.failure(), Failure::Step);
        assert_eq!(traces(&db).await, before, "{part}");
    }
    assert_eq!(db.number("SELECT count(*) FROM public.written").await, 0);
    let found = verify(&db, &parse(&fold), &everything()).await;
    assert!(!found.expect("it verifies").differs);
}

/// Waits until no session but the test's own is there.
async fn wait_until_alone(db: &Db) {
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND backend_type = 'client backend'";
    db.wait_for(others, |n| n == 0).await;
}

/// Goal: the program verifies with its temporary file where TMPDIR says, which has no name there; says so where that
/// cannot be; and a signal while the plugin computes ends it, on the server too, with nothing left.
#[tokio::test(flavor = "multi_thread")]
async fn the_program_leaves_no_file_and_no_table() {
    std::sync::LazyLock::force(&examples::BUILT);
    let db = Db::with_tables().await;
    land_and_run(&db, "engaged_time.yaml", 44).await;
    let program = Program::new(&db);
    let component = crate::harness::root().join("target/plugins/engaged-time.wasm");
    let text = read_with_url(&db, "engaged_time.yaml").replace(
        "../target/plugins/engaged-time.wasm",
        &component.display().to_string(),
    );
    let file = program.file("engaged_time.yaml", &text);
    let folder = tempfile::tempdir().expect("a folder");
    let temporary = folder.path().display().to_string();
    let files = || std::fs::read_dir(folder.path()).expect("a folder").count();
    let before = traces(&db).await;
    let run =
        |folder: &str| Ended::of(program.start_with(&["verify", &file], &[("TMPDIR", folder)]));
    let clean = run(&temporary);
    assert_eq!(clean.code, 0, "{}", clean.stderr);
    assert!(
        clean.stdout.contains("derived.engaged_days"),
        "{}",
        clean.stdout
    );
    let nowhere = format!("{temporary}/nowhere");
    let failed = run(&nowhere);
    assert_eq!(failed.code, 6, "{}", failed.stderr);
    for part in [
        "could not keep the reducer's rows in a temporary file",
        &nowhere,
        "engaged_time.yaml:34:9",
        "No such file or directory",
        "name another folder by TMPDIR",
    ] {
        assert!(failed.stderr.contains(part), "{part}: {}", failed.stderr);
    }
    assert_eq!((files(), traces(&db).await), (0, before));
    wait_until_alone(&db).await;

    let with_url = |text: String| format!("{text}\nwarehouse: {{ url: \"{}\" }}\n", db.url());
    db.run(&parse(&guest("fold", OF_IDS, "")))
        .await
        .expect("it runs");
    let spinning = program.file("spin.yaml", &with_url(guest("spin", OF_IDS, "")));
    let before = traces(&db).await;
    for (signal, code) in [
        (libc::SIGINT, 130),
        (libc::SIGTERM, 143),
        (libc::SIGKILL, -9),
    ] {
        let child = program.start_with(&["verify", &spinning], &[("TMPDIR", &temporary)]);
        let copying = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'COPY (%'";
        db.wait_for(copying, |n| n > 0).await;
        // SAFETY: the child is ours and not yet waited for.
        unsafe { libc::kill(child.id().try_into().expect("a pid"), signal) };
        let ended = tokio::task::spawn_blocking(|| Ended::of(child)).await;
        let ended = ended.expect("no panic");
        assert_eq!(ended.code, code, "{}", ended.stderr);
        wait_until_alone(&db).await;
        assert_eq!(files(), 0);
        assert_eq!(traces(&db).await, before);
    }
}
