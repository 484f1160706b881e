//! A database with events, and both sides set up in it.

use anyhow::{Result, ensure};
use stepwell_demo::{Batch, Stream, StreamOptions};
use stepwell_warehouse::{Access, Session};

use crate::commands::{Commands, WORKFLOWS};
use crate::figures::number;
use crate::program::{copy_chunks, finish};
use crate::server::{count, text};
use crate::stage::Side;

const EVENTS: &str = "events";
const PAGE_CONTEXTS: &str = "com_snowplowanalytics_snowplow_web_page_1";

/// Which indexes the events have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indexes {
    SortKey,
    All,
}

/// A database with events.
pub struct Database {
    pub name: String,
    /// Events that were there from the beginning.
    pub history: u64,
    session: Session,
    stream: Stream,
    pub commands: Commands,
    /// The batch that landed last.
    last: Option<String>,
    built: bool,
}

impl Database {
    /// Loads the history, in order of time, as it is in a table that only ever grows: without a
    /// VACUUM, after which later batches go into free space of old pages, where BRIN does not
    /// expect them.
    pub async fn load(
        name: &str,
        session: Session,
        options: &StreamOptions,
        indexes: Indexes,
        commands: Commands,
    ) -> Result<Self> {
        let mut db = Self {
            name: name.to_owned(),
            history: options.events,
            session,
            stream: Stream::new(options)?,
            commands,
            last: None,
            built: false,
        };
        db.load_history(indexes).await?;
        Ok(db)
    }

    /// Whether both sides have their tables.
    pub fn is_built(&self) -> bool {
        self.built
    }

    /// Drops what a side has made and sets it up anew.
    pub async fn forget(&mut self, side: Side) -> Result<()> {
        let schemas = match side {
            Side::Hand => "hand_scratch, hand_derived",
            Side::Stepwell | Side::Reference => "stepwell, scratch, derived",
        };
        let drop =
            format!("SET client_min_messages = warning; DROP SCHEMA IF EXISTS {schemas} CASCADE");
        self.session.batch(&drop).await?;
        match side {
            Side::Hand => finish(self.commands.psql_file("setup.sql"))?,
            Side::Stepwell | Side::Reference => {
                for file in self.commands.files() {
                    let mut init = self.commands.stepwell(&["init"]);
                    init.arg(file);
                    finish(init)?;
                }
            }
        }
        self.built = true;
        // What one side left to be written out is not to be written while the other one runs.
        self.session.batch("CHECKPOINT").await?;
        Ok(())
    }

    /// Lands the stream's next batch, with exactly `rows` events.
    pub async fn land(&mut self, rows: u64) -> Result<()> {
        let batch = self.stream.next_batch_of(rows);
        self.session.begin(Access::ReadWrite).await?;
        copy_batch(&self.session, &batch).await?;
        self.session.commit().await?;
        self.last = Some(batch.etl_tstamp());
        Ok(())
    }

    /// Makes sure that both tables are there, and the same row for row. Returns a sentence that
    /// says so.
    ///
    /// # Errors
    ///
    /// If they differ.
    pub async fn check_same_rows(&self) -> Result<String> {
        let mut counts = vec![];
        for table in WORKFLOWS {
            let columns = |schema: &str| {
                format!(
                    "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attname) AS it
                    FROM pg_attribute
                    WHERE attrelid = '{schema}.{table}'::regclass
                      AND attnum > 0
                      AND NOT attisdropped"
                )
            };
            let hand = text(&self.session, &columns("hand_derived")).await?;
            let own = text(&self.session, &columns("derived")).await?;
            ensure!(
                hand == own,
                "columns of {table}: {hand} by hand, {own} by stepwell"
            );
            // Postgres brings text and varchar, bigint and numeric to one type, and refuses what is
            // not alike.
            let only = |left: &str, right: &str| {
                format!(
                    "SELECT count(*) AS it FROM (
                      SELECT {hand} FROM {left}.{table}
                      EXCEPT ALL
                      SELECT {hand} FROM {right}.{table}
                    ) AS only_left"
                )
            };
            let by_hand = self.count(&only("hand_derived", "derived")).await?;
            let by_stepwell = self.count(&only("derived", "hand_derived")).await?;
            let rows = self
                .count(&format!("SELECT count(*) AS it FROM derived.{table}"))
                .await?;
            ensure!(
                by_hand == 0 && by_stepwell == 0 && rows > 0,
                "{table} of {rows} rows: {by_hand} rows are only psql's, {by_stepwell} only \
                 stepwell's"
            );
            counts.push(format!("{} of {table}", number(rows)));
        }
        Ok(format!(
            "Both sides ended with the same rows: {}.",
            counts.join(", ")
        ))
    }

    /// Makes sure that a side has taken in the batch that landed last.
    pub async fn check_processed(&self, side: Side) -> Result<()> {
        let Some(last) = &self.last else {
            return Ok(());
        };
        let (table, column) = match side {
            Side::Hand => ("hand_derived.manifest", "etl_tstamp"),
            Side::Stepwell | Side::Reference => ("derived.manifest", "batch"),
        };
        let sql = format!("SELECT count(*) AS it FROM {table} WHERE {column} = '{last}'");
        let found = self.count(&sql).await?;
        ensure!(
            found == 2,
            "batch {last} is in {table} {found} times instead of twice"
        );
        Ok(())
    }

    async fn load_history(&mut self, indexes: Indexes) -> Result<()> {
        // In one transaction, since a new table's rows then need no log.
        self.session.begin(Access::ReadWrite).await?;
        for sql in stepwell_demo::schema_sql() {
            self.session.batch(&sql).await?;
        }
        for table in [EVENTS, PAGE_CONTEXTS] {
            // Else it would come in the middle of one side's run, and a VACUUM is what we do
            // without.
            let sql = format!("ALTER TABLE atomic.{table} SET (autovacuum_enabled = false)");
            self.session.batch(&sql).await?;
        }
        for batch in self.stream.by_ref() {
            copy_batch(&self.session, &batch).await?;
        }
        self.session.commit().await?;
        let statements = match indexes {
            Indexes::All => stepwell_demo::indexes_sql(),
            Indexes::SortKey => stepwell_demo::sort_key_indexes_sql(),
        };
        for sql in statements {
            self.session.batch(sql).await?;
        }
        for table in [EVENTS, PAGE_CONTEXTS] {
            // The first reader of a row notes in it that its transaction is committed: no side's
            // work.
            self.count(&format!("SELECT count(*) AS it FROM atomic.{table}"))
                .await?;
            self.session
                .batch(&format!("ANALYZE atomic.{table}"))
                .await?;
        }
        self.session.batch("CHECKPOINT").await?;
        Ok(())
    }

    async fn count(&self, sql: &str) -> Result<u64> {
        count(&self.session, sql).await
    }
}

async fn copy_batch(session: &Session, batch: &Batch) -> Result<()> {
    copy_chunks(session, EVENTS, batch.event_chunks()).await?;
    copy_chunks(session, PAGE_CONTEXTS, batch.page_context_chunks()).await
}
