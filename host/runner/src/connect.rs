//! Where a workflow's warehouse is, and how sessions there are set up.

use std::path::Path;
use std::time::Duration;

use stepwell_warehouse::local::{LocalOptions, LocalServer};
use stepwell_warehouse::{Session, SessionOptions, Target};
use stepwell_workflow::Workflow;

use crate::error::{Problem, RunError};
use crate::run::RunOptions;

/// Longest time for one statement unless the workflow says otherwise. A first build over years of events takes hours;
/// what takes longer than a day is stuck.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest wait for a lock unless the workflow says otherwise: a reader's query on a derived table that is to get a new
/// column, say.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Longest message that is taken from the server on a third party's session: a row of its query is one, and is kept until all
/// of it is there. A reducer's row may have 32 MiB.
const PLUGIN_MESSAGE_BYTES_MAX: u32 = (32 << 20) + (64 << 10);

/// Returns the private server of a project. Nothing is started.
pub fn local_server(project_dir: &Path) -> LocalServer {
    LocalServer::at(&project_dir.join(".stepwell"), LocalOptions::default())
}

/// Returns where the workflow's warehouse is. Without a url it is the private local server, which is started if need be.
///
/// # Errors
///
/// [`Problem::Url`] if the url cannot be read, [`Problem::Local`] if the server cannot be started.
pub async fn target(workflow: &Workflow, options: &RunOptions) -> Result<Target, RunError> {
    if let Some(target) = &options.target {
        return Ok(target.clone());
    }
    match &workflow.warehouse.url {
        Some(url) => {
            Target::parse(url.expose()).map_err(|source| RunError::new(Problem::Url { source }))
        }
        None => {
            let server = local_server(&options.project_dir);
            let started = tokio::task::spawn_blocking(move || server.ensure_running()).await;
            started
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
                .map_err(|source| RunError::new(Problem::Local { source }))
        }
    }
}

/// Longest part of a playbook's name in the name of a session. Postgres keeps 63 bytes, and the run's id must be among
/// them.
const PLAYBOOK_BYTES_SHOWN: usize = 28;

/// Characters of a run's id that name it: the random ones at its end.
const RUN_ID_SHOWN: usize = 12;

/// Returns what a session of a run is called in `pg_stat_activity`: `stepwell sessions step 0f3a9c1b2d4e`.
pub(crate) fn name(playbook: &str, role: &str, run_id: &str) -> String {
    // Both are ASCII.
    let playbook = &playbook[..playbook.len().min(PLAYBOOK_BYTES_SHOWN)];
    let run_id = &run_id[run_id.len().saturating_sub(RUN_ID_SHOWN)..];
    format!("stepwell {playbook} {role} {run_id}")
}

/// Returns the names of the sessions that a run works on.
pub(crate) fn names(playbook: &str, run_id: &str) -> [String; 2] {
    [STEP, CONTROL].map(|role| name(playbook, role, run_id))
}

/// What a session of a third party's step is for.
pub(crate) const PLUGIN: &str = "plugin";

const STEP: &str = "step";
const CONTROL: &str = "control";

/// Connects; `role` says in `pg_stat_activity` what the session is for.
pub(crate) async fn session(
    workflow: &Workflow,
    target: &Target,
    role: &str,
) -> Result<Session, RunError> {
    let name = format!("stepwell {} {role}", workflow.playbook.as_str());
    open(workflow, target, name, &[]).await
}

/// Connects a session for the steps of a run.
pub(crate) async fn step(
    workflow: &Workflow,
    target: &Target,
    run_id: &str,
) -> Result<Session, RunError> {
    let name = name(workflow.playbook.as_str(), STEP, run_id);
    open(workflow, target, name, &[]).await
}

/// Connects as a third party's plugin. Only what every session pins is set, nothing that the workflow asks for.
pub(crate) async fn plugin(
    workflow: &Workflow,
    target: &Target,
    run_id: &str,
) -> Result<Session, RunError> {
    let options = SessionOptions {
        application_name: name(workflow.playbook.as_str(), PLUGIN, run_id),
        statement_timeout: Some(STATEMENT_TIMEOUT),
        lock_timeout: Some(LOCK_TIMEOUT),
        settings: Vec::new(),
        message_bytes_max: Some(PLUGIN_MESSAGE_BYTES_MAX),
    };
    Session::connect(target, &options)
        .await
        .map_err(RunError::warehouse("connect as the plugin's role"))
}

/// Connects the session that holds the lease and keeps the journal.
///
/// Its commits do not wait for the disk. What a crash of the server could take back is a lease whose holder lost its
/// connections with it, and lines of the journal; the row that says `committed` is written by the commit step's own
/// transaction, which does wait.
pub(crate) async fn control(
    workflow: &Workflow,
    target: &Target,
    run_id: &str,
) -> Result<Session, RunError> {
    let name = name(workflow.playbook.as_str(), CONTROL, run_id);
    open(workflow, target, name, &[("synchronous_commit", "off")]).await
}

async fn open(
    workflow: &Workflow,
    target: &Target,
    application_name: String,
    more: &[(&str, &str)],
) -> Result<Session, RunError> {
    let warehouse = &workflow.warehouse;
    let given = warehouse
        .settings
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()));
    let more = more
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()));
    let options = SessionOptions {
        application_name,
        statement_timeout: Some(warehouse.statement_timeout.unwrap_or(STATEMENT_TIMEOUT)),
        lock_timeout: Some(warehouse.lock_timeout.unwrap_or(LOCK_TIMEOUT)),
        settings: given.chain(more).collect(),
        message_bytes_max: None,
    };
    Session::connect(target, &options)
        .await
        .map_err(RunError::warehouse("connect to the warehouse"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_fits_with_its_run() {
        let playbook = "p".repeat(stepwell_workflow::PLAYBOOK_BYTES_MAX);
        let run_id = uuid::Uuid::now_v7().to_string();
        for name in names(&playbook, &run_id) {
            assert!(name.len() <= 63, "{name}");
            assert!(name.ends_with(&run_id[24..]), "{name}");
        }
    }
}
