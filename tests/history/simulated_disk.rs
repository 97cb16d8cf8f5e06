//! A simulated disk with a volatile cache: it tracks what was flushed, and produces the files that a power failure
//! could leave.
//!
//! The plane reports its disk operations through the fault hook, and SQLite's calls pass through a VFS below
//! litefleet's. Stamps are written to shared memory without any call, so current contents are read from the files
//! when an image is taken, and only flushed contents are kept here.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread::{self, ThreadId},
    time::SystemTime,
};

use litefleet::testing::DiskOp;

use crate::{
    fault_vfs::{Call, Opened, Verdict, Watcher},
    random::Random,
};

/// The unit that a disk writes atomically.
const SECTOR: usize = 512;

/// Length of the header of a stamp file, and of one record.
const HEADER_LEN: usize = 128;
const RECORD_LEN: usize = 32;

pub(crate) struct SimulatedDisk {
    dir: PathBuf,
    /// The thread whose operations are tracked. File descriptors of other threads may be isolated.
    thread: ThreadId,
    state: Mutex<State>,
}

struct State {
    random: Random,
    /// Files by inode number. They stay open, so that no inode number is reused and no descriptor of the database
    /// file is closed, which would release SQLite's locks.
    inodes: HashMap<u64, Inode>,
    /// The inode of each name: currently, and in every possible image.
    names: Names,
    flushed_names: Names,
    /// Unflushed changes of names. A file system preserves their order.
    unflushed_names: Vec<NameChange>,
    /// Whether names may have changed since the last scan.
    may_have_changed: bool,
    /// Whether the next flush of the WAL also flushes its directory, as SQLite does after creating it.
    log_is_new: bool,
    events: u64,
    /// Events until the next image, and the average number of events between two.
    until_image: u64,
    every: u64,
    images: Vec<CrashImage>,
    acknowledged: usize,
    flushed: usize,
    is_durable: bool,
    kept: BTreeSet<u64>,
}

type Names = BTreeMap<String, u64>;

/// One atomic change of names: the inode of each name after it, or `None` for a removed name.
type NameChange = Vec<(String, Option<u64>)>;

struct Inode {
    /// `None` for a directory.
    file: Option<File>,
    flushed: Vec<u8>,
    flushed_at: SystemTime,
}

/// The files that a power failure leaves.
pub(crate) struct CrashImage {
    files: BTreeMap<String, Vec<u8>>,
    has_archive: bool,
    /// Modification time of the database file.
    changed_at: Option<SystemTime>,
    /// The last commit that is certain to be flushed, and the last that has returned.
    pub(crate) flushed_commit: usize,
    pub(crate) acknowledged: usize,
    /// Generations that were in the archive when everything was flushed last.
    pub(crate) kept: BTreeSet<u64>,
    /// Whether nothing was lost, as when only the process dies.
    pub(crate) is_whole: bool,
    pub(crate) how: String,
}

#[derive(Clone, Copy, Debug)]
enum Loss {
    Nothing,
    Everything,
    /// Each file is in its flushed or its current state, or a mixture split at a random offset.
    Files,
    /// Each sector is lost with this probability in percent.
    Sectors(u64),
}

impl CrashImage {
    /// Replaces the contents of a directory with the files of the image.
    pub(crate) fn write_to(&self, dir: &Path) {
        fs::remove_dir_all(dir).unwrap();
        fs::create_dir_all(dir).unwrap();
        if self.has_archive {
            fs::create_dir(dir.join("archive")).unwrap();
        }
        for (name, bytes) in &self.files {
            fs::write(dir.join(name), bytes).unwrap();
        }
        if let Some(at) = self.changed_at {
            File::options().write(true).open(dir.join("data.db")).unwrap().set_modified(at).unwrap();
        }
    }
}

impl SimulatedDisk {
    /// Starts with everything in the directory flushed. The database must not be open.
    pub(crate) fn new(dir: &Path, is_durable: bool, every: u64, seed: u64) -> Self {
        let mut state = State {
            random: Random::new(seed),
            inodes: HashMap::new(),
            names: Names::new(),
            flushed_names: Names::new(),
            unflushed_names: Vec::new(),
            may_have_changed: false,
            log_is_new: false,
            events: 0,
            until_image: 20,
            every,
            images: Vec::new(),
            acknowledged: 0,
            flushed: 0,
            is_durable,
            kept: BTreeSet::new(),
        };
        state.scan(dir);
        state.flushed_names = state.names.clone();
        state.unflushed_names.clear();
        state.inodes.values_mut().for_each(Inode::flush);
        Self { dir: dir.to_owned(), thread: thread::current().id(), state: Mutex::new(state) }
    }

    fn with<T>(&self, call: impl FnOnce(&mut State) -> T) -> T {
        call(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records that this many commits have returned.
    pub(crate) fn acknowledge(&self, commits: usize) {
        self.with(|state| state.acknowledged = commits);
    }

    /// Flushes everything, as the operating system may; the archive then contains the generations `kept`.
    pub(crate) fn flush_all(&self, kept: BTreeSet<u64>) {
        self.with(|state| {
            state.scan(&self.dir);
            state.inodes.values_mut().for_each(Inode::flush);
            state.flushed_names = state.names.clone();
            state.unflushed_names.clear();
            (state.flushed, state.log_is_new, state.kept) = (state.acknowledged, false, kept);
        });
    }

    /// Takes a last image, and returns all.
    pub(crate) fn finish(&self) -> Vec<CrashImage> {
        self.with(|state| {
            state.scan(&self.dir);
            state.take_image();
            std::mem::take(&mut state.images)
        })
    }

    /// Called before each disk operation of the plane.
    pub(crate) fn step(&self, step: DiskOp, path: &Path) {
        let Ok(name) = path.strip_prefix(&self.dir) else { return };
        let name = name.to_string_lossy();
        self.with(|state| {
            if thread::current().id() != self.thread {
                state.may_have_changed = true;
                return;
            }
            // Weighted, because SQLite makes many more calls.
            state.count_event(&self.dir, 10);
            match step {
                DiskOp::SyncFile if path.is_dir() => state.flush_dir(&name),
                DiskOp::SyncFile => state.flush(&name),
                DiskOp::SyncDir => state.flush_dir(&name),
                DiskOp::Write => {}
                _ => state.may_have_changed = true,
            }
        });
    }
}

impl Watcher for SimulatedDisk {
    fn covers(&self, file: &Opened) -> bool {
        file.path.as_ref().is_some_and(|path| path.parent() == Some(&self.dir))
    }

    fn see(&self, file: &Opened, call: Call<'_>) -> Verdict {
        let name = file.path.as_ref().and_then(|path| path.file_name()).unwrap_or_default().to_string_lossy();
        if !call.is_change() || thread::current().id() != self.thread {
            return Verdict::Pass;
        }
        let is_log = name.ends_with("-wal");
        self.with(|state| {
            // Watchers are called after the file is created.
            state.may_have_changed |= matches!(call, Call::Create);
            state.count_event(&self.dir, 1);
            match call {
                Call::Create => state.log_is_new |= is_log,
                Call::Delete { .. } => state.may_have_changed = true,
                Call::Sync => {
                    state.flush(&name);
                    if is_log {
                        state.flushed = state.acknowledged;
                        if std::mem::take(&mut state.log_is_new) {
                            state.flush_dir("");
                        }
                    }
                }
                _ => {}
            }
        });
        Verdict::Pass
    }
}

impl State {
    /// Counts an event, and takes an image if one is due.
    fn count_event(&mut self, dir: &Path, weight: u64) {
        if self.may_have_changed {
            self.scan(dir);
        }
        self.events += 1;
        self.until_image = self.until_image.saturating_sub(weight);
        if self.until_image == 0 {
            self.until_image = 1 + self.random.below(self.every);
            self.take_image();
        }
    }

    /// Scans the directory for changed names.
    fn scan(&mut self, dir: &Path) {
        self.may_have_changed = false;
        let mut now = Names::new();
        for (dir, prefix) in [(dir.to_owned(), ""), (dir.join("archive"), "archive/")] {
            for entry in fs::read_dir(dir).into_iter().flatten().map(Result::unwrap) {
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                // The wal-index does not survive a power failure.
                if name.ends_with("-shm") {
                    continue;
                }
                let ino = entry.metadata().unwrap().ino();
                self.inodes.entry(ino).or_insert_with(|| Inode::open(&entry.path()));
                now.insert(name, ino);
            }
        }
        let before = std::mem::replace(&mut self.names, now);
        for (name, ino) in self.names.iter().filter(|(name, ino)| before.get(*name) != Some(ino)) {
            let old =
                before.iter().find(|(old, old_ino)| *old_ino == ino && self.names.get(*old) != Some(ino));
            let old = old.map(|(old, _)| (old.clone(), None));
            self.unflushed_names.push(old.into_iter().chain([(name.clone(), Some(*ino))]).collect());
        }
        let is_gone = |ino: &u64| !self.names.values().any(|there| there == ino);
        for (name, _) in before.iter().filter(|(name, ino)| !self.names.contains_key(*name) && is_gone(ino)) {
            self.unflushed_names.push(vec![(name.clone(), None)]);
        }
    }

    fn flush(&mut self, name: &str) {
        if let Some(inode) = self.names.get(name).and_then(|ino| self.inodes.get_mut(ino)) {
            inode.flush();
        }
    }

    /// Flushes the names in a directory, together with every earlier change.
    fn flush_dir(&mut self, dir: &str) {
        let is_in = |name: &str| name.rsplit_once('/').map_or("", |(dir, _)| dir) == dir;
        let last = self.unflushed_names.iter().rposition(|step| step.iter().any(|(name, _)| is_in(name)));
        if let Some(last) = last {
            self.unflushed_names.drain(..=last).for_each(|step| apply(&mut self.flushed_names, &step));
        }
    }

    fn take_image(&mut self) {
        let random = &mut self.random;
        let loss = random.one_of(&[
            Loss::Nothing,
            Loss::Everything,
            Loss::Files,
            Loss::Files,
            Loss::Sectors(90),
            Loss::Sectors(50),
            Loss::Sectors(10),
        ]);
        let kept = match loss {
            Loss::Nothing => self.unflushed_names.len(),
            Loss::Everything => 0,
            _ => index(random, self.unflushed_names.len() + 1),
        };
        let mut names = self.flushed_names.clone();
        self.unflushed_names[..kept].iter().for_each(|step| apply(&mut names, step));
        let mut files = BTreeMap::new();
        let mut changed_at = None;
        for (name, ino) in &names {
            let inode = &self.inodes[ino];
            let Some(file) = &inode.file else { continue };
            if name == "data.db" {
                let now = file.metadata().unwrap().modified().unwrap();
                changed_at = random.one_of(&[None, Some(now), Some(inode.flushed_at)]);
            }
            files.insert(name.clone(), inode.after_loss(loss, name.ends_with(".stamps"), random));
        }
        let how = format!(
            "{loss:?} at event {}, {kept} of the changes of names are kept: {:?}\nlost: {:?}",
            self.events,
            names,
            &self.unflushed_names[kept..]
        );
        let flushed_commit = if self.is_durable { self.acknowledged } else { self.flushed };
        let has_archive = names.contains_key("archive");
        self.images.push(CrashImage {
            files,
            has_archive,
            changed_at,
            flushed_commit,
            acknowledged: self.acknowledged,
            kept: self.kept.clone(),
            is_whole: matches!(loss, Loss::Nothing),
            how,
        });
    }
}

fn apply(names: &mut Names, step: &NameChange) {
    for (name, ino) in step {
        match ino {
            Some(ino) => names.insert(name.clone(), *ino),
            None => names.remove(name),
        };
    }
}

fn index(random: &mut Random, len: usize) -> usize {
    usize::try_from(random.below(len as u64)).unwrap()
}

impl Inode {
    fn open(path: &Path) -> Self {
        let file = (!path.is_dir()).then(|| File::open(path).unwrap());
        Self { file, flushed: Vec::new(), flushed_at: SystemTime::UNIX_EPOCH }
    }

    fn flush(&mut self) {
        if let Some(file) = &self.file {
            self.flushed = read(file);
            self.flushed_at = file.metadata().unwrap().modified().unwrap();
        }
    }

    /// The contents of the file after a power failure.
    fn after_loss(&self, loss: Loss, is_stamps: bool, random: &mut Random) -> Vec<u8> {
        let mut now = self.file.as_ref().map(read).unwrap_or_default();
        if is_stamps && !matches!(loss, Loss::Nothing) && random.below(2) == 0 {
            self.drop_records(&mut now, random);
        }
        let flushed = &self.flushed;
        match loss {
            Loss::Nothing => now,
            Loss::Everything => flushed.clone(),
            _ if now == *flushed => now,
            Loss::Files => match random.below(4) {
                0 => flushed.clone(),
                1 => now,
                kind => {
                    // Everything before the offset is written and nothing after it, but the length may be.
                    let at = index(random, now.len() + 1);
                    let len = if kind == 2 { now.len() } else { at.max(flushed.len()) };
                    let mut found = now[..at].to_vec();
                    found.extend(flushed.iter().skip(at));
                    found.resize(len, 0);
                    found
                }
            },
            Loss::Sectors(chance) => {
                let len = random.one_of(&[now.len(), now.len(), flushed.len()]);
                let unit = if is_stamps && random.below(2) == 0 { 8 * SECTOR } else { SECTOR };
                let mut found = now;
                // A lost truncation brings the old tail back.
                let written = found.len();
                found.extend(flushed.iter().skip(written));
                found.resize(len, 0);
                let written = written.min(len);
                for (number, sector) in found[..written].chunks_mut(unit).enumerate() {
                    if random.below(100) < chance {
                        let before = flushed.get(number * unit..).unwrap_or_default();
                        let count = before.len().min(sector.len());
                        sector[..count].copy_from_slice(&before[..count]);
                        sector[count..].fill(0);
                    }
                }
                found
            }
        }
    }

    /// Drops some of the last records: the operating system may write back shared memory at any earlier moment.
    fn drop_records(&self, now: &mut [u8], random: &mut Random) {
        let records = |bytes: &[u8]| {
            let of = bytes.get(HEADER_LEN..).unwrap_or_default().chunks(RECORD_LEN);
            of.collect::<Vec<_>>().iter().rposition(|record| record.iter().any(|byte| *byte != 0))
        };
        let count = |bytes: &[u8]| records(bytes).map_or(0, |last| last + 1);
        let (old, new) = (count(&self.flushed), count(now));
        if new > old {
            let kept = old + index(random, new - old);
            now[HEADER_LEN + kept * RECORD_LEN..].fill(0);
        }
    }
}

fn read(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}
