//! A whole database as it was at an instant, handed on piece by piece.
//!
//! What stands in compressed logs comes last, in the order of the logs: so each part of them is decompressed once, by
//! several threads, each of which takes the next pages when it is done with some.

use std::{
    num::NonZero,
    sync::{
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::sync_channel,
    },
    thread,
};

use super::{
    damaged,
    image::{FrameRef, HistoricalImage},
    snapshot,
};
use crate::{
    disk::Disk,
    error::Result,
    progress::{self, Phase, ProgressFn},
};

/// The most threads that decompress for one copy.
const THREADS_MAX: usize = 4;

const THREAD: &str = "litefleet-unpack";

/// Pages in the order of the logs, and what they hold.
type Batch<'a> = (&'a [(FrameRef, u32)], Vec<u8>);

impl HistoricalImage {
    /// Hands all pages to `write`, some at a time, with the offset of each piece. Those that stand in compressed logs come
    /// last and in the order of the logs, so that each is decompressed once, and the others before them in their own order.
    ///
    /// Afterwards it is to be asked whether [it is still there](Self::is_still_there).
    pub(crate) fn read_all(
        &self,
        watch: &mut ProgressFn<'_>,
        mut write: impl FnMut(&[u8], u64) -> Result<()>,
    ) -> Result<()> {
        let page_size = self.page_size as usize;
        let total = self.len();
        let file = self.snapshot.open()?;
        let kept = u64::from(self.snapshot_pages) * u64::from(self.page_size);
        let mut buffer = vec![0; (snapshot::STEP / page_size).max(1) * page_size];
        let (mut at, mut done) = (0, 0);
        let mut numbers = 1..;
        while at < total {
            progress::tell(watch, Phase::Copy, done, Some(total))?;
            let want = usize::try_from(total - at).unwrap_or(usize::MAX).min(buffer.len());
            let piece = &mut buffer[..want];
            let from_snapshot = usize::try_from(kept.saturating_sub(at)).unwrap_or(usize::MAX).min(want);
            let count = Disk::read_up_to(&file, &self.snapshot.path, &mut piece[..from_snapshot], at)?;
            if count < from_snapshot {
                return Err(damaged(&self.snapshot.path, "it is cut off"));
            }
            piece[from_snapshot..].fill(0);
            let (mut waited, mut packed) = (Vec::new(), Vec::new());
            for (start, number) in (0..want).step_by(page_size).zip(&mut numbers) {
                let bytes = &mut piece[start..start + page_size];
                match self.place(number) {
                    Some(place) if self.is_packed(place) => packed.push(start),
                    Some(place) if self.read_ready(place, bytes)? => {}
                    Some(place) => waited.push((place, start)),
                    None if number <= self.snapshot_pages => self.snapshot.check(number, bytes)?,
                    None => {}
                }
            }
            self.fetch(waited.iter().map(|(place, _)| *place).collect())?;
            for (place, start) in waited {
                self.read_frame(place, &mut piece[start..start + page_size])?;
            }
            // What lies between those that come last.
            let mut begin = 0;
            for end in packed.into_iter().chain([want]) {
                if begin < end {
                    write(&piece[begin..end], at + begin as u64)?;
                    done += (end - begin) as u64;
                }
                begin = end + page_size;
            }
            at += want as u64;
        }
        let write_batch = |(pages, bytes): Batch<'_>| {
            let mut bytes = &bytes[..];
            // Pages that follow each other in the log, and in the database.
            for run in pages.chunk_by(|(_, one), (_, next)| *next == one + 1) {
                progress::tell(watch, Phase::Copy, done, Some(total))?;
                let (piece, rest) = bytes.split_at(run.len() * page_size);
                write(piece, u64::from(run[0].1 - 1) * u64::from(self.page_size))?;
                done += piece.len() as u64;
                bytes = rest;
            }
            Ok(())
        };
        self.unpack_all((snapshot::STEP / page_size).max(1), write_batch)?;
        progress::tell(watch, Phase::Copy, total, Some(total))
    }

    /// Decompresses the pages of compressed logs and hands them on, so many at a time.
    fn unpack_all<'a>(&'a self, pages: usize, mut write: impl FnMut(Batch<'a>) -> Result<()>) -> Result<()> {
        let batches = self.packed.len().div_ceil(pages);
        let next = AtomicUsize::new(0);
        let unpack = || {
            let batch = self.packed.chunks(pages).nth(next.fetch_add(1, Relaxed))?;
            Some(self.unpack_batch(batch))
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
                    // Where there is none to be had, others do its work.
                    let _running = thread::Builder::new().name(THREAD.into()).spawn_scoped(scope, run);
                }
                drop(sender);
                // Whoever is still at it when this fails has nobody to send to.
                receiver.into_iter().try_for_each(|batch| write(batch?))
            })?;
        }
        // What no thread could be had for.
        while let Some(batch) = unpack() {
            write(batch?)?;
        }
        Ok(())
    }

    fn unpack_batch<'a>(&self, batch: &'a [(FrameRef, u32)]) -> Result<Batch<'a>> {
        let page_size = self.page_size as usize;
        let mut bytes = vec![0; batch.len() * page_size];
        let mut last = None;
        for ((place, _), page) in batch.iter().zip(bytes.chunks_exact_mut(page_size)) {
            self.unpack(*place, &mut last, page)?;
        }
        Ok((batch, bytes))
    }
}
