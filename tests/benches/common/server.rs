//! The server that is measured on, as users get it, and the files beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use stepwell_warehouse::local::{Durability, LocalOptions, LocalServer};
use stepwell_warehouse::{AnswerLimits, Session, SessionOptions};

use crate::figures::note;
use crate::machine;
use crate::measure::{Sample, measure};

/// A private server in a folder of its own. Dropping it removes both.
pub struct Server {
    folder: PathBuf,
    server: LocalServer,
    removed: bool,
}

impl Server {
    /// Starts a server; `name` is that of the benchmark, for its folder.
    pub fn start(name: &str) -> Result<Self> {
        // Where cargo builds, since a temporary directory is often in memory.
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = parent.join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let options = LocalOptions {
            durability: Durability::Full,
            settings: vec![],
        };
        let server = Self {
            server: LocalServer::at(&folder, options),
            folder,
            removed: false,
        };
        server.server.ensure_running().context("start the server")?;
        Ok(server)
    }

    /// Stops the server and removes everything.
    pub fn remove(&mut self) -> Result<()> {
        self.removed = true;
        self.server.remove().context("remove the server")?;
        fs::remove_dir_all(&self.folder).context("remove the files")
    }

    /// Where files of the benchmark may stand.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `psql` on the server, without arguments of its own.
    pub fn psql(&self) -> Result<Command> {
        Ok(self.server.psql()?)
    }

    /// Says on what the figures are taken.
    pub async fn machine(&self) -> Result<String> {
        let session = self.connect("postgres").await?;
        machine::describe(&session, &self.server.version()?).await
    }

    /// Makes a database and connects to it.
    pub async fn create(&self, database: &str) -> Result<Session> {
        let admin = self.connect("postgres").await?;
        admin.batch(&format!("CREATE DATABASE {database}")).await?;
        self.connect(database).await
    }

    /// Runs a command to its end and measures it.
    ///
    /// # Errors
    ///
    /// If it does not end well, with what it said.
    pub async fn measure(&self, command: &Command) -> Result<Sample> {
        measure(command, &self.folder.join("measured")).await
    }

    /// Connects to a database.
    pub async fn connect(&self, database: &str) -> Result<Session> {
        let target = self.server.target()?.with_database(database);
        let session = Session::connect(&target, &SessionOptions::default()).await;
        session.with_context(|| format!("connect to {database}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.removed
            && let Err(error) = self.remove()
        {
            note(&format!("{} is left: {error:#}", self.folder.display()));
        }
    }
}

/// The text that a query selects as `it`.
pub async fn text(session: &Session, sql: &str) -> Result<String> {
    let answer = session.ask(sql, &[], &AnswerLimits::default()).await?;
    Ok(answer.text(0, "it").unwrap_or_default().to_owned())
}

/// The number that a query selects as `it`.
pub async fn count(session: &Session, sql: &str) -> Result<u64> {
    let answer = session.ask(sql, &[], &AnswerLimits::default()).await?;
    let count = answer.int64(0, "it").context("a count")?;
    Ok(count.unsigned_abs())
}
