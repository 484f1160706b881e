//! What a plugin is granted: its tables, its kinds of statements, its login.

use stepwell_sql::TableName;

use super::warehouse::url;
use crate::fields::{Fields, key, list, mismatch, table, text};
use crate::name::{Playbook, is_alias};
use crate::problem::{Problem, Problems};
use crate::tree::{Entry, Kind};
use crate::words::{quoted, suggest};
use crate::workflow::{Connection, Grants, Login, Schemas, Secret, StatementGrant};

/// The schema of the host's own tables.
const HOST_SCHEMA: &str = "stepwell";

/// Longest name of a role that Postgres keeps, in bytes.
const ROLE_BYTES_MAX: usize = 63;

/// What grants are checked against. What could not be read is none, and nothing is checked against
/// it.
pub(super) struct Surroundings<'a> {
    pub(super) playbook: Option<&'a Playbook>,
    pub(super) schemas: &'a Schemas,
    pub(super) manifest: Option<&'a TableName>,
    /// Whether the workflow says where its warehouse is.
    pub(super) has_url: bool,
    pub(super) pins: Pins,
}

/// Whether a third party's plugin must be pinned already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pins {
    /// It must: what it is granted holds for one file.
    Required,
    /// Not yet: whoever asks looks after plugins, and runs none.
    Later,
}

/// Returns what a plugin without `grants:` has.
pub(super) fn none() -> Grants {
    Grants {
        statements: [StatementGrant::Select, StatementGrant::Insert].into(),
        ..Grants::default()
    }
}

pub(super) fn grants(entry: &Entry, around: &Surroundings<'_>, problems: &mut Problems) -> Grants {
    let mut grants = none();
    grants.span = Some(entry.key_span);
    if let Some(mut fields) = Fields::of(entry, problems) {
        if let Some(read) = fields.take("read") {
            grants.read = granted(read, around, problems);
        }
        if let Some(write) = fields.take("write") {
            grants.write = granted(write, around, problems);
            if let Some(manifest) = around.manifest
                && grants.write.contains(manifest)
            {
                let message = format!(
                    "the manifest {} cannot be granted for writing",
                    quoted(&manifest.to_string())
                );
                problems.error_help(write.value.span, message, "the commit step alone writes it");
                grants.write.retain(|table| table != manifest);
            }
        }
        if let Some(entry) = fields.take("statements") {
            statements(entry, &mut grants, problems);
        }
        fields.done(problems);
    }
    grants
}

/// Reads tables, scratch tables by their alias.
fn granted(entry: &Entry, around: &Surroundings<'_>, problems: &mut Problems) -> Vec<TableName> {
    let mut granted = Vec::new();
    for item in list(entry, "a list of tables", problems).unwrap_or_default() {
        let Some(table) = table(item, &key(entry), problems) else {
            continue;
        };
        let shown = quoted(&table.to_string());
        if table.schema() == HOST_SCHEMA {
            let message = format!("table {shown} is the host's own and cannot be granted");
            problems.error(item.span, message);
        } else if table.schema() != around.schemas.scratch {
            granted.push(table);
        } else if is_alias(table.name()) {
            // Without a playbook there is another problem, and no run.
            granted.extend(around.playbook.map(|playbook| {
                TableName::new(table.schema(), format!("{playbook}__{}", table.name()))
            }));
        } else {
            let message = format!("table {shown} is no scratch table of this playbook");
            let help = format!(
                "name it as the steps do: `{}.session_ids` for the alias `session_ids`",
                around.schemas.scratch
            );
            problems.error_help(item.span, message, help);
        }
    }
    granted
}

fn statements(entry: &Entry, grants: &mut Grants, problems: &mut Problems) {
    grants.statements = [StatementGrant::Select].into();
    let expected = "a list of `select`, `insert`, `update`, `delete`, `truncate`";
    for item in list(entry, expected, problems).unwrap_or_default() {
        let Some(word) = text(item, &key(entry), "a kind of statement", problems) else {
            continue;
        };
        let known = StatementGrant::ALL.map(StatementGrant::word);
        match StatementGrant::ALL
            .into_iter()
            .find(|kind| kind.word() == word)
        {
            Some(kind) => {
                grants.statements.insert(kind);
            }
            None => {
                let message = format!(
                    "{} is no kind of statement that can be granted",
                    quoted(word)
                );
                let help = suggest(word, "kinds", known);
                problems.error_help(item.span, message, help);
            }
        }
    }
}

/// Reads how a plugin logs in: a role or a connection string.
pub(super) fn connection(entry: &Entry, problems: &mut Problems) -> Option<Connection> {
    let mut fields = Fields::of(entry, problems)?;
    let (role, password, own) = (
        fields.take("role"),
        fields.take("password"),
        fields.take("url"),
    );
    fields.done(problems);
    let login = match (role, own) {
        (Some(role), None) => Login::Role {
            name: role_name(role, problems)?,
            password: match password {
                Some(entry) => Some(secret(entry, problems)?),
                None => None,
            },
        },
        (None, Some(own)) => {
            if let Some(password) = password {
                let message = "key \"password\" goes with key \"role\"";
                problems.error_help(
                    password.key_span,
                    message,
                    "write it into the url's variable",
                );
            }
            Login::Url(url(own, "write `url: ${env:…}`", problems)?)
        }
        (Some(_), Some(own)) => {
            let message = "key \"connection\" has both \"role\" and \"url\"";
            problems.error_help(own.key_span, message, "keep one; the url names its role");
            return None;
        }
        (None, None) => {
            let message = "key \"connection\" lacks key \"role\" or \"url\"";
            let help = "add `role:`, a login role of the plugin's own, or `url:`";
            problems.error_help(entry.key_span, message, help);
            return None;
        }
    };
    Some(Connection {
        login,
        span: entry.key_span,
    })
}

fn role_name(entry: &Entry, problems: &mut Problems) -> Option<String> {
    let expected = "the name of a login role";
    let name = text(&entry.value, &key(entry), expected, problems)?;
    // What these mean depends on who asks, or they are the server's own.
    let special = [
        "none",
        "public",
        "current_user",
        "session_user",
        "current_role",
    ];
    if name.len() > ROLE_BYTES_MAX
        || name.starts_with("pg_")
        || special.contains(&name)
        || name.contains('\0')
    {
        mismatch(&entry.value, &key(entry), expected, problems);
        return None;
    }
    Some(name.to_owned())
}

fn secret(entry: &Entry, problems: &mut Problems) -> Option<Secret> {
    let Kind::Text(found) = &entry.value.kind else {
        // What stands there is not shown.
        problems.error(entry.value.span, "key \"password\": expected text");
        return None;
    };
    if found.written.is_none() {
        problems.push(
            Problem::warning("the plugin's password stands in the file")
                .at(entry.value.span)
                .with_help("take it from the environment: `password: ${env:…}`"),
        );
    }
    Some(Secret::new(found.value.clone()))
}
