//! Where to connect, and how far to trust what answers there.
//!
//! Hides the two spellings of a connection string, the environment's share in it, and which TLS
//! setting follows from which words. The password goes in and never comes out.

mod conninfo;
mod passfile;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::tls::{Roots, SslMode, TlsSettings};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const PORT: u16 = 5432;

/// A Postgres server, a database on it and the user to log in as.
#[derive(Clone)]
pub struct Target {
    pub(crate) config: Config,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) tls: TlsSettings,
    /// Made at the first TLS connection: reading the system's certificates takes some milliseconds.
    pub(crate) connector: Arc<OnceLock<MakeRustlsConnect>>,
    user: String,
    database: String,
}

/// One of the places where the server may be; they are tried in order.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub place: Place,
    pub port: u16,
    /// From the password file, when neither the string nor the environment has a password.
    password: Option<String>,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// The directory that holds the socket.
    Unix(PathBuf),
    Tcp {
        host: String,
        address: Option<IpAddr>,
    },
}

/// Why a connection string cannot be used. Values are not quoted, since any of them may be a
/// password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TargetError {
    /// It is neither a URL nor a list of pairs.
    #[error("the connection string could not be read: {what}")]
    Syntax {
        /// The rule that it breaks.
        what: &'static str,
    },
    /// A setting that is not known, or not supported here.
    #[error("connection setting \"{key}\" is not supported")]
    UnknownSetting {
        /// Its name.
        key: String,
    },
    /// A setting has a value that it does not take.
    #[error("connection setting \"{key}\" must be {expected}")]
    Value {
        /// Its name.
        key: String,
        /// What it takes.
        expected: String,
    },
    /// The user is not given and the system does not say who runs this.
    #[error("the connection string names no user and the system has no name for this one")]
    NoUser,
}

impl TargetError {
    fn syntax(what: &'static str) -> Self {
        Self::Syntax { what }
    }

    fn value(key: &str, expected: impl Into<String>) -> Self {
        Self::Value {
            key: key.to_owned(),
            expected: expected.into(),
        }
    }
}

impl Target {
    /// Reads a libpq connection string: a URL
    /// (`postgres://user:password@host:port/database?sslmode=…`) or `key=value` pairs.
    ///
    /// What it leaves out comes from `PGHOST`, `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGDATABASE`,
    /// `PGSSLMODE`, `PGSSLROOTCERT`, `PGCONNECT_TIMEOUT` and the password file (`PGPASSFILE`,
    /// `~/.pgpass`), in libpq's way.
    ///
    /// # Errors
    ///
    /// [`TargetError`], which never holds the string or a part of it other than a setting's name.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        Self::parse_with(text, &|name| {
            std::env::var(name).ok().filter(|value| !value.is_empty())
        })
    }

    fn parse_with(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, TargetError> {
        let mut given = Settings::read(conninfo::pairs(text)?)?;
        for (key, name) in [
            ("host", "PGHOST"),
            ("hostaddr", "PGHOSTADDR"),
            ("port", "PGPORT"),
            ("user", "PGUSER"),
            ("password", "PGPASSWORD"),
            ("dbname", "PGDATABASE"),
            ("sslmode", "PGSSLMODE"),
            ("sslrootcert", "PGSSLROOTCERT"),
            ("connect_timeout", "PGCONNECT_TIMEOUT"),
            ("passfile", "PGPASSFILE"),
        ] {
            // An address in the string is a choice of the host as well.
            let host_given = key.starts_with("host") && given.has_host();
            if !host_given && given.get(key).is_none() {
                given
                    .0
                    .extend(env(name).map(|value| (key.to_owned(), value)));
            }
        }
        let home = env("HOME").map(PathBuf::from);
        let tls = tls_settings(&mut given, home.as_deref())?;
        let passfile = given.take("passfile").map(PathBuf::from);
        let passfile = passfile.or_else(|| Some(home?.join(".pgpass")));
        let user = match given.take("user") {
            Some(user) => user,
            None => whoami::username().map_err(|_| TargetError::NoUser)?,
        };
        let database = given.take("dbname").unwrap_or_else(|| user.clone());
        let mut endpoints = given.endpoints()?;
        let password = given
            .take("password")
            .filter(|password| !password.is_empty());
        let mut config = given.rest_as_config()?;
        config.user(&user).dbname(&database);
        match (password, passfile) {
            (Some(password), _) => {
                config.password(password);
            }
            (None, Some(path)) => {
                for endpoint in &mut endpoints {
                    endpoint.password =
                        passfile::password(&path, &endpoint.wanted(&database, &user));
                }
            }
            (None, None) => {}
        }
        Ok(Self {
            config,
            endpoints,
            tls,
            connector: Arc::default(),
            user,
            database,
        })
    }

    /// Returns the target of a server that listens on a socket in a directory and lets this user in
    /// without a password.
    pub fn local_socket(directory: &Path, port: u16, user: &str, database: &str) -> Self {
        let mut config = Config::new();
        config
            .user(user)
            .dbname(database)
            .connect_timeout(CONNECT_TIMEOUT);
        Self {
            config,
            endpoints: vec![Endpoint {
                place: Place::Unix(directory.to_owned()),
                port,
                password: None,
            }],
            tls: TlsSettings::new(SslMode::Disable),
            connector: Arc::default(),
            user: user.to_owned(),
            database: database.to_owned(),
        }
    }

    /// Returns the same server with another database.
    #[must_use]
    pub fn with_database(&self, database: &str) -> Self {
        let mut other = self.clone();
        other.config.dbname(database);
        database.clone_into(&mut other.database);
        other
    }

    /// Returns the same server with another login role. The password of the first one is not kept.
    #[must_use]
    pub fn with_login(&self, user: &str, password: Option<&str>) -> Self {
        let mut other = self.clone();
        other
            .config
            .user(user)
            .password(password.unwrap_or_default());
        user.clone_into(&mut other.user);
        for endpoint in &mut other.endpoints {
            endpoint.password = None;
        }
        other
    }

    /// Returns the user to log in as.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Returns the database to connect to.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Returns how far TLS is asked for; always [`SslMode::Disable`] on a socket, as in libpq.
    pub fn ssl_mode(&self) -> SslMode {
        self.tls.mode
    }
}

impl Endpoint {
    /// Returns the configuration for this place alone.
    pub fn config(&self, base: &Config) -> Config {
        let mut config = base.clone();
        config.port(self.port);
        match &self.place {
            Place::Unix(directory) => {
                config.host_path(directory);
            }
            Place::Tcp { host, address } => {
                config.host(host);
                if let Some(address) = address {
                    config.hostaddr(*address);
                }
            }
        }
        if let Some(password) = &self.password {
            config.password(password);
        }
        config
    }

    fn wanted<'a>(&'a self, database: &'a str, user: &'a str) -> passfile::Wanted<'a> {
        let host = match &self.place {
            // Sockets stand under the name of the machine itself, as in libpq.
            Place::Unix(directory)
                if default_socket_directories().contains(&directory.as_path()) =>
            {
                "localhost"
            }
            Place::Unix(directory) => directory.to_str().unwrap_or_default(),
            Place::Tcp { host, .. } => host,
        };
        passfile::Wanted {
            host,
            port: self.port,
            database,
            user,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Unix(directory) => write!(f, "{}/.s.PGSQL.{}", directory.display(), self.port),
            Place::Tcp { host, .. } if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            Place::Tcp { host, .. } => write!(f, "{host}:{}", self.port),
        }
    }
}

/// `user@host:port/database`, several hosts separated by commas; the directory of a socket stands
/// for its host.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@", self.user)?;
        for (i, endpoint) in self.endpoints.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match &endpoint.place {
                Place::Unix(directory) => {
                    write!(f, "{comma}{}:{}", directory.display(), endpoint.port)?;
                }
                Place::Tcp { .. } => write!(f, "{comma}{endpoint}")?,
            }
        }
        write!(f, "/{}", self.database)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({self}, {:?})", self.tls)
    }
}

/// The settings of one string, each key once.
struct Settings(Vec<(String, String)>);

impl Settings {
    /// Brings libpq's spellings to those that are read below.
    fn read(pairs: conninfo::Pairs) -> Result<Self, TargetError> {
        let mut settings = Self(Vec::new());
        for (key, value) in pairs {
            let (key, value) = match (key.as_str(), value.as_str()) {
                ("ssl", "true") => ("sslmode", "require".to_owned()),
                ("keepalives_count", _) => ("keepalives_retries", value),
                ("fallback_application_name", _) if settings.get("application_name").is_some() => {
                    continue;
                }
                ("fallback_application_name", _) => ("application_name", value),
                // Ways to log in that we never use, and the encoding that is always UTF-8.
                ("gssencmode", "disable" | "prefer") => continue,
                ("client_encoding", _) if is_utf8(&value) => continue,
                ("sslcompression" | "sslsni" | "krbsrvname" | "gsslib", _) => continue,
                (key, _) if KEYS.contains(&key) => (key, value),
                _ => return Err(TargetError::UnknownSetting { key }),
            };
            settings.0.retain(|(known, _)| known != key);
            settings.0.push((key.to_owned(), value));
        }
        Ok(settings)
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value.as_str())
    }

    fn take(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == key)?;
        Some(self.0.swap_remove(at).1)
    }

    fn has_host(&self) -> bool {
        self.get("host").is_some() || self.get("hostaddr").is_some()
    }

    fn endpoints(&mut self) -> Result<Vec<Endpoint>, TargetError> {
        let hosts = list(self.take("host"));
        let addresses = list(self.take("hostaddr"));
        let ports = list(self.take("port"));
        let count = hosts.len().max(addresses.len()).max(1);
        for (key, len) in [("host", hosts.len()), ("hostaddr", addresses.len())] {
            if len != 0 && len != count {
                return Err(TargetError::value(key, "as many as the other hosts"));
            }
        }
        if ports.len() > 1 && ports.len() != count {
            return Err(TargetError::value("port", "one, or one for each host"));
        }
        (0..count)
            .map(|i| {
                let port = match ports.get(i).or(ports.first()).map(String::as_str) {
                    None | Some("") => PORT,
                    Some(port) => port
                        .parse()
                        .ok()
                        .filter(|port| *port != 0)
                        .ok_or_else(|| TargetError::value("port", "a number from 1 to 65535"))?,
                };
                let place = place(hosts.get(i), addresses.get(i))?;
                Ok(Endpoint {
                    place,
                    port,
                    password: None,
                })
            })
            .collect()
    }

    /// The settings that tokio-postgres reads itself.
    fn rest_as_config(self) -> Result<Config, TargetError> {
        let mut words = format!(
            "connect_timeout={} keepalives_idle={} ",
            CONNECT_TIMEOUT.as_secs(),
            KEEPALIVE_IDLE.as_secs()
        );
        for (key, value) in &self.0 {
            let pair = conninfo::quoted_pair(key, value);
            // Alone first, since the error does not say which one it is about.
            if pair.parse::<Config>().is_err() {
                return Err(TargetError::value(key, expected_value(key)));
            }
            words.push_str(&pair);
        }
        words
            .parse()
            .map_err(|_| TargetError::syntax("its settings do not go together"))
    }
}

/// Everything that may stand in a connection string.
const KEYS: [&str; 21] = [
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "load_balance_hosts",
    "options",
    "passfile",
    "password",
    "port",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

fn expected_value(key: &str) -> &'static str {
    match key {
        "channel_binding" => "disable, prefer or require",
        "load_balance_hosts" => "disable or random",
        "sslnegotiation" => "postgres or direct",
        "target_session_attrs" => "any, read-write or read-only",
        _ => "a whole number",
    }
}

fn is_utf8(encoding: &str) -> bool {
    ["utf8", "utf-8", "unicode", "auto"].contains(&encoding.to_ascii_lowercase().as_str())
}

fn list(value: Option<String>) -> Vec<String> {
    let value = value.unwrap_or_default();
    if value.is_empty() {
        Vec::new()
    } else {
        value.split(',').map(str::to_owned).collect()
    }
}

fn place(host: Option<&String>, address: Option<&String>) -> Result<Place, TargetError> {
    let address = match address.map(String::as_str) {
        None | Some("") => None,
        Some(text) => Some(
            text.parse::<IpAddr>()
                .map_err(|_| TargetError::value("hostaddr", "an IP address"))?,
        ),
    };
    let host = host.map(String::as_str).unwrap_or_default();
    match (host, address) {
        ("", None) => Ok(Place::Unix(default_socket_directory())),
        // The address serves as the name that the certificate must carry.
        ("", Some(address)) => Ok(Place::Tcp {
            host: address.to_string(),
            address: Some(address),
        }),
        _ if host.starts_with('/') => Ok(Place::Unix(PathBuf::from(host))),
        _ if host.starts_with('@') => Err(TargetError::value(
            "host",
            "a name, an address or the directory of a socket",
        )),
        _ => Ok(Place::Tcp {
            host: host.to_owned(),
            address,
        }),
    }
}

fn default_socket_directories() -> [&'static Path; 2] {
    [Path::new("/var/run/postgresql"), Path::new("/tmp")]
}

/// Debian's place if it is there, otherwise the one that Postgres has when built from source.
fn default_socket_directory() -> PathBuf {
    let [debian, source] = default_socket_directories();
    if debian.is_dir() {
        debian.to_owned()
    } else {
        source.to_owned()
    }
}

/// TLS as libpq understands it, with the traps that it keeps: `require` with a root certificate
/// verifies the authority, and `sslrootcert=system` goes with `verify-full` alone.
fn tls_settings(given: &mut Settings, home: Option<&Path>) -> Result<TlsSettings, TargetError> {
    let mode = given.take("sslmode");
    let roots = given.take("sslrootcert");
    let mode = mode
        .as_deref()
        .map(str::parse::<SslMode>)
        .transpose()
        .map_err(|()| {
            TargetError::value(
                "sslmode",
                "disable, allow, prefer, require, verify-ca or verify-full",
            )
        })?;
    let direct = given.get("sslnegotiation") == Some("direct");
    if roots.as_deref() == Some("system") {
        if mode.is_some_and(|mode| mode != SslMode::VerifyFull) {
            return Err(TargetError::value(
                "sslmode",
                "verify-full with sslrootcert=system",
            ));
        }
        return Ok(TlsSettings {
            mode: SslMode::VerifyFull,
            roots: Roots::System,
            direct,
        });
    }
    let roots = roots.map(PathBuf::from).or_else(|| {
        let default = home?.join(".postgresql/root.crt");
        default.is_file().then_some(default)
    });
    let mode = match mode.unwrap_or(SslMode::Prefer) {
        SslMode::Require if roots.is_some() => SslMode::VerifyCa,
        mode => mode,
    };
    if direct && mode < SslMode::Require {
        return Err(TargetError::value(
            "sslmode",
            "require or stronger with sslnegotiation=direct",
        ));
    }
    Ok(TlsSettings {
        mode,
        roots: roots.map_or(Roots::System, Roots::File),
        direct,
    })
}

#[cfg(test)]
mod tests;
