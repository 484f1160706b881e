//! What a step advises: which index would help, say. Unlike its notes it is the same from run to run, so a run shows it
//! once.

use stepwell_sandbox::contract::Plan;
use stepwell_warehouse::{AnswerLimits, Param, Session, WarehouseError};

use crate::report::StepReport;

/// The alias under which steps publish it: `ADVICE` of the SDK's `planner`.
const ADVICE: &str = "advice";

/// Most pieces of advice of one step, and the longest in bytes. What is beyond either is left out.
const ADVICE_MAX: usize = 20;
const ADVICE_BYTES_MAX: usize = 2_000;

/// Runs of the playbook that are asked whether they gave it already: those that passed through the steps.
const RUNS_ASKED: i64 = 100;

/// Advice of a step, which stands among its notes as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// The note.
    pub note: String,
    /// Whether no run before this one gave it, as far as the journal goes back.
    pub is_new: bool,
}

/// Returns what a plan advises; nothing if that cannot be read.
pub(crate) fn of(plan: &Plan) -> Vec<String> {
    let mut published = plan.publishes.iter();
    let Some(found) = published.find(|publication| publication.alias == ADVICE) else {
        return Vec::new();
    };
    match serde_json::from_str::<Vec<String>>(&found.about) {
        Ok(mut advice) => {
            advice.retain(|note| note.len() <= ADVICE_BYTES_MAX);
            advice.truncate(ADVICE_MAX);
            advice
        }
        Err(error) => {
            tracing::warn!(%error, "a step's advice could not be read");
            Vec::new()
        }
    }
}

/// Returns all remarks of a plan: its notes, then what it advises.
pub(crate) fn notes(plan: &Plan) -> Vec<String> {
    plan.notes.iter().cloned().chain(of(plan)).collect()
}

/// Says of all advice whether it is new. Costs a question where a step advises something, and none otherwise.
pub(crate) async fn compare(
    control: &Session,
    playbook: &str,
    run_id: &str,
    steps: &mut [StepReport],
) -> Result<(), WarehouseError> {
    let given: Vec<&str> = steps
        .iter()
        .flat_map(|step| &step.advice)
        .map(|advice| advice.note.as_str())
        .collect();
    if given.is_empty() {
        return Ok(());
    }
    let sql = "SELECT DISTINCT note.text AS note
        FROM (
          SELECT run_id FROM stepwell.runs
          WHERE playbook = $1 AND run_id <> $2 AND passes > 0
          ORDER BY started_at DESC
          LIMIT $3
        ) AS earlier
        JOIN stepwell.steps AS s USING (run_id)
        CROSS JOIN LATERAL jsonb_array_elements_text(s.notes) AS note (text)
        WHERE note.text IN (SELECT jsonb_array_elements_text($4::jsonb))";
    let params = [
        Param::Text(playbook.to_owned()),
        Param::Text(run_id.to_owned()),
        Param::Int64(RUNS_ASKED),
        Param::Text(serde_json::json!(given).to_string()),
    ];
    let found = control.ask(sql, &params, &AnswerLimits::default()).await?;
    let known: Vec<&str> = (0..found.rows as usize)
        .filter_map(|row| found.text(row, "note"))
        .collect();
    for advice in steps.iter_mut().flat_map(|step| &mut step.advice) {
        advice.is_new = !known.contains(&advice.note.as_str());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use stepwell_sandbox::contract::Publication;

    use super::*;

    #[test]
    fn what_a_step_advises_is_bounded() {
        let advice = |about: String| {
            of(&Plan {
                statements: vec![],
                atomic: true,
                publishes: vec![Publication {
                    alias: ADVICE.into(),
                    about,
                }],
                notes: vec![],
                ends_run: None,
            })
        };
        assert_eq!(advice(r#"["a", "b"]"#.into()), ["a", "b"]);
        let long = serde_json::json!(["x".repeat(2_001), "kept"]);
        assert_eq!(advice(long.to_string()), ["kept"]);
        let many: Vec<String> = (0..30).map(|n| n.to_string()).collect();
        assert_eq!(advice(serde_json::json!(many).to_string()).len(), 20);
        assert!(advice("no JSON".into()).is_empty());
    }
}
