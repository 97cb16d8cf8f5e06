//! What a connection takes for held where a lock of the shared memory was not taken, or not given back: what it seals, and
//! what it lets through, depends on that.

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
    Cipher, DatabaseChanges, ErrorKind, PageFormat, explain,
    rusqlite::{self, Connection, ffi},
};

use crate::{
    disk::{self, Call, Opened, ProgressFn, Verdict, Watcher},
    model::{Model, SCHEMA, transaction},
    vault::{Fleet, among_others, ask, copy_files, run},
};

/// Fails the next call that is for one of some locks.
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
        let is_it =
            |next: &mut Next| next.locks.contains(&first) && next.take == take && next.shared == shared;
        next.take_if(is_it).map_or(Verdict::Pass, |next| next.verdict)
    }
}

const WRITE_LOCK: std::ops::Range<c_int> = 0..1;
const CHECKPOINT_LOCK: std::ops::Range<c_int> = 1..2;
const READ_LOCKS: std::ops::Range<c_int> = 3..8;

struct Case {
    fleet: Fleet,
    fault: Arc<Fault>,
    _watch: ProgressFn,
}

impl Case {
    fn new() -> Self {
        let fleet = Fleet::new(Some(Cipher::Aegis256), PageFormat::Native);
        let fault = Arc::new(Fault { dir: fleet.place(), next: Mutex::default() });
        let watch = disk::watch(Arc::clone(&fault) as _);
        Self { fleet, fault, _watch: watch }
    }

    /// Runs a statement in which a call for a lock fails.
    fn fail(&self, connection: &Connection, next: Next, sql: &str) -> rusqlite::Result<()> {
        let set = |next| *self.fault.next.lock().unwrap_or_else(PoisonError::into_inner) = next;
        set(Some(next));
        let answer = run(connection, sql);
        let left = self.fault.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        assert!(left.is_none(), "{sql} made no such call");
        answer
    }

    fn configure(&self, changes: DatabaseChanges) {
        self.fleet.plane.configure_database("vault", changes).unwrap();
    }
}

fn kind(connection: &Connection, sql: &str) -> Option<ErrorKind> {
    run(connection, sql).err().map(|error| explain(connection, error).kind())
}

/// Within a write transaction nothing that was begun is refused.
#[test]
fn a_connection_that_did_not_get_the_write_lock_or_gave_it_back_is_not_taken_to_write() {
    let _turn = among_others();
    for (take, verdict) in [
        (true, Verdict::Fail(ffi::SQLITE_BUSY)),
        (true, Verdict::Fail(ffi::SQLITE_IOERR_SHMLOCK)),
        // SQLite takes a lock for given back, whatever the answer.
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
        assert_eq!(ask::<i64>(&connection, "SELECT count(*) FROM t"), Ok(i64::from(!take)));
        run(&connection, "INSERT INTO t VALUES (2)").unwrap();
    }
}

/// Recovery takes the write lock too, where nothing is read. What it reads of a log is handed out otherwise than what a
/// writer reads.
#[test]
fn a_connection_that_did_not_get_a_read_lock_or_gave_it_back_recovers_the_log() {
    let _turn = among_others();
    for (take, verdict) in
        [(true, Verdict::Fail(ffi::SQLITE_IOERR_SHMLOCK)), (false, Verdict::Tear(ffi::SQLITE_IOERR_SHMLOCK))]
    {
        let case = Case::new();
        let connection = case.fleet.connect();
        run(&connection, "CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
        let next = Next { locks: READ_LOCKS, take, shared: true, verdict };
        let read = case.fail(&connection, next, "SELECT * FROM t");
        assert_eq!(read.is_ok(), !take, "{verdict:?}");
        // Writes that are blocked do not keep a log from being recovered.
        case.configure(DatabaseChanges::default().block_writes(true));
        // The index of the log is lost. Another process does it: closing a file here would drop this process's locks.
        let mut child = Command::new("dd")
            .arg(format!("of={}", case.fleet.place().join("data.db-shm").display()))
            .args(["conv=notrunc", "status=none"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&[0; 136]).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(ask::<i64>(&connection, "SELECT count(*) FROM t"), Ok(1), "{verdict:?}");
        case.configure(DatabaseChanges::default().block_writes(false));
        run(&connection, "INSERT INTO t VALUES (2)").unwrap();
        assert_eq!(ask::<i64>(&connection, "SELECT count(*) FROM t"), Ok(2), "{verdict:?}");
    }
}

/// What a checkpoint reads of a log is handed out otherwise than what a writer reads.
#[test]
fn a_connection_that_did_not_get_the_checkpoint_lock_or_gave_it_back_writes_a_log_that_is_whole() {
    let _turn = among_others();
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
        let _busy_is_an_answer = case.fail(&connection, next, "PRAGMA wal_checkpoint(PASSIVE)");
        for n in 1..=8 {
            run(&connection, &transaction(n, "main")).unwrap();
        }
        // As a crash would leave it.
        case.fleet.fork("crashed");
        copy_files(&case.fleet.place(), &case.fleet.place_of("crashed"), &["data.db", "data.db-wal"]);
        let crashed = case.fleet.plane.connect("crashed", &case.fleet.options()).unwrap();
        assert_eq!(model.check(&crashed, "main"), Ok(8), "{verdict:?}");
        assert_eq!(model.check(&connection, "main"), Ok(8), "{verdict:?}");
    }
}

/// Refuses the shared lock of the database file to the connection that one thread opened, so many times.
struct Stubborn {
    dir: PathBuf,
    opener: ThreadId,
    left: AtomicU32,
}

impl Watcher for Stubborn {
    fn covers(&self, file: &Opened) -> bool {
        file.thread == self.opener && file.path.as_ref().is_some_and(|path| path.parent() == Some(&self.dir))
    }

    fn see(&self, _: &Opened, call: Call<'_>) -> Verdict {
        let Call::Lock { level: ffi::SQLITE_LOCK_SHARED } = call else { return Verdict::Pass };
        let refused = self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        refused.map_or(Verdict::Pass, |_| Verdict::Fail(ffi::SQLITE_BUSY))
    }
}

/// While a log is moved away, the other connections of the process give up their lock of the database file for a moment.
#[test]
fn a_connection_that_does_not_get_its_lock_back_says_so_until_it_is_opened_anew() {
    let _turn = among_others();
    let fleet = Fleet::new(Some(Cipher::Aegis256), PageFormat::Native);
    let log = fleet.place().join("data.db-wal");
    let one = fleet.connect();
    run(&one, "CREATE TABLE t(a)").unwrap();
    let (two, opener) = thread::scope(|scope| {
        let opened = scope.spawn(|| {
            let two = fleet.connect();
            assert_eq!(ask::<i64>(&two, "SELECT count(*) FROM t"), Ok(0));
            (two, thread::current().id())
        });
        opened.join().unwrap()
    });
    let stubborn = Arc::new(Stubborn { dir: fleet.place(), opener, left: AtomicU32::new(0) });
    let _watch = disk::watch(Arc::clone(&stubborn) as _);
    for (row, refused) in [(1, 3), (2, u32::MAX)] {
        stubborn.left.store(refused, SeqCst);
        ask::<i64>(&one, "PRAGMA wal_checkpoint(RESTART)").unwrap();
        let before = fs::metadata(&log).unwrap().ino();
        run(&one, "INSERT INTO t VALUES (1)").unwrap();
        assert_ne!(fs::metadata(&log).unwrap().ino(), before, "the log was moved");
        let seen = ask::<i64>(&two, "SELECT count(*) FROM t");
        if refused == 3 {
            assert_eq!(seen, Ok(row));
        } else {
            let error = explain(&two, seen.unwrap_err());
            assert_eq!(error.kind(), ErrorKind::Io);
            assert!(error.to_string().contains("close the connection and open it again"), "{error}");
            assert!(run(&two, "INSERT INTO t VALUES (2)").is_err());
        }
    }
    stubborn.left.store(0, SeqCst);
    // It does not come back by itself: others may have had the database to themselves meanwhile.
    assert_eq!(kind(&two, "SELECT count(*) FROM t"), Some(ErrorKind::Io));
    drop(two);
    let two = fleet.connect();
    run(&two, "INSERT INTO t VALUES (3)").unwrap();
    assert_eq!(ask::<i64>(&one, "SELECT count(*) FROM t"), Ok(3));
}
