//! Segments: each against its stamps, its recorded end and its index.

use super::{
    commits::{self, Committed},
    frames,
    run::{Run, unless_damaged},
};
use crate::{
    error::{ErrorKind, Result},
    finding::Finding,
    history::{
        frame_index,
        generation_log::{fixed_end, known_end},
        log::Log,
        log_file::LogFile,
        timeline::Timeline,
    },
    layout::ArchiveFile,
    stamps::{Generation, LogEnd, Stamps},
    units::FrameNumber,
    wal::{self, Header},
};

/// Checks the segment of a generation whose WAL no longer exists, and returns its committed frames. Returns `None` if they are not
/// known. `next` is the generation that continues it, if there is one.
pub(super) fn check(
    run: &mut Run<'_>,
    timeline: &Timeline,
    stamps: &Stamps,
    next: Option<&Generation>,
) -> Result<Option<Committed>> {
    // The next generation records how this one ended.
    let fixed = match next.and_then(|next| next.lineage.end_before()) {
        Some(end) => Some(end),
        None => fixed_end(timeline, stamps)?,
    };
    let end = match fixed {
        Some(end) => Some(end),
        None => unless_damaged(known_end(timeline, stamps))?.flatten(),
    };
    let Some(end) = end.filter(|end| end.frame.is_some()) else {
        // The generation has no commits, or its end is not known.
        return Ok(None);
    };
    let key = (stamps.generation.number, ArchiveFile::Segment);
    if run.done.contains(&key) {
        run.report.logs += 1;
        return Ok(Some(Committed { last: end.frame }));
    }
    // A gap is not a finding.
    if next.is_none() && stamps.is_log_lost() && !has_file(run, stamps)? {
        return Ok(None);
    }
    let before = run.report.findings.len();
    check_file(run, stamps, next, end)?;
    if run.report.findings.len() == before {
        run.done.insert(key);
    }
    Ok(Some(Committed { last: end.frame }))
}

/// Whether a file of the segment exists, even if it is damaged.
fn has_file(run: &Run<'_>, stamps: &Stamps) -> Result<bool> {
    let number = stamps.generation.number;
    Ok(run.ended().exists(number, ArchiveFile::Segment)?
        || run.ended().exists(number, ArchiveFile::Compressed)?)
}

fn check_file(run: &mut Run<'_>, stamps: &Stamps, next: Option<&Generation>, end: LogEnd) -> Result<()> {
    let generation = &stamps.generation;
    let number = generation.number;
    let file = match LogFile::open(run.ended(), number) {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            let path = run.file(number, ArchiveFile::Compressed);
            run.found(Finding::new(path, "it is damaged: invalid seek table"));
            return Ok(());
        }
        file => file?,
    };
    let Some(file) = file else {
        let frames = FrameNumber::count(end.frame);
        let message = format!("it is missing, and with it {frames} frames of the history");
        run.found(Finding::new(run.file(number, ArchiveFile::Segment), message));
        return Ok(());
    };
    let path = file.path();
    let read = |into: &mut [u8], at| file.read_up_to(into, at);
    run.report.logs += 1;
    let mut start = [0; wal::HEADER_LEN];
    let header = match read(&mut start, 0) {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            run.found(Finding::new(path, "it is damaged: it cannot be decompressed"));
            return Ok(());
        }
        count => count.map(|_| Header::parse(&start))?,
    };
    let Some(header) = header else {
        run.found(Finding::new(path, "it is damaged: invalid header"));
        return Ok(());
    };
    if header.salts() != generation.salts || header.page_size() != generation.page_size {
        run.found(Finding::new(path, "it belongs to another generation"));
        return Ok(());
    }
    let before = run.report.findings.len();
    frames::check(run, path, &header, end.frame, read)?;
    if run.report.findings.len() > before {
        return Ok(());
    }
    let Some(log) = Log::read_from(read)?.filter(|log| log.end() == end) else {
        let finding = Finding::new(path, "its end differs from the recorded one");
        run.found(finding.frame(FrameNumber::count(end.frame)));
        return Ok(());
    };
    if next.is_none_or(|next| !next.lineage.contradicts(stamps.digest)) {
        commits::check(run, path, stamps, &log, end.frame);
    }
    if let Some(fault) = frame_index::fault(run.ended(), generation, &log)? {
        let index = run.file(number, ArchiveFile::Index);
        let message = if index == path {
            format!("the index of generation {number} in it is wrong: {fault}")
        } else {
            format!("{fault}: delete it, it is derived from its log")
        };
        run.found(Finding::new(index, message));
    }
    Ok(())
}
