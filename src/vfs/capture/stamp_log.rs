//! The stamps of the current generation: a mapped file, to which every connection appends.

use std::{
    fs::File,
    path::Path,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Release},
    },
};

use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    stamps::{
        Commit, Generation, HEADER_LEN, HEADER_WORDS, RECORD_LEN, RECORD_WORDS, Record, Slot, Stamps, Word,
    },
    sys::shared_words::SharedWords,
    units::Micros,
};

/// The stamps of one generation. A caller that appends holds the write lock of the WAL.
#[derive(Debug)]
pub(super) struct StampLog {
    generation: Generation,
    seed: u64,
    map: SharedWords,
    /// The number of used places that this connection has read.
    used: usize,
    /// The instant of the newest stamp.
    last: Micros,
}

impl StampLog {
    /// Maps a file of stamps whose header is that of `generation`.
    pub(super) fn map(generation: &Generation, file: &File, path: &Path) -> Result<Self> {
        let map = SharedWords::map(file).map_err(|error| Error::io_at("mapping", path, error))?;
        if map.len() < HEADER_LEN {
            return Err(Error::naming(ErrorKind::Corrupt, path, |file| {
                format!("{file} is damaged: it is truncated")
            }));
        }
        // The first stamp is not earlier than the start of the generation.
        let last = generation.begun_at.minus(1).max(generation.not_before);
        let seed = generation.seed();
        let mut live = Self { generation: *generation, seed, map, used: 0, last };
        // A power loss may leave empty places between records.
        for place in 0..(live.map.len() - HEADER_LEN) / RECORD_LEN {
            live.take_in(place);
        }
        Ok(live)
    }

    pub(super) fn generation(&self) -> &Generation {
        &self.generation
    }

    /// Stamps a commit with the time `now`, or with the next microsecond after the last stamp if that is later. Returns the
    /// stamp.
    pub(super) fn stamp(&mut self, disk: &Disk, path: &Path, now: Micros, commit: Commit) -> Result<Micros> {
        self.look();
        let at = now.max(self.last.next());
        self.append(disk, path, Record::Commit(Commit { at, ..commit })).map(|()| at)
    }

    /// Appends a record. Extends the file first if it is full.
    pub(super) fn append(&mut self, disk: &Disk, path: &Path, record: Record) -> Result<()> {
        self.look();
        // Another connection may have extended the file, and filled it.
        while HEADER_LEN + (self.used + 1) * RECORD_LEN > self.map.len() {
            let file = disk.open_to_write(path)?;
            let mut header = [0; HEADER_LEN];
            Disk::read_up_to(&file, path, &mut header, 0)?;
            // If the database was destroyed, the path may refer to another database.
            if Stamps::parse(&header).is_some_and(|there| there.generation != self.generation) {
                let message = "the database was destroyed while this connection had it open";
                return Err(Error::new(ErrorKind::Destroyed, message));
            }
            disk.allocate(&file, path, self.map.len() as u64 * 2)?;
            *self = Self::map(&self.generation, &file, path)?;
        }
        let place = HEADER_WORDS + self.used * RECORD_WORDS;
        let words = &self.map.words()[place..place + RECORD_WORDS];
        for (word, value) in words.iter().zip(record.encode(self.seed, self.used)) {
            word.store(value.to_le(), Release);
        }
        self.look();
        Ok(())
    }

    /// Reads the records that other connections have appended.
    fn look(&mut self) {
        while self.take_in(self.used) {}
    }

    /// Reads the record at a place. Returns `false` if the place is empty.
    fn take_in(&mut self, place: usize) -> bool {
        let at = HEADER_WORDS + place * RECORD_WORDS;
        let Some(words) = self.map.words().get(at..).and_then(<[AtomicU64]>::first_chunk::<RECORD_WORDS>)
        else {
            return false;
        };
        let words = words.each_ref().map(|word| Word::from_le(word.load(Acquire)));
        if words == [0; RECORD_WORDS] {
            return false;
        }
        if let Slot::Record(Record::Commit(commit)) = Slot::decode(words, self.seed, place) {
            self.last = self.last.max(commit.at);
        }
        self.used = self.used.max(place + 1);
        true
    }

    /// All stamps of the generation.
    pub(super) fn stamps(&self) -> Result<Stamps> {
        let words: Vec<Word> =
            self.map.words().iter().map(|word| Word::from_le(word.load(Acquire))).collect();
        Stamps::of(&words)
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "the stamps of a database are damaged"))
    }
}
