//! The interface of capture to the WAL that a connection writes to.

use crate::{
    units::Salts,
    vfs::{frame_table::FrameTable, peers::Exclusive},
    wal::{LastCommit, SeenFrames},
};

/// The WAL of a connection, as capture sees it.
pub(in crate::vfs) trait LiveWal {
    /// The number of the current write transaction of the connection.
    fn transaction(&self) -> u64;

    /// The last commit by the wal-index. `None` if the wal-index is not mapped.
    fn last_commit(&self) -> Option<LastCommit>;

    /// The last committed frame of the WAL with these salts, which ends now.
    ///
    /// Only the wal-index shows which commit is the last one. A process that is killed before it updates the wal-index leaves a
    /// commit in the WAL that no reader sees unless the WAL is recovered.
    fn last_frame(&self, salts: Salts) -> SeenFrames;

    /// The frames that the connections of this process have written to the WAL.
    fn frames(&self) -> &FrameTable;

    /// Runs `run`, which moves the WAL away, if no foreign process has the database open. Must be called in a write transaction.
    ///
    /// `run` returns whether it moved the WAL. If so, the peers are notified.
    fn exclusively(&self, run: &mut dyn FnMut() -> bool) -> Exclusive;
}
