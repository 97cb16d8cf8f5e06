//! Tampering with the WAL.

use std::fs;

use litefleet::{Cipher, ErrorKind, PageFormat};

use super::{
    Base,
    Outcome::{self, Earlier, Foreign, Mixed, Refused, Right, Uncommitted},
    Tampering, damage,
    specimen::{Files, PAGE, Specimen},
};
use crate::{
    encryption::copy_files,
    support::{Fleet, refused},
};

const CORRUPT: &[Outcome] = &[Refused("corrupt")];
const FOREIGN: &[Outcome] = &[Foreign];
/// The state in the database file.
const FILE: &[Outcome] = &[Earlier(1)];

const HEADER: usize = 32;
const FRAME: usize = 24 + PAGE;

/// The number of frames of a WAL.
pub(super) fn frames(log: &[u8]) -> usize {
    (log.len() - HEADER) / FRAME
}

pub(super) fn frame(log: &mut [u8], at: usize) -> &mut [u8] {
    &mut log[HEADER + at * FRAME..HEADER + (at + 1) * FRAME]
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn number(log: &mut [u8], at: usize) -> usize {
    word(frame(log, at), 0) as usize
}

/// Indexes of the commit frames.
fn commits(log: &mut [u8]) -> Vec<usize> {
    (0..frames(log)).filter(|at| word(frame(log, *at), 4) > 0).collect()
}

/// Indexes of the frames with versions of a page, oldest first.
pub(super) fn versions(log: &mut [u8], page: usize) -> Vec<usize> {
    (0..frames(log)).filter(|at| number(log, *at) == page).collect()
}

/// Recomputes salts and checksums, which are not secret, so that the WAL is valid.
pub(super) fn relink(log: &mut [u8]) {
    let big = log[3] & 1 == 1;
    let sum = |[mut s0, mut s1]: [u32; 2], bytes: &[u8]| {
        for pair in bytes.chunks_exact(8) {
            let read = |at: usize| if big { word(pair, at) } else { word(pair, at).swap_bytes() };
            s0 = s0.wrapping_add(read(0)).wrapping_add(s1);
            s1 = s1.wrapping_add(read(4)).wrapping_add(s0);
        }
        [s0, s1]
    };
    let put = |bytes: &mut [u8], [s0, s1]: [u32; 2]| {
        bytes[..4].copy_from_slice(&s0.to_be_bytes());
        bytes[4..].copy_from_slice(&s1.to_be_bytes());
    };
    let mut chain = sum([0, 0], &log[..24]);
    put(&mut log[24..HEADER], chain);
    let salts = log[16..24].to_vec();
    for at in 0..frames(log) {
        let (head, page) = frame(log, at).split_at_mut(24);
        head[8..16].copy_from_slice(&salts);
        chain = sum(sum(chain, &head[..8]), page);
        put(&mut head[16..], chain);
    }
}

/// Changes a WAL and makes it valid again.
fn relinked(files: &mut Files, change: impl FnOnce(&mut Vec<u8>)) {
    change(files.wal());
    relink(files.wal());
}

fn swap_pages(log: &mut [u8], one: usize, other: usize) {
    let page = frame(log, one)[24..].to_vec();
    let of_other = frame(log, other)[24..].to_vec();
    frame(log, other)[24..].copy_from_slice(&page);
    frame(log, one)[24..].copy_from_slice(&of_other);
}

/// The newest frames of the leaves of the tables `one` and `two`.
fn leaves(s: &Specimen, log: &mut [u8]) -> (usize, usize) {
    let newest = |log: &mut [u8], table| *versions(log, s.leaf(table)).last().unwrap();
    (newest(log, "one"), newest(log, "two"))
}

/// The first frame of the last commit.
fn field(files: &mut Files) -> &mut [u8] {
    let log = files.wal();
    let first = commits(log)[1] + 1;
    frame(log, first)
}

pub(super) const TABLE: &[Tampering] = &[
    Tampering {
        name: "WAL: its header damaged",
        base: Base::Log,
        times: 96,
        apply: |_, files, time| damage(&mut files.wal()[..HEADER], time),
        native: FILE,
        turso: FILE,
    },
    Tampering {
        name: "WAL: a frame's page number, commit size, salts or checksum damaged",
        base: Base::Log,
        times: 24,
        apply: |_, files, time| {
            let fields = [0..4, 4..8, 8..16, 16..24];
            damage(&mut field(files)[fields[time % 4].clone()], time);
        },
        native: &[Earlier(3)],
        turso: &[Earlier(3)],
    },
    Tampering {
        name: "WAL: a frame's page damaged",
        base: Base::Log,
        times: 6,
        apply: |_, files, time| damage(&mut field(files)[24..], time),
        native: &[Earlier(3)],
        turso: &[Earlier(3)],
    },
    Tampering {
        name: "WAL: two frames swapped",
        base: Base::Log,
        times: 1,
        apply: |s, files, _| {
            let log = files.wal();
            let (one, two) = leaves(s, log);
            swap_pages(log, one, two);
        },
        native: &[Earlier(3)],
        turso: &[Earlier(3)],
    },
    Tampering {
        name: "WAL, checksums recomputed: the page size in its header changed",
        base: Base::Log,
        times: 3,
        apply: |_, files, time| {
            relinked(files, |log| log[8..12].copy_from_slice(&[512_u32, 8192, 65_536][time].to_be_bytes()));
        },
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "WAL, checksums recomputed: its salts changed",
        base: Base::Log,
        times: 3,
        apply: |_, files, time| relinked(files, |log| damage(&mut log[16..24], time)),
        native: &[Right],
        turso: &[Right],
    },
    Tampering {
        name: "WAL, checksums recomputed: a page damaged, its tag or its nonce",
        base: Base::Log,
        times: 9,
        apply: |s, files, time| {
            relinked(files, |log| {
                let (one, _) = leaves(s, log);
                let tail = FRAME - usize::from(s.cipher.reserved_bytes());
                let range = [24..tail, tail..tail + 16, tail + 16..FRAME][time / 3].clone();
                damage(&mut frame(log, one)[range], time);
            });
        },
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "WAL, checksums recomputed: a page damaged that has a newer version",
        base: Base::Log,
        times: 3,
        // Only recovery reads it.
        apply: |s, files, time| {
            relinked(files, |log| {
                let old = versions(log, s.leaf("two"))[0];
                damage(&mut frame(log, old)[24..], time);
            });
        },
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "WAL, checksums recomputed: a page of an uncommitted transaction damaged",
        base: Base::Unfinished,
        times: 3,
        apply: |_, files, time| {
            relinked(files, |log| {
                let last = frames(log) - 1;
                damage(&mut frame(log, last)[24..], time);
            });
        },
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "WAL, checksums recomputed: the page of the first frame damaged",
        base: Base::Log,
        times: 3,
        apply: |_, files, time| relinked(files, |log| damage(&mut frame(log, 0)[24..], time)),
        native: CORRUPT,
        turso: &[Refused("wrong_key")],
    },
    Tampering {
        name: "WAL, checksums recomputed: pages of two tables swapped",
        base: Base::Log,
        times: 1,
        apply: |s, files, _| {
            relinked(files, |log| {
                let (one, two) = leaves(s, log);
                swap_pages(log, one, two);
            });
        },
        native: CORRUPT,
        turso: FOREIGN,
    },
    Tampering {
        name: "WAL, checksums recomputed: whole frames of one commit swapped",
        base: Base::Log,
        times: 1,
        // The order of frames within a commit has no meaning.
        apply: |_, files, _| {
            relinked(files, |log| {
                let first = commits(log)[1] + 1;
                let (one, other) = (frame(log, first).to_vec(), frame(log, first + 1).to_vec());
                frame(log, first).copy_from_slice(&other);
                frame(log, first + 1).copy_from_slice(&one);
            });
        },
        native: &[Right],
        turso: &[Right],
    },
    Tampering {
        name: "WAL, checksums recomputed: a frame given the number of another page",
        base: Base::Log,
        times: 1,
        apply: |s, files, _| {
            // The later of the two frames takes effect.
            let other = u32::try_from(s.leaf("one")).unwrap().to_be_bytes();
            relinked(files, |log| {
                let (_, two) = leaves(s, log);
                frame(log, two)[..4].copy_from_slice(&other);
            });
        },
        native: CORRUPT,
        turso: FOREIGN,
    },
    Tampering {
        name: "WAL, checksums recomputed: a frame given the number 0",
        base: Base::Log,
        times: 1,
        apply: |_, files, _| {
            field(files)[..4].fill(0);
            relink(files.wal());
        },
        native: &[Earlier(3)],
        turso: &[Earlier(3)],
    },
    Tampering {
        name: "WAL, checksums recomputed: an old version of a page put back from the WAL, or from the file",
        base: Base::Log,
        times: 2,
        apply: |s, files, time| {
            let from_file = files.page(s.leaf("one")).to_vec();
            relinked(files, |log| {
                let versions = versions(log, s.leaf("one"));
                let from_log = frame(log, versions[0])[24..].to_vec();
                let old = [from_log, from_file][time].clone();
                frame(log, *versions.last().unwrap())[24..].copy_from_slice(&old);
            });
        },
        native: &[Mixed],
        turso: &[Mixed],
    },
    Tampering {
        name: "WAL, checksums recomputed: another page of the file put into a frame",
        base: Base::Log,
        times: 1,
        apply: |s, files, _| {
            let page = files.page(s.leaf("two")).to_vec();
            relinked(files, |log| {
                let (one, _) = leaves(s, log);
                frame(log, one)[24..].copy_from_slice(&page);
            });
        },
        native: CORRUPT,
        turso: FOREIGN,
    },
    Tampering {
        name: "WAL, checksums recomputed: a page of another database with the same key, at its number",
        base: Base::Log,
        times: 1,
        apply: |s, files, _| {
            relinked(files, |log| {
                let (one, _) = leaves(s, log);
                frame(log, one)[24..].copy_from_slice(s.twin.clone().page(s.leaf("one")));
            });
        },
        native: CORRUPT,
        turso: FOREIGN,
    },
    Tampering {
        name: "WAL: that of another database with the same key",
        base: Base::Log,
        times: 1,
        apply: |s, files, _| files.wal.clone_from(&s.twin.wal),
        native: CORRUPT,
        turso: FOREIGN,
    },
    Tampering {
        name: "WAL: an old one put back beside a newer file",
        base: Base::Log,
        times: 1,
        apply: |s, files, _| *files = Files { wal: s.first_log.wal.clone(), ..s.newest.clone() },
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "WAL: truncated in its header, after it, or in its first frame",
        base: Base::Log,
        times: 5,
        apply: |_, files, time| files.wal().truncate([0, 16, HEADER, HEADER + 24, HEADER + FRAME - 1][time]),
        native: FILE,
        turso: FILE,
    },
    Tampering {
        name: "WAL: truncated at a commit, or in the middle of the next",
        base: Base::Log,
        times: 4,
        apply: |_, files, time| {
            let log = files.wal();
            let (first, second) = (commits(log)[0] + 1, commits(log)[1] + 1);
            log.truncate(
                HEADER + [first * FRAME, (first + 1) * FRAME, second * FRAME, second * FRAME + 30][time],
            );
        },
        native: &[Earlier(2), Earlier(3)],
        turso: &[Earlier(2), Earlier(3)],
    },
    Tampering {
        name: "WAL: truncated at a commit that a checkpoint has passed",
        base: Base::Log,
        times: 1,
        apply: |s, files, _| {
            files.data.clone_from(&s.newest.data);
            let log = files.wal();
            let end = HEADER + (commits(log)[1] + 1) * FRAME;
            log.truncate(end);
        },
        native: &[Mixed],
        turso: &[Mixed],
    },
    Tampering {
        name: "WAL: removed",
        base: Base::Log,
        times: 1,
        apply: |_, files, _| files.wal = None,
        native: FILE,
        turso: FILE,
    },
    Tampering {
        name: "WAL: bytes appended after the last frame",
        base: Base::Log,
        times: 3,
        apply: |_, files, time| {
            let log = files.wal();
            let more = log[HEADER..HEADER + [20, FRAME, 2 * FRAME][time]].to_vec();
            log.extend(more);
        },
        native: &[Right],
        turso: &[Right],
    },
    Tampering {
        name: "WAL, checksums recomputed: an old commit appended after the last",
        base: Base::Log,
        times: 1,
        apply: |_, files, _| {
            relinked(files, |log| {
                let end = HEADER + (commits(log)[0] + 1) * FRAME;
                let old = log[HEADER..end].to_vec();
                log.extend(old);
            });
        },
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "WAL, checksums recomputed: a commit size that is too small",
        base: Base::Log,
        times: 1,
        apply: |_, files, _| {
            relinked(files, |log| {
                let last = commits(log)[2];
                frame(log, last)[4..8].copy_from_slice(&9_u32.to_be_bytes());
            });
        },
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "WAL, checksums recomputed: a commit size that is too large",
        base: Base::Log,
        times: 1,
        apply: |_, files, _| {
            relinked(files, |log| {
                let last = commits(log)[2];
                frame(log, last)[4..8].copy_from_slice(&900_u32.to_be_bytes());
            });
        },
        native: &[Right],
        turso: &[Right],
    },
    Tampering {
        name: "WAL, checksums recomputed: a commit mark removed",
        base: Base::Log,
        times: 1,
        apply: |_, files, _| {
            relinked(files, |log| {
                let last = commits(log)[2];
                frame(log, last)[4..8].fill(0);
            });
        },
        native: &[Earlier(3)],
        turso: &[Earlier(3)],
    },
    Tampering {
        name: "WAL, checksums recomputed: a commit mark moved into its transaction, and the rest truncated",
        base: Base::Log,
        times: 1,
        apply: |s, files, _| {
            relinked(files, |log| {
                let (one, _) = leaves(s, log);
                let last = commits(log)[2];
                let pages = frame(log, last)[4..8].to_vec();
                frame(log, one)[4..8].copy_from_slice(&pages);
                log.truncate(HEADER + (one + 1) * FRAME);
            });
        },
        native: &[Mixed],
        turso: &[Mixed],
    },
    Tampering {
        name: "WAL, checksums recomputed: a commit mark added to an uncommitted transaction",
        base: Base::Unfinished,
        times: 1,
        apply: |s, files, _| {
            let pages = u32::try_from(files.data.len() / PAGE).unwrap();
            relinked(files, |log| {
                let one = versions(log, s.leaf("one"))[0];
                frame(log, one)[4..8].copy_from_slice(&pages.to_be_bytes());
                log.truncate(HEADER + (one + 1) * FRAME);
            });
        },
        native: &[Uncommitted],
        turso: &[Uncommitted],
    },
];

/// Recovery opens the page of every valid frame, whether or not the page is ever read.
#[test]
fn wal_with_an_unsealed_frame_is_not_opened() {
    let fleet = Fleet::new();
    fleet.create_sealed("vault", Cipher::Aegis256, PageFormat::Native);
    let options = || crate::encryption::with_key(crate::encryption::key(Cipher::Aegis256));
    let dir = fleet.database_dir("vault");
    let copy = fleet.dir.path().join("copy");
    let connection = fleet.plane.connect("vault", options()).unwrap();
    connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1); UPDATE t SET a = 2").unwrap();
    copy_files(&dir, &copy, &["data.db", "data.db-wal"]);
    drop(connection);
    copy_files(&copy, &dir, &["data.db"]);
    let mut log = fs::read(copy.join("data.db-wal")).unwrap();
    let old = versions(&mut log, 2)[0];
    assert!(old > 0 && *versions(&mut log, 2).last().unwrap() > old);
    damage(&mut frame(&mut log, old)[100..200], 0);
    relink(&mut log);
    fs::write(dir.join("data.db-wal"), log).unwrap();
    let (kind, text) = refused(fleet.plane.connect("vault", options()));
    assert_eq!(kind, ErrorKind::Corrupt, "{text}");
    assert!(text.contains("page 2 in ") && text.contains("data.db-wal is damaged"), "{text}");
}
