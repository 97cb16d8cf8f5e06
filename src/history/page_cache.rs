//! A cache of decompressed pages.

use std::collections::HashMap;

use super::frame_ref::FrameRef;
use crate::sync::{Mutex, Rank};

/// The size of each half in bytes.
const HALF: usize = 8 << 20;

/// The pages that were used last. When the newer half is full, it replaces the older one.
#[derive(Debug)]
pub(super) struct PageCache(Mutex<Halves>);

#[derive(Debug, Default)]
struct Halves {
    newer: HashMap<FrameRef, Vec<u8>>,
    older: HashMap<FrameRef, Vec<u8>>,
    /// The size of the newer half.
    bytes: usize,
}

impl PageCache {
    /// Fills `into` with a page if it is cached. Returns whether it is.
    pub(super) fn get(&self, frame: FrameRef, into: &mut [u8]) -> bool {
        let mut halves = self.0.lock_or_clear();
        if let Some(page) = halves.newer.get(&frame) {
            into.copy_from_slice(page);
            return true;
        }
        let Some(page) = halves.older.remove(&frame) else { return false };
        into.copy_from_slice(&page);
        halves.insert(frame, page);
        true
    }

    pub(super) fn insert(&self, pages: impl Iterator<Item = (FrameRef, Vec<u8>)>) {
        let mut halves = self.0.lock_or_clear();
        for (frame, page) in pages {
            halves.insert(frame, page);
        }
    }
}

impl Default for PageCache {
    fn default() -> Self {
        Self(Mutex::new(Rank::ImagePages, Halves::default()))
    }
}

impl Halves {
    fn insert(&mut self, frame: FrameRef, page: Vec<u8>) {
        if self.bytes + page.len() > HALF {
            self.older = std::mem::take(&mut self.newer);
            self.bytes = 0;
        }
        self.bytes += page.len();
        if let Some(before) = self.newer.insert(frame, page) {
            self.bytes -= before.len();
        }
    }
}
