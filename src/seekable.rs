//! The zstd seekable format: independent zstd frames, followed by a table of their positions.
//!
//! A part of the contents is read by decompressing the frames that contain it. A program that does not know the table
//! (`zstd -d`) decompresses everything, because the table is in a skippable frame. The format is that of
//! <https://github.com/facebook/zstd/blob/dev/contrib/seekable_format/zstd_seekable_compression_format.md>, version 0.1.0.
//! Numbers are little-endian.
//!
//! | bytes | contents of the skippable frame at the end |
//! |---|---|
//! | 0..3 | `0x184D2A5E` |
//! | 4..7 | the number of bytes that follow |
//! | 8 or 12 for each frame | its compressed and its plain length, and a checksum if the descriptor says so |
//! | 4 | the number of frames |
//! | 1 | the descriptor: bit 7 is set if entries have checksums, bits 2 to 6 are zero |
//! | 4 | `0x8F92EAB1` |
//!
//! This crate writes entries without checksums, because each frame ends with its own, which `zstd` checks too. The last entry may
//! describe a skippable frame, the *trailer*, whose plain length is 0.

use std::cell::RefCell;

use zstd::{
    bulk::{Compressor, Decompressor},
    zstd_safe::CParameter,
};

/// Maximum number of plain bytes in a frame, which bounds the memory for one frame whatever a file claims.
pub(crate) const FRAME_MAX: u32 = 4 << 20;

/// The length of the footer, from which the length of the table follows.
pub(crate) const FOOTER_LEN: usize = 9;

/// Maximum number of frames in a table: those of a log of 128 GiB.
pub(crate) const FRAMES_MAX: u32 = 1 << 20;

const HEAD_LEN: usize = 8;
const ENTRY_LEN: usize = 8;
const SUMMED_ENTRY_LEN: usize = 12;
const SKIPPABLE_MAGIC: u32 = 0x184D_2A5E;
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
const CHECKSUM_FLAG: u8 = 1 << 7;
const RESERVED_BITS: u8 = 0b0111_1100;

/// At level 3, the ratio on database pages is within a few percent of that of much slower levels.
const LEVEL: i32 = 3;

/// The positions of the frames of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SeekTable {
    /// The end of each frame.
    ends: Vec<End>,
}

/// The offsets after a frame: in the file, and in the plain bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct End {
    packed: u64,
    plain: u64,
}

/// The offset and the length of a frame in the file, and of its contents in the plain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameSpan {
    pub(crate) at: u64,
    pub(crate) len: usize,
    pub(crate) plain_at: u64,
    pub(crate) plain_len: usize,
}

impl SeekTable {
    /// Appends a frame.
    pub(crate) fn push(&mut self, compressed: u32, plain: u32) {
        let End { packed, plain: plain_at } = self.ends.last().copied().unwrap_or_default();
        self.ends.push(End { packed: packed + u64::from(compressed), plain: plain_at + u64::from(plain) });
    }

    /// The length of the plain bytes.
    pub(crate) fn plain_len(&self) -> u64 {
        self.ends.last().map_or(0, |end| end.plain)
    }

    /// The skippable frame that the last entry describes. Returns `None` if it describes another frame.
    pub(crate) fn trailer(&self) -> Option<FrameSpan> {
        let end = self.ends.last()?;
        let start = self.ends.len().checked_sub(2).map_or_else(End::default, |before| self.ends[before]);
        (start.plain == end.plain).then(|| span(start, *end))
    }

    /// The frames in order, without the trailer.
    pub(crate) fn frames(&self) -> impl Iterator<Item = FrameSpan> {
        let starts = std::iter::once(End::default()).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| span(start, *end)).filter(|frame| frame.plain_len > 0)
    }

    /// The length of the frames, without the table.
    pub(crate) fn frames_len(&self) -> u64 {
        self.ends.last().map_or(0, |end| end.packed)
    }

    /// The frame that contains the plain byte at an offset. Returns `None` after the last one.
    pub(crate) fn find(&self, plain: u64) -> Option<FrameSpan> {
        let index = self.ends.partition_point(|end| end.plain <= plain);
        let end = *self.ends.get(index)?;
        let start =
            index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or_default();
        Some(span(start, end))
    }

    /// The bytes of the table at the end of the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let count = u32::try_from(self.ends.len()).unwrap_or(u32::MAX);
        let len = self.ends.len() * ENTRY_LEN + FOOTER_LEN;
        let mut bytes = Vec::with_capacity(HEAD_LEN + len);
        bytes.extend(SKIPPABLE_MAGIC.to_le_bytes());
        bytes.extend(u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        let mut before = End::default();
        for end in &self.ends {
            for len in [end.packed - before.packed, end.plain - before.plain] {
                bytes.extend(u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
            }
            before = *end;
        }
        bytes.extend(count.to_le_bytes());
        bytes.push(0);
        bytes.extend(SEEKABLE_MAGIC.to_le_bytes());
        bytes
    }

    /// The length of the table with this footer. Returns `None` if the footer is invalid.
    pub(crate) fn encoded_len(footer: [u8; FOOTER_LEN]) -> Option<u64> {
        let (count, descriptor, magic) = parse_footer(footer);
        let is_valid = magic == SEEKABLE_MAGIC && descriptor & RESERVED_BITS == 0 && count <= FRAMES_MAX;
        is_valid.then(|| (HEAD_LEN + FOOTER_LEN) as u64 + u64::from(count) * entry_len(descriptor) as u64)
    }

    /// Reads a table. Returns `None` if it is invalid, or if a frame is too large.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (rest, footer) = bytes.split_last_chunk::<FOOTER_LEN>()?;
        let (magic, rest) = rest.split_first_chunk()?;
        let (len, entries) = rest.split_first_chunk()?;
        let len = u32::from_le_bytes(*len) as usize;
        let is_whole = Self::encoded_len(*footer)? == bytes.len() as u64 && len == bytes.len() - HEAD_LEN;
        if !is_whole || u32::from_le_bytes(*magic) != SKIPPABLE_MAGIC {
            return None;
        }
        let mut table = Self::default();
        let (_, descriptor, _) = parse_footer(*footer);
        let mut entries = entries.chunks_exact(entry_len(descriptor)).peekable();
        while let Some(entry) = entries.next() {
            let (compressed, rest) = entry.split_first_chunk()?;
            let (compressed, plain) =
                (u32::from_le_bytes(*compressed), u32::from_le_bytes(*rest.first_chunk()?));
            let is_trailer = plain == 0 && entries.peek().is_none();
            // Empty frames are never written, and a frame is never much longer than its contents.
            let is_frame = plain > 0 && plain <= FRAME_MAX && compressed as usize <= bound(plain as usize);
            if !is_frame && !is_trailer {
                return None;
            }
            table.push(compressed, plain);
        }
        Some(table)
    }
}

/// The frame between two ends.
fn span(start: End, end: End) -> FrameSpan {
    let len = |from: u64, to: u64| usize::try_from(to - from).unwrap_or(usize::MAX);
    FrameSpan {
        at: start.packed,
        len: len(start.packed, end.packed),
        plain_at: start.plain,
        plain_len: len(start.plain, end.plain),
    }
}

/// The number of frames, the descriptor and the magic number.
fn parse_footer(footer: [u8; FOOTER_LEN]) -> (u32, u8, u32) {
    let [c0, c1, c2, c3, descriptor, m0, m1, m2, m3] = footer;
    (u32::from_le_bytes([c0, c1, c2, c3]), descriptor, u32::from_le_bytes([m0, m1, m2, m3]))
}

fn entry_len(descriptor: u8) -> usize {
    if descriptor & CHECKSUM_FLAG == 0 { ENTRY_LEN } else { SUMMED_ENTRY_LEN }
}

fn bound(plain: usize) -> usize {
    zstd::zstd_safe::compress_bound(plain)
}

/// Compresses frames.
pub(crate) struct Frames(Compressor<'static>);

impl Frames {
    pub(crate) fn new() -> std::io::Result<Self> {
        let mut compressor = Compressor::new(LEVEL)?;
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        Ok(Self(compressor))
    }

    /// Compresses bytes into one frame.
    pub(crate) fn compress(&mut self, plain: &[u8]) -> std::io::Result<Vec<u8>> {
        self.0.compress(plain)
    }
}

thread_local! {
    /// A decompressor takes several times the memory of a frame, so each thread keeps one.
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Fills `into` with the contents of a frame. Returns whether they have that length and match the frame's checksum.
pub(crate) fn decompress(frame: &[u8], into: &mut [u8]) -> bool {
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(kept) => kept,
            None => match Decompressor::new() {
                Ok(new) => kept.insert(new),
                Err(_) => return false,
            },
        };
        decompressor.decompress_to_buffer(frame, into).is_ok_and(|count| count == into.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FRAME_LEN: usize = 128 << 10;

    /// The contents of a frame, or `None` unless they have this length.
    fn decompress(frame: &[u8], len: usize) -> Option<Vec<u8>> {
        let mut plain = vec![0; len];
        super::decompress(frame, &mut plain).then_some(plain)
    }

    fn file(plain: &[u8]) -> (Vec<u8>, SeekTable) {
        let (mut bytes, mut table, mut frames) = (Vec::new(), SeekTable::default(), Frames::new().unwrap());
        for piece in plain.chunks(FRAME_LEN) {
            let frame = frames.compress(piece).unwrap();
            table.push(u32::try_from(frame.len()).unwrap(), u32::try_from(piece.len()).unwrap());
            bytes.extend(frame);
        }
        bytes.extend(table.encode());
        (bytes, table)
    }

    fn plain(len: usize) -> Vec<u8> {
        (0..len).map(|at| u8::try_from(at * at / 7 % 251).unwrap()).collect()
    }

    #[test]
    fn library_decompresses_file_and_table_finds_each_byte() {
        for len in [0, 1, FRAME_LEN, FRAME_LEN + 1, 5 * FRAME_LEN / 2] {
            let plain = plain(len);
            let (bytes, table) = file(&plain);
            assert_eq!(zstd::decode_all(&bytes[..]).unwrap(), plain);
            assert_eq!((table.plain_len(), table.find(len as u64)), (len as u64, None));
            let encoded = table.encode();
            assert_eq!(SeekTable::encoded_len(*encoded.last_chunk().unwrap()), Some(encoded.len() as u64));
            assert_eq!(SeekTable::parse(&encoded), Some(table.clone()));
            assert_eq!(table.frames_len(), (bytes.len() - encoded.len()) as u64);
            for at in (0..len).step_by(10_007).chain(len.checked_sub(1)) {
                let place = table.find(at as u64).unwrap();
                let start = usize::try_from(place.at).unwrap();
                let held = decompress(&bytes[start..start + place.len], place.plain_len).unwrap();
                assert_eq!(held[at - usize::try_from(place.plain_at).unwrap()], plain[at]);
            }
        }
    }

    #[test]
    fn flipped_bit_of_a_frame_is_detected() {
        let (bytes, table) = file(&plain(3000));
        let frame = &bytes[..usize::try_from(table.frames_len()).unwrap()];
        assert!(decompress(frame, 3000).is_some());
        for len in [2999, 3001] {
            assert_eq!(decompress(frame, len), None);
        }
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // Some header bits determine the memory for a frame and not its contents.
            assert!(decompress(&damaged, 3000).is_none_or(|held| held == plain(3000)), "bit {bit}");
        }
    }

    #[test]
    fn oversized_frame_is_refused() {
        let mut table = SeekTable::default();
        table.push(100, FRAME_MAX);
        assert!(SeekTable::parse(&table.encode()).is_some());
        let mut table = SeekTable::default();
        table.push(100, FRAME_MAX + 1);
        assert_eq!(SeekTable::parse(&table.encode()), None);
        let mut table = SeekTable::default();
        table.push(u32::MAX, 1000);
        assert_eq!(SeekTable::parse(&table.encode()), None);
        // A frame gets no more memory than its entry says.
        let bomb = Frames::new().unwrap().compress(&vec![0; 64 << 20]).unwrap();
        assert!(bomb.len() < 8 << 10);
        assert_eq!(decompress(&bomb, 1000), None);
    }

    #[test]
    fn table_with_checksums_is_read() {
        let (_, table) = file(&plain(2 * FRAME_LEN));
        let plain = table.encode();
        let mut summed = plain[..4].to_vec();
        summed.extend((u32::from_le_bytes(*plain[4..].first_chunk().unwrap()) + 8).to_le_bytes());
        for entry in plain[8..24].chunks(8) {
            summed.extend(entry);
            summed.extend([1, 2, 3, 4]);
        }
        summed.extend([2, 0, 0, 0, 0x80]);
        summed.extend(SEEKABLE_MAGIC.to_le_bytes());
        assert_eq!(SeekTable::parse(&summed), Some(table));
        // A reserved bit.
        let at = summed.len() - 5;
        summed[at] |= 4;
        assert_eq!(SeekTable::parse(&summed), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn damaged_table_is_refused_or_has_valid_frames(
            entries in prop::collection::vec((0..200_000_u32, 0..200_000_u32), 0..8),
            at: prop::sample::Index,
            bits: u8,
        ) {
            let mut table = SeekTable::default();
            for (compressed, plain) in &entries {
                table.push(*compressed, *plain);
            }
            let mut bytes = table.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
            let Some(parsed) = SeekTable::parse(&bytes) else { return Ok(()) };
            prop_assert_eq!(parsed.ends.len(), entries.len());
            for place in (0..parsed.plain_len()).step_by(1000).map(|at| parsed.find(at).unwrap()) {
                prop_assert!(place.plain_len > 0 && place.plain_len <= FRAME_MAX as usize);
                prop_assert!(place.len <= bound(place.plain_len));
            }
        }
    }
}
