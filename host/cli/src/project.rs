//! Where a project's files are, and how to reach its private server by a connection string.

use std::path::{Path, PathBuf};

use anyhow::Context;
use stepwell_warehouse::Target;

/// The folder that makes a directory a project.
pub(crate) const FOLDER: &str = ".stepwell";

/// Returns the directory given, or else the nearest one from `current` upwards that has a
/// `.stepwell/`, or else `current`.
pub(crate) fn directory(given: Option<&Path>, current: &Path) -> PathBuf {
    match given {
        Some(given) => current.join(given),
        None => current
            .ancestors()
            .find(|directory| directory.join(FOLDER).is_dir())
            .unwrap_or(current)
            .to_owned(),
    }
}

/// Returns where compiled steps are kept, one place for all projects of a user; none where the
/// environment does not say.
pub(crate) fn cache_directory(env: &dyn Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |path: &PathBuf| path.is_absolute();
    env("XDG_CACHE_HOME")
        .filter(absolute)
        .or_else(|| Some(env("HOME").filter(absolute)?.join(".cache")))
        .map(|cache| cache.join("stepwell"))
}

/// Returns the connection string of a server on a local socket, as libpq and workflow files read
/// it. There is no password in it, and none is needed.
///
/// # Errors
///
/// If the target is not on a socket.
pub(crate) fn socket_url(target: &Target) -> anyhow::Result<String> {
    target
        .socket_url()
        .with_context(|| format!("{target} is not on a local socket"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_project_above_counts() {
        let root = tempfile::tempdir().expect("a directory");
        let deep = root.path().join("a/b/c");
        std::fs::create_dir_all(&deep).expect("made");
        assert_eq!(directory(None, &deep), deep);
        std::fs::create_dir(root.path().join("a/.stepwell")).expect("made");
        assert_eq!(directory(None, &deep), root.path().join("a"));
        assert_eq!(directory(Some(Path::new("x")), &deep), deep.join("x"));
    }

    #[test]
    fn compiled_steps_are_kept_in_the_users_cache() {
        let env = |xdg: Option<&'static str>, home: Option<&'static str>| {
            cache_directory(&move |name| match name {
                "XDG_CACHE_HOME" => xdg.map(PathBuf::from),
                _ => home.map(PathBuf::from),
            })
        };
        assert_eq!(env(Some("/x"), Some("/h")), Some("/x/stepwell".into()));
        assert_eq!(env(None, Some("/h")), Some("/h/.cache/stepwell".into()));
        // A relative path would mean another place in each directory.
        assert_eq!(env(Some("x"), Some("h")), None);
        assert_eq!(env(None, None), None);
    }

    #[test]
    fn a_sockets_url_leads_to_the_same_place() {
        let directory = Path::new("/tmp/it's a:b/50%/run");
        let target = Target::local_socket(directory, 5433, "postgres", "my db");
        let url = socket_url(&target).expect("a url");
        assert_eq!(
            url,
            "postgres://postgres@/my%20db?host=/tmp/it%27s%20a%3Ab/50%25/run&port=5433"
        );
        let parsed = Target::parse(&url).expect("it is read again");
        assert_eq!(parsed.to_string(), target.to_string());
    }

    #[test]
    fn other_targets_have_no_such_url() {
        let target = Target::parse("postgres://me:secret@db.example/sales").expect("a target");
        let error = socket_url(&target).expect_err("not a socket").to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
