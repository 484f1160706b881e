//! From tokio-postgres's error to ours.

use tokio_postgres::Error as PgError;
use tokio_postgres::error::{DbError, ErrorPosition, Severity};

use super::{StatementError, WarehouseError};

/// What is known of the session when one of its statements fails.
#[derive(Default)]
pub(crate) struct Circumstances {
    /// Somebody used the session's canceller while the statement ran.
    pub cancel_asked: bool,
    /// The last words of the server, read by the connection's task.
    pub said: Option<Box<StatementError>>,
}

impl From<&DbError> for StatementError {
    fn from(error: &DbError) -> Self {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let (position, internal) = match error.position() {
            Some(ErrorPosition::Original(position)) => (Some(*position), None),
            Some(ErrorPosition::Internal { position, query }) => {
                (None, Some((query.clone(), *position)))
            }
            None => (None, None),
        };
        Self {
            sqlstate: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: owned(error.detail()),
            hint: owned(error.hint()),
            position,
            internal,
            context: owned(error.where_()),
            schema: owned(error.schema()),
            table: owned(error.table()),
            column: owned(error.column()),
            constraint: owned(error.constraint()),
        }
    }
}

/// Returns what a failed statement means.
pub(crate) fn statement(error: PgError, around: Circumstances) -> WarehouseError {
    let Some(db) = error.as_db_error() else {
        return broken(error, around);
    };
    let said = Box::new(StatementError::from(db));
    if ends_session(db) {
        return WarehouseError::ConnectionLost {
            said: Some(said),
            source: None,
        };
    }
    match said.sqlstate.as_str() {
        "57014" if around.cancel_asked => WarehouseError::Cancelled(said),
        // The code is the same for both. The words differ, in English; elsewhere a timeout is the
        // likelier of the two, since nobody used our canceller.
        "57014" if said.message.contains("user request") => WarehouseError::Cancelled(said),
        "57014" | "55P03" => WarehouseError::Timeout(said),
        "53100" => WarehouseError::DiskFull(said),
        _ => WarehouseError::Statement(said),
    }
}

/// Returns what a failed COMMIT means. Only an answer of severity ERROR says for sure that nothing
/// was committed.
pub(crate) fn commit(error: PgError, around: Circumstances) -> WarehouseError {
    match statement(error, around) {
        WarehouseError::ConnectionLost { said, source } => {
            WarehouseError::OutcomeUnknown { said, source }
        }
        WarehouseError::Protocol { source, .. } => {
            WarehouseError::OutcomeUnknown { said: None, source }
        }
        other => other,
    }
}

/// Returns what a failure to connect means; `server`, `user` and `database` are only quoted.
pub(crate) fn connect(error: PgError, server: &str, user: &str, database: &str) -> WarehouseError {
    let server = server.to_owned();
    if let Some(db) = error.as_db_error() {
        let said = Box::new(StatementError::from(db));
        return match said.sqlstate.as_str() {
            "3D000" => WarehouseError::NoDatabase {
                server,
                database: database.to_owned(),
            },
            "28P01" | "28000" => WarehouseError::Authentication {
                server,
                user: user.to_owned(),
                message: said.message,
                sqlstate: Some(said.sqlstate),
            },
            _ => WarehouseError::Refused {
                server,
                error: said,
            },
        };
    }
    match kind(&error) {
        Kind::Tls => WarehouseError::Tls {
            server,
            source: source(error),
        },
        Kind::Authentication => WarehouseError::Authentication {
            server,
            user: user.to_owned(),
            message: source(error).to_string(),
            sqlstate: None,
        },
        Kind::Link | Kind::Other => WarehouseError::Unreachable {
            server,
            source: source(error),
        },
    }
}

/// Returns whether the handshake of TLS failed.
pub(crate) fn is_tls(error: &PgError) -> bool {
    error.as_db_error().is_none() && kind(error) == Kind::Tls
}

fn broken(error: PgError, around: Circumstances) -> WarehouseError {
    if kind(&error) == Kind::Link || error.is_closed() {
        return WarehouseError::ConnectionLost {
            said: around.said,
            source: error.into_source(),
        };
    }
    WarehouseError::Protocol {
        what: error.to_string(),
        source: error.into_source(),
    }
}

fn ends_session(error: &DbError) -> bool {
    // The severity is translated on servers before 9.6, the codes are not.
    matches!(
        error.parsed_severity(),
        Some(Severity::Fatal | Severity::Panic)
    ) || matches!(
        error.code().code(),
        "57P01" | "57P02" | "57P03" | "25P03" | "25P04" | "57P05"
    )
}

fn source(error: PgError) -> Box<dyn std::error::Error + Send + Sync> {
    let words = error.to_string();
    error.into_source().unwrap_or_else(|| words.into())
}

#[derive(PartialEq, Eq)]
enum Kind {
    Link,
    Tls,
    Authentication,
    Other,
}

/// tokio-postgres keeps the kind of an error to itself and shows it in the words alone. The tests
/// of the session hold each of these words with a real server.
fn kind(error: &PgError) -> Kind {
    match error.to_string().as_str() {
        "error connecting to server"
        | "error communicating with the server"
        | "connection closed" => Kind::Link,
        "error performing TLS handshake" => Kind::Tls,
        "authentication error" | "invalid configuration" => Kind::Authentication,
        _ => Kind::Other,
    }
}
