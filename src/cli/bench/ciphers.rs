//! The speed of each cipher: through the page codec, as databases use it, and bare.

use std::time::{Duration, Instant};

use litefleet::{
    Cipher, EncryptionKey, Error, ErrorKind, RemoteEncryption, Result,
    testing::{BareCipher, Pages},
};

use super::rounds::{ROUNDS, check_cancelled, slice};

/// The page size of new databases.
const PAGE_SIZE: u32 = 4096;

/// The pages that are sealed and opened in turn. They fit into the L2 cache, as pages that SQLite has just read or changed do.
const RING: u32 = 24;

/// The number of pages from one reading of the clock to the next is that of the ring; this many rings are between two checks
/// for a signal.
const RINGS: u32 = 32;

/// Throughput in bytes per second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Speed {
    pub(super) seal: f64,
    pub(super) open: f64,
}

impl Speed {
    /// The throughput of pages that are sealed once and opened once.
    pub(super) fn both(self) -> f64 {
        2.0 / (1.0 / self.seal + 1.0 / self.open)
    }

    fn max(self, other: Self) -> Self {
        Self { seal: self.seal.max(other.seal), open: self.open.max(other.open) }
    }
}

/// The speed of a cipher.
#[derive(Clone, Copy, Debug)]
pub(super) struct CipherSpeed {
    pub(super) cipher: Cipher,
    /// Through the page codec, which makes a nonce and authenticates the position of the page.
    pub(super) codec: Speed,
    pub(super) bare: Speed,
}

/// A page, aligned to a cache line.
#[repr(align(64))]
struct Page([u8; PAGE_SIZE as usize]);

impl Page {
    fn new() -> Box<Self> {
        Box::new(Self([0; PAGE_SIZE as usize]))
    }
}

/// Measures every cipher. The result is the fastest of several rounds: other programs can only slow a round down.
pub(super) fn measure(duration: Duration) -> Result<Vec<CipherSpeed>> {
    let slice = slice(duration, 2 * Cipher::ALL.len());
    let mut subjects = Vec::new();
    for cipher in Cipher::ALL {
        let encryption = RemoteEncryption::new(EncryptionKey::generate(*cipher)?, *cipher)?;
        let subject = (Pages::new(&encryption, PAGE_SIZE)?, BareCipher::new(*cipher)?);
        let speed = CipherSpeed { cipher: *cipher, codec: Speed::default(), bare: Speed::default() };
        subjects.push((subject, speed));
    }
    let mut plain = Page::new();
    // Nonce and tag take the end of a page, which is zero in a plain page.
    plain.0[..PAGE_SIZE as usize / 2].fill(0x5a);
    let mut ring: Vec<_> = (0..RING).map(|_| Page::new()).collect();
    for _ in 0..ROUNDS {
        for ((pages, bare), speed) in &mut subjects {
            speed.codec = speed.codec.max(through_codec(pages, &plain, &mut ring, slice)?);
            speed.bare = speed.bare.max(alone(bare, &mut ring, slice)?);
        }
    }
    Ok(subjects.into_iter().map(|(_, speed)| speed).collect())
}

fn through_codec(pages: &mut Pages, plain: &Page, ring: &mut [Box<Page>], slice: Duration) -> Result<Speed> {
    alternate(slice, ring, |direction, ring| {
        (2..).zip(ring).all(|(number, page)| match direction {
            Direction::Seal => pages.seal(number, &plain.0, &mut page.0),
            Direction::Open => pages.open(number, &mut page.0),
        })
    })
}

fn alone(bare: &mut BareCipher, ring: &mut [Box<Page>], slice: Duration) -> Result<Speed> {
    alternate(slice, ring, |direction, ring| {
        ring.iter_mut().all(|page| match direction {
            Direction::Seal => {
                bare.seal(&mut page.0);
                true
            }
            Direction::Open => bare.open(&mut page.0),
        })
    })
}

#[derive(Clone, Copy)]
enum Direction {
    Seal,
    Open,
}

/// Seals all pages of the ring and opens them again, until `slice` has passed.
fn alternate(
    slice: Duration,
    ring: &mut [Box<Page>],
    mut run: impl FnMut(Direction, &mut [Box<Page>]) -> bool,
) -> Result<Speed> {
    let started = Instant::now();
    let (mut seal, mut open) = (Duration::ZERO, Duration::ZERO);
    let mut rings = 0;
    while rings == 0 || started.elapsed() < slice {
        check_cancelled()?;
        for _ in 0..RINGS {
            let start = Instant::now();
            let is_sealed = run(Direction::Seal, ring);
            let middle = Instant::now();
            let is_opened = run(Direction::Open, ring);
            open += middle.elapsed();
            seal += middle - start;
            if !is_sealed || !is_opened {
                return Err(Error::new(ErrorKind::Corrupt, "a page that was just sealed does not open"));
            }
        }
        rings += RINGS;
    }
    let bytes = f64::from(rings) * f64::from(RING) * f64::from(PAGE_SIZE);
    let speed = |time: Duration| bytes / time.as_secs_f64().max(1e-9);
    Ok(Speed { seal: speed(seal), open: speed(open) })
}
