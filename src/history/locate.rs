//! The commit that an instant resolves to, according to the stamps of the history.

use super::{
    commits::{checked_commits, commits, follows_unstamped},
    errors::{Uncertainty, changed, outside, uncertain},
    target::Target,
    timeline::Timeline,
};
use crate::{
    error::{Error, ErrorKind, Result},
    point::{InstantPosition, ResolvedInstant},
    stamps::{CommitRecord, Generation, Stamps},
    time::Timestamp,
    units::{FrameNumber, Micros},
};

/// Where an instant is in a history.
pub(super) enum Location {
    /// The database has no history.
    Empty,
    /// At or after a commit, and before the next one.
    Known(Target),
    /// After the last commit of the history. The target is valid only if the current database equals the end of the generation
    /// with these stamps. Otherwise the database was changed after the instant `changed_after`.
    PastEnd { target: Target, stamps: Box<Stamps>, changed_after: Micros },
}

/// The commits of one generation around an instant.
struct Neighbours {
    /// The last frame of the last commit at or before the instant, or the generation's `base_frame` if there is no such commit.
    frame: Option<FrameNumber>,
    /// The last commit at or before the instant.
    commit: Option<Micros>,
    /// The first commit after the instant.
    next: Option<Micros>,
    /// The last frame of the unstamped commits between these two.
    unstamped: Option<FrameNumber>,
}

impl Neighbours {
    fn find(generation: &Generation, commits: &[CommitRecord], at: Micros) -> Self {
        let mut found = Self { frame: generation.base_frame, commit: None, next: None, unstamped: None };
        for record in commits {
            match record {
                CommitRecord::Commit(commit) if commit.at <= at => {
                    found.frame = Some(commit.frame);
                    found.commit = Some(commit.at);
                    found.unstamped = None;
                }
                CommitRecord::Commit(commit) => {
                    found.next = Some(commit.at);
                    break;
                }
                CommitRecord::Unstamped { frame } => found.unstamped = Some(*frame),
            }
        }
        // The last commit of the generation that this one continues.
        if found.commit.is_none() && !generation.begins() {
            found.commit = Some(generation.not_before);
        }
        found
    }

    fn resolved(&self, at: Micros) -> Result<ResolvedInstant> {
        let kind = match (self.commit, self.next) {
            (Some(commit), _) if commit == at => InstantPosition::Exact,
            (None, _) => InstantPosition::BeforeFirst,
            (Some(_), Some(_)) => InstantPosition::Between,
            (Some(_), None) => InstantPosition::AfterLast,
        };
        let instant = |at: Option<Micros>| at.map(Micros::timestamp).transpose();
        Ok(ResolvedInstant { kind, commit: instant(self.commit)?, next: instant(self.next)? })
    }
}

/// Finds the commit that an instant resolves to.
///
/// Fails with [`ErrorKind::OutsideWindow`] if the instant cannot be restored, and with [`ErrorKind::Corrupt`] if that is because
/// stamps are damaged or missing.
pub(super) fn locate(timeline: &Timeline, asked: Timestamp, now: Timestamp) -> Result<Location> {
    let at = Micros::from(asked);
    let Some(first) = timeline.numbers.first() else { return Ok(Location::Empty) };
    let Some(index) = index_of(timeline, at)? else {
        let first = timeline.generation(*first)?;
        // Missing stamps before the first generation are the more specific error.
        follows_unstamped(timeline, 0, &first)?;
        return Err(outside(asked, timeline.starts_at(&first), timeline.pruned_by()?));
    };
    let number = timeline.numbers[index];
    let stamps = timeline.stamps(number)?;
    let generation = stamps.generation;
    // Damage of the next generation is reported only if the result depends on it.
    let next = timeline.next(number);
    let known_next = next.as_ref().ok().and_then(Option::as_ref);
    let commits = checked_commits(timeline, &stamps, known_next, at)?;
    let mut found = Neighbours::find(&generation, &commits, at);
    let is_exact = found.commit == Some(at);
    // Every commit of a generation is made after the generation began.
    let is_before_unstamped = found.unstamped.is_some() && at < generation.begun_at;
    if let Some(last) = found.unstamped.filter(|_| !is_exact && !is_before_unstamped) {
        let next_begun_at = || known_next.map(|next| next.begun_at);
        let known_at = found.next.or_else(next_begun_at).unwrap_or(now.into());
        if found.next.is_some() || at < known_at {
            let path = timeline.stamps_path(number);
            let from = found.commit.unwrap_or(generation.begun_at);
            let damaged = stamps.is_damaged().then_some(&*path);
            return Err(uncertain(asked, &Uncertainty { from, to: known_at, damaged }));
        }
        found.frame = Some(last);
    }
    let mut changed_after = None;
    if found.next.is_none() && !is_before_unstamped {
        // A missing generation may have had commits.
        if !is_exact {
            timeline.check_next(index)?;
        }
        let last = found.commit.unwrap_or(generation.begun_at);
        match next {
            // A stamped commit is known, even if its successor is missing or damaged.
            Err(_) | Ok(None) if is_exact => {}
            Err(error) => return Err(error),
            Ok(Some(next)) if next.begins() && !is_exact => {
                return Err(changed(asked, last, Some(next.begun_at)));
            }
            Ok(Some(_)) => found.next = first_commit_after(timeline, index),
            Ok(None) => changed_after = Some(last),
        }
    }
    let target = Target { number, frame: found.frame, resolved: found.resolved(at)? };
    Ok(match changed_after {
        None => Location::Known(target),
        Some(changed_after) => Location::PastEnd { target, stamps: Box::new(stamps), changed_after },
    })
}

/// The index of the generation that an instant belongs to. Returns `None` if it is before the first one.
///
/// An instant before the begin of a generation belongs to the preceding generation if that ends with unstamped commits. These
/// commits may have been made before or after the instant. If the preceding generation begins after the instant, the instant is in
/// the gap before it, and belongs to the generation before the gap.
fn index_of(timeline: &Timeline, at: Micros) -> Result<Option<usize>> {
    let Some(mut index) = last_started(timeline, at)? else { return Ok(None) };
    loop {
        let generation = timeline.generation(timeline.numbers[index])?;
        let is_started = timeline.starts_at(&generation) <= at;
        if is_started
            && (at >= generation.includes_all_before() || !follows_unstamped(timeline, index, &generation)?)
        {
            return Ok(Some(index));
        }
        let Some(previous) = index.checked_sub(1) else { return Ok(None) };
        index = previous;
    }
}

/// The index of the last generation that starts at or before an instant.
fn last_started(timeline: &Timeline, at: Micros) -> Result<Option<usize>> {
    let is_started = |index: usize| {
        let generation = timeline.generation(timeline.numbers[index])?;
        Ok::<_, Error>(timeline.starts_at(&generation) <= at)
    };
    let search = || {
        let (mut low, mut high) = (0, timeline.numbers.len());
        while low < high {
            let middle = low.midpoint(high);
            if is_started(middle)? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low.checked_sub(1))
    };
    match search() {
        // The binary search met a damaged generation, which may be far from the instant. Search linearly instead.
        Err(error) if Error::kind(&error) == ErrorKind::Corrupt => {
            let mut indexes = (0..timeline.numbers.len()).rev();
            let found = indexes.find(|index| is_started(*index).is_ok_and(|is_started| is_started));
            found.map(Some).ok_or(error)
        }
        found => found,
    }
}

/// The first commit of the generations after the one at `index`, as far as the history continues without a gap or damage.
fn first_commit_after(timeline: &Timeline, index: usize) -> Option<Micros> {
    for number in &timeline.numbers[index + 1..] {
        let stamps = timeline.stamps(*number).ok().filter(|stamps| !stamps.generation.begins())?;
        let next = timeline.next(*number).ok()?;
        for record in commits(timeline, &stamps, next.as_ref()).ok()? {
            if let CommitRecord::Commit(commit) = record {
                return Some(commit.at);
            }
        }
    }
    None
}
