//! Takes over a generation that another connection has begun.
//!
//! A generation that begins a history rests on a snapshot, which is flushed with the first commit after it. A power loss before
//! that flush may keep the stamps and the WAL and damage the snapshot. No later commit of the generation, nor of its successors,
//! could then be restored. So a connection continues such a generation only if a process that has run since has written its
//! snapshot, or after a check of the snapshot. Otherwise it begins a new history.

use super::{Capture, StampLog};
use crate::{error::Result, history::base_snapshot, stamps::Generation};

impl Capture {
    /// Whether the history can continue from a generation: it does not begin a history, or its snapshot is intact.
    pub(super) fn is_founded(&self, live: &StampLog) -> Result<bool> {
        let generation = live.generation();
        if !generation.begins() || self.known().is_intact(generation) {
            return Ok(true);
        }
        let is_intact = base_snapshot::is_intact(self.disk(), &self.paths, generation)?;
        if is_intact {
            self.known().set_intact(generation);
        }
        Ok(is_intact)
    }

    /// Flushes the files of a generation with the WAL, unless a connection of this process has flushed them. The connection that
    /// began the generation may have another synchronous mode and never flush them.
    pub(super) fn flush_taken_over(&self, generation: &Generation) {
        if self.known().is_flushed(generation) {
            return;
        }
        if generation.begins() {
            self.flush_all_later(generation);
        } else {
            self.flush_stamps_later(generation);
        }
    }
}
