//! A full refresh leaves everything on a derived table that is not its rows, or refuses and says what it would take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use stepwell_runner::RunOptions;
use stepwell_warehouse::{Session, SessionOptions};
use stepwell_workflow::Workflow;

use crate::harness::{Db, parse, read, stream, workflow};
use crate::program::{Program, read_with_url};

/// Everything about `derived.sessions` in the catalog that people make, as one text a line. Names of constraints and
/// indexes stand in what they are.
const ABOUT: &str = "
    SELECT what::text FROM (
      SELECT 'table ' || c.oid || ' ' || r.rolname || ' ' || coalesce(c.relacl::text, '') || ' '
        || coalesce(c.reloptions::text, '') || ' ' || c.relreplident::text || c.relrowsecurity || ' ' || c.relforcerowsecurity AS what
      FROM pg_class AS c JOIN pg_roles AS r ON r.oid = c.relowner WHERE c.oid = 'derived.sessions'::regclass
      UNION ALL
      SELECT 'column ' || attname || ' ' || coalesce(attacl::text, '') || ' ' || coalesce(attstattarget, -1) || ' ' || attnotnull
      FROM pg_attribute WHERE attrelid = 'derived.sessions'::regclass AND attnum > 0 AND NOT attisdropped
      UNION ALL
      SELECT 'index ' || pg_get_indexdef(indexrelid) || ' ' || indisclustered || ' ' || indisreplident
      FROM pg_index WHERE indrelid = 'derived.sessions'::regclass
      UNION ALL
      SELECT 'comment ' || objsubid || ' ' || description FROM pg_description
      WHERE objoid = 'derived.sessions'::regclass
      UNION ALL
      SELECT 'constraint ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
      WHERE conrelid = 'derived.sessions'::regclass
      UNION ALL
      SELECT 'trigger ' || pg_get_triggerdef(oid) || ' ' || tgenabled::text FROM pg_trigger
      WHERE tgrelid = 'derived.sessions'::regclass
      UNION ALL
      SELECT 'policy ' || polname || ' ' || pg_get_expr(polqual, polrelid) FROM pg_policy
      WHERE polrelid = 'derived.sessions'::regclass
      UNION ALL
      SELECT 'statistics ' || pg_get_statisticsobjdef(oid) FROM pg_statistic_ext
      WHERE stxrelid = 'derived.sessions'::regclass
      UNION ALL
      SELECT 'view ' || viewname || ' ' || definition FROM pg_views WHERE schemaname = 'reports'
      UNION ALL
      SELECT 'materialized view ' || matviewname || ' ' || definition FROM pg_matviews WHERE schemaname = 'reports'
      UNION ALL
      SELECT 'publication ' || pubname FROM pg_publication_tables
      WHERE schemaname = 'derived' AND tablename = 'sessions'
    ) AS about ORDER BY 1";

/// One of everything. `{role}` is a role of this database's.
const DECORATED: &str = "
    CREATE SCHEMA reports;
    CREATE VIEW reports.longest AS SELECT session_id, events FROM derived.sessions ORDER BY events DESC LIMIT 10;
    CREATE MATERIALIZED VIEW reports.days AS SELECT start_tstamp::date AS day, count(*) AS n FROM derived.sessions GROUP BY 1;
    CREATE TABLE reports.noted (n bigint);
    CREATE FUNCTION reports.note() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN INSERT INTO reports.noted SELECT count(*) FROM derived.sessions; RETURN NULL; END $$;
    CREATE TRIGGER note AFTER INSERT ON derived.sessions EXECUTE FUNCTION reports.note();
    CREATE UNIQUE INDEX by_id ON derived.sessions (session_id) INCLUDE (events);
    CREATE INDEX by_start ON derived.sessions (start_tstamp, end_tstamp) WHERE page_views > 0;
    CREATE INDEX by_url ON derived.sessions (lower(first_page_url));
    ALTER TABLE derived.sessions CLUSTER ON by_id;
    CREATE STATISTICS derived.together ON events, page_views FROM derived.sessions;
    ALTER TABLE derived.sessions ALTER COLUMN first_page_url SET STATISTICS 500;
    COMMENT ON TABLE derived.sessions IS 'ours';
    COMMENT ON COLUMN derived.sessions.events IS 'each once';
    ALTER TABLE derived.sessions ADD CONSTRAINT positive CHECK (events > 0);
    ALTER TABLE derived.sessions ALTER COLUMN session_id SET NOT NULL;
    ALTER TABLE derived.sessions SET (fillfactor = 70);
    ALTER TABLE derived.sessions OWNER TO {role};
    GRANT SELECT ON derived.sessions TO PUBLIC;
    GRANT UPDATE (page_views) ON derived.sessions TO PUBLIC;
    ALTER TABLE derived.sessions ENABLE ROW LEVEL SECURITY;
    CREATE POLICY short ON derived.sessions USING (events < 5);
    ALTER TABLE derived.sessions REPLICA IDENTITY FULL;
    CREATE PUBLICATION {role} FOR TABLE derived.sessions";

/// A database with a first build and everything on its table, and the role that owns that.
async fn decorated(seed: u64) -> (Db, String) {
    let db = Db::with_tables().await;
    for batch in stream(seed).take(10) {
        db.land(&batch).await;
    }
    db.run(&workflow("sessions.yaml"))
        .await
        .expect("a first build");
    let role = format!("owner_in_{}", db.text("SELECT current_database()").await);
    db.sql(&format!("CREATE ROLE {role}")).await;
    db.sql(&DECORATED.replace("{role}", &role)).await;
    (db, role)
}

/// Roles are the whole server's, which other tests use.
async fn forget(db: &Db, role: &str) {
    db.sql(&format!(
        "DROP PUBLICATION {role}; REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}"
    ))
    .await;
}

async fn refresh(db: &Db, workflow: &Workflow) -> Result<(), stepwell_runner::RunError> {
    let options = RunOptions {
        full_refresh: true,
        ..RunOptions::default()
    };
    db.run_with(workflow, &options).await.map(drop)
}

/// What `sessions.yaml` computes, changed.
fn rebuilding(changes: &[(&str, &str)]) -> Workflow {
    let mut text = read("sessions.yaml").replace(
        "      manifest: batches\n",
        "      manifest: batches\n      on-schema-change: rebuild\n",
    );
    assert!(text.contains("on-schema-change"));
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    parse(&text)
}

/// A full refresh changes rows and nothing else, and readers never find the table without them.
///
/// Goal: what people have put on the table is what it was: owner, grants on table and columns, indexes, comments,
/// constraints, triggers, policies, statistics, storage parameters, publication, views; the trigger fires.
/// Method: the catalog before and after, as text. All the while a reader counts, in one transaction that began before
/// and in new ones.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_rows_survives_a_full_refresh() {
    let (db, role) = decorated(91).await;
    let before = db.rows(ABOUT).await;
    for words in [
        "table ",
        "index ",
        "comment 0",
        "constraint ",
        "trigger ",
        "policy ",
        "statistics ",
        "view ",
        "materialized ",
        "publication ",
    ] {
        let there = before
            .iter()
            .any(|row| row[0].as_ref().is_some_and(|text| text.starts_with(words)));
        assert!(there, "no {words} in {before:#?}");
    }
    let sessions = db.number("SELECT count(*) FROM derived.sessions").await;
    let (over, looks) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let reader = Session::connect(&db.target, &SessionOptions::default())
        .await
        .expect("connect");
    let old = Session::connect(&db.target, &SessionOptions::default())
        .await
        .expect("connect");
    old.batch("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM derived.manifest")
        .await
        .expect("a snapshot");
    let polling = {
        let (over, looks) = (over.clone(), looks.clone());
        tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let found = counted(&reader).await;
                assert_eq!(found, (sessions, sessions));
                looks.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    refresh(&db, &workflow("sessions.yaml")).await.unwrap();
    over.store(true, Ordering::Relaxed);
    polling.await.expect("the reader saw nothing else");
    assert!(looks.load(Ordering::Relaxed) > 0);
    assert_eq!(counted(&old).await, (sessions, sessions));
    old.batch("COMMIT").await.expect("the end of the snapshot");
    assert_eq!(db.rows(ABOUT).await, before);
    assert_eq!(
        db.number("SELECT max(n) FROM reports.noted").await,
        sessions
    );
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
    forget(&db, &role).await;
}

/// The rows, and the keys among them.
async fn counted(session: &Session) -> (i64, i64) {
    let sql = "SELECT count(*) AS rows, count(DISTINCT session_id) AS keys FROM derived.sessions";
    let limits = stepwell_warehouse::AnswerLimits::default();
    let found = session.ask(sql, &[], &limits).await.expect("a count");
    let number = |name| found.int64(0, name).expect("a number");
    (number("rows"), number("keys"))
}

/// Columns that come and go in a rebuild leave everything on other columns; what hangs on one that goes is named, and
/// nothing is done.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_takes_nothing_with_it_unseen() {
    let (db, role) = decorated(92).await;
    let before = db.rows(ABOUT).await;
    let rows = "SELECT count(*) || ' ' || sum(hashtext(s::text)) FROM derived.sessions AS s";
    let rows_before = db.text(rows).await;
    let other = [
        // A view needs it.
        (
            "        events: count(*)\n",
            "",
            "view reports.longest, with column \"events\"",
        ),
        // An index over two columns.
        (
            "        end_tstamp: max(derived_tstamp)\n",
            "",
            "index derived.by_start, with column \"end_tstamp\"",
        ),
        // Of another type: what was granted on it would be gone.
        (
            "page_views: count(*) FILTER (WHERE event_name = 'page_view')\n",
            "page_views: (count(*) FILTER (WHERE event_name = 'page_view'))::int\n",
            "grants on it, with column \"page_views\"",
        ),
        (
            "events: count(*)\n",
            "events: count(*)::int\n",
            "the comment on it, with column \"events\"",
        ),
        (
            "first_page_url: >-\n          (array_agg(page_url ORDER BY derived_tstamp, event_id)\n          FILTER (WHERE event_name = 'page_view'))[1]",
            "first_page_url: min(page_url)::varchar(300)",
            "index derived.by_url, with column \"first_page_url\"",
        ),
    ];
    for (from, to, lost) in other {
        let error = refresh(&db, &rebuilding(&[(from, to)])).await.unwrap_err();
        let words = error.to_string();
        assert!(words.contains("would lose what hangs on them"), "{words}");
        assert!(words.contains(lost), "no {lost} in {words}");
        assert_eq!(db.rows(ABOUT).await, before);
        assert_eq!(db.text(rows).await, rows_before);
    }
    // One comes, one changes its type, and one goes on which nothing but an index of its own hangs.
    db.sql("CREATE INDEX by_engaged ON derived.sessions (engaged_seconds)")
        .await;
    let changed = rebuilding(&[
        (
            "        engaged_seconds: 10 * count(*) FILTER (WHERE event_name = 'page_ping')\n",
            "        pings: count(*) FILTER (WHERE event_name = 'page_ping')\n",
        ),
        (
            "pages: count(DISTINCT page.id)",
            "pages: count(DISTINCT page.id)::int",
        ),
    ]);
    refresh(&db, &changed).await.unwrap();
    let after = db.rows(ABOUT).await;
    let texts = |rows: &[Vec<Option<String>>]| -> Vec<String> {
        let kept = rows.iter().flatten().flatten();
        kept.filter(|text| {
            ![
                "column engaged",
                "column pings",
                "index CREATE INDEX by_engaged",
            ]
            .iter()
            .any(|words| text.starts_with(words))
        })
        .cloned()
        .collect()
    };
    assert_eq!(texts(&after), texts(&before));
    assert_eq!(
        db.number("SELECT sum(pings) - 0 FROM derived.sessions")
            .await,
        db.number(
            "SELECT count(*) FROM (SELECT DISTINCT domain_sessionid, event_id FROM atomic.events
             WHERE event_name = 'page_ping' AND domain_sessionid IS NOT NULL) AS pings"
        )
        .await
    );
    forget(&db, &role).await;
}

/// A policy that hides rows from the login: they would stay beside the new ones. The run refuses, and leaves all as it was.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_policy_hides_are_not_doubled() {
    let db = Db::with_tables().await;
    for batch in stream(93).take(10) {
        db.land(&batch).await;
    }
    let role = format!("login_in_{}", db.text("SELECT current_database()").await);
    let database = db.text("SELECT current_database()").await;
    db.sql(&format!(
        "CREATE ROLE {role} LOGIN;
         GRANT ALL ON DATABASE {database} TO {role};
         GRANT USAGE ON SCHEMA atomic TO {role};
         GRANT SELECT ON ALL TABLES IN SCHEMA atomic TO {role}"
    ))
    .await;
    let program = Program::new(&db);
    let text = read_with_url(&db, "sessions.yaml");
    let (before_user, rest) = text.split_once("postgres://").expect("a url");
    let (_, after_user) = rest.split_once('@').expect("a user");
    let file = program.file(
        "sessions.yaml",
        &format!("{before_user}postgres://{role}@{after_user}"),
    );
    assert_eq!(program.run(&["init", &file]).code, 0);
    let built = program.run(&["run", &file]);
    assert_eq!(built.code, 0, "{}", built.stderr);
    db.sql(
        "ALTER TABLE derived.sessions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
         CREATE POLICY short ON derived.sessions USING (events < 5) WITH CHECK (true)",
    )
    .await;
    let rows = "SELECT count(*) || ' ' || sum(hashtext(s::text)) FROM derived.sessions AS s";
    let before = db.text(rows).await;
    let ended = program.run(&["run", &file, "--full-refresh"]);
    assert_eq!(ended.code, 6, "{}", ended.stderr);
    let words = "query would be affected by row-level security policy for table \"sessions\"";
    assert!(ended.stderr.contains(words), "{}", ended.stderr);
    assert_eq!(db.text(rows).await, before);
    db.sql("ALTER TABLE derived.sessions NO FORCE ROW LEVEL SECURITY")
        .await;
    let ended = program.run(&["run", &file, "--full-refresh"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(db.text(rows).await, before);
    db.sql(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}"))
        .await;
}
