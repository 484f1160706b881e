//! The data directory and the process that serves it.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use super::find::Binaries;
use super::place::Place;
use super::user::ServerUser;
use super::{Durability, LocalError, LocalOptions, NAME};

const CONFIG: &str = "stepwell.conf";
const WAIT_SECONDS: &str = "60";
/// After a killed server, its last processes hold its memory until they notice.
const ORPHANS_TIMEOUT: Duration = Duration::from_secs(30);
const LOG_BYTES_MAX: u64 = 16 << 20;

/// Everything that is needed to act on a data directory.
pub(super) struct Cluster<'a> {
    pub place: &'a Place,
    pub user: &'a ServerUser,
    pub binaries: &'a Binaries,
}

impl Cluster<'_> {
    /// Creates the data directory if there is none, and writes the settings.
    pub fn prepare(&self, options: &LocalOptions) -> Result<(), LocalError> {
        self.place.make_socket_dir(self.user)?;
        if self.place.major().is_none() {
            self.init(options.durability)?;
        }
        let config = self.place.data().join(CONFIG);
        fs::write(&config, settings(options, self.place))
            .and_then(|()| self.user.own(&config))
            .map_err(LocalError::directory(&config))
    }

    /// Under another name first: a data directory that is there is whole.
    fn init(&self, durability: Durability) -> Result<(), LocalError> {
        let unfinished = self.place.home().join("data.unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(LocalError::directory(&unfinished))?;
        }
        let mut initdb = self.command("initdb");
        initdb
            .args(["--username", NAME, "--auth", "trust", "--encoding", "UTF8"])
            .args(["--locale", "C", "--pgdata"])
            .arg(&unfinished);
        // Two seconds for a thousand small files, where one call for the file system does the same.
        let sync_at_once = cfg!(target_os = "linux");
        if sync_at_once || durability == Durability::OffForTests {
            initdb.arg("--no-sync");
        }
        let output = self.run(&mut initdb)?;
        if !output.status.success() {
            return Err(LocalError::Init {
                said: last_lines(&output.stderr),
            });
        }
        let main = unfinished.join("postgresql.conf");
        let include = format!("\ninclude '{CONFIG}'\n");
        append(&main, &include).map_err(LocalError::directory(&main))?;
        if sync_at_once && durability == Durability::Full {
            sync_file_system(&unfinished).map_err(LocalError::directory(&unfinished))?;
        }
        let data = self.place.data();
        fs::rename(&unfinished, &data).map_err(LocalError::directory(&data))
    }

    /// Starts the server, which then belongs to no session of ours: `pg_ctl` gives it one of its
    /// own, so that it outlives this process and its terminal. Returns when it takes connections.
    pub fn start(&self) -> Result<(), LocalError> {
        self.forget_stale_pid()?;
        let log = self.place.log();
        if fs::metadata(&log).is_ok_and(|meta| meta.len() > LOG_BYTES_MAX) {
            let _ = fs::rename(&log, log.with_extension("old"));
        }
        let began = Instant::now();
        loop {
            let logged = fs::metadata(&log).map_or(0, |meta| meta.len());
            let mut start = self.command("pg_ctl");
            start.args(["start", "--wait", "--silent", "--timeout", WAIT_SECONDS]);
            start
                .arg("--pgdata")
                .arg(self.place.data())
                .arg("--log")
                .arg(&log);
            let output = self.run(&mut start)?;
            if output.status.success() {
                return Ok(());
            }
            let said = read_from(&log, logged);
            let orphans = said.contains("still in use") || said.contains("already exists");
            if !orphans || began.elapsed() > ORPHANS_TIMEOUT {
                let said = if said.is_empty() {
                    output.stderr
                } else {
                    said.into_bytes()
                };
                return Err(LocalError::Start {
                    said: last_lines(&said),
                    log,
                });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn stop(&self, mode: StopMode) -> Result<(), LocalError> {
        let mode = match mode {
            StopMode::KeepData => "fast",
            StopMode::LoseData => "immediate",
        };
        let mut stop = self.command("pg_ctl");
        stop.args(["stop", "--wait", "--silent", "--mode", mode]);
        stop.args(["--timeout", WAIT_SECONDS]);
        stop.arg("--pgdata").arg(self.place.data());
        let output = self.run(&mut stop)?;
        if output.status.success() {
            return Ok(());
        }
        Err(LocalError::Stop {
            said: last_lines(&output.stderr),
        })
    }

    /// After a restart of a container, the number in `postmaster.pid` may be some other process of
    /// ours, and Postgres then refuses to start. The file goes if nothing works in the data
    /// directory; the processes of a killed server do, and keep it.
    fn forget_stale_pid(&self) -> Result<(), LocalError> {
        let data = self.place.data();
        let Some(file) = PidFile::read(&data) else {
            return Ok(());
        };
        if !file.process_lives() || somebody_works_in(&data) {
            return Ok(());
        }
        let path = data.join("postmaster.pid");
        tracing::warn!(
            pid = file.pid,
            "stale postmaster.pid removed: its process is another one"
        );
        fs::remove_file(&path).map_err(LocalError::directory(&path))
    }

    fn command(&self, program: &str) -> Command {
        self.user
            .command(&self.binaries.program(program), self.place.home())
    }

    fn run(&self, command: &mut Command) -> Result<Output, LocalError> {
        command
            .stdin(std::process::Stdio::null())
            .output()
            .map_err(|source| LocalError::Run {
                program: PathBuf::from(command.get_program()),
                source,
            })
    }
}

/// Whether the data is of use after the stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopMode {
    KeepData,
    /// Nothing is written out any more.
    LoseData,
}

/// What a server writes about itself into its data directory.
pub(super) struct PidFile {
    pub pid: u32,
    /// It takes connections.
    pub ready: bool,
}

impl PidFile {
    pub fn read(data: &Path) -> Option<Self> {
        let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok()?;
        let ready = lines.nth(6).is_some_and(|status| status.trim() == "ready");
        Some(Self { pid, ready })
    }

    pub fn process_lives(&self) -> bool {
        let pid = i32::try_from(self.pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        pid.is_some_and(|pid| {
            use rustix::io::Errno;
            matches!(
                rustix::process::test_kill_process(pid),
                Ok(()) | Err(Errno::PERM)
            )
        })
    }

    /// Returns whether the process is a server of this directory, as far as the system tells.
    pub fn is_of(&self, data: &Path) -> bool {
        works_in(&Path::new("/proc").join(self.pid.to_string()), data)
    }
}

/// Returns whether a process has the data directory as its own, as every process of a server has.
/// True where the system does not tell, which is the careful answer.
fn somebody_works_in(data: &Path) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else {
        return true;
    };
    let is_number = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    processes
        .flatten()
        .filter(|process| is_number(&process.file_name()))
        .any(|process| works_in(&process.path(), data))
}

/// Looks at `/proc/<pid>/cwd`. Other users' processes are not shown to us and are not the server's;
/// one that is dead and not yet reaped has none.
fn works_in(process: &Path, data: &Path) -> bool {
    match (fs::read_link(process.join("cwd")), data.canonicalize()) {
        (Ok(cwd), Ok(data)) => cwd == data,
        _ => !Path::new("/proc/self/cwd").exists(),
    }
}

/// What the server is started with. The file is written anew at each start.
fn settings(options: &LocalOptions, place: &Place) -> String {
    let socket_dir = place.socket_dir().to_string_lossy().into_owned();
    let port = place.port().to_string();
    let mut settings: Vec<(&str, &str)> = vec![
        ("listen_addresses", ""),
        ("port", &port),
        ("unix_socket_directories", &socket_dir),
        ("unix_socket_permissions", "0700"),
        ("max_connections", "50"),
        ("shared_buffers", "256MB"),
        ("max_wal_size", "4GB"),
        // Nobody replicates it, and bulk loads into new tables then skip the log.
        ("wal_level", "minimal"),
        ("max_wal_senders", "0"),
        ("synchronous_commit", "on"),
        ("autovacuum", "on"),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
        ("logging_collector", "off"),
    ];
    if options.durability == Durability::OffForTests {
        settings.retain(|(name, _)| !matches!(*name, "synchronous_commit" | "shared_buffers"));
        settings.extend([
            ("fsync", "off"),
            ("full_page_writes", "off"),
            ("synchronous_commit", "off"),
            ("shared_buffers", "64MB"),
        ]);
    }
    for (name, value) in &options.settings {
        settings.retain(|(ours, _)| !ours.eq_ignore_ascii_case(name));
        settings.push((name, value));
    }
    let mut text = "# Written by stepwell at each start.\n".to_owned();
    for (name, value) in settings {
        let value = value.replace('\\', "\\\\").replace('\'', "''");
        text.push_str(&format!("{name} = '{value}'\n"));
    }
    text
}

#[cfg(target_os = "linux")]
fn sync_file_system(path: &Path) -> std::io::Result<()> {
    Ok(rustix::fs::syncfs(fs::File::open(path)?)?)
}

#[cfg(not(target_os = "linux"))]
fn sync_file_system(_: &Path) -> std::io::Result<()> {
    Ok(())
}

fn append(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new()
        .append(true)
        .open(path)?
        .write_all(text.as_bytes())
}

fn read_from(path: &Path, start: u64) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = fs::File::open(path)
        && file.seek(SeekFrom::Start(start)).is_ok()
    {
        let _ = file.take(64 << 10).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The end of what a program said, on one line.
fn last_lines(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let last = lines.len().saturating_sub(3);
    lines[last..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_quoted_and_replaced() {
        let options = LocalOptions {
            durability: Durability::OffForTests,
            settings: vec![("max_connections".to_owned(), "9".to_owned())],
        };
        let place = Place::of(Path::new("/it's"), 6000).expect("a place");
        let text = settings(&options, &place);
        assert!(text.contains("unix_socket_directories = '/it''s/postgres/run'\n"));
        assert!(text.contains("port = '6000'\n"));
        assert!(text.contains("max_connections = '9'\n"));
        assert!(!text.contains("'50'"));
        assert!(text.contains("fsync = 'off'\n"));
        assert!(!settings(&LocalOptions::default(), &place).contains("fsync"));
    }

    #[test]
    fn a_pid_file_says_when_it_is_ready() {
        let data = tempfile::tempdir().expect("temporary directory");
        let path = data.path().join("postmaster.pid");
        fs::write(&path, "42\n/d\n1700000000\n5432\n/run\n\n 1 2\nstarting\n").expect("written");
        assert!(!PidFile::read(data.path()).expect("a file").ready);
        fs::write(&path, "42\n/d\n1700000000\n5432\n/run\n\n 1 2\nready   \n").expect("written");
        let file = PidFile::read(data.path()).expect("a file");
        assert!(file.ready && file.pid == 42);
        fs::write(&path, "").expect("written");
        assert!(PidFile::read(data.path()).is_none());
    }

    #[test]
    fn a_process_that_works_elsewhere_is_not_the_server() {
        let data = tempfile::tempdir().expect("temporary directory");
        let file = PidFile {
            pid: std::process::id(),
            ready: true,
        };
        assert!(file.process_lives());
        if Path::new("/proc/self/cwd").exists() {
            assert!(!file.is_of(data.path()));
            assert!(!somebody_works_in(data.path()));
        }
    }
}
