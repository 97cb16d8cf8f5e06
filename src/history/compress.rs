//! Compression of the logs that only restores to older instants need.
//!
//! A log is *cold* when no restore to an instant of the last day reads it: there is a newer snapshot, which is older than
//! that. Nor does any connection that writes. It is compressed where its pages are plain, since those that are sealed look
//! like noise. What is restored most is the time just before a mistake was noticed, and that is as fast as ever.
//!
//! The compressed file is whole and on the disk, and was read back, before the log itself is removed. That is done alone
//! with the archive, as is pruning: whoever reads a history shares the archive's lock for as long as it does, and finds the
//! file that it found first.

use std::{path::Path, thread, time::Duration};

use super::{
    frame_index, log::Log, log_file::LogFile, maintain::Maintenance, snapshot::Snapshot, timeline::Timeline,
};
use crate::{
    disk::{DirLock, Disk},
    error::{Error, ErrorKind, Result},
    layout::{ArchiveFile, ArchivePaths},
    point::MaintenanceReport,
    progress::{self, Phase, ProgressFn},
    seekable::{FRAMES_MAX, Frames, SeekTable},
    stamps::{Generation, LogEnd},
    wal::{FRAME_HEADER_LEN, HEADER_LEN},
};

/// How long back no restore needs a log that is compressed, in microseconds: a day.
const DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// About what is compressed by itself, in bytes, and one page at least: what is decompressed to read a page. With 128 KiB
/// logs of large commits are no smaller, and those of small ones, which write the same pages again and again, by up to a
/// third; but a view reads a page in ten times as long, and a restore is three times as long.
const PART_LEN: u64 = 4 << 10;

/// The places in a log where so many parts are compressed to see whether that pays.
const SAMPLES: usize = 4;
const SAMPLED_PARTS: usize = 32;

/// What is read at once to compare, and about what is written at once.
const READ_LEN: usize = 1 << 20;
const WRITE_LEN: usize = 128 << 10;

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
        done: &mut MaintenanceReport,
        watch: &mut ProgressFn<'_>,
    ) -> Result<()> {
        let before = done.compressed;
        let compressed = self.compress_all(paths, done, watch);
        if done.compressed > before {
            self.disk.sync_dir(paths.dir())?;
        }
        compressed
    }

    fn compress_all(
        &self,
        paths: &ArchivePaths,
        done: &mut MaintenanceReport,
        watch: &mut ProgressFn<'_>,
    ) -> Result<()> {
        let cutoff = self.now.as_micros().saturating_sub(DAY);
        for (generation, end) in self.ask(|timeline| cold(timeline, cutoff))? {
            let sequence = generation.sequence;
            let Some(plain) = LogFile::plain(paths, sequence)? else { continue };
            let is_done = is_same(&plain, paths, sequence)?;
            if !is_done && frame_index::does_not_shrink(paths, &generation) {
                continue;
            }
            if !is_done && !is_worth_it(&plain, generation.page_size)? {
                frame_index::note_does_not_shrink(self.disk, paths, &generation, end, &plain)?;
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
        plain: &LogFile,
        paths: &ArchivePaths,
        (generation, end): &Cold,
        watch: &mut ProgressFn<'_>,
    ) -> Result<bool> {
        let log = Log::read_from(|into, at| plain.read_up_to(into, at))?;
        if log.is_none_or(|log| log.salts != generation.salts || log.end() != *end) {
            return Ok(false);
        }
        let beside = paths.dir().join("compressed.new");
        if let Err(error) = self.write_parts(plain, &beside, generation.page_size, watch) {
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
        Err(Error::naming(ErrorKind::Io, &plain.path, |log| {
            format!(
                "{log} was compressed, and what was read back of that is something else: check the disk and the memory of \
                 this machine; the log itself was kept"
            )
        }))
    }

    fn write_parts(
        &self,
        plain: &LogFile,
        path: &Path,
        page_size: u32,
        watch: &mut ProgressFn<'_>,
    ) -> Result<()> {
        self.disk.remove(path)?;
        let file = self.disk.create_like(path, self.data)?;
        let mut frames = Frames::new().map_err(failed)?;
        let mut table = SeekTable::default();
        let (mut buffer, mut written) = (Vec::new(), Vec::new());
        let (mut from, mut at) = (0, 0);
        for to in parts(plain.len(), page_size) {
            buffer.resize(usize::try_from(to - from).unwrap_or(usize::MAX), 0);
            let count = plain.read_up_to(&mut buffer, from)?;
            let frame = frames.compress(&buffer[..count]).map_err(failed)?;
            let len = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
            table.push(len(frame.len()), len(count));
            written.extend(frame);
            if written.len() >= WRITE_LEN {
                progress::tell(watch, Phase::Copy, from, Some(plain.len()))?;
                self.disk.write_at(&file, path, &written, at)?;
                at += written.len() as u64;
                written.clear();
            }
            from = to;
        }
        written.extend(table.encode());
        self.disk.write_at(&file, path, &written, at)?;
        self.disk.sync_file(&file, path)
    }
}

/// Where the parts of a log end that are compressed by themselves. Each has whole frames of the log, so that no page is in
/// two of them, and the first the log's header too.
fn parts(len: u64, page_size: u32) -> impl Iterator<Item = u64> {
    let frame_len = FRAME_HEADER_LEN as u64 + u64::from(page_size);
    let frames = (PART_LEN / u64::from(page_size)).max(1);
    // A log that is very long has longer ones, so that the table has room for all.
    let frames = frames.max(len.div_ceil(frame_len).div_ceil(u64::from(FRAMES_MAX)));
    let ends = (1..).map(move |part| HEADER_LEN as u64 + part * frames * frame_len);
    let whole = ends.take_while(move |end| *end < len);
    whole.chain((len > 0).then_some(len))
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

/// The logs that are not compressed and that no restore to an instant at or after `cutoff` reads.
fn cold(timeline: &Timeline, cutoff: i64) -> Result<Vec<Cold>> {
    let Some(snapshot) = newest_snapshot(timeline, cutoff)? else { return Ok(Vec::new()) };
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

/// The newest snapshot from which a restore to `cutoff` may begin, before a generation that has ended: nothing that lies
/// before it is written any more.
fn newest_snapshot(timeline: &Timeline, cutoff: i64) -> Result<Option<u64>> {
    let Some(live) = &timeline.live else { return Ok(None) };
    for sequence in timeline.snapshots.range(..live.generation.sequence).rev().copied() {
        let found = timeline.stamps(sequence).and_then(|stamps| {
            let Generation { begun_at, page_size, .. } = stamps.generation;
            let is_old = begun_at <= cutoff;
            let find = || Snapshot::find(&timeline.paths, sequence, stamps.generation.seed(), page_size);
            if is_old { find() } else { Ok(None) }
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

/// Whether compression takes an eighth away at least, by some parts of a log. What it does not shrink is read more slowly
/// for nothing.
fn is_worth_it(plain: &LogFile, page_size: u32) -> Result<bool> {
    let ends: Vec<u64> = parts(plain.len(), page_size).collect();
    if ends.len() > FRAMES_MAX as usize {
        return Ok(false);
    }
    let mut writer = Frames::new().map_err(failed)?;
    let mut buffer = Vec::new();
    let (mut before, mut after) = (0, 0);
    for sample in 0..SAMPLES {
        let first = sample * ends.len() / SAMPLES;
        for number in first..ends.len().min(first + SAMPLED_PARTS) {
            let from = number.checked_sub(1).map_or(0, |before| ends[before]);
            buffer.resize(usize::try_from(ends[number] - from).unwrap_or(usize::MAX), 0);
            let count = plain.read_up_to(&mut buffer, from)?;
            before += count;
            after += writer.compress(&buffer[..count]).map_err(failed)?.len();
        }
    }
    Ok(after < before - before / 8)
}

/// Whether the compressed file of a generation is there and holds this log.
fn is_same(plain: &LogFile, paths: &ArchivePaths, sequence: u64) -> Result<bool> {
    let compare = || {
        let Some(compressed) = LogFile::compressed(paths, sequence)? else { return Ok(false) };
        let (mut one, mut other) = (vec![0; READ_LEN], vec![0; READ_LEN]);
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
