//! Counters in a file, by which every open connection of every process sees that a configuration changed.
//!
//! The catalog alone holds configurations. What stands here only says *when to look again*, so that a connection
//! need not ask the catalog at the start of each transaction: looking costs one read of 16 bytes. The file holds
//! pairs of counters, changes begun and changes finished; a database's pair follows from its name, and a pair that is
//! shared with another database costs a needless look and nothing else.
//!
//! A change is begun inside of the catalog's write transaction, before it commits, and finished after that. A
//! reader that finds the two unequal looks each time; a writer that died in between is made up for by the next
//! change, or by the next process that opens the root.
//!
//! The file is read and never mapped: another program that truncates it must not end this process with `SIGBUS`. A reader
//! that finds it too short looks each time, and the next change writes it anew with numbers that no reader has seen.

use std::{fs::File, path::PathBuf};

use crate::{
    disk::Disk,
    error::{Error, Result},
    layout::Layout,
    name::DatabaseName,
    sync::{Mutex, Rank},
    time::Timestamp,
};

/// The size of the file.
const FILE_LEN: usize = 4096;

const COUNTER_LEN: usize = size_of::<u64>();

/// The size of a pair of counters.
const PAIR_LEN: usize = 2 * COUNTER_LEN;

/// Pairs of counters in the file.
const PAIRS: usize = FILE_LEN / PAIR_LEN;

/// One thread of this process at a time raises a counter of finished changes. Between processes a lock of the file decides,
/// which does not keep the threads of one process apart.
static FINISHING: Mutex<()> = Mutex::new(Rank::Changes, ());

#[derive(Debug)]
pub(crate) struct Changes {
    /// `None` if there is no file and none may be made: then nobody knows when to look again, and everybody looks each time.
    file: Option<File>,
    path: PathBuf,
}

/// Which pair of counters a database has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pair(usize);

impl Pair {
    /// The pair of the database with this name.
    pub(crate) fn of(name: &DatabaseName) -> Self {
        let bytes = name.as_str().bytes();
        let hash = bytes.fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(byte)));
        Self(hash % PAIRS)
    }

    /// The offsets of its counters in the file: of changes begun, and of changes finished.
    fn begun_at(self) -> u64 {
        (self.0 * PAIR_LEN) as u64
    }

    fn finished_at(self) -> u64 {
        self.begun_at() + COUNTER_LEN as u64
    }
}

/// A change that was begun, and by its number in the row of changes.
#[derive(Debug)]
#[must_use = "a change that is not finished makes every reader look again each time"]
pub(crate) struct Begun {
    pair: Pair,
    number: u64,
}

impl Changes {
    /// Opens the file of a root, which is made if it is not there. The caller holds the lock of the root.
    ///
    /// A new file has the mode of the catalog, and the same owner if root makes it: every process that may write to the
    /// catalog may write to the counters, and no other may.
    pub(crate) fn open(disk: &Disk, layout: &Layout, scratch: &str) -> Result<Self> {
        let path = layout.changes();
        if Disk::len(&path)?.is_none() {
            // Made aside and renamed, so that nobody reads a file that is not whole.
            let staged = layout.staged(scratch);
            let file = disk.create_like(&staged, &layout.control())?;
            disk.write_at(&file, &staged, &[0; FILE_LEN], 0)?;
            disk.rename(&staged, &path)?;
        }
        let file = Some(disk.open_shared(&path)?);
        Ok(Self { file, path })
    }

    /// Opens the file of a root of which nothing is changed, if it is there.
    pub(crate) fn open_to_read(disk: &Disk, layout: &Layout) -> Result<Self> {
        let path = layout.changes();
        Ok(Self { file: disk.open_shared_to_read(&path)?, path })
    }

    fn file(&self) -> Result<&File> {
        self.file.as_ref().ok_or_else(|| Error::read_only(self.path.parent().unwrap_or(&self.path)))
    }

    /// The number of changes so far, or `None` if one is under way or the counters cannot be read.
    pub(crate) fn stamp(&self, pair: Pair) -> Option<u64> {
        let mut counters = [0; PAIR_LEN];
        let count = Disk::read_up_to(self.file.as_ref()?, &self.path, &mut counters, pair.begun_at());
        let ([begun, finished], []) = counters.as_chunks::<COUNTER_LEN>() else { return None };
        (count.ok()? == PAIR_LEN && begun == finished).then(|| u64::from_le_bytes(*finished))
    }

    /// Begins a change. The caller holds the catalog's write lock, and commits nothing if this fails.
    pub(crate) fn begin(&self, pair: Pair) -> Result<Begun> {
        if Disk::len_of(self.file()?, &self.path)? != FILE_LEN as u64 {
            self.begin_anew()?;
        }
        let number = self.read(pair.begun_at())? + 1;
        self.write(number, pair.begun_at())?;
        Ok(Begun { pair, number })
    }

    /// Finishes a change, and with it any earlier one whose process died.
    ///
    /// If the counter cannot be written, readers look each time until the next change: that is slower and not wrong.
    pub(crate) fn finish(&self, change: &Begun) {
        let _looked_for_each_time = self.raise_finished(change.pair, change.number);
    }

    /// Finishes what died halfway. The caller holds the catalog's write lock.
    pub(crate) fn settle(&self) -> Result<()> {
        if Disk::len_of(self.file()?, &self.path)? != FILE_LEN as u64 {
            return self.begin_anew();
        }
        let mut all = [0; FILE_LEN];
        Disk::read_at(self.file()?, &self.path, &mut all, 0)?;
        let (counters, _) = all.as_chunks::<COUNTER_LEN>();
        for (pair, counters) in (0..PAIRS).map(Pair).zip(counters.chunks(2)) {
            if let [begun, finished] = *counters
                && u64::from_le_bytes(finished) < u64::from_le_bytes(begun)
            {
                self.raise_finished(pair, u64::from_le_bytes(begun))?;
            }
        }
        Ok(())
    }

    /// Writes all counters anew. The numbers are those of no earlier change: nobody makes one in each microsecond.
    fn begin_anew(&self) -> Result<()> {
        let number = Timestamp::now().as_micros().unsigned_abs().to_le_bytes();
        Disk::write_shared(self.file()?, &self.path, &number.repeat(FILE_LEN / COUNTER_LEN), 0)
    }

    fn raise_finished(&self, pair: Pair, number: u64) -> Result<()> {
        let _alone = FINISHING.lock_or_recover();
        let _locked = Disk::lock_shared(self.file()?, &self.path)?;
        if self.read(pair.finished_at())? < number {
            self.write(number, pair.finished_at())?;
        }
        Ok(())
    }

    fn read(&self, offset: u64) -> Result<u64> {
        let mut counter = [0; COUNTER_LEN];
        Disk::read_at(self.file()?, &self.path, &mut counter, offset)?;
        Ok(u64::from_le_bytes(counter))
    }

    fn write(&self, number: u64, offset: u64) -> Result<()> {
        Disk::write_shared(self.file()?, &self.path, &number.to_le_bytes(), offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> (tempfile::TempDir, Changes, Changes) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().into());
        std::fs::create_dir(layout.staging()).unwrap();
        let open = |scratch| Changes::open(&Disk::default(), &layout, scratch).unwrap();
        let (ours, theirs) = (open("a"), open("b"));
        (dir, ours, theirs)
    }

    #[test]
    fn a_change_is_seen_while_it_runs_and_after_it() {
        let (_dir, ours, theirs) = two();
        let pair = Pair::of(&"orders".parse().unwrap());
        let before = theirs.stamp(pair);
        let change = ours.begin(pair).unwrap();
        assert_eq!(theirs.stamp(pair), None);
        ours.finish(&change);
        assert!(theirs.stamp(pair) > before);

        // One that dies halfway is made up for by the next.
        let _died = ours.begin(pair).unwrap();
        let change = ours.begin(pair).unwrap();
        ours.finish(&change);
        assert_eq!(theirs.stamp(pair), Some(3));
        let _died = ours.begin(pair).unwrap();
        theirs.settle().unwrap();
        assert_eq!(ours.stamp(pair), Some(4));
    }

    #[test]
    fn truncated_counters_never_hide_a_change() {
        let (dir, ours, theirs) = two();
        let pairs = ["orders", "users"].map(|name| Pair::of(&name.parse().unwrap()));
        assert_ne!(pairs[0], pairs[1]);
        for round in 0..3 {
            let before = pairs.map(|pair| theirs.stamp(pair));
            assert!(before.iter().all(Option::is_some), "{round}");
            let counters = std::fs::File::options().write(true).open(dir.path().join(".changes")).unwrap();
            counters.set_len(if round == 1 { 24 } else { 0 }).unwrap();
            if round != 1 {
                assert_eq!(pairs.map(|pair| theirs.stamp(pair)), [None, None]);
            }
            let change = ours.begin(pairs[0]).unwrap();
            assert_eq!(theirs.stamp(pairs[0]), None);
            ours.finish(&change);
            // The counters of the other database have changed too: what changed while they were lost is not known.
            for (pair, before) in pairs.into_iter().zip(before) {
                assert!(theirs.stamp(pair) > before, "{round}");
            }
        }
    }

    #[test]
    fn changes_that_finish_at_once_leave_equal_counters() {
        let (_dir, ours, theirs) = two();
        let pair = Pair::of(&"orders".parse().unwrap());
        for _ in 0..200 {
            let begun = [ours.begin(pair).unwrap(), theirs.begin(pair).unwrap()];
            std::thread::scope(|scope| {
                for (changes, begun) in [&ours, &theirs].into_iter().zip(&begun) {
                    scope.spawn(move || changes.finish(begun));
                }
            });
            assert_eq!(ours.stamp(pair), Some(begun[1].number));
        }
    }
}
