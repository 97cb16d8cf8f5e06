//! A simulated disk that loses power: an image contains everything flushed, and any version of each sector written
//! since.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    fault_vfs::{Call, Kind, Opened, Verdict, Watcher},
    model::Random,
};

/// The unit that a disk writes atomically.
const SECTOR: u64 = 512;

/// File contents by name.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Replaces the contents of a directory with these files.
pub(crate) fn write_files(dir: &Path, files: &Files) {
    fs::create_dir_all(dir).unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

/// Records the changes that SQLite makes to the files in a directory, and takes images of what a power failure could
/// leave.
pub(crate) struct SimulatedDisk {
    dir: PathBuf,
    state: Mutex<State>,
}

struct State {
    random: Random,
    files: BTreeMap<String, File>,
    /// Number of calls so far.
    calls: u64,
    /// Calls until the next image is taken.
    until_image: u64,
    images: Vec<CrashImage>,
    /// The last transaction that was begun, the last that was acknowledged, and the last that is certainly flushed.
    begun: u64,
    acknowledged: u64,
    flushed: u64,
    /// Whether acknowledged transactions are flushed.
    is_durable: bool,
}

#[derive(Default)]
struct File {
    /// `None` if the file does not exist.
    flushed: Option<Vec<u8>>,
    /// Unflushed changes, each with the number of its call.
    unflushed: Vec<(u64, Change)>,
}

enum Change {
    Create,
    Write(u64, Vec<u8>),
    Truncate(u64),
    Delete,
}

/// The files that a power failure leaves.
pub(crate) struct CrashImage {
    pub(crate) files: Files,
    /// The first and last transaction whose state the database may be in.
    pub(crate) earliest: u64,
    pub(crate) latest: u64,
    pub(crate) acknowledged: u64,
    pub(crate) how: String,
}

/// Which unflushed changes a power failure loses.
#[derive(Debug)]
enum Loss {
    Nothing,
    Everything,
    /// Changes after this call, and part of the change made by it.
    After(u64),
    /// Any version of each sector survives, the last one with this probability in percent.
    Sectors(u64),
}

impl SimulatedDisk {
    /// Starts with these files, flushed, in the state after transaction `n`.
    pub(crate) fn new(dir: &Path, files: &Files, n: u64, is_durable: bool, seed: u64) -> Self {
        write_files(dir, files);
        let file = |bytes: &Vec<u8>| File { flushed: Some(bytes.clone()), unflushed: Vec::new() };
        let state = State {
            random: Random::new(seed),
            files: files.iter().map(|(name, bytes)| (name.clone(), file(bytes))).collect(),
            calls: 0,
            until_image: 5,
            images: Vec::new(),
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

    /// The images taken since the last call.
    pub(crate) fn take_images(&self) -> Vec<CrashImage> {
        std::mem::take(&mut self.state().images)
    }

    /// Takes an image now.
    pub(crate) fn take_image(&self) -> CrashImage {
        self.state().take_image()
    }
}

impl Watcher for SimulatedDisk {
    fn covers(&self, file: &Opened) -> bool {
        file.path.as_ref().is_some_and(|path| path.parent() == Some(&self.dir))
    }

    fn see(&self, file: &Opened, call: Call<'_>) -> Verdict {
        let name = file.path.as_ref().and_then(|path| path.file_name()).unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let mut state = self.state();
        let state = &mut *state;
        if !call.is_change() {
            return Verdict::Pass;
        }
        state.until_image -= 1;
        if state.until_image == 0 {
            state.until_image = 1 + state.random.below(120);
            let image = state.take_image();
            state.images.push(image);
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
                let is_new = known.unflushed.iter().any(|(_, change)| matches!(change, Change::Create));
                known.flush();
                if is_new {
                    // With a new file SQLite flushes the directory, which makes earlier deletions durable.
                    state.files.values_mut().for_each(File::flush_deletion);
                }
                if file.kind() == Kind::Wal {
                    state.flushed = state.acknowledged;
                }
                return Verdict::Pass;
            }
            Call::Read | Call::ShmMap | Call::ShmLock { .. } | Call::Lock { .. } => return Verdict::Pass,
        };
        known.unflushed.push((state.calls, change));
        if let Call::Delete { sync: true } = call {
            known.flush();
        }
        Verdict::Pass
    }
}

impl File {
    fn is_there(&self) -> bool {
        self.unflushed.iter().fold(self.flushed.is_some(), |there, (_, change)| match change {
            Change::Create => true,
            Change::Delete => false,
            _ => there,
        })
    }

    fn flush_deletion(&mut self) {
        if let Some(last) = self.unflushed.iter().rposition(|(_, change)| matches!(change, Change::Delete)) {
            self.unflushed.drain(..=last);
            self.flushed = None;
        }
    }

    fn flush(&mut self) {
        for (_, change) in std::mem::take(&mut self.unflushed) {
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

    /// The sectors of a write, with their offsets.
    fn parts(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let (mut at, mut rest) = match self {
            Self::Write(at, bytes) => (*at, bytes.as_slice()),
            _ => (0, &[][..]),
        };
        std::iter::from_fn(move || {
            let len = rest.len().min(usize::try_from(SECTOR - at % SECTOR).unwrap_or(0));
            let (part, after) = rest.split_at(len);
            rest = after;
            let start = at;
            at += len as u64;
            (!part.is_empty()).then_some((start, part))
        })
    }
}

/// Writes at an offset, and fills a gap beyond the old end.
fn put(bytes: &mut Vec<u8>, at: u64, new: &[u8], fill: u8) {
    let at = usize::try_from(at).unwrap_or(0);
    if bytes.len() < at + new.len() {
        bytes.resize(at + new.len(), fill);
    }
    bytes[at..at + new.len()].copy_from_slice(new);
}

impl State {
    fn take_image(&mut self) -> CrashImage {
        let calls: Vec<u64> =
            self.files.values().flat_map(|file| file.unflushed.iter().map(|(call, _)| *call)).collect();
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
            if let Some(bytes) = file.after_loss(&loss, &mut self.random) {
                files.insert(name.clone(), bytes);
            }
        }
        let earliest = if self.is_durable { self.acknowledged } else { self.flushed };
        let how = format!("{loss:?} of {} changes at call {}", calls.len(), self.calls);
        CrashImage { files, earliest, latest: self.begun, acknowledged: self.acknowledged, how }
    }
}

impl File {
    /// The contents of the file after a power failure.
    fn after_loss(&self, loss: &Loss, random: &mut Random) -> Option<Vec<u8>> {
        let mut file = self.flushed.clone();
        match loss {
            Loss::Everything => {}
            Loss::Nothing => self.unflushed.iter().for_each(|(_, change)| change.apply(&mut file)),
            Loss::After(moment) => {
                for (call, change) in &self.unflushed {
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
        // The file system preserves the order of creations, truncations and deletions. Writes after the first lost
        // one of these went to another state of the file and are lost too.
        let is_write = |change: &Change| matches!(change, Change::Write(..));
        let others: Vec<_> =
            (0..self.unflushed.len()).filter(|at| !is_write(&self.unflushed[*at].1)).collect();
        let end = others.get(random.index(others.len() + 1)).copied().unwrap_or(self.unflushed.len());
        // The number of versions of each sector, counted between those changes.
        let mut epoch = 0;
        let mut versions = HashMap::<_, u64>::new();
        for (_, change) in &self.unflushed[..end] {
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
        // A gap between written sectors may contain anything.
        let filler = if random.below(2) == 0 { 0 } else { 0xa5 };
        let mut longest = 0;
        epoch = 0;
        for (_, change) in &self.unflushed[..end] {
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
