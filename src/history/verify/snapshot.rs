//! Snapshots: each against its checksums, its generation, and the preceding history.

use super::{
    observation::Observation,
    run::{KnownStamps, Listed, Run, file_name, tag_finding},
};
use crate::{
    error::{ErrorKind, Result},
    finding::Finding,
    history::{
        image::HistoricalImage,
        log::Log,
        materialize::write_pages,
        plan,
        snapshot::{Snapshot, delta_salts, is_incomplete, step_of},
        sums::Sums,
        target::Target,
        timeline::Timeline,
    },
    layout::ArchiveFile,
    stamps::{Generation, Stamps},
    units::PageNumber,
};

/// Checks the snapshot before a generation, if it exists or must exist.
pub(super) fn check(
    run: &mut Run<'_>,
    observation: &Observation,
    stamps: &Stamps,
    is_first: bool,
) -> Result<()> {
    let generation = &stamps.generation;
    let number = generation.number;
    let has = |file| observation.has(number, file);
    let has_file = has(ArchiveFile::Snapshot) || has(ArchiveFile::Delta);
    let has_sum = has(ArchiveFile::Sum);
    if !has_file && !has_sum && !generation.begins() && !is_first {
        return Ok(());
    }
    // Readers ignore the snapshot until its checksums are published, and maintenance removes what a killed process left.
    let is_required = generation.begins() || is_first;
    if !is_required && has_file && !has_sum && is_incomplete(&run.origin.paths, generation)? {
        return Ok(());
    }
    let key = (number, ArchiveFile::Snapshot);
    if run.done.contains(&key) {
        run.report.snapshots += 1;
        return Ok(());
    }
    let sums = Sums::read(run.ended(), generation);
    let file = match &sums {
        Ok(Some(sums)) => sums.file(),
        _ if has(ArchiveFile::Delta) && !has(ArchiveFile::Snapshot) => ArchiveFile::Delta,
        _ => ArchiveFile::Snapshot,
    };
    for file in [file, ArchiveFile::Sum] {
        if !has(file) {
            let message = "it is missing: no restore can start from this snapshot";
            run.found(Finding::new(run.file(number, file), message));
        }
    }
    if !has(file) || !has_sum {
        return Ok(());
    }
    let sum_path = run.file(number, ArchiveFile::Sum);
    let sums = match sums {
        Ok(Some(sums)) => sums,
        Ok(None) => {
            run.found(Finding::new(sum_path, "it belongs to another generation"));
            return Ok(());
        }
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            run.found(Finding::new(sum_path, "it is damaged"));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    if let Some(base) = sums.delta.as_ref().map(|delta| delta.base)
        && !run.ended().exists(base, ArchiveFile::Snapshot)?
    {
        let path = run.file(number, ArchiveFile::Delta);
        let message = format!("it is missing, and {} is useless without it", file_name(&path));
        run.found(Finding::new(run.file(base, ArchiveFile::Snapshot), message));
        return Ok(());
    }
    run.report.snapshots += 1;
    let before = run.report.findings.len();
    check_frames(run, generation, &sums)?;
    check_pages(run, generation, sums)?;
    if run.report.findings.len() == before {
        run.done.insert(key);
    }
    Ok(())
}

/// Checks that the file of a delta is a WAL from which SQLite restores its pages.
fn check_frames(run: &mut Run<'_>, generation: &Generation, sums: &Sums) -> Result<()> {
    let Some(delta) = &sums.delta else { return Ok(()) };
    let Some(file) = run.ended().open(generation.number, ArchiveFile::Delta)? else { return Ok(()) };
    let log = Log::read_from(|into, at| file.read_at(into, at))?;
    let is_whole = log.is_some_and(|log| {
        let pages = log.frames.iter().map(|frame| frame.page_number);
        (log.salts, log.page_size) == (delta_salts(generation), generation.page_size)
            && pages.eq(delta.pages.iter().copied())
            && log.frames.last().and_then(|frame| frame.commit) == Some(sums.page_count())
    });
    if !is_whole {
        run.found(Finding::new(
            file.path(),
            "it is damaged: it is not a WAL of the pages that it should have",
        ));
    }
    Ok(())
}

/// Checks the checksums and the tags of a snapshot's pages, and their number.
fn check_pages(run: &mut Run<'_>, generation: &Generation, sums: Sums) -> Result<()> {
    let snapshot = Snapshot::with_sums(run.ended(), generation, sums)?;
    if !snapshot.has_len()? {
        run.found(Finding::new(snapshot.path(), "it is damaged: wrong length"));
    }
    let page_size = generation.page_size;
    let mut buffer = vec![0; step_of(page_size)];
    let (mut listed, mut in_base) = (Listed::default(), Listed::default());
    let total = snapshot.page_count().len(page_size);
    let mut at = 0;
    while at < total {
        let want = usize::try_from(total - at).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..want];
        // The rest of a truncated file is the finding above.
        let count = snapshot.read_up_to(buffer, at)?;
        let pages = PageNumber::at_offset(at, page_size).and_following();
        for (page, contents) in pages.zip(buffer[..count].chunks_exact_mut(page_size as usize)) {
            let path = snapshot.path_of(page);
            let listed = if path == snapshot.path() { &mut listed } else { &mut in_base };
            let is_whole = snapshot.check(page, contents).is_ok();
            // A wrong tag is the more specific finding.
            let finding = if !run.subject.is_authentic(page, contents) {
                tag_finding(path, page)
            } else if is_whole {
                continue;
            } else {
                let message = "it is damaged: its checksum does not match";
                Finding::new(path, message).page(page.get())
            };
            // Several deltas have one base.
            if !run.report.findings.contains(&finding) {
                listed.add(run, finding);
            }
        }
        run.read(count as u64)?;
        at += want as u64;
    }
    listed.finish(run, snapshot.path(), "pages");
    if let Some(base) = snapshot.base() {
        in_base.finish(run, &run.file(base, ArchiveFile::Snapshot), "pages");
    }
    Ok(())
}

/// Applies the logs between two consecutive snapshots to the older one, and compares the result with the newer one.
pub(super) fn check_chain(run: &mut Run<'_>, timeline: &Timeline, known: &KnownStamps) -> Result<()> {
    let mut from = None;
    for (number, stamps) in known {
        if stamps.generation.begins() {
            from = None;
        }
        if !timeline.snapshots.contains(number) {
            continue;
        }
        let Some(first) = from.replace(*number) else { continue };
        let end = stamps.generation.lineage.end_before();
        let (Some(end), Some(previous)) = (end, number.previous()) else { continue };
        let target = Target::after_frame(previous, end.frame);
        let checked = plan::image_from(timeline, first, &target)
            .and_then(|image| check_same(run, &image, &stamps.generation));
        // The damage of an input has its own finding.
        match checked {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let is_delta = run.ended().exists(*number, ArchiveFile::Delta)?;
                let file = if is_delta { ArchiveFile::Delta } else { ArchiveFile::Snapshot };
                run.found_if_unexplained(&error, &timeline.path(*number, file));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Compares the snapshot before a generation with an image of the preceding history.
fn check_same(run: &mut Run<'_>, image: &HistoricalImage, generation: &Generation) -> Result<()> {
    let Some(snapshot) = Snapshot::open(run.ended(), generation)? else { return Ok(()) };
    let page_size = image.page_size as usize;
    let (mut found, mut different) = (Vec::new(), Vec::new());
    let len = snapshot.page_count().len(image.page_size);
    write_pages(image, run.watch, |bytes, at| {
        let count = usize::try_from(len.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
        found.resize(count, 0);
        snapshot.read_at(&mut found, at)?;
        let pages = PageNumber::at_offset(at, image.page_size).and_following();
        for ((index, contents), page) in bytes.chunks_exact(page_size).enumerate().zip(pages) {
            let start = index * page_size;
            if found.get(start..start + page_size) != Some(contents) {
                different.push(page);
            }
        }
        Ok(())
    })?;
    let mut listed = Listed::default();
    for page in different {
        let message = "page differs from the page rebuilt from the preceding history";
        listed.add(run, Finding::new(snapshot.path(), message).page(page.get()));
    }
    listed.finish(run, snapshot.path(), "pages");
    if len > image.len() {
        run.found(Finding::new(
            snapshot.path(),
            "it is longer than the database rebuilt from the preceding history",
        ));
    }
    Ok(())
}
