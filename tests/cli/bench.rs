//! `bench`: the shape of its output, and what it leaves behind. Its figures are not tested.

use std::{collections::BTreeSet, fs, path::Path};

use litefleet::Cipher;
use serde_json::json;

use super::Shell;

const QUICK: [&str; 3] = ["bench", "--seconds", "0.1"];

fn files(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn bench_json_has_all_ciphers_and_kinds_of_databases() {
    let shell = Shell::new();
    let report = shell.json(&QUICK);
    let names = |list: &str, field: &str| -> Vec<String> {
        let list = report[list].as_array().unwrap().iter();
        list.map(|entry| entry[field].as_str().unwrap().to_owned()).collect()
    };
    let ciphers: Vec<_> = Cipher::ALL.iter().map(|cipher| cipher.as_str()).collect();
    assert_eq!(names("ciphers", "cipher"), ciphers);
    for (measured, cipher) in report["ciphers"].as_array().unwrap().iter().zip(Cipher::ALL) {
        assert_eq!(measured["implementation"], cipher.implementation());
        assert_eq!(measured["key_bits"], 8 * cipher.key_len());
        for field in ["seal", "open", "bare_seal", "bare_open"] {
            assert!(measured[format!("{field}_bytes_per_second")].as_f64().unwrap() > 0.0, "{measured}");
        }
    }
    assert_eq!(names("commits", "database"), ["sqlite", "plain", "sealed", "history", "sealed_history"]);
    let fastest = &report["fastest"];
    for measured in report["commits"].as_array().unwrap() {
        let is_sealed = measured["database"].as_str().unwrap().starts_with("sealed");
        assert_eq!(&measured["cipher"], if is_sealed { fastest } else { &json!(null) });
        for field in ["normal_commits_per_second", "full_commits_per_second"] {
            assert!(measured[field].as_f64().unwrap() > 0.0, "{measured}");
        }
    }
    let strong: Cipher = report["fastest_256_bit"].as_str().unwrap().parse().unwrap();
    assert_eq!(strong.key_len(), 32);
}

#[test]
fn bench_prints_tables_without_bars_into_a_pipe() {
    let shell = Shell::new();
    let printed = shell.run_ok(&QUICK);
    for cipher in Cipher::ALL {
        assert!(
            printed.lines().any(|line| line.split_whitespace().next() == Some(cipher.as_str())),
            "{printed}"
        );
    }
    assert!(printed.contains("\nFastest here: "), "{printed}");
    assert!(printed.contains("SQLite alone"), "{printed}");
    assert!(!printed.contains('█'), "{printed}");
}

#[test]
fn bench_leaves_nothing_behind() {
    let shell = Shell::new();
    let root = shell.0.path().join("root");
    let (before, beside) = (files(&root), files(shell.0.path()));
    shell.run_ok(&QUICK);
    assert_eq!((files(&root), files(shell.0.path())), (before, beside.clone()));
    // A root that does not exist is not created.
    let absent = shell.0.path().join("absent/fleet");
    shell.run_ok(&[&QUICK[..], &["--root", absent.to_str().unwrap()]].concat());
    assert_eq!(files(shell.0.path()), beside);
}

#[test]
fn bench_fails_where_no_directory_can_be_created() {
    let shell = Shell::new();
    let error = shell.run_err(1, &[&QUICK[..], &["--root", "/proc/fleet"]].concat());
    assert!(error.starts_with("error: creating /proc/.litefleet-bench-"), "{error}");
    for seconds in ["0", "-1", "nan", "1e9", "x"] {
        shell.run_err(2, &["bench", &format!("--seconds={seconds}")]);
    }
}
