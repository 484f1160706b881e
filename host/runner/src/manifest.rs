//! Reading a playbook's manifest.

use stepwell_warehouse::{AnswerLimits, Param};
use stepwell_workflow::Workflow;

use crate::connect;
use crate::error::{Problem, RunError};
use crate::init;
use crate::report::ManifestRow;
use crate::run::RunOptions;

/// Which rows to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestQuery {
    /// At most so many, the youngest batches first; at most 100,000.
    pub limit: u32,
}

/// Returns batches that the playbook has processed, the youngest first.
///
/// # Errors
///
/// If the warehouse is not reached, or has no manifest.
pub async fn manifest_list(
    workflow: &Workflow,
    options: &RunOptions,
    query: &ManifestQuery,
) -> Result<Vec<ManifestRow>, RunError> {
    let target = connect::target(workflow, options).await?;
    let session = connect::session(workflow, &target, "manifest").await?;
    if let Some(table) = init::missing(&session, workflow).await?.into_iter().next() {
        return Err(RunError::new(Problem::NotInitialised { table }));
    }
    let sql = format!(
        "SELECT batch::text AS batch, events, first_time::text AS first_time, last_time::text AS last_time, run_id,
          processed_at::text AS processed_at
        FROM {}
        WHERE playbook = $1
        ORDER BY {}.batch DESC
        LIMIT $2",
        workflow.manifest,
        stepwell_sql::quote_ident(workflow.manifest.name()),
    );
    let params = [
        Param::Text(workflow.playbook.as_str().to_owned()),
        Param::Int64(query.limit.min(100_000).into()),
    ];
    let rows = session
        .ask(&sql, &params, &AnswerLimits::default())
        .await
        .map_err(RunError::warehouse(format!(
            "read manifest {}",
            workflow.manifest
        )))?;
    let text = |row: usize, name: &str| rows.text(row, name).map(str::to_owned);
    Ok((0..rows.rows as usize)
        .map(|row| ManifestRow {
            batch: text(row, "batch").unwrap_or_default(),
            events: rows.int64(row, "events").unwrap_or(0),
            first_time: text(row, "first_time"),
            last_time: text(row, "last_time"),
            run_id: text(row, "run_id").unwrap_or_default(),
            processed_at: text(row, "processed_at").unwrap_or_default(),
        })
        .collect())
}
