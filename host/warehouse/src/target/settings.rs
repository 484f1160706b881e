//! The settings of a connection string, and what each of them becomes.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tokio_postgres::Config;

use super::{CONNECT_TIMEOUT, Endpoint, KEEPALIVE_IDLE, Place, TargetError, conninfo};
use crate::tls::{Roots, SslMode, TlsSettings};

const PORT: u16 = 5432;

/// The settings of one string, each key once.
pub(super) struct Settings(Vec<(String, String)>);

impl Settings {
    /// Brings libpq's spellings to those that are read below.
    pub fn read(pairs: conninfo::Pairs) -> Result<Self, TargetError> {
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

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value.as_str())
    }

    pub fn take(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == key)?;
        Some(self.0.swap_remove(at).1)
    }

    pub fn extend(&mut self, pair: Option<(String, String)>) {
        self.0.extend(pair);
    }

    pub fn has_host(&self) -> bool {
        self.get("host").is_some() || self.get("hostaddr").is_some()
    }

    pub fn endpoints(&mut self) -> Result<Vec<Endpoint>, TargetError> {
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

    /// TLS as libpq understands it, with the traps that it keeps: `require` with a root certificate
    /// verifies the authority, and `sslrootcert=system` goes with `verify-full` alone.
    pub fn take_tls(&mut self, home: Option<&Path>) -> Result<TlsSettings, TargetError> {
        let mode = self.take("sslmode");
        let roots = self.take("sslrootcert");
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
        let direct = self.get("sslnegotiation") == Some("direct");
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

    /// The settings that tokio-postgres reads itself.
    pub fn rest_as_config(self) -> Result<Config, TargetError> {
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

pub(super) fn default_socket_directories() -> [&'static Path; 2] {
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
