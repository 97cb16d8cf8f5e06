//! A database as another one is now, at one commit, while that one is being written.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use crate::{
    connect,
    disk::Disk,
    error::{Error, ErrorKind, Result},
    image::Copy,
    page,
    progress::{self, Phase, Watch},
    size::SizeLimit,
};

/// Writes the database that `source` is open on, whose file is `source_data`, to `target`, on the disk.
pub(crate) fn write(
    disk: &Disk,
    source: &Connection,
    source_data: &Path,
    target: &Path,
    size_limit: Option<SizeLimit>,
    watch: &mut Watch<'_>,
) -> Result<()> {
    // A read transaction: the frames that it may need stay in the WAL, and writers go on behind them.
    source
        .execute_batch("BEGIN")
        .and_then(|()| source.query_row("SELECT 1 FROM sqlite_schema", [], |_| Ok(())).optional())
        .map_err(|error| connect::explain(source, error))?;
    let inspect = |bytes: &[u8], _| {
        let header = bytes.first_chunk().ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("{}: shorter than a header", source_data.display()))
        })?;
        page::Header::parse(header)
    };
    let copy = Copy { disk, source: source_data, target, size_limit, inspect: &inspect };
    super::copy_and(&copy, watch, |size, watch| {
        progress::tell(watch, Phase::Sync, 0, Some(size))?;
        let file = Disk::open(target)?.ok_or_else(|| Error::new(ErrorKind::Io, "the staged file is gone"))?;
        disk.sync_file(&file, target)
    })?;
    source.execute_batch("COMMIT").map_err(|error| connect::explain(source, error))
}
