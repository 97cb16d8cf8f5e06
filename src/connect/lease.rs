//! Leases, for libraries that open a database by a URI.

use std::{fmt, path::Path, sync::Arc};

use super::{CatalogGovernor, ConnectOptions, prepare, prepare_to_read};
use crate::{
    error::{Error, Result},
    sqlite,
    vfs::{Access, Fencing, Grant, Terms},
};

/// A URI under which SQLite's users in this process open one database of the fleet.
///
/// [`ControlPlane::lease`](crate::ControlPlane::lease) grants a lease. It ends when this value is dropped: the URI opens nothing
/// any more, and open connections remain open. The key of an encrypted database is wiped from memory when the lease has ended
/// and the last connection that was opened under it closes.
///
/// The URI contains no key, but it grants the access of a connection to all code of this process that learns it. It means
/// nothing in another process. `Debug` does not show it.
pub struct Lease {
    uri: String,
    _grant: Grant,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}

impl Lease {
    /// Returns the URI: the path of the file, and parameters that name the lease and the VFS. Treat it as opaque.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }
}

/// Leases the database file at `path` under the policy of `governor`.
pub(crate) fn lease(path: &Path, governor: CatalogGovernor, options: &ConnectOptions) -> Result<Lease> {
    let settings = without_key(options);
    let governor = governor.read_only(options.read_only);
    let terms = Terms {
        path: path.to_owned(),
        source: Arc::new(governor),
        fence: fencing(options),
        access: Access::Write,
        prepare: Box::new(move |connection| prepare(connection, &settings)),
    };
    let grant = Grant::new(terms)?;
    Ok(Lease { uri: sqlite::uri(path, grant.parameters())?, _grant: grant })
}

/// Leases the database file at `path` of a read-only fleet.
pub(crate) fn lease_to_read(
    path: &Path,
    governor: CatalogGovernor,
    options: &ConnectOptions,
) -> Result<Lease> {
    let settings = without_key(options);
    let uri = sqlite::uri_to_read(path)?;
    let terms = Terms {
        path: path.to_owned(),
        source: Arc::new(governor.reading()),
        fence: fencing(options),
        access: if uri.ends_with(sqlite::IMMUTABLE) { Access::Immutable } else { Access::Read },
        prepare: Box::new(move |connection| {
            prepare_to_read(connection, &settings).map_err(|error| Error::from_sqlite(connection, error))
        }),
    };
    let grant = Grant::new(terms)?;
    Ok(Lease { uri: format!("{uri}&{}", grant.parameters()), _grant: grant })
}

fn fencing(options: &ConnectOptions) -> Fencing {
    if options.unfenced { Fencing::Unfenced } else { Fencing::Fenced }
}

/// The settings of the connections of a lease. The policy source holds the key.
fn without_key(options: &ConnectOptions) -> ConnectOptions {
    ConnectOptions { encryption_key: None, ..options.clone() }
}
