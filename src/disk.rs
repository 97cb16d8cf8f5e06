//! Every file operation of the control plane itself: the only file that names `std::fs`.
//!
//! SQLite opens its own files. What stands here are the steps of the create and delete protocols, and before each
//! step that changes something a [`Hook`] is asked, so that a test harness can make any one of them fail or stop
//! the process there.

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{self as unix, Access, AtFlags},
    io::Errno,
    process::{Flock, FlockType, fcntl_getlk},
};

use crate::error::{Error, ErrorKind, Result};

/// A step that changes what is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// A directory is made.
    MakeDir,
    /// A file is made.
    Create,
    /// Bytes are written, or a file is cut or extended.
    Write,
    /// A file is flushed to the disk.
    SyncFile,
    /// A directory is flushed to the disk.
    SyncDir,
    /// A directory is renamed.
    Rename,
    /// A file or a directory with all that is in it is removed.
    Remove,
}

/// What a test harness is asked before each [`Step`]; the error that it returns is the result of the step.
pub type Hook = dyn Fn(Step, &Path) -> io::Result<()> + Send + Sync;

/// The disk, as the control plane uses it.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    hook: Option<Arc<Hook>>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("hooked", &self.hook.is_some()).finish()
    }
}

/// How far a copy gets in one call of the kernel, so that progress can be told and the caller can cancel.
const COPY_STEP: u64 = 16 << 20;

/// The buffer of copies that do not stay in the kernel.
const BUFFER_LEN: usize = 128 << 10;

/// The largest file that SQLite makes beside a database without having been asked to write: the memory shared between
/// the readers of a log.
const SMALL_FILE: u64 = 32 << 10;

/// A directory of this process alone, or shared with others that want nobody alone there: the lock goes when the value is
/// dropped or the process ends.
#[derive(Debug)]
pub(crate) struct DirLock {
    _dir: File,
}

impl Disk {
    pub(crate) fn with_hook(hook: Arc<Hook>) -> Self {
        Self { hook: Some(hook) }
    }

    /// Runs one step, unless the hook lets it fail.
    fn step<T>(&self, step: Step, path: &Path, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if let Some(hook) = &self.hook {
            hook(step, path)?;
        }
        run()
    }

    /// Makes a directory and says whether it was not there before.
    pub(crate) fn make_dir(&self, path: &Path) -> Result<bool> {
        match self.step(Step::MakeDir, path, || fs::create_dir(path)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(not_made(path, error)),
        }
    }

    /// Keeps other users of the machine out of a directory.
    pub(crate) fn make_private(&self, path: &Path) -> Result<()> {
        self.step(Step::MakeDir, path, || fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
            .map_err(|error| failed("keeping others out of", path, error))
    }

    /// Makes a directory and all those above it.
    pub(crate) fn make_dirs(&self, path: &Path) -> Result<()> {
        self.step(Step::MakeDir, path, || fs::create_dir_all(path)).map_err(|error| not_made(path, error))
    }

    /// Makes a new file, to be written and read.
    pub(crate) fn create(&self, path: &Path) -> Result<File> {
        self.step(Step::Create, path, || {
            OpenOptions::new().read(true).write(true).create_new(true).open(path)
        })
        .map_err(|error| failed("creating", path, error))
    }

    /// Opens a file that is there, to be written and read.
    pub(crate) fn open_to_write(&self, path: &Path) -> Result<File> {
        self.step(Step::Write, path, || OpenOptions::new().read(true).write(true).open(path))
            .map_err(|error| failed("opening", path, error))
    }

    pub(crate) fn write_at(&self, file: &File, path: &Path, bytes: &[u8], offset: u64) -> Result<()> {
        self.step(Step::Write, path, || file.write_all_at(bytes, offset))
            .map_err(|error| failed("writing", path, error))
    }

    /// Fills `into` from what stands in a file, which must be there.
    pub(crate) fn read_at(file: &File, path: &Path, into: &mut [u8], offset: u64) -> Result<()> {
        file.read_exact_at(into, offset).map_err(|error| failed("reading", path, error))
    }

    /// Makes room for the first `len` bytes of a file, which reads as zeros where nothing was written.
    pub(crate) fn allocate(&self, file: &File, path: &Path, len: u64) -> Result<()> {
        let allocated = self.step(Step::Write, path, || {
            match unix::fallocate(file, unix::FallocateFlags::empty(), 0, len) {
                // Where the file system cannot, zeros take the room.
                Err(error) if no_such_way(&error.into()) => {
                    let from = file.metadata()?.len().min(len);
                    let zeros = vec![0; usize::try_from(len - from).unwrap_or(0)];
                    file.write_all_at(&zeros, from)
                }
                allocated => allocated.map_err(io::Error::from),
            }
        });
        allocated.map_err(|error| failed("writing", path, error))
    }

    /// The length of a file and the time of its last change in nanoseconds since 1970, found without opening it; nothing
    /// if it is not there.
    pub(crate) fn last_change(path: &Path) -> Result<Option<(u64, i64)>> {
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("looking at", path, error)),
            Ok(found) => {
                let nanos = found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec());
                Ok(Some((found.len(), nanos)))
            }
        }
    }

    /// All that stands in a file; nothing if it is not there.
    pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
        match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some).map_err(|error| failed("reading", path, error)),
        }
    }

    /// Fills `into` from a file as far as that goes, and says how far.
    pub(crate) fn read_up_to(file: &File, path: &Path, into: &mut [u8], offset: u64) -> Result<usize> {
        let mut count = 0;
        while count < into.len() {
            match file.read_at(&mut into[count..], offset + count as u64) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("reading", path, error)),
            }
        }
        Ok(count)
    }

    pub(crate) fn set_len(&self, file: &File, path: &Path, len: u64) -> Result<()> {
        self.step(Step::Write, path, || file.set_len(len)).map_err(|error| failed("writing", path, error))
    }

    pub(crate) fn sync_file(&self, file: &File, path: &Path) -> Result<()> {
        self.step(Step::SyncFile, path, || file.sync_all()).map_err(|error| failed("flushing", path, error))
    }

    pub(crate) fn sync_dir(&self, path: &Path) -> Result<()> {
        self.step(Step::SyncDir, path, || File::open(path)?.sync_all())
            .map_err(|error| failed("flushing the directory", path, error))
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.step(Step::Rename, from, || fs::rename(from, to)).map_err(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory => {
                let message = format!(
                    "{} is in the way, and belongs to nothing in the fleet: move it elsewhere",
                    to.display()
                );
                Error::new(ErrorKind::Io, message).caused_by(error)
            }
            _ => Error::io(format_args!("renaming {} to {}", from.display(), to.display()), error),
        })
    }

    /// Renames a file to a name that nobody has.
    pub(crate) fn rename_new(&self, from: &Path, to: &Path) -> Result<()> {
        let renamed = self.step(Step::Rename, from, || {
            match unix::renameat_with(unix::CWD, from, unix::CWD, to, unix::RenameFlags::NOREPLACE) {
                // A file system that does not know the flag.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    fs::hard_link(from, to)?;
                    fs::remove_file(from)
                }
                renamed => renamed.map_err(io::Error::from),
            }
        });
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Error::new(ErrorKind::AlreadyExists, format!("{} is there already", to.display()))
            }
            _ => failed("renaming to", to, error),
        })
    }

    /// Removes a file or a directory with all that is in it. What is not there is removed already.
    pub(crate) fn remove(&self, path: &Path) -> Result<()> {
        let removed = self.step(Step::Remove, path, || {
            if fs::symlink_metadata(path)?.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            }
        });
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", path, error)),
            _ => Ok(()),
        }
    }

    /// Takes the lock of a directory, if nobody has it and the directory is still in its place.
    pub(crate) fn lock_dir(path: &Path) -> Result<Option<DirLock>> {
        let locking = |error| failed("locking the directory", path, error);
        let dir = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(locking)?,
        };
        match dir.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(locking(error)),
        }
        // It may have been moved or removed between the opening and the locking.
        let there = identity(path).map_err(locking)?;
        let same =
            there.is_some_and(|there| dir.metadata().is_ok_and(|ours| there == (ours.dev(), ours.ino())));
        Ok(same.then_some(DirLock { _dir: dir }))
    }

    /// Takes the lock of a directory, and waits for whoever has it.
    pub(crate) fn wait_for_dir(path: &Path) -> Result<DirLock> {
        let open = || {
            let dir = File::open(path)?;
            dir.lock()?;
            Ok(DirLock { _dir: dir })
        };
        open().map_err(|error| failed("locking the directory", path, error))
    }

    /// Shares the lock of a directory, and waits for whoever has it alone; nothing if the directory is not there.
    pub(crate) fn share_dir(path: &Path) -> Result<Option<DirLock>> {
        let locking = |error| failed("locking the directory", path, error);
        let dir = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(locking)?,
        };
        while let Err(error) = dir.lock_shared() {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(locking(error));
            }
        }
        Ok(Some(DirLock { _dir: dir }))
    }

    pub(crate) fn exists(path: &Path) -> Result<bool> {
        path.try_exists().map_err(|error| failed("looking for", path, error))
    }

    /// What tells a file from all others, whatever its name; nothing if it is not there.
    pub(crate) fn inode(path: &Path) -> Option<(u64, u64)> {
        fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
    }

    /// Whether a file that was found to be this one is still at a path.
    pub(crate) fn is_at(path: &Path, inode: Option<(u64, u64)>) -> bool {
        inode.is_some() && Self::inode(path) == inode
    }

    /// Whether the file system of a directory has no room for a small file, or no name left for one. What cannot be
    /// asked is not full.
    pub(crate) fn is_full(dir: &Path) -> bool {
        unix::statvfs(dir).is_ok_and(|found| {
            // Some file systems do not count names.
            let no_names = found.f_files > 0 && found.f_favail == 0;
            no_names || found.f_bavail.saturating_mul(found.f_frsize) < SMALL_FILE
        })
    }

    /// Why a file or a directory cannot be written to, if that is known without trying. What is not there can.
    pub(crate) fn not_writable(path: &Path) -> Option<io::Error> {
        let asked = unix::accessat(unix::CWD, path, Access::WRITE_OK, AtFlags::EACCESS);
        asked
            .err()
            .filter(|error| matches!(*error, Errno::ACCESS | Errno::PERM | Errno::ROFS))
            .map(Into::into)
    }

    /// The names in a directory.
    pub(crate) fn list(path: &Path) -> Result<Vec<String>> {
        let listing = |error| failed("listing", path, error);
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(listing)? {
            names.extend(entry.map_err(listing)?.file_name().into_string());
        }
        Ok(names)
    }

    /// The path with every symbolic link resolved, as SQLite will see it.
    pub(crate) fn canonical(path: &Path) -> Result<PathBuf> {
        fs::canonicalize(path).map_err(|error| failed("opening", path, error))
    }

    /// Opens a file to be read; nothing if it is not there.
    pub(crate) fn open(path: &Path) -> Result<Option<File>> {
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some).map_err(|error| failed("opening", path, error)),
        }
    }

    /// Opens a file to be read; nothing if it is not there. What is no file (a pipe, say, that would be waited for) is
    /// refused.
    pub(crate) fn open_regular(path: &Path) -> Result<Option<File>> {
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("looking at", path, error)),
            Ok(found) if found.is_file() => Self::open(path),
            Ok(_) => Err(Error::new(ErrorKind::Invalid, format!("{}: not a file", path.display()))),
        }
    }

    /// Whether somebody holds a write lock (of POSIX's kind) on `len` bytes of a file from `start` on.
    pub(crate) fn is_write_locked(file: &File, start: u64, len: u64) -> io::Result<bool> {
        // A read lock is what only a write lock stands against.
        let mut probe = Flock::from(FlockType::ReadLock);
        (probe.start, probe.length) = (start, len);
        Ok(fcntl_getlk(file, &probe)?.is_some())
    }

    /// The same of a lock of either kind.
    pub(crate) fn is_locked(file: &File, start: u64, len: u64) -> io::Result<bool> {
        let mut probe = Flock::from(FlockType::WriteLock);
        (probe.start, probe.length) = (start, len);
        Ok(fcntl_getlk(file, &probe)?.is_some())
    }

    /// Opens a file whose memory is shared with other processes.
    pub(crate) fn open_shared(path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(path)
    }

    /// The size of a file, found without opening it; nothing if it is not there.
    pub(crate) fn len(path: &Path) -> Result<Option<u64>> {
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            found => found.map(|found| Some(found.len())).map_err(|error| failed("looking at", path, error)),
        }
    }

    /// Makes `to` share the blocks of `from`, where the file system can, and says whether it could.
    pub(crate) fn clone_file(&self, from: &File, to: &File, to_path: &Path) -> Result<bool> {
        match self.step(Step::Write, to_path, || unix::ioctl_ficlone(to, from).map_err(io::Error::from)) {
            Ok(()) => Ok(true),
            // Not this file system, not across file systems, not this kind of file.
            Err(error) if no_such_way(&error) => Ok(false),
            Err(error) => Err(failed("cloning to", to_path, error)),
        }
    }

    /// Copies the first `len` bytes of `from` to the start of `to`, in the kernel where it can. Stops early, and
    /// says how far it came, where `from` ends early or `go_on`, which is told the bytes so far, says so.
    pub(crate) fn copy(
        &self,
        from: &File,
        to: &File,
        to_path: &Path,
        len: u64,
        mut go_on: impl FnMut(u64) -> bool,
    ) -> Result<u64> {
        let mut buffer = Vec::new();
        let mut done = 0;
        while done < len && go_on(done) {
            let want = (len - done).min(COPY_STEP);
            let in_kernel = buffer.is_empty();
            let copied = self.step(Step::Write, to_path, || {
                if in_kernel {
                    let (mut read_at, mut write_at) = (done, done);
                    let want = usize::try_from(want).unwrap_or(usize::MAX);
                    match unix::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), want) {
                        Err(error) if no_such_way(&error.into()) => buffer.resize(BUFFER_LEN, 0),
                        copied => return copied.map(|count| count as u64).map_err(io::Error::from),
                    }
                }
                let want = usize::try_from(want).unwrap_or(usize::MAX).min(buffer.len());
                let count = from.read_at(&mut buffer[..want], done)?;
                to.write_all_at(&buffer[..count], done)?;
                Ok(count as u64)
            });
            match copied.map_err(|error| failed("copying to", to_path, error))? {
                0 => break,
                count => done += count,
            }
        }
        Ok(done)
    }

    /// Hands all that `from` yields to `write`, piece by piece, with the place of each.
    pub(crate) fn drain(from: &mut dyn Read, mut write: impl FnMut(&[u8], u64) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0; BUFFER_LEN];
        let mut done = 0;
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io("reading the uploaded file", error)),
            };
            write(&buffer[..count], done)?;
            done += count as u64;
        }
    }
}

/// What tells a file apart from every other one: its device and its inode.
pub(crate) fn identity(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(|found| Some((found.dev(), found.ino()))),
    }
}

/// Whether the kernel says that this way of copying is not to be had, and another one may be.
fn no_such_way(error: &io::Error) -> bool {
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
    .iter()
    .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cold]
fn not_made(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            let message = format!(
                "making the directory {}: {error}; the directory above it must be writable",
                path.display()
            );
            Error::new(ErrorKind::Io, message).caused_by(error)
        }
        _ => failed("making the directory", path, error),
    }
}

#[cold]
fn failed(doing: &str, path: &Path, error: io::Error) -> Error {
    Error::io(format_args!("{doing} {}", path.display()), error)
}
