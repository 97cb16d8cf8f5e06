//! Operating the server: log, metrics, readiness, certificate, addresses and startup errors.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};

use litefleet::rusqlite;
use rcgen::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName},
};
use serde_json::{Value, json};

use crate::server::Server;

const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

#[test]
fn log_has_request_ids_and_no_secrets() {
    let mut server = Server::logging(tempfile::tempdir().unwrap(), &["--log", "debug"]);
    let bearer = format!("Bearer {}", server.token);
    let response =
        server.send("GET", "/v1/locations", &[("Authorization", &bearer), ("X-Request-Id", "mine-1")], &[]);
    assert!(response.head.contains("x-request-id: mine-1\r\n"), "{response:?}");
    // An id that is too long, or could forge a line of the log, is replaced.
    for id in ["a b", &"x".repeat(129)] {
        let response =
            server.send("GET", "/v1/locations", &[("Authorization", &bearer), ("X-Request-Id", id)], &[]);
        assert!(!response.head.contains(id) && response.head.contains("x-request-id: "), "{response:?}");
    }
    let encryption = json!({ "encryption_key": KEY, "encryption_cipher": "aes256gcm" });
    let seed = json!({ "type": "database_upload" });
    let body = json!({ "name": "sealed", "group": "default", "seed": seed, "remote_encryption": encryption });
    server.ok("POST", "/databases", &body);
    let headers = [
        ("Authorization", bearer.as_str()),
        ("x-turso-encryption-key", KEY),
        ("x-turso-encryption-cipher", "aes256gcm"),
    ];
    assert_eq!(server.send("POST", "/databases/sealed/v1/upload", &headers, b"no database").status, 400);
    assert_eq!(server.request("GET", "/databases/nobody", &Value::Null).status, 404);
    let log = server.stop_and_read_log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let line = lines.iter().find(|line| line["span"]["id"] == "mine-1").unwrap();
    assert_eq!((&line["span"]["path"], &line["fields"]["status"]), (&json!("/v1/locations"), &json!(200)));
    let refused = lines.iter().find(|line| line["fields"]["status"] == 404).unwrap();
    assert!(refused["fields"]["error"].as_str().unwrap().contains("nobody"), "{refused}");
    assert!(lines.iter().any(|line| line["span"]["path"] == "/databases/sealed/v1/upload"), "{log}");
    for secret in [KEY, &server.token] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn metrics_are_readable_with_a_read_only_token() {
    let server = Server::new();
    server.create("orders");
    assert_eq!(server.request("GET", "/databases/nobody", &Value::Null).status, 404);
    assert_eq!(server.send("GET", "/metrics", &[], &[]).status, 401);
    let seed = json!({ "type": "database_upload" });
    server.ok("POST", "/databases", &json!({ "name": "draft", "group": "default", "seed": seed }));
    let size = json!({ "db_size_bytes": 4096 });
    let start = "/databases/draft/v2/upload/start";
    assert_eq!(server.send_as(&server.token, "PUT", start, &size).status, 200);
    let file = server.root().join(".http/read-only-token");
    let token = std::fs::read_to_string(file).unwrap().trim().to_owned();
    let response = server.send_as(&token, "GET", "/metrics", &Value::Null);
    assert_eq!(response.status, 200);
    let route = "/v1/organizations/{organization}/databases";
    for line in [
        format!(r#"litefleet_http_requests_total{{method="POST",route="{route}",status="200"}} 2"#),
        format!(r#"litefleet_http_requests_total{{method="GET",route="{route}/{{name}}",status="404"}} 1"#),
        format!(r#"litefleet_http_request_duration_seconds_count{{method="POST",route="{route}"}} 2"#),
        r#"litefleet_calls_running{load="long"} 0"#.into(),
        r#"litefleet_calls_running{load="upload_in_chunks"} 1"#.into(),
        "litefleet_calls_waiting 0".into(),
    ] {
        assert!(response.text.lines().any(|known| known == line), "{line} is not in {}", response.text);
    }
    // Labels contain no names, whose number is unbounded.
    assert!(!response.text.contains("orders") && !response.text.contains("nobody"), "{}", response.text);
    // The read-only token does not authorize changes.
    let body = json!({ "name": "more", "group": "default" });
    assert_eq!(server.send_as(&token, "POST", "/v1/organizations/me/databases", &body).status, 403);
}

#[test]
fn server_with_unreadable_catalog_is_not_ready() {
    let server = Server::new();
    assert_eq!(server.send("GET", "/ready", &[], &[]).status, 200);
    let catalog = rusqlite::Connection::open(server.root().join("control.db")).unwrap();
    // Otherwise SQLite checks the views too, one of which fails on purpose.
    catalog.execute_batch("PRAGMA legacy_alter_table = ON; ALTER TABLE groups RENAME TO gone").unwrap();
    let response = server.send("GET", "/ready", &[], &[]);
    assert_eq!(response.status, 500, "{response:?}");
    assert_eq!(server.send("GET", "/health", &[], &[]).status, 200);
}

#[test]
fn errors_of_writes_contain_no_absolute_path() {
    let server = Server::new();
    let seed = json!({ "type": "database_upload" });
    server.ok("POST", "/databases", &json!({ "name": "draft", "group": "default", "seed": seed }));
    // A file in place of the staging directory makes every write fail.
    let staging = server.root().join(".staging");
    std::fs::remove_dir(&staging).unwrap();
    std::fs::write(&staging, "").unwrap();
    let file = vec![0; 512];
    let bearer = format!("Bearer {}", server.token);
    let authorization = [("Authorization", bearer.as_str())];
    let upload = "/databases/draft/v2/upload";
    let started =
        server.send_as(&server.token, "PUT", &format!("{upload}/start"), &json!({ "db_size_bytes": 512 }));
    let id = started.json()["upload_id"].as_str().unwrap().to_owned();
    let chunk = server.send("PUT", &format!("{upload}/{id}/chunk/0"), &authorization, &file);
    let finalized = server.send("PUT", &format!("{upload}/{id}/finalize"), &authorization, &[]);
    let responses = [
        server.request("POST", "/databases", &json!({ "name": "more", "group": "default" })),
        server.send("POST", "/databases/draft/v1/upload", &authorization, &file),
        if chunk.status == 200 { finalized } else { chunk },
    ];
    for response in responses {
        assert!(response.status >= 400 && response.text.contains(".staging"), "{response:?}");
        assert!(!response.text.contains(server.dir.path().to_str().unwrap()), "{response:?}");
    }
}

/// Writes a new certificate for localhost and its key, and returns the certificate.
fn certificate(dir: &Path) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    std::fs::write(dir.join("chain.pem"), cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), signing_key.serialize_pem()).unwrap();
    cert.der().clone()
}

/// Requests `/health` over TLS, as a client that trusts one certificate.
fn health(address: &str, trusted: &CertificateDer<'static>) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, std::net::TcpStream::connect(address)?);
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

#[test]
fn certificate_is_reloaded_on_sighup() {
    let dir = tempfile::tempdir().unwrap();
    let first = certificate(dir.path());
    let [chain, key] =
        ["chain.pem", "key.pem"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
    let arguments = ["--tls-certificate", &chain, "--tls-key", &key];
    let server = Server::start(tempfile::tempdir().unwrap(), &arguments);
    assert!(health(&server.address, &first).unwrap().starts_with("HTTP/1.1 200"));
    let hang_up = || {
        let pid = server.pid().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    };
    // An invalid certificate does not replace the previous one.
    std::fs::write(&chain, "nothing").unwrap();
    hang_up();
    std::thread::sleep(Duration::from_millis(200));
    assert!(health(&server.address, &first).unwrap().starts_with("HTTP/1.1 200"));
    let second = certificate(dir.path());
    hang_up();
    let is_reloaded = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        health(&server.address, &second).is_ok_and(|response| response.starts_with("HTTP/1.1 200"))
    });
    assert!(is_reloaded);
    health(&server.address, &first).unwrap_err();
}

/// Starts and stops a server without `--json`, and returns its standard error.
fn log(arguments: &[&str], rust_log: Option<&str>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_litefleet"));
    command.env_remove("RUST_LOG").envs(rust_log.map(|value| ("RUST_LOG", value)));
    command.args(["serve", "--listen", "127.0.0.1:0", "--root"]).arg(dir.path().join("root")).args(arguments);
    let mut running =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(running.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().rsplit_once("://").unwrap().1;
    assert_eq!(crate::server::send_to(address, "GET", "/health", &[], &[]).status, 200);
    assert!(Command::new("kill").args(["-TERM", &running.id().to_string()]).status().unwrap().success());
    let output = running.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn log_records_start_and_stop_without_colors() {
    for log in [log(&["--log", "info"], None), log(&[], Some("info")), log(&["--log", "info"], Some("off"))] {
        assert!(!log.contains('\x1b'), "{log:?}");
        for event in ["the server has started", "done", "the server is stopping", "the server has stopped"] {
            assert_eq!(log.matches(event).count(), 1, "{event}: {log}");
        }
    }
    for log in [log(&[], None), log(&["--log", "error"], Some("info")), log(&[], Some("other=debug"))] {
        assert_eq!(log, "");
    }
    let mut refused = Command::new(env!("CARGO_BIN_EXE_litefleet"));
    let output = refused.env("RUST_LOG", "litefleet=loud").arg("serve").output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("RUST_LOG"), "{output:?}");
}

#[test]
fn listen_accepts_host_names_and_ports() {
    let has_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    let ipv6 = has_ipv6.then_some(("[::1]:0", "::1"));
    for (listen, host) in [("localhost:0", "127.0.0.1"), (":0", "127.0.0.1")].into_iter().chain(ipv6) {
        let server = Server::start(tempfile::tempdir().unwrap(), &["--listen", listen]);
        let (_, port) = server.address.rsplit_once(':').unwrap();
        let address = std::net::SocketAddr::new(host.parse().unwrap(), port.parse().unwrap());
        assert_eq!(
            crate::server::send_to(&address.to_string(), "GET", "/health", &[], &[]).status,
            200,
            "{listen}"
        );
    }
    for invalid in ["localhost", "8080", "::1:80", "localhost:http", "localhost:99999"] {
        assert!(Server::refused(&["--listen", invalid]).contains("localhost:8080"), "{invalid}");
    }
}

#[test]
fn invalid_flags_of_serve_create_no_fleet() {
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path());
    let [chain, key] =
        ["chain.pem", "key.pem"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
    let other = tempfile::tempdir().unwrap();
    certificate(other.path());
    let foreign = other.path().join("key.pem").to_str().unwrap().to_owned();
    for (arguments, message) in [
        (vec!["--listen", "0.0.0.0:0", "--no-tokens"], "is not a loopback address"),
        (vec!["--tls-certificate", &key, "--tls-key", &key], "invalid certificate"),
        (vec!["--tls-certificate", &chain, "--tls-key", "/nowhere"], "invalid private key /nowhere"),
        (vec!["--tls-certificate", &chain, "--tls-key", &foreign], "invalid certificate"),
        (vec!["--tls-certificate", &chain], "--tls-key"),
        (vec!["--max-connections", "0"], "invalid connection limit 0"),
        (vec!["--max-connections", "9999999999"], "invalid connection limit 9999999999"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let error = Server::refused_in(&dir, &arguments);
        assert!(error.contains(message), "{arguments:?}: {error}");
        assert!(!dir.path().join("root").exists(), "{arguments:?}");
    }
}

/// A process that is killed when the test ends.
struct KillOnDrop(std::process::Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _may_have_ended = self.0.kill();
        let _status = self.0.wait();
    }
}

/// Starts a server with variables in its environment, and returns the first line that it prints.
fn serve_with_environment(environment: &[(&str, &str)], arguments: &[&str]) -> (KillOnDrop, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_litefleet"));
    command.args(["--json", "serve"]).args(arguments).envs(environment.iter().copied());
    let mut running = KillOnDrop(command.stdout(std::process::Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(running.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (running, serde_json::from_str(&line).unwrap())
}

#[test]
fn serve_reads_its_flags_from_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root").to_str().unwrap().to_owned();
    let environment = [
        ("LITEFLEET_ROOT", root.as_str()),
        ("LITEFLEET_LISTEN", "127.0.0.1:0"),
        ("LITEFLEET_DOMAIN", "example.com"),
        ("LITEFLEET_ORGANIZATION", "acme"),
        ("LITEFLEET_NO_TOKENS", "true"),
        ("LITEFLEET_MAINTAIN_EVERY", "0"),
        ("LITEFLEET_MAX_CONNECTIONS", "20"),
        ("LITEFLEET_MAX_CONNECTIONS_PER_PEER", "10"),
        ("LITEFLEET_LOG", "off"),
    ];
    // A flag takes precedence over its variable.
    for (flags, organization) in [(&[][..], "acme"), (&["--organization", "me"][..], "me")] {
        let (_running, started) = serve_with_environment(&environment, flags);
        assert!(started["token_file"].is_null(), "{started}");
        let (_, address) = started["url"].as_str().unwrap().split_once("://").unwrap();
        let host = ("Host", "localhost");
        let status = |organization: &str| {
            let path = format!("/v1/organizations/{organization}/groups");
            crate::server::send_to(address, "GET", &path, &[host], &[]).status
        };
        assert_eq!((status(organization), status("other")), (200, 403), "{flags:?}");
        let path = format!("/v1/organizations/{organization}/databases");
        let body = br#"{"name": "a", "group": "default"}"#;
        let headers = [host, ("Content-Type", "application/json")];
        let created = crate::server::send_to(address, "POST", &path, &headers, body);
        assert!(created.status != 200 || created.text.contains("a.example.com"), "{created:?}");
    }

    let mut invalid = Command::new(env!("CARGO_BIN_EXE_litefleet"));
    let output = invalid.arg("serve").env("LITEFLEET_LISTEN", "nowhere").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--listen"), "{output:?}");
}

#[test]
fn help_names_the_variables_without_their_values() {
    let mut help = Command::new(env!("CARGO_BIN_EXE_litefleet"));
    let output = help.args(["serve", "--help"]).env("LITEFLEET_TLS_KEY", "/a/secret/place").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for flag in [
        "LISTEN",
        "DOMAIN",
        "ORGANIZATION",
        "NO_TOKENS",
        "TLS_CERTIFICATE",
        "TLS_KEY",
        "MAINTAIN_EVERY",
        "MAX_CONNECTIONS",
        "MAX_CONNECTIONS_PER_PEER",
        "LOG",
        "ROOT",
    ] {
        assert!(help.contains(&format!("LITEFLEET_{flag}]")), "{flag}: {help}");
    }
    assert!(!help.contains("secret"), "{help}");
}
