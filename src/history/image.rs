//! The pages of a database at one commit: a snapshot with the frames of later logs applied.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    errors::{damaged, missing},
    frame_ref::FrameRef,
    frame_store::FrameStore,
    overlay::Overlay,
    prefetch::Prefetch,
    snapshot::Snapshot,
};
use crate::{
    disk::{DatabaseFile, DirLock, Disk, open_databases},
    error::{Error, ErrorKind, Result},
    page,
    point::{InstantPosition, ResolvedInstant},
    units::{GenerationNumber, PageCount, PageNumber},
};

/// Maximum size in bytes of a database without a history whose pages are kept in memory.
const IN_MEMORY_MAX: u64 = 256 << 20;

/// The pages of a database at one commit. Each page is checked when it is read.
#[derive(Debug)]
pub(crate) struct HistoricalImage {
    pub(crate) page_size: u32,
    page_count: PageCount,
    pub(crate) resolved: ResolvedInstant,
    base: Base,
    /// Pages in memory, which hide those of the base.
    held: HashMap<PageNumber, Vec<u8>>,
}

#[derive(Debug)]
enum Base {
    /// No pages. `path` is the database file.
    Empty {
        path: PathBuf,
    },
    History(Box<History>),
}

/// A snapshot and the logs after it.
#[derive(Debug)]
struct History {
    /// The generation before which the snapshot was taken.
    first: GenerationNumber,
    snapshot: Snapshot,
    overlay: Overlay<FrameRef>,
    frames: FrameStore,
    prefetch: Prefetch,
    /// A shared lock that prevents the files from being deleted.
    _lock: Option<Arc<DirLock>>,
}

/// Where the newest version of a page is.
pub(super) enum PageSource<'a> {
    /// In memory.
    Held(&'a [u8]),
    Frame(&'a FrameStore, FrameRef),
    Snapshot(&'a Snapshot),
    /// In no file: all bytes are zero.
    Zero,
}

/// The parts of an image of the history.
pub(super) struct ImageParts {
    pub(super) first: GenerationNumber,
    pub(super) resolved: ResolvedInstant,
    pub(super) page_size: u32,
    pub(super) snapshot: Snapshot,
    pub(super) overlay: Overlay<FrameRef>,
    pub(super) frames: FrameStore,
    pub(super) lock: Option<Arc<DirLock>>,
}

impl HistoricalImage {
    pub(super) fn new(parts: ImageParts) -> Self {
        let ImageParts { first, resolved, page_size, snapshot, overlay, frames, lock } = parts;
        let page_count = overlay.page_count();
        let prefetch = Prefetch::default();
        let history = History { first, snapshot, overlay, frames, prefetch, _lock: lock };
        Self { page_size, page_count, resolved, base: Base::History(Box::new(history)), held: HashMap::new() }
    }

    /// The pages in memory of a database that is unchanged since its creation.
    pub(super) fn pristine(data: &Path) -> Result<Self> {
        let (page_size, bytes) = open_databases(|| read_all(data))??;
        let pages = bytes.chunks_exact(page_size as usize).map(<[u8]>::to_vec);
        let held: HashMap<_, _> = PageNumber::FIRST.and_following().zip(pages).collect();
        Ok(Self {
            page_size,
            page_count: PageCount::from_len(held.len()),
            resolved: ResolvedInstant { kind: InstantPosition::BeforeFirst, commit: None, next: None },
            base: Base::Empty { path: data.to_owned() },
            held,
        })
    }

    fn history(&self) -> Option<&History> {
        match &self.base {
            Base::Empty { .. } => None,
            Base::History(history) => Some(history),
        }
    }

    /// The generation before which the snapshot was taken, or `None` if there is no snapshot.
    pub(crate) fn first(&self) -> Option<GenerationNumber> {
        self.history().map(|history| history.first)
    }

    /// The snapshot and the number of its pages that no commit has truncated.
    pub(super) fn snapshot(&self) -> Option<(&Snapshot, PageCount)> {
        self.history().map(|history| (&history.snapshot, history.overlay.base_pages()))
    }

    pub(super) fn frames(&self) -> Option<&FrameStore> {
        self.history().map(|history| &history.frames)
    }

    /// The file of the snapshot, or the database file if there is no snapshot.
    pub(super) fn path(&self) -> &Path {
        match &self.base {
            Base::Empty { path } => path,
            Base::History(history) => history.snapshot.path(),
        }
    }

    /// The size of the database in pages.
    pub(crate) fn page_count(&self) -> PageCount {
        self.page_count
    }

    /// The size of the database in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.page_count.len(self.page_size)
    }

    /// Whether the WAL has not been restarted since the image was made. If so, the pages read from the WAL belong to the image.
    pub(crate) fn is_current(&self) -> Result<bool> {
        self.frames().map_or(Ok(true), FrameStore::is_current)
    }

    /// Reads the pages in the current WAL into memory. A later restart of the WAL then does not affect the image.
    pub(super) fn hold_live_pages(&mut self) -> Result<()> {
        let Base::History(history) = &self.base else { return Ok(()) };
        let mut held = HashMap::new();
        for (page, frame) in history.overlay.iter() {
            if history.frames.is_live(frame) {
                let mut contents = vec![0; self.page_size as usize];
                history.frames.read(frame, &mut contents)?;
                held.insert(page, contents);
            }
        }
        self.held = held;
        Ok(())
    }

    pub(super) fn source(&self, page: PageNumber) -> PageSource<'_> {
        if let Some(contents) = self.held.get(&page) {
            return PageSource::Held(contents);
        }
        let Base::History(history) = &self.base else { return PageSource::Zero };
        match history.overlay.frame(page) {
            Some(frame) => PageSource::Frame(&history.frames, frame),
            None if history.overlay.base_pages().contains(page) => PageSource::Snapshot(&history.snapshot),
            None => PageSource::Zero,
        }
    }

    /// Fills `into` with a page.
    pub(super) fn read_page(&self, page: PageNumber, into: &mut [u8]) -> Result<()> {
        match self.source(page) {
            PageSource::Held(contents) => into.copy_from_slice(contents),
            PageSource::Frame(frames, frame) => {
                if !frames.read_cached(frame, into)? {
                    self.prefetch_from(page)?;
                    frames.read(frame, into)?;
                }
            }
            PageSource::Snapshot(snapshot) => snapshot.read_page(page, into)?,
            PageSource::Zero => into.fill(0),
        }
        Ok(())
    }

    /// Starts to read the pages that a sequential reader of `page` reads next.
    fn prefetch_from(&self, page: PageNumber) -> Result<()> {
        let Base::History(history) = &self.base else { return Ok(()) };
        let pages = history.prefetch.pages_from(page);
        if pages <= 1 {
            return Ok(());
        }
        let next = page.and_following().take(pages as usize);
        history.frames.prefetch(next.filter_map(|page| history.overlay.frame(page)).collect())
    }
}

/// The page size and the pages of a database file.
fn read_all(data: &Path) -> Result<(u32, Vec<u8>)> {
    let file = DatabaseFile::open(data)?.ok_or_else(|| missing(data))?;
    let mut head = [0; page::HEADER_LEN];
    if file.read_up_to(&mut head, 0)? < head.len() {
        return Err(damaged(data, "it is truncated"));
    }
    let header = page::Header::parse(&head)?;
    let len = header.database_len(Disk::len(data)?.unwrap_or(0));
    if len > IN_MEMORY_MAX {
        return Err(Error::naming(ErrorKind::Unsupported, data, |data| {
            format!(
                "{data} is unchanged since its creation, and a view would keep its {len} bytes in memory, which is more \
                 than {IN_MEMORY_MAX}; connect to the database itself, or fork it"
            )
        }));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    let count = file.read_up_to(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok((header.page_size, bytes))
}
