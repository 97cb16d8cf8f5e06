//! `litefleet serve` in a directory of its own, and requests to it, byte by byte as a client sends them.

use std::{
    fmt::Write as _,
    fs::OpenOptions,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use litefleet::ControlPlane;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const API: &str = "/v1/organizations/me";

/// The file beside the root that a server logs to.
const LOG: &str = "log";

pub(crate) struct Server {
    running: Child,
    pub(crate) address: String,
    pub(crate) token: String,
    pub(crate) dir: TempDir,
}

/// What a request is answered with.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The status and the sentence of a failure.
    pub(crate) fn error(&self) -> (u16, String) {
        (self.status, self.json()["error"].as_str().unwrap().to_owned())
    }
}

fn command(dir: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_litefleet"));
    command.env_remove("RUST_LOG");
    command.args(["--json", "serve", "--root"]).arg(dir.path().join("root")).args(arguments);
    command
}

impl Server {
    pub(crate) fn new() -> Self {
        Self::start(tempfile::tempdir().unwrap(), &[])
    }

    pub(crate) fn start(dir: TempDir, arguments: &[&str]) -> Self {
        // What it logs is shown if the test fails.
        let log = OpenOptions::new().append(true).create(true).open(dir.path().join(LOG)).unwrap();
        Self::started(dir, arguments, log.into())
    }

    /// One whose log is kept, for [`Server::ended_log`].
    pub(crate) fn logging(dir: TempDir, arguments: &[&str]) -> Self {
        Self::started(dir, arguments, Stdio::piped())
    }

    fn started(dir: TempDir, arguments: &[&str], log: Stdio) -> Self {
        let listen: &[_] = if arguments.contains(&"--listen") { &[] } else { &["--listen", "127.0.0.1:0"] };
        let mut running =
            command(&dir, listen).args(arguments).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(running.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let started: Value = serde_json::from_str(&line).unwrap();
        let (_, address) = started["url"].as_str().unwrap().split_once("://").unwrap();
        let address = address.to_owned();
        let token = started["token_file"].as_str().map(|file| std::fs::read_to_string(file).unwrap());
        Self { running, address, token: token.unwrap_or_default().trim().to_owned(), dir }
    }

    /// Another server of the same fleet, which is gone before this one.
    pub(crate) fn second(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(self.root(), dir.path().join("root")).unwrap();
        Self::start(dir, &[])
    }

    /// Waits until it serves: it says where it does before that.
    pub(crate) fn is_up(&self) -> bool {
        self.send("GET", "/health", &[], b"").status == 200
    }

    /// What a server says that does not start.
    pub(crate) fn refused(arguments: &[&str]) -> String {
        Self::refused_in(&tempfile::tempdir().unwrap(), arguments)
    }

    pub(crate) fn refused_in(dir: &TempDir, arguments: &[&str]) -> String {
        let output = command(dir, arguments).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn plane(&self) -> ControlPlane {
        ControlPlane::open(self.root()).unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.id()
    }

    /// Asks the server to end, and waits until it has.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.running.wait().unwrap()
    }

    /// Ends the server, and answers with what it told on standard error.
    pub(crate) fn ended_log(&mut self) -> String {
        assert!(self.end().success());
        let mut log = String::new();
        self.running.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        log
    }

    /// Kills the server, and starts it anew.
    pub(crate) fn killed_and_started(mut self) -> Self {
        self.running.kill().unwrap();
        self.running.wait().unwrap();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        Self::start(dir, &[])
    }

    pub(crate) fn connect(&self) -> TcpStream {
        connect_to(&self.address)
    }

    /// Sends a request with headers of the caller's own, none of which is added but the length.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        send_to(&self.address, method, path, headers, body)
    }

    /// Sends a request with a token.
    pub(crate) fn send_as(&self, token: &str, method: &str, path: &str, body: &Value) -> Answer {
        let bearer = format!("Bearer {token}");
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.send(method, path, &[("Authorization", &bearer), ("Content-Type", "application/json")], &body)
    }

    /// Sends a request of the organization, below its path.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.send_as(&self.token, method, &format!("{API}{path}"), body)
    }

    /// The answer to a request that must succeed.
    pub(crate) fn done(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.ask(method, path, body);
        assert_eq!(answer.status, 200, "{method} {path}: {answer:?}");
        answer.json()
    }

    pub(crate) fn create(&self, name: &str) {
        self.done("POST", "/databases", &json!({ "name": name, "group": "default" }));
    }

    /// A token of a database.
    pub(crate) fn token_of(&self, name: &str, parameters: &str) -> String {
        let minted = self.done("POST", &format!("/databases/{name}/auth/tokens?{parameters}"), &Value::Null);
        minted["jwt"].as_str().unwrap().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone_already = self.running.kill();
        let _waited_for = self.running.wait();
        if std::thread::panicking() {
            eprint!("{}", std::fs::read_to_string(self.dir.path().join(LOG)).unwrap_or_default());
        }
    }
}

pub(crate) fn connect_to(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

pub(crate) fn send_to(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut stream = connect_to(address);
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| *name == "Host") {
        write!(head, "Host: {address}\r\n").unwrap();
    }
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    stream.write_all((head + "\r\n").as_bytes()).unwrap();
    // A server that refuses a body does not read it.
    let _may_be_refused = stream.write_all(body);
    read_answer(&mut stream)
}

/// Reads one answer up to the end of the connection. No failure names a path of the server, whose files are in the directory
/// for temporary files.
pub(crate) fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    // A connection that is reset after the answer came has still brought it.
    let _until_here = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let is_failure = status >= 400;
    assert!(!is_failure || !body.contains(std::env::temp_dir().to_str().unwrap()), "{body}");
    Answer { status, head: head.to_ascii_lowercase(), text: body.to_owned() }
}
