//! The page cache of the operating system: reads that need no device, and advice. No result depends on the advice.

use std::{fs::File, path::Path};

use crate::{disk::Disk, sys::fs};

/// Fills `into` from a file if the page cache holds all of it. Returns `false` otherwise, and starts no read.
pub(crate) fn read(file: &File, path: &Path, into: &mut [u8], offset: u64) -> bool {
    Disk::read_cached(file, path, into, offset)
}

/// Advises the system to read a range of a file into the page cache.
pub(crate) fn fetch(file: &File, offset: u64, len: u64) {
    fs::advise_will_need(file, offset, len);
}

/// Advises the system to begin writing out a range of a file that is flushed later.
pub(crate) fn begin_flush(file: &File, offset: u64, len: usize) {
    fs::advise_dont_need(file, offset, len as u64);
}

/// Advises the system to evict a flushed file from the page cache.
pub(crate) fn forget(file: &File) {
    fs::advise_dont_need(file, 0, 0);
}
