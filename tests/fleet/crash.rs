//! Processes that die, and processes that share a root.
//!
//! Each test runs this very binary again as a child, which finds its orders in the environment. A child that is to
//! die is killed with SIGKILL at a moment that differs from round to round, or stops itself at the n-th step of a
//! call; then the root is opened anew, and everything in it must be whole, and nothing left over.

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
use litefleet::{ControlPlane, CreateDatabaseInput, DatabaseState, ErrorKind, Seed, rusqlite::Connection};

/// Rounds of the kill loop, unless the environment says otherwise.
const ROUNDS: u64 = 300;

const ROLE: &str = "LITEFLEET_TEST_CHILD";

/// A child that runs the test with this path.
pub(crate) fn child_of(path: &str, role: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", path, "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn child(test: &str, role: &str) -> Command {
    child_of(&format!("crash::{test}"), role)
}

/// The orders of this process, if it is a child.
pub(crate) fn orders() -> Option<Vec<String>> {
    env::var(ROLE).ok().map(|role| role.split('|').map(str::to_owned).collect())
}

/// Numbers that look random and are the same for the same seed.
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

/// One random operation on a few names. It says what it is about to do and what came of it.
fn operate(plane: &ControlPlane, file: &Path, random: &mut Random) {
    let name = format!("db-{}", random.below(4));
    let answer = match random.below(9) {
        0 | 1 => plane.create_database(new(&name)).map(|_| ()),
        2 => plane.create_database(CreateDatabaseInput::fork(&name, "bank")).map(|_| ()),
        3 => plane.import_database(new(&name), file).map(|_| ()),
        4 => plane.create_database(new(&name).with_seed(Seed::DatabaseUpload)).map(|_| ()),
        5 => plane.upload_database(&name, fs::File::open(file).unwrap()).map(drop),
        6 | 7 => plane.destroy_database(&name),
        _ => plane.connect("bank", &Default::default()).map(|bank| {
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

/// Checks that every database in the root is whole: empty, a bank whose books balance, or a draft.
fn check(root: &Path) -> ControlPlane {
    let plane = ControlPlane::open(root).unwrap();
    assert_no_debris(&plane);
    for database in plane.list_databases(&Default::default()).unwrap() {
        if database.state == DatabaseState::Draft {
            continue;
        }
        let connection = plane.connect(database.name.as_str(), &Default::default()).unwrap();
        let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok", "{}", database.name);
        if count(&connection, "SELECT count(*) FROM sqlite_schema") > 0 {
            assert_eq!(count(&connection, "SELECT sum(balance) FROM account"), 10_000, "{}", database.name);
        }
    }
    plane
}

/// A root with a bank in a group, and a file that holds a bank too.
fn prepare(dir: &Path) -> (PathBuf, PathBuf) {
    let root = dir.join("root");
    let plane = ControlPlane::open(&root).unwrap();
    plane.create_group("default").unwrap();
    plane.create_database(new("bank")).unwrap();
    plane.connect("bank", &Default::default()).unwrap().execute_batch(BANK).unwrap();
    let file = dir.join("bank.db");
    Connection::open(&file).unwrap().execute_batch(BANK).unwrap();
    (root, file)
}

fn first_line(child: &mut Child) -> String {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.by_ref().map(Result::unwrap).find(|line| line.contains("READY")).unwrap_or_default()
}

#[test]
fn a_process_killed_at_any_moment_leaves_whole_databases_and_nothing_else() {
    if let Some(orders) = orders() {
        let [root, file, seed] = orders.as_slice() else { unreachable!() };
        let plane = ControlPlane::open(root).unwrap();
        println!("READY");
        let mut random = Random(seed.parse().unwrap());
        loop {
            operate(&plane, Path::new(file), &mut random);
        }
    }
    let rounds = env::var("LITEFLEET_KILL_ROUNDS").ok().map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let (root, file) = prepare(dir.path());
    let name = "a_process_killed_at_any_moment_leaves_whole_databases_and_nothing_else";
    let mut random = Random(0x5eed_1234_5678_9abc);
    let mut states = BTreeMap::new();
    for round in 0..rounds {
        let seed = random.below(u64::MAX) | 1;
        let role = format!("{}|{}|{seed}", root.display(), file.display());
        let mut killed = child(name, &role).spawn().unwrap();
        assert!(first_line(&mut killed).contains("READY"), "round {round}");
        // An operation takes from half a millisecond to some five.
        std::thread::sleep(Duration::from_micros(random.below(12_000)));
        killed.kill().unwrap();
        killed.wait().unwrap();
        let plane = check(&root);
        *states.entry(plane.list_databases(&Default::default()).unwrap().len()).or_insert(0) += 1;
    }
    assert!(states.len() > 1, "the killed processes never did anything: {states:?}");
}

#[test]
fn a_process_that_stops_at_any_step_of_a_call_leaves_all_or_nothing() {
    if let Some(orders) = orders() {
        let [root, file, operation, step] = orders.as_slice() else { unreachable!() };
        let step: u64 = step.parse().unwrap();
        let left = Arc::new(AtomicU64::new(u64::MAX));
        let counting = Arc::clone(&left);
        let hook = move |_: litefleet::DiskOp, _: &Path| {
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
    let name = "a_process_that_stops_at_any_step_of_a_call_leaves_all_or_nothing";
    let dir = tempfile::tempdir().unwrap();
    let (root, file) = prepare(dir.path());
    for operation in
        ["create", "fork", "import", "upload", "destroy", "destroy-group", "destroy-renamed-group"]
    {
        let mut steps = 0;
        for step in 0_u64.. {
            {
                let plane = ControlPlane::open(&root).unwrap();
                let _not_there = plane.destroy_database("x");
                let _not_there = plane.destroy_group("other");
                let _not_there = plane.destroy_group("renamed");
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
            assert_eq!(status.code(), None, "{operation} step {step}: it did not abort but fail");
            steps += 1;
            // What was stopped can be done anew, whatever of it was settled.
            let plane = ControlPlane::open(&root).unwrap();
            match call(&plane, operation, &file) {
                Ok(()) => {}
                Err(error) => assert!(
                    [ErrorKind::AlreadyExists, ErrorKind::NotFound].contains(&error.kind()),
                    "{operation} step {step}: {error:?}"
                ),
            }
            let plane = check(&root);
            // Whatever became of the group, the one that has its first name is another one.
            if operation == "destroy-renamed-group" {
                plane.connect("x", &Default::default()).unwrap();
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
        "upload" => plane.upload_database("x", fs::File::open(file).unwrap()).map(drop),
        "destroy" => plane.destroy_database("x"),
        "destroy-renamed-group" => plane.destroy_group("renamed"),
        _ => plane.destroy_group("other"),
    }
}

/// A process that lives on finds the names and the groups that a dead one held free, without opening the root anew.
#[test]
fn what_a_dead_process_held_is_free_for_those_that_live() {
    if let Some(orders) = orders() {
        let hook = |step: litefleet::DiskOp, _: &Path| {
            if step == litefleet::DiskOp::SyncFile {
                std::process::abort();
            }
            Ok(())
        };
        let plane = ControlPlane::builder().fault_hook(Arc::new(hook)).open(&orders[0]).unwrap();
        let _aborts = plane.create_database(new("x"));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (root, _) = prepare(dir.path());
    let plane = ControlPlane::open(&root).unwrap();
    let die = || {
        let name = "what_a_dead_process_held_is_free_for_those_that_live";
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
fn two_processes_share_a_root() {
    if let Some(orders) = orders() {
        let [root, file, seed] = orders.as_slice() else { unreachable!() };
        let plane = ControlPlane::open(root).unwrap();
        let mut random = Random(seed.parse().unwrap());
        for _ in 0..150 {
            operate(&plane, Path::new(file), &mut random);
        }
        // Each also opens the root in the middle of the other's work, and sweeps there.
        drop(plane);
        let plane = ControlPlane::open(root).unwrap();
        for _ in 0..150 {
            operate(&plane, Path::new(file), &mut random);
        }
        std::process::exit(7);
    }
    let dir = tempfile::tempdir().unwrap();
    let (root, file) = prepare(dir.path());
    let children: Vec<_> = [11, 12, 13]
        .map(|seed| {
            let role = format!("{}|{}|{seed}", root.display(), file.display());
            child("two_processes_share_a_root", &role).stderr(Stdio::piped()).spawn().unwrap()
        })
        .into_iter()
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(7), "{said}");
    }
    check(&root);
}

#[test]
fn another_process_sees_a_change_on_its_open_connection() {
    if let Some(orders) = orders() {
        let plane = ControlPlane::open(&orders[0]).unwrap();
        let connection = plane.connect("bank", &Default::default()).unwrap();
        let kind = |sql: &str| {
            connection.execute_batch(sql).map_or_else(
                |error| litefleet::explain(&connection, error).kind().to_string(),
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
        child("another_process_sees_a_change_on_its_open_connection", &root.display().to_string())
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
    plane.configure_database("bank", changes().block_reads(false).size_limit("16kb".parse().ok())).unwrap();
    assert_eq!(
        (ask(write), ask("CREATE TABLE big AS SELECT randomblob(99999)")),
        ("done".into(), "too_large".into())
    );
    plane.destroy_database("bank").unwrap();
    assert_eq!(ask("SELECT * FROM account"), "destroyed");
    drop(questions);
    other.wait().unwrap();
}
