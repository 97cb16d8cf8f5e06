//! Grants leases to hosts.

use super::{
    lease::{Fencing, Number, Terms},
    shim,
};
use crate::error::{Error, ErrorKind, Result};

/// The first version of SQLite that can keep `ATTACH` from creating files on a connection that a library has opened with
/// `SQLITE_OPEN_CREATE`. The fence tells `ATTACH` from `VACUUM INTO` by that flag.
const MIN_SQLITE: i32 = 3_049_000;

/// A lease that the VFS grants until this value is dropped.
#[derive(Debug)]
pub(crate) struct Grant {
    number: Number,
    fence: Fencing,
}

impl Grant {
    /// Grants a lease.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Unsupported`] if SQLite is older than 3.49.
    pub(crate) fn new(terms: Terms) -> Result<Self> {
        if rusqlite::version_number() < MIN_SQLITE {
            let message = format!("a lease needs SQLite 3.49 or newer; this is {}", rusqlite::version());
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        shim::register().and_then(|()| shim::prepare_leased_connections())?;
        let fence = terms.fence;
        Ok(Self { number: Number::grant(terms)?, fence })
    }

    /// Returns the parameters of a URI that opens the database under this lease.
    pub(crate) fn parameters(&self) -> String {
        let vfs = match self.fence {
            Fencing::Fenced => shim::NAME,
            Fencing::Unfenced => shim::UNFENCED,
        };
        format!("vfs={}&lease={}", vfs.to_string_lossy(), self.number.to_hex())
    }
}
