//! `litefleet serve`: the Platform API until the process is told to end.

use std::{io, net::SocketAddr, path::Path};

use litefleet::{
    ControlPlane, ErrorKind, Result,
    http::{Certificate, HttpApi, Server, check_reach},
};
use tracing_subscriber::filter::LevelFilter;

use super::{
    args::{LogLevel, ServeArguments},
    output::{self, Output},
};

/// Opens a fleet, or makes one, and serves it.
pub(super) fn run(root: &Path, options: ServeArguments, output: Output) -> Result<()> {
    let ServeArguments { listen, domain, organization, no_tokens, tls_certificate, tls_key, log } = options;
    let certificate = tls_certificate.zip(tls_key).map(|(chain, key)| Certificate::new(chain, key));
    let open = |address: SocketAddr| {
        // What will be refused makes no fleet.
        if no_tokens {
            check_reach(address)?;
        }
        certificate.as_ref().map_or(Ok(()), Certificate::check)?;
        // The host names of databases carry the port, so that a client finds them where no name service knows them.
        let domain = domain.unwrap_or_else(|| format!("localhost:{}", address.port()));
        let plane = ControlPlane::builder().domain(domain).open(root)?;
        // As the command line of this API does: the first database of a new user needs no group to be made before.
        if plane.list_groups()?.is_empty() {
            match plane.create_group("default") {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        let mut api = HttpApi::new(plane).with_page();
        if let Some(slug) = organization {
            api = api.organization(slug);
        }
        Ok(if no_tokens { api.without_tokens() } else { api })
    };
    let mut server = Server::bind(listen, open)?;
    if let Some(certificate) = certificate {
        server = server.with_tls(certificate)?;
    }
    let (url, token_file) = (server.url()?, server.api().organization_token_file()?);
    server.api().read_only_token_file()?;
    tell(log, output);
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

/// Tells on standard error what is served. Nothing else of the process tells anything.
fn tell(log: LogLevel, output: Output) {
    let level = match log {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let subscriber =
        tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).with_target(false);
    if output.json { subscriber.json().init() } else { subscriber.init() }
}
