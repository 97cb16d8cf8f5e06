//! Snapshots: each against its checksums, its generation, and the preceding history.

use super::{
    observation::Observation,
    run::{KnownStamps, Listed, Run, tag_finding},
};
use crate::{
    error::{ErrorKind, Result},
    finding::Finding,
    history::{
        checksummed::page_checksum,
        image::HistoricalImage,
        materialize::write_pages,
        plan,
        snapshot::{is_incomplete, is_len_of, page_checksums, step_of},
        target::Target,
        timeline::Timeline,
    },
    layout::ArchiveFile,
    stamps::{Generation, Stamps},
    units::{GenerationNumber, PageChecksum, PageNumber},
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
    let (has_file, has_sum) = (has(ArchiveFile::Snapshot), has(ArchiveFile::Sum));
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
    for file in [ArchiveFile::Snapshot, ArchiveFile::Sum] {
        if !has(file) {
            let message = "it is missing: no restore can start from this snapshot";
            run.found(Finding::new(run.file(number, file), message));
        }
    }
    if !has_file || !has_sum {
        return Ok(());
    }
    let sum_path = run.file(number, ArchiveFile::Sum);
    let checksums = match page_checksums(run.ended(), generation) {
        Ok(Some(checksums)) => checksums,
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
    run.report.snapshots += 1;
    let before = run.report.findings.len();
    check_pages(run, generation, &checksums)?;
    if run.report.findings.len() == before {
        run.done.insert(key);
    }
    Ok(())
}

/// Checks the checksums and the tags of a snapshot's pages, and their number.
fn check_pages(run: &mut Run<'_>, generation: &Generation, checksums: &[PageChecksum]) -> Result<()> {
    let Some(file) = run.ended().open(generation.number, ArchiveFile::Snapshot)? else { return Ok(()) };
    let path = file.path();
    if !is_len_of(file.len()?, checksums.len(), generation.page_size) {
        run.found(Finding::new(path, "it is damaged: wrong length"));
    }
    let mut buffer = vec![0; step_of(generation.page_size)];
    let mut listed = Listed::default();
    let mut at = 0;
    let mut expected = PageNumber::FIRST.and_following().zip(checksums);
    loop {
        let count = file.read_at(&mut buffer, at)?;
        let pages = buffer[..count].chunks_exact_mut(generation.page_size as usize);
        for (contents, (page, checksum)) in pages.zip(&mut expected) {
            let is_whole = page_checksum(contents) == *checksum;
            // A wrong tag is the more specific finding.
            if !run.subject.is_authentic(page, contents) {
                listed.add(run, tag_finding(path, page));
            } else if !is_whole {
                let message = "it is damaged: its checksum does not match";
                listed.add(run, Finding::new(path, message).page(page.get()));
            }
        }
        run.read(count as u64)?;
        at += count as u64;
        if count < buffer.len() {
            break;
        }
    }
    listed.finish(run, path, "pages");
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
        let checked =
            plan::image_from(timeline, first, &target).and_then(|image| check_same(run, &image, *number));
        // The damage of an input has its own finding.
        match checked {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                run.found_if_unexplained(&error, &timeline.path(*number, ArchiveFile::Snapshot));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Compares the snapshot before a generation with an image of the preceding history.
fn check_same(run: &mut Run<'_>, image: &HistoricalImage, number: GenerationNumber) -> Result<()> {
    let Some(file) = run.ended().open(number, ArchiveFile::Snapshot)? else { return Ok(()) };
    let path = file.path();
    let page_size = image.page_size as usize;
    let (mut found, mut different) = (Vec::new(), Vec::new());
    write_pages(image, run.watch, |bytes, at| {
        found.resize(bytes.len(), 0);
        let count = file.read_at(&mut found, at)?;
        let pages = PageNumber::at_offset(at, image.page_size).and_following();
        for ((index, contents), page) in bytes.chunks_exact(page_size).enumerate().zip(pages) {
            let start = index * page_size;
            if found[..count].get(start..start + page_size) != Some(contents) {
                different.push(page);
            }
        }
        Ok(())
    })?;
    let mut listed = Listed::default();
    for page in different {
        let message = "page differs from the page rebuilt from the preceding history";
        listed.add(run, Finding::new(path, message).page(page.get()));
    }
    listed.finish(run, path, "pages");
    if file.len()? >= image.len() + u64::from(image.page_size) {
        run.found(Finding::new(path, "it is longer than the database rebuilt from the preceding history"));
    }
    Ok(())
}
