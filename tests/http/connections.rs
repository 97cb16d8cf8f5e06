//! Limits on connections and timeouts.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::Duration,
};

use litefleet::{
    ControlPlane, CreateDatabaseInput, Seed,
    http::{Certificate, ConnectionLimits, HttpApi, Server},
};
use rcgen::CertifiedKey;
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::server::{connect_to, read_response, send_to};

/// A server in this process, which stops on drop.
struct InProcessServer {
    address: String,
    plane: ControlPlane,
    dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl InProcessServer {
    fn new(limits: &ConnectionLimits) -> Self {
        Self::start(limits, false)
    }

    fn start(limits: &ConnectionLimits, has_tls: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plane = ControlPlane::open(dir.path().join("root")).unwrap();
        plane.create_group("default").unwrap();
        let api = HttpApi::new(plane.clone()).without_tokens();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut server = Server::from_listener(listener, |_| Ok(api)).unwrap().with_limits(limits).unwrap();
        if has_tls {
            server = server.with_tls(certificate(&dir)).unwrap();
        }
        let (stop, stopped) = oneshot::channel();
        let run = move || server.run_until(async { stopped.await.unwrap() }).unwrap();
        Self { address, plane, dir, stop: Some(stop), thread: Some(thread::spawn(run)) }
    }

    fn is_healthy(&self) -> bool {
        send_to(&self.address, "GET", "/health", &[], b"").status == 200
    }

    /// Creates a draft, and sends the head of an upload of `len` bytes to it.
    fn begin_upload(&self, name: &str, len: usize, headers: &str) -> TcpStream {
        let draft = CreateDatabaseInput::new(name, "default").with_seed(Seed::DatabaseUpload);
        self.plane.create_database(draft).unwrap();
        let mut stream = connect_to(&self.address);
        let head = format!(
            "POST /databases/{name}/v1/upload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    }

    /// Opens connections on which the client sends a part of a request head, or nothing.
    fn half_open(&self, count: usize) -> Vec<TcpStream> {
        let heads = ["", "GET /health HT", "GET /health HTTP/1.1\r\nHost: localhost\r\n"];
        let open = |number: usize| {
            let mut stream = connect_to(&self.address);
            stream.write_all(heads[number % heads.len()].as_bytes()).unwrap();
            stream
        };
        (0..count).map(open).collect()
    }
}

impl Drop for InProcessServer {
    fn drop(&mut self) {
        let _running = self.stop.take().unwrap().send(());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn certificate(dir: &TempDir) -> Certificate {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
    std::fs::write(&chain, cert.pem()).unwrap();
    std::fs::write(&key, signing_key.serialize_pem()).unwrap();
    Certificate::new(chain, key)
}

/// Whether the server has closed a connection.
fn is_closed(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match (&*stream).read(&mut [0; 1024]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

fn closed(streams: &[TcpStream]) -> usize {
    streams.iter().filter(|stream| is_closed(stream)).count()
}

/// Waits until the server has closed `count` of the connections, and returns how many it has.
fn wait_until_closed(streams: &[TcpStream], count: usize) -> usize {
    for _ in 0..200 {
        if closed(streams) >= count {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    closed(streams)
}

/// Limits that are never reached unless a test lowers them.
fn limits() -> ConnectionLimits {
    ConnectionLimits::default().header_timeout(Duration::from_secs(600)).max_connections(100)
}

#[test]
fn incomplete_request_head_times_out() {
    let server = InProcessServer::new(&limits().header_timeout(Duration::from_millis(300)));
    let mut streams = server.half_open(60);
    // Idle connections whose clients have sent one request.
    for _ in 0..20 {
        let mut stream = connect_to(&server.address);
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        streams.push(stream);
    }
    assert_eq!(wait_until_closed(&streams, 80), 80);
    assert!(server.is_healthy());
}

#[test]
fn incomplete_tls_handshake_times_out() {
    let server = InProcessServer::start(&limits().header_timeout(Duration::from_millis(300)), true);
    let streams = server.half_open(30);
    assert_eq!(wait_until_closed(&streams, 30), 30);
}

#[test]
fn waiting_connections_are_displaced_at_the_limit() {
    let server = InProcessServer::new(&limits().max_connections(16));
    let streams = server.half_open(50);
    // The request for the health of the server displaces one more.
    assert!(server.is_healthy());
    assert_eq!(wait_until_closed(&streams, 35), 35);
    // Until the server has noticed that the connection of this request has ended.
    thread::sleep(Duration::from_millis(500));
    let metrics = send_to(&server.address, "GET", "/metrics", &[], b"").text;
    for line in [
        r#"litefleet_connections_closed_at_bound_total{reason="displaced"} 35"#,
        r#"litefleet_connections_closed_at_bound_total{reason="refused"} 0"#,
        "litefleet_connections 16",
    ] {
        assert!(metrics.lines().any(|known| known == line), "{line} is not in {metrics}");
    }
}

#[test]
fn peer_at_its_limit_displaces_its_own_connections() {
    let server = InProcessServer::new(&limits().max_connections_per_peer(5));
    let streams = server.half_open(20);
    assert!(server.is_healthy());
    assert_eq!(wait_until_closed(&streams, 16), 16);
}

#[test]
fn loopback_is_unlimited_by_default() {
    for limits in [limits(), limits().max_connections_per_peer(0)] {
        let server = InProcessServer::new(&limits);
        let streams = server.half_open(90);
        assert!(server.is_healthy());
        assert_eq!(closed(&streams), 0);
    }
}

#[test]
fn connection_that_awaits_a_body_is_displaced() {
    const UPLOADS: usize = 8;
    let server = InProcessServer::new(&limits().max_connections(UPLOADS));
    let uploads: Vec<_> = (0..UPLOADS)
        .map(|number| {
            let mut stream =
                server.begin_upload(&format!("slow-{number}"), 1 << 20, "Expect: 100-continue\r\n");
            let mut status = [0; 12];
            stream.read_exact(&mut status).unwrap();
            assert_eq!(&status, b"HTTP/1.1 100");
            stream
        })
        .collect();
    assert_eq!(closed(&uploads), 0);
    assert!(server.is_healthy());
    assert_eq!(wait_until_closed(&uploads, 1), 1);
}

#[test]
fn upload_that_makes_progress_is_not_displaced() {
    let limits = limits().max_connections(8).header_timeout(Duration::from_secs(2));
    let server = InProcessServer::new(&limits);
    let file = crate::uploads::file(server.dir.path(), 20_000);
    let mut upload = server.begin_upload("a", file.len(), "");
    let (mut half_open, mut sent) = (Vec::new(), 0);
    let (parts, rest) = file.split_at(file.len() / 6 * 5);
    for part in parts.chunks(file.len() / 6) {
        upload.write_all(part).unwrap();
        sent += part.len();
        // Once the server has written some of this part, the next connections displace those opened before.
        crate::chunked_uploads::wait_for_bytes(server.plane.root(), sent - part.len() / 2);
        half_open.extend(server.half_open(5));
    }
    upload.write_all(rest).unwrap();
    assert_eq!(read_response(&mut upload).status, 200);
    assert_eq!(wait_until_closed(&half_open, half_open.len()), half_open.len());
}

#[test]
fn client_that_reads_slowly_receives_the_whole_response() {
    let server = InProcessServer::new(&limits().header_timeout(Duration::from_secs(2)));
    let file = crate::uploads::file(server.dir.path(), 4_000);
    let mut upload = server.begin_upload("a", file.len(), "");
    upload.write_all(&file).unwrap();
    assert_eq!(read_response(&mut upload).status, 200);
    let mut export = connect_to(&server.address);
    let request = "GET /v1/organizations/me/databases/a/export HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    export.write_all(request.as_bytes()).unwrap();
    let mut bytes = vec![0; 1 << 20];
    export.read_exact(&mut bytes).unwrap();
    thread::sleep(Duration::from_secs(3));
    export.read_to_end(&mut bytes).unwrap();
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let exported = server.dir.path().join("exported.db");
    std::fs::write(&exported, &bytes[head..]).unwrap();
    let connection = litefleet::rusqlite::Connection::open(exported).unwrap();
    let rows: u32 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 4_000);
}

#[test]
fn client_that_does_not_read_is_disconnected() {
    let server = InProcessServer::new(&limits().write_timeout(Duration::from_millis(300)));
    let mut stream = connect_to(&server.address);
    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    let request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // The server reads no request while its responses are not read, so this loop ends when it closes the connection.
    let error = loop {
        match stream.write_all(request) {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    assert!(server.is_healthy());
}

#[test]
fn server_stops_despite_half_open_connections() {
    let server = InProcessServer::new(&limits());
    let streams = server.half_open(30);
    drop(server);
    assert_eq!(wait_until_closed(&streams, 30), 30);
}
