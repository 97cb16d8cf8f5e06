//! Processes that die, and processes that share a root.
//!
//! Each test runs its own binary as child processes, which take their arguments from the environment. A child dies by
//! SIGKILL at a random moment or aborts at the n-th step of a call. The parent then opens the root and checks that
//! every database in it is intact and that nothing else is left.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::support::{assert_no_debris, count};
use litefleet::{
    ConnectOptions, ControlPlane, CreateDatabaseInput, DatabaseState, ErrorKind, ListDatabases, Seed,
    UploadOptions, rusqlite::Connection,
};

/// Rounds of the kill loop, unless `LITEFLEET_KILL_ROUNDS` overrides it.
const ROUNDS: u64 = 300;

const ROLE: &str = "LITEFLEET_TEST_CHILD";

/// A child process that runs the test with this path.
pub(crate) fn child_of(path: &str, role: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", path, "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn child(test: &str, role: &str) -> Command {
    child_of(&format!("crash::{test}"), role)
}

/// The arguments of this process, if it is a child.
pub(crate) fn child_arguments() -> Option<Vec<String>> {
    env::var(ROLE).ok().map(|role| role.split('|').map(str::to_owned).collect())
}

/// A deterministic pseudo-random generator.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

const BANK: &str = "CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER);
    WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 100)
    INSERT INTO account SELECT i, 100 FROM n";

fn new(name: &str) -> CreateDatabaseInput {
    CreateDatabaseInput::new(name, "default")
}

/// One random operation on one of a few names. Only errors that concurrent operations can cause are allowed.
fn random_operation(plane: &ControlPlane, file: &Path, random: &mut Random) {
    let name = format!("db-{}", random.below(4));
    let answer = match random.below(9) {
        0 | 1 => plane.create_database(new(&name)).map(|_| ()),
        2 => plane.create_database(CreateDatabaseInput::fork(&name, "bank")).map(|_| ()),
        3 => plane.import_database(new(&name), file).map(|_| ()),
        4 => plane.create_database(new(&name).with_seed(Seed::DatabaseUpload)).map(|_| ()),
        5 => plane
            .upload_database(&name, &mut fs::File::open(file).unwrap(), UploadOptions::default())
            .map(drop),
        6 | 7 => plane.destroy_database(&name),
        _ => plane.connect("bank", ConnectOptions::default()).map(|bank| {
            let (from, to) = (random.below(100) + 1, random.below(100) + 1);
            bank.execute_batch(&format!(
                "BEGIN IMMEDIATE; UPDATE account SET balance = balance - 1 WHERE id = {from};
                 UPDATE account SET balance = balance + 1 WHERE id = {to}; COMMIT"
            ))
            .unwrap();
        }),
    };
    if let Err(error) = answer {
        let expected = [ErrorKind::AlreadyExists, ErrorKind::NotFound, ErrorKind::Destroyed, ErrorKind::Busy];
        assert!(expected.contains(&error.kind()), "{error:?}");
    }
}

/// Checks that every database in the root is empty, a bank whose books balance, or a draft.
fn check(root: &Path) -> ControlPlane {
    let plane = ControlPlane::open(root).unwrap();
    assert_no_debris(&plane);
    for database in plane.list_databases(ListDatabases::default()).unwrap() {
        if database.state == DatabaseState::Draft {
            continue;
        }
        let connection = plane.connect(database.name.as_str(), ConnectOptions::default()).unwrap();
        let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok", "{}", database.name);
        if count(&connection, "SELECT count(*) FROM sqlite_schema") > 0 {
            assert_eq!(count(&connection, "SELECT sum(balance) FROM account"), 10_000, "{}", database.name);
        }
    }
    plane
}

/// Creates a root with a bank in a group, and a database file with a bank.
fn prepare(dir: &Path) -> (PathBuf, PathBuf) {
    let root = dir.join("root");
    let plane = ControlPlane::open(&root).unwrap();
    plane.create_group("default").unwrap();
    plane.create_database(new("bank")).unwrap();
    plane.connect("bank", ConnectOptions::default()).unwrap().execute_batch(BANK).unwrap();
    let file = dir.join("bank.db");
    Connection::open(&file).unwrap().execute_batch(BANK).unwrap();
    (root, file)
}

fn first_line(child: &mut Child) -> String {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.by_ref().map(Result::unwrap).find(|line| line.contains("READY")).unwrap_or_default()
}

#[test]
fn killed_process_leaves_intact_databases_and_no_debris() {
    if let Some(arguments) = child_arguments() {
        let [root, file, seed] = arguments.as_slice() else { unreachable!() };
        let plane = ControlPlane::open(root).unwrap();
        println!("READY");
        let mut random = Random(seed.parse().unwrap());
        loop {
            random_operation(&plane, Path::new(file), &mut random);
        }
    }
    let rounds = env::var("LITEFLEET_KILL_ROUNDS").ok().map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let (root, file) = prepare(dir.path());
    let name = "killed_process_leaves_intact_databases_and_no_debris";
    let mut random = Random(0x5eed_1234_5678_9abc);
    let mut states = BTreeMap::new();
    for round in 0..rounds {
        let seed = random.below(u64::MAX) | 1;
        let role = format!("{}|{}|{seed}", root.display(), file.display());
        let mut killed = child(name, &role).spawn().unwrap();
        assert!(first_line(&mut killed).contains("READY"), "round {round}");
        // An operation takes 0.5 to 5 milliseconds.
        std::thread::sleep(Duration::from_micros(random.below(12_000)));
        killed.kill().unwrap();
        killed.wait().unwrap();
        let plane = check(&root);
        *states.entry(plane.list_databases(ListDatabases::default()).unwrap().len()).or_insert(0) += 1;
    }
    assert!(states.len() > 1, "the killed processes made no progress: {states:?}");
}

#[test]
fn process_aborted_at_any_step_leaves_all_or_nothing() {
    if let Some(arguments) = child_arguments() {
        let [root, file, operation, step] = arguments.as_slice() else { unreachable!() };
        let step: u64 = step.parse().unwrap();
        let left = Arc::new(AtomicU64::new(u64::MAX));
        let counting = Arc::clone(&left);
        let hook = move |_: litefleet::testing::DiskOp, _: &Path| {
            if counting.load(Ordering::SeqCst) != u64::MAX && counting.fetch_sub(1, Ordering::SeqCst) == 0 {
                std::process::abort();
            }
            Ok(())
        };
        let plane = ControlPlane::builder().fault_hook(Arc::new(hook)).open(root).unwrap();
        left.store(step, Ordering::SeqCst);
        call(&plane, operation, Path::new(file)).unwrap();
        std::process::exit(7);
    }
    let name = "process_aborted_at_any_step_leaves_all_or_nothing";
    let dir = tempfile::tempdir().unwrap();
    let (root, file) = prepare(dir.path());
    for operation in
        ["create", "fork", "import", "upload", "destroy", "destroy-group", "destroy-renamed-group"]
    {
        let mut steps = 0;
        for step in 0_u64.. {
            {
                let plane = ControlPlane::open(&root).unwrap();
                let _may_be_missing = plane.destroy_database("x");
                let _may_be_missing = plane.destroy_group("other");
                let _may_be_missing = plane.destroy_group("renamed");
                plane.create_group("other").unwrap();
                plane.create_database(CreateDatabaseInput::new("y", "other")).unwrap();
                match operation {
                    "upload" => _ = plane.create_database(new("x").with_seed(Seed::DatabaseUpload)).unwrap(),
                    "destroy" => _ = plane.create_database(new("x")).unwrap(),
                    "destroy-renamed-group" => {
                        plane.rename_group("other", "renamed").unwrap();
                        plane.create_group("other").unwrap();
                        plane.create_database(CreateDatabaseInput::new("x", "other")).unwrap();
                    }
                    _ => {}
                }
            }
            let role = format!("{}|{}|{operation}|{step}", root.display(), file.display());
            let status = child(name, &role).stdout(Stdio::null()).status().unwrap();
            check(&root);
            if status.code() == Some(7) {
                break;
            }
            assert_eq!(status.code(), None, "{operation} step {step}: failed instead of aborting");
            steps += 1;
            // An interrupted call can be repeated, whether or not it took effect.
            let plane = ControlPlane::open(&root).unwrap();
            match call(&plane, operation, &file) {
                Ok(()) => {}
                Err(error) => assert!(
                    [ErrorKind::AlreadyExists, ErrorKind::NotFound].contains(&error.kind()),
                    "{operation} step {step}: {error:?}"
                ),
            }
            let plane = check(&root);
            // The group that now has the old name is unaffected.
            if operation == "destroy-renamed-group" {
                plane.connect("x", ConnectOptions::default()).unwrap();
                assert_eq!(plane.get_database("y").unwrap_err().kind(), ErrorKind::NotFound);
            }
        }
        assert!(steps >= 3, "{operation} has {steps} steps");
    }
}

fn call(plane: &ControlPlane, operation: &str, file: &Path) -> litefleet::Result<()> {
    match operation {
        "create" => plane.create_database(new("x")).map(|_| ()),
        "fork" => plane.create_database(CreateDatabaseInput::fork("x", "bank")).map(|_| ()),
        "import" => plane.import_database(new("x"), file).map(|_| ()),
        "upload" => {
            plane.upload_database("x", &mut fs::File::open(file).unwrap(), UploadOptions::default()).map(drop)
        }
        "destroy" => plane.destroy_database("x"),
        "destroy-renamed-group" => plane.destroy_group("renamed"),
        _ => plane.destroy_group("other"),
    }
}

/// A process that keeps running finds the names and groups of a dead process free without reopening the root.
#[test]
fn names_held_by_a_dead_process_are_free() {
    if let Some(arguments) = child_arguments() {
        let hook = |step: litefleet::testing::DiskOp, _: &Path| {
            if step == litefleet::testing::DiskOp::SyncFile {
                std::process::abort();
            }
            Ok(())
        };
        let plane = ControlPlane::builder().fault_hook(Arc::new(hook)).open(&arguments[0]).unwrap();
        let _aborts = plane.create_database(new("x"));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (root, _) = prepare(dir.path());
    let plane = ControlPlane::open(&root).unwrap();
    let die = || {
        let name = "names_held_by_a_dead_process_are_free";
        let status = child(name, &root.display().to_string()).stdout(Stdio::null()).status().unwrap();
        assert_eq!(status.code(), None);
        assert_eq!(plane.get_database("x").unwrap_err().kind(), ErrorKind::NotFound);
    };
    die();
    plane.create_database(new("x")).unwrap();
    assert_no_debris(&plane);
    plane.destroy_database("x").unwrap();
    die();
    plane.destroy_group("default").unwrap();
    assert_no_debris(&plane);
}

#[test]
fn processes_share_a_root() {
    if let Some(arguments) = child_arguments() {
        let [root, file, seed] = arguments.as_slice() else { unreachable!() };
        let plane = ControlPlane::open(root).unwrap();
        let mut random = Random(seed.parse().unwrap());
        for _ in 0..150 {
            random_operation(&plane, Path::new(file), &mut random);
        }
        // Reopening the root sweeps it while the other processes work.
        drop(plane);
        let plane = ControlPlane::open(root).unwrap();
        for _ in 0..150 {
            random_operation(&plane, Path::new(file), &mut random);
        }
        std::process::exit(7);
    }
    let dir = tempfile::tempdir().unwrap();
    let (root, file) = prepare(dir.path());
    let children: Vec<_> = [11, 12, 13]
        .map(|seed| {
            let role = format!("{}|{}|{seed}", root.display(), file.display());
            child("processes_share_a_root", &role).stderr(Stdio::piped()).spawn().unwrap()
        })
        .into_iter()
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let printed =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(7), "{printed}");
    }
    check(&root);
}

#[test]
fn configuration_change_reaches_open_connection_in_other_process() {
    if let Some(arguments) = child_arguments() {
        let plane = ControlPlane::open(&arguments[0]).unwrap();
        let connection = plane.connect("bank", ConnectOptions::default()).unwrap();
        let kind = |sql: &str| {
            connection.execute_batch(sql).map_or_else(
                |error| litefleet::Error::from_sqlite(&connection, error).kind().to_string(),
                |()| "done".into(),
            )
        };
        println!("READY");
        for line in std::io::stdin().lines() {
            println!("{}", kind(&line.unwrap()));
        }
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (root, _) = prepare(dir.path());
    let plane = ControlPlane::open(&root).unwrap();
    let mut other =
        child("configuration_change_reaches_open_connection_in_other_process", &root.display().to_string())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
    let mut answers = BufReader::new(other.stdout.take().unwrap()).lines().map(Result::unwrap);
    answers.by_ref().find(|line| line.contains("READY")).unwrap();
    let mut questions = other.stdin.take().unwrap();
    let mut ask = |sql: &str| {
        use std::io::Write;
        writeln!(questions, "{sql}").unwrap();
        answers.next().unwrap()
    };
    let changes = litefleet::DatabaseChanges::default;
    let write = "UPDATE account SET balance = balance";
    assert_eq!(ask(write), "done");
    plane.configure_database("bank", changes().block_writes(true)).unwrap();
    assert_eq!((ask(write), ask("SELECT * FROM account")), ("blocked".into(), "done".into()));
    plane.configure_database("bank", changes().block_writes(false).block_reads(true)).unwrap();
    assert_eq!(ask("SELECT * FROM account"), "blocked");
    plane
        .configure_database("bank", changes().block_reads(false).size_limit("16kb".parse().unwrap()))
        .unwrap();
    assert_eq!(
        (ask(write), ask("CREATE TABLE big AS SELECT randomblob(99999)")),
        ("done".into(), "too_large".into())
    );
    plane.destroy_database("bank").unwrap();
    assert_eq!(ask("SELECT * FROM account"), "destroyed");
    drop(questions);
    other.wait().unwrap();
}
