//! A file that is mapped as atomic words, which other processes read and write too.

use std::{fs::File, io, slice, sync::atomic::AtomicU64};

use memmap2::{MmapOptions, MmapRaw};

/// A mapped file as words of 8 bytes, in the byte order of the file.
#[derive(Debug)]
pub(crate) struct SharedWords {
    map: MmapRaw,
}

impl SharedWords {
    /// Maps a whole file for reading and writing.
    pub(crate) fn map(file: &File) -> io::Result<Self> {
        Ok(Self { map: MmapOptions::new().map_raw(file)? })
    }

    /// The length of the mapping in bytes.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// The words of the mapping. A rest of fewer than 8 bytes is left out.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        let words = self.map.len() / size_of::<AtomicU64>();
        // SAFETY: the mapping starts at a page boundary and so is aligned, has at least `words * 8` bytes, and stays mapped
        // while `self` is borrowed. `map` is private and gives out no other reference, so this process accesses the memory
        // through atomics only; other processes store whole words.
        unsafe { slice::from_raw_parts(self.map.as_mut_ptr().cast_const().cast(), words) }
    }
}
