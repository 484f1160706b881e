//! Runs as they go on: a line for what is done, and on a terminal a line that changes for what each
//! playbook does now.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use stepwell_runner::{Event, Observer};
use tracing::info;

use crate::output::{Output, ProgressForm};
use crate::render::words::{clean, count, duration, number, without_work};

const TICK: Duration = Duration::from_millis(100);

/// Shows runs.
#[derive(Debug)]
pub(crate) struct Progress {
    output: Output,
    bars: BTreeMap<String, Bar>,
    /// Whether a line is written for each step and batch that is done.
    steps: bool,
}

/// What a playbook does now.
#[derive(Debug)]
struct Bar {
    bar: ProgressBar,
    /// Steps that run, with what each does.
    running: Mutex<BTreeMap<String, String>>,
}

impl Progress {
    /// Returns the display for runs of these playbooks; events of others only get lines.
    pub(crate) fn new<'a>(output: &Output, playbooks: impl IntoIterator<Item = &'a str>) -> Self {
        let shown = output.progress() == ProgressForm::Bars;
        let bars = playbooks.into_iter().filter(|_| shown).map(|playbook| {
            let bar = Bar {
                bar: spinner(output, playbook),
                running: Mutex::default(),
            };
            (playbook.to_owned(), bar)
        });
        Self {
            output: output.clone(),
            bars: bars.collect(),
            steps: true,
        }
    }

    /// Returns the same without a line for each step that is done; what is unexpected has one.
    pub(crate) fn without_steps(self) -> Self {
        Self {
            steps: false,
            ..self
        }
    }

    pub(crate) fn output(&self) -> &Output {
        &self.output
    }

    /// Takes away the line of a playbook whose run is over.
    pub(crate) fn over(&self, playbook: &str) {
        if let Some(bar) = self.bars.get(playbook) {
            bar.bar.finish_and_clear();
        }
    }
}

impl Observer for Progress {
    fn event(&self, playbook: &str, event: &Event<'_>) {
        if let Some(bar) = self.bars.get(playbook) {
            bar.event(event);
        }
        log(playbook, event);
        let expected = matches!(event, Event::PassStarted { .. } | Event::StepDone { .. });
        if expected && !self.steps {
            return;
        }
        if let Some(line) = line(playbook, event) {
            self.output.progress_line(&line);
        }
    }
}

impl Bar {
    fn event(&self, event: &Event<'_>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::StepStarted { step } => {
                running.insert((*step).to_owned(), "planning".to_owned());
            }
            Event::StatementStarted {
                step,
                label,
                number,
                count,
            } => {
                let words = format!("{} ({number}/{count})", clean(label));
                running.insert((*step).to_owned(), words);
            }
            Event::StepDone { step, .. } | Event::StepFailed { step, .. } => {
                running.remove(*step);
            }
            _ => return,
        }
        let words: Vec<String> = running
            .iter()
            .map(|(step, doing)| format!("{step}: {doing}"))
            .collect();
        self.bar.set_message(words.join("; ").replace('\n', " "));
    }
}

/// A line that turns until it is cleared; hidden without a terminal.
pub(crate) fn spinner(output: &Output, prefix: &str) -> ProgressBar {
    let bar = output.bars().add(ProgressBar::new_spinner());
    // The template is ours; if it could not be read, the default one would do.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}  {wide_msg} {elapsed:>4}") {
        bar.set_style(style);
    }
    bar.set_prefix(prefix.to_owned());
    if output.progress() == ProgressForm::Bars {
        bar.enable_steady_tick(TICK);
    }
    bar
}

/// What an operator reads the next morning: one log line a step, with its duration and rows. What
/// went wrong is told elsewhere too, and hence no warning here.
fn log(playbook: &str, event: &Event<'_>) {
    match event {
        Event::RunStarted { run_id } => info!(playbook, run_id, "run started"),
        Event::TookOver { run_id } => info!(playbook, died = run_id, "took over from a dead run"),
        Event::Continues { run_id, step } => {
            info!(
                playbook,
                continues = run_id,
                step,
                "goes on with a run that failed"
            );
        }
        Event::PassStarted {
            pass,
            batches,
            events,
            ..
        } => info!(playbook, pass, batches, events, "pass started"),
        Event::StepDone {
            step,
            duration,
            rows,
        } => {
            let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            info!(playbook, step, duration_ms, rows, "step done");
        }
        Event::StepFailed { step, message } => {
            info!(
                playbook,
                step,
                error = message,
                "step failed and is not critical"
            );
        }
        Event::Note { step, note } => info!(playbook, step, note, "note"),
        Event::Retrying { retry } => info!(
            playbook,
            work = retry.work,
            number = retry.number,
            of = retry.of,
            wait_ms = retry.wait_ms,
            sqlstate = retry.sqlstate,
            error = retry.error,
            "trying again"
        ),
        Event::Committed { pass } => info!(playbook, pass, "committed"),
        _ => {}
    }
}

/// The line for an event, if it is worth one. Notes are in the summary.
fn line(playbook: &str, event: &Event<'_>) -> Option<String> {
    let words = match event {
        Event::TookOver { run_id } => format!("took over from run {run_id}, which died"),
        Event::Continues { run_id, step } => format!("goes on with run {run_id} from step {step}"),
        // A replay of keys has no batch.
        Event::PassStarted {
            batches: Some(0), ..
        } => return None,
        Event::PassStarted {
            pass,
            batches: Some(batches),
            events,
            backlog,
        } => {
            let slice = match pass {
                1 => String::new(),
                n => format!("slice {n}: "),
            };
            let events = events.map_or(String::new(), |events| {
                format!(" with {}", count(events, "event", "events"))
            });
            let backlog = backlog.map_or(String::new(), |backlog| {
                let left = backlog.left.map_or(String::new(), |left| {
                    format!(", about {} left", duration(left))
                });
                format!(
                    "; {} of {} done{left}",
                    number(backlog.done),
                    number(backlog.total)
                )
            });
            format!(
                "{slice}{} pending{events}{backlog}",
                count(*batches, "batch", "batches")
            )
        }
        Event::StepDone {
            step,
            duration: took,
            rows,
        } => format!(
            "{step} {}, {}",
            duration(*took),
            count(*rows, "row written", "rows written")
        ),
        Event::StepFailed { step, message } => {
            format!("{step} failed and is not critical: {}", clean(message))
        }
        Event::Retrying { retry } => format!(
            "{}: {}; trying again in {} (retry {} of {})",
            retry.work,
            clean(without_work(&retry.work, &retry.error)),
            duration(Duration::from_millis(retry.wait_ms)),
            retry.number,
            retry.of
        ),
        _ => return None,
    };
    Some(format!("{playbook}: {words}"))
}

#[cfg(test)]
mod tests {
    use stepwell_runner::{Backlog, RetryReport};

    use super::*;

    #[test]
    fn what_is_done_is_a_line() {
        let line = |event| line("sessions", &event).unwrap_or_default();
        let pass = |pass, batches, events| Event::PassStarted {
            pass,
            batches,
            events,
            backlog: (pass > 2).then_some(Backlog {
                done: 20,
                total: 1000,
                left: Some(Duration::from_secs(245)),
            }),
        };
        assert_eq!(
            line(pass(3, Some(10), None)),
            "sessions: slice 3: 10 batches pending; 20 of 1,000 done, about 4 min 05 s left"
        );
        assert_eq!(
            line(pass(1, Some(3), Some(8452))),
            "sessions: 3 batches pending with 8,452 events"
        );
        assert_eq!(
            line(pass(2, Some(1), None)),
            "sessions: slice 2: 1 batch pending"
        );
        assert_eq!(line(pass(1, None, None)), "");
        assert_eq!(line(pass(1, Some(0), Some(0))), "");
        let done = Event::StepDone {
            step: "commit",
            duration: Duration::from_millis(340),
            rows: 1234,
        };
        assert_eq!(line(done), "sessions: commit 340 ms, 1,234 rows written");
        let failed = Event::StepFailed {
            step: "defrag",
            message: "lock\x07 timeout",
        };
        assert_eq!(
            line(failed),
            "sessions: defrag failed and is not critical: lock\u{fffd} timeout"
        );
        let retry = RetryReport {
            work: "commit".into(),
            number: 1,
            of: 4,
            wait_ms: 420,
            sqlstate: Some("40P01".into()),
            error: "deadlock detected".into(),
        };
        assert_eq!(
            line(Event::Retrying { retry: &retry }),
            "sessions: commit: deadlock detected; trying again in 420 ms (retry 1 of 4)"
        );
        let retry = RetryReport {
            work: "connect to the warehouse".into(),
            error: "could not connect to the warehouse: no Postgres server answers at db:5432"
                .into(),
            ..retry.clone()
        };
        assert_eq!(
            line(Event::Retrying { retry: &retry }),
            "sessions: connect to the warehouse: no Postgres server answers at db:5432; trying again in 420 ms (retry 1 of 4)"
        );
        assert_eq!(line(Event::StepStarted { step: "commit" }), "");
    }
}
