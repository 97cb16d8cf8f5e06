//! Long integrity checks of uploaded files are cancelled by a disconnect and by a shutdown.

use std::{fs, io::Write, thread, time::Duration};

use litefleet::{
    DatabaseState,
    rusqlite::{Connection, functions::FunctionFlags},
};
use serde_json::Value;

use crate::{
    server::Server,
    uploads::{draft, staged},
};

/// A file whose integrity check takes a minute, which is within the limit for its size: evaluating the condition of its index takes
/// some milliseconds a row.
fn slow_file(server: &Server) -> Vec<u8> {
    let path = server.dir.path().join("slow.db");
    let connection = Connection::open(&path).unwrap();
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_scalar_function("hex", 1, flags, |_| Ok("")).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE t(a); CREATE INDEX i ON t(a) WHERE hex(zeroblob(5000000)) = 'x';
             WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 8000) INSERT INTO t SELECT i FROM n;
             CREATE TABLE pad(a); INSERT INTO pad VALUES (zeroblob(160000000))",
        )
        .unwrap();
    drop(connection);
    fs::read(path).unwrap()
}

/// Sends a whole upload, and returns its connection once the file is being checked.
fn upload_until_check(server: &Server, name: &str, bytes: &[u8]) -> std::net::TcpStream {
    let token = draft(server, name, &Value::Null);
    let mut stream = server.connect();
    let length = bytes.len();
    let head = format!(
        "POST /databases/{name}/v1/upload HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(bytes).unwrap();
    let running = "litefleet_calls_running{load=\"long\"} 1";
    while !server
        .send("GET", "/metrics", &[("Authorization", &format!("Bearer {}", server.token))], b"")
        .text
        .contains(running)
    {
        thread::sleep(Duration::from_millis(10));
    }
    stream
}

#[test]
fn disconnect_cancels_the_check_of_an_upload() {
    let server = Server::new();
    let bytes = slow_file(&server);
    let stream = upload_until_check(&server, "a", &bytes);
    assert_eq!(staged(&server), 1);
    drop(stream);
    // A check that ran to its end would complete the draft.
    while staged(&server) > 0 {
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(server.plane().get_database("a").unwrap().state, DatabaseState::Draft);
}

#[test]
fn shutdown_cancels_the_check_of_an_upload() {
    let mut server = Server::new();
    let bytes = slow_file(&server);
    let _stream = upload_until_check(&server, "a", &bytes);
    assert!(server.stop().success());
    assert_eq!(staged(&server), 0);
    assert_eq!(server.plane().get_database("a").unwrap().state, DatabaseState::Draft);
}
