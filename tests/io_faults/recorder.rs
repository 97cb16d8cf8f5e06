//! Watchers that write down what they see.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::disk::{Call, Kind, Opened, Verdict, Watcher};

/// Looks for texts in all that is written to the files in a directory, and to files without a name.
pub(crate) struct Recorder {
    root: PathBuf,
    needles: Vec<Vec<u8>>,
    seen: Mutex<Seen>,
}

/// What was written, by the kind of file.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) writes: BTreeMap<Kind, u64>,
    /// Writes in which a text stood.
    pub(crate) clear: BTreeMap<Kind, u64>,
    /// What stood there, the first time.
    pub(crate) example: Option<String>,
    /// The beginnings of blocks in files without a name.
    blocks: HashSet<[u8; 16]>,
    /// Blocks that began as another one did.
    pub(crate) same_blocks: u64,
}

impl Recorder {
    pub(crate) fn new(root: &Path, needles: &[&[u8]]) -> Self {
        let needles = needles.iter().map(|needle| needle.to_vec()).collect();
        Self { root: root.to_owned(), needles, seen: Mutex::default() }
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher for Recorder {
    fn covers(&self, file: &Opened) -> bool {
        file.path.as_ref().is_none_or(|path| path.starts_with(&self.root))
    }

    fn see(&self, file: &Opened, call: Call<'_>) -> Verdict {
        if let Call::Write { at, bytes } = call {
            let found = self.needles.iter().find(|needle| holds(bytes, needle));
            let (kind, mut seen) = (file.kind(), self.seen());
            *seen.writes.entry(kind).or_default() += 1;
            if let Some(needle) = found {
                *seen.clear.entry(kind).or_default() += 1;
                let needle = String::from_utf8_lossy(needle);
                seen.example.get_or_insert(format!("{needle:?} in {kind:?} {:?} at {at}", file.path));
            }
            if kind == Kind::Nameless {
                for block in bytes.chunks(4096).filter_map(<[u8]>::first_chunk) {
                    seen.same_blocks += u64::from(!seen.blocks.insert(*block));
                }
            }
        }
        Verdict::Pass
    }
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    let first = needle[0];
    let mut rest = bytes;
    // A search that is quick where the first byte is rare, as it is in ciphertext.
    while let Some(at) = rest.iter().position(|byte| *byte == first) {
        if rest[at..].starts_with(needle) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}
