//! The recovery points of a history, and its restorable ranges.

use std::ops::{Bound, RangeBounds};

use super::{
    commits::{commits, follows_unstamped},
    compare::ends_in_database,
    errors::keeps_changing,
    generation_log::was_not_archived,
    pristine,
    timeline::Timeline,
};
use crate::{
    error::{ErrorKind, Result},
    point::{Point, Points, RestorableRange},
    stamps::{Commit, CommitRecord, Generation, Stamps},
    time::Timestamp,
    units::{FrameNumber, Micros},
    wal::FRAME_HEADER_LEN,
};

/// A span of time.
type Span = (Bound<Timestamp>, Bound<Timestamp>);

/// The commits in a span of time in order, and all restorable ranges.
pub(crate) fn points(timeline: &Timeline, span: Span) -> Result<Points> {
    // Compare the end of the history first. Archived files do not change, but a concurrent commit makes the end look like a gap.
    let newest = timeline.numbers.last().and_then(|newest| timeline.stamps(*newest).ok());
    let is_current = newest.is_none_or(|newest| ends_in_database(timeline, &newest).unwrap_or(false));
    if !is_current && timeline.has_changed()? {
        return Err(keeps_changing(&timeline.origin.data));
    }
    let mut found =
        Scan { ranges: Ranges::default(), points: Vec::new(), ended_at: None, is_restorable: false };
    for index in 0..timeline.numbers.len() {
        found.generation(timeline, index, span)?;
    }
    let Scan { mut ranges, points, ended_at, is_restorable } = found;
    if timeline.is_empty() && pristine::is_born(timeline)? {
        ranges.0.push(RestorableRange { from: timeline.origin.birth.at, to: None });
    } else if !(is_restorable && is_current) {
        ranges.close(ended_at)?;
    }
    Ok(Points { points, windows: ranges.0, pruned_by: timeline.pruned_by()? })
}

/// The result of the generations scanned so far.
struct Scan {
    ranges: Ranges,
    points: Vec<Point>,
    /// The first instant after the last known commit.
    ended_at: Option<Micros>,
    /// Whether a snapshot leads to the end of the last generation.
    is_restorable: bool,
}

impl Scan {
    /// Adds the generation at `index`.
    fn generation(&mut self, timeline: &Timeline, index: usize, span: Span) -> Result<()> {
        let number = timeline.numbers[index];
        let stamps = match timeline.stamps(number) {
            // Its commits are a gap, as are all commits before the next snapshot.
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.is_restorable = false;
                return Ok(());
            }
            stamps => stamps?,
        };
        let generation = stamps.generation;
        let begins = generation.begins() || timeline.retained_from == Some(number);
        if begins || !self.is_restorable && timeline.snapshots.contains(&number) {
            self.ranges.close(self.ended_at)?;
            self.ranges.open(known_from(timeline, index, &generation)?)?;
            self.is_restorable = true;
        }
        if !self.is_restorable {
            return Ok(());
        }
        let next = timeline.next(number).ok().flatten();
        let commits = match commits(timeline, &stamps, next.as_ref()) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.ranges.close(Some(timeline.starts_at(&generation)))?;
                self.is_restorable = false;
                return Ok(());
            }
            commits => commits?,
        };
        self.ended_at = Some(end_of(timeline, &generation, &commits));
        if let Some(first) = commits.first()
            && next.as_ref().is_none_or(Generation::begins)
            && was_not_archived(timeline, &stamps)?
        {
            // None of the commits can be restored.
            let from = match first {
                CommitRecord::Commit(commit) => commit.at,
                CommitRecord::Unstamped { .. } => generation.includes_all_before(),
            };
            self.ranges.close(Some(from))?;
            self.is_restorable = false;
            return Ok(());
        }
        self.ranges.exclude_unstamped(&generation, &commits, next.as_ref())?;
        self.is_restorable = timeline.check_next(index).is_ok();
        self.add_points(&stamps, &commits, span)
    }

    fn add_points(&mut self, stamps: &Stamps, commits: &[CommitRecord], span: Span) -> Result<()> {
        let generation = &stamps.generation;
        let is_before = match span.0 {
            Bound::Included(from) | Bound::Excluded(from) => stamps.last_instant() < from.into(),
            Bound::Unbounded => false,
        };
        let is_after = match span.1 {
            Bound::Included(to) | Bound::Excluded(to) => generation.not_before > to.into(),
            Bound::Unbounded => false,
        };
        if is_before || is_after {
            return Ok(());
        }
        let page_size = generation.page_size;
        let frame_len = u64::from(page_size) + FRAME_HEADER_LEN as u64;
        for record in commits {
            let CommitRecord::Commit(Commit { at, frame, before, pages, .. }) = record else { continue };
            let at = at.timestamp()?;
            if span.contains(&at) {
                let written = frame.get().saturating_sub(FrameNumber::count(*before));
                let bytes = u64::from(written) * frame_len;
                self.points.push(Point { at, pages: written, bytes, size: pages.len(page_size) });
            }
        }
        Ok(())
    }
}

/// The first instant after the last stamped commit of a generation.
fn end_of(timeline: &Timeline, generation: &Generation, commits: &[CommitRecord]) -> Micros {
    // Unlike `Stamps::last_instant`, `commits` excludes the stamp of a failed commit that the log shows.
    let last = commits.iter().rev().find_map(|record| match record {
        CommitRecord::Commit(commit) => Some(commit.at.next()),
        CommitRecord::Unstamped { .. } => None,
    });
    last.unwrap_or_else(|| {
        if generation.begins() { timeline.starts_at(generation) } else { generation.not_before.next() }
    })
}

/// The first instant that can be restored from the snapshot before a generation without the generations before it.
fn known_from(timeline: &Timeline, index: usize, generation: &Generation) -> Result<Micros> {
    match follows_unstamped(timeline, index, generation) {
        Ok(false) => Ok(timeline.starts_at(generation)),
        Err(error) if error.kind() != ErrorKind::Corrupt => Err(error),
        // The snapshot may include commits whose times are unknown.
        Ok(true) | Err(_) => Ok(generation.includes_all_before()),
    }
}

/// Restorable ranges in order.
#[derive(Default)]
struct Ranges(Vec<RestorableRange>);

impl Ranges {
    /// Begins a range at an instant, or continues the one that ends there.
    fn open(&mut self, from: Micros) -> Result<()> {
        let from = from.timestamp()?;
        match self.0.last_mut() {
            Some(last) if last.to == Some(from) => last.to = None,
            _ => self.0.push(RestorableRange { from, to: None }),
        }
        Ok(())
    }

    /// Ends the last range before an instant, unless it has ended.
    fn close(&mut self, to: Option<Micros>) -> Result<()> {
        let Some(to) = to.map(Micros::timestamp).transpose()? else { return Ok(()) };
        if let Some(range) = self.0.last_mut().filter(|range| range.to.is_none()) {
            range.to = Some(to);
            self.0.pop_if(|range| range.from >= to);
        }
        Ok(())
    }

    /// Excludes the spans in which a generation has unstamped commits: from the last known instant before them to the first one
    /// after them.
    fn exclude_unstamped(
        &mut self,
        generation: &Generation,
        commits: &[CommitRecord],
        next: Option<&Generation>,
    ) -> Result<()> {
        let mut known_at = if generation.begins() { Micros::MIN } else { generation.not_before };
        let mut unstamped_from = None;
        let known = commits.iter().map(|record| match record {
            CommitRecord::Commit(commit) => Some(commit.at),
            CommitRecord::Unstamped { .. } => None,
        });
        let continued = next.filter(|next| !next.begins()).map(|next| next.begun_at);
        for at in known.chain(continued.map(Some)) {
            let Some(at) = at else {
                unstamped_from.get_or_insert(known_at.next().max(generation.begun_at));
                continue;
            };
            if let Some(from) = unstamped_from.take().filter(|from| *from < at) {
                self.close(Some(from))?;
                self.open(at)?;
            }
            known_at = at;
        }
        self.close(unstamped_from)
    }
}
