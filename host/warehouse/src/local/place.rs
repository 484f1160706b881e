//! Where the private server's files are.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::find::{Binaries, Existing};
use super::user::ServerUser;
use super::{LocalError, NAME};
use crate::target::Target;

/// The longest path of a socket on macOS; Linux allows four bytes more.
const SOCKET_PATH_BYTES_MAX: usize = 103;
/// In the project's directory, when the files are elsewhere.
const NOTE: &str = "postgres-is-elsewhere.txt";

/// The directory that holds `data`, `log` and, where its path is short enough, `run` with the
/// socket.
#[derive(Debug)]
pub(super) struct Place {
    /// The project's `.stepwell`, without links in its path.
    dir: PathBuf,
    home: PathBuf,
    port: u16,
}

impl Place {
    /// Returns the place of a project's server, existing or not.
    pub fn of(dir: &Path, port: u16) -> Result<Self, LocalError> {
        let dir = match dir.canonicalize() {
            Ok(dir) => dir,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::path::absolute(dir).map_err(LocalError::directory(dir))?
            }
            Err(error) => return Err(LocalError::directory(dir)(error)),
        };
        let home = match fs::read_to_string(dir.join(NOTE)) {
            // The file comes with the project, which may come from anywhere: what it says counts
            // only where it is what we would have written.
            Ok(note) => elsewhere(&dir)
                .into_iter()
                .find(|home| note == note_about(home)),
            Err(_) => None,
        };
        let home = home.unwrap_or_else(|| dir.join("postgres"));
        Ok(Self { dir, home, port })
    }

    pub fn home(&self) -> &Path {
        &self.home
    }

    pub fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    pub fn log(&self) -> PathBuf {
        self.home.join("log")
    }

    /// Returns the data directory and its major version, if there is one.
    pub fn major(&self) -> Option<Existing> {
        let data = self.data();
        let words = fs::read_to_string(data.join("PG_VERSION")).ok()?;
        let major = crate::connect::major(&words);
        (major > 0).then_some(Existing { data, major })
    }

    /// Returns the directory of the socket: in the home, or under a short name in `/tmp`.
    pub fn socket_dir(&self) -> PathBuf {
        let near = self.home.join("run");
        // The number has five digits at most.
        if near.join(".s.PGSQL.65535").as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
            return near;
        }
        PathBuf::from(format!("/tmp/stepwell-{}", hash(&self.home)))
    }

    pub fn socket(&self) -> PathBuf {
        self.socket_dir().join(format!(".s.PGSQL.{}", self.port))
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn target(&self) -> Target {
        Target::local_socket(&self.socket_dir(), self.port, NAME, NAME)
    }

    /// Makes the home, and moves it elsewhere if the server's user cannot reach it here.
    pub fn reachable_by(
        mut self,
        user: &ServerUser,
        binaries: &Binaries,
    ) -> Result<Self, LocalError> {
        if self.major().is_some() {
            return Ok(self);
        }
        make_private(&self.home, user)?;
        if *user == ServerUser::Caller || can_enter(&self.home, user, binaries) {
            return Ok(self);
        }
        let mut last = None;
        for home in elsewhere(&self.dir) {
            let parent = home.parent().unwrap_or(&home);
            let made = fs::create_dir_all(parent).map_err(LocalError::directory(parent));
            match made.and_then(|()| make_private(&home, user)) {
                Ok(()) => {
                    let note = self.dir.join(NOTE);
                    fs::write(&note, note_about(&home)).map_err(LocalError::directory(&note))?;
                    // Empty, since only this call has made it.
                    let _ = fs::remove_dir(&self.home);
                    self.home = home;
                    return Ok(self);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(LocalError::NoUser))
    }

    /// Makes the directory of the socket.
    pub fn make_socket_dir(&self, user: &ServerUser) -> Result<(), LocalError> {
        make_private(&self.socket_dir(), user)
    }

    /// Deletes everything but the lock.
    pub fn remove(&self) -> Result<(), LocalError> {
        for path in [self.socket_dir(), self.home.clone()] {
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(LocalError::directory(&path)(error));
                }
                _ => {}
            }
        }
        let _ = fs::remove_file(self.dir.join(NOTE));
        Ok(())
    }
}

/// Makes a directory that only the server's user may enter, or checks that it is one.
fn make_private(path: &Path, user: &ServerUser) -> Result<(), LocalError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => user.own(path).map_err(LocalError::directory(path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let meta = fs::symlink_metadata(path).map_err(LocalError::directory(path))?;
            let private = meta.is_dir() && meta.mode() & 0o077 == 0;
            // Root may have made it and been stopped before it was handed over.
            if private && meta.uid() == rustix::process::geteuid().as_raw() {
                return user.own(path).map_err(LocalError::directory(path));
            }
            if !private || meta.uid() != user.uid() {
                return Err(LocalError::NotOurs {
                    path: path.to_owned(),
                });
            }
            Ok(())
        }
        Err(error) => Err(LocalError::directory(path)(error)),
    }
}

/// Asks the operating system by going there as that user, which no reading of modes replaces.
fn can_enter(directory: &Path, user: &ServerUser, binaries: &Binaries) -> bool {
    user.command(&binaries.program("pg_ctl"), directory)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// `/var/tmp` may be swept, so it is the second choice.
fn elsewhere(dir: &Path) -> [PathBuf; 2] {
    let hash = hash(dir);
    [
        PathBuf::from(format!("/var/lib/stepwell/{hash}")),
        PathBuf::from(format!("/var/tmp/stepwell-{hash}")),
    ]
}

fn note_about(home: &Path) -> String {
    format!(
        "{}\n\nholds this project's private Postgres: the user that runs the server cannot enter \
         this directory.\n`stepwell local stop`, then deleting that directory and this file, \
         removes it.\n",
        home.display()
    )
}

/// FNV-1a: short, and the same in every version of the program, which the standard library's
/// hashes do not promise.
fn hash(path: &Path) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in path.as_os_str().as_encoded_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}

/// Whether a socket is where a private server has its own, and the folder of the project if the path says which.
///
/// The path is compared, nothing is looked at: the server may be stopped, or removed.
pub(crate) fn private_socket(socket: &Path) -> Option<Option<&Path>> {
    let directory = socket.parent()?;
    if let Some(home) = directory.parent().filter(|_| directory.ends_with("run")) {
        if home.ends_with(".stepwell/postgres") {
            return Some(home.parent().and_then(Path::parent));
        }
        if is_hashed(home, "/var/lib/stepwell/") || is_hashed(home, "/var/tmp/stepwell-") {
            return Some(None);
        }
    }
    is_hashed(directory, "/tmp/stepwell-").then_some(None)
}

/// Whether a path is this beginning and a [`hash`].
fn is_hashed(path: &Path, beginning: &str) -> bool {
    let rest = path.to_str().and_then(|path| path.strip_prefix(beginning));
    rest.is_some_and(|hash| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_gets_a_short_socket() {
        let place = |home: PathBuf| Place {
            dir: home.clone(),
            home,
            port: 5432,
        };
        let short = place(PathBuf::from("/p/postgres"));
        assert_eq!(short.socket_dir(), Path::new("/p/postgres/run"));
        let long = PathBuf::from(format!("/{}", "x".repeat(100)));
        let long = place(long);
        let socket = long.socket_dir();
        assert!(socket.starts_with("/tmp"), "{}", socket.display());
        assert!(long.socket().as_os_str().len() <= SOCKET_PATH_BYTES_MAX);
    }

    #[test]
    fn a_note_that_we_did_not_write_is_not_followed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::write(dir.path().join(NOTE), "/etc\n").expect("written");
        let place = Place::of(dir.path(), 5432).expect("a place");
        assert!(place.home().ends_with("postgres"));
    }

    #[test]
    fn a_private_socket_is_known_by_its_path() {
        let place = |dir: &str, home: PathBuf| Place {
            dir: PathBuf::from(dir),
            home,
            port: 5432,
        };
        let near = place("/p q/.stepwell", PathBuf::from("/p q/.stepwell/postgres"));
        assert_eq!(
            private_socket(&near.socket()),
            Some(Some(Path::new("/p q")))
        );
        let long = format!("/{}/.stepwell", "x".repeat(100));
        let mut elsewhere: Vec<_> = elsewhere(near.dir.as_path()).into();
        elsewhere.push(Path::new(&long).join("postgres"));
        for home in elsewhere {
            let socket = place(&long, home).socket();
            assert_eq!(private_socket(&socket), Some(None), "{}", socket.display());
        }
        for other in [
            "/var/run/postgresql/.s.PGSQL.5432",
            "/p/postgres/run/.s.PGSQL.5432",
            "/tmp/stepwell-tests/.s.PGSQL.5432",
            ".s.PGSQL.5432",
        ] {
            assert_eq!(private_socket(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn the_hash_never_changes() {
        assert_eq!(hash(Path::new("/project/.stepwell")), "6ff1560dc224e740");
    }
}
