//! The certificate that the server shows, and its key.

use std::{fmt::Display, path::PathBuf, sync::Arc};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{Error, ErrorKind, Result};

/// Where a certificate for TLS stands, and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
}

impl Certificate {
    /// That of the chain in the file `chain`, the server's own certificate first, with the key in the file `key`. Both are
    /// PEM; the key is PKCS #8, PKCS #1 or SEC1, and not encrypted.
    pub fn new(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { chain: chain.into(), key: key.into() }
    }

    /// Reads both, to find out what is wrong with them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for files that cannot be read, that are no PEM, and for a key of another certificate.
    pub fn check(&self) -> Result<()> {
        self.load().map(|_| ())
    }

    /// TLS 1.2 and 1.3 with this certificate, for HTTP/1.1.
    pub(super) fn load(&self) -> Result<Arc<ServerConfig>> {
        let failed = |what: &str, path: &PathBuf, error: &dyn Display| {
            Error::naming(ErrorKind::Invalid, path, |file| format!("{what} {file}: {error}"))
        };
        let chain = CertificateDer::pem_file_iter(&self.chain)
            .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
            .map_err(|error| failed("the certificate in", &self.chain, &error))?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| failed("the certificate's key in", &self.key, &error))?;
        // By name, and not that of the process: a host program may have another for itself.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| failed("the certificate in", &self.chain, &error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
