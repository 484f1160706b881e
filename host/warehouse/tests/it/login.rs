//! Connections that fail, and what is said of them.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use stepwell_warehouse::{RetryClass, Session, SessionOptions, Target, WarehouseError};

use crate::harness::{Server, free_port, text};

async fn refused(target: &Target) -> WarehouseError {
    Session::connect(target, &SessionOptions::default())
        .await
        .expect_err("refused")
}

fn parse(text: &str) -> Target {
    Target::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[tokio::test]
async fn no_server() {
    let port = free_port();
    let error = refused(&parse(&format!("postgres://me:hunter2@127.0.0.1:{port}/d"))).await;
    assert!(
        matches!(error, WarehouseError::Unreachable { .. }),
        "{error:?}"
    );
    assert_eq!(
        error.to_string(),
        format!("no Postgres server answers at 127.0.0.1:{port}")
    );
    assert!(error.help().expect("help").contains("is it running"));
    assert_eq!(error.retry_class(), RetryClass::AfterReconnect);
    assert!(!format!("{error:?}").contains("hunter2"));

    let error = refused(&parse("host=/nowhere/at/all user=me")).await;
    assert_eq!(
        error.to_string(),
        "no Postgres server answers at /nowhere/at/all/.s.PGSQL.5432"
    );
    assert!(!error.is_private_server_stopped());
    assert_eq!(error.retry_class(), RetryClass::AfterReconnect);

    let error = refused(&parse("host=/nowhere/.stepwell/postgres/run user=me")).await;
    assert!(error.is_private_server_stopped());
    let help = error.help().expect("help");
    assert!(
        help.contains("the private server of /nowhere,") && help.contains("`stepwell local start`"),
        "{help}"
    );

    let error = refused(&parse("postgres://me@no-such-host.invalid/d")).await;
    assert!(
        matches!(error, WarehouseError::Unreachable { .. }),
        "{error:?}"
    );
}

/// Something that is not Postgres answers.
#[tokio::test]
async fn another_kind_of_server() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let answering = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("a connection");
        let _ = socket.read(&mut [0; 64]);
        let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let error = refused(&parse(&format!(
        "postgres://me@127.0.0.1:{port}/d?sslmode=disable"
    )))
    .await;
    answering.join().expect("answered");
    assert!(
        matches!(error, WarehouseError::Unreachable { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn no_such_database() {
    let server = Server::shared();
    let error = refused(&server.target.with_database("nowhere")).await;
    assert!(
        matches!(error, WarehouseError::NoDatabase { .. }),
        "{error:?}"
    );
    assert_eq!(error.sqlstate(), Some("3D000"));
    assert!(error.help().expect("help").contains("createdb nowhere"));
}

#[tokio::test]
async fn passwords() {
    let port = free_port().to_string();
    let server = Server::with(&[("listen_addresses", "127.0.0.1"), ("port", &port)]);
    let admin = server.session().await;
    std::fs::write(
        server.dir().join("postgres/data/pg_hba.conf"),
        "local all all trust\nhost all locked_out all reject\nhost all all all scram-sha-256\n",
    )
    .expect("written");
    admin
        .batch(
            "SET password_encryption = 'scram-sha-256';
             CREATE ROLE me LOGIN PASSWORD 'right';
             CREATE ROLE locked_out LOGIN;
             SELECT pg_reload_conf()",
        )
        .await
        .expect("created");
    let url = |login: &str| parse(&format!("postgres://{login}@127.0.0.1:{port}/postgres"));
    // The new rules take effect when the server has read them.
    let right = url("me:right");
    let mut error = refused_or_none(&url("me:wrong")).await;
    while error.is_none() {
        error = refused_or_none(&url("me:wrong")).await;
    }
    let error = error.expect("refused");
    assert!(
        matches!(error, WarehouseError::Authentication { .. }),
        "{error:?}"
    );
    assert_eq!(error.sqlstate(), Some("28P01"));
    assert!(error.help().expect("help").contains("PGPASSWORD"));
    assert_eq!(error.retry_class(), RetryClass::Never);
    assert!(!format!("{error:?} {error}").contains("wrong"));
    let session = Session::connect(&right, &SessionOptions::default())
        .await
        .expect("connected");
    assert_eq!(session.server(), format!("127.0.0.1:{port}"));

    let error = refused(&right.with_login("me", None)).await;
    assert!(
        matches!(error, WarehouseError::Authentication { .. }),
        "{error:?}"
    );
    let error = refused(&url("me")).await;
    assert!(
        matches!(error, WarehouseError::Authentication { .. }),
        "{error:?}"
    );
    let error = refused(&url("locked_out:x")).await;
    assert_eq!(error.sqlstate(), Some("28000"));
    assert!(
        error.help().expect("help").contains("pg_hba.conf"),
        "{error:?}"
    );
    // Several hosts: the first that answers is taken.
    let dead = free_port();
    let several = parse(&format!(
        "postgres://me:right@127.0.0.1:{dead},127.0.0.1:{port}/postgres"
    ));
    Session::connect(&several, &SessionOptions::default())
        .await
        .expect("connected");
}

async fn refused_or_none(target: &Target) -> Option<WarehouseError> {
    Session::connect(target, &SessionOptions::default())
        .await
        .err()
}

/// Poolers and Redshift refuse settings in the start-up packet; they are set afterwards then.
#[tokio::test]
async fn a_pooler_that_takes_no_settings_at_start() {
    let server = Server::shared();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let socket = server.dir().join("postgres/run/.s.PGSQL.5432");
    let pooling = std::thread::spawn(move || pool(&listener, &socket));
    let target = parse(&format!(
        "postgres://postgres@127.0.0.1:{port}/postgres?sslmode=disable"
    ));
    let options = SessionOptions {
        application_name: "through a pooler".into(),
        settings: vec![("geqo_threshold".into(), "7".into())],
        ..SessionOptions::default()
    };
    let session = Session::connect(&target, &options)
        .await
        .expect("connected");
    for (name, value) in [
        ("search_path", "pg_catalog, pg_temp"),
        ("TimeZone", "UTC"),
        ("jit", "off"),
        ("geqo_threshold", "7"),
        ("application_name", "through a pooler"),
    ] {
        let sql = format!("SELECT current_setting('{name}')");
        assert_eq!(
            text(&session, &sql, &[]).await.as_deref(),
            Some(value),
            "{name}"
        );
    }
    drop(session);
    // Not joined here and now: the session's last message is sent by this very thread.
    let ended = tokio::task::spawn_blocking(move || pooling.join().is_ok()).await;
    assert!(ended.expect("joined"));
}

/// Refuses one client as PgBouncer does, then passes the next one on until it leaves.
fn pool(listener: &TcpListener, socket: &Path) {
    let (mut client, _) = listener.accept().expect("a connection");
    let startup = startup_packet(&mut client);
    assert!(
        startup.windows(8).any(|word| word == b"options\0"),
        "settings in the first packet"
    );
    let mut fields = Vec::new();
    for field in [
        "SFATAL",
        "VFATAL",
        "C08P01",
        "Munsupported startup parameter: options",
        "",
    ] {
        fields.extend_from_slice(field.as_bytes());
        fields.push(0);
    }
    let len = u32::try_from(fields.len() + 4).expect("short");
    client
        .write_all(&[&b"E"[..], &len.to_be_bytes(), &fields].concat())
        .expect("refused");
    drop(client);

    let (mut client, _) = listener.accept().expect("a second connection");
    let startup = startup_packet(&mut client);
    let mut server = UnixStream::connect(socket).expect("the real server");
    server.write_all(&startup).expect("passed on");
    let (mut from_server, mut to_client) = (
        server.try_clone().expect("a handle"),
        client.try_clone().expect("a handle"),
    );
    let answers = std::thread::spawn(move || io::copy(&mut from_server, &mut to_client));
    let _ = io::copy(&mut client, &mut server);
    let _ = server.shutdown(Shutdown::Both);
    let _ = answers.join().expect("ended");
}

fn startup_packet(client: &mut TcpStream) -> Vec<u8> {
    let mut packet = vec![0; 4];
    client.read_exact(&mut packet).expect("a length");
    let len = u32::from_be_bytes([packet[0], packet[1], packet[2], packet[3]]) as usize;
    packet.resize(len, 0);
    client.read_exact(&mut packet[4..]).expect("a packet");
    packet
}
