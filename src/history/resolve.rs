//! From an instant to the image of the database at that instant: locate the commit, check that the current database equals the
//! end of the history, and make the image.

use super::{
    compare::ends_in_database,
    errors::changed,
    fallback::ResilientImage,
    image::HistoricalImage,
    locate::{Location, locate},
    plan, pristine,
    target::Target,
    timeline::Timeline,
};
use crate::{error::Result, time::Timestamp, units::GenerationNumber};

/// The commit that an instant resolves to. Returns `None` if the database has no history and is unchanged since its creation.
fn resolve(timeline: &Timeline, at: Timestamp, now: Timestamp) -> Result<Option<Target>> {
    match locate(timeline, at, now)? {
        Location::Empty => pristine::check_instant(timeline, at).map(|()| None),
        Location::Known(target) => Ok(Some(target)),
        Location::PastEnd { target, stamps, changed_after } => {
            if ends_in_database(timeline, &stamps)? {
                Ok(Some(target))
            } else {
                Err(changed(at, changed_after, None))
            }
        }
    }
}

/// The image at an instant. Returns `None` if the database has no history and is unchanged since its creation.
///
/// The image is made from the newest snapshot that leads to the commit, or the newest one before the generation `below`: if a
/// page turns out to be damaged, an older snapshot may still lead there.
pub(crate) fn image_at(
    timeline: &Timeline,
    at: Timestamp,
    now: Timestamp,
    below: Option<GenerationNumber>,
) -> Result<Option<HistoricalImage>> {
    let Some(target) = resolve(timeline, at, now)? else { return Ok(None) };
    plan::image(timeline, &target, below).map(Some)
}

/// The image at an instant, which reads damaged pages through an older snapshot. Returns `None` if the database has no history
/// and is unchanged since its creation.
pub(crate) fn resilient_image_at(
    timeline: &Timeline,
    at: Timestamp,
    now: Timestamp,
) -> Result<Option<ResilientImage>> {
    let Some(target) = resolve(timeline, at, now)? else { return Ok(None) };
    ResilientImage::new(timeline, &target, None).map(Some)
}
