//! One connection to the warehouse, with everything pinned that could change what a statement
//! means.
//!
//! Hides the protocol: statements of plugins go through the extended protocol as one statement
//! each, our own constants through the simple one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::OnceCell;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{CancelToken, Client, Error as PgError, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::answer::{self, Answer, AnswerLimits, Batch, Builder};
use crate::connect::{self, Opened, Shared};
use crate::error::{WarehouseError, classify};
use crate::guard::Plain;
use crate::param::Param;
use crate::rows::Rows;
use crate::target::{Endpoint, Target};

const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// What a session is opened with. Everything else is pinned: UTC, ISO dates, `search_path =
/// pg_catalog, pg_temp`, READ COMMITTED, no JIT.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionOptions {
    /// Shown in `pg_stat_activity`; empty leaves the one of the connection string.
    pub application_name: String,
    /// The longest time of a statement, in whole milliseconds; none leaves what the server has for
    /// this user.
    pub statement_timeout: Option<Duration>,
    /// The longest wait for a lock, in whole milliseconds; none leaves what the server has for this
    /// user.
    pub lock_timeout: Option<Duration>,
    /// More settings, which replace pinned ones of the same name. `work_mem` is 64MB if it is not
    /// among them.
    pub settings: Vec<(String, String)>,
    /// The longest message that the server may send, a row among them, in bytes; none leaves it unbounded. One that is
    /// longer closes the session, as [`WarehouseError::AnswerTooLarge`].
    pub message_bytes_max: Option<u32>,
}

/// What a transaction may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The server refuses every change other than to temporary tables.
    ReadOnly,
    /// Everything that the user may do.
    ReadWrite,
    /// The same, and every statement sees what was committed when the first one began, and what the
    /// transaction itself wrote.
    Snapshot,
}

/// One connection. Statements run one after the other; dropping it closes the connection and undoes
/// an open transaction.
pub struct Session {
    pub(crate) client: Client,
    shared: Arc<Shared>,
    connector: Option<MakeRustlsConnect>,
    dialled: Option<Endpoint>,
    message_bytes_max: Option<u32>,
    server: String,
    version: String,
    identity: String,
    pinned_at_start: bool,
    backend_pid: OnceCell<i32>,
}

/// Cancels the statement that a session runs, from anywhere.
#[derive(Clone)]
pub struct Canceller {
    token: CancelToken,
    connector: Option<MakeRustlsConnect>,
    dialled: Option<Endpoint>,
    shared: Arc<Shared>,
    server: String,
}

impl Session {
    /// Connects, within 10 seconds an address unless the connection string says otherwise, and pins
    /// the settings: one exchange of start-up messages, and one round trip more with servers that
    /// do not take all settings there.
    ///
    /// # Errors
    ///
    /// The kinds that concern a connection; [`WarehouseError::help`] says what to do. Runs in a
    /// Tokio runtime.
    pub async fn connect(
        target: &Target,
        options: &SessionOptions,
    ) -> Result<Self, WarehouseError> {
        let Opened {
            client,
            shared,
            connector,
            dialled,
            server,
            version,
            pinned_at_start,
        } = connect::open(target, options).await?;
        let (user, database, settings) = (target.user(), target.database(), &options.settings);
        let identity = format!("{user} on {database} at {server} with {settings:?}");
        Ok(Self {
            client,
            shared,
            connector,
            dialled,
            message_bytes_max: options.message_bytes_max,
            server,
            version,
            identity,
            pinned_at_start,
            backend_pid: OnceCell::new(),
        })
    }

    /// Runs one statement and returns all its rows.
    ///
    /// Two round trips: the statement is described before it is run, so that a type that has no
    /// place in an answer is refused first.
    ///
    /// # Errors
    ///
    /// [`WarehouseError::AnswerTooLarge`] past the limits, after which a transaction has to be
    /// rolled back; [`WarehouseError::UnsupportedType`]; and all kinds that concern a statement.
    pub async fn ask(
        &self,
        sql: &str,
        params: &[Param],
        limits: &AnswerLimits,
    ) -> Result<Answer, WarehouseError> {
        self.rows(sql, params).await?.all(limits).await
    }

    /// Runs one statement of the host's own, which selects a few rows of built-in types, in one round trip.
    ///
    /// Without rows the answer has no fields either. Not for other statements, for the reason that
    /// [`rows`](Self::rows) gives.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask), without limits.
    pub async fn ask_briefly(&self, sql: &str, params: &[Param]) -> Result<Answer, WarehouseError> {
        self.begin_statement();
        let params: Vec<(&(dyn ToSql + Sync), Type)> = params
            .iter()
            .map(|param| (param as _, param.announced_type()))
            .collect();
        let found = self.client.query_typed(sql, &params).await;
        let found = found.map_err(|error| self.failed(error))?;
        let fields = match found.first() {
            Some(row) => answer::fields(row.columns())?,
            None => Vec::new(),
        };
        let mut builder = Builder::new(&fields);
        for row in &found {
            builder.push(row)?;
        }
        let Batch { rows, columns } = builder.take();
        Ok(Answer {
            fields: fields.into_iter().map(|(field, _)| field).collect(),
            rows,
            columns,
        })
    }

    /// Runs one statement and returns its rows as they arrive, as fast as they are taken and no
    /// faster.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask); those that the server meets on its way come from
    /// [`Rows::next_batch`].
    pub async fn rows(&self, sql: &str, params: &[Param]) -> Result<Rows<'_>, WarehouseError> {
        self.begin_statement();
        let types: Vec<Type> = params.iter().map(Param::announced_type).collect();
        // Not `query_typed`, which is one round trip less: with a type that is not built in it asks
        // the server about that type while the rows are under way, and waits for ever if they are
        // more than it buffers.
        let statement = self
            .client
            .prepare_typed(sql, &types)
            .await
            .map_err(|error| self.failed(error))?;
        let expected = statement.params().len();
        if expected != params.len() {
            return Err(WarehouseError::ParameterCount {
                expected,
                given: params.len(),
            });
        }
        let fields = answer::fields(statement.columns())?;
        let stream = self
            .client
            .query_raw(&statement, params)
            .await
            .map_err(|error| self.failed(error))?;
        Ok(Rows::new(self, stream, fields))
    }

    /// Runs one statement, in one round trip, and returns how many rows it touched: inserted,
    /// updated, deleted, copied, or returned; 0 for statements that do not count.
    ///
    /// # Errors
    ///
    /// All kinds that concern a statement. After [`WarehouseError::ConnectionLost`] outside of a
    /// transaction the statement may have taken effect.
    pub async fn execute(&self, sql: &str, params: &[Param]) -> Result<u64, WarehouseError> {
        self.begin_statement();
        let params: Vec<(&(dyn ToSql + Sync), Type)> = params
            .iter()
            .map(|param| (param as _, param.announced_type()))
            .collect();
        self.client
            .execute_typed(sql, &params)
            .await
            .map_err(|error| self.failed(error))
    }

    /// Runs statements of the host's own, separated by semicolons, in one round trip and, outside
    /// of a transaction, as one. Never give it a text that a plugin or a workflow file had a hand
    /// in, other than as a quoted name.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub async fn batch(&self, sql: &str) -> Result<(), WarehouseError> {
        self.begin_statement();
        self.client
            .batch_execute(sql)
            .await
            .map_err(|error| self.failed(error))
    }

    /// Sends statements as [`batch`](Self::batch) does, and does not wait for the server's answer, which nobody reads. What
    /// is sent after them on this session comes after them. For what need not succeed, or cannot fail unless the
    /// connection is gone.
    pub fn send(&self, sql: &str) {
        self.begin_statement();
        // The message is on its way once the future was polled.
        let _ = self.client.batch_execute(sql).now_or_never();
    }

    /// Begins a transaction, READ COMMITTED unless it is a snapshot.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub async fn begin(&self, access: Access) -> Result<(), WarehouseError> {
        self.batch(match access {
            Access::ReadOnly => "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY",
            Access::ReadWrite => "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
            Access::Snapshot => "BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE",
        })
        .await
    }

    /// Commits. Returns only when the server has said so.
    ///
    /// # Errors
    ///
    /// [`WarehouseError::OutcomeUnknown`] if the answer never came; every other error says that
    /// nothing was committed, also where an earlier statement of the transaction had failed. The
    /// transaction is over in each case.
    pub async fn commit(&self) -> Result<(), WarehouseError> {
        if self.is_closed() {
            // COMMIT was never sent.
            return Err(self.lost());
        }
        self.begin_statement();
        // A plain COMMIT after a failed statement rolls back and says so in its tag alone, which
        // nobody reads. A statement before it makes it an error.
        match self.client.batch_execute("SELECT 1; COMMIT").await {
            Ok(()) => Ok(()),
            Err(error) => {
                let error = classify::commit(error, self.circumstances());
                if !matches!(error, WarehouseError::OutcomeUnknown { .. }) {
                    // If this fails the connection is gone, and the transaction with it.
                    let _ = self.rollback().await;
                }
                Err(error)
            }
        }
    }

    /// Undoes the transaction. Without one it does nothing.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute); when the connection is lost the server undoes it by itself.
    pub async fn rollback(&self) -> Result<(), WarehouseError> {
        self.batch("ROLLBACK").await
    }

    /// Undoes what statements may have left in the session: settings, locks, cursors, temporary tables. Returns whether
    /// the session is as it was when it was opened; if not, it is not to be used again.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute), also inside of a transaction.
    pub async fn reset(&self) -> Result<bool, WarehouseError> {
        // Not DISCARD ALL: it would also take prepared statements that the client library keeps.
        const RESET: &str = "RESET ALL; CLOSE ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES; \
                             SELECT pg_catalog.pg_advisory_unlock_all()";
        if !self.pinned_at_start {
            return Ok(false);
        }
        self.batch(RESET).await?;
        Ok(true)
    }

    /// Undoes the transaction as [`rollback`](Self::rollback) does, without waiting for the server to say so.
    pub fn send_rollback(&self) {
        self.send("ROLLBACK");
    }

    /// Sets the longest time of the statements that follow, for the session or, inside a
    /// transaction that is rolled back, until then. Whole milliseconds, at least one; `None` is no
    /// limit.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub async fn set_statement_timeout(
        &self,
        limit: Option<Duration>,
    ) -> Result<(), WarehouseError> {
        // Zero means no limit to the server, and it keeps milliseconds in 31 bits.
        let milliseconds = limit.map_or(0, |limit| limit.as_millis().clamp(1, i32::MAX as u128));
        self.batch(&format!("SET statement_timeout = {milliseconds}"))
            .await
    }

    /// Returns whether the settings came with the connection, so that RESET goes back to them.
    pub fn is_pinned(&self) -> bool {
        self.pinned_at_start
    }

    /// Returns a handle that cancels what this session runs.
    pub fn canceller(&self) -> Canceller {
        Canceller {
            token: self.client.cancel_token(),
            connector: self.connector.clone(),
            dialled: self.dialled.clone(),
            shared: self.shared.clone(),
            server: self.server.clone(),
        }
    }

    /// Returns whether the connection is known to be gone. It may be gone and not known to be.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Returns the process that serves this session, as `pg_stat_activity` names it. Asks the
    /// server once.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub async fn backend_pid(&self) -> Result<i32, WarehouseError> {
        let ask = || async {
            let sql = "SELECT pg_catalog.pg_backend_pid() AS pid";
            let answer = self.ask_briefly(sql, &[]).await?;
            let pid = answer
                .int64(0, "pid")
                .and_then(|pid| i32::try_from(pid).ok());
            pid.ok_or_else(|| WarehouseError::protocol("a process id is a number"))
        };
        self.backend_pid.get_or_try_init(ask).await.copied()
    }

    /// Returns the server's version in its own words, for example `15.5 (Debian 15.5-1)`. Redshift
    /// says `8.0.2`.
    pub fn server_version(&self) -> &str {
        &self.version
    }

    /// Returns the first number of the server's version; 0 if it says none.
    pub fn server_major(&self) -> u32 {
        connect::major(&self.version)
    }

    /// Returns where the server is: `host:port`, or the path of its socket.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Returns what a statement's meaning depends on: server, database, user and given settings.
    /// The same read-only statement on two sessions with the same identity sees the same.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    pub(crate) fn begin_statement(&self) {
        self.shared.cancel_asked.store(false, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, error: PgError) -> WarehouseError {
        if let (true, Some(limit)) = (
            self.shared.too_large.load(Ordering::Relaxed),
            self.message_bytes_max,
        ) {
            return WarehouseError::AnswerTooLarge {
                limit: limit.into(),
                unit: "bytes in one message",
            };
        }
        classify::statement(error, self.circumstances())
    }

    fn circumstances(&self) -> classify::Circumstances {
        classify::Circumstances {
            cancel_asked: self.shared.cancel_asked.load(Ordering::Relaxed),
            said: self.shared.said.get().cloned(),
        }
    }

    fn lost(&self) -> WarehouseError {
        WarehouseError::ConnectionLost {
            said: self.shared.said.get().cloned(),
            source: None,
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({})", self.server)
    }
}

impl Canceller {
    /// Asks the server to cancel the statement, over a connection of its own, encrypted if the
    /// session's is. What runs then ends with [`WarehouseError::Cancelled`], or just before that
    /// with success; nothing happens between statements.
    ///
    /// # Errors
    ///
    /// [`WarehouseError::Unreachable`] or [`WarehouseError::Tls`] if the server could not be asked,
    /// within 10 seconds.
    pub async fn cancel(&self) -> Result<(), WarehouseError> {
        self.shared.cancel_asked.store(true, Ordering::Relaxed);
        let asking = async {
            let asked = match (&self.dialled, self.connector.clone()) {
                (Some(endpoint), _) => {
                    let stream = Plain::dial(endpoint)
                        .await
                        .map_err(|error| self.unreachable(error))?;
                    self.token.cancel_query_raw(stream, NoTls).await
                }
                (None, Some(connector)) => self.token.cancel_query(connector).await,
                (None, None) => self.token.cancel_query(NoTls).await,
            };
            asked.map_err(|error| classify::connect(error, &self.server, "", ""))
        };
        match tokio::time::timeout(CANCEL_TIMEOUT, asking).await {
            Ok(asked) => asked,
            Err(elapsed) => {
                let source = std::io::Error::new(std::io::ErrorKind::TimedOut, elapsed);
                Err(self.unreachable(source))
            }
        }
    }

    fn unreachable(&self, source: std::io::Error) -> WarehouseError {
        let server = self.server.clone();
        WarehouseError::Unreachable {
            server,
            source: source.into(),
        }
    }
}

impl std::fmt::Debug for Canceller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Canceller({})", self.server)
    }
}
