//! `serve`: serves the Platform API until the process is stopped.

use std::{
    env,
    io::{self, IsTerminal},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs},
    path::Path,
    sync::Arc,
};

use litefleet::{
    ControlPlane, Error, ErrorKind, Maintainer, MaintainerOptions, Result,
    http::{Certificate, ConnectionLimits, HttpApi, Server, check_loopback},
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

/// Opens or creates a fleet and serves it.
pub(super) fn run(root: &Path, options: &ServeArguments, output: Output) -> Result<()> {
    let ServeArguments { listen, domain, organization, no_tokens, tls_certificate, tls_key, .. } = options;
    init_logging(options.log, output)?;
    let certificate =
        tls_certificate.as_ref().zip(tls_key.as_ref()).map(|(chain, key)| Certificate::new(chain, key));
    let open = |address: SocketAddr| {
        // Checked first, so that invalid options create no fleet.
        if *no_tokens {
            check_loopback(address)?;
        }
        certificate.as_ref().map_or(Ok(()), Certificate::check)?;
        limits(options).check()?;
        // Without a domain, host names contain the port, so that clients on this machine reach them.
        let domain = domain.clone().unwrap_or_else(|| format!("localhost:{}", address.port()));
        let plane = ControlPlane::builder().domain(domain).open(root)?;
        // As with Turso's command line, the first database needs no group to be created before.
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
            api = api.with_maintainer(Arc::new(maintainer(plane, every)?));
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
            Some(file) => format!("Token of the organization: {}", file.display()),
            None => "Tokens are disabled: anyone who can reach this address has full access".to_owned(),
        })?;
    }
    server.run()
}

/// Starts the maintenance of the fleet, and logs failures.
fn maintainer(plane: ControlPlane, every: std::time::Duration) -> Result<Maintainer> {
    let options = MaintainerOptions::every(every).report(|database, result| match result {
        Ok(report) => tracing::debug!(
            database = database.as_str(),
            snapshots = report.snapshots,
            bytes_freed = report.bytes_freed,
            bytes_saved = report.bytes_saved,
            "maintained the database"
        ),
        Err(error) => {
            tracing::error!(database = database.as_str(), %error, "failed to maintain the database");
        }
    });
    Maintainer::start(plane, options)
}

fn limits(options: &ServeArguments) -> ConnectionLimits {
    let mut limits = ConnectionLimits::default();
    if let Some(max) = options.max_connections {
        limits = limits.max_connections(max);
    }
    if let Some(max) = options.max_connections_per_peer {
        limits = limits.max_connections_per_peer(max);
    }
    limits
}

/// Binds to the first address of the host that is available.
fn bind(listen: &Listen) -> Result<TcpListener> {
    let Listen { host, port } = listen;
    let shown = format!("{}:{port}", host.as_deref().unwrap_or_default());
    let failed = |error: io::Error| {
        Error::new(ErrorKind::Io, format!("listening on {shown}: {error}")).caused_by(error)
    };
    let mut addresses: Vec<SocketAddr> = match host {
        Some(host) => (host.as_str(), *port).to_socket_addrs().map_err(failed)?.collect(),
        // The first accepts both IPv6 and IPv4. The second is for machines without IPv6.
        None => vec![(Ipv6Addr::UNSPECIFIED, *port).into(), (Ipv4Addr::UNSPECIFIED, *port).into()],
    };
    // IPv4 first: clients resolve `localhost` to both, and a client that uses 127.0.0.1 tries only IPv4.
    if host.is_some() {
        addresses.sort_by_key(SocketAddr::is_ipv6);
    }
    TcpListener::bind(addresses.as_slice()).map_err(failed)
}

/// Logs to standard error.
fn init_logging(log: Option<LogLevel>, output: Output) -> Result<()> {
    let targets = match (log, env::var("RUST_LOG")) {
        (None, Ok(directives)) if !directives.is_empty() => directives.parse().map_err(|error| {
            let message =
                format!("invalid RUST_LOG {directives:?}: {error}; use levels such as info,litefleet=debug");
            Error::new(ErrorKind::Invalid, message)
        })?,
        (log, _) => Targets::new().with_default(match log.unwrap_or(LogLevel::Error) {
            LogLevel::Off => LevelFilter::OFF,
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
        }),
    };
    // Colors only on a terminal, and unless the user has turned them off (https://no-color.org).
    let has_colors =
        io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines =
        tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false).with_ansi(has_colors);
    let subscriber = tracing_subscriber::registry().with(targets);
    if output.json {
        subscriber.with(lines.json()).init();
    } else {
        subscriber.with(lines).init();
    }
    Ok(())
}
