//! Files: creating, opening, reading, writing, renaming and removing them.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use rustix::{fs as unix, io::Errno};

use super::{Disk, Step, failed, no_such_way};
use crate::error::{Error, ErrorKind, Result};

impl Disk {
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

    /// Opens a file whose memory is shared with other processes.
    pub(crate) fn open_shared(path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(path)
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
        self.step(Step::Write, path, || file.write_all_at(bytes, offset))
            .map_err(|error| failed("writing", path, error))
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

    pub(crate) fn set_len(&self, file: &File, path: &Path, len: u64) -> Result<()> {
        self.step(Step::Write, path, || file.set_len(len)).map_err(|error| failed("writing", path, error))
    }

    pub(crate) fn sync_file(&self, file: &File, path: &Path) -> Result<()> {
        self.step(Step::SyncFile, path, || file.sync_all()).map_err(|error| failed("flushing", path, error))
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.step(Step::Rename, from, || fs::rename(from, to)).map_err(|error| match error.kind() {
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
                Error::naming(ErrorKind::AlreadyExists, to, |to| format!("{to} is there already"))
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
}
