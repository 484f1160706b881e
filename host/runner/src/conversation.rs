//! Asking a plugin what to do: it asks back, the warehouse answers, until there is a plan or a shape.

use std::future::Future;

use futures_util::future::join_all;
use stepwell_sandbox::contract::{Answer, Plan, Question, Reply, RunInfo, Shape, ShapeReply};
use stepwell_sandbox::{Attempt, CallError, Component, Limits};
use stepwell_warehouse::{Access, AnswerLimits, Canceller, Session, WarehouseError};

use crate::convert;
use crate::error::{Problem, RunError, StatementPlace, StepPlace};
use crate::policy::Rights;
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
            Self::OnTheirOwn => session.rollback().await,
            // Going back also ends the part that is read-only.
            Self::InTheOpenOne => {
                session
                    .batch("ROLLBACK TO SAVEPOINT questions; RELEASE SAVEPOINT questions")
                    .await
            }
        }
    }
}

impl Conversation<'_> {
    /// Returns the plan. Questions run in one read-only transaction, which is over when this returns.
    pub(crate) async fn plan(
        self,
        session: &Session,
        interrupts: &Interrupts,
    ) -> Result<Plan, RunError> {
        let place = self.place.clone();
        let outcome = self.ask(session, interrupts).await;
        outcome.map_err(|error| error.at(place))
    }

    /// Returns the shape of a reducer, as [`plan`](Self::plan) does a plan.
    pub(crate) async fn shape(
        self,
        session: &Session,
        interrupts: &Interrupts,
    ) -> Result<Shape, RunError> {
        let place = self.place.clone();
        let outcome = self.ask(session, interrupts).await;
        outcome.map_err(|error| error.at(place))
    }

    async fn ask<T: Ready>(
        self,
        session: &Session,
        interrupts: &Interrupts,
    ) -> Result<T, RunError> {
        let (component, limits, as_of_us) = (
            self.component.clone(),
            self.limits.clone(),
            self.info.as_of_us,
        );
        let begun = blocking(move || component.attempt(&limits, as_of_us)).await;
        let mut attempt = begun.map_err(|source| plugin(source, &self.place))?;
        let (mut info, mut answers) = (self.info.clone(), Vec::new());
        let mut asked = 0;
        for round in 0..ROUNDS_MAX {
            let reply;
            (attempt, info, answers, reply) = next(attempt, info, answers).await;
            match reply.map_err(|source| plugin(source, &self.place))? {
                Turn::Ready(ready) => {
                    if round > 0 {
                        let ended = self.transaction.end(session).await;
                        ended.map_err(RunError::warehouse("end the questions"))?;
                    }
                    return Ok(ready);
                }
                Turn::Ask(questions) => {
                    if round == 0 {
                        let began = interrupts
                            .guard(session, self.transaction.begin(session))
                            .await?;
                        began.map_err(RunError::warehouse("ask the warehouse"))?;
                    }
                    let new = self.answers(session, interrupts, &questions, asked).await?;
                    answers.extend(new);
                    asked += questions.len();
                }
            }
        }
        let message = format!("the plugin still asks after {ROUNDS_MAX} rounds of questions");
        Err(RunError::new(Problem::Refused(message)))
    }
}

impl Conversation<'_> {
    /// Puts questions that do not wait for each other's answers, all at once. `asked` is the number of those before.
    async fn answers(
        &self,
        session: &Session,
        interrupts: &Interrupts,
        questions: &[Question],
        asked: usize,
    ) -> Result<Vec<Answer>, RunError> {
        let asking = questions.iter().map(async |question| {
            let asking = answer(session, interrupts, question);
            match self.together {
                None => asking.await,
                Some(member) => {
                    let asker = session.identity();
                    member.answer(asker, interrupts, question, asking).await
                }
            }
        });
        let mut answers = Vec::new();
        let mut failed: Option<(usize, RunError)> = None;
        for (at, answered) in join_all(asking).await.into_iter().enumerate() {
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
        let statement = StatementPlace {
            label: questions[at].label.clone(),
            question: true,
            number: asked + at + 1,
            count: asked + questions.len(),
            sql: questions[at].sql.clone(),
        };
        Err(error.at(StepPlace {
            statement: Some(statement),
            ..self.place.clone()
        }))
    }
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

async fn answer(
    session: &Session,
    interrupts: &Interrupts,
    question: &Question,
) -> Result<Answer, RunError> {
    Rights::check_question(question).map_err(|message| RunError::new(Problem::Refused(message)))?;
    tracing::debug!(label = %question.label, sql = %question.sql, "question");
    let params = convert::params(&question.params);
    let asking = session.ask(&question.sql, &params, &ANSWER_LIMITS);
    let answer = interrupts.guard(session, asking).await?;
    answer
        .map(convert::answer)
        .map_err(|source| RunError::new(Problem::Statement { source }))
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
