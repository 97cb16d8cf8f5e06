//! Fleets on read-only disks: list, read and export work, and every other call fails with the reason.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use litefleet::{
    AttachOptions, Cipher, ConnectOptions, ControlPlane, CreateDatabaseInput, DatabaseChanges, EncryptionKey,
    ErrorKind, ExportOptions, GroupChanges, ListDatabases, MaintainOptions, RemoteEncryption, RestoreOptions,
    Result, Retention, Timestamp, VerifyOptions, rusqlite::Connection,
};

use crate::{
    filesystem::Mounted,
    ownership::{Shared, run_command},
    support::{Fleet, count, refused},
};

fn key() -> EncryptionKey {
    EncryptionKey::from_base64("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").unwrap()
}

fn options(name: &str) -> ConnectOptions {
    let options = ConnectOptions::default();
    if name.starts_with("sealed") { options.encryption_key(key()) } else { options }
}

/// A copy of a fleet on a disk mounted read-only: two closed databases, and two whose process was killed, with one
/// row in the database file and one in the WAL. At the returned instant each has one row.
fn read_only_copy(fleet: &Fleet) -> Option<(Mounted, PathBuf, Timestamp)> {
    let disk = Mounted::new(&["-t", "tmpfs", "tmpfs"])?;
    let encryption = RemoteEncryption::new(key(), Cipher::Aegis256).unwrap();
    for (name, sealed) in [("rest", false), ("killed", false), ("sealed-rest", true), ("sealed-killed", true)]
    {
        let mut input = CreateDatabaseInput::new(name, "default");
        input.remote_encryption = sealed.then(|| encryption.clone());
        fleet.plane.create_database(input).unwrap();
        let connection = fleet.plane.connect(name, options(name)).unwrap();
        connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    }
    let at = Timestamp::now();
    let open: Vec<Connection> = ["rest", "killed", "sealed-rest", "sealed-killed"]
        .into_iter()
        .filter_map(|name| {
            let connection = fleet.plane.connect(name, options(name)).unwrap();
            connection.execute_batch("INSERT INTO t VALUES (2)").unwrap();
            name.ends_with("killed").then_some(connection)
        })
        .collect();
    let root = disk.0.path().join("root");
    assert!(Command::new("cp").arg("-a").args([fleet.plane.root(), &root]).status().unwrap().success());
    drop(open);
    assert!(fs::metadata(root.join("default/killed/data.db-wal")).unwrap().len() > 0);
    remount(&disk, "ro");
    Some((disk, root, at))
}

fn remount(disk: &Mounted, how: &str) {
    let remounted = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(disk.0.path()).status();
    assert!(remounted.unwrap().success());
}

#[test]
fn read_only_disk_is_listed_read_and_exported() {
    let fleet = Fleet::new();
    let Some((_disk, root, at)) = read_only_copy(&fleet) else { return };
    assert_eq!(refused(ControlPlane::open(&root)).0, ErrorKind::ReadOnly);
    let plane = ControlPlane::open_read_only(&root).unwrap();
    let names: Vec<_> = plane
        .list_databases(ListDatabases::default())
        .unwrap()
        .into_iter()
        .map(|database| database.name.as_str().to_owned())
        .collect();
    assert_eq!(names, ["killed", "rest", "sealed-killed", "sealed-rest"]);
    assert_eq!(plane.list_groups().unwrap().len(), 1);
    for name in &names {
        let name = name.as_str();
        let connection = plane.connect(name, options(name)).unwrap();
        assert_eq!(count(&connection, "SELECT sum(a) FROM t"), 3, "{name}");
        assert!(connection.execute_batch("INSERT INTO t VALUES (3)").is_err(), "{name}");
        let other = if name.starts_with("sealed") { "sealed-rest" } else { "killed" };
        let other_key = options(other).clone();
        let attached_key = name.starts_with("sealed").then(key);
        plane
            .attach(
                &connection,
                other,
                "other",
                attached_key
                    .clone()
                    .into_iter()
                    .fold(AttachOptions::default(), AttachOptions::encryption_key),
            )
            .unwrap();
        assert_eq!(count(&connection, "SELECT sum(a) FROM other.t"), 3, "{name}");
        drop((connection, other_key));
        let (view, _) = plane.connect_at(name, at, options(name)).unwrap();
        assert_eq!(count(&view, "SELECT sum(a) FROM t"), 1, "{name}");
        assert!(plane.points(name, ..).unwrap().points.len() >= 3, "{name}");
        let verified = plane.verify_database(name, VerifyOptions::default()).unwrap();
        assert_eq!(verified.findings, [], "{name}");
        for (at, expected) in [(None, 3), (Some(at), 1)] {
            let file = fleet.dir.path().join(format!("{name}-{expected}"));
            let mut export = ExportOptions::default();
            if let Some(at) = at {
                export = export.at(at);
            }
            if name.starts_with("sealed") {
                export = export.encryption_key(key()).decrypt(true);
            }
            plane.export_database(name, &file, export).unwrap();
            assert_eq!(count(&Connection::open(&file).unwrap(), "SELECT sum(a) FROM t"), expected, "{name}");
        }
    }
    let wrong = plane.connect(
        "sealed-rest",
        options("rest").encryption_key(
            EncryptionKey::from_base64("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWE=").unwrap(),
        ),
    );
    assert_eq!(refused(wrong).0, ErrorKind::WrongKey);
}

#[test]
fn read_only_plane_refuses_every_change() {
    let fleet = Fleet::new();
    let Some((_disk, root, at)) = read_only_copy(&fleet) else { return };
    let plane = ControlPlane::open_read_only(&root).unwrap();
    let file = fleet.dir.path().join("file");
    Connection::open(&file).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
    let new = || CreateDatabaseInput::new("new", "default");
    let connect = ConnectOptions::default();
    let changes: Vec<(&str, Result<()>)> = vec![
        (
            "configure",
            plane.configure_database("rest", DatabaseChanges::default().block_reads(true)).map(drop),
        ),
        ("create", plane.create_database(new()).map(drop)),
        ("fork", plane.create_database(CreateDatabaseInput::fork("new", "rest")).map(drop)),
        ("import", plane.import_database(new(), file.as_path()).map(drop)),
        ("restore", plane.restore_database("rest", at, RestoreOptions::from(connect.clone())).map(drop)),
        ("maintain", plane.maintain_database("rest", MaintainOptions::default()).map(drop)),
        ("destroy", plane.destroy_database("rest")),
        ("create group", plane.create_group("new").map(drop)),
        ("rename group", plane.rename_group("default", "new").map(drop)),
        (
            "protect group",
            plane.configure_group("default", GroupChanges::default().delete_protection(true)).map(drop),
        ),
        (
            "window",
            plane
                .configure_group("default", GroupChanges::default().history_window(Retention::default()))
                .map(drop),
        ),
        ("destroy group", plane.destroy_group("default")),
    ];
    for (change, answer) in changes {
        let (kind, text) = refused(answer);
        assert_eq!(kind, ErrorKind::ReadOnly, "{change}: {text}");
        assert!(text.contains(root.to_str().unwrap()) && text.contains("read-only"), "{change}: {text}");
    }
}

/// If the WAL cannot be read, the database is refused: without it, the contents would be outdated.
#[test]
fn log_without_its_index_is_refused_on_a_read_only_disk() {
    let fleet = Fleet::new();
    let Some((disk, root, _)) = read_only_copy(&fleet) else { return };
    remount(&disk, "rw");
    let left = |name: &str, suffix: &str| root.join(format!("default/{name}/data.db{suffix}"));
    for name in ["killed", "sealed-killed"] {
        fs::remove_file(left(name, "-shm")).unwrap();
    }
    fs::write(left("rest", "-journal"), [0; 512]).unwrap();
    remount(&disk, "ro");
    let plane = ControlPlane::open_read_only(&root).unwrap();
    let check = |name: &str, left: &Path| {
        let (kind, text) = refused(plane.connect(name, options(name)));
        assert_eq!(kind, ErrorKind::ReadOnly, "{text}");
        assert!(text.contains(left.to_str().unwrap()), "{text}");
    };
    check("killed", &left("killed", "-wal"));
    check("sealed-killed", &left("sealed-killed", "-wal"));
    check("rest", &left("rest", "-journal"));
    plane.connect("sealed-rest", options("sealed-rest")).unwrap();
}

#[test]
fn program_reads_a_fleet_without_write_permission() {
    let Some(shared) = Shared::new() else { return };
    run_command(shared.user(
        "$LF group create g; $LF db create p --group g; $LF db shell p 'CREATE TABLE t(a); INSERT INTO t VALUES (1)'
         chmod -R a-w $LITEFLEET_ROOT",
    ));
    fs::create_dir(shared.dir().join("out")).unwrap();
    std::os::unix::fs::chown(shared.dir().join("out"), Some(65534), Some(65534)).unwrap();
    let listed = run_command(
        shared.user("$LF --json db list; $LF group list; $LF db show p; $LF db points p; $LF db verify p"),
    );
    assert!(listed.contains("\"p\""), "{listed}");
    assert!(run_command(shared.user("$LF db shell p 'SELECT a + 41 FROM t'")).contains("42"));
    run_command(shared.user("$LF db export p out/p.db"));
    assert_eq!(count(&Connection::open(shared.dir().join("out/p.db")).unwrap(), "SELECT a FROM t"), 1);
    for change in
        ["$LF db create new --group g", "$LF db destroy p --yes", "$LF db config p --block-reads true"]
    {
        let output = shared.user(change).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains("read-only"), "{change}: {text}");
    }
    let output = shared.user("$LF db shell p 'INSERT INTO t VALUES (2)'").output().unwrap();
    assert!(!output.status.success());
}
