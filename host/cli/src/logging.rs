//! Log lines, for operators. They go to stderr, by default only what is unexpected.

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::{Global, LogFormat};
use crate::output::Output;

/// The crates whose level -v raises. Those below us would drown them.
const OURS: [&str; 6] = [
    "stepwell_cli",
    "stepwell_demo",
    "stepwell_runner",
    "stepwell_sandbox",
    "stepwell_warehouse",
    "stepwell_workflow",
];

/// Begins to log. Called once, before anything that logs.
pub(crate) fn start(global: &Global, output: &Output) {
    let given = std::env::var("STEPWELL_LOG")
        .ok()
        .filter(|given| !given.is_empty());
    let directives = filter(global.verbose, global.quiet, given.as_deref());
    let filter = EnvFilter::try_new(&directives).unwrap_or_else(|error| {
        output.say(&format!("warning: STEPWELL_LOG is not a filter: {error}"));
        EnvFilter::new("warn")
    });
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(ToOutput(output.clone()))
        .with_ansi(output.color_stderr());
    let registry = tracing_subscriber::registry().with(filter);
    // Whoever has set a subscriber before, as a test may, keeps it.
    let _ = match global.log_format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
}

fn filter(verbose: u8, quiet: u8, given: Option<&str>) -> String {
    let level = match (verbose, quiet) {
        (0, 0) => return given.unwrap_or("warn").to_owned(),
        (0, 1) => return "error".to_owned(),
        (0, _) => return "off".to_owned(),
        (1, _) => "info",
        (2, _) => "debug",
        (_, _) => "trace",
    };
    let ours: Vec<String> = OURS.iter().map(|name| format!("{name}={level}")).collect();
    format!("warn,{}", ours.join(","))
}

/// Writes log lines whole, and above the progress display.
struct ToOutput(Output);

struct Line(Output, Vec<u8>);

impl<'a> MakeWriter<'a> for ToOutput {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(self.0.clone(), Vec::new())
    }
}

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.0.write_stderr(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_go_before_the_environment() {
        assert_eq!(filter(0, 0, None), "warn");
        assert_eq!(filter(0, 0, Some("debug")), "debug");
        assert_eq!(filter(0, 1, Some("debug")), "error");
        assert_eq!(filter(0, 2, None), "off");
        assert!(filter(1, 0, Some("debug")).starts_with("warn,stepwell_cli=info,"));
        for (verbose, quiet) in [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (3, 0)] {
            let directives = filter(verbose, quiet, None);
            assert!(EnvFilter::try_new(&directives).is_ok(), "{directives}");
        }
    }
}
