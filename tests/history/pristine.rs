//! A pristine database, without any commit by the fleet: it has its initial contents, unless a foreign process wrote
//! to it.

use std::{fs, time::SystemTime};

use litefleet::{Cipher, CreateDatabaseInput, ErrorKind, Seed, rusqlite::config::DbConfig};

use crate::support::{Ledger, State, contents, foreign_connection, now};

#[test]
fn foreign_write_to_pristine_database_is_a_gap() {
    for checkpoints in [true, false] {
        let mut ledger = Ledger::plain();
        let other = foreign_connection(&ledger);
        other.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES ('foreign')").unwrap();
        other.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !checkpoints).unwrap();
        drop(other);
        let instants = [ledger.states[0].from, ledger.states[0].to, now()];
        let refused = |ledger: &mut Ledger| {
            for at in instants {
                let error = ledger.contents_at(at).expect_err("the contents at this instant are unknown");
                assert_eq!(error.kind(), ErrorKind::OutsideWindow, "{error}");
            }
        };
        refused(&mut ledger);
        assert_eq!(ledger.plane.points("orders", ..).unwrap().windows, []);
        ledger.states.clear();
        let connection = ledger.connect();
        ledger.states.push(State { from: now(), to: now(), contents: contents(&connection) });
        ledger.commit(&connection, "INSERT INTO t VALUES ('own')");
        ledger.states.remove(0);
        refused(&mut ledger);
        ledger.check_all();
        drop(connection);
        refused(&mut ledger);
        ledger.check_all();
        ledger.check_windows();
    }
}

#[test]
fn pristine_database_is_recognised_by_contents_after_copy() {
    for cipher in [None, Some(Cipher::Aegis256)] {
        let mut ledger = Ledger::new(cipher);
        let data = ledger.database_dir().join("data.db");
        fs::File::options().write(true).open(data).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        ledger.check_all();
        let connection = ledger.connect();
        ledger.commit(&connection, "CREATE TABLE t(a)");
        ledger.check_all();
        assert_eq!(ledger.plane.points("orders", ..).unwrap().windows.len(), 1);
    }
}

#[test]
fn restore_racing_first_commit_excludes_it() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    let (at, plane) = (now(), ledger.plane.clone());
    let input = CreateDatabaseInput::new("copy", "default").with_seed(Seed::database_at("orders", at));
    let mut committed = false;
    let answer = plane.create_database(input.progress(|_| {
        if !std::mem::replace(&mut committed, true) {
            ledger.commit(&connection, "CREATE TABLE t(a)");
        }
        std::ops::ControlFlow::Continue(())
    }));
    assert!(committed);
    match answer {
        Ok(_) => {
            let copy = plane.connect("copy", ledger.options()).unwrap();
            assert_eq!(contents(&copy), ledger.states[0].contents);
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
    }
    ledger.check_all();
}
