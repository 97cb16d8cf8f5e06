//! Stamps as bytes, and the commits that follow from them.

use super::*;

const CHECKSUM: WalChecksum = WalChecksum::from_bytes([7; 8]);

fn frame(number: u32) -> FrameNumber {
    FrameNumber::new(number).unwrap()
}

fn end(number: u32, pages: u32) -> LogEnd {
    LogEnd { frame: FrameNumber::new(number), pages: PageCount::new(pages), checksum: CHECKSUM }
}

fn generation() -> Generation {
    Generation {
        database: 0x0123_4567_89ab_cdef_0011_2233_4455_6677,
        number: GenerationNumber::new(42),
        salts: Salts::new([1, 2, 3, 4, 5, 6, 7, 8]),
        page_size: 4096,
        base_frame: FrameNumber::new(7),
        lineage: Lineage::Continues { digest: 99, end: end(5, 6) },
        not_before: Micros::new(-5),
        begun_at: Micros::new(1_764_000_000_000_000),
        data: FileState { len: 8192, changed_at: Nanos::new(1_764_000_000_000_000_001) },
    }
}

fn records() -> [Record; 4] {
    let max = u32::MAX;
    let commit = |at, number, before, pages, checksum| {
        Record::Commit(Commit {
            at: Micros::new(at),
            frame: frame(number),
            before: FrameNumber::new(before),
            pages: PageCount::new(pages),
            checksum: ShortChecksum::new(checksum),
        })
    };
    [
        commit(1, 8, 7, 2, 9),
        commit(i64::MAX, max, max, max, max),
        Record::End(end(9, 2)),
        Record::Checkpointed(FileState { len: 8192, changed_at: Nanos::new(-1) }),
    ]
}

fn file() -> Vec<u8> {
    let mut words = generation().encode().to_vec();
    let seed = generation().seed();
    words.extend(records().iter().enumerate().flat_map(|(at, record)| record.encode(seed, at)));
    words.extend([0; 2 * RECORD_WORDS]);
    bytes(&words)
}

#[test]
fn stamps_round_trip() {
    let stamps = Stamps::parse(&file()).unwrap();
    assert_eq!(stamps.generation, generation());
    assert_eq!(stamps.slots, records().map(Slot::Record));
    assert_eq!(stamps.end(), Some(end(9, 2)));
    assert_eq!(stamps.checkpointed(), Some(FileState { len: 8192, changed_at: Nanos::new(-1) }));
    assert_eq!(stamps.last_instant(), Micros::MAX);
    // Unused space at the end of the file is ignored.
    assert_eq!(Stamps::parse(&file()[..HEADER_LEN + 4 * RECORD_LEN]).unwrap().digest, stamps.digest);
}

#[test]
fn encoded_words_match_the_format() {
    let words = generation().encode();
    let micros = 1_764_000_000_000_000;
    let expected = [
        Word::from_le_bytes(*b"LFstamps"),
        1,
        0x0011_2233_4455_6677,
        0x0123_4567_89ab_cdef,
        42,
        0x0807_0605_0403_0201,
        4096 | 7 << 32,
        Word::MAX - 4,
        micros,
        99,
        8192,
        micros * 1000 + 1,
        5 | 6 << 32,
        0x0707_0707_0707_0707,
        0,
    ];
    assert_eq!(words[..HEADER_WORDS - 1], expected);
    let flags = [(Lineage::Born, 1 << 32), (Lineage::AfterGap, 3 << 32)];
    for (lineage, flags) in flags {
        let words = Generation { lineage, ..generation() }.encode();
        assert_eq!((words[1], words[9], words[12], words[13]), (1 | flags, 0, 0, 0));
    }
    let records = records().map(|record| record.encode(0, 0));
    let expected = [
        [1, 8 | 2 << 32, 7 | 9 << 32],
        [Word::MAX >> 1, Word::MAX, Word::MAX],
        [1 << 63, 9 | 2 << 32, 0x0707_0707_0707_0707],
        [1 << 63 | 1, 8192, Word::MAX],
    ];
    for (record, expected) in records.iter().zip(expected) {
        assert_eq!(record[..3], expected);
    }
}

#[test]
fn flipped_bit_damages_only_its_record() {
    let whole = Stamps::parse(&file()).unwrap();
    for bit in 0..(HEADER_LEN + 4 * RECORD_LEN) * 8 {
        let mut file = file();
        file[bit / 8] ^= 1 << (bit % 8);
        let Some(stamps) = Stamps::parse(&file) else {
            assert!(bit < HEADER_LEN * 8, "bit {bit}");
            continue;
        };
        let damaged = (bit / 8).checked_sub(HEADER_LEN).unwrap() / RECORD_LEN;
        for (position, slot) in stamps.slots.iter().enumerate() {
            let want = if position == damaged { Slot::Damaged } else { whole.slots[position] };
            assert_eq!(*slot, want, "bit {bit}");
        }
        assert_ne!(stamps.digest, whole.digest, "bit {bit}");
    }
}

#[test]
fn record_is_valid_only_at_its_position_in_its_generation() {
    let seed = generation().seed();
    for record in records() {
        assert_eq!(Slot::decode(record.encode(seed, 3), seed, 3), Slot::Record(record));
        assert_eq!(Slot::decode(record.encode(seed, 3), seed, 4), Slot::Damaged);
        let other = Generation { number: GenerationNumber::new(43), ..generation() }.seed();
        assert_eq!(Slot::decode(record.encode(seed, 3), other, 3), Slot::Damaged);
    }
    assert_eq!(Slot::decode([0; RECORD_WORDS], seed, 0), Slot::Empty);
}

#[test]
fn commit_record_without_a_frame_is_damaged() {
    let seed = generation().seed();
    let [first, second, third] = [1, pair(0, 2), 0];
    let words = [first, second, third, check([first, second, third], seed, 0)];
    assert_eq!(Slot::decode(words, seed, 0), Slot::Damaged);
}

#[test]
fn commit_after_end_record_supersedes_it() {
    let seed = generation().seed();
    let mut words = generation().encode().to_vec();
    for (position, record) in [records()[0], records()[2], records()[3], records()[0]].iter().enumerate() {
        words.extend(record.encode(seed, position));
    }
    let stamps = Stamps::of(&words).unwrap();
    assert_eq!((stamps.end(), stamps.checkpointed()), (None, None));
}

/// The commit frames of a generation with the stamps `(frame, before)`; those of unstamped commits are negative.
fn commits(stamps: &[(u32, u32)], end: Option<u32>) -> Vec<i64> {
    let generation = Generation { base_frame: None, ..generation() };
    let commit = |(at, &(number, before))| {
        let (frame, before) = (frame(number), FrameNumber::new(before));
        let (at, pages) = (Micros::new(at), PageCount::new(1));
        Record::Commit(Commit { at, frame, before, pages, checksum: None })
    };
    let slots = (0..).zip(stamps).map(commit).map(Slot::Record).collect();
    let stamps = Stamps { generation, slots, digest: 0 };
    let frame = |commit| match commit {
        CommitRecord::Commit(commit) => commit.frame.get().into(),
        CommitRecord::Unstamped { frame } => -i64::from(frame.get()),
    };
    let commits = match end {
        Some(end) => stamps.commits_up_to(FrameNumber::new(end)),
        None => stamps.commits(),
    };
    commits.into_iter().map(frame).collect()
}

#[test]
fn later_stamps_reveal_failed_and_unstamped_commits() {
    assert_eq!([None, Some(5)].map(|end| commits(&[(2, 0), (5, 2)], end)), [[2, 5], [2, 5]]);
    // The commit failed, and another one replaced its frames, with as many, more or fewer.
    assert_eq!(commits(&[(2, 0), (5, 2), (5, 2)], None), [2, 5]);
    assert_eq!(commits(&[(2, 0), (5, 2), (7, 2)], None), [2, 7]);
    assert_eq!(commits(&[(2, 0), (5, 2), (3, 2), (5, 3)], None), [2, 3, 5]);
    assert_eq!(commits(&[(2, 0), (5, 2)], Some(2)), [2]);
    assert_eq!(commits(&[(2, 0), (5, 2), (6, 5)], Some(0)), [0_i64; 0]);
    // Stamps are missing in the middle, at the end, or altogether.
    assert_eq!(commits(&[(2, 0), (7, 5)], None), [2, -5, 7]);
    assert_eq!([commits(&[(2, 0)], Some(5)), commits(&[], Some(5))], [vec![2, -5], vec![-5]]);
    assert_eq!(commits(&[(2, 0), (7, 5), (9, 8)], Some(10)), [2, -5, 7, -8, 9, -10]);
    // Unstamped commits were lost in a power failure, and others replaced them.
    assert_eq!(commits(&[(2, 0), (7, 5), (4, 2)], None), [2, 4]);
    assert_eq!(commits(&[(2, 0), (7, 5), (9, 6)], None), [2, -5, -6, 9]);
}

#[test]
fn decode_refuses_headers_that_are_never_written() {
    let decode = |generation: Generation| Generation::decode(&generation.encode());
    assert!(decode(generation()).is_some());
    let sizes = [0, 256, 1000, 131_072].map(|page_size| Generation { page_size, ..generation() });
    let numbers =
        [0, u64::MAX].map(|number| Generation { number: GenerationNumber::new(number), ..generation() });
    assert!([&sizes[..], &numbers].concat().into_iter().all(|of| decode(of).is_none()));
    // Only a generation that continues another one has the digest and the end of its predecessor.
    for (flags, digest, end) in
        [(AFTER_GAP, 0, LogEnd::EMPTY), (BEGINS, 1, LogEnd::EMPTY), (BEGINS | AFTER_GAP, 0, end(5, 6))]
    {
        assert_eq!(Lineage::decode(flags, digest, end), None);
    }
}
