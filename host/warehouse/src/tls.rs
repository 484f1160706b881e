//! TLS with exactly the guarantees that libpq's `sslmode` words promise.
//!
//! Hides rustls and the ways of verifying a certificate. Channel binding (`tls-server-end-point`)
//! comes with the connector of `tokio-postgres-rustls`.
//!
//! What it does not do: certificates of the client, revocation lists, and host names that a
//! certificate carries in its common name alone (rustls reads the alternative names only).

mod verify;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore, crypto};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How far TLS is asked for, weakest first. The words and their meaning are libpq's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Only if the server insists.
    Allow,
    /// If the server offers it; nothing is verified.
    Prefer,
    /// Always; nothing is verified, so it does not protect from somebody in the middle.
    Require,
    /// Always, and the certificate comes from a trusted authority.
    VerifyCa,
    /// Always, and the certificate is the host's own.
    VerifyFull,
}

impl FromStr for SslMode {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        match word {
            "disable" => Ok(Self::Disable),
            "allow" => Ok(Self::Allow),
            "prefer" => Ok(Self::Prefer),
            "require" => Ok(Self::Require),
            "verify-ca" => Ok(Self::VerifyCa),
            "verify-full" => Ok(Self::VerifyFull),
            _ => Err(()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Roots {
    /// The operating system's, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    System,
    File(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsSettings {
    pub mode: SslMode,
    pub roots: Roots,
    /// `sslnegotiation=direct`: no question first, and the protocol's name in the handshake.
    pub direct: bool,
}

/// Why no connector could be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("could not read root certificates from {path}")]
    RootFile {
        path: PathBuf,
        source: rustls::pki_types::pem::Error,
    },
    #[error("{path} holds no certificate")]
    NoCertificate { path: PathBuf },
    #[error("the system has no root certificates: name a file with sslrootcert")]
    NoSystemRoots,
    #[error("the cryptography library refused its settings")]
    Rustls(#[from] rustls::Error),
    #[error("the root certificates could not be used")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
}

impl TlsSettings {
    pub fn new(mode: SslMode) -> Self {
        Self {
            mode,
            roots: Roots::System,
            direct: false,
        }
    }

    /// Makes the connector. Reads files, so it is called once for a target.
    pub fn connector(&self) -> Result<MakeRustlsConnect, TlsError> {
        let provider = Arc::new(crypto::ring::default_provider());
        let verifier: Arc<dyn rustls::client::danger::ServerCertVerifier> = match self.mode {
            SslMode::VerifyCa | SslMode::VerifyFull => {
                let roots = self.roots.load()?;
                let name = if self.mode == SslMode::VerifyFull {
                    verify::Name::MustMatch
                } else {
                    verify::Name::Any
                };
                Arc::new(verify::Trusted::new(&provider, roots, name)?)
            }
            _ => Arc::new(verify::Unverified::new(&provider)),
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        if self.direct {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(MakeRustlsConnect::new(config))
    }
}

impl Roots {
    fn load(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        match self {
            Self::File(path) => read_certificates(path),
            Self::System => {
                let found = rustls_native_certs::load_native_certs();
                for error in &found.errors {
                    tracing::debug!(%error, "some system certificates could not be read");
                }
                if found.certs.is_empty() {
                    return Err(TlsError::NoSystemRoots);
                }
                Ok(found.certs)
            }
        }
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |source| TlsError::RootFile {
        path: path.to_owned(),
        source,
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate {
            path: path.to_owned(),
        });
    }
    Ok(certificates)
}

fn store(certificates: &[CertificateDer<'static>]) -> RootCertStore {
    let mut store = RootCertStore::empty();
    // One certificate of a system's hundred that is too odd for the parser does not take the others
    // with it.
    let (_, ignored) = store.add_parsable_certificates(certificates.iter().cloned());
    if ignored > 0 {
        tracing::debug!(ignored, "some root certificates could not be parsed");
    }
    store
}
