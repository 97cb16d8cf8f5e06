//! Tampering with the rollback journal of an interrupted transaction outside WAL mode.

use std::fs;

use litefleet::{Cipher, PageFormat};

use super::{
    Base,
    Outcome::{self, Refused, Right, Uncommitted},
    Tampering, damage,
    specimen::{Files, PAGE, Specimen},
};
use crate::{encryption::copy_files, support::Fleet};

const CORRUPT: &[Outcome] = &[Refused("corrupt")];
/// SQLite rolls the journal back partially or not at all.
const NOT_ROLLED_BACK: &[Outcome] = &[Uncommitted];

const SECTOR: usize = 512;
const RECORD: usize = 4 + PAGE + 4;

/// Offsets of the records that a journal header counts, which are therefore flushed.
fn records(journal: &[u8]) -> Vec<usize> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at + SECTOR <= journal.len() && journal[at..at + 8] == journal[..8] {
        let count = u32::from_be_bytes(journal[at + 8..at + 12].try_into().unwrap()) as usize;
        found.extend((0..count).map(|record| at + SECTOR + record * RECORD));
        at = (at + SECTOR + count * RECORD).next_multiple_of(SECTOR);
    }
    assert!(found.len() > 10, "{}", found.len());
    found
}

/// Two records of one flush that hold similar leaves of two tables.
fn two_leaves(s: &Specimen, files: &mut Files) -> (usize, usize) {
    let journal = files.journal();
    let found = records(journal);
    let table = |at: usize| {
        let number = u32::from_be_bytes(journal[at..at + 4].try_into().unwrap());
        s.hot_leaves.iter().find(|leaf| leaf.1 == number).map_or("", |leaf| leaf.0.as_str())
    };
    // A later flush starts with its own header.
    let together = |one: usize, other: usize| found[other] - found[one] == (other - one) * RECORD;
    let of = |name: &str| (0..found.len()).filter(|at| table(found[*at]) == name).collect::<Vec<_>>();
    let pairs = of("one").into_iter().flat_map(|one| of("two").into_iter().map(move |two| (one, two)));
    let mut ordered = pairs.map(|(one, two)| (one.min(two), one.max(two)));
    ordered.find(|(one, two)| together(*one, *two)).unwrap()
}

fn record(files: &mut Files, at: usize) -> &mut [u8] {
    let journal = files.journal();
    let start = records(journal)[at];
    &mut journal[start..start + RECORD]
}

fn swap(s: &Specimen, files: &mut Files, part: std::ops::Range<usize>) {
    let (one, other) = two_leaves(s, files);
    let (of_one, of_other) = (record(files, one).to_vec(), record(files, other).to_vec());
    record(files, one)[part.clone()].copy_from_slice(&of_other[part.clone()]);
    record(files, other)[part.clone()].copy_from_slice(&of_one[part]);
}

pub(super) const TABLE: &[Tampering] = &[
    // A database of a fleet never has a journal. A file outside WAL mode would need one to return to WAL mode, so it
    // is refused too.
    Tampering {
        name: "journal: removed or emptied, beside a file taken out of WAL mode",
        base: Base::Hot,
        times: 2,
        apply: |_, files, time| match time {
            0 => files.journal = None,
            _ => files.journal().clear(),
        },
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "journal: planted beside the file, whole, truncated or damaged",
        base: Base::Hot,
        times: 6,
        apply: |_, files, time| match time {
            0 => files.journal().truncate(SECTOR),
            1 => files.journal().push(0),
            2 => files.journal()[11] = 0,
            _ => damage(&mut files.journal()[SECTOR..], time - 3),
        },
        native: CORRUPT,
        turso: CORRUPT,
    },
    // SQLite plays back the journal of a file that SQL attaches by path.
    Tampering {
        name: "attached: journal removed, emptied, truncated, or its first header damaged",
        base: Base::Attached,
        times: 6,
        apply: |_, files, time| match time {
            0 => files.journal = None,
            1 => files.journal().clear(),
            2 => files.journal().truncate(SECTOR),
            3 => files.journal().truncate(SECTOR + RECORD + 2000),
            4 => files.journal()[..8].fill(0),
            _ => files.journal()[11] = 0,
        },
        native: NOT_ROLLED_BACK,
        turso: NOT_ROLLED_BACK,
    },
    Tampering {
        name: "attached: in the journal, a page damaged, its tag or its nonce",
        base: Base::Attached,
        times: 9,
        apply: |s, files, time| {
            let tail = 4 + PAGE - usize::from(s.cipher.reserved_bytes());
            let range = [4..tail, tail..tail + 16, tail + 16..4 + PAGE][time / 3].clone();
            damage(&mut record(files, 3)[range], time);
        },
        native: CORRUPT,
        turso: CORRUPT,
    },
    Tampering {
        name: "attached: in the journal, a page's checksum damaged",
        base: Base::Attached,
        times: 3,
        apply: |_, files, time| damage(&mut record(files, 3)[4 + PAGE..], time),
        native: NOT_ROLLED_BACK,
        turso: NOT_ROLLED_BACK,
    },
    Tampering {
        name: "attached: in the journal, a record given the number of another page",
        base: Base::Attached,
        times: 1,
        apply: |s, files, _| swap(s, files, 0..4),
        native: CORRUPT,
        turso: &[Outcome::Foreign],
    },
    Tampering {
        name: "attached: in the journal, whole records swapped",
        base: Base::Attached,
        times: 1,
        apply: |s, files, _| swap(s, files, 0..RECORD),
        native: &[Right],
        turso: &[Right],
    },
    Tampering {
        name: "attached: in the journal, pages of two records swapped, with their checksums",
        base: Base::Attached,
        times: 1,
        apply: |s, files, _| swap(s, files, 4..RECORD),
        native: CORRUPT,
        turso: &[Outcome::Foreign],
    },
];

/// With `synchronous=OFF` the journal is never flushed, and its header says so. A power failure may then leave any
/// record torn before any page of the file has changed.
#[test]
fn unflushed_journal_ends_at_a_torn_record() {
    const ROWS: &str = "SELECT count(*) FROM u.t WHERE word = 'old'";
    for format in [PageFormat::Native, PageFormat::Turso] {
        let fleet = Fleet::new();
        fleet.create_sealed("vault", Cipher::Aegis256, format);
        let file = fleet.dir.path().join("unflushed.db");
        let attach = || {
            let connection = fleet.unlock_unfenced("vault", Cipher::Aegis256);
            connection.execute("ATTACH ?1 AS u", [file.to_str().unwrap()]).map(|_| connection)
        };
        let vault = fleet.unlock("vault", Cipher::Aegis256);
        vault
            .execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, word TEXT, filler BLOB);
                 WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 40)
                 INSERT INTO t SELECT i, 'old', zeroblob(3000) FROM n",
            )
            .unwrap();
        vault.execute("VACUUM INTO ?1", [file.to_str().unwrap()]).unwrap();
        let before = fs::read(&file).unwrap();
        let connection = attach().unwrap();
        connection
            .execute_batch(
                "PRAGMA u.synchronous=OFF; PRAGMA u.cache_size=5; PRAGMA cache_spill=1; BEGIN; UPDATE u.t SET word = 'new'",
            )
            .unwrap();
        let copy = fleet.dir.path().join("copy");
        copy_files(fleet.dir.path(), &copy, &["unflushed.db", "unflushed.db-journal"]);
        connection.execute_batch("ROLLBACK").unwrap();
        drop(connection);
        let half_written = fs::read(copy.join("unflushed.db")).unwrap();
        let journal = fs::read(copy.join("unflushed.db-journal")).unwrap();
        assert!(half_written != before && journal[8..12] == [0xff; 4]);
        let count = (journal.len() - SECTOR) / RECORD;
        assert!(count > 20);

        let beside = file.with_file_name("unflushed.db-journal");
        let rows = |data: &[u8], journal: &[u8]| {
            fs::write(&file, data).unwrap();
            fs::write(&beside, journal).unwrap();
            let connection = attach().map_err(|_| ())?;
            connection.query_row(ROWS, [], |row| row.get::<_, u32>(0)).map_err(|_| ())
        };
        assert_eq!(rows(&half_written, &journal), Ok(40), "{format}");
        for at in [0, 1, count / 2, count - 1] {
            let start = SECTOR + at * RECORD;
            for torn in
                [start + 4..start + RECORD, start + 2000..start + RECORD, start + RECORD - 4..start + RECORD]
            {
                let in_page = torn.len() > 4;
                let mut journal = journal.clone();
                journal[torn].fill(0);
                let found = rows(&before, &journal);
                // If no page was opened before, Turso's format cannot distinguish a torn page from a wrong key; the
                // journal is kept.
                if format == PageFormat::Turso && at == 0 && in_page {
                    assert_eq!((found, beside.exists()), (Err(()), true));
                    continue;
                }
                assert_eq!(found, Ok(40), "{format} {at}");
                assert!(!beside.exists());
            }
        }
    }
}
