//! A watcher that records writes.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::fault_vfs::{Call, Kind, Opened, Verdict, Watcher};

/// Searches for texts in all writes to the files below a directory and to unnamed files.
pub(crate) struct Recorder {
    root: PathBuf,
    needles: Vec<Vec<u8>>,
    seen: Mutex<Seen>,
}

/// Counts of writes, by kind of file.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) writes: BTreeMap<Kind, u64>,
    /// Writes that contain a text.
    pub(crate) clear: BTreeMap<Kind, u64>,
    /// The first such text, with its file and offset.
    pub(crate) example: Option<String>,
    /// The first bytes of each block written to unnamed files.
    blocks: HashSet<[u8; 16]>,
    /// Blocks that start like an earlier one.
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
            if kind == Kind::Unnamed {
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
    // Fast if the first byte is rare, as in ciphertext.
    while let Some(at) = rest.iter().position(|byte| *byte == first) {
        if rest[at..].starts_with(needle) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}
