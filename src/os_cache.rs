//! What the system keeps of files in memory, and what it is advised to do about that. No answer depends on the advice.

use std::{fs::File, io::IoSliceMut, num::NonZero};

use rustix::{
    fs::{Advice, fadvise},
    io::{ReadWriteFlags, preadv2},
};

/// Fills `into` from a file, if all of that is in memory. If not, the system has not begun to read it either.
pub(crate) fn read(file: &File, into: &mut [u8], offset: u64) -> bool {
    let len = into.len();
    // What goes wrong here goes wrong again, and is told of, when it is waited for.
    preadv2(file, &mut [IoSliceMut::new(into)], offset, ReadWriteFlags::NOWAIT) == Ok(len)
}

/// Lets the system begin to read a part of a file.
pub(crate) fn fetch(file: &File, offset: u64, len: u64) {
    let _only_advice = fadvise(file, offset, NonZero::new(len), Advice::WillNeed);
}

/// Lets the system begin to write out a part of a file that is to be flushed later, as far as it likes to.
pub(crate) fn begin_flush(file: &File, offset: u64, len: usize) {
    let _only_advice = fadvise(file, offset, NonZero::new(len as u64), Advice::DontNeed);
}

/// Lets the system use the memory in which it keeps a file that was flushed for something else.
pub(crate) fn forget(file: &File) {
    let _only_advice = fadvise(file, 0, None, Advice::DontNeed);
}
