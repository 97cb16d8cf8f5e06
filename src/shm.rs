//! The committed end of a WAL according to the wal-index file (`-shm`), which all open connections share.
//!
//! A commit is visible once it is in the wal-index. A commit that is complete in the WAL but missing from the wal-index was
//! never visible: its process was killed or failed, and the next commit overwrites it. While no connection is open the
//! wal-index has no meaning, because the first connection to open the database rebuilds it from the WAL.

use std::path::Path;

use crate::{
    disk::WalIndexFile,
    error::Result,
    layout,
    units::Salts,
    wal::{self, INDEX_HEADER_LEN, SeenFrames},
};

/// Maximum number of attempts to read a header that is being written.
const ATTEMPTS: u32 = 100;

/// Returns how much of the WAL with these salts is committed, according to the wal-index of the database in the file `data`.
/// Call it after reading the WAL or the pages that the WAL is applied to.
///
/// Must run within [`open_databases`](crate::disk::open_databases).
pub(crate) fn seen(data: &Path, salts: Salts) -> Result<SeenFrames> {
    let path = layout::beside(data, "-shm");
    let Some(index) = WalIndexFile::open(data, &path)? else { return Ok(SeenFrames::Unknown) };
    if !index.is_in_use()? {
        return Ok(SeenFrames::Unknown);
    }
    for _ in 0..ATTEMPTS {
        let mut head = [0; 2 * INDEX_HEADER_LEN];
        if index.read_start(&mut head)? < head.len() {
            break;
        }
        if let Some(last) = wal::last_commit(&head) {
            return Ok(wal::seen_frames(last, salts));
        }
        std::thread::yield_now();
    }
    // The process that was writing the header was killed. The next connection rebuilds the wal-index from the WAL.
    Ok(SeenFrames::Unknown)
}
