//! The initial contents of a database: empty, a fork, a restore or an import. Each writes a staged directory and flushes it. The
//! control plane then moves the directory to its final path.

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
    disk::{DirLock, Disk, open_databases_while},
    error::{Error, ErrorKind, Result},
    history::pristine,
    layout::{self, Layout},
    live_copy::LiveCopy,
    page::{self, Header, Identity, PageCodec, PageFormat, Seal},
    progress::{self, Phase, ProgressFn},
    size::SizeLimit,
};

/// The maximum number of attempts to make a staging directory that a sweep removes before it is locked.
const BEGIN_TRIES: u32 = 1000;

/// A database that is being built: a directory in staging, which is locked until this is dropped. A rename of the directory keeps
/// the lock.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
    _lock: DirLock,
}

impl Staged {
    /// Makes and locks the staging directory of the database `id`. Removes a directory of that name if its lock is free.
    pub(crate) fn begin(disk: &Disk, layout: &Layout, id: &str) -> Result<Self> {
        let dir = layout.staged(id);
        let mut made = false;
        for _ in 0..BEGIN_TRIES {
            if disk.make_dir(&dir)? {
                made = true;
                if let Some(lock) = Disk::lock_dir(&dir)? {
                    return Ok(Self { id: id.to_owned(), dir, _lock: lock });
                }
            } else if let Some(_abandoned) = Disk::lock_dir(&dir)? {
                disk.remove(&dir)?;
                continue;
            } else if !made && Disk::exists(&dir)? {
                break;
            }
            // The sweep of another process has locked the directory, and removes it.
            thread::sleep(Duration::from_millis(1));
        }
        Err(Error::new(ErrorKind::Busy, "another call is building this database; retry later"))
    }

    /// The database file.
    pub(crate) fn data(&self) -> PathBuf {
        layout::data(&self.dir)
    }

    /// The identity of the complete database file. `None` for a plain one.
    pub(crate) fn identity(&self) -> Result<Option<Identity>> {
        identity(&self.data())
    }

    /// Marks the database as pristine: no commit has been made.
    pub(crate) fn mark_unwritten(&self, disk: &Disk) -> Result<()> {
        pristine::mark(disk, &self.data())
    }

    /// Flushes the directory and its entry in staging. The files in it are flushed already.
    pub(crate) fn sync(&self, disk: &Disk, layout: &Layout) -> Result<()> {
        disk.sync_dir(&self.dir)?;
        disk.sync_dir(&layout.staging())
    }
}

/// The identity of a database file. `None` for a plain one. No connection of this process may have the file open.
fn identity(data: &Path) -> Result<Option<Identity>> {
    let mut head = [0; page::HEADER_LEN];
    let file = Disk::open(data)?
        .ok_or_else(|| Error::naming(ErrorKind::Io, data, |data| format!("{data} does not exist")))?;
    Disk::read_at(&file, data, &mut head, 0)?;
    Ok(Header::parse(&head)?.seal.map(|seal| seal.identity()))
}

/// The encryption of a new database.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) key: EncryptionKey,
    pub(crate) cipher: Cipher,
    /// `None` keeps the format of the source.
    pub(crate) format: Option<PageFormat>,
}

impl Target {
    /// The encryption that a request asks for. A copy has the cipher of its source by default.
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

    /// Makes the seal of a new file.
    fn seal(&self) -> Result<Seal> {
        Seal::new(self.format.unwrap_or_default(), self.cipher, &self.key)
    }
}

/// A file to write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output<'a> {
    pub(crate) disk: &'a Disk,
    pub(crate) path: &'a Path,
    /// `None` writes a plain file.
    pub(crate) target: Option<&'a Target>,
    pub(crate) size_limit: Option<SizeLimit>,
}

impl<'a> Output<'a> {
    fn at<'b>(self, path: &'b Path) -> Output<'b>
    where
        'a: 'b,
    {
        Output { path, ..self }
    }

    fn sealed<'b>(self, target: Option<&'b Target>) -> Output<'b>
    where
        'a: 'b,
    {
        Output { target, ..self }
    }
}

/// Writes an empty database, and flushes it.
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

/// The interval between two calls of the progress callback while a statement runs.
const STATEMENT_TICK: Duration = Duration::from_millis(100);

/// Runs `run` on another thread, and calls the progress callback on this one until it ends. If the callback cancels, the
/// statements under `bounds` are interrupted.
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

/// Makes a copy, and then calls `then` with its size in bytes.
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
    open_databases_while(run, || listener.listen(watch))?
}
