//! The database file, page by page, against the history's end.
//!
//! A checkpoint may write to the file while it is read, and in any order. But what it writes stands in a log that was
//! written before; so every page of the file is that of the last generation's beginning, or one from a frame behind that.
//! A page that is neither is looked at again, since it may have been read in the middle of being written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    thread,
};

use xxhash_rust::xxh3::xxh3_64;

use super::{ATTEMPTS, Observation, PAUSE, Run, log as verify_log, target, unless_damaged};
use crate::{
    disk::Disk,
    error::{ErrorKind, Result},
    finding::Finding,
    history::{
        base_snapshot,
        image::HistoricalImage,
        log::{self, Log},
        snapshot::STEP,
        timeline::Timeline,
    },
    layout::{self, ArchiveFile, ArchivePaths},
    stamps::Generation,
};

/// Pages that are not what was looked for, by number, with the hash of that; nothing for a page that should not be.
type Off = BTreeMap<u32, Option<u64>>;

/// What pages may be by the frames of logs.
#[derive(Default)]
struct Versions {
    pages: BTreeMap<u32, Vec<u64>>,
    /// The least that the database was cut to, in pages.
    least: Option<u32>,
    /// Pages of which nobody knows what they were before their log was captured.
    unknown: BTreeSet<u32>,
}

impl Run<'_> {
    /// Checks the tag of every page of the database file, without comparing it with a history.
    pub(super) fn tags(&mut self) -> Result<()> {
        let path = self.subject.data;
        let Some(file) = Disk::open_regular(path)? else {
            self.found(Finding::new(path, "it is missing"));
            return Ok(());
        };
        let mut bad = BTreeSet::new();
        if self.subject.tag.is_some() {
            self.all_tags(&file, &mut bad)?;
        }
        self.settle_all(&file, None, &mut Off::new(), &mut bad)?;
        let mut told = verify_log::Told::default();
        for page in bad {
            told.add(self, verify_log::tag_finding(path, page));
        }
        told.finish(self, path, "pages");
        Ok(())
    }

    /// Compares the database file with the end of the history, and checks the tag of every page in it.
    pub(super) fn data(
        &mut self,
        timeline: &Timeline,
        look: &Observation,
        is_written_to: bool,
    ) -> Result<()> {
        let path = self.subject.data;
        let Some(file) = Disk::open_regular(path)? else {
            self.found(Finding::new(path, "it is missing"));
            return Ok(());
        };
        let (mut off, mut bad, mut generation) = (Off::new(), BTreeSet::new(), None);
        let mut below = None;
        while let Some((base, of)) = self.base(timeline, is_written_to, below)? {
            match self.compare(&base, &file, &mut off) {
                Ok(()) => {
                    generation = Some(of);
                    break;
                }
                // An older snapshot may lead there too.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    self.unless_told(&error, path);
                    off.clear();
                    below = Some(base.first);
                }
                Err(error) => return Err(error),
            }
        }
        if self.subject.tag.is_some() {
            self.all_tags(&file, &mut bad)?;
        }
        self.settle_all(&file, generation, &mut off, &mut bad)?;
        let mut told = verify_log::Told::default();
        // Other pages than these are damage only if nobody can have written them while the history was off.
        let state = timeline.live.as_ref().map(|live| live.rest().unwrap_or(live.generation.data));
        if let Some(state) = state.filter(|_| !off.is_empty())
            && self.was_changed_unseen(state)?
            && !is_written_to
        {
            off.clear();
        }
        if !off.is_empty() && look.live.is_none() {
            let message = "it is missing, or another program changed the database: that is not what its history ends with";
            self.found(Finding::new(self.paths.live_stamps(), message));
        } else {
            off.retain(|page, _| !bad.contains(page));
            for page in off.keys() {
                let message =
                    "it is not what the history ends with: it is damaged, or another program wrote it";
                told.add(self, Finding::new(path, message).page(*page));
            }
        }
        for page in &bad {
            told.add(self, verify_log::tag_finding(path, *page));
        }
        told.finish(self, path, "pages");
        Ok(())
    }

    /// The pages that the database file had when the newest generation began or, if that has ended, has now. Nothing where
    /// there is no history or it does not lead there.
    fn base(
        &mut self,
        timeline: &Timeline,
        is_written_to: bool,
        below: Option<u64>,
    ) -> Result<Option<(HistoricalImage, Generation)>> {
        let Some(newest) = timeline.sequences.last() else { return Ok(None) };
        let stamps = timeline.stamps(*newest)?;
        let generation = stamps.generation;
        let end = if is_written_to { None } else { unless_damaged(timeline.known_end(&stamps))?.flatten() };
        let frame = match end {
            Some(end) => end.frame,
            // Its log is gone, which was told.
            None if !is_written_to && !stamps.made(None).is_empty() => return Ok(None),
            _ => generation.first_frame,
        };
        match HistoricalImage::with(timeline, &target(*newest, frame), below) {
            Ok(past) => Ok(Some((past, generation))),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.unless_told(&error, self.subject.data);
                Ok(None)
            }
            // A gap is no finding.
            Err(error) if error.kind() == ErrorKind::OutsideWindow => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every page of the file against the one that it should be.
    fn compare(&mut self, base: &HistoricalImage, file: &File, off: &mut Off) -> Result<()> {
        let path = self.subject.data;
        let page_size = base.page_size as usize;
        let mut there = Vec::new();
        base.read_all(self.watch, |bytes, at| {
            there.resize(bytes.len(), 0);
            let count = Disk::read_up_to(file, path, &mut there, at)?;
            let first = number(at, page_size);
            for (place, page) in bytes.chunks_exact(page_size).enumerate() {
                let start = place * page_size;
                if there[..count].get(start..start + page_size) != Some(page) {
                    off.insert(first + u32::try_from(place).unwrap_or(u32::MAX), Some(xxh3_64(page)));
                }
            }
            Ok(())
        })?;
        let len = self.data_len(file)?;
        let pages = u32::try_from(len.div_ceil(u64::from(base.page_size))).unwrap_or(u32::MAX);
        off.extend((base.page_count + 1..=pages).map(|page| (page, None)));
        self.read(len)
    }

    /// The bytes of the database file that belong to the database.
    fn data_len(&self, file: &File) -> Result<u64> {
        let path = self.subject.data;
        let file_len = Disk::len(path)?.unwrap_or(0);
        Ok(base_snapshot::database_len(file, path)?.min(file_len))
    }

    fn all_tags(&mut self, file: &File, bad: &mut BTreeSet<u32>) -> Result<()> {
        let (path, page_size) = (self.subject.data, self.subject.page_size as usize);
        let mut buffer = vec![0; (STEP / page_size).max(1) * page_size];
        let mut at = 0;
        let len = self.data_len(file)?;
        loop {
            let left = usize::try_from(len.saturating_sub(at)).unwrap_or(usize::MAX);
            let count = Disk::read_up_to(file, path, &mut buffer, at)?.min(left);
            for (page_number, page) in (number(at, page_size)..).zip(buffer[..count].chunks_mut(page_size)) {
                if !verify_log::is_authentic(self.subject.tag, page_number, page) {
                    bad.insert(page_number);
                }
            }
            self.read(count as u64)?;
            at += count as u64;
            if count < buffer.len() {
                return Ok(());
            }
        }
    }

    /// Looks at pages that are not what they should be until they are, or nothing changes any more that could explain one.
    fn settle_all(
        &mut self,
        file: &File,
        generation: Option<Generation>,
        off: &mut Off,
        bad: &mut BTreeSet<u32>,
    ) -> Result<()> {
        for attempt in 0..ATTEMPTS {
            if off.is_empty() && bad.is_empty() {
                break;
            }
            thread::sleep(PAUSE * attempt);
            if self.settle(file, generation, off, bad)? && attempt > 2 {
                break;
            }
        }
        Ok(())
    }

    /// Looks again at pages that are not what they should be, and keeps those that are still not. Says whether nothing
    /// changed since that could explain one.
    fn settle(
        &mut self,
        file: &File,
        generation: Option<Generation>,
        off: &mut Off,
        bad: &mut BTreeSet<u32>,
    ) -> Result<bool> {
        let (path, page_size) = (self.subject.data, self.subject.page_size as usize);
        let before = Observation::take(path, self.paths, self.subject.birth.database)?;
        let mut page = vec![0; page_size];
        let mut now: BTreeMap<u32, Option<u64>> = BTreeMap::new();
        for number in off.keys().copied().chain(std::mem::take(bad)) {
            let at = u64::from(number - 1) * page_size as u64;
            let count = Disk::read_up_to(file, path, &mut page, at)?;
            let is_whole = count == page_size;
            now.insert(number, is_whole.then(|| xxh3_64(&page)));
            if count > 0 && !(is_whole && verify_log::is_authentic(self.subject.tag, number, &mut page)) {
                bad.insert(number);
            }
        }
        // Whatever stood in the file by now was in a log before.
        let versions = match generation {
            Some(generation) => self.versions(generation, off)?,
            None => Versions::default(),
        };
        off.retain(|number, wanted| {
            let found = now.get(number).copied().flatten();
            let is_cut = versions.least.is_some_and(|least| *number > least);
            let fits = match found {
                None => wanted.is_none() || is_cut,
                Some(found) => {
                    *wanted == Some(found)
                        || versions.pages.get(number).is_some_and(|all| all.contains(&found))
                }
            };
            !fits && !versions.unknown.contains(number)
        });
        Ok(Observation::take(path, self.paths, self.subject.birth.database)?.is_as(&before))
    }

    /// What the frames of the logs from a generation on have for some pages.
    fn versions(&self, generation: Generation, of: &Off) -> Result<Versions> {
        let names = Disk::list(self.paths.dir())?;
        let segments = names.iter().filter_map(|name| ArchivePaths::parse(name));
        let segments =
            segments.filter(|(at, file)| *file == ArchiveFile::Segment && *at >= generation.sequence);
        let live = layout::beside(self.subject.data, "-wal");
        let mut versions = Versions::default();
        // One that is moved into the archive meanwhile is found there the next time.
        for path in segments.map(|(at, file)| self.file(at, file)).chain([live]) {
            let Some((file, log)) = Log::open(&path)? else { continue };
            if log.page_size != generation.page_size {
                continue;
            }
            let mut page = vec![0; generation.page_size as usize];
            for (number, frame) in (1..).zip(&log.frames) {
                if let Some(pages) = frame.commit {
                    versions.least = Some(versions.least.map_or(pages, |least| least.min(pages)));
                }
                if !of.contains_key(&frame.page_number) {
                    continue;
                }
                let at = log::page_offset(number, generation.page_size);
                if Disk::read_up_to(&file, &path, &mut page, at)? == page.len() {
                    versions.pages.entry(frame.page_number).or_default().push(xxh3_64(&page));
                }
                if log.salts == generation.salts && number <= generation.first_frame {
                    versions.unknown.insert(frame.page_number);
                }
            }
        }
        Ok(versions)
    }
}

/// The number of the page at an offset.
fn number(at: u64, page_size: usize) -> u32 {
    u32::try_from(at / page_size as u64 + 1).unwrap_or(u32::MAX)
}
