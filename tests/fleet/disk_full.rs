//! Full disks: calls that free space still succeed.
//!
//! Some tests mount a small file system, which requires root, and are skipped otherwise.

use std::{
    fs::File,
    io::{Error as IoError, ErrorKind as IoErrorKind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use litefleet::{
    ConnectOptions, ControlPlane, CreateDatabaseInput, DatabaseChanges, Error, ErrorKind, GroupChanges,
    ListDatabases, MaintainOptions, Retention,
    testing::{DiskOp, FaultHook},
};

use crate::{
    filesystem::Mounted,
    support::{Fleet, assert_no_debris, count, names, refused},
};

const REMEDY: &str =
    "to free space, destroy a database or a group, or turn a history off and maintain its database";

/// Uses up all free space.
fn fill_up(dir: &Path) {
    let mut filler = File::options().append(true).create(true).open(dir.join("filler")).unwrap();
    let _full = std::io::copy(&mut std::io::repeat(1), &mut filler);
}

/// The number of pieces left of the reserve.
fn reserve(root: &Path) -> usize {
    names(root).iter().filter(|name| name.starts_with(".reserve-")).count()
}

/// A root on a small disk, with databases of 200 KB in two groups.
fn small(databases: &[&str]) -> Option<(Mounted, ControlPlane)> {
    let disk = Mounted::new(&["-t", "tmpfs", "-o", "size=8m", "tmpfs"])?;
    let plane = ControlPlane::open(disk.0.path().join("root")).unwrap();
    for group in ["default", "other"] {
        plane.create_group(group).unwrap();
    }
    for (at, name) in databases.iter().enumerate() {
        let group = ["default", "other"][at % 2];
        plane.create_database(CreateDatabaseInput::new(*name, group)).unwrap();
        let connection = plane.connect(*name, ConnectOptions::default()).unwrap();
        connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (randomblob(200000))").unwrap();
    }
    Some((disk, plane))
}

#[test]
fn full_disk_allows_open_list_unprotect_and_destroy() {
    let Some((disk, plane)) = small(&["a", "b", "c", "d"]) else { return };
    let root = plane.root().to_owned();
    assert_eq!(reserve(&root), 4);
    plane.configure_database("a", DatabaseChanges::default().delete_protection(true)).unwrap();
    plane.configure_group("other", GroupChanges::default().delete_protection(true)).unwrap();
    // Closed, so that even the catalog's wal-index must be created.
    drop(plane);
    fill_up(disk.0.path());
    let plane = ControlPlane::open(&root).unwrap();
    fill_up(disk.0.path());
    assert_eq!(plane.list_databases(ListDatabases::default()).unwrap().len(), 4);
    assert_eq!(plane.get_database("a").unwrap().name.as_str(), "a");
    let (kind, text) = refused(plane.create_database(CreateDatabaseInput::new("e", "default")));
    assert!(kind == ErrorKind::DiskFull && text.ends_with(REMEDY), "{text}");

    plane.configure_database("a", DatabaseChanges::default().delete_protection(false)).unwrap();
    fill_up(disk.0.path());
    plane.destroy_database("a").unwrap();
    fill_up(disk.0.path());
    plane.configure_group("other", GroupChanges::default().delete_protection(false)).unwrap();
    fill_up(disk.0.path());
    plane.destroy_group("other").unwrap();
    let left: Vec<_> = plane.list_databases(ListDatabases::default()).unwrap();
    assert_eq!(left.iter().map(|database| database.name.as_str()).collect::<Vec<_>>(), ["c"]);
    assert_eq!(names(&root.join("default")), ["c", "group.json"]);
    // Other databases can use the freed space.
    let connection = plane.connect("c", ConnectOptions::default()).unwrap();
    connection.execute_batch("DELETE FROM t").unwrap();
    drop(connection);

    // Once there is space, the next open restores the reserve.
    std::fs::remove_file(disk.0.path().join("filler")).unwrap();
    let plane = ControlPlane::open(&root).unwrap();
    assert_eq!(reserve(&root), 4);
    assert_no_debris(&plane);
}

#[test]
fn full_disk_allows_removal_of_a_history() {
    let Some((disk, plane)) = small(&["a"]) else { return };
    let connection = plane.connect("a", ConnectOptions::default()).unwrap();
    for _ in 0..4 {
        connection.execute_batch("UPDATE t SET a = randomblob(200000)").unwrap();
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    }
    let archive = plane.database_path("a").unwrap().with_file_name("archive");
    let segments = || {
        names(&archive)
            .iter()
            .filter(|name| Path::new(name).extension().is_some_and(|it| it == "wal"))
            .count()
    };
    assert!(segments() > 2);
    fill_up(disk.0.path());
    let error = connection.execute_batch("UPDATE t SET a = randomblob(200000)").unwrap_err();
    let error = Error::from_sqlite(&connection, error);
    assert_eq!(error.kind(), ErrorKind::DiskFull);
    assert!(error.to_string().ends_with(REMEDY), "{error}");
    let off = DatabaseChanges::default().history_window(Retention::OFF);
    plane.configure_database("a", off).unwrap();
    fill_up(disk.0.path());
    let done = plane.maintain_database("a", MaintainOptions::default()).unwrap();
    assert!(done.bytes_freed > 500_000, "{done:?}");
    assert_eq!(segments(), 0);
    connection.execute_batch("DELETE FROM t").unwrap();
}

#[test]
fn concurrent_destroys_on_a_full_disk_share_the_reserve() {
    let databases = ["a", "b", "c", "d"];
    let Some((disk, plane)) = small(&databases) else { return };
    let planes: Vec<_> = databases.iter().map(|_| ControlPlane::open(plane.root()).unwrap()).collect();
    fill_up(disk.0.path());
    thread::scope(|scope| {
        for (plane, name) in planes.iter().zip(databases) {
            scope.spawn(move || plane.destroy_database(name).unwrap());
        }
    });
    assert_eq!(plane.list_databases(ListDatabases::default()).unwrap(), []);
}

#[test]
fn disk_without_free_inodes_allows_destroy() {
    let Some(disk) = Mounted::new(&["-t", "tmpfs", "-o", "size=8m,nr_inodes=60", "tmpfs"]) else { return };
    let root = disk.0.path().join("root");
    let plane = ControlPlane::open(&root).unwrap();
    plane.create_group("default").unwrap();
    plane.create_database(CreateDatabaseInput::new("a", "default")).unwrap();
    drop(plane);
    let spare = disk.0.path().join("spare");
    std::fs::create_dir(&spare).unwrap();
    assert!((0..1000).take_while(|at| File::create(spare.join(at.to_string())).is_ok()).count() < 1000);
    let plane = ControlPlane::open(&root).unwrap();
    plane.destroy_database("a").unwrap();
    assert_eq!(plane.list_databases(ListDatabases::default()).unwrap(), []);
}

/// A plane for which the disk is full during the next `left` renames of the database `a`.
fn plane_with_full_disk(fleet: &Fleet) -> (ControlPlane, Arc<AtomicUsize>) {
    let left = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&left);
    let hook: Arc<FaultHook> = Arc::new(move |step: DiskOp, path: &Path| {
        let is_databases = step == DiskOp::Rename && path.ends_with("a");
        let is_full = is_databases
            && counted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if is_full { Err(IoError::from(IoErrorKind::StorageFull)) } else { Ok(()) }
    });
    (ControlPlane::builder().fault_hook(hook).open(fleet.plane.root()).unwrap(), left)
}

#[test]
fn each_attempt_releases_one_piece_of_the_reserve() {
    let fleet = Fleet::new();
    fleet.create("a");
    fleet.run("a", "CREATE TABLE t(a)");
    let (plane, left) = plane_with_full_disk(&fleet);
    let root = fleet.plane.root();
    assert_eq!(reserve(root), 4);
    // More failures than pieces.
    left.store(5, Ordering::SeqCst);
    let (kind, text) = refused(plane.destroy_database("a"));
    assert!(kind == ErrorKind::DiskFull && text.ends_with(REMEDY), "{text}");
    assert_eq!((left.load(Ordering::SeqCst), reserve(root)), (0, 0));
    assert_eq!(count(&fleet.connect("a"), "SELECT count(*) FROM t"), 0);

    let plane_again = ControlPlane::open(root).unwrap();
    assert_eq!(reserve(root), 4);
    left.store(4, Ordering::SeqCst);
    plane.destroy_database("a").unwrap();
    assert_eq!(reserve(root), 4);
    assert_no_debris(&plane_again);
}
