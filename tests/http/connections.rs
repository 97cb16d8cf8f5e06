//! Connections: how many there are, and which are closed.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::Duration,
};

use litefleet::{
    ControlPlane,
    http::{Certificate, ConnectionLimits, HttpApi, Server},
};
use rcgen::CertifiedKey;
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::server::{connect_to, send_to};

/// A server within this process, which stops when this is dropped.
struct Served {
    address: String,
    plane: ControlPlane,
    dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    fn new(limits: &ConnectionLimits) -> Self {
        Self::start(limits, false)
    }

    fn start(limits: &ConnectionLimits, has_tls: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plane = ControlPlane::open(dir.path().join("root")).unwrap();
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

    /// Opens connections, on each of which the client sends the beginning of a request, or nothing.
    fn half_open(&self, count: usize) -> Vec<TcpStream> {
        let parts = ["", "GET /health HT", "GET /health HTTP/1.1\r\nHost: localhost\r\n"];
        let open = |number: usize| {
            let mut stream = connect_to(&self.address);
            stream.write_all(parts[number % parts.len()].as_bytes()).unwrap();
            stream
        };
        (0..count).map(open).collect()
    }
}

impl Drop for Served {
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
fn closed_in_the_end(streams: &[TcpStream], count: usize) -> usize {
    for _ in 0..200 {
        if closed(streams) >= count {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    closed(streams)
}

/// Bounds that no test waits for, but for a time that is set.
fn limits() -> ConnectionLimits {
    ConnectionLimits::default().head_time(Duration::from_secs(600)).connections(100)
}

#[test]
fn connections_without_a_whole_request_are_closed() {
    let served = Served::new(&limits().head_time(Duration::from_millis(300)));
    let mut streams = served.half_open(60);
    // Connections whose clients ask once and keep them.
    for _ in 0..20 {
        let mut stream = connect_to(&served.address);
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        streams.push(stream);
    }
    assert_eq!(closed_in_the_end(&streams, 80), 80);
    assert!(served.is_healthy());
}

#[test]
fn connections_without_a_tls_handshake_are_closed() {
    let served = Served::start(&limits().head_time(Duration::from_millis(300)), true);
    let streams = served.half_open(30);
    assert_eq!(closed_in_the_end(&streams, 30), 30);
}

#[test]
fn half_open_connections_make_room_for_others() {
    let served = Served::new(&limits().connections(16));
    let streams = served.half_open(50);
    // One more makes room for the request that asks for the state of the server.
    assert!(served.is_healthy());
    assert_eq!(closed_in_the_end(&streams, 35), 35);
    // The server has yet to note that the connection of that request has ended.
    thread::sleep(Duration::from_millis(500));
    let metrics = send_to(&served.address, "GET", "/metrics", &[], b"").text;
    for line in [
        r#"litefleet_connections_closed_at_bound_total{reason="displaced"} 35"#,
        r#"litefleet_connections_closed_at_bound_total{reason="refused"} 0"#,
        "litefleet_connections 16",
    ] {
        assert!(metrics.lines().any(|known| known == line), "{line} is not in {metrics}");
    }
}

#[test]
fn a_peer_at_its_bound_displaces_its_own_connections() {
    let served = Served::new(&limits().connections_per_peer(5));
    let streams = served.half_open(20);
    assert!(served.is_healthy());
    assert_eq!(closed_in_the_end(&streams, 16), 16);
}

#[test]
fn loopback_has_no_bound_of_its_own_unless_it_is_set() {
    for limits in [limits(), limits().connections_per_peer(0)] {
        let served = Served::new(&limits);
        let streams = served.half_open(90);
        assert!(served.is_healthy());
        assert_eq!(closed(&streams), 0);
    }
}

#[test]
fn requests_that_the_server_is_at_work_for_outlive_every_bound() {
    let served = Served::new(&limits().connections(8).head_time(Duration::from_secs(2)));
    served.plane.create_group("default").unwrap();
    let create = br#"{"name": "a", "group": "default", "seed": {"type": "database_upload"}}"#;
    let path = "/v1/organizations/me/databases";
    assert_eq!(send_to(&served.address, "POST", path, &[], create).status, 200);
    let file = crate::uploads::file(served.dir.path(), 4_000);
    let (first, rest) = file.split_at(file.len() / 2);
    let mut uploading = connect_to(&served.address);
    let head = "POST /databases/a/v1/upload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    uploading.write_all(format!("{head}Content-Length: {}\r\n\r\n", file.len()).as_bytes()).unwrap();
    uploading.write_all(first).unwrap();
    let half_open = served.half_open(30);
    assert_eq!(closed_in_the_end(&half_open, 30), 30);
    uploading.write_all(rest).unwrap();
    assert_eq!(crate::server::read_answer(&mut uploading).status, 200);

    // A client that takes an answer slowly gets all of it.
    let mut exporting = connect_to(&served.address);
    let request = "GET /v1/organizations/me/databases/a/export HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    exporting.write_all(request.as_bytes()).unwrap();
    let mut bytes = vec![0; 1 << 20];
    exporting.read_exact(&mut bytes).unwrap();
    thread::sleep(Duration::from_secs(3));
    exporting.read_to_end(&mut bytes).unwrap();
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let exported = served.dir.path().join("exported.db");
    std::fs::write(&exported, &bytes[head..]).unwrap();
    let connection = litefleet::rusqlite::Connection::open(exported).unwrap();
    let rows: u32 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 4_000);
}

#[test]
fn a_client_that_takes_no_answer_is_given_up() {
    let served = Served::new(&limits().write_time(Duration::from_millis(300)));
    let mut stream = connect_to(&served.address);
    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    let request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // The server reads no request while its answers are not taken: this ends when it closes the connection.
    let error = loop {
        match stream.write_all(request) {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    assert!(served.is_healthy());
}

#[test]
fn a_server_stops_while_clients_hold_half_open_connections() {
    let served = Served::new(&limits());
    let streams = served.half_open(30);
    drop(served);
    assert_eq!(closed_in_the_end(&streams, 30), 30);
}
