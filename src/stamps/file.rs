//! A file of stamps as a whole, and what follows from its records.

use xxhash_rust::xxh3::xxh3_64;

use super::{
    Commit, CommitRecord, FileState, Generation, HEADER_WORDS, LogEnd, RECORD_WORDS, Record, Slot, VERSION,
    Word, bytes, words,
};

/// A file of stamps that was read.
#[derive(Clone, Debug)]
pub(crate) struct Stamps {
    pub(crate) generation: Generation,
    /// What stands behind the header, without the empty places at the end.
    pub(crate) slots: Vec<Slot>,
    /// The digest by which the next generation names this one.
    pub(crate) digest: u64,
}

impl Stamps {
    /// Reads the bytes of a file; nothing if its header is none.
    pub(crate) fn parse(file: &[u8]) -> Option<Self> {
        Self::of(&words(file))
    }

    /// The version of a file, if a newer version of this crate wrote it.
    pub(crate) fn newer_version(file: &[u8]) -> Option<Word> {
        Generation::version(words(file).first_chunk()?).filter(|version| *version > VERSION)
    }

    /// The same of words that were read.
    pub(crate) fn of(words: &[Word]) -> Option<Self> {
        let (header, rest) = words.split_first_chunk()?;
        let generation = Generation::decode(header)?;
        let seed = header[HEADER_WORDS - 1];
        let records = rest.as_chunks::<RECORD_WORDS>().0;
        let used = records.iter().rposition(|record| *record != [0; RECORD_WORDS]).map_or(0, |last| last + 1);
        let decode = |(place, record): (usize, &[Word; RECORD_WORDS])| Slot::decode(*record, seed, place);
        let slots = records[..used].iter().enumerate().map(decode).collect();
        let digest = xxh3_64(&bytes(&words[..HEADER_WORDS + used * RECORD_WORDS]));
        Some(Self { generation, slots, digest })
    }

    /// How the WAL ended, if it did and did not go on after all.
    pub(crate) fn end(&self) -> Option<LogEnd> {
        self.slots.iter().rev().find_map(|slot| match slot {
            Slot::Record(Record::Commit(_)) => Some(None),
            Slot::Record(Record::End(end)) => Some(Some(*end)),
            _ => None,
        })?
    }

    /// The newest end record, whether or not the WAL went on after it.
    pub(crate) fn last_end(&self) -> Option<LogEnd> {
        self.slots.iter().rev().find_map(|slot| match slot {
            Slot::Record(Record::End(end)) => Some(*end),
            _ => None,
        })
    }

    /// Whether the log was not there any more when the next generation began, though it had ended: its end record stands there
    /// twice, with no commit between.
    pub(crate) fn is_log_lost(&self) -> bool {
        let mut records = self.slots.iter().rev().filter_map(|slot| match slot {
            Slot::Record(record @ (Record::End(_) | Record::Commit(_))) => Some(record),
            _ => None,
        });
        let last = records.next();
        matches!(last, Some(Record::End(_))) && records.next() == last
    }

    /// The database file when the WAL had ended and all of it stood there.
    pub(crate) fn rest(&self) -> Option<FileState> {
        let Some(Slot::Record(Record::Rest(data))) = self.slots.last() else { return None };
        Some(*data)
    }

    /// The commits of the WAL in order, if that is known to have ended with the frame `end`.
    ///
    /// A stamp is written before its commit. One whose commit did not come about, or was lost with the power, is told by
    /// what follows: a later stamp or the end says that an earlier frame was the last one. A commit without a stamp is told
    /// in the same way.
    pub(crate) fn made(&self, end: Option<u32>) -> Vec<CommitRecord> {
        let mut commits: Vec<Commit> = Vec::with_capacity(self.slots.len());
        let mut lost: Vec<(usize, u32)> = Vec::new();
        let mut follow = |commits: &mut Vec<Commit>, last: u32| {
            while commits.pop_if(|commit| commit.frame > last).is_some() {}
            lost.retain(|(place, frame)| *place <= commits.len() && *frame <= last);
            let known = commits.last().map_or(self.generation.first_frame, |commit| commit.frame);
            if known.max(lost.last().map_or(0, |(_, frame)| *frame)) < last {
                lost.push((commits.len(), last));
            }
        };
        for slot in &self.slots {
            match slot {
                Slot::Record(Record::Commit(commit)) => {
                    follow(&mut commits, commit.before);
                    commits.push(*commit);
                }
                Slot::Record(Record::End(end)) => follow(&mut commits, end.frame),
                _ => {}
            }
        }
        if let Some(end) = end {
            follow(&mut commits, end);
        }
        let mut made = Vec::with_capacity(commits.len() + lost.len());
        let mut lost = lost.into_iter().peekable();
        for (place, commit) in commits.into_iter().enumerate() {
            while let Some((_, frame)) = lost.next_if(|(before, _)| *before <= place) {
                made.push(CommitRecord::Unstamped { frame });
            }
            made.push(CommitRecord::Commit(commit));
        }
        made.extend(lost.map(|(_, frame)| CommitRecord::Unstamped { frame }));
        made
    }

    /// Whether a record that was written is not what it was.
    pub(crate) fn is_damaged(&self) -> bool {
        self.slots.contains(&Slot::Damaged)
    }

    /// The instant of the newest stamp.
    pub(crate) fn last_instant(&self) -> i64 {
        let at = |slot: &Slot| {
            if let Slot::Record(Record::Commit(commit)) = slot { Some(commit.at) } else { None }
        };
        self.slots.iter().rev().find_map(at).unwrap_or(self.generation.not_before)
    }
}
