//! The way around a damaged page of a snapshot: an older snapshot may lead to the same commit.

use std::{path::PathBuf, sync::OnceLock};

use super::{
    Birth,
    errors::keeps_changing,
    image::HistoricalImage,
    timeline::{Target, Timeline},
};
use crate::{
    disk::Disk,
    error::{ErrorKind, Result},
};

/// How often the way is looked for anew while the history moves on.
const ATTEMPTS: u32 = 10;

/// Where another way to a commit is looked for. It is looked for once, when a page turns out to be damaged.
#[derive(Debug)]
pub(super) struct Fallback {
    disk: Option<Disk>,
    data: PathBuf,
    birth: Birth,
    /// Not an instant: what was committed since may be stamped before that.
    target: Target,
    /// Snapshots before this generation lead another way.
    below: u64,
    way: OnceLock<Option<Box<HistoricalImage>>>,
}

impl Fallback {
    pub(super) fn new(timeline: &Timeline, target: &Target, below: u64) -> Self {
        Self {
            disk: timeline.disk.clone(),
            data: timeline.data.clone(),
            birth: timeline.birth,
            target: *target,
            below,
            way: OnceLock::new(),
        }
    }

    /// The image of this commit from the newest older snapshot that leads to it; `None` if no such snapshot does.
    ///
    /// An error that may pass, such as a failed read, is returned and not remembered: the next call looks again.
    pub(super) fn way(&self) -> Result<Option<&HistoricalImage>> {
        if let Some(way) = self.way.get() {
            return Ok(way.as_deref());
        }
        let found = match self.find() {
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::OutsideWindow) => None,
            found => Some(Box::new(found?)),
        };
        Ok(self.way.get_or_init(|| found).as_deref())
    }

    fn find(&self) -> Result<HistoricalImage> {
        for _ in 0..ATTEMPTS {
            // Logs may have come into the archive since the first way was found. Nothing was removed from there.
            let mut past = Timeline::ask(self.disk.as_ref(), &self.data, self.birth, |timeline| {
                HistoricalImage::with(timeline, &self.target, Some(self.below))
            })?;
            let held = past.hold();
            if past.is_still_there()? {
                return held.map(|()| past);
            }
        }
        Err(keeps_changing(&self.data))
    }
}
