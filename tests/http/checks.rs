//! Checks of uploaded files that would run for long: whoever asked for one, or ends the server, ends it.

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

/// A file whose check takes a minute, and is within the processor time for its size: the condition of its index takes each row
/// some milliseconds.
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

/// Begins an upload of which everything is sent, and returns its connection when the file is being checked.
fn checked(server: &Server, name: &str, bytes: &[u8]) -> std::net::TcpStream {
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
fn a_client_that_disconnects_ends_the_check_of_its_upload() {
    let server = Server::new();
    let bytes = slow_file(&server);
    let stream = checked(&server, "a", &bytes);
    assert_eq!(staged(&server), 1);
    drop(stream);
    // If the check went on to its end, the draft would become a database.
    while staged(&server) > 0 {
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(server.plane().get_database("a").unwrap().state, DatabaseState::Draft);
}

#[test]
fn a_server_that_is_ended_ends_the_checks_of_uploads() {
    let mut server = Server::new();
    let bytes = slow_file(&server);
    let _stream = checked(&server, "a", &bytes);
    assert!(server.end().success());
    assert_eq!(staged(&server), 0);
    assert_eq!(server.plane().get_database("a").unwrap().state, DatabaseState::Draft);
}
