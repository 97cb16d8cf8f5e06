//! The seam between [`Disk`](super::Disk) and the file system.
//!
//! Every operation of the crate on files goes through a [`Storage`]. [`Os`], the operating system, is the default. A test mounts
//! another one on a directory with [`mount`], as a file system is mounted, and all paths below that directory use it.
//!
//! Handles are files of the operating system, because SQLite and memory mappings use the same files. A test storage
//! therefore observes, fails or changes operations, and delegates the rest to [`Os`].
//!
//! Not behind the seam: SQLite's own I/O, which has a VFS below this crate's; the mapped stamps; the owners and modes of new
//! files; the walk from the root of a fleet to the directory of a path; and queries of locks and free space.

#[cfg(feature = "internals")]
use std::path::PathBuf;
use std::{
    ffi::{OsStr, OsString},
    fmt,
    fs::File,
    io,
    ops::{Deref, Range},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{ffi::OsStrExt, fs::FileExt},
    },
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{self as unix, AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RawMode, Stat},
    io::Errno,
};

use crate::sys;
#[cfg(not(all(target_os = "linux", not(litefleet_posix))))]
use crate::sys::sqlite_file::{Access, SqliteFile};

/// A name in a directory.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub(super) dir: BorrowedFd<'a>,
    pub(super) name: &'a OsStr,
    pub(super) path: &'a Path,
    pub(super) follows_link: bool,
}

impl<'a> Entry<'a> {
    /// A path outside of any root. A symbolic link is followed.
    pub(super) fn path(path: &'a Path) -> Self {
        Self { dir: CWD, name: path.as_os_str(), path, follows_link: true }
    }

    /// A name in an open directory. A symbolic link is not followed.
    pub(super) fn within(dir: &'a File, name: &'a str, path: &'a Path) -> Self {
        Self { dir: dir.as_fd(), name: name.as_ref(), path, follows_link: false }
    }

    /// The entry itself, if it is a symbolic link.
    pub(super) fn itself(self) -> Self {
        Self { follows_link: false, ..self }
    }

    /// The whole path of the entry.
    #[cfg_attr(not(feature = "internals"), expect(dead_code, reason = "for storages of tests"))]
    #[must_use]
    pub fn full_path(&self) -> &'a Path {
        self.path
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Open {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new file with this mode, less the umask, for reading and writing.
    Create(u16),
    /// An existing directory, for reading, locking or flushing.
    Dir,
}

/// A lock of an open file or directory, which closing the file releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lock {
    /// `flock`, exclusive; waits.
    Exclusive,
    /// `flock`, exclusive; does not wait.
    TryExclusive,
    /// `flock`, shared; waits.
    Shared,
    /// POSIX, exclusive, against other processes only; waits.
    Process,
}

/// The metadata of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The length in bytes.
    pub len: u64,
    /// The time of the last change, in nanoseconds since 1970.
    pub modified: i64,
    /// The device and the inode, which identify the file.
    pub inode: (u64, u64),
    /// Whether it is a regular file.
    pub is_file: bool,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Whether it is a symbolic link.
    pub is_link: bool,
    pub(super) mode: RawMode,
    pub(super) owner: (u32, u32),
}

impl From<Stat> for Metadata {
    fn from(stat: Stat) -> Self {
        // The types of the fields differ between systems.
        fn number<T: TryInto<u64>>(number: T) -> u64 {
            number.try_into().unwrap_or_default()
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        let nanos = i64::try_from(number(stat.st_mtime_nsec)).unwrap_or_default();
        Self {
            len: number(stat.st_size),
            modified: stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(nanos),
            inode: (number(stat.st_dev), number(stat.st_ino)),
            is_file: kind.is_file(),
            is_dir: kind.is_dir(),
            is_link: kind.is_symlink(),
            mode: stat.st_mode,
            owner: (stat.st_uid, stat.st_gid),
        }
    }
}

/// A file system. Each method performs the operation on the operating system unless it is overridden.
///
/// `path` is the path that a file was opened by.
#[expect(unused_variables, reason = "paths are for storages that override a method")]
pub trait Storage: fmt::Debug + Send + Sync {
    /// Opens a file or a directory.
    fn open(&self, entry: Entry<'_>, how: Open) -> io::Result<File> {
        let (flags, mode) = match how {
            Open::Read => (OFlags::RDONLY, 0),
            Open::Write => (OFlags::RDWR, 0),
            Open::Create(mode) => (OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, mode),
            Open::Dir => (OFlags::RDONLY | OFlags::DIRECTORY, 0),
        };
        let link = if entry.follows_link { OFlags::empty() } else { OFlags::NOFOLLOW };
        let mode = Mode::from_raw_mode(mode.into());
        Ok(unix::openat(entry.dir, entry.name, flags | link | OFlags::CLOEXEC, mode)?.into())
    }

    /// Reads bytes at an offset. Returns how many, which is 0 at the end of the file.
    fn read_at(&self, file: &File, path: &Path, into: &mut [u8], offset: u64) -> io::Result<usize> {
        file.read_at(into, offset)
    }

    /// Opens a database file through SQLite's VFS. `resolved` is the path of the entry without symbolic links.
    #[cfg(not(all(target_os = "linux", not(litefleet_posix))))]
    fn open_database(&self, entry: Entry<'_>, resolved: &Path, access: Access) -> io::Result<SqliteFile> {
        SqliteFile::open(resolved, access)
    }

    /// Reads bytes of a database file at an offset. Returns how many, which is 0 at the end of the file.
    #[cfg(not(all(target_os = "linux", not(litefleet_posix))))]
    fn read_database(
        &self,
        file: &SqliteFile,
        path: &Path,
        into: &mut [u8],
        offset: u64,
    ) -> io::Result<usize> {
        file.read_at(into, offset)
    }

    /// Fills `into` if that takes no wait for the device. Returns `false` otherwise.
    fn read_cached(&self, file: &File, path: &Path, into: &mut [u8], offset: u64) -> bool {
        sys::fs::read_cached(file, into, offset)
    }

    /// Writes all bytes at an offset.
    fn write_at(&self, file: &File, path: &Path, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    /// Cuts or extends a file.
    fn set_len(&self, file: &File, path: &Path, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    /// Reserves disk space for the first `len` bytes of a file. Returns `false` if this is not supported.
    fn allocate(&self, file: &File, path: &Path, len: u64) -> io::Result<bool> {
        sys::fs::allocate(file, len)
    }

    /// Makes `to` share the blocks of `from`. Returns `false` if this is not supported.
    fn clone_file(&self, from: &File, to: &File, to_path: &Path) -> io::Result<bool> {
        sys::fs::clone_file(from, to)
    }

    /// Copies a range of bytes to the same offset of `to`. Returns how many, which is 0 at the end of `from`, or `None` if this is not
    /// supported.
    fn copy_range(
        &self,
        from: &File,
        to: &File,
        to_path: &Path,
        range: Range<u64>,
    ) -> io::Result<Option<u64>> {
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        sys::fs::copy_range(from, to, range.start, len)
    }

    /// Flushes a file or a directory to the device.
    fn sync(&self, file: &File, path: &Path) -> io::Result<()> {
        file.sync_all()
    }

    /// The metadata of an entry.
    fn metadata(&self, entry: Entry<'_>) -> io::Result<Metadata> {
        let flags = if entry.follows_link { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        Ok(unix::statat(entry.dir, entry.name, flags)?.into())
    }

    /// The metadata of an open file.
    fn metadata_of(&self, file: &File, path: &Path) -> io::Result<Metadata> {
        Ok(unix::fstat(file)?.into())
    }

    /// The names in an open directory.
    fn list(&self, dir: &File, path: &Path) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in unix::Dir::read_from(dir)? {
            let entry = entry?;
            if ![c".", c".."].contains(&entry.file_name()) {
                names.push(OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
            }
        }
        Ok(names)
    }

    /// Makes a directory.
    fn make_dir(&self, entry: Entry<'_>) -> io::Result<()> {
        Ok(unix::mkdirat(entry.dir, entry.name, Mode::from_raw_mode(0o777))?)
    }

    /// Renames a file or a directory, over an existing file of the new name.
    fn rename(&self, from: Entry<'_>, to: Entry<'_>) -> io::Result<()> {
        Ok(unix::renameat(from.dir, from.name, to.dir, to.name)?)
    }

    /// Renames a file to a name that does not exist.
    fn rename_new(&self, from: Entry<'_>, to: Entry<'_>) -> io::Result<()> {
        sys::fs::rename_new(from.dir, from.name, to.dir, to.name)
    }

    /// Removes a file, or a directory with its contents. Symbolic links are removed and not followed.
    fn remove(&self, entry: Entry<'_>) -> io::Result<()> {
        remove_at(entry.dir, entry.name)
    }

    /// Removes a file. A symbolic link is removed and not followed.
    fn remove_file(&self, entry: Entry<'_>) -> io::Result<()> {
        Ok(unix::unlinkat(entry.dir, entry.name, AtFlags::empty())?)
    }

    /// Removes an empty directory.
    fn remove_dir(&self, entry: Entry<'_>) -> io::Result<()> {
        Ok(unix::unlinkat(entry.dir, entry.name, AtFlags::REMOVEDIR)?)
    }

    /// Locks an open file or directory. Returns `false` if the lock is held elsewhere and `lock` does not wait.
    fn lock(&self, file: &File, path: &Path, lock: Lock) -> io::Result<bool> {
        let locked = loop {
            let locked = match lock {
                Lock::Exclusive => unix::flock(file, FlockOperation::LockExclusive),
                Lock::TryExclusive => unix::flock(file, FlockOperation::NonBlockingLockExclusive),
                Lock::Shared => unix::flock(file, FlockOperation::LockShared),
                Lock::Process => unix::fcntl_lock(file, FlockOperation::LockExclusive),
            };
            if locked != Err(Errno::INTR) {
                break locked;
            }
        };
        match locked {
            Err(Errno::WOULDBLOCK) => Ok(false),
            locked => Ok(locked.map(|()| true)?),
        }
    }
}

/// Removes an entry of a directory with its contents.
fn remove_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let Err(refused) = unix::unlinkat(dir, name, AtFlags::empty()) else { return Ok(()) };
    // Linux refuses a directory with EISDIR, POSIX with EPERM, which may have other reasons.
    if ![Errno::ISDIR, Errno::PERM].contains(&refused) {
        return Err(refused.into());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = unix::openat(dir, name, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOTDIR | Errno::LOOP | Errno::MLINK => refused,
        error => error,
    })?;
    for entry in unix::Dir::read_from(&inner)? {
        let entry = entry?;
        if ![c".", c".."].contains(&entry.file_name()) {
            remove_at(inner.as_fd(), OsStr::from_bytes(entry.file_name().to_bytes()))?;
        }
    }
    Ok(unix::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

/// The operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Os;

impl Storage for Os {}

/// The storage of a path.
#[derive(Clone, Debug)]
pub(super) struct Mounted(Option<Arc<dyn Storage>>);

impl Deref for Mounted {
    type Target = dyn Storage;

    fn deref(&self) -> &(dyn Storage + 'static) {
        match &self.0 {
            Some(storage) => &**storage,
            None => &Os,
        }
    }
}

/// The storage that is mounted on a directory above a path.
#[cfg(not(feature = "internals"))]
pub(super) fn at(_: &Path) -> Mounted {
    Mounted(None)
}

#[cfg(feature = "internals")]
pub(super) use mounts::at;
#[cfg(feature = "internals")]
pub use mounts::{Mount, mount};

#[cfg(feature = "internals")]
mod mounts {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::{Arc, Mounted, Path, PathBuf, Storage};
    use crate::sync::{Mutex, Rank};

    static MOUNTS: Mutex<Vec<(PathBuf, Arc<dyn Storage>)>> = Mutex::new(Rank::Mounts, Vec::new());

    /// The number of mounts, so that a path without one takes no lock.
    static COUNT: AtomicUsize = AtomicUsize::new(0);

    /// A mounted [`Storage`], which is unmounted when this is dropped.
    #[derive(Debug)]
    pub struct Mount {
        dir: PathBuf,
    }

    /// Mounts a storage on a directory: operations on paths below it use the storage.
    ///
    /// `dir` is an absolute path without symbolic links.
    pub fn mount(dir: impl Into<PathBuf>, storage: Arc<dyn Storage>) -> Mount {
        let dir = dir.into();
        MOUNTS.lock_or_recover().push((dir.clone(), storage));
        COUNT.fetch_add(1, Relaxed);
        Mount { dir }
    }

    impl Drop for Mount {
        fn drop(&mut self) {
            MOUNTS.lock_or_recover().retain(|(dir, _)| *dir != self.dir);
            COUNT.fetch_sub(1, Relaxed);
        }
    }

    pub(in crate::disk) fn at(path: &Path) -> Mounted {
        if COUNT.load(Relaxed) == 0 {
            return Mounted(None);
        }
        let mounts = MOUNTS.lock_or_recover();
        let found = mounts.iter().find(|(dir, _)| path.starts_with(dir));
        Mounted(found.map(|(_, storage)| Arc::clone(storage)))
    }
}
