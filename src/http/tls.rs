//! The TLS configuration of the server: a certificate chain and its private key.

use std::{fmt::Display, path::PathBuf, sync::Arc};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{Error, ErrorKind, Result};

/// The paths of a certificate chain and its private key, for TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
}

impl Certificate {
    /// Creates a certificate from the PEM file `chain`, which begins with the server's own certificate, and the PEM file `key`,
    /// which contains an unencrypted private key in PKCS #8, PKCS #1 or SEC1.
    pub fn new(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { chain: chain.into(), key: key.into() }
    }

    /// Reads and validates both files.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Invalid`] if a file cannot be read, is not PEM, or the key does not match the certificate.
    pub fn check(&self) -> Result<()> {
        self.load().map(|_| ())
    }

    /// Builds a configuration for TLS 1.2 and 1.3 that negotiates HTTP/1.1.
    pub(super) fn load(&self) -> Result<Arc<ServerConfig>> {
        let failed = |what: &str, path: &PathBuf, error: &dyn Display| {
            Error::naming(ErrorKind::Invalid, path, |file| format!("invalid {what} {file}: {error}"))
        };
        let chain = CertificateDer::pem_file_iter(&self.chain)
            .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
            .map_err(|error| failed("certificate", &self.chain, &error))?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| failed("private key", &self.key, &error))?;
        // Chosen explicitly: the host program may have installed another provider as the process default.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| failed("certificate", &self.chain, &error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
