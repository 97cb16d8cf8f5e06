//! Which commit a stamp means. A stamp is written before its commit, and where that does not come about, somebody who writes no
//! stamps may commit later with the same number of frames.

use super::{log, log_file::LogFile, low_sum, salts_of, timeline::Timeline};
use crate::{
    disk::Disk,
    error::Result,
    layout,
    stamps::{Commit, CommitRecord, Generation, Stamps, parts},
};

impl Timeline {
    /// [The commits of a generation](Self::made), of which the last one that is stamped at or before an instant is the one that
    /// its stamp means.
    pub(super) fn made_until(
        &self,
        stamps: &Stamps,
        after: Option<&Generation>,
        at: i64,
    ) -> Result<Vec<CommitRecord>> {
        let mut made = self.made(stamps, after)?;
        for made in made.iter_mut().rev() {
            match made {
                CommitRecord::Commit(commit) if commit.at > at => {}
                CommitRecord::Commit(commit) if self.is_meant(&stamps.generation, commit) => break,
                CommitRecord::Commit(Commit { frame, .. }) => {
                    *made = CommitRecord::Unstamped { frame: *frame }
                }
                CommitRecord::Unstamped { .. } => {}
            }
        }
        Ok(made)
    }

    /// Whether the frame that ends a commit is the one that its stamp was written for. What cannot be read is told of by those
    /// who need it.
    fn is_meant(&self, generation: &Generation, commit: &Commit) -> bool {
        let stands_there = || self.last_page(generation, commit).ok().flatten().map(|page| low_sum(&page));
        if commit.sum == 0 || stands_there().is_none_or(|sum| sum == commit.sum) {
            return true;
        }
        // It may be damaged.
        let source = self.source(generation, None).ok().flatten();
        let sum = source.and_then(|source| source.log.sums.get(commit.frame as usize - 1).copied());
        sum.is_none_or(|sum| parts(sum).0 == commit.sum)
    }

    /// The page of the frame that ends a commit.
    fn last_page(&self, generation: &Generation, commit: &Commit) -> Result<Option<Vec<u8>>> {
        let mut page = vec![0; generation.page_size as usize];
        if commit.frame == 0 {
            return Ok(None);
        }
        let at = log::page_offset(commit.frame, generation.page_size);
        let wal = layout::beside(&self.data, "-wal");
        let count = if let Some(log) = LogFile::open(&self.paths, generation.sequence)? {
            log.read_up_to(&mut page, at)?
        } else if salts_of(&wal)? == Some(generation.salts)
            && let Some(file) = Disk::open_regular(&wal)?
        {
            Disk::read_up_to(&file, &wal, &mut page, at)?
        } else {
            0
        };
        Ok((count == page.len()).then_some(page))
    }
}
