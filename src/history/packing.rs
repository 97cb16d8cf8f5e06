//! Merges the files of ended generations into packs.
//!
//! A writer that connects for one commit leaves a generation, which is two or three small files. Maintenance replaces the files of
//! consecutive generations by a [pack](crate::pack), and consecutive packs by a larger one. A pack is merged with the one before it
//! if that is at most twice as long, so a history has few packs, and each byte is written a number of times that grows with the
//! logarithm of the history's length.
//!
//! A pack begins at each generation with a snapshot or at which the history begins. Retention only ever starts at such a
//! generation. It therefore removes whole packs, and no pack keeps pruned generations.
//!
//! The newest generations are not packed: a writer reads their stamps by path after a crash.
//!
//! The files are deleted only after the pack is complete, durable and verified by reading it back. The pack gets its name and the
//! files are deleted under the exclusive lock of the archive, as in pruning. A reader of the history holds the shared lock, so no
//! file that it uses is deleted.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    archive::{Archive, NumberedFile},
    checksummed,
    dir_lock::exclusive,
    ended::EndedName,
    frame_index,
    log::Log,
    log_file::LogFile,
    pack_file::PackFile,
    pack_writer::{PackWriter, Packable, is_same_log},
    timeline::{Origin, Timeline},
};
use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    layout::ArchiveFile,
    pack::{GENERATIONS_MAX, Kind},
    point::MaintenanceReport,
    progress::ProgressFn,
    stamps::{Generation, LogEnd, Stamps},
    units::{GenerationNumber, GenerationSpan},
    wal,
};

/// The number of ended generations that are not packed.
const NEWEST_KEPT: u64 = 2;

/// Generations are packed if there are this many, or if their files have this many bytes in all.
const GENERATIONS_MIN: usize = 8;
const LEN_MIN: u64 = 16 << 20;

/// Maximum number of bytes in a pack of a history without a limit, unless it has one generation.
const LEN_MAX: u64 = 64 << 20;

/// Maximum length of a segment of an encrypted database that is packed. Longer ones gain nothing, because they do not compress and
/// are few.
const SEALED_LOG_MAX: u64 = 1 << 20;

/// The packing of one history's files.
pub(super) struct Packing<'a> {
    pub(super) origin: &'a Origin,
    pub(super) disk: &'a Disk,
    /// Whether the pages of the database are not sealed.
    pub(super) is_plain: bool,
    /// The limit of the history in bytes.
    pub(super) limit: Option<u64>,
}

/// A generation whose files may be packed.
struct Candidate {
    generation: Generation,
    /// How its log ended, or `None` if it has no log.
    end: Option<LogEnd>,
    len: u64,
}

/// Consecutive generations that may become one pack.
#[derive(Default)]
struct Candidates {
    /// Those of packs that are replaced.
    packed: Vec<Candidate>,
    loose: Vec<Candidate>,
}

fn total(of: &[Candidate]) -> u64 {
    of.iter().map(|candidate| candidate.len).sum()
}

impl Packing<'_> {
    /// Packs generations. A pack at a time replaces files, so that little is lost if this fails.
    pub(super) fn run(&self, report: &mut MaintenanceReport, watch: &mut ProgressFn<'_>) -> Result<()> {
        self.remove_replaced(report)?;
        for candidates in self.origin.ask(|timeline| self.candidates(timeline))? {
            // While a reader holds the shared lock, the files cannot be replaced.
            if exclusive(&self.origin.paths)?.is_none() {
                report.deferred = true;
                break;
            }
            self.pack(&candidates, report, watch)?;
        }
        Ok(())
    }

    /// Maximum number of bytes in a pack, unless it has one generation. A limit on the history removes packs as a whole, so none may
    /// take up much of it.
    fn len_max(&self) -> u64 {
        self.limit.map_or(LEN_MAX, |limit| LEN_MAX.min(limit / 4))
    }

    fn archive(&self) -> &Archive {
        &self.origin.ended
    }

    /// The generations to pack.
    fn candidates(&self, timeline: &Timeline) -> Result<Vec<Candidates>> {
        let Some(live) = &timeline.live else { return Ok(Vec::new()) };
        let (loose, packs) = (self.archive().list_loose()?, self.archive().list_packs()?);
        let is_packed = |number| packs.iter().any(|pack| pack.span().contains(number));
        let mut all: Vec<Candidates> = Vec::new();
        let mut run = Candidates::default();
        let newest = live.generation.number;
        for number in timeline.numbers.iter().copied() {
            if number.get() + NEWEST_KEPT >= newest.get() {
                break;
            }
            let is_loose = loose.contains(&(number, ArchiveFile::Stamps)) && !is_packed(number);
            let found = if is_loose { self.candidate(timeline, number)? } else { None };
            let ends = match (run.loose.last(), &found) {
                (Some(last), Some(found)) => {
                    last.generation.number.next() != number
                        || begins_pack(timeline, &found.generation)
                        || total(&run.loose) + found.len > self.len_max()
                        || run.loose.len() as u64 == GENERATIONS_MAX
                }
                _ => true,
            };
            if ends {
                all.push(std::mem::take(&mut run));
            }
            run.loose.extend(found);
        }
        all.push(run);
        all.retain(|run| run.loose.len() >= GENERATIONS_MIN || total(&run.loose) >= LEN_MIN);
        for run in &mut all {
            self.add_packs(timeline, &packs, run)?;
        }
        Ok(all)
    }

    /// Adds the packs before the loose generations that are merged with them.
    fn add_packs(&self, timeline: &Timeline, packs: &[Arc<PackFile>], run: &mut Candidates) -> Result<()> {
        loop {
            let Some(first) = run.packed.first().or(run.loose.first()) else { return Ok(()) };
            if begins_pack(timeline, &first.generation) {
                return Ok(());
            }
            let previous = first.generation.number.previous();
            let Some(pack) = packs.iter().find(|pack| Some(pack.span().last) == previous) else {
                return Ok(());
            };
            let span = pack.span();
            // Its pruned generations are removed sooner if it is not merged.
            if timeline.retained_from.is_some_and(|from| span.first < from) {
                return Ok(());
            }
            let found: Result<Option<Vec<_>>> =
                span.numbers().map(|number| self.candidate(timeline, number)).collect();
            let Some(mut found) = found? else { return Ok(()) };
            let (before, after) = (total(&found), total(&run.packed) + total(&run.loose));
            let count = found.len() + run.packed.len() + run.loose.len();
            if before > 2 * after || before + after > self.len_max() || count as u64 > GENERATIONS_MAX {
                return Ok(());
            }
            found.append(&mut run.packed);
            run.packed = found;
        }
    }

    /// A generation that can be packed. Returns `None` if it is damaged, if it is not known how its log ended, or if packing it gains
    /// nothing.
    fn candidate(&self, timeline: &Timeline, number: GenerationNumber) -> Result<Option<Candidate>> {
        let (stamps, next) = match (timeline.stamps(number), timeline.next(number)) {
            (Ok(stamps), Ok(next)) => (stamps, next),
            (Err(error), _) | (_, Err(error)) if error.kind() != ErrorKind::Corrupt => return Err(error),
            _ => return Ok(None),
        };
        let archive = self.archive();
        let len = |file| archive.len(number, file);
        let log_len = len(ArchiveFile::Segment)?.or(match LogFile::compressed(archive, number) {
            Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
            log => log.ok().flatten().map(|log| log.len()),
        });
        let end = known_end(&stamps, next.as_ref(), log_len);
        let is_long = log_len.is_some_and(|len| len > SEALED_LOG_MAX);
        // A missing log may be put back.
        if log_len.is_some() != end.is_some() || is_long && !self.is_plain {
            return Ok(None);
        }
        let len = log_len.unwrap_or(0) + len(ArchiveFile::Stamps)?.unwrap_or(0);
        Ok(Some(Candidate { generation: stamps.generation, end, len }))
    }

    fn pack(
        &self,
        candidates: &Candidates,
        report: &mut MaintenanceReport,
        watch: &mut ProgressFn<'_>,
    ) -> Result<()> {
        // A pack with a damaged log is not replaced.
        let packed: Result<Option<Vec<_>>> =
            candidates.packed.iter().map(|candidate| self.check(candidate)).collect();
        let mut generations = packed?.unwrap_or_default();
        let mut loose = 0;
        for candidate in &candidates.loose {
            if let Some(generation) = self.check(candidate)? {
                loose += 1;
                generations.push(generation);
                continue;
            }
            // The damaged generation is not packed.
            self.write(&std::mem::take(&mut generations), loose, report, watch)?;
            loose = 0;
        }
        self.write(&generations, loose, report, watch)
    }

    /// Reads the log of a generation. Returns `None` if it is damaged.
    fn check(&self, candidate: &Candidate) -> Result<Option<Packable>> {
        let generation = &candidate.generation;
        let number = generation.number;
        let read = || {
            let Some(end) = candidate.end else { return Ok(Some((None, None))) };
            let Some(file) = LogFile::open(self.archive(), number)? else { return Ok(None) };
            let log = Log::read_from(|into, at| file.read_up_to(into, at))?;
            let is_whole = |log: &Log| {
                (log.salts, log.page_size, log.end()) == (generation.salts, generation.page_size, end)
            };
            let index = |log: &Log| checksummed::encode(&frame_index::encode(log, generation));
            Ok(log.filter(is_whole).map(|log| (Some(file.len()), Some(index(&log)))))
        };
        let read = match read() {
            Err(error) if ErrorKind::Corrupt == Error::kind(&error) => None,
            read => read?,
        };
        let Some((log_len, index)) = read else { return Ok(None) };
        let stamps_len = self.archive().len(number, ArchiveFile::Stamps)?.unwrap_or(0);
        Ok(Some(Packable { number, page_size: generation.page_size, log_len, stamps_len, index }))
    }

    /// Writes a pack and deletes the files that it replaces. The last `loose` generations were not in a pack. Writes nothing if they
    /// are too few.
    fn write(
        &self,
        generations: &[Packable],
        loose: usize,
        report: &mut MaintenanceReport,
        watch: &mut ProgressFn<'_>,
    ) -> Result<()> {
        let new = generations.get(generations.len() - loose..).unwrap_or_default();
        if new.len() < GENERATIONS_MIN && new.iter().map(Packable::len).sum::<u64>() < LEN_MIN {
            return Ok(());
        }
        let Origin { paths, data, .. } = self.origin;
        let staged = paths.dir().join("pack.new");
        let writer = PackWriter { disk: self.disk, archive: self.archive(), path: &staged, data };
        let written = writer.write(generations, watch).and_then(|span| match span {
            Some(span) if writer.is_written(span, generations)? => Ok(Some(span)),
            Some(span) => Err(differs(self.archive(), span)),
            None => Ok(None),
        });
        let lock = match written {
            Ok(Some(_)) => exclusive(paths)?,
            _ => None,
        };
        let (Ok(Some(span)), Some(_lock)) = (&written, lock) else {
            report.deferred |= matches!(written, Ok(Some(_)));
            let _removed_next_time = self.disk.remove(&staged);
            return written.map(|_| ());
        };
        let logs = self.archive().list_loose()?;
        let logs = logs.into_iter().filter(|(number, file)| {
            span.contains(*number) && matches!(file, ArchiveFile::Segment | ArchiveFile::Compressed)
        });
        // Sealed pages do not compress.
        if self.is_plain {
            report.compressed += logs.map(|(number, _)| number).collect::<BTreeSet<_>>().len() as u64;
        }
        let store = self.archive().store();
        let before = self.len_of(&replaced_by(self.archive(), *span)?)?;
        store.put_whole(EndedName::Pack(*span), &staged)?;
        store.flush()?;
        let len = store.len(EndedName::Pack(*span))?.unwrap_or(0);
        report.bytes_saved += before.saturating_sub(len);
        for name in replaced_by(self.archive(), *span)? {
            store.delete(name)?;
        }
        store.flush()
    }

    fn len_of(&self, names: &[EndedName]) -> Result<u64> {
        let store = self.archive().store();
        names.iter().map(|name| Ok(store.len(*name)?.unwrap_or(0))).sum()
    }

    /// Deletes files that a crash left beside the pack which replaces them.
    fn remove_replaced(&self, report: &mut MaintenanceReport) -> Result<()> {
        let archive = self.archive();
        let loose = archive.list_loose()?;
        let packs = archive.list_packs()?;
        let mut replaced = Vec::new();
        for pack in packs.iter().filter(|pack| !pack.is_damaged()) {
            let is_inside = |(number, _): &&NumberedFile| pack.span().contains(*number);
            for (number, file) in loose.iter().filter(is_inside) {
                if is_replaced(archive, pack, (*number, *file))? {
                    replaced.push(EndedName::File(*number, *file));
                }
            }
            for other in packs.iter().filter(|other| pack.span() != other.span()) {
                if pack.span().includes(other.span()) && has_all(pack, other)? {
                    replaced.push(EndedName::Pack(other.span()));
                }
            }
        }
        if replaced.is_empty() {
            return Ok(());
        }
        let Some(_lock) = exclusive(&self.origin.paths)? else {
            report.deferred = true;
            return Ok(());
        };
        report.bytes_freed += self.len_of(&replaced)?;
        replaced.into_iter().try_for_each(|name| archive.store().delete(name))?;
        archive.flush()
    }
}

/// Whether no pack has a generation together with the one before it.
fn begins_pack(timeline: &Timeline, generation: &Generation) -> bool {
    generation.begins() || timeline.snapshots.contains(&generation.number)
}

/// How the log of a generation ended: as the next generation records, or as its stamps do if the log ends there. Returns `None` if
/// there were no commits, or if it is not known.
fn known_end(stamps: &Stamps, next: Option<&Generation>, log_len: Option<u64>) -> Option<LogEnd> {
    let recorded = next.and_then(|next| next.lineage.end_before());
    let is_all = |end: &LogEnd| log_len == Some(wal::len_up_to(end.frame, stamps.generation.page_size));
    recorded.or_else(|| stamps.end().filter(is_all)).filter(|end| end.frame.is_some())
}

/// The files that a pack replaces.
fn replaced_by(archive: &Archive, span: GenerationSpan) -> Result<Vec<EndedName>> {
    let is_replaced = |name: &EndedName| match name {
        EndedName::File(number, file) => span.contains(*number) && !file.is_of_snapshot(),
        EndedName::Pack(other) => *other != span && span.includes(*other),
    };
    Ok(archive.store().list()?.into_iter().filter(is_replaced).collect())
}

/// Whether a pack has a file of the store.
fn is_replaced(archive: &Archive, pack: &PackFile, (number, file): NumberedFile) -> Result<bool> {
    let compare = || match file {
        ArchiveFile::Segment | ArchiveFile::Compressed => {
            is_same_log(LogFile::open(archive, number)?, pack.log(number)?.map(LogFile::packed))
        }
        ArchiveFile::Stamps => Ok(pack.read(number, Kind::Stamps)? == archive.read(number, file)?),
        ArchiveFile::Index => Ok(pack.len(number, Kind::Index).is_some()),
        ArchiveFile::Snapshot | ArchiveFile::Delta | ArchiveFile::Sum => Ok(false),
    };
    unless_damaged(compare())
}

/// Whether a pack has all files of another one.
fn has_all(pack: &PackFile, other: &PackFile) -> Result<bool> {
    let has = |number| -> Result<bool> {
        let log = |pack: &PackFile| Ok::<_, Error>(pack.log(number)?.map(LogFile::packed));
        let read = |pack: &PackFile| {
            Ok::<_, Error>((pack.read(number, Kind::Stamps)?, pack.read(number, Kind::Index)?))
        };
        Ok(is_same_log(log(pack)?, log(other)?)? && read(pack)? == read(other)?)
    };
    let compare = || {
        for number in other.span().numbers() {
            if !has(number)? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    unless_damaged(compare())
}

/// `false` if a file cannot be compared because it is damaged.
fn unless_damaged(compared: Result<bool>) -> Result<bool> {
    match compared {
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(false),
        compared => compared,
    }
}

#[cold]
fn differs(archive: &Archive, span: GenerationSpan) -> Error {
    Error::naming(ErrorKind::Io, &archive.store().path(EndedName::Pack(span)), |pack| {
        format!(
            "{pack} was written, and what was read back differs from the files that it replaces; they were kept; check the \
             disk and the memory of this machine"
        )
    })
}
