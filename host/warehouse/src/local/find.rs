//! Where the programs of a Postgres server are.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{LocalError, install};

/// The oldest version that knows every setting we give it.
const MAJOR_MIN: u32 = 12;
const PROGRAMS: [&str; 3] = ["initdb", "pg_ctl", "postgres"];

/// A directory with `initdb`, `pg_ctl` and `postgres` of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    dir: PathBuf,
    version: String,
    pub major: u32,
}

/// The data directory that programs are looked for, and its major version.
pub(super) struct Existing {
    pub data: PathBuf,
    pub major: u32,
}

impl Binaries {
    /// Looks in `STEPWELL_PG_BIN`, and in it alone if it is set; otherwise in PATH, where
    /// `pg_config` says, and in the places of Debian, Red Hat, Homebrew and Postgres.app, newest
    /// first. Where there is data already, only its own version will do.
    pub fn find(existing: Option<Existing>) -> Result<Self, LocalError> {
        let mut seen = BTreeSet::new();
        let found: Box<dyn Iterator<Item = Self>> = match std::env::var_os("STEPWELL_PG_BIN") {
            Some(dir) if !dir.is_empty() => {
                let path = PathBuf::from(dir);
                let found = Self::in_dir(&path).ok_or(LocalError::NotBinaries { path })?;
                Box::new(std::iter::once(found))
            }
            _ => Box::new(candidates().filter_map(move |dir| {
                let dir = real_dir(&dir)?;
                seen.insert(dir.clone()).then(|| Self::in_dir(&dir))?
            })),
        };
        let mut installed = Vec::new();
        for binaries in found {
            let fits = match &existing {
                Some(existing) => binaries.major == existing.major,
                None => binaries.major >= MAJOR_MIN,
            };
            if fits {
                return Ok(binaries);
            }
            installed.push(binaries.major);
        }
        match existing {
            Some(Existing {
                data: path,
                major: data,
            }) if !installed.is_empty() => Err(LocalError::OtherVersion {
                path,
                data,
                installed,
            }),
            _ => Err(LocalError::NoBinaries {
                install: install::command(),
            }),
        }
    }

    /// Returns the path of a program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Returns the version as `postgres --version` ends: `15.5 (Debian 15.5-1)`.
    pub fn version(&self) -> &str {
        &self.version
    }

    fn in_dir(dir: &Path) -> Option<Self> {
        if !PROGRAMS.iter().all(|program| dir.join(program).is_file()) {
            return None;
        }
        let output = Command::new(dir.join("postgres"))
            .arg("--version")
            .output()
            .ok()?;
        let words = String::from_utf8_lossy(&output.stdout);
        // `postgres (PostgreSQL) 15.5 (Debian 15.5-1)`
        let version = words.split_once(") ")?.1.trim().to_owned();
        let major = crate::connect::major(&version);
        (major > 0).then(|| Self {
            dir: dir.to_owned(),
            version,
            major,
        })
    }
}

/// The directory in which `initdb` really is: in PATH it may be a link.
fn real_dir(dir: &Path) -> Option<PathBuf> {
    let initdb = dir.join("initdb").canonicalize().ok()?;
    Some(initdb.parent()?.to_owned())
}

fn candidates() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path: Vec<PathBuf> = std::env::split_paths(&path).collect();
    in_path
        .into_iter()
        .chain(std::iter::once_with(pg_config_dir).flatten())
        .chain(std::iter::once_with(usual_places).flatten())
}

fn pg_config_dir() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let dir = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(dir.trim_end()))
}

fn usual_places() -> Vec<PathBuf> {
    // The directory that holds a version's own one, what that one's name begins with, and where in
    // it the programs are.
    [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/usr/libexec", "postgresql", ""),
        ("/opt/homebrew/opt", "postgresql@", "bin"),
        ("/usr/local/opt", "postgresql@", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
        ("/usr/local", "pgsql", "bin"),
    ]
    .into_iter()
    .flat_map(|(parent, prefix, below)| versions_in(Path::new(parent), prefix, below))
    .collect()
}

fn versions_in(parent: &Path, prefix: &str, below: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let version = name.to_str()?.strip_prefix(prefix)?;
            let plain = version.is_empty() && !prefix.is_empty();
            let number = crate::connect::major(version);
            (plain || number > 0).then(|| (number, parent.join(OsStr::new(&name)).join(below)))
        })
        .collect();
    versions.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    versions.into_iter().map(|(_, dir)| dir).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_version_first() {
        let parent = tempfile::tempdir().expect("temporary directory");
        for name in [
            "postgresql@9.6",
            "postgresql@15",
            "postgresql@17",
            "redis",
            "postgresql@",
        ] {
            fs::create_dir(parent.path().join(name)).expect("made");
        }
        let found = versions_in(parent.path(), "postgresql@", "bin");
        let found: Vec<_> = found
            .iter()
            .map(|dir| {
                dir.strip_prefix(parent.path())
                    .expect("below it")
                    .display()
                    .to_string()
            })
            .collect();
        assert_eq!(
            found,
            [
                "postgresql@17/bin",
                "postgresql@15/bin",
                "postgresql@9.6/bin",
                "postgresql@/bin"
            ]
        );
    }

    #[test]
    fn a_directory_without_programs_is_none() {
        let dir = tempfile::tempdir().expect("temporary directory");
        assert_eq!(Binaries::in_dir(dir.path()), None);
        assert_eq!(real_dir(dir.path()), None);
    }
}
