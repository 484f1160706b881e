//! What is asked for, and the Markdown that says whether it is so.

use std::fmt::Write as _;
use std::time::Duration;

use crate::Compared;
use crate::figures::{self, figure, mib, seconds};
use crate::measure::Samples;

/// Most memory of the process, in MiB.
const MEMORY_MIB: u64 = 60;

/// What a figure must be.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// Nothing in particular.
    None,
    /// At most this many times psql's time.
    Ratio {
        most: f64,
    },
    /// That, and less than this many seconds.
    RatioAndSeconds {
        most: f64,
        below: f64,
    },
    Seconds {
        below: f64,
    },
    /// At most this many times Stepwell's own time for the same on a short history.
    OwnTime {
        most: f64,
        reference: Duration,
    },
}

/// A row of a table, in words.
pub struct Row {
    case: String,
    hand: String,
    stepwell: String,
    ratio: String,
    target: String,
    met: Option<bool>,
}

impl Row {
    /// Both sides.
    pub fn compare(case: &str, compared: &Compared, target: Target) -> Self {
        let own = compared.stepwell.median();
        Self {
            hand: figure(&compared.hand),
            ratio: format!("{:.2}", compared.ratio()),
            ..Self::held(case, &compared.stepwell, target, own, compared.ratio())
        }
    }

    /// Stepwell, where psql has nothing like it.
    pub fn alone(case: &str, samples: &Samples, target: Target) -> Self {
        Self::held(case, samples, target, samples.median(), f64::INFINITY)
    }

    fn held(case: &str, samples: &Samples, target: Target, own: Duration, ratio: f64) -> Self {
        let own = own.as_secs_f64();
        let (target, met) = match target {
            Target::None => (String::new(), None),
            Target::Ratio { most } => (format!("ratio ≤ {most}"), Some(ratio <= most)),
            Target::RatioAndSeconds { most, below } => (
                format!("ratio ≤ {most}, < {below} s"),
                Some(ratio <= most && own < below),
            ),
            Target::Seconds { below } => (format!("< {below} s"), Some(own < below)),
            Target::OwnTime { most, reference } => {
                let times = own / reference.as_secs_f64();
                let short = seconds(reference);
                let words = format!("≤ {most} × {short} on a fourth of it: {times:.2}");
                (words, Some(times <= most))
            }
        };
        Self {
            case: case.to_owned(),
            hand: String::new(),
            stepwell: figure(samples),
            ratio: String::new(),
            target,
            met,
        }
    }

    /// Peak memory of the processes over all cases given.
    pub fn memory(cases: &[&Compared]) -> Self {
        let peak = |of: fn(&Compared) -> &Samples| {
            let peaks = cases.iter().map(|case| of(case).peak_kib());
            peaks.max().unwrap_or_default()
        };
        let (hand, own) = (peak(|case| &case.hand), peak(|case| &case.stepwell));
        Self {
            case: "peak memory of the process".into(),
            hand: mib(hand),
            stepwell: mib(own),
            ratio: format!("{:.2}", own as f64 / hand as f64),
            target: format!("< {MEMORY_MIB} MiB"),
            met: Some(own < MEMORY_MIB * 1024),
        }
    }

    /// Peak memory without a target.
    pub fn memory_alone(case: &str, samples: &Samples) -> Self {
        Self {
            case: case.into(),
            hand: String::new(),
            stepwell: mib(samples.peak_kib()),
            ratio: String::new(),
            target: String::new(),
            met: None,
        }
    }
}

/// Returns a heading, a table and what is below it.
pub fn section(title: &str, rows: &[Row], below: &str) -> String {
    let mut text = format!(
        "### {title}\n\n\
         | case | psql | stepwell | ratio | target | met |\n\
         |---|---|---|---|---|---|\n"
    );
    for row in rows {
        let met = figures::met(row.met);
        let (case, hand, stepwell) = (&row.case, &row.hand, &row.stepwell);
        let (ratio, target) = (&row.ratio, &row.target);
        // Into a String, which takes everything.
        let _ = writeln!(
            text,
            "| {case} | {hand} | {stepwell} | {ratio} | {target} | {met} |"
        );
    }
    text + &format!("\n{below}\n")
}
