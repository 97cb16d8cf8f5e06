//! A machine whose power may fail: what is flushed of a database's directory, and what a power loss leaves of the rest.
//!
//! It is told of every step of the plane by its hook, and of every call of SQLite's by a VFS beneath. Stamps are written in
//! shared memory, without any call: so what a file holds is read where it matters, and only what is flushed is kept.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread::{self, ThreadId},
    time::SystemTime,
};

use litefleet::DiskOp;

use crate::{
    disk::{Call, Opened, Verdict, Watcher},
    random::Random,
};

/// What a disk writes as a whole or not at all.
const SECTOR: usize = 512;

/// The header of a file of stamps, and one of its records.
const HEADER_LEN: usize = 128;
const RECORD_LEN: usize = 32;

pub(crate) struct Machine {
    dir: PathBuf,
    /// In others, descriptors are others too.
    thread: ThreadId,
    state: Mutex<State>,
}

struct State {
    random: Random,
    /// Files by their inodes. They are held open, so that none has the inode of one that was removed, and no descriptor of
    /// the database file is ever closed, which would drop SQLite's locks.
    inodes: HashMap<u64, Inode>,
    /// Which inode has which name, as it is, and as it is for sure after a power loss.
    names: Names,
    flushed_names: Names,
    /// What became of the names since, in order, in which a file system keeps it.
    since: Vec<Renamed>,
    /// Whether names may have changed since they were looked at.
    may_have_changed: bool,
    /// Whether SQLite will flush the directory with the WAL.
    log_is_new: bool,
    events: u64,
    /// Events until the next image is taken, and about how many there are between two.
    left: u64,
    every: u64,
    shots: Vec<Shot>,
    acknowledged: usize,
    flushed: usize,
    is_durable: bool,
    kept: BTreeSet<u64>,
}

type Names = BTreeMap<String, u64>;

/// What a name stands for after one step, and which name it had before.
type Renamed = Vec<(String, Option<u64>)>;

struct Inode {
    /// Nothing for a directory.
    file: Option<File>,
    flushed: Vec<u8>,
    flushed_at: SystemTime,
}

/// What a power loss left.
pub(crate) struct Shot {
    files: BTreeMap<String, Vec<u8>>,
    has_archive: bool,
    /// When the database file was changed last, as its inode says.
    changed_at: Option<SystemTime>,
    /// The last commit that is flushed for sure, and the last that had returned.
    pub(crate) least: usize,
    pub(crate) acknowledged: usize,
    /// Generations that were in the archive when all was flushed last.
    pub(crate) kept: BTreeSet<u64>,
    /// Whether nothing was lost, as where a process is killed.
    pub(crate) is_whole: bool,
    pub(crate) how: String,
}

#[derive(Clone, Copy, Debug)]
enum Loss {
    Nothing,
    Everything,
    /// Each file is as it was flushed, or as it was, or is cut somewhere.
    Files,
    /// Each sector is lost with this chance in a hundred.
    Sectors(u64),
}

impl Shot {
    /// Puts the files into a directory, and takes away what else is there.
    pub(crate) fn place(&self, dir: &Path) {
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

impl Machine {
    /// With all that is in a directory flushed. The database is not open.
    pub(crate) fn new(dir: &Path, is_durable: bool, every: u64, seed: u64) -> Self {
        let mut state = State {
            random: Random::new(seed),
            inodes: HashMap::new(),
            names: Names::new(),
            flushed_names: Names::new(),
            since: Vec::new(),
            may_have_changed: false,
            log_is_new: false,
            events: 0,
            left: 20,
            every,
            shots: Vec::new(),
            acknowledged: 0,
            flushed: 0,
            is_durable,
            kept: BTreeSet::new(),
        };
        state.look(dir);
        state.flushed_names = state.names.clone();
        state.since.clear();
        state.inodes.values_mut().for_each(Inode::flush);
        Self { dir: dir.to_owned(), thread: thread::current().id(), state: Mutex::new(state) }
    }

    fn with<T>(&self, call: impl FnOnce(&mut State) -> T) -> T {
        call(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// So many commits have returned.
    pub(crate) fn acknowledge(&self, commits: usize) {
        self.with(|state| state.acknowledged = commits);
    }

    /// The system flushes all that is there, these generations in the archive too.
    pub(crate) fn flush_all(&self, kept: BTreeSet<u64>) {
        self.with(|state| {
            state.look(&self.dir);
            state.inodes.values_mut().for_each(Inode::flush);
            state.flushed_names = state.names.clone();
            state.since.clear();
            (state.flushed, state.log_is_new, state.kept) = (state.acknowledged, false, kept);
        });
    }

    /// The images that were taken.
    pub(crate) fn take(&self) -> Vec<Shot> {
        self.with(|state| {
            state.look(&self.dir);
            state.shoot();
            std::mem::take(&mut state.shots)
        })
    }

    /// The plane is about to do something.
    pub(crate) fn step(&self, step: DiskOp, path: &Path) {
        let Ok(name) = path.strip_prefix(&self.dir) else { return };
        let name = name.to_string_lossy();
        self.with(|state| {
            if thread::current().id() != self.thread {
                state.may_have_changed = true;
                return;
            }
            // SQLite's calls are many more.
            state.pass(&self.dir, 10);
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

impl Watcher for Machine {
    fn covers(&self, file: &Opened) -> bool {
        file.path.as_ref().is_some_and(|path| path.parent() == Some(&self.dir))
    }

    fn see(&self, file: &Opened, call: Call<'_>) -> Verdict {
        let name = file.path.as_ref().and_then(|path| path.file_name()).unwrap_or_default().to_string_lossy();
        if !call.is_a_change() || thread::current().id() != self.thread {
            return Verdict::Pass;
        }
        let is_log = name.ends_with("-wal");
        self.with(|state| {
            // Its watchers are asked when the file is there.
            state.may_have_changed |= matches!(call, Call::Create);
            state.pass(&self.dir, 1);
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
    /// Another event: an image may be taken.
    fn pass(&mut self, dir: &Path, weight: u64) {
        if self.may_have_changed {
            self.look(dir);
        }
        self.events += 1;
        self.left = self.left.saturating_sub(weight);
        if self.left == 0 {
            self.left = 1 + self.random.below(self.every);
            self.shoot();
        }
    }

    /// Takes in what became of the names.
    fn look(&mut self, dir: &Path) {
        self.may_have_changed = false;
        let mut now = Names::new();
        for (dir, prefix) in [(dir.to_owned(), ""), (dir.join("archive"), "archive/")] {
            for entry in fs::read_dir(dir).into_iter().flatten().map(Result::unwrap) {
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                // It lives in memory.
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
            self.since.push(old.into_iter().chain([(name.clone(), Some(*ino))]).collect());
        }
        let is_gone = |ino: &u64| !self.names.values().any(|there| there == ino);
        for (name, _) in before.iter().filter(|(name, ino)| !self.names.contains_key(*name) && is_gone(ino)) {
            self.since.push(vec![(name.clone(), None)]);
        }
    }

    fn flush(&mut self, name: &str) {
        if let Some(inode) = self.names.get(name).and_then(|ino| self.inodes.get_mut(ino)) {
            inode.flush();
        }
    }

    /// What was done to the names in a directory is on the disk, and all that came before it.
    fn flush_dir(&mut self, dir: &str) {
        let is_in = |name: &str| name.rsplit_once('/').map_or("", |(dir, _)| dir) == dir;
        let last = self.since.iter().rposition(|step| step.iter().any(|(name, _)| is_in(name)));
        if let Some(last) = last {
            self.since.drain(..=last).for_each(|step| apply(&mut self.flushed_names, &step));
        }
    }

    fn shoot(&mut self) {
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
            Loss::Nothing => self.since.len(),
            Loss::Everything => 0,
            _ => index(random, self.since.len() + 1),
        };
        let mut names = self.flushed_names.clone();
        self.since[..kept].iter().for_each(|step| apply(&mut names, step));
        let mut files = BTreeMap::new();
        let mut changed_at = None;
        for (name, ino) in &names {
            let inode = &self.inodes[ino];
            let Some(file) = &inode.file else { continue };
            if name == "data.db" {
                let now = file.metadata().unwrap().modified().unwrap();
                changed_at = random.one_of(&[None, Some(now), Some(inode.flushed_at)]);
            }
            files.insert(name.clone(), inode.after(loss, name.ends_with(".stamps"), random));
        }
        let how = format!(
            "{loss:?} at event {}, {kept} of the names' changes are kept: {:?}\nlost is {:?}",
            self.events,
            names,
            &self.since[kept..]
        );
        let least = if self.is_durable { self.acknowledged } else { self.flushed };
        let has_archive = names.contains_key("archive");
        self.shots.push(Shot {
            files,
            has_archive,
            changed_at,
            least,
            acknowledged: self.acknowledged,
            kept: self.kept.clone(),
            is_whole: matches!(loss, Loss::Nothing),
            how,
        });
    }
}

fn apply(names: &mut Names, step: &Renamed) {
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

    /// What a power loss leaves of it.
    fn after(&self, loss: Loss, is_stamps: bool, random: &mut Random) -> Vec<u8> {
        let mut now = self.file.as_ref().map(read).unwrap_or_default();
        if is_stamps && !matches!(loss, Loss::Nothing) && random.below(2) == 0 {
            self.forget_records(&mut now, random);
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
                    // Up to there all is written; behind it nothing is, but the file may be as long.
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
                // What was cut off was not written: where the cut is lost, all of it is there again.
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

    /// The system writes what is in shared memory whenever it likes: what was appended later is not there.
    fn forget_records(&self, now: &mut [u8], random: &mut Random) {
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
