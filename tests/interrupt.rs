//! Signals: Ctrl-C, SIGTERM and SIGHUP cancel the running command or statement.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use std::{
    fs,
    io::{BufReader, Read, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use litefleet::{
    ControlPlane, CreateDatabaseInput, DatabaseState, ExportOptions, Seed,
    rusqlite::{Connection, functions::FunctionFlags},
};
use tempfile::TempDir;

const TIMEOUT: Duration = Duration::from_secs(60);

/// Creates a fleet with a group `default`, in a temporary directory.
fn root() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    ControlPlane::open(&root).unwrap().create_group("default").unwrap();
    (dir, root)
}

/// Waits until a condition holds. Panics with `message` on a timeout.
fn wait_until(message: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < TIMEOUT, "{message}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Starts a command, interrupts it once it writes a database, and returns its output.
fn run_interrupted(root: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut running = Command::new(env!("CARGO_BIN_EXE_litefleet"))
        .args(["--json", "--root"])
        .arg(root)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = running.stdin.take().unwrap();
    stdin.write_all(input).unwrap();
    wait_until("the command does not start writing", || {
        staged(root).iter().any(|dir| dir.join("data.db").exists())
    });
    thread::sleep(Duration::from_millis(200));
    interrupt(&running);
    thread::sleep(Duration::from_millis(200));
    let _not_read = stdin.write_all(input);
    drop(stdin);
    running.wait_with_output().unwrap()
}

fn interrupt(running: &Child) {
    let kill = Command::new("sh").arg("-c").arg(format!("kill -INT {}", running.id())).status();
    assert!(kill.unwrap().success());
}

fn staged(root: &Path) -> Vec<PathBuf> {
    fs::read_dir(root.join(".staging")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn assert_cancelled(root: &Path, output: &Output) {
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error, serde_json::json!({"error": "cancelled", "kind": "cancelled"}));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(staged(root), Vec::<PathBuf>::new());
}

#[test]
fn interrupt_cancels_import_and_upload() {
    let (dir, root) = root();
    let path = dir.path().join("slow.db");
    let connection = Connection::open(&path).unwrap();
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_scalar_function("hex", 1, flags, |_| Ok("")).unwrap();
    // The integrity check takes some milliseconds a row.
    connection
        .execute_batch(
            "CREATE TABLE t(a); CREATE INDEX i ON t(a) WHERE length(hex(zeroblob(a))) < 0;
             WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
             INSERT INTO t SELECT 5000000 FROM n",
        )
        .unwrap();
    drop(connection);
    let slow = path.to_str().unwrap();
    let create = ["db", "create", "a", "--group", "default", "--from-file"];
    assert_cancelled(&root, &run_interrupted(&root, &[&create[..], &[slow]].concat(), &[]));
    // From standard input.
    let bytes = fs::read(&path).unwrap();
    assert_cancelled(&root, &run_interrupted(&root, &[&create[..], &["-"]].concat(), &bytes));

    let plane = ControlPlane::open(&root).unwrap();
    plane
        .create_database(CreateDatabaseInput::new("draft", "default").with_seed(Seed::DatabaseUpload))
        .unwrap();
    assert_cancelled(&root, &run_interrupted(&root, &["db", "upload", "draft", slow], &[]));
    let left = plane.list_databases(litefleet::ListDatabases::default()).unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].state, DatabaseState::Draft);
}

/// The directories of incomplete exports.
fn partials(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "partial")).collect()
}

fn send(signal: &str, running: &Child) {
    let status = Command::new("kill").args([signal, &running.id().to_string()]).status();
    assert!(status.unwrap().success());
}

/// Sends signals to an export while it writes its file, and returns its output, or `None` if it completed too early.
fn run_signalled(root: &Path, target: &Path, signals: &[&str], prelude: &str) -> Option<Output> {
    let export = format!(
        "{prelude} exec {} --json --root {} db export big {}",
        env!("CARGO_BIN_EXE_litefleet"),
        root.display(),
        target.display()
    );
    let mut running = Command::new("sh")
        .args(["-c", &export])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let dir = target.parent().unwrap();
    let is_writing =
        || partials(dir).iter().any(|dir| fs::metadata(dir.join("data.db")).is_ok_and(|file| file.len() > 0));
    wait_until("the command does not start writing", || {
        is_writing() || running.try_wait().unwrap().is_some()
    });
    if running.try_wait().unwrap().is_some() {
        return None;
    }
    // Stopped until the signals are pending.
    send("-STOP", &running);
    let is_in_time = is_writing();
    if is_in_time {
        for signal in signals {
            send(signal, &running);
        }
    }
    send("-CONT", &running);
    let output = running.wait_with_output().unwrap();
    is_in_time.then_some(output)
}

#[test]
fn signalled_export_leaves_no_files() {
    let (dir, root) = root();
    let plane = ControlPlane::open(&root).unwrap();
    plane.create_database(CreateDatabaseInput::new("big", "default")).unwrap();
    let connection = plane.connect("big", litefleet::ConnectOptions::default()).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE t(a);
             WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 200)
             INSERT INTO t SELECT zeroblob(1000000) FROM n",
        )
        .unwrap();
    drop(connection);
    let exports = dir.path().join("exports");
    fs::create_dir(&exports).unwrap();
    let target = exports.join("out.db");
    let left = || fs::read_dir(&exports).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let nothing = Vec::<std::ffi::OsString>::new();
    // The export may complete before it checks for the signal, so this is tried several times.
    let cancelled = |signal: &str, number: i32| {
        for _ in 0..100 {
            let output = run_signalled(&root, &target, &[signal], "");
            if let Some(output) = output.filter(|output| !output.status.success()) {
                let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
                assert_eq!(error["kind"], "cancelled", "{error}");
                let status = output.status;
                assert_eq!(status.signal().or(status.code().map(|code| -code)), Some(number), "{signal}");
                assert_eq!(left(), nothing, "{signal}");
                return;
            }
            let _may_not_be_there = fs::remove_file(&target);
        }
        panic!("{signal} never arrives in time");
    };
    cancelled("-TERM", 15);
    cancelled("-HUP", 1);
    cancelled("-INT", -1);

    // An ignored SIGHUP, as under `nohup`, has no effect.
    let finished = (0..20).find_map(|_| {
        let output = run_signalled(&root, &target, &["-HUP"], "trap '' HUP;");
        assert!(target.exists());
        fs::remove_file(&target).unwrap();
        output
    });
    assert!(finished.unwrap().status.success());

    // The files of a killed export are removed by the next export to the directory.
    let killed = (0..20).find_map(|_| {
        let output = run_signalled(&root, &target, &["-KILL"], "").filter(|_| !target.exists());
        let _may_not_be_there = fs::remove_file(&target);
        output
    });
    assert_eq!(killed.unwrap().status.signal(), Some(9));
    assert_eq!(partials(&exports).len(), 1);
    plane.export_database("big", exports.join("other.db"), ExportOptions::default()).unwrap();
    assert_eq!(left(), ["other.db"]);
}

#[test]
fn table_is_not_wrapped_on_terminal_of_unknown_width() {
    let (_dir, root) = root();
    let plane = ControlPlane::open(&root).unwrap();
    plane.create_database(CreateDatabaseInput::new("a", "default")).unwrap();
    let shell = format!(
        "stty cols 0 rows 0; exec {} --root {} db shell a \"select 'one long text' as x, 'another one' as y\"",
        env!("CARGO_BIN_EXE_litefleet"),
        root.display()
    );
    let script =
        Command::new("script").args(["-q", "-e", "-c", &shell, "/dev/null"]).stdin(Stdio::null()).output();
    let Ok(output) = script else { return skipped("`script` is not installed") };
    let printed = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<_> =
        printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(rows, ["x y", "one long text another one"], "{printed:?}");
}

/// Reports a skipped test on the stream itself, because the output of passing tests is captured.
fn skipped(reason: &str) {
    let test = thread::current();
    let _best_effort = writeln!(std::io::stderr(), "{}: skipped: {reason}", test.name().unwrap_or_default());
}

/// The interactive shell on a pseudoterminal, which `script` provides.
struct Terminal {
    script: Child,
    stdin: std::process::ChildStdin,
    output: std::sync::mpsc::Receiver<u8>,
    text: String,
}

impl Terminal {
    fn open(root: &Path, name: &str) -> Option<Self> {
        let shell = format!(
            "stty cols 100; exec {} --root {} db shell {name}",
            env!("CARGO_BIN_EXE_litefleet"),
            root.display()
        );
        let script = Command::new("script")
            .args(["-q", "-e", "-c", &shell, "/dev/null"])
            .env("HOME", root)
            .env("TERM", "dumb")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut script) = script else {
            skipped("`script` is not installed");
            return None;
        };
        let (sender, output) = std::sync::mpsc::channel();
        let stdout = BufReader::new(script.stdout.take().unwrap());
        thread::spawn(move || stdout.bytes().map_while(Result::ok).try_for_each(|byte| sender.send(byte)));
        Some(Self { stdin: script.stdin.take().unwrap(), script, output, text: String::new() })
    }

    fn enter(&mut self, text: &str) {
        self.stdin.write_all(text.as_bytes()).unwrap();
        self.stdin.flush().unwrap();
    }

    /// Waits until the terminal shows `text`, and discards its output so far.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        while !self.text.contains(text) {
            match self.output.recv_timeout(TIMEOUT) {
                Ok(byte) => self.text.push(char::from(byte)),
                Err(error) => panic!("{text:?} is not shown ({error}): {:?}", self.text),
            }
        }
        self.text.clear();
    }
}

#[test]
fn interrupt_stops_a_query_and_keeps_its_transaction() {
    let (_dir, root) = root();
    let plane = ControlPlane::open(&root).unwrap();
    plane.create_database(CreateDatabaseInput::new("a", "default")).unwrap();
    let Some(mut terminal) = Terminal::open(&root, "a") else { return };
    terminal.wait_for("a> ");
    terminal.enter("begin; create table t(x); insert into t values (40);\r");
    terminal.wait_for("a> ");
    for _ in 0..2 {
        let endless = "with recursive n(i) as (select 1 union all select i + 1 from n)";
        terminal.enter(&format!("{endless} select count(*) from n;\r"));
        thread::sleep(Duration::from_millis(500));
        terminal.enter("\x03");
        terminal.wait_for("error: interrupted");
    }
    terminal.enter("select 'still ' || (x + 2) from t; commit;\r");
    terminal.wait_for("still 42");
    // An interrupted write rolls back the whole transaction in SQLite.
    terminal.enter("begin; insert into t values (1);\r");
    terminal.enter(
        "with recursive n(i) as (select 1 union all select i + 1 from n) insert into t select i from n;\r",
    );
    thread::sleep(Duration::from_millis(500));
    terminal.enter("\x03");
    terminal.wait_for("the transaction was rolled back");
    terminal.enter("select 'rows ' || count(*) from t;\r");
    terminal.wait_for("rows 1");
    terminal.enter(".quit\r");
    assert!(terminal.script.wait().unwrap().success());
}

#[test]
fn shell_attaches_databases_and_stores_no_keys_in_its_history() {
    let (_dir, root) = root();
    let plane = ControlPlane::open(&root).unwrap();
    for name in ["a", "b-c"] {
        plane.create_database(CreateDatabaseInput::new(name, "default")).unwrap();
    }
    let other = plane.connect("b-c", litefleet::ConnectOptions::default()).unwrap();
    other.execute_batch("create table t(x); insert into t values (40)").unwrap();
    let path = plane.database_path("b-c").unwrap();
    let Some(mut terminal) = Terminal::open(&root, "a") else { return };
    terminal.wait_for("a> ");
    terminal.enter(&format!("attach '{}' as x;\r", path.display()));
    terminal.wait_for(".attach NAME");
    terminal.enter(".attach b-c\r");
    terminal.wait_for("attached b-c as");
    terminal.enter("select 'rows ' || (x + 2) from \"b-c\".t;\r");
    terminal.wait_for("rows 42");
    terminal.enter(".attach b-c other\r");
    terminal.wait_for("attached b-c as");
    terminal.enter("select 'other ' || (x + 3) from other.t;\r");
    terminal.wait_for("other 43");
    terminal.enter(".attach missing\r");
    terminal.wait_for("could not find database with name missing");
    terminal.enter("pragma key = 'q6urq6ur';\r");
    terminal.wait_for("--key-file");
    terminal.enter(".quit\r");
    assert!(terminal.script.wait().unwrap().success());
    let history = fs::read_to_string(root.join(".local/state/litefleet/history")).unwrap();
    assert!(history.contains(".attach b-c") && !history.contains("q6urq6ur"), "{history}");
}

#[test]
fn interrupted_bench_removes_its_databases() {
    let (_dir, root) = root();
    let benches = || -> Vec<PathBuf> {
        let entries = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.to_string_lossy().contains(".litefleet-bench-")).collect()
    };
    for signal in ["-INT", "-TERM"] {
        let running = Command::new(env!("CARGO_BIN_EXE_litefleet"))
            .args(["--json", "bench", "--seconds", "10", "--root"])
            .arg(&root)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until("the bench does not create databases", || {
            benches().iter().any(|dir| dir.join("fleet/bench/sealed-history/data.db").exists())
        });
        send(signal, &running);
        let output = running.wait_with_output().unwrap();
        let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(error, serde_json::json!({"error": "cancelled", "kind": "cancelled"}));
        assert_eq!(benches(), Vec::<PathBuf>::new());
    }
}
