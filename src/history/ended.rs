//! The files of ended generations: immutable, numbered, and replaced or deleted only as a whole.
//!
//! Everything that reads, writes or deletes a numbered file of a history does so through [`Ended`]. The stamps of the current
//! generation and the WAL are not numbered files: they are local and change in place. When a generation ends, capture moves
//! its WAL and its stamps into the local archive by renaming them.

use std::{
    collections::BTreeSet,
    fmt,
    fs::File,
    path::{Path, PathBuf},
};

use crate::{
    disk::Disk,
    error::Result,
    layout::{ArchiveFile, ArchivePaths},
    os_cache,
    units::{GenerationNumber, Nanos},
};

/// A numbered file.
pub(crate) type EndedName = (GenerationNumber, ArchiveFile);

/// A store of the files of ended generations.
pub(crate) trait Ended: fmt::Debug + Send + Sync {
    /// The files that exist.
    fn list(&self) -> Result<BTreeSet<EndedName>>;

    /// The length of a file, or `None` if it does not exist.
    fn len(&self, number: GenerationNumber, file: ArchiveFile) -> Result<Option<u64>>;

    /// Opens a file for reading. Returns `None` if it does not exist.
    ///
    /// The contents of the opened file do not change, even if the file is replaced or deleted.
    fn open(&self, number: GenerationNumber, file: ArchiveFile) -> Result<Option<Box<dyn EndedFile>>>;

    /// Atomically makes the contents of the local file `staged` those of a numbered file, and removes `staged`.
    ///
    /// The caller has flushed `staged` if the contents must survive a power loss, and calls [`flush`](Self::flush) next.
    fn put_whole(&self, number: GenerationNumber, file: ArchiveFile, staged: &Path) -> Result<()>;

    /// Deletes a file. A file that does not exist is no error.
    fn delete(&self, number: GenerationNumber, file: ArchiveFile) -> Result<()>;

    /// Makes all completed calls of [`put_whole`](Self::put_whole) and [`delete`](Self::delete) durable.
    fn flush(&self) -> Result<()>;

    /// Makes the files durable that capture has added since an instant. The default is for stores that capture does not add to.
    fn flush_added_since(&self, since: Nanos) -> Result<()> {
        let _ = since;
        Ok(())
    }

    /// The name of a file in errors and findings.
    fn path(&self, number: GenerationNumber, file: ArchiveFile) -> PathBuf;

    fn exists(&self, number: GenerationNumber, file: ArchiveFile) -> Result<bool> {
        Ok(self.len(number, file)?.is_some())
    }
}

/// A file of an ended generation that is open for reading.
pub(crate) trait EndedFile: fmt::Debug + Send + Sync {
    /// The name of the file in errors and findings.
    fn path(&self) -> &Path;

    fn len(&self) -> Result<u64>;

    /// Fills `into` from an offset up to the end of the file, and returns the number of bytes read.
    fn read_at(&self, into: &mut [u8], offset: u64) -> Result<usize>;

    /// Fills `into` from an offset if that does not wait for a device or a network. Returns whether it did.
    fn read_cached(&self, into: &mut [u8], offset: u64) -> bool {
        let _ = (into, offset);
        false
    }

    /// Starts to read a range, so that a later [`read_at`](Self::read_at) waits less.
    fn prefetch(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }
}

/// Reads a whole file. Returns `None` if it does not exist.
pub(super) fn read(
    ended: &dyn Ended,
    number: GenerationNumber,
    file: ArchiveFile,
) -> Result<Option<Vec<u8>>> {
    let Some(file) = ended.open(number, file)? else { return Ok(None) };
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
    let count = file.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok(Some(bytes))
}

/// The archive directory beside a database.
#[derive(Clone, Debug)]
pub(crate) struct LocalArchive {
    disk: Disk,
    paths: ArchivePaths,
}

/// A file of the archive directory.
#[derive(Debug)]
struct LocalFile {
    file: File,
    path: PathBuf,
}

impl LocalArchive {
    pub(crate) fn new(disk: Disk, paths: ArchivePaths) -> Self {
        Self { disk, paths }
    }
}

impl Ended for LocalArchive {
    fn list(&self) -> Result<BTreeSet<EndedName>> {
        let names = if Disk::exists(self.paths.dir())? { Disk::list(self.paths.dir())? } else { Vec::new() };
        Ok(names.iter().filter_map(|name| ArchivePaths::parse(name)).collect())
    }

    fn len(&self, number: GenerationNumber, file: ArchiveFile) -> Result<Option<u64>> {
        Disk::len(&self.path(number, file))
    }

    fn open(&self, number: GenerationNumber, file: ArchiveFile) -> Result<Option<Box<dyn EndedFile>>> {
        let path = self.path(number, file);
        let Some(file) = Disk::open_regular(&path)? else { return Ok(None) };
        Ok(Some(Box::new(LocalFile { file, path })))
    }

    fn put_whole(&self, number: GenerationNumber, file: ArchiveFile, staged: &Path) -> Result<()> {
        self.disk.rename(staged, &self.path(number, file))
    }

    fn delete(&self, number: GenerationNumber, file: ArchiveFile) -> Result<()> {
        self.disk.remove(&self.path(number, file))
    }

    fn flush(&self) -> Result<()> {
        self.disk.sync_dir(self.paths.dir())
    }

    fn flush_added_since(&self, since: Nanos) -> Result<()> {
        let mut flushed = false;
        for (number, kind) in self.list()? {
            let path = self.path(number, kind);
            if Disk::last_change(&path)?.is_some_and(|(_, changed_at)| Nanos::new(changed_at) >= since)
                && let Some(file) = Disk::open(&path)?
            {
                self.disk.sync_file(&file, &path)?;
                flushed = true;
            }
        }
        if flushed { self.flush() } else { Ok(()) }
    }

    fn path(&self, number: GenerationNumber, file: ArchiveFile) -> PathBuf {
        self.paths.file(number, file)
    }
}

impl EndedFile for LocalFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> Result<u64> {
        Disk::len_of(&self.file, &self.path)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> Result<usize> {
        Disk::read_up_to(&self.file, &self.path, into, offset)
    }

    fn read_cached(&self, into: &mut [u8], offset: u64) -> bool {
        os_cache::read(&self.file, into, offset)
    }

    fn prefetch(&self, offset: u64, len: u64) {
        os_cache::fetch(&self.file, offset, len);
    }
}
