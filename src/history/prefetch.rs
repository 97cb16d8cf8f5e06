//! Read-ahead for sequential reads of an image: how many pages to request from the system before they are needed.

use crate::{
    sync::{Mutex, Rank},
    units::PageNumber,
};

/// Maximum number of pages that are requested at once.
const PAGES_MAX: u32 = 256;

/// The pages that were requested last.
#[derive(Debug)]
pub(super) struct Prefetch(Mutex<Requested>);

#[derive(Clone, Copy, Debug, Default)]
struct Requested {
    /// The number of the page after the requested ones.
    end: u32,
    /// The number of requested pages.
    pages: u32,
}

impl Default for Prefetch {
    fn default() -> Self {
        Self(Mutex::new(Rank::Prefetch, Requested::default()))
    }
}

impl Prefetch {
    /// The number of pages to request, starting with `page`, which is about to be read. The number doubles as long as reads are
    /// sequential.
    pub(super) fn pages_from(&self, page: PageNumber) -> u32 {
        let mut requested = self.0.lock_or_clear();
        let number = page.get();
        let begin = requested.end.saturating_sub(requested.pages);
        if (begin..requested.end).contains(&number) {
            return 0;
        }
        // A sequential reader may skip some pages.
        let is_next = (requested.end..=requested.end.saturating_add(requested.pages)).contains(&number);
        let pages = if is_next { (requested.pages * 2).min(PAGES_MAX) } else { 1 };
        *requested = Requested { end: number.saturating_add(pages), pages };
        pages
    }
}
