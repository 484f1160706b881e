//! Whose plugins may run: their signatures, held against what the workflow and the site require.
//!
//! A site's policies come first and count only the site's own keys, so that a workflow file can ask for more and never
//! for less. The workflow's own policy counts its keys and the site's.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use stepwell_sandbox::Digest;
use stepwell_signature::{FILE_BYTES_MAX, PublicKey, SignatureFile};
use stepwell_workflow::{LoadError, PluginEntry, TrustPolicy};

/// What a component's signature file says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureState {
    /// There is no signature file.
    Unsigned,
    /// This key, one of those that count, signed it.
    Good(PublicKey),
    /// There is a file, and no signature in it counts, for this reason.
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
        let verified = text
            .parse::<SignatureFile>()
            .map_err(|error| error.to_string())
            .and_then(|signatures| {
                let verified = signatures.verify(digest.as_bytes(), keys);
                verified.map_err(|error| error.to_string())
            });
        match verified {
            Ok(key) => Self::Good(key),
            Err(reason) => Self::Refused(reason),
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

/// Checks that a plugin has the signatures that each policy wants of it.
pub(crate) fn check(
    plugin: &PluginEntry,
    base: &Path,
    digest: Digest,
    site: &[TrustPolicy],
    workflow: &TrustPolicy,
) -> Result<(), LoadError> {
    let file = base.join(&plugin.signature);
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
        let reason = match SignatureState::read(&file, digest, keys) {
            SignatureState::Good(_) => continue,
            SignatureState::Unsigned => format!("there is no signature file {}", file.display()),
            SignatureState::Refused(reason) => reason,
        };
        return Err(LoadError {
            message: format!("{whose} requires a signature, and {reason}"),
            help: Some(match keys.is_empty() {
                true => "List the public keys that you trust under `keys:`.".into(),
                false => format!(
                    "Have {} signed with `stepwell plugin sign` by one of the {} trusted keys.",
                    plugin.component.display(),
                    keys.len()
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
            Self { folder, digest }
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
