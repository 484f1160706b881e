//! `stepwell demo` as a newcomer meets it, and the way from there to a workflow of one's own.

use tempfile::TempDir;

use crate::harness::{Db, root, share_server_with};
use crate::program::{Ended, Program};

/// The whole story, told twice in one folder.
///
/// Goal: titles stand before what belongs to them; the first demo's database is replaced with a word about it and not
/// otherwise; `${env:DATABASE_URL:-local}` leads a workflow file of the repository to the demo's events, and without the
/// variable the message says which database was asked and where the demo's events are.
#[tokio::test(flavor = "multi_thread")]
async fn a_demo_says_what_it_replaces_and_leads_to_workflows_of_ones_own() {
    let db = Db::empty().await;
    let program = Program::new(&db);
    let project = TempDir::new().expect("a folder");
    share_server_with(project.path());
    let project = project.path().display().to_string();
    let run = |args: &[&str], url: Option<&str>| {
        let args: Vec<&str> = args
            .iter()
            .copied()
            .chain(["--project", &project])
            .collect();
        let envs: Vec<_> = url.iter().map(|url| ("DATABASE_URL", *url)).collect();
        Ended::of(program.start_with(&args, &envs))
    };
    let demo = ["demo", "--events", "2000", "--days", "3"];
    let first = run(&demo, None);
    assert_eq!(first.code, 0, "{}", first.stderr);
    assert_eq!(first.stderr, "");
    let titles = first
        .stdout
        .lines()
        .filter(|line| !line.starts_with(' ') && !line.is_empty());
    let titles: Vec<&str> = titles.take(7).collect();
    assert_eq!(
        titles,
        [
            "1. A private PostgreSQL server",
            "2. Events land, hour by hour",
            "3. First build: every batch is new",
            "4. 3 more batches land",
            "5. Incremental run: only what the new batches touch",
            "6. Run again: nothing is new, nothing is written",
            "7. Rebuild from the events alone, and compare",
        ],
        "{}",
        first.stdout
    );
    assert!(
        first.stdout.contains("\n0 rows differ ("),
        "{}",
        first.stdout
    );

    let second = run(&demo, None);
    assert_eq!(second.code, 0, "{}", second.stderr);
    let replaced = "the database stepwell_demo of an earlier demo is replaced";
    assert!(second.stderr.contains(replaced), "{}", second.stderr);

    let workflow = root().join("workflows/page_views.yaml");
    let workflow = workflow.to_str().expect("UTF-8");
    let lost = run(&["run", workflow], None);
    assert_eq!(lost.code, 3, "{}", lost.stderr);
    for part in [
        "database \"postgres\" of the private server has no table atomic.events",
        "`stepwell local url --database stepwell_demo`",
    ] {
        assert!(lost.stderr.contains(part), "{}", lost.stderr);
    }
    let url = run(&["local", "url", "--database", "stepwell_demo"], None).stdout;
    let found = run(&["run", workflow], Some(url.trim()));
    assert_eq!(found.code, 0, "{}", found.stderr);
    assert!(found.stdout.starts_with("page_views: "), "{}", found.stdout);
}
