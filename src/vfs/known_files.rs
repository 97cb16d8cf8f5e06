//! What the connections of this process to a database know of the files of its history.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::stamps::Generation;

/// What is known of the files of the newest generation, which is identified by its [seed](Generation::seed). 0 is no seed.
#[derive(Debug, Default)]
pub(super) struct KnownFiles {
    /// The generation whose snapshot this process has taken or checked.
    intact: AtomicU64,
    /// The generation that was flushed last.
    flushed: AtomicU64,
}

impl KnownFiles {
    /// Whether the snapshot of a generation is known to be intact.
    pub(super) fn is_intact(&self, generation: &Generation) -> bool {
        self.intact.load(Relaxed) == generation.seed()
    }

    /// Whether the files of a generation are known to be flushed.
    pub(super) fn is_flushed(&self, generation: &Generation) -> bool {
        self.flushed.load(Relaxed) == generation.seed()
    }

    /// Records that the generation with this seed was flushed.
    pub(super) fn set_flushed(&self, seed: u64) {
        self.flushed.store(seed, Relaxed);
    }

    /// Records that the snapshot of a generation is intact.
    pub(super) fn set_intact(&self, generation: &Generation) {
        self.intact.store(generation.seed(), Relaxed);
    }
}
