//! What the connections that are open know of a log: the wal-index, which is in memory that they share.
//!
//! A commit counts from the moment at which it stands in the wal-index. One that is whole in the log and not in the index was
//! seen by nobody: its process was killed, or it failed, and the next commit is written over it. Where nobody has the database
//! open the index says nothing, since whoever opens it first makes it anew from the log.

use std::path::Path;

use crate::{
    disk::Disk,
    error::{Error, Result},
    layout,
    wal::{self, INDEX_HEADER_LEN, SeenFrames},
};

/// The byte of the file that everybody locks who has it open (`UNIX_SHM_DMS` of SQLite).
const OPEN_BYTE: u64 = 128;

/// What is looked at anew while the index is being written.
const ATTEMPTS: u32 = 100;

/// How far the connections to the database in the file `data` see its log, which has these salts. It is to be asked after
/// the log was read, or after what the log is to be laid over.
///
/// Must run [with isolated descriptors](crate::sys::isolated_fds): it opens and closes the file.
pub(crate) fn seen(data: &Path, salts: [u8; 8]) -> Result<SeenFrames> {
    let path = layout::beside(data, "-shm");
    let Some(file) = Disk::open_regular(&path)? else { return Ok(SeenFrames::Unknown) };
    let is_open =
        Disk::is_locked(&file, OPEN_BYTE, 1).map_err(|error| Error::io_at("looking at", &path, error))?;
    if !is_open {
        return Ok(SeenFrames::Unknown);
    }
    for _ in 0..ATTEMPTS {
        let mut head = [0; 2 * INDEX_HEADER_LEN];
        if Disk::read_up_to(&file, &path, &mut head, 0)? < head.len() {
            break;
        }
        if let Some(said) = wal::indexed(&head) {
            return Ok(wal::seen_frames(said, salts));
        }
        std::thread::yield_now();
    }
    // Whoever was writing it was killed: it is made anew from the log.
    Ok(SeenFrames::Unknown)
}
