//! Which lookback is safe: how late batches came and how long keys are, as the steps say.

use serde::{Deserialize, Serialize};
use stepwell_warehouse::{Access, Session};
use stepwell_workflow::Workflow;

use crate::components::Components;
use crate::connect;
use crate::conversation::Whom;
use crate::error::{Problem, RunError, one_line};
use crate::init;
use crate::run::{Interrupts, RunOptions};
use crate::source;
use crate::step::{Asked, Steps};
use crate::stop::Stop;

/// The alias under which steps publish what they know.
const LOOKBACK: &str = "lookback";

/// What the steps of a workflow know about its lookback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LookbackReport {
    /// The playbook.
    pub playbook: String,
    /// How late batches came; none where no step knows.
    pub batches: Option<LateBatches>,
    /// How long keys are, for each step that collects them.
    pub keys: Vec<KeySpans>,
    /// Steps that could not be asked, with the reason.
    pub notes: Vec<String>,
}

/// How late batches came: how far their events lie behind the newest event of all batches processed before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateBatches {
    /// Batches of the source.
    pub batches: u64,
    /// Those of them that are processed.
    pub processed: u64,
    /// Runs that processed them, the last one for each. Batches count in the order in which they were first processed,
    /// which a later run leaves as it is; those that were first processed together, in that of their names.
    #[serde(default)]
    pub runs: u64,
    /// How many are behind by at most so many days.
    pub within: Vec<LateWithin>,
    /// Batches whose last event is behind by more than the workflow's lookback.
    pub beyond_lookback: u64,
    /// The workflow's lookback, in seconds.
    pub lookback_seconds: u64,
    /// A lookback of this length finds every batch: the farthest that a last event is behind.
    pub smallest_seconds: u64,
    /// The farthest that a first event is behind.
    pub reach_seconds: u64,
    /// The batch whose last event is farthest behind; none if none is.
    pub latest: Option<LatestBatch>,
}

/// A number of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateWithin {
    /// Days of 24 hours.
    pub days: u32,
    /// Batches whose last event is behind by no more: a lookback of these days finds them.
    pub batches: u64,
    /// Batches whose first event is behind by no more.
    pub whole: u64,
}

/// The batch whose last event is farthest behind. Times are in their text form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatestBatch {
    /// The batch.
    pub batch: String,
    /// Time of its first event.
    pub first_time: String,
    /// Time of its last event.
    pub last_time: String,
    /// The newest event of the batches before it.
    pub newest_before: String,
}

/// How long keys are: the time from the first event of a key to its last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySpans {
    /// The step that collects them.
    #[serde(default)]
    pub step: String,
    /// The key's columns.
    pub key: Vec<String>,
    /// Keys that have events.
    pub keys: u64,
    /// How many keys are at most so many days long.
    pub within: Vec<KeysWithin>,
    /// The longest key, in seconds.
    pub longest_seconds: u64,
}

/// A number of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysWithin {
    /// Days of 24 hours.
    pub days: u32,
    /// Keys that are no longer.
    pub keys: u64,
}

#[derive(Deserialize)]
struct Published {
    batches: Option<LateBatches>,
    keys: Option<KeySpans>,
}

/// Asks the steps of a workflow what they know about its lookback. Reads all events, and writes nothing.
///
/// # Errors
///
/// [`RunError`] if the gate step or one that collects ids fails, or if no step knows anything.
pub async fn lookback(
    workflow: &Workflow,
    components: &Components,
    options: &RunOptions,
    stop: Stop,
) -> Result<LookbackReport, RunError> {
    let target = connect::target(workflow, options).await?;
    let (session, loaded) = tokio::try_join!(
        connect::session(workflow, &target, LOOKBACK),
        components.load(workflow, 0..workflow.steps.len())
    )?;
    source::check(&session, workflow, options).await?;
    init::check(&session, workflow).await?;
    let as_of_us = options.point_in_time().as_microsecond();
    let steps = Steps::new(workflow, loaded, options, LOOKBACK.to_owned(), as_of_us)
        .asking(Asked::Lookback);
    let interrupts = Interrupts::new(workflow.playbook.as_str());
    let work = ask(&steps, &session, &interrupts);
    interrupts.while_listening(stop, work).await
}

async fn ask(
    steps: &Steps<'_>,
    session: &Session,
    interrupts: &Interrupts,
) -> Result<LookbackReport, RunError> {
    let workflow = steps.workflow;
    let mut report = LookbackReport {
        playbook: workflow.playbook.as_str().to_owned(),
        batches: None,
        keys: Vec::new(),
        notes: Vec::new(),
    };
    let doing = || RunError::warehouse("ask about the lookback");
    session.begin(Access::Snapshot).await.map_err(doing())?;
    // Reducers fill tables, and tables are not filled here.
    for index in workflow
        .order()
        .into_iter()
        .filter(|&index| !steps.is_reducer(index))
    {
        let step = &workflow.steps[index];
        session.batch("SAVEPOINT step").await.map_err(doing())?;
        let asked = Whom::Workflow(session);
        let plan = match steps.conversation(index).plan(asked, interrupts).await {
            Ok(plan) => plan,
            // A step that knows nothing of lookbacks may miss tables that were never filled, and one of a third party is not
            // asked on this session.
            Err(error) if !step.kind.gate && interrupts.check().is_ok() => {
                session
                    .batch("ROLLBACK TO SAVEPOINT step")
                    .await
                    .map_err(doing())?;
                report
                    .notes
                    .push(format!("{}: {}", step.id, one_line(&error)));
                continue;
            }
            Err(error) => return Err(error),
        };
        steps.publish(index, &plan);
        for publication in plan
            .publishes
            .iter()
            .filter(|publication| publication.alias == LOOKBACK)
        {
            let published: Published =
                serde_json::from_str(&publication.about).map_err(|error| {
                    let message = format!("it says of the lookback what cannot be read: {error}");
                    RunError::new(Problem::Refused(message)).at(steps.place(index))
                })?;
            report.batches = published.batches.or(report.batches.take());
            let named = published.keys.map(|keys| KeySpans {
                step: step.id.clone(),
                ..keys
            });
            report.keys.extend(named);
        }
    }
    session.rollback().await.map_err(doing())?;
    match report.batches.is_none() && report.keys.is_empty() {
        true => Err(RunError::new(Problem::Refused(
            "no step of this workflow knows anything about its lookback".into(),
        ))),
        false => Ok(report),
    }
}
