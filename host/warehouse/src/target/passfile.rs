//! `~/.pgpass`: one `host:port:database:user:password` a line, `*` matches all, `\` escapes.

use std::path::Path;

/// What a line must match.
pub(super) struct Wanted<'a> {
    pub host: &'a str,
    pub port: u16,
    pub database: &'a str,
    pub user: &'a str,
}

/// Returns the password of the first line that matches. A file that others can read is not used, as
/// in libpq.
pub(super) fn password(path: &Path, wanted: &Wanted<'_>) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;

    let meta = std::fs::metadata(path)
        .ok()
        .filter(std::fs::Metadata::is_file)?;
    if meta.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "password file not used: others can read it");
        return None;
    }
    find(&std::fs::read_to_string(path).ok()?, wanted)
}

fn find(text: &str, wanted: &Wanted<'_>) -> Option<String> {
    let port = wanted.port.to_string();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let fields = fields(line);
            let [host, rest @ .., password] = fields.as_slice() else {
                return None;
            };
            let wants = [wanted.host, &port, wanted.database, wanted.user];
            let matches = rest.len() == 3
                && std::iter::once(host)
                    .chain(rest)
                    .zip(wants)
                    .all(|(field, want)| field == "*" || field == want);
            (matches && !password.is_empty()).then(|| password.clone())
        })
}

/// At most five fields: the password is the rest of the line, colons included.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        let new_field = char == ':' && fields.len() < 5;
        let char = if char == '\\' {
            chars.next()
        } else {
            Some(char)
        };
        match fields.last_mut() {
            Some(field) if !new_field => field.extend(char),
            _ => fields.push(String::new()),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_matching_line_wins() {
        let text =
            "# comment\nother:*:*:*:no\ndb:5432:sales:me:s3\\:cr\\\\et\n*:*:*:me:any:thing\n";
        let mut wanted = Wanted {
            host: "db",
            port: 5432,
            database: "sales",
            user: "me",
        };
        assert_eq!(find(text, &wanted).as_deref(), Some("s3:cr\\et"));
        wanted.port = 5433;
        assert_eq!(find(text, &wanted).as_deref(), Some("any:thing"));
        wanted.user = "you";
        assert_eq!(find(text, &wanted), None);
    }

    #[test]
    fn a_file_that_others_can_read_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), "*:*:*:*:secret\n").expect("written");
        let wanted = Wanted {
            host: "h",
            port: 1,
            database: "d",
            user: "u",
        };
        assert_eq!(password(file.path(), &wanted).as_deref(), Some("secret"));
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(file.path(), open).expect("mode set");
        assert_eq!(password(file.path(), &wanted), None);
    }
}
