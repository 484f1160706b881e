//! What can go wrong between the host and the warehouse.
//!
//! Hides tokio-postgres's error type, which prints `db error` for everything that the server says.
//! The SQLSTATE is read here and nowhere else: callers match on kinds and ask for
//! [`WarehouseError::retry_class`].

pub(crate) mod classify;
mod help;
mod retry;

use std::error::Error as StdError;
use std::fmt;

pub use retry::RetryClass;

type Source = Box<dyn StdError + Send + Sync>;

/// A failure of a connection or of a statement. `Display` never holds a password, a URL or the
/// statement's text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WarehouseError {
    /// Nothing that speaks the Postgres protocol answered.
    #[error("no Postgres server answers at {server}")]
    Unreachable {
        /// `host:port`, or the path of the socket.
        server: String,
        /// What the operating system said.
        source: Source,
    },
    /// The server does not let this user in.
    #[error("the server at {server} refused user \"{user}\": {message}")]
    Authentication {
        /// `host:port`, or the path of the socket.
        server: String,
        /// The user that asked.
        user: String,
        /// The server's words, or ours where the server's way of asking is not supported.
        message: String,
        /// The server's code; none when the client gave up by itself.
        sqlstate: Option<String>,
    },
    /// The connection could not be encrypted as `sslmode` asks, or the certificate is not trusted.
    #[error("could not set up TLS with the server at {server}")]
    Tls {
        /// `host:port`.
        server: String,
        /// What is wrong with the handshake or the certificate.
        source: Source,
    },
    /// The server is there, the database is not.
    #[error("the server at {server} has no database \"{database}\"")]
    NoDatabase {
        /// `host:port`, or the path of the socket.
        server: String,
        /// The database asked for.
        database: String,
    },
    /// The server answered and would not start a session: starting up, no free slot, a setting that
    /// it does not take.
    #[error("the server at {server} would not start a session: {error}")]
    Refused {
        /// `host:port`, or the path of the socket.
        server: String,
        /// What the server said.
        error: Box<StatementError>,
    },
    /// The server refused a statement.
    #[error("{0}")]
    Statement(Box<StatementError>),
    /// The statement ended because somebody cancelled it (57014).
    #[error("the statement was cancelled")]
    Cancelled(Box<StatementError>),
    /// `statement_timeout` (57014) or `lock_timeout` (55P03) ended the statement.
    #[error("{0}")]
    Timeout(Box<StatementError>),
    /// The server's disk is full (53100).
    #[error("the server's disk is full: {0}")]
    DiskFull(Box<StatementError>),
    /// The session is gone. What its open transaction did is undone; a statement outside of one may
    /// have taken effect.
    #[error("the connection to the server was lost{}", because(said))]
    ConnectionLost {
        /// The server's last words, for example that it shuts down.
        said: Option<Box<StatementError>>,
        /// What the operating system said.
        source: Option<Source>,
    },
    /// A COMMIT was sent and its answer never came: only a look at the tables tells which way it
    /// went.
    #[error(
        "the connection was lost during COMMIT, whose outcome is not known{}",
        because(said)
    )]
    OutcomeUnknown {
        /// The server's last words.
        said: Option<Box<StatementError>>,
        /// What the operating system said.
        source: Option<Source>,
    },
    /// The answer is larger than the caller allows; nothing of it is returned.
    #[error("the answer has more than {limit} {unit}")]
    AnswerTooLarge {
        /// The limit that was reached.
        limit: u64,
        /// `rows` or `bytes`.
        unit: &'static str,
    },
    /// A column has a type that has no place in an answer.
    #[error("column \"{column}\" has type {type_name}: cast it, for example {column}::text")]
    UnsupportedType {
        /// The column's name in the answer.
        column: String,
        /// The type's name, schema included unless it is built in.
        type_name: String,
    },
    /// The statement has another number of `$n` than values were given.
    #[error("the statement takes {expected} parameters and {given} were given")]
    ParameterCount {
        /// How many the statement has.
        expected: usize,
        /// How many were given.
        given: usize,
    },
    /// The rows that were to be copied could not be had; nothing was copied.
    #[error("the rows to copy could not be read")]
    CopySource {
        /// What the source said.
        source: Source,
    },
    /// The other side sent what the protocol does not allow here, or a value could not be decoded.
    #[error("the server's answer was not understood: {what}")]
    Protocol {
        /// What was expected.
        what: String,
        /// What the client library said.
        source: Option<Source>,
    },
}

/// What the server says about a statement that it refused. `Display` is the server's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementError {
    /// Five characters, for example `42P01`.
    pub sqlstate: String,
    /// The primary message, in the server's language.
    pub message: String,
    /// More about the case at hand.
    pub detail: Option<String>,
    /// The server's advice.
    pub hint: Option<String>,
    /// Where in the statement as sent, in characters, counted from 1.
    pub position: Option<u32>,
    /// The statement that a function ran by itself, and the position in that one.
    pub internal: Option<(String, u32)>,
    /// The call stack of functions, triggers and COPY lines (`CONTEXT`).
    pub context: Option<String>,
    /// Schema of the object at fault.
    pub schema: Option<String>,
    /// Table at fault.
    pub table: Option<String>,
    /// Column at fault.
    pub column: Option<String>,
    /// Constraint at fault.
    pub constraint: Option<String>,
}

impl fmt::Display for StatementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for StatementError {}

impl WarehouseError {
    /// Returns the SQLSTATE, where the server gave one.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Authentication { sqlstate, .. } => sqlstate.as_deref(),
            Self::NoDatabase { .. } => Some("3D000"),
            _ => self.statement().map(|error| error.sqlstate.as_str()),
        }
    }

    /// Returns what the server said, with position, detail and hint, where it said something.
    pub fn statement(&self) -> Option<&StatementError> {
        match self {
            Self::Statement(error)
            | Self::Cancelled(error)
            | Self::Timeout(error)
            | Self::DiskFull(error)
            | Self::Refused { error, .. } => Some(error),
            Self::ConnectionLost { said, .. } | Self::OutcomeUnknown { said, .. } => {
                said.as_deref()
            }
            _ => None,
        }
    }

    /// Returns whether the same work may succeed later without a change, and what has to come
    /// first.
    pub fn retry_class(&self) -> RetryClass {
        retry::class(self)
    }

    /// Whether it is the private local server that was not reached, and its socket is not there: it is stopped, and does not
    /// start before somebody starts it. One that a session was connected to may be on its way back.
    pub fn is_private_server_stopped(&self) -> bool {
        help::is_private_and_stopped(self)
    }

    /// Returns what to do next, as a sentence, for the kinds where that is known.
    pub fn help(&self) -> Option<String> {
        help::help(self)
    }

    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol {
            what: what.into(),
            source: None,
        }
    }
}

fn because(said: &Option<Box<StatementError>>) -> String {
    said.as_ref()
        .map(|error| format!(": {error}"))
        .unwrap_or_default()
}
