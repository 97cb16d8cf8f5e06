//! Files: creating, opening, reading, writing, renaming and removing them.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{ffi::OsStrExt, fs::FileExt},
    },
    path::Path,
};

use rustix::{
    fs::{self as unix, AtFlags, FlockOperation, Mode, OFlags, RenameFlags},
    io::Errno,
};

use super::{
    Disk, DiskOp, failed, no_such_way, owner,
    root::{READ_DIR, link},
};
use crate::error::{Error, ErrorKind, Result};

/// A file that is there, opened to be written and read.
const WRITE: OFlags = OFlags::RDWR.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A file that is there, opened to be read.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A file that is not there yet.
const CREATE: OFlags = WRITE.union(OFlags::CREATE).union(OFlags::EXCL);

/// A lock of a file, which is given back when the value is dropped.
#[derive(Debug)]
pub(crate) struct FileLock<'f>(&'f File);

impl Drop for FileLock<'_> {
    fn drop(&mut self) {
        let _given_back_when_closed = unix::fcntl_lock(self.0, FlockOperation::Unlock);
    }
}

impl Disk {
    /// Makes a new file, to be written and read. If root makes it inside the fleet, its owner is that of the directory that
    /// it is in.
    pub(crate) fn create(&self, path: &Path) -> Result<File> {
        self.create_with(path, 0o666)
    }

    /// Makes a new file as [`create`](Self::create) does, with a mode from which the umask is taken away.
    pub(crate) fn create_with(&self, path: &Path, mode: u32) -> Result<File> {
        self.step(DiskOp::Create, path, || {
            let place = self.place(path)?;
            let file = unix::openat(place.dir(), place.name, CREATE, Mode::from_raw_mode(mode))?;
            if let Some(parent) = place.parent()? {
                owner::give(&file, &parent);
            }
            Ok(file.into())
        })
        .map_err(|error| failed("creating", path, error))
    }

    /// Creates a file that every user with write access to `model` can write: with the mode of `model` and, if root makes it, with
    /// its owner. Without a `model` it is made as by [`create`](Self::create).
    pub(crate) fn create_like(&self, path: &Path, model: &Path) -> Result<File> {
        let found = self.stat_file(model).map_err(|error| failed("looking at", model, error))?;
        let Some(model) = found else { return self.create(path) };
        self.step(DiskOp::Create, path, || {
            let place = self.place(path)?;
            // Nobody else opens it before it has its owner.
            let file = unix::openat(place.dir(), place.name, CREATE, Mode::from_raw_mode(0o600))?;
            owner::open_as(&file, &model);
            owner::give(&file, &model);
            Ok(file.into())
        })
        .map_err(|error| failed("creating", path, error))
    }

    /// Opens a file that is there, to be written and read.
    pub(crate) fn open_to_write(&self, path: &Path) -> Result<File> {
        self.step(DiskOp::Write, path, || {
            let place = self.place(path)?;
            if place.is_outside() {
                return OpenOptions::new().read(true).write(true).open(path);
            }
            match unix::openat(place.dir(), place.name, WRITE, Mode::empty()) {
                Err(Errno::LOOP) => Err(link(path)),
                opened => Ok(opened?.into()),
            }
        })
        .map_err(|error| failed("opening", path, error))
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
            Ok(_) => Err(Error::naming(ErrorKind::Invalid, path, |file| format!("{file}: not a file"))),
        }
    }

    /// Opens a file of the fleet that other processes write to as well.
    pub(crate) fn open_shared(&self, path: &Path) -> Result<File> {
        let open = || {
            let place = self.place(path)?;
            match unix::openat(place.dir(), place.name, WRITE, Mode::empty()) {
                Err(Errno::LOOP) => Err(link(path)),
                opened => Ok(File::from(opened?)),
            }
        };
        open().map_err(|error| failed("opening", path, error))
    }

    /// Locks a file against other processes that lock it, but not against threads of this one. Only who may write to the file
    /// can lock it. Closing any descriptor of the file gives the lock back.
    pub(crate) fn lock_shared<'f>(file: &'f File, path: &Path) -> Result<FileLock<'f>> {
        unix::fcntl_lock(file, FlockOperation::LockExclusive)
            .map_err(|error| failed("locking", path, error.into()))?;
        Ok(FileLock(file))
    }

    /// Opens a file of the fleet that other processes write to, to be read, or `None` if it is not there.
    pub(crate) fn open_shared_to_read(&self, path: &Path) -> Result<Option<File>> {
        let open = || {
            let place = self.place(path)?;
            match unix::openat(place.dir(), place.name, READ, Mode::empty()) {
                Err(Errno::LOOP) => Err(link(path)),
                opened => Ok(File::from(opened?)),
            }
        };
        match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some).map_err(|error| failed("opening", path, error)),
        }
    }

    /// Writes to a file that other processes read at the same time. No hook is asked: nothing of it need outlast them.
    pub(crate) fn write_shared(file: &File, path: &Path, bytes: &[u8], offset: u64) -> Result<()> {
        file.write_all_at(bytes, offset).map_err(|error| failed("writing", path, error))
    }

    /// Fills `into` from what stands in a file, which must be there.
    pub(crate) fn read_at(file: &File, path: &Path, into: &mut [u8], offset: u64) -> Result<()> {
        file.read_exact_at(into, offset).map_err(|error| failed("reading", path, error))
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

    /// All that stands in a file; nothing if it is not there.
    pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
        match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some).map_err(|error| failed("reading", path, error)),
        }
    }

    pub(crate) fn write_at(&self, file: &File, path: &Path, bytes: &[u8], offset: u64) -> Result<()> {
        self.step(DiskOp::Write, path, || file.write_all_at(bytes, offset))
            .map_err(|error| failed("writing", path, error))
    }

    /// Makes room for the first `len` bytes of a file, which reads as zeros where nothing was written.
    pub(crate) fn allocate(&self, file: &File, path: &Path, len: u64) -> Result<()> {
        let allocated = self.step(DiskOp::Write, path, || {
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

    pub(crate) fn set_len(&self, file: &File, path: &Path, len: u64) -> Result<()> {
        self.step(DiskOp::Write, path, || file.set_len(len)).map_err(|error| failed("writing", path, error))
    }

    pub(crate) fn sync_file(&self, file: &File, path: &Path) -> Result<()> {
        self.step(DiskOp::SyncFile, path, || file.sync_all()).map_err(|error| failed("flushing", path, error))
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let renamed = self.step(DiskOp::Rename, from, || {
            let (from, to) = (self.place(from)?, self.place(to)?);
            Ok(unix::renameat(from.dir(), from.name, to.dir(), to.name)?)
        });
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory => {
                Error::naming(ErrorKind::Io, to, |to| {
                    format!("{to} is in the way, and belongs to nothing in the fleet: move it elsewhere")
                })
                .caused_by(error)
            }
            _ => failed("renaming to", to, error),
        })
    }

    /// Renames a file to a name that nobody has.
    pub(crate) fn rename_new(&self, from: &Path, to: &Path) -> Result<()> {
        let renamed = self.step(DiskOp::Rename, from, || {
            let (from, to) = (self.place(from)?, self.place(to)?);
            let (old, new) = (from.dir(), to.dir());
            match unix::renameat_with(old, from.name, new, to.name, RenameFlags::NOREPLACE) {
                // A file system that does not know the flag.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    unix::linkat(old, from.name, new, to.name, AtFlags::empty())?;
                    Ok(unix::unlinkat(old, from.name, AtFlags::empty())?)
                }
                renamed => renamed.map_err(io::Error::from),
            }
        });
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Error::naming(ErrorKind::AlreadyExists, to, |to| format!("{to} is there already"))
            }
            _ => failed("renaming to", to, error),
        })
    }

    /// Removes a file or a directory with all that is in it. What is not there is removed already.
    pub(crate) fn remove(&self, path: &Path) -> Result<()> {
        let removed = self.step(DiskOp::Remove, path, || {
            let place = self.place(path)?;
            remove_at(place.dir(), place.name)
        });
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", path, error)),
            _ => Ok(()),
        }
    }
}

/// Removes what has a name in a directory, with all that is in it. Symbolic links are removed, and not followed.
fn remove_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match unix::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        removed => return Ok(removed?),
    }
    let inner = unix::openat(dir, name, READ_DIR, Mode::empty())?;
    for entry in unix::Dir::read_from(&inner)? {
        let entry = entry?;
        if ![c".", c".."].contains(&entry.file_name()) {
            remove_at(inner.as_fd(), OsStr::from_bytes(entry.file_name().to_bytes()))?;
        }
    }
    Ok(unix::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}
