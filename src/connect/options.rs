//! Options of connections.

use std::time::Duration;

use crate::cipher::EncryptionKey;

/// The durability of a committed transaction, as in `PRAGMA synchronous`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Synchronous {
    /// Never flushes. A power failure may damage the database.
    Off,
    /// Flushes at checkpoints. A power failure may undo the last transactions, but damages nothing.
    Normal,
    /// Flushes before each commit returns.
    Full,
}

/// Options of [`connect`](crate::ControlPlane::connect) and [`connect_at`](crate::ControlPlane::connect_at).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectOptions {
    pub(super) read_only: bool,
    pub(super) busy_timeout: Duration,
    pub(super) foreign_keys: bool,
    pub(super) synchronous: Synchronous,
    pub(super) encryption_key: Option<EncryptionKey>,
    pub(super) unfenced: bool,
}

impl Default for ConnectOptions {
    /// Reads and writes, a busy timeout of 5 seconds, foreign keys on, `synchronous=NORMAL`, SQL [fenced](crate::fence).
    fn default() -> Self {
        Self {
            read_only: false,
            busy_timeout: Duration::from_secs(5),
            foreign_keys: true,
            synchronous: Synchronous::Normal,
            encryption_key: None,
            unfenced: false,
        }
    }
}

impl ConnectOptions {
    /// Sets whether writes on this connection are refused. The default is `false`.
    #[must_use]
    pub fn read_only(self, read_only: bool) -> Self {
        Self { read_only, ..self }
    }

    /// Sets how long a statement waits for the transaction of another connection. The default is 5 seconds.
    #[must_use]
    pub fn busy_timeout(self, busy_timeout: Duration) -> Self {
        Self { busy_timeout, ..self }
    }

    /// Sets whether foreign keys are enforced. The default is `true`.
    #[must_use]
    pub fn foreign_keys(self, foreign_keys: bool) -> Self {
        Self { foreign_keys, ..self }
    }

    /// Sets the durability of committed transactions. The default is [`Synchronous::Normal`].
    #[must_use]
    pub fn synchronous(self, synchronous: Synchronous) -> Self {
        Self { synchronous, ..self }
    }

    /// Sets the key of an encrypted database. It stays in memory as long as the connection.
    #[must_use]
    pub fn encryption_key(self, encryption_key: EncryptionKey) -> Self {
        Self { encryption_key: Some(encryption_key), ..self }
    }

    /// Lifts the [fence](crate::fence): SQL on the connection may do what SQLite allows.
    ///
    /// Such SQL can attach and write any file that the process can, and name another VFS in a URI. It can therefore read
    /// databases whose reads are blocked, write past size limits, change the catalog, and copy an encrypted database as
    /// plaintext. Use it only for trusted SQL.
    #[must_use]
    pub fn unfenced(self) -> Self {
        Self { unfenced: true, ..self }
    }

    pub(crate) fn waits(&self) -> Duration {
        self.busy_timeout
    }

    pub(crate) fn key(&self) -> Option<&EncryptionKey> {
        self.encryption_key.as_ref()
    }
}

/// Options of [`attach`](crate::ControlPlane::attach).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct AttachOptions {
    encryption_key: Option<EncryptionKey>,
}

impl AttachOptions {
    /// Sets the key of an encrypted database. It stays in memory as long as the database is attached.
    #[must_use]
    pub fn encryption_key(self, key: EncryptionKey) -> Self {
        Self { encryption_key: Some(key) }
    }

    pub(crate) fn key(&self) -> Option<&EncryptionKey> {
        self.encryption_key.as_ref()
    }
}
