//! The database file, page by page, against the end of the history.
//!
//! A checkpoint may write pages to the file, in any order, while the file is read. It copies only pages that are already in a
//! log. Every page of the file is therefore that of the beginning of the last generation, or is in a later frame. Any other page
//! is read again, because it may have been read during a write.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
};

use super::{
    observation::Observation,
    run::{ATTEMPTS, Listed, PAUSE, Run, tag_finding, unless_damaged},
    wal::was_changed_unseen,
};
use crate::{
    disk::{DatabaseFile, Disk},
    error::{ErrorKind, Result},
    finding::Finding,
    history::{
        base_snapshot::database_len, checksummed::page_checksum, generation_log::known_end,
        image::HistoricalImage, log::Log, log_file::LogFile, materialize::write_pages, plan,
        snapshot::step_of, target::Target, timeline::Timeline,
    },
    layout::ArchiveFile,
    stamps::Generation,
    units::{FrameNumber, GenerationNumber, PageChecksum, PageCount, PageNumber},
    wal,
};

/// The pages of the database file whose contents are not as expected.
#[derive(Default)]
struct Suspects {
    /// Pages with other contents than expected, with the checksum of the expected contents, or `None` for a page that should not
    /// exist.
    different: BTreeMap<PageNumber, Option<PageChecksum>>,
    /// Pages whose tag does not match.
    untagged: BTreeSet<PageNumber>,
}

/// The versions of pages in the frames of logs.
#[derive(Default)]
struct Versions {
    pages: BTreeMap<PageNumber, Vec<PageChecksum>>,
    /// The smallest size of the database after a commit.
    smallest: Option<PageCount>,
    /// Pages whose contents before their log was captured are not known.
    unknown: BTreeSet<PageNumber>,
}

/// Checks the tag of every page of the database file, without comparing it with the history.
pub(super) fn check_tags(run: &mut Run<'_>) -> Result<()> {
    let path = run.subject.data;
    let Some(file) = open(run)? else { return Ok(()) };
    let mut suspects = Suspects::default();
    read_tags(run, &file, &mut suspects)?;
    settle(run, &file, None, &mut suspects)?;
    let mut listed = Listed::default();
    for page in suspects.untagged {
        listed.add(run, tag_finding(path, page));
    }
    listed.finish(run, path, "pages");
    Ok(())
}

/// Compares the database file with the end of the history, and checks the tag of every page. `has_wal` says whether the WAL
/// belongs to the newest generation.
pub(super) fn check(
    run: &mut Run<'_>,
    timeline: &Timeline,
    observation: &Observation,
    has_wal: bool,
) -> Result<()> {
    let path = run.subject.data;
    let Some(file) = open(run)? else { return Ok(()) };
    let (mut suspects, mut generation) = (Suspects::default(), None);
    let mut below = None;
    while let Some((image, of)) = expected(run, timeline, has_wal, below)? {
        match compare(run, &image, &file, &mut suspects) {
            Ok(()) => {
                generation = Some(of);
                break;
            }
            // The image may also be reached from an older snapshot.
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                run.found_if_unexplained(&error, path);
                suspects.different.clear();
                below = image.first();
            }
            Err(error) => return Err(error),
        }
    }
    read_tags(run, &file, &mut suspects)?;
    settle(run, &file, generation, &mut suspects)?;
    let Suspects { mut different, untagged } = suspects;
    // Different pages are damage only if they cannot have been written while the history was off.
    let live = timeline.live.as_ref();
    let state = live.map(|live| live.checkpointed().unwrap_or(live.generation.data));
    if let Some(state) = state.filter(|_| !different.is_empty())
        && was_changed_unseen(run, state)?
        && !has_wal
    {
        different.clear();
    }
    let mut listed = Listed::default();
    if !different.is_empty() && observation.live.is_none() {
        let message = "it is missing, or another program changed the database: the database differs from the end of its history";
        run.found(Finding::new(run.origin.paths.live_stamps(), message));
    } else {
        different.retain(|page, _| !untagged.contains(page));
        for page in different.keys() {
            let message =
                "it differs from the end of the history: it is damaged, or another program wrote it";
            listed.add(run, Finding::new(path, message).page(page.get()));
        }
    }
    for page in untagged {
        listed.add(run, tag_finding(path, page));
    }
    listed.finish(run, path, "pages");
    Ok(())
}

/// Opens the database file, or reports that it is missing.
fn open(run: &mut Run<'_>) -> Result<Option<DatabaseFile>> {
    let file = DatabaseFile::open(run.subject.data)?;
    if file.is_none() {
        run.found(Finding::new(run.subject.data, "it is missing"));
    }
    Ok(file)
}

/// The image that the database file had when the newest generation began, or has now if that generation has ended. Returns `None`
/// if there is no history, or if the history does not lead to that image.
fn expected(
    run: &mut Run<'_>,
    timeline: &Timeline,
    has_wal: bool,
    below: Option<GenerationNumber>,
) -> Result<Option<(HistoricalImage, Generation)>> {
    let Some(newest) = timeline.numbers.last() else { return Ok(None) };
    let stamps = timeline.stamps(*newest)?;
    let generation = stamps.generation;
    let end = if has_wal { None } else { unless_damaged(known_end(timeline, &stamps))?.flatten() };
    let frame = match end {
        Some(end) => end.frame,
        // The missing log has its own finding.
        None if !has_wal && !stamps.commits().is_empty() => return Ok(None),
        _ => generation.base_frame,
    };
    match plan::image(timeline, &Target::after_frame(*newest, frame), below) {
        Ok(image) => Ok(Some((image, generation))),
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            run.found_if_unexplained(&error, run.subject.data);
            Ok(None)
        }
        // A gap is not a finding.
        Err(error) if error.kind() == ErrorKind::OutsideWindow => Ok(None),
        Err(error) => Err(error),
    }
}

/// Compares every page of the file with that of an image.
fn compare(
    run: &mut Run<'_>,
    image: &HistoricalImage,
    file: &DatabaseFile,
    suspects: &mut Suspects,
) -> Result<()> {
    let page_size = image.page_size as usize;
    let mut found = Vec::new();
    write_pages(image, run.watch, |bytes, at| {
        found.resize(bytes.len(), 0);
        let count = file.read_up_to(&mut found, at)?;
        let pages = PageNumber::at_offset(at, image.page_size).and_following();
        for ((index, contents), page) in bytes.chunks_exact(page_size).enumerate().zip(pages) {
            let start = index * page_size;
            if found[..count].get(start..start + page_size) != Some(contents) {
                suspects.different.insert(page, Some(page_checksum(contents)));
            }
        }
        Ok(())
    })?;
    let len = len_of(run, file)?;
    let pages = u32::try_from(len.div_ceil(u64::from(image.page_size))).unwrap_or(u32::MAX);
    let surplus = (image.page_count().get() + 1..=pages).filter_map(PageNumber::new);
    suspects.different.extend(surplus.map(|page| (page, None)));
    run.read(len)
}

/// The bytes of the database file that belong to the database.
fn len_of(run: &Run<'_>, file: &DatabaseFile) -> Result<u64> {
    let path = run.subject.data;
    let file_len = Disk::len(path)?.unwrap_or(0);
    Ok(database_len(file, path)?.min(file_len))
}

/// Checks the tags of all pages.
fn read_tags(run: &mut Run<'_>, file: &DatabaseFile, suspects: &mut Suspects) -> Result<()> {
    if run.subject.tag.is_none() {
        return Ok(());
    }
    let page_size = run.subject.page_size;
    let mut buffer = vec![0; step_of(page_size)];
    let mut at = 0;
    let len = len_of(run, file)?;
    loop {
        let left = usize::try_from(len.saturating_sub(at)).unwrap_or(usize::MAX);
        let count = file.read_up_to(&mut buffer, at)?.min(left);
        let pages = PageNumber::at_offset(at, page_size).and_following();
        for (page, contents) in pages.zip(buffer[..count].chunks_mut(page_size as usize)) {
            if !run.subject.is_authentic(page, contents) {
                suspects.untagged.insert(page);
            }
        }
        run.read(count as u64)?;
        at += count as u64;
        if count < buffer.len() {
            return Ok(());
        }
    }
}

/// Reads the suspects again until they are as expected, or until no concurrent change can explain the remaining ones.
fn settle(
    run: &mut Run<'_>,
    file: &DatabaseFile,
    generation: Option<Generation>,
    suspects: &mut Suspects,
) -> Result<()> {
    for attempt in 0..ATTEMPTS {
        if suspects.different.is_empty() && suspects.untagged.is_empty() {
            break;
        }
        thread::sleep(PAUSE * attempt);
        if read_again(run, file, generation, suspects)? && attempt > 2 {
            break;
        }
    }
    Ok(())
}

/// Reads the suspects again, and keeps those that are still not as expected. Returns whether no concurrent change can explain
/// them.
fn read_again(
    run: &mut Run<'_>,
    file: &DatabaseFile,
    generation: Option<Generation>,
    suspects: &mut Suspects,
) -> Result<bool> {
    let page_size = run.subject.page_size;
    let before = Observation::take(run.origin)?;
    let mut contents = vec![0; page_size as usize];
    let mut now: BTreeMap<PageNumber, Option<PageChecksum>> = BTreeMap::new();
    let untagged = std::mem::take(&mut suspects.untagged);
    for page in suspects.different.keys().copied().chain(untagged) {
        let count = file.read_up_to(&mut contents, page.offset(page_size))?;
        let is_whole = count == contents.len();
        now.insert(page, is_whole.then(|| page_checksum(&contents)));
        if count > 0 && !(is_whole && run.subject.is_authentic(page, &mut contents)) {
            suspects.untagged.insert(page);
        }
    }
    // Read the logs after the file: a checkpoint copies only pages that are already in a log.
    let versions = match generation {
        Some(generation) => versions(run, &generation, suspects)?,
        None => Versions::default(),
    };
    suspects.different.retain(|page, expected| {
        let found = now.get(page).copied().flatten();
        let is_truncated = versions.smallest.is_some_and(|smallest| !smallest.contains(*page));
        let is_explained = match found {
            None => expected.is_none() || is_truncated,
            Some(found) => {
                *expected == Some(found)
                    || versions.pages.get(page).is_some_and(|versions| versions.contains(&found))
            }
        };
        !is_explained && !versions.unknown.contains(page)
    });
    Ok(Observation::take(run.origin)?.is_same(&before))
}

/// The versions of the suspects in the logs from a generation on.
fn versions(run: &Run<'_>, generation: &Generation, suspects: &Suspects) -> Result<Versions> {
    let files = run.ended().list()?;
    let segments =
        files.iter().filter(|(number, file)| *file == ArchiveFile::Segment && *number >= generation.number);
    let mut versions = Versions::default();
    for (number, _) in segments {
        let Some(file) = LogFile::plain(run.ended(), *number)? else { continue };
        let read = |into: &mut [u8], at| file.read_up_to(into, at);
        if let Some(log) = Log::read_from(read)? {
            versions.add(&log, generation, suspects, read)?;
        }
    }
    // A WAL that is archived concurrently is in the archive at the next attempt.
    let path = run.origin.wal();
    if let Some((file, log)) = Log::open(&path)? {
        versions.add(&log, generation, suspects, |into, at| Disk::read_up_to(&file, &path, into, at))?;
    }
    Ok(versions)
}

impl Versions {
    /// Adds the versions in a log, which `read` reads.
    fn add(
        &mut self,
        log: &Log,
        generation: &Generation,
        suspects: &Suspects,
        read: impl Fn(&mut [u8], u64) -> Result<usize>,
    ) -> Result<()> {
        if log.page_size != generation.page_size {
            return Ok(());
        }
        let mut contents = vec![0; generation.page_size as usize];
        for (index, frame) in (0..).zip(&log.frames) {
            let (number, page) = (FrameNumber::from_index(index), frame.page_number);
            if let Some(pages) = frame.commit {
                self.smallest = Some(self.smallest.map_or(pages, |smallest| smallest.min(pages)));
            }
            if !suspects.different.contains_key(&page) {
                continue;
            }
            if read(&mut contents, wal::page_offset(number, generation.page_size))? == contents.len() {
                self.pages.entry(page).or_default().push(page_checksum(&contents));
            }
            if log.salts == generation.salts && Some(number) <= generation.base_frame {
                self.unknown.insert(page);
            }
        }
        Ok(())
    }
}
