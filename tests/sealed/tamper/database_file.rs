//! Tampering with the database file.

use super::{
    Base,
    Outcome::{self, Foreign, Malformed, Mixed, Refused, Right},
    Tampering, damage,
    specimen::PAGE,
};

const CORRUPT: &[Outcome] = &[Refused("corrupt")];
const WRONG_KEY: &[Outcome] = &[Refused("wrong_key")];
const RIGHT: &[Outcome] = &[Right];

/// Number of bytes at the end of a page for tag and nonce.
fn tail(cipher: litefleet::Cipher) -> usize {
    cipher.reserved_bytes().into()
}

fn swap(data: &mut [u8], one: usize, other: usize) {
    let (front, back) = data.split_at_mut((one.max(other) - 1) * PAGE);
    let from = (one.min(other) - 1) * PAGE;
    front[from..from + PAGE].swap_with_slice(&mut back[..PAGE]);
}

pub(super) const TABLE: &[Tampering] = &[
    Tampering {
        name: "file: bytes 0 to 15 of the header damaged",
        base: Base::Rest,
        times: 48,
        apply: |_, files, time| damage(&mut files.data[..16], time),
        native: &[Refused("corrupt"), Refused("wrong_key")],
        turso: CORRUPT,
    },
    Tampering {
        name: "file: bytes 16 to 23 of the header damaged",
        base: Base::Rest,
        times: 24,
        apply: |_, files, time| damage(&mut files.data[16..24], time),
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "file: bytes 24 to 99 of the header damaged",
        base: Base::Rest,
        times: 228,
        apply: |_, files, time| damage(&mut files.data[24..100], time),
        native: CORRUPT,
        turso: WRONG_KEY,
    },
    Tampering {
        name: "file: the body of page 1 damaged",
        base: Base::Rest,
        times: 6,
        apply: |s, files, time| damage(&mut files.data[100..PAGE - tail(s.cipher)], time),
        native: CORRUPT,
        turso: WRONG_KEY,
    },
    Tampering {
        name: "file: the body of a page damaged",
        base: Base::Rest,
        times: 6,
        apply: |s, files, time| damage(&mut files.page(s.leaf("one"))[..PAGE - tail(s.cipher)], time),
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "file: the body of an overflow page damaged",
        base: Base::Rest,
        times: 6,
        apply: |s, files, time| damage(&mut files.page(s.overflow(5))[..PAGE - tail(s.cipher)], time),
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "file: a tag damaged",
        base: Base::Rest,
        times: 6,
        apply: |s, files, time| {
            let at = PAGE - tail(s.cipher);
            damage(&mut files.page(s.leaf("two"))[at..at + 16], time);
        },
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "file: a nonce damaged",
        base: Base::Rest,
        times: 6,
        apply: |s, files, time| {
            let at = PAGE - tail(s.cipher) + 16;
            damage(&mut files.page(s.leaf("two"))[at..], time);
        },
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "file: a page of zeros",
        base: Base::Rest,
        times: 2,
        apply: |s, files, time| files.page([s.leaf("one"), s.overflow(0)][time]).fill(0),
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "file: pages of two tables swapped",
        base: Base::Rest,
        times: 1,
        apply: |s, files, _| swap(&mut files.data, s.leaf("one"), s.leaf("two")),
        native: CORRUPT,
        turso: &[Foreign],
    },
    Tampering {
        name: "file: overflow pages of two rows swapped",
        base: Base::Rest,
        times: 1,
        // The last overflow page of each row, which has no successor.
        apply: |s, files, _| {
            let (one, other) = (s.last_overflow(0), s.last_overflow(1));
            swap(&mut files.data, one, other);
        },
        native: CORRUPT,
        turso: &[Foreign],
    },
    Tampering {
        name: "file: a page copied over another of the same table",
        base: Base::Rest,
        times: 1,
        apply: |s, files, _| {
            let leaves = s.pages_of("one", "leaf");
            let page = files.page(leaves[0]).to_vec();
            files.page(leaves[1]).copy_from_slice(&page);
        },
        native: CORRUPT,
        turso: &[Malformed],
    },
    Tampering {
        name: "file: an old version of a page put back",
        base: Base::Rest,
        times: 2,
        apply: |s, files, time| {
            let number = [s.leaf("one"), s.overflow(0)][time];
            let old = s.first.clone().page(number).to_vec();
            files.page(number).copy_from_slice(&old);
        },
        native: &[Mixed],
        turso: &[Mixed],
    },
    Tampering {
        name: "file: an old version of page 1 put back",
        base: Base::Log,
        times: 1,
        apply: |s, files, _| {
            *files = s.newest.clone();
            let old = s.rest.clone().page(1).to_vec();
            files.page(1).copy_from_slice(&old);
        },
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "file: the whole old file put back",
        base: Base::Rest,
        times: 1,
        apply: |s, files, _| files.data.clone_from(&s.first.data),
        native: &[Outcome::Earlier(0)],
        turso: &[Outcome::Earlier(0)],
    },
    Tampering {
        name: "file: a page of another database with the same key, at its number",
        base: Base::Rest,
        times: 2,
        apply: |s, files, time| {
            let number = [s.leaf("one"), s.overflow(0)][time];
            files.page(number).copy_from_slice(s.twin.clone().page(number));
        },
        native: CORRUPT,
        turso: &[Foreign],
    },
    Tampering {
        name: "file: a page of another database with the same key, at another number",
        base: Base::Rest,
        times: 1,
        apply: |s, files, _| files.page(s.leaf("one")).copy_from_slice(s.twin.clone().page(s.leaf("two"))),
        native: CORRUPT,
        turso: &[Foreign],
    },
    Tampering {
        name: "file: page 1 of another database with the same key",
        base: Base::Rest,
        times: 1,
        apply: |s, files, _| files.page(1).copy_from_slice(s.twin.clone().page(1)),
        native: CORRUPT,
        turso: &[Foreign],
    },
    Tampering {
        name: "file: all of another database with the same key",
        base: Base::Rest,
        times: 1,
        apply: |s, files, _| files.data.clone_from(&s.twin.data),
        native: CORRUPT,
        turso: &[Foreign],
    },
    Tampering {
        name: "file: a page of a database with another key",
        base: Base::Rest,
        times: 1,
        apply: |s, files, _| {
            let number = s.leaf("one");
            files.page(number).copy_from_slice(&s.other_key[(number - 1) * PAGE..number * PAGE]);
        },
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "file: all of a database with another key",
        base: Base::Rest,
        times: 1,
        apply: |s, files, _| files.data.clone_from(&s.other_key),
        native: CORRUPT,
        turso: WRONG_KEY,
    },
    Tampering {
        name: "file: a page of the other format under the same key",
        base: Base::Rest,
        times: 1,
        apply: |s, files, _| {
            let number = s.leaf("one");
            files.page(number).copy_from_slice(&s.other_format[(number - 1) * PAGE..number * PAGE]);
        },
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "file: page 1 of the other format under the same key",
        base: Base::Rest,
        times: 1,
        apply: |s, files, _| files.page(1).copy_from_slice(&s.other_format[..PAGE]),
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "file: all of a database in the other format under the same key",
        base: Base::Rest,
        times: 1,
        apply: |s, files, _| files.data.clone_from(&s.other_format),
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "file: truncated to nothing, in the header, or in page 1",
        base: Base::Rest,
        times: 4,
        apply: |_, files, time| files.data.truncate([0, 50, 100, 4000][time]),
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "file: truncated in the middle of a page, or between two",
        base: Base::Rest,
        times: 4,
        apply: |s, files, time| {
            let len = files.data.len();
            files.data.truncate([len - 1, len - PAGE, (s.overflow(0) - 1) * PAGE, PAGE][time]);
        },
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "file: bytes appended after the last page",
        base: Base::Rest,
        times: 3,
        apply: |_, files, time| {
            let more = files.data[PAGE..PAGE + [100, PAGE, 2 * PAGE][time]].to_vec();
            files.data.extend(more);
        },
        native: RIGHT,
        turso: RIGHT,
    },
    Tampering {
        name: "file beside a WAL: truncated between two pages",
        base: Base::Log,
        times: 3,
        // The removed pages include overflow pages that have no frame.
        apply: |s, files, time| files.data.truncate((s.last_overflow([3, 4, 5][time]) - 1) * PAGE),
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "file beside a WAL: truncated between two pages, with zeros appended",
        base: Base::Log,
        times: 3,
        apply: |s, files, time| {
            files.data.truncate((s.last_overflow(5) - 1) * PAGE);
            files.data.extend(vec![0; [1, 512, PAGE][time]]);
        },
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "file beside a WAL: a page damaged whose newest version is in the WAL",
        base: Base::Log,
        times: 3,
        apply: |s, files, time| damage(files.page(s.leaf("one")), time),
        native: RIGHT,
        turso: RIGHT,
    },
    Tampering {
        name: "file beside a WAL: bytes 24 to 71 and 92 to 99 of the header damaged, page 1 being in the WAL",
        base: Base::Log,
        times: 12,
        apply: |_, files, time| damage(&mut files.data[if time % 2 == 0 { 24..72 } else { 92..100 }], time),
        native: RIGHT,
        turso: RIGHT,
    },
    Tampering {
        name: "file beside a WAL: an old file put back",
        base: Base::Log,
        times: 1,
        apply: |s, files, _| files.data.clone_from(&s.first.data),
        native: &[Mixed],
        turso: &[Mixed],
    },
    Tampering {
        name: "file: half of a checkpoint, and the WAL removed",
        base: Base::Log,
        times: 1,
        apply: |s, files, _| {
            let number = s.leaf("one");
            files.page(number).copy_from_slice(s.newest.clone().page(number));
            files.wal = None;
        },
        native: &[Mixed],
        turso: &[Mixed],
    },
];
