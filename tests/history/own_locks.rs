//! Calls that open the files of a database by path while a connection of this process has it open: the connection keeps
//! all its POSIX locks, although POSIX drops them when the process closes any descriptor of a file.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{self, Command},
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::Duration,
};

use litefleet::{
    Cipher, ConnectOptions, ControlPlane, CreateDatabaseInput, EncryptionKey, ExportOptions, ListDatabases,
    MaintainOptions, RemoteEncryption, RestoreOptions, Seed, VerifyOptions,
    rusqlite::{Connection, ErrorCode},
};

use crate::support::{Ledger, files, foreign_connection};

/// The database file that the second process locks.
const ROLE: &str = "LITEFLEET_TEST_SECOND_PROCESS";

/// How often the list of locks is read until it has an expected lock.
const ATTEMPTS: u32 = 50;

/// The locks of this process on the files of a database, as the kernel lists them: the file, the kind and the bytes. The list may
/// repeat a lock if it changes while it is read.
fn locks(ledger: &Ledger) -> Vec<String> {
    let dir = ledger.database_dir();
    let own = process::id().to_string();
    let inodes: Vec<_> = ["data.db", "data.db-shm"]
        .into_iter()
        .filter_map(|name| Some((name, fs::metadata(dir.join(name)).ok()?.ino().to_string())))
        .collect();
    let table = fs::read_to_string("/proc/locks").unwrap();
    let mut found: Vec<_> = table
        .lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let ["POSIX", _, kind, pid, file, from, to] = fields[1..] else { return None };
            let inode = file.rsplit(':').next()?;
            let (name, _) = inodes.iter().find(|(_, own)| own == inode)?;
            (pid == own).then(|| format!("{name} {kind} {from}..{to}"))
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Whether this process holds exactly these locks. The kernel's list is read in pieces, between which it may change; a lock
/// that is lost stays so.
fn holds(ledger: &Ledger, expected: &[String]) -> bool {
    (0..ATTEMPTS).any(|_| locks(ledger) == expected)
}

/// Whether another process finds the database locked for writing.
fn is_busy_elsewhere(data: &Path) -> bool {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "own_locks::second_process", "--nocapture", "--test-threads=1"]);
    let code = child.env(ROLE, data).output().unwrap().status.code();
    match code {
        Some(10) => false,
        Some(11) => true,
        code => panic!("the second process ended with {code:?}"),
    }
}

/// The second process. Does nothing as a test.
#[test]
fn second_process() {
    let Some(data) = env::var_os(ROLE) else { return };
    let connection = Connection::open(data).unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    match connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK") {
        Ok(()) => process::exit(10),
        Err(error) => {
            assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy));
            process::exit(11)
        }
    }
}

/// The descriptors of this process for files below a directory.
fn open_descriptors(dir: &Path) -> usize {
    let open =
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    open.filter(|path| path.starts_with(dir)).count()
}

fn copied(ledger: &Ledger, input: CreateDatabaseInput) -> CreateDatabaseInput {
    match &ledger.key {
        Some(key) => input.with_encryption(RemoteEncryption::inherit_cipher(key.clone())),
        None => input,
    }
}

fn fork(ledger: &Ledger, name: &str) {
    ledger.plane.create_database(copied(ledger, CreateDatabaseInput::fork(name, "orders"))).unwrap();
}

fn export(ledger: &Ledger) {
    let target = ledger.plane.root().with_file_name("export.db");
    let mut options = ExportOptions::default();
    if let Some(key) = &ledger.key {
        options = options.encryption_key(key.clone());
    }
    ledger.plane.export_database("orders", &target, options).unwrap();
    fs::remove_file(target).unwrap();
}

fn verify(ledger: &Ledger, key: Option<EncryptionKey>) {
    let mut options = VerifyOptions::default();
    if let Some(key) = key {
        options = options.encryption_key(key);
    }
    let verified = ledger.plane.verify_database("orders", options).unwrap();
    assert!(verified.findings.is_empty(), "{:?}", verified.findings);
}

/// Makes every call that reads the files of the database by path, and runs `check` after each.
fn each_reading_call(ledger: &Ledger, check: &dyn Fn(&str)) {
    let plane = &ledger.plane;
    let name =
        |kind: &str| format!("{kind}-{}", plane.list_databases(ListDatabases::default()).unwrap().len());
    let at = ledger.states[ledger.states.len() / 2].from;
    fork(ledger, &name("fork"));
    check("fork");
    verify(ledger, None);
    check("verification");
    if let Some(key) = &ledger.key {
        verify(ledger, Some(key.clone()));
        check("verification of tags");
    }
    export(ledger);
    check("export");
    plane.points("orders", ..).unwrap();
    check("list of points");
    drop(plane.connect_at("orders", at, ledger.options()).unwrap());
    check("view");
    let input =
        CreateDatabaseInput::new(name("rebuilt"), "default").with_seed(Seed::database_at("orders", at));
    plane.create_database(copied(ledger, input)).unwrap();
    check("restore");
    // It is refused while another connection writes.
    let in_place = RestoreOptions::default().busy_timeout(Duration::ZERO);
    let in_place = match &ledger.key {
        Some(key) => in_place.encryption_key(key.clone()),
        None => in_place,
    };
    let _may_be_busy = plane.restore_database("orders", at, in_place);
    check("restore in place");
    plane.maintain_database("orders", MaintainOptions::default()).unwrap();
    check("maintenance");
    if ledger.key.is_none() {
        plane
            .import_database(
                CreateDatabaseInput::new(name("import"), "default"),
                ledger.database_dir().join("data.db").as_path(),
            )
            .unwrap();
        check("import");
    }
    drop(ControlPlane::open(plane.root()).unwrap());
    check("second plane");
    drop(plane.connect("orders", ledger.options()).unwrap());
    check("second connection");
}

#[test]
fn writer_keeps_its_locks_during_calls_that_read_the_database_by_path() {
    for cipher in [None, Some(Cipher::Aegis256)] {
        let mut ledger = Ledger::new(cipher);
        let connection = ledger.connect();
        for sql in ["CREATE TABLE t(a)", "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)"] {
            ledger.commit(&connection, sql);
        }
        let data = ledger.database_dir().join("data.db");
        connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (3)").unwrap();
        let held = locks(&ledger);
        for lock in ["data.db READ", "data.db-shm WRITE"] {
            assert!(held.iter().any(|held| held.contains(lock)), "{lock}: {held:?}");
        }
        each_reading_call(&ledger, &|call| {
            assert!(holds(&ledger, &held), "after: {call}: {:?}, not {held:?}", locks(&ledger));
            // A plain program cannot read an encrypted database.
            assert!(cipher.is_some() || is_busy_elsewhere(&data), "after: {call}");
        });
        ledger.commit(&connection, "COMMIT");
        assert!(cipher.is_some() || !is_busy_elsewhere(&data));
        ledger.check_all();
    }
}

#[test]
fn reader_keeps_its_locks_during_calls_that_read_the_database_by_path() {
    for is_foreign in [false, true] {
        let mut ledger = Ledger::plain();
        let connection = ledger.connect();
        // The connection of another VFS in this process has its locks in the same table.
        let reader = if is_foreign { foreign_connection(&ledger) } else { ledger.connect() };
        reader.execute_batch("BEGIN; SELECT * FROM sqlite_schema").unwrap();
        let unwritten = locks(&ledger);
        assert!(unwritten.iter().any(|lock| lock.contains("data.db-shm READ")), "{unwritten:?}");
        verify(&ledger, None);
        assert!(holds(&ledger, &unwritten), "after the verification of a database without a commit");
        // The first commit takes the snapshot that begins the history.
        ledger.commit(&connection, "CREATE TABLE t(a)");
        assert!(
            files(&ledger.database_dir().join("archive"))
                .iter()
                .any(|name| name.split('.').next_back() == Some("sum"))
        );
        assert!(holds(&ledger, &unwritten), "after the first snapshot");
        ledger.commit(&connection, "INSERT INTO t VALUES (1)");
        drop(connection);
        let held = locks(&ledger);
        assert!(held.iter().any(|lock| lock.contains("data.db-shm READ")), "{held:?}");
        each_reading_call(&ledger, &|call| {
            assert!(holds(&ledger, &held), "after: {call}: {:?}, not {held:?}", locks(&ledger));
        });
        reader.execute_batch("COMMIT").unwrap();
    }
}

#[test]
fn forks_of_an_open_database_use_a_bounded_number_of_descriptors() {
    let mut ledger = Ledger::plain();
    let dir = ledger.database_dir();
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    connection.execute_batch("BEGIN; SELECT * FROM t").unwrap();
    let before = open_descriptors(&dir);
    for number in 0..200 {
        fork(&ledger, "copy");
        ledger.plane.destroy_database("copy").unwrap();
        let open = open_descriptors(&dir);
        assert!(open <= before + 2, "{open} descriptors after {number} forks, {before} before");
    }
    connection.execute_batch("COMMIT").unwrap();
    drop(connection);
    assert_eq!(open_descriptors(&dir), 0);
}

/// Is set when it is dropped, also by a panic.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Connections open, lock and close, while other threads open and close the files by path.
#[test]
fn no_lock_is_lost_while_connections_and_copies_race() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(a)");
    drop(connection);
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (ledger, is_done) = (&ledger, &is_done);
        for worker in 0..2 {
            scope.spawn(move || {
                while !is_done.load(SeqCst) {
                    let name = format!("copy-{worker}");
                    fork(ledger, &name);
                    ledger.plane.destroy_database(name.as_str()).unwrap();
                    // It may find the database changing.
                    let _may_be_busy = ledger.plane.verify_database("orders", VerifyOptions::default());
                    ledger.plane.points("orders", ..).unwrap();
                }
            });
        }
        scope.spawn(move || {
            let _done = Done(is_done);
            for _ in 0..200 {
                let connection = ledger.plane.connect("orders", ConnectOptions::default()).unwrap();
                connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (1)").unwrap();
                for lock in [
                    "data.db READ 1073741826..1073742335",
                    "data.db-shm WRITE 120..120",
                    "data.db-shm READ 128..128",
                ] {
                    let is_held = (0..ATTEMPTS).any(|_| locks(ledger).iter().any(|held| held == lock));
                    assert!(is_held, "{lock} is lost: {:?}", locks(ledger));
                    thread::yield_now();
                }
                connection.execute_batch("COMMIT").unwrap();
            }
        });
    });
    assert_eq!(crate::support::contents(&ledger.connect())["t"].len(), 200);
}
