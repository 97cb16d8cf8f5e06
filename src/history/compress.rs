//! Compression of the logs that only restores to older instants read.
//!
//! A log is *cold* if no restore to an instant of the last day reads it, because such a restore starts from a newer snapshot. No
//! writer reads a cold log. Only the logs of unencrypted databases are compressed, because encrypted pages do not compress. Most
//! restores are to a recent instant, shortly before a mistake was noticed. The logs that they read are not compressed.
//!
//! The log is deleted only after its compressed file is complete, durable and verified by reading it back. The deletion holds the
//! exclusive lock of the archive, as pruning does. A reader of the history holds the shared lock, so no file that it uses is
//! deleted.

use std::path::Path;

use super::{
    archive::Archive,
    dir_lock::exclusive,
    frame_index::{self, IndexWriter},
    log::Log,
    log_file::LogFile,
    snapshot::Snapshot,
    timeline::{Origin, Timeline},
};
use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    layout::ArchiveFile,
    point::MaintenanceReport,
    progress::{self, Phase, ProgressFn},
    seekable::{FRAMES_MAX, Frames, SeekTable},
    stamps::{Generation, LogEnd},
    units::{GenerationNumber, Micros},
    wal::{FRAME_HEADER_LEN, HEADER_LEN},
};

/// The age in microseconds of the newest instant whose restore may read a compressed log: a day.
const DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// Approximate number of bytes, at least one page, that are compressed together, and therefore decompressed to read one page.
///
/// With parts of 128 KiB, logs of large transactions do not get smaller, and those of small transactions, which write the same
/// pages repeatedly, get smaller by up to a third; but reading a page takes 10 times as long, and a restore 3 times as long.
const PART_LEN: u64 = 4 << 10;

/// The number of positions in a log at which a sample of this many parts is compressed, to see whether compression pays.
const SAMPLES: usize = 4;
const SAMPLED_PARTS: usize = 32;

/// Number of bytes that are compared at once, and approximate number of bytes that are written at once.
const READ_LEN: usize = 1 << 20;
const WRITE_LEN: usize = 128 << 10;

/// The compression of one history's logs.
pub(super) struct Compression<'a> {
    pub(super) origin: &'a Origin,
    pub(super) disk: &'a Disk,
    pub(super) now: Micros,
}

/// A log that may be compressed.
struct ColdLog {
    generation: Generation,
    end: LogEnd,
}

impl Compression<'_> {
    /// Compresses cold logs, one after the other.
    pub(super) fn run(&self, report: &mut MaintenanceReport, watch: &mut ProgressFn<'_>) -> Result<()> {
        let before = report.compressed;
        let compressed = self.compress_all(report, watch);
        if report.compressed > before {
            self.ended().flush()?;
        }
        compressed
    }

    fn ended(&self) -> &Archive {
        &self.origin.ended
    }

    fn compress_all(&self, report: &mut MaintenanceReport, watch: &mut ProgressFn<'_>) -> Result<()> {
        let ended = self.ended();
        let paths = &self.origin.paths;
        let writer = IndexWriter { disk: self.disk, paths };
        let cutoff = self.now.minus(DAY);
        for cold in self.origin.ask(|timeline| cold_logs(timeline, cutoff))? {
            let ColdLog { generation, end } = &cold;
            let number = generation.number;
            let Some(plain) = LogFile::plain(ended, number)? else { continue };
            let is_done = is_same(&plain, ended, number)?;
            if !is_done && frame_index::does_not_shrink(ended, generation) {
                continue;
            }
            if !is_done && !is_worth_it(&plain, generation.page_size)? {
                frame_index::note_does_not_shrink(ended, writer, generation, *end, &plain)?;
                continue;
            }
            // While a reader holds the shared lock, the log cannot be deleted, and compression would leave two files instead of
            // one.
            if exclusive(paths)?.is_none() {
                report.deferred = true;
                break;
            }
            if !is_done && !self.write_compressed(&plain, &cold, watch)? {
                continue;
            }
            let Some(_lock) = exclusive(paths)? else {
                report.deferred = true;
                break;
            };
            let len = ended.len(number, ArchiveFile::Compressed)?.unwrap_or(0);
            ended.delete(number, ArchiveFile::Segment)?;
            report.compressed += 1;
            report.bytes_saved += plain.len().saturating_sub(len);
        }
        Ok(())
    }

    /// Stores the compressed file of a log durably. Returns `false` for a damaged log, which is not changed.
    fn write_compressed(&self, plain: &LogFile, cold: &ColdLog, watch: &mut ProgressFn<'_>) -> Result<bool> {
        let generation = &cold.generation;
        let log = Log::read_from(|into, at| plain.read_up_to(into, at))?;
        if log.is_none_or(|log| log.salts != generation.salts || log.end() != cold.end) {
            return Ok(false);
        }
        let beside = self.origin.paths.dir().join("compressed.new");
        if let Err(error) = self.write_parts(plain, &beside, generation.page_size, watch) {
            let _removed_next_time = self.disk.remove(&beside);
            return Err(error);
        }
        let ended = self.ended();
        ended.put_whole(generation.number, ArchiveFile::Compressed, &beside)?;
        ended.flush()?;
        if is_same(plain, ended, generation.number)? {
            return Ok(true);
        }
        ended.delete(generation.number, ArchiveFile::Compressed)?;
        Err(Error::naming(ErrorKind::Io, plain.path(), |log| {
            format!(
                "{log} was compressed, and what was read back differs from it; the log was kept; check the disk and the \
                 memory of this machine"
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
        let file = self.disk.create_like(path, &self.origin.data)?;
        let mut frames = Frames::new().map_err(failed)?;
        let mut table = SeekTable::default();
        let (mut buffer, mut written) = (Vec::new(), Vec::new());
        let (mut from, mut at) = (0, 0);
        for to in part_ends(plain.len(), page_size) {
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

/// The ends of the parts of a log that are compressed separately. Each part consists of whole frames of the log, so that no page
/// spans two parts; the first one also has the log's header.
fn part_ends(len: u64, page_size: u32) -> impl Iterator<Item = u64> {
    let frame_len = FRAME_HEADER_LEN as u64 + u64::from(page_size);
    let frames = (PART_LEN / u64::from(page_size)).max(1);
    // A very long log has longer parts, so that the seek table has an entry for each.
    let frames = frames.max(len.div_ceil(frame_len).div_ceil(u64::from(FRAMES_MAX)));
    let ends = (1..).map(move |part| HEADER_LEN as u64 + part * frames * frame_len);
    let whole = ends.take_while(move |end| *end < len);
    whole.chain((len > 0).then_some(len))
}

/// The logs that are not compressed and that no restore to an instant at or after `cutoff` reads.
fn cold_logs(timeline: &Timeline, cutoff: Micros) -> Result<Vec<ColdLog>> {
    let Some(snapshot) = newest_snapshot(timeline, cutoff)? else { return Ok(Vec::new()) };
    let mut cold = Vec::new();
    for number in timeline.numbers.iter().take_while(|number| **number < snapshot) {
        if !timeline.ended().exists(*number, ArchiveFile::Segment)? {
            continue;
        }
        // Damaged generations are not compressed.
        let (stamps, next) = match (timeline.stamps(*number), timeline.next(*number)) {
            (Ok(stamps), Ok(next)) => (stamps, next),
            (Err(error), _) | (_, Err(error)) if error.kind() != ErrorKind::Corrupt => return Err(error),
            _ => continue,
        };
        let end = next.and_then(|next| next.lineage.end_before()).or(stamps.end());
        cold.extend(end.map(|end| ColdLog { generation: stamps.generation, end }));
    }
    Ok(cold)
}

/// The newest snapshot, before a generation that has ended, from which a restore to `cutoff` may start. No file before it is
/// written any more.
fn newest_snapshot(timeline: &Timeline, cutoff: Micros) -> Result<Option<GenerationNumber>> {
    let Some(live) = &timeline.live else { return Ok(None) };
    for number in timeline.snapshots.range(..live.generation.number).rev().copied() {
        let found = timeline.stamps(number).and_then(|stamps| {
            let is_old = stamps.generation.begun_at <= cutoff;
            if is_old { Snapshot::open(timeline.ended(), &stamps.generation) } else { Ok(None) }
        });
        match found {
            Ok(Some(_)) => return Ok(Some(number)),
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::Corrupt => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Whether compression shrinks samples of a log by an eighth or more. Otherwise slower reads would gain nothing.
fn is_worth_it(plain: &LogFile, page_size: u32) -> Result<bool> {
    let ends: Vec<u64> = part_ends(plain.len(), page_size).collect();
    if ends.len() > FRAMES_MAX as usize {
        return Ok(false);
    }
    let mut writer = Frames::new().map_err(failed)?;
    let mut buffer = Vec::new();
    let (mut before, mut after) = (0, 0);
    for sample in 0..SAMPLES {
        let first = sample * ends.len() / SAMPLES;
        for index in first..ends.len().min(first + SAMPLED_PARTS) {
            let from = index.checked_sub(1).map_or(0, |before| ends[before]);
            buffer.resize(usize::try_from(ends[index] - from).unwrap_or(usize::MAX), 0);
            let count = plain.read_up_to(&mut buffer, from)?;
            before += count;
            after += writer.compress(&buffer[..count]).map_err(failed)?.len();
        }
    }
    Ok(after < before - before / 8)
}

/// Whether the compressed file of a generation exists and decompresses to this log.
fn is_same(plain: &LogFile, ended: &Archive, number: GenerationNumber) -> Result<bool> {
    let compare = || {
        let Some(compressed) = LogFile::compressed(ended, number)? else { return Ok(false) };
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
