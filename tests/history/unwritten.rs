//! A database to which nobody of the fleet has committed yet: it is as it began, unless somebody else wrote to it.

use std::{fs, time::SystemTime};

use litefleet::{Cipher, CreateDatabaseInput, ErrorKind, Seed, rusqlite::config::DbConfig};

use crate::support::{Ledger, State, contents, now, stranger};

#[test]
fn what_another_program_writes_to_a_new_database_is_a_gap() {
    for checkpoints in [true, false] {
        let mut ledger = Ledger::plain();
        let other = stranger(&ledger);
        other.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES ('foreign')").unwrap();
        other.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !checkpoints).unwrap();
        drop(other);
        let instants = [ledger.states[0].from, ledger.states[0].to, now()];
        let refused = |ledger: &mut Ledger| {
            for at in instants {
                let error = ledger.contents_at(at).expect_err("nobody knows what it was then");
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
fn a_new_database_that_was_copied_is_known_by_its_contents() {
    for cipher in [None, Some(Cipher::Aegis256)] {
        let mut ledger = Ledger::new(cipher);
        let data = ledger.place().join("data.db");
        fs::File::options().write(true).open(data).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        ledger.check_all();
        let connection = ledger.connect();
        ledger.commit(&connection, "CREATE TABLE t(a)");
        ledger.check_all();
        assert_eq!(ledger.plane.points("orders", ..).unwrap().windows.len(), 1);
    }
}

#[test]
fn the_first_commit_is_in_no_copy_of_what_was_before() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    let (at, plane) = (now(), ledger.plane.clone());
    let input = CreateDatabaseInput::new("copy", "default").with_seed(Seed::database_at("orders", at));
    let mut committed = false;
    let answer = plane.create_database_watched(input, &mut |_| {
        if !std::mem::replace(&mut committed, true) {
            ledger.commit(&connection, "CREATE TABLE t(a)");
        }
        std::ops::ControlFlow::Continue(())
    });
    assert!(committed);
    match answer {
        Ok(_) => {
            let copy = plane.connect("copy", &ledger.options()).unwrap();
            assert_eq!(contents(&copy), ledger.states[0].contents);
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
    }
    ledger.check_all();
}
