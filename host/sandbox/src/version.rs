//! Which versions of the step contract this host has.

use std::fmt;
use std::str::FromStr;

/// The newest version of the contract that this host has, as in `package stepwell:step@…`.
pub const CONTRACT: &str = "0.1.0";

pub(crate) const HAS: Version = Version {
    major: 0,
    minor: 1,
    patch: 0,
};

/// Three numbers. Pre-releases of the contract are not published, so there is nothing else to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) patch: u32,
}

/// How a version that a component was built for relates to ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    Fits,
    /// It may call functions that this host lacks.
    TooNew,
    /// It speaks a contract that this host no longer has.
    TooOld,
}

impl Version {
    /// Compares as semver does: before 1.0 the middle number is the one that breaks. A newer last
    /// number is refused too, since it may have added a function.
    pub(crate) fn fit(self) -> Fit {
        let track = |version: Self| match version.major {
            0 => (0, version.minor),
            major => (major, 0),
        };
        if self > HAS {
            Fit::TooNew
        } else if track(self) < track(HAS) {
            Fit::TooOld
        } else {
            Fit::Fits
        }
    }

    /// Whether a host that serves `self` may serve an import of `other`: the rule by which wasmtime
    /// links.
    pub(crate) fn shares_track_with(self, other: Self) -> bool {
        self.major == other.major && (self.major != 0 || self.minor == other.minor)
    }
}

impl FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut numbers = text.splitn(3, '.').map(number);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Some(major)), Some(Some(minor)), Some(Some(patch))) => Ok(Self {
                major,
                minor,
                patch,
            }),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

fn number(text: &str) -> Option<u32> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    if is_plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constant_is_the_version_and_the_package() {
        assert_eq!(HAS.to_string(), CONTRACT);
        let wit = include_str!("../../../sdk/wit/types.wit");
        assert!(wit.contains(&format!("package stepwell:step@{CONTRACT};")));
    }

    /// Plugins are built from these files, so a change to one concerns whoever has built a plugin.
    #[test]
    fn nobody_edits_the_contract_unaware() {
        let files = [
            ("planner.wit", include_str!("../../../sdk/wit/planner.wit")),
            ("reducer.wit", include_str!("../../../sdk/wit/reducer.wit")),
            ("types.wit", include_str!("../../../sdk/wit/types.wit")),
        ];
        let found = files.map(|(name, text)| {
            let digest = crate::Digest::of(text.as_bytes()).to_string();
            format!("{}  {name}\n", digest.trim_start_matches("sha256:"))
        });
        assert_eq!(
            found.concat(),
            include_str!("../../../sdk/wit/PUBLISHED"),
            "sdk/wit has changed. If only comments did, or the contract was never in a release, renew the sums: \
             `cd sdk/wit && sha256sum *.wit > PUBLISHED`, build tests/contract anew, and say it in CHANGELOG.md. \
             If types or functions of a released contract changed, put its files back and add a new version beside it."
        );
    }

    #[test]
    fn before_one_the_middle_number_breaks() {
        let fit = |text: &str| text.parse::<Version>().map(Version::fit);

        assert_eq!(fit("0.1.0"), Ok(Fit::Fits));
        assert_eq!(fit("0.1.1"), Ok(Fit::TooNew));
        assert_eq!(fit("0.2.0"), Ok(Fit::TooNew));
        assert_eq!(fit("1.0.0"), Ok(Fit::TooNew));
        assert_eq!(fit("0.0.9"), Ok(Fit::TooOld));
    }

    #[test]
    fn other_texts_are_no_version() {
        for text in [
            "",
            "1",
            "0.1",
            "0.1.0-rc",
            "0.1.0.0",
            "+0.1.0",
            "0..1",
            "0.1.99999999999",
        ] {
            assert_eq!(text.parse::<Version>(), Err(()), "{text}");
        }
    }
}
