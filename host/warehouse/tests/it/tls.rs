//! What each `sslmode` accepts, against a server with a certificate of a made-up authority.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use stepwell_warehouse::{Session, SessionOptions, SslMode, Target, WarehouseError};

use crate::harness::{Server, free_port, text};

struct Secured {
    server: Server,
    port: u16,
    /// The authority that signed the server's certificate, and one that did not.
    right_ca: PathBuf,
    wrong_ca: PathBuf,
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed")
}

/// A file that the server's user owns and nobody else reads, as Postgres demands of a key.
fn hand_over(path: &Path, text: &str, data: &Path) {
    fs::write(path, text).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("mode set");
    let owner = data.metadata().expect("a data directory");
    chown(path, Some(owner.uid()), Some(owner.gid())).expect("handed over");
}

impl Secured {
    /// Starts a server whose certificate is for the name `localhost` alone.
    async fn start(hba: &str) -> Self {
        let port = free_port();
        let server = Server::with(&[
            ("listen_addresses", "127.0.0.1"),
            ("port", &port.to_string()),
        ]);
        let data = server.dir().join("postgres/data");
        let (right, wrong) = (authority("right"), authority("wrong"));
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &right).expect("signed");
        hand_over(&data.join("server.crt"), &certificate.pem(), &data);
        hand_over(&data.join("server.key"), &key.serialize_pem(), &data);
        fs::write(data.join("pg_hba.conf"), hba).expect("written");
        let admin = server.session().await;
        admin
            .batch(
                "SET password_encryption = 'scram-sha-256'; CREATE ROLE me LOGIN PASSWORD 'right'",
            )
            .await
            .expect("created");
        admin
            .execute("ALTER SYSTEM SET ssl = on", &[])
            .await
            .expect("set");
        drop(admin);
        server.local.stop().expect("stopped");
        server.local.ensure_running().expect("started");
        let (right_ca, wrong_ca) = (
            server.dir().join("right.crt"),
            server.dir().join("wrong.crt"),
        );
        fs::write(&right_ca, right.pem()).expect("written");
        fs::write(&wrong_ca, wrong.pem()).expect("written");
        Self {
            server,
            port,
            right_ca,
            wrong_ca,
        }
    }

    fn target(&self, host: &str, query: &str) -> Target {
        let url = format!("postgres://me:right@{host}:{}/postgres?{query}", self.port);
        Target::parse(&url).unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    async fn connect(&self, host: &str, query: &str) -> Result<Session, WarehouseError> {
        Session::connect(&self.target(host, query), &SessionOptions::default()).await
    }

    fn root(&self, mode: &str, ca: &Path) -> String {
        format!("sslmode={mode}&sslrootcert={}", ca.display())
    }
}

async fn encrypted(session: &Session) -> bool {
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    text(session, sql, &[]).await.as_deref() == Some("true")
}

const PASSWORD: &str = "local all all trust\nhost all all all scram-sha-256\n";

/// Goal: each mode of libpq accepts and refuses what it promises, no more and no less.
#[tokio::test]
async fn each_mode_accepts_what_it_promises() {
    let secured = Secured::start(PASSWORD).await;
    let (right, wrong) = (&secured.right_ca, &secured.wrong_ca);
    // The host, the query, and whether the connection is encrypted; none where it is refused.
    let cases = [
        ("localhost", "sslmode=disable".to_owned(), Some(false)),
        ("localhost", "sslmode=allow".to_owned(), Some(false)),
        ("localhost", "sslmode=prefer".to_owned(), Some(true)),
        ("localhost", "sslmode=require".to_owned(), Some(true)),
        ("127.0.0.1", "sslmode=require".to_owned(), Some(true)),
        ("localhost", secured.root("require", wrong), None),
        ("127.0.0.1", secured.root("require", right), Some(true)),
        ("localhost", secured.root("verify-ca", right), Some(true)),
        ("127.0.0.1", secured.root("verify-ca", right), Some(true)),
        ("localhost", secured.root("verify-ca", wrong), None),
        ("localhost", secured.root("verify-full", right), Some(true)),
        ("127.0.0.1", secured.root("verify-full", right), None),
        ("localhost", secured.root("verify-full", wrong), None),
        (
            "localhost",
            "sslmode=verify-full&sslrootcert=/nowhere.crt".to_owned(),
            None,
        ),
    ];
    for (host, query, expected) in cases {
        match (secured.connect(host, &query).await, expected) {
            (Ok(session), Some(expected)) => {
                assert_eq!(encrypted(&session).await, expected, "{host} {query}");
            }
            (Err(WarehouseError::Tls { .. }), None) => {}
            (outcome, _) => panic!("{host} {query}: {outcome:?}"),
        }
    }
    for (host, ca, help) in [
        ("127.0.0.1", right, "another name"),
        ("localhost", wrong, "sslrootcert"),
    ] {
        let query = secured.root("verify-full", ca);
        let error = secured.connect(host, &query).await.expect_err("refused");
        assert!(error.help().expect("help").contains(help), "{error:?}");
    }
}

/// Goal: the password exchange is bound to the certificate, so that nobody in between can pass it
/// on.
#[tokio::test]
async fn the_password_is_bound_to_the_channel() {
    let secured = Secured::start(PASSWORD).await;
    let session = secured
        .connect("localhost", "sslmode=require&channel_binding=require")
        .await;
    assert!(encrypted(&session.expect("connected")).await);
    let error = secured
        .connect("localhost", "sslmode=disable&channel_binding=require")
        .await
        .expect_err("no channel to bind to");
    assert!(
        matches!(error, WarehouseError::Authentication { .. }),
        "{error:?}"
    );
}

/// `allow` and `prefer` try again the other way where the server insists on one.
#[tokio::test]
async fn a_server_that_insists() {
    let only_tls = "local all all trust\nhostssl all all all scram-sha-256\n";
    let secured = Secured::start(only_tls).await;
    for mode in ["allow", "prefer"] {
        let session = secured
            .connect("localhost", &format!("sslmode={mode}"))
            .await;
        assert!(encrypted(&session.expect(mode)).await, "{mode}");
    }
    let error = secured
        .connect("localhost", "sslmode=disable")
        .await
        .expect_err("refused");
    assert!(
        error.help().expect("help").contains("sslmode=require"),
        "{error:?}"
    );

    let never_tls = "local all all trust\nhostnossl all all all scram-sha-256\n";
    fs::write(
        secured.server.dir().join("postgres/data/pg_hba.conf"),
        never_tls,
    )
    .expect("written");
    secured.server.local.stop().expect("stopped");
    secured.server.local.ensure_running().expect("started");
    let session = secured
        .connect("localhost", "sslmode=prefer")
        .await
        .expect("connected");
    assert!(!encrypted(&session).await);
    // Never without encryption where it was asked for.
    let error = secured
        .connect("localhost", "sslmode=require")
        .await
        .expect_err("refused");
    assert_eq!(error.sqlstate(), Some("28000"));
}

/// A cancel goes out encrypted as well, to a server that would not take it otherwise.
#[tokio::test]
async fn a_cancel_over_tls() {
    let secured = Secured::start(PASSWORD).await;
    let query = secured.root("verify-full", &secured.right_ca);
    let session = secured
        .connect("localhost", &query)
        .await
        .expect("connected");
    let pid = session.backend_pid().await.expect("a process");
    let canceller = session.canceller();
    let cancelling = async {
        let other = secured.server.session().await;
        let sql = format!("SELECT wait_event FROM pg_stat_activity WHERE pid = {pid}");
        while text(&other, &sql, &[]).await.as_deref() != Some("PgSleep") {
            tokio::task::yield_now().await;
        }
        canceller.cancel().await.expect("asked");
    };
    let (slept, ()) = tokio::join!(session.execute("SELECT pg_sleep(60)", &[]), cancelling);
    assert!(
        matches!(slept, Err(WarehouseError::Cancelled(_))),
        "{slept:?}"
    );
}

/// What bounds the server's messages sees them decrypted.
#[tokio::test]
async fn a_message_that_is_too_long_over_tls() {
    let secured = Secured::start(PASSWORD).await;
    let query = secured.root("verify-full", &secured.right_ca);
    let options = SessionOptions {
        message_bytes_max: Some(1 << 20),
        ..SessionOptions::default()
    };
    let session = Session::connect(&secured.target("localhost", &query), &options)
        .await
        .expect("connected");
    assert!(encrypted(&session).await);
    let fits = text(&session, "SELECT repeat('x', 1000000)", &[]).await;
    assert_eq!(fits.map(|text| text.len()), Some(1_000_000));
    let error = session.execute("SELECT repeat('x', 3000000)", &[]).await;
    assert!(
        matches!(error, Err(WarehouseError::AnswerTooLarge { .. })),
        "{error:?}"
    );
}

/// The plainest of set-ups: one self-signed certificate, which is the root as well.
#[tokio::test]
async fn a_self_signed_certificate_as_its_own_root() {
    let secured = Secured::start(PASSWORD).await;
    let data = secured.server.dir().join("postgres/data");
    let ca = || IsCa::Ca(BasicConstraints::Unconstrained);
    for (is_ca, expired) in [
        (IsCa::NoCa, false),
        (ca(), false),
        (ca(), true),
        (IsCa::NoCa, true),
    ] {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        params.is_ca = is_ca;
        if expired {
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        }
        let certificate = params.self_signed(&key).expect("signed").pem();
        hand_over(&data.join("server.crt"), &certificate, &data);
        hand_over(&data.join("server.key"), &key.serialize_pem(), &data);
        let root = secured.server.dir().join("self.crt");
        fs::write(&root, certificate).expect("written");
        secured.server.local.stop().expect("stopped");
        secured.server.local.ensure_running().expect("started");
        let full = secured.root("verify-full", &root);
        if expired {
            let error = secured
                .connect("localhost", &full)
                .await
                .expect_err("expired");
            assert!(error.help().expect("help").contains("renew"), "{error:?}");
            continue;
        }
        secured
            .connect("localhost", &full)
            .await
            .expect("connected");
        secured
            .connect("127.0.0.1", &full)
            .await
            .expect_err("another name");
        secured
            .connect("127.0.0.1", &secured.root("verify-ca", &root))
            .await
            .expect("connected");
        let wrong = secured.root("verify-ca", &secured.wrong_ca);
        secured
            .connect("localhost", &wrong)
            .await
            .expect_err("not trusted");
    }
}

#[tokio::test]
async fn a_server_without_tls() {
    let port = free_port();
    let server = Server::with(&[
        ("listen_addresses", "127.0.0.1"),
        ("port", &port.to_string()),
    ]);
    let url = |mode| format!("postgres://postgres@127.0.0.1:{port}/postgres?sslmode={mode}");
    let target = Target::parse(&url("require")).expect("a target");
    assert_eq!(target.ssl_mode(), SslMode::Require);
    let error = Session::connect(&target, &SessionOptions::default())
        .await
        .expect_err("no TLS");
    assert!(matches!(error, WarehouseError::Tls { .. }), "{error:?}");
    assert!(
        error.help().expect("help").contains("not set up for TLS"),
        "{error:?}"
    );
    let target = Target::parse(&url("prefer")).expect("a target");
    let session = Session::connect(&target, &SessionOptions::default())
        .await
        .expect("connected");
    assert!(!encrypted(&session).await);
    drop(server);
}
