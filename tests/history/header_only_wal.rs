//! A WAL that consists of a header only: the flush of that header may be skipped, but not the flush of a later
//! commit.

use std::{
    env,
    io::{Read, Seek, SeekFrom},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use litefleet::{Cipher, DatabaseChanges, Error, ErrorKind, Retention, SizeLimit, Synchronous};

use crate::{
    fault_vfs::{self, Call, Opened, Verdict, Watcher},
    support::Ledger,
};

/// Set in the child process, in which the fault-injecting VFS is installed before SQLite opens a file.
const ROLE: &str = "LITEFLEET_HEADER_ONLY_WAL_CHILD";

/// Counts flushes of the WAL.
#[derive(Default)]
struct Flushes(AtomicUsize);

impl Watcher for Flushes {
    fn covers(&self, file: &Opened) -> bool {
        file.path.as_ref().is_some_and(|path| path.ends_with("orders/data.db-wal"))
    }

    fn see(&self, _: &Opened, call: Call<'_>) -> Verdict {
        if matches!(call, Call::Sync) {
            self.0.fetch_add(1, SeqCst);
        }
        Verdict::Pass
    }
}

/// Produces a WAL with a header only, turns the history off, and commits.
fn check(cipher: Option<Cipher>, flushes: &Flushes) {
    let ledger = Ledger::new(cipher);
    let connection = ledger.plane.connect("orders", ledger.options().synchronous(Synchronous::Full)).unwrap();
    let configure = |changes| drop(ledger.plane.configure_database("orders", changes).unwrap());
    connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
    let size = ledger.plane.points("orders", ..).unwrap().points.last().unwrap().size;
    configure(DatabaseChanges::default().size_limit(SizeLimit::from_bytes(size).unwrap()));
    // The first page that spills from the cache exceeds the limit.
    let sql = "PRAGMA cache_size = 1; BEGIN; INSERT INTO t VALUES (zeroblob(1000000))";
    let refused = connection.execute_batch(sql).unwrap_err();
    assert_eq!(Error::from_sqlite(&connection, refused).kind(), ErrorKind::TooLarge);
    if !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK").unwrap();
    }
    // The old WAL was archived, and the new one has a header and no frame.
    assert!(ledger.database_dir().join("archive/000000000001.wal").exists());
    let mut log = std::fs::File::open(ledger.database_dir().join("data.db-wal")).unwrap();
    let mut head = [0; 33];
    log.seek(SeekFrom::Start(0)).unwrap();
    log.read_exact(&mut head).unwrap();
    assert!(head[0] == 0x37 && head[24..32] != [0; 8] && head[32] == 0);
    let mut rest = Vec::new();
    log.read_to_end(&mut rest).unwrap();
    assert!(rest.iter().all(|byte| *byte == 0));

    configure(DatabaseChanges::default().remove_size_limit().history_window(Retention::OFF));
    let before = flushes.0.load(SeqCst);
    connection.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    assert!(flushes.0.load(SeqCst) > before, "{cipher:?}: a commit with synchronous=FULL was not flushed");
}

#[test]
fn commit_after_header_only_wal_is_flushed_with_history_off() {
    if env::var_os(ROLE).is_none() {
        let name = "header_only_wal::commit_after_header_only_wal_is_flushed_with_history_off";
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(ROLE, "1");
        assert!(child.status().unwrap().success());
        return;
    }
    fault_vfs::install();
    let flushes = Arc::new(Flushes::default());
    let _watch = fault_vfs::watch(Arc::clone(&flushes) as _);
    for cipher in [None, Some(Cipher::Aegis256)] {
        check(cipher, &flushes);
    }
}
