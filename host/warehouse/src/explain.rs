//! What the server's planner expects of a statement, without running it.

use serde_json::Value;

use crate::answer::AnswerLimits;
use crate::error::WarehouseError;
use crate::param::Param;
use crate::session::Session;

const EXPLAIN: &str = "EXPLAIN (FORMAT JSON) ";

/// The planner's guess.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// Rows that the statement returns, or that it inserts, updates or deletes.
    pub rows: u64,
    /// In the planner's units, in which reading one page in sequence is 1.
    pub cost: f64,
    /// The whole plan, as `EXPLAIN (FORMAT JSON)` gives it.
    pub plan_json: String,
}

impl Session {
    /// Returns what the planner expects of a statement, which is not run. Positions in errors are
    /// those of `sql`.
    ///
    /// # Errors
    ///
    /// As [`ask`](Session::ask): the tables must be there, and the statement one that has a plan.
    pub async fn explain(&self, sql: &str, params: &[Param]) -> Result<Estimate, WarehouseError> {
        let limits = AnswerLimits {
            rows: 1,
            bytes: 16 << 20,
        };
        let answer = self
            .ask(&format!("{EXPLAIN}{sql}"), params, &limits)
            .await
            .map_err(|error| moved_back(error, EXPLAIN.len()))?;
        let plan_json = answer.text(0, "QUERY PLAN").unwrap_or_default().to_owned();
        let (rows, cost) = figures(&plan_json)
            .ok_or_else(|| WarehouseError::protocol("EXPLAIN gives a plan with rows and cost"))?;
        Ok(Estimate {
            rows,
            cost,
            plan_json,
        })
    }
}

fn figures(plan_json: &str) -> Option<(u64, f64)> {
    let plan: Value = serde_json::from_str(plan_json).ok()?;
    let top = plan.get(0)?.get("Plan")?;
    let cost = top.get("Total Cost")?.as_f64()?;
    // INSERT, UPDATE and DELETE return no rows; what they touch is what they read.
    let mut node = top;
    while node.get("Node Type")?.as_str()? == "ModifyTable" {
        node = node.get("Plans")?.get(0)?;
    }
    let rows = node.get("Plan Rows")?.as_f64()?;
    // Saturates, which is right for a guess.
    Some((rows as u64, cost))
}

fn moved_back(mut error: WarehouseError, by: usize) -> WarehouseError {
    if let WarehouseError::Statement(said) = &mut error {
        let by = u32::try_from(by).unwrap_or(u32::MAX);
        said.position = said
            .position
            .and_then(|at| at.checked_sub(by))
            .filter(|at| *at > 0);
    }
    error
}
