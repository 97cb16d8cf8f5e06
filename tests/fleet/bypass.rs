//! Attempts to bypass the rules of a database through SQL or the host, and moments at which the rules must not apply.

use std::sync::{Arc, Mutex};

use litefleet::{
    AttachOptions, ConnectOptions, ControlPlane, DatabaseChanges, Error, ErrorKind,
    rusqlite::Connection,
    testing::{DiskOp, FaultHook},
};

use crate::support::{Fleet, count, refused};

fn kind(connection: &Connection, sql: &str) -> ErrorKind {
    Error::from_sqlite(connection, connection.execute_batch(sql).unwrap_err()).kind()
}

fn limit(fleet: &Fleet, name: &str, limit: &str) {
    let changes = DatabaseChanges::default().size_limit(limit.parse().unwrap());
    fleet.plane.configure_database(name, changes).unwrap();
}

#[test]
fn unfenced_attach_by_path_keeps_rules_of_the_database() {
    let fleet = Fleet::new();
    fleet.create("tiny");
    fleet.create("other");
    limit(&fleet, "tiny", "64kb");
    let connection = fleet.plane.connect("tiny", ConnectOptions::default().unfenced()).unwrap();
    let attach = |name: &str| format!("ATTACH '{}' AS x", fleet.plane.root().join(name).display());

    // The connection's own file under another schema name keeps its limit.
    connection.execute_batch(&attach("default/tiny/data.db")).unwrap();
    let big = "CREATE TABLE x.big AS SELECT randomblob(500000) AS a";
    assert_eq!(kind(&connection, big), ErrorKind::TooLarge);
    connection.execute_batch("DETACH x").unwrap();
    // Other databases of the fleet and the catalog cannot be attached by path.
    for path in ["default/other/data.db", "control.db", "default/new.db"] {
        let error = Error::from_sqlite(&connection, connection.execute_batch(&attach(path)).unwrap_err());
        assert!(error.to_string().contains("ControlPlane::attach"), "{path}: {error}");
    }
    assert!(!fleet.plane.root().join("default/new.db").exists());
    // Files outside the root may be attached.
    let copy = fleet.dir.path().join("copy.db");
    connection.execute_batch(&format!("CREATE TABLE t(a); VACUUM INTO '{}'", copy.display())).unwrap();
    connection.execute_batch(&format!("ATTACH '{}' AS y; SELECT * FROM y.t", copy.display())).unwrap();
}

#[test]
fn attach_refuses_a_connection_of_another_vfs() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let file = Connection::open(fleet.dir.path().join("x")).unwrap();
    for connection in [Connection::open_in_memory().unwrap(), file] {
        assert_eq!(
            refused(fleet.plane.attach(&connection, "orders", "o", AttachOptions::default())).0,
            ErrorKind::Invalid
        );
        assert_eq!(count(&connection, "SELECT count(*) FROM pragma_database_list WHERE name = 'o'"), 0);
    }
}

#[test]
fn database_taken_out_of_wal_mode_is_converted_back_or_busy() {
    let fleet = Fleet::new();
    fleet.create("main");
    fleet.create("tiny");
    limit(&fleet, "tiny", "64kb");
    let theirs = Connection::open(fleet.plane.database_path("tiny").unwrap()).unwrap();
    let leave_wal_mode = || {
        // A connection notices a changed journal mode when it reads, not when it queries the mode.
        count(&theirs, "SELECT count(*) FROM sqlite_schema");
        let mode: String = theirs.query_row("PRAGMA journal_mode=DELETE", [], |row| row.get(0)).unwrap();
        assert_eq!(mode, "delete");
    };
    leave_wal_mode();
    let main = fleet.connect("main");
    fleet.plane.attach(&main, "tiny", "t \"1\"", AttachOptions::default()).unwrap();
    let big = "CREATE TABLE \"t \"\"1\"\"\".big AS SELECT randomblob(500000) AS a";
    assert_eq!(kind(&main, big), ErrorKind::TooLarge);
    drop(main);

    // Blocked writes do not prevent a read, which first restores WAL mode.
    leave_wal_mode();
    fleet.plane.configure_database("tiny", DatabaseChanges::default().block_writes(true)).unwrap();
    assert_eq!(count(&fleet.connect("tiny"), "SELECT count(*) FROM sqlite_schema"), 0);
    fleet.plane.configure_database("tiny", DatabaseChanges::default().block_writes(false)).unwrap();

    // An open reader in rollback mode prevents the return to WAL mode.
    leave_wal_mode();
    theirs.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    let mut reading = theirs.prepare("SELECT * FROM t").unwrap();
    let mut rows = reading.query([]).unwrap();
    rows.next().unwrap();
    let options = ConnectOptions::default().busy_timeout(std::time::Duration::ZERO);
    assert_eq!(refused(fleet.plane.connect("tiny", options.clone())).0, ErrorKind::Busy);
}

#[test]
fn begun_transaction_commits_despite_new_blocks() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let connection = fleet.connect("orders");
    connection.execute_batch("CREATE TABLE t(a); PRAGMA wal_checkpoint(PASSIVE)").unwrap();
    // After a complete checkpoint, the commit restarts the WAL and changes its read lock.
    connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (1)").unwrap();
    let changes = DatabaseChanges::default;
    fleet.plane.configure_database("orders", changes().block_reads(true).block_writes(true)).unwrap();
    connection.execute_batch("COMMIT").unwrap();
    assert_eq!(kind(&connection, "SELECT * FROM t"), ErrorKind::Blocked);
    fleet.plane.configure_database("orders", changes().block_reads(false).block_writes(false)).unwrap();
    assert_eq!(count(&connection, "SELECT count(*) FROM t"), 1);
}

#[test]
fn connection_survives_a_failed_destroy() {
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
fn pragma_does_not_lift_read_only() {
    let fleet = Fleet::new();
    fleet.create("orders");
    fleet.run("orders", "CREATE TABLE t(a)");
    let connection = fleet.plane.connect("orders", ConnectOptions::default().read_only(true)).unwrap();
    connection.execute_batch("PRAGMA query_only=OFF").unwrap();
    let error =
        Error::from_sqlite(&connection, connection.execute_batch("INSERT INTO t VALUES (1)").unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Sql);
    assert!(error.to_string().ends_with("this connection was opened read-only"), "{error}");
    // It sees commits of other connections, and may have temporary tables.
    fleet.run("orders", "INSERT INTO t VALUES (1)");
    connection.execute_batch("CREATE TEMP TABLE mine AS SELECT * FROM t").unwrap();
    assert_eq!(count(&connection, "SELECT count(*) FROM mine"), 1);
}

#[test]
fn error_is_not_explained_by_an_earlier_refusal() {
    let fleet = Fleet::new();
    fleet.create("main");
    fleet.create("tiny");
    limit(&fleet, "tiny", "64kb");
    let connection = fleet.connect("main");
    fleet.plane.attach(&connection, "tiny", "tiny", AttachOptions::default()).unwrap();
    fleet.plane.configure_database("main", DatabaseChanges::default().block_writes(true)).unwrap();
    // The host does not ask for the reason of the first error.
    assert!(connection.execute_batch("CREATE TABLE main.t(a)").is_err());
    assert_eq!(kind(&connection, "CREATE TABLE tiny.big AS SELECT randomblob(500000)"), ErrorKind::TooLarge);
}
