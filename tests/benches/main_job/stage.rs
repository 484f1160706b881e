//! What is measured on: a server as users get it, and databases made on it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use stepwell_demo::StreamOptions;
use stepwell_warehouse::local::{Durability, LocalOptions, LocalServer};
use stepwell_warehouse::{Session, SessionOptions};

use crate::commands::{Commands, TUNED, WORKFLOWS};
use crate::database::{Database, Indexes};
use crate::machine;
use crate::measure::{Sample, measure};

/// Who does the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// psql, with the models written by hand.
    Hand,
    Stepwell,
    /// Stepwell again, on another database.
    Reference,
}

/// The server and the files of one benchmark. Dropping it removes them.
pub struct Stage {
    folder: PathBuf,
    server: LocalServer,
    tuned_psql: bool,
    removed: bool,
}

impl Stage {
    /// Starts the server.
    pub fn set(tuned_psql: bool) -> Result<Self> {
        // Where cargo builds, since a temporary directory is often in memory.
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = parent.join(format!("main-job-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let options = LocalOptions {
            durability: Durability::Full,
            settings: vec![],
        };
        let server = LocalServer::at(&folder, options);
        let stage = Self {
            folder,
            server,
            tuned_psql,
            removed: false,
        };
        stage.server.ensure_running().context("start the server")?;
        Ok(stage)
    }

    /// Stops the server and removes everything.
    pub fn remove(&mut self) -> Result<()> {
        self.removed = true;
        self.server.remove().context("remove the server")?;
        fs::remove_dir_all(&self.folder).context("remove the files")
    }

    /// Says on what the figures are taken.
    pub async fn machine(&self) -> Result<String> {
        let session = self.connect("postgres").await?;
        machine::describe(&session, &self.server.version()?).await
    }

    /// Makes a database with a history of `events` over `days`.
    pub async fn load(
        &self,
        name: &str,
        events: u64,
        days: u32,
        indexes: Indexes,
    ) -> Result<Database> {
        let admin = self.connect("postgres").await?;
        admin.batch(&format!("CREATE DATABASE {name}")).await?;
        let options = StreamOptions {
            events,
            days,
            ..StreamOptions::default()
        };
        let (mut psql, folder) = (self.server.psql()?, self.folder.join(name));
        if self.tuned_psql {
            psql.env("PGOPTIONS", TUNED);
        }
        let commands = Commands::new(psql, name, folder, self.cache())?;
        let begun = Instant::now();
        let session = self.connect(name).await?;
        let db = Database::load(name, session, &options, indexes, commands).await;
        let db = db.context("load the events")?;
        note(&format!(
            "{name}: loaded in {} s",
            begun.elapsed().as_secs()
        ));
        Ok(db)
    }

    /// Drops a database, so that its pages leave room for those of others.
    pub async fn drop_database(&self, db: &Database) -> Result<()> {
        let admin = self.connect("postgres").await?;
        let sql = format!("DROP DATABASE {} WITH (FORCE)", db.name);
        admin.batch(&sql).await.context("drop a database")
    }

    /// Runs one side once and makes sure that it did what it was to do: `done` or `nothing-new`.
    pub async fn run(&self, db: &Database, side: Side, outcome: &str) -> Result<Sample> {
        let sample = match side {
            Side::Hand => self.measure(&db.commands.psql_file("run.sql")).await?,
            Side::Stepwell | Side::Reference => {
                let mut command = db.commands.stepwell(&["run", "--json"]);
                command.args(db.commands.files());
                let sample = self.measure(&command).await?;
                let reports: serde_json::Value = serde_json::from_str(&sample.stdout)?;
                for at in 0..WORKFLOWS.len() {
                    let found = &reports[at]["outcome"]["state"];
                    ensure!(
                        found == outcome,
                        "{found} instead of {outcome}: {reports:#}"
                    );
                }
                sample
            }
        };
        db.check_processed(side).await?;
        Ok(sample)
    }

    /// Runs `stepwell check` on both files.
    pub async fn check(&self, db: &Database) -> Result<Sample> {
        let mut command = db.commands.stepwell(&["check"]);
        command.args(db.commands.files());
        self.measure(&command).await
    }

    /// Has the steps compiled, by a run that has nothing to do with what is measured.
    pub async fn warm(&self, db: &mut Database) -> Result<()> {
        if !self.cache().exists() {
            db.forget(Side::Stepwell).await?;
            self.run(db, Side::Stepwell, "done").await?;
        }
        Ok(())
    }

    /// Has the next run compile them again.
    pub fn forget_compiled_steps(&self) -> Result<()> {
        fs::remove_dir_all(self.cache()).context("remove the compiled steps")
    }

    fn cache(&self) -> PathBuf {
        self.folder.join("cache")
    }

    async fn measure(&self, command: &Command) -> Result<Sample> {
        measure(command, &self.folder.join("measured")).await
    }

    async fn connect(&self, database: &str) -> Result<Session> {
        let target = self.server.target()?.with_database(database);
        let session = Session::connect(&target, &SessionOptions::default()).await;
        session.with_context(|| format!("connect to {database}"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.removed
            && let Err(error) = self.remove()
        {
            note(&format!("{} is left: {error:#}", self.folder.display()));
        }
    }
}

/// Says something on stderr, where progress goes.
pub fn note(text: &str) {
    // Nobody to tell it to is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{text}");
}
