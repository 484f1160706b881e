//! The private server: made, started, killed, started again.

use std::process::Command;
use std::sync::Barrier;

use stepwell_warehouse::local::{LocalServer, Status};
use stepwell_warehouse::{Session, SessionOptions};

use crate::harness::{Server, directory, local_in, text};

fn pid(local: &LocalServer) -> u32 {
    match local.status().expect("status") {
        Status::Running { pid } => pid,
        other => panic!("server {other:?}"),
    }
}

#[tokio::test]
async fn made_stopped_and_started_with_its_data() {
    let server = Server::with(&[]);
    assert_eq!(
        server.target.to_string().split('@').next(),
        Some("postgres")
    );
    let session = server.session().await;
    session
        .batch("CREATE TABLE public.kept AS SELECT 1 AS n")
        .await
        .expect("created");
    assert_eq!(
        text(&session, "SELECT current_setting('listen_addresses')", &[])
            .await
            .as_deref(),
        Some("")
    );
    assert_eq!(
        text(&session, "SELECT current_setting('fsync')", &[])
            .await
            .as_deref(),
        Some("off")
    );
    drop(session);
    let first = pid(&server.local);
    server.local.ensure_running().expect("still runs");
    assert_eq!(pid(&server.local), first, "not started twice");
    assert!(
        server
            .local
            .version()
            .expect("version")
            .starts_with(char::is_numeric)
    );
    let output = server
        .local
        .psql()
        .expect("a command")
        .args(["-Atc", "SELECT n FROM public.kept"])
        .output()
        .expect("psql runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n");
    assert!(server.local.stop().expect("stopped"));
    assert!(!server.local.stop().expect("stopped before"));
    assert_eq!(server.local.status().expect("status"), Status::Stopped);
    server.local.ensure_running().expect("runs again");
    let session = server.session().await;
    assert_eq!(
        text(&session, "SELECT n FROM public.kept", &[])
            .await
            .as_deref(),
        Some("1")
    );
}

/// Kills the first process of the server, which leaves a stale pid file, a stale socket, and for a
/// moment its children.
#[tokio::test]
async fn a_killed_server_starts_again() {
    let server = Server::with(&[]);
    let session = server.session().await;
    let killed = pid(&server.local);
    let kill = Command::new("kill")
        .args(["-9", &killed.to_string()])
        .status();
    assert!(kill.expect("kill runs").success());
    // The system takes a moment to end it.
    while server.local.status().expect("status") == (Status::Running { pid: killed }) {
        std::thread::yield_now();
    }
    let target = server.local.ensure_running().expect("runs again");
    assert_ne!(pid(&server.local), killed);
    session
        .execute("SELECT 1", &[])
        .await
        .expect_err("its server is gone");
    Session::connect(&target, &SessionOptions::default())
        .await
        .expect("connected");
}

/// After a restart of a container the number in `postmaster.pid` may be any process, here this one.
#[test]
fn a_pid_file_that_names_another_process() {
    let server = Server::with(&[]);
    let file = server.dir().join("postgres/data/postmaster.pid");
    let text = std::fs::read_to_string(&file).expect("a pid file");
    server.local.stop().expect("stopped");
    let (_, rest) = text.split_once('\n').expect("lines");
    std::fs::write(&file, format!("{}\n{rest}", std::process::id())).expect("written");
    if std::path::Path::new("/proc/self/cwd").exists() {
        assert_eq!(server.local.status().expect("status"), Status::Stopped);
        server.local.ensure_running().expect("runs again");
    }
}

#[test]
fn several_callers_at_once_get_one_server() {
    let dir = directory(0o755);
    let local = local_in(dir.path(), &[]);
    assert_eq!(local.status().expect("status"), Status::NotCreated);
    let barrier = Barrier::new(3);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                barrier.wait();
                local_in(dir.path(), &[]).ensure_running().expect("runs");
            });
        }
    });
    pid(&local);
    local.remove().expect("removed");
    assert_eq!(local.status().expect("status"), Status::NotCreated);
}

/// Root's home is closed to the user who runs root's server.
#[tokio::test]
async fn a_directory_that_the_servers_user_cannot_reach() {
    let dir = directory(0o700);
    let local = local_in(dir.path(), &[]);
    let target = local.ensure_running().expect("runs");
    let session = Session::connect(&target, &SessionOptions::default())
        .await
        .expect("connected");
    let note = dir.path().join("postgres-is-elsewhere.txt");
    if std::fs::metadata("/proc/self")
        .is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
    {
        assert!(note.exists());
        let place = text(&session, "SELECT current_setting('data_directory')", &[]).await;
        let place = place.expect("a directory");
        assert!(place.starts_with("/var/"), "{place}");
        assert!(
            std::fs::read_to_string(&note)
                .expect("a note")
                .starts_with(place.trim_end_matches("/data"))
        );
    }
    drop(session);
    pid(&local);
    local.remove().expect("removed");
    assert!(!note.exists());
}

#[tokio::test]
async fn a_path_too_long_for_a_socket() {
    let dir = directory(0o755);
    let deep = dir.path().join("a-directory-with-a-long-name".repeat(5));
    let local = local_in(&deep, &[]);
    let target = local.ensure_running().expect("runs");
    assert!(target.to_string().contains("@/tmp/stepwell-"), "{target}");
    Session::connect(&target, &SessionOptions::default())
        .await
        .expect("connected");
    local.remove().expect("removed");
}

#[test]
fn a_server_that_does_not_start_shows_its_log() {
    let dir = directory(0o755);
    let local = local_in(dir.path(), &[("no_such_setting", "1")]);
    let error = local.ensure_running().expect_err("refused");
    assert!(error.to_string().contains("no_such_setting"), "{error}");
    assert!(error.help().expect("help").contains("/log"));
    local.remove().expect("removed");
}

#[test]
fn data_of_another_version() {
    let dir = directory(0o755);
    let data = dir.path().join("postgres/data");
    std::fs::create_dir_all(&data).expect("made");
    std::fs::write(data.join("PG_VERSION"), "8\n").expect("written");
    let error = local_in(dir.path(), &[])
        .ensure_running()
        .expect_err("too old");
    assert!(
        error.to_string().contains("is of Postgres 8, and "),
        "{error}"
    );
    assert!(error.help().expect("help").contains("install Postgres 8"));
}
