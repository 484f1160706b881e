//! Detached signatures of step components: Ed25519 over the component's SHA-256.
//!
//! ```
//! use stepwell_signature::{SecretKey, SignatureFile};
//!
//! let digest = [7; 32]; // SHA-256 of the component.
//! let secret = SecretKey::generate()?;
//! let mut file = SignatureFile::default();
//! file.add(secret.sign(&digest));
//!
//! let text = file.to_string(); // What stands beside the component.
//! let file: SignatureFile = text.parse()?;
//! assert_eq!(file.verify(&digest, &[secret.public()]), Ok(secret.public()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The files
//!
//! Texts of lines; lines that are empty or begin with `#` mean nothing.
//!
//! - A **signature file**, `<component>.sig`, holds a line for each signature:
//!   `stepwell-signature-v1 sha256:<digest> ed25519:<public key> <signature>`, all in lower-case hex. What is signed are
//!   the bytes of its first two words with one space between and a line end behind:
//!   `stepwell-signature-v1 sha256:<digest>\n`. Any Ed25519 tool can make or check one.
//! - A **public key** is `ed25519:` and 64 hex digits, in `trust: { keys: […] }` as in a `.pub` file.
//! - A **secret key** is `ed25519-secret:` and the 64 hex digits of the seed.
//!
//! What this crate does not do: read or write files, decide whom to trust, or know what a component is.

mod file;
mod hex;
mod key;

pub use file::{FILE_BYTES_MAX, FileError, Signature, SignatureFile, VerifyError};
pub use key::{KeyError, PublicKey, SecretKey};
