//! The wal-index of a connection: the shared memory in which SQLite finds pages in the WAL, as far as SQLite has mapped it.
//!
//! The format is that of <https://www.sqlite.org/walformat.html#the_wal_index_file_format>.

use std::{
    ffi::c_void,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use crate::{
    sync::{Guard, Mutex, Rank},
    wal::{self, LastCommit},
};

/// The words of a region.
const REGION_WORDS: usize = wal::INDEX_REGION_LEN / size_of::<AtomicU32>();

/// The mapped regions of a wal-index.
#[derive(Debug)]
pub(in crate::vfs) struct WalIndex {
    regions: Mutex<Vec<Option<Region>>>,
}

/// The address of a mapped region. It is read under the lock of [`WalIndex::regions`] only, which [`WalIndex::unmap`] takes.
#[derive(Clone, Copy, Debug)]
struct Region(NonNull<[AtomicU32; REGION_WORDS]>);

// SAFETY: a region is shared memory, which any thread may read through atomics. `Region` holds an address and no state.
unsafe impl Send for Region {}

impl Region {
    fn word(self, at: usize) -> u32 {
        // SAFETY: the contract of `WalIndex::map` says that the memory holds this many aligned words and stays mapped until
        // `WalIndex::unmap`, which waits for the lock that the caller holds. Other threads and processes access the memory
        // word by word.
        let words = unsafe { self.0.as_ref() };
        words[at].load(Relaxed)
    }
}

impl Default for WalIndex {
    fn default() -> Self {
        Self { regions: Mutex::new(Rank::WalIndex, Vec::new()) }
    }
}

impl WalIndex {
    /// The page in a frame of the WAL. `None` if the region that names it is not mapped or has no entry for the frame.
    pub(in crate::vfs) fn page_of(&self, frame: u32) -> Option<u32> {
        let (region, word) = wal::index_slot(frame);
        let page = self.lock().get(region)?.as_ref()?.word(word);
        (page > 0).then_some(page)
    }

    /// The size of the database in pages after the last commit. `None` if the wal-index is not mapped, which means that the
    /// database is not in WAL mode.
    pub(in crate::vfs) fn page_count(&self) -> Option<u32> {
        Some(self.lock().first()?.as_ref()?.word(wal::INDEX_PAGE_COUNT))
    }

    /// The last commit. `None` if the wal-index is not mapped or not initialized.
    pub(in crate::vfs) fn last_commit(&self) -> Option<LastCommit> {
        let regions = self.lock();
        let region = regions.first()?.as_ref().filter(|region| region.word(0) != 0)?;
        let mut salts = [0; 8];
        for (bytes, word) in salts.chunks_exact_mut(4).zip(wal::INDEX_SALTS..) {
            // SQLite copies the salts from the WAL header byte by byte, on machines of either byte order.
            bytes.copy_from_slice(&region.word(word).to_le().to_le_bytes());
        }
        let checksum =
            [wal::INDEX_FRAME_CHECKSUM, wal::INDEX_FRAME_CHECKSUM + 1].map(|word| region.word(word));
        Some(LastCommit::new(region.word(wal::INDEX_LAST_FRAME), checksum, salts))
    }

    /// Notes that SQLite has mapped a region. A region of another size than SQLite's is ignored.
    ///
    /// # Safety
    ///
    /// `memory` is null, or points to `size` bytes of a wal-index that are aligned to 4 bytes, stay mapped until
    /// [`unmap`](Self::unmap) returns, and are accessed word by word.
    pub(in crate::vfs) unsafe fn map(&self, region: usize, size: usize, memory: *mut c_void) {
        let Some(memory) = NonNull::new(memory.cast()).filter(|_| size == wal::INDEX_REGION_LEN) else {
            return;
        };
        let mut regions = self.lock();
        if regions.len() <= region {
            regions.resize(region + 1, None);
        }
        regions[region] = Some(Region(memory));
    }

    /// Forgets all regions. Must be called before SQLite unmaps them.
    pub(in crate::vfs) fn unmap(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> Guard<'_, Vec<Option<Region>>> {
        // A region is added or all are removed at once.
        self.regions.lock_or_recover()
    }
}
