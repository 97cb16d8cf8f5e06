//! A root or catalog that is replaced while a plane has it open: every call fails, and no file of the new root is
//! touched.

use std::{fs, path::Path, process::Command};

use litefleet::{
    ConnectOptions, ControlPlane, CreateDatabaseInput, DatabaseChanges, ErrorKind, ExportOptions,
    GroupChanges, ListDatabases, MaintainOptions, RestoreOptions, Result, Seed, Timestamp, UploadOptions,
    VerifyOptions,
};

use crate::{
    support::{Fleet, count},
    symlinks::tree,
};

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

fn changes() -> DatabaseChanges {
    DatabaseChanges::default().block_writes(true)
}

/// Every call that accesses the fleet.
fn calls(plane: &ControlPlane, file: &Path) -> Vec<(&'static str, Result<()>)> {
    let at = Timestamp::now();
    let new = || CreateDatabaseInput::new("new", "default");
    let connect = ConnectOptions::default();
    vec![
        ("list_databases", plane.list_databases(ListDatabases::default()).map(drop)),
        ("get_database", plane.get_database("orders").map(drop)),
        ("configure_database", plane.configure_database("orders", changes()).map(drop)),
        ("create_database", plane.create_database(new()).map(drop)),
        ("draft", plane.create_database(new().with_seed(Seed::DatabaseUpload)).map(drop)),
        ("fork", plane.create_database(CreateDatabaseInput::fork("new", "orders")).map(drop)),
        ("import_database", plane.import_database(new(), file).map(drop)),
        (
            "upload_database",
            plane
                .upload_database("draft", &mut fs::File::open(file).unwrap(), UploadOptions::default())
                .map(drop),
        ),
        ("connect", plane.connect("orders", connect.clone()).map(drop)),
        ("connect_at", plane.connect_at("orders", at, connect.clone()).map(drop)),
        (
            "restore_database",
            plane.restore_database("orders", at, RestoreOptions::from(connect.clone())).map(drop),
        ),
        ("database_path", plane.database_path("orders").map(drop)),
        ("database_size", plane.database_size("orders").map(drop)),
        ("points", plane.points("orders", ..).map(drop)),
        ("maintain_database", plane.maintain_database("orders", MaintainOptions::default()).map(drop)),
        ("verify_database", plane.verify_database("orders", VerifyOptions::default()).map(drop)),
        ("create_group", plane.create_group("new").map(drop)),
        ("get_group", plane.get_group("default").map(drop)),
        ("group_of_database", plane.group_of_database("orders").map(drop)),
        ("list_groups", plane.list_groups().map(drop)),
        ("rename_group", plane.rename_group("default", "new").map(drop)),
        (
            "configure_group",
            plane.configure_group("default", GroupChanges::default().delete_protection(true)).map(drop),
        ),
        (
            "export_database",
            plane.export_database("orders", plane.root().join("default/exported"), ExportOptions::default()),
        ),
        ("destroy_database", plane.destroy_database("orders")),
        ("destroy_group", plane.destroy_group("default")),
    ]
}

#[test]
fn every_call_detects_a_replaced_root_or_catalog() {
    for how in ["root replaced", "root removed", "catalog replaced", "catalog removed"] {
        let fleet = Fleet::new();
        fleet.create("orders");
        fleet
            .plane
            .create_database(CreateDatabaseInput::new("draft", "default").with_seed(Seed::DatabaseUpload))
            .unwrap();
        fleet.run("orders", "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
        let root = fleet.plane.root().to_owned();
        let (backup, file) = (fleet.dir.path().join("backup"), fleet.dir.path().join("file"));
        copy(&fleet.plane.database_path("orders").unwrap(), &file);
        copy(&root, &backup);
        let connection = fleet.connect("orders");
        assert_eq!(count(&connection, "SELECT count(*) FROM t"), 1);
        let control = root.join("control.db");
        match how {
            "root replaced" => {
                fs::rename(&root, fleet.dir.path().join("old")).unwrap();
                fs::rename(&backup, &root).unwrap();
            }
            "root removed" => fs::rename(&root, fleet.dir.path().join("old")).unwrap(),
            _ => {
                for name in ["control.db", "control.db-wal", "control.db-shm"] {
                    fs::remove_file(root.join(name)).unwrap();
                    if how == "catalog replaced" {
                        copy(&backup.join(name), &root.join(name));
                    }
                }
            }
        }
        let files = || if root.exists() { Some(tree(&root)) } else { None };
        let before = files();
        for (call, answer) in calls(&fleet.plane, &file) {
            let error = answer.expect_err(&format!("{how}: {call}"));
            assert_eq!(error.kind(), ErrorKind::Replaced, "{how}: {call}: {error}");
            let text = error.to_string();
            let named = if how.starts_with("root") { &root } else { &control };
            assert!(
                text.contains(named.to_str().unwrap()) && text.contains("open the control plane again"),
                "{text}"
            );
        }
        // An open connection keeps its file.
        assert_eq!(count(&connection, "SELECT count(*) FROM t"), 1);
        drop(connection);
        if how.starts_with("root") {
            assert_eq!(files(), before, "{how}");
        }
        if how.ends_with("replaced") {
            let again = ControlPlane::open(&root).unwrap();
            assert!(!again.get_database("orders").unwrap().block_writes);
            let connection = again.connect("orders", ConnectOptions::default()).unwrap();
            assert_eq!(count(&connection, "SELECT count(*) FROM t"), 1);
        }
    }
}

/// A call in progress stops when the root is replaced.
#[test]
fn running_call_stops_at_a_replaced_root() {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };
    for step in [
        litefleet::testing::DiskOp::Rename,
        litefleet::testing::DiskOp::Create,
        litefleet::testing::DiskOp::SyncDir,
    ] {
        let fleet = Fleet::new();
        fleet.create("orders");
        fleet.run("orders", "CREATE TABLE t(a)");
        let root = fleet.plane.root().to_owned();
        let (backup, old) = (fleet.dir.path().join("backup"), fleet.dir.path().join("old"));
        let armed = Arc::new(AtomicBool::new(false));
        let hook: Arc<litefleet::testing::FaultHook> = Arc::new({
            let (armed, root, backup) = (Arc::clone(&armed), root.clone(), backup.clone());
            move |at, _| {
                if at == step && armed.swap(false, Ordering::SeqCst) {
                    fs::rename(&root, &old)?;
                    fs::rename(&backup, &root)?;
                }
                Ok(())
            }
        });
        let plane = ControlPlane::builder().fault_hook(hook).open(&root).unwrap();
        copy(&root, &backup);
        let before = tree(&backup);
        armed.store(true, Ordering::SeqCst);
        let error = match step {
            litefleet::testing::DiskOp::Rename => plane.destroy_database("orders").unwrap_err(),
            _ => plane.create_database(CreateDatabaseInput::fork("copy", "orders")).map(drop).unwrap_err(),
        };
        assert!(!armed.load(Ordering::SeqCst));
        assert_eq!(error.kind(), ErrorKind::Replaced, "{step:?}: {error}");
        assert_eq!(tree(&root), before, "{step:?}");
    }
}
