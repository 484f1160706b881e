//! A plugin from nothing to a run, as a team makes it: outside of the repository, with the program alone.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use stepwell_warehouse::local::Status;
use tempfile::TempDir;

use crate::harness::{Db, OwnServer, parse, root, share_server_with, stream};
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

/// A new plugin of one kind, with what tells that it does what its README says.
struct New {
    step: &'static str,
    kind: &'static str,
    fixture: &'static str,
    /// An expectation of the fixture, and a wrong one.
    edit: [&'static str; 2],
    /// What a test says of the wrong one.
    differs: &'static str,
    /// The rows of its derived table, said in plain SQL over all events.
    expected: &'static str,
}

impl New {
    fn table(&self) -> String {
        format!("derived.{}", self.step.replace('-', "_"))
    }

    fn wasm(&self) -> String {
        format!("target/plugins/{}.wasm", self.step)
    }

    /// Makes the plugin, builds and tests it, and runs it in its own workflow, twice. Returns its digest.
    async fn is_made_and_runs(&self, db: &Db, team: &Team) -> String {
        let (step, wasm) = (self.step, self.wasm());
        let new = ["plugin", "new", step, "--kind", self.kind];
        team.must("", &new);
        let again = team.fails(2, "", &new);
        assert!(again.contains("is not empty"), "{again}");
        // Compiled dependencies outlive the test; components and their signatures do not.
        let target = shared("plugin-target");
        std::fs::create_dir_all(&target).expect("a folder");
        for left in std::fs::read_dir(target.join("plugins"))
            .into_iter()
            .flatten()
        {
            let path = left.expect("it can be listed").path();
            if path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(step))
            {
                std::fs::remove_file(path).expect("it can be removed");
            }
        }
        std::os::unix::fs::symlink(&target, team.path(step).join("target")).expect("a link");

        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let native = team.run(&cargo, step, &["test", "--offline", "--quiet"]);
        assert_eq!(native.code, 0, "{}\n{}", native.stdout, native.stderr);
        let built = team.must(step, &["plugin", "build", ".", "--json", "--", "--offline"]);
        let built: serde_json::Value = serde_json::from_str(&built).expect("JSON");
        assert_eq!(built[0]["name"], step);
        assert_eq!(built[0]["kind"], self.kind);

        // The fixture holds; a wrong expectation is shown cell by cell.
        let test = ["plugin", "test", ".", "--component", &wasm];
        let tested = team.must(step, &test);
        let ok = format!("{}: ok, 2 rows as expected", self.fixture);
        assert!(tested.contains(&ok), "{tested}");
        let fixture = format!("{step}/fixtures/{}", self.fixture);
        team.edit(&fixture, self.edit[0], self.edit[1]);
        let tested = team.fails(10, step, &test);
        assert!(tested.contains(self.differs), "{tested}");

        // It runs, from nothing and on what came since, and its rows are right.
        team.must(step, &["init", "workflow.yaml"]);
        for (at, batch) in stream(41).enumerate() {
            db.land(&batch).await;
            if at == 20 {
                team.must(step, &["run", "workflow.yaml"]);
            }
        }
        team.must(step, &["run", "workflow.yaml"]);
        let (table, expected) = (self.table(), self.expected);
        let differing = format!(
            "SELECT * FROM ((TABLE {table} EXCEPT ALL ({expected})) UNION ALL (({expected}) EXCEPT ALL TABLE {table})) AS d LIMIT 6"
        );
        let differing = db.rows(&differing).await;
        assert!(differing.is_empty(), "{table}: {differing:#?}");
        let rows = db.number(&format!("SELECT count(*) FROM {table}")).await;
        assert!(rows > 50, "{table} has {rows} rows");
        built[0]["digest"].as_str().expect("a digest").to_owned()
    }
}

/// Goal: what `plugin new` makes compiles, passes its tests and runs as it stands, and the tools around it tell good from
/// bad. Nothing is fetched: cargo works offline.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_planner_is_built_tested_run_pinned_and_signed() {
    let db = Db::with_tables().await;
    let team = Team::new(&db);
    let new = New {
        step: "page-counts",
        kind: "planner",
        fixture: "counts.yaml",
        edit: ["10:00:00, 2]", "10:00:00, 3]"],
        differs: "session_id = 's1': n is '2', expected '3'",
        expected: "SELECT domain_sessionid, min(collector_tstamp),
              count(DISTINCT event_id) FILTER (WHERE event_name = 'page_view')
            FROM atomic.events
            WHERE domain_sessionid IS NOT NULL AND etl_tstamp IS NOT NULL AND collector_tstamp IS NOT NULL
            GROUP BY 1",
    };
    let digest = new.is_made_and_runs(&db, &team).await;
    leaves_servers_as_they_were(&team, new.step, &new.wasm());
    handed_on(&db, &team, new.step).await;
    pinned_and_signed(&team, new.step, &new.wasm(), &digest);
}

/// Goal: the same of a reducer.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_reducer_is_built_tested_and_run() {
    let db = Db::with_tables().await;
    let team = Team::new(&db);
    let new = New {
        step: "session-pauses",
        kind: "reducer",
        fixture: "pauses.yaml",
        edit: ["[s1, 1, 900,", "[s1, 1, 901,"],
        differs: "session_id = 's1': longest_pause_seconds is '900', expected '901'",
        expected: "SELECT session_id, count(*) FILTER (WHERE gap > '12 seconds'),
              floor(extract(epoch FROM max(gap) FILTER (WHERE gap > '12 seconds')))::bigint, min(collector_tstamp)
            FROM (
              SELECT *, derived_tstamp - lag(derived_tstamp) OVER (PARTITION BY session_id ORDER BY derived_tstamp) AS gap
              FROM (
                SELECT DISTINCT ON (domain_sessionid, event_id)
                  domain_sessionid::text AS session_id, derived_tstamp, collector_tstamp
                FROM atomic.events
                WHERE domain_sessionid IS NOT NULL AND etl_tstamp IS NOT NULL AND collector_tstamp IS NOT NULL
                ORDER BY domain_sessionid, event_id, collector_tstamp, etl_tstamp, ctid
              ) AS once
            ) AS gaps
            GROUP BY session_id",
    };
    new.is_made_and_runs(&db, &team).await;
    let paused = format!("SELECT count(*) FROM {} WHERE pauses > 1", new.table());
    assert!(db.number(&paused).await > 0, "sessions with several pauses");
}

/// `plugin test` stops the private server where it had to start it, and leaves one that ran.
fn leaves_servers_as_they_were(team: &Team, step: &str, wasm: &str) {
    let server = OwnServer::start("left");
    let folder = TempDir::new().expect("a folder");
    server.share_with(folder.path());
    let project = folder.path().display().to_string();
    // One expectation of the fixture is wrong by now; for the server it does not matter what comes out.
    let test = [
        "plugin",
        "test",
        ".",
        "--component",
        wasm,
        "--project",
        &project,
    ];
    team.fails(10, step, &test);
    assert!(matches!(server.status(), Status::Running { .. }));
    server.stop();
    let differs = team.fails(10, step, &test);
    assert!(differs.contains("expected '3'"), "{differs}");
    assert_eq!(server.status(), Status::Stopped);
}

/// Goal: who gets a plugin from somebody else comes to a run by doing what the program says, and nothing else; and the
/// tools that look after plugins work before it is pinned.
/// Method: the workflow of a new planner, without `trust: own`. Each word that is put into it was in a message. The rows
/// are those of the team's own run.
async fn handed_on(db: &Db, team: &Team, step: &str) {
    let file = format!("{step}/theirs.yaml");
    let own = std::fs::read_to_string(team.path(&format!("{step}/workflow.yaml"))).expect("a file");
    let theirs = own
        .replace("    trust: own\n", "")
        .replace("playbook: page_counts", "playbook: theirs")
        .replace("derived.page_counts", "derived.theirs");
    std::fs::write(team.path(&file), &theirs).expect("written");

    let refused = team.fails(3, step, &["check", "theirs.yaml"]);
    assert!(refused.contains("lacks key \"digest\""), "{refused}");
    assert!(
        refused.contains("`stepwell plugin pin theirs.yaml`"),
        "{refused}"
    );
    assert!(refused.contains("`connection: { role: … }`"), "{refused}");
    let (_, proposed) = refused.split_once("write `grants: ").expect("a proposal");
    let (proposed, _) = proposed.split_once('`').expect("it ends");
    let wanted = "read: [atomic.events, derived.manifest, scratch.batches, scratch.session_ids]";
    assert!(proposed.contains(wanted), "{proposed}");
    team.edit(
        &file,
        "plugins:\n  page-counts:\n",
        &format!(
            "plugins:\n  page-counts:\n    grants: {proposed}\n    connection: {{ role: theirs }}\n"
        ),
    );

    // Not pinned yet: it is listed, its role can be made, and nothing runs.
    let listed = team.must(step, &["plugin", "list", "theirs.yaml"]);
    let row = listed.lines().find(|line| line.contains("theirs.yaml"));
    let row = row.unwrap_or_else(|| panic!("{listed}"));
    assert!(row.contains("no      third-party"), "{row}");
    let script = team.must(step, &["plugin", "grants", "theirs.yaml"]);
    assert!(script.contains("CREATE ROLE theirs LOGIN"), "{script}");
    for command in ["check", "plan", "run"] {
        let refused = team.fails(3, step, &[command, "theirs.yaml"]);
        assert!(refused.contains("lacks key \"digest\""), "{refused}");
    }
    team.fails(10, step, &["plugin", "pin", "theirs.yaml", "--check"]);
    let pinned = team.must(step, &["plugin", "pin", "theirs.yaml"]);
    assert!(pinned.contains("page-counts pinned to sha256:"), "{pinned}");
    team.must(step, &["check", "theirs.yaml"]);

    let refused = team.fails(4, step, &["run", "theirs.yaml"]);
    assert!(
        refused.contains("it does not exist")
            && refused.contains("`stepwell plugin grants theirs.yaml`"),
        "{refused}"
    );
    db.sql(&script).await;
    team.must(step, &["run", "theirs.yaml"]);
    assert!(db.number("SELECT count(*) FROM derived.theirs").await > 50);
    let differing = "SELECT count(*) FROM (
        (TABLE derived.page_counts EXCEPT ALL TABLE derived.theirs)
        UNION ALL (TABLE derived.theirs EXCEPT ALL TABLE derived.page_counts)) AS d";
    assert_eq!(db.number(differing).await, 0);
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
    let not_trusted = format!("signed by {}, which is not trusted", other.trim());
    assert!(refused.contains(&not_trusted), "{refused}");
    let listed = team.must(step, &["plugin", "list", "workflow.yaml"]);
    assert!(listed.contains(" unknown-key "), "{listed}");
    assert!(listed.contains(&not_trusted), "{listed}");
    // A signature file that the workflow names is one, whether or not it is required.
    let unrequired = "require: nothing }\nplugins:";
    team.edit(&workflow, "require: all }\nplugins:", unrequired);
    let named = format!("    component: {wasm}\n    signature: nosig\n");
    std::fs::write(team.path(&format!("{step}/nosig")), "none\n").expect("written");
    let before = std::fs::read_to_string(team.path(&workflow)).expect("a file");
    let (head, tail) = before.split_once("    component:").expect("a component");
    let (_, tail) = tail.split_once('\n').expect("a line");
    std::fs::write(team.path(&workflow), format!("{head}{named}{tail}")).expect("written");
    let refused = team.fails(3, step, &["check", "workflow.yaml"]);
    assert!(
        refused.contains("nosig does not sign the component"),
        "{refused}"
    );
    assert!(refused.contains("|     signature: nosig\n"), "{refused}");
    std::fs::write(team.path(&workflow), &before).expect("written");
    team.must(step, &["check", "workflow.yaml"]);
    team.edit(&workflow, unrequired, "require: all }\nplugins:");
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

/// The same of a reducer, with a column of every type, NULLs in each, and a group that is larger than a batch.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_reducer_folds_as_it_did() {
    let kept = root().join("tests/contract/reducer-0.1.0.wasm");
    let db = Db::empty().await;
    db.sql(
        "CREATE TABLE public.rows AS
         SELECT CASE WHEN n % 2 = 0 THEN 'large' WHEN n % 7 > 0 THEN 'g' || n % 1000 END AS key,
           CASE WHEN n = 5 THEN 'infinity' ELSE timestamptz '2024-01-01 00:00:00+00' + n % 977 * interval '1.000001 s' END AS at,
           n AS number, n % 3 = 0 AS bool, (n % 30000)::int2 AS small, n * 10000000000 AS big, (n / 7.0)::float4 AS single,
           CASE n % 4 WHEN 0 THEN 'NaN' WHEN 1 THEN '-infinity' ELSE n / 3.0 END::float8 AS double,
           repeat('ü', n % 5)::varchar(20) AS text, decode(md5(n::text), 'hex') AS bytes, md5(n::text)::uuid AS uuid,
           date '1999-12-25' + n % 20 AS day, timestamp '1999-12-31 23:59:59.999999' + n * interval '1 us' AS time,
           (n % 5 - 2) * 12345678901234567890.120 AS amount, jsonb_build_object('n', n) AS document
         FROM generate_series(1, 150000) AS n;
         UPDATE public.rows SET bool = NULL, small = NULL, big = NULL, single = NULL, double = NULL, text = NULL,
           bytes = NULL, uuid = NULL, day = NULL, time = NULL, amount = NULL, document = NULL WHERE number % 3 = 1;
         ANALYZE public.rows",
    )
    .await;
    let workflow = format!(
        "stepwell: 1\nplaybook: kept\n\
         plugins: {{ kept-reducer: {{ component: \"{}\", trust: own }} }}\n\
         steps:\n- {{ id: kept, uses: kept-reducer, with: {{ from: public.rows, into: last }} }}\n",
        kept.display()
    );
    db.run(&parse(&workflow)).await.expect("it runs");
    let expected = "SELECT DISTINCT ON (r.key) r.key, count(*) OVER (PARTITION BY r.key) AS rows, r.at, r.number, r.bool,
           r.small, r.big, r.single, r.double, r.text, r.bytes, r.uuid, r.day, r.time, r.amount, r.document
         FROM public.rows AS r ORDER BY r.key, r.at DESC, r.number DESC";
    let table = "TABLE scratch.kept__last";
    let differing = db
        .rows(&format!(
            "SELECT * FROM (({table} EXCEPT ALL ({expected})) UNION ALL (({expected}) EXCEPT ALL {table})) AS d LIMIT 4"
        ))
        .await;
    assert!(differing.is_empty(), "{differing:#?}");
    let found = db
        .rows("SELECT count(*) AS n, max(rows) AS most, count(*) - count(key) AS keyless, count(*) - count(bool) AS of_nulls FROM scratch.kept__last")
        .await;
    let found: Vec<_> = found[0].iter().flatten().map(String::as_str).collect();
    assert_eq!(found[..3], ["502", "75000", "1"], "{found:?}");
    assert_ne!(found[3], "0", "rows of NULLs");
}
