//! Roots that are not as a fleet left them, or where it may not write.

use std::{fs, path::Path, process::Command};

use litefleet::{ControlPlane, ErrorKind};

use crate::{
    filesystem::Mounted,
    support::{Fleet, refused},
};

fn open(root: &Path) -> (ErrorKind, String) {
    refused(ControlPlane::open(root))
}

/// SQLite takes an empty file for a new database, and throws the log beside it away.
#[test]
fn an_emptied_catalog_is_not_taken_for_a_new_one() {
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

    // What is left of a first open that was killed is carried on with.
    let begun = dir.path().join("begun");
    for made in [".staging", ".trash"] {
        fs::create_dir_all(begun.join(made)).unwrap();
    }
    fs::write(begun.join("control.db"), b"").unwrap();
    ControlPlane::open(&begun).unwrap().create_group("default").unwrap();
}

#[test]
fn a_root_that_is_not_writable_is_named() {
    let Some(disk) = Mounted::new(&["-t", "tmpfs", "tmpfs"]) else { return };
    let root = disk.0.path().join("root");
    drop(ControlPlane::open(&root).unwrap());
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(disk.0.path()).status();
    assert!(remounted.unwrap().success());
    for root in [root, disk.0.path().join("new")] {
        let (kind, text) = open(&root);
        assert_eq!(kind, ErrorKind::Io, "{text}");
        assert!(text.contains(root.to_str().unwrap()) && text.contains("must be writable"), "{text}");
    }
}

#[test]
fn what_stands_in_the_place_of_a_new_database_is_named() {
    let fleet = Fleet::new();
    let place = fleet.plane.root().join("default/orders");
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("data.db"), b"of another fleet").unwrap();
    let (kind, text) =
        refused(fleet.plane.create_database(litefleet::CreateDatabaseInput::new("orders", "default")));
    assert_eq!(kind, ErrorKind::Io, "{text}");
    assert!(text.contains(place.to_str().unwrap()) && text.contains("move it elsewhere"), "{text}");
    assert_eq!(fs::read(place.join("data.db")).unwrap(), b"of another fleet");
    fs::remove_dir_all(&place).unwrap();
    fleet.create("orders");
    fleet.assert_no_debris();
}
