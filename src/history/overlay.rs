//! The pages of a database with the commits of one or more logs applied: for each page, the frame with its newest version.

use std::{ops::Range, path::Path};

use super::{errors::damaged, log::Log};
use crate::{
    error::Result,
    units::{FrameNumber, PageCount, PageNumber},
};

/// A map from page number to the newest version, which `F` identifies.
#[derive(Clone, Debug)]
pub(super) struct Overlay<F> {
    page_size: u32,
    page_count: PageCount,
    /// The pages of the base that no commit has truncated.
    base_pages: PageCount,
    frames: Vec<Option<F>>,
}

impl<F: Copy> Overlay<F> {
    /// The base without any commit.
    pub(super) fn new(base_pages: PageCount, page_size: u32) -> Self {
        let frames = vec![None; base_pages.get() as usize];
        Self { page_size, page_count: base_pages, base_pages, frames }
    }

    /// Applies the frames of a log at the indexes `range`. `path` is the name of the log in errors, and `reference` makes the
    /// map's value of a frame.
    pub(super) fn apply(
        &mut self,
        log: &Log,
        path: &Path,
        range: Range<usize>,
        reference: impl Fn(FrameNumber) -> F,
    ) -> Result<()> {
        let mut next = range.start as u64;
        let frames = log.frames.get(range).unwrap_or_default();
        for transaction in frames.split_inclusive(|frame| frame.commit.is_some()) {
            let first = next;
            next += transaction.len() as u64;
            let Some(pages) = transaction.last().and_then(|frame| frame.commit) else { break };
            // A page that a transaction adds without a frame is a leaf of the freelist, which a trunk page lists in four bytes.
            // The memory for the map is therefore bounded by the length of the log, whatever sizes its frames claim.
            let named_by_each = u64::from(self.page_size / 4);
            let most = u64::from(self.page_count.get()) + transaction.len() as u64 * named_by_each;
            if u64::from(pages.get()) > most {
                let number = FrameNumber::from_index(next - 1);
                let fault = format_args!(
                    "frame {number} says that the database has {pages} pages, but {most} is the maximum"
                );
                return Err(damaged(path, fault));
            }
            self.page_count = pages;
            self.base_pages = self.base_pages.min(pages);
            self.frames.resize(pages.get() as usize, None);
            for (index, frame) in (first..).zip(transaction) {
                if let Some(newest) = self.frames.get_mut(frame.page_number.index()) {
                    *newest = Some(reference(FrameNumber::from_index(index)));
                }
            }
        }
        Ok(())
    }

    pub(super) fn page_count(&self) -> PageCount {
        self.page_count
    }

    /// The number of pages that may still be those of the base.
    pub(super) fn base_pages(&self) -> PageCount {
        self.base_pages
    }

    /// The frame with the newest version of a page, or `None` if no log has one.
    pub(super) fn frame(&self, page: PageNumber) -> Option<F> {
        self.frames.get(page.index()).copied().flatten()
    }

    /// The pages that a log has, in order, and their frames.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PageNumber, F)> {
        let numbered = PageNumber::FIRST.and_following().zip(&self.frames);
        numbered.filter_map(|(page, frame)| frame.map(|frame| (page, frame)))
    }
}
