//! Shared-memory lock calls that fail: the tracked lock state, which decides what is sealed and what is allowed, must
//! match the real one.

use std::{
    ffi::c_int,
    fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    thread::{self, ThreadId},
};

use litefleet::{
    Cipher, DatabaseChanges, Error, ErrorKind, PageFormat,
    rusqlite::{self, Connection, ffi},
};

use crate::{
    fault_vfs::{self, Call, Opened, Verdict, WatchGuard, Watcher},
    model::{Model, SCHEMA, transaction},
    support::{Fleet, copy_files, query, run, shared_turn},
};

/// Fails the next call for one of these locks.
struct Fault {
    dir: PathBuf,
    next: Mutex<Option<Next>>,
}

struct Next {
    locks: std::ops::Range<c_int>,
    take: bool,
    shared: bool,
    verdict: Verdict,
}

impl Watcher for Fault {
    fn covers(&self, file: &Opened) -> bool {
        file.path.as_ref().is_some_and(|path| path.parent() == Some(&self.dir))
    }

    fn see(&self, _: &Opened, call: Call<'_>) -> Verdict {
        let Call::ShmLock { first, take, shared } = call else { return Verdict::Pass };
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let matches =
            |next: &mut Next| next.locks.contains(&first) && next.take == take && next.shared == shared;
        next.take_if(matches).map_or(Verdict::Pass, |next| next.verdict)
    }
}

const WRITE_LOCK: std::ops::Range<c_int> = 0..1;
const CHECKPOINT_LOCK: std::ops::Range<c_int> = 1..2;
const READ_LOCKS: std::ops::Range<c_int> = 3..8;

struct Case {
    fleet: Fleet,
    fault: Arc<Fault>,
    _watch: WatchGuard,
}

impl Case {
    fn new() -> Self {
        let fleet = Fleet::new(Some(Cipher::Aegis256), PageFormat::Native);
        let fault = Arc::new(Fault { dir: fleet.database_dir(), next: Mutex::default() });
        let watch = fault_vfs::watch(Arc::clone(&fault) as _);
        Self { fleet, fault, _watch: watch }
    }

    /// Runs a statement during which a lock call fails.
    fn fail(&self, connection: &Connection, next: Next, sql: &str) -> rusqlite::Result<()> {
        let set = |next| *self.fault.next.lock().unwrap_or_else(PoisonError::into_inner) = next;
        set(Some(next));
        let answer = run(connection, sql);
        let left = self.fault.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        assert!(left.is_none(), "{sql} made no such lock call");
        answer
    }

    fn configure(&self, changes: DatabaseChanges) {
        self.fleet.plane.configure_database("vault", changes).unwrap();
    }
}

fn kind(connection: &Connection, sql: &str) -> Option<ErrorKind> {
    run(connection, sql).err().map(|error| Error::from_sqlite(connection, error).kind())
}

/// A write transaction in progress is exempt from blocks; a connection without the write lock must not be.
#[test]
fn failed_write_lock_call_ends_the_write_state() {
    let _turn = shared_turn();
    for (take, verdict) in [
        (true, Verdict::Fail(ffi::SQLITE_BUSY)),
        (true, Verdict::Fail(ffi::SQLITE_IOERR_SHMLOCK)),
        // SQLite considers a lock released whatever the result.
        (false, Verdict::Tear(ffi::SQLITE_IOERR_SHMLOCK)),
    ] {
        let case = Case::new();
        let connection = case.fleet.connect();
        run(&connection, "PRAGMA busy_timeout=0; CREATE TABLE t(a)").unwrap();
        let next = Next { locks: WRITE_LOCK, take, shared: false, verdict };
        let written = case.fail(&connection, next, "INSERT INTO t VALUES (1)");
        assert_eq!(written.is_ok(), !take, "{verdict:?}");
        case.configure(DatabaseChanges::default().block_reads(true));
        assert_eq!(kind(&connection, "SELECT * FROM t"), Some(ErrorKind::Blocked), "{verdict:?}");
        case.configure(DatabaseChanges::default().block_reads(false));
        assert_eq!(query::<i64>(&connection, "SELECT count(*) FROM t"), Ok(i64::from(!take)));
        run(&connection, "INSERT INTO t VALUES (2)").unwrap();
    }
}

/// Recovery takes the write lock without a read lock, and its reads of the WAL are treated differently from those of
/// a writer.
#[test]
fn wal_recovery_works_after_a_failed_read_lock_call() {
    let _turn = shared_turn();
    for (take, verdict) in
        [(true, Verdict::Fail(ffi::SQLITE_IOERR_SHMLOCK)), (false, Verdict::Tear(ffi::SQLITE_IOERR_SHMLOCK))]
    {
        let case = Case::new();
        let connection = case.fleet.connect();
        run(&connection, "CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
        let next = Next { locks: READ_LOCKS, take, shared: true, verdict };
        let read = case.fail(&connection, next, "SELECT * FROM t");
        assert_eq!(read.is_ok(), !take, "{verdict:?}");
        // Blocked writes do not prevent recovery of the WAL.
        case.configure(DatabaseChanges::default().block_writes(true));
        // Destroy the wal-index from another process: closing a descriptor here would release this process's locks.
        let mut child = Command::new("dd")
            .arg(format!("of={}", case.fleet.database_dir().join("data.db-shm").display()))
            .args(["conv=notrunc", "status=none"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&[0; 136]).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(query::<i64>(&connection, "SELECT count(*) FROM t"), Ok(1), "{verdict:?}");
        case.configure(DatabaseChanges::default().block_writes(false));
        run(&connection, "INSERT INTO t VALUES (2)").unwrap();
        assert_eq!(query::<i64>(&connection, "SELECT count(*) FROM t"), Ok(2), "{verdict:?}");
    }
}

/// A checkpoint's reads of the WAL are treated differently from those of a writer.
#[test]
fn writer_keeps_wal_intact_after_a_failed_checkpoint_lock_call() {
    let _turn = shared_turn();
    for (take, verdict) in [
        (true, Verdict::Fail(ffi::SQLITE_IOERR_SHMLOCK)),
        (true, Verdict::Fail(ffi::SQLITE_BUSY)),
        (false, Verdict::Tear(ffi::SQLITE_IOERR_SHMLOCK)),
    ] {
        let case = Case::new();
        let mut model = Model::new();
        let connection = case.fleet.connect();
        run(&connection, "PRAGMA busy_timeout=0; PRAGMA cache_size=8; PRAGMA cache_spill=4").unwrap();
        run(&connection, SCHEMA).unwrap();
        let next = Next { locks: CHECKPOINT_LOCK, take, shared: false, verdict };
        let _may_be_busy = case.fail(&connection, next, "PRAGMA wal_checkpoint(PASSIVE)");
        for n in 1..=8 {
            run(&connection, &transaction(n, "main")).unwrap();
        }
        // The state after a crash.
        case.fleet.fork("crashed");
        copy_files(
            &case.fleet.database_dir(),
            &case.fleet.database_dir_of("crashed"),
            &["data.db", "data.db-wal"],
        );
        let crashed = case.fleet.plane.connect("crashed", case.fleet.options()).unwrap();
        assert_eq!(model.check(&crashed, "main"), Ok(8), "{verdict:?}");
        assert_eq!(model.check(&connection, "main"), Ok(8), "{verdict:?}");
    }
}

/// Refuses the shared file lock to connections opened by one thread, `left` times.
struct LockRefuser {
    dir: PathBuf,
    opener: ThreadId,
    left: AtomicU32,
}

impl Watcher for LockRefuser {
    fn covers(&self, file: &Opened) -> bool {
        file.thread == self.opener && file.path.as_ref().is_some_and(|path| path.parent() == Some(&self.dir))
    }

    fn see(&self, _: &Opened, call: Call<'_>) -> Verdict {
        let Call::Lock { level: ffi::SQLITE_LOCK_SHARED } = call else { return Verdict::Pass };
        let refused = self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        refused.map_or(Verdict::Pass, |_| Verdict::Fail(ffi::SQLITE_BUSY))
    }
}

/// While the WAL is moved, peers briefly release their locks of the database file.
#[test]
fn connection_that_lost_its_file_lock_fails_until_reopened() {
    let _turn = shared_turn();
    let fleet = Fleet::new(Some(Cipher::Aegis256), PageFormat::Native);
    let log = fleet.database_dir().join("data.db-wal");
    let one = fleet.connect();
    run(&one, "CREATE TABLE t(a)").unwrap();
    let (two, opener) = thread::scope(|scope| {
        let opened = scope.spawn(|| {
            let two = fleet.connect();
            assert_eq!(query::<i64>(&two, "SELECT count(*) FROM t"), Ok(0));
            (two, thread::current().id())
        });
        opened.join().unwrap()
    });
    let refuser = Arc::new(LockRefuser { dir: fleet.database_dir(), opener, left: AtomicU32::new(0) });
    let _watch = fault_vfs::watch(Arc::clone(&refuser) as _);
    for (row, refused) in [(1, 3), (2, u32::MAX)] {
        refuser.left.store(refused, SeqCst);
        query::<i64>(&one, "PRAGMA wal_checkpoint(RESTART)").unwrap();
        let before = fs::metadata(&log).unwrap().ino();
        run(&one, "INSERT INTO t VALUES (1)").unwrap();
        assert_ne!(fs::metadata(&log).unwrap().ino(), before, "the WAL was not replaced");
        let seen = query::<i64>(&two, "SELECT count(*) FROM t");
        if refused == 3 {
            assert_eq!(seen, Ok(row));
        } else {
            let error = Error::from_sqlite(&two, seen.unwrap_err());
            assert_eq!(error.kind(), ErrorKind::Io);
            assert!(error.to_string().contains("close the connection and open it again"), "{error}");
            assert!(run(&two, "INSERT INTO t VALUES (2)").is_err());
        }
    }
    refuser.left.store(0, SeqCst);
    // The connection stays failed: a foreign process may have had exclusive access in between.
    assert_eq!(kind(&two, "SELECT count(*) FROM t"), Some(ErrorKind::Io));
    drop(two);
    let two = fleet.connect();
    run(&two, "INSERT INTO t VALUES (3)").unwrap();
    assert_eq!(query::<i64>(&one, "SELECT count(*) FROM t"), Ok(3));
}
