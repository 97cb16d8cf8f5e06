//! What capture needs to know of the WAL that a connection writes to.

use crate::{
    units::Salts,
    vfs::peers::Exclusive,
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
    /// Only the wal-index tells which commit was the last one. A process that was killed before it wrote there leaves a commit in
    /// the WAL that no reader has seen, and none will unless the WAL is recovered.
    fn last_frame(&self, salts: Salts) -> SeenFrames;

    /// Runs `run`, which moves the WAL away, if no foreign process has the database open. Must be called in a write transaction.
    ///
    /// `run` returns whether it moved the WAL, which the peers are then told of.
    fn exclusively(&self, run: &mut dyn FnMut() -> bool) -> Exclusive;
}
