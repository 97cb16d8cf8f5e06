//! A file of stamps as a whole, and the commits that follow from its records.

use xxhash_rust::xxh3::xxh3_64;

use super::{
    Commit, CommitRecord, FileState, Generation, HEADER_WORDS, LogEnd, RECORD_WORDS, Record, Slot, VERSION,
    Word, bytes, header_words, words,
};
use crate::units::{FrameNumber, Micros};

/// The contents of a file of stamps.
#[derive(Clone, Debug)]
pub(crate) struct Stamps {
    pub(crate) generation: Generation,
    /// The records, without the unused space at the end.
    pub(crate) slots: Vec<Slot>,
    /// The digest by which the next generation refers to these stamps.
    pub(crate) digest: u64,
}

impl Stamps {
    /// Reads the bytes of a file. Returns `None` if the header is invalid.
    pub(crate) fn parse(file: &[u8]) -> Option<Self> {
        Self::of(&words(file))
    }

    /// The version of a file that a newer version of this crate wrote; otherwise `None`.
    pub(crate) fn newer_version(file: &[u8]) -> Option<Word> {
        Generation::version(header_words(file).first_chunk()?).filter(|version| *version > VERSION)
    }

    /// Reads the words of a file. Returns `None` if the header is invalid.
    pub(crate) fn of(words: &[Word]) -> Option<Self> {
        let (header, rest) = words.split_first_chunk()?;
        let generation = Generation::decode(header)?;
        let seed = header[HEADER_WORDS - 1];
        let records = rest.as_chunks::<RECORD_WORDS>().0;
        let used = records.iter().rposition(|record| *record != [0; RECORD_WORDS]).map_or(0, |last| last + 1);
        let decode =
            |(position, record): (usize, &[Word; RECORD_WORDS])| Slot::decode(*record, seed, position);
        let slots = records[..used].iter().enumerate().map(decode).collect();
        let digest = xxh3_64(&bytes(&words[..HEADER_WORDS + used * RECORD_WORDS]));
        Some(Self { generation, slots, digest })
    }

    /// The end record of the WAL, or `None` if there is none or a later commit supersedes it.
    pub(crate) fn end(&self) -> Option<LogEnd> {
        self.slots.iter().rev().find_map(|slot| match slot {
            Slot::Record(Record::Commit(_)) => Some(None),
            Slot::Record(Record::End(end)) => Some(Some(*end)),
            _ => None,
        })?
    }

    /// The newest end record, even if a later commit supersedes it.
    pub(crate) fn last_end(&self) -> Option<LogEnd> {
        self.slots.iter().rev().find_map(|slot| match slot {
            Slot::Record(Record::End(end)) => Some(*end),
            _ => None,
        })
    }

    /// Whether the WAL had ended but did not exist when the next generation began. The end record is then repeated without a
    /// commit in between.
    pub(crate) fn is_log_lost(&self) -> bool {
        let mut records = self.slots.iter().rev().filter_map(|slot| match slot {
            Slot::Record(record @ (Record::End(_) | Record::Commit(_))) => Some(record),
            _ => None,
        });
        let last = records.next();
        matches!(last, Some(Record::End(_))) && records.next() == last
    }

    /// The state of the database file after the complete checkpoint of the ended WAL, if that is recorded.
    pub(crate) fn checkpointed(&self) -> Option<FileState> {
        let Some(Slot::Record(Record::Checkpointed(data))) = self.slots.last() else { return None };
        Some(*data)
    }

    /// The commits of the WAL in order, of which the last one may have failed.
    pub(crate) fn commits(&self) -> Vec<CommitRecord> {
        self.merge().finish()
    }

    /// The commits in order of a WAL whose last committed frame is `end`.
    ///
    /// A stamp is written before its commit. If the commit fails or is lost in a power failure, a later record shows this: its
    /// last frame is before that of the stamp. A later record reveals an unstamped commit in the same way.
    pub(crate) fn commits_up_to(&self, end: Option<FrameNumber>) -> Vec<CommitRecord> {
        let mut merge = self.merge();
        merge.ends_at(end);
        merge.finish()
    }

    /// The commits according to all records.
    fn merge(&self) -> Merge {
        let mut merge = Merge {
            base_frame: self.generation.base_frame,
            commits: Vec::with_capacity(self.slots.len()),
            unstamped: Vec::new(),
        };
        for slot in &self.slots {
            match slot {
                Slot::Record(Record::Commit(commit)) => {
                    merge.ends_at(commit.before);
                    merge.commits.push(*commit);
                }
                Slot::Record(Record::End(end)) => merge.ends_at(end.frame),
                _ => {}
            }
        }
        merge
    }

    /// Whether a record is damaged.
    pub(crate) fn is_damaged(&self) -> bool {
        self.slots.contains(&Slot::Damaged)
    }

    /// The instant of the newest stamp.
    pub(crate) fn last_instant(&self) -> Micros {
        let at = |slot: &Slot| {
            if let Slot::Record(Record::Commit(commit)) = slot { Some(commit.at) } else { None }
        };
        self.slots.iter().rev().find_map(at).unwrap_or(self.generation.not_before)
    }
}

/// The commits according to the records so far.
struct Merge {
    base_frame: Option<FrameNumber>,
    commits: Vec<Commit>,
    unstamped: Vec<UnstampedAt>,
}

/// Unstamped commits, the last of which ends with `frame`, before the stamped commit at `position`.
struct UnstampedAt {
    position: usize,
    frame: FrameNumber,
}

impl Merge {
    /// Applies the fact that the last committed frame was `last` at this point.
    fn ends_at(&mut self, last: Option<FrameNumber>) {
        while self.commits.pop_if(|commit| Some(commit.frame) > last).is_some() {}
        let position = self.commits.len();
        self.unstamped.retain(|unstamped| unstamped.position <= position && Some(unstamped.frame) <= last);
        let stamped = self.commits.last().map_or(self.base_frame, |commit| Some(commit.frame));
        let known = stamped.max(self.unstamped.last().map(|unstamped| unstamped.frame));
        if let Some(frame) = last.filter(|_| known < last) {
            self.unstamped.push(UnstampedAt { position, frame });
        }
    }

    fn finish(self) -> Vec<CommitRecord> {
        let mut merged = Vec::with_capacity(self.commits.len() + self.unstamped.len());
        let mut unstamped = self.unstamped.into_iter().peekable();
        for (position, commit) in self.commits.into_iter().enumerate() {
            while let Some(before) = unstamped.next_if(|unstamped| unstamped.position <= position) {
                merged.push(CommitRecord::Unstamped { frame: before.frame });
            }
            merged.push(CommitRecord::Commit(commit));
        }
        merged.extend(unstamped.map(|last| CommitRecord::Unstamped { frame: last.frame }));
        merged
    }
}
