//! Change counters in a file, which tell every open connection of every process that a configuration may have changed.
//!
//! Configurations are in the catalog. The counters invalidate cached configurations, so that a transaction starts with a read of 16
//! bytes instead of a query of the catalog. The file has pairs of counters: changes begun, and changes finished. The name of a
//! database determines its pair. Databases that share a pair invalidate each other's configuration, which costs a query.
//!
//! A change begins within the write transaction of the catalog and finishes after its commit. A reader that finds the two counters
//! unequal queries the catalog in each transaction. If a writer dies between the two, the next change, or the next process that
//! opens the root, finishes its change.
//!
//! The file is read and never mapped: if another program truncates it, this process must not receive `SIGBUS`. A reader that finds
//! the file too short queries the catalog in each transaction. The next change rewrites the file with numbers that no reader has
//! seen.

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

/// Serializes the threads of this process that raise a counter of finished changes. The lock of the file serializes processes
/// only.
static FINISHING: Mutex<()> = Mutex::new(Rank::Changes, ());

#[derive(Debug)]
pub(crate) struct Changes {
    /// `None` if the file does not exist and may not be created. Every transaction then queries the catalog.
    file: Option<File>,
    path: PathBuf,
}

/// The index of a pair of counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pair(usize);

impl Pair {
    /// The pair of the database with this name.
    pub(crate) fn of(name: &DatabaseName) -> Self {
        let bytes = name.as_str().bytes();
        let hash = bytes.fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(byte)));
        Self(hash % PAIRS)
    }

    /// The offset in the file of the number of changes begun.
    fn begun_at(self) -> u64 {
        (self.0 * PAIR_LEN) as u64
    }

    /// The offset in the file of the number of changes finished.
    fn finished_at(self) -> u64 {
        self.begun_at() + COUNTER_LEN as u64
    }
}

/// A change that has begun.
#[derive(Debug)]
#[must_use = "readers query the catalog in each transaction until the change finishes"]
pub(crate) struct Begun {
    pair: Pair,
    number: u64,
}

impl Changes {
    /// Opens the file of a root, and creates it if it does not exist. The caller holds the lock of the root.
    ///
    /// A new file has the mode of the catalog, and its owner if root creates it: the processes that may write to the catalog, and
    /// no others, may write to the counters.
    pub(crate) fn open(disk: &Disk, layout: &Layout, scratch: &str) -> Result<Self> {
        let path = layout.changes();
        if Disk::len(&path)?.is_none() {
            // Created under another name and renamed, so that no reader sees an incomplete file.
            let staged = layout.staged(scratch);
            let file = disk.create_like(&staged, &layout.control())?;
            disk.write_at(&file, &staged, &[0; FILE_LEN], 0)?;
            disk.rename(&staged, &path)?;
        }
        let file = Some(disk.open_shared(&path)?);
        Ok(Self { file, path })
    }

    /// Opens the file of a read-only root, if it exists.
    pub(crate) fn open_to_read(disk: &Disk, layout: &Layout) -> Result<Self> {
        let path = layout.changes();
        Ok(Self { file: disk.open_shared_to_read(&path)?, path })
    }

    fn file(&self) -> Result<&File> {
        self.file.as_ref().ok_or_else(|| Error::read_only(self.path.parent().unwrap_or(&self.path)))
    }

    /// The number of changes so far. `None` if a change is running or the counters cannot be read.
    pub(crate) fn stamp(&self, pair: Pair) -> Option<u64> {
        let mut counters = [0; PAIR_LEN];
        let count = Disk::read_up_to(self.file.as_ref()?, &self.path, &mut counters, pair.begun_at());
        let ([begun, finished], []) = counters.as_chunks::<COUNTER_LEN>() else { return None };
        (count.ok()? == PAIR_LEN && begun == finished).then(|| u64::from_le_bytes(*finished))
    }

    /// Begins a change. The caller holds the write lock of the catalog, and rolls back if this fails.
    pub(crate) fn begin(&self, pair: Pair) -> Result<Begun> {
        if Disk::len_of(self.file()?, &self.path)? != FILE_LEN as u64 {
            self.reset()?;
        }
        let number = self.read(pair.begun_at())? + 1;
        self.write(number, pair.begun_at())?;
        Ok(Begun { pair, number })
    }

    /// Finishes a change, and all earlier changes whose processes died.
    ///
    /// If the counter cannot be written, readers query the catalog in each transaction until the next change, which is slower but
    /// correct.
    pub(crate) fn finish(&self, change: &Begun) {
        let _readers_query_the_catalog = self.raise_finished(change.pair, change.number);
    }

    /// Finishes the changes of processes that died. The caller holds the write lock of the catalog.
    pub(crate) fn settle(&self) -> Result<()> {
        if Disk::len_of(self.file()?, &self.path)? != FILE_LEN as u64 {
            return self.reset();
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

    /// Rewrites all counters with the current time in microseconds, which exceeds the number of any earlier change.
    fn reset(&self) -> Result<()> {
        let number = Timestamp::now().as_micros().unsigned_abs().to_le_bytes();
        Disk::write_shared(self.file()?, &self.path, &number.repeat(FILE_LEN / COUNTER_LEN), 0)
    }

    fn raise_finished(&self, pair: Pair, number: u64) -> Result<()> {
        let _thread = FINISHING.lock_or_recover();
        let _process = Disk::lock_shared(self.file()?, &self.path)?;
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
    fn change_is_visible_while_it_runs_and_afterwards() {
        let (_dir, ours, theirs) = two();
        let pair = Pair::of(&"orders".parse().unwrap());
        let before = theirs.stamp(pair);
        let change = ours.begin(pair).unwrap();
        assert_eq!(theirs.stamp(pair), None);
        ours.finish(&change);
        assert!(theirs.stamp(pair) > before);

        // The next change finishes one that died.
        let _died = ours.begin(pair).unwrap();
        let change = ours.begin(pair).unwrap();
        ours.finish(&change);
        assert_eq!(theirs.stamp(pair), Some(3));
        let _died = ours.begin(pair).unwrap();
        theirs.settle().unwrap();
        assert_eq!(ours.stamp(pair), Some(4));
    }

    #[test]
    fn truncation_hides_no_change() {
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
            // The counters of the other database change too: changes may have been lost with them.
            for (pair, before) in pairs.into_iter().zip(before) {
                assert!(theirs.stamp(pair) > before, "{round}");
            }
        }
    }

    #[test]
    fn concurrent_changes_leave_equal_counters() {
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
