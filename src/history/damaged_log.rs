//! Logs that cannot reproduce the database at the point at which a snapshot is due.

use super::{materialize::write_pages, plan, timeline::Timeline};
use crate::{
    error::{Error, ErrorKind, Result},
    progress::ProgressFn,
    stamps::Generation,
    time::Timestamp,
    units::{GenerationNumber, Micros},
};

/// The earliest instant whose restore may be refused. The end of the generation before `generation` cannot be read. The result is
/// the begin of the first generation, from `newest` on, whose end cannot be read. `newest` has the newest snapshot.
pub(super) fn first_damaged(
    timeline: &Timeline,
    newest: GenerationNumber,
    generation: &Generation,
    watch: &mut ProgressFn<'_>,
) -> Result<Micros> {
    let mut is_damaged = |number: GenerationNumber| {
        let read = timeline
            .stamps(number.next())
            .and_then(|next| plan::image_before(timeline, &next.generation))
            .and_then(|image| write_pages(&image, watch, |_, _| Ok(())));
        match read {
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(true),
            read => read.map(|()| false),
        }
    };
    let (mut low, mut high) = (newest.get(), generation.number.get() - 1);
    while low < high {
        let middle = low.midpoint(high);
        if is_damaged(GenerationNumber::new(middle))? {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    // If the stamps of that generation are damaged, the end of the preceding generation is not known either.
    let known =
        (newest.get()..=low).rev().find_map(|number| timeline.stamps(GenerationNumber::new(number)).ok());
    Ok(known.map_or(generation.begun_at, |stamps| timeline.starts_at(&stamps.generation)))
}

/// The logs cannot reproduce the database at the point at which the next snapshot is due.
#[cold]
pub(super) fn no_snapshot(error: &Error, from: Timestamp) -> Error {
    let message = error.message().map(|error| {
        format!(
            "no new snapshot can be made, because {error}; the database itself can be read and written, but instants after \
             {from} may be refused until that file is put back, or up to the next begin of a log, when a snapshot is taken"
        )
    });
    Error::with(ErrorKind::Corrupt, message)
}
