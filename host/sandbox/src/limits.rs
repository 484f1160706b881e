//! What a plugin may use, and the error when it wants more.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use crate::log::LogLine;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What one attempt of a step may use. All bounds are included: a plugin may use exactly this much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory, the sum over all memories of the component, with what the host keeps for it (table elements and
    /// log lines), in bytes.
    pub memory_bytes: u64,
    /// Table elements, the sum over all tables.
    pub table_elements: u64,
    /// CPU time of the thread while the plugin runs, over all calls of the attempt. Checked every
    /// 10 ms.
    pub cpu: Duration,
    /// CPU time of one call. Checked every 10 ms.
    pub call_cpu: Duration,
    /// Time since the attempt began, the host's own work between calls included.
    pub wall: Duration,
    /// What the plugin may hand over in one call of the host or in one reply, in bytes of host
    /// memory.
    pub hostcall_bytes: u64,
    /// Log lines kept. The oldest give way and are counted: this is no error.
    pub log_lines: u64,
    /// Log bytes kept, as with `log_lines`.
    pub log_bytes: u64,
    /// One log line, in bytes. A longer one is cut: this is no error.
    pub line_bytes: u64,
    /// The text of one SQL statement, in bytes.
    pub sql_bytes: u64,
    /// Statements of a plan.
    pub statements: u64,
    /// Questions over all calls of an attempt.
    pub questions: u64,
    /// Parameters of one statement.
    pub params: u64,
    /// One name, label or note, in bytes. Texts of a failure are cut at this length instead.
    pub text_bytes: u64,
    /// A reply as a whole, in bytes of host memory.
    pub reply_bytes: u64,
    /// Resource handles alive at once.
    pub handles: u64,
    /// Rows that a reducer may give for one partition.
    pub output_rows: u64,
    /// Rows that a reducer may give for each row that it takes, beside a million for nothing.
    pub output_rows_per_row: u64,
    /// What a reducer may give for one partition, in bytes of host memory.
    pub output_bytes: u64,
}

impl Limits {
    /// Returns the limits of plugins that are built in or written by the people who run them.
    pub fn own() -> Self {
        Self {
            memory_bytes: 512 * MIB,
            table_elements: 100_000,
            cpu: Duration::from_secs(10 * 60),
            call_cpu: Duration::from_secs(30),
            wall: Duration::from_secs(60 * 60),
            hostcall_bytes: 32 * MIB,
            log_lines: 10_000,
            log_bytes: 10 * MIB,
            line_bytes: 8 * KIB,
            sql_bytes: MIB,
            statements: 1_000,
            questions: 1_000,
            params: 1_000,
            text_bytes: 10_000,
            reply_bytes: 16 * MIB,
            handles: 10_000,
            output_rows: 1_000_000_000_000,
            output_rows_per_row: 1_000,
            output_bytes: 1024 * 1024 * MIB,
        }
    }

    /// Returns the limits of plugins that come from elsewhere.
    pub fn third_party() -> Self {
        Self {
            memory_bytes: 128 * MIB,
            table_elements: 20_000,
            cpu: Duration::from_secs(60),
            call_cpu: Duration::from_secs(2),
            wall: Duration::from_secs(15 * 60),
            hostcall_bytes: 16 * MIB,
            log_lines: 1_000,
            log_bytes: MIB,
            line_bytes: 2 * KIB,
            sql_bytes: 256 * KIB,
            statements: 100,
            questions: 100,
            params: 200,
            text_bytes: 10_000,
            reply_bytes: 8 * MIB,
            handles: 1_000,
            output_rows: 100_000_000,
            output_rows_per_row: 100,
            output_bytes: 10 * 1024 * MIB,
        }
    }
}

/// A limit whose breach ends the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// [`Limits::memory_bytes`].
    Memory,
    /// [`Limits::table_elements`].
    TableElements,
    /// [`Limits::cpu`].
    Cpu,
    /// [`Limits::call_cpu`].
    CallCpu,
    /// [`Limits::wall`].
    Wall,
    /// [`Limits::hostcall_bytes`].
    Hostcall,
    /// [`Limits::sql_bytes`].
    Sql,
    /// [`Limits::statements`].
    Statements,
    /// [`Limits::questions`].
    Questions,
    /// [`Limits::params`].
    Params,
    /// [`Limits::text_bytes`].
    Text,
    /// [`Limits::reply_bytes`].
    Reply,
    /// [`Limits::handles`].
    Handles,
    /// [`Limits::output_rows`] or [`Limits::output_rows_per_row`].
    OutputRows,
    /// [`Limits::output_bytes`].
    OutputBytes,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Memory,
        Self::TableElements,
        Self::Cpu,
        Self::CallCpu,
        Self::Wall,
        Self::Hostcall,
        Self::Sql,
        Self::Statements,
        Self::Questions,
        Self::Params,
        Self::Text,
        Self::Reply,
        Self::Handles,
        Self::OutputRows,
        Self::OutputBytes,
    ];

    /// Returns the key under `limits:` of the plugin that raises the limit.
    pub fn key(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::TableElements => "table-elements",
            Self::Cpu => "cpu",
            Self::CallCpu => "cpu-per-call",
            Self::Wall => "wall",
            Self::Hostcall => "handover",
            Self::Sql => "sql",
            Self::Statements => "statements",
            Self::Questions => "questions",
            Self::Params => "params",
            Self::Handles => "handles",
            Self::Text => "text",
            Self::Reply => "reply",
            Self::OutputRows => "rows-out",
            Self::OutputBytes => "bytes-out",
        }
    }

    /// Returns what to do about a plugin that rightly needs more, as a sentence.
    pub fn help(self, plugin: &str) -> String {
        format!(
            "If the plugin rightly needs more, raise `plugins.{plugin}.limits.{}` in the workflow file.",
            self.key()
        )
    }

    fn unit(self) -> Unit {
        match self {
            Self::Memory
            | Self::Hostcall
            | Self::Sql
            | Self::Text
            | Self::Reply
            | Self::OutputBytes => Unit::Bytes,
            Self::Cpu | Self::CallCpu | Self::Wall => Unit::Milliseconds,
            Self::TableElements
            | Self::Statements
            | Self::Questions
            | Self::Params
            | Self::Handles
            | Self::OutputRows => Unit::Count,
        }
    }
}

/// A plugin wanted more than its limit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what}: {}, the limit is {}", Asked(*limit, *asked), Amount(*limit, *allowed))]
pub struct LimitError {
    /// Which limit.
    pub limit: Limit,
    /// What was too much, for people: `memory`, `sql of statement 3`.
    pub what: String,
    /// The limit: bytes, milliseconds or a count, as `limit` says.
    pub allowed: u64,
    /// What was asked for, in the same unit; none where it is only known to be more.
    pub asked: Option<u64>,
    /// Functions that were running, innermost first; none where the plugin had already answered.
    pub backtrace: Vec<String>,
    /// The last lines that the plugin said.
    pub log: Vec<LogLine>,
}

impl LimitError {
    pub(crate) fn new(limit: Limit, what: impl Into<String>, allowed: u64, asked: u64) -> Self {
        let (what, asked) = (what.into(), Some(asked));
        Self {
            limit,
            what,
            allowed,
            asked,
            backtrace: Vec::new(),
            log: Vec::new(),
        }
    }
}

#[derive(Clone, Copy)]
enum Unit {
    Bytes,
    Milliseconds,
    Count,
}

struct Amount(Limit, u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(limit, amount) = *self;
        match limit.unit() {
            Unit::Bytes => write_bytes(f, amount),
            Unit::Milliseconds if amount.is_multiple_of(1000) => write!(f, "{} s", amount / 1000),
            Unit::Milliseconds => write!(f, "{amount} ms"),
            Unit::Count => write!(f, "{amount}"),
        }
    }
}

struct Asked(Limit, Option<u64>);

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(asked) => Amount(self.0, asked).fmt(f),
            None => f.write_str("too much"),
        }
    }
}

// A size that is no whole number of units is written in bytes, so that "128 MiB, the limit is 128
// MiB" cannot appear.
fn write_bytes(f: &mut fmt::Formatter<'_>, bytes: u64) -> fmt::Result {
    match bytes {
        0 => f.write_str("0 bytes"),
        _ if bytes.is_multiple_of(MIB) => write!(f, "{} MiB", bytes / MIB),
        _ if bytes.is_multiple_of(KIB) => write!(f, "{} KiB", bytes / KIB),
        _ => write!(f, "{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_both_amounts_in_the_unit_of_the_limit() {
        let cases = [
            (
                Limit::Memory,
                128 * MIB,
                128 * MIB + 64 * KIB,
                "131136 KiB, the limit is 128 MiB",
            ),
            (
                Limit::Sql,
                256 * KIB,
                256 * KIB + 1,
                "262145 bytes, the limit is 256 KiB",
            ),
            (Limit::Cpu, 60_000, 60_010, "60010 ms, the limit is 60 s"),
            (Limit::Statements, 100, 101, "101, the limit is 100"),
        ];

        for (limit, allowed, asked, expected) in cases {
            let error = LimitError::new(limit, "what", allowed, asked);
            assert_eq!(error.to_string(), format!("what: {expected}"));
        }
    }

    #[test]
    fn strangers_get_no_more_than_our_own() {
        let (own, third) = (Limits::own(), Limits::third_party());

        assert!(third.memory_bytes < own.memory_bytes);
        assert!(third.cpu < own.cpu && third.call_cpu < own.call_cpu && third.wall < own.wall);
        assert!(third.sql_bytes < own.sql_bytes && third.statements < own.statements);
    }
}
