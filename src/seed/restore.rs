//! A database as another one was at an instant.

use std::{path::Path, sync::Arc, thread, time::Duration};

use rusqlite::{
    Connection, OpenFlags,
    backup::{Backup, StepResult},
};

use super::{
    Target,
    fork::{self, Source, Way},
    reseal,
};
use crate::{
    cipher::EncryptionKey,
    connect,
    disk::Disk,
    error::{Error, ErrorKind, Result},
    history::{self, Birth, HistoricalImage, Origin, ResilientImage},
    layout, live_copy, os_cache,
    page::{Identity, Seal},
    point::{InstantPosition, ResolvedInstant},
    progress::{self, Phase, ProgressFn},
    size::SizeLimit,
    sqlite,
    time::Timestamp,
    units::GenerationNumber,
    vfs::{self, NoPolicy, Sealing},
};

/// How often a restore is begun anew whose source moves on meanwhile.
const ATTEMPTS: u32 = 10;

/// Pieces that are written out at once, in bytes.
const FLUSHED_MIN: usize = 256 << 10;

/// Which instant of a database is meant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instant {
    pub(crate) at: Timestamp,
    pub(crate) birth: Birth,
    pub(crate) now: Timestamp,
}

/// Writes the database as it was at an instant to `path`, on the disk: sealed as `target` says, or plain. Says what the
/// instant came to.
pub(crate) fn write(
    disk: &Disk,
    source: Source<'_>,
    instant: Instant,
    path: &Path,
    target: Option<&Target>,
    size_limit: Option<SizeLimit>,
    watch: &mut ProgressFn<'_>,
) -> Result<ResolvedInstant> {
    let way = Way::of(&source, target)?;
    let seal = vfs::main_seal(&source.connection);
    let staged = match way {
        Way::Copy => path.to_owned(),
        Way::PageByPage(..) | Way::Anew(_) => layout::beside(path, "-source"),
    };
    for _ in 0..ATTEMPTS {
        let Some((size, reached)) = materialize(disk, source.data, instant, &staged, size_limit, watch)?
        else {
            disk.remove(&staged)?;
            continue;
        };
        let Some(reached) = reached else {
            // Nobody has ever written to it: it is as it began.
            let data = source.data;
            fork::write(disk, source, path, target, size_limit, watch)?;
            check_began(disk, data, instant)?;
            return Ok(ResolvedInstant { kind: InstantPosition::BeforeFirst, commit: None, next: None });
        };
        fork::check(&staged, source.identity, source.data)?;
        match way {
            Way::Copy => {
                fork::sync(disk, path, size, watch)?;
            }
            Way::PageByPage(seal, key, target) => {
                fork::page_by_page(disk, (&staged, size), seal, key, path, &target, watch)?;
                reseal::finish(disk, path, Some(&target), size_limit, watch)?;
            }
            Way::Anew(target) => {
                lay_out_anew(disk, &staged, seal.zip(source.key), path, target.as_ref(), watch)?;
                disk.remove(&staged)?;
                reseal::finish(disk, path, target.as_ref(), size_limit, watch)?;
            }
        }
        return Ok(reached);
    }
    Err(too_fast(source.data))
}

/// Writes the database in the file `data` as it was at an instant to `path`, on the disk, with its pages as they are, and
/// without its key.
pub(crate) fn write_as_it_was(
    disk: &Disk,
    data: &Path,
    identity: Option<Identity>,
    instant: Instant,
    path: &Path,
    watch: &mut ProgressFn<'_>,
) -> Result<()> {
    for _ in 0..ATTEMPTS {
        match materialize(disk, data, instant, path, None, watch)? {
            Some((_, None)) => {
                fork::write_as_it_is(disk, data, identity, path, watch)?;
                return check_began(disk, data, instant);
            }
            Some((size, Some(_))) => {
                fork::check(path, identity, data)?;
                return fork::sync(disk, path, size, watch);
            }
            None => disk.remove(path)?,
        }
    }
    Err(too_fast(data))
}

/// Pages that are written between two looks at whether to go on.
const PAGES_A_TICK: i32 = 4096;

/// Makes a database what a view of it shows, in one transaction.
///
/// All pages are written, whether or not they differ: of what SQLite offers only the virtual table `sqlite_dbpage` writes
/// single pages, and usual builds leave that out. To add frames to the log behind SQLite's back, its wal-index would have to
/// be kept in step under its own locks, for a call that is rare.
///
/// The copy is SQLite's own: it ends with a schema cookie that is above the one before, so that every connection reads its
/// schema anew.
pub(crate) fn in_place(
    view: &Connection,
    connection: &mut Connection,
    waits: Duration,
    watch: &mut ProgressFn<'_>,
) -> Result<()> {
    /// How long to wait before the lock is asked for again.
    const PAUSE: Duration = Duration::from_millis(2);
    let failed = |error| sqlite::failed("restoring in place", error);
    let mut waited = Duration::ZERO;
    // The busy handler is not asked while a copy is made. It is waited for here, where the caller can stop it.
    let copied = {
        let copy = Backup::new(view, connection).map_err(failed)?;
        loop {
            // Asked before each step: the last one commits.
            let rusqlite::backup::Progress { remaining, pagecount, .. } = copy.progress();
            let done = u64::try_from(pagecount - remaining).unwrap_or(0);
            progress::tell(watch, Phase::Copy, done, u64::try_from(pagecount).ok())?;
            match copy.step(PAGES_A_TICK) {
                Ok(StepResult::Done) => break Ok(()),
                Ok(StepResult::More) => {}
                Ok(_) if waited < waits => {
                    thread::sleep(PAUSE);
                    waited += PAUSE;
                }
                Ok(_) => {
                    let message = "another connection is writing to the database; try again when it is not";
                    return Err(Error::new(ErrorKind::Busy, message));
                }
                Err(error) => break Err(error),
            }
        }
    };
    copied.map_err(|error| {
        // Whichever of the two the error is from says more of it.
        let is_views = sqlite::is_damage(&error);
        connect::explain(if is_views { view } else { connection }, error)
    })
}

/// The pages of the database in the file `data` at an instant. They do not change.
pub(crate) fn view(disk: &Disk, data: &Path, instant: Instant) -> Result<ResilientImage> {
    let origin = Origin::local(Some(disk), data, instant.birth);
    for _ in 0..ATTEMPTS {
        let found = origin.ask(|timeline| history::resilient_image_at(timeline, instant.at, instant.now))?;
        let Some(mut image) = found else {
            let image = ResilientImage::pristine(data)?;
            if origin.read()?.is_empty() {
                return Ok(image);
            }
            continue;
        };
        if image.hold_live_pages()? {
            return Ok(image);
        }
    }
    Err(too_fast(data))
}

/// Makes sure that a database was still as it began when it was copied.
fn check_began(disk: &Disk, data: &Path, instant: Instant) -> Result<()> {
    match find(disk, data, instant, None)? {
        None => Ok(()),
        Some(_) => Err(too_fast(data)),
    }
}

#[cold]
fn too_fast(data: &Path) -> Error {
    Error::naming(ErrorKind::Busy, data, |data| {
        format!("{data} is being written too fast to be restored; try again")
    })
}

/// Writes the pages as they were, which are not flushed: their size, and what the instant came to. The inner nothing
/// means that the database has no history and is as it began; the outer one that it moved on meanwhile.
fn materialize(
    disk: &Disk,
    data: &Path,
    instant: Instant,
    path: &Path,
    size_limit: Option<SizeLimit>,
    watch: &mut ProgressFn<'_>,
) -> Result<Option<(u64, Option<ResolvedInstant>)>> {
    let mut below = None;
    let mut damage = None;
    loop {
        let past = match find(disk, data, instant, below) {
            Ok(Some(past)) => past,
            Ok(None) => return Ok(Some((0, None))),
            Err(error) => return Err(damage.unwrap_or(error)),
        };
        if let Some(limit) = size_limit.filter(|limit| !limit.admits(past.len())) {
            return Err(live_copy::too_large(past.len(), limit));
        }
        let file = disk.create(path)?;
        let write = |bytes: &[u8], at| {
            disk.write_at(&file, path, bytes, at)?;
            // Smaller pieces come in no order: they are written out together, in the end.
            if bytes.len() >= FLUSHED_MIN {
                os_cache::begin_flush(&file, at, bytes.len());
            }
            Ok(())
        };
        match history::write_pages(&past, watch, write) {
            // A log that is begun anew may be cut off first.
            _ if !past.is_current()? => return Ok(None),
            Ok(()) => return Ok(Some((past.len(), Some(past.resolved)))),
            // A page is damaged: an older snapshot may still lead there.
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                damage.get_or_insert(error);
                below = past.first();
                disk.remove(path)?;
            }
            Err(error) => return Err(error),
        }
    }
}

fn find(
    disk: &Disk,
    data: &Path,
    instant: Instant,
    below: Option<GenerationNumber>,
) -> Result<Option<HistoricalImage>> {
    let origin = Origin::local(Some(disk), data, instant.birth);
    origin.ask(|timeline| history::image_at(timeline, instant.at, instant.now, below))
}

/// Has SQLite lay the rows of a staged file out anew.
fn lay_out_anew(
    disk: &Disk,
    staged: &Path,
    sealed: Option<(Seal, &EncryptionKey)>,
    path: &Path,
    target: Option<&Target>,
    watch: &mut ProgressFn<'_>,
) -> Result<()> {
    let sealing = sealed.map(|(seal, key)| Sealing::new(key.clone(), seal.cipher));
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = vfs::open(staged, flags, Arc::new(NoPolicy::reading(sealing)))
        .map_err(|not_opened| connect::explain_open(staged, not_opened))?;
    let len = Disk::len(staged)?.unwrap_or(0);
    reseal::vacuum_into(disk, connection, len, path, target, watch)
}
