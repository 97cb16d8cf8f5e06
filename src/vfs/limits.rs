//! The rules of one database, as one connection knows them: what is allowed, and why something was refused.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use super::{Keeping, Policy, PolicySource, VfsError};
use crate::{size::SizeLimit, units::PageCount, wal::Frame};

/// Stands for "no stamp seen": the governors' stamps count up from 0 and never get there.
const NEVER: u64 = u64::MAX;

/// Stands for a size that nobody asked for yet.
const UNKNOWN: u64 = u64::MAX;

/// Stands for "no limit".
const UNLIMITED: u64 = u64::MAX;

/// The rules of a database as one connection knows them.
///
/// SQLite uses a connection from one thread at a time, so the atomics are there for safety's sake alone, and
/// order nothing.
#[derive(Debug)]
pub(super) struct Limits {
    governor: Arc<dyn PolicySource>,
    seen: AtomicU64,
    limit: AtomicU64,
    block_reads: AtomicBool,
    block_writes: AtomicBool,
    destroyed: AtomicBool,
    read_only: AtomicBool,
    history: AtomicBool,
    since_birth: AtomicBool,
    /// How often the rules were asked for.
    version: AtomicU64,
    /// The size in pages that the last commit left, once the write transaction that runs has asked for it.
    committed: AtomicU64,
}

impl Limits {
    pub(super) fn new(governor: Arc<dyn PolicySource>) -> Self {
        let first = governor.first_rules();
        let governed = Self {
            governor,
            seen: AtomicU64::new(NEVER),
            limit: AtomicU64::new(UNLIMITED),
            block_reads: AtomicBool::new(false),
            block_writes: AtomicBool::new(false),
            destroyed: AtomicBool::new(false),
            read_only: AtomicBool::new(false),
            history: AtomicBool::new(false),
            since_birth: AtomicBool::new(false),
            version: AtomicU64::new(0),
            committed: AtomicU64::new(UNKNOWN),
        };
        if let Some((stamp, rules)) = first {
            governed.keep(Some(stamp), rules);
        }
        governed
    }

    /// Keeps the rules, which hold for as long as the stamp stays the same.
    fn keep(&self, stamp: Option<u64>, rules: Policy) {
        self.limit.store(rules.size_limit.map_or(UNLIMITED, SizeLimit::bytes), Relaxed);
        self.block_reads.store(rules.block_reads, Relaxed);
        self.block_writes.store(rules.block_writes, Relaxed);
        self.read_only.store(rules.read_only, Relaxed);
        self.history.store(rules.history != Keeping::No, Relaxed);
        self.since_birth.store(rules.history == Keeping::SinceBirth, Relaxed);
        self.version.fetch_add(1, Relaxed);
        // It may come back: one that could not be destroyed after all.
        self.destroyed.store(false, Relaxed);
        self.seen.store(stamp.unwrap_or(NEVER), Relaxed);
    }

    pub(super) fn governor(&self) -> &Arc<dyn PolicySource> {
        &self.governor
    }

    /// Asks for the rules again if they may have changed.
    pub(super) fn refresh(&self) -> Result<(), VfsError> {
        // The stamp is read before the rules: a change in between is then seen the next time.
        let stamp = self.governor.stamp();
        if stamp == Some(self.seen.load(Relaxed)) {
            return Ok(());
        }
        match self.governor.rules() {
            Ok(Some(rules)) => self.keep(stamp, rules),
            Ok(None) => {
                self.destroyed.store(true, Relaxed);
                self.seen.store(stamp.unwrap_or(NEVER), Relaxed);
            }
            // Without rules nothing is allowed: a database that may be blocked is not to be read.
            Err(error) => return Err(VfsError::NoRules(error.message())),
        }
        Ok(())
    }

    /// A read transaction begins.
    pub(super) fn begin_read(&self) -> Result<(), VfsError> {
        self.refresh()?;
        if self.destroyed.load(Relaxed) {
            return Err(VfsError::Destroyed);
        }
        if self.block_reads.load(Relaxed) {
            return Err(VfsError::ReadsBlocked);
        }
        Ok(())
    }

    /// A write transaction has begun, or ended.
    pub(super) fn write_lock_changed(&self) {
        self.committed.store(UNKNOWN, Relaxed);
    }

    /// Whether this connection may write.
    pub(super) fn admit_write(&self) -> Result<(), VfsError> {
        if self.block_writes.load(Relaxed) {
            return Err(VfsError::WritesBlocked);
        }
        if self.read_only.load(Relaxed) {
            return Err(VfsError::ReadOnly);
        }
        Ok(())
    }

    /// Whether a frame may be appended to the WAL, which is where the database grows. `committed` finds the size in pages
    /// that the last commit left.
    ///
    /// The limit is enforced on the frames of the WAL, since what stands there is committed before it ever reaches
    /// the database file: refused here, the transaction is rolled back whole. Only growth is refused: where a
    /// limit was set below the present size, pages within that size can still be written, so that rows can be
    /// deleted and the database vacuumed.
    pub(super) fn admit_frame(
        &self,
        frame: Frame,
        page_size: u32,
        committed: impl FnOnce() -> u64,
    ) -> Result<(), VfsError> {
        let limit = self.limit.load(Relaxed);
        let pages = u64::from(frame.page_number.get().max(frame.commit.map_or(0, PageCount::get)));
        if limit == UNLIMITED || pages * u64::from(page_size) <= limit {
            return Ok(());
        }
        if self.committed.load(Relaxed) == UNKNOWN {
            self.committed.store(committed(), Relaxed);
        }
        if pages <= self.committed.load(Relaxed) {
            return Ok(());
        }
        Err(SizeLimit::from_bytes(limit)
            .map_or_else(|error| VfsError::NoRules(error.message()), VfsError::OverLimit))
    }

    /// Whether this connection was opened to read only.
    pub(super) fn is_read_only(&self) -> bool {
        self.read_only.load(Relaxed)
    }

    /// Whether every commit is kept.
    pub(super) fn keeps_history(&self) -> bool {
        self.history.load(Relaxed)
    }

    /// Whether every commit was kept since the database was born.
    pub(super) fn keeps_since_birth(&self) -> bool {
        self.since_birth.load(Relaxed)
    }

    /// A number that changes with the rules: what was known under another one may not hold.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Relaxed)
    }

    /// Whether frames are to be admitted one by one.
    pub(super) fn is_limited(&self) -> bool {
        self.limit.load(Relaxed) != UNLIMITED
    }

    /// Says why a pragma is not to be had, if it is one that would undo what the fleet relies on.
    /// A file that SQL opened by its path keeps its own mode, but shares its locks like any other.
    pub(super) fn refused_pragma(name: &str, value: Option<&str>, is_governed: bool) -> Option<&'static str> {
        let value = value.map(|value| value.trim_matches(['\'', '"', ' ']).to_ascii_lowercase());
        match (name.to_ascii_lowercase().as_str(), value.as_deref()) {
            ("journal_mode", Some(mode)) if mode != "wal" && is_governed => {
                Some("the journal mode of a database in a fleet is WAL and stays WAL")
            }
            ("locking_mode", Some(mode)) if mode != "normal" => {
                Some("the locking mode of a database in a fleet is NORMAL and stays NORMAL")
            }
            ("page_size", Some(_)) if is_governed => {
                Some("the page size of a database in a fleet cannot be changed")
            }
            (name, Some(_)) if is_about_keys(name) => Some(
                "keys and ciphers are not set by PRAGMA: open the database with ConnectOptions::encryption_key (--key-file or \
                 LITEFLEET_ENCRYPTION_KEY on the command line), and fork it with another key or cipher to change them",
            ),
            _ => None,
        }
    }
}

/// Whether a pragma, in lower case, sets keys or ciphers in other builds of SQLite. This one ignores what it does not know, and
/// whoever sets a key takes it to be in use.
fn is_about_keys(name: &str) -> bool {
    const KEYS: [&str; 8] =
        ["key", "rekey", "hexkey", "hexrekey", "textkey", "textrekey", "kdf_iter", "fast_kdf_iter"];
    KEYS.contains(&name) || name == "cipher" || name.starts_with("cipher_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pragmas_that_leave_wal_are_refused() {
        for (name, value) in [
            ("journal_mode", "delete"),
            ("JOURNAL_MODE", "'MEMORY'"),
            ("journal_mode", "off"),
            ("locking_mode", "exclusive"),
            ("page_size", "8192"),
            ("key", "secret"),
            ("HexReKey", "'00'"),
            ("cipher_compatibility", "3"),
        ] {
            assert!(Limits::refused_pragma(name, Some(value), true).is_some(), "{name}={value}");
        }
        for (name, value) in [
            ("journal_mode", Some("WAL")),
            ("journal_mode", None),
            ("locking_mode", Some("normal")),
            ("cache_size", Some("1")),
            // Asked by programs that want to know whether this is SQLCipher.
            ("cipher_version", None),
            ("foreign_key_check", Some("t")),
        ] {
            assert!(Limits::refused_pragma(name, value, true).is_none(), "{name}");
        }
    }
}
