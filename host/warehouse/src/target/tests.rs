use super::*;

fn parse(text: &str) -> Result<Target, TargetError> {
    parse_in(text, &[])
}

fn parse_in(text: &str, env: &[(&str, &str)]) -> Result<Target, TargetError> {
    let env: Vec<_> = env
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    Target::parse_with(text, &|name| {
        env.iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    })
}

fn read(text: &str) -> Target {
    parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn the_password_is_nowhere_to_be_read() {
    for text in [
        "postgres://me:hunter2@db:5433/sales",
        "host=db port=5433 user=me password=hunter2 dbname=sales",
    ] {
        let target = read(text);
        assert_eq!(target.to_string(), "me@db:5433/sales");
        assert!(!format!("{target:?}").contains("hunter2"));
        assert_eq!(target.config.get_password(), Some(&b"hunter2"[..]));
    }
}

#[test]
fn what_is_left_out_comes_from_the_environment() {
    let env = [
        ("PGHOST", "db"),
        ("PGPORT", "6000"),
        ("PGUSER", "me"),
        ("PGPASSWORD", "secret"),
        ("PGSSLMODE", "verify-full"),
    ];
    let target = parse_in("", &env).expect("all from the environment");
    assert_eq!(target.to_string(), "me@db:6000/me");
    assert_eq!(target.ssl_mode(), SslMode::VerifyFull);
    assert_eq!(target.config.get_password(), Some(&b"secret"[..]));
    let target = parse_in("postgres://you:own@127.0.0.1:1/d?sslmode=disable", &env).expect("given");
    assert_eq!(target.to_string(), "you@127.0.0.1:1/d");
    assert_eq!(target.ssl_mode(), SslMode::Disable);
    assert_eq!(target.config.get_password(), Some(&b"own"[..]));
}

#[test]
fn sslmode_is_read_as_libpq_does() {
    for (query, mode) in [
        ("", SslMode::Prefer),
        ("?sslmode=disable", SslMode::Disable),
        ("?sslmode=allow", SslMode::Allow),
        ("?sslmode=prefer", SslMode::Prefer),
        ("?sslmode=require", SslMode::Require),
        ("?ssl=true", SslMode::Require),
        ("?sslmode=require&sslrootcert=/x.crt", SslMode::VerifyCa),
        ("?sslmode=prefer&sslrootcert=/x.crt", SslMode::Prefer),
        ("?sslmode=verify-ca", SslMode::VerifyCa),
        ("?sslmode=verify-full", SslMode::VerifyFull),
        ("?sslrootcert=system", SslMode::VerifyFull),
    ] {
        assert_eq!(
            read(&format!("postgres://u@h/d{query}")).ssl_mode(),
            mode,
            "{query}"
        );
    }
    for text in [
        "postgres://u@h/d?sslmode=Require",
        "postgres://u@h/d?sslmode=on",
        "postgres://u@h/d?sslmode=require&sslrootcert=system",
        "postgres://u@h/d?sslnegotiation=direct",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
}

#[test]
fn settings_are_passed_on_or_refused_by_name() {
    let target =
        read("postgres://u@h/d?options=-c%20geqo%3Doff&keepalives_count=3&connect_timeout=3");
    assert_eq!(target.config.get_options(), Some("-c geqo=off"));
    assert_eq!(target.config.get_keepalives_retries(), Some(3));
    assert_eq!(
        target.config.get_connect_timeout(),
        Some(&Duration::from_secs(3))
    );
    let target = read("postgres://u@h/d?connect_timeout=0");
    assert_eq!(target.config.get_connect_timeout(), Some(&CONNECT_TIMEOUT));
    assert_eq!(target.config.get_keepalives_idle(), KEEPALIVE_IDLE);
    assert_eq!(
        parse("postgres://u@h/d?sslcert=x").err(),
        Some(TargetError::UnknownSetting {
            key: "sslcert".to_owned()
        })
    );
    let error = parse("postgres://u@h/d?connect_timeout=soon").expect_err("not a number");
    assert_eq!(
        error.to_string(),
        "connection setting \"connect_timeout\" must be a whole number"
    );
    assert!(parse("postgres://u@h:99999/d").is_err());
}

#[test]
fn several_hosts_sockets_and_addresses() {
    let target = read("postgres://u@a,[::1]:6000,/d");
    assert_eq!(target.endpoints.len(), 3);
    let target = read("host=a,b port=1,2 user=u dbname=d");
    assert_eq!(target.to_string(), "u@a:1,b:2/d");
    let target = read("host=/run/x user=u dbname=d port=7");
    assert_eq!(target.to_string(), "u@/run/x:7/d");
    assert_eq!(target.endpoints[0].to_string(), "/run/x/.s.PGSQL.7");
    let target = read("postgres://u@[fe80::1]/d");
    assert_eq!(target.to_string(), "u@[fe80::1]:5432/d");
    let target = read("hostaddr=10.0.0.1 user=u dbname=d");
    assert_eq!(target.to_string(), "u@10.0.0.1:5432/d");
    assert!(parse("host=a,b,c port=1,2 user=u").is_err());
}

#[test]
fn the_password_file_is_the_last_resort() {
    let home = tempfile::tempdir().expect("temporary directory");
    let file = home.path().join(".pgpass");
    std::fs::write(&file, "h:5432:d:u:from-file\n").expect("written");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("mode set");
    let env = [("HOME", home.path().to_str().expect("a path in UTF-8"))];
    let target = parse_in("postgres://u@h/d", &env).expect("read");
    let config = target.endpoints[0].config(&target.config);
    assert_eq!(config.get_password(), Some(&b"from-file"[..]));
    let target = parse_in("postgres://u@other/d", &env).expect("read");
    assert_eq!(
        target.endpoints[0].config(&target.config).get_password(),
        None
    );
}

#[test]
fn another_database_and_another_login() {
    let target = read("postgres://me:hunter2@db/sales");
    let other = target.with_database("stock").with_login("step", None);
    assert_eq!(other.to_string(), "step@db:5432/stock");
    assert_ne!(other.config.get_password(), Some(&b"hunter2"[..]));
}

#[test]
fn a_socket_url_reads_back() {
    let target = Target::local_socket(Path::new("/tmp/a b%/run"), 5433, "me@x", "d/b");
    let url = target.socket_url().expect("it is on a socket");
    assert_eq!(
        url,
        "postgres://me%40x@/d%2Fb?host=/tmp/a%20b%25/run&port=5433"
    );
    let again = Target::parse(&url).expect("a url");
    assert_eq!(again.to_string(), target.to_string());
    let tcp = Target::parse("postgres://me:secret@localhost/db").expect("a url");
    assert_eq!(tcp.socket_url(), None);
}
