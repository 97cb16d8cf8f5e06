//! What a history holds: its commits, and the spans of time that can be restored.

use std::ops::{Bound, RangeBounds};

use super::{all_before, errors, timeline::Timeline};
use crate::{
    error::{ErrorKind, Result},
    point::{Point, Points, RestorableRange},
    stamps::{CommitRecord, Generation},
    time::Timestamp,
};

impl Timeline {
    /// The commits in a range of time in order, and the spans of time that can be restored.
    pub(crate) fn points(&self, range: (Bound<Timestamp>, Bound<Timestamp>)) -> Result<Points> {
        // What is archived stays as it is, but the end moves on, and looks like a gap then. So it is looked at first.
        let newest = self.sequences.last().and_then(|newest| self.stamps(*newest).ok());
        let is_current = newest.is_none_or(|newest| self.ends_as_it_is(&newest).unwrap_or(false));
        if !is_current && self.has_moved()? {
            return Err(errors::keeps_changing(&self.data));
        }
        let mut points = Vec::new();
        let mut windows: Vec<RestorableRange> = Vec::new();
        let mut ended_at = None;
        // Whether a snapshot leads to where the history is looked at.
        let mut is_whole = false;
        for (place, sequence) in self.sequences.iter().enumerate() {
            let stamps = match self.stamps(*sequence) {
                // What it held is a gap, and what goes on from it, up to the next snapshot.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    is_whole = false;
                    continue;
                }
                stamps => stamps?,
            };
            let generation = stamps.generation;
            let begins = generation.begins || self.retained_from == Some(*sequence);
            if begins || !is_whole && self.snapshots.contains(sequence) {
                close(&mut windows, ended_at)?;
                open(&mut windows, self.known_from(place, &generation)?)?;
                is_whole = true;
            }
            if !is_whole {
                continue;
            }
            let after = self.after(*sequence).ok().flatten();
            let made = match self.made(&stamps, after.as_ref()) {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    close(&mut windows, Some(self.starts_at(&generation)))?;
                    is_whole = false;
                    continue;
                }
                made => made?,
            };
            // A stamp whose commit did not come about tells of none.
            let commits = made.iter().rev().find_map(|made| match made {
                CommitRecord::Commit(commit) => Some(commit.at.saturating_add(1)),
                CommitRecord::Unstamped { .. } => None,
            });
            let before_all = if generation.begins {
                self.starts_at(&generation)
            } else {
                generation.not_before.saturating_add(1)
            };
            ended_at = Some(commits.unwrap_or(before_all));
            match made.first() {
                Some(first)
                    if after.as_ref().is_none_or(|after| after.begins)
                        && self.is_written_away(&stamps)? =>
                {
                    let from = match first {
                        CommitRecord::Commit(commit) => commit.at,
                        CommitRecord::Unstamped { .. } => all_before(&generation),
                    };
                    close(&mut windows, Some(from))?;
                    is_whole = false;
                    // None of them can be restored.
                    continue;
                }
                _ => {
                    leave_out_lost(&mut windows, &generation, &made, after.as_ref())?;
                    is_whole = self.check_follows(place).is_ok();
                }
            }
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
            for made in made {
                let CommitRecord::Commit(commit) = made else { continue };
                let at = Timestamp::from_micros(commit.at)?;
                if range.contains(&at) {
                    let pages = commit.frame.saturating_sub(commit.before);
                    let bytes = u64::from(pages) * (page_size + crate::wal::FRAME_HEADER_LEN as u64);
                    points.push(Point { at, pages, bytes, size: u64::from(commit.pages) * page_size });
                }
            }
        }
        if self.sequences.is_empty() && self.is_as_it_was_born()? {
            windows.push(RestorableRange { from: self.birth.at, to: None });
        } else if !(is_whole && is_current) {
            close(&mut windows, ended_at)?;
        }
        Ok(Points { points, windows })
    }

    /// The first instant that is known where a snapshot leads to the beginning of a generation, whatever leads to what was
    /// before it.
    fn known_from(&self, place: usize, generation: &Generation) -> Result<i64> {
        match self.follows_lost(place, generation) {
            Ok(false) => Ok(self.starts_at(generation)),
            Err(error) if error.kind() != ErrorKind::Corrupt => Err(error),
            // That may be commits which the snapshot has, and of which nobody knows when they were made.
            Ok(true) | Err(_) => Ok(all_before(generation)),
        }
    }
}

/// Begins a window at an instant, or goes on with the one that ends there.
fn open(windows: &mut Vec<RestorableRange>, from: i64) -> Result<()> {
    let from = Timestamp::from_micros(from)?;
    match windows.last_mut() {
        Some(last) if last.to == Some(from) => last.to = None,
        _ => windows.push(RestorableRange { from, to: None }),
    }
    Ok(())
}

/// Ends the last window before an instant, if it goes on till then.
fn close(windows: &mut Vec<RestorableRange>, to: Option<i64>) -> Result<()> {
    let Some(to) = to.map(Timestamp::from_micros).transpose()? else { return Ok(()) };
    if let Some(window) = windows.last_mut().filter(|window| window.to.is_none()) {
        window.to = Some(to);
        windows.pop_if(|window| window.from >= to);
    }
    Ok(())
}

/// Leaves the spans out of the windows in which a generation has commits that no stamp tells of: each is from the last
/// instant that is known before these to the first one behind them, and is refused.
fn leave_out_lost(
    windows: &mut Vec<RestorableRange>,
    generation: &Generation,
    made: &[CommitRecord],
    after: Option<&Generation>,
) -> Result<()> {
    let mut known_at = if generation.begins { i64::MIN } else { generation.not_before };
    let mut lost_from = None;
    let commits = made.iter().map(|made| match made {
        CommitRecord::Commit(commit) => Some(commit.at),
        CommitRecord::Unstamped { .. } => None,
    });
    let goes_on = after.filter(|after| !after.begins).map(|after| after.begun_at);
    for at in commits.chain(goes_on.map(Some)) {
        let Some(at) = at else {
            lost_from.get_or_insert(known_at.saturating_add(1).max(generation.begun_at));
            continue;
        };
        if let Some(from) = lost_from.take().filter(|from| *from < at) {
            close(windows, Some(from))?;
            open(windows, at)?;
        }
        known_at = at;
    }
    close(windows, lost_from)
}
