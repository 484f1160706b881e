//! What a plugin may use: the keys of `limits:` and their values.

use std::collections::BTreeMap;
use std::time::Duration;

/// A key of `plugins: { <name>: { limits: … } }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "`about` says what each one bounds")]
pub enum LimitKey {
    Memory,
    TableElements,
    Cpu,
    CpuPerCall,
    Wall,
    Handover,
    LogLines,
    LogBytes,
    LogLine,
    Sql,
    Statements,
    Questions,
    Params,
    Text,
    Reply,
    Handles,
    Component,
    RowsOut,
    BytesOut,
    StatementTimeout,
    LockTimeout,
    DatabaseTime,
}

/// What a limit is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitUnit {
    /// Bytes, written as `128MiB`.
    Size,
    /// Microseconds, written as `60s`.
    Duration,
    /// A whole number.
    Count,
}

impl LimitKey {
    /// All keys, in the order in which people read of them.
    pub const ALL: [Self; 22] = [
        Self::Memory,
        Self::Cpu,
        Self::CpuPerCall,
        Self::Wall,
        Self::StatementTimeout,
        Self::LockTimeout,
        Self::DatabaseTime,
        Self::RowsOut,
        Self::BytesOut,
        Self::Component,
        Self::TableElements,
        Self::Handover,
        Self::Handles,
        Self::Reply,
        Self::Sql,
        Self::Statements,
        Self::Questions,
        Self::Params,
        Self::Text,
        Self::LogLines,
        Self::LogBytes,
        Self::LogLine,
    ];

    /// Returns the key as a workflow file has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::TableElements => "table-elements",
            Self::Cpu => "cpu",
            Self::CpuPerCall => "cpu-per-call",
            Self::Wall => "wall",
            Self::Handover => "handover",
            Self::LogLines => "log-lines",
            Self::LogBytes => "log-bytes",
            Self::LogLine => "log-line",
            Self::Sql => "sql",
            Self::Statements => "statements",
            Self::Questions => "questions",
            Self::Params => "params",
            Self::Text => "text",
            Self::Reply => "reply",
            Self::Handles => "handles",
            Self::Component => "component",
            Self::RowsOut => "rows-out",
            Self::BytesOut => "bytes-out",
            Self::StatementTimeout => "statement-timeout",
            Self::LockTimeout => "lock-timeout",
            Self::DatabaseTime => "database-time",
        }
    }

    /// Returns what the value is counted in.
    pub fn unit(self) -> LimitUnit {
        match self {
            Self::Memory
            | Self::Handover
            | Self::LogBytes
            | Self::LogLine
            | Self::Sql
            | Self::Text
            | Self::Reply
            | Self::Component
            | Self::BytesOut => LimitUnit::Size,
            Self::Cpu
            | Self::CpuPerCall
            | Self::Wall
            | Self::StatementTimeout
            | Self::LockTimeout
            | Self::DatabaseTime => LimitUnit::Duration,
            Self::TableElements
            | Self::LogLines
            | Self::Statements
            | Self::Questions
            | Self::Params
            | Self::Handles
            | Self::RowsOut => LimitUnit::Count,
        }
    }

    /// Returns what the limit bounds, as a sentence.
    pub fn about(self) -> &'static str {
        match self {
            Self::Memory => {
                "Memory of one instance, with what the host keeps for it; at most 4GiB."
            }
            Self::TableElements => "Elements of WebAssembly tables.",
            Self::Cpu => "Time on the processor for one attempt of a step.",
            Self::CpuPerCall => "Time on the processor for one call.",
            Self::Wall => "Time on the clock for one attempt, its statements included.",
            Self::Handover => "What the plugin may hand over in one call.",
            Self::LogLines => "Log lines that are kept; the oldest give way.",
            Self::LogBytes => "Log bytes that are kept; the oldest lines give way.",
            Self::LogLine => "One log line; a longer one is cut.",
            Self::Sql => "The text of one statement.",
            Self::Statements => "Statements of a plan.",
            Self::Questions => "Questions of one attempt.",
            Self::Params => "Parameters of one statement.",
            Self::Text => "One name, label or remark.",
            Self::Reply => "A reply as a whole.",
            Self::Handles => "Resource handles alive at once.",
            Self::Component => "The component's file; at most 64MiB.",
            Self::RowsOut => "Rows that a reducer may give back.",
            Self::BytesOut => "Bytes that a reducer may give back.",
            Self::StatementTimeout => "Longest time for one statement.",
            Self::LockTimeout => "Longest wait for a lock.",
            Self::DatabaseTime => "Time for all statements of one attempt together.",
        }
    }

    /// Returns the largest value that has a meaning, with what to say about more.
    pub(crate) fn most(self) -> Option<(u64, &'static str)> {
        match self {
            Self::Memory => Some((
                4 << 30,
                "at most 4GiB, which is all that a plugin can address",
            )),
            Self::Component => Some((64 << 20, "at most 64MiB, the largest file that is compiled")),
            // The protocol counts the parameters of a statement in 16 bits.
            Self::Params => Some((
                65_535,
                "at most 65535, which is all that a statement can have",
            )),
            _ => None,
        }
    }
}

/// The limits that a workflow file sets for a plugin, each more than zero; what is not set is left to the runner.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits(BTreeMap<LimitKey, u64>);

impl Limits {
    pub(crate) fn set(&mut self, key: LimitKey, value: u64) {
        self.0.insert(key, value);
    }

    /// Returns a limit in the unit of its key, if it is set.
    pub fn get(&self, key: LimitKey) -> Option<u64> {
        self.0.get(&key).copied()
    }

    /// Returns a limit on time, if it is set.
    pub fn duration(&self, key: LimitKey) -> Option<Duration> {
        debug_assert_eq!(key.unit(), LimitUnit::Duration);
        self.get(key).map(Duration::from_micros)
    }

    /// Returns the limits that are set, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (LimitKey, u64)> + '_ {
        self.0.iter().map(|(key, value)| (*key, *value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_listed_once() {
        let mut names: Vec<_> = LimitKey::ALL.iter().map(|key| key.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), LimitKey::ALL.len());
    }
}
