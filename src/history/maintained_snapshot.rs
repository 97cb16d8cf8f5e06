//! Snapshots that maintenance writes from the history.

use super::{
    checksummed::page_checksum,
    delta::{DeltaWriter, pages_max},
    image::{HistoricalImage, PageSource},
    materialize::write_pages,
    snapshot::NewSnapshot,
    sums::{DeltaPages, Sums},
};
use crate::{
    error::Result,
    layout::ArchiveFile,
    progress::{self, Phase, ProgressFn},
    units::{PageCount, PageNumber},
};

/// The form of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// All pages. The generations before it, and the bases of earlier snapshots, are not needed any more.
    Full,
    /// A delta if at most half of the pages differ from those of an older snapshot, otherwise all pages.
    Shared,
}

/// Writes the image before a generation as a snapshot. Each page is checked when it is read.
pub(super) fn write(
    new: &NewSnapshot<'_>,
    image: &HistoricalImage,
    form: Form,
    watch: &mut ProgressFn<'_>,
) -> Result<()> {
    match form {
        Form::Shared if write_delta(new, image, watch)? => Ok(()),
        Form::Shared | Form::Full => write_full(new, image, watch),
    }
}

fn write_full(new: &NewSnapshot<'_>, image: &HistoricalImage, watch: &mut ProgressFn<'_>) -> Result<()> {
    let file = new.create()?;
    let written = write_pages(image, watch, |bytes, at| new.disk.write_at(&file, &new.staged, bytes, at));
    removed_if_failed(new, written.and_then(|()| new.disk.sync_file(&file, &new.staged)))?;
    new.publish(&file)
}

/// Writes the pages that differ from the base. Returns `false` if the snapshot cannot be a delta.
///
/// Only these pages are read: those that no log has are known to be equal, and their checksums are those of the older snapshot.
fn write_delta(new: &NewSnapshot<'_>, image: &HistoricalImage, watch: &mut ProgressFn<'_>) -> Result<bool> {
    let Some(((older, _), number)) = image.snapshot().zip(image.first()) else { return Ok(false) };
    let count = image.page_count();
    let base = older.base();
    let is_shared = |page: &PageNumber| match image.source(*page) {
        PageSource::Snapshot(older) => base.is_none() || !older.is_own(*page),
        _ => false,
    };
    let all = || PageNumber::FIRST.and_following().take(count.get() as usize);
    let mut own: Vec<PageNumber> = all().filter(|page| !is_shared(page)).collect();
    if own.len() > pages_max(count)
        || count < PageCount::new(2)
        || new.ended.exists(new.generation.number, ArchiveFile::Snapshot)?
    {
        return Ok(false);
    }
    if own.is_empty() {
        // A WAL without a frame has no commit, and so no page count.
        own.push(PageNumber::FIRST);
    }
    let mut write = || {
        let file = new.create()?;
        let mut writer = DeltaWriter::new(new.disk, &file, &new.staged, new.generation);
        let mut checksums: Vec<_> = older.checksums().iter().copied().take(count.get() as usize).collect();
        checksums.resize(count.get() as usize, page_checksum(&[]));
        let mut contents = vec![0; image.page_size as usize];
        let total = PageCount::from_len(own.len()).len(image.page_size);
        for page in &own {
            let done = PageCount::from_len(writer.len()).len(image.page_size);
            progress::tell(watch, Phase::Copy, done, Some(total))?;
            image.read_page(*page, &mut contents)?;
            checksums[page.index()] = page_checksum(&contents);
            writer.add(*page, &contents)?;
        }
        let pages = writer.finish(count)?;
        new.disk.sync_file(&file, &new.staged)?;
        let delta = Some(DeltaPages { base: base.unwrap_or(number), pages });
        Ok(Sums { checksums, delta })
    };
    let written = write();
    removed_if_failed(new, written).and_then(|sums| new.publish_with(&sums)).map(|()| true)
}

/// Removes what was written if that failed.
fn removed_if_failed<T>(new: &NewSnapshot<'_>, written: Result<T>) -> Result<T> {
    if written.is_err() {
        let _removed_next_time = new.disk.remove(&new.staged);
    }
    written
}
