//! `litefleet serve`: the Platform API until the process is told to end.

use std::{net::SocketAddr, path::Path};

use litefleet::{
    ControlPlane, ErrorKind, Result,
    http::{HttpApi, Server},
};

use super::output::{self, Output};

pub(super) struct Options {
    pub(super) listen: SocketAddr,
    pub(super) domain: Option<String>,
    pub(super) organization: Option<String>,
    pub(super) no_tokens: bool,
}

/// Opens a fleet, or makes one, and serves it.
pub(super) fn run(root: &Path, options: &Options, output: Output) -> Result<()> {
    // The host names of databases carry the port, so that a client finds them where no name service knows them.
    let domain = |address: SocketAddr| format!("localhost:{}", address.port());
    let open = |address: SocketAddr| {
        let domain = options.domain.clone().unwrap_or_else(|| domain(address));
        let plane = ControlPlane::builder().domain(domain).open(root)?;
        // As the command line of this API does: the first database of a new user needs no group to be made before.
        if plane.list_groups()?.is_empty() {
            match plane.create_group("default") {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        let mut api = HttpApi::new(plane).with_page();
        if let Some(slug) = &options.organization {
            api = api.organization(slug);
        }
        Ok(if options.no_tokens { api.without_tokens() } else { api })
    };
    let server = Server::bind(options.listen, open)?;
    let address = server.address()?;
    let token_file = server.api().organization_token_file()?;
    if output.json {
        output::served(address, token_file.as_deref())?;
    } else {
        output::print(&format!("Serving {} at http://{address}", root.display()))?;
        output::print(&match &token_file {
            Some(file) => format!("The token of the organization is in {}", file.display()),
            None => "No token is asked for: whoever can reach this address may do everything".to_owned(),
        })?;
    }
    server.run()
}
