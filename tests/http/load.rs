//! Load from many clients, some of them slow or disconnecting: no request fails, and the state matches the responses.
//!
//! `LITEFLEET_SOAK` sets the duration in seconds.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use litefleet::ConnectOptions;
use serde_json::{Value, json};

use crate::{
    server::{API, Server, connect_to},
    uploads::{draft, file, rows, staged},
};

const SECONDS: u64 = 4;
const CLIENTS: usize = 64;

/// Descriptors that the server may keep open after the load: those of pooled connections to the catalog.
const DESCRIPTORS_MAX: usize = 32;

/// How long clients compete for one name.
const RACE: Duration = Duration::from_millis(250);

/// A client with a persistent connection.
struct Client<'a> {
    server: &'a Server,
    stream: BufReader<TcpStream>,
    number: usize,
    random: u64,
    made: u32,
    /// The databases that the server acknowledged creating, and has not acknowledged destroying.
    own: Vec<String>,
    /// The durations of calls, by kind.
    times: BTreeMap<&'static str, Vec<Duration>>,
    /// The races that it took part in, and whether it won.
    races: Vec<(u64, bool)>,
    failures: Vec<String>,
}

impl<'a> Client<'a> {
    fn new(server: &'a Server, number: usize) -> Self {
        let stream = BufReader::new(connect_to(&server.address));
        stream.get_ref().set_nodelay(true).unwrap();
        Self {
            server,
            stream,
            number,
            random: number as u64 + 1,
            made: 0,
            own: Vec::new(),
            times: BTreeMap::new(),
            races: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// A pseudorandom number less than `below`.
    fn random(&mut self, below: usize) -> usize {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.random >> 33).unwrap() % below
    }

    /// Sends a request, and returns the status and body of the response.
    fn request(&mut self, kind: &'static str, method: &str, path: &str, body: &Value) -> (u16, String) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = format!(
            "{method} {API}{path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
            self.server.address,
            self.server.token,
            body.len()
        );
        let started = Instant::now();
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let response = self.read_response();
        self.times.entry(kind).or_default().push(started.elapsed());
        response
    }

    fn read_response(&mut self) -> (u16, String) {
        let (mut status, mut len) = (0, 0);
        loop {
            let mut line = String::new();
            assert!(self.stream.read_line(&mut line).unwrap() > 0, "the server closed the connection");
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(rest) = line.strip_prefix("http/1.1 ") {
                status = rest[..3].parse().unwrap();
            }
            if let Some(rest) = line.strip_prefix("content-length: ") {
                len = rest.parse().unwrap();
            }
        }
        let mut body = vec![0; len];
        self.stream.read_exact(&mut body).unwrap();
        (status, String::from_utf8(body).unwrap())
    }

    /// Sends a request, and records a failure unless it succeeds.
    fn expect_ok(&mut self, kind: &'static str, method: &str, path: &str, body: &Value) -> bool {
        let (status, text) = self.request(kind, method, path, body);
        if status != 200 {
            self.failures.push(format!("{kind} {path}: {status} {text}"));
        }
        status == 200
    }

    fn create(&mut self, kind: &'static str, seed: &Value) {
        self.made += 1;
        let name = format!("c{}-{}", self.number, self.made);
        let body = json!({ "name": name, "group": "default", "seed": seed });
        if self.expect_ok(kind, "POST", "/databases", &body) {
            self.own.push(name);
        }
    }

    fn act(&mut self, started: Instant) {
        match self.random(100) {
            0..30 => self.create("create", &Value::Null),
            30..45 => self.create("fork", &json!({ "type": "database", "name": "source" })),
            45..55 => {
                let path = format!("/databases?limit=50&cursor=c{}", self.number);
                self.expect_ok("list", "GET", &path, &Value::Null);
            }
            55..70 if !self.own.is_empty() => {
                let at = self.random(self.own.len());
                let path = format!("/databases/{}", self.own[at]);
                self.expect_ok("show", "GET", &path, &Value::Null);
            }
            70..95 if !self.own.is_empty() => {
                let at = self.random(self.own.len());
                let path = format!("/databases/{}", self.own[at]);
                if self.expect_ok("destroy", "DELETE", &path, &Value::Null) {
                    self.own.swap_remove(at);
                }
            }
            _ => {
                let race = u64::try_from(started.elapsed().as_millis() / RACE.as_millis()).unwrap();
                if self.races.last().is_some_and(|(last, _)| *last == race) {
                    return;
                }
                let body = json!({ "name": format!("race-{race}"), "group": "default" });
                let (status, text) = self.request("race", "POST", "/databases", &body);
                if ![200, 409].contains(&status) {
                    self.failures.push(format!("race: {status} {text}"));
                }
                self.races.push((race, status == 200));
            }
        }
    }
}

/// Sends a request a byte at a time, or a part of its body and no more, until `ended`.
fn slow(server: &Server, ended: &AtomicBool, text: &str, pause: Duration) {
    while !ended.load(Ordering::Relaxed) {
        let mut stream = connect_to(&server.address);
        for byte in text.as_bytes().chunks(1) {
            if ended.load(Ordering::Relaxed) || stream.write_all(byte).is_err() {
                break;
            }
            std::thread::sleep(pause);
        }
        while !ended.load(Ordering::Relaxed) && pause.is_zero() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Starts uploads and disconnects, alternately in one request and in chunks, until `ended`. Then completes one.
fn abort(server: &Server, ended: &AtomicBool, name: &str, token: &str, bytes: &[u8]) {
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str())];
    let send = |method: &str, path: &str, body: &[u8]| {
        server.send(method, &format!("/databases/{name}/{path}"), &headers, body)
    };
    let break_off = |method: &str, path: &str| {
        let mut stream = connect_to(&server.address);
        let head = format!(
            "{method} /databases/{name}/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nContent-Length: {}\r\n\r\n",
            bytes.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // If the previous upload still removes its files, this one is refused and not read.
        let _may_be_refused = stream.write_all(&bytes[..bytes.len() / 2]);
        std::thread::sleep(Duration::from_millis(20));
    };
    let size = json!({ "db_size_bytes": bytes.len() }).to_string();
    let start =
        || send("PUT", "v2/upload/start", size.as_bytes()).json()["upload_id"].as_str().unwrap().to_owned();
    while !ended.load(Ordering::Relaxed) {
        break_off("POST", "v1/upload");
        let id = start();
        break_off("PUT", &format!("v2/upload/{id}/chunk/0"));
    }
    // The previous upload may still be removing its files.
    let completed = (0..100).any(|_| {
        let id = start();
        let chunk = send("PUT", &format!("v2/upload/{id}/chunk/0"), bytes);
        let done = send("PUT", &format!("v2/upload/{id}/finalize"), b"");
        std::thread::sleep(Duration::from_millis(50));
        chunk.status == 200 && done.status == 200
    });
    assert!(completed, "{name} cannot be completed");
}

/// The resident memory of the server in kilobytes.
fn memory(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}

fn descriptors(server: &Server) -> usize {
    fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count()
}

/// The names of all databases, read page by page.
fn listed(server: &Server) -> BTreeSet<String> {
    let (mut names, mut cursor) = (BTreeSet::new(), String::new());
    loop {
        let page = server.ok("GET", &format!("/databases?limit=500&cursor={cursor}"), &Value::Null);
        for database in page["databases"].as_array().unwrap() {
            assert!(
                names.insert(database["Name"].as_str().unwrap().to_owned()),
                "{database} is listed twice"
            );
        }
        let Some(next) = page["pagination"]["next"].as_str() else { return names };
        next.clone_into(&mut cursor);
    }
}

#[test]
fn state_matches_responses_under_load() {
    let seconds = env::var("LITEFLEET_SOAK").ok().map_or(SECONDS, |seconds| seconds.parse().unwrap());
    let server = Server::new();
    server.create("source");
    let connection = server.plane().connect("source", ConnectOptions::default()).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE t(a); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100)
             INSERT INTO t SELECT hex(randomblob(512)) FROM n",
        )
        .unwrap();
    drop(connection);
    let bytes = file(server.dir.path(), 2_000);
    let drafts: Vec<_> = (0..4).map(|number| format!("draft-{number}")).collect();
    let tokens: Vec<_> = drafts.iter().map(|name| draft(&server, name, &Value::Null)).collect();
    let (descriptors_before, memory_before) = (descriptors(&server), memory(&server));

    let (ended, finished) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let started = Instant::now();
    std::thread::scope(|scope| {
        let (server, ended, finished, bytes) = (&server, &ended, &finished, &bytes);
        for _ in 0..4 {
            scope.spawn(|| {
                slow(
                    server,
                    ended,
                    "GET /health HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\n",
                    Duration::from_secs(1),
                );
            });
            scope.spawn(|| {
                let head = format!(
                    "POST {API}/databases HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 99\r\n\r\n{{\"name\"",
                    server.token
                );
                slow(server, ended, &head, Duration::ZERO);
            });
        }
        for (name, token) in drafts.iter().zip(&tokens) {
            scope.spawn(move || abort(server, ended, name, token, bytes));
        }
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn(move || {
                    let mut client = Client::new(server, number);
                    while started.elapsed() < Duration::from_secs(seconds) {
                        client.act(started);
                    }
                    finished.lock().unwrap().push(client);
                })
            })
            .collect();
        let crashed = clients.into_iter().filter_map(|client| client.join().err()).count();
        ended.store(true, Ordering::Relaxed);
        assert_eq!(crashed, 0, "clients without a response");
    });
    let took = started.elapsed();
    // Checked before another process opens the root and cleans up. An interrupted upload may still be removing its files.
    let left = || (staged(&server), fs::read_dir(server.root().join(".trash")).unwrap().count());
    let _cleared = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        left() == (0, 0)
    });
    assert_eq!(left(), (0, 0), "left in staging and in the trash");
    let clients = finished.into_inner().unwrap();

    let failures: Vec<_> = clients.iter().flat_map(|client| &client.failures).collect();
    assert!(failures.is_empty(), "{} failures: {:#?}", failures.len(), &failures[..failures.len().min(10)]);
    let mut expected: BTreeSet<_> = clients.iter().flat_map(|client| client.own.iter().cloned()).collect();
    expected.insert("source".to_owned());
    expected.extend(drafts.iter().cloned());
    let races: BTreeSet<_> = clients.iter().flat_map(|client| &client.races).map(|(race, _)| *race).collect();
    for race in races {
        let won = clients.iter().filter(|client| client.races.contains(&(race, true))).count();
        assert_eq!(won, 1, "race {race}");
        expected.insert(format!("race-{race}"));
    }
    assert_eq!(listed(&server), expected);
    let in_group = fs::read_dir(server.root().join("default")).unwrap().map(Result::unwrap);
    assert_eq!(in_group.filter(|entry| entry.file_name() != "group.json").count(), expected.len());
    for name in expected.iter().filter(|name| name.starts_with('c')).take(20) {
        server.plane().connect(name, ConnectOptions::default()).unwrap();
    }
    for name in &drafts {
        assert_eq!(rows(&server, name, &ConnectOptions::default()), 2_000);
    }

    report(&clients, took);
    drop(clients);
    // The server closes the connections of its clients.
    let settled = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        descriptors(&server) <= descriptors_before + DESCRIPTORS_MAX
    });
    let (descriptors, memory) = (descriptors(&server), memory(&server));
    eprintln!(
        "{descriptors_before} descriptors before and {descriptors} after, {memory_before} and {memory} kB of memory"
    );
    assert!(settled, "{descriptors_before} descriptors before, {descriptors} after");
    assert!(memory < memory_before + (64 << 10), "{memory_before} kB before, {memory} kB after");
}

fn report(clients: &[Client<'_>], took: Duration) {
    let mut times: BTreeMap<_, Vec<Duration>> = BTreeMap::new();
    for (kind, some) in clients.iter().flat_map(|client| &client.times) {
        times.entry(kind).or_default().extend(some);
    }
    let count = u32::try_from(times.values().map(Vec::len).sum::<usize>()).unwrap();
    eprintln!("{count} calls of {CLIENTS} clients, {:.0} each second", f64::from(count) / took.as_secs_f64());
    for (kind, mut times) in times {
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
        eprintln!(
            "{kind:>8}: {:>6} calls, p50 {:>8.1?}, p99 {:>8.1?}, max {:>8.1?}",
            times.len(),
            at(50),
            at(99),
            times[times.len() - 1]
        );
    }
}
