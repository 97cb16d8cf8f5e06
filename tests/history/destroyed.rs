//! A database that is destroyed under a transaction, and another one of its name.

use litefleet::{CreateDatabaseInput, ErrorKind, explain, rusqlite::Connection};

use crate::support::{Ledger, State, contents, files, now};

/// Destroys the database under the transaction of a connection, and makes another one.
fn replace(ledger: &mut Ledger, connection: &Connection) {
    connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES ('old')").unwrap();
    ledger.plane.destroy_database("orders").unwrap();
    ledger.plane.create_database(CreateDatabaseInput::new("orders", "default")).unwrap();
    let found = contents(&ledger.connect());
    ledger.states = vec![State { from: now(), to: now(), contents: found }];
}

/// The commit is refused, and the new database and its history go on as if there had been none before.
fn check(mut ledger: Ledger, old: Connection) {
    let before = files(&ledger.place());
    let refused = old.execute_batch("COMMIT").unwrap_err();
    assert_eq!(explain(&old, refused).kind(), ErrorKind::Destroyed);
    assert_eq!(files(&ledger.place()), before);
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE new(a)");
    drop(old);
    ledger.commit(&connection, "INSERT INTO new VALUES (1)");
    drop(connection);
    ledger.check_all();
}

#[test]
fn a_log_that_is_begun_in_a_destroyed_database_leaves_the_next_one_alone() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(a)");
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    replace(&mut ledger, &connection);
    check(ledger, connection);
}

#[test]
fn stamps_of_a_destroyed_database_are_not_those_of_the_next_one() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    connection.execute_batch("PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a)").unwrap();
    // The room of the first stamps is used up.
    for _ in 1..124 {
        connection.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    }
    replace(&mut ledger, &connection);
    let new = ledger.connect();
    ledger.commit(&new, "CREATE TABLE first(a)");
    check(ledger, connection);
}
