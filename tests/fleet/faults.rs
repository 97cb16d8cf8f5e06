//! Each disk operation of each call fails once: the call reports the fault and leaves nothing behind.

use std::{
    fs,
    io::{Error as IoError, ErrorKind as IoErrorKind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use litefleet::{
    ConnectOptions, ControlPlane, CreateDatabaseInput, ErrorKind, ExportOptions, ListDatabases, Seed,
    UploadOptions,
    rusqlite::Connection,
    testing::{DiskOp, FaultHook},
};

use crate::support::{Fleet, assert_no_debris, contents, names};

/// A second plane over a root whose n-th disk operation after arming fails.
struct Faulty {
    plane: ControlPlane,
    countdown: Arc<AtomicUsize>,
}

const OFF: usize = usize::MAX;

impl Faulty {
    fn over(fleet: &Fleet, fault: IoErrorKind) -> Self {
        let countdown = Arc::new(AtomicUsize::new(OFF));
        let armed = Arc::clone(&countdown);
        let hook: Arc<FaultHook> = Arc::new(move |_: DiskOp, _: &_| {
            match armed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                (left != OFF).then(|| left.wrapping_sub(1))
            }) {
                Ok(0) => Err(IoError::from(fault)),
                _ => Ok(()),
            }
        });
        let plane = ControlPlane::builder().fault_hook(hook).open(fleet.plane.root()).unwrap();
        Self { plane, countdown }
    }
}

/// A fleet whose group `default` has a directory of another name, because a renamed group occupies `default`.
fn renamed() -> Fleet {
    let fleet = Fleet::new();
    fleet.plane.rename_group("default", "old").unwrap();
    fleet.plane.create_group("default").unwrap();
    fleet
}

/// Runs `call` with its first disk operation failing, then its second, and so on until it succeeds. Returns the
/// number of operations.
fn each_step_fails_once(
    fleet: &Fleet,
    call: impl Fn(&ControlPlane) -> litefleet::Result<()>,
    undone: impl Fn(&ControlPlane),
) -> usize {
    each_step_fails_once_with(fleet, (IoErrorKind::StorageFull, ErrorKind::DiskFull), call, undone)
}

/// Like [`each_step_fails_once`], with the given I/O error and the expected kind of the call's error.
fn each_step_fails_once_with(
    fleet: &Fleet,
    (fault, kind): (IoErrorKind, ErrorKind),
    call: impl Fn(&ControlPlane) -> litefleet::Result<()>,
    undone: impl Fn(&ControlPlane),
) -> usize {
    let faulty = Faulty::over(fleet, fault);
    for step in 0.. {
        faulty.countdown.store(step, Ordering::SeqCst);
        let answer = call(&faulty.plane);
        let left = faulty.countdown.swap(OFF, Ordering::SeqCst);
        match answer {
            Err(error) => {
                assert_eq!(error.kind(), kind, "step {step}: {error}");
                undone(&fleet.plane);
                assert_no_debris(&fleet.plane);
            }
            // The failed operation was a cleanup, which the next open repeats.
            Ok(()) if left > step => return step,
            Ok(()) => return step,
        }
        assert!(step < 100, "the call never succeeds");
    }
    unreachable!()
}

#[test]
fn create_failing_at_any_step_leaves_nothing() {
    for fleet in [Fleet::new(), renamed()] {
        let steps = each_step_fails_once(
            &fleet,
            |plane| plane.create_database(CreateDatabaseInput::new("a", "default")).map(|_| ()),
            |plane| assert_eq!(plane.get_database("a").unwrap_err().kind(), ErrorKind::NotFound),
        );
        assert!(steps >= 7, "{steps}");
        fleet.run("a", "CREATE TABLE t(a)");
        assert_no_debris(&fleet.plane);
    }
}

#[test]
fn fork_failing_at_any_step_leaves_nothing() {
    let fleet = Fleet::new();
    fleet.create("source");
    let source = fleet.connect("source");
    source.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (randomblob(50000))").unwrap();
    let steps = each_step_fails_once(
        &fleet,
        |plane| plane.create_database(CreateDatabaseInput::fork("a", "source")).map(|_| ()),
        |plane| assert_eq!(plane.get_database("a").unwrap_err().kind(), ErrorKind::NotFound),
    );
    assert!(steps >= 9, "{steps}");
    assert_eq!(contents(&fleet.connect("a")), contents(&source));
    assert_no_debris(&fleet.plane);
}

#[test]
fn import_failing_at_any_step_leaves_nothing() {
    let fleet = Fleet::new();
    let path = fleet.dir.path().join("some.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t AS SELECT randomblob(50000)").unwrap();
    let steps = each_step_fails_once(
        &fleet,
        |plane| plane.import_database(CreateDatabaseInput::new("a", "default"), path.as_path()).map(|_| ()),
        |plane| assert_eq!(plane.get_database("a").unwrap_err().kind(), ErrorKind::NotFound),
    );
    assert!(steps >= 8, "{steps}");

    // A draft stays a draft after each failure, and the last upload completes it.
    fleet
        .plane
        .create_database(CreateDatabaseInput::new("b", "default").with_seed(Seed::DatabaseUpload))
        .unwrap();
    each_step_fails_once(
        &fleet,
        |plane| {
            plane
                .upload_database("b", &mut fs::File::open(&path).unwrap(), UploadOptions::default())
                .map(drop)
        },
        |plane| {
            assert_eq!(plane.connect("b", ConnectOptions::default()).unwrap_err().kind(), ErrorKind::Invalid);
        },
    );
    assert_eq!(contents(&fleet.connect("a")), contents(&fleet.connect("b")));
    assert_no_debris(&fleet.plane);
}

#[test]
fn export_failing_at_any_step_is_cleaned_up_by_the_next() {
    let fleet = Fleet::new();
    fleet.create("a");
    fleet.run("a", "CREATE TABLE t AS SELECT randomblob(50000) AS a");
    let dir = fleet.dir.path().join("exports");
    fs::create_dir(&dir).unwrap();
    let (target, other) = (dir.join("out.db"), dir.join("other.db"));
    let export =
        |plane: &ControlPlane, path: &Path| plane.export_database("a", path, ExportOptions::default());
    let steps = each_step_fails_once(
        &fleet,
        |plane| {
            export(plane, &target)?;
            fs::remove_file(&target).unwrap();
            Ok(())
        },
        |plane| {
            assert!(!target.exists());
            export(plane, &other).unwrap();
            assert_eq!(names(&dir), ["other.db"]);
            fs::remove_file(&other).unwrap();
        },
    );
    // Without reflinks there is one step fewer.
    assert!(steps >= 6, "{steps}");
}

#[test]
fn failed_destroy_leaves_database_unchanged() {
    let fleet = Fleet::new();
    fleet.create("a");
    fleet.run("a", "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    let before = contents(&fleet.connect("a"));
    let steps = each_step_fails_once_with(
        &fleet,
        // On a full disk the destroy would use the reserve and succeed.
        (IoErrorKind::PermissionDenied, ErrorKind::Io),
        |plane| plane.destroy_database("a"),
        |plane| assert_eq!(contents(&plane.connect("a", ConnectOptions::default()).unwrap()), before),
    );
    assert!(steps >= 1, "{steps}");
    assert_eq!(fleet.plane.get_database("a").unwrap_err().kind(), ErrorKind::NotFound);
    ControlPlane::open(fleet.plane.root()).unwrap();
    assert_no_debris(&fleet.plane);
}

#[test]
fn failed_destroy_group_leaves_group_and_databases() {
    let fleet = renamed();
    fleet.create("a");
    fleet.create("b");
    let open = fleet.connect("b");
    open.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    each_step_fails_once_with(
        &fleet,
        (IoErrorKind::PermissionDenied, ErrorKind::Io),
        |plane| plane.destroy_group("default"),
        |plane| {
            assert_eq!(plane.list_databases(ListDatabases::default()).unwrap().len(), 2);
            plane.connect("a", ConnectOptions::default()).unwrap();
            open.execute_batch("INSERT INTO t VALUES (2)").unwrap();
        },
    );
    assert_eq!(fleet.plane.get_group("default").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(open.execute_batch("INSERT INTO t VALUES (3)").is_err());
    ControlPlane::open(fleet.plane.root()).unwrap();
    assert_no_debris(&fleet.plane);
}
