//! The files of ended generations: numbered, immutable, and replaced or deleted only as whole files.
//!
//! The code in this module's parent reads, writes and deletes the numbered files of a history only through [`Ended`]. Capture and
//! recovery also access them by their paths in the local archive. The stamps of the current generation and the WAL are not
//! numbered files: they are local and are modified in place. When a generation ends, capture renames its WAL and its stamps into
//! the local archive.
//!
//! A store does not read the contents of its files. The [archive](super::archive) finds the files of a generation in packs.

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
    units::{GenerationNumber, GenerationSpan, Nanos},
};

/// The name of a file in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EndedName {
    /// A file of one generation.
    File(GenerationNumber, ArchiveFile),
    /// A [pack](crate::pack) of the generations of a span.
    Pack(GenerationSpan),
}

/// A store of the files of ended generations.
pub(crate) trait Ended: fmt::Debug + Send + Sync {
    /// The files that exist.
    fn list(&self) -> Result<BTreeSet<EndedName>>;

    /// The length of a file, or `None` if it does not exist.
    fn len(&self, name: EndedName) -> Result<Option<u64>>;

    /// Opens a file for reading. Returns `None` if it does not exist.
    ///
    /// The contents of the opened file do not change, even if the file is replaced or deleted.
    fn open(&self, name: EndedName) -> Result<Option<Box<dyn EndedFile>>>;

    /// Atomically replaces the contents of a file with those of the local file `staged`, and removes `staged`.
    ///
    /// The caller has flushed `staged` if the contents must survive a power loss, and calls [`flush`](Self::flush) next.
    fn put_whole(&self, name: EndedName, staged: &Path) -> Result<()>;

    /// Deletes a file. Succeeds if the file does not exist.
    fn delete(&self, name: EndedName) -> Result<()>;

    /// Makes all completed calls of [`put_whole`](Self::put_whole) and [`delete`](Self::delete) durable.
    fn flush(&self) -> Result<()>;

    /// Makes durable the files that capture has added since an instant. The default is for stores to which capture adds no files.
    fn flush_added_since(&self, since: Nanos) -> Result<()> {
        let _ = since;
        Ok(())
    }

    /// The name of a file in errors and findings.
    fn path(&self, name: EndedName) -> PathBuf;
}

/// A file of an ended generation that is open for reading.
pub(crate) trait EndedFile: fmt::Debug + Send + Sync {
    /// The name of the file in errors and findings.
    fn path(&self) -> &Path;

    fn len(&self) -> Result<u64>;

    /// Fills `into` from an offset up to the end of the file, and returns the number of bytes read.
    fn read_at(&self, into: &mut [u8], offset: u64) -> Result<usize>;

    /// Fills `into` from an offset if that does not block on a device or a network. Returns whether it filled `into`.
    fn read_cached(&self, into: &mut [u8], offset: u64) -> bool {
        let _ = (into, offset);
        false
    }

    /// Starts to read a range, so that a later [`read_at`](Self::read_at) waits less.
    fn prefetch(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }
}

/// Reads a file to its end.
pub(super) fn read_whole(file: &dyn EndedFile) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
    let count = file.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// Opens a local file that is not in a store yet. Returns `None` if it does not exist.
pub(super) fn open_staged(path: &Path) -> Result<Option<Box<dyn EndedFile>>> {
    let Some(file) = Disk::open_regular(path)? else { return Ok(None) };
    Ok(Some(Box::new(LocalFile { file, path: path.to_owned() })))
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
        let parse = |name: &String| match ArchivePaths::parse(name) {
            Some((number, file)) => Some(EndedName::File(number, file)),
            None => ArchivePaths::parse_pack(name).map(EndedName::Pack),
        };
        Ok(names.iter().filter_map(parse).collect())
    }

    fn len(&self, name: EndedName) -> Result<Option<u64>> {
        Disk::len(&self.path(name))
    }

    fn open(&self, name: EndedName) -> Result<Option<Box<dyn EndedFile>>> {
        open_staged(&self.path(name))
    }

    fn put_whole(&self, name: EndedName, staged: &Path) -> Result<()> {
        self.disk.rename(staged, &self.path(name))
    }

    fn delete(&self, name: EndedName) -> Result<()> {
        self.disk.remove(&self.path(name))
    }

    fn flush(&self) -> Result<()> {
        self.disk.sync_dir(self.paths.dir())
    }

    fn flush_added_since(&self, since: Nanos) -> Result<()> {
        let mut flushed = false;
        for name in self.list()? {
            let path = self.path(name);
            if Disk::last_change(&path)?.is_some_and(|(_, changed_at)| Nanos::new(changed_at) >= since)
                && let Some(file) = Disk::open(&path)?
            {
                self.disk.sync_file(&file, &path)?;
                flushed = true;
            }
        }
        if flushed { self.flush() } else { Ok(()) }
    }

    fn path(&self, name: EndedName) -> PathBuf {
        match name {
            EndedName::File(number, file) => self.paths.file(number, file),
            EndedName::Pack(span) => self.paths.pack(span),
        }
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
        os_cache::read(&self.file, &self.path, into, offset)
    }

    fn prefetch(&self, offset: u64, len: u64) {
        os_cache::fetch(&self.file, offset, len);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::{Arc, Mutex},
    };

    use super::*;
    use crate::{
        ConnectOptions, ControlPlane, CreateDatabaseInput,
        error::ErrorKind,
        history::{Birth, Maintenance, Origin, archive::Archive, image_at, points, read_stamps, write_pages},
        history_limit::HistoryLimit,
        progress::no_progress,
        retention::{Retention, RetentionPolicy},
        time::Timestamp,
    };

    type Files = BTreeMap<EndedName, Arc<Vec<u8>>>;

    const GENERATIONS: usize = 8;

    /// A store in memory.
    #[derive(Debug, Default)]
    struct Memory(Mutex<Files>);

    #[derive(Debug)]
    struct MemoryFile {
        path: PathBuf,
        bytes: Arc<Vec<u8>>,
    }

    impl Memory {
        fn get(&self, name: EndedName) -> Option<Arc<Vec<u8>>> {
            self.0.lock().unwrap().get(&name).cloned()
        }
    }

    impl Ended for Memory {
        fn list(&self) -> Result<BTreeSet<EndedName>> {
            Ok(self.0.lock().unwrap().keys().copied().collect())
        }

        fn len(&self, name: EndedName) -> Result<Option<u64>> {
            Ok(self.get(name).map(|bytes| bytes.len() as u64))
        }

        fn open(&self, name: EndedName) -> Result<Option<Box<dyn EndedFile>>> {
            let path = self.path(name);
            Ok(self.get(name).map(|bytes| Box::new(MemoryFile { path, bytes }) as Box<dyn EndedFile>))
        }

        fn put_whole(&self, name: EndedName, staged: &Path) -> Result<()> {
            let bytes = Disk::read(staged)?.unwrap();
            self.0.lock().unwrap().insert(name, Arc::new(bytes));
            Disk::default().remove(staged)
        }

        fn delete(&self, name: EndedName) -> Result<()> {
            self.0.lock().unwrap().remove(&name);
            Ok(())
        }

        fn flush(&self) -> Result<()> {
            Ok(())
        }

        fn path(&self, name: EndedName) -> PathBuf {
            PathBuf::from(format!("memory/{name:?}"))
        }
    }

    impl EndedFile for MemoryFile {
        fn path(&self) -> &Path {
            &self.path
        }

        fn len(&self) -> Result<u64> {
            Ok(self.bytes.len() as u64)
        }

        fn read_at(&self, into: &mut [u8], offset: u64) -> Result<usize> {
            let rest = usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset..));
            let rest = rest.unwrap_or_default();
            let count = rest.len().min(into.len());
            into[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        }
    }

    /// A database with a history of several generations.
    struct Subject {
        _dir: tempfile::TempDir,
        data: PathBuf,
        birth: Birth,
    }

    impl Subject {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let plane = ControlPlane::open(dir.path()).unwrap();
            plane.create_group("default").unwrap();
            plane.create_database(CreateDatabaseInput::new("orders", "default")).unwrap();
            for _ in 0..GENERATIONS {
                // The last connection that closes ends the generation.
                let connection = plane.connect("orders", ConnectOptions::default()).unwrap();
                let sql = "BEGIN; CREATE TABLE IF NOT EXISTS t(a); DELETE FROM t; INSERT INTO t VALUES (randomblob(300000)); COMMIT";
                connection.execute_batch(sql).unwrap();
            }
            let data = dir.path().join("default/orders/data.db");
            let live = read_stamps(&ArchivePaths::of(&data).live_stamps()).unwrap().unwrap();
            let birth = Birth {
                database: live.generation.database,
                at: Timestamp::from_micros(0).unwrap(),
                is_kept_since: true,
            };
            Self { _dir: dir, data, birth }
        }

        fn local(&self) -> Origin {
            Origin::local(Some(&Disk::default()), &self.data, self.birth)
        }

        /// Moves all numbered files from the archive directory to a store in memory.
        fn move_to_memory(&self) -> Arc<Memory> {
            let memory = Memory::default();
            let paths = ArchivePaths::of(&self.data);
            for name in self.local().ended.store().list().unwrap() {
                memory
                    .put_whole(name, &LocalArchive::new(Disk::default(), paths.clone()).path(name))
                    .unwrap();
            }
            Arc::new(memory)
        }
    }

    fn archive(memory: &Arc<Memory>) -> Archive {
        Archive::new(Arc::<Memory>::clone(memory))
    }

    fn restored(origin: &Origin, at: Timestamp) -> Result<Vec<u8>> {
        let image = origin.ask(|timeline| image_at(timeline, at, Timestamp::now(), None))?.unwrap();
        let mut bytes = vec![0; usize::try_from(image.len()).unwrap()];
        write_pages(&image, &mut no_progress, |page, at| {
            let at = usize::try_from(at).unwrap();
            bytes[at..at + page.len()].copy_from_slice(page);
            Ok(())
        })?;
        Ok(bytes)
    }

    fn instants(origin: &Origin) -> Vec<Timestamp> {
        let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
        let points = origin.ask(|timeline| points(timeline, all)).unwrap();
        points.points.into_iter().map(|point| point.at).collect()
    }

    #[test]
    fn history_restores_from_a_store_in_memory() {
        let subject = Subject::new();
        let local = subject.local();
        let instants = instants(&local);
        assert_eq!(instants.len(), GENERATIONS);
        let expected: Vec<_> = instants.iter().map(|at| restored(&local, *at).unwrap()).collect();

        let memory = subject.move_to_memory();
        assert_eq!(restored(&local, instants[0]).unwrap_err().kind(), ErrorKind::Corrupt);
        let remote = Origin { ended: archive(&memory), ..local };
        assert_eq!(self::instants(&remote), instants);
        for (at, expected) in instants.iter().zip(&expected) {
            assert!(restored(&remote, *at).unwrap() == *expected, "{at}");
        }

        // Readers derive missing indexes and store them.
        let first = GenerationNumber::FIRST;
        memory.delete(EndedName::File(first, ArchiveFile::Index)).unwrap();
        assert!(restored(&remote, instants[0]).unwrap() == expected[0]);
        assert!(remote.ended.exists(first, ArchiveFile::Index).unwrap());
        assert_eq!(
            LocalArchive::new(Disk::default(), ArchivePaths::of(&subject.data)).list().unwrap(),
            BTreeSet::new()
        );
    }

    #[test]
    fn maintenance_writes_and_deletes_in_a_store_in_memory() {
        let subject = Subject::new();
        let memory = subject.move_to_memory();
        let remote = Origin { ended: archive(&memory), ..subject.local() };
        let instants = instants(&remote);
        let newest = restored(&remote, *instants.last().unwrap()).unwrap();
        let maintenance = Maintenance {
            disk: &Disk::default(),
            data: &subject.data,
            birth: subject.birth,
            is_plain: true,
            now: Timestamp::now(),
        };
        let policy = || {
            let window = Retention::from_seconds(1_000_000)?;
            Ok(RetentionPolicy { window, limit: HistoryLimit::NONE })
        };
        let report = maintenance.run_on(remote.clone(), &policy, &mut no_progress).unwrap();
        assert_eq!(report.snapshots, 1);
        let mut snapshots =
            remote.ended.list().unwrap().into_iter().filter(|(_, file)| *file == ArchiveFile::Snapshot);
        let snapshot = snapshots.next_back().unwrap().0;
        assert!(snapshot > GenerationNumber::FIRST);
        // The newest instant is restored from the new snapshot, without the logs before it.
        for number in (1..snapshot.get()).map(GenerationNumber::new) {
            memory.delete(EndedName::File(number, ArchiveFile::Segment)).unwrap();
        }
        assert!(restored(&remote, *instants.last().unwrap()).unwrap() == newest);
    }
}
