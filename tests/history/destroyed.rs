//! A connection with an open transaction to a destroyed database does not affect a new database of its name.

use litefleet::{CreateDatabaseInput, Error, ErrorKind, rusqlite::Connection};

use crate::support::{Ledger, State, contents, files, now};

/// Destroys the database during a transaction of `connection` and creates another of its name.
fn replace(ledger: &mut Ledger, connection: &Connection) {
    connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES ('old')").unwrap();
    ledger.plane.destroy_database("orders").unwrap();
    ledger.plane.create_database(CreateDatabaseInput::new("orders", "default")).unwrap();
    let found = contents(&ledger.connect());
    ledger.states = vec![State { from: now(), to: now(), contents: found }];
}

/// The old connection's commit fails, and the new database and its history are unaffected.
fn check(mut ledger: Ledger, old: Connection) {
    let before = files(&ledger.database_dir());
    let refused = old.execute_batch("COMMIT").unwrap_err();
    assert_eq!(Error::from_sqlite(&old, refused).kind(), ErrorKind::Destroyed);
    assert_eq!(files(&ledger.database_dir()), before);
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE new(a)");
    drop(old);
    ledger.commit(&connection, "INSERT INTO new VALUES (1)");
    drop(connection);
    ledger.check_all();
}

#[test]
fn wal_restart_in_destroyed_database_leaves_successor_alone() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(a)");
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    replace(&mut ledger, &connection);
    check(ledger, connection);
}

#[test]
fn stamps_of_destroyed_database_are_not_used_by_successor() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    connection.execute_batch("PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a)").unwrap();
    // Fill the initial capacity of the stamp file.
    for _ in 1..124 {
        connection.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    }
    replace(&mut ledger, &connection);
    let new = ledger.connect();
    ledger.commit(&new, "CREATE TABLE first(a)");
    check(ledger, connection);
}
