//! Pages of compressed logs that were decompressed, and may be asked for again.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::image::FrameRef;

/// The bytes of either half.
const HALF: usize = 8 << 20;

/// The pages that were read last. When one half is full, it takes the place of the other one.
#[derive(Debug, Default)]
pub(super) struct PageCache(Mutex<Halves>);

#[derive(Debug, Default)]
struct Halves {
    newer: HashMap<FrameRef, Vec<u8>>,
    older: HashMap<FrameRef, Vec<u8>>,
    /// Those of the newer half.
    bytes: usize,
}

impl PageCache {
    /// Fills `into` with a page, if it is kept.
    pub(super) fn get(&self, place: FrameRef, into: &mut [u8]) -> bool {
        let mut halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(page) = halves.newer.get(&place) {
            into.copy_from_slice(page);
            return true;
        }
        let Some(page) = halves.older.remove(&place) else { return false };
        into.copy_from_slice(&page);
        halves.keep(place, page);
        true
    }

    pub(super) fn keep(&self, pages: impl Iterator<Item = (FrameRef, Vec<u8>)>) {
        let mut halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, page) in pages {
            halves.keep(place, page);
        }
    }
}

impl Halves {
    fn keep(&mut self, place: FrameRef, page: Vec<u8>) {
        if self.bytes + page.len() > HALF {
            self.older = std::mem::take(&mut self.newer);
            self.bytes = 0;
        }
        self.bytes += page.len();
        if let Some(before) = self.newer.insert(place, page) {
            self.bytes -= before.len();
        }
    }
}
