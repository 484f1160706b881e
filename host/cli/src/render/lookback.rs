//! How late batches came and how long keys are, as tables with bars.

use stepwell_runner::{LateBatches, LookbackReport};

use super::table::{Column, table};
use super::words::{clean, count, number};

/// Cells of a bar that stands for everything.
const BAR: usize = 20;

/// Returns the tables, with a line end. `unicode`: bars have eighths of a cell; otherwise they are of `#`.
pub(crate) fn text(report: &LookbackReport, unicode: bool) -> String {
    let mut text = format!("{}: which lookback is safe\n", report.playbook);
    if let Some(found) = &report.batches {
        let batches = count(found.batches, "batch", "batches");
        text += &format!(
            "\n{batches} of the source, {} of them processed\n\n",
            number(found.processed)
        );
        let columns = [
            Column::Text("last event behind by at most"),
            Column::Number("batches"),
            Column::Number("share"),
            Column::Text(""),
            Column::Number("first event, too"),
        ];
        let rows = found.within.iter().map(|within| {
            let mut row = vec![days(within.days)];
            row.extend(share(within.batches, found.batches, unicode));
            row.push(number(within.whole));
            row
        });
        text += &table(&columns, rows);
        text += &format!("\n{}", smallest(found));
        if let Some(latest) = &found.latest {
            text += &format!(
                "the latest: batch {}, events from {} to {}, after events of {}\n",
                clean(&latest.batch),
                latest.first_time,
                latest.last_time,
                latest.newest_before
            );
        }
    }
    for keys in &report.keys {
        let name = keys.key.join(", ");
        text += &format!(
            "\n{} by {name} (step {})\n\n",
            count(keys.keys, "key", "keys"),
            keys.step
        );
        let columns = [
            Column::Text("wholly inside"),
            Column::Number("keys"),
            Column::Number("share"),
            Column::Text(""),
        ];
        let rows = keys.within.iter().map(|within| {
            let mut row = vec![days(within.days)];
            row.extend(share(within.keys, keys.keys, unicode));
            row
        });
        text += &table(&columns, rows);
        text += &format!("\nlongest: {}\n", length(keys.longest_seconds));
    }
    for note in &report.notes {
        text += &format!("note: {}\n", clean(note));
    }
    text
}

/// What the smallest lookback is, and what that means.
fn smallest(found: &LateBatches) -> String {
    // If it was the first run, whatever came late came before it, and nothing tells which. But a full refresh is the last
    // run of all batches too, and the order in which they were first processed stays.
    let one_run = found.processed > 1 && found.runs == 1;
    let mut text = match (found.smallest_seconds, one_run) {
        (0, true) => "no batch came late; but one run processed all of them, and if it was the first one, it is not known yet \
                      how late batches come: ask again once later runs have processed some\n"
            .to_owned(),
        (0, false) => "no batch came late: any lookback finds them all\n".to_owned(),
        (seconds, _) => format!(
            "smallest lookback that finds every batch: {}; the workflow's {} finds {}\n",
            length(seconds),
            length(found.lookback_seconds),
            match found.beyond_lookback {
                0 => "them all".to_owned(),
                missed => format!("all but {}", number(missed)),
            },
        ),
    };
    if one_run && found.smallest_seconds > 0 {
        text += "one run processed all of them: those that no run before it had processed count as if they had come in the \
                 order of their names\n";
    }
    text
}

fn days(days: u32) -> String {
    match days {
        0 => "nothing".to_owned(),
        n => count(n.into(), "day", "days"),
    }
}

/// A number, its share of all, and a bar for that.
fn share(n: u64, all: u64, unicode: bool) -> [String; 3] {
    let share = if all == 0 { 1.0 } else { n as f64 / all as f64 };
    // Cut, not rounded: only what is everything is 100 %.
    let percent = (share * 10_000.0).floor() / 100.0;
    [number(n), format!("{percent:.2} %"), bar(share, unicode)]
}

fn bar(share: f64, unicode: bool) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    // Between 0 and 160.
    let eighths = (share.clamp(0.0, 1.0) * (BAR * 8) as f64).floor() as usize;
    match unicode {
        true => "█".repeat(eighths / 8) + EIGHTHS[eighths % 8],
        false => "#".repeat(eighths / 8),
    }
}

/// Seconds as a workflow file may have them, rounded up to what is not split hairs.
fn length(seconds: u64) -> String {
    match seconds {
        0 => "0s".to_owned(),
        1..3_600 => format!("{}m", seconds.div_ceil(60)),
        3_600..172_800 => format!("{}h", seconds.div_ceil(3_600)),
        _ => format!("{} days", seconds.div_ceil(86_400)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_share() {
        assert_eq!(bar(1.0, true), "█".repeat(20));
        assert_eq!(bar(0.51, true), "█".repeat(10) + "▏");
        assert_eq!(bar(0.5, false), "#".repeat(10));
        assert_eq!(share(999_999, 1_000_000, false)[1], "99.99 %");
    }

    #[test]
    fn a_lookback_of_nothing_says_what_it_means() {
        let found = |smallest_seconds, processed, runs| LateBatches {
            batches: 12,
            processed,
            runs,
            within: vec![],
            beyond_lookback: 0,
            lookback_seconds: 604_800,
            smallest_seconds,
            reach_seconds: 0,
            latest: None,
        };
        let text =
            |smallest_seconds, processed, runs| smallest(&found(smallest_seconds, processed, runs));
        assert!(text(0, 12, 1).contains("if it was the first one, it is not known yet how late"));
        assert_eq!(
            text(0, 12, 2),
            "no batch came late: any lookback finds them all\n"
        );
        assert_eq!(
            text(0, 1, 1),
            "no batch came late: any lookback finds them all\n"
        );
        let known =
            "smallest lookback that finds every batch: 2h; the workflow's 7 days finds them all\n";
        assert_eq!(text(7_200, 12, 3), known);
        assert!(
            text(7_200, 12, 1).starts_with(known)
                && text(7_200, 12, 1).ends_with("of their names\n")
        );
    }

    #[test]
    fn lengths_are_never_too_short() {
        let lengths = [0, 1, 3_601, 172_800, 172_801].map(length);
        assert_eq!(lengths, ["0s", "1m", "2h", "2 days", "3 days"]);
    }
}
