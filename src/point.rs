//! Recovery points, restorable ranges, and how an instant resolves to a commit.

use crate::time::Timestamp;

/// The position of an instant relative to the commits of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InstantPosition {
    /// A commit has exactly this stamp.
    Exact,
    /// The instant is between two commits; the state is that of the earlier one.
    Between,
    /// The instant is after the last commit; the state is the current one.
    AfterLast,
    /// The instant is before the first commit; the state is that of the new database.
    BeforeFirst,
}

/// The commit to which an instant resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ResolvedInstant {
    /// The position of the instant relative to the commits.
    pub kind: InstantPosition,
    /// The stamp of the last commit that the state contains. `None` if it contains no commit.
    pub commit: Option<Timestamp>,
    /// The stamp of the first commit that the state does not contain. `None` if it contains every commit.
    pub next: Option<Timestamp>,
}

/// The result of [`restore_database`](crate::ControlPlane::restore_database).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Restored {
    /// The commit to which the instant resolved.
    pub reached: ResolvedInstant,
    /// The instant whose restore undoes this one. `None` if the database already had the requested state and nothing was
    /// written.
    pub undo: Option<Timestamp>,
}

/// A recovery point: a commit that the database can be restored to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Point {
    /// The stamp of the commit.
    pub at: Timestamp,
    /// The number of pages that the commit wrote.
    pub pages: u32,
    /// The number of bytes that the commit added to the WAL.
    pub bytes: u64,
    /// The size of the database after the commit, in bytes.
    pub size: u64,
}

/// The recovery points and restorable ranges of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Points {
    /// The commits in the requested range that can be restored, in ascending order.
    pub points: Vec<Point>,
    /// The restorable ranges, in ascending order. Every instant in a range can be restored, provided that the WALs and
    /// snapshots it needs are undamaged; listing does not read them. Between two ranges is a gap: another program changed the
    /// database, the history was off, or the stamps of commits are damaged or were lost in a power failure.
    pub windows: Vec<RestorableRange>,
    /// Why maintenance removed the oldest instants of the history. `None` if it has removed none.
    pub pruned_by: Option<PruneReason>,
}

/// Why maintenance removed the oldest instants of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PruneReason {
    /// They were before the history window, or the history is off.
    Window,
    /// The history exceeded its [limit](crate::HistoryLimit).
    Limit,
}

/// A span of instants without a gap, each of which can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct RestorableRange {
    /// The first instant of the range.
    pub from: Timestamp,
    /// The end of the range, exclusive. `None` if the range extends to the present.
    pub to: Option<Timestamp>,
}

/// The report of [`maintain_database`](crate::ControlPlane::maintain_database).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MaintenanceReport {
    /// Snapshots that were written.
    pub snapshots: u32,
    /// Generations that were pruned because no instant of the window needs them, or because the history exceeded its limit.
    pub generations: u64,
    /// The total size of the removed files, in bytes.
    pub bytes_freed: u64,
    /// WALs of a plain database that were compressed: merged into a pack, or because no restore to the last 24 hours needs them.
    pub compressed: u64,
    /// The bytes saved by compression and by merging files.
    pub bytes_saved: u64,
    /// Whether work may remain for the next maintenance because the history was being read, extended or maintained.
    pub deferred: bool,
    /// The restorable ranges after maintenance, in ascending order.
    pub windows: Vec<RestorableRange>,
}

impl InstantPosition {
    /// Returns the stable name that `litefleet --json` prints.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Between => "between",
            Self::AfterLast => "after_last",
            Self::BeforeFirst => "before_first",
        }
    }
}

impl PruneReason {
    /// Returns the stable name that `litefleet --json` and the HTTP API print.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Window => "window",
            Self::Limit => "limit",
        }
    }
}
