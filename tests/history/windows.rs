//! The windows that are told are what a restore answers, whichever stamps are damaged.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use litefleet::{
    Result, Timestamp,
    rusqlite::{Connection, config::DbConfig},
};

use crate::{
    maintain::{restart, set_window},
    support::{Contents, Ledger, State, contains, contents, difference, files, now, stranger},
};

/// A view says the same as a restore, and takes less time: so only some are restored.
const RESTORE_EVERY: usize = 16;

type Harm = fn(&Path);

const HARMS: [(&str, Harm); 5] = [
    ("removed", |path| fs::remove_file(path).unwrap()),
    ("emptied", |path| fs::write(path, b"").unwrap()),
    ("its header damaged", |path| flip(path, 70)),
    ("its first record damaged", |path| flip(path, 130)),
    ("its records lost", |path| {
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

/// Two commits, and a log behind them, before which a snapshot is taken if one is wanted.
fn log(ledger: &mut Ledger, connection: &Connection, snapshot: bool) {
    for _ in 0..2 {
        ledger.commit(connection, "INSERT INTO t VALUES (randomblob(600))");
    }
    if snapshot {
        fs::write(ledger.place().join("archive/wanted"), b"").unwrap();
    }
    restart(connection);
}

/// What came before the next commit nobody knows: of what was there, its stamp is the last instant that is known.
fn goes_on_unknown(ledger: &mut Ledger, change: impl FnOnce(&mut Ledger) -> Connection) -> Connection {
    let stamp = last_stamp(ledger);
    let last = ledger.states.last_mut().unwrap();
    (last.from, last.to) = (stamp, stamp);
    let connection = change(ledger);
    connection.execute_batch("INSERT INTO t VALUES ('known again')").unwrap();
    let from = now();
    ledger.states.push(State { from, to: from, contents: contents(&connection) });
    connection
}

/// Eleven logs with snapshots before the first, the fourth, the sixth, the eighth, at which the history begins anew, and the
/// tenth.
fn history(at_rest: bool) -> Ledger {
    let mut ledger = Ledger::plain();
    set_window(&ledger, "7d");
    let mut connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(a)");
    log(&mut ledger, &connection, false);
    log(&mut ledger, &connection, false);
    ledger.commit(&connection, "INSERT INTO t VALUES (1)");
    // The third one ends with a commit that has no stamp.
    connection = goes_on_unknown(&mut ledger, |ledger| {
        stranger(ledger).execute_batch("INSERT INTO t VALUES ('strange')").unwrap();
        fs::write(ledger.place().join("archive/wanted"), b"").unwrap();
        restart(&connection);
        connection
    });
    for snapshot in [false, true, false] {
        log(&mut ledger, &connection, snapshot);
    }
    ledger.commit(&connection, "INSERT INTO t VALUES (2)");
    drop(connection);
    connection = goes_on_unknown(&mut ledger, |ledger| {
        stranger(ledger).execute_batch("INSERT INTO t VALUES ('strange')").unwrap();
        ledger.connect()
    });
    for snapshot in [false, true, false] {
        log(&mut ledger, &connection, snapshot);
    }
    ledger.commit(&connection, "INSERT INTO t VALUES (3)");
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !at_rest).unwrap();
    drop(connection);
    ledger.states.last_mut().unwrap().to = now();
    let names = files(&ledger.place().join("archive"));
    let sums: Vec<_> = names.iter().filter_map(|name| name.strip_suffix(".sum")).collect();
    assert_eq!(sums, [1, 4, 6, 8, 10].map(|sequence| format!("{sequence:012}")));
    ledger
}

/// Asks for every instant at which an answer may change, and counts those that are answered.
fn check(ledger: &mut Ledger, stamps: &[Timestamp], harm: &str, looks: &mut usize) -> usize {
    let found = ledger.plane.points("orders", ..).unwrap();
    let windows = found.windows;
    let joined = windows.windows(2).find(|pair| pair[0].to.is_none_or(|to| to >= pair[1].from));
    assert_eq!(joined, None, "{harm}");
    for point in &found.points {
        assert!(contains(&windows, point.at), "{harm}: the commit at {} is in none of {windows:?}", point.at);
    }
    let borders = windows.iter().flat_map(|window| [Some(window.from), window.to]).flatten();
    let around = borders
        .chain(stamps.iter().copied())
        .flat_map(|at| [-1, 0, 1].map(|more| Timestamp::from_micros(at.as_micros() + more).unwrap()));
    let states = ledger.states.clone();
    let instants: BTreeSet<_> =
        around.chain(states.iter().flat_map(|state| [state.from, state.to])).collect();
    let right = |at: Timestamp, answer: Result<Contents>| {
        let refusal = answer.as_ref().err();
        assert_eq!(answer.is_ok(), contains(&windows, at), "{harm}: {at}: {refusal:?}, {windows:?}");
        let Ok(found) = answer else { return false };
        for state in states.iter().filter(|state| (state.from..=state.to).contains(&at)) {
            assert!(found == state.contents, "{harm}: {at}: {}", difference(&found, &state.contents));
        }
        true
    };
    let answered = instants.iter().filter(|at| right(**at, ledger.viewed_at(**at))).count();
    for at in instants {
        *looks += 1;
        if looks.is_multiple_of(RESTORE_EVERY) {
            right(at, ledger.restored_at(at));
        }
    }
    answered
}

#[test]
fn windows_are_what_is_restored_whichever_stamps_are_damaged() {
    let mut looks = 0;
    for at_rest in [true, false] {
        let mut ledger = history(at_rest);
        let stamps: Vec<_> =
            ledger.plane.points("orders", ..).unwrap().points.iter().map(|point| point.at).collect();
        let (place, pristine) = (ledger.place(), tempfile::tempdir().unwrap());
        let copy = |from: &Path, to: &Path| {
            assert!(Command::new("cp").arg("-rpT").args([from, to]).status().unwrap().success());
        };
        copy(&place, pristine.path());
        // A restore opens the database, and whoever closes it last ends its log.
        let heal = || {
            fs::remove_dir_all(&place).unwrap();
            copy(pristine.path(), &place);
        };
        let archive = place.join("archive");
        let names: Vec<_> = files(&archive).into_iter().filter(|name| name.contains(".stamps")).collect();
        assert_eq!(names.len(), 11);
        let all = check(&mut ledger, &stamps, "no harm", &mut looks);
        for (place, name) in names.iter().enumerate() {
            for (what, harm) in HARMS {
                heal();
                harm(&archive.join(name));
                let said = format!("at rest {at_rest}, {name} {what}");
                let answered = check(&mut ledger, &stamps, &said, &mut looks);
                assert!(answered < all, "{said}");
            }
            // And those of another one too.
            for (other, harms) in names[place + 1..].iter().zip(HARMS.windows(2).cycle()) {
                let [(what, harm), (also, harm_too)] = harms else { unreachable!() };
                heal();
                harm(&archive.join(name));
                harm_too(&archive.join(other));
                let said = format!("at rest {at_rest}, {name} {what}, {other} {also}");
                check(&mut ledger, &stamps, &said, &mut looks);
            }
        }
    }
}
