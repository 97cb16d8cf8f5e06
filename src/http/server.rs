//! A server for the API, for programs that do not bring their own.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    http::{Request, Response},
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{
    api::HttpApi,
    connections::{ConnectionSlot, Connections, RequestGuard},
    limits::{ConnectionLimits, ResolvedLimits},
    stream::{MonitoredBody, MonitoredStream},
    tls::Certificate,
};
use crate::{Error, ErrorKind, Result};

/// How long running requests may take to complete when the server stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);

/// The pause after the system fails to accept a connection, for lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A server that is bound to an address.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    api: HttpApi,
    tls: Option<(Certificate, watch::Sender<Arc<ServerConfig>>)>,
    limits: ResolvedLimits,
}

impl Server {
    /// Binds to `address`. Port 0 selects a free port. `open` creates the API once the address is known, because the host
    /// names of databases can contain the port.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Invalid`] if the address is not a loopback address and the API requires no tokens, with
    /// [`ErrorKind::Io`] if the address cannot be bound, and with the error of `open`.
    pub fn bind(address: SocketAddr, open: impl FnOnce(SocketAddr) -> Result<HttpApi>) -> Result<Self> {
        let listener = TcpListener::bind(address)
            .map_err(|error| Error::io(format!("listening on {address}"), error))?;
        Self::from_listener(listener, open)
    }

    /// Serves a listener that is already bound, such as one inherited from another process. `open` creates the API for its
    /// address.
    ///
    /// # Errors
    ///
    /// As for [`bind`](Self::bind).
    pub fn from_listener(
        listener: TcpListener,
        open: impl FnOnce(SocketAddr) -> Result<HttpApi>,
    ) -> Result<Self> {
        let failed = |error| Error::io("listening", error);
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let limits = ConnectionLimits::default().resolve()?;
        let api = open(address)?;
        if !api.requires_tokens() {
            check_loopback(address)?;
        }
        Ok(Self { listener, api, tls: None, limits })
    }

    /// Serves over TLS. On SIGHUP the certificate and its key are reloaded; if they are invalid, the previous ones stay in use.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Invalid`] if a file cannot be read, is not PEM, or the key does not match the certificate.
    pub fn with_tls(self, certificate: Certificate) -> Result<Self> {
        let config = watch::Sender::new(certificate.load()?);
        Ok(Self { tls: Some((certificate, config)), ..self })
    }

    /// Replaces the default limits on connections.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Invalid`] if the process may not open enough files, or if no connections are allowed.
    pub fn with_limits(self, limits: &ConnectionLimits) -> Result<Self> {
        Ok(Self { limits: limits.resolve()?, ..self })
    }

    /// The URL of the server.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`].
    pub fn url(&self) -> Result<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}", self.address()?))
    }

    /// The API that it serves.
    #[must_use]
    pub fn api(&self) -> &HttpApi {
        &self.api
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`].
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|error| Error::io("reading the address of the listener", error))
    }

    /// Serves until the process receives SIGINT or SIGTERM, and then stops as [`run_until`](Self::run_until) does.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`].
    pub fn run(self) -> Result<()> {
        self.run_until(termination())
    }

    /// Serves until `stop` completes. The server then accepts no more connections, cancels maintenance and verification, gives
    /// other requests 20 seconds to complete, and cancels the calls that remain, which leave nothing behind.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`].
    pub fn run_until(self, stop: impl Future<Output = ()>) -> Result<()> {
        let failed = |error| Error::io("serving", error);
        let url = self.url()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed)?;
        let Self { listener, api, tls, limits } = self;
        let service = TowerToHyperService::new(api.router()?);
        runtime
            .block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let connections = Arc::new(Connections::new(limits, Arc::clone(api.connection_counts())));
                let config = tls.map(|(certificate, config)| {
                    let reader = config.subscribe();
                    tokio::spawn(reload_on_hangup(certificate, config));
                    reader
                });
                tracing::info!(url, connections = limits.connections, "the server has started");
                let (stopping, _) = watch::channel(false);
                let acceptor = Acceptor { connections, config, service, stopping: stopping.clone() };
                let mut tasks = JoinSet::new();
                acceptor.run(listener, stop, &mut tasks).await;
                tracing::info!("the server is stopping");
                api.drain();
                stopping.send_replace(true);
                let all_ended = async { while tasks.join_next().await.is_some() {} };
                let _some_may_remain = timeout(SHUTDOWN_TIMEOUT, all_ended).await;
                tasks.shutdown().await;
                Ok(())
            })
            .map_err(failed)?;
        // Dropping the runtime waits for the cancelled calls.
        api.stop();
        drop(runtime);
        tracing::info!("the server has stopped");
        Ok(())
    }
}

/// Accepts connections and spawns a task for each.
#[derive(Debug)]
struct Acceptor {
    connections: Arc<Connections>,
    config: Option<watch::Receiver<Arc<ServerConfig>>>,
    service: TowerToHyperService<Router>,
    stopping: watch::Sender<bool>,
}

impl Acceptor {
    /// Accepts connections until `stop` completes.
    async fn run(
        &self,
        listener: tokio::net::TcpListener,
        stop: impl Future<Output = ()>,
        tasks: &mut JoinSet<()>,
    ) {
        let mut stop = pin!(stop);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stop => return,
                Some(_ended) = tasks.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    // Dropping the stream of a refused connection closes it.
                    if let Some(slot) = self.connections.admit(peer) {
                        tasks.spawn(self.handle(stream, Arc::new(slot)));
                    }
                }
                Err(error) if is_connection_error(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "failed to accept a connection");
                    self.connections.displace();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves a connection until it ends or is displaced.
    fn handle(
        &self,
        stream: TcpStream,
        slot: Arc<ConnectionSlot>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let config = self.config.as_ref().map(|config| Arc::clone(&config.borrow()));
        let (service, mut stopping) = (self.service.clone(), self.stopping.subscribe());
        async move {
            // An optimization, whose failure does not matter.
            let _without_delay = stream.set_nodelay(true);
            let stream = MonitoredStream::new(stream, Arc::clone(&slot));
            let served = async {
                let Some(config) = config else {
                    return serve_connection(stream, service, &slot, stopping).await;
                };
                let accept = TlsAcceptor::from(config).accept(stream);
                let stream = tokio::select! {
                    stream = timeout(slot.limits().header_timeout, accept) => stream,
                    _ = stopping.wait_for(|stopping| *stopping) => return,
                };
                if let Ok(Ok(stream)) = stream {
                    serve_connection(stream, service, &slot, stopping).await;
                }
            };
            tokio::select! {
                () = served => {}
                () = slot.displaced() => {}
            }
        }
    }
}

/// Serves the requests of a connection, one after another.
async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    service: TowerToHyperService<Router>,
    slot: &Arc<ConnectionSlot>,
    mut stopping: watch::Receiver<bool>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let guard = slot.begin_request();
        let response = service.call(request.map(|body| MonitoredBody::new(body, Arc::clone(slot))));
        async move {
            let response = response.await?;
            Ok::<Response<GuardedBody>, Infallible>(response.map(|body| GuardedBody { body, _guard: guard }))
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            // hyper measures it from the end of the previous response, so it also bounds idle connections.
            .header_read_timeout(slot.limits().header_timeout)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        _ended = connection.as_mut() => return,
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
    // The rest of a partial head is not awaited.
    if !slot.has_partial_head() {
        connection.as_mut().graceful_shutdown();
        let _ended = connection.await;
    }
}

/// A response body that holds the guard of its request until it has been sent.
struct GuardedBody {
    body: Body,
    _guard: RequestGuard,
}

impl HttpBody for GuardedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether an error of `accept` concerns only the connection to be accepted, not the listener or the system.
fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Checks that only this machine can reach `address`, as a server without tokens requires.
///
/// # Errors
///
/// Fails with [`ErrorKind::Invalid`] if the address is not a loopback address.
pub fn check_loopback(address: SocketAddr) -> Result<()> {
    if address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let message = format!("{address} is not a loopback address; require tokens to serve it");
    Err(Error::new(ErrorKind::Invalid, message))
}

/// Reloads the certificate on every SIGHUP.
async fn reload_on_hangup(certificate: Certificate, config: watch::Sender<Arc<ServerConfig>>) {
    // If the handler cannot be installed, SIGHUP keeps its default action.
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        match certificate.load() {
            Ok(new) => {
                config.send_replace(new);
                tracing::info!("reloaded the certificate");
            }
            Err(error) => tracing::error!(%error, "failed to reload the certificate"),
        }
    }
}

/// Completes when the process receives SIGINT or SIGTERM.
async fn termination() {
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
