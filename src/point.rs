//! Points in the history of a database: what it can be restored to, and what an instant came to.

use crate::time::Timestamp;

/// How an instant lies to the commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InstantPosition {
    /// A commit is stamped with this very instant.
    Exact,
    /// It lies between two commits: the state is that of the earlier one.
    Between,
    /// No commit came after it: the state is the last one.
    AfterLast,
    /// It lies before the first commit: the state is that in which the database began.
    BeforeFirst,
}

/// What an instant came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ResolvedInstant {
    /// How the instant lies to the commits.
    pub kind: InstantPosition,
    /// The stamp of the last commit that is in the state.
    pub commit: Option<Timestamp>,
    /// The stamp of the first commit that is not, if there is one.
    pub next: Option<Timestamp>,
}

/// What a restore in place did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Restored {
    /// What the instant came to.
    pub reached: ResolvedInstant,
    /// The instant to restore to in order to undo it; nothing where the database was as it was to be, and nothing was
    /// written.
    pub undo: Option<Timestamp>,
}

/// A commit that a database can be restored to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Point {
    /// When it was made.
    pub at: Timestamp,
    /// The pages that it wrote.
    pub pages: u32,
    /// The bytes that it added to the log.
    pub bytes: u64,
    /// The size of the database after it, in bytes.
    pub size: u64,
}

/// What a database can be restored to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Points {
    /// The commits that were asked for, in order: those in the windows.
    pub points: Vec<Point>,
    /// The spans of time that can be restored, in order: every instant in one of them can be, as long as the logs and the
    /// snapshots that lead there are what was written. They are not read to tell this. What lies between two spans is a gap,
    /// in which another program changed the database, its history was off, or the stamps of commits were lost with the power
    /// or are damaged.
    pub windows: Vec<RestorableRange>,
}

/// The instants that a database can be restored to without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct RestorableRange {
    /// From this instant on.
    pub from: Timestamp,
    /// Up to, and not including, this one; nothing means up to now.
    pub to: Option<Timestamp>,
}

/// What [`maintain_database`](crate::ControlPlane::maintain_database) did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MaintenanceReport {
    /// Snapshots that were made.
    pub snapshots: u32,
    /// Parts of the history, each with a log of its own, that no window needs and that were removed.
    pub generations: u64,
    /// The bytes of the files that were removed.
    pub bytes_freed: u64,
    /// Logs that were compressed, since no restore to the last 24 hours needs them.
    pub compressed: u64,
    /// The bytes by which that made them shorter.
    pub bytes_saved: u64,
    /// Whether something may have been left for the next time: somebody was reading the history, was just adding to it,
    /// or was maintaining it too.
    pub deferred: bool,
    /// The spans of time that can be restored now, in order.
    pub windows: Vec<RestorableRange>,
}

impl InstantPosition {
    /// The kind's stable name, as `litefleet --json` prints it.
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
