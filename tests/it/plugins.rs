//! A plugin from nothing to a run, as a team makes it: outside of the repository, with the program alone.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::harness::{Db, parse, root, share_server_with, stream};
use crate::program::Ended;

/// A folder outside of the repository, and the program in it.
struct Team {
    folder: TempDir,
    url: String,
}

impl Team {
    fn new(db: &Db) -> Self {
        let folder = TempDir::new().expect("a folder");
        assert!(
            !folder.path().starts_with(root()),
            "outside of the repository"
        );
        share_server_with(folder.path());
        Self {
            folder,
            url: db.url(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a program in a folder of the team's, with what test runs share: compiled code.
    fn run(&self, program: &str, folder: &str, args: &[&str]) -> Ended {
        let child = Command::new(program)
            .args(args)
            .current_dir(self.path(folder))
            .env("DATABASE_URL", &self.url)
            .env("XDG_CACHE_HOME", shared("cache"))
            .env_remove("STEPWELL_LOG")
            .env_remove("STEPWELL_TRUST")
            .env_remove("CARGO_TARGET_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Ended::of(child.expect("the program starts"))
    }

    fn stepwell(&self, folder: &str, args: &[&str]) -> Ended {
        self.run(env!("CARGO_BIN_EXE_stepwell-under-test"), folder, args)
    }

    /// Runs the program, which must succeed, and returns what it printed.
    fn must(&self, folder: &str, args: &[&str]) -> String {
        let ended = self.stepwell(folder, args);
        assert_eq!(
            ended.code, 0,
            "{args:?}\n{}\n{}",
            ended.stdout, ended.stderr
        );
        ended.stdout
    }

    /// Runs the program, which must end with `code`, and returns what it printed.
    fn fails(&self, code: i32, folder: &str, args: &[&str]) -> String {
        let ended = self.stepwell(folder, args);
        assert_eq!(
            ended.code, code,
            "{args:?}\n{}\n{}",
            ended.stdout, ended.stderr
        );
        ended.stdout + &ended.stderr
    }

    /// Puts `new` in place of `old` in a file.
    fn edit(&self, name: &str, old: &str, new: &str) {
        let text = std::fs::read_to_string(self.path(name)).expect("a file");
        assert!(text.contains(old), "{name} has no {old}");
        std::fs::write(self.path(name), text.replace(old, new)).expect("written");
    }
}

fn shared(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Goal: what `plugin new` makes compiles, passes its tests and runs as it stands, and the tools around it tell good from
/// bad. Nothing is fetched: cargo works offline.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_plugin_is_built_tested_pinned_signed_and_run() {
    const STEP: &str = "page-counts";
    const WASM: &str = "target/plugins/page-counts.wasm";
    let db = Db::with_tables().await;
    for batch in stream(41) {
        db.land(&batch).await;
    }
    let team = Team::new(&db);
    team.must("", &["plugin", "new", STEP, "--kind", "planner"]);
    let again = team.fails(2, "", &["plugin", "new", STEP, "--kind", "planner"]);
    assert!(again.contains("is not empty"), "{again}");
    // Compiled dependencies outlive the test; components and their signatures do not.
    let target = shared("plugin-target");
    std::fs::create_dir_all(&target).expect("a folder");
    let _ = std::fs::remove_dir_all(target.join("plugins"));
    std::os::unix::fs::symlink(&target, team.path("page-counts/target")).expect("a link");

    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let native = team.run(&cargo, STEP, &["test", "--offline", "--quiet"]);
    assert_eq!(native.code, 0, "{}\n{}", native.stdout, native.stderr);
    let built = team.must(STEP, &["plugin", "build", ".", "--json", "--", "--offline"]);
    let built: serde_json::Value = serde_json::from_str(&built).expect("JSON");
    let digest = built[0]["digest"].as_str().expect("a digest").to_owned();
    assert_eq!(built[0]["name"], STEP);

    // The fixture holds; a wrong expectation is shown cell by cell.
    let test = ["plugin", "test", ".", "--component", WASM];
    let tested = team.must(STEP, &test);
    assert!(
        tested.contains("counts.yaml: ok, 2 rows as expected"),
        "{tested}"
    );
    team.edit(
        "page-counts/fixtures/counts.yaml",
        "10:00:00, 2]",
        "10:00:00, 3]",
    );
    let tested = team.fails(10, STEP, &test);
    assert!(
        tested.contains("session_id = 's1': n is '2', expected '3'"),
        "{tested}"
    );

    // It runs, and its rows are right.
    team.must(STEP, &["init", "workflow.yaml"]);
    team.must(STEP, &["run", "workflow.yaml"]);
    let differing = "SELECT count(*) FROM (
        SELECT domain_sessionid::text, min(collector_tstamp),
          count(DISTINCT event_id) FILTER (WHERE event_name = 'page_view')
        FROM atomic.events WHERE domain_sessionid IS NOT NULL GROUP BY 1
        EXCEPT SELECT session_id::text, first_time, n FROM derived.page_counts) AS d";
    assert_eq!(db.number(differing).await, 0);
    assert!(db.number("SELECT count(*) FROM derived.page_counts").await > 0);

    pinned_and_signed(&team, STEP, WASM, &digest);
}

fn pinned_and_signed(team: &Team, step: &str, wasm: &str, digest: &str) {
    let workflow = format!("{step}/workflow.yaml");
    let before = std::fs::read_to_string(team.path(&workflow)).expect("a file");
    team.fails(10, step, &["plugin", "pin", "workflow.yaml", "--check"]);
    team.must(step, &["plugin", "pin", "workflow.yaml"]);
    team.must(step, &["plugin", "pin", "workflow.yaml", "--check"]);
    let after = std::fs::read_to_string(team.path(&workflow)).expect("a file");
    let added: Vec<&str> = after
        .lines()
        .filter(|line| !before.contains(line))
        .collect();
    assert_eq!(added, [format!("    digest: {digest}")]);
    assert_eq!(after.lines().count(), before.lines().count() + 1);

    // A signature by a key that the workflow trusts, and by no other.
    let key = team.must(step, &["plugin", "keygen", "ours.key"]);
    let other = team.must(step, &["plugin", "keygen", "other.key"]);
    let trust = format!(
        "trust: {{ keys: [{}], require: all }}\nplugins:",
        key.trim()
    );
    team.edit(&workflow, "plugins:", &trust);
    let refused = team.fails(3, step, &["check", "workflow.yaml"]);
    assert!(
        refused.contains("requires a signature, and there is no signature file"),
        "{refused}"
    );
    team.must(step, &["plugin", "sign", wasm, "--key", "other.key"]);
    let refused = team.fails(3, step, &["run", "workflow.yaml"]);
    assert!(
        refused.contains(&format!("signed by {}, which is not trusted", other.trim())),
        "{refused}"
    );
    team.must(step, &["plugin", "sign", wasm, "--key", "ours.key"]);
    team.must(
        step,
        &["plugin", "verify", wasm, "--workflow", "workflow.yaml"],
    );
    team.must(step, &["plugin", "verify", wasm, "--key", "ours.key.pub"]);
    team.must(step, &["run", "workflow.yaml"]);
    let listed = team.must(step, &["plugin", "list", "workflow.yaml", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let own = listed
        .as_array()
        .into_iter()
        .flatten()
        .find(|row| row["name"] == step);
    let own = own.expect("it is listed");
    assert_eq!(
        (&own["pinned"], &own["signature"]),
        (&"yes".into(), &"good".into())
    );
    assert_eq!(own["signed-by"], key.trim());

    // Another file at the same path is neither pinned nor signed.
    let mut bytes = std::fs::read(team.path(&format!("{step}/{wasm}"))).expect("a file");
    bytes.extend([0, 3, 1, b'x', 0]); // A custom section.
    std::fs::write(team.path(&format!("{step}/{wasm}")), bytes).expect("written");
    let refused = team.fails(3, step, &["check", "workflow.yaml"]);
    assert!(
        refused.contains("is not the one that is pinned"),
        "{refused}"
    );
    let refused = team.fails(
        10,
        step,
        &["plugin", "verify", wasm, "--key", "ours.key.pub"],
    );
    assert!(refused.contains("is of another component"), "{refused}");
}

/// A site's policy holds for every workflow; one that cannot be read stops everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_sites_trust_file_must_be_readable() {
    let db = Db::empty().await;
    let team = Team::new(&db);
    let run = |file: &str| {
        let child = Command::new(env!("CARGO_BIN_EXE_stepwell-under-test"))
            .args(["plugin", "list"])
            .env("STEPWELL_TRUST", team.path(file))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Ended::of(child.expect("the program starts"))
    };
    std::fs::write(team.path("good.yaml"), "require: all\n").expect("written");
    std::fs::write(team.path("wrong.yaml"), "requires: all\n").expect("written");
    assert_eq!(run("good.yaml").code, 0);
    for (file, part) in [
        ("wrong.yaml", "unknown key \"requires\""),
        ("none.yaml", "could not read trust file"),
    ] {
        let ended = run(file);
        assert_eq!(ended.code, 3, "{}", ended.stderr);
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
}

/// A component that was built once for contract 0.1.0, kept with its source, goes on running; one that says it needs a
/// newer contract is refused while the workflow is read.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_plugin_runs_and_a_newer_one_is_refused() {
    let kept = root().join("tests/contract/planner-0.1.0.wasm");
    let workflow = |component: &Path| {
        format!(
            "stepwell: 1\nplaybook: kept\nsource: {{ events: atomic.events, batch: etl_tstamp, time: collector_tstamp, event-id: event_id, lookback: 7 days }}\n\
             plugins: {{ kept-planner: {{ component: \"{}\", trust: own }} }}\n\
             steps:\n- {{ id: new, uses: diff-manifest, with: {{ into: batches }} }}\n\
             - {{ id: ids, uses: collect-ids, with: {{ batches: batches, key: {{ session_id: domain_sessionid }}, into: ids }} }}\n\
             - {{ id: kept, uses: kept-planner, with: {{ ids: ids, into: counted, condition: \"true\" }} }}\n",
            component.display()
        )
    };
    let db = Db::with_tables().await;
    for batch in stream(42).take(4) {
        db.land(&batch).await;
    }
    db.run(&parse(&workflow(&kept))).await.expect("it runs");
    let counted = db.number("SELECT sum(n) FROM scratch.kept__counted").await;
    let events = db
        .number(
            "SELECT count(DISTINCT event_id) FROM atomic.events WHERE domain_sessionid IS NOT NULL",
        )
        .await;
    assert_eq!(counted, events);

    let team = Team::new(&db);
    let bytes = std::fs::read(&kept).expect("the kept component");
    let (old, new) = (b"\"contract\":\"0.1.0\"", b"\"contract\":\"9.1.0\"");
    // The text stands in the section and, as a constant, in the code's data.
    let mut newer = bytes.clone();
    let places: Vec<usize> = bytes
        .windows(old.len())
        .enumerate()
        .filter(|(_, window)| window == old)
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty(), "the description names its contract");
    for at in places {
        newer[at..at + new.len()].copy_from_slice(new);
    }
    std::fs::write(team.path("newer.wasm"), newer).expect("written");
    std::fs::write(team.path("w.yaml"), workflow(Path::new("newer.wasm"))).expect("written");
    for args in [["check", "w.yaml"], ["run", "w.yaml"]] {
        let refused = team.fails(3, "", &args);
        let words =
            "the step needs contract 9.1.0, this stepwell has 0.1.0: a newer stepwell is needed";
        assert!(refused.contains(words), "{refused}");
    }
}
