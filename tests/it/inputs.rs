//! Bad input: a message with place, cause and next step, a documented exit code, and tables as they were.

use crate::harness::{Db, stream};
use crate::program::{Program, read_with_url};

/// What a program run left behind, so that it can be compared.
async fn traces(db: &Db) -> Vec<Vec<Option<String>>> {
    db.rows(
        "SELECT c.relname, c.relfilenode, pg_relation_size(c.oid), (SELECT count(*) FROM derived.manifest)
         FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname = 'derived' AND c.relkind = 'r' ORDER BY 1",
    )
    .await
}

/// A database with a first build of `sessions`, and batches that are not processed yet.
async fn with_pending() -> (Db, Program) {
    let db = Db::with_tables().await;
    let batches: Vec<_> = stream(41).take(14).collect();
    for batch in &batches[..10] {
        db.land(batch).await;
    }
    let program = Program::new(&db);
    let file = program.file("sessions.yaml", &read_with_url(&db, "sessions.yaml"));
    assert_eq!(program.run(&["init", &file]).code, 0);
    let built = program.run(&["run", &file]);
    assert_eq!(built.code, 0, "{}", built.stderr);
    for batch in &batches[10..] {
        db.land(batch).await;
    }
    (db, program)
}

/// Runs a changed `sessions.yaml` and asserts that it fails with this code, says these things, and changes nothing.
async fn fails(change: impl Fn(String) -> String, code: i32, says: &[&str]) {
    let (db, program) = with_pending().await;
    let before = traces(&db).await;
    let file = program.file("changed.yaml", &change(read_with_url(&db, "sessions.yaml")));
    let run = program.run(&["run", &file]);
    assert_eq!(run.code, code, "{}", run.stderr);
    for part in says {
        assert!(run.stderr.contains(part), "no {part:?} in:\n{}", run.stderr);
    }
    assert!(run.stdout.is_empty(), "{}", run.stdout);
    assert_eq!(traces(&db).await, before);
}

/// A `source:` that does not fit the tables is shown at its key, before anything else is done.
///
/// Goal: each key that can be wrong is the one that is pointed at, and what it should be is said.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_does_not_fit_is_shown_at_its_key() {
    let (db, program) = with_pending().await;
    db.sql("ALTER TABLE atomic.events ADD extra json, ADD number bigint")
        .await;
    let before = traces(&db).await;
    let text = read_with_url(&db, "sessions.yaml");
    let source = |line: &str, other: &str| {
        assert!(text.contains(line), "{line:?} is in the file");
        text.replacen(line, other, 1)
    };
    let database = db.rows("SELECT current_database()").await;
    let database = database[0][0].clone().expect("a name");
    let no_table = |table: &str| format!("database \"{database}\" has no table {table}");
    let no_order = |key: &str| format!("key \"{key}\": its values cannot be compared: ");
    let no_column = |key: &str, column: &str, table: &str| {
        format!("key \"{key}\": column \"{column}\" does not exist in table {table}")
    };
    let page = "atomic.com_snowplowanalytics_snowplow_web_page_1";
    let no_time = "key \"time\": expected a column of dates or timestamps";
    for (line, other, at, says) in [
        (
            "  events: atomic.events",
            "  events: atomic.evnts",
            "atomic.evnts",
            no_table("atomic.evnts"),
        ),
        (
            "  events: atomic.events",
            "  events: atomc.events",
            "atomc.events",
            no_table("atomc.events"),
        ),
        (
            "  batch: etl_tstamp",
            "  batch: etl_tstmp",
            "etl_tstmp",
            no_column("batch", "etl_tstmp", "atomic.events"),
        ),
        (
            "  batch: etl_tstamp",
            "  batch: extra",
            "extra",
            no_order("batch"),
        ),
        (
            "  batch: etl_tstamp",
            "  batch: max(etl_tstamp)",
            "events: atomic.events",
            "must appear in the GROUP BY".into(),
        ),
        (
            "  time: collector_tstamp",
            "  time: domain_userid",
            "domain_userid",
            format!(
                "{no_time}, and domain_userid of table atomic.events is of type character varying"
            ),
        ),
        (
            "  time: collector_tstamp",
            "  time: number",
            "number",
            format!("{no_time}, and number of table atomic.events is of type bigint"),
        ),
        (
            "  event-id: event_id",
            "  event-id: evnt_id",
            "evnt_id",
            no_column("event-id", "evnt_id", "atomic.events"),
        ),
        (
            "  event-id: event_id",
            "  event-id: extra",
            "extra",
            no_order("event-id"),
        ),
        (
            "      event-id: root_id",
            "      event-id: root_tstamp",
            "root_tstamp",
            no_order("event-id"),
        ),
        (
            "      time: root_tstamp",
            "      time: id",
            "id",
            format!("{no_time}, and id of table {page} is of type"),
        ),
        (
            "      columns: [id]",
            "      columns: [id, idd]",
            "idd",
            no_column("columns", "idd", page),
        ),
        (page, "atomic.page", "atomic.page", no_table("atomic.page")),
    ] {
        let file = program.file("changed.yaml", &source(line, other));
        let commands: &[&str] = match other.contains("time") {
            true => &["run", "plan", "init", "verify", "lookback"],
            false => &["run"],
        };
        for command in commands {
            let ended = program.run(&[command, &file]);
            let said = &ended.stderr;
            assert_eq!(ended.code, 3, "{command} {other}: {said}");
            assert!(said.contains(&says), "no {says:?} in:\n{said}");
            assert!(said.contains("help:") || at.starts_with("events"), "{said}");
            // The line below the one that is shown underlines what is wrong in it.
            let mut lines = said.lines().skip_while(|line| !line.contains(" | "));
            let shown = lines.next().unwrap_or_default();
            let marks = lines.next().unwrap_or_default();
            let start = marks.find('^').unwrap_or_default();
            let end = marks.rfind('^').map_or(0, |end| end + 1);
            assert_eq!(shown.get(start..end), Some(at), "{said}");
        }
    }
    assert_eq!(traces(&db).await, before);
    let file = program.file(
        "changed.yaml",
        &source("  time: collector_tstamp", "  time: number"),
    );
    let json = program.run(&["run", "--json", &file]).json();
    assert_eq!(json[0]["column"], 9, "{json}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_column_is_shown_in_the_sql() {
    let change = |text: String| text.replace("min(derived_tstamp)", "min(derived_tstmp)");
    fails(
        change,
        6,
        &[
            "step \"sessions\"",
            "derived_tstmp",
            "SQLSTATE 42703",
            "derived tables and manifest unchanged",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_setting_needs_no_database() {
    let change = |text: String| text.replace("dedupe:", "dedup:");
    fails(change, 3, &["changed.yaml:", "\"dedup\"", "dedupe"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_columns_are_refused_by_name() {
    let change =
        |text: String| text.replace("        events: count(*)\n", "        hits: count(*)\n");
    fails(
        change,
        6,
        &[
            "step \"commit\"",
            "\"hits\" (bigint) is new",
            "\"events\" is not computed",
            "on-schema-change",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_is_none_is_refused() {
    let change = |text: String| {
        let plugins = "plugins:\n  broken: { component: broken.wasm, trust: own }\n";
        text.replace("steps:\n", &format!("{plugins}\nsteps:\n"))
            .replace("uses: truncate-scratch", "uses: broken")
    };
    let (db, program) = with_pending().await;
    let before = traces(&db).await;
    program.file("broken.wasm", "no component");
    let file = program.file("changed.yaml", &change(read_with_url(&db, "sessions.yaml")));
    let run = program.run(&["run", &file]);
    assert_eq!(run.code, 3, "{}", run.stderr);
    assert!(
        run.stderr.contains("broken.wasm is no step component"),
        "{}",
        run.stderr
    );
    assert_eq!(traces(&db).await, before);
}

/// A disk that fills while scratch is written.
///
/// Method: the server says so (SQLSTATE 53100) when the aggregate step makes its table.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_leaves_everything_as_it_was() {
    let (db, program) = with_pending().await;
    db.on_create(
        "scratch.sessions__sessions",
        "RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'",
    )
    .await;
    let before = traces(&db).await;
    let file = program.file("sessions.yaml", &read_with_url(&db, "sessions.yaml"));
    let run = program.run(&["run", &file]);
    assert_eq!(run.code, 6, "{}", run.stderr);
    assert!(
        run.stderr.contains("disk is full") && run.stderr.contains("53100"),
        "{}",
        run.stderr
    );
    assert_eq!(traces(&db).await, before);
    db.sql("DROP EVENT TRIGGER on_create").await;
    assert_eq!(program.run(&["run", &file]).code, 0);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_server_says_where_it_looked() {
    let db = Db::empty().await;
    let program = Program::new(&db);
    let url =
        "warehouse: { url: \"postgres://nobody:s3cret@127.0.0.1:1/nothing?sslmode=disable\" }";
    let file = program.file(
        "away.yaml",
        &format!("{}\n{url}\n", crate::harness::read("sessions.yaml")),
    );
    let run = program.run(&["run", &file]);
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(
        run.stderr.contains("127.0.0.1:1") && run.stderr.contains("help:"),
        "{}",
        run.stderr
    );
    assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_the_host_are_asked_for() {
    let db = Db::with_tables().await;
    let program = Program::new(&db);
    let file = program.file("sessions.yaml", &read_with_url(&db, "sessions.yaml"));
    let run = program.run(&["run", &file]);
    assert_eq!(run.code, 7, "{}", run.stderr);
    assert!(run.stderr.contains("stepwell init"), "{}", run.stderr);
    // What a DBA would run is what `init` runs.
    let ddl = program.run(&["init", "--print", &file]);
    assert_eq!(ddl.code, 0, "{}", ddl.stderr);
    db.sql(&ddl.stdout).await;
    assert_eq!(program.run(&["run", &file]).code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_json_where_a_program_reads_them() {
    let (_db, program) = with_pending().await;
    let file = program.path("sessions.yaml");
    let plan: serde_json::Value = program.run(&["plan", "--json", &file]).json();
    assert_eq!(plan[0]["pending"]["batches"], 4);
    let run: serde_json::Value = program.run(&["run", "--json", &file]).json();
    assert_eq!(run[0]["outcome"]["state"], "done");
    assert_eq!(run[0]["batches"], 4);
    let manifest: serde_json::Value = program
        .run(&["manifest", "list", "--json", "--limit", "3", &file])
        .json();
    assert_eq!(manifest.as_array().map(Vec::len), Some(3));
    let again: serde_json::Value = program.run(&["run", "--json", &file]).json();
    assert_eq!(again[0]["outcome"]["state"], "nothing-new");
}
