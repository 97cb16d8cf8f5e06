//! Every file operation of the crate fails or returns changed bytes once, reads included: the call reports one clear error or
//! completes, and leaves nothing behind.
//!
//! The storage below the crate is replaced as a whole. SQLite's own I/O is not part of it: `io_faults` covers that.

use std::{
    ffi::OsString,
    fs::File,
    io,
    ops::Range,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

#[cfg(not(all(target_os = "linux", not(litefleet_posix))))]
use litefleet::internals::{Access, SqliteFile};
use litefleet::{
    ControlPlane, CreateDatabaseInput, Error, ErrorKind, MaintainOptions, Seed, VerifyOptions,
    internals::{Entry, Lock, Metadata, Open, Os, Storage, mount},
};

use crate::{
    maintain::{a_day_later, maintain_a_day_later, with_history},
    support::{Contents, Ledger, contents, files},
};

/// What happens to one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The operation fails.
    Fails,
    /// A read returns bytes of which one bit differs.
    ReadFlips,
    /// A write writes bytes of which one bit differs.
    WriteFlips,
}

const OFF: usize = usize::MAX;

/// The operating system, except for the n-th operation after arming.
#[derive(Debug)]
struct Faulty {
    fault: Fault,
    left: AtomicUsize,
    /// The operation that the fault hit.
    hit: Mutex<Option<String>>,
}

impl Faulty {
    fn new(fault: Fault) -> Arc<Self> {
        Arc::new(Self { fault, left: AtomicUsize::new(OFF), hit: Mutex::default() })
    }

    /// Runs `call` with the fault at its n-th operation. Returns the operation that was hit, or `None` if there were fewer.
    fn during<T>(&self, nth: usize, call: impl FnOnce() -> T) -> (T, Option<String>) {
        self.left.store(nth, SeqCst);
        let result = call();
        self.left.store(OFF, SeqCst);
        (result, self.hit.lock().unwrap().take())
    }

    fn is_hit(&self, fault: Fault, operation: &str, path: &Path) -> bool {
        if fault != self.fault {
            return false;
        }
        let count = |left| (left != OFF).then(|| usize::wrapping_sub(left, 1));
        let is_hit = self.left.fetch_update(SeqCst, SeqCst, count) == Ok(0);
        if is_hit {
            *self.hit.lock().unwrap() = Some(format!("{operation} {}", path.display()));
        }
        is_hit
    }

    fn pass(&self, operation: &str, path: &Path) -> io::Result<()> {
        if self.is_hit(Fault::Fails, operation, path) {
            return Err(io::Error::other("injected fault"));
        }
        Ok(())
    }
}

impl Storage for Faulty {
    fn open(&self, entry: Entry<'_>, how: Open) -> io::Result<File> {
        self.pass("open", entry.full_path())?;
        Os.open(entry, how)
    }

    fn read_at(&self, file: &File, path: &Path, into: &mut [u8], offset: u64) -> io::Result<usize> {
        self.pass("read_at", path)?;
        let count = Os.read_at(file, path, into, offset)?;
        if count > 0 && self.is_hit(Fault::ReadFlips, "read_at", path) {
            into[count / 2] ^= 1;
        }
        Ok(count)
    }

    #[cfg(not(all(target_os = "linux", not(litefleet_posix))))]
    fn open_database(&self, entry: Entry<'_>, resolved: &Path, access: Access) -> io::Result<SqliteFile> {
        self.pass("open", entry.full_path())?;
        Os.open_database(entry, resolved, access)
    }

    #[cfg(not(all(target_os = "linux", not(litefleet_posix))))]
    fn read_database(
        &self,
        file: &SqliteFile,
        path: &Path,
        into: &mut [u8],
        offset: u64,
    ) -> io::Result<usize> {
        self.pass("read_at", path)?;
        let count = Os.read_database(file, path, into, offset)?;
        if count > 0 && self.is_hit(Fault::ReadFlips, "read_at", path) {
            into[count / 2] ^= 1;
        }
        Ok(count)
    }

    fn read_cached(&self, _: &File, _: &Path, _: &mut [u8], _: u64) -> bool {
        // Which pages are cached differs from run to run.
        false
    }

    fn write_at(&self, file: &File, path: &Path, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.pass("write_at", path)?;
        if !bytes.is_empty() && self.is_hit(Fault::WriteFlips, "write_at", path) {
            let mut bytes = bytes.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            return Os.write_at(file, path, &bytes, offset);
        }
        Os.write_at(file, path, bytes, offset)
    }

    fn set_len(&self, file: &File, path: &Path, len: u64) -> io::Result<()> {
        self.pass("set_len", path)?;
        Os.set_len(file, path, len)
    }

    fn allocate(&self, file: &File, path: &Path, len: u64) -> io::Result<bool> {
        self.pass("allocate", path)?;
        Os.allocate(file, path, len)
    }

    fn clone_file(&self, from: &File, to: &File, to_path: &Path) -> io::Result<bool> {
        self.pass("clone_file", to_path)?;
        Os.clone_file(from, to, to_path)
    }

    fn copy_range(
        &self,
        from: &File,
        to: &File,
        to_path: &Path,
        range: Range<u64>,
    ) -> io::Result<Option<u64>> {
        self.pass("copy_range", to_path)?;
        Os.copy_range(from, to, to_path, range)
    }

    fn sync(&self, file: &File, path: &Path) -> io::Result<()> {
        self.pass("sync", path)?;
        Os.sync(file, path)
    }

    fn metadata(&self, entry: Entry<'_>) -> io::Result<Metadata> {
        self.pass("metadata", entry.full_path())?;
        Os.metadata(entry)
    }

    fn metadata_of(&self, file: &File, path: &Path) -> io::Result<Metadata> {
        self.pass("metadata_of", path)?;
        Os.metadata_of(file, path)
    }

    fn list(&self, dir: &File, path: &Path) -> io::Result<Vec<OsString>> {
        self.pass("list", path)?;
        Os.list(dir, path)
    }

    fn make_dir(&self, entry: Entry<'_>) -> io::Result<()> {
        self.pass("make_dir", entry.full_path())?;
        Os.make_dir(entry)
    }

    fn rename(&self, from: Entry<'_>, to: Entry<'_>) -> io::Result<()> {
        self.pass("rename", from.full_path())?;
        Os.rename(from, to)
    }

    fn rename_new(&self, from: Entry<'_>, to: Entry<'_>) -> io::Result<()> {
        self.pass("rename_new", from.full_path())?;
        Os.rename_new(from, to)
    }

    fn remove(&self, entry: Entry<'_>) -> io::Result<()> {
        self.pass("remove", entry.full_path())?;
        Os.remove(entry)
    }

    fn remove_file(&self, entry: Entry<'_>) -> io::Result<()> {
        self.pass("remove_file", entry.full_path())?;
        Os.remove_file(entry)
    }

    fn remove_dir(&self, entry: Entry<'_>) -> io::Result<()> {
        self.pass("remove_dir", entry.full_path())?;
        Os.remove_dir(entry)
    }

    fn lock(&self, file: &File, path: &Path, lock: Lock) -> io::Result<bool> {
        self.pass("lock", path)?;
        Os.lock(file, path, lock)
    }
}

/// Checks an error that a fault caused: it names the fault, and does not take a failing device for a damaged file.
fn check_error(error: &Error, fault: Fault, hit: &str) {
    let text = error.to_string();
    // The identity of a file that cannot be read counts as another one.
    let is_identity = hit.starts_with("metadata ")
        && matches!(error.kind(), ErrorKind::Replaced | ErrorKind::Destroyed | ErrorKind::Busy);
    match fault {
        Fault::Fails => assert!(text.contains("injected fault") || is_identity, "{hit}: {text}"),
        Fault::ReadFlips | Fault::WriteFlips => {
            assert!(!text.contains("panic") && !text.is_empty(), "{hit}: {text}");
        }
    }
}

/// A database with compressed and uncompressed segments, and no open connection.
fn ledger() -> Ledger {
    let (mut ledger, connection) = with_history(None, 3);
    drop(connection);
    maintain_a_day_later(&ledger);
    let connection = ledger.connect();
    ledger.commit(&connection, "INSERT INTO t(value) VALUES (5)");
    drop(connection);
    ledger
}

/// Runs a call that makes the database `new` with a fault at each of its operations in turn.
fn each_operation_of_a_creation(
    ledger: &Ledger,
    fault: Fault,
    input: CreateDatabaseInput,
    expected: &Contents,
) {
    let root = ledger.plane.root().to_owned();
    let storage = Faulty::new(fault);
    let _mount = mount(&root, Arc::clone(&storage) as Arc<dyn Storage>);
    let mut nth = 0;
    let mut failures = 0;
    loop {
        let (result, hit) = storage.during(nth, || ledger.plane.create_database(input.clone()));
        match (&result, &hit) {
            (Err(error), Some(hit)) => {
                failures += 1;
                check_error(error, fault, hit);
            }
            (Err(error), None) => panic!("without a fault: {error}"),
            (Ok(_), _) => {
                let found = contents(&ledger.plane.connect("new", ledger.options()).unwrap());
                assert!(found == *expected, "{hit:?}");
            }
        }
        // The next open removes what a failed removal left.
        let plane = ControlPlane::open(&root).unwrap();
        if result.is_ok() {
            plane.destroy_database("new").unwrap();
        }
        let missing = plane.get_database("new").map(|_| format!("{result:?} after {hit:?}")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound, "{hit:?}");
        for dir in [".staging", ".trash"] {
            assert_eq!(files(&root.join(dir)), [""; 0], "{dir} after {hit:?}");
        }
        assert_eq!(files(&root.join("default")), ["group.json", "orders"], "after {hit:?}");
        if hit.is_none() {
            break;
        }
        // Each of the first operations, and then a sample of many.
        nth += 1 + nth / 50;
    }
    // A changed read is read again, or a page rebuilt from older files.
    assert!(
        nth > 20 && (failures > 5 || fault == Fault::ReadFlips),
        "{failures} failures of {nth} operations"
    );
}

#[test]
fn creation_reports_each_failed_operation_and_leaves_nothing() {
    let ledger = ledger();
    let expected = ledger.states[0].contents.clone();
    each_operation_of_a_creation(
        &ledger,
        Fault::Fails,
        CreateDatabaseInput::new("new", "default"),
        &expected,
    );
}

#[test]
fn fork_reports_each_failed_operation_and_leaves_nothing() {
    let ledger = ledger();
    let expected = ledger.states.last().unwrap().contents.clone();
    each_operation_of_a_creation(
        &ledger,
        Fault::Fails,
        CreateDatabaseInput::fork("new", "orders"),
        &expected,
    );
}

#[test]
fn restore_reports_each_failed_operation_and_each_changed_read() {
    let ledger = ledger();
    // In a compressed segment, and in the newest one.
    for number in [4, ledger.states.len() - 2] {
        let state = &ledger.states[number];
        let input =
            CreateDatabaseInput::new("new", "default").with_seed(Seed::database_at("orders", state.from));
        for fault in [Fault::Fails, Fault::ReadFlips] {
            each_operation_of_a_creation(&ledger, fault, input.clone(), &state.contents);
        }
    }
}

/// Maintains copies of a fleet, each with a fault at another operation, and checks each copy afterwards.
fn each_operation_of_maintenance(fault: Fault, check: impl Fn(&ControlPlane, &str)) {
    let (ledger, connection) = with_history(None, 3);
    drop(connection);
    let dir = tempfile::tempdir().unwrap();
    let dir_path = dir.path().canonicalize().unwrap();
    let (mut nth, mut failures) = (0, 0);
    loop {
        let copy = dir_path.join(nth.to_string());
        assert!(Command::new("cp").arg("-a").arg(ledger.plane.root()).arg(&copy).status().unwrap().success());
        let plane = a_day_later(ControlPlane::builder()).open(&copy).unwrap();
        let storage = Faulty::new(fault);
        let mounted = mount(&copy, Arc::clone(&storage) as Arc<dyn Storage>);
        let (result, hit) =
            storage.during(nth, || plane.maintain_database("orders", MaintainOptions::default()));
        drop(mounted);
        if let (Err(error), Some(hit)) = (&result, &hit) {
            failures += 1;
            check_error(error, fault, hit);
        }
        let Some(hit) = hit else {
            result.unwrap();
            break;
        };
        check(&plane, &hit);
        for state in ledger.states.iter().step_by(5) {
            let view = plane.connect_at("orders", state.from, ledger.options());
            match view.map(|(view, _)| contents(&view)) {
                Ok(found) => assert!(found == state.contents, "{hit}"),
                Err(error) => {
                    assert!(
                        fault == Fault::WriteFlips && error.kind() == ErrorKind::Corrupt,
                        "{hit}: {error}"
                    );
                }
            }
        }
        std::fs::remove_dir_all(&copy).unwrap();
        nth += 1 + nth / 25;
    }
    assert!(failures > 5, "{failures} failures of {nth} operations");
}

/// Checks that the history is whole and that the next maintenance completes.
fn is_whole(plane: &ControlPlane, hit: &str) {
    let verified = plane.verify_database("orders", VerifyOptions::default()).unwrap();
    assert!(verified.findings.is_empty(), "after {hit}: {:?}", verified.findings);
    plane.maintain_database("orders", MaintainOptions::default()).unwrap();
    let archive = plane.database_path("orders").unwrap().with_file_name("archive");
    let left: Vec<_> =
        files(&archive).into_iter().filter(|name| name.split('.').next_back() == Some("new")).collect();
    assert!(left.is_empty(), "after {hit}: {left:?}");
}

#[test]
fn maintenance_survives_each_failed_operation() {
    each_operation_of_maintenance(Fault::Fails, is_whole);
}

#[test]
fn maintenance_persists_no_changed_read() {
    each_operation_of_maintenance(Fault::ReadFlips, is_whole);
}
