//! Transactions over several encrypted files in rollback mode: a super-journal makes them atomic, whatever is
//! interrupted.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use litefleet::{
    Cipher, PageFormat,
    rusqlite::{Connection, ffi},
};

use crate::{
    fault_vfs::{self, Call, Opened, Verdict, Watcher},
    support::{Fleet, copy_files, query, run, shared_turn},
};

const CIPHER: Cipher = Cipher::Aegis256;
const FILES: [&str; 4] = ["one.db", "one.db-journal", "two.db", "two.db-journal"];

/// Copies the files before the super-journal is deleted, which is the commit point, and optionally makes the deletion
/// fail.
struct Commit {
    dir: PathBuf,
    aside: PathBuf,
    fails: bool,
    /// The super-journal.
    seen: Mutex<Option<PathBuf>>,
}

impl Watcher for Commit {
    fn covers(&self, file: &Opened) -> bool {
        file.path.as_ref().is_some_and(|path| path.to_string_lossy().contains("-mj"))
    }

    fn see(&self, file: &Opened, call: Call<'_>) -> Verdict {
        // After a failure, the rollback deletes it again.
        if let (Call::Delete { .. }, Some(path)) = (call, &file.path)
            && self.seen.lock().unwrap().is_none()
        {
            copy_files(&self.dir, &self.aside, &FILES);
            let name = path.file_name().unwrap().to_str().unwrap();
            copy_files(path.parent().unwrap(), &self.aside, &[name]);
            *self.seen.lock().unwrap() = Some(path.clone());
            if self.fails {
                return Verdict::Fail(ffi::SQLITE_IOERR_DELETE);
            }
        }
        Verdict::Pass
    }
}

/// A connection with both files attached, in rollback mode.
fn attach(fleet: &Fleet, dir: &Path, mode: &str) -> Connection {
    let connection = fleet.connect_unfenced();
    for schema in ["one", "two"] {
        let file = dir.join(format!("{schema}.db"));
        connection.execute(&format!("ATTACH ?1 AS {schema}"), [file.to_str().unwrap()]).unwrap();
        let pragma = format!("PRAGMA {schema}.journal_mode={mode}");
        assert_eq!(query::<String>(&connection, &pragma).unwrap(), mode);
        run(&connection, &format!("PRAGMA {schema}.synchronous=FULL")).unwrap();
    }
    connection
}

fn counts(connection: &Connection) -> (i64, i64) {
    let count =
        |schema| query(connection, &format!("SELECT count(*) FROM {schema}.t WHERE a = 'new'")).unwrap();
    (count("one"), count("two"))
}

const BOTH: &str = "BEGIN; UPDATE one.t SET a = 'new'; UPDATE two.t SET a = 'new'; COMMIT";

#[test]
fn transaction_over_two_files_is_atomic() {
    let _turn = shared_turn();
    for format in [PageFormat::Native, PageFormat::Turso] {
        // PERSIST and TRUNCATE keep the journals, so that old content may follow the super-journal record.
        for mode in ["delete", "truncate", "persist"] {
            let fleet = Fleet::new(Some(CIPHER), format);
            let dir = fleet.dir.path().join("files");
            fs::create_dir(&dir).unwrap();
            let vault = fleet.connect();
            run(
                &vault,
                "CREATE TABLE t(a, filler);
                 WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 50)
                 INSERT INTO t SELECT 'old', zeroblob(2000) FROM n",
            )
            .unwrap();
            for name in ["one.db", "two.db"] {
                vault.execute("VACUUM INTO ?1", [dir.join(name).to_str().unwrap()]).unwrap();
            }
            let connection = attach(&fleet, &dir, mode);
            // An earlier, longer transaction, whose journal PERSIST keeps.
            run(&connection, "BEGIN; UPDATE one.t SET filler = 1; UPDATE two.t SET filler = 2; COMMIT")
                .unwrap();
            assert_eq!(counts(&connection), (0, 0));

            let aside = fleet.dir.path().join("aside");
            let watch = |fails, aside: &Path| {
                let commit =
                    Commit { dir: dir.clone(), aside: aside.to_owned(), fails, seen: Mutex::default() };
                Arc::new(commit)
            };
            // The commit fails, and both files are rolled back.
            let commit = watch(true, &aside);
            let watching = fault_vfs::watch(Arc::clone(&commit) as _);
            run(&connection, BOTH).unwrap_err();
            drop(watching);
            if !connection.is_autocommit() {
                run(&connection, "ROLLBACK").unwrap();
            }
            assert_eq!(counts(&connection), (0, 0), "{format} {mode}");
            drop(connection);

            // A crash just before the commit point, and just after it.
            let super_journal = commit.seen.lock().unwrap().clone().expect("a super-journal");
            let name = super_journal.file_name().unwrap().to_str().unwrap();
            for (is_there, expected) in [(true, (0, 0)), (false, (50, 50))] {
                copy_files(&aside, &dir, &FILES);
                let _may_be_missing = fs::remove_file(&super_journal);
                if is_there {
                    copy_files(&aside, super_journal.parent().unwrap(), &[name]);
                }
                let recovered = attach(&fleet, &dir, mode);
                assert_eq!(counts(&recovered), expected, "{format} {mode}, super-journal: {is_there}");
                for schema in ["one", "two"] {
                    let check = format!("PRAGMA {schema}.integrity_check");
                    assert_eq!(query::<String>(&recovered, &check).unwrap(), "ok");
                }
            }

            // Without a fault the transaction commits.
            copy_files(&aside, &dir, &["one.db", "two.db"]);
            let connection = attach(&fleet, &dir, mode);
            run(&connection, BOTH).unwrap();
            assert_eq!(counts(&attach(&fleet, &dir, mode)), (50, 50), "{format} {mode}");
        }
    }
}
