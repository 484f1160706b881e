//! Every workflow file of the repository runs, and its table equals a rebuild.

use stepwell_runner::Outcome;

use crate::harness::{Db, root, stream, workflow};

/// The workflow that README shows is one that runs: that of the file, with more comments.
#[test]
fn the_readme_shows_a_workflow_that_runs() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).expect("a file");
    let readme = read("README.md");
    let (_, shown) = readme.split_once("```yaml\n").expect("an example");
    let (shown, _) = shown.split_once("```").expect("its end");
    let bare = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .map(|line| line.split(" # ").next().unwrap_or_default());
        let lines = lines.map(|line| line.trim_end().to_owned());
        lines.filter(|line| !line.is_empty()).collect()
    };
    assert_eq!(bare(shown), bare(&read("workflows/visitor_days.yaml")));
}

#[tokio::test(flavor = "multi_thread")]
async fn page_views_follow_the_context() {
    let db = Db::with_tables().await;
    let batches: Vec<_> = stream(21).collect();
    for (at, batch) in batches.iter().enumerate() {
        db.land(batch).await;
        if at == 20 || at > 36 {
            db.run(&workflow("page_views.yaml")).await.unwrap();
        }
    }
    db.assert_equals_rebuild("page_views.yaml", "derived.page_views")
        .await;
    // A page context that was sent twice with two ids counts for neither page.
    let dropped = db.number("SELECT count(*) FROM (SELECT root_id FROM atomic.com_snowplowanalytics_snowplow_web_page_1
        GROUP BY root_id HAVING count(DISTINCT id) > 1) AS twice").await;
    assert!(dropped > 0, "the stream holds events with two page ids");
    let events = db
        .number("SELECT count(*) FROM scratch.page_views__page_view_events")
        .await;
    assert!(events > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn defrag_acts_on_what_it_measures_and_says_why() {
    let db = Db::with_tables().await;
    for batch in stream(23) {
        db.land(&batch).await;
    }
    db.run(&workflow("sessions.yaml")).await.unwrap();
    db.run(&workflow("visitor_days.yaml")).await.unwrap();
    db.sql("ANALYZE derived.sessions; DELETE FROM derived.sessions WHERE page_views < 3; SELECT pg_stat_force_next_flush()").await;
    let report = db.run(&workflow("defrag.yaml")).await.unwrap();
    assert_eq!(report.outcome, Outcome::Done);
    let labels: Vec<_> = report.steps[0]
        .statements
        .iter()
        .map(|s| s.label.as_str())
        .collect();
    assert!(
        labels
            .iter()
            .any(|label| label.contains("vacuum and analyze derived.sessions: ")),
        "{labels:?}"
    );
    assert!(
        report.steps[0]
            .notes
            .iter()
            .any(|note| note
                .starts_with("derived.page_views: nothing done, since it does not exist"))
    );
    assert_eq!(db.number("SELECT count(*) FROM pg_stat_all_tables WHERE relname = 'sessions' AND schemaname = 'derived' AND vacuum_count > 0").await, 1);
}
