//! The disk fails at the n-th call, for every n: a statement then fails or succeeds, and what is read is never wrong.

use std::{
    env,
    ffi::c_int,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
};

use litefleet::{
    Cipher, PageFormat,
    rusqlite::{Connection, ffi},
};

use crate::{
    crash::{Case, Store},
    disk::{self, Call, Opened, Verdict, Watcher},
    model::{Model, digest, transaction},
    power::{Files, place},
    vault::{among_others, copy_files, run},
};

/// What fails, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failing {
    Read,
    Write(c_int),
    /// Half of it is written before it fails.
    TornWrite(c_int),
    Sync,
    Truncate,
    Delete,
    ShmMap,
    /// Taking a lock of the shared memory.
    ShmLock(c_int),
    /// Taking a lock of the file.
    Lock(c_int),
}

/// Fails calls to the files in a directory, and to files without a name that this thread makes.
struct Fault {
    dir: PathBuf,
    thread: ThreadId,
    failing: Failing,
    /// Whether the calls after it succeed again.
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

    /// Answers with whether a call failed.
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

/// A transaction that is larger than SQLite's cache, so that pages are written to the log again and again, and that
/// leaves all as it was.
const CHURN: &str =
    "BEGIN IMMEDIATE; UPDATE t SET word = word || 'x', bytes = 'y' || bytes; UPDATE t SET word = word || 'z';
    UPDATE t SET word = substr(word, 1, length(word) - 2), bytes = substr(bytes, 2); COMMIT";

/// What one attempt came to.
struct Attempt {
    connection: Option<Connection>,
    committed: bool,
}

/// Opens the database, runs the transaction `n`, reads all, writes the log back, and shrinks, while calls may fail.
fn attempt(store: &Store, n: u64, model: &mut Model) -> Result<Attempt, String> {
    let schema = store.case.schema();
    let Ok(connection) = store.open(store.case.synchronous) else {
        return Ok(Attempt { connection: None, committed: false });
    };
    let committed = run(&connection, &transaction(n, schema)).is_ok();
    if !connection.is_autocommit() {
        // What fails here is undone when the connection closes.
        let _undone = run(&connection, "ROLLBACK");
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
        // Whatever is read is right, even now.
        if let Ok(found) = digest(&connection, schema)
            && found != expected
        {
            return Err(format!("wrong rows after {sql}"));
        }
    }
    Ok(Attempt { connection: Some(connection), committed })
}

/// One round: the call after `left` others fails. Answers with whether there were so many, and the transaction that the
/// database is after.
fn round(
    store: &Store,
    crashed: Option<&Store>,
    fault: &Fault,
    left: u64,
    n: u64,
    model: &mut Model,
) -> Result<(bool, u64), String> {
    let schema = store.case.schema();
    fault.arm(left);
    let attempt = attempt(store, n + 1, model)?;
    // Now and then the disk fails to the end, and closing cannot put in order what is left.
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
                return Err(format!("{reached} after {n}, and the next: {}", attempt.committed));
            }
            let fresh = store.open(store.case.synchronous)?;
            let found = model.check(&fresh, schema).map_err(|why| format!("a fresh connection: {why}"))?;
            if found != reached {
                return Err(format!("a fresh connection finds {found}, not {reached}"));
            }
            known = Some(reached);
            drop(fresh);
            // It goes on as if nothing had been, and so does what finds its files after a crash.
            if let Some(crashed) = crashed {
                let next = reached + 1;
                run(&connection, &transaction(next, schema))
                    .and_then(|()| run(&connection, CHURN))
                    .map_err(|error| format!("going on after {reached}: {error}"))?;
                place(&crashed.dir(), &Files::new());
                copy_files(&store.dir(), &crashed.dir(), &["data.db", "data.db-wal"]);
                let found = model.check(&crashed.open("OFF")?, schema);
                if found != Ok(next) {
                    return Err(format!("after a crash it is after {found:?}, not {next}"));
                }
                known = Some(next);
            }
        }
    }
    let fresh = store.open(store.case.synchronous)?;
    let reached = model.check(&fresh, schema).map_err(|why| format!("opened again: {why}"))?;
    let is_right = match known {
        Some(known) => reached == known,
        // A commit whose flush failed may be found in the log by who opens it next, as it is there.
        None => reached == n + 1 || (reached == n && !attempt.committed),
    };
    if is_right { Ok((fired, reached)) } else { Err(format!("opened again, it is after {reached}, not {n}")) }
}

fn fail_everywhere(case: Case, failing: &[Failing]) {
    let _turn = among_others();
    let is_soak = env::var_os("LITEFLEET_SOAK").is_some();
    for failing in failing.iter().copied() {
        for once in [true, false] {
            // SQLite waits for seconds before it gives a lock up that somebody else seems to hold.
            if !once && failing == Failing::ShmLock(ffi::SQLITE_BUSY) {
                continue;
            }
            let store = Store::new(case);
            // Where there is a journal, closing puts all in order that is to be found.
            let crashed = case.copy.is_none().then(|| store.another());
            place(&store.dir(), &store.empty);
            let fault = Arc::new(Fault {
                dir: store.dir(),
                thread: thread::current().id(),
                failing,
                once,
                state: Mutex::default(),
            });
            let _watch = disk::watch(Arc::clone(&fault) as _);
            // Some rows, which do not go into SQLite's cache.
            let (mut model, mut n, mut left, mut failed) = (Model::new(), 7, 0, 0);
            let connection = store.open("OFF").unwrap();
            (1..=n).for_each(|n| run(&connection, &transaction(n, case.schema())).unwrap());
            drop(connection);
            // Transactions differ in their calls: that one of them had fewer does not mean that all have.
            let mut quiet = 0;
            while quiet < 9 {
                let done = round(&store, crashed.as_ref(), &fault, left, n, &mut model);
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
fn a_disk_that_fails_leaves_what_was_committed() {
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
fn locks_and_shared_memory_that_fail_leave_what_was_committed() {
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
    // Outside of WAL mode all locks are those of the file.
    fail_everywhere(Case { synchronous: "EXTRA", copy: Some("delete"), ..case }, &all[3..]);
}

#[test]
fn a_disk_that_fails_under_a_journal_leaves_what_was_committed() {
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
