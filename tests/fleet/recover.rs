//! Recovery of a lost catalog from the descriptions beside the databases.

use std::{
    fs,
    io::{Error as IoError, ErrorKind as IoErrorKind},
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use litefleet::{
    Cipher, ConnectOptions, ControlPlane, CreateDatabaseInput, Database, DatabaseChanges, DatabaseState,
    EncryptionKey, ErrorKind, Group, GroupChanges, HistoryLimit, ListDatabases, MaintainOptions, PageFormat,
    Recovered, RemoteEncryption, Seed, Timestamp, VerifyOptions,
    testing::{DiskOp, FaultHook},
};

use crate::support::{Fleet, assert_no_debris, contents, count, names, refused};

const CIPHER: Cipher = Cipher::Aegis256;

fn key() -> EncryptionKey {
    EncryptionKey::from_bytes(&[7; 32]).unwrap()
}

fn unlocked() -> ConnectOptions {
    ConnectOptions::default().encryption_key(key())
}

/// Databases of every kind in groups of every kind, and an instant at which `plain` has one row less.
fn populated() -> (Fleet, Timestamp) {
    let fleet = Fleet::new();
    let plane = &fleet.plane;
    fleet.create("plain");
    fleet.run("plain", "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    let at = Timestamp::now();
    fleet.run("plain", "INSERT INTO t VALUES (2)");
    plane.rename_group("default", "first").unwrap();
    // The directory of this group cannot have its name, because the renamed group occupies it.
    plane.create_group("default").unwrap();
    let sealed = RemoteEncryption::new(key(), CIPHER).unwrap();
    for (name, format) in [("sealed", PageFormat::Native), ("turso", PageFormat::Turso)] {
        let input = CreateDatabaseInput::new(name, "default")
            .with_encryption(sealed.clone().with_page_format(format));
        plane.create_database(input).unwrap();
        let connection = plane.connect(name, unlocked()).unwrap();
        connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (3)").unwrap();
    }
    plane.create_database(CreateDatabaseInput::fork("fork", "plain")).unwrap();
    let fork = CreateDatabaseInput::fork("sealed-fork", "sealed")
        .with_encryption(RemoteEncryption::inherit_cipher(key()))
        .with_size_limit("3mb".parse().unwrap());
    plane.create_database(fork).unwrap();
    let changes = DatabaseChanges::default()
        .size_limit("5mb".parse().unwrap())
        .history_window("3d".parse().unwrap())
        .history_limit("20mb".parse().unwrap())
        .delete_protection(true);
    plane.configure_database("plain", changes).unwrap();
    let blocked = DatabaseChanges::default().block_reads(true).block_writes(true);
    plane.configure_database("fork", blocked).unwrap();
    let unlimited = DatabaseChanges::default().history_limit(HistoryLimit::NONE);
    plane.configure_database("sealed", unlimited).unwrap();
    let changes = GroupChanges::default()
        .delete_protection(true)
        .history_window("7d".parse().unwrap())
        .history_limit("1gb".parse().unwrap());
    plane.configure_group("first", changes).unwrap();
    (fleet, at)
}

/// The groups and databases of the catalog.
fn catalog(plane: &ControlPlane) -> (Vec<Group>, Vec<Database>) {
    (plane.list_groups().unwrap(), plane.list_databases(ListDatabases::default()).unwrap())
}

/// Closes the fleet and removes its catalog.
fn lose_catalog(plane: ControlPlane) -> std::path::PathBuf {
    let root = plane.root().to_owned();
    drop(plane);
    for name in ["control.db", "control.db-wal", "control.db-shm"] {
        let _may_be_missing = fs::remove_file(root.join(name));
    }
    root
}

fn messages(recovered: &Recovered) -> Vec<String> {
    recovered
        .findings
        .iter()
        .map(|finding| format!("{}: {}", finding.file.display(), finding.message))
        .collect()
}

#[test]
fn recover_rebuilds_a_lost_catalog() {
    let (fleet, at) = populated();
    let before = catalog(&fleet.plane);
    let Fleet { plane, dir: _dir } = fleet;
    let rows = contents(&plane.connect("plain", ConnectOptions::default()).unwrap());
    let points = plane.points("plain", ..).unwrap();
    let root = lose_catalog(plane);
    assert_eq!(refused(ControlPlane::open(&root)).0, ErrorKind::Corrupt);
    assert!(!root.join("control.db").exists());

    let recovered = ControlPlane::recover(&root).unwrap();
    assert_eq!(messages(&recovered), Vec::<String>::new());
    assert_eq!((recovered.groups, recovered.databases), (2, 5));
    let plane = ControlPlane::open(&root).unwrap();
    assert_eq!(catalog(&plane), before);
    assert_no_debris(&plane);
    assert_eq!(refused(ControlPlane::recover(&root)).0, ErrorKind::AlreadyExists);

    // Contents, histories, keys, limits and blocks are preserved.
    assert_eq!(contents(&plane.connect("plain", ConnectOptions::default()).unwrap()), rows);
    assert_eq!(plane.points("plain", ..).unwrap(), points);
    let (past, _) = plane.connect_at("plain", at, ConnectOptions::default()).unwrap();
    assert_eq!(count(&past, "SELECT count(*) FROM t"), 1);
    for name in ["sealed", "turso", "sealed-fork"] {
        let connection = plane.connect(name, unlocked()).unwrap();
        assert_eq!(count(&connection, "SELECT a FROM t"), 3, "{name}");
        connection.execute_batch("INSERT INTO t VALUES (4)").unwrap();
        assert_eq!(
            refused(plane.connect(name, ConnectOptions::default())).0,
            ErrorKind::KeyRequired,
            "{name}"
        );
        let other = ConnectOptions::default().encryption_key(EncryptionKey::from_bytes(&[8; 32]).unwrap());
        assert_eq!(refused(plane.connect(name, other.clone())).0, ErrorKind::WrongKey, "{name}");
    }
    assert_eq!(refused(plane.connect("fork", ConnectOptions::default())).0, ErrorKind::Blocked);
    assert_eq!(refused(plane.destroy_database("plain")).0, ErrorKind::Protected);
    plane
        .connect("plain", ConnectOptions::default())
        .unwrap()
        .execute_batch("INSERT INTO t VALUES (5)")
        .unwrap();
    for name in ["plain", "sealed"] {
        let found = plane.verify_database(name, VerifyOptions::default()).unwrap();
        assert_eq!(found.findings, [], "{name}");
    }
    // A database file in place of another is still refused.
    let [one, other] = ["sealed", "sealed-fork"].map(|name| plane.database_path(name).unwrap());
    assert_ne!(fs::read(&one).unwrap()[..100], [0; 100]);
    let root = lose_catalog(plane);
    fs::copy(root.join("default/plain/data.db"), &other).unwrap();
    let found = messages(&ControlPlane::recover(&root).unwrap());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("this is not the file that database sealed-fork was created with"),
        "{found:?}"
    );
}

#[test]
fn recover_failing_at_any_step_can_be_repeated() {
    let (fleet, _) = populated();
    let before = catalog(&fleet.plane);
    let Fleet { plane, dir: _dir } = fleet;
    let root = lose_catalog(plane);
    let files =
        || names(&root).into_iter().filter(|name| !name.starts_with(".recovered-")).collect::<Vec<_>>();
    let at_first = files();
    for stops in [false, true] {
        for step in 0.. {
            assert!(step < 50, "recovery never succeeds");
            let left = Arc::new(AtomicUsize::new(step));
            let counted = Arc::clone(&left);
            let hook: Arc<FaultHook> = Arc::new(move |_: DiskOp, _: &Path| {
                let more =
                    counted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
                if more.is_ok() {
                    return Ok(());
                }
                counted.store(usize::MAX, Ordering::SeqCst);
                // A killed process does not clean up.
                assert!(!stops, "stopped at step {step}");
                Err(IoError::from(IoErrorKind::PermissionDenied))
            });
            let plane = ControlPlane::builder().fault_hook(hook);
            let result = panic::catch_unwind(AssertUnwindSafe(|| plane.recover(&root)));
            if left.load(Ordering::SeqCst) < 50 {
                assert!(step >= 3, "{step}");
                break;
            }
            let is_done = root.join("control.db").exists();
            assert!(!is_done || result.as_ref().map_or(true, Result::is_err), "step {step}");
            if is_done {
                // Only the flush after the rename was left.
                assert_eq!(catalog(&ControlPlane::open(&root).unwrap()), before);
                lose_catalog(ControlPlane::open(&root).unwrap());
            }
            if !stops {
                assert!(!names(&root).iter().any(|name| name.starts_with(".recovered-")), "step {step}");
            }
            assert_eq!(files(), at_first, "step {step}");
        }
        let plane = ControlPlane::open(&root).unwrap();
        assert_eq!(catalog(&plane), before);
        assert_no_debris(&plane);
        lose_catalog(plane);
    }
}

#[test]
fn recover_handles_databases_without_description() {
    let (fleet, at) = populated();
    let (_, before) = catalog(&fleet.plane);
    let Fleet { plane, dir: _dir } = fleet;
    let groups = ["plain", "sealed"]
        .map(|name| plane.database_path(name).unwrap().ancestors().nth(2).unwrap().to_owned());
    let root = lose_catalog(plane);
    for group in &groups {
        fs::remove_file(group.join("group.json")).unwrap();
        for name in names(group) {
            fs::remove_file(group.join(name).join("description.json")).unwrap();
        }
    }
    let recovered = ControlPlane::recover(&root).unwrap();
    assert_eq!((recovered.groups, recovered.databases), (2, 5));
    let found = messages(&recovered);
    assert_eq!(found.len(), 7, "{found:#?}");
    assert!(
        found
            .iter()
            .any(|message| message
                .contains("database plain has no description: its id is that of its history"))
    );

    let plane = ControlPlane::open(&root).unwrap();
    for database in &before {
        let now = plane.get_database(database.name.as_str()).unwrap();
        assert_eq!((now.cipher, now.state), (database.cipher, DatabaseState::Ready));
        // The forks have no history yet, so their ids are new.
        assert_eq!(now.id == database.id, database.parent.is_none(), "{}", database.name);
    }
    let (past, _) = plane.connect_at("plain", at, ConnectOptions::default()).unwrap();
    assert_eq!(count(&past, "SELECT count(*) FROM t"), 1);
    for name in ["sealed", "turso", "sealed-fork"] {
        assert_eq!(count(&plane.connect(name, unlocked()).unwrap(), "SELECT a FROM t"), 3, "{name}");
    }
    // Maintenance writes missing descriptions.
    plane.maintain_database("plain", MaintainOptions::default()).unwrap();
    assert_eq!(names(&groups[0]), ["fork", "group.json", "plain"]);
    assert!(groups[0].join("plain/description.json").exists());
}

#[test]
fn recover_reports_damaged_and_foreign_files() {
    let (fleet, _) = populated();
    let Fleet { plane, dir: _dir } = fleet;
    let root = lose_catalog(plane);
    let group = root.join("default");
    fs::write(group.join("plain/description.json"), b"{\"format\": 1").unwrap();
    fs::write(group.join("fork/description.json"), b"{\"format\": 9}").unwrap();
    // A copy of a database without history, and one with it.
    let copy = |of: &str, name: &str, files: &[&str]| {
        fs::create_dir_all(group.join(name).join("archive")).unwrap();
        for file in files {
            fs::copy(group.join(of).join(file), group.join(name).join(file)).unwrap();
        }
    };
    copy("fork", "copy", &["data.db"]);
    copy("plain", "another", &["data.db", "archive/live.stamps"]);
    fs::create_dir_all(root.join("elsewhere/empty")).unwrap();
    fs::write(root.join("notes.txt"), b"mine").unwrap();
    fs::write(group.join("notes.txt"), b"mine").unwrap();
    std::os::unix::fs::symlink("/", root.join("link")).unwrap();
    fs::create_dir(root.join(".staging/left")).unwrap();
    let recovered = ControlPlane::recover(&root).unwrap();
    let found = messages(&recovered);
    for expected in [
        "default/plain/description.json: the description of database plain cannot be read",
        "default/fork/description.json: the description of database fork cannot be read: it has format version 9",
        "default/plain: database plain has no description: its id is that of its history",
        "default/copy: database copy has no description: its id is new",
        "default/plain: database plain has the name or the id of another database: it is not recovered",
        "elsewhere/empty/data.db: database empty is not recovered",
        "elsewhere: this group has no description and no database: it is not recovered",
        "notes.txt: this is no group of the fleet: it is left as it is",
        "default/notes.txt: this is no database of the fleet: it is left as it is",
        "link: this is no group of the fleet: it is left as it is",
        ".staging: what was being created is not recovered: it is removed when the root is next opened",
    ] {
        assert!(found.iter().any(|message| message.starts_with(expected)), "{expected}\n{found:#?}");
    }
    // Of two databases with one id and no description, the first is recovered.
    assert_eq!((recovered.groups, recovered.databases), (2, 6));
    let plane = ControlPlane::open(&root).unwrap();
    assert_eq!(plane.list_databases(ListDatabases::default()).unwrap().len(), 6);
    plane.get_database("another").unwrap();
    assert_eq!(fs::read(root.join("notes.txt")).unwrap(), b"mine");
}

#[test]
fn stale_description_is_replaced_at_next_open() {
    let fleet = Fleet::new();
    fleet.create("a");
    let fails = Arc::new(AtomicUsize::new(0));
    let armed = Arc::clone(&fails);
    let hook: Arc<FaultHook> = Arc::new(move |step: DiskOp, path: &Path| {
        let is_description = step == DiskOp::Rename && path.extension().is_some_and(|kind| kind == "new");
        let fails = is_description && armed.load(Ordering::SeqCst) > 0;
        if fails { Err(IoError::from(IoErrorKind::StorageFull)) } else { Ok(()) }
    });
    let plane = ControlPlane::builder().fault_hook(hook).open(fleet.plane.root()).unwrap();
    fails.store(1, Ordering::SeqCst);
    let limit = "5mb".parse().unwrap();
    plane.configure_database("a", DatabaseChanges::default().size_limit(limit)).unwrap();
    plane.rename_group("default", "renamed").unwrap();
    let read = |path: &str| fs::read_to_string(fleet.plane.root().join("default").join(path)).unwrap();
    assert!(read("a/description.json").contains("\"size_limit\": null"));
    assert!(read("group.json").contains("\"name\": \"default\""));
    assert_no_debris(&fleet.plane);
    ControlPlane::open(fleet.plane.root()).unwrap();
    assert!(read("a/description.json").contains("\"size_limit\": \"5242880\""));
    assert!(read("group.json").contains("\"name\": \"renamed\""));
}

#[test]
fn recover_refuses_to_replace_a_catalog_or_its_wal() {
    let (fleet, _) = populated();
    let Fleet { plane, dir: _dir } = fleet;
    assert_eq!(refused(ControlPlane::recover(plane.root())).0, ErrorKind::AlreadyExists);
    let root = lose_catalog(plane);
    fs::write(root.join("control.db-wal"), b"log").unwrap();
    let (kind, text) = refused(ControlPlane::recover(&root));
    assert!(kind == ErrorKind::AlreadyExists && text.contains("control.db-wal is there"), "{text}");
    assert_eq!(refused(ControlPlane::recover(root.join("nowhere"))).0, ErrorKind::NotFound);
}

#[test]
fn recover_loses_drafts() {
    let fleet = Fleet::new();
    fleet.create("a");
    let draft = CreateDatabaseInput::new("draft", "default").with_seed(Seed::DatabaseUpload);
    fleet.plane.create_database(draft).unwrap();
    fleet.plane.create_group("empty").unwrap();
    let Fleet { plane, dir: _dir } = fleet;
    let root = lose_catalog(plane);
    let recovered = ControlPlane::recover(&root).unwrap();
    assert_eq!((recovered.groups, recovered.databases, recovered.findings.len()), (1, 1, 0));
}

#[test]
fn maintenance_replaces_description_that_verify_finds_stale() {
    let (fleet, _) = populated();
    let plane = &fleet.plane;
    let path = plane.database_path("plain").unwrap().with_file_name("description.json");
    let findings = || {
        let verified = plane.verify_database("plain", VerifyOptions::default()).unwrap();
        verified.findings.into_iter().map(|finding| finding.file).collect::<Vec<_>>()
    };
    // Renaming a group changes no file of its databases, and the stale group name is no finding.
    plane.rename_group("first", "second").unwrap();
    assert!(fs::read_to_string(&path).unwrap().contains("\"name\": \"first\""));
    assert!(findings().is_empty());
    let whole = fs::read(&path).unwrap();
    for change in
        [("\"block_reads\": false", "\"block_reads\": true"), ("\"format\"", "\"formal\""), ("\n}", "\n")]
    {
        let text = String::from_utf8(whole.clone()).unwrap();
        assert!(text.contains(change.0), "{text}");
        fs::write(&path, text.replace(change.0, change.1)).unwrap();
        assert_eq!(findings(), std::slice::from_ref(&path), "{change:?}");
        plane.maintain_database("plain", MaintainOptions::default()).unwrap();
        assert!(findings().is_empty(), "{change:?}");
    }
    assert!(fs::read_to_string(&path).unwrap().contains("\"name\": \"second\""));
}

#[test]
fn recover_keeps_paused_history_of_a_group() {
    let fleet = Fleet::new();
    fleet.create("plain");
    fleet.run("plain", "CREATE TABLE t(a)");
    let Fleet { plane, dir: _dir } = fleet;
    let verify =
        |plane: &ControlPlane| plane.verify_database("plain", VerifyOptions::default()).unwrap().findings;
    for window in ["off", "24h"] {
        let changes = GroupChanges::default().history_window(window.parse().unwrap());
        plane.configure_group("default", changes).unwrap();
        assert_eq!(verify(&plane), []);
    }
    let path = plane.database_path("plain").unwrap().with_file_name("description.json");
    assert!(fs::read_to_string(path).unwrap().contains("\"history_paused\": true"));
    let root = lose_catalog(plane);
    ControlPlane::recover(&root).unwrap();
    let plane = ControlPlane::open(&root).unwrap();
    plane.maintain_database("plain", MaintainOptions::default()).unwrap();
    assert_eq!(verify(&plane), []);
}

#[test]
fn recover_continues_past_invalid_descriptions() {
    let fleet = Fleet::new();
    for name in ["a", "b", "c"] {
        fleet.create(name);
    }
    let Fleet { plane, dir: _dir } = fleet;
    let root = lose_catalog(plane);
    let description = |name: &str| root.join("default").join(name).join("description.json");
    let text = fs::read_to_string(description("a")).unwrap();
    let id = text.lines().find_map(|line| line.trim().strip_prefix("\"id\": \"")).unwrap();
    let id = id.trim_end_matches("\",");
    fs::write(description("a"), text.replace(id, "../../VICTIM")).unwrap();
    fs::remove_file(description("b")).unwrap();
    fs::create_dir(description("b")).unwrap();
    let recovered = ControlPlane::recover(&root).unwrap();
    assert_eq!((recovered.groups, recovered.databases), (1, 3), "{recovered:?}");
    for name in ["a", "b"] {
        let file = Path::new("default").join(name).join("description.json");
        assert!(recovered.findings.iter().any(|finding| finding.file == file), "{recovered:?}");
    }
    let plane = ControlPlane::open(&root).unwrap();
    for name in ["a", "b", "c"] {
        plane.connect(name, ConnectOptions::default()).unwrap();
        plane.points(name, ..).unwrap();
    }
}
