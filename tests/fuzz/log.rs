//! WALs: arbitrary bytes, and WALs that are valid up to some frame.

#![no_main]

use libfuzzer_sys::fuzz_target;
use litefleet::internals::committed_frames;

const PAGE_SIZE: u32 = 512;
const FRAME_LEN: usize = 24 + PAGE_SIZE as usize;

/// SQLite's WAL checksum over big-endian words.
fn sum([mut s0, mut s1]: [u32; 2], bytes: &[u8]) -> [u32; 2] {
    for pair in bytes.chunks_exact(8) {
        let word = |at: usize| u32::from_be_bytes([pair[at], pair[at + 1], pair[at + 2], pair[at + 3]]);
        s0 = s0.wrapping_add(word(0)).wrapping_add(s1);
        s1 = s1.wrapping_add(word(4)).wrapping_add(s0);
    }
    [s0, s1]
}

fn put(bytes: &mut [u8], [s0, s1]: [u32; 2]) {
    bytes[..4].copy_from_slice(&s0.to_be_bytes());
    bytes[4..8].copy_from_slice(&s1.to_be_bytes());
}

/// Builds a WAL with one frame per eight input bytes. Returns it with the number of frames up to its last commit.
fn log(data: &[u8]) -> (Vec<u8>, usize) {
    let mut log = Vec::new();
    for word in [0x377f_0683, 3_007_000, PAGE_SIZE, 0, 0x1234_5678, 0x9abc_def0, 0, 0_u32] {
        log.extend(word.to_be_bytes());
    }
    let mut chain = sum([0, 0], &log[..24]);
    put(&mut log[24..], chain);
    let (mut committed, mut valid) = (0, true);
    for (at, head) in data.chunks_exact(8).enumerate() {
        let mut frame = vec![head[7]; FRAME_LEN];
        frame[..8].copy_from_slice(head);
        frame[8..16].copy_from_slice(&[0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0]);
        chain = sum(sum(chain, &frame[..8]), &frame[24..]);
        put(&mut frame[16..], chain);
        // Page numbers start at 1.
        valid &= head[..4] != [0; 4];
        if valid && head[4..] != [0; 4] {
            committed = at + 1;
        }
        log.extend(frame);
    }
    (log, committed)
}

fuzz_target!(|data: &[u8]| {
    let frames = committed_frames(data);
    assert!(frames == 0 || 32 + frames * FRAME_LEN <= data.len(), "more frames than bytes");

    let (mut log, committed) = log(&data[..data.len().min(400)]);
    assert_eq!(committed_frames(&log), committed);
    // Bytes after the last commit do not matter, whether appended or truncated.
    log.extend(data);
    assert!(committed_frames(&log) >= committed);
    log.truncate(32 + committed * FRAME_LEN);
    assert_eq!(committed_frames(&log), committed);
    // A damaged byte invalidates its frame and all later ones.
    if let Some(last) = log.len().checked_sub(1).filter(|_| committed > 0) {
        let at = data.iter().fold(0, |all, byte| all * 31 % 1_000_003 + usize::from(*byte)) % last;
        log[at] ^= 0x40;
        let whole = at.saturating_sub(32) / FRAME_LEN;
        assert!(committed_frames(&log) <= whole, "byte {at} was damaged");
    }
});
