//! Images that tolerate a damaged snapshot: they read its damaged pages through an older snapshot.

use std::{path::Path, sync::OnceLock};

use super::{
    errors::keeps_changing,
    image::{HistoricalImage, PageSource},
    plan,
    target::Target,
    timeline::{Origin, Timeline},
};
use crate::{
    error::{ErrorKind, Result},
    point::ResolvedInstant,
    units::{GenerationNumber, PageCount, PageNumber},
};

/// Maximum number of attempts to find another snapshot while the history keeps changing.
const ATTEMPTS: u32 = 10;

/// An image that reads a damaged page of its snapshot through an older snapshot.
#[derive(Debug)]
pub(crate) struct ResilientImage {
    image: HistoricalImage,
    /// `None` if the image has no snapshot.
    fallback: Option<Fallback>,
}

/// The image of the same commit from an older snapshot, which is searched for when the first damaged page is read.
#[derive(Debug)]
struct Fallback {
    origin: Origin,
    /// Not an instant: later commits may be stamped before that.
    target: Target,
    /// The older snapshot precedes this generation.
    below: GenerationNumber,
    found: OnceLock<Option<Box<ResilientImage>>>,
}

impl ResilientImage {
    /// The image at a commit, from the newest snapshot that leads to it, or the newest one before the generation `below`.
    pub(super) fn new(timeline: &Timeline, target: &Target, below: Option<GenerationNumber>) -> Result<Self> {
        let image = plan::image(timeline, target, below)?;
        let fallback = image.first().map(|below| Fallback {
            origin: timeline.origin.clone(),
            target: *target,
            below,
            found: OnceLock::new(),
        });
        Ok(Self { image, fallback })
    }

    /// The pages in memory of a database that is unchanged since its creation.
    pub(crate) fn pristine(data: &Path) -> Result<Self> {
        Ok(Self { image: HistoricalImage::pristine(data)?, fallback: None })
    }

    /// Reads the pages in the current WAL into memory. Returns `false` if the WAL was restarted during the read. The caller then
    /// makes a new image.
    pub(crate) fn hold_live_pages(&mut self) -> Result<bool> {
        let held = self.image.hold_live_pages();
        if !self.image.is_current()? {
            return Ok(false);
        }
        held.map(|()| true)
    }

    pub(crate) fn page_size(&self) -> u32 {
        self.image.page_size
    }

    pub(crate) fn page_count(&self) -> PageCount {
        self.image.page_count()
    }

    /// The size of the database in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.image.len()
    }

    pub(crate) fn resolved(&self) -> ResolvedInstant {
        self.image.resolved
    }

    /// The file of the snapshot, or the database file if there is no snapshot.
    pub(crate) fn path(&self) -> &Path {
        self.image.path()
    }

    /// Fills `into` with a page.
    pub(crate) fn read_page(&self, page: PageNumber, into: &mut [u8]) -> Result<()> {
        let error = match self.image.read_page(page, into) {
            Err(error) if error.kind() == ErrorKind::Corrupt && self.is_in_snapshot(page) => error,
            read => return read,
        };
        let Some(fallback) = self.fallback.as_ref().map(Fallback::image).transpose()?.flatten() else {
            return Err(error);
        };
        // If no snapshot has a valid version of the page, the error names the newest snapshot, which is the file to repair.
        fallback.read_page(page, into).map_err(|other| match other.kind() {
            ErrorKind::Corrupt => error,
            _ => other,
        })
    }

    fn is_in_snapshot(&self, page: PageNumber) -> bool {
        matches!(self.image.source(page), PageSource::Snapshot(_))
    }
}

impl Fallback {
    /// The image from the newest older snapshot that leads to the commit. Returns `None` if no such snapshot does.
    ///
    /// A transient error, such as a failed read, is returned and not remembered: the next call searches again.
    fn image(&self) -> Result<Option<&ResilientImage>> {
        if let Some(found) = self.found.get() {
            return Ok(found.as_deref());
        }
        let found = match self.find() {
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::OutsideWindow) => None,
            found => Some(Box::new(found?)),
        };
        Ok(self.found.get_or_init(|| found).as_deref())
    }

    fn find(&self) -> Result<ResilientImage> {
        for _ in 0..ATTEMPTS {
            // Logs may have been archived since the image was made. No log was deleted.
            let mut image =
                self.origin.ask(|timeline| ResilientImage::new(timeline, &self.target, Some(self.below)))?;
            if image.hold_live_pages()? {
                return Ok(image);
            }
        }
        Err(keeps_changing(&self.origin.data))
    }
}
