//! Ways around the rules that SQL and the host might find, and times at which the rules must not bite.

use std::sync::{Arc, Mutex};

use litefleet::{
    ConnectOptions, ControlPlane, DatabaseChanges, DiskOp, ErrorKind, FaultHook, explain,
    rusqlite::Connection,
};

use crate::support::{Fleet, count, refused};

fn kind(connection: &Connection, sql: &str) -> ErrorKind {
    explain(connection, connection.execute_batch(sql).unwrap_err()).kind()
}

fn limit(fleet: &Fleet, name: &str, limit: &str) {
    let changes = DatabaseChanges::default().size_limit(limit.parse().ok());
    fleet.plane.configure_database(name, changes).unwrap();
}

#[test]
fn a_file_of_the_fleet_that_unfenced_sql_attaches_by_its_path_keeps_its_rules() {
    let fleet = Fleet::new();
    fleet.create("tiny");
    fleet.create("other");
    limit(&fleet, "tiny", "64kb");
    let connection = fleet.plane.connect("tiny", &ConnectOptions::default().unfenced()).unwrap();
    let attach = |name: &str| format!("ATTACH '{}' AS x", fleet.plane.root().join(name).display());

    // The same file under another name is the same database.
    connection.execute_batch(&attach("default/tiny/data.db")).unwrap();
    let big = "CREATE TABLE x.big AS SELECT randomblob(500000) AS a";
    assert_eq!(kind(&connection, big), ErrorKind::TooLarge);
    connection.execute_batch("DETACH x").unwrap();
    // Its neighbours and the catalog are nobody's to attach like this.
    for path in ["default/other/data.db", "control.db", "default/new.db"] {
        let error = explain(&connection, connection.execute_batch(&attach(path)).unwrap_err());
        assert!(error.to_string().contains("ControlPlane::attach"), "{path}: {error}");
    }
    assert!(!fleet.plane.root().join("default/new.db").exists());
    // What lies elsewhere is the host's own business.
    let copy = fleet.dir.path().join("copy.db");
    connection.execute_batch(&format!("CREATE TABLE t(a); VACUUM INTO '{}'", copy.display())).unwrap();
    connection.execute_batch(&format!("ATTACH '{}' AS y; SELECT * FROM y.t", copy.display())).unwrap();
}

#[test]
fn a_connection_of_another_make_gets_nothing_attached() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let file = Connection::open(fleet.dir.path().join("x")).unwrap();
    for connection in [Connection::open_in_memory().unwrap(), file] {
        assert_eq!(refused(fleet.plane.attach(&connection, "orders", "o", None)).0, ErrorKind::Invalid);
        assert_eq!(count(&connection, "SELECT count(*) FROM pragma_database_list WHERE name = 'o'"), 0);
    }
}

#[test]
fn a_database_that_was_taken_out_of_wal_mode_is_taken_back_or_not_had() {
    let fleet = Fleet::new();
    fleet.create("main");
    fleet.create("tiny");
    limit(&fleet, "tiny", "64kb");
    let theirs = Connection::open(fleet.plane.database_path("tiny").unwrap()).unwrap();
    let leave = || {
        // A connection notices a change of mode when it reads, and not when it is asked for the mode it is in.
        count(&theirs, "SELECT count(*) FROM sqlite_schema");
        let mode: String = theirs.query_row("PRAGMA journal_mode=DELETE", [], |row| row.get(0)).unwrap();
        assert_eq!(mode, "delete");
    };
    leave();
    let main = fleet.connect("main");
    fleet.plane.attach(&main, "tiny", "t \"1\"", None).unwrap();
    let big = "CREATE TABLE \"t \"\"1\"\"\".big AS SELECT randomblob(500000) AS a";
    assert_eq!(kind(&main, big), ErrorKind::TooLarge);
    drop(main);

    // Blocked writes do not stand in the way of reading it.
    leave();
    fleet.plane.configure_database("tiny", DatabaseChanges::default().block_writes(true)).unwrap();
    assert_eq!(count(&fleet.connect("tiny"), "SELECT count(*) FROM sqlite_schema"), 0);
    fleet.plane.configure_database("tiny", DatabaseChanges::default().block_writes(false)).unwrap();

    // Somebody who reads it meanwhile keeps it out of WAL mode, and so from everybody here.
    leave();
    theirs.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    let mut reading = theirs.prepare("SELECT * FROM t").unwrap();
    let mut rows = reading.query([]).unwrap();
    rows.next().unwrap();
    let options = ConnectOptions::default().busy_timeout(std::time::Duration::ZERO);
    assert_eq!(refused(fleet.plane.connect("tiny", &options)).0, ErrorKind::Busy);
}

#[test]
fn a_transaction_that_began_is_committed_whatever_changes_meanwhile() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let connection = fleet.connect("orders");
    connection.execute_batch("CREATE TABLE t(a); PRAGMA wal_checkpoint(PASSIVE)").unwrap();
    // With the log all in the file, the commit begins it anew, and changes its read lock.
    connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (1)").unwrap();
    let changes = DatabaseChanges::default;
    fleet.plane.configure_database("orders", changes().block_reads(true).block_writes(true)).unwrap();
    connection.execute_batch("COMMIT").unwrap();
    assert_eq!(kind(&connection, "SELECT * FROM t"), ErrorKind::Blocked);
    fleet.plane.configure_database("orders", changes().block_reads(false).block_writes(false)).unwrap();
    assert_eq!(count(&connection, "SELECT count(*) FROM t"), 1);
}

#[test]
fn a_connection_outlives_a_destroy_that_fails() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let open = Arc::new(Mutex::new(fleet.connect("orders")));
    open.lock().unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
    let meanwhile = Arc::clone(&open);
    let hook: Arc<FaultHook> = Arc::new(move |step, _| {
        if step != DiskOp::Rename {
            return Ok(());
        }
        let connection = meanwhile.lock().unwrap();
        assert_eq!(kind(&connection, "INSERT INTO t VALUES (1)"), ErrorKind::Destroyed);
        Err(std::io::Error::other("no"))
    });
    let faulty = ControlPlane::builder().fault_hook(hook).open(fleet.plane.root()).unwrap();
    assert_eq!(refused(faulty.destroy_database("orders")).0, ErrorKind::Io);
    open.lock().unwrap().execute_batch("INSERT INTO t VALUES (1)").unwrap();
}

#[test]
fn read_only_is_not_lifted_by_a_pragma() {
    let fleet = Fleet::new();
    fleet.create("orders");
    fleet.run("orders", "CREATE TABLE t(a)");
    let connection = fleet.plane.connect("orders", &ConnectOptions::default().read_only(true)).unwrap();
    connection.execute_batch("PRAGMA query_only=OFF").unwrap();
    let error = explain(&connection, connection.execute_batch("INSERT INTO t VALUES (1)").unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Sql);
    assert!(error.to_string().ends_with("this connection was opened read-only"), "{error}");
    // It sees what others write, and has temporary tables of its own.
    fleet.run("orders", "INSERT INTO t VALUES (1)");
    connection.execute_batch("CREATE TEMP TABLE mine AS SELECT * FROM t").unwrap();
    assert_eq!(count(&connection, "SELECT count(*) FROM mine"), 1);
}

#[test]
fn each_error_is_explained_by_its_own_refusal() {
    let fleet = Fleet::new();
    fleet.create("main");
    fleet.create("tiny");
    limit(&fleet, "tiny", "64kb");
    let connection = fleet.connect("main");
    fleet.plane.attach(&connection, "tiny", "tiny", None).unwrap();
    fleet.plane.configure_database("main", DatabaseChanges::default().block_writes(true)).unwrap();
    // Nobody asks why the first one failed.
    assert!(connection.execute_batch("CREATE TABLE main.t(a)").is_err());
    assert_eq!(kind(&connection, "CREATE TABLE tiny.big AS SELECT randomblob(500000)"), ErrorKind::TooLarge);
}
