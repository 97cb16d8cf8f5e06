//! Uploads in chunks: each chunk once and in its place, whatever the client sends again and wherever it breaks off.

use std::{io::Write, net::TcpStream, time::Duration};

use litefleet::{
    ConnectOptions, ControlPlane, CreateDatabaseInput, DatabaseState, EncryptionKey, Seed, http,
};
use serde_json::{Value, json};

use crate::{
    server::{Answer, Server, connect_to, read_answer, send_to},
    uploads::{KEY, draft, file, peak, rows, staged},
};

const CHUNK: usize = 8 << 20;

/// Rows of a file of three chunks.
const ROWS: u32 = 18_000;

/// An upload to a database, as one client sees it.
struct Client {
    address: String,
    name: String,
    bearer: String,
    id: String,
}

impl Client {
    /// With a draft of its own.
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

    fn put(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let headers = [&[("Authorization", self.bearer.as_str())], headers].concat();
        send_to(&self.address, "PUT", &format!("/databases/{}/v2/upload/{path}", self.name), &headers, body)
    }

    fn asks_to_start(&self, size: &Value) -> Answer {
        self.put("start", &[], json!({ "db_size_bytes": size }).to_string().as_bytes())
    }

    fn start(&mut self, size: usize) {
        let started = self.asks_to_start(&json!(size));
        assert_eq!(started.status, 200, "{started:?}");
        assert_eq!(started.json()["chunk_size"], CHUNK);
        started.json()["upload_id"].as_str().unwrap().clone_into(&mut self.id);
    }

    fn chunk(&self, number: usize, bytes: &[u8]) -> Answer {
        self.put(&format!("{}/chunk/{number}", self.id), &[], bytes)
    }

    /// Begins to send a chunk, of which the first `count` bytes come.
    fn begins(&self, number: usize, bytes: &[u8], count: usize) -> TcpStream {
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

    fn finalize(&self) -> Answer {
        self.put(&format!("{}/finalize", self.id), &[], b"")
    }
}

/// Waits until something is so.
fn waits_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = (0..200).any(|_| is_so() || (std::thread::sleep(Duration::from_millis(50)), false).1);
    assert!(waited, "{what}");
}

/// Waits until the server has taken what was sent: it stands in staging.
fn waits_for_bytes(root: &std::path::Path, count: usize) {
    waits_for("nothing comes", || {
        let staged = std::fs::read_dir(root.join(".staging")).unwrap().filter_map(Result::ok);
        let len = |dir: std::fs::DirEntry| dir.path().join("data.db").metadata().map_or(0, |data| data.len());
        staged.map(len).sum::<u64>() >= count as u64
    });
}

#[test]
fn a_file_comes_in_chunks_each_of_which_may_come_twice() {
    let server = Server::new();
    let bytes = file(server.dir.path(), ROWS);
    let chunks: Vec<_> = bytes.chunks(CHUNK).collect();
    assert_eq!(chunks.len(), 3);
    let mut client = Client::new(&server, "orders");
    client.start(bytes.len());
    for (number, chunk) in chunks.iter().enumerate() {
        assert_eq!(client.chunk(number, chunk).text, "");
        assert_eq!(client.chunk(number, chunk).status, 200);
        // Another chunk is not that one, whatever its length.
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
    assert_eq!(client.asks_to_start(&json!(bytes.len())).status, 409);
    assert_eq!(client.chunk(2, chunks[2]).status, 409);
    assert_eq!(staged(&server), 0);
}

#[test]
fn the_host_name_says_which_database_and_a_large_file_is_not_held_in_memory() {
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
fn every_chunk_of_an_encrypted_database_brings_the_same_key() {
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
    // The answer of the call is that of the upload, which is over.
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
fn a_chunk_that_broke_off_is_sent_again_from_its_start() {
    let server = Server::new();
    let bytes = file(server.dir.path(), ROWS);
    let chunks: Vec<_> = bytes.chunks(CHUNK).collect();
    let mut client = Client::new(&server, "orders");
    client.start(bytes.len());
    for (number, chunk) in chunks.iter().enumerate() {
        // Twice in one place, further on, less far, and all but the last byte.
        for count in [3 << 19, 3 << 19, 2 << 20, 1 << 20, chunk.len() - 1] {
            drop(client.begins(number, chunk, count.min(chunk.len() - 1)));
            std::thread::sleep(Duration::from_millis(50));
        }
        waits_for_bytes(&server.root(), number * CHUNK + (2 << 20).min(chunk.len() / 2));
        assert_eq!(client.chunk(number, chunk).status, 200);
    }
    assert_eq!(client.finalize().status, 200);
    assert_eq!(rows(&server, "orders", &ConnectOptions::default()), ROWS);
}

#[test]
fn a_chunk_that_comes_again_as_another_one_breaks_the_upload_and_leaves_nothing() {
    let server = Server::new();
    let bytes = file(server.dir.path(), ROWS);
    let mut client = Client::new(&server, "orders");
    client.start(bytes.len());
    drop(client.begins(0, &bytes[..CHUNK], 1 << 20));
    waits_for_bytes(&server.root(), 1 << 20);
    let mut other = bytes[..CHUNK].to_vec();
    other[200] ^= 1;
    let (status, message) = client.chunk(0, &other).error();
    assert_eq!(status, 409);
    assert!(message.contains("start again"), "{message}");
    // What it wrote is gone when it is answered.
    assert_eq!(staged(&server), 0);
    assert_eq!(client.chunk(0, &bytes[..CHUNK]).error().1, message);
    assert_eq!(client.finalize().error().1, message);
    client.start(bytes.len());
    assert_eq!(client.chunk(0, &bytes[..CHUNK]).status, 200);
}

#[test]
fn of_two_requests_for_one_chunk_the_newer_is_taken() {
    let server = Server::new();
    let bytes = file(server.dir.path(), ROWS);
    let mut client = Client::new(&server, "orders");
    client.start(bytes.len());
    for (number, chunk) in bytes.chunks(CHUNK).enumerate() {
        // Its connection may be gone without a word: nobody waits for it.
        let mut stalled = client.begins(number, chunk, chunk.len() / 2);
        waits_for_bytes(&server.root(), number * CHUNK + chunk.len() / 4);
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let racing: Vec<_> = (0..8).map(|_| scope.spawn(|| client.chunk(number, chunk).status)).collect();
            racing.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(statuses.contains(&200), "{statuses:?}");
        assert!(statuses.iter().all(|status| [200, 409].contains(status)), "{statuses:?}");
        assert_eq!(read_answer(&mut stalled).status, 409);
        assert_eq!(client.chunk(number, chunk).status, 200);
    }
    assert_eq!(client.finalize().status, 200);
    assert_eq!(rows(&server, "orders", &ConnectOptions::default()), ROWS);
}

#[test]
fn what_is_no_chunk_of_the_upload_is_refused_and_the_upload_goes_on() {
    let server = Server::new();
    let bytes = file(server.dir.path(), ROWS);
    let chunks: Vec<_> = bytes.chunks(CHUNK).collect();
    let mut client = Client::new(&server, "orders");
    for size in
        [json!(0), json!(-1), json!(511), json!("many"), json!(1e30), json!(u64::MAX), json!(1_u64 << 63)]
    {
        assert_eq!(client.asks_to_start(&size).status, 400, "{size}");
    }
    assert_eq!(client.put("start", &[], b"").status, 400);
    client.start(bytes.len());
    let early = client.chunk(1, chunks[1]).error();
    assert_eq!(early, (409, "chunk 1 came before chunk 0: they are sent in order".into()));
    let beyond = client.chunk(3, chunks[1]).error();
    assert_eq!(beyond, (400, format!("there is no chunk 3: {} bytes are 3 chunks, from 0", bytes.len())));
    assert_eq!(client.chunk(usize::MAX, chunks[1]).status, 400);
    assert_eq!(client.put(&format!("{}/chunk/-1", client.id), &[], chunks[0]).status, 400);
    // Its length is said before it comes, and nothing of it is taken.
    let long = client.chunk(0, &bytes[..=CHUNK]).error();
    assert_eq!(long, (400, format!("chunk 0 has {CHUNK} bytes, not {}", CHUNK + 1)));
    assert_eq!(client.chunk(0, &bytes[..CHUNK - 1]).status, 400);
    let (status, message) = client.finalize().error();
    assert_eq!(status, 400);
    assert!(message.starts_with(&format!("{0} of {0} bytes are missing", bytes.len())), "{message}");
    // One whose length is not said before.
    for body in [&bytes[..=CHUNK], &bytes[..CHUNK - 1]] {
        let mut stream = connect_to(&client.address);
        let head = format!(
            "PUT /databases/orders/v2/upload/{}/chunk/0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
            client.id,
            client.bearer,
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body, b"\r\n0\r\n\r\n"].concat()).unwrap();
        assert_eq!(read_answer(&mut stream).status, 400);
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
fn an_upload_is_that_of_its_database_and_each_request_brings_a_token() {
    let server = Server::new();
    let bytes = file(server.dir.path(), ROWS);
    let (mut client, mut other) = (Client::new(&server, "orders"), Client::new(&server, "other"));
    client.start(bytes.len());
    other.start(bytes.len());
    let status = |name: &str, bearer: &str, id: &str| {
        let (address, id) = (server.address.clone(), id.to_owned());
        let asking = Client { address, name: name.to_owned(), bearer: bearer.to_owned(), id };
        let statuses = [asking.chunk(0, &bytes[..CHUNK]).status, asking.finalize().status];
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
    server.done("POST", "/databases/orders/auth/rotate", &Value::Null);
    assert_eq!(client.chunk(1, &bytes[CHUNK..2 * CHUNK]).status, 401);
    assert_eq!(client.finalize().status, 401);
    assert_eq!(client.asks_to_start(&json!(bytes.len())).status, 401);
    client.bearer = format!("Bearer {}", server.token_of("orders", ""));
    assert_eq!(client.chunk(1, &bytes[CHUNK..2 * CHUNK]).status, 200);
}

#[test]
fn an_upload_that_cannot_succeed_is_refused_at_the_next_chunk() {
    let server = Server::new();
    let bytes = file(server.dir.path(), ROWS);
    let chunks: Vec<_> = bytes.chunks(CHUNK).collect();
    let mut client = Client::new(&server, "orders");
    // It says less than its limit, and the limit is lowered then.
    client.start(bytes.len());
    let limit = json!({ "size_limit": "1mb" });
    server.done("PATCH", "/databases/orders/configuration", &limit);
    assert_eq!(client.chunk(0, chunks[0]).status, 413);
    assert_eq!(client.chunk(0, chunks[0]).status, 413);
    assert_eq!(client.finalize().status, 413);
    assert_eq!(staged(&server), 0);
    assert_eq!(client.asks_to_start(&json!(bytes.len())).status, 413);
    server.done("PATCH", "/databases/orders/configuration", &json!({ "size_limit": "none" }));

    let mut damaged = bytes.clone();
    damaged[4096..8192].fill(0xaa);
    for wrong in [&b"x".repeat(bytes.len()), &damaged] {
        client.start(wrong.len());
        for (number, chunk) in wrong.chunks(CHUNK).enumerate() {
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
fn an_upload_that_starts_ends_the_one_before_it() {
    let server = Server::new();
    let bytes = file(server.dir.path(), ROWS);
    let mut client = Client::new(&server, "orders");
    client.start(bytes.len());
    let first = client.id.clone();
    assert_eq!(client.chunk(0, &bytes[..CHUNK]).status, 200);
    let mut stalled = client.begins(1, &bytes[CHUNK..2 * CHUNK], 1 << 20);
    waits_for_bytes(&server.root(), CHUNK + (1 << 19));
    client.start(bytes.len());
    assert_ne!(client.id, first);
    assert_eq!(read_answer(&mut stalled).status, 404);
    assert_eq!(client.chunk(0, &bytes[..CHUNK]).status, 200);
    let second = std::mem::replace(&mut client.id, first);
    let (status, message) = client.chunk(1, &bytes[CHUNK..2 * CHUNK]).error();
    assert_eq!(status, 404);
    assert!(message.contains("start again"), "{message}");
    // So does one in a single piece.
    client.id = second;
    let headers = [("Authorization", client.bearer.as_str())];
    assert_eq!(server.send("POST", "/databases/orders/v1/upload", &headers, &bytes).status, 200);
    assert_eq!(client.chunk(1, &bytes[CHUNK..2 * CHUNK]).status, 404);
    assert_eq!(rows(&server, "orders", &ConnectOptions::default()), ROWS);
}

#[test]
fn a_server_that_ends_leaves_drafts_and_nothing_of_their_uploads() {
    let mut server = Server::new();
    let bytes = file(server.dir.path(), ROWS);
    let mut client = Client::new(&server, "orders");
    client.start(bytes.len());
    assert_eq!(client.chunk(0, &bytes[..CHUNK]).status, 200);
    assert!(server.end().success());
    assert_eq!(staged(&server), 0);
    let server = server.killed_and_started();
    client.address.clone_from(&server.address);
    assert_eq!(client.chunk(1, &bytes[CHUNK..2 * CHUNK]).status, 404);
    client.start(bytes.len());
    assert_eq!(client.chunk(0, &bytes[..CHUNK]).status, 200);
    let server = server.killed_and_started();
    assert_eq!(staged(&server), 0);
    assert_eq!(server.plane().get_database("orders").unwrap().state, DatabaseState::Draft);
}

#[test]
fn uploads_that_nobody_goes_on_with_end_and_keep_no_other_call_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let plane = ControlPlane::open(&root).unwrap();
    plane.create_group("default").unwrap();
    let bytes = file(dir.path(), ROWS);
    let api = http::HttpApi::new(plane.clone()).without_tokens().upload_patience(Duration::from_secs(2));
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
        drop(client.begins(0, &bytes[..CHUNK], 1 << 20));
    }
    plane.create_database(CreateDatabaseInput::new("source", "default")).unwrap();
    let in_staging = || std::fs::read_dir(root.join(".staging")).unwrap().count();
    waits_for("the uploads do not begin", || in_staging() == 16);
    let seed =
        json!({ "name": "fork", "group": "default", "seed": { "type": "database", "name": "source" } });
    let forked =
        send_to(&address, "POST", "/v1/organizations/me/databases", &[], seed.to_string().as_bytes());
    assert_eq!(forked.status, 200);
    assert_eq!(in_staging(), 16);
    // There is no place for another one until some of them end.
    plane
        .create_database(CreateDatabaseInput::new("late", "default").with_seed(Seed::DatabaseUpload))
        .unwrap();
    let mut late = Client::of(&address, "late", "");
    late.start(bytes.len());
    for (number, chunk) in bytes.chunks(CHUNK).enumerate() {
        // Requests in between keep it from being idle, and so does one that takes long.
        std::thread::sleep(Duration::from_millis(1_200));
        let mut slow = late.begins(number, chunk, 1 << 20);
        std::thread::sleep(Duration::from_millis(2_800));
        slow.write_all(&chunk[1 << 20..]).unwrap();
        assert_eq!(read_answer(&mut slow).status, 200);
    }
    assert_eq!(late.finalize().status, 200);
    waits_for("debris of uploads", || in_staging() == 0);
    for client in &clients {
        assert_eq!(client.chunk(0, &bytes[..CHUNK]).status, 404);
        assert_eq!(plane.get_database(&client.name).unwrap().state, DatabaseState::Draft);
    }
    // What is over is forgotten, too.
    waits_for("an upload that is over", || {
        late.finalize().status == 404 || {
            std::thread::sleep(Duration::from_secs(3));
            false
        }
    });
}
