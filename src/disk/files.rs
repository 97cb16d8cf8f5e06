//! Files: creating, opening, reading, writing, renaming and removing them.

use std::{fs::File, io, path::Path};

use rustix::fs::{self as unix, FlockOperation};

use super::{
    Disk, DiskOp, Entry, LINK_REFUSED, Lock, Open, failed, if_exists, is_any, owner, root::link, storage,
};
use crate::error::{Error, ErrorKind, Result};

/// A lock of a file, released when this is dropped.
#[derive(Debug)]
pub(crate) struct FileLock<'f>(&'f File);

impl Drop for FileLock<'_> {
    fn drop(&mut self) {
        let _released_when_closed = unix::fcntl_lock(self.0, FlockOperation::Unlock);
    }
}

impl Disk {
    /// Creates a file, open for reading and writing. If root creates it inside the fleet, it gets the owner of its directory.
    pub(crate) fn create(&self, path: &Path) -> Result<File> {
        self.create_with(path, 0o666)
    }

    /// Creates a file as [`create`](Self::create) does, with this mode, less the umask.
    pub(crate) fn create_with(&self, path: &Path, mode: u16) -> Result<File> {
        self.step(DiskOp::Create, path, || {
            let place = self.place(path)?;
            let file = storage::at(path).open(place.entry(), Open::Create(mode))?;
            if let Some(parent) = place.parent()? {
                owner::give(&file, &parent);
            }
            Ok(file)
        })
        .map_err(|error| failed("creating", path, error))
    }

    /// Creates a file with the mode of `model` and, if root creates it, with its owner: every user who may write to `model` may
    /// write to it. If `model` does not exist, creates it as [`create`](Self::create) does.
    pub(crate) fn create_like(&self, path: &Path, model: &Path) -> Result<File> {
        let found =
            self.file_metadata(model).map_err(|error| failed("reading the metadata of", model, error))?;
        let Some(model) = found else { return self.create(path) };
        self.step(DiskOp::Create, path, || {
            // No other user opens it before it has its owner.
            let file = storage::at(path).open(self.place(path)?.entry(), Open::Create(0o600))?;
            owner::set_mode(&file, &model);
            owner::give(&file, &model);
            Ok(file)
        })
        .map_err(|error| failed("creating", path, error))
    }

    /// Opens an existing file for reading and writing.
    pub(crate) fn open_to_write(&self, path: &Path) -> Result<File> {
        self.step(DiskOp::Write, path, || self.open_own(path, Open::Write))
            .map_err(|error| failed("opening", path, error))
    }

    /// Opens a file for reading. Returns `None` if it does not exist.
    pub(crate) fn open(path: &Path) -> Result<Option<File>> {
        if_exists(storage::at(path).open(Entry::path(path), Open::Read))
            .map_err(|error| failed("opening", path, error))
    }

    /// Opens a regular file for reading. Returns `None` if it does not exist, and fails with [`ErrorKind::Invalid`] for anything
    /// else.
    pub(crate) fn open_regular(path: &Path) -> Result<Option<File>> {
        if Self::is_regular(path)? { Self::open(path) } else { Ok(None) }
    }

    /// Opens a file of the fleet that other processes write to as well.
    pub(crate) fn open_shared(&self, path: &Path) -> Result<File> {
        self.open_own(path, Open::Write).map_err(|error| failed("opening", path, error))
    }

    /// Opens a file of the fleet that other processes write to, for reading. Returns `None` if it does not exist.
    pub(crate) fn open_shared_to_read(&self, path: &Path) -> Result<Option<File>> {
        if_exists(self.open_own(path, Open::Read)).map_err(|error| failed("opening", path, error))
    }

    /// Opens an existing file. A symbolic link inside the root is refused.
    fn open_own(&self, path: &Path, how: Open) -> io::Result<File> {
        let place = self.place(path)?;
        match storage::at(path).open(place.entry(), how) {
            Err(error) if !place.is_outside() && is_any(&error, LINK_REFUSED) => Err(link(path)),
            opened => opened,
        }
    }

    /// Takes the lock of a file against other processes, but not against threads of this one. The file must be open for writing.
    /// Closing any descriptor of the file in this process releases the lock.
    pub(crate) fn lock_shared<'f>(file: &'f File, path: &Path) -> Result<FileLock<'f>> {
        storage::at(path).lock(file, path, Lock::Process).map_err(|error| failed("locking", path, error))?;
        Ok(FileLock(file))
    }

    /// Writes to a file that other processes read at the same time. The hook is not called: no crash depends on this write.
    pub(crate) fn write_shared(file: &File, path: &Path, bytes: &[u8], offset: u64) -> Result<()> {
        storage::at(path).write_at(file, path, bytes, offset).map_err(|error| failed("writing", path, error))
    }

    /// Fills `into` from a file. Fails if the file ends before.
    pub(crate) fn read_at(file: &File, path: &Path, into: &mut [u8], offset: u64) -> Result<()> {
        match Self::read_up_to(file, path, into, offset)? {
            count if count < into.len() => Err(failed("reading", path, io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }

    /// Fills `into` from a file, and returns how many bytes were read: fewer if the file ends before.
    pub(crate) fn read_up_to(file: &File, path: &Path, into: &mut [u8], offset: u64) -> Result<usize> {
        let storage = storage::at(path);
        let mut count = 0;
        while count < into.len() {
            match storage.read_at(file, path, &mut into[count..], offset + count as u64) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("reading", path, error)),
            }
        }
        Ok(count)
    }

    /// Fills `into` from a file if the page cache holds all of it. Returns `false` otherwise.
    pub(crate) fn read_cached(file: &File, path: &Path, into: &mut [u8], offset: u64) -> bool {
        storage::at(path).read_cached(file, path, into, offset)
    }

    /// The contents of a file. Returns `None` if it does not exist.
    pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
        let Some(file) = Self::open(path)? else { return Ok(None) };
        let mut bytes = vec![0; usize::try_from(Self::len_of(&file, path)?).unwrap_or(0)];
        let mut len = 0;
        // Until a read finds the end: the file may have grown.
        loop {
            let count = Self::read_up_to(&file, path, &mut bytes[len..], len as u64)?;
            len += count;
            if len < bytes.len() {
                bytes.truncate(len);
                return Ok(Some(bytes));
            }
            bytes.resize(len + 32, 0);
        }
    }

    pub(crate) fn write_at(&self, file: &File, path: &Path, bytes: &[u8], offset: u64) -> Result<()> {
        self.step(DiskOp::Write, path, || storage::at(path).write_at(file, path, bytes, offset))
            .map_err(|error| failed("writing", path, error))
    }

    /// Reserves disk space for the first `len` bytes of a file, which read as zeros until they are written.
    pub(crate) fn allocate(&self, file: &File, path: &Path, len: u64) -> Result<()> {
        let storage = storage::at(path);
        let allocated = self.step(DiskOp::Write, path, || {
            if storage.allocate(file, path, len)? {
                return Ok(());
            }
            // Zeros reserve the space if the file system cannot.
            let from = storage.metadata_of(file, path)?.len.min(len);
            let zeros = vec![0; usize::try_from(len - from).unwrap_or(0)];
            storage.write_at(file, path, &zeros, from)
        });
        allocated.map_err(|error| failed("writing", path, error))
    }

    pub(crate) fn set_len(&self, file: &File, path: &Path, len: u64) -> Result<()> {
        self.step(DiskOp::Write, path, || storage::at(path).set_len(file, path, len))
            .map_err(|error| failed("writing", path, error))
    }

    pub(crate) fn sync_file(&self, file: &File, path: &Path) -> Result<()> {
        self.step(DiskOp::SyncFile, path, || storage::at(path).sync(file, path))
            .map_err(|error| failed("flushing", path, error))
    }

    /// Renames a file or a directory, over an existing file of the new name.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let renamed = self.step(DiskOp::Rename, from, || {
            let (old, new) = (self.place(from)?, self.place(to)?);
            storage::at(from).rename(old.entry(), new.entry())
        });
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory => {
                Error::naming(ErrorKind::Io, to, |to| {
                    format!("{to} exists and is not part of the fleet; move it elsewhere")
                })
                .caused_by(error)
            }
            _ => failed("renaming to", to, error),
        })
    }

    /// Renames a file. Fails with [`ErrorKind::AlreadyExists`] if the new name exists.
    pub(crate) fn rename_new(&self, from: &Path, to: &Path) -> Result<()> {
        let renamed = self.step(DiskOp::Rename, from, || {
            let (old, new) = (self.place(from)?, self.place(to)?);
            storage::at(from).rename_new(old.entry(), new.entry())
        });
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Error::naming(ErrorKind::AlreadyExists, to, |to| format!("{to} already exists"))
            }
            _ => failed("renaming to", to, error),
        })
    }

    /// Removes a file, or a directory with its contents, if it exists.
    pub(crate) fn remove(&self, path: &Path) -> Result<()> {
        let removed = self.step(DiskOp::Remove, path, || storage::at(path).remove(self.place(path)?.entry()));
        if_exists(removed).map(|_| ()).map_err(|error| failed("removing", path, error))
    }
}
