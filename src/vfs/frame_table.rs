//! The frames that the connections of this process have written to the WAL of a database.
//!
//! When a WAL is archived, its index is made from this table, without reading the WAL. Only the holder of SQLite's write lock
//! changes the table. Commits of other processes are not in it: the running checksum of the last commit, which the wal-index has
//! and which covers all frames before it, shows whether a commit continues the frames of the table. If it does not, the table
//! stays empty until the next WAL begins, and the first reader of the archived log writes its index.

use super::frames::FrameHeader;
use crate::{
    history::{FrameWords, frame_words},
    stamps::LogEnd,
    sync::{Mutex, Rank},
    units::{FrameNumber, PageChecksum, Salts, WalChecksum},
    wal::{self, LastCommit},
};

/// The frames of one WAL.
#[derive(Debug)]
pub(super) struct FrameTable(Mutex<Frames>);

#[derive(Debug, Default)]
struct Frames {
    /// The salts of the WAL. `None` if a frame is missing.
    salts: Option<Salts>,
    words: Vec<FrameWords>,
    /// The running checksum of each frame as SQLite computed it.
    checksums: Vec<WalChecksum>,
    /// The number of frames up to the last commit.
    committed: usize,
    /// The stored running checksum of the last commit frame.
    stored: Option<WalChecksum>,
}

impl Default for FrameTable {
    fn default() -> Self {
        Self(Mutex::new(Rank::Frames, Frames::default()))
    }
}

impl FrameTable {
    /// Runs when a WAL begins, whose header was not written yet.
    pub(super) fn begin(&self, salts: Salts) {
        let mut frames = self.0.lock_or_clear();
        frames.forget();
        frames.salts = Some(salts);
    }

    /// Runs before a frame is appended. It replaces a frame with its number, which was rolled back.
    pub(super) fn append(&self, number: FrameNumber, head: &FrameHeader, page: PageChecksum) {
        let mut frames = self.0.lock_or_clear();
        let Some(frame) = wal::Frame::parse(head).filter(|_| number.index() <= frames.words.len()) else {
            return frames.forget();
        };
        if frames.salts.is_some() {
            let (index, words) = (number.index(), frame_words(&frame, page));
            frames.words.truncate(index);
            frames.checksums.truncate(index);
            frames.words.push(words);
            frames.checksums.push(wal::checksum_in(head));
        }
    }

    /// Runs before the page of a frame is replaced.
    pub(super) fn overwrite(&self, number: u32, page: PageChecksum) {
        let mut frames = self.0.lock_or_clear();
        match frames.words.get_mut(index(number)) {
            Some([_, checksum]) => *checksum = page.get(),
            None => frames.forget(),
        }
    }

    /// Runs before the header of a frame is replaced by one with its final checksum, of which `stored` is the stored one.
    pub(super) fn rechecksum(&self, number: u32, head: &FrameHeader, stored: WalChecksum) {
        let mut frames = self.0.lock_or_clear();
        match frames.checksums.get_mut(index(number)) {
            Some(checksum) => *checksum = wal::checksum_in(head),
            None => return frames.forget(),
        }
        if index(number) + 1 == frames.committed {
            frames.stored = Some(stored);
        }
    }

    /// Runs before a commit frame is written, after [`append`](Self::append). `last` is the commit before it.
    pub(super) fn commit(&self, number: FrameNumber, last: &LastCommit, stored: WalChecksum) {
        let mut frames = self.0.lock_or_clear();
        let continues = match last.frame {
            None => true,
            Some(last_frame) => {
                last_frame.index() < frames.committed
                    && frames.checksums.get(last_frame.index()) == Some(&last.checksum)
            }
        };
        if frames.salts == Some(last.salts) && continues && number.index() < frames.words.len() {
            (frames.committed, frames.stored) = (number.index() + 1, Some(stored));
        } else {
            frames.forget();
        }
    }

    /// Forgets all frames of the WAL.
    pub(super) fn forget(&self) {
        self.0.lock_or_clear().forget();
    }

    /// The words of all frames of the WAL with these salts, which ends at `end`. `None` if they are not known.
    pub(super) fn up_to(&self, salts: Salts, end: &LogEnd) -> Option<Vec<FrameWords>> {
        let frames = self.0.lock_or_clear();
        let count = FrameNumber::count(end.frame) as usize;
        let is_known =
            frames.salts == Some(salts) && frames.committed == count && frames.stored == Some(end.checksum);
        frames.words.get(..count).filter(|_| is_known).map(<[_]>::to_vec)
    }
}

impl Frames {
    fn forget(&mut self) {
        self.salts = None;
        self.words.clear();
        self.checksums.clear();
        (self.committed, self.stored) = (0, None);
    }
}

/// The index of a frame.
fn index(number: u32) -> usize {
    (number as usize).wrapping_sub(1)
}
