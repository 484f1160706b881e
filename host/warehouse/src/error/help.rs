use std::error::Error as StdError;
use std::io;
use std::path::Path;

use super::WarehouseError;
use super::retry::is_unknown_host;
use crate::local::private_socket;

pub(super) fn help(error: &WarehouseError) -> Option<String> {
    match error {
        WarehouseError::Unreachable { server, source } => {
            Some(unreachable(server, source.as_ref()))
        }
        WarehouseError::Authentication {
            user,
            sqlstate,
            message,
            ..
        } => Some(authentication(user, sqlstate.as_deref(), message)),
        WarehouseError::Tls { source, .. } => Some(tls(&chain(source.as_ref()))),
        WarehouseError::NoDatabase { database, .. } => Some(format!(
            "create it with `createdb {database}`, or name another database at the end of the URL"
        )),
        WarehouseError::Refused { error, .. } => refused(&error.sqlstate),
        WarehouseError::DiskFull(_) => {
            Some("free space on the server's disk, then run again".to_owned())
        }
        WarehouseError::ConnectionLost { .. } => {
            Some("see the server's log for the reason, then run again".to_owned())
        }
        _ => None,
    }
}

fn unreachable(server: &str, source: &(dyn StdError + 'static)) -> String {
    let kind = io_kind(source);
    if is_unknown_host(source) {
        return "check the host name for a typing mistake, and that this machine's resolver knows it"
            .to_owned();
    }
    if let (Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused), Some(project)) =
        (kind, private_socket(Path::new(server)))
    {
        return private(project);
    }
    if server.starts_with('/') {
        return "is it running, and does its `unix_socket_directories` hold this directory? \
                Without a URL the private local server is used"
            .to_owned();
    }
    match kind {
        Some(io::ErrorKind::ConnectionRefused) => {
            "is it running, and does it listen on that port? \
             Without a URL the private local server is used"
                .to_owned()
        }
        Some(io::ErrorKind::TimedOut) => {
            "a firewall or security group may drop the packets: allow this machine's address"
                .to_owned()
        }
        _ => "check the host name and the port, and that this machine reaches it".to_owned(),
    }
}

/// What to do about a private server that does not run. A URL with its socket does not start it.
fn private(project: Option<&Path>) -> String {
    let (whose, there) = match project {
        Some(project) => (format!(" of {}", project.display()), "there"),
        None => (String::new(), "in the folder of its project"),
    };
    format!(
        "it is the private server{whose}, which is not running: start it with `stepwell local start` {there}. Without a URL \
         each run starts it by itself"
    )
}

pub(super) fn is_private_and_stopped(error: &WarehouseError) -> bool {
    match error {
        WarehouseError::Unreachable { server, source } => {
            io_kind(source.as_ref()) == Some(io::ErrorKind::NotFound)
                && private_socket(Path::new(server)).is_some()
        }
        _ => false,
    }
}

fn authentication(user: &str, sqlstate: Option<&str>, message: &str) -> String {
    if sqlstate == Some("28P01") {
        return format!(
            "check the password of user \"{user}\" in the URL, in PGPASSWORD or in ~/.pgpass"
        );
    }
    if sqlstate == Some("28000") && message.contains("pg_hba.conf") {
        return "the server's pg_hba.conf lets nobody in from here in this way: \
                add a line there, or set `sslmode=require` if it wants encryption"
            .to_owned();
    }
    if sqlstate.is_none() && message.contains("password") {
        return "give one in the URL, in PGPASSWORD or in ~/.pgpass".to_owned();
    }
    format!("check the user \"{user}\" and how the server wants it to log in")
}

fn tls(words: &str) -> String {
    if words.contains("does not support TLS") {
        return "the server is not set up for TLS: turn `ssl` on there, \
                or use `sslmode=prefer` where the network is trusted"
            .to_owned();
    }
    if words.contains("NotValidForName") || words.contains("not valid for name") {
        return "the certificate is for another name: use that name as the host, \
                or `sslmode=verify-ca` to leave the name unchecked"
            .to_owned();
    }
    if words.contains("UnknownIssuer") || words.contains("not signed by") {
        return "the certificate is not signed by a trusted authority: \
                name the right one with `sslrootcert=<file>`"
            .to_owned();
    }
    if words.contains("expired") || words.contains("Expired") {
        return "renew the server's certificate, and check both clocks".to_owned();
    }
    "check `sslmode`, `sslrootcert` and the server's certificate".to_owned()
}

fn refused(sqlstate: &str) -> Option<String> {
    match sqlstate {
        "57P03" => Some("the server is starting or stopping: try again in a moment".to_owned()),
        "53300" => Some("close other sessions, or raise the server's `max_connections`".to_owned()),
        "42501" => Some("grant this user CONNECT on the database".to_owned()),
        _ => None,
    }
}

fn io_kind(mut error: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    loop {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        error = error.source()?;
    }
}

fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        words.push_str(": ");
        words.push_str(&error.to_string());
        next = error.source();
    }
    words
}
