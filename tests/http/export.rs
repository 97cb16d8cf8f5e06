//! Exports: their contents, authorization, and removal of their files.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    time::Duration,
};

use litefleet::{ConnectOptions, EncryptionKey, Timestamp, rusqlite::Connection};
use serde_json::{Value, json};

use crate::server::{API, Server};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODw==";

/// The status, the head in lower case, and the body of a response.
fn get(server: &Server, token: &str, path: &str, key: Option<&str>) -> (u16, String, Vec<u8>) {
    let mut stream = server.connect();
    let key = key.map(|key| format!("x-turso-encryption-key: {key}\r\n")).unwrap_or_default();
    let head = format!(
        "GET {API}/databases/{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n{key}\r\n",
        server.address
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, bytes.split_off(end + 4))
}

/// The status and code of an export that must fail.
fn refused(server: &Server, path: &str, key: Option<&str>) -> (u16, String) {
    let (status, _, body) = get(server, &server.token, path, key);
    let body: Value = serde_json::from_slice(&body).unwrap();
    (status, body["code"].as_str().unwrap().to_owned())
}

/// Checks the integrity of an exported file, and returns its number of rows.
fn rows(server: &Server, bytes: &[u8]) -> u32 {
    let path = server.dir.path().join("exported.db");
    fs::write(&path, bytes).unwrap();
    let connection = Connection::open(&path).unwrap();
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let rows = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    drop(connection);
    fs::remove_file(path).unwrap();
    rows
}

fn fill(server: &Server, name: &str, options: &ConnectOptions, rows: u32) {
    let connection = server.plane().connect(name, options.clone()).unwrap();
    connection
        .execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS t(a); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {rows})
             INSERT INTO t SELECT randomblob(1000) FROM n"
        ))
        .unwrap();
}

fn exports(server: &Server) -> usize {
    fs::read_dir(server.root().join(".http/exports")).map_or(0, Iterator::count)
}

/// The number of unlinked exports that the server has open.
fn unlinked(server: &Server) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    let open = open.filter_map(|file| fs::read_link(file.unwrap().path()).ok());
    open.filter(|path| path.to_string_lossy().contains("/exports/")).count()
}

fn soon(condition: impl Fn() -> bool) -> bool {
    (0..400).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        condition()
    })
}

#[test]
fn export_is_current_or_as_of_an_instant() {
    let server = Server::new();
    server.create("orders");
    fill(&server, "orders", &ConnectOptions::default(), 100);
    let before = Timestamp::now();
    fill(&server, "orders", &ConnectOptions::default(), 20);
    let (status, head, now) = get(&server, &server.token, "orders/export", None);
    assert_eq!((status, rows(&server, &now)), (200, 120));
    for line in [
        "content-type: application/vnd.sqlite3".to_owned(),
        "content-disposition: attachment; filename=\"orders.db\"".to_owned(),
        "cache-control: no-store".to_owned(),
        format!("content-length: {}", now.len()),
    ] {
        assert!(head.contains(&format!("\r\n{line}")), "{line}: {head}");
    }
    let (_, _, then) = get(&server, &server.token, &format!("orders/export?timestamp={before}"), None);
    assert_eq!(rows(&server, &then), 100);
    // A key for a plain database is ignored.
    assert_eq!(get(&server, &server.token, "orders/export", Some(KEY)).0, 200);

    assert_eq!(
        refused(&server, "orders/export?timestamp=2020-01-01T00:00:00Z", None),
        (400, "outside_window".into())
    );
    assert_eq!(refused(&server, "orders/export?timestamp=now", None), (400, "invalid".into()));
    assert_eq!(refused(&server, "nothing/export", None), (404, "not_found".into()));
    let seed = json!({ "type": "database_upload" });
    server.ok("POST", "/databases", &json!({ "name": "draft", "group": "default", "seed": seed }));
    assert_eq!(refused(&server, "draft/export", None), (400, "invalid".into()));
    server.ok("PATCH", "/databases/orders/configuration", &json!({ "block_reads": true }));
    assert_eq!(refused(&server, "orders/export", None), (409, "blocked".into()));
    assert_eq!(exports(&server), 0);
}

#[test]
fn encrypted_database_is_exported_sealed_or_decrypted() {
    let server = Server::new();
    let encryption = json!({ "encryption_key": KEY, "encryption_cipher": "aegis128l" });
    server.ok(
        "POST",
        "/databases",
        &json!({ "name": "vault", "group": "default", "remote_encryption": encryption }),
    );
    let options = ConnectOptions::default().encryption_key(EncryptionKey::from_base64(KEY).unwrap());
    fill(&server, "vault", &options, 50);
    let before = Timestamp::now();
    fill(&server, "vault", &options, 50);
    let plain = |path: &str| {
        let (status, head, bytes) = get(&server, &server.token, path, Some(KEY));
        assert_eq!(status, 200);
        assert!(head.contains("application/vnd.sqlite3"), "{head}");
        rows(&server, &bytes)
    };
    assert_eq!(plain("vault/export?decrypt=true"), 100);
    assert_eq!(plain(&format!("vault/export?decrypt=true&timestamp={before}")), 50);
    for key in [None, Some(KEY)] {
        let (status, head, sealed) = get(&server, &server.token, "vault/export", key);
        assert_eq!(status, 200);
        assert!(head.contains("application/octet-stream"), "{head}");
        assert!(!sealed.starts_with(b"SQLite format 3"));
    }
    let other = "AAECAwQFBgcICQoLDA0OAA==";
    assert_eq!(refused(&server, "vault/export?decrypt=true", None), (400, "key_required".into()));
    assert_eq!(refused(&server, "vault/export?decrypt=true", Some(other)), (400, "wrong_key".into()));
    assert_eq!(refused(&server, "vault/export", Some(other)), (400, "wrong_key".into()));
    assert_eq!(refused(&server, "vault/export", Some("no key")), (400, "invalid".into()));
    assert_eq!(exports(&server), 0);
}

#[test]
fn database_token_exports_only_its_database() {
    let server = Server::new();
    for name in ["a", "b"] {
        server.create(name);
    }
    let token = server.token_of("a", "authorization=read-only");
    let status = |token: &str, name: &str| get(&server, token, &format!("{name}/export"), None).0;
    assert_eq!((status(&token, "a"), status(&token, "b"), status("garbage", "a")), (200, 401, 401));
}

#[test]
fn interrupted_download_leaves_no_file() {
    let server = Server::new();
    server.create("large");
    fill(&server, "large", &ConnectOptions::default(), 40_000);
    let mut stream = server.connect();
    let head = format!(
        "GET {API}/databases/large/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        server.token
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut first = [0; 1000];
    stream.read_exact(&mut first).unwrap();
    // The file is unlinked while it is sent, and its directory is private.
    assert_eq!((exports(&server), unlinked(&server)), (0, 1));
    let dir = server.root().join(".http/exports");
    assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    drop(stream);
    assert!(soon(|| unlinked(&server) == 0), "the file is still open");
}

#[test]
fn export_of_killed_server_is_removed_by_the_next() {
    let server = Server::new();
    server.create("large");
    fill(&server, "large", &ConnectOptions::default(), 100_000);
    let mut stream = server.connect();
    let head = format!(
        "GET {API}/databases/large/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        server.token
    );
    stream.write_all(head.as_bytes()).unwrap();
    let written = (0..20_000).any(|_| {
        std::thread::sleep(Duration::from_micros(100));
        exports(&server) > 0
    });
    assert!(written, "the export was not observed");
    // The server is stopped first, so that it is killed while the file exists.
    let signal = |name: &str| {
        let pid = server.pid().to_string();
        assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    signal("-STOP");
    assert_eq!(exports(&server), 1);
    // A second server on the root does not remove the file while the first is alive.
    let second = server.second();
    assert!(second.is_up());
    assert_eq!(exports(&server), 1);
    drop(second);
    let server = server.kill_and_restart();
    assert!(server.is_up());
    assert_eq!(exports(&server), 0);
}
