//! Error responses contain no absolute path, whichever file is damaged or missing.

use std::{collections::BTreeSet, fs, path::Path};

use litefleet::{ConnectOptions, Timestamp};
use serde_json::{Value, json};

use crate::server::Server;

/// Damages: removed, empty, overwritten, and replaced by a directory.
const DAMAGES: [fn(&Path); 4] = [
    |file| fs::remove_file(file).unwrap(),
    |file| fs::write(file, "").unwrap(),
    |file| {
        let mut bytes = fs::read(file).unwrap();
        for byte in &mut bytes {
            *byte ^= 0x5a;
        }
        fs::write(file, bytes).unwrap();
    },
    |file| {
        fs::remove_file(file).unwrap();
        fs::create_dir(file).unwrap();
    },
];

/// Sends every request that reads the files of database `a`, and returns the bodies of failures.
fn failures(server: &Server, at: Timestamp) -> Vec<String> {
    let fork = |seed: Value| json!({ "name": "fork", "group": "default", "seed": seed });
    let calls = [
        ("GET", "/databases/a/usage".to_owned(), Value::Null),
        ("GET", "/databases/a/points".to_owned(), Value::Null),
        ("GET", "/databases/a/export".to_owned(), Value::Null),
        ("GET", format!("/databases/a/export?timestamp={at}"), Value::Null),
        ("POST", "/databases".to_owned(), fork(json!({ "type": "database", "name": "a" }))),
        ("POST", "/databases".to_owned(), fork(json!({ "type": "database", "name": "a", "timestamp": at }))),
        ("POST", "/databases/a/verify".to_owned(), Value::Null),
        ("POST", "/databases/a/maintain".to_owned(), Value::Null),
        ("POST", "/databases/a/restore".to_owned(), json!({ "timestamp": at })),
    ];
    let mut failures = Vec::new();
    for (method, path, body) in calls {
        let response = server.request(method, &path, &body);
        // Findings are reported in a successful response.
        if response.status >= 400 || path.ends_with("/verify") {
            failures.push(response.text);
        } else if path == "/databases" {
            server.ok("DELETE", "/databases/fork", &Value::Null);
        }
    }
    failures
}

#[test]
fn errors_contain_no_absolute_path() {
    // Without maintenance, which might read files while the test replaces them.
    let server = Server::start(tempfile::tempdir().unwrap(), &["--maintain-every", "0"]);
    server.create("a");
    let mut at = Timestamp::now();
    for round in 0..3 {
        let connection = server.plane().connect("a", ConnectOptions::default()).unwrap();
        connection
            .execute_batch("CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES (randomblob(9000))")
            .unwrap();
        drop(connection);
        if round == 0 {
            at = Timestamp::now();
        }
    }
    let dir = server.root().join("default/a");
    let pristine = server.dir.path().join("pristine");
    let copy = |from: &Path, to: &Path| {
        let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
        assert!(copied.success());
    };
    copy(&dir, &pristine);
    let discarded = tempfile::tempdir_in(server.dir.path()).unwrap();
    let mut discards = 0_u32..;
    // A rename removes the directory atomically, even while the server has files in it open.
    let mut discard = |dir: &Path| {
        fs::rename(dir, discarded.path().join(discards.next().unwrap().to_string())).unwrap();
    };
    let archived = fs::read_dir(dir.join("archive")).unwrap().map(|file| file.unwrap().path());
    let files: Vec<_> = archived.chain([dir.join("data.db")]).collect();
    assert!(files.len() > 6, "{files:?}");
    let (root, mut messages) = (server.root().canonicalize().unwrap(), BTreeSet::new());
    for file in &files {
        for damage in DAMAGES {
            damage(file);
            messages.extend(failures(&server, at));
            discard(&dir);
            copy(&pristine, &dir);
        }
    }
    // Finally without the history, and without the database.
    discard(&dir.join("archive"));
    messages.extend(failures(&server, at));
    discard(&dir);
    messages.extend(failures(&server, at));
    for text in &messages {
        assert!(!text.contains(server.dir.path().to_str().unwrap()), "{text}");
        assert!(!text.contains(root.to_str().unwrap()), "{text}");
    }
    // Paths relative to the database are reported.
    for named in ["archive/000000000001.stamps is missing", "data.db"] {
        assert!(messages.iter().any(|text| text.contains(named)), "{named} is not in {messages:#?}");
    }
}
