//! The frames to apply to a snapshot to reach a commit: for each page, the log and the frame with its newest version.

use std::{
    iter,
    num::NonZero,
    panic::resume_unwind,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
};

use super::{
    errors::{damaged, missing, not_archived},
    frame_ref::{FrameRef, PackedPage},
    frame_store::{FrameStore, ImageLog, LiveWal},
    generation_log::{GenerationLog, fixed_end, known_end, was_not_archived},
    image::{HistoricalImage, ImageParts},
    overlay::Overlay,
    snapshot::Snapshot,
    target::Target,
    timeline::Timeline,
};
use crate::{
    error::{ErrorKind, Result},
    layout::ArchiveFile,
    stamps::{Generation, LogEnd, Stamps},
    units::{FrameNumber, GenerationNumber},
};

/// Maximum number of threads that read logs for one image.
const THREADS_MAX: usize = 4;

const THREAD: &str = "litefleet-log";

/// Maximum number of logs whose frames are in memory at a time.
const LOGS_AT_ONCE: usize = 32;

/// A generation between the snapshot and the target.
#[derive(Clone, Copy)]
struct Step {
    generation: Generation,
    /// How its log ended, if that is known.
    end: Option<LogEnd>,
    /// The last frame to apply if this is the target's generation. All frames of the other generations are applied.
    up_to: Option<FrameNumber>,
}

/// The image at a commit, from the newest snapshot that leads to it, or the newest one before the generation `below`.
pub(super) fn image(
    timeline: &Timeline,
    target: &Target,
    below: Option<GenerationNumber>,
) -> Result<HistoricalImage> {
    let mut first_error = None;
    let until = target.number.next();
    let until = below.map_or(until, |below| below.min(until));
    for number in timeline.snapshots.range(..until).rev() {
        match image_from(timeline, *number, target) {
            Ok(image) => return Ok(image),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                first_error.get_or_insert(error);
            }
            // No older snapshot leads to the commit. Report the damage of the newer one.
            Err(error) if error.kind() == ErrorKind::OutsideWindow && first_error.is_some() => break,
            Err(error) => return Err(error),
        }
    }
    Err(first_error.unwrap_or_else(|| missing(&timeline.path(target.number, ArchiveFile::Snapshot))))
}

/// The image at the end of the newest generation, which has ended.
pub(super) fn image_at_end(timeline: &Timeline, stamps: &Stamps) -> Result<HistoricalImage> {
    // A generation without commits ends at the frame at which it began.
    let end = known_end(timeline, stamps)?;
    let frame = end.map_or(stamps.generation.base_frame, |end| end.frame);
    image(timeline, &Target::after_frame(stamps.generation.number, frame), None)
}

/// The image before the first commit of a generation that continues its predecessor.
pub(super) fn image_before(timeline: &Timeline, generation: &Generation) -> Result<HistoricalImage> {
    let previous = generation.number.previous().unwrap_or(generation.number);
    let frame = generation.lineage.end_before().and_then(|end| end.frame);
    image(timeline, &Target::after_frame(previous, frame), None)
}

/// The image at a commit, from the snapshot before the generation `first`.
pub(super) fn image_from(
    timeline: &Timeline,
    first: GenerationNumber,
    target: &Target,
) -> Result<HistoricalImage> {
    let generation = timeline.generation(first)?;
    let page_size = generation.page_size;
    let snapshot = Snapshot::open(timeline.ended(), &generation)?
        .ok_or_else(|| damaged(&timeline.path(first, ArchiveFile::Sum), "it belongs to another history"))?;
    let mut builder = Builder { overlay: Overlay::new(snapshot.page_count(), page_size), logs: Vec::new() };
    let steps = steps(timeline, first, target)?;
    for steps in steps.chunks(LOGS_AT_ONCE) {
        for (step, log) in steps.iter().zip(logs(timeline, steps)) {
            match log? {
                Some(log) => builder.apply(step, target, log)?,
                None => check_absent(timeline, step, target)?,
            }
        }
    }
    let Builder { overlay, logs } = builder;
    let pages = overlay.iter().map(|(page, frame)| PackedPage { frame, page });
    let frames = FrameStore::new(timeline.origin.ended.clone(), page_size, logs, pages);
    let (resolved, lock) = (target.resolved, timeline.held.clone());
    Ok(HistoricalImage::new(ImageParts { first, resolved, page_size, snapshot, overlay, frames, lock }))
}

/// The generations to apply from `first` to the target.
fn steps(timeline: &Timeline, first: GenerationNumber, target: &Target) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut page_size = None;
    let mut known = None;
    let numbers = iter::successors(Some(first), |number| Some(number.next()));
    for number in numbers.take_while(|number| *number <= target.number) {
        let generation = known.take().map_or_else(|| timeline.generation(number), Ok)?;
        if number > first && generation.begins() {
            // The history begins again at this generation, so the snapshot cannot be used.
            return Err(missing(&timeline.path(number, ArchiveFile::Snapshot)));
        }
        if *page_size.get_or_insert(generation.page_size) != generation.page_size {
            let path = timeline.path(number, ArchiveFile::Stamps);
            return Err(damaged(&path, "its page size differs from that of earlier generations"));
        }
        let is_last = number == target.number;
        // The next generation records how this log ended. If the next generation is damaged, a stamped commit can still be
        // restored.
        let next = match timeline.next(number) {
            Err(error) if is_last && error.kind() == ErrorKind::Corrupt => None,
            next => next?,
        };
        let end = match next.and_then(|next| next.lineage.end_before()) {
            Some(end) => Some(end),
            None => fixed_end(timeline, &timeline.stamps(number)?)?,
        };
        known = next;
        // Before the first commit of the target's generation, none of its frames is applied.
        if !is_last || target.frame != generation.base_frame {
            steps.push(Step { generation, end, up_to: target.frame.filter(|_| is_last) });
        }
    }
    Ok(steps)
}

/// Succeeds if a generation without a log had no commits.
fn check_absent(timeline: &Timeline, step: &Step, target: &Target) -> Result<()> {
    let number = step.generation.number;
    let is_last = number == target.number;
    let segment = timeline.path(number, ArchiveFile::Segment);
    let stamps = || timeline.stamps(number);
    match step.end {
        None if !is_last && stamps()?.commits().is_empty() => Ok(()),
        None => Err(not_archived(&segment)),
        Some(_) if is_last && was_not_archived(timeline, &stamps()?)? => Err(not_archived(&segment)),
        Some(_) => Err(missing(&segment)),
    }
}

struct Builder {
    overlay: Overlay<FrameRef>,
    logs: Vec<ImageLog>,
}

impl Builder {
    /// Applies the commits of a generation.
    fn apply(&mut self, step: &Step, target: &Target, log: GenerationLog) -> Result<()> {
        let Step { generation, end, up_to } = step;
        let GenerationLog { path, is_compressed, log, live } = log;
        if end.is_some_and(|end| end != log.end()) {
            return Err(damaged(&path, "its end differs from the recorded one"));
        }
        let last = if generation.number == target.number { *up_to } else { log.end().frame };
        if last.and_then(|last| log.frame(last)).is_none_or(|frame| frame.commit.is_none()) {
            let last = FrameNumber::count(last);
            return Err(damaged(&path, format_args!("frame {last} does not end a commit")));
        }
        let range = FrameNumber::count(generation.base_frame) as usize..FrameNumber::count(last) as usize;
        let number = u32::try_from(self.logs.len()).unwrap_or(u32::MAX);
        self.overlay.apply(&log, &path, range, |frame| FrameRef { log: number, frame })?;
        let live = live.map(|file| LiveWal { file, header: log.start });
        let (number, page_checksums) = (generation.number, log.page_checksums);
        self.logs.push(ImageLog { number, path, is_compressed, page_checksums, live });
        Ok(())
    }
}

/// The logs of some generations, in order. Several threads read logs without an index.
fn logs(timeline: &Timeline, steps: &[Step]) -> Vec<Result<Option<GenerationLog>>> {
    let open = |step: &Step| GenerationLog::open(timeline, &step.generation, step.end);
    let is_indexed = |step: &&Step| timeline.indexed.contains(&step.generation.number);
    let whole = steps.len() - steps.iter().filter(is_indexed).count();
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX).min(whole);
    if threads < 2 {
        return steps.iter().map(open).collect();
    }
    let next = AtomicUsize::new(0);
    let read = || {
        let take = || steps.get(next.fetch_add(1, Relaxed));
        iter::from_fn(take).map(|step| (step.generation.number, open(step))).collect::<Vec<_>>()
    };
    let mut logs = thread::scope(|scope| {
        // If a thread cannot be started, the others do its work, this one included.
        let spawn = |_| thread::Builder::new().name(THREAD.into()).spawn_scoped(scope, read).ok();
        let reading: Vec<_> = (1..threads).filter_map(spawn).collect();
        let mut logs = read();
        for reading in reading {
            logs.extend(reading.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        logs
    });
    logs.sort_unstable_by_key(|(number, _)| *number);
    logs.into_iter().map(|(_, log)| log).collect()
}
