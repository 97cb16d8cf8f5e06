//! Serving the API, for those who have no server of their own.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    time::Duration,
};

use axum_server::Handle;

use super::HttpApi;
use crate::{Error, ErrorKind, Result};

/// How long requests that run when the server is told to stop may take to end by themselves.
const GRACE: Duration = Duration::from_secs(20);

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    api: HttpApi,
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
        if !api.asks_for_tokens && !is_loopback(address.ip()) {
            let message = format!("{address} is not a loopback address: serve it with tokens");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(Self { listener, api })
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
        let router = self.api.router()?;
        runtime.block_on(async {
            let handle = Handle::new();
            let server = axum_server::from_tcp(self.listener).map_err(failed)?.handle(handle.clone());
            tokio::spawn(async move {
                ended().await;
                handle.graceful_shutdown(Some(GRACE));
            });
            server.serve(router.into_make_service()).await.map_err(failed)
        })?;
        // Whatever still runs is stopped; dropping the runtime waits for it.
        self.api.stop();
        Ok(())
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Waits until the process is asked to end.
async fn ended() {
    use tokio::signal::unix::{SignalKind, signal};
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
