//! Behavior on real file systems: one that is full, and one that shares blocks.
//!
//! Each test mounts a small file system, which requires root and, for the second, `mkfs.xfs` or `mkfs.btrfs`. A test
//! that cannot mount one is skipped.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Stdio},
};

use litefleet::{ConnectOptions, ControlPlane, CreateDatabaseInput, ErrorKind, Upload, rusqlite::Connection};
use tempfile::TempDir;

use crate::support::{assert_no_debris, contents, count, refused};

pub(crate) struct Mounted(pub(crate) TempDir);

impl Mounted {
    pub(crate) fn new(arguments: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(arguments).arg(dir.path()).stderr(Stdio::null()).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        skipped(&format!("mounting {arguments:?} is not permitted"));
        None
    }
}

/// Reports on stderr that a test was skipped, because the output of passing tests is not shown.
fn skipped(reason: &str) {
    let test = std::thread::current();
    let line = format!("{}: skipped: {reason}\n", test.name().unwrap_or_default());
    let _best_effort = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _best_effort = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn fill(connection: &Connection, megabytes: u32) {
    connection
        .execute_batch(&format!(
            "CREATE TABLE t(a); WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {megabytes} * 16)
             INSERT INTO t SELECT randomblob(65536) FROM n; PRAGMA wal_checkpoint(TRUNCATE)"
        ))
        .unwrap();
}

#[test]
fn fork_and_import_on_a_full_disk_leave_nothing() {
    let Some(disk) = Mounted::new(&["-t", "tmpfs", "-o", "size=18m", "tmpfs"]) else { return };
    let plane = ControlPlane::open(disk.0.path().join("root")).unwrap();
    plane.create_group("default").unwrap();
    plane.create_database(CreateDatabaseInput::new("source", "default")).unwrap();
    let source = plane.connect("source", ConnectOptions::default()).unwrap();
    source.execute_batch("PRAGMA wal_autocheckpoint=100").unwrap();
    for _ in 0..5 {
        source
            .execute_batch("CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES (randomblob(1000000))")
            .unwrap();
        source.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    }
    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("large.db");
    fill(&Connection::open(&file).unwrap(), 10);

    // The first fork fits, the next one does not.
    plane.create_database(CreateDatabaseInput::fork("fits", "source")).unwrap();
    let before = contents(&source);
    for _ in 0..3 {
        let answer = plane.create_database(CreateDatabaseInput::fork("copy", "source"));
        assert_eq!(refused(answer).0, ErrorKind::DiskFull);
        let input = CreateDatabaseInput::new("copy", "default");
        assert_eq!(refused(plane.import_database(input.clone(), file.as_path())).0, ErrorKind::DiskFull);
        let answer = plane.import_database(input, Upload::Reader(&mut File::open(&file).unwrap()));
        assert_eq!(refused(answer).0, ErrorKind::DiskFull);
        assert_eq!(refused(plane.get_database("copy")).0, ErrorKind::NotFound);
        assert_no_debris(&plane);
    }
    assert_eq!(contents(&source), before);

    // Without a free byte the catalog cannot be written either. Once there is space, calls succeed again.
    let filler = disk.0.path().join("filler");
    let _full = std::io::copy(&mut std::io::repeat(1), &mut File::create(&filler).unwrap());
    let answer = plane.create_database(CreateDatabaseInput::new("late", "default"));
    assert_eq!(refused(answer).0, ErrorKind::DiskFull);
    assert_eq!(refused(plane.get_database("late")).0, ErrorKind::NotFound);
    fs::remove_file(&filler).unwrap();
    let plane = ControlPlane::open(plane.root()).unwrap();
    assert_no_debris(&plane);
    plane.create_database(CreateDatabaseInput::new("late", "default")).unwrap();
    plane.destroy_database("fits").unwrap();
    plane.create_database(CreateDatabaseInput::fork("copy", "source")).unwrap();
    assert_eq!(contents(&plane.connect("copy", ConnectOptions::default()).unwrap()), before);
}

/// SQLite reports "disk I/O error" if there is no space for the wal-index.
#[test]
fn full_disk_is_reported_as_disk_full() {
    let Some(disk) = Mounted::new(&["-t", "tmpfs", "-o", "size=2m,nr_inodes=40", "tmpfs"]) else { return };
    let root = disk.0.path().join("root");
    let plane = ControlPlane::open(&root).unwrap();
    plane.create_group("default").unwrap();
    for name in ["a", "b"] {
        plane.create_database(CreateDatabaseInput::new(name, "default")).unwrap();
        let connection = plane.connect(name, ConnectOptions::default()).unwrap();
        connection.execute_batch("CREATE TABLE t(a)").unwrap();
    }
    let check = |answer: litefleet::Result<()>| {
        let (kind, text) = refused(answer);
        assert_eq!(kind, ErrorKind::DiskFull, "{text}");
        assert!(text.contains("the disk is full"), "{text}");
    };
    let connect =
        |plane: &ControlPlane, name: &str| plane.connect(name, ConnectOptions::default()).map(|_| ());
    let open = || ControlPlane::open(&root).map(|_| ());
    let filler = disk.0.path().join("filler");

    let fill_up = || {
        let mut filler = File::options().append(true).create(true).open(&filler).unwrap();
        let _full = std::io::copy(&mut std::io::repeat(1), &mut filler);
    };
    fill_up();
    check(connect(&plane, "a"));
    fs::remove_file(&filler).unwrap();
    // Closed, so that the catalog's WAL and wal-index must be created.
    drop(plane);
    fill_up();
    check(open());
    fs::remove_file(&filler).unwrap();

    // Free space, but no free inode.
    let spare = disk.0.path().join("spare");
    let take_names = || {
        fs::create_dir(&spare).unwrap();
        (0..1000).take_while(|at| File::create(spare.join(at.to_string())).is_ok()).count()
    };
    let plane = ControlPlane::open(&root).unwrap();
    take_names();
    check(connect(&plane, "b"));
    fs::remove_dir_all(&spare).unwrap();
    drop(plane);
    take_names();
    check(open());
    fs::remove_dir_all(&spare).unwrap();
    connect(&ControlPlane::open(&root).unwrap(), "a").unwrap();
}

/// The used bytes of a file system.
fn used(path: &Path) -> u64 {
    let output = Command::new("df").args(["--output=used", "-B1"]).arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().nth(1).unwrap().trim().parse().unwrap()
}

#[test]
fn fork_shares_blocks_on_reflink_file_systems() {
    let dir = tempfile::tempdir().unwrap();
    for make in [["mkfs.xfs", "-q"], ["mkfs.btrfs", "-q"]] {
        let image = dir.path().join(make[0]);
        File::create(&image).unwrap().set_len(400 << 20).unwrap();
        let made = Command::new(make[0]).arg(make[1]).arg(&image).stderr(Stdio::null()).status();
        if !made.is_ok_and(|status| status.success()) {
            skipped(&format!("{} is not installed", make[0]));
            continue;
        }
        let Some(disk) = Mounted::new(&["-o", "loop", image.to_str().unwrap()]) else { continue };
        let plane = ControlPlane::open(disk.0.path().join("root")).unwrap();
        plane.create_group("default").unwrap();
        plane.create_database(CreateDatabaseInput::new("source", "default")).unwrap();
        let source = plane.connect("source", ConnectOptions::default()).unwrap();
        fill(&source, 64);
        source.execute_batch("DELETE FROM t WHERE rowid = 1").unwrap();
        assert!(Command::new("sync").status().unwrap().success());
        let before = used(disk.0.path());
        for fork in 0..3 {
            let name = format!("fork-{fork}");
            plane.create_database(CreateDatabaseInput::fork(&name, "source")).unwrap();
            let fork = plane.connect(&name, ConnectOptions::default()).unwrap();
            assert_eq!(count(&fork, "SELECT count(*) FROM t"), 64 * 16 - 1);
            assert_eq!(
                fork.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(),
                "ok"
            );
            assert!(fs::metadata(plane.database_path(&name).unwrap()).unwrap().size() > 64 << 20);
        }
        assert!(Command::new("sync").status().unwrap().success());
        let grown = used(disk.0.path()).saturating_sub(before);
        assert!(grown < 32 << 20, "{}: three forks of 64 MB took {grown} bytes", make[0]);
        // Writes to a fork do not affect its source.
        let fork = plane.connect("fork-0", ConnectOptions::default()).unwrap();
        fork.execute_batch("DELETE FROM t; VACUUM; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        assert_eq!(count(&source, "SELECT count(*) FROM t"), 64 * 16 - 1);
        assert_no_debris(&plane);
    }
}
