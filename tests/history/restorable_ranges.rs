//! The ranges that `points` reports are exactly the instants that can be restored, whichever stamp files are damaged.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use litefleet::{
    Result, Timestamp,
    rusqlite::{Connection, config::DbConfig},
};

use crate::{
    maintain::{restart_wal, set_window},
    support::{Contents, Ledger, State, contains, contents, difference, files, foreign_connection, now},
};

/// Restores are slower than views and give equal results, so only one read in this many is a restore.
const RESTORE_EVERY: usize = 16;

type Damage = fn(&Path);

const DAMAGES: [(&str, Damage); 5] = [
    ("removed", |path| fs::remove_file(path).unwrap()),
    ("emptied", |path| fs::write(path, b"").unwrap()),
    ("header damaged", |path| flip(path, 70)),
    ("first record damaged", |path| flip(path, 130)),
    ("records lost", |path| {
        let mut bytes = fs::read(path).unwrap();
        bytes[128..].fill(0);
        fs::write(path, bytes).unwrap();
    }),
];

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn last_stamp(ledger: &Ledger) -> Timestamp {
    ledger.plane.points("orders", ..).unwrap().points.last().unwrap().at
}

/// Two commits and a WAL restart, with a snapshot in between if requested.
fn log(ledger: &mut Ledger, connection: &Connection, snapshot: bool) {
    for _ in 0..2 {
        ledger.commit(connection, "INSERT INTO t VALUES (randomblob(600))");
    }
    if snapshot {
        fs::write(ledger.database_dir().join("archive/wanted"), b"").unwrap();
    }
    restart_wal(connection);
}

/// Makes a change without a stamp and then a commit. Before it, only the last stamp is certain to resolve to the last
/// state.
fn commit_after_gap(ledger: &mut Ledger, change: impl FnOnce(&mut Ledger) -> Connection) -> Connection {
    let stamp = last_stamp(ledger);
    let last = ledger.states.last_mut().unwrap();
    (last.from, last.to) = (stamp, stamp);
    let connection = change(ledger);
    connection.execute_batch("INSERT INTO t VALUES ('known again')").unwrap();
    let from = now();
    ledger.states.push(State { from, to: from, contents: contents(&connection) });
    connection
}

/// Eleven logs, with snapshots before the 1st, 4th, 6th, 8th (after a gap) and 10th.
fn history(at_rest: bool) -> Ledger {
    let mut ledger = Ledger::plain();
    set_window(&ledger, "7d");
    let mut connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(a)");
    log(&mut ledger, &connection, false);
    log(&mut ledger, &connection, false);
    ledger.commit(&connection, "INSERT INTO t VALUES (1)");
    // The third log ends with an unstamped commit.
    connection = commit_after_gap(&mut ledger, |ledger| {
        foreign_connection(ledger).execute_batch("INSERT INTO t VALUES ('foreign')").unwrap();
        fs::write(ledger.database_dir().join("archive/wanted"), b"").unwrap();
        restart_wal(&connection);
        connection
    });
    for snapshot in [false, true, false] {
        log(&mut ledger, &connection, snapshot);
    }
    ledger.commit(&connection, "INSERT INTO t VALUES (2)");
    drop(connection);
    connection = commit_after_gap(&mut ledger, |ledger| {
        foreign_connection(ledger).execute_batch("INSERT INTO t VALUES ('foreign')").unwrap();
        ledger.connect()
    });
    for snapshot in [false, true, false] {
        log(&mut ledger, &connection, snapshot);
    }
    ledger.commit(&connection, "INSERT INTO t VALUES (3)");
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !at_rest).unwrap();
    drop(connection);
    ledger.states.last_mut().unwrap().to = now();
    let names = files(&ledger.database_dir().join("archive"));
    let sums: Vec<_> = names.iter().filter_map(|name| name.strip_suffix(".sum")).collect();
    assert_eq!(sums, [1, 4, 6, 8, 10].map(|sequence| format!("{sequence:012}")));
    ledger
}

/// Reads every instant at which an answer may change, and returns the number that could be restored.
fn check(ledger: &mut Ledger, stamps: &[Timestamp], damage: &str, reads: &mut usize) -> usize {
    let found = ledger.plane.points("orders", ..).unwrap();
    let windows = found.windows;
    let joined = windows.windows(2).find(|pair| pair[0].to.is_none_or(|to| to >= pair[1].from));
    assert_eq!(joined, None, "{damage}");
    for point in &found.points {
        assert!(
            contains(&windows, point.at),
            "{damage}: the commit at {} is outside of {windows:?}",
            point.at
        );
    }
    let borders = windows.iter().flat_map(|window| [Some(window.from), window.to]).flatten();
    let around = borders
        .chain(stamps.iter().copied())
        .flat_map(|at| [-1, 0, 1].map(|more| Timestamp::from_micros(at.as_micros() + more).unwrap()));
    let states = ledger.states.clone();
    let instants: BTreeSet<_> =
        around.chain(states.iter().flat_map(|state| [state.from, state.to])).collect();
    let is_right = |at: Timestamp, answer: Result<Contents>| {
        let refusal = answer.as_ref().err();
        assert_eq!(answer.is_ok(), contains(&windows, at), "{damage}: {at}: {refusal:?}, {windows:?}");
        let Ok(found) = answer else { return false };
        for state in states.iter().filter(|state| (state.from..=state.to).contains(&at)) {
            assert!(found == state.contents, "{damage}: {at}: {}", difference(&found, &state.contents));
        }
        true
    };
    let answered = instants.iter().filter(|at| is_right(**at, ledger.viewed_at(**at))).count();
    for at in instants {
        *reads += 1;
        if reads.is_multiple_of(RESTORE_EVERY) {
            is_right(at, ledger.restored_at(at));
        }
    }
    answered
}

#[test]
fn restorable_ranges_match_restores_under_damaged_stamps() {
    let mut reads = 0;
    for at_rest in [true, false] {
        let mut ledger = history(at_rest);
        let stamps: Vec<_> =
            ledger.plane.points("orders", ..).unwrap().points.iter().map(|point| point.at).collect();
        let (dir, pristine) = (ledger.database_dir(), tempfile::tempdir().unwrap());
        let copy = |from: &Path, to: &Path| {
            assert!(Command::new("cp").arg("-rpT").args([from, to]).status().unwrap().success());
        };
        copy(&dir, pristine.path());
        // A restore opens the database, and the last connection to close ends the WAL.
        let reset = || {
            fs::remove_dir_all(&dir).unwrap();
            copy(pristine.path(), &dir);
        };
        let archive = dir.join("archive");
        let names: Vec<_> = files(&archive).into_iter().filter(|name| name.contains(".stamps")).collect();
        assert_eq!(names.len(), 11);
        let all = check(&mut ledger, &stamps, "no damage", &mut reads);
        for (position, name) in names.iter().enumerate() {
            for (what, damage) in DAMAGES {
                reset();
                damage(&archive.join(name));
                let context = format!("at rest {at_rest}, {name} {what}");
                let answered = check(&mut ledger, &stamps, &context, &mut reads);
                assert!(answered < all, "{context}");
            }
            // Combined with damage to another stamp file.
            for (other, damages) in names[position + 1..].iter().zip(DAMAGES.windows(2).cycle()) {
                let [(what, damage), (also, second_damage)] = damages else { unreachable!() };
                reset();
                damage(&archive.join(name));
                second_damage(&archive.join(other));
                let context = format!("at rest {at_rest}, {name} {what}, {other} {also}");
                check(&mut ledger, &stamps, &context, &mut reads);
            }
        }
    }
}
