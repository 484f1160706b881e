//! The one way to stdout and stderr: results to the first, everything else to the second.
//!
//! Hides whether there is a terminal, whether it wants colours, and that lines must not tear a
//! progress display.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use annotate_snippets::Renderer;
use anyhow::Context;
use clap::builder::styling::Style;
use indicatif::{MultiProgress, ProgressDrawTarget};

use crate::cli::{ColorChoice, Global, LogFormat};

/// Writes. Clones write to the same place.
#[derive(Debug, Clone)]
pub(crate) struct Output(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    color_stdout: bool,
    color_stderr: bool,
    advice: ShownAdvice,
    progress: ProgressForm,
    bars: MultiProgress,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProgressForm {
    /// Lines that change, below the others.
    Bars,
    /// A line for each thing that is done.
    Lines,
    /// Not at all.
    Hidden,
}

/// Which advice of steps is shown: it is the same from run to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShownAdvice {
    /// Each time.
    All,
    /// What no run before said.
    New,
    /// None.
    None,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        let stderr = io::stderr();
        let progress = match (global.quiet, global.log_format) {
            (1.., _) | (_, LogFormat::Json) => ProgressForm::Hidden,
            // The log says the same.
            _ if global.verbose > 0 => ProgressForm::Hidden,
            _ if stderr.is_terminal() && !terminal_is_dumb() => ProgressForm::Bars,
            _ => ProgressForm::Lines,
        };
        let target = match progress {
            ProgressForm::Bars => ProgressDrawTarget::stderr(),
            ProgressForm::Lines | ProgressForm::Hidden => ProgressDrawTarget::hidden(),
        };
        Self(Arc::new(Inner {
            color_stdout: wants_color(global.color, io::stdout().is_terminal()),
            color_stderr: wants_color(global.color, stderr.is_terminal()),
            advice: match (global.verbose, global.quiet) {
                (1.., _) => ShownAdvice::All,
                (0, 2..) => ShownAdvice::None,
                _ => ShownAdvice::New,
            },
            progress,
            bars: MultiProgress::with_draw_target(target),
        }))
    }

    /// Without colours and progress.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self(Arc::new(Inner {
            color_stdout: false,
            color_stderr: false,
            advice: ShownAdvice::New,
            progress: ProgressForm::Hidden,
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
        }))
    }

    /// Which advice of steps a run's summary holds.
    pub(crate) fn advice(&self) -> ShownAdvice {
        self.0.advice
    }

    pub(crate) fn progress(&self) -> ProgressForm {
        self.0.progress
    }

    /// Where progress bars are added.
    pub(crate) fn bars(&self) -> &MultiProgress {
        &self.0.bars
    }

    /// Whether bars in results may be of Unicode's blocks: on a terminal.
    pub(crate) fn bars_form(&self) -> bool {
        io::stdout().is_terminal() && !terminal_is_dumb()
    }

    /// Whether stderr takes colours.
    pub(crate) fn color_stderr(&self) -> bool {
        self.0.color_stderr
    }

    /// The renderer for what goes to stderr.
    pub(crate) fn renderer(&self) -> Renderer {
        match self.0.color_stderr {
            true => Renderer::styled(),
            false => Renderer::plain(),
        }
    }

    /// The style of headings in results; empty without colours.
    pub(crate) fn heading(&self) -> Style {
        match self.0.color_stdout {
            true => Style::new().bold(),
            false => Style::new(),
        }
    }

    /// Writes a result to stdout. A line end is added if there is none.
    ///
    /// # Errors
    ///
    /// If stdout cannot be written, unless the reader has gone, as in `stepwell plan … | head`:
    /// whoever reads no further wants no more.
    pub(crate) fn result(&self, text: &str) -> anyhow::Result<()> {
        let written = self.0.bars.suspend(|| {
            let mut stdout = io::stdout().lock();
            stdout.write_all(whole_lines(text).as_bytes())?;
            stdout.flush()
        });
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written.context("could not write to stdout"),
        }
    }

    /// Writes a value as one JSON document to stdout.
    ///
    /// # Errors
    ///
    /// As [`result`](Self::result).
    pub(crate) fn json(&self, value: &impl serde::Serialize) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(value).context("could not write JSON")?;
        self.result(&text)
    }

    /// Writes to stderr. A line end is added if there is none.
    pub(crate) fn say(&self, text: &str) {
        self.write_stderr(whole_lines(text).as_bytes());
    }

    /// Writes a line of progress to stderr, if progress is shown.
    pub(crate) fn progress_line(&self, text: &str) {
        if self.0.progress != ProgressForm::Hidden {
            self.say(text);
        }
    }

    /// Writes bytes to stderr, above the progress display.
    pub(crate) fn write_stderr(&self, bytes: &[u8]) {
        // There is nowhere to say that stderr cannot be written.
        self.0.bars.suspend(|| {
            let _ = io::stderr().lock().write_all(bytes);
        });
    }

    /// Takes the progress display away.
    pub(crate) fn finish(&self) {
        let _ = self.0.bars.clear();
    }
}

fn whole_lines(text: &str) -> String {
    match text.ends_with('\n') {
        true => text.to_owned(),
        false => format!("{text}\n"),
    }
}

fn wants_color(choice: ColorChoice, terminal: bool) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            terminal && !no_color && !terminal_is_dumb()
        }
    }
}

fn terminal_is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}
