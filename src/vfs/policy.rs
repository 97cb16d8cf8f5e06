//! The policy of a database, and the data that the VFS needs to open it.

use std::{fmt, sync::Arc};

use super::seal::temp::Temp;
use crate::{
    cipher::{Cipher, EncryptionKey},
    disk::Disk,
    error::Result,
    history::ResilientImage,
    page::{Identity, PageFormat},
    size::SizeLimit,
    time::Clock,
};

/// The transactions that a database permits, and whether its commits are captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    /// The size that the database may grow to.
    pub(crate) size_limit: Option<SizeLimit>,
    /// Read transactions are refused.
    pub(crate) block_reads: bool,
    /// Write transactions are refused.
    pub(crate) block_writes: bool,
    /// Write transactions of this connection are refused.
    pub(crate) read_only: bool,
    /// Whether commits are captured.
    pub(crate) history: HistoryMode,
}

/// Whether every commit is captured as a point that the database can be restored to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum HistoryMode {
    #[default]
    Off,
    /// Every commit since the database was created.
    SinceCreation,
    /// Every commit since the history was turned on again.
    Resumed,
}

/// The source of the [`Policy`] of one database.
pub(crate) trait PolicySource: fmt::Debug + Send + Sync {
    /// A number that changes whenever the policy may have changed. `None` while a change is in progress; the policy is then
    /// read at the start of every transaction. It is called at the start of every transaction, so it must be cheap.
    fn stamp(&self) -> Option<u64>;

    /// The current policy. `None` if the database was destroyed.
    fn rules(&self) -> Result<Option<Policy>>;

    /// A policy that was read earlier, and a [stamp](Self::stamp) from before that.
    fn first_rules(&self) -> Option<(u64, Policy)>;

    /// The encryption of the database. `None` for a plain database.
    fn sealing(&self) -> Option<Sealing> {
        None
    }

    /// Where the history of the database is kept while the [policy](Policy::history) says so.
    fn history(&self) -> Option<History> {
        None
    }

    /// The image of the database as of an instant, if the connection reads that.
    fn image(&self) -> Option<Arc<ResilientImage>> {
        None
    }

    /// The scratch file that holds the database, if one does.
    fn scratch(&self) -> Option<Arc<Temp>> {
        None
    }
}

/// The history of one database.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) disk: Disk,
    pub(crate) clock: Clock,
    /// The id of the database.
    pub(crate) database: u128,
    /// When the database was created, in microseconds of UTC. No commit is stamped before that.
    pub(crate) born_at: i64,
}

/// The policy source of a file that one call uses exclusively: everything is permitted.
#[derive(Debug)]
pub(crate) struct NoPolicy {
    sealing: Option<Sealing>,
    scratch: Option<Arc<Temp>>,
    image: Option<Arc<ResilientImage>>,
}

impl NoPolicy {
    /// For a file that is created, encrypted or plain.
    pub(crate) fn making(sealing: Option<Sealing>) -> Self {
        let sealing = sealing.map(|sealing| Sealing { may_create: true, ..sealing });
        Self { sealing, scratch: None, image: None }
    }

    /// For a database as of an instant.
    pub(crate) fn viewing(image: Arc<ResilientImage>, sealing: Option<Sealing>) -> Self {
        Self { sealing, scratch: None, image: Some(image) }
    }

    /// For a file that exists.
    pub(crate) fn reading(sealing: Option<Sealing>) -> Self {
        Self { sealing, scratch: None, image: None }
    }

    /// For a plain database in a scratch file.
    pub(super) fn scratch(scratch: Arc<Temp>) -> Self {
        Self { sealing: None, scratch: Some(scratch), image: None }
    }
}

impl PolicySource for NoPolicy {
    fn stamp(&self) -> Option<u64> {
        Some(0)
    }

    fn rules(&self) -> Result<Option<Policy>> {
        Ok(Some(Policy::default()))
    }

    fn first_rules(&self) -> Option<(u64, Policy)> {
        Some((0, Policy::default()))
    }

    fn sealing(&self) -> Option<Sealing> {
        self.sealing.clone()
    }

    fn image(&self) -> Option<Arc<ResilientImage>> {
        self.image.clone()
    }

    fn scratch(&self) -> Option<Arc<Temp>> {
        self.scratch.clone()
    }
}

/// The encryption of a database.
#[derive(Clone, Debug)]
pub(crate) struct Sealing {
    pub(crate) key: EncryptionKey,
    pub(crate) cipher: Cipher,
    /// The page format of a new file. An existing file names its own.
    pub(crate) format: PageFormat,
    /// Distinguishes the file from others under the same key. `None` accepts any file under the key.
    pub(super) identity: Option<Identity>,
    /// Whether an empty file becomes an encrypted one.
    pub(super) may_create: bool,
}

impl Sealing {
    /// The encryption of an existing file.
    pub(crate) fn new(key: EncryptionKey, cipher: Cipher) -> Self {
        Self { key, cipher, format: PageFormat::Native, identity: None, may_create: false }
    }

    /// Accepts only the file with this identity.
    pub(crate) fn of(self, identity: Option<Identity>) -> Self {
        Self { identity, ..self }
    }

    /// Creates new files in this page format.
    pub(crate) fn in_format(self, format: PageFormat) -> Self {
        Self { format, ..self }
    }

    /// Whether the key and the cipher of both are equal.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.key == other.key && self.cipher == other.cipher
    }
}
