//! Roots of an older version, damaged roots, and roots that are not writable.

use std::{fs, path::Path, process::Command};

use litefleet::{
    ControlPlane, CreateDatabaseInput, DatabaseChanges, ErrorKind, GroupChanges, HistoryLimit, ListDatabases,
    Seed, UploadOptions, VerifyOptions, rusqlite::Connection,
};

use crate::{
    filesystem::Mounted,
    support::{Fleet, contents, refused},
};

/// The schema of a catalog of version 1, in which a group's directory has the group's name.
const VERSION_1: &str = "
    CREATE TABLE root(format_version INTEGER NOT NULL) STRICT;
    CREATE TABLE groups(
        id INTEGER PRIMARY KEY,
        uuid TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL CHECK (state IN ('ready', 'deleting')),
        created_at INTEGER NOT NULL,
        delete_protection INTEGER NOT NULL DEFAULT 0,
        history_window_seconds INTEGER
    ) STRICT;
    CREATE TABLE databases(
        id INTEGER PRIMARY KEY,
        uuid TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL UNIQUE,
        group_id INTEGER NOT NULL REFERENCES groups(id),
        state TEXT NOT NULL CHECK (state IN ('creating', 'draft', 'publishing', 'ready', 'deleting')),
        created_at INTEGER NOT NULL,
        size_limit INTEGER,
        history_window_seconds INTEGER,
        history_paused INTEGER NOT NULL DEFAULT 0,
        cipher TEXT,
        page_format TEXT CHECK (page_format IN ('native', 'turso')),
        file_salt BLOB,
        parent_uuid TEXT,
        parent_name TEXT,
        branched_at INTEGER,
        block_reads INTEGER NOT NULL DEFAULT 0,
        block_writes INTEGER NOT NULL DEFAULT 0,
        delete_protection INTEGER NOT NULL DEFAULT 0,
        CHECK (state NOT IN ('publishing', 'ready') OR (cipher IS NULL) = (page_format IS NULL)),
        CHECK ((page_format IS 'native') = (file_salt IS NOT NULL))
    ) STRICT;
    CREATE INDEX databases_by_group ON databases(group_id, name);
    CREATE INDEX databases_by_parent ON databases(parent_uuid, name) WHERE parent_uuid IS NOT NULL;
    CREATE INDEX databases_unsettled ON databases(state) WHERE state IN ('creating', 'publishing', 'deleting');
    PRAGMA application_id=0x4c466c74; PRAGMA user_version=1;
";

/// Rewrites the catalog of a root as version 1 would have written it.
fn downgrade_to_version_1(root: &Path) {
    let (control, newer) = (root.join("control.db"), root.with_file_name("newer.db"));
    fs::rename(&control, &newer).unwrap();
    let old = Connection::open(&control).unwrap();
    old.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(())).unwrap();
    old.execute_batch(VERSION_1).unwrap();
    old.execute("ATTACH ?1 AS newer", [newer.to_str().unwrap()]).unwrap();
    old.execute_batch(
        "INSERT INTO root SELECT * FROM newer.root;
         INSERT INTO groups SELECT id, uuid, name, state, created_at, delete_protection, history_window_seconds
            FROM newer.groups;
         INSERT INTO databases SELECT id, uuid, name, in_group, state, created_at, size_limit, history_window_seconds,
                history_paused, cipher, page_format, file_salt, parent_uuid, parent_name, branched_at, block_reads,
                block_writes, delete_protection
            FROM newer.database_rows;
         DETACH newer",
    )
    .unwrap();
}

#[test]
fn root_of_version_1_is_migrated_completely() {
    let fleet = Fleet::new();
    fleet.plane.create_group("eu").unwrap();
    fleet.plane.configure_group("eu", GroupChanges::default().delete_protection(true)).unwrap();
    fleet.create("orders");
    fleet.run("orders", "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    fleet.plane.create_database(CreateDatabaseInput::fork("fork", "orders")).unwrap();
    fleet.plane.create_database(CreateDatabaseInput::new("other", "eu")).unwrap();
    let draft = CreateDatabaseInput::new("draft", "eu").with_seed(Seed::DatabaseUpload);
    fleet.plane.create_database(draft).unwrap();
    fleet.plane.configure_database("other", DatabaseChanges::default().block_writes(true)).unwrap();
    let all = |plane: &ControlPlane| {
        (plane.list_groups().unwrap(), plane.list_databases(ListDatabases::default()).unwrap())
    };
    let (before, orders) = (all(&fleet.plane), contents(&fleet.connect("orders")));
    let Fleet { plane, dir } = fleet;
    drop(plane);
    let root = dir.path().join("root");
    downgrade_to_version_1(&root);

    // A root with a newer format version is not touched.
    let catalog = Connection::open(root.join("control.db")).unwrap();
    catalog.execute_batch("UPDATE root SET format_version=7").unwrap();
    let (kind, text) = open(&root);
    assert!(kind == ErrorKind::Unsupported && text.contains("format version 7"), "{text}");
    let version = || catalog.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(version(), 1);
    catalog.execute_batch("UPDATE root SET format_version=1").unwrap();
    // Every query of the older version for a database starts like this.
    let older = "SELECT g.name, d.name FROM databases d JOIN groups g ON g.id = d.group_id";
    let query_as_older = || catalog.query_row(older, [], |_| Ok(()));
    query_as_older().unwrap();

    let planes: Vec<ControlPlane> = std::thread::scope(|scope| {
        let opening: Vec<_> = (0..4).map(|_| scope.spawn(|| ControlPlane::open(&root).unwrap())).collect();
        opening.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let plane = planes.into_iter().next().unwrap();
    assert_eq!(version(), 5);
    // A running process of the older version fails, instead of using a wrong directory.
    let reason = "a newer litefleet has upgraded this root: restart this process with that version";
    assert!(query_as_older().unwrap_err().to_string().contains(reason));
    // The query of version 3.
    let older = "SELECT g.name, d.name FROM databases d JOIN groups g ON g.id = d.in_group";
    let error = catalog.query_row(older, [], |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains(reason), "{error}");
    let older = "INSERT INTO groups(uuid, name, state, created_at) VALUES ('x', 'x', 'ready', 0) ON CONFLICT DO NOTHING";
    assert!(catalog.execute(older, []).unwrap_err().to_string().contains("is of a newer litefleet"));
    assert_eq!(all(&plane), before);
    let fleet = Fleet { plane, dir };
    assert_eq!(contents(&fleet.connect("orders")), orders);
    fleet.plane.rename_group("default", "us").unwrap();
    fleet.plane.create_group("default").unwrap();
    fleet.create("new");
    for name in ["orders", "fork", "other", "new"] {
        let verified = fleet.plane.verify_database(name, VerifyOptions::default()).unwrap();
        assert_eq!(verified.findings, [], "{name}");
    }
    fleet
        .plane
        .upload_database(
            "draft",
            &mut fs::File::open(root.with_file_name("newer.db")).unwrap(),
            UploadOptions::default(),
        )
        .unwrap();
    fleet.plane.destroy_group("us").unwrap();
    fleet.assert_no_debris();

    let tables = |path: &Path| {
        let catalog = Connection::open(path).unwrap();
        let mut found = catalog.prepare("SELECT sql FROM sqlite_schema ORDER BY name").unwrap();
        let found = found.query_map([], |row| row.get::<_, Option<String>>(0)).unwrap();
        found.map(Result::unwrap).collect::<Vec<_>>()
    };
    assert_eq!(tables(&root.join("control.db")), tables(&root.with_file_name("newer.db")));
}

fn open(root: &Path) -> (ErrorKind, String) {
    refused(ControlPlane::open(root))
}

/// SQLite treats an empty file as a new database and discards its WAL.
#[test]
fn root_of_version_3_gets_history_limits() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let Fleet { plane, dir } = fleet;
    drop(plane);
    let root = dir.path().join("root");
    let catalog = Connection::open(root.join("control.db")).unwrap();
    catalog
        .execute_batch(
            "DROP VIEW databases; ALTER TABLE database_rows RENAME TO databases;
             ALTER TABLE groups DROP COLUMN history_limit; ALTER TABLE databases DROP COLUMN history_limit;
             PRAGMA user_version=3",
        )
        .unwrap();
    let plane = ControlPlane::open(&root).unwrap();
    let limits = || {
        let database = plane.get_database("orders").unwrap();
        let group = plane.get_group("default").unwrap();
        (group.history_limit, database.history_limit, database.inherits_history_limit)
    };
    assert_eq!(limits(), (HistoryLimit::NONE, HistoryLimit::NONE, true));
    let limit: HistoryLimit = "1gb".parse().unwrap();
    plane.configure_group("default", GroupChanges::default().history_limit(limit)).unwrap();
    assert_eq!(limits(), (limit, limit, true));
    // A running process of version 3 changes nothing.
    let older = "UPDATE databases SET history_window_seconds = 60 WHERE name = 'orders'";
    let error = catalog.execute(older, []).unwrap_err().to_string();
    assert!(error.contains("a newer litefleet has upgraded this root"), "{error}");
    let version: i64 = catalog.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 5);
}

#[test]
fn emptied_catalog_is_corruption() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let Fleet { plane, dir } = fleet;
    drop(plane);
    let root = dir.path().join("root");
    let control = root.join("control.db");
    fs::write(&control, b"").unwrap();
    let (kind, text) = open(&root);
    assert_eq!(kind, ErrorKind::Corrupt, "{text}");
    assert!(text.contains(control.to_str().unwrap()), "{text}");
    assert_eq!(fs::metadata(&control).unwrap().len(), 0);

    // A first open that was killed can be completed.
    let begun = dir.path().join("begun");
    for made in [".staging", ".trash"] {
        fs::create_dir_all(begun.join(made)).unwrap();
    }
    fs::write(begun.join("control.db"), b"").unwrap();
    ControlPlane::open(&begun).unwrap().create_group("default").unwrap();
}

#[test]
fn unwritable_root_is_named() {
    let Some(disk) = Mounted::new(&["-t", "tmpfs", "tmpfs"]) else { return };
    let root = disk.0.path().join("root");
    drop(ControlPlane::open(&root).unwrap());
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(disk.0.path()).status();
    assert!(remounted.unwrap().success());
    for (root, expected) in [(root, ErrorKind::ReadOnly), (disk.0.path().join("new"), ErrorKind::Io)] {
        let (kind, text) = open(&root);
        assert_eq!(kind, expected, "{text}");
        assert!(text.contains(root.to_str().unwrap()) && text.contains("must be writable"), "{text}");
    }
}

#[test]
fn create_names_a_directory_in_its_place() {
    let fleet = Fleet::new();
    let dir = fleet.plane.root().join("default/orders");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("data.db"), b"of another fleet").unwrap();
    let (kind, text) = refused(fleet.plane.create_database(CreateDatabaseInput::new("orders", "default")));
    assert_eq!(kind, ErrorKind::Io, "{text}");
    assert!(text.contains(dir.to_str().unwrap()) && text.contains("move it elsewhere"), "{text}");
    assert_eq!(fs::read(dir.join("data.db")).unwrap(), b"of another fleet");
    fs::remove_dir_all(&dir).unwrap();
    fleet.create("orders");
    fleet.assert_no_debris();
}
