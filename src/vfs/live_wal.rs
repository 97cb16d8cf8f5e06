//! The WAL of a connection, as capture sees it.

use super::{capture::LiveWal, connection::DbConnection, frame_table::FrameTable, peers::Exclusive};
use crate::{
    units::Salts,
    wal::{self, LastCommit, SeenFrames},
};

impl LiveWal for DbConnection {
    fn transaction(&self) -> u64 {
        self.transaction()
    }

    fn last_commit(&self) -> Option<LastCommit> {
        self.wal_index().last_commit()
    }

    fn last_frame(&self, salts: Salts) -> SeenFrames {
        let ending = self.last_commit_before_restart();
        let mut commits = [self.wal_index().last_commit(), ending].into_iter().flatten();
        let first = commits.clone().next();
        let last = commits.find(|last| last.salts == salts).or(first);
        last.map_or(SeenFrames::Unknown, |last| wal::seen_frames(last, salts))
    }

    fn frames(&self) -> &FrameTable {
        self.peers().frames()
    }

    fn exclusively(&self, run: &mut dyn FnMut() -> bool) -> Exclusive {
        self.peers().exclusively(self, run)
    }
}
