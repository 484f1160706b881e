//! Where to connect, and how far to trust what answers there.
//!
//! Hides the two spellings of a connection string, the environment's share in it, and which TLS
//! setting follows from which words. The password goes in and never comes out.

mod conninfo;
mod passfile;
mod settings;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio_postgres::Config;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::tls::{SslMode, TlsSettings};
use settings::{Settings, default_socket_directories};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

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
                given.extend(env(name).map(|value| (key.to_owned(), value)));
            }
        }
        let home = env("HOME").map(PathBuf::from);
        let tls = given.take_tls(home.as_deref())?;
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

    /// Returns a connection string for this target, if it is on a local socket; no password is in it.
    pub fn socket_url(&self) -> Option<String> {
        const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');
        let encode = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
        let endpoint = self.endpoints.first()?;
        let Place::Unix(directory) = &endpoint.place else {
            return None;
        };
        Some(format!(
            "postgres://{}@/{}?host={}&port={}",
            encode(&self.user),
            encode(&self.database),
            encode(directory.to_str()?).replace("%2F", "/"),
            endpoint.port,
        ))
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

#[cfg(test)]
mod tests;
