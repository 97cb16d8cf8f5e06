//! A call of the underlying VFS fails while the WAL is moved into the archive: the host receives its result code, and
//! no commit is lost.

use std::sync::{
    Arc,
    atomic::{AtomicI32, Ordering::SeqCst},
};

use litefleet::{
    Cipher, Error, ErrorKind, PageFormat, Timestamp,
    rusqlite::{Connection, ffi},
};

use crate::{
    fault_vfs::{self, Call, Kind, Opened, Verdict, Watcher},
    support::{Fleet, query, run, shared_turn},
};

/// Fails the next creation of a WAL with a result code.
struct Failing {
    dir: std::path::PathBuf,
    code: AtomicI32,
}

impl Watcher for Failing {
    fn covers(&self, file: &Opened) -> bool {
        file.kind() == Kind::Wal && file.path.as_ref().is_some_and(|path| path.starts_with(&self.dir))
    }

    fn see(&self, _: &Opened, call: Call<'_>) -> Verdict {
        match (call, self.code.swap(0, SeqCst)) {
            (Call::Create, code) if code != 0 => Verdict::Fail(code),
            (_, code) => {
                self.code.store(code, SeqCst);
                Verdict::Pass
            }
        }
    }
}

#[test]
fn failed_wal_restart_returns_code_of_the_underlying_vfs() {
    let _turn = shared_turn();
    for cipher in [None, Some(Cipher::Aegis256)] {
        let fleet = Fleet::new(cipher, PageFormat::Native);
        let failing = Arc::new(Failing { dir: fleet.database_dir(), code: AtomicI32::new(0) });
        let _watch = fault_vfs::watch(Arc::clone(&failing) as _);
        let connection = fleet.connect();
        run(&connection, "CREATE TABLE t(a)").unwrap();
        let mut rows = 0;
        for (code, kind) in [
            (ffi::SQLITE_CANTOPEN, ErrorKind::Io),
            (ffi::SQLITE_FULL, ErrorKind::DiskFull),
            (ffi::SQLITE_IOERR_ACCESS, ErrorKind::Io),
        ] {
            run(&connection, "PRAGMA wal_checkpoint(FULL)").unwrap();
            failing.code.store(code, SeqCst);
            let error = run(&connection, "INSERT INTO t VALUES (1)").unwrap_err();
            assert_eq!(failing.code.load(SeqCst), 0, "the WAL was not restarted");
            assert_eq!(
                error.sqlite_error().map(|error| error.extended_code),
                Some(code),
                "{cipher:?}: {error}"
            );
            assert_eq!(Error::from_sqlite(&connection, error).kind(), kind, "{cipher:?}: {code}");
            run(&connection, "INSERT INTO t VALUES (1)").unwrap();
            rows += 1;
            assert_eq!(query::<i64>(&connection, "SELECT count(*) FROM t").unwrap(), rows);
        }
        check_history(&fleet, &connection, rows);
    }
}

/// Checks that every commit is a recovery point, and no failed one is.
fn check_history(fleet: &Fleet, connection: &Connection, rows: i64) {
    let points = fleet.plane.points("vault", ..).unwrap();
    let expected = usize::try_from(rows).unwrap() + 1;
    assert_eq!((points.points.len(), points.windows.len()), (expected, 1), "{points:?}");
    let at = |at: Timestamp| {
        let (view, _) = fleet.plane.connect_at("vault", at, fleet.options()).unwrap();
        query::<i64>(&view, "SELECT count(*) FROM t").unwrap()
    };
    let counts: Vec<_> = points.points.iter().map(|point| at(point.at)).collect();
    assert_eq!(counts, (0..=rows).collect::<Vec<_>>());
    assert_eq!(query::<String>(connection, "PRAGMA integrity_check").unwrap(), "ok");
}
