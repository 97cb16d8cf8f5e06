//! The command line, run as a separate process.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

mod bench;
mod keys;
mod lists;
mod stream;

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

struct Shell(TempDir);

impl Shell {
    fn new() -> Self {
        let shell = Self(tempfile::tempdir().unwrap());
        shell.run_ok(&["group", "create", "default"]);
        shell
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_litefleet"));
        command
            .arg("--root")
            .arg(self.0.path().join("root"))
            .args(arguments)
            .current_dir(self.0.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut running = self.command(arguments).spawn().unwrap();
        let _not_read = running.stdin.take().unwrap().write_all(input.as_bytes());
        running.wait_with_output().unwrap()
    }

    /// Runs a command that must succeed without errors, and returns its standard output.
    fn run_ok(&self, arguments: &[&str]) -> String {
        self.run_ok_with(arguments, "")
    }

    fn run_ok_with(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run_ok(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// Runs a command that must fail with `code`, and returns its standard error. Standard output must be empty.
    fn run_err(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments, "");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

#[test]
fn create_fork_import_limit_and_destroy() {
    let shell = Shell::new();
    let made = shell.json(&["db", "create", "orders", "--group", "default"]);
    assert_eq!((&made["Name"], &made["Hostname"]), (&json!("orders"), &json!("orders.localhost")));
    shell.run_ok(&["db", "shell", "orders", "create table t(a); insert into t values (1),(2)"]);
    shell.run_ok(&["db", "create", "copy", "--from-db", "orders"]);
    assert_eq!(shell.json(&["db", "shell", "copy", "select sum(a) from t"]), json!([{"sum(a)": 3}]));
    let file = shell.0.path().join("root/default/orders/data.db");
    shell.run_ok(&["db", "create", "big", "--group", "default", "--from-file", file.to_str().unwrap()]);
    assert_eq!(shell.json(&["db", "shell", "big", "select count(*) as n from t"]), json!([{"n": 2}]));

    shell.run_ok(&["db", "create", "tiny", "--group", "default", "--size-limit", "256kb"]);
    shell.run_ok(&["db", "shell", "tiny", "create table t(a); insert into t values (1)"]);
    let full = shell.run_err(1, &["db", "shell", "tiny", "insert into t values (randomblob(300000))"]);
    assert_eq!(full, "error: database or disk is full: the size limit is 262144 bytes\n");
    assert_eq!(shell.json(&["db", "shell", "tiny", "select a from t"]), json!([{"a": 1}]));

    let names: Vec<_> =
        shell.json(&["db", "list"]).as_array().unwrap().iter().map(|row| row["Name"].clone()).collect();
    assert_eq!(names, ["big", "copy", "orders", "tiny"]);
    let forks = shell.json(&["db", "list", "--parent", "orders"]);
    assert_eq!((&forks[0]["Name"], &forks[0]["parent"]["name"]), (&json!("copy"), &json!("orders")));
    let shown = shell.json(&["db", "config", "tiny", "--size-limit", "none", "--block-writes", "true"]);
    assert_eq!((&shown["size_limit"], &shown["block_writes"]), (&Value::Null, &json!(true)));
    assert!(shell.run_ok(&["db", "show", "tiny"]).contains("block writes       yes"));
    shell.run_ok(&["db", "destroy", "copy", "--yes"]);
    shell.run_ok(&["group", "destroy", "default", "-y"]);
    assert_eq!(shell.json(&["group", "list"]), json!([]));
}

#[test]
fn renamed_group_keeps_its_databases() {
    let shell = Shell::new();
    shell.run_ok(&["db", "create", "orders", "--group", "default"]);
    let uuid = shell.json(&["group", "show", "default"])["uuid"].clone();
    assert_eq!(shell.run_ok(&["group", "rename", "default", "eu"]), "Renamed group default to eu.\n");
    assert_eq!(shell.json(&["db", "show", "orders"])["group"], "eu");
    assert_eq!(shell.run_err(1, &["group", "show", "default"]), "error: group not found\n");
    shell.run_ok(&["db", "shell", "orders", "create table t(a)"]);
    shell.run_ok(&["group", "create", "default"]);
    assert_eq!(shell.run_err(1, &["group", "rename", "eu", "default"]), "error: group already exists\n");
    assert_eq!(shell.run_err(1, &["group", "rename", "none", "us"]), "error: group not found\n");
    shell.run_err(2, &["group", "rename", "eu"]);
    let renamed = shell.json(&["group", "rename", "eu", "us"]);
    assert_eq!((&renamed["name"], &renamed["uuid"]), (&json!("us"), &uuid));
    shell.run_ok(&["db", "verify", "orders"]);
}

#[test]
fn json_prints_one_array_for_each_statement() {
    let shell = Shell::new();
    shell.run_ok(&["db", "create", "a", "--group", "default"]);
    let sql = "create table t(a); select 1 as x, 'é' as x, null as n, 2.5 as r, x'00ff' as b, 9e999 as i;
        select a from t; select 9007199254740993 as big";
    let printed = shell.run_ok(&["db", "shell", "a", sql, "--json"]);
    let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines[0],
        json!([{"x": 1, "x:1": "é", "n": null, "r": 2.5, "b": {"base64": "AP8="}, "i": "Infinity"}])
    );
    assert_eq!((&lines[1], &lines[2]), (&json!([]), &json!([{"big": 9_007_199_254_740_993_i64}])));
    let piped = shell.run_ok_with(&["db", "shell", "a", "--json"], "select 1 as one;\nselect 2 as two;\n");
    assert_eq!(piped, "[{\"one\":1}]\n[{\"two\":2}]\n");
}

#[test]
fn errors_are_one_line() {
    let shell = Shell::new();
    shell.run_ok(&["db", "create", "a", "--group", "default"]);
    let json: Value =
        serde_json::from_str(&shell.run_err(1, &["db", "create", "a", "--group", "default", "--json"]))
            .unwrap();
    assert_eq!(json, json!({"error": "database with name a already exists", "kind": "already_exists"}));
    assert_eq!(shell.run_err(1, &["db", "create", "b", "--group", "none"]), "error: group not found\n");
    assert_eq!(
        shell.run_err(1, &["db", "show", "b"]),
        "error: could not find database with name b: record not found\n"
    );
    let refused = shell.run_err(1, &["db", "destroy", "a"]);
    assert!(refused.contains("--yes"), "{refused}");
    let wrong = shell.run_err(1, &["db", "shell", "a", "begin;\nselect  from t"]);
    assert_eq!(wrong, "error: near \"from\": syntax error at line 2, column 9\n");
    assert!(
        shell
            .run_err(1, &["db", "create", "b", "--group", "default", "--from-file", "no.db"])
            .contains("no such file")
    );
    shell.run_err(2, &["db", "create"]);
    shell.run_err(2, &["nonsense"]);
    shell.run_err(2, &["db", "create", "b", "--from-db", "a", "--from-file", "x"]);
}

#[test]
fn errors_are_json_with_json_flag() {
    let shell = Shell::new();
    shell.run_ok(&["db", "create", "a", "--group", "default"]);
    let usage = |arguments: &[&str]| {
        let printed = shell.run_err(2, arguments);
        assert_eq!(printed.lines().count(), 1, "{printed}");
        let error: Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(error["kind"], "usage");
        error["error"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        usage(&["--json", "db", "create"]),
        "the following required arguments were not provided: <NAME>"
    );
    assert_eq!(usage(&["nonsense", "--json"]), "unrecognized subcommand 'nonsense'");
    let both = usage(&["db", "create", "b", "--from-db", "a", "--from-file", "x", "--json"]);
    assert!(both.starts_with("the argument '--from-db <NAME>' cannot be used with"), "{both}");
    assert!(usage(&["db", "--json"]).contains("requires a subcommand"));
    assert!(shell.run_ok(&["--help", "--json"]).contains("Usage:"));

    for command in [&["group", "show", "default"][..], &["group", "protect", "default"]] {
        assert_eq!(shell.json(command)["name"], "default");
    }

    // On a terminal, a syntax error is marked in the SQL, but not as JSON.
    let run = format!(
        "{} --root {} --json db shell a 'select  from t'",
        env!("CARGO_BIN_EXE_litefleet"),
        shell.0.path().join("root").display()
    );
    let script = Command::new("script").args(["-q", "-c", &run, "/dev/null"]).stdin(Stdio::null()).output();
    let Ok(output) = script else {
        // Written to the stream itself, because the output of passing tests is captured.
        return writeln!(
            std::io::stderr(),
            "errors_are_json_with_json_flag: skipped in part: `script` is not installed"
        )
        .unwrap();
    };
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(error, json!({"error": "near \"from\": syntax error at line 1, column 9", "kind": "sql"}));
}

#[test]
fn control_characters_are_escaped() {
    let shell = Shell::new();
    shell.run_ok(&["db", "create", "a", "--group", "default"]);
    let sql = "select 'red \x1b[31m' || char(7, 13, 127, 155) || char(9) || 'é' || char(10) || 'next' as \"name\x1b]0;\"";
    let printed = shell.run_ok(&["db", "shell", "a", sql]);
    assert!(!printed.contains(|sign: char| sign.is_control() && sign != '\n' && sign != '\t'), "{printed:?}");
    for text in ["name\\x1b]0;", "red \\x1b[31m\\x07\\x0d\\x7f\\x9b", "é", "next"] {
        assert!(printed.contains(text), "{printed}");
    }
    shell.run_ok(&["db", "shell", "a", "create table \"t\x1b\"(a unique); insert into \"t\x1b\" values (1)"]);
    let failed = shell.run_err(1, &["db", "shell", "a", "insert into \"t\x1b\" values (1)"]);
    assert_eq!(failed, "error: UNIQUE constraint failed: t\\x1b.a\n");
}

#[test]
fn sql_may_start_with_a_comment() {
    let shell = Shell::new();
    shell.run_ok(&["db", "create", "a", "--group", "default"]);
    let sql = "-- the answer\nselect 42 as x";
    assert_eq!(shell.json(&["db", "shell", "a", sql]), json!([{"x": 42}]));
    assert_eq!(shell.run_ok(&["--json", "db", "shell", "a", "--", sql]), "[{\"x\":42}]\n");
    assert_eq!(shell.json(&["db", "shell", "--read-only", "a", sql]), json!([{"x": 42}]));
    shell.run_err(1, &["db", "shell", "a", "-- no\ncreate table t(a)", "--read-only"]);
    // An unknown option is not taken for a comment.
    assert_eq!(
        shell.run_ok_with(&["db", "shell", "a", "--json", "--read-only"], "select 1 as x"),
        "[{\"x\":1}]\n"
    );
    let unknown = shell.run_err(2, &["db", "shell", "a", "--readonly"]);
    assert!(unknown.contains("--readonly"), "{unknown}");
}

#[test]
fn only_group_create_creates_a_fleet() {
    let shell = Shell(tempfile::tempdir().unwrap());
    for command in [
        &["group", "list"][..],
        &["group", "show", "a"],
        &["group", "destroy", "a", "--yes"],
        &["db", "list"],
        &["db", "create", "a", "--group", "default"],
        &["db", "shell", "a", "select 1"],
    ] {
        let root = shell.0.path().join("root");
        let message = format!(
            "no fleet at {0}; create one with: litefleet --root {0} group create NAME",
            root.display()
        );
        let error: Value = serde_json::from_str(&shell.run_err(1, &[command, &["--json"]].concat())).unwrap();
        assert_eq!(error, json!({"error": message, "kind": "not_found"}));
        assert!(!root.exists(), "{command:?}");
    }
    shell.run_ok(&["group", "create", "default"]);
    assert_eq!(shell.json(&["db", "list"]), json!([]));
}

#[test]
fn upload_reads_a_file_or_standard_input() {
    let shell = Shell::new();
    let file = shell.0.path().join("some.sqlite");
    let connection = litefleet::rusqlite::Connection::open(&file).unwrap();
    connection.execute_batch("create table t(a); insert into t values (42)").unwrap();
    shell.run_ok(&["db", "create", "a", "--group", "default", "--draft"]);
    assert_eq!(shell.json(&["db", "show", "a"])["state"], "draft");
    shell.run_ok(&["db", "upload", "a", "some.sqlite"]);
    assert_eq!(shell.json(&["db", "shell", "a", "select a from t"]), json!([{"a": 42}]));
    let refused = shell.run_err(1, &["db", "create", "b", "--group", "default", "--from-file", "-"]);
    assert_eq!(refused, "error: the uploaded file is empty, not a sqlite3 database\n");
}

#[test]
fn key_is_read_from_a_file_the_environment_or_an_argument() {
    let shell = Shell::new();
    let key = "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=";
    let other = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    std::fs::write(shell.0.path().join("key"), format!("{key}\n")).unwrap();
    let from_file = ["--key-file", "key"];
    let vault = ["db", "create", "vault", "--group", "default", "--remote-encryption-cipher", "aegis256"];
    assert!(shell.run_err(1, &vault).contains("remote encryption key must be provided"));
    shell.run_ok(&[&vault[..], &from_file].concat());
    let needle = "create table s(x); insert into s values ('needle-7f3a')";
    shell.run_ok(&[&["db", "shell", "vault", needle][..], &from_file].concat());
    let dir = shell.0.path().join("root/default/vault");
    for dir in [dir.join("archive"), dir] {
        for entry in std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()) {
            let bytes = if entry.is_file() { std::fs::read(&entry).unwrap() } else { Vec::new() };
            assert!(!bytes.windows(6).any(|window| window == b"needle"), "{}", entry.display());
        }
    }

    let select = ["db", "shell", "vault", "select x from s", "--json"];
    let failed = shell.run_err(1, &select);
    assert!(failed.contains("key_required") && !failed.contains(key), "{failed}");
    let wrong = shell.run_err(1, &[&select[..], &["--remote-encryption-key", other]].concat());
    assert!(wrong.contains("\"kind\":\"wrong_key\"") && !wrong.contains(other), "{wrong}");
    let short = shell.run_err(1, &[&select[..], &["--encryption-key", "AAAAAAAAAAAAAAAAAAAAAA=="]].concat());
    assert!(short.contains("invalid key size for aegis256: expected 32 bytes, got 16"), "{short}");
    let run = |environment: &str, arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_litefleet"))
            .arg("--root")
            .arg(shell.0.path().join("root"))
            .args(arguments)
            .current_dir(shell.0.path())
            .env("LITEFLEET_ENCRYPTION_KEY", environment)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run(key, &select), "[{\"x\":\"needle-7f3a\"}]\n");
    // A key in the environment is ignored for plain databases.
    run(key, &["db", "create", "plain", "--group", "default"]);
    run(key, &["db", "shell", "plain", "create table t(a)"]);
    run(key, &["db", "create", "same", "--from-db", "vault"]);
    run(key, &["db", "create", "fork", "--from-db", "vault", "--remote-encryption-cipher", "aes256gcm"]);
    assert_eq!(shell.json(&["db", "show", "fork"])["encryption_cipher"], "aes256gcm");
    run(key, &["db", "export", "vault", "clear.db", "--decrypt"]);
    run(key, &["db", "export", "vault", "turso.db", "--page-format", "turso"]);
    shell.run_ok(&["db", "export", "vault", "sealed.db"]);
    let begins = |name: &str| std::fs::read(shell.0.path().join(name)).unwrap()[..6].to_vec();
    assert_eq!(
        [begins("clear.db"), begins("turso.db"), begins("sealed.db")],
        [b"SQLite".to_vec(), b"Turso\0".to_vec(), b"LFleet".to_vec()]
    );
    assert!(shell.run_err(1, &["db", "export", "vault", "sealed.db"]).contains("is there already"));
    let again = ["db", "create", "again", "--group", "default", "--from-file", "turso.db"];
    let cipher = ["--remote-encryption-cipher", "aegis128l", "--source-encryption-key", key];
    let short = ["--remote-encryption-key", "AAAAAAAAAAAAAAAAAAAAAA=="];
    shell.run_ok(&[&again[..], &cipher, &short].concat());
    let select = ["db", "shell", "again", "select x from s", "--json"];
    assert_eq!(shell.run_ok(&[&select[..], &short].concat()), "[{\"x\":\"needle-7f3a\"}]\n");
    let version = shell.run(&["--version"], "");
    assert!(String::from_utf8_lossy(&version.stdout).contains("aegis128x4: libaegis"));
}

#[test]
fn verify_fails_if_it_finds_damage() {
    let shell = Shell::new();
    shell.run_ok(&["db", "create", "orders", "--group", "default"]);
    shell.run_ok(&["db", "shell", "orders", "create table t(a); insert into t values (1)"]);
    assert!(shell.run_ok(&["db", "verify", "orders"]).starts_with("ok: 2 commits, 1 logs, 1 snapshots, "));
    let answer = shell.json(&["db", "verify", "orders"]);
    assert_eq!(
        (&answer["findings"], &answer["commits"], &answer["tags"]),
        (&json!([]), &json!(2), &json!(false))
    );
    let segment = shell.0.path().join("root/default/orders/archive/000000000001.wal");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let output = shell.run(&["db", "verify", "orders"], "");
    assert_eq!((output.status.code(), output.stderr.len()), (Some(1), 0));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("000000000001.wal, frame 1, page 1: it does not continue"), "{printed}");
    let output = shell.run(&["db", "verify", "orders", "--json"], "");
    assert_eq!(output.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["findings"][0]["frame"], 1);
}

#[test]
fn history_window_and_maintenance() {
    let shell = Shell::new();
    for name in ["a", "b"] {
        shell.run_ok(&["db", "create", name, "--group", "default"]);
        shell.run_ok(&["db", "shell", name, "create table t(a)"]);
    }
    shell.run_ok(&["db", "create", "draft", "--group", "default", "--draft"]);
    assert_eq!(shell.json(&["group", "history-window", "default"])["history_window"], "24h");
    assert_eq!(shell.json(&["group", "history-window", "default", "2d"])["history_window"], "2d");
    let window = |json: &Value| (json["history_window"].clone(), json["inherits_history_window"].clone());
    assert_eq!(window(&shell.json(&["db", "show", "a"])), (json!("2d"), json!(true)));
    let set = shell.json(&["db", "config", "a", "--history-window", "off"]);
    assert_eq!(window(&set), (json!("off"), json!(false)));
    assert!(shell.run_ok(&["db", "show", "b"]).contains("2d, from its group"));
    let error = shell.run_err(1, &["db", "config", "a", "--history-window", "soon"]);
    assert!(error.contains("invalid history window \"soon\""), "{error}");

    let done = shell.json(&["db", "maintain", "b"]);
    assert_eq!(
        (&done["Name"], &done["generations"], &done["deferred"]),
        (&json!("b"), &json!(0), &json!(false))
    );
    assert_eq!(done["windows"][0]["to"], Value::Null);
    assert_eq!((&done["compressed"], &done["bytes_saved"]), (&json!(0), &json!(0)));
    let all = shell.json(&["db", "maintain"]);
    let names: Vec<_> = all.as_array().unwrap().iter().map(|done| &done["Name"]).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!((&all[0]["generations"], &all[0]["windows"]), (&json!(1), &json!([])));
    assert!(shell.run_ok(&["db", "maintain"]).contains("BYTES SAVED"));
    let back = shell.json(&["db", "config", "a", "--history-window", "default"]);
    assert_eq!(window(&back), (json!("2d"), json!(true)));

    // A failure of one database is reported and does not stop the others.
    std::fs::write(shell.0.path().join("root/default/a/archive/retained"), "damaged").unwrap();
    let output = shell.run(&["db", "maintain", "--json"], "");
    assert_eq!(output.status.code(), Some(1));
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&all[0]["kind"], &all[1]["Name"]), (&json!("corrupt"), &json!("b")));
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!(error["error"].as_str().unwrap().starts_with("a: "), "{error}");
}

#[test]
fn tour_forks_and_restores() {
    let shell = Shell::new();
    let tour = shell.run_ok(&["tour"]);
    assert!(tour.contains("orders 479613, experiment 959226"), "{tour}");
    assert!(tour.contains("sum(price) is 131370 now, and 479613 in a view"), "{tour}");
    assert!(tour.contains("Restored orders to it in one transaction; sum(price) = 479613"), "{tour}");
    assert!(tour.contains("would undo that"), "{tour}");
}

#[test]
fn completions_and_man_pages_describe_every_command() {
    let shell = Shell::new();
    assert!(shell.run_ok(&["completions", "bash"]).contains("litefleet"));
    assert!(shell.run_ok(&["man"]).contains("litefleet\\-db(1)"));

    let dir = shell.0.path().join("man1");
    std::fs::create_dir(&dir).unwrap();
    assert_eq!(shell.run_ok(&["man", dir.to_str().unwrap()]), "");
    let page = std::fs::read_to_string(dir.join("litefleet-db-restore.1")).unwrap();
    assert!(page.contains("\\-\\-timestamp"), "{page}");
    // The page depends neither on the machine nor on the environment.
    let output = shell.command(&["man"]).env("LITEFLEET_ROOT", "a place").output().unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.contains("LITEFLEET_ROOT") && !page.contains("a place"), "{page}");
    assert!(!page.contains("aegis128l"), "{page}");

    let error = shell.run_err(1, &["man", shell.0.path().join("none").to_str().unwrap()]);
    assert!(error.contains("writing man pages"), "{error}");
}

#[test]
fn recover_rebuilds_the_catalog() {
    let shell = Shell(tempfile::tempdir().unwrap());
    shell.run_ok(&["group", "create", "default"]);
    shell.run_ok(&["db", "create", "a", "--group", "default"]);
    shell.run_ok(&["db", "config", "a", "--size-limit", "5mb"]);
    let before = shell.json(&["db", "show", "a"]);
    let error = shell.run_err(1, &["recover"]);
    assert!(error.contains("control.db is there: move it out of the root"), "{error}");

    let root = shell.0.path().join("root");
    std::fs::remove_file(root.join("control.db")).unwrap();
    for command in [&["db", "list"][..], &["group", "create", "other"]] {
        let error = shell.run_err(1, command);
        assert!(error.contains("control.db") && error.contains("recover"), "{error}");
        assert!(!root.join("control.db").exists());
    }
    std::fs::write(root.join("notes.txt"), "mine").unwrap();
    let recovered = shell.json(&["recover"]);
    let found = "this is no group of the fleet: it is left as it is";
    let finding = json!({"file": "notes.txt", "message": found});
    assert_eq!(recovered, json!({"groups": 1, "databases": 1, "findings": [finding]}));
    assert_eq!(shell.json(&["db", "show", "a"]), before);
}

#[test]
fn history_limit_prunes_and_is_reported() {
    let shell = Shell::new();
    shell.run_ok(&["db", "create", "a", "--group", "default"]);
    for sql in ["create table t(a)", "insert into t values (randomblob(50000))", "update t set a = 1"] {
        shell.run_ok(&["db", "shell", "a", sql]);
    }
    assert_eq!(shell.json(&["group", "history-limit", "default"])["history_limit"], "none");
    assert_eq!(shell.json(&["group", "history-limit", "default", "1gb"])["history_limit"], "1073741824");
    let limit = |json: &Value| (json["history_limit"].clone(), json["inherits_history_limit"].clone());
    let shown = shell.json(&["db", "show", "a"]);
    assert_eq!(limit(&shown), (json!("1073741824"), json!(true)));
    let before = shown["history_bytes"].as_u64().unwrap();
    assert!(shell.run_ok(&["db", "show", "a"]).contains("1.00 GiB), from its group"));
    assert_eq!(shell.json(&["db", "points", "a"])["pruned_by"], Value::Null);
    for invalid in ["0", "off", "big"] {
        let error = shell.run_err(1, &["db", "config", "a", "--history-limit", invalid]);
        assert!(error.contains("invalid history limit"), "{error}");
    }
    let set = shell.json(&["db", "config", "a", "--history-limit", "64kb"]);
    assert_eq!(limit(&set), (json!("65536"), json!(false)));
    assert!(shell.json(&["db", "maintain", "a"])["generations"].as_u64().unwrap() > 0);
    let shown = shell.json(&["db", "show", "a"]);
    assert!(shown["history_bytes"].as_u64().unwrap() < before, "{shown}");
    assert_eq!(shell.json(&["db", "points", "a"])["pruned_by"], "limit");
    assert!(shell.run_ok(&["db", "points", "a"]).contains("to keep the history within its limit"));
    let back = shell.json(&["db", "config", "a", "--history-limit", "default"]);
    assert_eq!(limit(&back), (json!("1073741824"), json!(true)));
    let none = shell.json(&["db", "config", "a", "--history-limit", "none"]);
    assert_eq!(limit(&none), (json!("none"), json!(false)));
}
