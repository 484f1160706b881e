//! Asking a plugin what to do: it asks back, the warehouse answers, until there is a plan or a shape.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::join_all;
use stepwell_sandbox::contract::{
    Answer, Plan, Question, Reply, RunInfo, Shape, ShapeReply, Statement,
};
use stepwell_sandbox::{Attempt, CallError, Component, Limit, LimitError, Limits, batch_bytes};
use stepwell_warehouse::{
    Access, AnswerLimits, Canceller, Estimate, Param, Selection, Session, WarehouseError,
};

use crate::confined::Confined;
use crate::convert;
use crate::error::{Problem, RunError, StatementPlace, StepPlace};
use crate::policy::forms::{Form, form};
use crate::policy::{Checked, Rights};
use crate::run::Interrupts;
use crate::together::Member;

/// Rounds of questions after which a planner is taken for one that never stops.
const ROUNDS_MAX: usize = 64;

/// Largest answer. A planner asks about tables and batches, not for events.
const ANSWER_LIMITS: AnswerLimits = AnswerLimits {
    rows: 100_000,
    bytes: 16 << 20,
};

/// How long a cancelled statement may take to end before its session is given up.
const CANCEL_WAIT: std::time::Duration = std::time::Duration::from_millis(1500);

/// A plugin, and all that one conversation needs.
pub(crate) struct Conversation<'a> {
    pub(crate) component: Component,
    pub(crate) limits: &'a Limits,
    pub(crate) rights: &'a Rights,
    pub(crate) info: RunInfo,
    pub(crate) place: StepPlace,
    /// Whom a question may be asked together with.
    pub(crate) together: Option<&'a Member>,
    pub(crate) transaction: Questions,
}

/// The transaction in which questions are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Questions {
    /// A read-only one of their own.
    OnTheirOwn,
    /// The one that is open, of which their part is read-only.
    InTheOpenOne,
}

impl Questions {
    async fn begin(self, session: &Session) -> Result<(), WarehouseError> {
        match self {
            Self::OnTheirOwn => session.begin(Access::ReadOnly).await,
            Self::InTheOpenOne => {
                session
                    .batch("SAVEPOINT questions; SET TRANSACTION READ ONLY")
                    .await
            }
        }
    }

    async fn end(self, session: &Session) -> Result<(), WarehouseError> {
        match self {
            Self::OnTheirOwn => {
                // What comes next on the session comes behind it.
                session.send_rollback();
                Ok(())
            }
            // Going back also ends the part that is read-only.
            Self::InTheOpenOne => {
                session
                    .batch("ROLLBACK TO SAVEPOINT questions; RELEASE SAVEPOINT questions")
                    .await
            }
        }
    }
}

/// Whom the questions of a step are put to.
#[derive(Clone, Copy)]
pub(crate) enum Whom<'a> {
    /// A session of the workflow's own login.
    Workflow(&'a Session),
    /// A third party's own.
    Confined(&'a Confined),
}

impl<'a> Whom<'a> {
    /// Returns the plugin's own session where it has one, the workflow's otherwise.
    pub(crate) fn of(confined: Option<&'a Confined>, session: &'a Session) -> Self {
        confined.map_or(Self::Workflow(session), Self::Confined)
    }

    /// Returns what the server expects of a statement; none where it cannot say.
    pub(crate) async fn explain(
        self,
        statement: &Statement,
        params: &[Param],
        interrupts: &Interrupts,
    ) -> Result<Option<Estimate>, RunError> {
        match self {
            Self::Workflow(session) => {
                let explaining = session.explain(&statement.sql, params);
                Ok(interrupts.guard(session, explaining).await?.ok())
            }
            Self::Confined(confined) => {
                // What fills a scratch table is explained without its table, which is the host's to make.
                let sql = match form(&statement.sql).map_err(refused)? {
                    Form::Fill { select, .. } => select,
                    Form::Read(sql) | Form::Change(sql, _) => sql,
                    Form::Clear(_) | Form::Measure(_) => return Ok(None),
                };
                let explained = confined.explain(sql, params, interrupts).await;
                interrupts.check()?;
                Ok(explained.ok())
            }
        }
    }

    /// Returns the columns of a query that is to be read group by group.
    pub(crate) async fn selection(
        self,
        sql: &str,
        interrupts: &Interrupts,
    ) -> Result<Selection, RunError> {
        match self {
            Self::Workflow(session) => interrupts
                .guard(session, session.describe(sql))
                .await?
                .map_err(|source| RunError::new(Problem::Statement { source })),
            Self::Confined(confined) => confined.selection(sql, interrupts).await,
        }
    }

    /// Returns what the server expects of a query without parameters.
    pub(crate) async fn estimate(
        self,
        sql: &str,
        interrupts: &Interrupts,
    ) -> Result<Estimate, RunError> {
        match self {
            Self::Workflow(session) => interrupts
                .guard(session, session.explain(sql, &[]))
                .await?
                .map_err(|source| RunError::new(Problem::Statement { source })),
            Self::Confined(confined) => confined.explain(sql, &[], interrupts).await,
        }
    }

    pub(crate) async fn begin(
        self,
        transaction: Questions,
        interrupts: &Interrupts,
    ) -> Result<(), RunError> {
        match self {
            Self::Workflow(session) => interrupts
                .guard(session, transaction.begin(session))
                .await?
                .map_err(RunError::warehouse("ask the warehouse")),
            Self::Confined(confined) => confined.begin(Access::ReadOnly, interrupts).await,
        }
    }

    async fn answer(
        self,
        interrupts: &Interrupts,
        question: &Checked<Question>,
        limits: &AnswerLimits,
    ) -> Result<Answer, RunError> {
        tracing::debug!(label = %question.label, sql = %question.sql, "question");
        let params = convert::params(&question.params);
        let answer = match self {
            Self::Workflow(session) => {
                let asking = session.ask(&question.sql, &params, limits);
                let answer = interrupts.guard(session, asking).await?;
                answer.map_err(|source| RunError::new(Problem::Statement { source }))?
            }
            Self::Confined(confined) => {
                confined
                    .ask(&question.sql, &params, limits, interrupts)
                    .await?
            }
        };
        Ok(convert::answer(answer))
    }

    pub(crate) async fn end(self, transaction: Questions) -> Result<(), RunError> {
        match self {
            Self::Workflow(session) => transaction
                .end(session)
                .await
                .map_err(RunError::warehouse("end the questions")),
            Self::Confined(confined) => confined.rollback().await,
        }
    }
}

impl Conversation<'_> {
    /// Returns the plan. Questions run in one read-only transaction, which is over when this returns.
    pub(crate) async fn plan(
        self,
        asked: Whom<'_>,
        interrupts: &Interrupts,
    ) -> Result<Checked<Plan>, RunError> {
        let place = self.place.clone();
        let rights = self.rights;
        let outcome = self.ask(asked, interrupts).await;
        let checked = outcome.and_then(|plan| rights.check(plan).map_err(RunError::refused));
        checked.map_err(|error| error.at(place))
    }

    /// Returns the shape of a reducer, as [`plan`](Self::plan) does a plan. What it wants to read is checked as it is
    /// prepared.
    pub(crate) async fn shape(
        self,
        asked: Whom<'_>,
        interrupts: &Interrupts,
    ) -> Result<Shape, RunError> {
        let place = self.place.clone();
        let outcome = self.ask(asked, interrupts).await;
        outcome.map_err(|error| error.at(place))
    }

    async fn ask<T: Ready>(
        self,
        asked_of: Whom<'_>,
        interrupts: &Interrupts,
    ) -> Result<T, RunError> {
        if self.rights.is_confined() && matches!(asked_of, Whom::Workflow(_)) {
            let why = "a third party's plugin asks and works under a login of its own alone";
            return Err(refused(why.to_owned()));
        }
        let (component, limits, as_of_us) = (
            self.component.clone(),
            self.limits.clone(),
            self.info.as_of_us,
        );
        let begun = blocking(move || component.attempt(&limits, as_of_us)).await;
        let mut attempt = begun.map_err(|source| plugin(source, &self.place))?;
        let (mut info, mut answers) = (self.info.clone(), Vec::new());
        let (mut asked, held) = (0, AtomicU64::new(0));
        for round in 0..ROUNDS_MAX {
            let reply;
            (attempt, info, answers, reply) = next(attempt, info, answers).await;
            match reply.map_err(|source| plugin(source, &self.place))? {
                Turn::Ready(ready) => {
                    if round > 0 {
                        asked_of.end(self.transaction).await?;
                    }
                    return Ok(ready);
                }
                Turn::Ask(questions) => {
                    if round == 0 {
                        asked_of.begin(self.transaction, interrupts).await?;
                    }
                    let before = (asked, &held);
                    let new = self
                        .answers(asked_of, interrupts, questions, before)
                        .await?;
                    asked += new.len();
                    answers.extend(new);
                }
            }
        }
        let message = format!("the plugin still asks after {ROUNDS_MAX} rounds of questions");
        Err(RunError::new(Problem::Refused(message)))
    }
}

impl Conversation<'_> {
    /// Puts questions that do not wait for each other's answers: all at once on a session of the workflow's own, one after
    /// the other on a third party's, whose time is counted between any two. `asked` is the number of those before, `held`
    /// what their answers take.
    async fn answers(
        &self,
        asked_of: Whom<'_>,
        interrupts: &Interrupts,
        questions: Vec<Question>,
        (asked, held): (usize, &AtomicU64),
    ) -> Result<Vec<Answer>, RunError> {
        let count = asked + questions.len();
        let place = |(at, question): (usize, &Question)| StatementPlace {
            label: question.label.clone(),
            question: true,
            number: asked + at + 1,
            count,
            sql: question.sql.clone(),
        };
        let mut places: Vec<_> = questions.iter().enumerate().map(place).collect();
        // Each waits on the heap: together they are moved about, and in one piece too large for that.
        let asking = questions
            .into_iter()
            .map(|question| Box::pin(self.answered(asked_of, interrupts, question, held)));
        let answered = match asked_of {
            Whom::Workflow(_) => join_all(asking).await,
            Whom::Confined(_) => one_by_one(asking).await,
        };
        let mut answers = Vec::new();
        let mut failed: Option<(usize, RunError)> = None;
        for (at, answered) in answered.into_iter().enumerate() {
            match answered {
                Ok(answer) => answers.push(answer),
                // The server refuses those behind one that failed for no other reason than that.
                Err(error) if failed.as_ref().is_none_or(|(_, first)| is_aborted(first)) => {
                    failed = Some((at, error));
                }
                Err(_) => {}
            }
        }
        let Some((at, error)) = failed else {
            return Ok(answers);
        };
        Err(error.at(StepPlace {
            statement: Some(places.swap_remove(at)),
            ..self.place.clone()
        }))
    }
}

impl Conversation<'_> {
    /// Puts one question, unless a run beside this one has the answer.
    ///
    /// All answers are handed over in each round, so together they must fit into the plugin's memory. That also bounds
    /// what the host keeps for it.
    async fn answered(
        &self,
        asked_of: Whom<'_>,
        interrupts: &Interrupts,
        question: Question,
        held: &AtomicU64,
    ) -> Result<Answer, RunError> {
        let question = self
            .rights
            .check_question(question)
            .map_err(RunError::refused)?;
        let left = self
            .limits
            .memory_bytes
            .saturating_sub(held.load(Ordering::Relaxed));
        let limits = AnswerLimits {
            bytes: ANSWER_LIMITS.bytes.min(left),
            ..ANSWER_LIMITS
        };
        let asking = Box::pin(asked_of.answer(interrupts, &question, &limits));
        let answer = match (self.together, asked_of) {
            (Some(member), Whom::Workflow(session)) => {
                let asker = session.identity();
                member.answer(asker, interrupts, &question, asking).await
            }
            _ => asking.await,
        };
        let answer = match answer {
            Err(error) if left < ANSWER_LIMITS.bytes && is_too_large(&error) => {
                return Err(self.answers_too_large());
            }
            answer => answer?,
        };
        let bytes = batch_bytes(&answer.rows);
        let before = held.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.limits.memory_bytes {
            return Err(self.answers_too_large());
        }
        Ok(answer)
    }

    fn answers_too_large(&self) -> RunError {
        let breach = LimitError {
            limit: Limit::Memory,
            what: "memory for the answers to its questions".to_owned(),
            allowed: self.limits.memory_bytes,
            asked: None,
            backtrace: Vec::new(),
            log: Vec::new(),
        };
        plugin(breach.into(), &self.place)
    }
}

/// Whether an answer had more bytes than it may have.
fn is_too_large(error: &RunError) -> bool {
    let error = error.warehouse_error();
    matches!(error, Some(WarehouseError::AnswerTooLarge { unit, .. }) if *unit == "bytes")
}

/// Waits for each after the other, up to the first that fails.
async fn one_by_one<T>(
    work: impl Iterator<Item = impl Future<Output = Result<T, RunError>>>,
) -> Vec<Result<T, RunError>> {
    let mut done = Vec::new();
    for one in work {
        done.push(one.await);
        if done.last().is_some_and(Result::is_err) {
            break;
        }
    }
    done
}

/// Whether a statement failed because one before it did.
fn is_aborted(error: &RunError) -> bool {
    error.warehouse_error().and_then(WarehouseError::sqlstate) == Some("25P02")
}

/// A turn of the plugin.
enum Turn<T> {
    Ask(Vec<Question>),
    Ready(T),
}

/// What a plugin answers with in the end.
trait Ready: Sized + Send + 'static {
    fn next(
        attempt: &mut Attempt,
        info: &RunInfo,
        answers: &[Answer],
    ) -> Result<Turn<Self>, CallError>;
}

impl Ready for Plan {
    fn next(
        attempt: &mut Attempt,
        info: &RunInfo,
        answers: &[Answer],
    ) -> Result<Turn<Self>, CallError> {
        Ok(match attempt.next(info, answers)? {
            Reply::Ask(questions) => Turn::Ask(questions),
            Reply::Ready(plan) => Turn::Ready(plan),
        })
    }
}

impl Ready for Shape {
    fn next(
        attempt: &mut Attempt,
        info: &RunInfo,
        answers: &[Answer],
    ) -> Result<Turn<Self>, CallError> {
        Ok(match attempt.next_shape(info, answers)? {
            ShapeReply::Ask(questions) => Turn::Ask(questions),
            ShapeReply::Ready(shape) => Turn::Ready(shape),
        })
    }
}

/// One call of the plugin, on a thread where it may block.
async fn next<T: Ready>(
    mut attempt: Attempt,
    info: RunInfo,
    answers: Vec<Answer>,
) -> (Attempt, RunInfo, Vec<Answer>, Result<Turn<T>, CallError>) {
    blocking(move || {
        let reply = T::next(&mut attempt, &info, &answers);
        for line in attempt.take_log() {
            tracing::debug!(step = %info.step_id, "{}", line.message);
        }
        (attempt, info, answers, reply)
    })
    .await
}

fn refused(why: String) -> RunError {
    RunError::new(Problem::Refused(why))
}

pub(crate) fn plugin(source: CallError, place: &StepPlace) -> RunError {
    let setting = match &source {
        CallError::Failure(failure) => failure.setting.clone(),
        _ => None,
    };
    RunError::new(Problem::Plugin { source }).at(StepPlace {
        setting,
        ..place.clone()
    })
}

/// Runs `work` where it may block, and passes a panic on.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

/// Waits for work on a session; when `interrupted` comes first, cancels it on the server and lets it end.
pub(crate) async fn or_cancelled<T, I>(
    canceller: Canceller,
    work: impl Future<Output = Result<T, WarehouseError>>,
    interrupted: impl Future<Output = I>,
) -> Result<Result<T, WarehouseError>, I> {
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => Ok(done),
        interrupt = interrupted => {
            if let Err(error) = canceller.cancel().await {
                tracing::warn!(%error, "could not cancel the running statement");
            }
            // The server's answer to the cancel is of no interest; that it came means that the statement has ended.
            let _ = tokio::time::timeout(CANCEL_WAIT, &mut work).await;
            Err(interrupt)
        }
    }
}
