//! Restores: copies of a database as of an instant.

use std::{path::Path, sync::Arc, thread, time::Duration};

use rusqlite::{
    Connection, OpenFlags,
    backup::{Backup, StepResult},
};

use super::{
    Output,
    fork::{self, Conversion, SealedFile, Source, Stored},
    reseal,
};
use crate::{
    cipher::EncryptionKey,
    connect,
    disk::Disk,
    error::{Error, ErrorKind, Result},
    history::{self, Birth, HistoricalImage, Origin, ResilientImage},
    layout, live_copy, os_cache,
    page::Seal,
    point::{InstantPosition, ResolvedInstant},
    progress::{self, Phase, ProgressFn},
    sqlite,
    time::Timestamp,
    units::GenerationNumber,
    vfs::{self, NoPolicy, Sealing},
};

/// The maximum number of attempts to restore from a source that keeps changing.
const ATTEMPTS: u32 = 10;

/// The minimum size in bytes of a piece whose write-back begins at once.
const WRITE_BACK_MIN: usize = 256 << 10;

/// An instant of a database.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instant {
    pub(crate) at: Timestamp,
    pub(crate) birth: Birth,
    pub(crate) now: Timestamp,
}

/// The result of an attempt to write the pages at an instant.
enum Materialized {
    /// The pages are written and not flushed.
    Done {
        /// The size in bytes.
        size: u64,
        resolved: ResolvedInstant,
    },
    /// The database has no history and is pristine. No file is written.
    Pristine,
    /// The WAL of the source changed during the attempt.
    Changed,
}

/// Writes the source as of an instant to the output, and flushes it. Returns the position of the instant.
pub(crate) fn write(
    source: Source<'_>,
    instant: Instant,
    output: Output<'_>,
    watch: &mut ProgressFn<'_>,
) -> Result<ResolvedInstant> {
    let disk = output.disk;
    let conversion = Conversion::of(&source, output.target)?;
    let seal = vfs::main_seal(&source.connection);
    let staged = match conversion {
        Conversion::Copy => output.path.to_owned(),
        Conversion::Reseal(..) | Conversion::Rebuild(_) => layout::beside(output.path, "-source"),
    };
    for _ in 0..ATTEMPTS {
        let (size, resolved) = match materialize(source.data, instant, output.at(&staged), watch)? {
            Materialized::Changed => {
                disk.remove(&staged)?;
                continue;
            }
            Materialized::Pristine => {
                let data = source.data;
                fork::write(source, output, watch)?;
                check_pristine(disk, data, instant)?;
                return Ok(ResolvedInstant { kind: InstantPosition::BeforeFirst, commit: None, next: None });
            }
            Materialized::Done { size, resolved } => (size, resolved),
        };
        fork::check_identity(&staged, source.identity, source.data)?;
        match conversion {
            Conversion::Copy => {
                fork::sync(output, size, watch)?;
            }
            Conversion::Reseal(seal, key, target) => {
                let file = SealedFile { path: &staged, size, seal, key };
                fork::reseal_file(file, &target, output, watch)?;
                reseal::finish(output.sealed(Some(&target)), watch)?;
            }
            Conversion::Rebuild(target) => {
                let output = output.sealed(target.as_ref());
                rebuild(&staged, seal.zip(source.key), output, watch)?;
                disk.remove(&staged)?;
                reseal::finish(output, watch)?;
            }
        }
        return Ok(resolved);
    }
    Err(keeps_changing(source.data))
}

/// Writes the stored pages of a database as of an instant to the output, and flushes it.
pub(crate) fn write_stored(
    stored: Stored<'_>,
    instant: Instant,
    output: Output<'_>,
    watch: &mut ProgressFn<'_>,
) -> Result<()> {
    let Stored { data, identity } = stored;
    for _ in 0..ATTEMPTS {
        match materialize(data, instant, output, watch)? {
            Materialized::Pristine => {
                fork::write_stored(stored, output, watch)?;
                return check_pristine(output.disk, data, instant);
            }
            Materialized::Done { size, .. } => {
                fork::check_identity(output.path, identity, data)?;
                return fork::sync(output, size, watch);
            }
            Materialized::Changed => output.disk.remove(output.path)?,
        }
    }
    Err(keeps_changing(data))
}

/// The number of pages that are written between two calls of the progress callback.
const PAGES_A_TICK: i32 = 4096;

/// Replaces the contents of a database with those of a view of it, in one transaction.
///
/// Writes all pages, including those that do not differ. SQLite writes single pages only through the virtual table
/// `sqlite_dbpage`, which usual builds omit. Appending frames without SQLite would mean to maintain its wal-index under its locks,
/// which a rare call does not justify.
///
/// SQLite's backup API makes the copy. It increments the schema cookie, so that every connection reloads the schema.
pub(crate) fn in_place(
    view: &Connection,
    connection: &mut Connection,
    waits: Duration,
    watch: &mut ProgressFn<'_>,
) -> Result<()> {
    /// The pause between two attempts to take the lock.
    const PAUSE: Duration = Duration::from_millis(2);
    let failed = |error| sqlite::failed("restoring in place", error);
    let mut waited = Duration::ZERO;
    // A backup does not call the busy handler. Waiting here lets the caller cancel.
    let copied = {
        let copy = Backup::new(view, connection).map_err(failed)?;
        loop {
            // Before each step, because the last one commits.
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
                    let message = "another connection is writing to the database; retry when it is not";
                    return Err(Error::new(ErrorKind::Busy, message));
                }
                Err(error) => break Err(error),
            }
        }
    };
    copied.map_err(|error| {
        // The connection that the error is of explains it.
        let is_views = sqlite::is_damage(&error);
        Error::from_sqlite(if is_views { view } else { connection }, error)
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
    Err(keeps_changing(data))
}

/// Fails with [`ErrorKind::Busy`] if a history of the database began after it was copied.
fn check_pristine(disk: &Disk, data: &Path, instant: Instant) -> Result<()> {
    match find(disk, data, instant, None)? {
        None => Ok(()),
        Some(_) => Err(keeps_changing(data)),
    }
}

#[cold]
fn keeps_changing(data: &Path) -> Error {
    Error::naming(ErrorKind::Busy, data, |data| format!("{data} keeps changing; retry"))
}

/// Writes the pages of the database in the file `data` at an instant to the output.
fn materialize(
    data: &Path,
    instant: Instant,
    output: Output<'_>,
    watch: &mut ProgressFn<'_>,
) -> Result<Materialized> {
    let Output { disk, path, size_limit, .. } = output;
    let mut below = None;
    let mut damage = None;
    loop {
        let image = match find(disk, data, instant, below) {
            Ok(Some(image)) => image,
            Ok(None) => return Ok(Materialized::Pristine),
            Err(error) => return Err(damage.unwrap_or(error)),
        };
        if let Some(limit) = size_limit.filter(|limit| !limit.admits(image.len())) {
            return Err(live_copy::too_large(image.len(), limit));
        }
        let file = disk.create(path)?;
        let write = |bytes: &[u8], at| {
            disk.write_at(&file, path, bytes, at)?;
            // Smaller pieces are not in order. The final flush writes them together.
            if bytes.len() >= WRITE_BACK_MIN {
                os_cache::begin_flush(&file, at, bytes.len());
            }
            Ok(())
        };
        match history::write_pages(&image, watch, write) {
            // A WAL that restarts may be truncated first, which looks like damage.
            _ if !image.is_current()? => return Ok(Materialized::Changed),
            Ok(()) => return Ok(Materialized::Done { size: image.len(), resolved: image.resolved }),
            // A page is damaged. An older snapshot may lead to the same pages.
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                damage.get_or_insert(error);
                below = image.first();
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

/// Rebuilds a staged file with `VACUUM INTO`.
fn rebuild(
    staged: &Path,
    sealed: Option<(Seal, &EncryptionKey)>,
    output: Output<'_>,
    watch: &mut ProgressFn<'_>,
) -> Result<()> {
    let sealing = sealed.map(|(seal, key)| Sealing::new(key.clone(), seal.cipher));
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = vfs::open(staged, flags, Arc::new(NoPolicy::reading(sealing)))
        .map_err(|not_opened| connect::explain_open(staged, not_opened))?;
    let len = Disk::len(staged)?.unwrap_or(0);
    reseal::vacuum_into(connection, len, output, watch)
}
