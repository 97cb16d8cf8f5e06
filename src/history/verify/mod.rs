//! Verification: whether every file of a history, and the database itself, is what was written.
//!
//! Everything is read and nothing is changed; nothing is opened by SQLite. What was archived does not change any more, and
//! is looked through once. What SQLite writes to may move on meanwhile: then what was found there is looked for again.
//! What was never captured, because somebody else wrote it or the power failed, is a gap and no finding.

mod data;
mod live;
mod log;
mod observation;
mod snapshot;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use observation::Observation;

use super::{
    Birth, frame_index,
    log::Log,
    log_file::LogFile,
    timeline::{Target, Timeline},
};
use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    finding::{Finding, VerifyReport},
    layout::{self, ArchiveFile, ArchivePaths},
    point::{InstantPosition, ResolvedInstant},
    progress::{self, Phase, ProgressFn},
    stamps::{CommitRecord, Generation, Slot, Stamps},
    wal::{self, Header},
};

/// How often what moves on is looked at anew, and how much longer each attempt waits than the one before.
const ATTEMPTS: u32 = 30;
const PAUSE: Duration = Duration::from_millis(2);

/// Opens a page with this number in place, and says whether its tag fits.
pub(crate) type Tag<'a> = dyn Fn(u32, &mut [u8]) -> bool + Sync + 'a;

/// What is verified.
pub(crate) struct Subject<'a> {
    /// The database file.
    pub(crate) data: &'a Path,
    pub(crate) birth: Birth,
    /// The size of a page in bytes.
    pub(crate) page_size: u32,
    /// Nothing where no tags are checked.
    pub(crate) tag: Option<&'a Tag<'a>>,
}

/// Verifies a database and its history.
///
/// Must run [with isolated descriptors](crate::sys::isolated_fds): it opens and closes the database file
/// and its shared memory.
pub(crate) fn verify(subject: &Subject<'_>, watch: &mut ProgressFn<'_>) -> Result<VerifyReport> {
    let paths = ArchivePaths::of(subject.data);
    // Nothing of the history is removed for as long as this is held.
    let _held = Disk::share_dir(paths.dir())?;
    let mut run = Run {
        subject,
        paths: &paths,
        watch,
        done: BTreeSet::new(),
        bytes: 0,
        verified: VerifyReport::default(),
    };
    for attempt in 0..ATTEMPTS {
        thread::sleep(PAUSE * attempt);
        let look = Observation::take(subject.data, &paths, subject.birth.database)?;
        run.verified = VerifyReport { tags: subject.tag.is_some(), ..VerifyReport::default() };
        run.look_through(&look)?;
        if run.verified.findings.is_empty()
            || Observation::take(subject.data, &paths, subject.birth.database)?.is_as(&look)
        {
            return Ok(run.finish());
        }
    }
    // What does not move is as it is.
    let moving = [paths.live_stamps(), subject.data.to_owned(), layout::beside(subject.data, "-wal")];
    run.verified.findings.retain(|finding| !moving.contains(&finding.file));
    if run.verified.findings.is_empty() {
        return Err(super::errors::keeps_changing(subject.data));
    }
    Ok(run.finish())
}

/// One verification.
struct Run<'a> {
    subject: &'a Subject<'a>,
    paths: &'a ArchivePaths,
    watch: &'a mut ProgressFn<'a>,
    /// Logs and snapshots of the archive in which nothing was found.
    done: BTreeSet<(u64, ArchiveFile)>,
    bytes: u64,
    verified: VerifyReport,
}

/// The stamps that could be read, by generation.
type Known = BTreeMap<u64, Stamps>;

impl Run<'_> {
    fn found(&mut self, finding: Finding) {
        self.verified.findings.push(finding);
    }

    /// Bytes were read, and the caller may stop here.
    fn read(&mut self, bytes: u64) -> Result<()> {
        self.bytes += bytes;
        progress::tell(self.watch, Phase::Check, self.bytes, None)
    }

    fn finish(self) -> VerifyReport {
        VerifyReport { bytes: self.bytes, ..self.verified }
    }

    fn file(&self, sequence: u64, file: ArchiveFile) -> PathBuf {
        self.paths.file(sequence, file)
    }

    fn look_through(&mut self, look: &Observation) -> Result<()> {
        if look.is_foreign {
            // Nothing in it says anything about this database.
            self.found(Finding::new(self.paths.dir(), super::FOREIGN));
            return self.tags();
        }
        if look.is_retained_damaged {
            self.found(Finding::new(self.paths.retained(), "it is damaged, or that of another database"));
        }
        // What moves on is looked at first.
        let live = look.current.as_ref().map(|(path, live)| (path.as_path(), live));
        self.live_stamps(look);
        let written = live.map(|(_, live)| self.live_log(look, live)).transpose()?.flatten();
        let known = self.all_stamps(look)?;
        let timeline = Timeline {
            paths: self.paths.clone(),
            data: self.subject.data.to_owned(),
            birth: Birth { is_kept_since: true, ..self.subject.birth },
            retained_from: look.retained_from,
            held: None,
            is_unwritten: Disk::exists(&layout::unwritten(self.subject.data))?,
            live: live.map(|(_, live)| live.clone()),
            seen: None,
            sequences: known.keys().copied().collect(),
            snapshots: look
                .files
                .iter()
                .filter(|(_, file)| *file == ArchiveFile::Sum)
                .map(|(at, _)| *at)
                .collect(),
            disk: None,
        };
        self.strays(look, &known);
        self.links(look, &known);
        for (sequence, stamps) in &known {
            let is_live = live.is_some_and(|(_, live)| live.generation.sequence == *sequence);
            let after =
                known.get(&(sequence + 1)).map(|after| &after.generation).filter(|after| !after.begins);
            let last = match written.filter(|_| is_live) {
                Some(last) => Some(last),
                None => self.segment(&timeline, stamps, after)?,
            };
            // Stamps that the history does not go on from count for nothing, which was told.
            let are_known = after.is_none_or(|after| after.link == stamps.digest);
            let made = if are_known { stamps.made(last) } else { Vec::new() };
            self.verified.commits +=
                made.iter().filter(|made| matches!(made, CommitRecord::Commit(_))).count() as u64;
            self.snapshot(look, stamps, known.first_key_value().is_some_and(|(first, _)| first == sequence))?;
        }
        if look.live.is_none() {
            self.unknown_log(&known)?;
        }
        self.snapshots_agree(&timeline, &known)?;
        self.data(&timeline, look, written.is_some())
    }

    /// The stamps that are the newest, and those that came to nothing.
    fn live_stamps(&mut self, look: &Observation) {
        let path = self.paths.live_stamps();
        match look.live.as_deref().map(Stamps::parse) {
            None => {}
            Some(None) => self.found(Finding::new(&path, "it is damaged: its header is none")),
            Some(Some(stamps)) => self.slots(&path, &stamps),
        }
        if let Some((at, live)) = look.current.as_ref().filter(|(at, _)| *at != path) {
            self.slots(at, live);
        }
    }

    /// The stamps of all generations, of which those are told that are none.
    fn all_stamps(&mut self, look: &Observation) -> Result<Known> {
        let live = look.current.as_ref();
        let mut known: Known =
            live.map(|(_, live)| (live.generation.sequence, live.clone())).into_iter().collect();
        for (sequence, _) in look.files.iter().filter(|(_, file)| *file == ArchiveFile::Stamps) {
            let path = self.file(*sequence, ArchiveFile::Stamps);
            if live.is_some_and(|(at, _)| *at == path) {
                continue;
            }
            // One that got its place back, or was pruned, meanwhile: the next look tells.
            let bytes = Disk::read(&path)?;
            super::check_version(&path, bytes.as_deref().unwrap_or_default())?;
            match bytes.as_deref().map(Stamps::parse) {
                None => self.found(Finding::new(&path, "it is gone")),
                Some(None) => self.found(Finding::new(&path, "it is damaged: its header is none")),
                Some(Some(stamps)) if stamps.generation.sequence != *sequence => {
                    let message = format!("it is that of generation {}", stamps.generation.sequence);
                    self.found(Finding::new(&path, message));
                }
                Some(Some(_)) if known.contains_key(sequence) => {
                    let message =
                        format!("{} is of the same generation", file_name(&self.paths.live_stamps()));
                    self.found(Finding::new(&path, message));
                }
                Some(Some(stamps)) => {
                    self.slots(&path, &stamps);
                    known.insert(*sequence, stamps);
                }
            }
        }
        Ok(known)
    }

    /// The records of a file of stamps.
    fn slots(&mut self, path: &Path, stamps: &Stamps) {
        if stamps.generation.database != self.subject.birth.database {
            self.found(Finding::new(path, "it is that of another database"));
        }
        for (place, slot) in (1..).zip(&stamps.slots) {
            if *slot == Slot::Damaged {
                let message = format!("record {place} of {} is damaged", stamps.slots.len());
                self.found(Finding::new(path, message));
            }
        }
    }

    /// Files whose stamps are not there.
    fn strays(&mut self, look: &Observation, known: &Known) {
        let live = look.current.as_ref();
        let newest = look
            .files
            .iter()
            .filter(|(_, file)| *file == ArchiveFile::Stamps)
            .map(|(sequence, _)| *sequence)
            .chain(live.map(|(_, live)| live.generation.sequence))
            .max();
        let mut told = BTreeSet::new();
        for (sequence, file) in &look.files {
            if known.contains_key(sequence) || look.has(*sequence, ArchiveFile::Stamps) {
                continue;
            }
            // A snapshot that is made before the stamps of its generation, by a process that came no further.
            let is_begun = newest.is_none_or(|newest| *sequence > newest)
                && matches!(file, ArchiveFile::Snapshot | ArchiveFile::Sum)
                && (newest.is_some() || look.wal.is_empty());
            // Live stamps that are damaged were told already.
            if is_begun || (look.live.is_some() && live.is_none()) || !told.insert(*sequence) {
                continue;
            }
            let is_behind = newest.is_none_or(|newest| *sequence > newest) && live.is_none();
            let path =
                if is_behind { self.paths.live_stamps() } else { self.file(*sequence, ArchiveFile::Stamps) };
            let of = self.file(*sequence, *file);
            let message = format!("it is missing, and {} is nothing without it", file_name(&of));
            self.found(Finding::new(path, message));
        }
    }

    /// Whether each generation goes on from the one before.
    fn links(&mut self, look: &Observation, known: &Known) {
        let path_of = |sequence: u64| match &look.current {
            Some((path, live)) if live.generation.sequence == sequence => path.clone(),
            _ => self.file(sequence, ArchiveFile::Stamps),
        };
        let mut found = Vec::new();
        let mut before: Option<&Stamps> = None;
        for (sequence, stamps) in known {
            let last = before.replace(stamps);
            let Some(last) = last else { continue };
            let previous = last.generation.sequence;
            for missing in previous + 1..*sequence {
                let path = path_of(missing);
                // One that is there and damaged was told already.
                if !Disk::exists(&path).unwrap_or(true) {
                    found.push(Finding::new(path, "it is missing: the history has a hole there"));
                }
            }
            if stamps.generation.begins || previous + 1 != *sequence {
                continue;
            }
            let path = path_of(previous);
            if stamps.generation.link != last.digest {
                let is_of_it = last.end().is_none_or(|end| end == stamps.generation.end_before);
                let message = if is_of_it {
                    "some of its stamps were lost with the power, or it was changed: its instants cannot be restored"
                        .to_owned()
                } else {
                    format!(
                        "it is not what generation {sequence} goes on from: it was changed, or is another's"
                    )
                };
                found.push(Finding::new(path, message));
            } else if last.end().is_none() {
                found.push(Finding::new(path, "it does not say how its generation ended"));
            }
        }
        self.verified.findings.extend(found);
    }

    /// Every stamp against the frame that it names.
    fn commits(&mut self, path: &Path, stamps: &Stamps, log: &Log, last: u32) {
        for made in stamps.made(Some(last)) {
            let CommitRecord::Commit(commit) = made else { continue };
            // What stands behind a damaged frame was told.
            let Some(frame) = log.frames.get(commit.frame as usize - 1) else { continue };
            if frame.commit != Some(commit.pages) {
                let message = format!("it does not end the commit of {}", super::errors::shown(commit.at));
                self.found(Finding::new(path, message).frame(commit.frame));
            }
        }
    }

    /// The segment of a generation whose log is not there any more: its last frame.
    fn segment(
        &mut self,
        timeline: &Timeline,
        stamps: &Stamps,
        after: Option<&Generation>,
    ) -> Result<Option<u32>> {
        let sequence = stamps.generation.sequence;
        // What follows vouches for how it ended.
        let fixed = match after {
            Some(after) => Some(after.end_before),
            None => timeline.fixed_end(stamps)?,
        };
        let end = match fixed {
            Some(end) => Some(end),
            None => unless_damaged(timeline.known_end(stamps))?.flatten(),
        };
        let Some(end) = end.filter(|end| end.frame > 0) else {
            // Nobody committed in it, or nobody knows how it ended.
            return Ok(None);
        };
        let last = end.frame;
        let key = (sequence, ArchiveFile::Segment);
        let before = self.verified.findings.len();
        if self.done.contains(&key) {
            self.verified.logs += 1;
            return Ok(Some(last));
        }
        let bytes = match LogFile::open(self.paths, sequence) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let message = "it is damaged: the table at its end, which says what stands where, is none";
                self.found(Finding::new(self.file(sequence, ArchiveFile::Compressed), message));
                return Ok(Some(last));
            }
            bytes => bytes?,
        };
        let Some(bytes) = bytes else {
            // A gap is no finding.
            if after.is_none() && stamps.is_log_lost() {
                return Ok(None);
            }
            self.found(Finding::new(
                self.file(sequence, ArchiveFile::Segment),
                format!("it is missing, and with it {last} frames of the history"),
            ));
            return Ok(Some(last));
        };
        let path = &bytes.path;
        let read = |into: &mut [u8], at| bytes.read_up_to(into, at);
        self.verified.logs += 1;
        let mut start = [0; wal::HEADER_LEN];
        let header = match read(&mut start, 0) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.found(Finding::new(path, "it is damaged: it cannot be decompressed"));
                return Ok(Some(last));
            }
            count => count.map(|_| Header::parse(&start))?,
        };
        let Some(header) = header else {
            self.found(Finding::new(path, "it is damaged: its header is none"));
            return Ok(Some(last));
        };
        if header.salts() != stamps.generation.salts || header.page_size() != stamps.generation.page_size {
            self.found(Finding::new(path, "it is that of another generation"));
            return Ok(Some(last));
        }
        self.frames(path, &header, last, read)?;
        if self.verified.findings.len() == before {
            match Log::read_from(read)? {
                Some(log) if log.end() == end => {
                    if after.is_none_or(|after| after.link == stamps.digest) {
                        self.commits(path, stamps, &log, last);
                    }
                    if let Some(fault) = frame_index::fault(self.paths, &stamps.generation, &log)? {
                        let message = format!("{fault}: remove it, it is made anew from its log");
                        let index = self.file(sequence, ArchiveFile::Index);
                        self.found(Finding::new(index, message));
                    }
                }
                _ => self
                    .found(Finding::new(path, "it does not end as it did when it was archived").frame(last)),
            }
        }
        if self.verified.findings.len() == before {
            self.done.insert(key);
        }
        Ok(Some(last))
    }

    /// A restore would fail: that is told if nothing was found that says why.
    fn unless_told(&mut self, error: &Error, path: &Path) {
        if self.verified.findings.is_empty() {
            self.found(Finding::new(path, error.without_path()));
        }
    }
}

/// The name under which a finding mentions another file than its own.
fn file_name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy()
}

/// `None` in place of an error that is told where the damage is.
fn unless_damaged<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        result => result.map(Some),
    }
}

/// The end of a generation's part that ends with a frame.
fn target(sequence: u64, frame: u32) -> Target {
    let reached = ResolvedInstant { kind: InstantPosition::AfterLast, commit: None, next: None };
    Target { sequence, frame, reached }
}
