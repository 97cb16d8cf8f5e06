//! Room for the calls that free room: files that are given up, one by one, when the disk is full.
//!
//! Destroying a database and pruning a history write before they free anything, and opening a root makes the memory that
//! SQLite shares beside the catalog. On a full disk none of that succeeds without room that was put aside: in bytes, and in
//! names of files. What is given up is free for every program, and another one may be faster to take it. So a call gives up
//! one piece at a time, and tries again after each. The next call that finds room fills the reserve again.

use super::Plane;
use crate::{
    connect,
    disk::Disk,
    error::{ErrorKind, Result},
    layout::Layout,
};

/// The size of a piece in bytes: more than the memory beside a log and the frames of a transaction take.
const PIECE: u64 = 128 << 10;

/// How many pieces there are.
const PIECES: u32 = 4;

/// What must be free before a root takes its first pieces, in bytes: on a smaller disk they would be in the way.
const SPARE: u64 = 2 << 20;

/// The reserve of a root.
#[derive(Clone, Debug)]
pub(super) struct Reserve {
    disk: Disk,
    layout: Layout,
}

impl Reserve {
    pub(super) fn new(disk: &Disk, layout: &Layout) -> Self {
        Self { disk: disk.clone(), layout: layout.clone() }
    }

    /// Runs a call again for as long as the disk is full and there is a piece to give up.
    pub(super) fn run<T>(&self, mut call: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            match call() {
                Err(error) if error.kind() == ErrorKind::DiskFull => {
                    if !self.give_up() {
                        return Err(connect::with_remedy(error));
                    }
                }
                done => return done,
            }
        }
    }

    /// Gives up a piece, and says whether there was one. Two processes may both count the same piece as theirs.
    pub(super) fn give_up(&self) -> bool {
        (0..PIECES)
            .map(|piece| self.layout.reserve(piece))
            .any(|path| Disk::exists(&path).is_ok_and(|exists| exists) && self.disk.remove(&path).is_ok())
    }

    /// Makes the pieces that are missing, if there is room to spare.
    pub(super) fn fill(&self) {
        self.fill_above(SPARE);
    }

    /// The same where a call has just freed room: some of that is kept for the next such call.
    pub(super) fn refill(&self) {
        self.fill_above(PIECE);
    }

    fn fill_above(&self, spare: u64) {
        // The first piece is the first to be given up, so that one look is enough where none is missing.
        for path in (0..PIECES).map(|piece| self.layout.reserve(piece)) {
            match Disk::len(&path) {
                Ok(len) if len != Some(PIECE) && Disk::has_free(self.layout.root(), spare) => {}
                _ => return,
            }
            // What is shorter is left by a process that was killed here.
            let made = self.disk.remove(&path).and_then(|()| self.disk.create(&path)).and_then(|file| {
                self.disk.allocate(&file, &path, PIECE).inspect_err(|_| {
                    let _nothing_left = self.disk.remove(&path);
                })
            });
            // Another process may make it now. Without it, all is as it was before.
            if made.is_err() {
                return;
            }
        }
    }
}

impl Plane {
    /// Runs a call that frees room, or without which nothing can be freed: it fails for want of room only when the reserve
    /// is used up. The call must be one that can be repeated.
    pub(super) fn with_reserve<T>(&self, call: impl FnMut() -> Result<T>) -> Result<T> {
        self.reserve.run(call)
    }
}
