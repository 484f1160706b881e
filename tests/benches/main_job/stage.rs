//! What is measured on: a server as users get it, and databases made on it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use stepwell_demo::StreamOptions;

use crate::commands::{Commands, TUNED, WORKFLOWS};
use crate::database::{Database, Indexes};
use crate::figures::note;
use crate::measure::{Sample, Samples};
use crate::server::Server;

/// Who does the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// psql, with the models written by hand.
    Hand,
    Stepwell,
    /// Stepwell again, on another database.
    Reference,
}

/// The server, and how its databases are used.
pub struct Stage {
    server: Server,
    tuned_psql: bool,
}

impl Stage {
    /// Starts the server.
    pub fn set(tuned_psql: bool) -> Result<Self> {
        let server = Server::start("main-job")?;
        Ok(Self { server, tuned_psql })
    }

    /// Stops the server and removes everything.
    pub fn remove(&mut self) -> Result<()> {
        self.server.remove()
    }

    /// Says on what the figures are taken.
    pub async fn machine(&self) -> Result<String> {
        self.server.machine().await
    }

    /// Makes a database with a history of `events` over `days`.
    pub async fn load(
        &self,
        name: &str,
        events: u64,
        days: u32,
        indexes: Indexes,
    ) -> Result<Database> {
        let session = self.server.create(name).await?;
        let options = StreamOptions {
            events,
            days,
            ..StreamOptions::default()
        };
        let (mut psql, folder) = (self.server.psql()?, self.server.folder().join(name));
        if self.tuned_psql {
            psql.env("PGOPTIONS", TUNED);
        }
        let commands = Commands::new(psql, name, folder, self.cache())?;
        let begun = Instant::now();
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
        let admin = self.server.connect("postgres").await?;
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
        self.server.folder().join("cache")
    }

    async fn measure(&self, command: &Command) -> Result<Sample> {
        self.server.measure(command).await
    }
}

/// Where the time of the last sample went, if it is the JSON of `stepwell run`: a line a step,
/// and one a statement.
pub fn steps(samples: &Samples) -> Vec<String> {
    let Some(sample) = samples.all().last() else {
        return vec![];
    };
    let reports: serde_json::Value = serde_json::from_str(&sample.stdout).unwrap_or_default();
    let ms = |value: &serde_json::Value| value["duration_ms"].as_f64().unwrap_or_default();
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let (wall, cpu) = (
        sample.wall.as_secs_f64() * 1e3,
        sample.cpu.as_secs_f64() * 1e3,
    );
    let mut lines = vec![format!("{wall:8.1} ms, {cpu:.1} ms of it on a processor")];
    for report in list(&reports) {
        let (playbook, runs) = (word(&report["playbook"]), ms(&report));
        lines.push(format!("{runs:8.1}   {playbook}"));
        for step in list(&report["steps"]) {
            lines.push(format!("{:8.1}     {}", ms(&step), word(&step["id"])));
            for statement in list(&step["statements"]) {
                let (took, rows) = (ms(&statement), &statement["rows"]);
                let label = word(&statement["label"]);
                lines.push(format!("{took:8.1}       {label}: {rows} rows"));
            }
        }
    }
    lines
}
