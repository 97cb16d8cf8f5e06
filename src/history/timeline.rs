//! The generations of a history in order, and which commit an instant means.

use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Birth, RetentionMark, all_before, base_snapshot, current_stamps, damaged,
    errors::{changed, keeps_changing, outside, uncertain},
    foreign, frame_index,
    image::HistoricalImage,
    log::Log,
    log_file::LogFile,
    missing, read_stamps, salts_of,
};
use crate::{
    disk::{DirLock, Disk},
    error::{Error, ErrorKind, Result},
    layout::{self, ArchiveFile, ArchivePaths},
    point::{InstantPosition, ResolvedInstant},
    stamps::{CommitRecord, FileState, Generation, LogEnd, Stamps},
    sys::isolated_fds,
    time::Timestamp,
};

/// How often a history is looked at anew that moves on meanwhile.
const ATTEMPTS: u32 = 100;

/// The history of one database, as it was when it was looked at.
#[derive(Debug)]
pub(crate) struct Timeline {
    pub(super) paths: ArchivePaths,
    pub(super) data: PathBuf,
    pub(super) birth: Birth,
    /// Whether nobody has ever written to the database, as long as no generation is there.
    pub(super) is_unwritten: bool,
    /// The first generation that is retained, where the history was pruned.
    pub(super) retained_from: Option<u64>,
    pub(super) live: Option<Stamps>,
    /// Which generation that is and how it ended, as its file says.
    pub(super) seen: Seen,
    /// Generations that have stamps.
    pub(super) sequences: Vec<u64>,
    /// Generations that have a snapshot before them.
    pub(super) snapshots: BTreeSet<u64>,
    /// Where indexes are written, if they may be.
    pub(super) disk: Option<Disk>,
    /// Nothing of the history is removed for as long as this is held.
    pub(super) held: Option<Arc<DirLock>>,
}

/// What changes when a generation ends or another one begins.
pub(super) type Seen = Option<(Generation, bool, Option<LogEnd>, Option<FileState>)>;

/// The end of a history's part that an instant means.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) sequence: u64,
    /// The last frame of that generation.
    pub(super) frame: u32,
    pub(super) reached: ResolvedInstant,
}

/// The log of a generation.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) is_compressed: bool,
    pub(super) log: Log,
    /// The WAL that SQLite writes to, if it is that.
    pub(super) live: Option<File>,
}

impl Timeline {
    /// Looks at the history of the database in the file `data`. Nothing of it is removed for as long as this lives.
    pub(crate) fn read(disk: Option<&Disk>, data: &Path, birth: Birth) -> Result<Self> {
        let paths = ArchivePaths::of(data);
        // Before what it is taken away for.
        let is_unwritten = Disk::exists(&layout::unwritten(data))?;
        let held = Disk::share_dir(paths.dir())?.map(Arc::new);
        let retained = RetentionMark::read(&paths, birth.database)?;
        let from = retained.map_or(0, |retained| retained.from);
        for attempt in 1..=ATTEMPTS {
            let (mut current, mut damaged_live) = match current_stamps(&paths, data) {
                Err(error) if error.kind() == ErrorKind::Corrupt => (None, true),
                current => (current?, false),
            };
            let names = if Disk::exists(paths.dir())? { Disk::list(paths.dir())? } else { Vec::new() };
            let files: BTreeSet<_> = names.iter().filter_map(|name| ArchivePaths::parse(name)).collect();
            let of =
                |kind| files.iter().filter(move |(_, file)| *file == kind).map(|(sequence, _)| *sequence);
            let mut sequences: Vec<u64> = of(ArchiveFile::Stamps).collect();
            // In between the live stamps were given their number, unless newer ones are void.
            let moved = match &current {
                Some((live, is_before)) => sequences.contains(&live.generation.sequence) != *is_before,
                None => Disk::exists(&paths.live_stamps())? != damaged_live,
            };
            let seen = seen(current.as_ref());
            if moved && attempt < ATTEMPTS {
                continue;
            }
            if moved {
                // What stays so is no move: older stamps took the place of the newest.
                (current, damaged_live) = (None, true);
            }
            let live = current.map(|(live, _)| live);
            if let Some(live) = &live {
                if live.generation.database != birth.database {
                    return Err(foreign(paths.dir()));
                }
                sequences.retain(|sequence| *sequence < live.generation.sequence);
                sequences.push(live.generation.sequence);
            }
            if damaged_live {
                sequences.push(sequences.last().map_or(1, |last| last + 1).max(from));
            }
            sequences.retain(|sequence| *sequence >= from);
            // Without live stamps the newest numbered ones tell whose history this is.
            if live.is_none()
                && let Some(newest) = sequences.last()
                && let Ok(Some(newest)) = read_stamps(&paths.file(*newest, ArchiveFile::Stamps))
                && newest.generation.database != birth.database
            {
                return Err(foreign(paths.dir()));
            }
            let snapshots = of(ArchiveFile::Sum).filter(|sequence| *sequence >= from).collect();
            return Ok(Self {
                paths,
                data: data.to_owned(),
                birth,
                is_unwritten,
                retained_from: retained.map(|retained| retained.from),
                live: live.filter(|live| live.generation.sequence >= from),
                seen,
                sequences,
                snapshots,
                disk: disk.cloned(),
                held,
            });
        }
        Err(keeps_changing(data))
    }

    /// Whether nothing was ever written to the database.
    pub(crate) fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// The stamps of a generation.
    pub(super) fn stamps(&self, sequence: u64) -> Result<Stamps> {
        if let Some(live) = self.live.as_ref().filter(|live| live.generation.sequence == sequence) {
            return Ok(live.clone());
        }
        let mut path = self.paths.file(sequence, ArchiveFile::Stamps);
        if self.live.is_none() && self.sequences.last() == Some(&sequence) && !Disk::exists(&path)? {
            path = self.paths.live_stamps();
        }
        let stamps = read_stamps(&path)?.ok_or_else(|| missing(&path))?;
        if stamps.generation.sequence != sequence {
            return Err(damaged(&path, "it is that of another generation"));
        }
        if stamps.generation.database != self.birth.database {
            return Err(damaged(&path, "it is that of another database"));
        }
        Ok(stamps)
    }

    /// The log of a generation, which ended so if that is known; nothing if no commit of it is there.
    pub(super) fn source(&self, generation: &Generation, end: Option<LogEnd>) -> Result<Option<Source>> {
        // One that is archived meanwhile is found in its new place. One that a crash left in both may have gone on since.
        let path = layout::beside(&self.data, "-wal");
        if self.is_live(generation)
            && let Some((file, log)) = Log::open_live(&self.data, &path, generation.salts)?
            // Begun anew while it was read, it lost frames that the archive has; and so it did where the power took the header
            // of the one that was begun over it.
            && log.is_still_there(&file, &path)?
            && (!log.frames.is_empty()
                || !Disk::exists(&self.paths.file(generation.sequence, ArchiveFile::Segment))?)
        {
            return Ok(Some(Source { path, is_compressed: false, live: Some(file), log }));
        }
        let Some(segment) = LogFile::open(&self.paths, generation.sequence)? else { return Ok(None) };
        match frame_index::log(self.disk.as_ref(), &self.paths, generation, end, &segment)? {
            Some(log) if log.salts == generation.salts => {
                let is_compressed = segment.is_compressed();
                Ok(Some(Source { path: segment.path, is_compressed, live: None, log }))
            }
            Some(_) => Err(damaged(&segment.path, "it is that of another generation")),
            None => Err(damaged(&segment.path, "its header is none")),
        }
    }

    fn is_live(&self, generation: &Generation) -> bool {
        self.live.as_ref().is_some_and(|live| live.generation == *generation)
    }

    /// No instant before this one belongs to a generation.
    pub(super) fn starts_at(&self, generation: &Generation) -> i64 {
        match generation {
            // What came before it is not there to tell where its last commit lies.
            Generation { sequence, begun_at, .. } if self.retained_from == Some(*sequence) => *begun_at,
            Generation { begins: true, after_change: false, sequence: 1, .. } => self.birth.at.as_micros(),
            Generation { begins: true, begun_at, .. } => *begun_at,
            Generation { not_before, .. } => *not_before,
        }
    }

    /// The commits of a generation in order, of which that is known which one follows.
    ///
    /// Where the stamps are not those that the history goes on from, because the power took some of them, or because
    /// they are damaged or of somewhere else, all commits count as without a stamp.
    pub(super) fn made(&self, stamps: &Stamps, after: Option<&Generation>) -> Result<Vec<CommitRecord>> {
        if let Some(after) = after.filter(|after| !after.begins) {
            let frame = after.end_before.frame;
            let known = after.link == stamps.digest;
            return Ok(if known {
                stamps.made(Some(frame))
            } else {
                vec![CommitRecord::Unstamped { frame }]
            });
        }
        // Where the log is gone, the stamps tell what stood in it. It cannot be restored, but what was before it can.
        if let Some(end) = self.fixed_end(stamps)? {
            return Ok(stamps.made(Some(end.frame)));
        }
        let end = self.known_end(stamps)?.map(|end| end.frame);
        if self.is_live(&stamps.generation) {
            // Somebody may have committed since the stamps were read. Those of all that stands in the log are there now.
            let archived = self.paths.file(stamps.generation.sequence, ArchiveFile::Stamps);
            for path in [self.paths.live_stamps(), archived] {
                if let Some(now) = read_stamps(&path)?.filter(|now| now.generation == stamps.generation) {
                    return Ok(now.made(end));
                }
            }
        }
        Ok(stamps.made(end))
    }

    /// The generation behind this one, if it is there.
    pub(super) fn after(&self, sequence: u64) -> Result<Option<Generation>> {
        let next = sequence + 1;
        let is_there = self.sequences.binary_search(&next).is_ok();
        is_there.then(|| self.stamps(next).map(|stamps| stamps.generation)).transpose()
    }

    /// Whether a generation has ended or begun since the history was looked at: what does not fit together then may do so
    /// at another look.
    pub(crate) fn has_moved(&self) -> Result<bool> {
        Ok(seen(current_stamps(&self.paths, &self.data)?.as_ref()) != self.seen)
    }

    /// Looks at the history and asks it something, again and again where it moves on meanwhile and that is why there is no
    /// answer.
    pub(crate) fn ask<T>(
        disk: Option<&Disk>,
        data: &Path,
        birth: Birth,
        mut question: impl FnMut(&Self) -> Result<T>,
    ) -> Result<T> {
        for _ in 0..ATTEMPTS {
            let timeline = Self::read(disk, data, birth)?;
            match question(&timeline) {
                Err(_) if timeline.has_moved()? => {}
                answer => return answer,
            }
        }
        Err(keeps_changing(data))
    }

    /// Which commit an instant means; nothing where the database has no history, and is as it began.
    pub(super) fn find(&self, at: Timestamp, now: Timestamp) -> Result<Option<Target>> {
        let (asked, at, now) = (at, at.as_micros(), now.as_micros());
        if self.sequences.is_empty() {
            return self.check_born(asked).map(|()| None);
        }
        let Some(place) = self.place_of_known(at)? else {
            let first = self.stamps(self.sequences[0])?.generation;
            // Stamps that are missing in front of it told of more.
            self.follows_lost(0, &first)?;
            return Err(outside(asked, self.starts_at(&first)));
        };
        let sequence = self.sequences[place];
        let stamps = self.stamps(sequence)?;
        let generation = stamps.generation;
        // One that is damaged says nothing, and is named where it matters.
        let after = self.after(sequence);
        let made = self.made_until(&stamps, after.as_ref().ok().and_then(Option::as_ref), at)?;
        let (mut frame, mut commit, mut next, mut lost) = (generation.first_frame, None, None, None);
        for made in &made {
            match made {
                CommitRecord::Commit(made) if made.at <= at => {
                    (frame, commit, lost) = (made.frame, Some(made.at), None);
                }
                CommitRecord::Commit(made) => {
                    next = Some(made.at);
                    break;
                }
                CommitRecord::Unstamped { frame } => lost = Some(*frame),
            }
        }
        if commit.is_none() && !generation.begins {
            commit = Some(generation.not_before);
        }
        // Nothing was committed before the generation began.
        if let Some(last) = lost.filter(|_| commit != Some(at) && at >= generation.begun_at) {
            let begun_after = || after.as_ref().ok().copied().flatten().map(|after| after.begun_at);
            let known_at = next.or_else(begun_after).unwrap_or(now);
            if next.is_some() || at < known_at {
                let from = commit.unwrap_or(generation.begun_at);
                return Err(uncertain(
                    asked,
                    from,
                    known_at,
                    stamps.is_damaged(),
                    &self.stamps_path(sequence),
                ));
            }
            frame = last;
        }
        // However they lie, none of them was made before the generation began.
        let is_before_lost = lost.is_some() && at < generation.begun_at;
        if next.is_none() && !is_before_lost {
            // What stood in a generation that is not there nobody knows.
            if commit != Some(at) {
                self.check_follows(place)?;
            }
            match after {
                // A stamp is an instant that is known, whatever came after it.
                Err(_) if commit == Some(at) => {}
                Err(error) => return Err(error),
                Ok(Some(after)) if after.begins && commit != Some(at) => {
                    return Err(changed(asked, commit.unwrap_or(generation.begun_at), Some(after.begun_at)));
                }
                Ok(Some(_)) => next = self.first_commit_after(place),
                Ok(None) if commit != Some(at) => self.check_end(asked, &stamps, commit)?,
                Ok(None) => {}
            }
        }
        let kind = match (commit, next) {
            (Some(commit), _) if commit == at => InstantPosition::Exact,
            (None, _) => InstantPosition::BeforeFirst,
            (Some(_), Some(_)) => InstantPosition::Between,
            (Some(_), None) => InstantPosition::AfterLast,
        };
        let instant = |micros: Option<i64>| micros.map(Timestamp::from_micros).transpose();
        let reached = ResolvedInstant { kind, commit: instant(commit)?, next: instant(next)? };
        Ok(Some(Target { sequence, frame, reached }))
    }

    /// The place of the last generation that begins at or before an instant.
    fn place_of(&self, at: i64) -> Result<Option<usize>> {
        let starts = |place: usize| {
            let stamps = self.stamps(self.sequences[place])?;
            Ok::<_, Error>(self.starts_at(&stamps.generation) <= at)
        };
        let search = || {
            let (mut low, mut high) = (0, self.sequences.len());
            while low < high {
                let middle = low.midpoint(high);
                if starts(middle)? {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            Ok(low.checked_sub(1))
        };
        match search() {
            // A damaged one stands in the way, which may be far from the instant.
            Err(error) if Error::kind(&error) == ErrorKind::Corrupt => {
                let places = (0..self.sequences.len()).rev();
                let found = places.into_iter().find(|place| starts(*place).is_ok_and(|starts| starts));
                found.map(Some).ok_or(error)
            }
            found => found,
        }
    }

    fn stamps_path(&self, sequence: u64) -> PathBuf {
        match &self.live {
            Some(live) if live.generation.sequence == sequence => self.paths.live_stamps(),
            _ => self.paths.file(sequence, ArchiveFile::Stamps),
        }
    }

    /// The place of the generation that says what an instant means. One that lies before a generation began belongs to
    /// the one before, if that has commits without stamps at its end: they were made before or after it.
    fn place_of_known(&self, at: i64) -> Result<Option<usize>> {
        let Some(mut place) = self.place_of(at)? else { return Ok(None) };
        loop {
            let generation = self.stamps(self.sequences[place])?.generation;
            if at >= all_before(&generation) || !self.follows_lost(place, &generation)? {
                return Ok(Some(place));
            }
            place -= 1;
        }
    }

    /// Whether a generation goes on from one that ends with commits without stamps.
    pub(super) fn follows_lost(&self, place: usize, generation: &Generation) -> Result<bool> {
        if generation.begins || self.retained_from == Some(generation.sequence) {
            return Ok(false);
        }
        let Some(before) = place.checked_sub(1) else {
            return Err(missing(&self.paths.file(generation.sequence - 1, ArchiveFile::Stamps)));
        };
        self.check_follows(before)?;
        let stamps = self.stamps(self.sequences[before])?;
        Ok(matches!(
            self.made_until(&stamps, Some(generation), i64::MAX)?.last(),
            Some(CommitRecord::Unstamped { .. })
        ))
    }

    /// Makes sure that no generation is missing behind one.
    pub(super) fn check_follows(&self, place: usize) -> Result<()> {
        match self.sequences.get(place..=place + 1) {
            Some(&[one, next]) if next != one + 1 => {
                Err(missing(&self.paths.file(one + 1, ArchiveFile::Stamps)))
            }
            _ => Ok(()),
        }
    }

    /// The first commit of the generations behind one, as far as the history goes on and is whole.
    fn first_commit_after(&self, place: usize) -> Option<i64> {
        for sequence in &self.sequences[place + 1..] {
            let stamps = self.stamps(*sequence).ok().filter(|stamps| !stamps.generation.begins)?;
            for made in self.made(&stamps, self.after(*sequence).ok()?.as_ref()).ok()? {
                if let CommitRecord::Commit(commit) = made {
                    return Some(commit.at);
                }
            }
        }
        None
    }

    /// Makes sure that the history's end is what the database is now.
    fn check_end(&self, asked: Timestamp, stamps: &Stamps, commit: Option<i64>) -> Result<()> {
        if self.ends_as_it_is(stamps)? {
            return Ok(());
        }
        Err(changed(asked, commit.unwrap_or(stamps.generation.begun_at), None))
    }

    /// Whether the last generation ends in what the database is now.
    pub(super) fn ends_as_it_is(&self, stamps: &Stamps) -> Result<bool> {
        let wal = layout::beside(&self.data, "-wal");
        match salts_of(&wal)? {
            Some(salts) if salts == stamps.generation.salts => return Ok(true),
            // Somebody else began a WAL, and committed to it.
            Some(_) if Log::open(&wal)?.is_some_and(|(_, log)| !log.frames.is_empty()) => return Ok(false),
            _ => {}
        }
        let rest = match stamps.rest() {
            Some(rest) => rest,
            None if stamps.end().is_none() && self.has_segment(stamps)? => return self.is_at_end(stamps),
            None if stamps.made(None).is_empty() => stamps.generation.data,
            // A process was killed that had moved the WAL away to begin another one.
            None if stamps.end().is_some() => return self.is_at_end(stamps),
            None => return Ok(false),
        };
        Ok(state_of(&self.data)? == Some(rest) || self.is_at_end(stamps)?)
    }

    /// Whether the database file is, page by page, what it was when a generation ended. Its time changes when a fleet is
    /// copied elsewhere.
    pub(crate) fn is_at_end(&self, stamps: &Stamps) -> Result<bool> {
        // The image is read in there too: an open file must not cross into isolated descriptors.
        let same = isolated_fds::run(|| {
            HistoricalImage::at_end(self, stamps).and_then(|past| base_snapshot::is_at(&self.data, &past))
        })?;
        match same {
            // What is damaged or not there cannot be gone on from.
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::OutsideWindow) => Ok(false),
            same => same,
        }
    }
}

fn seen(current: Option<&(Stamps, bool)>) -> Seen {
    current.map(|(live, is_before)| (live.generation, *is_before, live.end(), live.rest()))
}

/// The length of a database file and the time of its last change.
pub(crate) fn state_of(data: &Path) -> Result<Option<FileState>> {
    Ok(Disk::last_change(data)?.map(|(len, changed_at)| FileState { len, changed_at }))
}
