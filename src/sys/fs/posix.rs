//! POSIX alone: what it does not have is reported as not supported.

use std::{ffi::OsStr, fs::File, io, os::fd::BorrowedFd};

use rustix::fs::{self as unix, AtFlags, OFlags};

/// How a directory is opened to resolve names in it: POSIX needs read permission.
pub(crate) const SEARCH: OFlags = OFlags::RDONLY;

/// Returns `false`: space is reserved by writing zeros.
#[expect(clippy::unnecessary_wraps, reason = "the signature of the Linux function")]
pub(crate) fn allocate(_: &File, _: u64) -> io::Result<bool> {
    Ok(false)
}

/// Returns `false`: files do not share blocks.
#[expect(clippy::unnecessary_wraps, reason = "the signature of the Linux function")]
pub(crate) fn clone_file(_: &File, _: &File) -> io::Result<bool> {
    Ok(false)
}

/// Returns `None`: bytes are copied through a buffer.
#[expect(clippy::unnecessary_wraps, reason = "the signature of the Linux function")]
pub(crate) fn copy_range(_: &File, _: &File, _: u64, _: usize) -> io::Result<Option<u64>> {
    Ok(None)
}

/// Renames a file to a name that does not exist: creates the new link, which fails if the name exists, and removes the old one.
pub(crate) fn rename_new(
    from_dir: BorrowedFd<'_>,
    from: &OsStr,
    to_dir: BorrowedFd<'_>,
    to: &OsStr,
) -> io::Result<()> {
    unix::linkat(from_dir, from, to_dir, to, AtFlags::empty())?;
    Ok(unix::unlinkat(from_dir, from, AtFlags::empty())?)
}

/// Returns `false`: the page cache cannot be asked.
pub(crate) fn read_cached(_: &File, _: &mut [u8], _: u64) -> bool {
    false
}

/// Does nothing.
pub(crate) fn advise_will_need(_: &File, _: u64, _: u64) {}

/// Does nothing.
pub(crate) fn advise_dont_need(_: &File, _: u64, _: u64) {}
