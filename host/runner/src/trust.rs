//! Whose plugins may run: their signatures, held against what the workflow and the site require.
//!
//! A site's policies come first and count only the site's own keys, so that a workflow file can ask for more and never
//! for less. The workflow's own policy counts its keys and the site's.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use stepwell_sandbox::Digest;
use stepwell_signature::{FILE_BYTES_MAX, PublicKey, SignatureFile, VerifyError};
use stepwell_workflow::{LoadError, PluginEntry, TrustPolicy};

/// What a component's signature file says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureState {
    /// There is no signature file.
    Unsigned,
    /// This key, one of those that count, signed it.
    Good(PublicKey),
    /// This key signed it, and is none of those that count.
    Unknown(PublicKey),
    /// There is a file, and nobody's signature of this component in it, for this reason.
    Refused(String),
}

impl SignatureState {
    /// Reads the signature file of the component that has `digest`, and checks it against `keys`.
    pub fn read(file: &Path, digest: Digest, keys: &[PublicKey]) -> Self {
        let text = match read(file) {
            Ok(Some(text)) => text,
            Ok(None) => return Self::Unsigned,
            Err(error) => {
                return Self::Refused(format!("could not read {}: {error}", file.display()));
            }
        };
        let signatures: SignatureFile = match text.parse() {
            Ok(signatures) => signatures,
            Err(error) => return Self::Refused(error.to_string()),
        };
        match signatures.verify(digest.as_bytes(), keys) {
            Ok(key) => Self::Good(key),
            Err(VerifyError::NotTrusted { key }) => Self::Unknown(key),
            Err(error) => Self::Refused(error.to_string()),
        }
    }

    /// Returns why it does not count, as a clause; none where it does. `file` is the one that was read.
    pub fn reason(&self, file: &Path) -> Option<String> {
        match self {
            Self::Good(_) => None,
            Self::Unsigned => Some(format!("there is no signature file {}", file.display())),
            Self::Unknown(key) => Some(VerifyError::NotTrusted { key: *key }.to_string()),
            Self::Refused(reason) => Some(reason.clone()),
        }
    }
}

/// Returns the text of a signature file, none if there is no such file. A larger one than allowed is cut one byte beyond
/// and refused by the parser.
fn read(file: &Path) -> std::io::Result<Option<String>> {
    let file = match File::open(file) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(FILE_BYTES_MAX as u64 + 1)
        .read_to_string(&mut text)?;
    Ok(Some(text))
}

/// Returns the keys that count for the workflow's own policy: its own and the site's.
pub fn keys(site: &[TrustPolicy], workflow: &TrustPolicy) -> Vec<PublicKey> {
    let policies = site.iter().chain([workflow]);
    policies.flat_map(|policy| policy.keys.clone()).collect()
}

/// Checks that a plugin has the signatures that each policy wants of it, and that the signature file is one where the
/// workflow names it: whoever does means it, whether or not a policy wants one.
pub(crate) fn check(
    plugin: &PluginEntry,
    base: &Path,
    digest: Digest,
    site: &[TrustPolicy],
    workflow: &TrustPolicy,
) -> Result<(), LoadError> {
    let file = base.join(&plugin.signature);
    if let Some(at) = plugin.signature_span {
        let state = SignatureState::read(&file, digest, &[]);
        let named = |message: String| LoadError {
            message,
            help: Some(format!(
                "make it with `stepwell plugin sign`, or remove the key: without it, {}.sig counts",
                plugin.component.display()
            )),
            at: Some(at),
        };
        match state {
            SignatureState::Unsigned => {
                return Err(named(format!(
                    "there is no signature file {}",
                    file.display()
                )));
            }
            SignatureState::Refused(reason) => {
                let file = file.display();
                return Err(named(format!(
                    "{file} does not sign the component: {reason}"
                )));
            }
            SignatureState::Good(_) | SignatureState::Unknown(_) => {}
        }
    }
    let site_keys = keys(site, &TrustPolicy::default());
    let all_keys = keys(site, workflow);
    let policies = site
        .iter()
        .map(|policy| (policy, &site_keys, "the site's trust file"));
    let own = (workflow, &all_keys, "the workflow's `trust:`");
    for (policy, keys, whose) in policies.chain([own]) {
        if !policy.require.concerns(plugin.trust) {
            continue;
        }
        let state = SignatureState::read(&file, digest, keys);
        let Some(reason) = state.reason(&file) else {
            continue;
        };
        return Err(LoadError {
            at: plugin.signature_span,
            message: format!("{whose} requires a signature, and {reason}"),
            help: Some(match (&state, keys.is_empty()) {
                (SignatureState::Unknown(_), _) => {
                    format!("if you trust that key, list it under `keys:` of {whose}")
                }
                (_, true) => {
                    format!("list the public keys that you trust under `keys:` of {whose}")
                }
                (_, false) => format!(
                    "have {} signed with `stepwell plugin sign` by a key that is listed there",
                    plugin.component.display()
                ),
            }),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use stepwell_signature::SecretKey;
    use stepwell_workflow::{Grants, Limits, Require, Span, Trust};

    use super::*;

    struct Stage {
        folder: tempfile::TempDir,
        digest: Digest,
        /// Whether the workflow names the signature file.
        named: bool,
    }

    impl Stage {
        fn signed(by: &[&SecretKey]) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let digest = Digest::of(b"component");
            let mut file = SignatureFile::default();
            by.iter()
                .for_each(|key| file.add(key.sign(digest.as_bytes())));
            if !by.is_empty() {
                std::fs::write(folder.path().join("a.wasm.sig"), file.to_string())
                    .expect("written");
            }
            Self {
                folder,
                digest,
                named: false,
            }
        }

        fn check(
            &self,
            trust: Trust,
            site: &[TrustPolicy],
            workflow: &TrustPolicy,
        ) -> Result<(), String> {
            let plugin = PluginEntry {
                name: "a".into(),
                component: "a.wasm".into(),
                digest: None,
                signature: "a.wasm.sig".into(),
                trust,
                grants: Grants::default(),
                connection: None,
                limits: Limits::default(),
                span: Span::default(),
                component_span: Span::default(),
                digest_span: None,
                signature_span: self.named.then(Span::default),
            };
            check(&plugin, self.folder.path(), self.digest, site, workflow)
                .map_err(|error| error.message)
        }
    }

    fn key() -> SecretKey {
        SecretKey::generate().expect("random numbers")
    }

    fn policy(require: Require, keys: &[&SecretKey]) -> TrustPolicy {
        TrustPolicy {
            keys: keys.iter().map(|key| key.public()).collect(),
            require,
        }
    }

    #[test]
    fn a_plugin_needs_a_signature_where_its_origin_is_concerned() {
        let key = key();
        let unsigned = Stage::signed(&[]);
        for (require, own, third_party) in [
            (Require::Nothing, true, true),
            (Require::ThirdParty, true, false),
            (Require::All, false, false),
        ] {
            let workflow = policy(require, &[&key]);
            assert_eq!(unsigned.check(Trust::Own, &[], &workflow).is_ok(), own);
            assert_eq!(
                unsigned.check(Trust::ThirdParty, &[], &workflow).is_ok(),
                third_party
            );
            let signed = Stage::signed(&[&key]);
            assert_eq!(signed.check(Trust::ThirdParty, &[], &workflow), Ok(()));
        }
    }

    #[test]
    fn a_workflow_cannot_weaken_what_its_site_requires() {
        let (site_key, own_key) = (key(), key());
        let site = [policy(Require::ThirdParty, &[&site_key])];
        let workflow = policy(Require::Nothing, &[&own_key]);
        let by_own = Stage::signed(&[&own_key]);
        let refused = by_own
            .check(Trust::ThirdParty, &site, &workflow)
            .expect_err("another key");
        assert_eq!(
            refused,
            format!(
                "the site's trust file requires a signature, and it is signed by {}, which is not trusted",
                own_key.public()
            )
        );
        let by_site = Stage::signed(&[&site_key]);
        assert_eq!(by_site.check(Trust::ThirdParty, &site, &workflow), Ok(()));
        // A workflow that asks for a signature takes the site's for one of its own.
        let workflow = policy(Require::All, &[&own_key]);
        assert_eq!(by_site.check(Trust::ThirdParty, &site, &workflow), Ok(()));
        assert!(by_own.check(Trust::ThirdParty, &site, &workflow).is_err());
    }

    /// Where no policy wants a signature, a file that is named must be one all the same, of this component; whose key it
    /// is, is not asked. A file that nobody names need not be there.
    #[test]
    fn a_signature_file_that_is_named_is_one() {
        let nothing = policy(Require::Nothing, &[]);
        let named = |by: &[&SecretKey]| Stage {
            named: true,
            ..Stage::signed(by)
        };
        let unsigned = Stage::signed(&[]).check(Trust::Own, &[], &nothing);
        assert_eq!(unsigned, Ok(()));
        assert_eq!(named(&[&key()]).check(Trust::Own, &[], &nothing), Ok(()));
        let missing = named(&[]).check(Trust::Own, &[], &nothing);
        let missing = missing.expect_err("it is not there");
        assert!(
            missing.starts_with("there is no signature file"),
            "{missing}"
        );
        let stage = named(&[&key()]);
        let of_another = Stage {
            digest: Digest::of(b"another"),
            named: true,
            ..stage
        };
        let refused = of_another.check(Trust::Own, &[], &nothing);
        let refused = refused.expect_err("of another component");
        assert!(refused.contains("does not sign the component"), "{refused}");
        let file = of_another.folder.path().join("a.wasm.sig");
        std::fs::write(file, "nothing of the kind").expect("written");
        let refused = of_another.check(Trust::Own, &[], &nothing);
        assert!(refused.is_err_and(|refused| refused.contains("line 1")));
    }

    #[test]
    fn a_key_that_nobody_trusts_is_unknown_and_not_wrong() {
        let (ours, other) = (key(), key());
        let stage = Stage::signed(&[&other]);
        let file = stage.folder.path().join("a.wasm.sig");
        let state = |digest| SignatureState::read(&file, digest, &[ours.public()]);
        assert_eq!(state(stage.digest), SignatureState::Unknown(other.public()));
        assert!(matches!(
            state(Digest::of(b"another")),
            SignatureState::Refused(_)
        ));
    }

    #[test]
    fn a_file_that_is_none_or_too_large_is_no_signature() {
        let key = key();
        let stage = Stage::signed(&[&key]);
        let workflow = policy(Require::All, &[&key]);
        let file = stage.folder.path().join("a.wasm.sig");
        for text in [
            "hello".to_owned(),
            format!(
                "{}\n{}",
                std::fs::read_to_string(&file).expect("a file"),
                "#".repeat(70_000)
            ),
        ] {
            std::fs::write(&file, text).expect("written");
            assert!(stage.check(Trust::Own, &[], &workflow).is_err());
        }
    }
}
