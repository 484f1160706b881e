//! What a run would do: the steps in order, and the SQL of each.

use clap::builder::styling::Style;
use serde_json::Value;
use stepwell_runner::{PlanReport, PlannedStatement, PlannedStep};

use super::words::{clean, count, list, number};

/// Returns the plan, with a line end.
///
/// Headings and remarks are SQL comments, so that a part of it can be copied into psql. The SQL is
/// indented, line ends inside of quotes too; `--json` has it byte for byte.
pub(crate) fn text(report: &PlanReport, heading: Style) -> String {
    let playbook = &report.playbook;
    let mut text = match &report.nothing_new {
        Some(reason) => format!("-- {playbook}: nothing new: {}\n", clean(reason)),
        None => format!(
            "-- {heading}{playbook}: {}{heading:#}\n",
            pending(&report.pending)
        ),
    };
    let idle = |step: &&PlannedStep| step.statements.is_empty() && step.notes.is_empty();
    let told = report.steps.iter();
    for step in told.filter(|step| report.nothing_new.is_none() || !idle(step)) {
        text.push_str(&self::step(step, heading));
    }
    text
}

/// `3 batches pending with 8,452 events, from … to …`, as far as the gate step says.
fn pending(pending: &Value) -> String {
    let number_of = |key: &str| pending.get(key).and_then(Value::as_u64);
    let text_of = |key: &str| {
        let text = pending.get(key).and_then(Value::as_str);
        text.filter(|text| !text.is_empty()).map(clean)
    };
    let Some(batches) = number_of("batches") else {
        return "its steps, in order".to_owned();
    };
    let mut words = format!("{} pending", count(batches, "batch", "batches"));
    if let Some(events) = number_of("events") {
        words.push_str(&format!(" with {}", count(events, "event", "events")));
    }
    match (text_of("first"), text_of("last")) {
        (Some(first), Some(last)) if first != last => {
            words.push_str(&format!(", from {first} to {last}"));
        }
        (Some(first), _) => words.push_str(&format!(", {first}")),
        _ => {}
    }
    if let Some(reopened) = number_of("reopened").filter(|n| *n > 0) {
        words.push_str(&format!("; {} changed since processed", number(reopened)));
    }
    if pending.get("more").and_then(Value::as_bool) == Some(true) {
        words.push_str("; more follow in further slices");
    }
    words
}

fn step(step: &PlannedStep, heading: Style) -> String {
    let after = match step.needs.is_empty() {
        true => String::new(),
        false => format!(", after {}", list(&step.needs)),
    };
    let how = match (step.statements.len(), step.atomic) {
        (0, _) => "no statement",
        (_, true) => "one transaction",
        (_, false) => "each statement by itself",
    };
    let mut text = format!(
        "\n-- {heading}step {}{heading:#} ({}){after}: {how}\n",
        step.id, step.uses
    );
    for note in &step.notes {
        text.push_str(&comment("note: ", note));
    }
    let many = step.statements.len();
    for (at, statement) in step.statements.iter().enumerate() {
        text.push_str(&self::statement(statement, at + 1, many));
    }
    text
}

fn statement(statement: &PlannedStatement, number: usize, many: usize) -> String {
    let mut text = format!("\n    -- {number} of {many}: {}\n", clean(&statement.label));
    let about = about(statement);
    if !about.is_empty() {
        text.push_str(&format!("    -- {about}\n"));
    }
    for (at, param) in statement.params.iter().enumerate() {
        text.push_str(&format!(
            "    -- ${}: {}\n",
            at + 1,
            clean(param).replace('\n', " ")
        ));
    }
    let sql = clean(statement.sql.trim_end());
    for line in sql.lines() {
        text.push_str(&format!("    {line}\n"));
    }
    // Not a statement of its own, so that nothing follows a comment at the end of the last line.
    if !sql.ends_with(';') {
        text.push_str("    ;\n");
    }
    text
}

/// `reads a and b; writes c; about 1,200 rows, cost 4,500`.
fn about(statement: &PlannedStatement) -> String {
    let mut parts = Vec::new();
    if !statement.reads.is_empty() {
        parts.push(format!("reads {}", list(&statement.reads)));
    }
    if !statement.writes.is_empty() {
        parts.push(format!("writes {}", list(&statement.writes)));
    }
    let mut estimates = Vec::new();
    if let Some(rows) = statement.estimated_rows {
        estimates.push(format!("about {}", count(rows, "row", "rows")));
    }
    if let Some(cost) = statement.estimated_cost.filter(|cost| cost.is_finite()) {
        // A float to an integer saturates; a cost is never below zero.
        estimates.push(format!("cost {}", number(cost.round() as u64)));
    }
    if !estimates.is_empty() {
        parts.push(estimates.join(", "));
    }
    parts.join("; ")
}

fn comment(name: &str, text: &str) -> String {
    let mut lines = String::new();
    for (at, line) in clean(text).lines().enumerate() {
        let name = if at == 0 { name } else { "" };
        lines.push_str(&format!("-- {name}{line}\n"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report() -> PlanReport {
        PlanReport {
            playbook: "sessions".into(),
            nothing_new: None,
            pending: json!({
                "batches": 3, "reopened": 1, "events": 8452, "more": true,
                "first": "2026-01-31 00:05:00", "last": "2026-01-31 02:05:00",
            }),
            steps: vec![PlannedStep {
                id: "session-ids".into(),
                uses: "collect-ids".into(),
                atomic: true,
                needs: vec!["new-batches".into()],
                statements: vec![PlannedStatement {
                    label: "collect ids".into(),
                    sql: "INSERT INTO scratch.ids\nSELECT $1 -- all".into(),
                    params: vec!["2026".into()],
                    reads: vec!["atomic.events".into(), "scratch.batches".into()],
                    writes: vec!["scratch.ids".into()],
                    estimated_rows: Some(1200),
                    estimated_cost: Some(4500.4),
                }],
                notes: vec!["an index would help".into()],
            }],
        }
    }

    #[test]
    fn a_plan_reads_as_sql_with_comments() {
        assert_eq!(
            text(&report(), Style::new()),
            "\
-- sessions: 3 batches pending with 8,452 events, from 2026-01-31 00:05:00 to 2026-01-31 \
02:05:00; 1 changed since processed; more follow in further slices

-- step session-ids (collect-ids), after new-batches: one transaction
-- note: an index would help

    -- 1 of 1: collect ids
    -- reads atomic.events and scratch.batches; writes scratch.ids; about 1,200 rows, cost 4,500
    -- $1: 2026
    INSERT INTO scratch.ids
    SELECT $1 -- all
    ;
"
        );
    }

    #[test]
    fn nothing_new_is_one_line_unless_a_step_has_a_remark() {
        let mut report = PlanReport {
            nothing_new: Some("no new batches".into()),
            pending: Value::Null,
            ..report()
        };
        report.steps[0].statements.clear();
        let noted = text(&report, Style::new());
        assert!(
            noted.ends_with(": no statement\n-- note: an index would help\n"),
            "{noted}"
        );
        report.steps[0].notes.clear();
        let plain = text(&report, Style::new().bold());
        assert_eq!(plain, "-- sessions: nothing new: no new batches\n");
    }

    #[test]
    fn what_a_gate_does_not_say_is_not_made_up() {
        assert_eq!(pending(&Value::Null), "its steps, in order");
        assert_eq!(pending(&json!({"batches": 1})), "1 batch pending");
        let same = json!({"batches": 1, "events": 1, "first": "a", "last": "a"});
        assert_eq!(pending(&same), "1 batch pending with 1 event, a");
    }
}
