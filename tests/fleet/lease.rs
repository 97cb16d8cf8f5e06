//! Leases: databases of the fleet in the hands of libraries that open a database by a URI.
//!
//! Such a library is played by `rusqlite`, with the flags of those that demand most: diesel's, which create files.

use std::{fs, path::Path, process::Command};

use litefleet::{
    AttachOptions, Cipher, ConnectOptions, ControlPlane, CreateDatabaseInput, DatabaseChanges, EncryptionKey,
    Error, ErrorKind, Lease, RemoteEncryption,
    rusqlite::{self, Connection, OpenFlags, auto_extension},
};

use crate::{
    crash::{child_arguments, child_of},
    filesystem::Mounted,
    support::{Fleet, count, names, refused},
};

const URI: OpenFlags =
    OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_CREATE).union(OpenFlags::SQLITE_OPEN_URI);

fn open(uri: &str) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(uri, URI)
}

fn lease(fleet: &Fleet, name: &str) -> Lease {
    fleet.plane.lease(name, ConnectOptions::default()).unwrap()
}

/// Opens a URI that is refused, and returns the kind of the error.
#[track_caller]
fn not_opened(uri: &str) -> ErrorKind {
    // An open may succeed and its first read fail.
    let error = open(uri).and_then(|open| open.execute_batch("SELECT * FROM sqlite_schema")).unwrap_err();
    Error::from(error).kind()
}

/// The kind of the error of a statement.
#[track_caller]
fn kind(connection: &Connection, sql: &str) -> ErrorKind {
    Error::from_sqlite(connection, connection.execute_batch(sql).unwrap_err()).kind()
}

fn text(connection: &Connection, sql: &str) -> String {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn leased_connection_is_prepared_and_keeps_the_history() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let lease = lease(&fleet, "orders");
    let (first, second) = (open(lease.uri()).unwrap(), open(lease.uri()).unwrap());
    first.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    second.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(count(&fleet.connect("orders"), "SELECT count(*) FROM t"), 2);
    assert_eq!(fleet.plane.points("orders", ..).unwrap().points.len(), 3);

    for (pragma, expected) in [("foreign_keys", 1), ("synchronous", 1)] {
        assert_eq!(count(&first, &format!("PRAGMA {pragma}")), expected, "{pragma}");
    }
    assert_eq!(text(&first, "PRAGMA journal_mode"), "wal");
    // What libraries send, and what changes nothing.
    first
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA foreign_keys = OFF; PRAGMA busy_timeout = 9")
        .unwrap();
    assert_eq!(count(&first, "PRAGMA foreign_keys"), 0);

    let options = ConnectOptions::default()
        .read_only(true)
        .foreign_keys(false)
        .synchronous(litefleet::Synchronous::Full);
    let lease = fleet.plane.lease("orders", options).unwrap();
    let third = open(lease.uri()).unwrap();
    for (pragma, expected) in [("foreign_keys", 0), ("synchronous", 2)] {
        assert_eq!(count(&third, &format!("PRAGMA {pragma}")), expected, "{pragma}");
    }
    assert_eq!(kind(&third, "INSERT INTO t VALUES (3)"), ErrorKind::Sql);
    assert_eq!(count(&third, "SELECT count(*) FROM t"), 2);
}

#[test]
fn leased_connection_is_fenced() {
    let fleet = Fleet::new();
    for name in ["orders", "other", "third"] {
        fleet.create(name);
        fleet.run(name, "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    }
    let outside = fleet.dir.path().join("outside.db");
    Connection::open(&outside).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
    let (lease, other) = (lease(&fleet, "orders"), lease(&fleet, "other"));
    let connection = open(lease.uri()).unwrap();

    let path = |name: &str| fleet.plane.root().join(name).display().to_string();
    let new = fleet.dir.path().join("new.db");
    for file in [
        path("default/other/data.db"),
        path("default/orders/data.db"),
        path("control.db"),
        path("default/new.db"),
        outside.display().to_string(),
        new.display().to_string(),
        other.uri().to_owned(),
        format!("file:{}?vfs=unix", outside.display()),
    ] {
        assert_eq!(kind(&connection, &format!("ATTACH '{file}' AS x")), ErrorKind::Sql, "{file}");
        // A vacuum in progress does not admit an attached path.
        let explained = format!("EXPLAIN VACUUM INTO '{}'", new.display());
        let mut vacuum = connection.prepare(&explained).unwrap();
        let mut rows = vacuum.query([]).unwrap();
        rows.next().unwrap();
        assert_eq!(kind(&connection, &format!("ATTACH '{file}' AS x")), ErrorKind::Sql, "{file}");
    }
    for sql in [
        format!("VACUUM INTO '{}'", path("default/copy.db")),
        format!("VACUUM INTO 'file:{}?vfs=unix'", new.display()),
        "SELECT load_extension('x')".to_owned(),
        "PRAGMA writable_schema = ON".to_owned(),
        "PRAGMA temp_store_directory = '/tmp'".to_owned(),
    ] {
        connection.execute_batch(&sql).unwrap_err();
    }
    assert!(!new.exists());
    connection.execute_batch(&format!("VACUUM; VACUUM INTO '{}'", new.display())).unwrap();
    connection
        .execute_batch("ATTACH '' AS x; CREATE TABLE x.t AS SELECT * FROM t; ATTACH ':memory:' AS y")
        .unwrap();
    assert_eq!(count(&Connection::open(&new).unwrap(), "SELECT count(*) FROM t"), 1);
    // The host attaches databases of the fleet by their names.
    fleet.plane.attach(&connection, "other", "other", AttachOptions::default()).unwrap();
    assert_eq!(count(&connection, "SELECT count(*) FROM other.t"), 1);

    let options = ConnectOptions::default().unfenced();
    let unfenced = fleet.plane.lease("orders", options).unwrap();
    let connection = open(unfenced.uri()).unwrap();
    connection.execute_batch(&format!("ATTACH '{}' AS x; SELECT * FROM x.t", outside.display())).unwrap();
    connection.execute_batch(&format!("ATTACH '{}' AS y", path("default/third/data.db"))).unwrap_err();
}

#[test]
fn dropped_lease_opens_nothing_more() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let (lease, kept) = (lease(&fleet, "orders"), lease(&fleet, "orders"));
    let uri = lease.uri().to_owned();
    assert_ne!(uri, kept.uri());
    let connection = open(&uri).unwrap();
    drop(lease);
    connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(not_opened(&uri), ErrorKind::NotFound);
    assert_eq!(count(&open(kept.uri()).unwrap(), "SELECT count(*) FROM t"), 1);
    // Neither the control plane nor its handle is needed.
    let Fleet { plane, dir } = fleet;
    drop(plane);
    connection.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    open(kept.uri()).unwrap().execute_batch("INSERT INTO t VALUES (3)").unwrap();
    drop(dir);
}

#[test]
fn altered_uri_and_plain_path_are_refused() {
    let fleet = Fleet::new();
    for name in ["orders", "other"] {
        fleet.create(name);
    }
    let lease = lease(&fleet, "orders");
    let uri = lease.uri();
    let (start, number) = uri.rsplit_once('=').unwrap();
    assert_eq!(number.len(), 32);
    assert!(!format!("{lease:?}").contains(number));
    let before = files(fleet.plane.root());
    for (altered, expected) in [
        (uri.replace("/orders/", "/other/"), ErrorKind::Invalid),
        (uri.replace("data.db", "none.db"), ErrorKind::Invalid),
        (uri.replace("vfs=litefleet", "vfs=litefleet-unfenced"), ErrorKind::Invalid),
        (format!("{uri}&nolock=1"), ErrorKind::Invalid),
        (format!("{uri}&immutable=1"), ErrorKind::Invalid),
        (format!("{uri}&readonly_shm=1"), ErrorKind::Invalid),
        (format!("{uri}0"), ErrorKind::NotFound),
        (format!("{start}={}", &number[1..]), ErrorKind::NotFound),
        (format!("{start}=+{}", &number[1..]), ErrorKind::NotFound),
        (format!("{start}={}", "0".repeat(32)), ErrorKind::NotFound),
        (format!("{start}="), ErrorKind::NotFound),
    ] {
        assert_eq!(not_opened(&altered), expected, "{altered}");
    }
    let path = fleet.plane.database_path("orders").unwrap();
    for vfs in ["litefleet", "litefleet-unfenced"] {
        for name in ["data.db", "new.db"] {
            let path = path.with_file_name(name);
            open(&format!("file:{}?vfs={vfs}", path.display())).unwrap_err();
            open(&format!("file:{}?vfs={vfs}&cache=shared", path.display())).unwrap_err();
        }
    }
    assert_eq!(files(fleet.plane.root()), before);
    // A library that creates files does not put an empty one in the place of a lost one.
    let aside = path.with_file_name("aside.db");
    fs::rename(&path, &aside).unwrap();
    open(uri).unwrap_err();
    fs::rename(&aside, &path).unwrap();
    assert_eq!(files(fleet.plane.root()), before);
    open(uri).unwrap();
}

fn files(root: &Path) -> Vec<Vec<String>> {
    ["", "default", "default/orders", "default/other"].map(|dir| names(&root.join(dir))).into()
}

#[test]
fn shared_cache_is_refused() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let lease = lease(&fleet, "orders");
    let dir = fleet.plane.root().join("default/orders");
    let before = names(&dir);
    let shared = Connection::open_with_flags(lease.uri(), URI | OpenFlags::SQLITE_OPEN_SHARED_CACHE);
    let error = shared.unwrap_err().to_string();
    assert!(error.contains("shared cache"), "{error}");
    open(&format!("{}&cache=shared", lease.uri())).unwrap_err();
    assert_eq!(names(&dir), before);
    open(&format!("{}&cache=private", lease.uri())).unwrap();
}

#[test]
fn attached_lease_admits_no_transaction() {
    let fleet = Fleet::new();
    fleet.create("orders");
    fleet.run("orders", "CREATE TABLE t(a)");
    let lease = lease(&fleet, "orders");
    let other = Connection::open_with_flags(":memory:", URI).unwrap();
    other.execute_batch(&format!("ATTACH '{}' AS x", lease.uri())).unwrap_err();
    assert_eq!(count(&other, "SELECT count(*) FROM pragma_database_list"), 1);
    let outside = open(&format!("file:{}", fleet.dir.path().join("outside.db").display())).unwrap();
    outside.execute_batch(&format!("ATTACH '{}' AS x; SELECT * FROM x.t", lease.uri())).unwrap_err();
}

#[test]
fn leased_connection_obeys_the_configuration() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let lease = lease(&fleet, "orders");
    let connection = open(lease.uri()).unwrap();
    connection.execute_batch("CREATE TABLE t(a)").unwrap();
    let configure = |changes| fleet.plane.configure_database("orders", changes).unwrap();
    let changes = DatabaseChanges::default;

    configure(changes().block_writes(true));
    let error = connection.execute_batch("INSERT INTO t VALUES (1)").unwrap_err();
    let code = error.sqlite_error().unwrap().extended_code;
    assert_eq!(ErrorKind::from_sqlite_code(code), Some(ErrorKind::Blocked));
    configure(changes().block_writes(false).block_reads(true));
    assert_eq!(kind(&connection, "SELECT * FROM t"), ErrorKind::Blocked);
    assert_eq!(not_opened(lease.uri()), ErrorKind::Blocked);
    assert_eq!(refused(fleet.plane.lease("orders", ConnectOptions::default())).0, ErrorKind::Blocked);
    configure(changes().block_reads(false).size_limit("64kb".parse().unwrap()));
    let big = "INSERT INTO t VALUES (randomblob(500000))";
    assert_eq!(kind(&connection, big), ErrorKind::TooLarge);
    assert_eq!(kind(&open(lease.uri()).unwrap(), big), ErrorKind::TooLarge);
}

#[test]
fn lease_of_a_destroyed_database_does_not_reach_its_successor() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let lease = lease(&fleet, "orders");
    let connection = open(lease.uri()).unwrap();
    connection.execute_batch("CREATE TABLE t(a)").unwrap();
    fleet.plane.destroy_database("orders").unwrap();
    assert_eq!(kind(&connection, "INSERT INTO t VALUES (1)"), ErrorKind::Destroyed);
    assert_eq!(not_opened(lease.uri()), ErrorKind::Destroyed);
    fleet.assert_no_debris();

    fleet.create("orders");
    let before = files_of(&fleet, "orders");
    assert_eq!(not_opened(lease.uri()), ErrorKind::Destroyed);
    assert_eq!(kind(&connection, "SELECT * FROM t"), ErrorKind::Destroyed);
    drop(connection);
    assert_eq!(files_of(&fleet, "orders"), before);
    assert_eq!(count(&fleet.connect("orders"), "SELECT count(*) FROM sqlite_schema"), 0);
}

fn files_of(fleet: &Fleet, name: &str) -> Vec<(String, Vec<u8>)> {
    let dir = fleet.plane.database_path(name).unwrap().parent().unwrap().to_owned();
    let files = names(&dir).into_iter().filter(|name| dir.join(name).is_file());
    files.map(|name| (name.clone(), fs::read(dir.join(&name)).unwrap())).collect()
}

#[test]
fn lease_of_an_encrypted_database_contains_no_key_and_writes_no_plaintext() {
    let fleet = Fleet::new();
    let key = EncryptionKey::from_base64("c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlYyE=").unwrap();
    let encryption = RemoteEncryption::new(key.clone(), Cipher::Aegis256).unwrap();
    let input = CreateDatabaseInput::new("vault", "default").with_encryption(encryption);
    fleet.plane.create_database(input).unwrap();

    let options = ConnectOptions::default;
    assert_eq!(refused(fleet.plane.lease("vault", options())).0, ErrorKind::KeyRequired);
    let wrong = EncryptionKey::from_base64("b3RoZXIgb3RoZXIgb3RoZXIgb3RoZXIgb3RoZXIgb3Q=").unwrap();
    assert_eq!(refused(fleet.plane.lease("vault", options().encryption_key(wrong))).0, ErrorKind::WrongKey);
    let lease = fleet.plane.lease("vault", options().encryption_key(key.clone())).unwrap();
    assert!(!lease.uri().contains("secret") && !lease.uri().contains("c2Vj"));

    let connection = open(lease.uri()).unwrap();
    connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES ('plaintext-of-the-vault')").unwrap();
    let copy = fleet.dir.path().join("copy.db");
    connection.execute_batch(&format!("VACUUM INTO '{}'", copy.display())).unwrap();
    let (dir, needle) = (fleet.plane.root().join("default/vault"), b"plaintext-of-the-vault");
    let mut written: Vec<_> = names(&dir).into_iter().map(|name| dir.join(name)).collect();
    written.push(copy);
    for file in written.iter().filter(|file| file.is_file()) {
        let bytes = fs::read(file).unwrap();
        assert!(!bytes.windows(needle.len()).any(|window| window == needle), "{}", file.display());
    }
    assert!(text(&connection, "SELECT file FROM pragma_database_list").ends_with("/vault/data.db"));
    drop(connection);
    assert_eq!(text(&open(lease.uri()).unwrap(), "SELECT a FROM t"), "plaintext-of-the-vault");
}

#[test]
fn lease_of_a_read_only_fleet_reads() {
    let fleet = Fleet::new();
    fleet.create("orders");
    fleet.run("orders", "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    let plane = ControlPlane::open_read_only(fleet.plane.root()).unwrap();
    let lease = plane.lease("orders", ConnectOptions::default()).unwrap();
    let connection = open(lease.uri()).unwrap();
    assert_eq!(count(&connection, "SELECT count(*) FROM t"), 1);
    connection.execute_batch("INSERT INTO t VALUES (2)").unwrap_err();
    connection.execute_batch("ATTACH '/tmp/x.db' AS x").unwrap_err();
    // A writable plane leases the database, with which the read-only one still reads.
    let writing = fleet.plane.lease("orders", ConnectOptions::default()).unwrap();
    open(writing.uri()).unwrap().execute_batch("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(count(&connection, "SELECT count(*) FROM t"), 2);
}

#[test]
fn threads_share_a_lease_beside_connections_of_the_fleet() {
    let fleet = Fleet::new();
    for name in ["orders", "other"] {
        fleet.create(name);
        fleet.run(name, "CREATE TABLE t(a)");
    }
    let leases = [lease(&fleet, "orders"), lease(&fleet, "other")];
    std::thread::scope(|scope| {
        for lease in &leases {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        open(lease.uri()).unwrap().execute_batch("INSERT INTO t VALUES (1)").unwrap();
                    }
                });
            }
        }
        scope.spawn(|| (0..20).for_each(|_| fleet.run("orders", "INSERT INTO t VALUES (2)")));
    });
    let rows = |name: &str| count(&fleet.connect(name), "SELECT count(*) FROM t");
    assert_eq!((rows("orders"), rows("other")), (80, 60));
}

/// In a process in which another library has removed the automatic extension, so that the fence cannot be raised.
#[test]
fn connection_that_cannot_be_prepared_admits_no_transaction() {
    const CHILD: &str = "lease::connection_that_cannot_be_prepared_admits_no_transaction";
    if child_arguments().is_none() {
        assert!(child_of(CHILD, "run").status().unwrap().success());
        return;
    }
    let fleet = Fleet::new();
    fleet.create("orders");
    let lease = lease(&fleet, "orders");
    auto_extension::reset_auto_extension();
    let connection = open(lease.uri()).unwrap();
    assert_eq!(kind(&connection, "SELECT * FROM sqlite_schema"), ErrorKind::Invalid);
    assert_eq!(kind(&connection, "CREATE TABLE t(a)"), ErrorKind::Invalid);
    // The next lease registers the extension again.
    let next = self::lease(&fleet, "orders");
    open(next.uri()).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
}

#[test]
fn page_size_may_be_set_to_its_value() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let lease = lease(&fleet, "orders");
    for connection in [open(lease.uri()).unwrap(), fleet.connect("orders")] {
        connection.execute_batch("PRAGMA page_size = 4096; PRAGMA page_size = '4096'; VACUUM").unwrap();
        connection.execute_batch("PRAGMA page_size = 8192").unwrap_err();
        assert_eq!(count(&connection, "PRAGMA page_size"), 4096);
    }
}

/// A checkpoint of such a connection would discard commits that no history has kept.
#[test]
fn lease_of_a_read_only_fleet_writes_nothing_under_an_altered_mode() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let writer = fleet.connect("orders");
    writer.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    let plane = ControlPlane::open_read_only(fleet.plane.root()).unwrap();
    let lease = plane.lease("orders", ConnectOptions::default()).unwrap();
    let data = fleet.plane.database_path("orders").unwrap();
    let before = fs::read(&data).unwrap();
    let connection = open(&lease.uri().replace("mode=ro", "mode=rw")).unwrap();
    assert!(connection.is_readonly("main").unwrap());
    let _refused = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    connection.execute_batch("INSERT INTO t VALUES (2)").unwrap_err();
    assert_eq!(count(&connection, "SELECT count(*) FROM t"), 1);
    assert_eq!(fs::read(&data).unwrap(), before);
}

#[test]
fn attached_lease_of_an_immutable_file_is_not_read() {
    let fleet = Fleet::new();
    let Some(disk) = Mounted::new(&["-t", "tmpfs", "tmpfs"]) else { return };
    fleet.create("orders");
    fleet.run("orders", "CREATE TABLE t(a)");
    let root = disk.0.path().join("root");
    assert!(Command::new("cp").arg("-a").args([fleet.plane.root(), &root]).status().unwrap().success());
    assert!(Command::new("mount").args(["-o", "remount,ro"]).arg(disk.0.path()).status().unwrap().success());
    let plane = ControlPlane::open_read_only(&root).unwrap();
    let lease = plane.lease("orders", ConnectOptions::default()).unwrap();
    assert_eq!(count(&open(lease.uri()).unwrap(), "SELECT count(*) FROM t"), 0);
    let other = Connection::open_with_flags(":memory:", URI).unwrap();
    assert_eq!(kind(&other, &format!("ATTACH '{}' AS x", lease.uri())), ErrorKind::Invalid);
    assert_eq!(kind(&other, "SELECT * FROM x.t"), ErrorKind::Sql);
}

#[test]
fn refused_opens_leave_no_descriptor_open() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let lease = lease(&fleet, "orders");
    let descriptors = || {
        let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let root = fleet.plane.root();
        let ours = open.filter(|entry| fs::read_link(entry.path()).is_ok_and(|file| file.starts_with(root)));
        ours.filter(|entry| fs::read_link(entry.path()).unwrap().ends_with("data.db")).count()
    };
    for _ in 0..50 {
        open(&format!("{}&nolock=1", lease.uri())).unwrap_err();
        open(&format!("{}&cache=shared", lease.uri())).unwrap_err();
        let other = Connection::open_with_flags(":memory:", URI).unwrap();
        other.execute_batch(&format!("ATTACH '{}' AS x", lease.uri())).unwrap_err();
    }
    assert_eq!(descriptors(), 0);
}
