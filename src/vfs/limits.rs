//! The policy of one database, as one connection enforces it.

use std::sync::Arc;

use super::{
    error::VfsError,
    frames::WalEvent,
    policy::{HistoryMode, Policy, PolicySource},
};
use crate::{
    sync::{Guard, Mutex, Rank},
    units::PageCount,
    wal::Frame,
};

/// The policy of a database as one connection knows it.
#[derive(Debug)]
pub(super) struct Limits {
    source: Arc<dyn PolicySource>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The stamp of the policy. `None` if the policy must be read again.
    stamp: Option<u64>,
    policy: Policy,
    /// Whether the database was destroyed. Its last policy stays known.
    is_destroyed: bool,
    /// Counts how often a policy was read.
    version: u64,
    /// The size of the database in pages after the last commit, once the current write transaction has needed it.
    committed: Option<u64>,
}

/// How commits are captured under a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HistoryPolicy {
    /// Changes when the policy is read again.
    pub(super) version: u64,
    pub(super) since_birth: bool,
}

impl Known {
    fn set(&mut self, stamp: Option<u64>, policy: Policy) {
        // A database whose destruction failed exists again.
        *self = Self { stamp, policy, is_destroyed: false, version: self.version + 1, ..*self };
    }
}

impl Limits {
    pub(super) fn new(source: Arc<dyn PolicySource>) -> Self {
        let mut known = Known::default();
        if let Some((stamp, policy)) = source.first_rules() {
            known.set(Some(stamp), policy);
        }
        Self { source, known: Mutex::new(Rank::Limits, known) }
    }

    fn known(&self) -> Guard<'_, Known> {
        // Each policy replaces the previous one at once.
        self.known.lock_or_recover()
    }

    pub(super) fn source(&self) -> &Arc<dyn PolicySource> {
        &self.source
    }

    /// Reads the policy again if it may have changed.
    pub(super) fn refresh(&self) -> Result<(), VfsError> {
        // The stamp is read before the policy, so that the next call detects a change between the two reads.
        let stamp = self.source.stamp();
        if stamp.is_some() && stamp == self.known().stamp {
            return Ok(());
        }
        match self.source.rules() {
            Ok(Some(policy)) => self.known().set(stamp, policy),
            Ok(None) => {
                let mut known = self.known();
                known.is_destroyed = true;
                known.stamp = stamp;
            }
            // The unreadable policy may block the database, so every transaction is refused.
            Err(error) => return Err(VfsError::PolicyUnavailable(error.message())),
        }
        Ok(())
    }

    /// Admits a read transaction.
    pub(super) fn begin_read(&self) -> Result<(), VfsError> {
        self.refresh()?;
        let known = self.known();
        if known.is_destroyed {
            return Err(VfsError::Destroyed);
        }
        if known.policy.block_reads {
            return Err(VfsError::ReadsBlocked);
        }
        Ok(())
    }

    /// Runs when a write transaction begins or ends.
    pub(super) fn write_lock_changed(&self) {
        self.known().committed = None;
    }

    /// Admits a write transaction.
    pub(super) fn admit_write(&self) -> Result<(), VfsError> {
        self.known().policy.admit_write()
    }

    /// Admits a write to the WAL, which is where the database grows. `committed` finds the size of the database in pages after
    /// the last commit.
    ///
    /// A page in the WAL is committed before it reaches the database file. Refusing the frame rolls the whole transaction back.
    /// Only growth is refused: under a limit below the current size, pages within that size can still be written, so that rows
    /// can be deleted and the database vacuumed.
    pub(super) fn admit(
        &self,
        event: &WalEvent<'_>,
        committed: impl FnOnce(u32) -> u64,
    ) -> Result<(), VfsError> {
        let mut known = self.known();
        if let WalEvent::Header { .. } = event {
            return Ok(());
        }
        known.policy.admit_write()?;
        let (Some(limit), WalEvent::Frame { head, page, .. }) = (known.policy.size_limit, event) else {
            return Ok(());
        };
        let Some(frame) = Frame::parse(head) else { return Ok(()) };
        let page_size = u32::try_from(page.len()).unwrap_or(u32::MAX);
        let pages = u64::from(frame.page_number.get().max(frame.commit.map_or(0, PageCount::get)));
        if pages * u64::from(page_size) <= limit.bytes() {
            return Ok(());
        }
        if pages <= *known.committed.get_or_insert_with(|| committed(page_size)) {
            return Ok(());
        }
        Err(VfsError::OverLimit(limit))
    }

    /// Whether this connection was opened read-only.
    pub(super) fn is_read_only(&self) -> bool {
        self.known().policy.read_only
    }

    /// How commits are captured. `None` if they are not.
    pub(super) fn history(&self) -> Option<HistoryPolicy> {
        let known = self.known();
        let since_birth = match known.policy.history {
            HistoryMode::Off => return None,
            HistoryMode::SinceCreation => true,
            HistoryMode::Resumed => false,
        };
        Some(HistoryPolicy { version: known.version, since_birth })
    }

    /// Why a pragma is refused because it would change a setting that the fleet requires. `None` if it is permitted.
    ///
    /// `page_size` returns the page size of a database of a fleet, which libraries set to its value. It is `None` for a file that
    /// SQL opened by its path: such a file may change its journal mode and page size, but must share its locks like any other.
    pub(super) fn refused_pragma(
        name: &str,
        value: Option<&str>,
        page_size: Option<&dyn Fn() -> Option<u32>>,
    ) -> Option<&'static str> {
        let value = value.map(|value| value.trim_matches(['\'', '"', ' ']).to_ascii_lowercase());
        match (name.to_ascii_lowercase().as_str(), value.as_deref()) {
            ("journal_mode", Some(mode)) if mode != "wal" && page_size.is_some() => {
                Some("the journal mode of a database in a fleet is WAL and stays WAL")
            }
            ("locking_mode", Some(mode)) if mode != "normal" => {
                Some("the locking mode of a database in a fleet is NORMAL and stays NORMAL")
            }
            ("page_size", Some(size))
                if page_size.is_some_and(|is| size.parse().ok().is_none_or(|size| is() != Some(size))) =>
            {
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

impl Policy {
    fn admit_write(&self) -> Result<(), VfsError> {
        if self.block_writes {
            return Err(VfsError::WritesBlocked);
        }
        if self.read_only {
            return Err(VfsError::ReadOnly);
        }
        Ok(())
    }
}

/// Whether a pragma, in lower case, sets keys or ciphers in other builds of SQLite. SQLite ignores unknown pragmas, so its user
/// would believe that the key is in use.
fn is_about_keys(name: &str) -> bool {
    const KEYS: [&str; 8] =
        ["key", "rekey", "hexkey", "hexrekey", "textkey", "textrekey", "kdf_iter", "fast_kdf_iter"];
    KEYS.contains(&name) || name == "cipher" || name.starts_with("cipher_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pragmas_that_leave_wal_mode_or_set_keys_are_refused() {
        for (name, value) in [
            ("journal_mode", "delete"),
            ("JOURNAL_MODE", "'MEMORY'"),
            ("journal_mode", "off"),
            ("locking_mode", "exclusive"),
            ("page_size", "8192"),
            ("page_size", "0x1000"),
            ("key", "secret"),
            ("HexReKey", "'00'"),
            ("cipher_compatibility", "3"),
        ] {
            let refused = Limits::refused_pragma(name, Some(value), Some(&|| Some(4096)));
            assert!(refused.is_some(), "{name}={value}");
        }
        for (name, value) in [
            ("journal_mode", Some("WAL")),
            ("journal_mode", None),
            ("locking_mode", Some("normal")),
            ("cache_size", Some("1")),
            ("Page_Size", Some("'4096'")),
            ("page_size", None),
            // Programs detect SQLCipher by it.
            ("cipher_version", None),
            ("foreign_key_check", Some("t")),
        ] {
            assert!(Limits::refused_pragma(name, value, Some(&|| Some(4096))).is_none(), "{name}");
        }
        // The header of the file is unreadable.
        assert!(Limits::refused_pragma("page_size", Some("4096"), Some(&|| None)).is_some());
        assert!(Limits::refused_pragma("page_size", Some("8192"), None).is_none());
    }
}
