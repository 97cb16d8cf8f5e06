//! Symbolic links in place of a fleet's files and directories are never followed, and their targets stay unchanged.

use std::{collections::BTreeMap, fs, os::unix::fs::symlink, path::Path};

use litefleet::{
    ConnectOptions, ControlPlane, CreateDatabaseInput, ErrorKind, ExportOptions, MaintainOptions,
    RestoreOptions, Timestamp, VerifyOptions,
};

use crate::support::{Fleet, names, refused};

/// The contents of all files below a path, and the targets of links. Excludes wal-index files, which processes share.
pub(crate) fn tree(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let name = path.to_str().unwrap().to_owned();
    let kind = fs::symlink_metadata(path).unwrap().file_type();
    if kind.is_symlink() {
        found.insert(name, fs::read_link(path).unwrap().to_str().unwrap().as_bytes().to_vec());
    } else if kind.is_dir() {
        for inner in names(path) {
            let inner = tree(&path.join(inner));
            found.extend(inner.into_iter().map(|(inner, bytes)| {
                (inner.strip_prefix(&format!("{name}/")).unwrap_or(&inner).to_owned(), bytes)
            }));
        }
        found.insert(String::new(), Vec::new());
    } else if !name.ends_with("-shm") {
        found.insert(name, fs::read(path).unwrap());
    }
    found
}

/// Moves a file or directory of a fleet elsewhere and puts a link in its place.
fn link_away(path: &Path, elsewhere: &Path) {
    fs::rename(path, elsewhere).unwrap();
    symlink(elsewhere, path).unwrap();
}

#[track_caller]
fn assert_names<T: std::fmt::Debug>(result: litefleet::Result<T>, path: &Path) {
    let (kind, text) = refused(result);
    assert_eq!(kind, ErrorKind::Io, "{text}");
    assert!(text.contains(path.to_str().unwrap()) && text.contains("symbolic link"), "{text}");
}

#[test]
fn open_refuses_linked_trash_and_staging_and_empties_no_target() {
    for name in [".trash", ".staging"] {
        let fleet = Fleet::new();
        let root = fleet.plane.root().to_owned();
        let victim = fleet.dir.path().join("documents");
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("letter"), b"dear").unwrap();
        let before = tree(&victim);
        fs::remove_dir(root.join(name)).unwrap();
        symlink(&victim, root.join(name)).unwrap();
        assert_names(ControlPlane::open(&root), &root.join(name));
        assert_eq!(tree(&victim), before);

        // A plane opened earlier writes nothing there either.
        fleet.plane.create_group("eu").unwrap();
        let created = fleet.plane.create_database(CreateDatabaseInput::new("orders", "eu"));
        if name == ".staging" {
            assert_names(created, &root.join(name));
        } else {
            created.unwrap();
            assert_names(fleet.plane.destroy_database("orders"), &root.join(name));
            fleet.connect("orders");
        }
        assert_eq!(tree(&victim), before);
        fs::remove_file(root.join(name)).unwrap();
        let plane = ControlPlane::open(&root).unwrap();
        plane.destroy_group("eu").unwrap();
        assert_eq!(tree(&victim), before);
    }
}

#[test]
fn group_and_database_directories_are_not_followed() {
    let at = Timestamp::now();
    for linked in ["default", "default/orders", "default/orders/data.db"] {
        let fleet = Fleet::new();
        fleet.create("orders");
        fleet.run("orders", "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
        let (plane, root) = (&fleet.plane, fleet.plane.root().to_owned());
        let elsewhere = fleet.dir.path().join("elsewhere");
        link_away(&root.join(linked), &elsewhere);
        let before = tree(&elsewhere);
        let named = root.join(linked);
        assert_names(plane.connect("orders", ConnectOptions::default()), &named);
        assert_names(plane.connect_at("orders", at, ConnectOptions::default()), &named);
        assert_names(plane.points("orders", ..), &named);
        assert_names(plane.maintain_database("orders", MaintainOptions::default()), &named);
        assert_names(plane.verify_database("orders", VerifyOptions::default()), &named);
        assert_names(plane.restore_database("orders", at, RestoreOptions::default()), &named);
        assert_names(plane.create_database(CreateDatabaseInput::fork("copy", "orders")), &named);
        let file = fleet.dir.path().join("exported");
        assert_names(plane.export_database("orders", &file, ExportOptions::default()), &named);
        assert!(!file.exists());
        if linked == "default" {
            assert_names(plane.create_database(CreateDatabaseInput::new("new", "default")), &named);
            assert_names(plane.destroy_database("orders"), &named);
        } else {
            // Only the link is removed.
            plane.destroy_database("orders").unwrap();
            fleet.assert_no_debris();
        }
        assert_eq!(tree(&elsewhere), before, "{linked}");
    }
}

#[test]
fn archive_is_not_followed() {
    let fleet = Fleet::new();
    fleet.create("orders");
    fleet.run("orders", "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    let archive = fleet.plane.root().join("default/orders/archive");
    let elsewhere = fleet.dir.path().join("elsewhere");
    link_away(&archive, &elsewhere);
    let before = tree(&elsewhere);
    assert_names(fleet.plane.points("orders", ..), &archive);
    assert_names(fleet.plane.maintain_database("orders", MaintainOptions::default()), &archive);
    assert_names(fleet.plane.verify_database("orders", VerifyOptions::default()), &archive);
    let connection = fleet.connect("orders");
    let error = connection.execute_batch("INSERT INTO t VALUES (2)").unwrap_err();
    let (kind, text) = refused::<()>(Err(litefleet::Error::from_sqlite(&connection, error)));
    assert!(kind == ErrorKind::Io && text.contains("symbolic link"), "{kind}: {text}");
    drop(connection);
    assert_eq!(tree(&elsewhere), before);
    fs::remove_file(&archive).unwrap();
    fs::rename(&elsewhere, &archive).unwrap();
    fleet.run("orders", "INSERT INTO t VALUES (2)");
    assert_eq!(fleet.plane.points("orders", ..).unwrap().points.len(), 3);
}
