//! Serving the API, for those who have no server of their own.

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
    http::Response,
};
use hyper::{
    body::{Frame, SizeHint},
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
    Certificate, HttpApi,
    connections::{AtWork, Connections, Place},
    limits::{Bounds, ConnectionLimits},
    stream::Watched,
};
use crate::{Error, ErrorKind, Result};

/// How long requests that run when the server is told to stop may take to end by themselves.
const GRACE: Duration = Duration::from_secs(20);

/// How long no connection is accepted where the system has no room for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    api: HttpApi,
    tls: Option<(Certificate, watch::Sender<Arc<ServerConfig>>)>,
    bounds: Bounds,
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
        let listener = TcpListener::bind(address)
            .map_err(|error| Error::io(format!("listening at {address}"), error))?;
        Self::from_listener(listener, open)
    }

    /// Serves what comes to `listener`, such as one that another process handed over. `open` makes the API for its address.
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
        let bounds = ConnectionLimits::default().resolve()?;
        let api = open(address)?;
        if !api.asks_for_tokens {
            check_reach(address)?;
        }
        Ok(Self { listener, api, tls: None, bounds })
    }

    /// Serves over TLS. The certificate and its key are read anew when the process gets a SIGHUP: if they are no good
    /// then, those of before stay.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for files that cannot be read, that are no PEM, and for a key of another certificate.
    pub fn with_tls(self, certificate: Certificate) -> Result<Self> {
        let config = watch::Sender::new(certificate.load()?);
        Ok(Self { tls: Some((certificate, config)), ..self })
    }

    /// Bounds the connections otherwise than [`ConnectionLimits::default`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for more connections than the process may open files for, and for none.
    pub fn with_limits(self, limits: &ConnectionLimits) -> Result<Self> {
        Ok(Self { bounds: limits.resolve()?, ..self })
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

    /// Serves until the process is asked to end, by SIGINT or SIGTERM, and then stops as [`run_until`](Self::run_until)
    /// does.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`].
    pub fn run(self) -> Result<()> {
        self.run_until(ended())
    }

    /// Serves until `stop` is done. Then nothing more is accepted, maintenance and verifications stop, other requests may end
    /// by themselves for 20 seconds, and long calls that do not are stopped and leave nothing behind.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`].
    pub fn run_until(self, stop: impl Future<Output = ()>) -> Result<()> {
        let failed = |error| Error::io("serving", error);
        let url = self.url()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed)?;
        let Self { listener, api, tls, bounds } = self;
        let service = TowerToHyperService::new(api.router()?);
        runtime
            .block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let connections = Arc::new(Connections::new(bounds, Arc::clone(&api.connections)));
                let config = tls.map(|(certificate, config)| {
                    let reader = config.subscribe();
                    tokio::spawn(renew(certificate, config));
                    reader
                });
                tracing::info!(url, connections = bounds.connections, "the server has started");
                let (stopping, _) = watch::channel(false);
                let accepting = Accepting { connections, config, service, stopping: stopping.clone() };
                let mut tasks = JoinSet::new();
                accepting.run(listener, stop, &mut tasks).await;
                tracing::info!("the server is stopping");
                api.drain();
                stopping.send_replace(true);
                let all_ended = async { while tasks.join_next().await.is_some() {} };
                let _some_may_be_left = timeout(GRACE, all_ended).await;
                tasks.shutdown().await;
                Ok(())
            })
            .map_err(failed)?;
        // Whatever still runs is stopped; dropping the runtime waits for it.
        api.stop();
        drop(runtime);
        tracing::info!("the server has stopped");
        Ok(())
    }
}

/// What every connection needs.
#[derive(Debug)]
struct Accepting {
    connections: Arc<Connections>,
    config: Option<watch::Receiver<Arc<ServerConfig>>>,
    service: TowerToHyperService<Router>,
    stopping: watch::Sender<bool>,
}

impl Accepting {
    /// Accepts connections until `stop` is done.
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
                    // A refused client sees the connection close.
                    if let Some(place) = self.connections.admit(peer) {
                        tasks.spawn(self.handle(stream, Arc::new(place)));
                    }
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "no connection can be accepted");
                    self.connections.displace();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves a connection until it ends, or has to close for another one.
    fn handle(&self, stream: TcpStream, place: Arc<Place>) -> impl Future<Output = ()> + Send + 'static {
        let config = self.config.as_ref().map(|config| Arc::clone(&config.borrow()));
        let (service, mut stopping) = (self.service.clone(), self.stopping.subscribe());
        async move {
            // It is only slower without.
            let _without_delay = stream.set_nodelay(true);
            let stream = Watched::new(stream, Arc::clone(&place));
            let served = async {
                let Some(config) = config else {
                    return converse(stream, service, &place, stopping).await;
                };
                let handshake = timeout(place.bounds().head_time, TlsAcceptor::from(config).accept(stream));
                let stream = tokio::select! {
                    stream = handshake => stream,
                    _ = stopping.wait_for(|stopping| *stopping) => return,
                };
                if let Ok(Ok(stream)) = stream {
                    converse(stream, service, &place, stopping).await;
                }
            };
            tokio::select! {
                () = served => {}
                () = place.displaced() => {}
            }
        }
    }
}

/// Answers the requests of a connection, one after the other.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    service: TowerToHyperService<Router>,
    place: &Arc<Place>,
    mut stopping: watch::Receiver<bool>,
) {
    let service = service_fn(move |request| {
        let at_work = place.at_work();
        let answer = service.call(request);
        async move {
            let answer = answer.await?;
            Ok::<Response<Held>, Infallible>(answer.map(|body| Held { body, _at_work: at_work }))
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            // The time between two requests counts as well.
            .header_read_timeout(place.bounds().head_time)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        _ended = connection.as_mut() => return,
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
    // What has come of a request that is not whole is not waited for.
    if !place.has_part_of_head() {
        connection.as_mut().graceful_shutdown();
        let _ended = connection.await;
    }
}

/// The body of an answer, for which the server is at work until it is sent.
struct Held {
    body: Body,
    _at_work: AtWork,
}

impl HttpBody for Held {
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

/// Whether an error of accepting is one of the connection that was to be accepted, and not of the system.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
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
async fn renew(certificate: Certificate, config: watch::Sender<Arc<ServerConfig>>) {
    // A signal that cannot be waited for ends nothing: it is not caught then, and ends the process.
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        match certificate.load() {
            Ok(new) => {
                config.send_replace(new);
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
