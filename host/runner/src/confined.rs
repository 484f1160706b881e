//! The session of a third party's step: under the plugin's own login, with a time budget, thrown away afterwards.
//!
//! What a third party wrote is put to the database here and nowhere else. Before each statement everything that an
//! earlier one could have set is pinned again, and the server is told how much time is left; a statement that goes
//! beyond it is cancelled. A transaction is committed only if it is still the one that was begun, by the same role, and
//! if that role owns nothing: no table, no large object, nothing temporary.

pub(crate) mod execute;

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use stepwell_warehouse::{
    Access, Answer, AnswerLimits, DescribedColumn, Identity, Param, Selection, Session, Snapshot,
    WarehouseError,
};
use stepwell_workflow::{LimitKey, Limits, PluginEntry, Workflow};

use crate::connect;
use crate::error::{Problem, RunError};
use crate::roles::{self, Login, Logins};
use crate::run::Interrupts;

/// What a third party's statements may take unless the workflow says otherwise (`plugins.<name>.limits`).
const WALL: Duration = Duration::from_secs(15 * 60);
const DATABASE_TIME: Duration = Duration::from_secs(10 * 60);
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(2 * 60);
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// How much longer than the server a statement is waited for: the server's own word says more.
const GRACE: Duration = Duration::from_millis(500);
/// How long a cancelled statement may take to end before its connection is given up.
const CANCEL_WAIT: Duration = Duration::from_secs(2);

/// How much time a step of a third party has.
#[derive(Debug)]
pub(crate) struct Budget {
    begun: Instant,
    wall: Duration,
    database: Duration,
    statement: Duration,
    lock: Duration,
    /// Microseconds that statements took so far.
    spent_us: AtomicU64,
}

impl Budget {
    /// Returns the budget of a plugin with these limits; it runs from now on.
    pub(crate) fn begin(limits: &Limits) -> Self {
        let limit = |key: LimitKey, default: Duration| limits.duration(key).unwrap_or(default);
        Self {
            begun: Instant::now(),
            wall: limit(LimitKey::Wall, WALL),
            database: limit(LimitKey::DatabaseTime, DATABASE_TIME),
            statement: limit(LimitKey::StatementTimeout, STATEMENT_TIMEOUT),
            lock: limit(LimitKey::LockTimeout, LOCK_TIMEOUT),
            spent_us: AtomicU64::new(0),
        }
    }

    /// Returns the longest time of the next statement, and the limit that it follows from.
    fn next(&self) -> (Duration, LimitKey) {
        let spent = Duration::from_micros(self.spent_us.load(Ordering::Relaxed));
        let limits = [
            (self.statement, LimitKey::StatementTimeout),
            (self.database.saturating_sub(spent), LimitKey::DatabaseTime),
            (
                self.wall.saturating_sub(self.begun.elapsed()),
                LimitKey::Wall,
            ),
        ];
        limits.into_iter().min().expect("three limits")
    }

    fn spend(&self, time: Duration) {
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.spent_us.fetch_add(time, Ordering::Relaxed);
    }

    fn limit(&self, key: LimitKey) -> Duration {
        match key {
            LimitKey::DatabaseTime => self.database,
            LimitKey::Wall => self.wall,
            LimitKey::LockTimeout => self.lock,
            _ => self.statement,
        }
    }
}

/// A session of a third party's step. Dropping it closes the connection, and undoes what is open.
pub(crate) struct Confined {
    session: Session,
    login: Login,
    budget: Budget,
}

impl Confined {
    /// Connects as the plugin's role, to where `host` is connected.
    ///
    /// # Errors
    ///
    /// If the role is not let in, if it comes to another database than the one where it was looked at, or if what lies
    /// between does not let the host pin the session's settings.
    pub(crate) async fn open(
        workflow: &Workflow,
        logins: &Logins,
        entry: &PluginEntry,
        run_id: &str,
        host: &Session,
    ) -> Result<Self, RunError> {
        let login = roles::of(logins, entry)?;
        let session = connect::plugin(workflow, &login.target, run_id).await?;
        if !session.is_pinned() {
            let message = "the server is older than PostgreSQL 14, or what lies between here and it does not take settings \
                 when a connection is opened; connect to the server itself";
            return Err(RunError::new(Problem::Refused(message.into())));
        }
        let (own, hosts) = tokio::join!(session.whereabouts(), host.whereabouts());
        let doing = || RunError::warehouse("see where the plugin is connected to");
        let (own, hosts) = (own.map_err(doing())?, hosts.map_err(doing())?);
        // What the role may do was looked at there, and may be anything elsewhere.
        if !own.same_database(&hosts) || own.session_user != login.role {
            let message = format!(
                "the connection of plugin \"{}\" goes to another database than the workflow's, or to another role \
                 than \"{}\": let its url name the same server and database",
                login.plugin, login.role
            );
            return Err(RunError::new(Problem::Refused(message)));
        }
        Ok(Self {
            session,
            login: login.clone(),
            budget: Budget::begin(&entry.limits),
        })
    }

    /// Returns whose session it is.
    pub(crate) fn login(&self) -> &Login {
        &self.login
    }

    /// Begins a transaction.
    ///
    /// # Errors
    ///
    /// As every work here: the warehouse's, or [`Problem::OutOfTime`].
    pub(crate) async fn begin(
        &self,
        access: Access,
        interrupts: &Interrupts,
    ) -> Result<(), RunError> {
        self.host(self.session.begin(access), interrupts).await?;
        // A first query, after which a transaction cannot be made one that writes.
        self.host(self.session.batch("SELECT 1"), interrupts).await
    }

    /// Undoes the transaction.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    pub(crate) async fn rollback(&self) -> Result<(), RunError> {
        let undone = tokio::time::timeout(CANCEL_WAIT, self.session.rollback()).await;
        match undone {
            Ok(undone) => undone.map_err(RunError::warehouse("undo a transaction of the plugin")),
            Err(_) => Err(lost()),
        }
    }

    /// Returns who this is in which transaction; takes a transaction id.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    pub(crate) async fn identity(&self, interrupts: &Interrupts) -> Result<Identity, RunError> {
        self.pin(interrupts).await?;
        self.host(self.session.transaction_identity(), interrupts)
            .await
    }

    /// Commits, if the transaction is still the one that was begun as `begun` and its role owns nothing.
    ///
    /// # Errors
    ///
    /// [`Problem::Refused`] if it is not, after which nothing is committed; and as [`begin`](Self::begin).
    pub(crate) async fn commit(
        &self,
        begun: &Identity,
        interrupts: &Interrupts,
    ) -> Result<(), RunError> {
        let found = self.identity(interrupts).await?;
        if let Some(why) = begun.differs(&found) {
            let _ = self.rollback().await;
            let message = format!("what the plugin did is not committed: {why}");
            return Err(RunError::new(Problem::Refused(message)));
        }
        self.host(self.session.commit(), interrupts).await
    }

    /// Runs one query and returns its rows.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    pub(crate) async fn ask(
        &self,
        sql: &str,
        params: &[Param],
        limits: &AnswerLimits,
        interrupts: &Interrupts,
    ) -> Result<Answer, RunError> {
        self.within(self.session.ask(sql, params, limits), interrupts)
            .await
    }

    /// Runs one statement and returns how many rows it touched.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    pub(crate) async fn execute(
        &self,
        sql: &str,
        params: &[Param],
        interrupts: &Interrupts,
    ) -> Result<u64, RunError> {
        self.within(self.session.execute(sql, params), interrupts)
            .await
    }

    /// Returns the columns of a query without running it.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    pub(crate) async fn describe(
        &self,
        sql: &str,
        params: &[Param],
        interrupts: &Interrupts,
    ) -> Result<Vec<DescribedColumn>, RunError> {
        self.within(self.session.columns_of(sql, params), interrupts)
            .await
    }

    /// Returns the columns of a query that is to be read group by group, without running it.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    pub(crate) async fn selection(
        &self,
        sql: &str,
        interrupts: &Interrupts,
    ) -> Result<Selection, RunError> {
        self.within(self.session.describe(sql), interrupts).await
    }

    /// Begins a read-only transaction that others can see the same rows in.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    pub(crate) async fn begin_shared(&self, interrupts: &Interrupts) -> Result<Snapshot, RunError> {
        self.host(self.session.begin_shared(), interrupts).await
    }

    /// Begins a read-only transaction that sees the same rows as the one that took the snapshot.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    pub(crate) async fn begin_at(
        &self,
        snapshot: &Snapshot,
        interrupts: &Interrupts,
    ) -> Result<(), RunError> {
        self.host(self.session.begin_at(snapshot), interrupts)
            .await?;
        self.host(self.session.batch("SELECT 1"), interrupts).await
    }

    /// Gives the session away for one last query, with everything pinned and the time that is left told to the server, and
    /// says what its end by that time means.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    pub(crate) async fn into_reader(
        self,
        interrupts: &Interrupts,
    ) -> Result<(Session, Expiry), RunError> {
        let (_, key) = self.pin(interrupts).await?;
        let expiry = Expiry {
            plugin: self.login.plugin.clone(),
            limit: (key, self.budget.limit(key)),
            lock: self.budget.lock,
        };
        Ok((self.session, expiry))
    }

    /// Returns what the planner expects of a statement, which is not run.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    pub(crate) async fn explain(
        &self,
        sql: &str,
        params: &[Param],
        interrupts: &Interrupts,
    ) -> Result<stepwell_warehouse::Estimate, RunError> {
        self.within(self.session.explain(sql, params), interrupts)
            .await
    }

    /// Does work that runs a third party's statement: everything is pinned before, and its time is counted.
    pub(crate) async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, WarehouseError>>,
        interrupts: &Interrupts,
    ) -> Result<T, RunError> {
        let (left, key) = self.pin(interrupts).await?;
        let begun = Instant::now();
        let done = self.bounded(left + GRACE, key, work, interrupts).await;
        self.budget.spend(begun.elapsed());
        match done? {
            Err(WarehouseError::Timeout(said)) if said.sqlstate == "57014" => {
                Err(self.out_of_time(key))
            }
            Err(WarehouseError::Timeout(_)) => Err(self.out_of_time(LimitKey::LockTimeout)),
            done => done.map_err(|source| RunError::new(Problem::Statement { source })),
        }
    }

    /// Sets back what the last statement may have set, and tells the server how much time the next one has.
    async fn pin(&self, interrupts: &Interrupts) -> Result<(Duration, LimitKey), RunError> {
        let (left, key) = self.budget.next();
        if left < Duration::from_millis(1) {
            return Err(self.out_of_time(key));
        }
        let lock = self.budget.lock.min(left);
        // RESET goes back to what the connection was opened with, `search_path` and the rules for literals among it.
        let sql = format!(
            "RESET ALL; SET statement_timeout = {}; SET lock_timeout = {}",
            milliseconds(left),
            milliseconds(lock)
        );
        self.host(self.session.batch(&sql), interrupts).await?;
        Ok((left, key))
    }

    /// Does work of the host's own on this session.
    async fn host<T>(
        &self,
        work: impl Future<Output = Result<T, WarehouseError>>,
        interrupts: &Interrupts,
    ) -> Result<T, RunError> {
        let (left, key) = self.budget.next();
        let done = self.bounded(left + GRACE, key, work, interrupts).await?;
        done.map_err(RunError::warehouse("work on the plugin's session"))
    }

    /// Waits for work as long as it may take, then cancels it on the server.
    async fn bounded<T>(
        &self,
        longest: Duration,
        key: LimitKey,
        work: impl Future<Output = Result<T, WarehouseError>>,
        interrupts: &Interrupts,
    ) -> Result<Result<T, WarehouseError>, RunError> {
        let work = interrupts.guard(&self.session, work);
        tokio::pin!(work);
        if let Ok(done) = tokio::time::timeout(longest, &mut work).await {
            return done;
        }
        if let Err(error) = self.session.canceller().cancel().await {
            tracing::warn!(%error, "could not cancel the running statement");
        }
        // That an answer came means that the statement has ended; without one the connection goes with the session.
        let _ = tokio::time::timeout(CANCEL_WAIT, &mut work).await;
        Err(self.out_of_time(key))
    }

    fn out_of_time(&self, key: LimitKey) -> RunError {
        RunError::new(Problem::OutOfTime {
            plugin: self.login.plugin.clone(),
            limit: key,
            value: self.budget.limit(key),
        })
    }
}

/// What it means that the server ended a third party's last query.
#[derive(Debug, Clone)]
pub(crate) struct Expiry {
    plugin: String,
    limit: (LimitKey, Duration),
    lock: Duration,
}

impl Expiry {
    /// Returns the error of the query as one of the plugin's limits, if the server ended it for its time.
    pub(crate) fn explain(&self, error: WarehouseError) -> RunError {
        let (limit, value) = match &error {
            WarehouseError::Timeout(said) if said.sqlstate == "57014" => self.limit,
            WarehouseError::Timeout(_) => (LimitKey::LockTimeout, self.lock),
            _ => return RunError::new(Problem::Statement { source: error }),
        };
        RunError::new(Problem::OutOfTime {
            plugin: self.plugin.clone(),
            limit,
            value,
        })
    }
}

fn milliseconds(time: Duration) -> u128 {
    // Zero would mean no limit, and the server keeps 31 bits.
    time.as_millis().clamp(1, i32::MAX as u128)
}

fn lost() -> RunError {
    RunError::new(Problem::Warehouse {
        doing: "undo a transaction of the plugin".into(),
        source: WarehouseError::ConnectionLost {
            said: None,
            source: None,
        },
    })
}
