//! `litefleet serve`: the Platform API until the process is told to end.

use std::{
    env,
    io::{self, IsTerminal},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs},
    path::Path,
    sync::Arc,
};

use litefleet::{
    ControlPlane, Error, ErrorKind, Maintainer, MaintainerOptions, Result,
    http::{Certificate, ConnectionLimits, HttpApi, Server, check_reach},
};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use super::{
    args::{Listen, LogLevel, ServeArguments},
    output::{self, Output},
};

/// Opens a fleet, or makes one, and serves it.
pub(super) fn run(root: &Path, options: &ServeArguments, output: Output) -> Result<()> {
    let ServeArguments { listen, domain, organization, no_tokens, tls_certificate, tls_key, .. } = options;
    tell(options.log, output)?;
    let certificate =
        tls_certificate.as_ref().zip(tls_key.as_ref()).map(|(chain, key)| Certificate::new(chain, key));
    let open = |address: SocketAddr| {
        // What will be refused makes no fleet.
        if *no_tokens {
            check_reach(address)?;
        }
        certificate.as_ref().map_or(Ok(()), Certificate::check)?;
        limits(options).check()?;
        // The host names of databases carry the port, so that a client finds them where no name service knows them.
        let domain = domain.clone().unwrap_or_else(|| format!("localhost:{}", address.port()));
        let plane = ControlPlane::builder().domain(domain).open(root)?;
        // As the command line of this API does: the first database of a new user needs no group to be made before.
        if plane.list_groups()?.is_empty() {
            match plane.create_group("default") {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        let mut api = HttpApi::new(plane.clone()).with_page();
        if let Some(slug) = organization {
            api = api.organization(slug);
        }
        if let Some(every) = options.maintain_every.0 {
            api = api.maintained_by(Arc::new(maintainer(plane, every)?));
        }
        Ok(if *no_tokens { api.without_tokens() } else { api })
    };
    let mut server = Server::from_listener(bind(listen)?, open)?.with_limits(&limits(options))?;
    if let Some(certificate) = certificate.clone() {
        server = server.with_tls(certificate)?;
    }
    let (url, token_file) = (server.url()?, server.api().organization_token_file()?);
    server.api().read_only_token_file()?;
    if output.json {
        output::served(&url, token_file.as_deref())?;
    } else {
        output::print(&format!("Serving {} at {url}", root.display()))?;
        output::print(&match &token_file {
            Some(file) => format!("The token of the organization is in {}", file.display()),
            None => "No token is asked for: whoever can reach this address may do everything".to_owned(),
        })?;
    }
    server.run()
}

/// Maintains the fleet, and logs what fails.
fn maintainer(plane: ControlPlane, every: std::time::Duration) -> Result<Maintainer> {
    let options = MaintainerOptions::every(every).report(|database, done| match done {
        Ok(done) => tracing::debug!(
            database = database.as_str(),
            snapshots = done.snapshots,
            bytes_freed = done.bytes_freed,
            bytes_saved = done.bytes_saved,
            "maintained"
        ),
        Err(error) => tracing::error!(database = database.as_str(), %error, "not maintained"),
    });
    Maintainer::start(plane, options)
}

fn limits(options: &ServeArguments) -> ConnectionLimits {
    let mut limits = ConnectionLimits::default();
    if let Some(max) = options.max_connections {
        limits = limits.connections(max);
    }
    if let Some(max) = options.max_connections_per_peer {
        limits = limits.connections_per_peer(max);
    }
    limits
}

/// Listens at the first address of the host that can be had.
fn bind(listen: &Listen) -> Result<TcpListener> {
    let Listen { host, port } = listen;
    let shown = format!("{}:{port}", host.as_deref().unwrap_or_default());
    let failed = |error: io::Error| {
        Error::new(ErrorKind::Io, format!("listening at {shown}: {error}")).caused_by(error)
    };
    let mut addresses: Vec<SocketAddr> = match host {
        Some(host) => (host.as_str(), *port).to_socket_addrs().map_err(failed)?.collect(),
        // The first takes both kinds of addresses; a machine may know only the second.
        None => vec![(Ipv6Addr::UNSPECIFIED, *port).into(), (Ipv4Addr::UNSPECIFIED, *port).into()],
    };
    // A client that is told `localhost` tries both, and one that is told 127.0.0.1 does not.
    if host.is_some() {
        addresses.sort_by_key(SocketAddr::is_ipv6);
    }
    TcpListener::bind(addresses.as_slice()).map_err(failed)
}

/// Tells on standard error what is served.
fn tell(log: Option<LogLevel>, output: Output) -> Result<()> {
    let targets = match (log, env::var("RUST_LOG")) {
        (None, Ok(directives)) if !directives.is_empty() => directives.parse().map_err(|error| {
            let message =
                format!("RUST_LOG is {directives:?}: {error}; give levels such as info,litefleet=debug");
            Error::new(ErrorKind::Invalid, message)
        })?,
        (log, _) => Targets::new().with_default(match log.unwrap_or(LogLevel::Error) {
            LogLevel::Off => LevelFilter::OFF,
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
        }),
    };
    // Colours are for a person who looks on, and who did not turn them off (https://no-color.org).
    let has_colours =
        io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines =
        tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false).with_ansi(has_colours);
    let subscriber = tracing_subscriber::registry().with(targets);
    if output.json {
        subscriber.with(lines.json()).init();
    } else {
        subscriber.with(lines).init();
    }
    Ok(())
}
