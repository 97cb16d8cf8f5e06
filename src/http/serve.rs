//! Serving the API, for those who have no server of their own.

use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use axum_server::{Handle, tls_rustls::RustlsConfig};
use tokio::signal::unix::{SignalKind, signal};

use super::{Certificate, HttpApi};
use crate::{Error, ErrorKind, Result};

/// How long requests that run when the server is told to stop may take to end by themselves.
const GRACE: Duration = Duration::from_secs(20);

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    api: HttpApi,
    tls: Option<(Certificate, RustlsConfig)>,
}

impl Server {
    /// Listens at `address`; port 0 takes one that is free. `open` makes the API when the address is known, for host names
    /// that carry the port.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for an address that others can reach where no tokens are asked for,
    /// [`ErrorKind::Io`] for one that cannot be had, and whatever `open` answers.
    pub fn bind(address: SocketAddr, open: impl FnOnce(SocketAddr) -> Result<HttpApi>) -> Result<Self> {
        let failed = |error| Error::io(format!("listening at {address}"), error);
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let api = open(listener.local_addr().map_err(failed)?)?;
        if !api.asks_for_tokens {
            check_reach(address)?;
        }
        Ok(Self { listener, api, tls: None })
    }

    /// The same over TLS. The certificate and its key are read anew when the process gets a SIGHUP: if they are no good
    /// then, those of before stay.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for files that cannot be read, that are no PEM, and for a key of another certificate.
    pub fn with_tls(self, certificate: Certificate) -> Result<Self> {
        let config = RustlsConfig::from_config(certificate.load()?);
        Ok(Self { tls: Some((certificate, config)), ..self })
    }

    /// The address that clients use, as a URL.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`].
    pub fn url(&self) -> Result<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}", self.address()?))
    }

    /// What it serves.
    #[must_use]
    pub fn api(&self) -> &HttpApi {
        &self.api
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`].
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|error| Error::io("asking for the address", error))
    }

    /// Serves until the process is asked to end, by SIGINT or SIGTERM. Then what runs may end by itself for 20 seconds, and
    /// long calls that do not are stopped and leave nothing behind.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`].
    pub fn run(self) -> Result<()> {
        let failed = |error| Error::io("serving", error);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed)?;
        let service = self.api.router()?.into_make_service();
        runtime.block_on(async {
            let handle = Handle::new();
            let stopping = handle.clone();
            tokio::spawn(async move {
                ended().await;
                stopping.graceful_shutdown(Some(GRACE));
            });
            // Of HTTP/2 nothing is needed here.
            match self.tls {
                None => {
                    let server = axum_server::from_tcp(self.listener).map_err(failed)?;
                    server.http1_only().handle(handle).serve(service).await
                }
                Some((certificate, config)) => {
                    tokio::spawn(renew(certificate, config.clone()));
                    let server = axum_server::from_tcp_rustls(self.listener, config).map_err(failed)?;
                    server.http1_only().handle(handle).serve(service).await
                }
            }
            .map_err(failed)
        })?;
        // Whatever still runs is stopped; dropping the runtime waits for it.
        self.api.stop();
        Ok(())
    }
}

/// Refuses an address that others can reach, for a server that asks for no tokens.
///
/// # Errors
///
/// [`ErrorKind::Invalid`].
pub fn check_reach(address: SocketAddr) -> Result<()> {
    if address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let message = format!("{address} is not a loopback address: serve it with tokens");
    Err(Error::new(ErrorKind::Invalid, message))
}

/// Reads a certificate anew whenever the process gets a SIGHUP.
async fn renew(certificate: Certificate, config: RustlsConfig) {
    // A signal that cannot be waited for ends nothing: it is not caught then, and ends the process.
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        match certificate.load() {
            Ok(new) => {
                config.reload_from_config(new);
                tracing::info!("the certificate was read anew");
            }
            Err(error) => tracing::error!(%error, "the certificate was not read anew"),
        }
    }
}

/// Waits until the process is asked to end.
async fn ended() {
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                terminate.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminate => {}
    }
}
