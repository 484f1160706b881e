//! The summary of a run.

use clap::builder::styling::Style;
use stepwell_runner::{Outcome, RunReport, StepReport, StepState};

use super::table::{Column, table};
use super::words::{clean, count, list, milliseconds, number, without_work};
use crate::output::ShownAdvice;

/// Returns the summary, with a line end. One line if there was nothing to do.
pub(crate) fn summary(report: &RunReport, advice: ShownAdvice, heading: Style) -> String {
    let playbook = &report.playbook;
    let took = milliseconds(report.duration_ms as f64);
    if let Outcome::NothingNew { reason } = &report.outcome {
        let notes = remarks(report, advice);
        return format!(
            "{playbook}: nothing new: {}, {took}\n{notes}",
            clean(reason)
        );
    }
    let slices = match report.passes {
        0 | 1 => String::new(),
        n => format!(" in {} slices", number(n.into())),
    };
    let left = match report.left {
        0 => String::new(),
        n => format!(
            "note: {} left for the next run\n",
            count(n, "batch is", "batches are")
        ),
    };
    let continues = report.continues.as_ref().map_or(String::new(), |run| {
        format!("note: went on with run {run}, which failed\n")
    });
    let what = match report.replayed_keys {
        Some(keys) => format!("{} computed again", count(keys, "key", "keys")),
        None => format!(
            "{} with {}",
            count(report.batches, "batch", "batches"),
            count(report.events, "event", "events")
        ),
    };
    format!(
        "{heading}{playbook}: {what}{slices}, {took}{heading:#}\n\n{}\n{}{left}{continues}run {} as of {}\n",
        steps(report),
        remarks(report, advice),
        report.run_id,
        report.as_of,
    )
}

/// The warning about steps that are not critical and did not succeed; none if all did.
pub(crate) fn warning(report: &RunReport) -> Option<(String, Vec<String>)> {
    let of = |state: StepState| {
        let steps = report.steps.iter().filter(move |step| step.state == state);
        steps.collect::<Vec<&StepReport>>()
    };
    let failed = of(StepState::Failed);
    if failed.is_empty() {
        return None;
    }
    let names: Vec<String> = failed
        .iter()
        .map(|step| format!("\"{}\"", step.id))
        .collect();
    let headline = format!(
        "{} {} of playbook \"{}\" failed; the derived tables are right",
        if names.len() == 1 { "step" } else { "steps" },
        list(&names),
        report.playbook,
    );
    let because = |step: &&StepReport| {
        let error = step
            .error
            .as_deref()
            .unwrap_or("for a reason that is not known");
        format!("\"{}\": {error}", step.id)
    };
    let mut details: Vec<String> = failed.iter().map(because).collect();
    let skipped = of(StepState::Skipped);
    if !skipped.is_empty() {
        let names: Vec<&str> = skipped.iter().map(|step| step.id.as_str()).collect();
        details.push(format!("not run, since they need it: {}", list(&names)));
    }
    Some((headline, details))
}

fn steps(report: &RunReport) -> String {
    let all_done = report
        .steps
        .iter()
        .all(|step| step.state == StepState::Done);
    let mut columns = vec![
        Column::Text("step"),
        Column::Number("duration"),
        Column::Number("rows written"),
    ];
    if !all_done {
        columns.push(Column::Text("state"));
    }
    let row = |step: &StepReport| {
        let mut row = vec![
            step.id.clone(),
            milliseconds(step.duration_ms),
            number(step.rows),
        ];
        row.extend((!all_done).then(|| state(step.state).to_owned()));
        row
    };
    let total = vec![
        "total".to_owned(),
        milliseconds(report.duration_ms as f64),
        // Rows on their way and those that came of them make no sum that says anything.
        String::new(),
    ];
    table(&columns, report.steps.iter().map(row).chain([total]))
}

fn state(state: StepState) -> &'static str {
    match state {
        StepState::Done => "",
        StepState::Failed => "failed",
        StepState::Skipped => "skipped",
        StepState::Reused => "done before",
    }
}

/// What the steps remarked, and what they measured and was not zero, each on a line. What they published stands in their
/// remarks.
fn remarks(report: &RunReport, advice: ShownAdvice) -> String {
    let mut text = String::new();
    for step in &report.steps {
        let hidden = |note: &&String| {
            let mut all = step.advice.iter();
            all.find(|advice| advice.note == **note)
                .is_some_and(|found| match advice {
                    ShownAdvice::All => false,
                    ShownAdvice::New => !found.is_new,
                    ShownAdvice::None => true,
                })
        };
        for note in step.notes.iter().filter(|note| !hidden(note)) {
            text.push_str(&format!("note: {}: {}\n", step.id, clean(note)));
        }
        let unsaid = step
            .measures
            .iter()
            .filter(|(name, _)| !step.published.names(name));
        for (name, value) in unsaid.filter(|(_, value)| **value != 0) {
            text.push_str(&format!("note: {}: {}\n", step.id, measured(name, *value)));
        }
    }
    for retry in &report.retries {
        text.push_str(&format!(
            "note: {}: tried again after: {}\n",
            retry.work,
            clean(without_work(&retry.work, &retry.error))
        ));
    }
    text
}

/// A number that a step measured, as a sentence where we know what it means. Of a name that a team gave, the words.
fn measured(name: &str, value: i64) -> String {
    let n = value.unsigned_abs();
    match name {
        "events-without-key" => format!(
            "{} no key and {} no row",
            count(n, "event has", "events have"),
            if n == 1 { "counts in" } else { "count in" },
        ),
        _ => {
            let sign = if value < 0 { "-" } else { "" };
            let words = clean(name).replace(['-', '_'], " ");
            format!("{words}: {sign}{}", number(n))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;

    pub(crate) fn step(id: &str, duration_ms: f64, rows: u64) -> StepReport {
        StepReport {
            id: id.into(),
            uses: "aggregate".into(),
            version: "0.1.0".into(),
            digest: "sha256:00".into(),
            state: StepState::Done,
            duration_ms,
            rows,
            statements: vec![],
            measures: BTreeMap::new(),
            published: stepwell_runner::Published::default(),
            notes: vec![],
            advice: vec![],
            error: None,
        }
    }

    pub(crate) fn report() -> RunReport {
        RunReport {
            playbook: "sessions".into(),
            run_id: "0192".into(),
            outcome: Outcome::Done,
            passes: 1,
            batches: 3,
            events: 8_452,
            as_of: "2026-01-31T02:05:00Z".into(),
            duration_ms: 1_240,
            steps: vec![
                step("new-batches", 12.4, 3),
                step("sessions", 1_100.0, 1_234),
            ],
            retries: vec![],
            left: 0,
            continues: None,
            replayed_keys: None,
        }
    }

    #[test]
    fn a_summary_has_steps_totals_and_remarks() {
        let mut report = report();
        report.steps[0].notes = vec!["no index on\x1b[2J atomic.events".into()];
        report.steps[1].measures = [
            ("events-without-key", 12),
            ("bad_rows-seen", -3),
            ("other", 0),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        assert_eq!(
            summary(&report, ShownAdvice::New, Style::new()),
            "\
sessions: 3 batches with 8,452 events, 1.2 s

  step         duration  rows written
  new-batches     12 ms             3
  sessions        1.1 s         1,234
  total           1.2 s

note: new-batches: no index on\u{fffd}[2J atomic.events
note: sessions: bad rows seen: -3
note: sessions: 12 events have no key and count in no row
run 0192 as of 2026-01-31T02:05:00Z
"
        );
        report.passes = 4;
        let text = summary(&report, ShownAdvice::New, Style::new());
        assert!(text.starts_with("sessions: 3 batches with 8,452 events in 4 slices, 1.2 s\n"));
        assert!(!text.contains('\x1b'));
        let replay = RunReport {
            replayed_keys: Some(1),
            batches: 0,
            events: 0,
            passes: 1,
            ..report
        };
        let text = summary(&replay, ShownAdvice::New, Style::new());
        assert!(
            text.starts_with("sessions: 1 key computed again, 1.2 s\n"),
            "{text}"
        );
    }

    #[test]
    fn advice_is_given_once() {
        let advice = |note: &str, is_new| stepwell_runner::Advice {
            note: note.to_owned(),
            is_new,
        };
        let mut report = report();
        report.steps[0].notes = ["2 events are gone", "an index would help", "so would this"]
            .map(str::to_owned)
            .into();
        report.steps[0].advice = vec![
            advice("an index would help", false),
            advice("so would this", true),
        ];
        let notes = |shown| {
            let text = summary(&report, shown, Style::new());
            let notes = text
                .lines()
                .filter_map(|line| line.strip_prefix("note: new-batches: "));
            notes.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(
            notes(ShownAdvice::New),
            ["2 events are gone", "so would this"]
        );
        assert_eq!(notes(ShownAdvice::None), ["2 events are gone"]);
        assert_eq!(notes(ShownAdvice::All).len(), 3);
    }

    #[test]
    fn nothing_new_is_one_plain_line() {
        let report = RunReport {
            outcome: Outcome::NothingNew {
                reason: "no new batches".into(),
            },
            steps: vec![],
            duration_ms: 9,
            ..report()
        };
        let text = summary(&report, ShownAdvice::New, Style::new().bold());
        assert_eq!(text, "sessions: nothing new: no new batches, 9 ms\n");
        assert_eq!(warning(&report), None);
    }

    #[test]
    fn steps_that_are_not_critical_are_a_warning() {
        let mut report = report();
        report.outcome = Outcome::DoneWithFailures;
        let mut defrag = step("defrag", 1.0, 0);
        defrag.state = StepState::Failed;
        defrag.error = Some("lock timeout".into());
        let mut after = step("after", 0.0, 0);
        after.state = StepState::Skipped;
        report.steps.extend([defrag, after]);
        let text = summary(&report, ShownAdvice::New, Style::new());
        assert!(
            text.contains("  defrag           1 ms             0  failed\n"),
            "{text}"
        );
        assert!(
            text.contains("  after           <1 ms             0  skipped\n"),
            "{text}"
        );
        let (headline, details) = warning(&report).expect("a warning");
        assert_eq!(
            headline,
            "step \"defrag\" of playbook \"sessions\" failed; the derived tables are right"
        );
        assert_eq!(
            details,
            [
                "\"defrag\": lock timeout",
                "not run, since they need it: after"
            ]
        );
    }
}
