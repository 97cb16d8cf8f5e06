//! Maintenance and verification, on request and by the server.

use std::{fs, path::Path, thread, time::Duration};

use litefleet::ConnectOptions;
use serde_json::{Value, json};

use crate::server::{API, Server};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODw==";

/// Commits to a database `times` times, each time on a new connection.
fn commit(server: &Server, name: &str, times: usize) {
    for _ in 0..times {
        let connection = server.plane().connect(name, ConnectOptions::default()).unwrap();
        connection
            .execute_batch("CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES (randomblob(9000))")
            .unwrap();
    }
}

fn archive(server: &Server, name: &str) -> std::path::PathBuf {
    server.root().join("default").join(name).join("archive")
}

fn files(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

fn soon(condition: impl Fn() -> bool) -> bool {
    (0..200).any(|_| {
        thread::sleep(Duration::from_millis(50));
        condition()
    })
}

#[test]
fn database_is_maintained_on_request() {
    let server = Server::new();
    server.create("a");
    commit(&server, "a", 3);
    let done = server.ok("POST", "/databases/a/maintain", &Value::Null);
    assert_eq!((&done["generations"], &done["deferred"]), (&json!(0), &json!(false)), "{done}");
    assert_eq!(done["windows"].as_array().unwrap().len(), 1, "{done}");
    let before = files(&archive(&server, "a"));
    server.ok("PATCH", "/databases/a/configuration", &json!({ "history_window": "off" }));
    let done = server.ok("POST", "/databases/a/maintain", &Value::Null);
    assert!(done["generations"].as_u64().unwrap() > 0 && done["bytes_freed"].as_u64().unwrap() > 0, "{done}");
    assert!(files(&archive(&server, "a")) < before);

    let token = |access: &str| server.token_of("a", &format!("authorization={access}"));
    let ask =
        |token: &str| server.send_as(token, "POST", &format!("{API}/databases/a/maintain"), &Value::Null);
    assert_eq!((ask(&token("full-access")).status, ask(&token("read-only")).status), (200, 403));
    assert_eq!(server.request("POST", "/databases/nobody/maintain", &Value::Null).status, 404);
}

#[test]
fn history_limit_prunes_and_is_reported() {
    let server = Server::new();
    server.create("a");
    commit(&server, "a", 3);
    let configure = |path: &str, limit: &str| {
        let changes = json!({ "history_limit": limit });
        server.ok("PATCH", &format!("{path}/configuration"), &changes)["history_limit"].clone()
    };
    assert_eq!(configure("/groups/default", "1gb"), "1073741824");
    let own = || server.ok("GET", "/databases/a/configuration", &Value::Null)["history_limit"].clone();
    assert_eq!(own(), "1073741824");
    assert_eq!(configure("/databases/a", "none"), "none");
    assert_eq!(configure("/databases/a", "default"), "1073741824");
    let points = || server.ok("GET", "/databases/a/points", &Value::Null);
    assert_eq!(points()["pruned_by"], Value::Null);
    let usage = || server.ok("GET", "/databases/a/usage", &Value::Null)["database"]["usage"].clone();
    let before = usage()["history_bytes"].as_u64().unwrap();
    assert!(before > 4096, "{before}");
    assert_eq!(configure("/databases/a", "4kb"), "4096");
    let done = server.ok("POST", "/databases/a/maintain", &Value::Null);
    assert!(done["generations"].as_u64().unwrap() > 0, "{done}");
    assert_eq!(points()["pruned_by"], "limit");
    assert!(usage()["history_bytes"].as_u64().unwrap() < before);
    let (status, message) =
        server.request("PATCH", "/databases/a/configuration", &json!({ "history_limit": "off" })).error();
    assert_eq!(status, 400);
    assert!(message.contains("invalid history limit \"off\""), "{message}");
}

#[test]
fn findings_name_files_relative_to_the_database() {
    let server = Server::new();
    server.create("a");
    commit(&server, "a", 3);
    let token = server.token_of("a", "authorization=read-only");
    let verify = || server.send_as(&token, "POST", &format!("{API}/databases/a/verify"), &Value::Null).json();
    let verified = verify();
    assert_eq!((&verified["findings"], &verified["tags"]), (&json!([]), &json!(false)), "{verified}");
    assert_eq!(verified["commits"], 4, "{verified}");
    let snapshot = archive(&server, "a").join("000000000001.db");
    let mut bytes = fs::read(&snapshot).unwrap();
    bytes[100] ^= 1;
    fs::write(&snapshot, bytes).unwrap();
    fs::remove_file(archive(&server, "a").join("000000000001.stamps")).unwrap();
    let findings = verify()["findings"].clone();
    let named = |file: &str| findings.as_array().unwrap().iter().any(|finding| finding["file"] == file);
    assert!(named("archive/000000000001.stamps") || named("archive/000000000001.db"), "{findings}");
    assert!(!findings.to_string().contains(server.dir.path().to_str().unwrap()), "{findings}");
}

#[test]
fn verify_with_key_checks_tags() {
    let server = Server::new();
    let encryption = json!({ "encryption_key": KEY, "encryption_cipher": "aes128gcm" });
    let body = json!({ "name": "a", "group": "default", "remote_encryption": encryption });
    server.ok("POST", "/databases", &body);
    let verify = |body: &Value| server.request("POST", "/databases/a/verify", body);
    assert_eq!(verify(&Value::Null).json()["tags"], false);
    assert_eq!(verify(&json!({ "remote_encryption": encryption })).json()["tags"], true);
    let other = json!({ "encryption_key": "DAECAwQFBgcICQoLDA0ODw==", "encryption_cipher": "aes128gcm" });
    let refused = verify(&json!({ "remote_encryption": other }));
    assert_eq!((refused.status, &refused.json()["code"]), (400, &json!("wrong_key")));
}

#[test]
fn server_maintains_its_fleet_and_exports_metrics() {
    let mut server = Server::start(tempfile::tempdir().unwrap(), &["--maintain-every", "1s"]);
    for name in ["a", "b"] {
        server.create(name);
        commit(&server, name, 2);
    }
    let seed = json!({ "type": "database_upload" });
    server.ok("POST", "/databases", &json!({ "name": "draft", "group": "default", "seed": seed }));
    let metrics = || server.send_as(&server.token, "GET", "/metrics", &Value::Null).text;
    let has = |line: &str| metrics().lines().any(|known| known == line);
    assert!(soon(|| has("litefleet_databases 2") && has("litefleet_drafts 1")), "{}", metrics());
    let text = metrics();
    let figure = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{name} is not in {text}")).parse().unwrap()
    };
    assert!(figure("litefleet_database_bytes") > 36_000.0, "{text}");
    assert!(figure("litefleet_archive_bytes") > 36_000.0, "{text}");
    assert!(figure("litefleet_history_age_seconds") > 0.0, "{text}");
    assert!(figure("litefleet_unmaintained_seconds") >= 0.0, "{text}");
    assert!(has("litefleet_maintenance_failed 0"), "{text}");
    // Pruning happens without a request.
    let before = files(&archive(&server, "a"));
    server.ok("PATCH", "/databases/a/configuration", &json!({ "history_window": "off" }));
    assert!(soon(|| files(&archive(&server, "a")) < before));
    assert!(server.stop().success());
}

#[test]
fn maintenance_can_be_disabled() {
    let server = Server::start(tempfile::tempdir().unwrap(), &["--maintain-every", "0"]);
    let text = server.send_as(&server.token, "GET", "/metrics", &Value::Null).text;
    assert!(text.contains("litefleet_calls_waiting") && text.ends_with("# EOF\n"), "{text}");
    assert!(!text.contains("litefleet_unmaintained"), "{text}");
}
