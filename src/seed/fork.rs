//! Forks: copies of the current state of a database, at one commit, while it may be written.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::{
    Output, Target,
    reseal::{self, Extent, SealedPages},
};
use crate::{
    cipher::EncryptionKey,
    disk::Disk,
    error::{Error, ErrorKind, Result},
    layout,
    live_copy::LiveCopy,
    page::{self, Header, Identity, PageCodec, Seal},
    progress::{self, Phase, ProgressFn},
    vfs,
};

/// The source of a fork.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    /// A connection to the source, which the fork closes.
    pub(crate) connection: Connection,
    /// The database file.
    pub(crate) data: &'a Path,
    /// The key, if the source is encrypted.
    pub(crate) key: Option<&'a EncryptionKey>,
    /// The identity of the file, if the source is encrypted.
    pub(crate) identity: Option<Identity>,
}

/// A database file whose pages are copied as they are stored, without its key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored<'a> {
    pub(crate) data: &'a Path,
    pub(crate) identity: Option<Identity>,
}

/// A staged file of sealed pages at one commit.
#[derive(Clone, Copy)]
pub(super) struct SealedFile<'a> {
    pub(super) path: &'a Path,
    /// The size in bytes.
    pub(super) size: u64,
    pub(super) seal: Seal,
    pub(super) key: &'a EncryptionKey,
}

/// The conversion of the pages of a source.
pub(super) enum Conversion<'a> {
    /// The pages are copied as they are stored.
    Copy,
    /// Each page is opened and sealed again.
    Reseal(Seal, &'a EncryptionKey, Target),
    /// `VACUUM INTO` rebuilds the database, because the number of reserved bytes changes.
    Rebuild(Option<Target>),
}

impl<'a> Conversion<'a> {
    /// The conversion of a source. Fails with [`ErrorKind::Invalid`] if the copy keeps the page format of the source, which does
    /// not have the cipher of the target.
    pub(super) fn of(source: &Source<'a>, target: Option<&Target>) -> Result<Self> {
        let seal = vfs::main_seal(&source.connection);
        let (Some(seal), Some(key), Some(target)) = (seal, source.key, target) else {
            let is_plain = seal.is_none() && target.is_none();
            return Ok(if is_plain { Self::Copy } else { Self::Rebuild(target.cloned()) });
        };
        let format = target.format.unwrap_or(seal.format);
        format.check(target.cipher)?;
        let target = Target { format: Some(format), ..target.clone() };
        Ok(if *key == target.key && seal.cipher == target.cipher && seal.format == format {
            Self::Copy
        } else if seal.cipher.reserved_bytes() == target.cipher.reserved_bytes() {
            Self::Reseal(seal, key, target)
        } else {
            Self::Rebuild(Some(target))
        })
    }
}

/// Writes the current state of the source to the output, and flushes it.
pub(crate) fn write(source: Source<'_>, output: Output<'_>, watch: &mut ProgressFn<'_>) -> Result<()> {
    match Conversion::of(&source, output.target)? {
        Conversion::Copy => copy(&source, output, watch, |size, watch| sync(output, size, watch)),
        Conversion::Reseal(seal, key, target) => {
            let staged = layout::beside(output.path, "-source");
            let size = copy(&source, output.at(&staged), watch, |size, _| Ok(size))?;
            let file = SealedFile { path: &staged, size, seal, key };
            reseal_file(file, &target, output, watch)?;
            reseal::finish(output.sealed(Some(&target)), watch)
        }
        Conversion::Rebuild(target) => {
            let len = size(source.data)?;
            let output = output.sealed(target.as_ref());
            reseal::vacuum_into(source.connection, len, output, watch)?;
            reseal::finish(output, watch)
        }
    }
}

/// The size of a database file and of its WAL in bytes.
fn size(data: &Path) -> Result<u64> {
    Ok(Disk::len(data)?.unwrap_or(0) + Disk::len(&layout::beside(data, "-wal"))?.unwrap_or(0))
}

/// Seals the pages of a staged file again into the output, and removes the staged file.
pub(super) fn reseal_file(
    staged: SealedFile<'_>,
    target: &Target,
    output: Output<'_>,
    watch: &mut ProgressFn<'_>,
) -> Result<()> {
    let SealedFile { path, size, seal, key } = staged;
    let file = output.disk.open_to_write(path)?;
    let mut head = [0; page::HEADER_LEN];
    Disk::read_at(&file, path, &mut head, 0)?;
    let page_size = Header::parse(&head)?.page_size;
    let codec = PageCodec::new(seal, page_size, key)?;
    let mut pages = SealedPages { file: &file, path, codec: &codec };
    reseal::seal_pages(&mut pages, Extent::of(size, page_size), target, output, watch)?;
    drop(file);
    output.disk.remove(path)
}

/// Writes the stored pages of the current state of a database to the output, and flushes it.
pub(crate) fn write_stored(stored: Stored<'_>, output: Output<'_>, watch: &mut ProgressFn<'_>) -> Result<()> {
    let Stored { data, identity } = stored;
    let inspect = |bytes: &[u8], _| header(bytes, data);
    let Output { disk, path, .. } = output;
    let copy =
        LiveCopy { disk, source: data, target: path, scratch: None, size_limit: None, inspect: &inspect };
    super::copy_and(&copy, watch, |size, watch| {
        check_identity(path, identity, data)?;
        sync(output, size, watch)
    })
}

/// Fails with [`ErrorKind::Corrupt`] if a copy is not of the file of the database. Pages that are not opened are not authenticated,
/// including page 1 in the WAL.
pub(super) fn check_identity(copy: &Path, identity: Option<Identity>, data: &Path) -> Result<()> {
    if super::identity(copy)? == identity {
        return Ok(());
    }
    Err(Error::naming(ErrorKind::Corrupt, data, |data| {
        format!("{data} is not the file that this database was made with; put back the one that was here")
    }))
}

fn header(bytes: &[u8], data: &Path) -> Result<Header> {
    let header = bytes.first_chunk().ok_or_else(|| {
        Error::naming(ErrorKind::Corrupt, data, |data| format!("{data}: shorter than a header"))
    })?;
    Header::parse(header)
}

/// Flushes the output, whose size in bytes is `size`.
pub(super) fn sync(output: Output<'_>, size: u64, watch: &mut ProgressFn<'_>) -> Result<()> {
    progress::tell(watch, Phase::Sync, 0, Some(size))?;
    output.disk.sync_file(&output.disk.open_to_write(output.path)?, output.path)
}

/// Copies the pages of the source as they are stored, and then calls `then` with their size in bytes.
fn copy<T: Send>(
    source: &Source<'_>,
    output: Output<'_>,
    watch: &mut ProgressFn<'_>,
    then: impl FnOnce(u64, &mut ProgressFn<'_>) -> Result<T> + Send,
) -> Result<T> {
    let connection = &source.connection;
    // A read transaction keeps the frames in the WAL that the copy needs. Writers append after them.
    connection
        .execute_batch("BEGIN")
        .and_then(|()| connection.query_row("SELECT 1 FROM sqlite_schema", [], |_| Ok(())).optional())
        .map_err(|error| Error::from_sqlite(connection, error))?;
    let (identity, data) = (source.identity, source.data);
    let inspect = |bytes: &[u8], _| header(bytes, data);
    let Output { disk, path, size_limit, .. } = output;
    let copy = LiveCopy { disk, source: data, target: path, scratch: None, size_limit, inspect: &inspect };
    let done = super::copy_and(&copy, watch, |size, watch| {
        check_identity(path, identity, data)?;
        then(size, watch)
    })?;
    connection.execute_batch("COMMIT").map_err(|error| Error::from_sqlite(connection, error))?;
    Ok(done)
}
