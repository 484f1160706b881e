//! The command that installs a Postgres server on this system.

use std::fs;

/// Returns it, with `sudo` unless the caller is root.
pub(super) fn command() -> String {
    if cfg!(target_os = "macos") {
        return "brew install postgresql@17".to_owned();
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let command = for_release(&release);
    if rustix::process::geteuid().is_root() {
        command.to_owned()
    } else {
        format!("sudo {command}")
    }
}

fn for_release(release: &str) -> &'static str {
    let value = |key: &str| {
        release
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .unwrap_or_default()
            .trim_matches('"')
    };
    let family = format!("{} {}", value("ID"), value("ID_LIKE"));
    for name in family.split_whitespace() {
        match name {
            "debian" | "ubuntu" => return "apt-get install postgresql",
            "amzn" => return "dnf install postgresql15-server",
            "fedora" | "rhel" | "centos" => return "dnf install postgresql-server",
            "alpine" => return "apk add postgresql",
            "arch" => return "pacman -S postgresql",
            "suse" | "opensuse" | "sles" => return "zypper install postgresql-server",
            _ => {}
        }
    }
    "your package manager: install postgresql (the server, not the client alone)"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_has_its_command() {
        for (release, command) in [
            (
                "PRETTY_NAME=\"Debian\"\nID=debian\n",
                "apt-get install postgresql",
            ),
            (
                "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n",
                "apt-get install postgresql",
            ),
            (
                "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n",
                "dnf install postgresql-server",
            ),
            (
                "ID=\"amzn\"\nID_LIKE=\"fedora\"\n",
                "dnf install postgresql15-server",
            ),
            ("ID=alpine\n", "apk add postgresql"),
            ("ID=arch\n", "pacman -S postgresql"),
        ] {
            assert_eq!(for_release(release), command);
        }
        assert!(for_release("").contains("package manager"));
    }
}
