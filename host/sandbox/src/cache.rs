//! Compiled components on disk, so that a start does not wait for the compiler.
//!
//! What is loaded from here runs as machine code in this process, unchecked. So the directory must
//! belong to us and be closed to others, and each artefact is compared with its length and CRC-32,
//! kept beside it, before it is mapped. That guards against truncated and damaged files, as a crash
//! of the machine leaves them; against someone who can write to the directory there is no guard,
//! which is why such a directory is not used at all. A cryptographic checksum would guard no better,
//! and took a fifth of the processor time of a run that finds nothing new.

use std::fs::{self, DirBuilder, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, futimens};
use tracing::{debug, warn};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::digest::Digest;

const ARTEFACT: &str = "cwasm";
const CHECKSUM: &str = "crc32";
/// Beginning of the name of a file that is being written.
const TEMPORARY: &str = ".writing-";

/// A directory of artefacts, which is safe to use.
#[derive(Clone)]
pub(crate) struct Folder {
    dir: PathBuf,
    bytes_max: u64,
}

impl Folder {
    /// Returns the folder at `dir`, which is made if it is missing; none, with a warning, if it is
    /// not safe to use.
    pub(crate) fn open(dir: &Path, bytes_max: u64) -> Option<Self> {
        if let Err(error) = prepare(dir) {
            warn!(dir = %dir.display(), %error, "compiled plugins are not cached");
            return None;
        }
        Some(Self {
            dir: dir.to_owned(),
            bytes_max,
        })
    }
}

/// The artefacts of one engine in a folder, which it may share with others.
pub(crate) struct Cache {
    folder: Folder,
    /// Which engine: its settings, wasmtime's version and the processor's features.
    engine_hash: u64,
}

impl Cache {
    pub(crate) fn new(folder: Folder, engine: &Engine) -> Self {
        // `new` has fixed keys: the hash must be the same in the next process. A newer Rust may
        // hash differently, and then the artefacts are compiled again.
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Self {
            folder,
            engine_hash: hasher.finish(),
        }
    }

    /// Returns the compiled component and the size of its artefact; none if it is not here or not
    /// whole.
    pub(crate) fn load(&self, engine: &Engine, digest: Digest) -> Option<(Component, u64)> {
        let path = self.path(digest, ARTEFACT);
        let artefact = match fs::read(&path) {
            Ok(artefact) => artefact,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn!(path = %path.display(), %error, "could not read a compiled plugin");
                return None;
            }
        };
        let expected = match fs::read_to_string(self.path(digest, CHECKSUM)) {
            Ok(expected) => expected,
            // Another process is between the two files, or died there, or tidies: nothing is damaged.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                debug!(path = %path.display(), "a compiled plugin has no checksum, compiling it again");
                return None;
            }
            // What cannot be read or is no text is not the checksum.
            Err(_) => String::new(),
        };
        if expected != checksum(&artefact) {
            warn!(path = %path.display(), "a compiled plugin is damaged, compiling it again");
            return None;
        }
        // SAFETY: the file was written by `store` from the compiler's output: its checksum says
        // that it is whole, its name that it was compiled by this very engine, and the directory is
        // ours alone. It is never changed in place, only replaced by renaming, so what is mapped
        // stays as it is.
        match unsafe { Component::deserialize_file(engine, &path) } {
            Ok(component) => {
                self.touch(&path);
                Some((component, artefact.len() as u64))
            }
            Err(error) => {
                warn!(path = %path.display(), %error, "could not load a compiled plugin");
                None
            }
        }
    }

    /// Keeps an artefact. A failure costs the next start some time and is only logged.
    pub(crate) fn store(&self, digest: Digest, artefact: &[u8]) {
        let stored = self
            .write(&self.path(digest, ARTEFACT), artefact)
            .and_then(|()| self.write(&self.path(digest, CHECKSUM), checksum(artefact).as_bytes()));
        match stored {
            Ok(()) => debug!(%digest, bytes = artefact.len(), "compiled plugin cached"),
            Err(error) => {
                warn!(dir = %self.folder.dir.display(), %error, "could not cache a plugin");
            }
        }
        if let Err(error) = self.prune() {
            warn!(dir = %self.folder.dir.display(), %error, "could not tidy compiled plugins");
        }
    }

    fn path(&self, digest: Digest, extension: &str) -> PathBuf {
        let digest = digest.to_string().replace(':', "-");
        self.folder
            .dir
            .join(format!("{digest}-{:016x}.{extension}", self.engine_hash))
    }

    /// Writes a file so that others see the old one or the new one, never a part.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempfile_in(&self.folder.dir)?;
        file.write_all(bytes)?;
        file.persist(path)?;
        Ok(())
    }

    /// Marks an artefact as used, so that the ones pruned first are those that nobody asks for.
    fn touch(&self, path: &Path) {
        let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
        let now = Timestamps {
            last_access: special(UTIME_OMIT),
            last_modification: special(UTIME_NOW),
        };
        let used = File::open(path).and_then(|file| Ok(futimens(file, &now)?));
        if let Err(error) = used {
            debug!(dir = %self.folder.dir.display(), %error, "could not mark a compiled plugin as used");
        }
    }

    /// Removes the artefacts used longest ago until the rest fits.
    fn prune(&self) -> io::Result<()> {
        let mut artefacts = Vec::new();
        for entry in fs::read_dir(&self.folder.dir)? {
            let path = entry?.path();
            if is_leftover(&path) {
                fs::remove_file(&path).or_else(ignore_missing)?;
            } else if path
                .extension()
                .is_some_and(|extension| extension == ARTEFACT)
            {
                let metadata = fs::metadata(&path)?;
                artefacts.push((metadata.modified()?, metadata.len(), path));
            }
        }
        artefacts.sort();
        let mut bytes: u64 = artefacts.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in artefacts {
            if bytes <= self.folder.bytes_max {
                break;
            }
            fs::remove_file(path.with_extension(CHECKSUM)).or_else(ignore_missing)?;
            fs::remove_file(&path).or_else(ignore_missing)?;
            bytes -= size;
        }
        Ok(())
    }
}

/// Length and CRC-32 of an artefact, as they are kept beside it.
fn checksum(artefact: &[u8]) -> String {
    format!("{} {:08x}", artefact.len(), crc32fast::hash(artefact))
}

/// Whether the file was being written by a process that died. A live one is done within an hour.
fn is_leftover(path: &Path) -> bool {
    const WRITING_TIME_MAX: Duration = Duration::from_secs(3_600);

    let is_temporary = path
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes()));
    let age = || {
        fs::metadata(path)?
            .modified()?
            .elapsed()
            .map_err(io::Error::other)
    };
    is_temporary && age().is_ok_and(|age| age > WRITING_TIME_MAX)
}

/// Another process may tidy at the same time.
fn ignore_missing(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

fn prepare(dir: &Path) -> io::Result<()> {
    const OTHERS_MAY_WRITE: u32 = 0o022;
    const STICKY: u32 = 0o1000;

    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let metadata = fs::metadata(dir)?;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("the directory belongs to another user"));
    }
    if metadata.mode() & OTHERS_MAY_WRITE != 0 {
        return Err(io::Error::other("other users may write to the directory"));
    }
    // Who may rename a directory above it can put another one in its place, after this look. Where the sticky bit is set,
    // as on /tmp, only its owner may.
    for above in fs::canonicalize(dir)?.ancestors().skip(1) {
        let mode = fs::metadata(above)?.mode();
        if mode & OTHERS_MAY_WRITE != 0 && mode & STICKY == 0 {
            let message = format!("other users may replace what lies in {}", above.display());
            return Err(io::Error::other(message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn cache(dir: &Path, bytes_max: u64) -> Option<Cache> {
        let folder = Folder::open(dir, bytes_max)?;
        Some(Cache::new(folder, &Engine::default()))
    }

    fn make_older(path: &Path, age_secs: u64) {
        let file = File::options()
            .append(true)
            .open(path)
            .expect("it was written");
        let written = file.metadata().and_then(|metadata| metadata.modified());
        let older = written.expect("files have times") - Duration::from_secs(age_secs);
        file.set_modified(older).expect("it is ours");
    }

    #[test]
    fn makes_a_directory_for_us_alone() {
        let parent = tempfile::tempdir().expect("a directory");
        let dir = parent.path().join("cache/components");

        assert!(cache(&dir, 1).is_some());
        assert_eq!(
            fs::metadata(&dir).expect("it was made").mode() & 0o777,
            0o700
        );
    }

    /// Who may rename the directory could put one with machine code of theirs in its place.
    #[test]
    fn a_directory_that_others_may_exchange_is_not_used() {
        let parent = tempfile::tempdir().expect("a directory");
        let dir = parent.path().join("components");
        assert!(cache(&dir, 1).is_some());
        for (mode, used) in [
            (0o777, false),
            (0o775, false),
            (0o1777, true),
            (0o755, true),
        ] {
            fs::set_permissions(parent.path(), Permissions::from_mode(mode)).expect("it is ours");
            assert_eq!(cache(&dir, 1).is_some(), used, "{mode:o}");
        }
    }

    #[test]
    fn a_directory_open_to_others_is_not_used() {
        let dir = tempfile::tempdir().expect("a directory");

        for mode in [0o777, 0o770, 0o702] {
            fs::set_permissions(dir.path(), Permissions::from_mode(mode)).expect("it is ours");
            assert!(cache(dir.path(), 1).is_none(), "{mode:o}");
        }
    }

    #[test]
    fn a_directory_of_another_user_is_not_used() {
        // The root of the file system belongs to the superuser; as the superuser, a directory is
        // given away.
        let dir = tempfile::tempdir().expect("a directory");
        let foreign = if rustix::process::geteuid().is_root() {
            let nobody = rustix::process::Uid::from_raw(65_534);
            rustix::fs::chown(dir.path(), Some(nobody), None).expect("the superuser may");
            dir.path()
        } else {
            Path::new("/")
        };

        assert!(cache(foreign, 1).is_none());
    }

    #[test]
    fn the_ones_used_longest_ago_go_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = cache(dir.path(), 25).expect("the directory is ours");
        let digests = [b"a", b"b", b"c"].map(|bytes| Digest::of(bytes));

        for (age_secs, digest) in [(3_000, digests[0]), (2_000, digests[1])] {
            cache.store(digest, &[0; 10]);
            make_older(&cache.path(digest, ARTEFACT), age_secs);
        }
        cache.touch(&cache.path(digests[0], ARTEFACT));
        cache.store(digests[2], &[0; 10]);

        let kept = digests.map(|digest| cache.path(digest, ARTEFACT).exists());
        assert_eq!(kept, [true, false, true], "the first was used again");
        assert!(!cache.path(digests[1], CHECKSUM).exists());
    }

    #[test]
    fn files_of_a_process_that_died_are_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = cache(dir.path(), 1_000).expect("the directory is ours");
        let [old, new] = ["old", "new"].map(|name| dir.path().join(format!("{TEMPORARY}{name}")));
        for path in [&old, &new] {
            fs::write(path, "half").expect("the directory is ours");
        }
        make_older(&old, 86_400);

        cache.store(Digest::of(b"a"), b"artefact");

        assert_eq!([old.exists(), new.exists()], [false, true]);
    }
}
