//! Numbers with a unit: pages, frames, generations, salts, checksums and instants.
//!
//! A conversion between two of these types, or between one of them and an integer, is always explicit.

use std::{fmt, num::NonZero};

use crate::{error::Result, time::Timestamp};

/// The number of a page in a database file, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PageNumber(NonZero<u32>);

/// The number of a frame in a WAL, from 1.
///
/// `Option<FrameNumber>` is a position in a WAL: `None` is the position before the first frame, and is less than every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FrameNumber(NonZero<u32>);

/// The size of a database in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PageCount(u32);

/// The number of a generation in the history of its database. The first one is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GenerationNumber(u64);

/// Consecutive generations, from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GenerationSpan {
    pub(crate) first: GenerationNumber,
    pub(crate) last: GenerationNumber,
}

/// The salts of a WAL, which distinguish one use of the WAL file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Salts([u8; 8]);

/// The running checksum of a WAL up to some frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WalChecksum([u32; 2]);

/// The checksum of one page (XXH3-64).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageChecksum(u64);

/// The lower half of a [`PageChecksum`] that is not zero, as stamps store it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShortChecksum(NonZero<u32>);

/// An instant in microseconds since 1970-01-01T00:00:00Z: the resolution of stamps and of [`Timestamp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Micros(i64);

/// An instant in nanoseconds since 1970-01-01T00:00:00Z: the resolution of file times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Nanos(i64);

impl PageNumber {
    pub(crate) const FIRST: Self = Self(NonZero::<u32>::MIN);

    /// Returns `None` for 0.
    pub(crate) const fn new(number: u32) -> Option<Self> {
        match NonZero::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The page at `index`, counted from 0. Saturates at the largest page number.
    pub(crate) fn from_index(index: u64) -> Self {
        Self(number_at(index))
    }

    /// The page that contains the byte at `offset` of a database file. Saturates at the largest page number.
    pub(crate) fn at_offset(offset: u64, page_size: u32) -> Self {
        Self::from_index(offset / u64::from(page_size))
    }

    /// All pages from this one on.
    pub(crate) fn and_following(self) -> impl Iterator<Item = Self> {
        (self.get()..=u32::MAX).filter_map(Self::new)
    }

    pub(crate) const fn get(self) -> u32 {
        self.0.get()
    }

    /// The number counted from 0.
    pub(crate) const fn index(self) -> usize {
        self.0.get() as usize - 1
    }

    /// The offset of the page in a database file.
    pub(crate) fn offset(self, page_size: u32) -> u64 {
        self.index() as u64 * u64::from(page_size)
    }
}

impl FrameNumber {
    pub(crate) const FIRST: Self = Self(NonZero::<u32>::MIN);

    /// Returns `None` for 0, which is the position before the first frame.
    pub(crate) const fn new(number: u32) -> Option<Self> {
        match NonZero::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The frame at `index`, counted from 0. Saturates at the largest frame number.
    pub(crate) fn from_index(index: u64) -> Self {
        Self(number_at(index))
    }

    pub(crate) const fn get(self) -> u32 {
        self.0.get()
    }

    /// The number counted from 0.
    pub(crate) const fn index(self) -> usize {
        self.0.get() as usize - 1
    }

    /// The number of frames up to and including `last`: 0 if it is `None`.
    pub(crate) const fn count(last: Option<Self>) -> u32 {
        match last {
            Some(last) => last.get(),
            None => 0,
        }
    }
}

/// `index` counted from 1.
fn number_at(index: u64) -> NonZero<u32> {
    u32::try_from(index).map_or(NonZero::<u32>::MAX, |index| NonZero::<u32>::MIN.saturating_add(index))
}

impl PageCount {
    pub(crate) const ZERO: Self = Self(0);

    pub(crate) const fn new(pages: u32) -> Self {
        Self(pages)
    }

    /// Saturates at the largest count.
    pub(crate) fn from_len(pages: usize) -> Self {
        Self(u32::try_from(pages).unwrap_or(u32::MAX))
    }

    pub(crate) const fn get(self) -> u32 {
        self.0
    }

    /// The size of the database in bytes.
    pub(crate) fn len(self, page_size: u32) -> u64 {
        u64::from(self.0) * u64::from(page_size)
    }

    /// Whether a database of this size has the page.
    pub(crate) const fn contains(self, page: PageNumber) -> bool {
        page.get() <= self.0
    }
}

impl GenerationNumber {
    pub(crate) const FIRST: Self = Self(1);

    pub(crate) const fn new(number: u64) -> Self {
        Self(number)
    }

    pub(crate) const fn get(self) -> u64 {
        self.0
    }

    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Returns `None` for 0.
    pub(crate) const fn previous(self) -> Option<Self> {
        match self.0.checked_sub(1) {
            Some(previous) => Some(Self(previous)),
            None => None,
        }
    }
}

impl GenerationSpan {
    pub(crate) fn contains(self, number: GenerationNumber) -> bool {
        (self.first..=self.last).contains(&number)
    }

    /// Whether all generations of `other` are in this span.
    pub(crate) fn includes(self, other: Self) -> bool {
        self.contains(other.first) && self.contains(other.last)
    }

    /// The generations in order.
    pub(crate) fn numbers(self) -> impl Iterator<Item = GenerationNumber> {
        (self.first.get()..=self.last.get()).map(GenerationNumber::new)
    }
}

impl Salts {
    /// The salts in a wal-index that has never described a WAL.
    pub(crate) const ZERO: Self = Self([0; 8]);

    pub(crate) const fn new(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn bytes(self) -> [u8; 8] {
        self.0
    }

    /// The first salt, which SQLite increments when it restarts the WAL.
    pub(crate) const fn counter(self) -> u32 {
        let [a, b, c, d, ..] = self.0;
        u32::from_be_bytes([a, b, c, d])
    }
}

impl WalChecksum {
    /// The checksum before the first byte.
    pub(crate) const ZERO: Self = Self([0; 2]);

    pub(crate) const fn new(words: [u32; 2]) -> Self {
        Self(words)
    }

    pub(crate) const fn words(self) -> [u32; 2] {
        self.0
    }

    /// Reads a checksum as a WAL stores it.
    pub(crate) const fn from_bytes(bytes: [u8; 8]) -> Self {
        let (words, _) = bytes.as_chunks::<4>();
        Self([u32::from_be_bytes(words[0]), u32::from_be_bytes(words[1])])
    }

    /// The checksum as a WAL stores it.
    pub(crate) fn to_bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.0[0].to_be_bytes());
        bytes[4..].copy_from_slice(&self.0[1].to_be_bytes());
        bytes
    }
}

impl PageChecksum {
    pub(crate) const fn new(checksum: u64) -> Self {
        Self(checksum)
    }

    pub(crate) const fn get(self) -> u64 {
        self.0
    }

    /// The lower half, or `None` if that is zero.
    #[expect(clippy::cast_possible_truncation, reason = "the lower half of the checksum")]
    pub(crate) const fn short(self) -> Option<ShortChecksum> {
        ShortChecksum::new(self.0 as u32)
    }
}

impl ShortChecksum {
    /// Returns `None` for 0, which stamps store for a checksum that is not known.
    pub(crate) const fn new(checksum: u32) -> Option<Self> {
        match NonZero::new(checksum) {
            Some(checksum) => Some(Self(checksum)),
            None => None,
        }
    }

    pub(crate) const fn get(self) -> u32 {
        self.0.get()
    }
}

impl Micros {
    pub(crate) const MIN: Self = Self(i64::MIN);
    pub(crate) const MAX: Self = Self(i64::MAX);

    pub(crate) const fn new(micros: i64) -> Self {
        Self(micros)
    }

    pub(crate) const fn get(self) -> i64 {
        self.0
    }

    /// The microsecond that follows. Saturates.
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The instant `micros` microseconds earlier. Saturates.
    pub(crate) const fn minus(self, micros: i64) -> Self {
        Self(self.0.saturating_sub(micros))
    }

    /// Fails with [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) outside of the range of a [`Timestamp`].
    pub(crate) fn timestamp(self) -> Result<Timestamp> {
        Timestamp::from_micros(self.0)
    }
}

impl From<Timestamp> for Micros {
    fn from(at: Timestamp) -> Self {
        Self(at.as_micros())
    }
}

impl Nanos {
    pub(crate) const fn new(nanos: i64) -> Self {
        Self(nanos)
    }

    pub(crate) const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for PageNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for FrameNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for PageCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for GenerationNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_and_frame_numbers_exclude_zero() {
        assert_eq!((PageNumber::new(0), FrameNumber::new(0), ShortChecksum::new(0)), (None, None, None));
        assert_eq!(FrameNumber::count(FrameNumber::new(0)), 0);
        assert_eq!(FrameNumber::count(FrameNumber::new(7)), 7);
        assert!(FrameNumber::new(0) < Some(FrameNumber::FIRST));
    }

    #[test]
    fn page_number_offset_and_index_are_inverse() {
        for number in [1, 2, 1000, u32::MAX] {
            let page = PageNumber::new(number).unwrap();
            assert_eq!(PageNumber::from_index(page.index() as u64), page);
            assert_eq!(PageNumber::at_offset(page.offset(4096), 4096), page);
            assert_eq!(PageNumber::at_offset(page.offset(4096) + 4095, 4096), page);
        }
        assert_eq!(PageNumber::from_index(u64::MAX).get(), u32::MAX);
        assert_eq!(FrameNumber::from_index(u64::from(u32::MAX)).get(), u32::MAX);
    }

    #[test]
    fn wal_checksum_bytes_are_big_endian() {
        let checksum = WalChecksum::from_bytes([1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(checksum.words(), [0x0102_0304, 0x0506_0708]);
        assert_eq!(checksum.to_bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
