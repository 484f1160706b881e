//! From a target to an open connection whose settings are pinned.
//!
//! Hides the order in which hosts and encryption are tried, and the two ways of setting what every
//! session sets: in the start-up packet, which costs no round trip, or afterwards, for servers and
//! poolers that do not take it there.

use std::future::{Future, poll_fn};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::config::{SslMode as PgSslMode, SslNegotiation};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Error as PgError, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::{RetryClass, StatementError, WarehouseError, classify};
use crate::guard::{Bound, Guarded, GuardedTls, Plain};
use crate::param::Param;
use crate::session::SessionOptions;
use crate::target::{Endpoint, Place, Target};
use crate::tls::SslMode;

/// How long a start-up packet, the handshake and the login may take once the socket is open.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Names and values that every session sets, and the first major version that knows them. Redshift
/// calls itself 8.
const PINNED: [(&str, &str, u32); 13] = [
    ("DateStyle", "ISO, MDY", 0),
    ("TimeZone", "UTC", 0),
    // Whatever a plugin's SQL does not name in full must be the system's own.
    ("search_path", "pg_catalog, pg_temp", 0),
    ("extra_float_digits", "1", 0),
    ("IntervalStyle", "postgres", 9),
    ("bytea_output", "hex", 9),
    // What we read as a string's end must be what the server takes for it.
    ("standard_conforming_strings", "on", 9),
    ("default_transaction_isolation", "read committed", 9),
    ("work_mem", "64MB", 9),
    // A host that hangs must not hold its locks for ever.
    ("idle_in_transaction_session_timeout", "10min", 10),
    // Compiling costs more than it saves on batches, and estimates of the first runs are far off.
    ("jit", "off", 11),
    // A policy that hides rows from this login would have them computed without, or left beside their new ones. The server
    // then refuses the statement, unless the workflow says that hidden rows are meant to be (`settings`).
    ("row_security", "off", 9),
    // A killed host's statement ends within two seconds rather than when it wants to write.
    (CHECK_INTERVAL, "2s", 14),
];
const CHECK_INTERVAL: &str = "client_connection_check_interval";

/// An open connection.
pub(crate) struct Opened {
    pub client: Client,
    pub shared: Arc<Shared>,
    /// Set where the connection is encrypted, for the canceller's connection to be so too.
    pub connector: Option<MakeRustlsConnect>,
    /// Set where we made the connection ourselves, for the canceller's to be made so too.
    pub dialled: Option<Endpoint>,
    pub server: String,
    /// As the server says it: `15.5 (Debian 15.5-1)`.
    pub version: String,
    /// Whether the settings came with the start-up packet, so that RESET goes back to them.
    pub pinned_at_start: bool,
}

/// What the session and the task that drives its connection both know.
#[derive(Default)]
pub(crate) struct Shared {
    pub cancel_asked: AtomicBool,
    /// The server's last words before it closed the connection.
    pub said: OnceLock<Box<StatementError>>,
    /// Whether the connection was closed for a message that was too long.
    pub too_large: AtomicBool,
}

/// Tries the target's hosts in order and returns the first connection.
pub(crate) async fn open(
    target: &Target,
    options: &SessionOptions,
) -> Result<Opened, WarehouseError> {
    let mut last = None;
    for endpoint in &target.endpoints {
        match open_endpoint(target, endpoint, options).await {
            Ok(opened) => return Ok(opened),
            Err(error) => {
                // As in libpq: a server that answered and refused the login is the one that was
                // meant.
                let next_may_serve = match &error {
                    WarehouseError::Unreachable { .. } => true,
                    WarehouseError::Refused { error, .. } => {
                        matches!(error.sqlstate.as_str(), "57P03" | "53300")
                    }
                    _ => false,
                };
                if !next_may_serve {
                    return Err(error);
                }
                // Of several hosts, one that may answer later counts for more than one that never will.
                let for_ever = error.retry_class() == RetryClass::Never;
                if last.is_none() || !for_ever {
                    last = Some(error);
                }
            }
        }
    }
    Err(last.unwrap_or_else(|| WarehouseError::protocol("a target has at least one host")))
}

async fn open_endpoint(
    target: &Target,
    endpoint: &Endpoint,
    options: &SessionOptions,
) -> Result<Opened, WarehouseError> {
    let mut config = endpoint.config(&target.config);
    if !options.application_name.is_empty() {
        config.application_name(&options.application_name);
    }
    let settings = settings(options);
    let own = config.get_options().unwrap_or_default().to_owned();
    config.options(format!("{own}{}", startup_options(&settings)));
    let most = options.message_bytes_max;
    match open_as_encrypted(target, endpoint, &config, most).await {
        Err(error) if refuses_settings(&error) => {
            // A server that does not know one of them, or a pooler: set what can be set afterwards.
            config.options(own);
            let mut opened = open_as_encrypted(target, endpoint, &config, most).await?;
            set_afterwards(&opened, &settings).await?;
            opened.pinned_at_start = false;
            Ok(opened)
        }
        opened => opened,
    }
}

/// Tries encryption in the order that the mode stands for.
async fn open_as_encrypted(
    target: &Target,
    endpoint: &Endpoint,
    config: &Config,
    message_bytes_max: Option<u32>,
) -> Result<Opened, WarehouseError> {
    use PgSslMode::{Disable, Prefer, Require};

    // libpq never encrypts on a socket: nobody is in between.
    let mode = match endpoint.place {
        Place::Unix(_) => SslMode::Disable,
        Place::Tcp { .. } => target.tls.mode,
    };
    let (first, second) = match mode {
        SslMode::Disable => (Disable, None),
        SslMode::Allow => (Disable, Some(Require)),
        SslMode::Prefer => (Prefer, Some(Disable)),
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => (Require, None),
    };
    let failed = match open_once(target, endpoint, config, first, message_bytes_max).await {
        Ok(opened) => return Ok(opened),
        Err(failed) => failed,
    };
    match second {
        // Only what another choice of encryption may mend; a wrong password is not tried twice.
        Some(second) if failed.encryption_matters() => {
            open_once(target, endpoint, config, second, message_bytes_max)
                .await
                .map_err(|failed| failed.error)
        }
        _ => Err(failed.error),
    }
}

struct Failed {
    error: WarehouseError,
    tls: bool,
}

impl Failed {
    fn encryption_matters(&self) -> bool {
        self.tls || self.error.sqlstate() == Some("28000")
    }
}

async fn open_once(
    target: &Target,
    endpoint: &Endpoint,
    config: &Config,
    mode: PgSslMode,
    message_bytes_max: Option<u32>,
) -> Result<Opened, Failed> {
    let server = endpoint.to_string();
    let mut config = config.clone();
    config.ssl_mode(mode);
    if target.tls.direct && mode == PgSslMode::Require {
        config.ssl_negotiation(SslNegotiation::Direct);
    } else {
        config.ssl_negotiation(SslNegotiation::Postgres);
    }
    let connector = match mode {
        PgSslMode::Disable => None,
        _ => Some(connector(target, &server)?),
    };
    let connect_timeout = config
        .get_connect_timeout()
        .copied()
        .unwrap_or(LOGIN_TIMEOUT);
    let shared = Arc::<Shared>::default();
    let bound = message_bytes_max.map(|bytes_max| Bound {
        bytes_max,
        shared: shared.clone(),
    });
    let dialled = (connector.is_none() && bound.is_some()).then(|| endpoint.clone());
    let opening = async {
        match (connector.clone(), bound) {
            (Some(connector), None) => Ok(start(config.connect(connector), shared).await),
            (None, None) => Ok(start(config.connect(NoTls), shared).await),
            (Some(inner), Some(bound)) => {
                let guarded = GuardedTls { inner, bound };
                Ok(start(config.connect(guarded), shared).await)
            }
            (None, Some(bound)) => {
                let stream = Guarded::new(Plain::dial(endpoint).await?, bound);
                Ok(start(config.connect_raw(stream, NoTls), shared).await)
            }
        }
    };
    let unreachable = |source: std::io::Error| {
        let server = server.clone();
        let error = WarehouseError::Unreachable {
            server,
            source: source.into(),
        };
        Failed { error, tls: false }
    };
    // tokio-postgres limits each socket alone, and a name may have several addresses.
    match tokio::time::timeout(connect_timeout + LOGIN_TIMEOUT, opening).await {
        Ok(Err(source)) => Err(unreachable(source)),
        Ok(Ok(Ok((client, shared, version)))) => Ok(Opened {
            client,
            shared,
            connector,
            dialled,
            server,
            version,
            pinned_at_start: true,
        }),
        Ok(Ok(Err(error))) => {
            let tls = classify::is_tls(&error);
            let error = classify::connect(error, &server, target.user(), target.database());
            Err(Failed { error, tls })
        }
        Err(elapsed) => {
            let source = std::io::Error::new(std::io::ErrorKind::TimedOut, elapsed);
            Err(unreachable(source))
        }
    }
}

fn connector(target: &Target, server: &str) -> Result<MakeRustlsConnect, Failed> {
    if let Some(connector) = target.connector.get() {
        return Ok(connector.clone());
    }
    let made = target.tls.connector().map_err(|source| Failed {
        error: WarehouseError::Tls {
            server: server.to_owned(),
            source: source.into(),
        },
        tls: false,
    })?;
    Ok(target.connector.get_or_init(|| made).clone())
}

async fn start<S, T>(
    connecting: impl Future<Output = Result<(Client, Connection<S, T>), PgError>>,
    shared: Arc<Shared>,
) -> Result<(Client, Arc<Shared>, String), PgError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = connecting.await?;
    let version = connection
        .parameter("server_version")
        .unwrap_or_default()
        .to_owned();
    tokio::spawn(drive(connection, shared.clone()));
    Ok((client, shared, version))
}

/// Moves bytes between the socket and the session until either closes.
async fn drive<S, T>(mut connection: Connection<S, T>, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
        match message {
            Ok(AsyncMessage::Notice(notice)) => {
                tracing::debug!(severity = notice.severity(), "{}", notice.message());
            }
            Ok(_) => {}
            Err(error) => {
                // Kept before the connection is dropped, which is what the session notices.
                if let Some(said) = error.as_db_error() {
                    let _ = shared.said.set(Box::new(StatementError::from(said)));
                }
                return;
            }
        }
    }
}

/// Pinned settings and the caller's, whose word is the last.
fn settings(options: &SessionOptions) -> Vec<(String, String, u32)> {
    let milliseconds = |limit: Duration| limit.as_millis().to_string();
    let mut settings: Vec<(String, String, u32)> = PINNED
        .iter()
        .map(|(name, value, since)| ((*name).to_owned(), (*value).to_owned(), *since))
        .collect();
    if let Some(limit) = options.statement_timeout {
        settings.push(("statement_timeout".to_owned(), milliseconds(limit), 0));
    }
    if let Some(limit) = options.lock_timeout {
        settings.push(("lock_timeout".to_owned(), milliseconds(limit), 10));
    }
    for (name, value) in &options.settings {
        settings.retain(|(pinned, _, _)| !pinned.eq_ignore_ascii_case(name));
        settings.push((name.clone(), value.clone(), 0));
    }
    settings
}

/// ` -c name=value …`, as the server splits it: at spaces, with a backslash before those that
/// belong to a value.
fn startup_options(settings: &[(String, String, u32)]) -> String {
    let mut words = String::new();
    for (name, value, _) in settings {
        words.push_str(" -c ");
        for char in name.chars().chain(['=']).chain(value.chars()) {
            if char.is_whitespace() || char == '\\' {
                words.push('\\');
            }
            words.push(char);
        }
    }
    words
}

fn refuses_settings(error: &WarehouseError) -> bool {
    // Unknown, a value it does not take, not allowed; a pooler calls `options` a protocol
    // violation.
    matches!(error, WarehouseError::Refused { error, .. }
        if matches!(error.sqlstate.as_str(), "42704" | "22023" | "42501" | "08P01" | "0A000"))
}

async fn set_afterwards(
    opened: &Opened,
    settings: &[(String, String, u32)],
) -> Result<(), WarehouseError> {
    let version = major(&opened.version);
    let mut calls = Vec::new();
    let mut params = Vec::new();
    for (name, value, since) in settings {
        // Not every system can watch its connections, and the others took it in the start-up
        // packet.
        if *since <= version && name != CHECK_INTERVAL {
            let at = params.len();
            calls.push(format!(
                "pg_catalog.set_config(${}, ${}, false)",
                at + 1,
                at + 2
            ));
            params.extend([Param::Text(name.clone()), Param::Text(value.clone())]);
        }
    }
    let sql = format!("SELECT {}", calls.join(", "));
    let typed = params.iter().map(|param| (param, param.announced_type()));
    let typed: Vec<(&(dyn tokio_postgres::types::ToSql + Sync), _)> =
        typed.map(|(param, kind)| (param as _, kind)).collect();
    opened
        .client
        .execute_typed(&sql, &typed)
        .await
        .map(|_| ())
        .map_err(|error| classify::statement(error, classify::Circumstances::default()))
}

/// The first number of a version; 0 if there is none.
pub(crate) fn major(version: &str) -> u32 {
    version
        .split(|char: char| !char.is_ascii_digit())
        .next()
        .unwrap_or_default()
        .parse()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split_as_the_server_splits_them() {
        let settings = [("search_path".to_owned(), r"a, b\c".to_owned(), 0)];
        assert_eq!(startup_options(&settings), r" -c search_path=a,\ b\\c");
    }

    #[test]
    fn a_given_setting_takes_the_place_of_a_pinned_one() {
        let options = SessionOptions {
            settings: vec![("Work_Mem".to_owned(), "1GB".to_owned())],
            ..SessionOptions::default()
        };
        let found: Vec<_> = settings(&options)
            .into_iter()
            .filter(|(name, _, _)| name.eq_ignore_ascii_case("work_mem"))
            .map(|(_, value, _)| value)
            .collect();
        assert_eq!(found, ["1GB"]);
    }

    #[test]
    fn versions() {
        assert_eq!(major("15.5 (Debian 15.5-1)"), 15);
        assert_eq!(major("17beta1"), 17);
        assert_eq!(major("8.0.2"), 8);
        assert_eq!(major(""), 0);
    }
}
