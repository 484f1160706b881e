//! The example plugins of `plugins/`, as a team would use them: built, named in a workflow, and run.
//!
//! Each table is compared with SQL that says the same in other words, over the events of the processed batches, after
//! several runs over a stream with late, repeated and split events.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use crate::harness::{Db, root, stream, workflow};

const EXAMPLES: [&str; 3] = ["engaged-time", "rollup", "sessionize"];

/// The component of every example stands where the workflows look for it.
static BUILT: LazyLock<()> = LazyLock::new(|| {
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

/// Lands the whole stream, with runs of the workflow in between and at the end.
async fn run_over(db: &Db, name: &str, seed: u64) {
    LazyLock::force(&BUILT);
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
async fn assert_rows(db: &Db, table: &str, query: &str) {
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
