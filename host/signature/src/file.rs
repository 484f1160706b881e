//! Signatures, and the file of them that stands beside a component.

use std::fmt;
use std::str::FromStr;

use ring::signature::{ED25519, UnparsedPublicKey};
use thiserror::Error;

use crate::hex;
use crate::key::PublicKey;

/// Largest signature file, in bytes.
pub const FILE_BYTES_MAX: usize = 64 * 1024;

/// Begins each line and what is signed, so that a signature made for something else never fits here.
const FORM: &str = "stepwell-signature-v1";

/// A signature of one component by one key. That it is good, only [`SignatureFile::verify`] says.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature {
    pub(crate) digest: [u8; 32],
    pub(crate) key: PublicKey,
    pub(crate) bytes: [u8; 64],
}

/// The signatures of a component.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SignatureFile {
    signatures: Vec<Signature>,
}

/// The text is no signature file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum FileError {
    #[error("the signature file has more than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    #[error(
        "line {line} of the signature file: expected `{FORM} sha256:<digest> ed25519:<key> <signature>`"
    )]
    Line { line: usize },
}

/// No signature of the file counts.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum VerifyError {
    #[error("the signature file holds no signature")]
    Empty,
    #[error("the signature is of another component, sha256:{}", hex::encode(.digest))]
    OtherComponent { digest: [u8; 32] },
    #[error("it is signed by {key}, which is not trusted")]
    NotTrusted { key: PublicKey },
    #[error("the signature by {key} is wrong: the key did not sign this component")]
    Wrong { key: PublicKey },
}

impl Signature {
    /// Returns the key that is said to have signed.
    pub fn key(&self) -> PublicKey {
        self.key
    }

    fn is_good(&self) -> bool {
        UnparsedPublicKey::new(&ED25519, self.key.0)
            .verify(message(&self.digest).as_bytes(), &self.bytes)
            .is_ok()
    }
}

impl SignatureFile {
    /// Adds a signature, in place of an earlier one by the same key; signatures of other components go.
    pub fn add(&mut self, signature: Signature) {
        self.signatures
            .retain(|found| found.key != signature.key && found.digest == signature.digest);
        self.signatures.push(signature);
    }

    /// Returns the signatures, none of them checked.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Returns the first of the `trusted` keys that signed the component with this SHA-256.
    ///
    /// # Errors
    ///
    /// [`VerifyError`] if none of them did, with the reason that says most.
    pub fn verify(
        &self,
        digest: &[u8; 32],
        trusted: &[PublicKey],
    ) -> Result<PublicKey, VerifyError> {
        let first = self.signatures.first().ok_or(VerifyError::Empty)?;
        let own = self
            .signatures
            .iter()
            .filter(|signature| signature.digest == *digest);
        let candidates: Vec<_> = own.clone().filter(|s| trusted.contains(&s.key)).collect();
        if let Some(good) = candidates.iter().find(|signature| signature.is_good()) {
            return Ok(good.key);
        }
        // A key is said not to be trusted where it did sign: one that did not is none to be asked about.
        let other = own.clone().find(|signature| signature.is_good());
        match (candidates.first().copied(), other, own.clone().next()) {
            (Some(wrong), _, _) | (None, None, Some(wrong)) => {
                Err(VerifyError::Wrong { key: wrong.key })
            }
            (None, Some(other), _) => Err(VerifyError::NotTrusted { key: other.key }),
            (None, None, None) => Err(VerifyError::OtherComponent {
                digest: first.digest,
            }),
        }
    }
}

/// What is signed.
pub(crate) fn message(digest: &[u8; 32]) -> String {
    format!("{FORM} sha256:{}\n", hex::encode(digest))
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (digest, bytes) = (hex::encode(&self.digest), hex::encode(&self.bytes));
        write!(f, "{FORM} sha256:{digest} {} {bytes}", self.key)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SignatureFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Signatures of a Stepwell plugin; `stepwell plugin verify` checks them."
        )?;
        self.signatures
            .iter()
            .try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

impl FromStr for SignatureFile {
    type Err = FileError;

    fn from_str(text: &str) -> Result<Self, FileError> {
        if text.len() > FILE_BYTES_MAX {
            return Err(FileError::TooLarge);
        }
        let lines = (1..).zip(text.lines().map(str::trim));
        let signatures = lines
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .map(|(line, text)| signature(text).ok_or(FileError::Line { line }));
        Ok(Self {
            signatures: signatures.collect::<Result<_, _>>()?,
        })
    }
}

fn signature(line: &str) -> Option<Signature> {
    let words: Vec<&str> = line.split(' ').collect();
    let [FORM, digest, key, bytes] = words[..] else {
        return None;
    };
    Some(Signature {
        digest: hex::decode(digest.strip_prefix("sha256:")?)?,
        key: key.parse().ok()?,
        bytes: hex::decode(bytes)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::SecretKey;

    fn secret() -> SecretKey {
        SecretKey::generate().expect("random numbers")
    }

    fn file(signatures: impl IntoIterator<Item = Signature>) -> SignatureFile {
        let mut file = SignatureFile::default();
        signatures
            .into_iter()
            .for_each(|signature| file.add(signature));
        file.to_string().parse().expect("what was written")
    }

    #[test]
    fn a_trusted_key_among_several_is_found() {
        let (a, b) = (secret(), secret());
        let file = file([a.sign(&[1; 32]), b.sign(&[1; 32])]);
        assert_eq!(file.verify(&[1; 32], &[b.public()]), Ok(b.public()));
        assert_eq!(
            file.verify(&[1; 32], &[a.public(), b.public()]),
            Ok(a.public())
        );
    }

    #[test]
    fn what_does_not_count_is_said() {
        let (a, b) = (secret(), secret());
        let trusted = [a.public()];
        let one = file([a.sign(&[1; 32])]);
        assert_eq!(
            one.verify(&[2; 32], &trusted),
            Err(VerifyError::OtherComponent { digest: [1; 32] })
        );
        assert_eq!(
            one.verify(&[1; 32], &[b.public()]),
            Err(VerifyError::NotTrusted { key: a.public() })
        );
        assert_eq!(
            one.verify(&[1; 32], &[]),
            Err(VerifyError::NotTrusted { key: a.public() })
        );
        assert_eq!(file([]).verify(&[1; 32], &trusted), Err(VerifyError::Empty));
    }

    /// Nobody but the key's holder makes a line that counts: not by another's signature under its name, not by its
    /// signature of something else.
    #[test]
    fn a_forged_line_does_not_count() {
        let (a, b) = (secret(), secret());
        let trusted = [a.public()];
        let wrong = Err(VerifyError::Wrong { key: a.public() });
        let forged = Signature {
            key: a.public(),
            ..b.sign(&[1; 32])
        };
        assert_eq!(file([forged.clone()]).verify(&[1; 32], &trusted), wrong);
        // Nor is it taken for one by a key that is merely unknown.
        assert_eq!(file([forged]).verify(&[1; 32], &[b.public()]), wrong);
        let moved = Signature {
            digest: [2; 32],
            ..a.sign(&[1; 32])
        };
        assert_eq!(file([moved]).verify(&[2; 32], &trusted), wrong);
        let mut changed = a.sign(&[1; 32]);
        changed.bytes[0] ^= 1;
        assert_eq!(file([changed]).verify(&[1; 32], &trusted), wrong);
    }

    #[test]
    fn signing_again_leaves_one_line_a_key() {
        let (a, b) = (secret(), secret());
        let file = file([
            a.sign(&[1; 32]),
            b.sign(&[2; 32]),
            a.sign(&[2; 32]),
            a.sign(&[2; 32]),
        ]);
        let keys: Vec<_> = file.signatures().iter().map(Signature::key).collect();
        assert_eq!(keys, [b.public(), a.public()]);
    }

    #[test]
    fn a_file_has_one_form() {
        let line = secret().sign(&[1; 32]).to_string();
        for wrong in [
            line.replace("v1", "v2"),
            line.replace("sha256:", "sha512:"),
            format!("{line} more"),
            line[..line.len() - 1].to_owned(),
            line.replacen(' ', "  ", 1),
        ] {
            let parsed = format!("# x\n\n{wrong}\n").parse::<SignatureFile>();
            assert_eq!(parsed, Err(FileError::Line { line: 3 }), "{wrong}");
        }
        assert!(format!("{line}\r\n").parse::<SignatureFile>().is_ok());
        assert_eq!(
            "#".repeat(FILE_BYTES_MAX + 1).parse::<SignatureFile>(),
            Err(FileError::TooLarge)
        );
    }
}
