//! What a run would do, without doing it.

use stepwell_sandbox::contract::Plan;
use stepwell_warehouse::Session;
use stepwell_workflow::Workflow;

use crate::advice;
use crate::components::Components;
use crate::confined::Confined;
use crate::connect;
use crate::conversation::{Questions, Whom};
use crate::convert;
use crate::error::RunError;
use crate::init;
use crate::policy::Checked;
use crate::reduce::{self, Prepared};
use crate::report::{PlanReport, PlannedStatement, PlannedStep};
use crate::roles::{self, Logins};
use crate::run::{Interrupts, RunOptions};
use crate::source;
use crate::step::{PLANNED, Steps};
use crate::stop::Stop;

/// Characters of a parameter that a plan shows.
const PARAM_CHARS_MAX: usize = 200;

/// Asks every step what it would do, in their order. Nothing is written: questions and estimates run in read-only
/// transactions, and no lease is taken.
///
/// # Errors
///
/// [`RunError`] as for a run, as far as it can be seen without running.
pub async fn plan(
    workflow: &Workflow,
    components: &Components,
    options: &RunOptions,
    stop: Stop,
) -> Result<PlanReport, RunError> {
    let target = connect::target(workflow, options).await?;
    let (session, components) = tokio::try_join!(
        connect::session(workflow, &target, "plan"),
        components.load(workflow, 0..workflow.steps.len())
    )?;
    source::check(&session, workflow, options).await?;
    init::check(&session, workflow).await?;
    let private = init::is_private(workflow, options);
    let logins = Box::pin(roles::ready(
        &session,
        workflow,
        &target,
        private,
        roles::Mode::Look,
    ))
    .await?;
    let as_of = options.point_in_time();
    let steps = Steps::new(
        workflow,
        components,
        options,
        PLANNED.to_owned(),
        as_of.as_microsecond(),
    );
    let interrupts = Interrupts::new(workflow.playbook.as_str());
    let work = all(&steps, &session, &logins, &interrupts);
    interrupts.while_listening(stop, work).await
}

async fn all(
    steps: &Steps<'_>,
    session: &Session,
    logins: &Logins,
    interrupts: &Interrupts,
) -> Result<PlanReport, RunError> {
    let mut report = PlanReport {
        playbook: steps.workflow.playbook.as_str().to_owned(),
        nothing_new: None,
        pending: serde_json::Value::Null,
        steps: Vec::new(),
    };
    let mut gate = None;
    if let Some(index) = steps.gate() {
        let confined = confined(steps, index, logins, session).await?;
        let asked = Whom::of(confined.as_ref(), session);
        let plan = steps.conversation(index).plan(asked, interrupts).await?;
        report.pending = steps.pending(&plan);
        if let Some(reason) = &plan.ends_run {
            report.nothing_new = Some(reason.clone());
            report.steps.push(planned(steps, index, &plan, Vec::new()));
            return Ok(report);
        }
        gate = Some((index, plan));
    }
    for index in steps.workflow.order() {
        let confined = confined(steps, index, logins, session).await?;
        let asked = Whom::of(confined.as_ref(), session);
        if steps.is_reducer(index) {
            let shape = steps.conversation(index);
            let shape = shape.shape(asked, interrupts).await?;
            let plan = reduce::as_plan(&shape, steps, index)?;
            let prepared = Prepared::new(shape, steps, index, session, interrupts).await?;
            steps.publish(index, &plan);
            let statements = prepared.planned(asked, interrupts).await;
            let statements = statements.map_err(|error| error.at(steps.place(index)))?;
            report.steps.push(planned(steps, index, &plan, statements));
            continue;
        }
        let plan = match gate.take_if(|(gate, _)| *gate == index) {
            Some((_, plan)) => plan,
            None => steps.conversation(index).plan(asked, interrupts).await?,
        };
        steps.publish(index, &plan);
        let statements = estimated(&plan, asked, interrupts).await?;
        report.steps.push(planned(steps, index, &plan, statements));
    }
    Ok(report)
}

/// Connects as the plugin of a third party's step; none for a step of our own.
async fn confined(
    steps: &Steps<'_>,
    index: usize,
    logins: &Logins,
    session: &Session,
) -> Result<Option<Confined>, RunError> {
    let entry = steps.third_party(index);
    match entry {
        None => Ok(None),
        Some(entry) => {
            let opened = Confined::open(steps.workflow, logins, entry, PLANNED, session).await;
            opened
                .map(Some)
                .map_err(|error| error.at(steps.place(index)))
        }
    }
}

fn planned(
    steps: &Steps<'_>,
    index: usize,
    plan: &Plan,
    statements: Vec<PlannedStatement>,
) -> PlannedStep {
    let step = &steps.workflow.steps[index];
    PlannedStep {
        id: step.id.clone(),
        uses: step.uses.clone(),
        atomic: plan.atomic,
        needs: step
            .needs
            .iter()
            .map(|&needed| steps.workflow.steps[needed].id.clone())
            .collect(),
        statements,
        notes: advice::notes(plan),
    }
}

async fn estimated(
    plan: &Checked<Plan>,
    asked: Whom<'_>,
    interrupts: &Interrupts,
) -> Result<Vec<PlannedStatement>, RunError> {
    let mut statements = Vec::new();
    for statement in &plan.statements {
        let params = convert::params(&statement.params);
        asked.begin(Questions::OnTheirOwn, interrupts).await?;
        // What a statement needs may not be there before the ones above it have run; there is no estimate then.
        let estimate = asked.explain(statement, &params, interrupts).await?;
        asked.end(Questions::OnTheirOwn).await?;
        statements.push(PlannedStatement {
            label: statement.label.clone(),
            sql: statement.sql.clone(),
            params: statement
                .params
                .iter()
                .map(|param| cut(&convert::param_text(param)))
                .collect(),
            reads: statement.reads.clone(),
            writes: statement.writes.clone(),
            estimated_rows: estimate.as_ref().map(|estimate| estimate.rows),
            estimated_cost: estimate.map(|estimate| estimate.cost),
        });
    }
    Ok(statements)
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(PARAM_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
