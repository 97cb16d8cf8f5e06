//! Counters in shared memory, by which every open connection of every process sees that a configuration changed.
//!
//! The catalog alone holds configurations. What stands here only says *when to look again*, so that a connection
//! need not ask the catalog at the start of each transaction: looking costs two reads of memory. The file holds
//! pairs of counters, changes begun and changes finished; a database's pair follows from its name, and a pair that is
//! shared with another database costs a needless look and nothing else.
//!
//! A change is begun inside of the catalog's write transaction, before it commits, and finished after that. A
//! reader that finds the two unequal looks each time; a writer that died in between is made up for by the next
//! change, or by the next process that opens the root.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, SeqCst},
};

use memmap2::{MmapOptions, MmapRaw};

use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    layout::Layout,
    name::DatabaseName,
    vfs::ffi,
};

/// The size of the file: one page of memory.
const FILE_LEN: usize = 4096;

/// Pairs of counters in the file.
const PAIRS: usize = FILE_LEN / size_of::<[u64; 2]>();

#[derive(Debug)]
pub(crate) struct Changes {
    map: MmapRaw,
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
}

/// A change that was begun, and by its number in the row of changes.
#[derive(Debug)]
#[must_use = "a change that is not finished makes every reader look again each time"]
pub(crate) struct Begun {
    pair: Pair,
    number: u64,
}

impl Changes {
    /// Maps the file of a root, which is made if it is not there.
    pub(crate) fn open(disk: &Disk, layout: &Layout, scratch: &str) -> Result<Self> {
        let path = layout.changes();
        if Disk::len(&path)? != Some(FILE_LEN as u64) {
            // Made aside and renamed, so that nobody maps a file that is not whole. A rename that comes second
            // would part the processes that mapped the first: the caller holds the lock of the root.
            let staged = layout.staged(scratch);
            let file = disk.create(&staged)?;
            disk.write_at(&file, &staged, &[0; FILE_LEN], 0)?;
            disk.rename(&staged, &path)?;
        }
        let map = Disk::open_shared(&path)
            .and_then(|file| MmapOptions::new().len(FILE_LEN).map_raw(&file))
            .map_err(|error| Error::io_at("mapping", &path, error))?;
        if map.len() != FILE_LEN {
            return Err(Error::naming(ErrorKind::Io, &path, |file| format!("mapping {file}: too short")));
        }
        Ok(Self { map })
    }

    fn pair(&self, pair: Pair) -> (&AtomicU64, &AtomicU64) {
        let words = ffi::words(&self.map);
        (&words[pair.0 * 2], &words[pair.0 * 2 + 1])
    }

    /// The number of changes so far; nothing while one is under way.
    pub(crate) fn stamp(&self, pair: Pair) -> Option<u64> {
        let (begun, finished) = self.pair(pair);
        let finished = finished.load(Acquire);
        (begun.load(Acquire) == finished).then_some(finished)
    }

    /// Begins a change. The caller holds the catalog's write lock.
    pub(crate) fn begin(&self, pair: Pair) -> Begun {
        Begun { pair, number: self.pair(pair).0.fetch_add(1, SeqCst) + 1 }
    }

    /// Finishes a change, and with it any earlier one whose process died.
    pub(crate) fn finish(&self, change: &Begun) {
        self.pair(change.pair).1.fetch_max(change.number, SeqCst);
    }

    /// Finishes what died halfway. The caller holds the catalog's write lock.
    pub(crate) fn settle(&self) {
        for pair in 0..PAIRS {
            let (begun, finished) = self.pair(Pair(pair));
            finished.fetch_max(begun.load(SeqCst), SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_while_it_runs_and_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().into());
        std::fs::create_dir(layout.staging()).unwrap();
        let ours = Changes::open(&Disk::default(), &layout, "a").unwrap();
        let theirs = Changes::open(&Disk::default(), &layout, "b").unwrap();
        let pair = Pair::of(&"orders".parse().unwrap());
        let before = theirs.stamp(pair);
        let change = ours.begin(pair);
        assert_eq!(theirs.stamp(pair), None);
        ours.finish(&change);
        assert!(theirs.stamp(pair) > before);

        // One that dies halfway is made up for by the next.
        let _died = ours.begin(pair);
        let change = ours.begin(pair);
        ours.finish(&change);
        assert_eq!(theirs.stamp(pair), Some(3));
        let _died = ours.begin(pair);
        theirs.settle();
        assert_eq!(ours.stamp(pair), Some(4));
    }
}
