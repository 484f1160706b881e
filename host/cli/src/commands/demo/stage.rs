//! Server, database and events of the demo.

use std::convert::Infallible;

use anyhow::{Context as _, anyhow};
use futures_util::stream;
use indicatif::ProgressBar;
use stepwell_demo::{Batch, Chunks, Stream, StreamOptions, indexes_sql, schema_sql};
use stepwell_runner::Stop;
use stepwell_sql::{TableName, quote_ident};
use stepwell_warehouse::{
    Access, AnswerLimits, CopyFormat, Param, Session, SessionOptions, Target, WarehouseError,
};

use super::super::Context;
use crate::failed::Failed;
use crate::output::Output;
use crate::progress;
use crate::project;
use crate::render::words::{count, number};

const DATABASE: &str = "stepwell_demo";
/// Databases of demos that `--keep` leaves beside each other.
const DATABASES_MAX: u32 = 100;
/// A batch lands five minutes after the end of its hour.
const LATE_AFTER: &str = "65 minutes";

/// Everything that the story needs.
pub(super) struct Stage {
    pub session: Session,
    /// Version of the server.
    pub version: String,
    pub database: String,
    /// The connection string of the database.
    pub url: String,
    stream: Stream,
    stop: Stop,
    progress: ProgressBar,
}

/// What has landed.
#[derive(Debug, Default)]
pub(super) struct Landed {
    /// Batches with at least one event; the others leave no trace.
    pub batches: u64,
    pub events: u64,
    /// Events that were collected before the hour of their batch.
    pub late: u64,
}

impl Stage {
    /// Starts the server and makes the database.
    pub(super) async fn set(
        context: &Context,
        options: &StreamOptions,
        keep: bool,
        stop: Stop,
    ) -> Result<Self, Failed> {
        let stream = Stream::new(options).map_err(|error| Failed::Usage {
            message: error.to_string(),
            help: "see `stepwell demo --help`".into(),
        })?;
        let progress = progress::spinner(&context.output, "demo");
        progress.set_message("starting PostgreSQL");
        let server = stepwell_runner::local_server(&context.project);
        let started = tokio::task::spawn_blocking(move || server.ensure_running()).await;
        let target = started.context("the thread that starts the server crashed")??;
        let admin = connect(&target).await?;
        let database = make_database(&admin, keep, &context.output)
            .await?
            .ok_or_else(|| anyhow!("there are {DATABASES_MAX} databases of demos already"))?;
        let target = target.with_database(&database);
        let session = connect(&target).await?;
        Ok(Self {
            version: first_word(session.server_version()).to_owned(),
            session,
            database,
            url: project::socket_url(&target)?,
            stream,
            stop,
            progress,
        })
    }

    /// Makes the tables and lands the history: in one transaction, since a new table's rows then
    /// need no log.
    pub(super) async fn land_history(&mut self) -> Result<Landed, Failed> {
        let doing = || Failed::warehouse("make the tables of events");
        self.session
            .begin(Access::ReadWrite)
            .await
            .map_err(doing())?;
        for statement in schema_sql() {
            self.session.batch(&statement).await.map_err(doing())?;
        }
        let mut landed = Landed::default();
        let batches = self.stream.history_batches();
        while let Some(batch) = self.stream.next() {
            self.check_stop()?;
            self.land(&batch, &mut landed).await?;
            self.progress.set_message(format!(
                "landing batch {} of {}, {}",
                number(batch.index() + 1),
                number(batches),
                count(landed.events, "event", "events"),
            ));
        }
        self.session
            .commit()
            .await
            .map_err(Failed::warehouse("land the events"))?;
        self.progress.set_message("creating indexes");
        for statement in indexes_sql() {
            self.check_stop()?;
            self.session.batch(statement).await.map_err(doing())?;
        }
        self.analyze().await?;
        Ok(landed)
    }

    /// Lands batches after the history, each in a transaction of its own.
    pub(super) async fn land_more(&mut self, batches: usize) -> Result<Landed, Failed> {
        let doing = || Failed::warehouse("land a batch");
        let mut landed = Landed::default();
        let mut tstamps = Vec::new();
        for _ in 0..batches {
            let batch = self.stream.next_batch();
            self.session
                .begin(Access::ReadWrite)
                .await
                .map_err(doing())?;
            self.land(&batch, &mut landed).await?;
            self.session.commit().await.map_err(doing())?;
            tstamps.push(format!("\"{}\"", batch.etl_tstamp()));
        }
        self.analyze().await?;
        let sql = format!(
            "SELECT count(*) AS late
            FROM atomic.events
            WHERE etl_tstamp = ANY (CAST($1 AS timestamp[]))
              AND collector_tstamp < etl_tstamp - interval '{LATE_AFTER}'"
        );
        let list = Param::Text(format!("{{{}}}", tstamps.join(",")));
        landed.late = self.number(&sql, &[list], "late").await?;
        Ok(landed)
    }

    /// Returns the number of rows of a table.
    pub(super) async fn rows(&self, table: &TableName) -> Result<u64, Failed> {
        let sql = format!("SELECT count(*) AS n FROM {table}");
        self.number(&sql, &[], "n").await
    }

    /// Says on the progress display what goes on.
    pub(super) fn doing(&self, words: &str) {
        self.progress.set_message(words.to_owned());
    }

    /// # Errors
    ///
    /// [`Failed::Stopped`] once somebody has asked us to stop.
    pub(super) fn check_stop(&self) -> Result<(), Failed> {
        match self.stop.is_asked() {
            Some(signal) => Err(Failed::Stopped(signal)),
            None => Ok(()),
        }
    }

    async fn number(&self, sql: &str, params: &[Param], column: &str) -> Result<u64, Failed> {
        let limits = AnswerLimits::default();
        let answer = self.session.ask(sql, params, &limits).await;
        let answer = answer.map_err(Failed::warehouse("count rows"))?;
        Ok(answer.int64(0, column).unwrap_or(0).unsigned_abs())
    }

    async fn analyze(&self) -> Result<(), Failed> {
        let sql = "ANALYZE atomic.events, atomic.com_snowplowanalytics_snowplow_web_page_1";
        let done = self.session.batch(sql).await;
        done.map_err(Failed::warehouse("take statistics of the events"))
    }

    /// Sends a batch in chunks, so that memory does not follow its size.
    async fn land(&self, batch: &Batch, landed: &mut Landed) -> Result<(), Failed> {
        let doing = || Failed::warehouse("land a batch");
        let copy =
            |table: &str, chunks| copy(&self.session, TableName::new("atomic", table), chunks);
        copy("events", batch.event_chunks())
            .await
            .map_err(doing())?;
        let contexts = "com_snowplowanalytics_snowplow_web_page_1";
        copy(contexts, batch.page_context_chunks())
            .await
            .map_err(doing())?;
        landed.batches += u64::from(batch.events() > 0);
        landed.events += batch.events();
        Ok(())
    }
}

/// Copies into all columns, which are in the order in which the chunks have them: the table was
/// made by the same crate a moment ago.
async fn copy(session: &Session, table: TableName, chunks: Chunks) -> Result<u64, WarehouseError> {
    let chunks = stream::iter(chunks.map(|chunk| Ok::<_, Infallible>(chunk.into())));
    session.copy_in(&table, &[], CopyFormat::Text, chunks).await
}

async fn connect(target: &Target) -> Result<Session, Failed> {
    let options = SessionOptions {
        application_name: "stepwell demo".into(),
        ..SessionOptions::default()
    };
    let session = Session::connect(target, &options).await;
    session.map_err(Failed::warehouse("connect to the private server"))
}

/// Makes the database anew and returns its name, or under `keep` a free one if there is any.
async fn make_database(
    admin: &Session,
    keep: bool,
    output: &Output,
) -> Result<Option<String>, Failed> {
    let doing = || Failed::warehouse("make the database of the demo");
    let name = match keep {
        false => Some(DATABASE.to_owned()),
        true => {
            let sql = "SELECT datname::text AS name FROM pg_catalog.pg_database";
            let limits = AnswerLimits::default();
            let answer = admin.ask(sql, &[], &limits).await.map_err(doing())?;
            let rows = 0..answer.rows as usize;
            let taken: Vec<&str> = rows.filter_map(|row| answer.text(row, "name")).collect();
            free_name(&taken)
        }
    };
    if let Some(name) = &name {
        if exists(admin, name).await.map_err(doing())? {
            output.say(&format!(
                "   the database {name} of an earlier demo is replaced (`--keep` would leave it)"
            ));
        }
        let name = quote_ident(name);
        let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        admin.batch(&drop).await.map_err(doing())?;
        admin
            .batch(&format!("CREATE DATABASE {name}"))
            .await
            .map_err(doing())?;
    }
    Ok(name)
}

async fn exists(admin: &Session, database: &str) -> Result<bool, WarehouseError> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1) AS found";
    let name = [Param::Text(database.to_owned())];
    let answer = admin.ask(sql, &name, &AnswerLimits::default()).await?;
    Ok(answer.boolean(0, "found") == Some(true))
}

fn free_name(taken: &[&str]) -> Option<String> {
    (1..=DATABASES_MAX)
        .map(|n| match n {
            1 => DATABASE.to_owned(),
            n => format!("{DATABASE}_{n}"),
        })
        .find(|name| !taken.contains(&name.as_str()))
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_databases_stand_beside_each_other() {
        assert_eq!(free_name(&["postgres"]).as_deref(), Some("stepwell_demo"));
        let taken = ["stepwell_demo", "stepwell_demo_2"];
        assert_eq!(free_name(&taken).as_deref(), Some("stepwell_demo_3"));
    }
}
