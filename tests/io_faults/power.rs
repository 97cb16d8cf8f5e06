//! A machine whose power fails: what is on its disk then is what was flushed, and of each sector that was written since,
//! any version.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    disk::{Call, Kind, Opened, Verdict, Watcher},
    model::Random,
};

/// What a disk writes as a whole or not at all.
const SECTOR: u64 = 512;

/// Files by their names.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Puts files into a directory, and takes away what else is there.
pub(crate) fn place(dir: &Path, files: &Files) {
    fs::create_dir_all(dir).unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

/// Sees what SQLite does to the files in a directory, and takes images of what a power loss would leave of them.
pub(crate) struct Machine {
    dir: PathBuf,
    state: Mutex<State>,
}

struct State {
    random: Random,
    files: BTreeMap<String, File>,
    /// What was asked of the disk so far.
    calls: u64,
    /// Calls until the next image is taken.
    left: u64,
    shots: Vec<Shot>,
    /// The transaction that was begun last, the last that was acknowledged, and the last that is flushed for sure.
    begun: u64,
    acknowledged: u64,
    flushed: u64,
    /// Whether an acknowledged transaction is a flushed one.
    is_durable: bool,
}

#[derive(Default)]
struct File {
    /// Nothing for one that is not there.
    flushed: Option<Vec<u8>>,
    /// What was done to it since, with the number of the call.
    since: Vec<(u64, Change)>,
}

enum Change {
    Create,
    Write(u64, Vec<u8>),
    Truncate(u64),
    Delete,
}

/// What a power loss left.
pub(crate) struct Shot {
    pub(crate) files: Files,
    /// The first and the last transaction that the database may be found after.
    pub(crate) least: u64,
    pub(crate) most: u64,
    pub(crate) acknowledged: u64,
    pub(crate) how: String,
}

/// What of the changes that were not flushed a power loss leaves.
#[derive(Debug)]
enum Loss {
    Nothing,
    Everything,
    /// What was written after a moment, and a part of what was written then.
    After(u64),
    /// Of each sector any version, but with this chance in a hundred the last one.
    Sectors(u64),
}

impl Machine {
    /// With these files, flushed, which hold what the transaction `n` left.
    pub(crate) fn new(dir: &Path, files: &Files, n: u64, is_durable: bool, seed: u64) -> Self {
        place(dir, files);
        let file = |bytes: &Vec<u8>| File { flushed: Some(bytes.clone()), since: Vec::new() };
        let state = State {
            random: Random::new(seed),
            files: files.iter().map(|(name, bytes)| (name.clone(), file(bytes))).collect(),
            calls: 0,
            left: 5,
            shots: Vec::new(),
            begun: n,
            acknowledged: n,
            flushed: n,
            is_durable,
        };
        Self { dir: dir.to_owned(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(&self, n: u64) {
        self.state().begun = n;
    }

    pub(crate) fn acknowledge(&self, n: u64) {
        self.state().acknowledged = n;
    }

    /// The images that were taken since the last call.
    pub(crate) fn take(&self) -> Vec<Shot> {
        std::mem::take(&mut self.state().shots)
    }

    /// An image of now.
    pub(crate) fn shoot(&self) -> Shot {
        self.state().shoot()
    }
}

impl Watcher for Machine {
    fn covers(&self, file: &Opened) -> bool {
        file.path.as_ref().is_some_and(|path| path.parent() == Some(&self.dir))
    }

    fn see(&self, file: &Opened, call: Call<'_>) -> Verdict {
        let name = file.path.as_ref().and_then(|path| path.file_name()).unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let mut state = self.state();
        let state = &mut *state;
        if !call.is_a_change() {
            return Verdict::Pass;
        }
        state.left -= 1;
        if state.left == 0 {
            state.left = 1 + state.random.below(120);
            let shot = state.shoot();
            state.shots.push(shot);
        }
        state.calls += 1;
        let known = state.files.entry(name).or_default();
        let change = match call {
            Call::Create if known.is_there() => return Verdict::Pass,
            Call::Create => Change::Create,
            Call::Write { at, bytes } => Change::Write(at, bytes.to_vec()),
            Call::Truncate { len } => Change::Truncate(len),
            Call::Delete { .. } => Change::Delete,
            Call::Sync => {
                let is_new = known.since.iter().any(|(_, change)| matches!(change, Change::Create));
                known.flush();
                if is_new {
                    // With a new file SQLite flushes the directory, so that what was deleted is gone for good.
                    state.files.values_mut().for_each(File::flush_deletion);
                }
                if file.kind() == Kind::Wal {
                    state.flushed = state.acknowledged;
                }
                return Verdict::Pass;
            }
            Call::Read | Call::ShmMap | Call::ShmLock { .. } | Call::Lock { .. } => return Verdict::Pass,
        };
        known.since.push((state.calls, change));
        if let Call::Delete { sync: true } = call {
            known.flush();
        }
        Verdict::Pass
    }
}

impl File {
    fn is_there(&self) -> bool {
        self.since.iter().fold(self.flushed.is_some(), |there, (_, change)| match change {
            Change::Create => true,
            Change::Delete => false,
            _ => there,
        })
    }

    fn flush_deletion(&mut self) {
        if let Some(last) = self.since.iter().rposition(|(_, change)| matches!(change, Change::Delete)) {
            self.since.drain(..=last);
            self.flushed = None;
        }
    }

    fn flush(&mut self) {
        for (_, change) in std::mem::take(&mut self.since) {
            change.apply(&mut self.flushed);
        }
    }
}

impl Change {
    fn apply(&self, file: &mut Option<Vec<u8>>) {
        match (self, file) {
            (Self::Create, file) => *file = Some(file.take().unwrap_or_default()),
            (Self::Delete, file) => *file = None,
            (Self::Truncate(len), Some(bytes)) => bytes.resize(usize::try_from(*len).unwrap_or(0), 0),
            (Self::Write(at, new), Some(bytes)) => put(bytes, *at, new, 0),
            (Self::Truncate(_) | Self::Write(..), None) => {}
        }
    }

    /// The parts of a write, sector by sector, with the places where they belong.
    fn parts(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let (mut at, mut rest) = match self {
            Self::Write(at, bytes) => (*at, bytes.as_slice()),
            _ => (0, &[][..]),
        };
        std::iter::from_fn(move || {
            let len = rest.len().min(usize::try_from(SECTOR - at % SECTOR).unwrap_or(0));
            let (part, after) = rest.split_at(len);
            rest = after;
            let place = at;
            at += len as u64;
            (!part.is_empty()).then_some((place, part))
        })
    }
}

/// Writes at a place; what was not written before it, if it lies beyond the end, is filled.
fn put(bytes: &mut Vec<u8>, at: u64, new: &[u8], fill: u8) {
    let at = usize::try_from(at).unwrap_or(0);
    if bytes.len() < at + new.len() {
        bytes.resize(at + new.len(), fill);
    }
    bytes[at..at + new.len()].copy_from_slice(new);
}

impl State {
    fn shoot(&mut self) -> Shot {
        let calls: Vec<u64> =
            self.files.values().flat_map(|file| file.since.iter().map(|(call, _)| *call)).collect();
        let loss = match self.random.below(8) {
            0 => Loss::Nothing,
            1 => Loss::Everything,
            2..4 if !calls.is_empty() => Loss::After(calls[self.random.index(calls.len())]),
            4 => Loss::Sectors(90),
            5 => Loss::Sectors(10),
            _ => Loss::Sectors(50),
        };
        let mut files = Files::new();
        for (name, file) in &self.files {
            if let Some(bytes) = file.after(&loss, &mut self.random) {
                files.insert(name.clone(), bytes);
            }
        }
        let least = if self.is_durable { self.acknowledged } else { self.flushed };
        let how = format!("{loss:?} of {} changes at call {}", calls.len(), self.calls);
        Shot { files, least, most: self.begun, acknowledged: self.acknowledged, how }
    }
}

impl File {
    /// What a power loss leaves of the file.
    fn after(&self, loss: &Loss, random: &mut Random) -> Option<Vec<u8>> {
        let mut file = self.flushed.clone();
        match loss {
            Loss::Everything => {}
            Loss::Nothing => self.since.iter().for_each(|(_, change)| change.apply(&mut file)),
            Loss::After(moment) => {
                for (call, change) in &self.since {
                    if call < moment {
                        change.apply(&mut file);
                    } else if let (true, Some(bytes)) = (call == moment, &mut file) {
                        let parts: Vec<_> = change.parts().collect();
                        for (at, part) in &parts[..random.index(parts.len() + 1)] {
                            put(bytes, *at, part, 0);
                        }
                    }
                }
            }
            Loss::Sectors(chance) => self.lose_sectors(*chance, &mut file, random),
        }
        file
    }

    fn lose_sectors(&self, chance: u64, file: &mut Option<Vec<u8>>, random: &mut Random) {
        // The file system does what makes, cuts and deletes files in order; what was written after that which was not
        // done any more was written elsewhere.
        let is_write = |change: &Change| matches!(change, Change::Write(..));
        let others: Vec<_> = (0..self.since.len()).filter(|at| !is_write(&self.since[*at].1)).collect();
        let end = others.get(random.index(others.len() + 1)).copied().unwrap_or(self.since.len());
        // How often each sector was written between those, and so how many versions it has.
        let mut epoch = 0;
        let mut versions = HashMap::<_, u64>::new();
        for (_, change) in &self.since[..end] {
            epoch += u64::from(!is_write(change));
            for (at, _) in change.parts() {
                *versions.entry((epoch, at / SECTOR)).or_default() += 1;
            }
        }
        let mut sectors: Vec<_> = versions.iter_mut().collect();
        sectors.sort();
        for (_, kept) in sectors {
            if random.below(100) >= chance {
                *kept = random.below(*kept + 1);
            }
        }
        // What lies between sectors that were written, and was not: a file system may have anything there.
        let filler = if random.below(2) == 0 { 0 } else { 0xa5 };
        let mut longest = 0;
        epoch = 0;
        for (_, change) in &self.since[..end] {
            if !is_write(change) {
                (epoch, longest) = (epoch + 1, 0);
                change.apply(file);
            }
            for (at, part) in change.parts() {
                longest = longest.max(at + part.len() as u64);
                if let (Some(kept), Some(bytes)) = (versions.get_mut(&(epoch, at / SECTOR)), file.as_mut())
                    && *kept > 0
                {
                    *kept -= 1;
                    put(bytes, at, part, filler);
                }
            }
        }
        if let Some(bytes) = file
            && random.below(2) == 0
        {
            let longest = usize::try_from(longest).unwrap_or(0);
            bytes.resize(bytes.len().max(longest), filler);
        }
    }
}
