//! The `warehouse:` block.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::fields::{Fields, duration, key, mismatch, whole};
use crate::problem::{Problem, Problems};
use crate::source_file::mask_secrets;
use crate::tree::{Entry, Kind, Text};
use crate::words::quoted;
use crate::workflow::{RETRIES_MAX, Secret, Warehouse};

/// How long a run may go without a sign of life.
const LEASE_EXPIRY: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// Session parameters that the host sets, with what to do instead.
const HOST_SETS: [(&str, &str); 7] = [
    ("search_path", "name tables with their schema"),
    (
        "statement_timeout",
        "use key \"statement-timeout\" of \"warehouse\"",
    ),
    ("lock_timeout", "use key \"lock-timeout\" of \"warehouse\""),
    ("role", "connect as the role in key \"url\""),
    (
        "session_authorization",
        "connect as the role in key \"url\"",
    ),
    ("transaction_read_only", "remove it"),
    ("default_transaction_read_only", "remove it"),
];

pub(super) fn check(entry: &Entry, problems: &mut Problems) -> Warehouse {
    let mut warehouse = Warehouse::default();
    let Some(mut fields) = Fields::of(entry, problems) else {
        return warehouse;
    };
    let help = "write `url: ${env:DATABASE_URL}`, or `url: local` for the private local Postgres, which is used without \
                the key too";
    warehouse.url = fields
        .take("url")
        .filter(|entry| !is_local(entry))
        .and_then(|entry| url(entry, help, problems));
    warehouse.statement_timeout = fields
        .take("statement-timeout")
        .and_then(|entry| duration(entry, problems));
    warehouse.lock_timeout = fields
        .take("lock-timeout")
        .and_then(|entry| duration(entry, problems));
    warehouse.retries = fields
        .take("retries")
        .and_then(|entry| whole(entry, 0..=u64::from(RETRIES_MAX), problems))
        .and_then(|retries| u32::try_from(retries).ok());
    warehouse.lease_expiry = fields
        .take("lease-expiry")
        .and_then(|entry| lease_expiry(entry, problems));
    if let Some(settings) = fields.take("settings") {
        session_settings(settings, &mut warehouse, problems);
    }
    fields.done(problems);
    warehouse
}

fn lease_expiry(entry: &Entry, problems: &mut Problems) -> Option<Duration> {
    let expiry = duration(entry, problems)?;
    if LEASE_EXPIRY.contains(&expiry) {
        return Some(expiry);
    }
    // Signs of life come several times within it, and an hour is long to wait for a dead run.
    let expected = "a duration from `1s` to `1h`";
    mismatch(&entry.value, &key(entry), expected, problems);
    None
}

/// The word for the private local Postgres, so that a variable may stand for it.
const LOCAL: &str = "local";

/// Whether a `url:` is the word for the private local Postgres.
pub(super) fn is_local(url: &Entry) -> bool {
    matches!(&url.value.kind, Kind::Text(text) if text.value.trim() == LOCAL)
}

/// Reads a connection string. What stands there is never shown.
pub(super) fn url(entry: &Entry, help: &str, problems: &mut Problems) -> Option<Secret> {
    let text = match &entry.value.kind {
        Kind::Text(text) => text,
        Kind::Unknown => return None,
        _ => {
            let message = "key \"url\": expected a connection string";
            problems.error_help(entry.value.span, message, help);
            return None;
        }
    };
    let url = text.value.trim();
    if url.starts_with("redshift://") {
        let message = "key \"url\": Redshift is not supported yet";
        let help = "name a PostgreSQL server, as `postgres://user@host/database`: statements are shaped for Redshift, \
                    but nothing has been run there";
        problems.error_help(entry.value.span, message, help);
        return None;
    }
    let schemes = ["postgres://", "postgresql://"];
    let parameters = || url.contains('=') && !url.contains("://");
    if !schemes.iter().any(|scheme| url.starts_with(scheme)) && !parameters() {
        not_one(entry, text, help, problems);
        return None;
    }
    let written = text.shown();
    if mask_secrets(written) != written {
        problems.push(
            Problem::warning("the connection string has its password in the file")
                .at(entry.value.span)
                .with_help("take it from the environment: `url: ${env:DATABASE_URL}`"),
        );
    }
    Some(Secret::new(url))
}

/// Reports a text that is no connection string. What a variable stands for is not in the file: it is mended where it is set.
fn not_one(entry: &Entry, text: &Text, help: &str, problems: &mut Problems) {
    let example = "`postgres://user@host/database`";
    let Some(written) = &text.written else {
        let message = format!("key \"url\": expected a connection string, as {example}");
        problems.error_help(entry.value.span, message, help);
        return;
    };
    let what = match text.value.trim().is_empty() {
        true => "nothing",
        false => "something else",
    };
    let message = format!(
        "key \"url\": expected a connection string, as {example}, and {} stands for {what}",
        quoted(written)
    );
    let help = match written
        .trim()
        .strip_prefix("${env:")
        .and_then(|rest| rest.strip_suffix('}'))
    {
        Some(name) => {
            let name = name.split(":-").next().unwrap_or(name);
            format!("set {name} to one: `export {name}=postgres://user@host/database`")
        }
        None => "correct the value of the variable".to_owned(),
    };
    problems.error_help(entry.value.span, message, help);
}

fn session_settings(entry: &Entry, warehouse: &mut Warehouse, problems: &mut Problems) {
    let Kind::Map(settings) = &entry.value.kind else {
        mismatch(
            &entry.value,
            &key(entry),
            "a map of session parameters",
            problems,
        );
        return;
    };
    for setting in settings {
        let name = setting.key.to_ascii_lowercase();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(plain) {
            let message = format!(
                "{} is not the name of a session parameter",
                quoted(&setting.key)
            );
            problems.error(setting.key_span, message);
            continue;
        }
        if let Some((_, help)) = HOST_SETS.iter().find(|(host, _)| *host == name) {
            let message = format!(
                "session parameter {} is set by the host",
                quoted(&setting.key)
            );
            problems.error_help(setting.key_span, message, help);
            continue;
        }
        let value = match &setting.value.kind {
            Kind::Text(text) => text.value.clone(),
            Kind::Number(_, written) => written.clone(),
            Kind::Bool(value) => value.to_string(),
            _ => {
                let what = format!("session parameter {}", quoted(&setting.key));
                mismatch(&setting.value, &what, "text or a number", problems);
                continue;
            }
        };
        warehouse.settings.insert(name, value);
    }
}
