//! Writes all pages of an image.
//!
//! Pages in compressed logs are written last, in the order of the logs. Each part of a compressed log is therefore decompressed
//! once. Several threads take batches of pages in turn and decompress them.

use std::{
    num::NonZero,
    sync::{
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::sync_channel,
    },
    thread,
};

use super::{
    frame_ref::PackedPage,
    frame_store::FrameStore,
    image::{HistoricalImage, PageSource},
    snapshot::step_of,
};
use crate::{
    error::Result,
    progress::{self, Phase, ProgressFn},
    units::PageNumber,
};

/// Maximum number of threads that decompress for one call.
const THREADS_MAX: usize = 4;

const THREAD: &str = "litefleet-unpack";

/// Pages of compressed logs in the order of the logs, and their contents.
struct Batch<'a> {
    pages: &'a [PackedPage],
    contents: Vec<u8>,
}

/// Passes all pages to `write`, in pieces, each with its offset in the database file.
///
/// Pages in compressed logs come last, in the order of the logs; the other pages come first, in order. Afterwards, the caller
/// checks that the image [is current](HistoricalImage::is_current).
pub(crate) fn write_pages(
    image: &HistoricalImage,
    watch: &mut ProgressFn<'_>,
    mut write: impl FnMut(&[u8], u64) -> Result<()>,
) -> Result<()> {
    let total = image.len();
    let mut done = 0;
    let mut buffer = vec![0; step_of(image.page_size)];
    let mut at = 0;
    while at < total {
        progress::tell(watch, Phase::Copy, done, Some(total))?;
        let want = usize::try_from(total - at).unwrap_or(usize::MAX).min(buffer.len());
        let piece = &mut buffer[..want];
        let packed = read_piece(image, piece, at)?;
        // The runs between pages that come last.
        let mut begin = 0;
        for end in packed.into_iter().chain([want]) {
            if begin < end {
                write(&piece[begin..end], at + begin as u64)?;
                done += (end - begin) as u64;
            }
            begin = end + image.page_size as usize;
        }
        at += want as u64;
    }
    if let Some(frames) = image.frames() {
        let page_size = image.page_size as usize;
        unpack_all(frames, image.page_size, |batch: Batch<'_>| {
            let mut contents = &batch.contents[..];
            // Pages that are consecutive both in the log and in the database.
            for run in batch.pages.chunk_by(|one, next| next.page.get() == one.page.get() + 1) {
                progress::tell(watch, Phase::Copy, done, Some(total))?;
                let (piece, rest) = contents.split_at(run.len() * page_size);
                write(piece, run[0].page.offset(image.page_size))?;
                done += piece.len() as u64;
                contents = rest;
            }
            Ok(())
        })?;
    }
    progress::tell(watch, Phase::Copy, total, Some(total))
}

/// Fills `piece` with the pages from an offset on. Returns the positions in `piece` of pages in compressed logs, which are not
/// read.
fn read_piece(image: &HistoricalImage, piece: &mut [u8], at: u64) -> Result<Vec<usize>> {
    let page_size = image.page_size as usize;
    let in_snapshot = match image.snapshot() {
        Some((snapshot, pages)) => {
            let left = pages.len(image.page_size).saturating_sub(at);
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            snapshot.read_at(&mut piece[..len], at)?;
            len
        }
        None => 0,
    };
    piece[in_snapshot..].fill(0);
    let (mut waiting, mut packed) = (Vec::new(), Vec::new());
    let pages = PageNumber::at_offset(at, image.page_size).and_following();
    for ((index, contents), page) in piece.chunks_exact_mut(page_size).enumerate().zip(pages) {
        match image.source(page) {
            PageSource::Frame(frames, frame) if frames.is_packed(frame) => packed.push(index * page_size),
            PageSource::Frame(frames, frame) if frames.read_cached(frame, contents)? => {}
            PageSource::Frame(frames, frame) => waiting.push((frames, frame, index * page_size)),
            PageSource::Snapshot(snapshot) => snapshot.check(page, contents)?,
            PageSource::Held(held) => contents.copy_from_slice(held),
            PageSource::Zero => {}
        }
    }
    if let Some((frames, ..)) = waiting.first() {
        frames.prefetch(waiting.iter().map(|(_, frame, _)| *frame).collect())?;
    }
    for (frames, frame, start) in waiting {
        frames.read(frame, &mut piece[start..start + page_size])?;
    }
    Ok(packed)
}

/// Decompresses the pages of compressed logs and passes them on in batches.
fn unpack_all<'a>(
    frames: &'a FrameStore,
    page_size: u32,
    mut write: impl FnMut(Batch<'a>) -> Result<()>,
) -> Result<()> {
    let page_len = page_size as usize;
    let size = step_of(page_size) / page_len;
    let batches = frames.packed().len().div_ceil(size);
    let next = AtomicUsize::new(0);
    let unpack = || {
        let pages = frames.packed().chunks(size).nth(next.fetch_add(1, Relaxed))?;
        Some(unpack_batch(frames, pages, page_len))
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX).min(batches);
    if threads > 1 {
        let (sender, receiver) = sync_channel(threads);
        thread::scope(|scope| {
            for _ in 0..threads {
                let (sender, unpack) = (sender.clone(), &unpack);
                let run = move || {
                    while let Some(batch) = unpack()
                        && sender.send(batch).is_ok()
                    {}
                };
                // If a thread cannot be started, the others do its work.
                let _running = thread::Builder::new().name(THREAD.into()).spawn_scoped(scope, run);
            }
            drop(sender);
            // When this fails, the receiver is dropped and the threads stop.
            receiver.into_iter().try_for_each(|batch| write(batch?))
        })?;
    }
    // Do the remaining work in this thread if no thread was started.
    while let Some(batch) = unpack() {
        write(batch?)?;
    }
    Ok(())
}

fn unpack_batch<'a>(frames: &FrameStore, pages: &'a [PackedPage], page_size: usize) -> Result<Batch<'a>> {
    let mut contents = vec![0; pages.len() * page_size];
    let mut last = None;
    for (packed, page) in pages.iter().zip(contents.chunks_exact_mut(page_size)) {
        frames.unpack(packed.frame, &mut last, page)?;
    }
    Ok(Batch { pages, contents })
}
