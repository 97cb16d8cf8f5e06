//! Runs `litefleet serve` in a temporary directory, and sends requests over TCP.

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

/// The name of the log file, beside the root.
const LOG: &str = "log";

pub(crate) struct Server {
    running: Child,
    pub(crate) address: String,
    pub(crate) token: String,
    pub(crate) dir: TempDir,
}

/// A response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) text: String,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The status and message of an error response.
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
        // The log is printed if the test fails.
        let log = OpenOptions::new().append(true).create(true).open(dir.path().join(LOG)).unwrap();
        Self::started(dir, arguments, log.into())
    }

    /// Starts a server whose log [`Server::stop_and_read_log`] returns.
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

    /// Starts a second server of the fleet, which must be dropped before this one.
    pub(crate) fn second(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(self.root(), dir.path().join("root")).unwrap();
        Self::start(dir, &[])
    }

    /// Whether the server responds. It prints its address before it accepts connections.
    pub(crate) fn is_up(&self) -> bool {
        self.send("GET", "/health", &[], b"").status == 200
    }

    /// The standard error of a server that fails to start.
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

    /// Stops the server with SIGTERM, and waits for it.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.running.wait().unwrap()
    }

    /// Stops the server, and returns its standard error.
    pub(crate) fn stop_and_read_log(&mut self) -> String {
        assert!(self.stop().success());
        let mut log = String::new();
        self.running.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        log
    }

    /// Kills the server and starts another in the same directory.
    pub(crate) fn kill_and_restart(mut self) -> Self {
        self.running.kill().unwrap();
        self.running.wait().unwrap();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        Self::start(dir, &[])
    }

    pub(crate) fn connect(&self) -> TcpStream {
        connect_to(&self.address)
    }

    /// Sends a request without a token.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        send_to(&self.address, method, path, headers, body)
    }

    /// Sends a JSON request with a token.
    pub(crate) fn send_as(&self, token: &str, method: &str, path: &str, body: &Value) -> Response {
        let bearer = format!("Bearer {token}");
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.send(method, path, &[("Authorization", &bearer), ("Content-Type", "application/json")], &body)
    }

    /// Sends a JSON request to a path below the organization.
    pub(crate) fn request(&self, method: &str, path: &str, body: &Value) -> Response {
        self.send_as(&self.token, method, &format!("{API}{path}"), body)
    }

    /// Sends a request that must succeed, and returns its response.
    pub(crate) fn ok(&self, method: &str, path: &str, body: &Value) -> Value {
        let response = self.request(method, path, body);
        assert_eq!(response.status, 200, "{method} {path}: {response:?}");
        response.json()
    }

    pub(crate) fn create(&self, name: &str) {
        self.ok("POST", "/databases", &json!({ "name": name, "group": "default" }));
    }

    /// Mints a token of a database.
    pub(crate) fn token_of(&self, name: &str, parameters: &str) -> String {
        let minted = self.ok("POST", &format!("/databases/{name}/auth/tokens?{parameters}"), &Value::Null);
        minted["jwt"].as_str().unwrap().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _may_have_ended = self.running.kill();
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
) -> Response {
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
    // A server that refuses a body may close the connection before it has read it.
    let _may_be_refused = stream.write_all(body);
    read_response(&mut stream)
}

/// Reads a response up to the end of the connection. Checks that an error contains no path of the server, whose files are in the
/// directory for temporary files.
pub(crate) fn read_response(stream: &mut TcpStream) -> Response {
    let mut bytes = Vec::new();
    // A connection may be reset after the response has arrived.
    let _may_be_reset = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let is_error = status >= 400;
    assert!(!is_error || !body.contains(std::env::temp_dir().to_str().unwrap()), "{body}");
    Response { status, head: head.to_ascii_lowercase(), text: body.to_owned() }
}
