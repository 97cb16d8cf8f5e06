//! Uploads in one request.

use std::{fs, io::Write, net::TcpStream, path::Path, time::Duration};

use litefleet::{ConnectOptions, DatabaseState, EncryptionKey, rusqlite::Connection};
use serde_json::{Value, json};

use crate::server::{Response, Server, read_response};

pub(crate) const KEY: &str = "AAECAwQFBgcICQoLDA0ODw==";

/// Returns a SQLite file with `rows` rows of 1 KB.
pub(crate) fn file(dir: &Path, rows: u32) -> Vec<u8> {
    let path = dir.join("upload.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(&format!(
            "CREATE TABLE t(a); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {rows})
             INSERT INTO t SELECT hex(randomblob(512)) FROM n"
        ))
        .unwrap();
    drop(connection);
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(path).unwrap();
    bytes
}

pub(crate) fn draft(server: &Server, name: &str, encryption: &Value) -> String {
    let seed = json!({ "type": "database_upload" });
    let mut body = json!({ "name": name, "group": "default", "seed": seed });
    if !encryption.is_null() {
        body["remote_encryption"] = encryption.clone();
    }
    server.ok("POST", "/databases", &body);
    server.token_of(name, "")
}

pub(crate) fn rows(server: &Server, name: &str, options: &ConnectOptions) -> u32 {
    let connection = server.plane().connect(name, options.clone()).unwrap();
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

pub(crate) fn staged(server: &Server) -> usize {
    fs::read_dir(server.root().join(".staging")).unwrap().count()
}

/// The peak resident memory of the server in bytes.
pub(crate) fn peak(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn upload_by_host_name_or_path_uses_bounded_memory() {
    let server = Server::new();
    let small = file(server.dir.path(), 10);
    let token = draft(&server, "by-host", &Value::Null);
    let bearer = format!("Bearer {token}");
    let send =
        |host: &str| server.send("POST", "/v1/upload", &[("Authorization", &bearer), ("Host", host)], &small);
    assert_eq!(send("elsewhere.localhost:80").status, 404);
    assert_eq!(send("by-host.example.org").status, 404);
    let port = server.address.split(':').next_back().unwrap();
    let done = send(&format!("by-host.localhost:{port}"));
    assert_eq!((done.status, done.text.as_str()), (200, ""));
    assert_eq!(rows(&server, "by-host", &ConnectOptions::default()), 10);
    assert_eq!(send("by-host.localhost").error().0, 409);

    let bearer = format!("Bearer {}", draft(&server, "by-path", &Value::Null));
    let large = file(server.dir.path(), 100_000);
    let before = peak(&server);
    let done = server.send("POST", "/databases/by-path/v1/upload", &[("Authorization", &bearer)], &large);
    assert_eq!(done.status, 200, "{done:?}");
    assert_eq!(rows(&server, "by-path", &ConnectOptions::default()), 100_000);
    let grown = peak(&server) - before;
    assert!(large.len() > 100 << 20 && grown < 32 << 20, "{grown} bytes for {}", large.len());
}

#[test]
fn encrypted_draft_accepts_plain_file_with_key() {
    let server = Server::new();
    let token = draft(&server, "sealed", &json!({ "encryption_key": KEY, "encryption_cipher": "aegis128l" }));
    let (bearer, bytes) = (format!("Bearer {token}"), file(server.dir.path(), 10));
    let send = |headers: &[(&str, &str)]| {
        let headers = [&[("Authorization", bearer.as_str())], headers].concat();
        server.send("POST", "/databases/sealed/v1/upload", &headers, &bytes)
    };
    assert_eq!(send(&[]).json()["code"], "key_required");
    assert_eq!(send(&[("x-turso-encryption-key", KEY)]).status, 400);
    for (key, cipher) in [("secret-but-no-base64!", "aegis128l"), (KEY, "aes256gcm"), (KEY, "rot13")] {
        let refused = send(&[("x-turso-encryption-key", key), ("x-turso-encryption-cipher", cipher)]);
        assert_eq!(refused.status, 400, "{cipher}");
        assert!(!refused.text.contains(key), "{refused:?}");
    }
    let done = send(&[("x-turso-encryption-key", KEY), ("x-turso-encryption-cipher", "aegis128l")]);
    assert_eq!(done.status, 200, "{done:?}");
    let options = ConnectOptions::default().encryption_key(EncryptionKey::from_base64(KEY).unwrap());
    assert_eq!(rows(&server, "sealed", &options), 10);
    assert_eq!(
        server.ok("GET", "/databases/sealed", &Value::Null)["database"]["encryption_cipher"],
        "aegis128l"
    );
}

#[test]
fn failed_upload_leaves_only_the_draft() {
    let server = Server::new();
    let token = draft(&server, "orders", &Value::Null);
    let (bearer, bytes) = (format!("Bearer {token}"), file(server.dir.path(), 100));
    let send = |body: &[u8]| {
        server.send("POST", "/databases/orders/v1/upload", &[("Authorization", &bearer)], body).status
    };
    let mut damaged = bytes.clone();
    damaged[4096..8192].fill(0xaa);
    for invalid in [&b""[..], b"not a database", &bytes[..bytes.len() / 2], &damaged] {
        assert_eq!(send(invalid), 400);
        assert_eq!(staged(&server), 0);
    }
    // A client that disconnects during the upload.
    let mut stream = server.connect();
    let head = format!(
        "POST /databases/orders/v1/upload HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nContent-Length: {}\r\n\r\n",
        bytes.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&bytes[..bytes.len() / 2]).unwrap();
    drop(stream);
    let waited = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        staged(&server) == 0
    });
    assert!(waited, "files of the interrupted upload remain");
    assert_eq!(server.plane().get_database("orders").unwrap().state, DatabaseState::Draft);
    assert_eq!(send(&bytes), 200);
    assert_eq!(rows(&server, "orders", &ConnectOptions::default()), 100);
}

#[test]
fn upload_reports_unchecked_parts() {
    let server = Server::new();
    let path = server.dir.path().join("virtual.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch(
            "CREATE TABLE t(a); PRAGMA writable_schema=ON;
             INSERT INTO sqlite_schema VALUES ('table', 'ghost', 'ghost', 0, 'CREATE VIRTUAL TABLE ghost USING absent(a)')",
        )
        .unwrap();
    let bytes = fs::read(path).unwrap();
    let check = |response: &Response| {
        assert_eq!(response.status, 200, "{response:?}");
        let unchecked = response.json()["unchecked"].as_array().unwrap().clone();
        let [part] = &unchecked[..] else { panic!("{response:?}") };
        assert!(part.as_str().unwrap().starts_with("the virtual table ghost, USING absent(a): "), "{part}");
    };
    let bearer = format!("Bearer {}", draft(&server, "a", &Value::Null));
    let headers = [("Authorization", bearer.as_str())];
    check(&server.send("POST", "/databases/a/v1/upload", &headers, &bytes));

    let bearer = format!("Bearer {}", draft(&server, "b", &Value::Null));
    let headers = [("Authorization", bearer.as_str())];
    let put = |path: &str, body: &[u8]| {
        server.send("PUT", &format!("/databases/b/v2/upload/{path}"), &headers, body)
    };
    let started = put("start", json!({ "db_size_bytes": bytes.len() }).to_string().as_bytes()).json();
    let id = started["upload_id"].as_str().unwrap();
    assert_eq!(put(&format!("{id}/chunk/0"), &bytes).status, 200);
    for _ in 0..2 {
        check(&put(&format!("{id}/finalize"), b""));
    }
}

#[test]
fn incomplete_upload_is_answered_400() {
    let mut server = Server::logging(tempfile::tempdir().unwrap(), &["--log", "info"]);
    let bearer = format!("Bearer {}", draft(&server, "orders", &Value::Null));
    let bytes = file(server.dir.path(), 100);
    let chunk = format!("{:x}\r\n", bytes.len() / 2).into_bytes();
    let half = [chunk, bytes[..bytes.len() / 2].to_vec(), b"\r\n".to_vec()].concat();
    for (what, body) in [
        ("a chunk without a size", b"zz\r\nxx\r\n".to_vec()),
        ("a second chunk without a size", [&half[..], b"zz\r\n"].concat()),
        ("a chunk that is too short", half.clone()),
        ("nothing", Vec::new()),
    ] {
        let mut stream = server.connect();
        let head = format!(
            "POST /databases/orders/v1/upload HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body).unwrap();
        if !what.contains("without") {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let mut response = String::new();
        let _may_be_reset = std::io::Read::read_to_string(&mut stream, &mut response);
        // A client that disconnects may receive no response.
        assert!(response.is_empty() || response.starts_with("HTTP/1.1 400 "), "{what}: {response}");
        assert!(
            !what.contains("without") || response.contains("is incomplete or not valid HTTP"),
            "{what}: {response}"
        );
    }
    let empty = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        staged(&server) == 0
    });
    assert!(empty);
    let (log, statuses) = (server.stop_and_read_log(), ["\"status\":5", "\"ERROR\""]);
    assert!(!statuses.iter().any(|status| log.contains(status)), "{log}");
}

#[test]
fn refused_upload_is_answered_before_its_body_arrives() {
    let server = Server::new();
    let mut stream = server.connect();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let head = "POST /databases/x/v1/upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(read_response(&mut stream).status, 401);
}

/// Sends the first `count` bytes of an upload.
fn begin(server: &Server, name: &str, bytes: &[u8], count: usize) -> TcpStream {
    let mut stream = server.connect();
    let head = format!(
        "POST /databases/{name}/v1/upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
        server.token,
        bytes.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&bytes[..count]).unwrap();
    stream
}

#[test]
fn slow_uploads_do_not_delay_other_calls() {
    let server = Server::new();
    let bytes = file(server.dir.path(), 100);
    let slow: Vec<_> = (0..16)
        .map(|upload| {
            let name = format!("slow-{upload}");
            draft(&server, &name, &Value::Null);
            begin(&server, &name, &bytes, 5_000)
        })
        .collect();
    let have_started = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        staged(&server) == slow.len()
    });
    assert!(have_started, "some uploads have not started");
    for number in 0..20 {
        server.create(&format!("quick-{number}"));
    }
    let seed = json!({ "type": "database", "name": "quick-0" });
    server.ok("POST", "/databases", &json!({ "name": "fork", "group": "default", "seed": seed }));
    assert_eq!(staged(&server), slow.len());
    for mut stream in slow {
        stream.write_all(&bytes[5_000..]).unwrap();
        assert_eq!(read_response(&mut stream).status, 200);
    }
    assert_eq!(rows(&server, "slow-15", &ConnectOptions::default()), 100);
}

#[test]
fn queued_uploads_are_not_buffered() {
    let server = Server::new();
    let bytes = file(server.dir.path(), 5_000);
    let _slow: Vec<_> = (0..16)
        .map(|upload| {
            let name = format!("slow-{upload}");
            draft(&server, &name, &Value::Null);
            begin(&server, &name, &bytes, 5_000)
        })
        .collect();
    let before = peak(&server);
    let (server, bytes) = (&server, &bytes);
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(move || {
                let mut stream = begin(server, "late", bytes, 0);
                stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
                // The server reads none of it while the call is queued.
                let _not_read = stream.write_all(bytes);
            });
        }
    });
    let grown = peak(server) - before;
    assert!(grown < 12 << 20, "{grown} bytes for 100 uploads");
}
