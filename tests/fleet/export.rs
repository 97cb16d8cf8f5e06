//! Exports: leftover files beside the target, leftovers of dead exports, and concurrent exports.

use std::{
    error::Error as _,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use litefleet::{
    Cipher, ConnectOptions, ControlPlane, CreateDatabaseInput, EncryptionKey, ErrorKind, ExportOptions,
    PageFormat, RemoteEncryption, Timestamp,
    rusqlite::{self, Connection},
    testing::DiskOp,
};

use crate::support::{Fleet, contents, count, names, refused};

const SUFFIXES: [&str; 3] = ["-wal", "-journal", "-shm"];

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn export(plane: &ControlPlane, path: &Path) -> litefleet::Result<()> {
    plane.export_database("a", path, ExportOptions::default())
}

/// A fleet with the database `a`, and a directory for exports.
fn fleet() -> (Fleet, PathBuf) {
    let fleet = Fleet::new();
    fleet.create("a");
    fleet.run("a", "CREATE TABLE t(a); INSERT INTO t VALUES (1), (2)");
    let dir = fleet.dir.path().join("exports");
    fs::create_dir(&dir).unwrap();
    (fleet, dir)
}

/// A WAL with committed rows of another database, as a killed process leaves it.
fn foreign_log(dir: &Path) -> Vec<u8> {
    let path = dir.join("foreign.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES (-999)")
        .unwrap();
    let log = fs::read(beside(&path, "-wal")).unwrap();
    drop(connection);
    fs::remove_file(path).unwrap();
    log
}

#[test]
fn export_refuses_leftover_log_journal_and_index() {
    let (fleet, dir) = fleet();
    let key = EncryptionKey::generate(Cipher::Aegis256).unwrap();
    let encryption = RemoteEncryption::new(key.clone(), Cipher::Aegis256).unwrap();
    fleet
        .plane
        .create_database(CreateDatabaseInput::new("sealed", "default").with_encryption(encryption))
        .unwrap();
    let options = ExportOptions::default;
    let with_key = || options().encryption_key(key.clone());
    let now = Timestamp::now();
    let variants: [(&str, &dyn Fn() -> ExportOptions<'static>); 5] = [
        ("a", &options),
        ("a", &|| options().at(now)),
        ("sealed", &options),
        ("sealed", &|| with_key().decrypt(true)),
        ("sealed", &|| with_key().page_format(PageFormat::Turso)),
    ];
    let log = foreign_log(&dir);
    for suffix in SUFFIXES {
        for (name, options) in variants {
            let target = dir.join("out.db");
            let left = beside(&target, suffix);
            fs::write(&left, &log).unwrap();
            let exported = fleet.plane.export_database(name, &target, options());
            let (kind, message) = refused(exported);
            assert_eq!(kind, ErrorKind::AlreadyExists, "{message}");
            assert!(message.starts_with(left.to_str().unwrap()), "{message}");
            assert_eq!(names(&dir), [format!("out.db{suffix}")]);
            assert_eq!(fs::read(&left).unwrap(), log);
            fs::remove_file(&left).unwrap();
            fleet.plane.export_database(name, &target, options()).unwrap();
            fs::remove_file(&target).unwrap();
        }
        // SQLite would follow the link when it creates the file.
        let left = beside(&dir.join("out.db"), suffix);
        symlink("nowhere", &left).unwrap();
        assert_eq!(refused(export(&fleet.plane, &dir.join("out.db"))).0, ErrorKind::AlreadyExists);
        fs::remove_file(&left).unwrap();
    }
    symlink("nowhere", dir.join("out.db")).unwrap();
    assert_eq!(refused(export(&fleet.plane, &dir.join("out.db"))).0, ErrorKind::AlreadyExists);
}

#[test]
fn vacuum_into_removes_leftover_log_and_journal() {
    let (fleet, dir) = fleet();
    let log = foreign_log(&dir);
    let source = fleet.connect("a");
    for suffix in ["-wal", "-journal"] {
        let target = dir.join("vacuumed.db");
        fs::write(beside(&target, suffix), &log).unwrap();
        source.execute("VACUUM INTO ?1", [target.to_str().unwrap()]).unwrap();
        assert_eq!(contents(&Connection::open(&target).unwrap()), contents(&source));
        fs::remove_file(&target).unwrap();
    }
}

/// A plane that calls `hook` before each disk operation.
fn hooked(fleet: &Fleet, hook: impl Fn(DiskOp, &Path) + Send + Sync + 'static) -> ControlPlane {
    let hook = move |step: DiskOp, path: &Path| {
        hook(step, path);
        Ok(())
    };
    ControlPlane::builder().fault_hook(Arc::new(hook)).open(fleet.plane.root()).unwrap()
}

#[test]
fn export_is_withdrawn_if_a_wal_appears_before_the_rename() {
    let (fleet, dir) = fleet();
    let target = dir.join("out.db");
    let (log, wal) = (foreign_log(&dir), beside(&target, "-wal"));
    // Between the rename and the withdrawal, no connection can read the file.
    let (reached, is_reached) = mpsc::channel();
    let (answer, answered) = mpsc::channel();
    let answered = Mutex::new(answered);
    let (withdrawn, renamed) = (target.clone(), wal.clone());
    let plane = hooked(&fleet, move |step, path| match step {
        DiskOp::Rename if path.ends_with("data.db") => fs::write(&renamed, &log).unwrap(),
        DiskOp::Remove if path == withdrawn => {
            reached.send(()).unwrap();
            answered.lock().unwrap().recv().unwrap();
        }
        _ => {}
    });
    let read = thread::scope(|scope| {
        let exporting = scope.spawn(|| refused(export(&plane, &target)));
        is_reached.recv_timeout(Duration::from_secs(60)).unwrap();
        let connection = Connection::open(&target).unwrap();
        connection.busy_timeout(Duration::ZERO).unwrap();
        let read = connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
        answer.send(()).unwrap();
        let (kind, message) = exporting.join().unwrap();
        assert_eq!(kind, ErrorKind::AlreadyExists);
        assert!(message.starts_with(wal.to_str().unwrap()), "{message}");
        read
    });
    assert_eq!(read.unwrap_err().sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy));
    assert_eq!(names(&dir), ["out.db-wal"]);
}

#[test]
fn export_removes_only_leftovers_of_dead_exports() {
    let (fleet, dir) = fleet();
    let id = |number: u8| format!("litefleet-019a0000-0000-7000-8000-0000000000{number:02}.partial");
    let partial = |number: u8, files: &[&str]| {
        let partial = dir.join(id(number));
        fs::create_dir(&partial).unwrap();
        for file in files {
            fs::write(partial.join(file), "x").unwrap();
        }
        partial
    };
    partial(0, &[]);
    partial(1, &["data.db", "data.db-journal", "data.db-source"]);
    partial(2, &["data.db", "notes.txt"]);
    let running = fs::File::open(partial(3, &["data.db"])).unwrap();
    running.lock().unwrap();
    let elsewhere = fleet.dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("data.db"), "precious").unwrap();
    symlink(&elsewhere, dir.join(id(4))).unwrap();
    fs::write(dir.join(id(5)), "a file").unwrap();
    fs::create_dir(dir.join("litefleet-mine.partial")).unwrap();

    export(&fleet.plane, &dir.join("out.db")).unwrap();
    let mut left: Vec<_> = [2, 3, 4, 5].map(id).into();
    left.extend(["litefleet-mine.partial", "out.db"].map(str::to_owned));
    assert_eq!(names(&dir), left);
    assert_eq!(names(&dir.join(id(2))), ["notes.txt"]);
    assert_eq!(names(&dir.join(id(3))), ["data.db"]);
    assert_eq!(fs::read(elsewhere.join("data.db")).unwrap(), b"precious");
}

#[test]
fn one_of_several_exports_to_a_file_succeeds() {
    let (fleet, dir) = fleet();
    for round in 0..5 {
        let target = dir.join(format!("out-{round}.db"));
        let done = thread::scope(|scope| {
            let exports: Vec<_> = (0..4).map(|_| scope.spawn(|| export(&fleet.plane, &target))).collect();
            exports.into_iter().map(|export| export.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(done.iter().filter(|done| done.is_ok()).count(), 1, "{done:?}");
        for refused in done.into_iter().filter_map(Result::err) {
            assert_eq!(refused.kind(), ErrorKind::AlreadyExists, "{refused}");
        }
        assert_eq!(count(&Connection::open(&target).unwrap(), "SELECT sum(a) FROM t"), 3);
    }
    assert_eq!(names(&dir), (0..5).map(|round| format!("out-{round}.db")).collect::<Vec<_>>());
}

#[test]
fn cancelled_export_leaves_nothing() {
    let (fleet, dir) = fleet();
    let cancel = |_| std::ops::ControlFlow::Break(());
    let cancelled =
        fleet.plane.export_database("a", dir.join("out.db"), ExportOptions::default().progress(cancel));
    assert_eq!(refused(cancelled).0, ErrorKind::Cancelled);
    assert_eq!(names(&dir), Vec::<String>::new());
}

#[test]
fn error_chain_repeats_no_sentence() {
    let (fleet, dir) = fleet();
    let connection = fleet.connect("a");
    let explained =
        |sql: &str| litefleet::Error::from_sqlite(&connection, connection.execute_batch(sql).unwrap_err());
    fs::write(dir.join("junk.db"), [b'x'; 4096]).unwrap();
    let import = |file: &str| {
        let input = CreateDatabaseInput::new("imported", "default");
        fleet.plane.import_database(input, dir.join(file).as_path()).unwrap_err()
    };
    let mut errors = vec![
        explained("SELECT nonsense"),
        explained("CREATE TABLE u(a UNIQUE); INSERT INTO u VALUES (1), (1)"),
        explained("PRAGMA journal_mode=DELETE"),
        export(&fleet.plane, Path::new("/dev/null/out.db")).unwrap_err(),
        export(&fleet.plane, &dir.join("none/out.db")).unwrap_err(),
        import("junk.db"),
        import("none.db"),
        ControlPlane::open("/dev/null/root").unwrap_err(),
        "yesterday".parse::<Timestamp>().unwrap_err(),
    ];
    let file = fleet.plane.database_path("a").unwrap();
    drop(connection);
    fs::write(&file, "no database").unwrap();
    errors.push(fleet.plane.connect("a", ConnectOptions::default()).unwrap_err());
    fs::remove_file(&file).unwrap();
    errors.push(fleet.plane.connect("a", ConnectOptions::default()).unwrap_err());
    for error in errors {
        let texts: Vec<_> =
            std::iter::successors(Some(&error as &dyn std::error::Error), |&error| error.source())
                .map(ToString::to_string)
                .collect();
        for (at, text) in texts.iter().enumerate() {
            for other in &texts[..at] {
                assert!(!other.contains(text.as_str()), "{texts:#?}");
            }
        }
        assert!(error.source().is_none() || error.get_ref().is_some());
    }
}
