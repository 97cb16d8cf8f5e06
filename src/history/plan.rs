//! The way from a snapshot to a commit: which frame of which log holds the newest version of each page there.

use std::{
    iter,
    num::NonZero,
    panic::resume_unwind,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use super::{
    damaged,
    errors::written_away,
    image::{FrameRef, HistoricalImage, OpenLog},
    log::Log,
    missing,
    snapshot::Snapshot,
    timeline::{Source, Target, Timeline},
};
use crate::{
    disk::Disk,
    error::{ErrorKind, Result},
    layout::ArchiveFile,
    stamps::{Generation, LogEnd},
};

/// The most threads that read logs for one way.
const THREADS_MAX: usize = 4;

const THREAD: &str = "litefleet-log";

/// Logs whose frames are in memory at a time.
const LOGS_AT_ONCE: usize = 32;

/// A generation on the way.
#[derive(Clone, Copy)]
struct Step {
    generation: Generation,
    /// How its log ended, if that is known.
    end: Option<LogEnd>,
    /// The last frame that is taken of it; all of them where there is none.
    upto: Option<u32>,
}

impl HistoricalImage {
    pub(super) fn with(timeline: &Timeline, target: &Target, below: Option<u64>) -> Result<Self> {
        let mut first_error = None;
        let until = below.unwrap_or(u64::MAX).min(target.sequence + 1);
        for sequence in timeline.snapshots.range(..until).rev() {
            match Self::from_snapshot(timeline, *sequence, target) {
                Ok(past) => return Ok(past),
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    first_error.get_or_insert(error);
                }
                // That an older one does not lead there is no news: a newer one does, and is damaged.
                Err(error) if error.kind() == ErrorKind::OutsideWindow && first_error.is_some() => break,
                Err(error) => return Err(error),
            }
        }
        Err(first_error
            .unwrap_or_else(|| missing(&timeline.paths.file(target.sequence, ArchiveFile::Snapshot))))
    }

    pub(super) fn from_snapshot(timeline: &Timeline, first: u64, target: &Target) -> Result<Self> {
        let paths = &timeline.paths;
        let mut stamps = timeline.stamps(first)?;
        let page_size = stamps.generation.page_size;
        let snapshot_path = paths.file(first, ArchiveFile::Snapshot);
        let snapshot = Snapshot::find(paths, first, stamps.generation.seed(), page_size)?
            .ok_or_else(|| damaged(&snapshot_path, "it belongs to another history"))?;
        let mut past = Self::of_snapshot(timeline, target, (first, page_size), snapshot);
        let mut steps = Vec::new();
        for sequence in first..=target.sequence {
            if sequence > first {
                stamps = timeline.stamps(sequence)?;
                if stamps.generation.begins {
                    // The snapshot that was taken leads nowhere beyond this point.
                    return Err(missing(&paths.file(sequence, ArchiveFile::Snapshot)));
                }
            }
            let is_last = sequence == target.sequence;
            let upto = is_last.then_some(target.frame);
            if stamps.generation.page_size != page_size {
                let path = paths.file(sequence, ArchiveFile::Stamps);
                return Err(damaged(&path, "its pages have another size than those before them"));
            }
            // What follows vouches for how it ended. Where that is damaged, a commit that has its stamp is known still.
            let after = match timeline.after(sequence) {
                Err(error) if is_last && error.kind() == ErrorKind::Corrupt => None,
                after => after?.filter(|after| !after.begins),
            };
            let end = match after {
                Some(after) => Some(after.end_before),
                None => timeline.fixed_end(&stamps)?,
            };
            // Before its first commit nothing is taken of the last one.
            if upto != Some(stamps.generation.first_frame) {
                steps.push(Step { generation: stamps.generation, end, upto });
            }
        }
        for steps in steps.chunks(LOGS_AT_ONCE) {
            for (step, source) in steps.iter().zip(sources(timeline, steps)) {
                past.lay_over(timeline, step, source?)?;
            }
        }
        let places = (1..).zip(&past.places).filter_map(|(number, place)| Some(((*place)?, number)));
        past.packed = places.filter(|(place, _)| past.logs[place.log as usize].is_compressed).collect();
        past.packed.sort_unstable();
        Ok(past)
    }

    /// Takes the commits of a generation, all or up to a frame.
    fn lay_over(&mut self, timeline: &Timeline, step: &Step, source: Option<Source>) -> Result<()> {
        let Step { generation, end, upto } = step;
        let Some(Source { path, is_compressed, live, log }) = source else {
            let archived = timeline.paths.file(generation.sequence, ArchiveFile::Segment);
            return match end {
                // One that was begun and never used leaves nothing.
                None if upto.is_none() && timeline.stamps(generation.sequence)?.made(None).is_empty() => {
                    Ok(())
                }
                // It never came into the archive.
                None => Err(written_away(&archived)),
                Some(_)
                    if upto.is_some()
                        && timeline.is_written_away(&timeline.stamps(generation.sequence)?)? =>
                {
                    Err(written_away(&archived))
                }
                Some(_) => Err(missing(&archived)),
            };
        };
        let there = log.end();
        if end.is_some_and(|end| end != there) {
            return Err(damaged(&path, "it does not end as it did when it was archived"));
        }
        let upto = upto.unwrap_or(there.frame);
        let last = (upto as usize).checked_sub(1).and_then(|last| log.frames.get(last));
        if last.is_none_or(|frame| frame.commit.is_none()) {
            return Err(damaged(&path, format_args!("frame {upto} ended a commit, and does not any more")));
        }
        let log_number = u32::try_from(self.logs.len()).unwrap_or(u32::MAX);
        self.apply(log_number, (&log, &path), generation.first_frame..upto)?;
        let (sequence, live) = (generation.sequence, live.map(|file| (Arc::new(file), log.start)));
        self.logs.push(OpenLog { sequence, path, is_compressed, sums: log.sums, live });
        Ok(())
    }

    fn apply(
        &mut self,
        log_number: u32,
        (log, path): (&Log, &Path),
        range: std::ops::Range<u32>,
    ) -> Result<()> {
        let mut uncommitted = Vec::new();
        for number in range {
            let frame = log.frames[number as usize];
            uncommitted.push((frame.page_number, number + 1));
            let Some(pages) = frame.commit else { continue };
            // A page that no frame has is a free one, which a page of the list of free pages names in four bytes. So what is
            // held in memory of a log follows its length, whatever stands there.
            let named_by_each = u64::from(self.page_size / 4);
            let most = u64::from(self.page_count) + uncommitted.len() as u64 * named_by_each;
            if u64::from(pages) > most {
                let what = format_args!(
                    "frame {} says that the database has {pages} pages, and it can have {most} at most",
                    number + 1
                );
                return Err(damaged(path, what));
            }
            self.page_count = pages;
            self.snapshot_pages = self.snapshot_pages.min(pages);
            self.places.resize(pages as usize, None);
            for (page, frame) in uncommitted.drain(..) {
                if let Some(place) = self.places.get_mut(page as usize - 1) {
                    *place = Some(FrameRef { log: log_number, frame });
                }
            }
        }
        Ok(())
    }
}

/// The logs of some generations, which several threads read where they have to be read whole.
fn sources(timeline: &Timeline, steps: &[Step]) -> Vec<Result<Option<Source>>> {
    let source = |step: &Step| timeline.source(&step.generation, step.end);
    let is_indexed = |step: &&Step| {
        // Where that cannot be told, it is told below what is wrong.
        Disk::exists(&timeline.paths.file(step.generation.sequence, ArchiveFile::Index)).unwrap_or(true)
    };
    let whole = steps.len() - steps.iter().filter(is_indexed).count();
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX).min(whole);
    if threads < 2 {
        return steps.iter().map(source).collect();
    }
    let next = AtomicUsize::new(0);
    let read = || {
        let take = || steps.get(next.fetch_add(1, Relaxed));
        iter::from_fn(take).map(|step| (step.generation.sequence, source(step))).collect::<Vec<_>>()
    };
    let mut sources = thread::scope(|scope| {
        // Where there is no thread to be had, others do its work: this one, if need be.
        let spawn = |_| thread::Builder::new().name(THREAD.into()).spawn_scoped(scope, read).ok();
        let reading: Vec<_> = (1..threads).filter_map(spawn).collect();
        let mut sources = read();
        for reading in reading {
            sources.extend(reading.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        sources
    });
    sources.sort_unstable_by_key(|(sequence, _)| *sequence);
    sources.into_iter().map(|(_, source)| source).collect()
}
