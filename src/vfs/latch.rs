//! The latch of a connection: an error state that lasts until the connection is closed.
//!
//! After a failed flush the system may have dropped the data that it could not write, and a later flush may report success
//! nevertheless. After a panic the state in memory is not known to be consistent. In both cases every later write and flush of
//! the connection fails. A new connection starts from the contents of the files.

use std::sync::OnceLock;

use super::error::VfsError;
use crate::error::Message;

/// The latch of one connection, which its database file, WAL and journal share. It holds the error of every later write.
#[derive(Debug, Default)]
pub(super) struct Latch(OnceLock<VfsError>);

impl Latch {
    /// Fails with [`VfsError::Latched`] if the latch is set.
    pub(super) fn check(&self) -> Result<(), VfsError> {
        self.0.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Whether the latch is set.
    pub(super) fn is_set(&self) -> bool {
        self.0.get().is_some()
    }

    /// Sets the latch because a flush of `file` failed, unless it is set.
    #[cold]
    pub(super) fn flush_failed(&self, file: &str, why: impl Into<Message>) {
        let cause = why.into().map(|why| format!("an earlier flush of {file} failed ({why})"));
        let _first = self.0.set(VfsError::Latched { cause });
    }

    /// Sets the latch because a call of the VFS panicked, unless it is set.
    #[cold]
    pub(super) fn panicked(&self) {
        let _first = self.0.set(VfsError::panicked());
    }
}
