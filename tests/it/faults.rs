//! The program, its connections and its server break at points of a run; one plain run afterwards is always right.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stepwell_demo::{Batch, Stream, StreamOptions};

use stepwell_sandbox::SECTION;

use crate::drill::{Drill, Fault, PATIENCE, patiently};
use crate::harness::{Db, OwnServer, stream, workflow};
use crate::program::{Ended, Program, read_with_url};
use crate::proxy::{Proxy, Verdict};

/// The stream of the drills: small, since each of its runs is done hundreds of times.
fn small(seed: u64) -> Vec<Batch> {
    let options = StreamOptions {
        seed,
        events: 1_500,
        days: 5,
        batch_minutes: 360,
        ..StreamOptions::default()
    };
    Stream::new(&options).expect("options").collect()
}

/// A database in which the first `processed` batches of a small stream are processed and all others have landed.
async fn landed(workflow_file: &str, seed: u64, processed: usize) -> Db {
    let db = Db::with_tables().await;
    land(&db, workflow_file, seed, processed).await;
    db
}

/// Lands all batches of a small stream, of which the first `processed` are processed.
pub async fn land(db: &Db, workflow_file: &str, seed: u64, processed: usize) {
    let batches = small(seed);
    for batch in &batches[..processed] {
        db.land(batch).await;
    }
    let workflow = workflow(workflow_file);
    match processed {
        0 => drop(
            stepwell_runner::init(&workflow, &db.options(&Default::default()))
                .await
                .expect("tables"),
        ),
        _ => drop(db.run(&workflow).await.expect("a first build")),
    }
    for batch in &batches[processed..] {
        db.land(batch).await;
    }
}

/// A database with 20 batches, of which 15 are processed, and a program.
async fn with_pending(seed: u64) -> (Db, Program, String) {
    let db = Db::with_tables().await;
    let batches: Vec<_> = stream(seed).take(20).collect();
    for batch in &batches[..15] {
        db.land(batch).await;
    }
    db.run(&workflow("sessions.yaml"))
        .await
        .expect("a first build");
    for batch in &batches[15..] {
        db.land(batch).await;
    }
    let program = Program::new(&db);
    let file = program.file("sessions.yaml", &read_with_url(&db, "sessions.yaml"));
    (db, program, file)
}

/// What every other drill than the first breaks: the same code is at work there.
fn some() -> Vec<(Fault, usize)> {
    vec![(Fault::Kill, 10), (Fault::Cut, 60)]
}

/// A drill on `sessions` with its page contexts.
pub fn on_sessions(db: Db) -> Drill {
    Drill {
        db,
        workflow: "sessions.yaml",
        edits: &[],
        table: "derived.sessions",
        key: "session_id",
        args: &[],
        states: 2,
        faults: some(),
        restart: Arc::new(|| panic!("the server is everybody's")),
        from: &[],
    }
}

/// An incremental pass, broken in every way and, by a dead host, at every answer of the server.
#[tokio::test(flavor = "multi_thread")]
async fn an_incremental_pass_survives_every_fault() {
    let faults = vec![
        (Fault::Kill, 1),
        (Fault::Cut, 12),
        (Fault::Terminate, 15),
        (Fault::Interrupt, 12),
    ];
    let db = landed("sessions.yaml", 61, 14).await;
    Drill {
        faults,
        ..on_sessions(db)
    }
    .run()
    .await;
}

/// A pass that folds the manifest's rows of old batches. Their sums are of what readers see.
#[tokio::test(flavor = "multi_thread")]
async fn a_pass_that_folds_rows_survives_every_fault() {
    let db = landed("sessions.yaml", 68, 14).await;
    Drill {
        edits: &[
            ("lookback: 7 days", "lookback: 1 day"),
            ("into: batches }", "into: batches, retain: 1 day }"),
        ],
        ..on_sessions(db)
    }
    .run()
    .await;
}

/// A first build, in whose commit the table is made.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_build_survives_every_fault() {
    on_sessions(landed("sessions.yaml", 62, 0).await)
        .run()
        .await;
}

/// A backlog in three slices, each committed on its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_sliced_backlog_survives_every_fault() {
    let db = landed("sessions.yaml", 63, 15).await;
    Drill {
        args: &["--max-batches", "2"],
        states: 4,
        ..on_sessions(db)
    }
    .run()
    .await;
}

/// A full refresh while batches are pending; the plain run after it is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_refresh_survives_every_fault() {
    let db = landed("sessions.yaml", 64, 14).await;
    Drill {
        args: &["--full-refresh"],
        ..on_sessions(db)
    }
    .run()
    .await;
}

/// A key of two columns.
#[tokio::test(flavor = "multi_thread")]
async fn visitor_days_survive_every_fault() {
    Drill {
        workflow: "visitor_days.yaml",
        table: "derived.visitor_days",
        key: "visitor, day",
        ..on_sessions(landed("visitor_days.yaml", 65, 14).await)
    }
    .run()
    .await;
}

/// A server that crashes and comes back: what was committed is there, scratch tables are empty or from before.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_server_is_survived() {
    let server = tokio::task::spawn_blocking(|| Arc::new(OwnServer::start("crash")));
    let server = server.await.expect("it starts");
    let db = Db::empty_on(server.target()).await.and_tables().await;
    land(&db, "sessions.yaml", 66, 14).await;
    let crashing = server.clone();
    Drill {
        faults: vec![(Fault::Restart, 60)],
        restart: Arc::new(move || crashing.crash()),
        ..on_sessions(db)
    }
    .run()
    .await;
}

/// A disk that is really full while scratch is written; see also `inputs::a_full_disk_leaves_everything_as_it_was`, where
/// the server only says so.
///
/// Method: scratch tables go to a file system of 1 MiB. Where none may be mounted (that takes root), nothing is tested.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_leaves_everything_as_it_was() {
    let db = Db::with_tables().await;
    let Some(disk) = SmallDisk::mount(&db).await else {
        return;
    };
    for batch in stream(67) {
        db.land(&batch).await;
    }
    let program = Program::new(&db);
    let url = db.url();
    let text = format!(
        "{}\nwarehouse: {{ url: \"{url}\", settings: {{ default_tablespace: {SMALL_DISK} }} }}\n",
        crate::harness::read("sessions.yaml"),
    );
    let small = program.file("small.yaml", &text);
    let file = program.file("sessions.yaml", &read_with_url(&db, "sessions.yaml"));
    // The host's own tables are on the large disk.
    assert_eq!(program.run(&["init", &file]).code, 0);
    let run = program.run(&["run", &small]);
    assert_eq!(run.code, 6, "{}", run.stderr);
    for words in [
        "SQLSTATE 53100",
        "disk is full",
        "scratch tables written, derived tables and manifest unchanged",
    ] {
        assert!(run.stderr.contains(words), "no {words} in {}", run.stderr);
    }
    assert_eq!(db.number("SELECT count(*) FROM derived.manifest").await, 0);
    assert_eq!(db.number("SELECT count(*) FROM stepwell.retries").await, 0);
    assert_eq!(program.run(&["run", &file]).code, 0);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
    disk.unmount(&db).await;
}

const SMALL_DISK: &str = "small_disk";

/// A file system of 1 MiB, as a tablespace.
struct SmallDisk {
    place: tempfile::TempDir,
}

impl SmallDisk {
    /// Returns none where file systems may not be mounted.
    async fn mount(db: &Db) -> Option<Self> {
        use std::os::unix::fs::{MetadataExt, chown};

        let place = tempfile::TempDir::new().expect("a folder");
        let mut mount = std::process::Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=1m,mode=700", "none"])
            .arg(place.path());
        if !mount.output().is_ok_and(|mounted| mounted.status.success()) {
            return None;
        }
        let disk = Self { place };
        let data = db.text("SELECT current_setting('data_directory')").await;
        let owner = std::fs::metadata(data).expect("the data").uid();
        chown(disk.place.path(), Some(owner), None).expect("it is ours");
        let path = disk.place.path().display();
        db.sql(&format!("CREATE TABLESPACE {SMALL_DISK} LOCATION '{path}'"))
            .await;
        Some(disk)
    }

    async fn unmount(self, db: &Db) {
        db.sql("DROP SCHEMA scratch CASCADE").await;
        db.sql(&format!("DROP TABLESPACE {SMALL_DISK}")).await;
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut unmount = std::process::Command::new("umount");
        let _ = unmount.arg("--lazy").arg(self.place.path()).output();
    }
}

/// SIGINT and SIGTERM cancel on the server, roll back and give the lease back, each with its code.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_run_leaves_everything_as_it_was() {
    let (db, program, file) = with_pending(53).await;
    let before = db
        .rows("SELECT * FROM derived.sessions ORDER BY session_id")
        .await;
    db.on_create(
        "scratch.sessions__sessions",
        "PERFORM pg_advisory_lock_shared(1); PERFORM pg_sleep(600)",
    )
    .await;
    for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let child = program.start(&["run", &file]);
        db.wait_until_there().await;
        // SAFETY: the child is ours and not yet waited for.
        unsafe { libc::kill(child.id().try_into().expect("a pid"), signal) };
        let ended = tokio::task::spawn_blocking(|| Ended::of(child))
            .await
            .expect("no panic");
        assert_eq!(ended.code, code, "{}", ended.stderr);
        assert!(
            ended
                .stderr
                .contains("derived tables and manifest unchanged"),
            "{}",
            ended.stderr
        );
        db.wait_until_gone().await;
        assert_eq!(
            db.number("SELECT count(*) FROM stepwell.leases WHERE released_at IS NULL")
                .await,
            0
        );
        assert_eq!(
            db.text("SELECT state FROM stepwell.runs ORDER BY started_at DESC LIMIT 1")
                .await,
            "stopped"
        );
        assert_eq!(
            db.rows("SELECT * FROM derived.sessions ORDER BY session_id")
                .await,
            before
        );
    }
}

/// A signal ends a run wherever it stands: while it connects, while the server hangs, while a plugin computes.
///
/// Method: the proxy holds everything back at the point where a statement begins, for good. The plugin is a loop without
/// an end.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_run_that_waits_for_what_never_comes() {
    let (db, program, _) = with_pending(54).await;
    let proxy = Proxy::new(&db.socket_directory());
    let url = db.url_by(proxy.directory());
    let text = crate::harness::read("sessions.yaml");
    let file = program.file(
        "held.yaml",
        &format!("{text}\nwarehouse: {{ url: \"{url}\" }}\n"),
    );
    let before = db
        .rows("SELECT * FROM derived.sessions ORDER BY session_id")
        .await;
    for at in [
        "login",
        "INSERT INTO stepwell.leases",
        "CREATE TABLE scratch.sessions__session_ids",
        "INSERT INTO derived.sessions",
    ] {
        let (tell, told) = std::sync::mpsc::channel();
        proxy.begin(move |point| match point.what.starts_with(at) {
            true => {
                let _ = tell.send(());
                Verdict::Hold
            }
            false => Verdict::Pass,
        });
        let child = program.start(&["run", &file]);
        told.recv_timeout(PATIENCE).expect("it comes there");
        signal(&child, libc::SIGTERM);
        let ended = patiently(child);
        assert_eq!(ended.code, 143, "{at}: {}", ended.stderr);
        // What was held back is thrown away with its connections.
        proxy.begin(|_| Verdict::CutAll);
        db.wait_until_gone().await;
        assert_eq!(
            db.rows("SELECT * FROM derived.sessions ORDER BY session_id")
                .await,
            before,
            "{at}"
        );
    }
    proxy.end();
    program.file("spin.wasm", "");
    std::fs::write(program.path("spin.wasm"), endless()).expect("write");
    let spin = format!(
        "stepwell: 1\nplaybook: spin\nwarehouse: {{ url: \"{url}\" }}\nplugins:\n  spin: {{ component: spin.wasm, trust: own }}\n\
         steps:\n  - {{ id: spin, uses: spin }}\n"
    );
    let spin = program.file("spin.yaml", &spin);
    let child = program.start(&["run", &spin]);
    let running =
        "SELECT count(*) FROM stepwell.runs WHERE playbook = 'spin' AND state = 'running'";
    db.wait_for(running, |n| n == 1).await;
    signal(&child, libc::SIGINT);
    let ended = patiently(child);
    assert_eq!(ended.code, 130, "{}", ended.stderr);
    let stopped =
        "SELECT count(*) FROM stepwell.runs WHERE playbook = 'spin' AND state = 'stopped'";
    assert_eq!(db.number(stopped).await, 1);

    let run = program.run(&["run", &file]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// A second signal ends the program at once: with its own code, and without waiting for the first to be obeyed.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_program_at_once() {
    use std::io::{BufRead, BufReader};

    let (db, program, _) = with_pending(56).await;
    let proxy = Proxy::new(&db.socket_directory());
    let text = crate::harness::read("sessions.yaml");
    let url = db.url_by(proxy.directory());
    let file = program.file(
        "held.yaml",
        &format!("{text}\nwarehouse: {{ url: \"{url}\" }}\n"),
    );
    let (tell, told) = std::sync::mpsc::channel();
    proxy.begin(
        move |point| match point.what.starts_with("INSERT INTO derived.sessions") {
            true => {
                let _ = tell.send(());
                Verdict::Hold
            }
            false => Verdict::Pass,
        },
    );
    let mut child = program.start(&["run", &file]);
    told.recv_timeout(PATIENCE).expect("it comes there");
    signal(&child, libc::SIGTERM);
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let heard = lines
        .by_ref()
        .map_while(Result::ok)
        .any(|line| line.starts_with("SIGTERM:"));
    assert!(heard, "the first signal is not heard");
    signal(&child, libc::SIGINT);
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert_eq!(
        lines
            .map_while(Result::ok)
            .find(|line| line.contains("stopped by")),
        None
    );
}

fn signal(child: &std::process::Child, signal: i32) {
    // SAFETY: the child is ours and not yet waited for.
    unsafe { libc::kill(child.id().try_into().expect("a pid"), signal) };
}

/// A component that computes for ever before it answers anything.
fn endless() -> Vec<u8> {
    const DESCRIPTION: &str =
        r#"{"name":"spin","version":"1.0.0","kind":"planner","contract":"0.1.0","settings":{}}"#;
    const TEXT: &str = r#"(component
        (core module $part (func $spin (loop (br 0))) (start $spin))
        (core instance (instantiate $part))
        (core module $answers (func (export "next") (result i32) i32.const 0))
        (core instance $answers (instantiate $answers))
        (func $next (result u32) (canon lift (core func $answers "next")))
        (instance $planning (export "next" (func $next)))
        (export "stepwell:step/planning@0.1.0" (instance $planning)))"#;
    let mut bytes = wat::parse_str(TEXT).expect("good text");
    let mut body = vec![u8::try_from(SECTION.len()).expect("a short name")];
    body.extend_from_slice(SECTION.as_bytes());
    body.extend_from_slice(DESCRIPTION.as_bytes());
    // A custom section: its number, its length as two groups of seven bits, its contents.
    bytes.extend([0, (body.len() & 0x7f) as u8 | 0x80, (body.len() >> 7) as u8]);
    bytes.extend(body);
    bytes
}

/// Two processes that ask for the lease at the same moment, a hundred times: one commits, the other ends with its code.
///
/// Method: a lock keeps both from the lease until both have come there. The one that gets it is then kept from its first
/// table until the other has ended, so that the two do meet each time.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_one_commits() {
    let options = StreamOptions {
        seed: 55,
        events: 8_000,
        days: 10,
        batch_minutes: 60,
        ..StreamOptions::default()
    };
    let mut batches: Vec<_> = Stream::new(&options).expect("options").collect();
    // At night nobody is there.
    batches.retain(|batch| batch.events() > 0);
    let db = Db::with_tables().await;
    for batch in &batches[..15] {
        db.land(batch).await;
    }
    let program = Program::new(&db);
    let file = program.file("sessions.yaml", &read_with_url(&db, "sessions.yaml"));
    assert_eq!(program.run(&["init", &file]).code, 0);
    assert_eq!(program.run(&["run", &file]).code, 0);
    db.on_create(
        "scratch.sessions__batches",
        "PERFORM pg_advisory_xact_lock_shared(7)",
    )
    .await;
    let waiting = "SELECT count(*) FROM pg_locks
        WHERE relation = 'stepwell.leases'::regclass AND NOT granted";
    for batch in &batches[15..115] {
        db.land(batch).await;
        let commits = db.number("SELECT sum(passes) FROM stepwell.runs").await;
        db.sql("SELECT pg_advisory_lock(7); BEGIN; LOCK TABLE stepwell.leases IN EXCLUSIVE MODE")
            .await;
        let mut children = [
            program.start(&["run", &file]),
            program.start(&["run", &file]),
        ];
        db.wait_for(waiting, |n| n == 2).await;
        db.sql("COMMIT").await;
        let first = loop {
            let ended = children
                .iter_mut()
                .position(|child| child.try_wait().expect("ours").is_some());
            match ended {
                Some(first) => break first,
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        db.sql("SELECT pg_advisory_unlock(7)").await;
        let mut ended = children.map(patiently);
        ended.rotate_left(first);
        let [loser, winner] = ended;
        assert_eq!(
            (winner.code, loser.code),
            (0, 5),
            "{}{}",
            winner.stderr,
            loser.stderr
        );
        assert!(
            loser.stderr.contains("holds playbook \"sessions\""),
            "{}",
            loser.stderr
        );
        assert_eq!(
            db.number("SELECT sum(passes) FROM stepwell.runs").await,
            commits + 1
        );
    }
    // Nobody took anything from a run that was alive.
    let runs = "SELECT count(*) FROM stepwell.runs";
    assert_eq!(db.number(runs).await, 101);
    assert_eq!(
        db.number(&format!("{runs} WHERE took_over IS NOT NULL"))
            .await,
        0
    );
    db.sql("DROP EVENT TRIGGER on_create").await;
    db.assert_equals_rebuild("sessions.yaml", "derived.sessions")
        .await;
}

/// A host that is suspended for longer than its lease lasts, at each step of its commit: another run takes over, and when
/// it goes on it commits nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_host_cannot_commit() {
    let db = landed("sessions.yaml", 68, 14).await;
    Drill {
        faults: vec![(Fault::Suspend, 40)],
        ..on_sessions(db)
    }
    .run()
    .await;
}

impl Db {
    /// Runs `plpgsql` whenever this scratch table is made.
    pub async fn on_create(&self, table: &str, plpgsql: &str) {
        self.sql(&format!(
            "CREATE OR REPLACE FUNCTION derived.on_create() RETURNS event_trigger LANGUAGE plpgsql AS $$
             BEGIN
               IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity = '{table}') THEN
                 {plpgsql};
               END IF;
             END $$;
             CREATE EVENT TRIGGER on_create ON ddl_command_end WHEN TAG IN ('CREATE TABLE AS')
               EXECUTE FUNCTION derived.on_create()"
        ))
        .await;
    }

    /// Waits until a run has come to the point that [`on_create`](Self::on_create) or a trigger marks with a lock.
    async fn wait_until_there(&self) {
        let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        self.wait_for(locks, |n| n > 0).await;
    }

    /// Waits until the server has ended every session of a run.
    async fn wait_until_gone(&self) {
        let sessions = "SELECT count(*) FROM pg_stat_activity
            WHERE application_name LIKE 'stepwell sessions %' AND datname = current_database()";
        self.wait_for(sessions, |n| n == 0).await;
    }

    /// Waits until a query selects a number that fits, for at most a minute.
    pub async fn wait_for(&self, sql: &str, fits: impl Fn(i64) -> bool) {
        let begun = Instant::now();
        while !fits(self.number(sql).await) {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "still not: {sql}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
