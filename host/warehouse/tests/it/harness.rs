//! A server for all tests that run at the same time, stopped and deleted after the last of them.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use stepwell_warehouse::local::{Durability, LocalOptions, LocalServer};
use stepwell_warehouse::{Answer, AnswerLimits, Param, Session, SessionOptions, Target};
use tempfile::TempDir;

/// A private server in a directory of its own; gone when dropped.
pub struct Server {
    pub local: LocalServer,
    pub target: Target,
    dir: TempDir,
}

static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());

impl Server {
    /// The server that tests share. Each works in temporary tables or a schema of its own.
    pub fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::with(&[]));
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// A server of the test's own, with more settings.
    pub fn with(settings: &[(&str, &str)]) -> Self {
        let dir = directory(0o755);
        let local = local_in(dir.path(), settings);
        let target = local.ensure_running().unwrap_or_else(|error| {
            // Debug would hide the command that installs what is missing.
            let help = error.help().unwrap_or_default();
            panic!("the tests run on a PostgreSQL server of their own: {error}; {help}")
        });
        Self { local, target, dir }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub async fn session(&self) -> Session {
        Session::connect(&self.target, &SessionOptions::default())
            .await
            .expect("connected")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let removed = self.local.remove();
        if !std::thread::panicking() {
            removed.expect("server removed");
        }
    }
}

/// Root's server runs as another user, who must reach the directory.
pub fn directory(mode: u32) -> TempDir {
    tempfile::Builder::new()
        .permissions(Permissions::from_mode(mode))
        .tempdir_in("/tmp")
        .expect("temporary directory")
}

pub fn local_in(dir: &Path, settings: &[(&str, &str)]) -> LocalServer {
    let settings = settings
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()));
    let options = LocalOptions {
        durability: Durability::OffForTests,
        settings: settings.collect(),
    };
    LocalServer::at(dir, options)
}

/// A port on the loopback address that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

pub async fn ask(session: &Session, sql: &str, params: &[Param]) -> Answer {
    session
        .ask(sql, params, &AnswerLimits::default())
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error} {error:?}"))
}

/// The first value of an answer, as text.
pub async fn text(session: &Session, sql: &str, params: &[Param]) -> Option<String> {
    let sql = format!("SELECT (({sql})::text) AS it");
    ask(session, &sql, params)
        .await
        .text(0, "it")
        .map(str::to_owned)
}
