use std::io;
use std::path::{Path, PathBuf};

/// Why the private server cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The programs of a Postgres server are not on this machine, or not where we look.
    #[error("no Postgres server is installed on this machine")]
    NoBinaries {
        /// The command that installs it here.
        install: String,
    },
    /// `STEPWELL_PG_BIN` names a directory without them.
    #[error("STEPWELL_PG_BIN names {path}, which does not hold initdb, pg_ctl and postgres")]
    NotBinaries {
        /// The directory.
        path: PathBuf,
    },
    /// The data directory was made by another major version than any that is installed.
    #[error(
        "the private server's data in {path} is of Postgres {data}, and {} is installed",
        versions(installed)
    )]
    OtherVersion {
        /// The data directory.
        path: PathBuf,
        /// Major version of the data.
        data: u32,
        /// Major versions found.
        installed: Vec<u32>,
    },
    /// The caller is root, Postgres refuses to run as root, and there is nobody to hand it to.
    #[error("Postgres does not run as root, and there is no user \"postgres\" or \"nobody\"")]
    NoUser,
    /// A file or directory could not be made, read or handed over.
    #[error("could not use {path}")]
    Directory {
        /// Which one.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A directory that only the server's user may enter belongs to somebody else.
    #[error("{path} is not a directory that belongs to the server's user alone")]
    NotOurs {
        /// Which one.
        path: PathBuf,
    },
    /// Another process holds the lock for too long.
    #[error("another process has been starting or stopping the private server for {seconds} s")]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long we waited.
        seconds: u64,
    },
    /// A program could not be started at all.
    #[error("could not run {program}")]
    Run {
        /// Its path.
        program: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The data directory could not be created.
    #[error("initdb could not create the private server's data directory: {said}")]
    Init {
        /// The end of its output.
        said: String,
    },
    /// The server did not come up.
    #[error("the private server did not start: {said}")]
    Start {
        /// The end of its log.
        said: String,
        /// The whole log.
        log: PathBuf,
    },
    /// The server did not go down.
    #[error("the private server did not stop: {said}")]
    Stop {
        /// What `pg_ctl` said.
        said: String,
    },
}

impl LocalError {
    pub(super) fn directory(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Directory { path, source }
    }

    /// Returns what to do next, as a sentence, where that is known.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoBinaries { install } => Some(format!(
                "install one with `{install}`, set STEPWELL_PG_BIN to the directory of its \
                 programs, or name a server of your own with `warehouse: {{ url: … }}`"
            )),
            Self::NotBinaries { .. } => {
                Some("set it to the directory that `pg_config --bindir` prints".to_owned())
            }
            Self::OtherVersion { path, data, .. } => Some(format!(
                "install Postgres {data} beside the others, or delete {} to begin anew, \
                 which loses what is in it",
                path.display()
            )),
            Self::NoUser => Some("create a user \"postgres\", or run as another user".to_owned()),
            Self::Directory { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run as the user who owns it, for example as root if root made it".to_owned())
            }
            Self::NotOurs { .. } => Some("move it away, then run again".to_owned()),
            Self::Locked { path, .. } => Some(format!(
                "find that process with `fuser {}`, or wait for it",
                path.display()
            )),
            Self::Start { log, .. } => Some(format!("the whole story is in {}", log.display())),
            Self::Directory { .. } | Self::Run { .. } | Self::Init { .. } | Self::Stop { .. } => {
                None
            }
        }
    }
}

fn versions(majors: &[u32]) -> String {
    let majors: Vec<String> = majors.iter().map(u32::to_string).collect();
    majors.join(", ")
}
