//! The calls of Linux. A file system may support any of them or none.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, IoSliceMut},
    num::NonZero,
    os::fd::BorrowedFd,
};

use rustix::{
    fs::{self as unix, Advice, AtFlags, OFlags, RenameFlags},
    io::{Errno, ReadWriteFlags, preadv2},
};

/// How a directory is opened to resolve names in it: search permission is enough.
pub(crate) const SEARCH: OFlags = OFlags::PATH;

/// Reserves disk space for the first `len` bytes of a file, which read as zeros until they are written. Returns `false` if this is
/// not supported.
pub(crate) fn allocate(file: &File, len: u64) -> io::Result<bool> {
    supported(unix::fallocate(file, unix::FallocateFlags::empty(), 0, len))
}

/// Makes `to` share the blocks of `from`. Returns `false` if this is not supported.
pub(crate) fn clone_file(from: &File, to: &File) -> io::Result<bool> {
    supported(unix::ioctl_ficlone(to, from))
}

/// Copies at most `len` bytes at `offset` to the same offset of `to`, without passing them through this process. Returns the
/// number of bytes copied, which is 0 at the end of `from`, or `None` if this is not supported.
pub(crate) fn copy_range(from: &File, to: &File, offset: u64, len: usize) -> io::Result<Option<u64>> {
    let (mut read_at, mut write_at) = (offset, offset);
    match unix::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), len) {
        Err(error) if is_unsupported(error) => Ok(None),
        copied => Ok(Some(copied? as u64)),
    }
}

/// Renames a file to a name that does not exist.
pub(crate) fn rename_new(
    from_dir: BorrowedFd<'_>,
    from: &OsStr,
    to_dir: BorrowedFd<'_>,
    to: &OsStr,
) -> io::Result<()> {
    match unix::renameat_with(from_dir, from, to_dir, to, RenameFlags::NOREPLACE) {
        // The file system does not know the flag.
        Err(Errno::INVAL | Errno::NOSYS) => {
            unix::linkat(from_dir, from, to_dir, to, AtFlags::empty())?;
            Ok(unix::unlinkat(from_dir, from, AtFlags::empty())?)
        }
        renamed => Ok(renamed?),
    }
}

/// Fills `into` if the page cache holds all of it. Returns `false` otherwise, and starts no read.
pub(crate) fn read_cached(file: &File, into: &mut [u8], offset: u64) -> bool {
    let len = into.len();
    // A caller that gets `false` reads again, and that read reports the error.
    preadv2(file, &mut [IoSliceMut::new(into)], offset, ReadWriteFlags::NOWAIT) == Ok(len)
}

/// Advises the system to read a range of a file into the page cache.
pub(crate) fn advise_will_need(file: &File, offset: u64, len: u64) {
    let _only_advice = unix::fadvise(file, offset, NonZero::new(len), Advice::WillNeed);
}

/// Advises the system to write a range of a file out of the page cache; a `len` of 0 extends to the end of the file.
pub(crate) fn advise_dont_need(file: &File, offset: u64, len: u64) {
    let _only_advice = unix::fadvise(file, offset, NonZero::new(len), Advice::DontNeed);
}

fn supported(result: Result<(), Errno>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if is_unsupported(error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether the kernel or the file system does not support the call on these files.
fn is_unsupported(error: Errno) -> bool {
    [
        Errno::OPNOTSUPP,
        Errno::XDEV,
        Errno::INVAL,
        Errno::NOTTY,
        Errno::NOSYS,
        Errno::PERM,
        Errno::BADF,
        Errno::TXTBSY,
    ]
    .contains(&error)
}
