//! What a history holds: its commits, and the spans of time that can be restored.

use std::ops::{Bound, RangeBounds};

use super::{refusals, timeline::Timeline};
use crate::{
    error::{ErrorKind, Result},
    point::{Point, Points, Window},
    stamps::Made,
    time::Timestamp,
};

impl Timeline {
    /// The commits in a range of time in order, and the spans of time that can be restored.
    pub(crate) fn points(&self, range: (Bound<Timestamp>, Bound<Timestamp>)) -> Result<Points> {
        // What is archived stays as it is, but the end moves on, and looks like a gap then. So it is looked at first.
        let is_current = self.live.as_ref().is_none_or(|live| self.ends_as_it_is(live).unwrap_or(false));
        if !is_current && self.has_moved()? {
            return Err(refusals::moves_too_fast(&self.data));
        }
        let mut points = Vec::new();
        let mut windows: Vec<Window> = Vec::new();
        let mut ended_at = None;
        let mut is_whole = true;
        for (place, sequence) in self.sequences.iter().enumerate() {
            let stamps = match self.stamps(*sequence) {
                // What it held is a gap, up to where the history begins anew.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    is_whole = false;
                    continue;
                }
                stamps => stamps?,
            };
            let generation = stamps.generation;
            is_whole |= generation.begins;
            if !is_whole {
                continue;
            }
            if generation.begins || place == 0 {
                if let (Some(window), Some(ended_at)) = (windows.last_mut(), ended_at) {
                    window.to = Some(Timestamp::from_micros(ended_at)?);
                }
                windows.push(Window { from: Timestamp::from_micros(self.starts_at(&generation))?, to: None });
            }
            is_whole = self.check_follows(place).is_ok();
            ended_at = Some(stamps.last_instant().saturating_add(1));
            let is_before = match range.0 {
                Bound::Included(from) | Bound::Excluded(from) => stamps.last_instant() < from.as_micros(),
                Bound::Unbounded => false,
            };
            let is_behind = match range.1 {
                Bound::Included(to) | Bound::Excluded(to) => generation.not_before > to.as_micros(),
                Bound::Unbounded => false,
            };
            if is_before || is_behind {
                continue;
            }
            let page_size = u64::from(generation.page_size);
            let after = self.after(*sequence).ok().flatten();
            for made in self.made(&stamps, after.as_ref())? {
                let Made::Commit(commit) = made else { continue };
                let at = Timestamp::from_micros(commit.at)?;
                if range.contains(&at) {
                    let pages = commit.frame.saturating_sub(commit.before);
                    let bytes = u64::from(pages) * (page_size + crate::wal::FRAME_HEADER_LEN as u64);
                    points.push(Point { at, pages, bytes, size: u64::from(commit.pages) * page_size });
                }
            }
        }
        if self.sequences.is_empty() && self.is_as_it_was_born() {
            windows.push(Window { from: Timestamp::from_micros(self.born_at)?, to: None });
        } else if let Some(window) = windows.last_mut()
            && !(is_whole && is_current)
        {
            window.to = ended_at.map(Timestamp::from_micros).transpose()?;
        }
        Ok(Points { points, windows })
    }
}
