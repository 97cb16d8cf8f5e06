//! The n-th call to the disk fails, for every n: each statement fails or succeeds as a whole, and no read is wrong.

use std::{
    env,
    ffi::c_int,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
};

use litefleet::{
    Cipher, Error, PageFormat,
    rusqlite::{Connection, ffi},
};

use crate::{
    fault_vfs::{self, Call, Opened, Verdict, Watcher},
    model::{Model, digest, transaction},
    power_loss::{Case, TestDatabase},
    simulated_disk::{Files, write_files},
    support::{copy_files, run, shared_turn},
};

/// The kind of call that fails, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failing {
    Read,
    Write(c_int),
    /// The write fails after half of it.
    TornWrite(c_int),
    Sync,
    Truncate,
    Delete,
    ShmMap,
    /// Taking a shared-memory lock.
    ShmLock(c_int),
    /// Taking a file lock.
    Lock(c_int),
}

/// Fails calls to the files in a directory, and to unnamed files opened by this thread.
struct Fault {
    dir: PathBuf,
    thread: ThreadId,
    failing: Failing,
    /// Whether later calls succeed again.
    once: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_armed: bool,
    /// Calls that succeed before one fails.
    left: u64,
    fired: bool,
}

impl Fault {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arm(&self, left: u64) {
        *self.state() = State { is_armed: true, left, fired: false };
    }

    /// Returns whether a call has failed.
    fn disarm(&self) -> bool {
        std::mem::take(&mut *self.state()).fired
    }
}

impl Watcher for Fault {
    fn covers(&self, file: &Opened) -> bool {
        match &file.path {
            Some(path) => path.parent() == Some(&self.dir),
            None => file.thread == self.thread,
        }
    }

    fn see(&self, _: &Opened, call: Call<'_>) -> Verdict {
        let mut state = self.state();
        let verdict = match (self.failing, call) {
            (Failing::Read, Call::Read) => Verdict::Fail(ffi::SQLITE_IOERR_READ),
            (Failing::TornWrite(code), Call::Write { .. }) => Verdict::Tear(code),
            (Failing::Sync, Call::Sync) => Verdict::Fail(ffi::SQLITE_IOERR_FSYNC),
            (Failing::Truncate, Call::Truncate { .. }) => Verdict::Fail(ffi::SQLITE_IOERR_TRUNCATE),
            (Failing::Delete, Call::Delete { .. }) => Verdict::Fail(ffi::SQLITE_IOERR_DELETE),
            (Failing::ShmMap, Call::ShmMap) => Verdict::Fail(ffi::SQLITE_IOERR_SHMMAP),
            (Failing::Write(code), Call::Write { .. })
            | (Failing::ShmLock(code), Call::ShmLock { take: true, .. })
            | (Failing::Lock(code), Call::Lock { .. }) => Verdict::Fail(code),
            _ => return Verdict::Pass,
        };
        if !state.is_armed || (state.fired && self.once) {
            return Verdict::Pass;
        }
        if state.left > 0 {
            state.left -= 1;
            return Verdict::Pass;
        }
        state.fired = true;
        verdict
    }
}

/// A transaction that exceeds SQLite's cache, so that frames are overwritten repeatedly, and that leaves the contents
/// unchanged.
const CHURN: &str =
    "BEGIN IMMEDIATE; UPDATE t SET word = word || 'x', bytes = 'y' || bytes; UPDATE t SET word = word || 'z';
    UPDATE t SET word = substr(word, 1, length(word) - 2), bytes = substr(bytes, 2); COMMIT";

/// The result of one attempt.
struct Attempt {
    connection: Option<Connection>,
    committed: bool,
}

/// Opens the database, runs transaction `n`, reads everything, checkpoints and shrinks, while calls may fail.
fn attempt(database: &TestDatabase, n: u64, model: &mut Model) -> Result<Attempt, String> {
    let schema = database.case.schema();
    let Ok(connection) = database.open(database.case.synchronous) else {
        return Ok(Attempt { connection: None, committed: false });
    };
    let committed = run(&connection, &transaction(n, schema)).is_ok();
    if !connection.is_autocommit() {
        // If the rollback fails, closing the connection undoes the transaction.
        let _may_fail = run(&connection, "ROLLBACK");
    }
    let expected = model.after(if committed { n } else { n - 1 });
    for sql in [
        "wal_checkpoint(PASSIVE)",
        "SELECT * FROM t ORDER BY bytes || word, id",
        "wal_checkpoint(RESTART)",
        "VACUUM",
        "wal_checkpoint(TRUNCATE)",
    ] {
        let sql = match sql {
            "VACUUM" if n.is_multiple_of(3) => format!("VACUUM {schema}"),
            "VACUUM" => continue,
            pragma if pragma.starts_with("wal") => format!("PRAGMA {schema}.{pragma}"),
            sql => sql.to_owned(),
        };
        let _may_fail = run(&connection, &sql);
        // Every successful read is right, even at this moment.
        if let Ok(found) = digest(&connection, schema)
            && found != expected
        {
            return Err(format!("wrong rows after {sql}"));
        }
    }
    Ok(Attempt { connection: Some(connection), committed })
}

/// Whether an earlier flush of the WAL failed. The connection then writes nothing more.
fn is_latched(connection: &Connection) -> bool {
    let Err(error) = run(connection, "PRAGMA user_version = 1") else { return false };
    let message = Error::from_sqlite(connection, error).to_string();
    assert!(message.starts_with("an earlier flush of the WAL failed"), "{message}");
    true
}

/// One round, in which the call after `left` others fails. Returns whether that call was reached, and the number of
/// the database's last transaction.
fn round(
    database: &TestDatabase,
    crashed: Option<&TestDatabase>,
    fault: &Fault,
    left: u64,
    n: u64,
    model: &mut Model,
) -> Result<(bool, u64), String> {
    let schema = database.case.schema();
    fault.arm(left);
    let attempt = attempt(database, n + 1, model)?;
    // In some rounds the disk fails until the connection is closed, so that closing cannot clean up.
    let to_the_end = (left + n) % 4 == 3;
    let mut fired = false;
    let mut known = None;
    if to_the_end {
        drop(attempt.connection);
        fired |= fault.disarm();
    } else {
        fired |= fault.disarm();
        if let Some(connection) = attempt.connection {
            let reached =
                model.check(&connection, schema).map_err(|why| format!("the same connection: {why}"))?;
            if reached != n + u64::from(attempt.committed) {
                return Err(format!(
                    "found transaction {reached} after {n}; committed: {}",
                    attempt.committed
                ));
            }
            let fresh = database.open(database.case.synchronous)?;
            let found = model.check(&fresh, schema).map_err(|why| format!("a new connection: {why}"))?;
            if found != reached {
                return Err(format!("a new connection finds transaction {found}, not {reached}"));
            }
            known = Some(reached);
            drop(fresh);
            // The connection accepts a transaction, and so does a process that opens the files after a crash.
            let is_latched = fired && fault.failing == Failing::Sync && is_latched(&connection);
            if is_latched {
                known = None;
            } else if let Some(crashed) = crashed {
                let next = reached + 1;
                run(&connection, &transaction(next, schema))
                    .and_then(|()| run(&connection, CHURN))
                    .map_err(|error| format!("the transaction after {reached}: {error}"))?;
                write_files(&crashed.dir(), &Files::new());
                copy_files(&database.dir(), &crashed.dir(), &["data.db", "data.db-wal"]);
                let found = model.check(&crashed.open("OFF")?, schema);
                if found != Ok(next) {
                    return Err(format!("after a crash, found transaction {found:?}, expected {next}"));
                }
                known = Some(next);
            }
        }
    }
    let fresh = database.open(database.case.synchronous)?;
    let reached = model.check(&fresh, schema).map_err(|why| format!("after a reopen: {why}"))?;
    let is_right = match known {
        Some(known) => reached == known,
        // A commit whose flush failed may be recovered from the WAL by the next opener.
        None => reached == n + 1 || (reached == n && !attempt.committed),
    };
    if is_right {
        Ok((fired, reached))
    } else {
        Err(format!("after a reopen, found transaction {reached}, expected {n}"))
    }
}

fn fail_everywhere(case: Case, failing: &[Failing]) {
    let _turn = shared_turn();
    let is_soak = env::var_os("LITEFLEET_SOAK").is_some();
    for failing in failing.iter().copied() {
        for once in [true, false] {
            // SQLite waits for seconds for a lock that another connection seems to hold.
            if !once && failing == Failing::ShmLock(ffi::SQLITE_BUSY) {
                continue;
            }
            let database = TestDatabase::new(case);
            // With a rollback journal, closing the connection cleans up, so there is no crash to simulate.
            let crashed = case.copy.is_none().then(|| database.sibling());
            write_files(&database.dir(), &database.empty);
            let fault = Arc::new(Fault {
                dir: database.dir(),
                thread: thread::current().id(),
                failing,
                once,
                state: Mutex::default(),
            });
            let _watch = fault_vfs::watch(Arc::clone(&fault) as _);
            // Some rows, more than fit into SQLite's cache.
            let (mut model, mut n, mut left, mut failed) = (Model::new(), 7, 0, 0);
            let connection = database.open("OFF").unwrap();
            (1..=n).for_each(|n| run(&connection, &transaction(n, case.schema())).unwrap());
            drop(connection);
            // Transactions make different numbers of calls, so stop only after several without a fault.
            let mut quiet = 0;
            while quiet < 9 {
                let done = round(&database, crashed.as_ref(), &fault, left, n, &mut model);
                let (fired, reached) = done.unwrap_or_else(|why| {
                    panic!("{why}\n{case:?} {failing:?} once: {once}, after {left} calls")
                });
                n = reached;
                failed += u64::from(fired);
                quiet = if fired { 0 } else { quiet + 1 };
                left += if is_soak { 1 } else { 1 + left / 8 } * u64::from(fired);
            }
            assert!(failed > 0, "{case:?} {failing:?}: {failed} calls failed");
        }
    }
}

#[test]
fn commits_survive_failing_disk_calls() {
    let case = Case { cipher: Cipher::Aegis256, format: PageFormat::Native, synchronous: "FULL", copy: None };
    let all = [
        Failing::Read,
        Failing::Write(ffi::SQLITE_IOERR_WRITE),
        Failing::TornWrite(ffi::SQLITE_FULL),
        Failing::Sync,
        Failing::Truncate,
    ];
    fail_everywhere(case, &all);
    fail_everywhere(Case { cipher: Cipher::Aes256Gcm, format: PageFormat::Turso, ..case }, &all[1..3]);
}

#[test]
fn commits_survive_failing_locks_and_shared_memory() {
    let case = Case { cipher: Cipher::Aegis256, format: PageFormat::Native, synchronous: "FULL", copy: None };
    let all = [
        Failing::ShmMap,
        Failing::ShmLock(ffi::SQLITE_IOERR_SHMLOCK),
        Failing::ShmLock(ffi::SQLITE_BUSY),
        Failing::Lock(ffi::SQLITE_IOERR_LOCK),
        Failing::Lock(ffi::SQLITE_BUSY),
    ];
    fail_everywhere(case, &all);
    fail_everywhere(Case { cipher: Cipher::Aegis128L, format: PageFormat::Turso, ..case }, &all);
    // Outside WAL mode all locks are file locks.
    fail_everywhere(Case { synchronous: "EXTRA", copy: Some("delete"), ..case }, &all[3..]);
}

#[test]
fn commits_survive_failing_disk_calls_with_a_rollback_journal() {
    let case = Case {
        cipher: Cipher::Aegis128X2,
        format: PageFormat::Native,
        synchronous: "EXTRA",
        copy: Some("delete"),
    };
    let all = [
        Failing::Read,
        Failing::Write(ffi::SQLITE_FULL),
        Failing::TornWrite(ffi::SQLITE_IOERR_WRITE),
        Failing::Sync,
        Failing::Truncate,
        Failing::Delete,
    ];
    fail_everywhere(case, &all);
}
