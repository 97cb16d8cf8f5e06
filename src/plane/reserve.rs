//! Reserved disk space for the calls that free disk space.
//!
//! Destroying a database and pruning a history write before they free anything, and opening a root creates the shared memory of
//! the catalog. On a full disk these calls need space that was reserved earlier, in bytes and in directory entries. Released
//! space is available to every program, and another one may take it first. Therefore a call releases one piece at a time and
//! retries after each. The next call that finds free space refills the reserve.

use crate::{
    connect,
    disk::Disk,
    error::{ErrorKind, Result},
    layout::Layout,
};

/// The size of a piece in bytes. It exceeds a `-shm` file and the frames of a transaction together.
const PIECE: u64 = 128 << 10;

/// The number of pieces.
const PIECES: u32 = 4;

/// The free space in bytes that a root must find before it reserves its first pieces. On a smaller disk the reserve would be in
/// the way.
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

    /// Repeats a call while the disk is full and a piece can be released.
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

    /// Releases a piece. Returns whether there was one. Two processes may both count one piece as theirs.
    pub(super) fn give_up(&self) -> bool {
        (0..PIECES)
            .map(|piece| self.layout.reserve(piece))
            .any(|path| Disk::exists(&path).is_ok_and(|exists| exists) && self.disk.remove(&path).is_ok())
    }

    /// Creates missing pieces if there is space to spare.
    pub(super) fn fill(&self) {
        self.fill_above(SPARE);
    }

    /// Creates missing pieces from the space that a call has just freed.
    pub(super) fn refill(&self) {
        self.fill_above(PIECE);
    }

    fn fill_above(&self, spare: u64) {
        // The first piece is released first, so one check suffices if none is missing.
        for path in (0..PIECES).map(|piece| self.layout.reserve(piece)) {
            match Disk::len(&path) {
                Ok(len) if len != Some(PIECE) && Disk::has_free(self.layout.root(), spare) => {}
                _ => return,
            }
            // A shorter piece is left from a process that was killed here.
            let made = self.disk.remove(&path).and_then(|()| self.disk.create(&path)).and_then(|file| {
                self.disk.allocate(&file, &path, PIECE).inspect_err(|_| {
                    let _nothing_left = self.disk.remove(&path);
                })
            });
            // Another process may create it now. Without it, nothing has changed.
            if made.is_err() {
                return;
            }
        }
    }
}
