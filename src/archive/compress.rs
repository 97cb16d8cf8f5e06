//! Compression of the logs that only restores to older instants need.
//!
//! A log is *cold* when it lies before the newest snapshot: a restore to an instant behind that does not read it, nor does
//! any connection that writes. It is compressed where its pages are plain, since those that are sealed look like noise.
//!
//! The compressed file is whole and on the disk, and was read back, before the log itself is removed. That is done alone
//! with the archive, as is pruning: whoever reads a history shares the archive's lock for as long as it does, and finds the
//! file that it found first.

use std::{path::Path, sync::Arc, thread, time::Duration};

use super::{
    bytes::{Cache, LogBytes},
    maintain::Maintenance,
    segment::Log,
    snapshot::Snapshot,
    timeline::Timeline,
};
use crate::{
    disk::{DirLock, Disk},
    error::{Error, ErrorKind, Result},
    layout::{ArchiveFile, ArchivePaths},
    point::Maintained,
    progress::{self, Phase, Watch},
    seekable::{FRAME_LEN, FRAMES_MAX, Frames, SeekTable},
    stamps::{Generation, LogEnd},
};

/// Frames of a log that are compressed to see whether that pays.
const SAMPLES: u64 = 4;

/// How often the archive's lock is asked for, and how much longer each attempt waits than the one before.
const ATTEMPTS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(1);

/// A log that may be compressed, and how it ends.
type Cold = (Generation, LogEnd);

impl Maintenance<'_> {
    /// Compresses cold logs, one after the other.
    pub(super) fn compress(
        &self,
        paths: &ArchivePaths,
        done: &mut Maintained,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        let before = done.compressed;
        let compressed = self.compress_all(paths, done, watch);
        if done.compressed > before {
            self.disk.sync_dir(paths.dir())?;
        }
        compressed
    }

    fn compress_all(&self, paths: &ArchivePaths, done: &mut Maintained, watch: &mut Watch<'_>) -> Result<()> {
        for (generation, end) in self.ask(cold)? {
            let sequence = generation.sequence;
            let Some(plain) = LogBytes::plain(paths, sequence)? else { continue };
            let is_done = is_same(&plain, paths, sequence)?;
            if !is_done && !is_worth_it(&plain)? {
                continue;
            }
            // As long as somebody reads there would be two files instead of one.
            if alone(paths)?.is_none() {
                done.deferred = true;
                break;
            }
            if !is_done && !self.write_compressed(&plain, paths, &(generation, end), watch)? {
                continue;
            }
            let Some(_alone) = alone(paths)? else {
                done.deferred = true;
                break;
            };
            let len = Disk::len(&paths.file(sequence, ArchiveFile::Compressed))?.unwrap_or(0);
            self.disk.remove(&plain.path)?;
            done.compressed += 1;
            done.bytes_saved += plain.len().saturating_sub(len);
        }
        Ok(())
    }

    /// Puts a compressed file beside a log, on the disk, and says whether it did: one that is damaged is left as it is.
    fn write_compressed(
        &self,
        plain: &LogBytes,
        paths: &ArchivePaths,
        (generation, end): &Cold,
        watch: &mut Watch<'_>,
    ) -> Result<bool> {
        let log = Log::read_from(|into, at| plain.read_up_to(into, at))?;
        if log.is_none_or(|log| log.salts != generation.salts || log.end() != *end) {
            return Ok(false);
        }
        let beside = paths.dir().join("compressed.new");
        if let Err(error) = self.write_frames(plain, &beside, watch) {
            let _removed_next_time = self.disk.remove(&beside);
            return Err(error);
        }
        let path = paths.file(generation.sequence, ArchiveFile::Compressed);
        self.disk.rename(&beside, &path)?;
        self.disk.sync_dir(paths.dir())?;
        if is_same(plain, paths, generation.sequence)? {
            return Ok(true);
        }
        self.disk.remove(&path)?;
        let message = format!(
            "{} was compressed, and what was read back of that is something else: check the disk and the memory of this \
             machine; the log itself was kept",
            plain.path.display()
        );
        Err(Error::new(ErrorKind::Io, message))
    }

    fn write_frames(&self, plain: &LogBytes, path: &Path, watch: &mut Watch<'_>) -> Result<()> {
        self.disk.remove(path)?;
        let file = self.disk.create(path)?;
        let mut frames = Frames::new().map_err(failed)?;
        let mut table = SeekTable::default();
        let mut buffer = vec![0; FRAME_LEN];
        let (mut plain_at, mut at) = (0, 0);
        loop {
            progress::tell(watch, Phase::Copy, plain_at, Some(plain.len()))?;
            let count = plain.read_up_to(&mut buffer, plain_at)?;
            if count == 0 {
                break;
            }
            let frame = frames.compress(&buffer[..count]).map_err(failed)?;
            self.disk.write_at(&file, path, &frame, at)?;
            let len = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
            table.push(len(frame.len()), len(count));
            plain_at += count as u64;
            at += frame.len() as u64;
        }
        self.disk.write_at(&file, path, &table.encode(), at)?;
        self.disk.sync_file(&file, path)
    }
}

/// The archive's lock, alone. Who asks for the points of a history or begins a generation has it for a moment, and so does
/// a program that is being started by this process: that is waited for, and a restore is not.
pub(super) fn alone(paths: &ArchivePaths) -> Result<Option<DirLock>> {
    for attempt in 0..ATTEMPTS {
        thread::sleep(PAUSE * attempt);
        if let Some(alone) = Disk::lock_dir(paths.dir())? {
            return Ok(Some(alone));
        }
    }
    Ok(None)
}

/// The logs before the newest snapshot that are not compressed.
fn cold(timeline: &Timeline) -> Result<Vec<Cold>> {
    let Some(snapshot) = newest_snapshot(timeline)? else { return Ok(Vec::new()) };
    let mut cold = Vec::new();
    for sequence in timeline.sequences.iter().take_while(|sequence| **sequence < snapshot) {
        if !Disk::exists(&timeline.paths.file(*sequence, ArchiveFile::Segment))? {
            continue;
        }
        // What is damaged is left as it is.
        let (stamps, after) = match (timeline.stamps(*sequence), timeline.after(*sequence)) {
            (Ok(stamps), Ok(after)) => (stamps, after),
            (Err(error), _) | (_, Err(error)) if error.kind() != ErrorKind::Corrupt => return Err(error),
            _ => continue,
        };
        let end = after.filter(|after| !after.begins).map(|after| after.end_before).or(stamps.end());
        cold.extend(end.map(|end| (stamps.generation, end)));
    }
    Ok(cold)
}

/// The newest snapshot from which a restore may begin, before a generation that has ended: nothing that lies before it is
/// written any more.
fn newest_snapshot(timeline: &Timeline) -> Result<Option<u64>> {
    let Some(live) = &timeline.live else { return Ok(None) };
    for sequence in timeline.snapshots.range(..live.generation.sequence).rev().copied() {
        let found = timeline.stamps(sequence).and_then(|stamps| {
            let Generation { page_size, .. } = stamps.generation;
            Snapshot::find(&timeline.paths, sequence, stamps.generation.seed(), page_size)
        });
        match found {
            Ok(Some(_)) => return Ok(Some(sequence)),
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::Corrupt => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Whether compression takes an eighth away at least, by some frames of a log. What it does not shrink is read more slowly
/// for nothing.
fn is_worth_it(plain: &LogBytes) -> Result<bool> {
    let frames = plain.len().div_ceil(FRAME_LEN as u64);
    if frames > u64::from(FRAMES_MAX) {
        return Ok(false);
    }
    let mut writer = Frames::new().map_err(failed)?;
    let mut buffer = vec![0; FRAME_LEN];
    let (mut before, mut after) = (0, 0);
    for sample in 0..SAMPLES.min(frames) {
        let number = sample * frames / SAMPLES.min(frames);
        let count = plain.read_up_to(&mut buffer, number * FRAME_LEN as u64)?;
        before += count;
        after += writer.compress(&buffer[..count]).map_err(failed)?.len();
    }
    Ok(after < before - before / 8)
}

/// Whether the compressed file of a generation is there and holds this log.
fn is_same(plain: &LogBytes, paths: &ArchivePaths, sequence: u64) -> Result<bool> {
    let compare = || {
        let cache = Arc::new(Cache::default());
        let Some(compressed) = LogBytes::compressed(paths, sequence, &cache)? else { return Ok(false) };
        let (mut one, mut other) = (vec![0; FRAME_LEN], vec![0; FRAME_LEN]);
        let mut at = 0;
        while at < plain.len() {
            let count = plain.read_up_to(&mut one, at)?;
            if count == 0 || compressed.read_up_to(&mut other, at)? != count || one[..count] != other[..count]
            {
                return Ok(false);
            }
            at += count as u64;
        }
        Ok(compressed.len() == at)
    };
    match compare() {
        Err(error) if ErrorKind::Corrupt == Error::kind(&error) => Ok(false),
        same => same,
    }
}

#[cold]
fn failed(error: std::io::Error) -> Error {
    Error::io("compressing a log", error)
}
