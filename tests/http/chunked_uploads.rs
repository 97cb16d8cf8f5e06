//! Chunked uploads: each chunk is applied once, even if requests fail and are repeated.

use std::{io::Write, net::TcpStream, time::Duration};

use litefleet::{
    ConnectOptions, ControlPlane, CreateDatabaseInput, DatabaseState, EncryptionKey, Seed, http,
};
use serde_json::{Value, json};

use crate::{
    server::{Response, Server, connect_to, read_response, send_to},
    uploads::{KEY, draft, file, peak, rows, staged},
};

const CHUNK: usize = 8 << 20;

/// The number of rows in a file of three chunks.
const ROWS: u32 = 18_000;

/// The client of an upload.
struct Client {
    address: String,
    name: String,
    bearer: String,
    id: String,
}

impl Client {
    /// Creates a draft for the upload.
    fn new(server: &Server, name: &str) -> Self {
        Self::of(&server.address, name, &draft(server, name, &Value::Null))
    }

    fn of(address: &str, name: &str, token: &str) -> Self {
        Self {
            address: address.to_owned(),
            name: name.to_owned(),
            bearer: format!("Bearer {token}"),
            id: String::new(),
        }
    }

    fn put(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let headers = [&[("Authorization", self.bearer.as_str())], headers].concat();
        send_to(&self.address, "PUT", &format!("/databases/{}/v2/upload/{path}", self.name), &headers, body)
    }

    fn try_start(&self, size: &Value) -> Response {
        self.put("start", &[], json!({ "db_size_bytes": size }).to_string().as_bytes())
    }

    fn start(&mut self, size: usize) {
        let started = self.try_start(&json!(size));
        assert_eq!(started.status, 200, "{started:?}");
        assert_eq!(started.json()["chunk_size"], CHUNK);
        started.json()["upload_id"].as_str().unwrap().clone_into(&mut self.id);
    }

    fn chunk(&self, number: usize, bytes: &[u8]) -> Response {
        self.put(&format!("{}/chunk/{number}", self.id), &[], bytes)
    }

    /// Sends the first `count` bytes of a chunk.
    fn begin_chunk(&self, number: usize, bytes: &[u8], count: usize) -> TcpStream {
        let mut stream = connect_to(&self.address);
        let head = format!(
            "PUT /databases/{}/v2/upload/{}/chunk/{number} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAuthorization: {}\r\nContent-Length: {}\r\n\r\n",
            self.name,
            self.id,
            self.address,
            self.bearer,
            bytes.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&bytes[..count]).unwrap();
        stream
    }

    fn finalize(&self) -> Response {
        self.put(&format!("{}/finalize", self.id), &[], b"")
    }
}

/// Waits until a condition holds. Panics with `message` after 10 seconds.
fn wait_for(message: &str, mut condition: impl FnMut() -> bool) {
    let holds = (0..200).any(|_| condition() || (std::thread::sleep(Duration::from_millis(50)), false).1);
    assert!(holds, "{message}");
}

/// Waits until the server has written `count` bytes to the staging directory.
pub(crate) fn wait_for_bytes(root: &std::path::Path, count: usize) {
    wait_for("nothing is written", || {
        let staged = std::fs::read_dir(root.join(".staging")).unwrap().filter_map(Result::ok);
        let len = |dir: std::fs::DirEntry| dir.path().join("data.db").metadata().map_or(0, |data| data.len());
        staged.map(len).sum::<u64>() >= count as u64
    });
}

#[test]
fn chunk_may_be_sent_twice() {
    let server = Server::new();
    let bytes = file(server.dir.path(), ROWS);
    let chunks: Vec<_> = bytes.chunks(CHUNK).collect();
    assert_eq!(chunks.len(), 3);
    let mut client = Client::new(&server, "orders");
    client.start(bytes.len());
    for (number, chunk) in chunks.iter().enumerate() {
        assert_eq!(client.chunk(number, chunk).text, "");
        assert_eq!(client.chunk(number, chunk).status, 200);
        // A different chunk of the same length is a conflict.
        let mut other = chunk.to_vec();
        other[100] ^= 1;
        assert_eq!(client.chunk(number, &other).status, 409);
    }
    assert_eq!(client.chunk(0, chunks[0]).status, 200);
    assert_eq!(server.plane().get_database("orders").unwrap().state, DatabaseState::Draft);
    for _ in 0..2 {
        let done = client.finalize();
        assert_eq!((done.status, done.text.as_str()), (200, ""));
    }
    assert_eq!(rows(&server, "orders", &ConnectOptions::default()), ROWS);
    assert_eq!(client.try_start(&json!(bytes.len())).status, 409);
    assert_eq!(client.chunk(2, chunks[2]).status, 409);
    assert_eq!(staged(&server), 0);
}

#[test]
fn upload_by_host_name_uses_bounded_memory() {
    let server = Server::new();
    let client = Client::new(&server, "orders");
    let bytes = file(server.dir.path(), 100_000);
    let put = |host: &str, path: &str, body: &[u8]| {
        let headers = [("Authorization", client.bearer.as_str()), ("Host", host)];
        server.send("PUT", &format!("/v2/upload/{path}"), &headers, body)
    };
    let size = json!({ "db_size_bytes": bytes.len() }).to_string();
    assert_eq!(put("orders.example.org", "start", size.as_bytes()).status, 404);
    let host = "orders.localhost:1";
    let started = put(host, "start", size.as_bytes()).json();
    let before = peak(&server);
    for (number, chunk) in bytes.chunks(CHUNK).enumerate() {
        let path = format!("{}/chunk/{number}", started["upload_id"].as_str().unwrap());
        assert_eq!(put("other.localhost:1", &path, chunk).status, 404);
        assert_eq!(put(host, &path, chunk).status, 200);
    }
    assert_eq!(put(host, &format!("{}/finalize", started["upload_id"].as_str().unwrap()), b"").status, 200);
    assert_eq!(rows(&server, "orders", &ConnectOptions::default()), 100_000);
    let grown = peak(&server) - before;
    assert!(bytes.len() > 100 << 20 && grown < 32 << 20, "{grown} bytes for {}", bytes.len());
}

#[test]
fn every_chunk_requires_the_same_key() {
    let server = Server::new();
    let encryption = json!({ "encryption_key": KEY, "encryption_cipher": "aegis128l" });
    let mut client = Client::of(&server.address, "sealed", &draft(&server, "sealed", &encryption));
    let bytes = file(server.dir.path(), ROWS);
    let chunks: Vec<_> = bytes.chunks(CHUNK).collect();
    let send = |client: &Client, number: usize, key: &str| {
        let headers = [("x-turso-encryption-key", key), ("x-turso-encryption-cipher", "aegis128l")];
        let sent = client.put(&format!("{}/chunk/{number}", client.id), &headers, chunks[number]);
        assert!(!sent.text.contains(key), "{sent:?}");
        sent
    };
    client.start(bytes.len());
    assert_eq!(send(&client, 0, "secret-but-no-base64!").status, 400);
    assert_eq!(client.chunk(0, chunks[0]).json()["code"], "key_required");
    // The error of the call is that of the upload, which has ended.
    assert_eq!(send(&client, 0, KEY).json()["code"], "key_required");
    assert_eq!(client.finalize().json()["code"], "key_required");

    client.start(bytes.len());
    let other = "AAECAwQFBgcICQoLDA0ODg==";
    assert_eq!(send(&client, 0, KEY).status, 200);
    assert_eq!(send(&client, 1, other).status, 400);
    assert_eq!(client.chunk(1, chunks[1]).status, 400);
    for number in 1..chunks.len() {
        assert_eq!(send(&client, number, KEY).status, 200);
    }
    assert_eq!(client.finalize().status, 200);
    let options = ConnectOptions::default().encryption_key(EncryptionKey::from_base64(KEY).unwrap());
    assert_eq!(rows(&server, "sealed", &options), ROWS);
}

#[test]
fn interrupted_chunk_is_sent_again() {
    let server = Server::new();
    let bytes = file(server.dir.path(), ROWS);
    let chunks: Vec<_> = bytes.chunks(CHUNK).collect();
    let mut client = Client::new(&server, "orders");
    client.start(bytes.len());
    for (number, chunk) in chunks.iter().enumerate() {
        // Twice at one position, later, earlier, and before the last byte.
        for count in [3 << 19, 3 << 19, 2 << 20, 1 << 20, chunk.len() - 1] {
            drop(client.begin_chunk(number, chunk, count.min(chunk.len() - 1)));
            std::thread::sleep(Duration::from_millis(50));
        }
        wait_for_bytes(&server.root(), number * CHUNK + (2 << 20).min(chunk.len() / 2));
        assert_eq!(client.chunk(number, chunk).status, 200);
    }
    assert_eq!(client.finalize().status, 200);
    assert_eq!(rows(&server, "orders", &ConnectOptions::default()), ROWS);
}

#[test]
fn repeated_chunk_with_different_contents_fails_the_upload() {
    let server = Server::new();
    let bytes = file(server.dir.path(), ROWS);
    let mut client = Client::new(&server, "orders");
    client.start(bytes.len());
    drop(client.begin_chunk(0, &bytes[..CHUNK], 1 << 20));
    wait_for_bytes(&server.root(), 1 << 20);
    let mut other = bytes[..CHUNK].to_vec();
    other[200] ^= 1;
    let (status, message) = client.chunk(0, &other).error();
    assert_eq!(status, 409);
    assert!(message.contains("start again"), "{message}");
    // The files are removed before the response is sent.
    assert_eq!(staged(&server), 0);
    assert_eq!(client.chunk(0, &bytes[..CHUNK]).error().1, message);
    assert_eq!(client.finalize().error().1, message);
    client.start(bytes.len());
    assert_eq!(client.chunk(0, &bytes[..CHUNK]).status, 200);
}

#[test]
fn later_request_for_a_chunk_supersedes_earlier_one() {
    let server = Server::new();
    let bytes = file(server.dir.path(), ROWS);
    let mut client = Client::new(&server, "orders");
    client.start(bytes.len());
    for (number, chunk) in bytes.chunks(CHUNK).enumerate() {
        // The connection of this request may have failed silently; later requests do not wait for it.
        let mut stalled = client.begin_chunk(number, chunk, chunk.len() / 2);
        wait_for_bytes(&server.root(), number * CHUNK + chunk.len() / 4);
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let racing: Vec<_> = (0..8).map(|_| scope.spawn(|| client.chunk(number, chunk).status)).collect();
            racing.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(statuses.contains(&200), "{statuses:?}");
        assert!(statuses.iter().all(|status| [200, 409].contains(status)), "{statuses:?}");
        assert_eq!(read_response(&mut stalled).status, 409);
        assert_eq!(client.chunk(number, chunk).status, 200);
    }
    assert_eq!(client.finalize().status, 200);
    assert_eq!(rows(&server, "orders", &ConnectOptions::default()), ROWS);
}

#[test]
fn invalid_chunk_is_refused_and_the_upload_continues() {
    let server = Server::new();
    let bytes = file(server.dir.path(), ROWS);
    let chunks: Vec<_> = bytes.chunks(CHUNK).collect();
    let mut client = Client::new(&server, "orders");
    for size in
        [json!(0), json!(-1), json!(511), json!("many"), json!(1e30), json!(u64::MAX), json!(1_u64 << 63)]
    {
        assert_eq!(client.try_start(&size).status, 400, "{size}");
    }
    assert_eq!(client.put("start", &[], b"").status, 400);
    client.start(bytes.len());
    let early = client.chunk(1, chunks[1]).error();
    assert_eq!(early, (409, "chunk 1 is out of order; the next chunk is 0".into()));
    let beyond = client.chunk(3, chunks[1]).error();
    assert_eq!(beyond, (400, format!("chunk 3 does not exist; {} bytes have 3 chunks, from 0", bytes.len())));
    assert_eq!(client.chunk(usize::MAX, chunks[1]).status, 400);
    assert_eq!(client.put(&format!("{}/chunk/-1", client.id), &[], chunks[0]).status, 400);
    // A chunk with an invalid Content-Length is refused before its body is read.
    let long = client.chunk(0, &bytes[..=CHUNK]).error();
    assert_eq!(long, (400, format!("chunk 0 has {CHUNK} bytes, not {}", CHUNK + 1)));
    assert_eq!(client.chunk(0, &bytes[..CHUNK - 1]).status, 400);
    let (status, message) = client.finalize().error();
    assert_eq!(status, 400);
    assert!(message.starts_with(&format!("{0} of {0} bytes are missing", bytes.len())), "{message}");
    // Chunks without a Content-Length.
    for body in [&bytes[..=CHUNK], &bytes[..CHUNK - 1]] {
        let mut stream = connect_to(&client.address);
        let head = format!(
            "PUT /databases/orders/v2/upload/{}/chunk/0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
            client.id,
            client.bearer,
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body, b"\r\n0\r\n\r\n"].concat()).unwrap();
        assert_eq!(read_response(&mut stream).status, 400);
    }
    for (number, chunk) in chunks.iter().enumerate() {
        let (status, message) = client.finalize().error();
        assert_eq!(status, 400);
        let missing = format!("{} of {} bytes", bytes.len() - number * CHUNK, bytes.len());
        assert!(message.starts_with(&missing), "{message}");
        assert_eq!(client.chunk(number, chunk).status, 200);
    }
    assert_eq!(client.finalize().status, 200);
    assert_eq!(rows(&server, "orders", &ConnectOptions::default()), ROWS);
}

#[test]
fn every_request_of_an_upload_requires_a_token_of_its_database() {
    let server = Server::new();
    let bytes = file(server.dir.path(), ROWS);
    let (mut client, mut other) = (Client::new(&server, "orders"), Client::new(&server, "other"));
    client.start(bytes.len());
    other.start(bytes.len());
    let status = |name: &str, bearer: &str, id: &str| {
        let (address, id) = (server.address.clone(), id.to_owned());
        let client = Client { address, name: name.to_owned(), bearer: bearer.to_owned(), id };
        let statuses = [client.chunk(0, &bytes[..CHUNK]).status, client.finalize().status];
        assert_eq!(statuses[0], statuses[1]);
        statuses[0]
    };
    assert_eq!(status("orders", "", &client.id), 401);
    assert_eq!(status("orders", &other.bearer, &client.id), 401);
    assert_eq!(status("other", &other.bearer, &client.id), 404);
    for id in ["", "x", "..", &"0".repeat(32)] {
        assert_eq!(status("orders", &client.bearer, id), 404, "{id}");
    }
    let read_only = format!("Bearer {}", server.token_of("orders", "authorization=read-only"));
    assert_eq!(status("orders", &read_only, &client.id), 403);
    assert_eq!(client.chunk(0, &bytes[..CHUNK]).status, 200);
    server.ok("POST", "/databases/orders/auth/rotate", &Value::Null);
    assert_eq!(client.chunk(1, &bytes[CHUNK..2 * CHUNK]).status, 401);
    assert_eq!(client.finalize().status, 401);
    assert_eq!(client.try_start(&json!(bytes.len())).status, 401);
    client.bearer = format!("Bearer {}", server.token_of("orders", ""));
    assert_eq!(client.chunk(1, &bytes[CHUNK..2 * CHUNK]).status, 200);
}

#[test]
fn upload_that_cannot_succeed_is_refused_at_the_next_chunk() {
    let server = Server::new();
    let bytes = file(server.dir.path(), ROWS);
    let chunks: Vec<_> = bytes.chunks(CHUNK).collect();
    let mut client = Client::new(&server, "orders");
    // The limit is lowered after the upload has started.
    client.start(bytes.len());
    let limit = json!({ "size_limit": "1mb" });
    server.ok("PATCH", "/databases/orders/configuration", &limit);
    assert_eq!(client.chunk(0, chunks[0]).status, 413);
    assert_eq!(client.chunk(0, chunks[0]).status, 413);
    assert_eq!(client.finalize().status, 413);
    assert_eq!(staged(&server), 0);
    assert_eq!(client.try_start(&json!(bytes.len())).status, 413);
    server.ok("PATCH", "/databases/orders/configuration", &json!({ "size_limit": "none" }));

    let mut damaged = bytes.clone();
    damaged[4096..8192].fill(0xaa);
    for invalid in [&b"x".repeat(bytes.len()), &damaged] {
        client.start(invalid.len());
        for (number, chunk) in invalid.chunks(CHUNK).enumerate() {
            assert_eq!(client.chunk(number, chunk).status, 200);
        }
        let refused = client.finalize();
        assert_eq!(refused.status, 400);
        assert_eq!(client.finalize().text, refused.text);
        assert_eq!(staged(&server), 0);
    }
    assert_eq!(server.plane().get_database("orders").unwrap().state, DatabaseState::Draft);
}

#[test]
fn new_upload_replaces_the_previous_one() {
    let server = Server::new();
    let bytes = file(server.dir.path(), ROWS);
    let mut client = Client::new(&server, "orders");
    client.start(bytes.len());
    let first = client.id.clone();
    assert_eq!(client.chunk(0, &bytes[..CHUNK]).status, 200);
    let mut stalled = client.begin_chunk(1, &bytes[CHUNK..2 * CHUNK], 1 << 20);
    wait_for_bytes(&server.root(), CHUNK + (1 << 19));
    client.start(bytes.len());
    assert_ne!(client.id, first);
    assert_eq!(read_response(&mut stalled).status, 404);
    assert_eq!(client.chunk(0, &bytes[..CHUNK]).status, 200);
    let second = std::mem::replace(&mut client.id, first);
    let (status, message) = client.chunk(1, &bytes[CHUNK..2 * CHUNK]).error();
    assert_eq!(status, 404);
    assert!(message.contains("start again"), "{message}");
    // An upload in one request replaces it as well.
    client.id = second;
    let headers = [("Authorization", client.bearer.as_str())];
    assert_eq!(server.send("POST", "/databases/orders/v1/upload", &headers, &bytes).status, 200);
    assert_eq!(client.chunk(1, &bytes[CHUNK..2 * CHUNK]).status, 404);
    assert_eq!(rows(&server, "orders", &ConnectOptions::default()), ROWS);
}

#[test]
fn stopped_server_leaves_no_files_of_uploads() {
    let mut server = Server::new();
    let bytes = file(server.dir.path(), ROWS);
    let mut client = Client::new(&server, "orders");
    client.start(bytes.len());
    assert_eq!(client.chunk(0, &bytes[..CHUNK]).status, 200);
    assert!(server.stop().success());
    assert_eq!(staged(&server), 0);
    let server = server.kill_and_restart();
    client.address.clone_from(&server.address);
    assert_eq!(client.chunk(1, &bytes[CHUNK..2 * CHUNK]).status, 404);
    client.start(bytes.len());
    assert_eq!(client.chunk(0, &bytes[..CHUNK]).status, 200);
    let server = server.kill_and_restart();
    assert_eq!(staged(&server), 0);
    assert_eq!(server.plane().get_database("orders").unwrap().state, DatabaseState::Draft);
}

#[test]
fn idle_upload_is_cancelled_and_delays_no_other_call() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let plane = ControlPlane::open(&root).unwrap();
    plane.create_group("default").unwrap();
    let bytes = file(dir.path(), ROWS);
    let api = http::HttpApi::new(plane.clone()).without_tokens().upload_idle_timeout(Duration::from_secs(2));
    let server = http::Server::bind("127.0.0.1:0".parse().unwrap(), |_| Ok(api)).unwrap();
    let address = server.address().unwrap().to_string();
    std::thread::spawn(move || server.run().unwrap());
    let clients: Vec<_> = (0..16)
        .map(|number| {
            let name = format!("draft-{number}");
            let seed = Seed::DatabaseUpload;
            plane.create_database(CreateDatabaseInput::new(&name, "default").with_seed(seed)).unwrap();
            let mut client = Client::of(&address, &name, "");
            client.start(bytes.len());
            client
        })
        .collect();
    for client in &clients {
        drop(client.begin_chunk(0, &bytes[..CHUNK], 1 << 20));
    }
    plane.create_database(CreateDatabaseInput::new("source", "default")).unwrap();
    let in_staging = || std::fs::read_dir(root.join(".staging")).unwrap().count();
    wait_for("the uploads have not started", || in_staging() == 16);
    let seed =
        json!({ "name": "fork", "group": "default", "seed": { "type": "database", "name": "source" } });
    let forked =
        send_to(&address, "POST", "/v1/organizations/me/databases", &[], seed.to_string().as_bytes());
    assert_eq!(forked.status, 200);
    assert_eq!(in_staging(), 16);
    // The next upload waits until one of these is cancelled.
    plane
        .create_database(CreateDatabaseInput::new("late", "default").with_seed(Seed::DatabaseUpload))
        .unwrap();
    let mut late = Client::of(&address, "late", "");
    late.start(bytes.len());
    for (number, chunk) in bytes.chunks(CHUNK).enumerate() {
        // Neither regular requests nor a slow one count as idle.
        std::thread::sleep(Duration::from_millis(1_200));
        let mut slow = late.begin_chunk(number, chunk, 1 << 20);
        std::thread::sleep(Duration::from_millis(2_800));
        slow.write_all(&chunk[1 << 20..]).unwrap();
        assert_eq!(read_response(&mut slow).status, 200);
    }
    assert_eq!(late.finalize().status, 200);
    wait_for("files of uploads remain", || in_staging() == 0);
    for client in &clients {
        assert_eq!(client.chunk(0, &bytes[..CHUNK]).status, 404);
        assert_eq!(plane.get_database(&client.name).unwrap().state, DatabaseState::Draft);
    }
    // A completed upload is forgotten as well.
    wait_for("the completed upload is still known", || {
        late.finalize().status == 404 || {
            std::thread::sleep(Duration::from_secs(3));
            false
        }
    });
}
