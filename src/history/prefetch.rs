//! Pages that the system has to read from the disk before they can be had: of many that lie scattered in logs, it is asked for
//! all before any is waited for.

use std::sync::{Mutex, PoisonError};

use super::{
    image::{FrameRef, HistoricalImage},
    log,
};
use crate::{error::Result, wal::FRAME_HEADER_LEN};

/// The most pages that are asked for ahead of one that is read.
const AHEAD_MAX: u32 = 256;

/// Pages of a view that were asked for, as long as it is read one after the other.
#[derive(Debug, Default)]
pub(super) struct Prefetch(Mutex<Asked>);

#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    /// The page behind those that were asked for.
    end: u32,
    /// How many those were.
    pages: u32,
}

impl Prefetch {
    /// How many pages to ask for from this one on, for which somebody waits.
    fn pages_from(&self, number: u32) -> u32 {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = asked.end.saturating_sub(asked.pages);
        if (begin..asked.end).contains(&number) {
            return 0;
        }
        // One that lies a little behind is read after it.
        let is_next = (asked.end..=asked.end.saturating_add(asked.pages)).contains(&number);
        let pages = if is_next { (asked.pages * 2).min(AHEAD_MAX) } else { 1 };
        *asked = Asked { end: number.saturating_add(pages), pages };
        pages
    }
}

impl HistoricalImage {
    /// Fills `into` with the page of a frame, if the system has it in memory.
    pub(super) fn read_ready(&self, place: FrameRef, into: &mut [u8]) -> Result<bool> {
        let log = &self.logs[place.log as usize];
        if log.live.is_some() || log.is_compressed {
            return Ok(false);
        }
        let at = log::page_offset(place.frame, self.page_size);
        if !self.opened(place.log)?.read_ready(into, at) {
            return Ok(false);
        }
        self.check_frame(place, into).map(|()| true)
    }

    /// Asks the system for the pages of these frames.
    pub(super) fn fetch(&self, mut places: Vec<FrameRef>) -> Result<()> {
        places.sort_unstable();
        let frame_len = u64::from(self.page_size) + FRAME_HEADER_LEN as u64;
        // Frames that follow each other, or nearly so, are read at once.
        let is_near = |one: &FrameRef, next: &FrameRef| one.log == next.log && next.frame <= one.frame + 2;
        for run in places.chunk_by(is_near) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let log = &self.logs[first.log as usize];
            if log.live.is_none() && !log.is_compressed {
                let len = u64::from(last.frame - first.frame) * frame_len + u64::from(self.page_size);
                self.opened(first.log)?.fetch(log::page_offset(first.frame, self.page_size), len);
            }
        }
        Ok(())
    }

    /// Fills `into` with a page of a log, and asks for those that are read next.
    pub(super) fn read_ahead(&self, number: u32, place: FrameRef, into: &mut [u8]) -> Result<()> {
        if self.read_ready(place, into)? {
            return Ok(());
        }
        let pages = self.ahead.pages_from(number);
        if pages > 1 {
            self.fetch((number..number.saturating_add(pages)).filter_map(|next| self.place(next)).collect())?;
        }
        self.read_frame(place, into)
    }
}
