//! Name reuse during a call: the call acts only on the database that it resolved.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use litefleet::{
    AttachOptions, Cipher, ConnectOptions, ControlPlane, CreateDatabaseInput, DatabaseChanges, EncryptionKey,
    ErrorKind, ExportOptions, GroupChanges, MaintainOptions, RemoteEncryption, RestoreOptions, Seed,
    Timestamp, UploadOptions, VerifyOptions, rusqlite::Connection,
};

use crate::support::{Fleet, count};

type Action = Box<dyn FnOnce() + Send>;

/// A plane whose clock runs the action in `next` once: after a call has resolved its database, and before it opens
/// any file.
fn plane_with_interruption(fleet: &Fleet) -> (ControlPlane, Arc<Mutex<Option<Action>>>) {
    let next = Arc::<Mutex<Option<Action>>>::default();
    let waiting = Arc::clone(&next);
    let clock = Arc::new(move || {
        let action = waiting.lock().unwrap().take();
        if let Some(action) = action {
            thread::spawn(action).join().unwrap();
        }
        Timestamp::now()
    });
    (ControlPlane::builder().clock(clock).open(fleet.plane.root()).unwrap(), next)
}

/// Destroys `x` and creates another database of that name.
fn replace(plane: &ControlPlane) {
    plane.destroy_database("x").unwrap();
    plane.create_database(CreateDatabaseInput::new("x", "default")).unwrap();
    let connection = plane.connect("x", ConnectOptions::default()).unwrap();
    connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES ('new')").unwrap();
}

fn first_row(plane: &ControlPlane) -> String {
    let connection = plane.connect("x", ConnectOptions::default()).unwrap();
    connection.query_row("SELECT a FROM t", [], |row| row.get(0)).unwrap()
}

/// A fleet with a database `x`, and an instant at which it has a row.
fn with_row() -> (Fleet, Timestamp) {
    let fleet = Fleet::new();
    fleet.create("x");
    fleet.run("x", "CREATE TABLE t(a); INSERT INTO t VALUES ('old')");
    let at = Timestamp::now();
    fleet.run("x", "UPDATE t SET a = 'later'");
    (fleet, at)
}

#[test]
fn restore_in_place_leaves_new_database_of_the_name_alone() {
    let (fleet, at) = with_row();
    let (plane, next) = plane_with_interruption(&fleet);
    let other = fleet.plane.clone();
    *next.lock().unwrap() = Some(Box::new(move || replace(&other)));
    let error = plane.restore_database("x", at, RestoreOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Destroyed, "{error}");
    assert_eq!(first_row(&fleet.plane), "new");
}

#[test]
fn calls_fail_as_destroyed_if_the_name_is_reused() {
    type Call = fn(&ControlPlane, Timestamp, &Path) -> litefleet::Result<()>;
    let calls: [Call; 5] = [
        |plane, at, _| plane.connect_at("x", at, ConnectOptions::default()).map(|_| ()),
        |plane, at, path| plane.export_database("x", path, ExportOptions::default().at(at)),
        |plane, at, _| {
            let input = CreateDatabaseInput::new("y", "default").with_seed(Seed::database_at("x", at));
            plane.create_database(input).map(|_| ())
        },
        |plane, _, _| plane.create_database(CreateDatabaseInput::fork("y", "x")).map(|_| ()),
        |plane, _, _| plane.maintain_database("x", MaintainOptions::default()).map(|_| ()),
    ];
    for (at, call) in calls.iter().enumerate() {
        let (fleet, instant) = with_row();
        let (plane, next) = plane_with_interruption(&fleet);
        let other = fleet.plane.clone();
        *next.lock().unwrap() = Some(Box::new(move || replace(&other)));
        let path = fleet.dir.path().join("exported.db");
        let error = call(&plane, instant, &path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Destroyed, "call {at}: {error}");
        assert!(!path.exists(), "call {at}");
        assert_eq!(fleet.plane.get_database("y").unwrap_err().kind(), ErrorKind::NotFound, "call {at}");
        assert_eq!(first_row(&fleet.plane), "new", "call {at}");
        fleet.assert_no_debris();
    }
}

#[test]
fn calls_by_id_never_act_on_a_new_database_of_the_name() {
    let (fleet, at) = with_row();
    let plane = &fleet.plane;
    let old = plane.get_database("x").unwrap();
    replace(plane);
    let path = fleet.dir.path().join("exported.db");
    let main = fleet.connect("x");
    let errors = [
        plane.get_database(&old).unwrap_err(),
        plane.group_of_database(&old).unwrap_err(),
        plane.configure_database(&old, DatabaseChanges::default().block_writes(true)).unwrap_err(),
        plane.connect(&old, ConnectOptions::default()).unwrap_err(),
        plane.connect_at(&old, at, ConnectOptions::default()).unwrap_err(),
        plane.attach(&main, &old, "other", AttachOptions::default()).unwrap_err(),
        plane.points(&old, ..).unwrap_err(),
        plane.restore_database(&old, at, RestoreOptions::default()).unwrap_err(),
        plane.verify_database(&old, VerifyOptions::default()).unwrap_err(),
        plane.maintain_database(&old, MaintainOptions::default()).unwrap_err(),
        plane.export_database(&old, &path, ExportOptions::default()).unwrap_err(),
        plane.upload_database(&old, &mut &b""[..], UploadOptions::default()).unwrap_err(),
        plane.database_path(&old).unwrap_err(),
        plane.database_size(&old).unwrap_err(),
        plane.destroy_database(&old).unwrap_err(),
    ];
    for (at, error) in errors.iter().enumerate() {
        assert_eq!(error.kind(), ErrorKind::Destroyed, "call {at}: {error}");
    }
    assert!(!path.exists());
    assert_eq!(first_row(plane), "new");
    assert!(!plane.get_database("x").unwrap().block_writes);
    plane.destroy_database(&plane.get_database("x").unwrap()).unwrap();
}

#[test]
fn group_id_survives_a_rename() {
    let fleet = Fleet::new();
    let group = fleet.plane.get_group("default").unwrap();
    fleet.plane.rename_group(&group, "first").unwrap();
    fleet.plane.create_group("default").unwrap();
    let changes = GroupChanges::default().delete_protection(true).history_window("7d".parse().unwrap());
    assert_eq!(fleet.plane.configure_group(&group, changes).unwrap().name.as_str(), "first");
    assert!(fleet.plane.get_group("first").unwrap().delete_protection);
    assert!(!fleet.plane.get_group("default").unwrap().delete_protection);
    assert_eq!(fleet.plane.destroy_group(&group).unwrap_err().kind(), ErrorKind::Protected);
    fleet.plane.configure_group(&group, GroupChanges::default().delete_protection(false)).unwrap();
    fleet.plane.destroy_group(&group).unwrap();
    assert_eq!(fleet.plane.get_group(&group).unwrap_err().kind(), ErrorKind::NotFound);
    fleet.plane.get_group("default").unwrap();
}

#[test]
fn group_configuration_changes_atomically() {
    let fleet = Fleet::new();
    let windows = ["1d".parse().unwrap(), "2d".parse().unwrap()];
    let change = |turn: usize| {
        let changes = GroupChanges::default().delete_protection(turn == 1).history_window(windows[turn]);
        fleet.plane.configure_group("default", changes).unwrap();
    };
    change(0);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _stop = SetOnDrop(&is_over);
            for turn in 0..60 {
                change(turn % 2);
            }
        });
        while !is_over.load(Ordering::SeqCst) {
            let group = fleet.plane.get_group("default").unwrap();
            assert_eq!(group.history_window, windows[usize::from(group.delete_protection)]);
        }
    });
}

/// Input for a plain database, or for one encrypted under a key.
fn input(name: &str, key: Option<&EncryptionKey>) -> CreateDatabaseInput {
    let input = CreateDatabaseInput::new(name, "default");
    match key {
        Some(key) => input.with_encryption(RemoteEncryption::new(key.clone(), Cipher::Aegis256).unwrap()),
        None => input,
    }
}

/// Sets a flag when dropped, so that a failed assertion ends the other thread too.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs every call while databases of one name are created and destroyed. Each fills its rows with its own number.
#[expect(clippy::too_many_lines, reason = "one list of the calls of the library")]
fn calls_among_databases_that_come_and_go(key: Option<&EncryptionKey>) {
    const ROUNDS: usize = 12;
    let fleet = Fleet::new();
    let options =
        key.map_or_else(ConnectOptions::default, |key| ConnectOptions::default().encryption_key(key.clone()));
    let create = |number: usize| {
        fleet.plane.create_database(input("x", key)).unwrap();
        let connection = fleet.plane.connect("x", options.clone()).unwrap();
        connection.execute_batch(&format!("CREATE TABLE t(a); INSERT INTO t VALUES ({number})")).unwrap();
        connection.execute_batch(&format!("INSERT INTO t VALUES ({number})")).unwrap();
    };
    create(0);
    let is_over = AtomicBool::new(false);
    let check_one = |connection: &Connection| {
        // The query may fail: the table may not exist yet, or the database may be gone.
        if let Ok(numbers) =
            connection.query_row("SELECT count(DISTINCT a) FROM t", [], |row| row.get::<_, i64>(0))
        {
            assert!(numbers <= 1, "rows of {numbers} databases");
        }
    };
    let main = {
        fleet.plane.create_database(input("main", key)).unwrap();
        fleet.plane.connect("main", options.clone()).unwrap()
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !is_over.load(Ordering::SeqCst) {
                number += 1;
                fleet.plane.destroy_database("x").unwrap();
                create(number);
            }
        });
        let expect_gone = |call: &str, result: litefleet::Result<()>| {
            if let Err(error) = result {
                // The instant of a restore may precede the creation of the current database.
                let is_gone = matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::Destroyed | ErrorKind::OutsideWindow | ErrorKind::Busy
                );
                assert!(is_gone, "{call}: {:?}: {error}", error.kind());
            }
        };
        let plane = &fleet.plane;
        let _stop = SetOnDrop(&is_over);
        for round in 0..ROUNDS {
            let name = format!("fork-{round}");
            let path = fleet.dir.path().join(&name);
            expect_gone(
                "connect",
                plane.connect("x", options.clone()).map(|connection| check_one(&connection)),
            );
            expect_gone(
                "attach",
                plane.attach(
                    &main,
                    "x",
                    "other",
                    key.cloned().into_iter().fold(AttachOptions::default(), AttachOptions::encryption_key),
                ),
            );
            let _may_fail = main.execute_batch("DETACH other");
            expect_gone("points", plane.points("x", ..).map(|_| ()));
            let now = Timestamp::now();
            expect_gone(
                "view",
                plane.connect_at("x", now, options.clone()).map(|(connection, _)| check_one(&connection)),
            );
            expect_gone(
                "restore",
                plane.restore_database("x", now, RestoreOptions::from(options.clone())).map(|_| ()),
            );
            expect_gone("maintain", plane.maintain_database("x", MaintainOptions::default()).map(|_| ()));
            let verify = key.map_or_else(VerifyOptions::default, |key| {
                VerifyOptions::default().encryption_key(key.clone())
            });
            expect_gone(
                "verify",
                plane.verify_database("x", verify).map(|verified| {
                    assert!(verified.findings.is_empty(), "{:?}", verified.findings);
                }),
            );
            for at in [None, Some(now)] {
                let mut export = ExportOptions::default().decrypt(key.is_some());
                if let Some(key) = key {
                    export = export.encryption_key(key.clone());
                }
                if let Some(at) = at {
                    export = export.at(at);
                }
                let exported = plane.export_database("x", &path, export);
                expect_gone(
                    "export",
                    exported.map(|()| {
                        check_one(&Connection::open(&path).unwrap());
                        fs::remove_file(&path).unwrap();
                    }),
                );
                let seed = at.map_or_else(|| Seed::database("x"), |at| Seed::database_at("x", at));
                let fork = input(&name, key).with_seed(seed);
                expect_gone(
                    "fork",
                    plane.create_database(fork).map(|made| {
                        check_one(&plane.connect(&made, options.clone()).unwrap());
                        plane.destroy_database(&made).unwrap();
                    }),
                );
            }
        }
    });
    let connection = fleet.plane.connect("x", options.clone()).unwrap();
    assert_eq!(count(&connection, "SELECT count(DISTINCT a) FROM t"), 1);
}

#[test]
fn calls_on_recreated_plain_databases_fail_only_as_gone() {
    calls_among_databases_that_come_and_go(None);
}

#[test]
fn calls_on_recreated_encrypted_databases_fail_only_as_gone() {
    calls_among_databases_that_come_and_go(Some(&EncryptionKey::from_bytes(&[7; 32]).unwrap()));
}

#[test]
fn upload_to_a_replaced_draft_fails_as_destroyed() {
    let fleet = Fleet::new();
    let draft = || {
        let input = CreateDatabaseInput::new("x", "default").with_seed(Seed::DatabaseUpload);
        fleet.plane.create_database(input).unwrap()
    };
    let first = draft();
    fleet.plane.destroy_database(&first).unwrap();
    let second = draft();
    let path = fleet.dir.path().join("some.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
    let error = fleet
        .plane
        .upload_database(&first, &mut fs::File::open(&path).unwrap(), UploadOptions::default())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Destroyed, "{error}");
    fleet
        .plane
        .upload_database(&second, &mut fs::File::open(&path).unwrap(), UploadOptions::default())
        .unwrap();
    assert_eq!(count(&fleet.connect("x"), "SELECT count(*) FROM t"), 0);
}
