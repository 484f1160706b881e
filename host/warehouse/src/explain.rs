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

impl Estimate {
    /// Whether the rows are those of one table, each by itself: scanned, filtered, put in order, and nothing else. Such a
    /// statement may be run in parts, on one snapshot, and gives each row in one of them. What joins, groups, numbers or
    /// cuts rows, or calls functions that answer differently each time, is not plain.
    pub fn is_plain_scan(&self) -> bool {
        serde_json::from_str(&self.plan_json)
            .is_ok_and(|plan: Value| plan.pointer("/0/Plan").is_some_and(is_plain))
    }
}

fn is_plain(node: &Value) -> bool {
    const PLAIN: [&str; 13] = [
        "Append",
        "Bitmap Heap Scan",
        "Bitmap Index Scan",
        "BitmapAnd",
        "BitmapOr",
        "Gather",
        "Gather Merge",
        "Incremental Sort",
        "Index Only Scan",
        "Index Scan",
        "Merge Append",
        "Seq Scan",
        "Sort",
    ];
    let text = |key: &str| node.get(key).and_then(Value::as_str).unwrap_or_default();
    PLAIN.contains(&text("Node Type"))
        && !matches!(text("Parent Relationship"), "InitPlan" | "SubPlan")
        && node
            .get("Plans")
            .and_then(Value::as_array)
            .is_none_or(|plans| plans.iter().all(is_plain))
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
