//! A Postgres of the project's own: one data directory, one socket, started when it is needed.
//!
//! Hides where the programs are, which user runs them, and what a crash leaves behind. Nothing
//! listens on the network: the socket's directory is open to one user alone, and that is what
//! protects the server, so it asks for no password.
//!
//! Calls block for as long as `initdb` or the start takes (about a second), so an asynchronous
//! caller wraps them in `spawn_blocking`.

mod cluster;
mod error;
mod find;
mod install;
mod place;
mod user;

use std::fs::{self, File, TryLockError};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::target::Target;
use cluster::{Cluster, PidFile, StopMode};
pub use error::LocalError;
use find::Binaries;
use place::Place;
pub(crate) use place::private_socket;
use user::ServerUser;

/// Superuser and database of the private server.
const NAME: &str = "postgres";
const PORT: u16 = 5432;
const LOCK_TIMEOUT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);

/// Whether a committed row survives a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// It does.
    #[default]
    Full,
    /// It does not, and the data directory may be lost with it: for test harnesses.
    OffForTests,
}

/// How the private server is set up. Takes effect at the next start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalOptions {
    /// Whether writes are forced to the disk.
    pub durability: Durability,
    /// More server settings, which replace ours of the same name. `port` is the number in the
    /// socket's name as well.
    pub settings: Vec<(String, String)>,
}

/// What the private server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// There is no data directory yet.
    NotCreated,
    /// There is one, and no server runs on it.
    Stopped,
    /// A server runs on it.
    Running {
        /// Its process.
        pid: u32,
    },
}

/// A server that runs.
#[derive(Debug, Clone)]
pub struct Ensured {
    /// Where.
    pub target: Target,
    /// Whether it did not run before, and was started for this call.
    pub started: bool,
}

/// The private server of one project.
#[derive(Debug, Clone)]
pub struct LocalServer {
    dir: PathBuf,
    options: LocalOptions,
}

impl LocalServer {
    /// Returns the server whose files stand in `dir`, which is the project's `.stepwell` directory.
    /// Nothing is touched yet.
    ///
    /// They stand in `dir/postgres`. When the caller is root, the server runs as another user, and
    /// if that one cannot reach `dir`, they stand below `/var/lib/stepwell` (or `/var/tmp`) under a
    /// name that follows from the project's path; a note in `dir` says where.
    pub fn at(dir: &Path, options: LocalOptions) -> Self {
        Self {
            dir: dir.to_owned(),
            options,
        }
    }

    /// Makes sure that the server runs and returns where: creates the data directory at first use,
    /// starts a server that is down, and returns at once if it is up. Any number of processes may
    /// call it at the same time.
    ///
    /// # Errors
    ///
    /// [`LocalError`], whose [`help`](LocalError::help) says what to do.
    pub fn ensure_running(&self) -> Result<Target, LocalError> {
        Ok(self.ensure()?.target)
    }

    /// Does what [`ensure_running`](Self::ensure_running) does, and also says whether this call started the server: for
    /// whoever leaves it as it was found.
    ///
    /// # Errors
    ///
    /// As [`ensure_running`](Self::ensure_running).
    pub fn ensure(&self) -> Result<Ensured, LocalError> {
        let ran = |target| Ensured {
            target,
            started: false,
        };
        if let Some(target) = self.running_target() {
            return Ok(ran(target));
        }
        fs::create_dir_all(&self.dir).map_err(LocalError::directory(&self.dir))?;
        let _lock = self.lock()?;
        if let Some(target) = self.running_target() {
            return Ok(ran(target));
        }
        let place = self.place()?;
        let user = ServerUser::choose(&place.data())?;
        let binaries = Binaries::find(place.major())?;
        let place = place.reachable_by(&user, &binaries)?;
        let cluster = Cluster {
            place: &place,
            user: &user,
            binaries: &binaries,
        };
        cluster.prepare(&self.options)?;
        cluster.start()?;
        Ok(Ensured {
            target: place.target(),
            started: true,
        })
    }

    /// Returns where the server is, or will be. Does not start it.
    ///
    /// # Errors
    ///
    /// [`LocalError::Directory`] if the project's directory cannot be read.
    pub fn target(&self) -> Result<Target, LocalError> {
        Ok(self.place()?.target())
    }

    /// Returns whether it runs.
    ///
    /// # Errors
    ///
    /// [`LocalError::Directory`] if the directory cannot be read.
    pub fn status(&self) -> Result<Status, LocalError> {
        if !self.dir.exists() {
            return Ok(Status::NotCreated);
        }
        let place = self.place()?;
        if place.major().is_none() {
            // Another user's directory looks empty from outside, so ask once more, for the error.
            return match fs::read_dir(place.home()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(LocalError::directory(place.home())(error))
                }
                _ => Ok(Status::NotCreated),
            };
        }
        Ok(match PidFile::read(&place.data()) {
            Some(file) if file.process_lives() && file.is_of(&place.data()) => {
                Status::Running { pid: file.pid }
            }
            _ => Status::Stopped,
        })
    }

    /// Stops the server: open transactions are undone, sessions closed. Without a running server it
    /// does nothing. Returns whether one ran.
    ///
    /// # Errors
    ///
    /// [`LocalError::Stop`] if it does not end within a minute.
    pub fn stop(&self) -> Result<bool, LocalError> {
        if !self.dir.exists() {
            return Ok(false);
        }
        let _lock = self.lock()?;
        self.stop_locked(StopMode::KeepData)
    }

    /// Stops the server and deletes its files, the data included.
    ///
    /// # Errors
    ///
    /// As [`stop`](Self::stop), and [`LocalError::Directory`].
    pub fn remove(&self) -> Result<(), LocalError> {
        if !self.dir.exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        self.stop_locked(StopMode::LoseData)?;
        self.place()?.remove()
    }

    fn stop_locked(&self, mode: StopMode) -> Result<bool, LocalError> {
        if !matches!(self.status()?, Status::Running { .. }) {
            return Ok(false);
        }
        let place = self.place()?;
        let user = ServerUser::choose(&place.data())?;
        let binaries = Binaries::find(place.major())?;
        let cluster = Cluster {
            place: &place,
            user: &user,
            binaries: &binaries,
        };
        cluster.stop(mode)?;
        Ok(true)
    }

    /// Returns `psql` on this server, ready to be given arguments and run.
    ///
    /// # Errors
    ///
    /// As [`target`](Self::target).
    pub fn psql(&self) -> Result<Command, LocalError> {
        let place = self.place()?;
        let beside_server = Binaries::find(place.major())
            .ok()
            .map(|binaries| binaries.program("psql"))
            .filter(|psql| psql.exists());
        let mut psql = Command::new(beside_server.unwrap_or_else(|| PathBuf::from("psql")));
        user::without_postgres_variables(&mut psql);
        psql.arg("-h").arg(place.socket_dir());
        psql.args(["-p", &place.port().to_string(), "-U", NAME, "-d", NAME]);
        Ok(psql)
    }

    /// Returns the version of the programs that serve, or would serve, this directory: `15.5`.
    ///
    /// # Errors
    ///
    /// [`LocalError::NoBinaries`] and [`LocalError::OtherVersion`].
    pub fn version(&self) -> Result<String, LocalError> {
        Ok(Binaries::find(self.place()?.major())?.version().to_owned())
    }

    /// Returns the server's log file, for messages.
    ///
    /// # Errors
    ///
    /// As [`target`](Self::target).
    pub fn log_file(&self) -> Result<PathBuf, LocalError> {
        Ok(self.place()?.log())
    }

    /// Returns the target if a server answers on the socket and says that it is ready. Called at
    /// each start of the host, so it starts no process and takes no lock.
    fn running_target(&self) -> Option<Target> {
        let place = self.place().ok()?;
        let ready = PidFile::read(&place.data()).is_some_and(|file| file.ready);
        if !ready {
            return None;
        }
        UnixStream::connect(place.socket()).ok()?;
        Some(place.target())
    }

    fn place(&self) -> Result<Place, LocalError> {
        let given = self
            .options
            .settings
            .iter()
            .find(|(name, _)| name == "port");
        Place::of(
            &self.dir,
            given
                .and_then(|(_, port)| port.parse().ok())
                .unwrap_or(PORT),
        )
    }

    /// One process at a time creates, starts, stops or deletes.
    fn lock(&self) -> Result<File, LocalError> {
        let path = self.dir.join("postgres.lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(LocalError::directory(&path))?;
        let began = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if began.elapsed() < LOCK_TIMEOUT => {
                    std::thread::sleep(POLL);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(LocalError::Locked {
                        path,
                        seconds: LOCK_TIMEOUT.as_secs(),
                    });
                }
                Err(TryLockError::Error(error)) => return Err(LocalError::directory(&path)(error)),
            }
        }
    }
}
