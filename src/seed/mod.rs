//! The ways to begin a database. All of them end in one staged directory, whole and on the disk, which the plane
//! then moves to its place.

mod bounds;
mod check;
pub(crate) mod fork;
mod functions;
pub(crate) mod reseal;
pub(crate) mod restore;
pub(crate) mod upload;

use std::{
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use bounds::Bounds;

use crate::{
    api::RemoteEncryption,
    cipher::{Cipher, EncryptionKey, Nonces},
    disk::{DirLock, Disk},
    error::{Error, ErrorKind, Result},
    history::pristine,
    layout::{self, Layout},
    live_copy::LiveCopy,
    page::{self, Header, Identity, PageCodec, PageFormat, Seal},
    progress::{self, Phase, ProgressFn},
    sys::isolated_fds,
};

/// How often a staging directory is made anew that is swept away before it can be locked.
const BEGIN_TRIES: u32 = 1000;

/// A database that is being built: a directory in staging, locked for as long as this lives. The lock stays with
/// the directory when it is renamed.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
    _lock: DirLock,
}

impl Staged {
    /// Makes and locks the staging directory for the database `id`.
    ///
    /// A directory of that name is left over if nobody has its lock, and is swept away.
    pub(crate) fn begin(disk: &Disk, layout: &Layout, id: &str) -> Result<Self> {
        let dir = layout.staged(id);
        let mut made = false;
        for _ in 0..BEGIN_TRIES {
            if disk.make_dir(&dir)? {
                made = true;
                if let Some(lock) = Disk::lock_dir(&dir)? {
                    return Ok(Self { id: id.to_owned(), dir, _lock: lock });
                }
            } else if let Some(_nobodys) = Disk::lock_dir(&dir)? {
                disk.remove(&dir)?;
                continue;
            } else if !made && Disk::exists(&dir)? {
                break;
            }
            // The sweep of another process was faster, and takes the directory for a leftover: it is gone soon.
            thread::sleep(Duration::from_millis(1));
        }
        Err(Error::new(ErrorKind::Busy, "another call is building this database; try again later"))
    }

    /// The database file.
    pub(crate) fn data(&self) -> PathBuf {
        layout::data(&self.dir)
    }

    /// What the database file, which is whole, is told from others by; nothing for a plain one.
    pub(crate) fn identity(&self) -> Result<Option<Identity>> {
        identity(&self.data())
    }

    /// Notes that nobody has written to the database yet.
    pub(crate) fn mark_unwritten(&self, disk: &Disk) -> Result<()> {
        pristine::mark(disk, &self.data())
    }

    /// Flushes the directory and its place in staging; the files in it are on the disk already.
    pub(crate) fn sync(&self, disk: &Disk, layout: &Layout) -> Result<()> {
        disk.sync_dir(&self.dir)?;
        disk.sync_dir(&layout.staging())
    }
}

/// What a database file is told from others by; nothing for a plain one. No connection of this process may have it open.
fn identity(data: &Path) -> Result<Option<Identity>> {
    let mut head = [0; page::HEADER_LEN];
    let file = Disk::open(data)?
        .ok_or_else(|| Error::naming(ErrorKind::Io, data, |data| format!("{data} is gone")))?;
    Disk::read_at(&file, data, &mut head, 0)?;
    Ok(Header::parse(&head)?.seal.map(|seal| seal.identity()))
}

/// What a new database is to be sealed under.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) key: EncryptionKey,
    pub(crate) cipher: Cipher,
    /// Nothing leaves a copy in the format of its source.
    pub(crate) format: Option<PageFormat>,
}

impl Target {
    /// What a request asks for; a copy takes the cipher of its source where none is named.
    pub(crate) fn of(asked: Option<&RemoteEncryption>, source: Option<Cipher>) -> Result<Option<Self>> {
        let Some(asked) = asked else { return Ok(None) };
        let cipher = asked.cipher().or(source).ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                "remote encryption cipher must be provided when remote encryption key is set",
            )
        })?;
        asked.key().check_size(cipher)?;
        if let Some(format) = asked.page_format() {
            format.check(cipher)?;
        }
        Ok(Some(Self { key: asked.key().clone(), cipher, format: asked.page_format() }))
    }

    /// The seal of a new file.
    fn seal(&self) -> Result<Seal> {
        Seal::new(self.format.unwrap_or_default(), self.cipher, &self.key)
    }
}

/// Writes an empty database.
pub(crate) fn empty(disk: &Disk, data: &Path, target: Option<&Target>) -> Result<()> {
    let reserved = target.map_or(0, |target| target.cipher.reserved_bytes());
    let mut database = page::empty_database(reserved);
    if let Some(target) = target {
        let seal = target.seal()?;
        if seal.format == PageFormat::Turso {
            page::choose_utf8(&mut database);
        }
        let codec = PageCodec::new(seal, page::PAGE_SIZE.into(), &target.key)?;
        let plain = database;
        codec
            .seal_page(1, &plain, &mut database, &mut Nonces::new()?)
            .map_err(|fault| Error::new(ErrorKind::Io, format!("sealing an empty database: {fault:?}")))?;
    }
    let file = disk.create(data)?;
    disk.write_at(&file, data, &database, 0)?;
    disk.sync_file(&file, data)
}

/// How often the caller is asked whether a statement is to go on.
const STATEMENT_TICK: Duration = Duration::from_millis(100);

/// Runs `run` on a thread of its own, so that the caller's can be asked meanwhile whether to go on. If not, what runs under
/// `bounds` ends.
fn watched<T: Send>(
    phase: Phase,
    bounds: &Bounds,
    watch: &mut ProgressFn<'_>,
    run: impl FnOnce() -> T + Send,
) -> Result<T> {
    progress::tell(watch, phase, 0, None)?;
    let (done, is_done) = mpsc::channel::<()>();
    let (result, stopped) = thread::scope(|scope| {
        let mut stopped = None;
        let running = scope.spawn(move || {
            let result = run();
            drop(done);
            result
        });
        while is_done.recv_timeout(STATEMENT_TICK) == Err(RecvTimeoutError::Timeout) {
            if stopped.is_none() {
                stopped = progress::tell(watch, phase, 0, None).err();
            }
            if stopped.is_some() {
                bounds.stop();
            }
        }
        let result = running.join().unwrap_or_else(|panic| resume_unwind(panic));
        (result, stopped)
    });
    match stopped {
        Some(cancelled) => Err(cancelled),
        None => Ok(result),
    }
}

/// Makes a copy where descriptors of the source do no harm, and then does `then` there.
fn copy_and<T: Send>(
    copy: &LiveCopy<'_>,
    watch: &mut ProgressFn<'_>,
    then: impl FnOnce(u64, &mut ProgressFn<'_>) -> Result<T> + Send,
) -> Result<T> {
    let (teller, listener) = progress::line();
    let run = move || {
        let mut watch = |progress| teller.tell(progress);
        let size = copy.run(&mut watch)?;
        then(size, &mut watch)
    };
    isolated_fds::run_while(run, || listener.listen(watch))?
}
