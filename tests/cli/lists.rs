//! `db list`, `db show`, `db points`, and the default group of `db create`.

use serde_json::{Value, json};

use crate::Shell;

#[test]
fn create_uses_the_only_group_and_otherwise_requires_one() {
    let shell = Shell(tempfile::tempdir().unwrap());
    shell.run_ok(&["group", "create", "one"]);
    assert_eq!(shell.json(&["db", "create", "a"])["Name"], "a");
    assert_eq!(shell.json(&["db", "show", "a"])["group"], "one");
    for at in 2..9 {
        shell.run_ok(&["group", "create", &format!("group-{at}")]);
    }
    assert_eq!(
        shell.run_err(1, &["db", "create", "b"]),
        "error: group is required; choose one with --group: group-2, group-3, group-4, group-5, group-6, …\n"
    );
    // A fork inherits the group of its source.
    shell.run_ok(&["db", "create", "b", "--from-db", "a"]);
    assert_eq!(shell.json(&["db", "show", "b"])["group"], "one");
    for name in ["one", "group-2", "group-3", "group-4", "group-5", "group-6", "group-7", "group-8"] {
        shell.run_ok(&["group", "destroy", name, "-y"]);
    }
    assert!(shell.run_err(1, &["db", "create", "c"]).contains("litefleet group create NAME"));
}

#[test]
fn list_and_show_print_paths_sizes_and_ciphers() {
    let shell = Shell::new();
    let key = "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=";
    let cipher = ["--remote-encryption-cipher", "aegis256", "--remote-encryption-key", key];
    shell.run_ok(&[&["db", "create", "vault", "--size-limit", "1mb"][..], &cipher].concat());
    shell.run_ok(&["db", "create", "draft", "--draft"]);
    let path = shell.0.path().canonicalize().unwrap().join("root/default/vault/data.db");
    let shown = shell.json(&["db", "show", "vault"]);
    assert_eq!((&shown["path"], &shown["size_bytes"]), (&json!(path), &json!(4096)));
    assert_eq!(shell.json(&["db", "show", "draft"])["path"], Value::Null);
    let shown = shell.run_ok(&["db", "show", "vault"]);
    assert!(shown.contains(path.to_str().unwrap()), "{shown}");
    assert!(shown.contains("4096 bytes (4.00 KiB)") && shown.contains("1048576 bytes (1.00 MiB)"), "{shown}");
    let listed = shell.json(&["db", "list"]);
    assert_eq!((&listed[0]["size_bytes"], &listed[1]["size_bytes"]), (&Value::Null, &json!(4096)));
    assert_eq!(listed[1]["encryption_cipher"], "aegis256");
    let listed = shell.run_ok(&["db", "list"]);
    let row = listed.lines().find(|line| line.contains("vault")).unwrap();
    let cells: Vec<_> = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert_eq!(cells[..6], ["vault", "default", "ready", "4.00 KiB", "1.00 MiB", "aegis256"]);
    assert!(shell.run_err(1, &["db", "list", "--parent", "nowhere"]).contains("could not find database"));
    let id = shell.json(&["db", "show", "vault"])["DbId"].clone();
    assert_eq!(shell.json(&["db", "list", "--parent", id.as_str().unwrap()]), json!([]));
}

#[test]
fn instants_are_accepted_in_the_format_of_sqlite() {
    let shell = Shell::new();
    shell.run_ok(&["db", "create", "a"]);
    shell.run_ok(&["db", "shell", "a", "create table t(a); insert into t values (1)"]);
    let points = |span: [&str; 2]| {
        let answer = shell.json(&["db", "points", "a", span[0], span[1]]);
        answer["points"].as_array().unwrap().len()
    };
    assert_eq!(points(["--from", "2026-01-01 00:00:00"]), 2);
    assert_eq!(points(["--to", "2026-01-01 00:00"]), 0);
    let shown = shell.run_err(1, &["db", "shell", "a", "select 1", "--timestamp", "2026-01-01 00:00"]);
    assert!(shown.contains("cannot restore to 2026-01-01T00:00:00.000000Z"), "{shown}");
}
