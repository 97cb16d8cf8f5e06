//! A database as another one is now, at one commit, while that one is being written.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::{
    Target,
    reseal::{self, SealedPages},
};
use crate::{
    cipher::EncryptionKey,
    connect,
    disk::Disk,
    error::{Error, ErrorKind, Result},
    layout,
    live_copy::LiveCopy,
    page::{self, Header, Identity, PageCodec, Seal},
    progress::{self, Phase, ProgressFn},
    size::SizeLimit,
    vfs,
};

/// What is forked.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    /// A connection to it, which is used up.
    pub(crate) connection: Connection,
    /// Its file.
    pub(crate) data: &'a Path,
    /// Its key, if it is encrypted.
    pub(crate) key: Option<&'a EncryptionKey>,
    /// What its file is told from others by, if it is encrypted.
    pub(crate) identity: Option<Identity>,
}

/// How the pages of a source become those of a copy.
pub(super) enum Way<'a> {
    /// As they are.
    Copy,
    /// Each is opened and sealed anew.
    PageByPage(Seal, &'a EncryptionKey, Target),
    /// SQLite lays the rows out anew, since the pages have more or less room at their end.
    Anew(Option<Target>),
}

impl<'a> Way<'a> {
    /// Fails with [`ErrorKind::Invalid`] if the copy keeps the page format of the source, and that does not know its cipher.
    pub(super) fn of(source: &Source<'a>, target: Option<&Target>) -> Result<Self> {
        let seal = vfs::main_seal(&source.connection);
        let (Some(seal), Some(key), Some(target)) = (seal, source.key, target) else {
            let is_plain = seal.is_none() && target.is_none();
            return Ok(if is_plain { Self::Copy } else { Self::Anew(target.cloned()) });
        };
        let format = target.format.unwrap_or(seal.format);
        format.check(target.cipher)?;
        let target = Target { format: Some(format), ..target.clone() };
        Ok(if *key == target.key && seal.cipher == target.cipher && seal.format == format {
            Self::Copy
        } else if seal.cipher.reserved_bytes() == target.cipher.reserved_bytes() {
            Self::PageByPage(seal, key, target)
        } else {
            Self::Anew(Some(target))
        })
    }
}

/// Writes the database to `path`, on the disk: sealed as `target` says, or plain.
pub(crate) fn write(
    disk: &Disk,
    source: Source<'_>,
    path: &Path,
    target: Option<&Target>,
    size_limit: Option<SizeLimit>,
    watch: &mut ProgressFn<'_>,
) -> Result<()> {
    match Way::of(&source, target)? {
        Way::Copy => {
            copy(disk, &source, path, size_limit, watch, |size, watch| sync(disk, path, size, watch))
        }
        Way::PageByPage(seal, key, target) => {
            // Sealed pages of one commit, which stand here until they are sealed anew.
            let staged = layout::beside(path, "-source");
            let size = copy(disk, &source, &staged, size_limit, watch, |size, _| Ok(size))?;
            page_by_page(disk, (&staged, size), seal, key, path, &target, watch)?;
            reseal::finish(disk, path, Some(&target), size_limit, watch)
        }
        Way::Anew(target) => {
            let len = size(source.data)?;
            reseal::vacuum_into(disk, source.connection, len, path, target.as_ref(), watch)?;
            reseal::finish(disk, path, target.as_ref(), size_limit, watch)
        }
    }
}

/// The bytes of a database file and of its log.
fn size(data: &Path) -> Result<u64> {
    Ok(Disk::len(data)?.unwrap_or(0) + Disk::len(&layout::beside(data, "-wal"))?.unwrap_or(0))
}

/// Seals the pages of a staged file anew into `path`, and removes that file.
pub(super) fn page_by_page(
    disk: &Disk,
    (staged, size): (&Path, u64),
    seal: Seal,
    key: &EncryptionKey,
    path: &Path,
    target: &Target,
    watch: &mut ProgressFn<'_>,
) -> Result<()> {
    let file = disk.open_to_write(staged)?;
    let mut head = [0; page::HEADER_LEN];
    Disk::read_at(&file, staged, &mut head, 0)?;
    let page_size = Header::parse(&head)?.page_size;
    let codec = PageCodec::new(seal, page_size, key)?;
    let mut pages = SealedPages { file: &file, path: staged, codec: &codec };
    let page_count = u32::try_from(size / u64::from(page_size)).unwrap_or(u32::MAX);
    reseal::seal_pages(disk, &mut pages, page_count, page_size, path, target, watch)?;
    drop(file);
    disk.remove(staged)
}

/// Writes the database in the file `data` to `path`, on the disk, with its pages as they are, and without its key.
pub(crate) fn write_as_it_is(
    disk: &Disk,
    data: &Path,
    identity: Option<Identity>,
    path: &Path,
    watch: &mut ProgressFn<'_>,
) -> Result<()> {
    let inspect = |bytes: &[u8], _| header(bytes, data);
    let copy =
        LiveCopy { disk, source: data, target: path, scratch: None, size_limit: None, inspect: &inspect };
    super::copy_and(&copy, watch, |size, watch| {
        check(path, identity, data)?;
        sync(disk, path, size, watch)
    })
}

/// Says so if a copy was not made of the file that it should have been made of. Pages that are not opened are copied
/// whosever they are, page 1 from the log as well.
pub(super) fn check(copy: &Path, identity: Option<Identity>, data: &Path) -> Result<()> {
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

pub(super) fn sync(disk: &Disk, path: &Path, size: u64, watch: &mut ProgressFn<'_>) -> Result<()> {
    progress::tell(watch, Phase::Sync, 0, Some(size))?;
    disk.sync_file(&disk.open_to_write(path)?, path)
}

/// Copies the source's pages as they are, and then does `then` with their size.
fn copy<T: Send>(
    disk: &Disk,
    source: &Source<'_>,
    path: &Path,
    size_limit: Option<SizeLimit>,
    watch: &mut ProgressFn<'_>,
    then: impl FnOnce(u64, &mut ProgressFn<'_>) -> Result<T> + Send,
) -> Result<T> {
    let connection = &source.connection;
    // A read transaction: the frames that it may need stay in the WAL, and writers go on behind them.
    connection
        .execute_batch("BEGIN")
        .and_then(|()| connection.query_row("SELECT 1 FROM sqlite_schema", [], |_| Ok(())).optional())
        .map_err(|error| connect::explain(connection, error))?;
    let inspect = |bytes: &[u8], _| header(bytes, source.data);
    let copy =
        LiveCopy { disk, source: source.data, target: path, scratch: None, size_limit, inspect: &inspect };
    let (identity, data) = (source.identity, source.data);
    let done = super::copy_and(&copy, watch, |size, watch| {
        check(path, identity, data)?;
        then(size, watch)
    })?;
    connection.execute_batch("COMMIT").map_err(|error| connect::explain(connection, error))?;
    Ok(done)
}
