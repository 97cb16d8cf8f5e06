//! The state that an instant resolves to: after checkpoints, gaps, lost stamps and power failures.

use std::{fs, path::Path, process::Command};

use litefleet::{
    Cipher, ControlPlane, ErrorKind, InstantPosition, Timestamp, VerifyOptions, rusqlite::config::DbConfig,
};

use crate::support::{Ledger, contains, contents, files, foreign_connection, now};

const CIPHERS: [Option<Cipher>; 2] = [None, Some(Cipher::Aegis256)];

#[test]
fn every_commit_is_restored_after_any_checkpoint_mode() {
    for cipher in CIPHERS {
        let mut ledger = Ledger::new(cipher);
        let mut connection = ledger.connect();
        ledger.commit(&connection, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
        for round in 0..24 {
            ledger.commit(
                &connection,
                &format!("INSERT INTO t(value) VALUES (randomblob({}))", 100 + round * 500),
            );
            ledger.commit(&connection, "UPDATE t SET value = 'changed' WHERE id % 3 = 0");
            let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][round % 4];
            match round % 6 {
                0 => ledger.commit(&connection, "DELETE FROM t WHERE id % 5 = 1; VACUUM"),
                1 | 2 => {
                    let sql = format!("PRAGMA wal_checkpoint({mode})");
                    connection.query_row(&sql, [], |_| Ok(())).unwrap();
                }
                3 => {
                    drop(connection);
                    connection = ledger.connect();
                }
                _ => {}
            }
        }
        ledger.check_all();
        drop(connection);
        ledger.check_all();
    }
}

fn plus_micros(at: Timestamp, more: i64) -> Timestamp {
    Timestamp::from_micros(at.as_micros() + more).unwrap()
}

#[test]
fn instant_resolves_to_last_commit_at_or_before_it() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(a)");
    for value in 0..5 {
        ledger.commit(&connection, &format!("INSERT INTO t VALUES ({value})"));
    }
    let points = ledger.plane.points("orders", ..).unwrap();
    assert_eq!(points.points.len(), 6);
    assert_eq!(points.windows.len(), 1);
    let born = ledger.plane.get_database("orders").unwrap().created_at;
    assert_eq!((points.windows[0].from, points.windows[0].to), (born, None));
    for (number, point) in points.points.iter().enumerate() {
        let (before, after) = (&ledger.states[number], &ledger.states[number + 1]);
        assert!(before.to < point.at && point.at < after.from, "{number}");
        let (before, after) = (before.contents.clone(), after.contents.clone());
        assert_eq!(ledger.contents_at(plus_micros(point.at, -1)).unwrap(), before, "{number}");
        assert_eq!(ledger.contents_at(point.at).unwrap(), after, "{number}");
        assert_eq!(ledger.contents_at(plus_micros(point.at, 1)).unwrap(), after, "{number}");
    }
    // The result reports the position of the instant among the commits.
    let (first, second, last) = (points.points[0].at, points.points[1].at, points.points[5].at);
    for (at, kind, commit, next) in [
        (born, InstantPosition::BeforeFirst, None, Some(first)),
        (first, InstantPosition::Exact, Some(first), Some(second)),
        (plus_micros(first, 1), InstantPosition::Between, Some(first), Some(second)),
        (last, InstantPosition::Exact, Some(last), None),
        (now(), InstantPosition::AfterLast, Some(last), None),
        ("2106-02-07T06:28:17Z".parse().unwrap(), InstantPosition::AfterLast, Some(last), None),
    ] {
        let reached = ledger.restore(at).unwrap().1.reached.unwrap();
        assert_eq!((reached.kind, reached.commit, reached.next), (kind, commit, next), "{at}");
    }
    // Instants before the creation are outside the window.
    let error = ledger.restore(plus_micros(born, -1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutsideWindow);
    assert!(error.to_string().ends_with(&born.to_string()), "{error}");
    // Points in a range.
    let some = ledger.plane.points("orders", second..last).unwrap().points;
    assert_eq!(some, points.points[1..5]);
}

#[test]
fn pristine_database_restores_to_its_initial_state() {
    for cipher in CIPHERS {
        let mut ledger = Ledger::new(cipher);
        ledger.check_all();
        drop(ledger.connect());
        ledger.check_all();
        let at = ledger.states[0].from;
        assert_eq!(ledger.restore(at).unwrap().1.reached.unwrap().kind, InstantPosition::BeforeFirst);
    }
}

#[test]
fn copied_fleet_restores_every_instant() {
    for cipher in CIPHERS {
        let mut ledger = Ledger::new(cipher);
        let connection = ledger.connect();
        ledger.commit(&connection, "CREATE TABLE t(a)");
        for value in 0..5 {
            ledger.commit(&connection, &format!("INSERT INTO t VALUES ({value})"));
        }
        drop(connection);
        ledger.states.last_mut().unwrap().to = now();
        let elsewhere = tempfile::tempdir().unwrap();
        let copy = elsewhere.path().join("copy");
        assert!(Command::new("cp").arg("-r").arg(ledger.plane.root()).arg(&copy).status().unwrap().success());
        ledger.plane = ControlPlane::open(&copy).unwrap();
        ledger.check_all();
        // The copy accepts commits.
        let connection = ledger.connect();
        ledger.commit(&connection, "INSERT INTO t VALUES ('there')");
        drop(connection);
        ledger.check_all();
        assert_eq!(ledger.plane.points("orders", ..).unwrap().windows.len(), 1);
    }
}

#[test]
fn foreign_commit_after_close_is_a_named_gap() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    ledger.commit(&connection, "INSERT INTO t VALUES (2)");
    drop(connection);
    let last = ledger.plane.points("orders", ..).unwrap().points.last().unwrap().at;
    ledger.states.last_mut().unwrap().to = last;
    let states = ledger.states.clone();
    // The last stamped commit is restorable; later instants are unknown.
    foreign_connection(&ledger).execute_batch("INSERT INTO t VALUES ('foreign')").unwrap();
    for state in &states {
        assert_eq!(ledger.contents_at(state.to).unwrap(), state.contents);
    }
    let window = ledger.plane.points("orders", ..).unwrap().windows;
    assert_eq!(window.last().unwrap().to, Some(plus_micros(last, 1)));
    let error = ledger.restore(now()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutsideWindow);
    assert!(error.to_string().contains("changed by another program"), "{error}");
    let in_gap = now();

    // From the next commit on, instants are known again.
    let connection = ledger.connect();
    let contents = contents(&connection);
    ledger.commit(&connection, "INSERT INTO t VALUES (3)");
    let windows = ledger.plane.points("orders", ..).unwrap().windows;
    assert_eq!(windows.len(), 2);
    assert_eq!(windows[1].to, None);
    assert_eq!(ledger.contents_at(windows[1].from).unwrap(), contents);
    for round in 0..2 {
        let newest = ledger.states.last().unwrap().clone();
        let known = states.iter().map(|state| (state.to, &state.contents));
        for (at, contents) in known.chain([(newest.from, &newest.contents)]) {
            assert_eq!(ledger.contents_at(at).unwrap(), *contents, "{round}");
        }
        let error = ledger.restore(in_gap).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutsideWindow);
        ledger.check_windows();
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    }
}

/// The generation after the gap has no stamped commit, so the one that continues it begins with the last stamp before the gap.
#[test]
fn gap_before_a_generation_without_stamped_commits_is_refused() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(a)");
    ledger.commit(&connection, "INSERT INTO t VALUES ('known')");
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let last = ledger.plane.points("orders", ..).unwrap().points.last().unwrap().at;
    let foreign = foreign_connection(&ledger);
    foreign.execute_batch("INSERT INTO t VALUES ('foreign')").unwrap();
    foreign.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let in_gap = now();
    // Writes frames to the WAL, which begins a generation.
    let sql = "PRAGMA cache_size=1; BEGIN; INSERT INTO t VALUES (zeroblob(90000)); ROLLBACK";
    connection.execute_batch(sql).unwrap();
    foreign.execute_batch("INSERT INTO t VALUES ('foreign')").unwrap();
    connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
    connection.execute_batch("INSERT INTO t VALUES ('known again')").unwrap();
    let known = now();
    let known_again = contents(&connection);
    connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
    connection.execute_batch("INSERT INTO t VALUES ('later')").unwrap();
    let stamps = ledger.database_dir().join("archive/000000000002.stamps");
    assert_eq!(
        fs::read(stamps).unwrap()[128..136],
        (1_u64 << 63).to_le_bytes(),
        "the only record is the end"
    );
    assert_eq!(ledger.viewed_at(last).unwrap(), ledger.states.last().unwrap().contents);
    for at in [in_gap, plus_micros(last, 1)] {
        let error = ledger.viewed_at(at).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutsideWindow, "{error}");
        assert!(error.to_string().contains("changed by another program"), "{error}");
    }
    assert_eq!(ledger.viewed_at(known).unwrap(), known_again);
    let windows = ledger.plane.points("orders", ..).unwrap().windows;
    assert!(
        contains(&windows, last) && !contains(&windows, in_gap) && contains(&windows, known),
        "{windows:?}"
    );
}

#[test]
fn foreign_commits_in_wal_are_restorable_except_for_their_span() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(a)");
    let before = ledger.states.last().unwrap().clone();
    let foreign = foreign_connection(&ledger);
    let from = now();
    foreign.execute_batch("INSERT INTO t VALUES ('foreign')").unwrap();
    let between = now();
    ledger.commit(&connection, "INSERT INTO t VALUES (1)");
    // The time of the foreign commit is unknown, so only the span that may contain it is refused.
    assert_eq!(ledger.contents_at(before.from).unwrap_err().kind(), ErrorKind::OutsideWindow);
    for at in [from, between] {
        assert_eq!(ledger.restore(at).unwrap_err().kind(), ErrorKind::OutsideWindow);
    }
    let stamps: Vec<_> =
        ledger.plane.points("orders", ..).unwrap().points.iter().map(|point| point.at).collect();
    assert_eq!(stamps.len(), 2);
    assert_eq!(ledger.contents_at(stamps[0]).unwrap(), before.contents);
    let last = ledger.states.last().unwrap().clone();
    assert_eq!(ledger.contents_at(stamps[1]).unwrap(), last.contents);
    assert_eq!(ledger.contents_at(now()).unwrap(), last.contents);
    ledger.check_windows();
    // A foreign commit at the end of a WAL affects no later generation.
    for ends in [false, true] {
        foreign.execute_batch("INSERT INTO t VALUES ('foreign')").unwrap();
        let stamp = ledger.plane.points("orders", ..).unwrap().points.last().unwrap().at;
        let known = ledger.states.last().unwrap().contents.clone();
        ledger.check_windows();
        if ends {
            connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
        }
        ledger.commit(&connection, "INSERT INTO t VALUES (2)");
        assert_eq!(ledger.contents_at(stamp).unwrap(), known, "{ends}");
        ledger.check_windows();
    }
    assert_eq!(ledger.plane.points("orders", ..).unwrap().windows.len(), 4);
    drop(foreign);
}

#[test]
fn wal_checkpointed_away_by_foreign_process_is_a_gap() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(a)");
    ledger.commit(&connection, "INSERT INTO t VALUES (1)");
    // The host dies without a checkpoint, and a foreign process closes the database last.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    drop(connection);
    assert!(ledger.database_dir().join("data.db-wal").exists());
    foreign_connection(&ledger).execute_batch("INSERT INTO t VALUES ('foreign')").unwrap();
    assert!(!ledger.database_dir().join("data.db-wal").exists());
    let born = ledger.states[0].clone();
    assert_eq!(ledger.contents_at(born.from).unwrap(), born.contents);
    for state in ledger.states.clone().into_iter().skip(1) {
        let error = ledger.restore(state.from).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::OutsideWindow | ErrorKind::Corrupt), "{error}");
    }
    ledger.check_windows();
    let connection = ledger.connect();
    ledger.commit(&connection, "INSERT INTO t VALUES (2)");
    let last = ledger.states.last().unwrap().clone();
    assert_eq!(ledger.contents_at(now()).unwrap(), last.contents);
    ledger.check_windows();
    // If the snapshot after the gap is damaged, the error names it, not the missing way from an older one.
    drop(connection);
    let sums = files(&ledger.database_dir().join("archive"))
        .into_iter()
        .rfind(|name| Path::new(name).extension().is_some_and(|of| of == "sum"))
        .unwrap();
    fs::write(ledger.database_dir().join("archive").join(&sums), "damaged").unwrap();
    let error = ledger.viewed_at(last.from).unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains(&sums), "{error}");
}

/// Zeroes the last records of a stamp file, as a power failure does that precedes their write-back.
fn lose_records(path: &Path, count: usize) {
    let mut bytes = fs::read(path).unwrap();
    let used = bytes.chunks(32).rposition(|record| record.iter().any(|byte| *byte != 0)).unwrap() + 1;
    bytes[(used - count) * 32..used * 32].fill(0);
    fs::write(path, bytes).unwrap();
}

#[test]
fn lost_stamps_make_only_their_own_spans_unrestorable() {
    for archived in [false, true] {
        let mut ledger = Ledger::plain();
        let connection = ledger.connect();
        ledger.commit(&connection, "CREATE TABLE t(a)");
        for value in 0..4 {
            ledger.commit(&connection, &format!("INSERT INTO t VALUES ({value})"));
        }
        let archive = ledger.database_dir().join("archive");
        if archived {
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
            ledger.commit(&connection, "INSERT INTO t VALUES ('next')");
            // The end record and the checkpointed state are lost too.
            lose_records(&archive.join("000000000001.stamps"), 4);
        } else {
            lose_records(&archive.join("live.stamps"), 2);
            ledger.commit(&connection, "INSERT INTO t VALUES ('next')");
        }
        let last = ledger.states.len() - 1;
        let mut refused = 0;
        for (number, state) in ledger.states.clone().into_iter().enumerate() {
            match ledger.contents_at(state.from) {
                Ok(found) => assert_eq!(found, state.contents, "{archived} {number}"),
                Err(error) => {
                    let kind = error.kind();
                    assert!(matches!(kind, ErrorKind::OutsideWindow | ErrorKind::Corrupt), "{error}");
                    assert_ne!(number, last, "{error}");
                    refused += 1;
                }
            }
        }
        ledger.check_windows();
        // The two lost stamps and the instants around them; in an ended generation, all of its instants.
        assert!(if archived { refused == 5 } else { (2..=3).contains(&refused) }, "{archived} {refused}");
    }
}

#[test]
fn removed_archive_is_reported_as_lost_history() {
    for at_rest in [false, true] {
        let mut ledger = Ledger::plain();
        let connection = ledger.connect();
        ledger.commit(&connection, "CREATE TABLE t(a)");
        ledger.commit(&connection, "INSERT INTO t VALUES (1)");
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !at_rest).unwrap();
        drop(connection);
        fs::remove_dir_all(ledger.database_dir().join("archive")).unwrap();
        assert!(ledger.plane.points("orders", ..).unwrap().windows.is_empty());
        for state in ledger.states.clone() {
            let error = ledger.contents_at(state.from).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutsideWindow);
            assert!(error.to_string().contains("the history of the database is gone"), "{error}");
        }
        // The next commit starts a new history.
        let connection = ledger.connect();
        ledger.commit(&connection, "INSERT INTO t VALUES (2)");
        for state in &ledger.states.clone()[..3] {
            assert_eq!(ledger.contents_at(state.from).unwrap_err().kind(), ErrorKind::OutsideWindow);
        }
        let last = ledger.states.last().unwrap().clone();
        assert_eq!(ledger.contents_at(last.from).unwrap(), last.contents);
    }
}

#[test]
fn lost_end_records_after_last_close_leave_no_gap() {
    for cipher in CIPHERS {
        let mut ledger = Ledger::new(cipher);
        let connection = ledger.connect();
        ledger.commit(&connection, "CREATE TABLE t(a)");
        ledger.commit(&connection, "INSERT INTO t VALUES (1)");
        drop(connection);
        // The end record and the checkpointed state.
        lose_records(&ledger.database_dir().join("archive/live.stamps"), 2);
        let check = |ledger: &mut Ledger| {
            for state in ledger.states.clone() {
                assert_eq!(ledger.contents_at(state.from).unwrap(), state.contents);
            }
            assert_eq!(ledger.plane.points("orders", ..).unwrap().windows.len(), 1);
        };
        check(&mut ledger);
        let connection = ledger.connect();
        ledger.commit(&connection, "INSERT INTO t VALUES (2)");
        check(&mut ledger);
        drop(connection);
        check(&mut ledger);
    }
}

#[test]
fn stale_wal_header_after_power_loss_loses_no_history() {
    for cipher in CIPHERS {
        for lost in 2..=3 {
            let mut ledger = Ledger::new(cipher);
            let connection = ledger.connect();
            ledger.commit(&connection, "CREATE TABLE t(a)");
            ledger.commit(&connection, "INSERT INTO t VALUES (1)");
            drop(connection);
            // The end record, the checkpointed state, and in one case the last stamp.
            let archive = ledger.database_dir().join("archive");
            lose_records(&archive.join("live.stamps"), lost);
            let segment = fs::read(archive.join("000000000001.wal")).unwrap();
            let known = ledger.states.len() - usize::from(lost == 3);
            for round in 0..2 {
                // The header of the next WAL is lost, and the header of the archived one is in its place.
                if round == 0 {
                    fs::write(ledger.database_dir().join("data.db-wal"), &segment[..32]).unwrap();
                }
                for (number, state) in ledger.states.clone().into_iter().enumerate().take(3) {
                    let found = ledger.viewed_at(state.from);
                    match found {
                        Ok(found) => assert!(found == state.contents, "{lost} {round}: state {number}"),
                        Err(error) => {
                            assert!(
                                number >= known - 1 && lost == 3,
                                "{lost} {round}: state {number}: {error}"
                            );
                        }
                    }
                }
                ledger.check_windows();
                assert!(segment == fs::read(archive.join("000000000001.wal")).unwrap());
                let connection = ledger.connect();
                ledger.commit(&connection, "INSERT INTO t VALUES (2)");
                assert!(ledger.contents_at(now()).unwrap() == ledger.states.last().unwrap().contents);
            }
            let windows = ledger.plane.points("orders", ..).unwrap().windows;
            assert_eq!(windows.len(), lost - 1, "{windows:?}");
        }
    }
}

#[test]
fn wal_begun_by_rolled_back_transaction_keeps_all_later_stamps() {
    let mut ledger = Ledger::plain();
    let (one, other) = (ledger.connect(), ledger.connect());
    one.execute_batch("PRAGMA cache_size=5").unwrap();
    ledger.commit(&one, "CREATE TABLE t(a)");
    for _ in 0..2 {
        // A connection that has begun a WAL before reuses the salts that it finds.
        for writer in [&one, &other] {
            ledger.commit(writer, "INSERT INTO t VALUES (0)");
            writer.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
        }
        // The transaction spills from the cache and so begins the WAL, which the next commit then begins again.
        let sql = "BEGIN; WITH RECURSIVE k(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM k WHERE i < 50)
            INSERT INTO t SELECT zeroblob(3000) FROM k; ROLLBACK";
        one.execute_batch(sql).unwrap();
        for writer in [&other, &one, &other] {
            ledger.commit(writer, "INSERT INTO t VALUES (1)");
        }
        ledger.check_all();
    }
    let commits = ledger.states.len() - 1;
    assert_eq!(ledger.plane.points("orders", ..).unwrap().points.len(), commits);
    drop((one, other));
    ledger.check_all();
    let verified = ledger.plane.verify_database("orders", VerifyOptions::default());
    assert_eq!(verified.unwrap().findings, vec![]);
}

#[test]
fn foreign_commit_after_crash_between_renames_is_outside_ranges() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(a)");
    drop(connection);
    // The state that a process leaves which is killed between two renames.
    let archive = ledger.database_dir().join("archive");
    fs::rename(archive.join("live.stamps"), archive.join("000000000001.stamps")).unwrap();
    ledger.check_windows();
    foreign_connection(&ledger).execute_batch("INSERT INTO t VALUES ('foreign')").unwrap();
    assert_eq!(ledger.viewed_at(now()).unwrap_err().kind(), ErrorKind::OutsideWindow);
    ledger.check_windows();
}
