//! Connection strings, as libpq reads them: a URL or `key=value` pairs, both to a list of pairs.
//!
//! Errors never quote a value, since any value may be a password that was put in the wrong place.

use percent_encoding::percent_decode_str;

use super::TargetError;

pub(super) type Pairs = Vec<(String, String)>;

/// Returns the pairs in the order given. A list of hosts is one pair, separated by commas.
pub(super) fn pairs(text: &str) -> Result<Pairs, TargetError> {
    let text = text.trim();
    for scheme in ["postgres://", "postgresql://"] {
        if let Some(rest) = text.strip_prefix(scheme) {
            return url(rest);
        }
    }
    if text.contains("://") {
        return Err(TargetError::syntax(
            "the URL begins with postgres:// or postgresql://",
        ));
    }
    key_values(text)
}

fn url(rest: &str) -> Result<Pairs, TargetError> {
    let mut pairs = Pairs::new();
    // As libpq does it: user and password end at the first @, which comes before any slash.
    let rest = match rest.find(['@', '/']) {
        Some(at) if rest.as_bytes()[at] == b'@' => {
            let (user, password) = split_once_or_all(&rest[..at], ':');
            push_decoded(&mut pairs, "user", user)?;
            if let Some(password) = password {
                push_decoded(&mut pairs, "password", password)?;
            }
            &rest[at + 1..]
        }
        _ => rest,
    };
    let (rest, query) = split_once_or_all(rest, '?');
    let (hosts, database) = split_once_or_all(rest, '/');
    if hosts.contains('@') {
        return Err(TargetError::syntax("an @ in the password is written %40"));
    }
    push_hosts(&mut pairs, hosts)?;
    push_decoded(&mut pairs, "dbname", database.unwrap_or_default())?;
    for pair in query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
    {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| TargetError::syntax("each setting after the ? is written key=value"))?;
        pairs.push((decode(key)?, decode(value)?));
    }
    Ok(pairs)
}

fn push_hosts(pairs: &mut Pairs, hosts: &str) -> Result<(), TargetError> {
    if hosts.is_empty() {
        return Ok(());
    }
    let mut names = Vec::new();
    let mut ports = Vec::new();
    for host in hosts.split(',') {
        let (name, port) = match host.strip_prefix('[') {
            Some(v6) => {
                let (address, rest) = v6.split_once(']').ok_or_else(|| {
                    TargetError::syntax("an IPv6 address stands in square brackets")
                })?;
                let port = match rest.strip_prefix(':') {
                    None if !rest.is_empty() => {
                        return Err(TargetError::syntax("a colon stands before the port"));
                    }
                    port => port,
                };
                (address, port)
            }
            None => split_once_or_all(host, ':'),
        };
        names.push(decode(name)?);
        ports.push(decode(port.unwrap_or_default())?);
    }
    pairs.push(("host".to_owned(), names.join(",")));
    if ports.iter().any(|port| !port.is_empty()) {
        pairs.push(("port".to_owned(), ports.join(",")));
    }
    Ok(())
}

fn push_decoded(pairs: &mut Pairs, key: &str, value: &str) -> Result<(), TargetError> {
    if !value.is_empty() {
        pairs.push((key.to_owned(), decode(value)?));
    }
    Ok(())
}

fn decode(text: &str) -> Result<String, TargetError> {
    let decoded = percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| TargetError::syntax("percent signs in the URL encode UTF-8"))?;
    if decoded.contains('\0') {
        return Err(TargetError::syntax("the URL has no zero byte"));
    }
    Ok(decoded.into_owned())
}

fn split_once_or_all(text: &str, at: char) -> (&str, Option<&str>) {
    match text.split_once(at) {
        Some((head, tail)) => (head, Some(tail)),
        None => (text, None),
    }
}

fn key_values(text: &str) -> Result<Pairs, TargetError> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, tail) = rest.split_once('=').ok_or_else(expected_pair)?;
        let key = key.trim_end();
        if key.is_empty()
            || !key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            return Err(expected_pair());
        }
        let (value, tail) = value(tail.trim_start())?;
        pairs.push((key.to_owned(), value));
        rest = tail.trim_start();
    }
    Ok(pairs)
}

fn value(text: &str) -> Result<(String, &str), TargetError> {
    let (text, quoted) = match text.strip_prefix('\'') {
        Some(text) => (text, true),
        None => (text, false),
    };
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => value.extend(chars.next().map(|(_, char)| char)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            char if !quoted && char.is_whitespace() => return Ok((value, &text[at..])),
            char => value.push(char),
        }
    }
    if quoted {
        return Err(TargetError::syntax(
            "a value that begins with a quote ends with one",
        ));
    }
    Ok((value, ""))
}

fn expected_pair() -> TargetError {
    TargetError::syntax("write a URL (postgres://user@host/database) or key=value pairs")
}

/// Returns `key='value'` as tokio-postgres and libpq read it.
pub(super) fn quoted_pair(key: &str, value: &str) -> String {
    let mut out = format!("{key}='");
    for char in value.chars() {
        if matches!(char, '\'' | '\\') {
            out.push('\\');
        }
        out.push(char);
    }
    out.push_str("' ");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        pairs(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn of(pairs: &[(&str, &str)]) -> Pairs {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn urls() {
        assert_eq!(
            read(
                "postgres://me:p%40ss%2Fw@db.example:5433/sales?sslmode=require&options=-c%20a%3Db"
            ),
            of(&[
                ("user", "me"),
                ("password", "p@ss/w"),
                ("host", "db.example"),
                ("port", "5433"),
                ("dbname", "sales"),
                ("sslmode", "require"),
                ("options", "-c a=b"),
            ])
        );
        assert_eq!(
            read("postgresql://a,b:2,[::1]:3/d"),
            of(&[("host", "a,b,::1"), ("port", ",2,3"), ("dbname", "d")])
        );
        assert_eq!(
            read("postgresql://%2Frun%2Fpg/d?user=u@x"),
            of(&[("host", "/run/pg"), ("dbname", "d"), ("user", "u@x")])
        );
        assert_eq!(
            read("postgres:///d?host=/tmp"),
            of(&[("dbname", "d"), ("host", "/tmp")])
        );
        assert_eq!(read("postgres://"), of(&[]));
    }

    #[test]
    fn key_value_strings() {
        assert_eq!(
            read(r" host = /tmp  user=me password='it\'s a \\ secret' dbname = d"),
            of(&[
                ("host", "/tmp"),
                ("user", "me"),
                ("password", r"it's a \ secret"),
                ("dbname", "d"),
            ])
        );
        assert_eq!(read(""), of(&[]));
        assert_eq!(
            read("password='' user=a"),
            of(&[("password", ""), ("user", "a")])
        );
    }

    #[test]
    fn errors_do_not_quote_what_may_be_a_password() {
        for text in [
            "postgres://me:hunter2@x@db/d",
            "password=hunter2 hunter2 host=x",
            "password='hunter2",
            "mysql://me:hunter2@db",
            "postgres://me:hunter2@[::1/d",
            "postgres://me:hunter2%ff@db",
            "hunter2",
        ] {
            let error = pairs(text).expect_err(text);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn quoting_is_read_back() {
        let value = r"a 'b' \ c";
        assert_eq!(
            read(&quoted_pair("options", value)),
            of(&[("options", value)])
        );
    }
}
