//! A leased file, as the automatic extension sees it.

use rusqlite::Connection;

use crate::error::Result;

/// A file that another library has opened under a lease.
pub(super) trait LeasedFile: Send + Sync {
    /// Whether the SQL of the connection is to be fenced.
    fn is_fenced(&self) -> bool;

    /// Prepares a new connection whose main database is this file, after its fence was raised. The file admits no transaction
    /// before that, and none if it fails.
    fn prepare(&self, connection: &Connection) -> Result<()>;
}
