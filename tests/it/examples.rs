//! The example plugins of `plugins/`, as a team would use them: built, named in a workflow, and run.
//!
//! Each table is compared with SQL that says the same in other words, over the events of the processed batches, after
//! several runs over a stream with late, repeated and split events.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use stepwell_sandbox::contract::{Batch, Column, Field, Layout, RunInfo, Values, Varlen};
use stepwell_sandbox::{Limits, Sandbox, SandboxOptions};

use crate::harness::{Db, root, stream, workflow};

const EXAMPLES: [&str; 3] = ["engaged-time", "rollup", "sessionize"];

/// The component of every example stands where the workflows look for it.
pub(crate) static BUILT: LazyLock<()> = LazyLock::new(|| {
    // Beside the built-in steps, whose build has compiled the SDK already.
    let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../steps");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(root())
        .args([
            "build",
            "--locked",
            "--quiet",
            "--profile",
            "plugin",
            "--target",
            "wasm32-wasip2",
        ])
        .arg("--target-dir")
        .arg(&target_dir)
        // What coverage or a sanitizer asked of the tests is not meant for components.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS");
    for example in EXAMPLES {
        cargo.arg("-p").arg(format!("stepwell-step-{example}"));
    }
    let output = cargo.output().expect("cargo can be started");
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "the examples did not compile:\n{messages}"
    );
    let plugins = root().join("target/plugins");
    std::fs::create_dir_all(&plugins).expect("target can be written");
    for example in EXAMPLES {
        let file = format!("stepwell_step_{}.wasm", example.replace('-', "_"));
        let built = target_dir.join("wasm32-wasip2/plugin").join(file);
        std::fs::copy(built, plugins.join(format!("{example}.wasm")))
            .expect("cargo made the component");
    }
});

async fn run_over(db: &Db, name: &str, seed: u64) {
    LazyLock::force(&BUILT);
    land_and_run(db, name, seed).await;
}

/// Lands the whole stream, with runs of the workflow in between and at the end.
pub(crate) async fn land_and_run(db: &Db, name: &str, seed: u64) {
    let workflow = workflow(name);
    for (at, batch) in stream(seed).enumerate() {
        db.land(&batch).await;
        if at == 20 || at > 36 {
            db.run(&workflow)
                .await
                .unwrap_or_else(|error| panic!("{error:#?}"));
        }
    }
}

/// The events of the playbook's processed batches, each once, with its visitor and day.
fn events(playbook: &str) -> String {
    format!(
        "SELECT DISTINCT ON (domain_userid, derived_tstamp::date, event_id)
           domain_userid AS visitor, derived_tstamp::date AS day, e.*
         FROM atomic.events AS e
         WHERE domain_userid IS NOT NULL AND derived_tstamp IS NOT NULL
           AND etl_tstamp IN (SELECT batch FROM derived.manifest WHERE playbook = '{playbook}')
         ORDER BY domain_userid, derived_tstamp::date, event_id, collector_tstamp, etl_tstamp, e.ctid"
    )
}

/// Asserts that a table has exactly the rows of a query.
pub(crate) async fn assert_rows(db: &Db, table: &str, query: &str) {
    let difference = format!(
        "(SELECT 'too many' AS what, a.* FROM (TABLE {table} EXCEPT ALL ({query})) AS a
          UNION ALL SELECT 'missing', b.* FROM (({query}) EXCEPT ALL TABLE {table}) AS b)"
    );
    let differing = db
        .rows(&format!(
            "SELECT * FROM {difference} AS d ORDER BY 2, 3 LIMIT 6"
        ))
        .await;
    assert!(differing.is_empty(), "{table}: {differing:#?}");
    let rows = db.number(&format!("SELECT count(*) FROM {table}")).await;
    assert!(rows > 50, "{table} has {rows} rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn visitors_are_summed_up_from_their_days() {
    let db = Db::with_tables().await;
    run_over(&db, "visitors.yaml", 31).await;
    let days = format!(
        "SELECT visitor, day, count(*) AS events, count(*) FILTER (WHERE event_name = 'page_view') AS page_views,
           (array_agg(geo_country ORDER BY derived_tstamp DESC, event_id))[1] AS last_country,
           min(collector_tstamp) AS first_time
         FROM ({}) AS e GROUP BY visitor, day",
        events("visitors")
    );
    assert_rows(&db, "derived.visitor_activity", &days).await;
    let visitors = format!(
        "SELECT visitor, min(day), max(day), count(*), sum(page_views)::bigint, sum(events)::bigint,
           (array_agg(last_country ORDER BY day DESC))[1]
         FROM ({days}) AS d GROUP BY visitor"
    );
    assert_rows(&db, "derived.visitors", &visitors).await;
    // The last run touched some visitors, and left the others alone.
    let touched = db
        .number("SELECT count(*) FROM scratch.visitors__visitor_ids")
        .await;
    let visitors = db.number("SELECT count(*) FROM derived.visitors").await;
    assert!(
        0 < touched && touched < visitors / 2,
        "{touched} of {visitors}"
    );
    // Some of them had days of their own that the run did not compute again.
    let kept = db
        .number(
            "SELECT count(*) FROM derived.visitor_activity AS a JOIN scratch.visitors__visitor_ids AS v USING (visitor)
             WHERE NOT EXISTS (SELECT FROM scratch.visitors__visitor_day_ids AS i WHERE (i.visitor, i.day) = (a.visitor, a.day))",
        )
        .await;
    assert!(kept > 0);
    db.assert_equals_rebuild("visitors.yaml", "derived.visitors")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn engaged_time_is_the_union_of_windows() {
    let db = Db::with_tables().await;
    run_over(&db, "engaged_time.yaml", 32).await;
    let query = format!(
        "WITH events AS ({}),
         pings AS (
           SELECT visitor, day, derived_tstamp AS until,
             greatest(derived_tstamp - interval '10 seconds', day::timestamp) AS since
           FROM events WHERE event_name = 'page_ping'
         ),
         apart AS (
           SELECT *, coalesce(since - max(until) OVER (PARTITION BY visitor, day ORDER BY until
             ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) > interval '1 second', true) AS begins
           FROM pings
         ),
         numbered AS (
           SELECT *, count(*) FILTER (WHERE begins) OVER (PARTITION BY visitor, day ORDER BY until
             ROWS UNBOUNDED PRECEDING) AS streak
           FROM apart
         ),
         streaks AS (
           SELECT visitor, day, max(until) - min(since) AS length FROM numbered GROUP BY visitor, day, streak
         ),
         engaged AS (
           SELECT visitor, day, floor(extract(epoch FROM sum(length)))::bigint AS seconds,
             floor(extract(epoch FROM max(length)))::bigint AS longest
           FROM streaks GROUP BY visitor, day
         )
         SELECT visitor, day, count(*) FILTER (WHERE event_name = 'page_view'),
           count(*) FILTER (WHERE event_name = 'page_ping'), coalesce(max(seconds), 0), coalesce(max(longest), 0),
           count(*) FILTER (WHERE event_name = 'page_view') = 1 AND count(*) FILTER (WHERE event_name = 'page_ping') = 0,
           min(collector_tstamp)
         FROM events LEFT JOIN engaged USING (visitor, day)
         GROUP BY visitor, day",
        events("engaged_time")
    );
    assert_rows(&db, "derived.engaged_days", &query).await;
    let merged = "SELECT count(*) FROM derived.engaged_days WHERE engaged_seconds BETWEEN 1 AND page_pings * 10 - 1";
    assert!(db.number(merged).await > 0, "no windows overlap");
    assert!(
        db.number("SELECT count(*) FROM derived.engaged_days WHERE bounced")
            .await
            > 0
    );
    db.assert_equals_rebuild("engaged_time.yaml", "derived.engaged_days")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_by_inactivity_and_campaign() {
    let db = Db::with_tables().await;
    // Most visits are too short for a campaign within one: here, every tenth event brings one.
    db.sql(
        "CREATE FUNCTION atomic.campaign(text) RETURNS varchar LANGUAGE sql IMMUTABLE AS $$
           SELECT CASE right($1, 1) WHEN '0' THEN 'spring' WHEN '1' THEN 'summer' END $$;
         CREATE FUNCTION atomic.bring() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN NEW.mkt_campaign := atomic.campaign(NEW.event_id::text); RETURN NEW; END $$;
         CREATE TRIGGER bring BEFORE INSERT ON atomic.events FOR EACH ROW EXECUTE FUNCTION atomic.bring()",
    )
    .await;
    run_over(&db, "visitor_sessions.yaml", 33).await;
    let query = format!(
        "WITH events AS ({}),
         paused AS (
           SELECT *, coalesce(derived_tstamp - lag(derived_tstamp) OVER day > interval '30 minutes', true) AS pause
           FROM events WINDOW day AS (PARTITION BY visitor, day ORDER BY derived_tstamp, event_id)
         ),
         visits AS (
           SELECT *, count(*) FILTER (WHERE pause) OVER (PARTITION BY visitor, day ORDER BY derived_tstamp, event_id) AS visit
           FROM paused
         ),
         begun AS (
           SELECT *, pause OR mkt_campaign IS NOT NULL AND mkt_campaign IS DISTINCT FROM
             lag(mkt_campaign) OVER (PARTITION BY visitor, day, visit, mkt_campaign IS NULL ORDER BY derived_tstamp, event_id)
             AS begins
           FROM visits
         ),
         numbered AS (
           SELECT *, count(*) FILTER (WHERE begins) OVER (PARTITION BY visitor, day ORDER BY derived_tstamp, event_id) AS session
           FROM begun
         )
         SELECT visitor, day, session,
           CASE WHEN session = 1 THEN 'first' WHEN bool_or(pause) THEN 'inactivity' ELSE 'campaign' END,
           min(derived_tstamp), max(derived_tstamp), count(*), count(*) FILTER (WHERE event_name = 'page_view'),
           (array_agg(mkt_campaign ORDER BY derived_tstamp, event_id))[1]::text, min(collector_tstamp)
         FROM numbered GROUP BY visitor, day, session",
        events("visitor_sessions")
    );
    assert_rows(&db, "derived.visitor_sessions", &query).await;
    for began_by in ["first", "inactivity", "campaign"] {
        let sessions =
            format!("SELECT count(*) FROM derived.visitor_sessions WHERE began_by = '{began_by}'");
        assert!(db.number(&sessions).await > 0, "{began_by}");
    }
    db.assert_equals_rebuild("visitor_sessions.yaml", "derived.visitor_sessions")
        .await;
}

/// The component that the SDK makes of a reducer, called as the host calls it: a group that goes on in the next batch is
/// one group, and an open with the wrong columns is refused by name.
#[test]
fn a_reducer_folds_groups_across_batches_as_a_component() {
    LazyLock::force(&BUILT);
    let bytes =
        std::fs::read(root().join("target/plugins/engaged-time.wasm")).expect("it was built");
    let sandbox = Sandbox::new(SandboxOptions::default()).expect("the engine starts");
    let component = sandbox.load(&bytes).expect("it fits the contract");
    let run = RunInfo {
        run_id: "0192".into(),
        playbook: "engaged_time".into(),
        step_id: "engaged-days".into(),
        as_of_us: 0,
        dialect: "postgres".into(),
        traits: vec![],
        source_json: "null".into(),
        settings_json: r#"{"ids":"ids","into":"days","time":"t","event":"e","heartbeat":"10s"}"#
            .into(),
        relations: vec![],
    };
    let field = |name: &str, type_oid, layout| Field {
        name: name.into(),
        type_oid,
        type_mod: -1,
        layout,
        nullable: true,
    };
    let input = [
        field("visitor", 1043, Layout::Varlen),
        field("day", 1082, Layout::Int32),
        field("at", 1114, Layout::Int64),
        field("event", 25, Layout::Varlen),
        field("source_time", 1114, Layout::Int64),
    ];
    let output = [
        field("visitor", 25, Layout::Varlen),
        field("day", 1082, Layout::Int32),
        field("page_views", 20, Layout::Int64),
        field("page_pings", 20, Layout::Int64),
        field("engaged_seconds", 20, Layout::Int64),
        field("longest_streak_seconds", 20, Layout::Int64),
        field("bounced", 16, Layout::Bits),
        field("first_time", 1114, Layout::Int64),
    ];
    // One ping each, of one visitor, at these seconds of 1970-01-01.
    let pings = |seconds: &[i64]| {
        let column = |values| Column {
            validity: None,
            values,
        };
        let text = |word: &str| {
            let length = u32::try_from(word.len()).expect("a word");
            let offsets = (0..=u32::try_from(seconds.len()).expect("few")).map(|at| at * length);
            Values::Varlen(Varlen {
                offsets: offsets.collect(),
                data: word.repeat(seconds.len()).into_bytes(),
            })
        };
        let times: Vec<i64> = seconds.iter().map(|second| second * 1_000_000).collect();
        Batch {
            rows: u32::try_from(seconds.len()).expect("few"),
            columns: vec![
                column(text("a")),
                column(Values::Int32(vec![0; seconds.len()])),
                column(Values::Int64(times.clone())),
                column(text("page_ping")),
                column(Values::Int64(times)),
            ],
        }
    };
    let mut reducer = component
        .reducer(&Limits::own(), &run, &input, &output)
        .expect("it opens");
    assert_eq!(
        reducer.push(&pings(&[20, 25]), true).expect("no failure"),
        None
    );
    assert_eq!(
        reducer.push(&pings(&[100]), false).expect("no failure"),
        None
    );
    let rows = reducer.finish().expect("no failure").expect("one row");
    assert_eq!(rows.rows, 1);
    assert_eq!(rows.columns[3].values, Values::Int64(vec![3]));
    assert_eq!(rows.columns[4].values, Values::Int64(vec![25]));
    assert_eq!(rows.columns[5].values, Values::Int64(vec![15]));
    assert_eq!(reducer.finish().expect("no failure"), None);

    let wrong = component
        .reducer(&Limits::own(), &run, &input[..4], &output)
        .expect_err("a column is missing");
    assert!(
        format!("{wrong:?}").contains("there is no column"),
        "{wrong:?}"
    );
}
