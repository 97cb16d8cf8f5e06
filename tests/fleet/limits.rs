//! The configuration of a database: size limits and blocks, on new and on open connections.

use litefleet::{
    AttachOptions, ConnectOptions, CreateDatabaseInput, DatabaseChanges, Error, ErrorKind, SizeLimit,
    rusqlite::{Connection, ErrorCode},
};

use crate::support::{Fleet, count, refused};

fn kind(connection: &Connection, sql: &str) -> ErrorKind {
    Error::from_sqlite(connection, connection.execute_batch(sql).unwrap_err()).kind()
}

fn limited(limit: &str) -> Fleet {
    let fleet = Fleet::new();
    let input = CreateDatabaseInput::new("tiny", "default").with_size_limit(limit.parse().unwrap());
    fleet.plane.create_database(input).unwrap();
    fleet
}

#[test]
fn write_beyond_size_limit_fails_and_keeps_earlier_rows() {
    let fleet = limited("256kb");
    let connection = fleet.connect("tiny");
    connection.execute_batch("CREATE TABLE t(a)").unwrap();
    let mut rows = 0;
    let error = loop {
        match connection.execute("INSERT INTO t VALUES (randomblob(10000))", []) {
            Ok(_) => rows += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DiskFull));
    let error = Error::from_sqlite(&connection, error);
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.to_string().starts_with("database or disk is full"), "{error}");
    assert!((15..=25).contains(&rows), "{rows}");
    assert_eq!(count(&connection, "SELECT count(*) FROM t"), rows);

    // The transaction rolls back as a whole, and pragmas do not lift the limit.
    connection.execute_batch("PRAGMA max_page_count=1000000; PRAGMA cache_size=5").unwrap();
    let all = "BEGIN; DELETE FROM t WHERE rowid = 1; INSERT INTO t VALUES (1), (randomblob(300000)); COMMIT";
    assert_eq!(kind(&connection, all), ErrorKind::TooLarge);
    if !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK").unwrap();
    }
    assert_eq!(count(&connection, "SELECT count(*) FROM t"), rows);
    assert_eq!(count(&connection, "SELECT count(*) FROM t WHERE a = 1"), 0);

    // Writes within the limit succeed: deleted rows make room for new ones.
    connection
        .execute_batch("DELETE FROM t WHERE rowid < 5; INSERT INTO t VALUES (randomblob(10000))")
        .unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); VACUUM").unwrap();
    assert_eq!(
        connection.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(),
        "ok"
    );
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    assert!(fleet.plane.database_size("tiny").unwrap() <= 262_144);
}

#[test]
fn changed_size_limit_applies_to_open_connections() {
    let fleet = limited("256kb");
    let connection = fleet.connect("tiny");
    connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (randomblob(100000))").unwrap();
    let big = "INSERT INTO t VALUES (randomblob(500000))";
    assert_eq!(kind(&connection, big), ErrorKind::TooLarge);
    let limit = |limit: Option<&str>| {
        let limit: Option<SizeLimit> = limit.map(|limit| limit.parse().unwrap());
        let changes = DatabaseChanges::default();
        let changes = limit.map_or(changes.remove_size_limit(), |limit| changes.size_limit(limit));
        assert_eq!(fleet.plane.configure_database("tiny", changes).unwrap().size_limit, limit);
    };
    limit(Some("1mb"));
    connection.execute_batch(big).unwrap();
    assert_eq!(kind(&connection, big), ErrorKind::TooLarge);
    limit(None);
    connection.execute_batch(big).unwrap();

    // A limit below the present size prevents growth, but not the rewriting of existing pages.
    limit(Some("100kb"));
    connection
        .execute_batch("PRAGMA cache_size=10; UPDATE t SET a = randomblob(length(a)); SELECT 1")
        .unwrap();
    assert_eq!(kind(&connection, big), ErrorKind::TooLarge);
    connection.execute_batch("DELETE FROM t WHERE length(a) > 100000; VACUUM").unwrap();
    let other = fleet.connect("tiny");
    other.execute_batch("UPDATE t SET a = 1").unwrap();
    assert_eq!(kind(&other, big), ErrorKind::TooLarge);
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    assert!(kind(&connection, big) == ErrorKind::TooLarge);
}

#[test]
fn blocks_apply_to_new_and_open_connections_until_lifted() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let connection = fleet.connect("orders");
    connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    let configure = |changes| fleet.plane.configure_database("orders", changes).unwrap();
    let changes = DatabaseChanges::default;

    configure(changes().block_writes(true));
    let error = connection.execute_batch("INSERT INTO t VALUES (2)").unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::ReadOnly));
    let error = Error::from_sqlite(&connection, error);
    assert_eq!(
        (error.kind(), error.to_string()),
        (
            ErrorKind::Blocked,
            "Operation was blocked: SQL write operations are forbidden (writes are blocked)".to_owned()
        )
    );
    assert_eq!(kind(&connection, "BEGIN IMMEDIATE"), ErrorKind::Blocked);
    let fresh = fleet.connect("orders");
    assert_eq!(count(&fresh, "SELECT count(*) FROM t"), 1);
    assert_eq!(kind(&fresh, "DELETE FROM t"), ErrorKind::Blocked);
    fresh.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();

    configure(changes().block_reads(true).block_writes(false));
    assert_eq!(kind(&connection, "SELECT * FROM t"), ErrorKind::Blocked);
    assert_eq!(kind(&connection, "INSERT INTO t VALUES (2)"), ErrorKind::Blocked);
    assert_eq!(refused(fleet.plane.connect("orders", ConnectOptions::default())).0, ErrorKind::Blocked);

    configure(changes().block_reads(false));
    connection.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(count(&fresh, "SELECT count(*) FROM t"), 2);
    // A lifted refusal does not explain later errors, such as that of SQLite's own read-only mode.
    configure(changes().block_writes(true));
    assert!(fresh.execute_batch("DELETE FROM t").is_err());
    configure(changes().block_writes(false));
    assert_eq!(count(&fresh, "SELECT count(*) FROM t"), 2);
    fresh.execute_batch("PRAGMA query_only=ON").unwrap();
    assert_eq!(kind(&fresh, "DELETE FROM t"), ErrorKind::Sql);
    // Errors of SQLite's own are reported as such.
    assert_eq!(kind(&connection, "SELECT nothing FROM nowhere"), ErrorKind::Sql);
}

#[test]
fn write_blocked_database_recovers_its_wal_and_reads() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let connection = fleet.connect("orders");
    connection
        .execute_batch("PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a); INSERT INTO t VALUES (1)")
        .unwrap();
    // The state after a crash: a WAL without wal-index.
    let data = fleet.plane.database_path("orders").unwrap();
    let saved = fleet.dir.path().join("saved");
    std::fs::create_dir(&saved).unwrap();
    for file in ["data.db", "data.db-wal"] {
        std::fs::copy(data.with_file_name(file), saved.join(file)).unwrap();
    }
    drop(connection);
    for file in ["data.db", "data.db-wal"] {
        std::fs::copy(saved.join(file), data.with_file_name(file)).unwrap();
    }
    fleet.plane.configure_database("orders", DatabaseChanges::default().block_writes(true)).unwrap();
    assert_eq!(count(&fleet.connect("orders"), "SELECT count(*) FROM t"), 1);
}

#[test]
fn open_connection_reports_destroyed_database() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let connection = fleet.connect("orders");
    connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    fleet.plane.destroy_database("orders").unwrap();
    fleet.create("orders");
    for sql in ["SELECT * FROM t", "INSERT INTO t VALUES (2)"] {
        let error = connection.prepare(sql).and_then(|mut statement| statement.query([])?.next().map(|_| ()));
        assert_eq!(Error::from_sqlite(&connection, error.unwrap_err()).kind(), ErrorKind::Destroyed, "{sql}");
    }
    assert_eq!(count(&fleet.connect("orders"), "SELECT count(*) FROM sqlite_schema"), 0);
}

#[test]
fn leaving_wal_mode_is_refused() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let connection = fleet.connect("orders");
    for pragma in ["PRAGMA journal_mode=DELETE", "PRAGMA locking_mode=EXCLUSIVE", "PRAGMA page_size=8192"] {
        let error = connection.query_row(pragma, [], |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("of a database in a fleet"), "{pragma}: {error}");
    }
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
    drop(connection);

    // Another program can leave WAL mode; the next connection restores it.
    let data = fleet.plane.database_path("orders").unwrap();
    let theirs = Connection::open(&data).unwrap();
    theirs.query_row("PRAGMA journal_mode=DELETE", [], |_| Ok(())).unwrap();
    drop(theirs);
    fleet.run("orders", "CREATE TABLE t(a)");
    assert_eq!(std::fs::read(&data).unwrap()[18], 2);
}

#[test]
fn attached_databases_keep_their_own_rules() {
    let fleet = limited("64kb");
    fleet.create("orders");
    let connection = fleet.connect("orders");
    fleet.plane.attach(&connection, "tiny", "small", AttachOptions::default()).unwrap();
    connection.execute_batch("CREATE TABLE small.t(a); CREATE TABLE main.t(a)").unwrap();
    connection.execute_batch("INSERT INTO main.t VALUES (randomblob(200000))").unwrap();
    assert_eq!(kind(&connection, "INSERT INTO small.t SELECT a FROM main.t"), ErrorKind::TooLarge);
    assert_eq!(
        refused(fleet.plane.attach(&connection, "gone", "g", AttachOptions::default())).0,
        ErrorKind::NotFound
    );
    connection.execute_batch("DETACH small").unwrap();
}

#[test]
fn connect_options_set_pragmas() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let default = fleet.connect("orders");
    assert_eq!(count(&default, "PRAGMA foreign_keys"), 1);
    assert_eq!(count(&default, "PRAGMA synchronous"), 1);
    assert_eq!(count(&default, "PRAGMA busy_timeout"), 5000);
    let options = ConnectOptions::default()
        .read_only(true)
        .foreign_keys(false)
        .synchronous(litefleet::Synchronous::Full)
        .busy_timeout(std::time::Duration::from_millis(7));
    let other = fleet.plane.connect("orders", options.clone()).unwrap();
    assert_eq!(count(&other, "PRAGMA foreign_keys"), 0);
    assert_eq!(count(&other, "PRAGMA synchronous"), 2);
    assert_eq!(count(&other, "PRAGMA busy_timeout"), 7);
    assert!(other.execute_batch("CREATE TABLE t(a)").is_err());
}

#[test]
fn reason_of_refusal_survives_later_statements_and_other_error_types() {
    let fleet = limited("256kb");
    let connection = fleet.connect("tiny");
    connection.execute_batch("CREATE TABLE t(a)").unwrap();
    let configure = |changes: DatabaseChanges| fleet.plane.configure_database("tiny", changes).unwrap();
    let refused = |sql: &str| {
        let error = connection.execute_batch(sql).unwrap_err();
        // What an application does with it: another statement, another error type, another thread.
        connection.execute_batch("SELECT count(*) FROM t").unwrap();
        let boxed: Box<dyn std::error::Error + Send + Sync> = error.into();
        let error = std::thread::spawn(move || *boxed.downcast::<rusqlite::Error>().unwrap()).join().unwrap();
        let code = error.sqlite_error().unwrap().extended_code;
        let plain = Error::from(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None));
        (plain.kind(), plain.to_string(), Error::from_sqlite(&connection, error).to_string(), code & 0xff)
    };
    let (kind, message, detailed, code) = refused("INSERT INTO t VALUES (randomblob(500000))");
    assert_eq!((kind, code), (ErrorKind::TooLarge, rusqlite::ffi::SQLITE_FULL));
    assert_eq!(message, "database or disk is full: the size limit is reached");
    assert_eq!(detailed, "database or disk is full: the size limit is 262144 bytes");
    configure(DatabaseChanges::default().block_writes(true));
    let (kind, message, detailed, code) = refused("INSERT INTO t VALUES (1)");
    assert_eq!((kind, code), (ErrorKind::Blocked, rusqlite::ffi::SQLITE_READONLY));
    assert_eq!(message, detailed);
    assert!(message.contains("writes are blocked"), "{message}");
    // A refusal that is over explains no other error.
    let error = connection.execute_batch("SELECT * FROM missing").unwrap_err();
    assert_eq!(Error::from_sqlite(&connection, error).kind(), ErrorKind::Sql);
    configure(DatabaseChanges::default().block_writes(false));
    connection.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    fleet.plane.destroy_database("tiny").unwrap();
    let error = connection.execute_batch("SELECT * FROM t").unwrap_err();
    assert_eq!(Error::from(error).kind(), ErrorKind::Destroyed);
}
