//! What a plugin says while it works: lines through the contract's `log`, and what it writes to
//! stdout and stderr.

use std::collections::VecDeque;

use crate::limits::Limits;
use crate::text::shown;

/// One line that a plugin said. Texts hold no control characters and no more bytes than
/// [`Limits::line_bytes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How much it matters; stdout counts as `Info`, stderr as `Warn`.
    pub level: Level,
    /// By which way it came.
    pub origin: Origin,
    /// The line itself.
    pub message: String,
    /// Names and values beside it.
    pub fields: Vec<(String, String)>,
}

/// How much a line matters, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// By which way a line came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The contract's `log.emit`.
    Log,
    /// Standard output.
    Stdout,
    /// Standard error, where a panic is reported.
    Stderr,
}

/// How far a plugin says it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all, where the plugin knows.
    pub total: Option<u64>,
    /// What is being counted.
    pub label: String,
}

/// The lines of one attempt, bounded in number and size. The newest are kept, since a trap is
/// explained by what was said just before it.
pub(crate) struct Log {
    lines: VecDeque<LogLine>,
    bytes: u64,
    dropped: u64,
    progress: Option<Progress>,
    stdout: Partial,
    stderr: Partial,
    lines_max: u64,
    bytes_max: u64,
    line_bytes_max: usize,
}

impl Log {
    /// What a line costs beside its text.
    const LINE_OVERHEAD: usize = size_of::<LogLine>();
    /// Fields of a line. A field may be empty, so the bound on bytes does not bound their number.
    const FIELDS_MAX: usize = 64;

    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            lines: VecDeque::new(),
            bytes: 0,
            dropped: 0,
            progress: None,
            stdout: Partial::default(),
            stderr: Partial::default(),
            lines_max: limits.log_lines,
            bytes_max: limits.log_bytes,
            line_bytes_max: usize::try_from(limits.line_bytes).unwrap_or(usize::MAX),
        }
    }

    /// Takes a line that came through the contract.
    pub(crate) fn emit(&mut self, level: Level, message: &str, fields: &[(String, String)]) {
        let mut left = self.line_bytes_max;
        let message = take(message, &mut left);
        let mut kept = Vec::new();
        for (name, value) in fields.iter().take(Self::FIELDS_MAX) {
            if left == 0 {
                break;
            }
            kept.push((take(name, &mut left), take(value, &mut left)));
        }
        self.push(LogLine {
            level,
            origin: Origin::Log,
            message,
            fields: kept,
        });
    }

    /// Takes bytes written to a standard stream; a line is kept when it ends.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let line_bytes_max = self.line_bytes_max;
        let mut pieces = bytes.split(|byte| *byte == b'\n');
        // `split` gives at least one piece; each further one was preceded by the end of a line.
        if let Some(first) = pieces.next() {
            self.partial(stream).extend(first, line_bytes_max);
        }
        for piece in pieces {
            self.end_line(stream);
            self.partial(stream).extend(piece, line_bytes_max);
        }
    }

    pub(crate) fn progress(&mut self, done: u64, total: Option<u64>, label: &str) {
        let label = take(label, &mut self.line_bytes_max.clone());
        self.progress = Some(Progress { done, total, label });
    }

    /// Ends lines that were begun, and makes [`lines`](Self::lines) whole.
    pub(crate) fn settle(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !self.partial(stream).bytes.is_empty() {
                self.end_line(stream);
            }
        }
        self.lines.make_contiguous();
    }

    /// Returns the lines kept, oldest first. Whole only after [`settle`](Self::settle).
    pub(crate) fn lines(&self) -> &[LogLine] {
        self.lines.as_slices().0
    }

    /// Takes the lines out, oldest first.
    pub(crate) fn take_lines(&mut self) -> Vec<LogLine> {
        self.bytes = 0;
        std::mem::take(&mut self.lines).into()
    }

    /// Returns the bytes of the lines kept.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns how many lines gave way to newer ones.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(crate) fn last_progress(&self) -> Option<&Progress> {
        self.progress.as_ref()
    }

    fn end_line(&mut self, stream: Stream) {
        let line_bytes_max = self.line_bytes_max;
        let partial = std::mem::take(self.partial(stream));
        let mut message = take(
            &String::from_utf8_lossy(&partial.bytes),
            &mut line_bytes_max.clone(),
        );
        if partial.is_cut {
            message.push('…');
        }
        if message.is_empty() {
            return; // A panic report begins with an empty line.
        }
        let (level, origin) = match stream {
            Stream::Stdout => (Level::Info, Origin::Stdout),
            Stream::Stderr => (Level::Warn, Origin::Stderr),
        };
        self.push(LogLine {
            level,
            origin,
            message,
            fields: Vec::new(),
        });
    }

    fn push(&mut self, line: LogLine) {
        self.bytes += cost(&line);
        self.lines.push_back(line);
        while self.lines.len() as u64 > self.lines_max || self.bytes > self.bytes_max {
            let Some(oldest) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= cost(&oldest);
            self.dropped += 1;
        }
    }

    fn partial(&mut self, stream: Stream) -> &mut Partial {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

/// A standard stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// The begun line of a stream.
#[derive(Default)]
struct Partial {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Partial {
    fn extend(&mut self, bytes: &[u8], line_bytes_max: usize) {
        let room = line_bytes_max.saturating_sub(self.bytes.len());
        self.is_cut |= bytes.len() > room;
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// Returns `text`, cleaned and cut to `left` bytes, which it uses up.
fn take(text: &str, left: &mut usize) -> String {
    let text = shown(text, *left);
    *left = left.saturating_sub(text.len());
    text
}

fn cost(line: &LogLine) -> u64 {
    let fields: usize = line
        .fields
        .iter()
        .map(|(name, value)| name.len() + value.len() + size_of::<(String, String)>())
        .sum();
    (Log::LINE_OVERHEAD + line.message.len() + fields) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(log_lines: u64, log_bytes: u64, line_bytes: u64) -> Log {
        Log::new(&Limits {
            log_lines,
            log_bytes,
            line_bytes,
            ..Limits::own()
        })
    }

    fn messages(log: &mut Log) -> Vec<&str> {
        log.settle();
        log.lines()
            .iter()
            .map(|line| line.message.as_str())
            .collect()
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        let mut log = log(100, 10_000, 100);

        log.write(Stream::Stderr, b"\nthread panicked");
        log.write(Stream::Stdout, b"beside it");
        log.write(Stream::Stderr, b" at src/lib.rs\nboom\nnote");

        assert_eq!(
            messages(&mut log),
            ["thread panicked at src/lib.rs", "boom", "beside it", "note"]
        );
    }

    #[test]
    fn a_long_line_is_cut_and_the_next_one_is_whole() {
        let mut log = log(100, 10_000, 8);

        log.write(Stream::Stdout, b"0123456789");
        log.write(Stream::Stdout, b"0123456789\nshort\n");
        log.emit(
            Level::Info,
            "0123456789",
            &[("name".into(), "value".into())],
        );

        assert_eq!(messages(&mut log), ["01234567…", "short", "01234…"]);
        assert!(log.lines()[2].fields.is_empty(), "no room was left");
    }

    #[test]
    fn a_flood_keeps_the_newest_lines_and_counts_the_rest() {
        let mut by_count = log(3, 10_000, 100);
        let mut by_size = log(1_000_000, 1_000, 100);

        for n in 0..1_000 {
            by_count.emit(Level::Info, &n.to_string(), &[]);
            by_size.emit(Level::Info, &n.to_string(), &[]);
        }

        assert_eq!(messages(&mut by_count), ["997", "998", "999"]);
        assert_eq!(by_count.dropped(), 997);
        assert!(by_size.bytes <= 1_000 && by_size.lines.len() < 20);
        assert_eq!(by_size.dropped() + by_size.lines.len() as u64, 1_000);
    }

    #[test]
    fn empty_fields_are_bounded_too() {
        let mut log = log(100, 1_000_000, 100);

        log.emit(
            Level::Info,
            "m",
            &vec![(String::new(), String::new()); 10_000],
        );

        assert_eq!(log.lines()[0].fields.len(), Log::FIELDS_MAX);
    }

    #[test]
    fn lines_taken_out_make_room() {
        let mut log = log(2, 10_000, 100);
        let emit = |log: &mut Log, n: u32| log.emit(Level::Info, &n.to_string(), &[]);

        emit(&mut log, 1);
        emit(&mut log, 2);
        assert_eq!(log.take_lines().len(), 2);
        emit(&mut log, 3);
        emit(&mut log, 4);

        assert_eq!(messages(&mut log), ["3", "4"]);
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn terminal_escapes_are_made_visible() {
        let mut log = log(100, 10_000, 100);

        log.write(Stream::Stdout, b"\x1b[2Jgone\r\n");
        log.emit(Level::Info, "two\nlines", &[("k\u{7}".into(), "v".into())]);

        assert_eq!(messages(&mut log), ["\\u{1b}[2Jgone\\r", "two\\nlines"]);
        assert_eq!(
            log.lines()[1].fields,
            [("k\\u{7}".to_owned(), "v".to_owned())]
        );
    }
}
