//! Running the statements of a checked plan.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use stepwell_sandbox::contract::{Plan, Statement};
use stepwell_warehouse::{Answer, AnswerLimits, Param, RetryClass, Session, WarehouseError};

use crate::connect;
use crate::convert;
use crate::error::{Problem, RunError, StepPlace, WarehouseState};
use crate::journal::Progress;
use crate::lease::Durability;
use crate::observe::Event;
use crate::policy::Checked;
use crate::report::StatementReport;
use crate::run::Context;

/// How often, and how long apart, the server is asked which way a COMMIT went whose answer was lost.
const COMMIT_LOOKS: u32 = 20;
const COMMIT_LOOK_DELAY: Duration = Duration::from_millis(500);

/// Most statements that are sent in one go.
const TOGETHER_MAX: usize = 30;

/// What the statements of a step did.
#[derive(Debug, Default)]
pub(crate) struct Executed {
    pub(crate) statements: Vec<StatementReport>,
    pub(crate) rows_read: u64,
    pub(crate) rows_written: u64,
    pub(crate) measures: BTreeMap<String, i64>,
    /// The run ends here, for this reason.
    pub(crate) ends_run: Option<String>,
}

/// What is asked of a statement that measures: one number.
pub(crate) const MEASURE_LIMITS: AnswerLimits = AnswerLimits {
    rows: 1,
    bytes: 1 << 16,
};

impl Executed {
    /// Notes that a statement has ended.
    pub(crate) fn ended(&mut self, statement: &Statement, rows: u64, duration: Duration) {
        self.statements.push(StatementReport {
            label: statement.label.clone(),
            rows,
            duration_ms: duration.as_secs_f64() * 1000.0,
        });
    }

    /// Counts the rows of a statement that does not measure.
    fn count(&mut self, statement: &Statement, rows: u64) {
        match statement.writes.is_empty() {
            true => self.rows_read += rows,
            false => self.rows_written += rows,
        }
    }

    /// Adds what a statement measured.
    pub(crate) fn measured(&mut self, name: &str, answer: &Answer) {
        let first = answer.fields.first();
        let value = first.and_then(|field| answer.int64(0, &field.name));
        *self.measures.entry(name.to_owned()).or_default() += value.unwrap_or(0);
    }
}

/// A plan on its way.
pub(crate) struct Execution<'a> {
    pub(crate) context: &'a Context<'a>,
    pub(crate) session: &'a Session,
    pub(crate) plan: &'a Checked<Plan>,
    pub(crate) place: StepPlace,
    /// Set where the plan writes the manifest: what the journal notes in the same transaction.
    pub(crate) commits: Option<Progress>,
    /// The longest time for all statements together; COMMIT is not counted.
    pub(crate) wall: Option<Duration>,
}

impl Execution<'_> {
    /// Runs the plan. After an error its transaction is rolled back.
    pub(crate) async fn run(&self) -> Result<Executed, RunError> {
        if self.plan.statements.is_empty() {
            return Ok(Executed::default());
        }
        if !self.plan.atomic {
            return self.within_wall(self.statements()).await;
        }
        let durability = match self.beyond_scratch() {
            true => Durability::Derived,
            false => Durability::Scratch,
        };
        let begun = self.context.lease.begin(self.session, durability).await;
        begun.map_err(|error| error.at(self.place.clone()))?;
        match self.within_wall(self.statements_and_journal()).await {
            Ok(executed) => {
                self.commit().await?;
                Ok(executed)
            }
            Err(error) => {
                // A session that does not answer is dropped by the caller, which undoes the transaction as well.
                let _ = tokio::time::timeout(Duration::from_secs(1), self.session.rollback()).await;
                Err(error)
            }
        }
    }

    /// Whether the plan changes rows of tables other than scratch.
    fn beyond_scratch(&self) -> bool {
        let scratch = &self.context.steps.workflow.schemas.scratch;
        let beyond = |name: &String| {
            name.parse::<stepwell_sql::TableName>()
                .is_ok_and(|table| table.schema() != scratch)
        };
        self.plan
            .statements
            .iter()
            .flat_map(|statement| &statement.writes)
            .any(beyond)
    }

    /// Waits for work as long as the step may take, then cancels it on the server.
    async fn within_wall(
        &self,
        work: impl Future<Output = Result<Executed, RunError>>,
    ) -> Result<Executed, RunError> {
        let Some(wall) = self.wall else {
            return work.await;
        };
        if let Ok(done) = tokio::time::timeout(wall, work).await {
            return done;
        }
        if let Err(error) = self.session.canceller().cancel().await {
            tracing::warn!(%error, "could not cancel the running statement");
        }
        let message = format!(
            "the step's statements took longer than its limit of {} s (`limits: wall`)",
            wall.as_secs_f64()
        );
        Err(RunError::new(Problem::Refused(message)).at(self.place.clone()))
    }

    async fn statements_and_journal(&self) -> Result<Executed, RunError> {
        let Some(progress) = self.commits else {
            return self.statements().await;
        };
        // Who serves the session is needed should the answer to COMMIT be lost, and asked meanwhile.
        let (_, executed) = join(self.session.backend_pid(), self.statements()).await;
        let executed = executed?;
        self.context.journal.commit(self.session, progress).await?;
        // Last call: after this a signal waits for the COMMIT, which either is or is not.
        self.context.interrupts.check()?;
        Ok(executed)
    }

    async fn statements(&self) -> Result<Executed, RunError> {
        let mut executed = Executed::default();
        let statements = &self.plan.statements;
        let mut at = 0;
        while let Some(statement) = statements.get(at) {
            let together = statements[at..]
                .iter()
                .take(TOGETHER_MAX)
                .take_while(|statement| self.waits_for_nobody(statement))
                .count();
            if together > 1 {
                self.together(at..at + together, &mut executed).await?;
                at += together;
                continue;
            }
            self.started(at);
            let begun = Instant::now();
            let rows = self
                .repeated(statement, &mut executed)
                .await
                .map_err(|error| error.at(self.statement_place(at)))?;
            executed.ended(statement, rows, begun.elapsed());
            if let (Some(reason), 0) = (&statement.ends_run_when_zero, rows) {
                executed.ends_run = Some(reason.clone());
                break;
            }
            at += 1;
        }
        Ok(executed)
    }

    /// Whether what comes after the statement may be sent before its answer is there. In a transaction nothing that
    /// follows a failed statement has an effect.
    fn waits_for_nobody(&self, statement: &Statement) -> bool {
        self.plan.atomic
            && statement.ends_run_when_zero.is_none()
            // Its answer takes two round trips, the second of which would come behind the statements after it.
            && statement.measure.is_none()
    }

    /// Sends statements in one go, and takes their answers as they come.
    async fn together(&self, which: Range<usize>, executed: &mut Executed) -> Result<(), RunError> {
        let statements = &self.plan.statements;
        // How many have ended, and when the last one did.
        let progress = Mutex::new((which.start, Instant::now()));
        let lock = || progress.lock().unwrap_or_else(PoisonError::into_inner);
        self.context.wrote();
        self.started(which.start);
        let running = which.clone().map(|at| {
            let params = convert::params(&statements[at].params);
            let (lock, last) = (&lock, at + 1 == which.end);
            Box::pin(async move {
                let rows = self.session.execute(&statements[at].sql, &params).await?;
                let (_, begun) = std::mem::replace(&mut *lock(), (at + 1, Instant::now()));
                if !last {
                    self.started(at + 1);
                }
                Ok::<_, WarehouseError>((rows, begun.elapsed()))
            })
        });
        // In order, and none before the one ahead of it was sent.
        let running = async { Ok(join_all(running).await) };
        let done = self.context.interrupts.guard(self.session, running).await;
        let at_work = || self.statement_place(lock().0.min(which.end - 1));
        let done = done.map_err(|error| error.at(at_work()))?;
        // No statement fails here but by itself: guarded work does not.
        let done: Vec<Result<_, _>> =
            done.map_err(|source| RunError::new(Problem::Statement { source }).at(at_work()))?;
        for (at, done) in which.zip(done) {
            // Those behind one that failed do so for no other reason.
            let (rows, duration) = done.map_err(|source| {
                RunError::new(Problem::Statement { source }).at(self.statement_place(at))
            })?;
            let statement = &statements[at];
            executed.count(statement, rows);
            executed.ended(statement, rows, duration);
        }
        Ok(())
    }

    /// Says that a statement is at work.
    fn started(&self, at: usize) {
        started(self.context, &self.place, &self.plan.statements, at);
    }

    fn statement_place(&self, at: usize) -> StepPlace {
        let statements = &self.plan.statements;
        self.place
            .of_statement(&statements[at], at + 1, statements.len())
    }

    /// Runs a statement. One outside of a transaction is repeated by itself where the server says that it failed and may
    /// succeed later; if its connection was lost, it may have taken effect. Inside of one, the step as a whole is
    /// repeated.
    async fn repeated(
        &self,
        statement: &Statement,
        executed: &mut Executed,
    ) -> Result<u64, RunError> {
        let mut failed = 0;
        loop {
            let error = match self.statement(statement, executed).await {
                Err(error) if !self.plan.atomic => error,
                other => return other,
            };
            failed += 1;
            let class = error.warehouse_error().map(WarehouseError::retry_class);
            if class != Some(RetryClass::Retryable) {
                return Err(error);
            }
            match self.context.retry(&self.place.id, failed, &error) {
                Some((retry, wait)) => self.context.wait(&retry, wait).await?,
                None => return Err(error),
            }
        }
    }

    async fn statement(
        &self,
        statement: &Statement,
        executed: &mut Executed,
    ) -> Result<u64, RunError> {
        let params = convert::params(&statement.params);
        let failed = |source: WarehouseError| RunError::new(Problem::Statement { source });
        if let Some(name) = &statement.measure {
            let asking = self.session.ask(&statement.sql, &params, &MEASURE_LIMITS);
            let answer = self
                .context
                .interrupts
                .guard(self.session, asking)
                .await?
                .map_err(failed)?;
            executed.measured(name, &answer);
            executed.rows_read += u64::from(answer.rows);
            return Ok(answer.rows.into());
        }
        self.context.wrote();
        let running = self.session.execute(&statement.sql, &params);
        let rows = self
            .context
            .interrupts
            .guard(self.session, running)
            .await?
            .map_err(failed)?;
        executed.count(statement, rows);
        Ok(rows)
    }

    async fn commit(&self) -> Result<(), RunError> {
        let backend = match self.commits {
            Some(_) => Some(self.session.backend_pid().await.map_err(|source| {
                let doing = "commit".to_owned();
                RunError::new(Problem::Warehouse { doing, source }).at(self.place.clone())
            })?),
            None => None,
        };
        if self.commits.is_some() {
            self.context.committing.store(true, Ordering::Relaxed);
        }
        let committed = self.session.commit().await;
        let committed = match committed {
            Err(WarehouseError::OutcomeUnknown { said, source }) if self.commits.is_some() => {
                let lost = WarehouseError::OutcomeUnknown { said, source };
                self.look(lost, backend).await
            }
            other => other.map_err(|source| {
                RunError::new(Problem::Warehouse {
                    doing: "commit".into(),
                    source,
                })
            }),
        };
        // Of the plans that run side by side only one writes the manifest.
        if self.commits.is_some() {
            self.context.committing.store(false, Ordering::Relaxed);
        }
        committed.map_err(|error| error.at(self.place.clone()))?;
        if self.commits.is_none() && self.beyond_scratch() {
            self.context.wrote_beyond_scratch();
        }
        if self.commits.is_some() {
            self.context.committed();
            // The server's statistics of what was just deleted and inserted lag behind, and `defrag` comes next.
            if self.session.server_major() >= 15 {
                self.session
                    .send("SELECT pg_catalog.pg_stat_force_next_flush()");
            }
        }
        Ok(())
    }

    /// Finds out which way a COMMIT went, by the journal, which was part of it.
    async fn look(&self, lost: WarehouseError, backend: Option<i32>) -> Result<(), RunError> {
        let pass = self.commits.map_or(0, |progress| progress.passes);
        for _ in 0..COMMIT_LOOKS {
            if let Ok(committed) = self.look_once(pass, backend).await {
                let doing = "commit".to_owned();
                return match committed {
                    true => Ok(()),
                    false => Err(RunError::new(Problem::Warehouse {
                        doing,
                        source: WarehouseError::ConnectionLost {
                            said: None,
                            source: None,
                        },
                    })),
                };
            }
            if let Err(stopped) = self.context.interrupts.sleep(COMMIT_LOOK_DELAY).await {
                self.context.set_state(WarehouseState::Unknown);
                return Err(stopped);
            }
        }
        Err(RunError::new(Problem::Warehouse {
            doing: "commit".into(),
            source: lost,
        }))
    }

    async fn look_once(&self, pass: u32, backend: Option<i32>) -> Result<bool, RunError> {
        let context = self.context;
        let session = connect::session(context.steps.workflow, context.target, "look").await?;
        if let Some(backend) = backend {
            // A server that never got the COMMIT may not know yet that the connection is gone, and would keep the
            // transaction open; one that got it does not stop half-way. Only our own session is meant.
            let name = connect::names(&context.lease.playbook, &context.lease.run_id)[0].clone();
            let sql = "SELECT pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
                WHERE pid = $1 AND application_name = $2";
            let params = [Param::Int64(backend.into()), Param::Text(name)];
            // Without the right to do so, the journal's row tells once the server has noticed.
            let _ = session.execute(sql, &params).await;
        }
        context.journal.is_committed(&session, pass).await
    }
}

/// Says that a statement of a plan is at work.
pub(crate) fn started(
    context: &Context<'_>,
    place: &StepPlace,
    statements: &[Statement],
    at: usize,
) {
    let Statement { label, sql, .. } = &statements[at];
    context.event(&Event::StatementStarted {
        step: &place.id,
        label,
        number: at + 1,
        count: statements.len(),
    });
    tracing::debug!(step = %place.id, %label, %sql, "statement");
}
