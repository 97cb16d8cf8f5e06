//! Snapshots: each against its sum, its generation, and what the history before it leads to.

use std::path::Path;

use super::{Known, Observation, Run, log, target};
use crate::{
    disk::Disk,
    error::{ErrorKind, Result},
    finding::Finding,
    history::{
        checksummed,
        image::HistoricalImage,
        snapshot::{STEP, Snapshot, is_len_of},
        timeline::Timeline,
    },
    layout::ArchiveFile,
    stamps::Stamps,
};

impl Run<'_> {
    /// The snapshot before a generation, if there is one or must be one.
    pub(super) fn snapshot(&mut self, look: &Observation, stamps: &Stamps, is_first: bool) -> Result<()> {
        let generation = &stamps.generation;
        let sequence = generation.sequence;
        let path = self.file(sequence, ArchiveFile::Snapshot);
        let (has_file, has_sum) =
            (look.has(sequence, ArchiveFile::Snapshot), look.has(sequence, ArchiveFile::Sum));
        if !has_file && !has_sum && !generation.begins && !is_first {
            return Ok(());
        }
        let key = (sequence, ArchiveFile::Snapshot);
        if self.done.contains(&key) {
            self.verified.snapshots += 1;
            return Ok(());
        }
        for file in [ArchiveFile::Snapshot, ArchiveFile::Sum] {
            if !look.has(sequence, file) {
                self.found(Finding::new(
                    self.file(sequence, file),
                    "it is missing: no restore can begin there",
                ));
            }
        }
        if !has_file || !has_sum {
            return Ok(());
        }
        let sum_path = self.file(sequence, ArchiveFile::Sum);
        let sums = match Snapshot::sums(self.paths, sequence, generation.seed()) {
            Ok(Some(sums)) => sums,
            Ok(None) => {
                self.found(Finding::new(sum_path, "it is that of another generation"));
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.found(Finding::new(sum_path, "it is damaged, or something else"));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.verified.snapshots += 1;
        let before = self.verified.findings.len();
        self.pages(&path, generation.page_size, &sums)?;
        if self.verified.findings.len() == before {
            self.done.insert(key);
        }
        Ok(())
    }

    /// The pages of a snapshot: their checksums and tags, and how many there are.
    fn pages(&mut self, path: &Path, page_size: u32, sums: &[u64]) -> Result<()> {
        let Some(file) = Disk::open_regular(path)? else { return Ok(()) };
        if !Disk::len(path)?.is_some_and(|len| is_len_of(len, sums.len(), page_size)) {
            self.found(Finding::new(path, "it is damaged: its length is not what it was"));
        }
        let page_size = page_size as usize;
        let mut buffer = vec![0; (STEP / page_size).max(1) * page_size];
        let mut told = log::Told::default();
        let mut at = 0;
        let mut expected = (1..).zip(sums);
        loop {
            let count = Disk::read_up_to(&file, path, &mut buffer, at)?;
            for (page, (number, sum)) in buffer[..count].chunks_exact_mut(page_size).zip(&mut expected) {
                let is_whole = checksummed::of(page) == *sum;
                // A tag that does not fit says more.
                if !log::is_authentic(self.subject.tag, number, page) {
                    told.add(self, log::tag_finding(path, number));
                } else if !is_whole {
                    let message = "it is damaged: its checksum does not fit";
                    told.add(self, Finding::new(path, message).page(number));
                }
            }
            self.read(count as u64)?;
            at += count as u64;
            if count < buffer.len() {
                break;
            }
        }
        told.finish(self, path, "pages");
        Ok(())
    }

    /// Every snapshot that an older one leads to, against that and the segments between.
    pub(super) fn snapshots_agree(&mut self, timeline: &Timeline, known: &Known) -> Result<()> {
        let mut from = None;
        for (sequence, stamps) in known {
            if stamps.generation.begins {
                from = None;
            }
            if !timeline.snapshots.contains(sequence) {
                continue;
            }
            let first = from.replace(*sequence);
            let Some(first) = first else { continue };
            let path = self.file(*sequence, ArchiveFile::Snapshot);
            let target = target(sequence - 1, stamps.generation.end_before.frame);
            let same = HistoricalImage::from_snapshot(timeline, first, &target)
                .and_then(|past| self.same(&past, &path));
            // What is damaged was told where it stands.
            match same {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Corrupt => self.unless_told(&error, &path),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn same(&mut self, past: &HistoricalImage, path: &Path) -> Result<()> {
        let Some(file) = Disk::open_regular(path)? else { return Ok(()) };
        let (page_size, mut there, mut told) = (past.page_size as usize, Vec::new(), log::Told::default());
        let mut others = Vec::new();
        past.read_all(self.watch, |bytes, at| {
            there.resize(bytes.len(), 0);
            let count = Disk::read_up_to(&file, path, &mut there, at)?;
            for (number, page) in (at / page_size as u64 + 1..).zip(bytes.chunks_exact(page_size)) {
                let start = (usize::try_from(number).unwrap_or(usize::MAX) - 1) * page_size;
                let start = start - usize::try_from(at).unwrap_or(usize::MAX);
                if there[..count].get(start..start + page_size) != Some(page) {
                    others.push(u32::try_from(number).unwrap_or(u32::MAX));
                }
            }
            Ok(())
        })?;
        for page in others {
            told.add(self, Finding::new(path, "it is not what the history before it leads to").page(page));
        }
        told.finish(self, path, "pages");
        if Disk::len(path)?.is_some_and(|len| len >= past.len() + page_size as u64) {
            self.found(Finding::new(path, "it is longer than what the history before it leads to"));
        }
        Ok(())
    }
}
