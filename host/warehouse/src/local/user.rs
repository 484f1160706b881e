//! Who runs the server.

use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::User;

use super::LocalError;

/// Postgres refuses to run as root, so a root caller hands it to somebody else and stays root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerUser {
    /// The caller.
    Caller,
    /// Another user, whom a root caller becomes.
    Other { uid: u32, gid: u32 },
}

impl ServerUser {
    /// Returns the owner of the data where there is some, otherwise `postgres`, otherwise `nobody`.
    pub fn choose(data: &Path) -> Result<Self, LocalError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Caller);
        }
        if let Ok(meta) = data.metadata()
            && meta.uid() != 0
        {
            return Ok(Self::Other {
                uid: meta.uid(),
                gid: meta.gid(),
            });
        }
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| User::from_name(name).ok()?)
            .map(|user| Self::Other {
                uid: user.uid.as_raw(),
                gid: user.gid.as_raw(),
            })
            .ok_or(LocalError::NoUser)
    }

    /// Returns the user's number.
    pub fn uid(self) -> u32 {
        match self {
            Self::Caller => rustix::process::geteuid().as_raw(),
            Self::Other { uid, .. } => uid,
        }
    }

    /// Hands a file or directory that the caller made over.
    pub fn own(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Caller => Ok(()),
            Self::Other { uid, gid } => chown(path, Some(uid), Some(gid)),
        }
    }

    /// Returns a command that will run as this user, in this directory, in English.
    pub fn command(self, program: &Path, directory: &Path) -> Command {
        let mut command = Command::new(program);
        without_postgres_variables(&mut command);
        command.current_dir(directory).env("LC_ALL", "C");
        if let Self::Other { uid, gid } = self {
            // The supplementary groups of root go with it.
            command.uid(uid).gid(gid);
        }
        command
    }
}

/// PGDATA, PGHOST and their like would point the programs to another server.
pub(super) fn without_postgres_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
}
