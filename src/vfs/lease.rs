//! Leases: names under which libraries that open a database by a URI open a database of a fleet.
//!
//! A URI names this VFS and, in the parameter `lease`, a random number of 128 bits. The number leads to the [`Terms`] of the
//! lease while the [`Number`] lives. `xOpen` refuses any other number, another file, and parameters that turn off locks.
//!
//! The connection belongs to another library, so an automatic extension prepares it: SQLite runs one in each new connection,
//! before the call that opens the connection returns. Until then the file admits no transaction. A leased file that is attached,
//! or whose connection the extension does not reach, is therefore useless.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
};

use rusqlite::Connection;

use super::{error::VfsError, leased::LeasedFile, policy::PolicySource};
use crate::{
    error::{Error, ErrorKind, Result},
    sync::{Mutex, Rank},
};

/// The granted leases, by their numbers.
static LEASES: Mutex<BTreeMap<u128, Arc<Terms>>> = Mutex::new(Rank::Leases, BTreeMap::new());

/// Prepares a new connection of another library.
type Prepare = Box<dyn Fn(&Connection) -> Result<()> + Send + Sync>;

/// The terms of a lease.
pub(crate) struct Terms {
    /// The database file.
    pub(crate) path: PathBuf,
    pub(crate) source: Arc<dyn PolicySource>,
    pub(crate) fence: Fencing,
    pub(crate) access: Access,
    /// Runs with the fence raised.
    pub(crate) prepare: Prepare,
}

/// How the file is opened, whatever the library asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Write,
    /// A file that is opened to be read is never written to, not even by a checkpoint: no history would be kept.
    Read,
    /// Read without locks, as a file that nobody can change.
    Immutable,
}

/// Whether the SQL of leased connections is fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fencing {
    Fenced,
    Unfenced,
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terms").field("path", &self.path).field("fence", &self.fence).finish_non_exhaustive()
    }
}

/// The number of a granted lease, which ends when this value is dropped. `Debug` does not show it.
pub(super) struct Number(u128);

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Number").finish_non_exhaustive()
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        // The terms are dropped without the table locked.
        let _terms = LEASES.lock_or_recover().remove(&self.0);
    }
}

impl Number {
    /// Grants a lease under a new random number.
    pub(super) fn grant(terms: Terms) -> Result<Self> {
        let mut number = [0; size_of::<u128>()];
        getrandom::fill(&mut number).map_err(|error| {
            Error::new(ErrorKind::Io, "the system returned no random bytes").caused_by(error)
        })?;
        let number = u128::from_le_bytes(number);
        LEASES.lock_or_recover().insert(number, Arc::new(terms));
        Ok(Self(number))
    }

    /// Writes the number as 32 hexadecimal digits.
    pub(super) fn to_hex(&self) -> String {
        format!("{:032x}", self.0)
    }

    /// Parses 32 hexadecimal digits.
    fn parse(digits: &[u8]) -> Option<u128> {
        let is_whole = digits.len() == 32 && digits.iter().all(u8::is_ascii_hexdigit);
        u128::from_str_radix(str::from_utf8(digits).ok().filter(|_| is_whole)?, 16).ok()
    }
}

/// A main database file that a URI asks for under a lease. `Debug` does not show the number.
#[derive(Clone, Copy)]
pub(super) struct Claim<'a> {
    /// The value of the parameter `lease`.
    pub(super) number: &'a [u8],
    /// Whether the URI turns off the locks of the file, or the write locks of its shared memory. The connections of a process share
    /// that memory, so the latter would make all of them read-only.
    pub(super) is_not_locked: bool,
    /// Whether the URI says that the file never changes.
    pub(super) is_immutable: bool,
}

impl fmt::Debug for Claim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number: _, is_not_locked, is_immutable } = self;
        f.debug_struct("Claim")
            .field("is_not_locked", is_not_locked)
            .field("is_immutable", is_immutable)
            .finish_non_exhaustive()
    }
}

/// Returns the terms under which a file is opened.
pub(super) fn claim(claim: Claim<'_>, path: &Path, fence: Fencing) -> Result<Arc<Terms>, VfsError> {
    let terms = Number::parse(claim.number).and_then(|number| LEASES.lock_or_recover().get(&number).cloned());
    let terms = terms.ok_or(VfsError::LeaseEnded)?;
    let is_same = terms.path == path
        && terms.fence == fence
        && (terms.access == Access::Immutable) == claim.is_immutable;
    if !is_same || claim.is_not_locked {
        return Err(VfsError::LeaseAltered);
    }
    // The file at the path may be that of another database if the catalog has changed.
    let granted_at = terms.source.first_rules().map(|(stamp, _)| stamp);
    if granted_at.is_some() && granted_at == terms.source.stamp() {
        return Ok(terms);
    }
    match terms.source.rules() {
        Ok(Some(_)) => Ok(terms),
        Ok(None) => Err(VfsError::Destroyed),
        Err(error) => Err(VfsError::PolicyUnavailable(error.message())),
    }
}

/// The lease of an open file.
#[derive(Debug)]
pub(super) struct Leased {
    terms: Arc<Terms>,
    /// Whether the file is the main database of a prepared connection.
    is_prepared: AtomicBool,
}

impl Leased {
    pub(super) fn new(terms: Arc<Terms>) -> Self {
        Self { terms, is_prepared: AtomicBool::new(false) }
    }

    /// Admits a transaction.
    pub(super) fn check(&self) -> Result<(), VfsError> {
        if self.is_prepared.load(Acquire) { Ok(()) } else { Err(VfsError::LeaseAttached) }
    }
}

impl LeasedFile for Leased {
    fn is_fenced(&self) -> bool {
        self.terms.fence == Fencing::Fenced
    }

    fn prepare(&self, connection: &Connection) -> Result<()> {
        self.is_prepared.store(true, Release);
        // The terms set the busy timeout, which reading the schema needs.
        let prepared = (self.terms.prepare)(connection).and_then(|()| check_private_cache(connection));
        self.is_prepared.store(prepared.is_ok(), Release);
        prepared
    }
}

/// Fails if the connection shares its cache. A connection that joins a shared cache opens no file, so `ATTACH` could reach a
/// database of the fleet by its path. A statement locks a table if, and only if, the cache is shared.
fn check_private_cache(connection: &Connection) -> Result<()> {
    let explained: Vec<String> = connection
        .prepare("EXPLAIN SELECT 1 FROM sqlite_schema")
        .and_then(|mut plan| plan.query_map([], |row| row.get("opcode"))?.collect())
        .map_err(Error::from)?;
    if explained.iter().any(|opcode| opcode == "TableLock") {
        let message = "a lease cannot be opened with a shared cache; open it with a private cache";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_of_a_claim_omits_its_number() {
        let claim = Claim { number: b"0123456789abcdef", is_not_locked: false, is_immutable: false };
        assert_eq!(format!("{claim:?}"), "Claim { is_not_locked: false, is_immutable: false, .. }");
    }

    #[test]
    fn number_has_32_hexadecimal_digits() {
        // Dropping a number that was not granted changes nothing.
        let digits = Number(0xf).to_hex();
        assert_eq!(Number::parse(digits.as_bytes()), Some(0xf));
        for invalid in [&digits[1..], &format!("+{}", &digits[1..]), &format!("0{digits}"), ""] {
            assert_eq!(Number::parse(invalid.as_bytes()), None, "{invalid}");
        }
    }
}
