//! Keys and their texts.

use std::fmt;
use std::str::FromStr;

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use thiserror::Error;

use crate::file::{Signature, message};
use crate::hex;

const PUBLIC: &str = "ed25519:";
const SECRET: &str = "ed25519-secret:";

/// The key by which signatures are checked; anybody may have it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub(crate) [u8; 32]);

/// The key that signs. It is never shown: `Debug` writes its public key, and there is no `Display`.
pub struct SecretKey {
    seed: [u8; 32],
    pair: Ed25519KeyPair,
}

/// The text is not a key, or there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum KeyError {
    #[error("expected a public key, `ed25519:` and 64 lower-case hex digits")]
    Public,
    #[error("expected a secret key, `ed25519-secret:` and 64 lower-case hex digits")]
    Secret,
    #[error("the file holds a secret key, expected a public one, `ed25519:…`")]
    SecretForPublic,
    #[error("the file holds a public key, expected a secret one, `ed25519-secret:…`")]
    PublicForSecret,
    #[error("the system has no random numbers to give")]
    NoRandom,
}

impl PublicKey {
    /// Returns the key in the text of a file.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if there is anything else.
    pub fn from_file(text: &str) -> Result<Self, KeyError> {
        match only_line(text) {
            Some(line) if line.starts_with(SECRET) => Err(KeyError::SecretForPublic),
            Some(line) => line.parse(),
            None => Err(KeyError::Public),
        }
    }
}

impl SecretKey {
    /// Returns a new key, from the system's random numbers.
    ///
    /// # Errors
    ///
    /// [`KeyError::NoRandom`].
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        SystemRandom::new()
            .fill(&mut seed)
            .map_err(|_| KeyError::NoRandom)?;
        Self::of(seed)
    }

    /// Returns the key in the text of a file.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if there is anything else. It never holds the text.
    pub fn from_file(text: &str) -> Result<Self, KeyError> {
        let line = only_line(text).ok_or(KeyError::Secret)?;
        if line.starts_with(PUBLIC) {
            return Err(KeyError::PublicForSecret);
        }
        let seed = line.strip_prefix(SECRET).and_then(hex::decode);
        Self::of(seed.ok_or(KeyError::Secret)?)
    }

    /// Returns the text of a file that holds the key. It must go nowhere else.
    pub fn to_file(&self) -> String {
        format!(
            "# A secret key of Stepwell: who has it can sign plugins in your name. Its public key:\n# {}\n{SECRET}{}\n",
            self.public(),
            hex::encode(&self.seed)
        )
    }

    /// Returns the key that checks what this one signs.
    pub fn public(&self) -> PublicKey {
        let bytes = self.pair.public_key().as_ref();
        PublicKey(bytes.try_into().expect("an Ed25519 key has 32 bytes"))
    }

    /// Signs a component by its SHA-256.
    pub fn sign(&self, digest: &[u8; 32]) -> Signature {
        let signed = self.pair.sign(message(digest).as_bytes());
        Signature {
            digest: *digest,
            key: self.public(),
            bytes: signed
                .as_ref()
                .try_into()
                .expect("an Ed25519 signature has 64 bytes"),
        }
    }

    fn of(seed: [u8; 32]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| KeyError::Secret)?;
        Ok(Self { seed, pair })
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC}{}", hex::encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = text.strip_prefix(PUBLIC).and_then(hex::decode);
        bytes.map(Self).ok_or(KeyError::Public)
    }
}

/// The one line of a file that is neither empty nor a comment.
fn only_line(text: &str) -> Option<&str> {
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let line = lines.next()?;
    lines.next().is_none().then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test 1 of RFC 8032, section 7.1: another implementation comes to the same key.
    #[test]
    fn keys_are_those_of_the_standard() {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let secret = SecretKey::from_file(&format!("{SECRET}{seed}")).expect("a key");
        assert_eq!(
            secret.public().to_string(),
            "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
    }

    #[test]
    fn a_key_is_read_as_it_was_written_and_not_shown() {
        let secret = SecretKey::generate().expect("random numbers");
        let again = SecretKey::from_file(&secret.to_file()).expect("a key");
        assert_eq!(secret.public(), again.public());
        assert_eq!(
            PublicKey::from_file(&format!("\n{}\n", secret.public())),
            Ok(secret.public())
        );
        let seed = hex::encode(&secret.seed);
        assert!(!format!("{secret:?}").contains(&seed));
        assert_ne!(
            secret.public(),
            SecretKey::generate().expect("random numbers").public()
        );
    }

    #[test]
    fn one_key_is_not_taken_for_the_other() {
        let secret = SecretKey::generate().expect("random numbers");
        let public = secret.public().to_string();
        assert_eq!(
            PublicKey::from_file(&secret.to_file()),
            Err(KeyError::SecretForPublic)
        );
        assert_eq!(
            SecretKey::from_file(&public).map(|_| ()),
            Err(KeyError::PublicForSecret)
        );
        for wrong in [
            "",
            "# x",
            "ed25519:00",
            &public.to_uppercase(),
            &format!("{public}\n{public}"),
        ] {
            assert_eq!(
                PublicKey::from_file(wrong),
                Err(KeyError::Public),
                "{wrong}"
            );
        }
    }
}
