//! What those see who run the server: its log, its figures, whether it is ready, and its certificate.

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
fn every_answer_has_an_id_and_the_log_tells_it_and_no_secret() {
    let mut server = Server::logging(tempfile::tempdir().unwrap(), &["--log", "debug"]);
    let bearer = format!("Bearer {}", server.token);
    let answer =
        server.send("GET", "/v1/locations", &[("Authorization", &bearer), ("X-Request-Id", "mine-1")], &[]);
    assert!(answer.head.contains("x-request-id: mine-1\r\n"), "{answer:?}");
    // An id that is too long, or that could forge a line of a log, is none.
    for id in ["a b", &"x".repeat(129)] {
        let answer =
            server.send("GET", "/v1/locations", &[("Authorization", &bearer), ("X-Request-Id", id)], &[]);
        assert!(!answer.head.contains(id) && answer.head.contains("x-request-id: "), "{answer:?}");
    }
    let encryption = json!({ "encryption_key": KEY, "encryption_cipher": "aes256gcm" });
    let seed = json!({ "type": "database_upload" });
    let body = json!({ "name": "sealed", "group": "default", "seed": seed, "remote_encryption": encryption });
    server.done("POST", "/databases", &body);
    let headers = [
        ("Authorization", bearer.as_str()),
        ("x-turso-encryption-key", KEY),
        ("x-turso-encryption-cipher", "aes256gcm"),
    ];
    assert_eq!(server.send("POST", "/databases/sealed/v1/upload", &headers, b"no database").status, 400);
    assert_eq!(server.ask("GET", "/databases/nobody", &Value::Null).status, 404);
    let log = server.ended_log();
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
fn the_figures_are_read_with_a_token_that_may_only_look() {
    let server = Server::new();
    server.create("orders");
    assert_eq!(server.ask("GET", "/databases/nobody", &Value::Null).status, 404);
    assert_eq!(server.send("GET", "/metrics", &[], &[]).status, 401);
    let seed = json!({ "type": "database_upload" });
    server.done("POST", "/databases", &json!({ "name": "draft", "group": "default", "seed": seed }));
    let size = json!({ "db_size_bytes": 4096 });
    let start = "/databases/draft/v2/upload/start";
    assert_eq!(server.send_as(&server.token, "PUT", start, &size).status, 200);
    let file = server.root().join(".http/read-only-token");
    let token = std::fs::read_to_string(file).unwrap().trim().to_owned();
    let answer = server.send_as(&token, "GET", "/metrics", &Value::Null);
    assert_eq!(answer.status, 200);
    let route = "/v1/organizations/{organization}/databases";
    for line in [
        format!(r#"litefleet_http_requests_total{{method="POST",route="{route}",status="200"}} 2"#),
        format!(r#"litefleet_http_requests_total{{method="GET",route="{route}/{{name}}",status="404"}} 1"#),
        format!(r#"litefleet_http_request_duration_seconds_count{{method="POST",route="{route}"}} 2"#),
        r#"litefleet_calls_running{load="long"} 0"#.into(),
        r#"litefleet_calls_running{load="upload_in_chunks"} 1"#.into(),
        "litefleet_calls_waiting 0".into(),
    ] {
        assert!(answer.text.lines().any(|known| known == line), "{line} is not in {}", answer.text);
    }
    // Names are no part of it: there are as many as clients like.
    assert!(!answer.text.contains("orders") && !answer.text.contains("nobody"), "{}", answer.text);
    // The token that may only look changes nothing.
    let body = json!({ "name": "more", "group": "default" });
    assert_eq!(server.send_as(&token, "POST", "/v1/organizations/me/databases", &body).status, 403);
}

#[test]
fn a_server_whose_catalog_does_not_answer_is_not_ready() {
    let server = Server::new();
    assert_eq!(server.send("GET", "/ready", &[], &[]).status, 200);
    let catalog = rusqlite::Connection::open(server.root().join("control.db")).unwrap();
    catalog.execute_batch("ALTER TABLE groups RENAME TO gone").unwrap();
    let answer = server.send("GET", "/ready", &[], &[]);
    assert_eq!(answer.status, 500, "{answer:?}");
    assert_eq!(server.send("GET", "/health", &[], &[]).status, 200);
}

#[test]
fn no_client_is_told_where_the_fleet_is() {
    let server = Server::new();
    let seed = json!({ "type": "database_upload" });
    server.done("POST", "/databases", &json!({ "name": "draft", "group": "default", "seed": seed }));
    // Where databases are built there is a file in the way.
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
    let answers = [
        server.ask("POST", "/databases", &json!({ "name": "more", "group": "default" })),
        server.send("POST", "/databases/draft/v1/upload", &authorization, &file),
        if chunk.status == 200 { finalized } else { chunk },
    ];
    for answer in answers {
        assert!(answer.status >= 400 && answer.text.contains(".staging"), "{answer:?}");
        assert!(!answer.text.contains(server.dir.path().to_str().unwrap()), "{answer:?}");
    }
}

/// Writes a new certificate for localhost and its key, and answers with the certificate.
fn certificate(dir: &Path) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    std::fs::write(dir.join("chain.pem"), cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), signing_key.serialize_pem()).unwrap();
    cert.der().clone()
}

/// Asks over TLS whether the server runs, as a client who trusts one certificate.
fn health(address: &str, trusted: &CertificateDer<'static>) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, std::net::TcpStream::connect(address)?);
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_certificate_is_shown_and_read_anew() {
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
    // A certificate that is no good takes nobody's connection away.
    std::fs::write(&chain, "nothing").unwrap();
    hang_up();
    std::thread::sleep(Duration::from_millis(200));
    assert!(health(&server.address, &first).unwrap().starts_with("HTTP/1.1 200"));
    let second = certificate(dir.path());
    hang_up();
    let is_shown = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        health(&server.address, &second).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    });
    assert!(is_shown);
    health(&server.address, &first).unwrap_err();
}

/// What the program writes to standard error while it serves, without `--json`.
fn log(arguments: &[&str], rust_log: Option<&str>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_litefleet"));
    command.env_remove("RUST_LOG").envs(rust_log.map(|value| ("RUST_LOG", value)));
    command.args(["serve", "--listen", "127.0.0.1:0", "--root"]).arg(dir.path().join("root")).args(arguments);
    let mut running =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut told = String::new();
    BufReader::new(running.stdout.as_mut().unwrap()).read_line(&mut told).unwrap();
    let address = told.trim().rsplit_once("://").unwrap().1;
    assert_eq!(crate::server::send_to(address, "GET", "/health", &[], &[]).status, 200);
    assert!(Command::new("kill").args(["-TERM", &running.id().to_string()]).status().unwrap().success());
    let output = running.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_log_in_a_file_is_plain_and_tells_of_start_and_stop() {
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
fn a_server_listens_where_a_person_says() {
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
    for wrong in ["localhost", "8080", "::1:80", "localhost:http", "localhost:99999"] {
        assert!(Server::refused(&["--listen", wrong]).contains("localhost:8080"), "{wrong}");
    }
}

#[test]
fn what_cannot_be_served_makes_no_fleet() {
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path());
    let [chain, key] =
        ["chain.pem", "key.pem"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
    let other = tempfile::tempdir().unwrap();
    certificate(other.path());
    let foreign = other.path().join("key.pem").to_str().unwrap().to_owned();
    for (arguments, sentence) in [
        (vec!["--listen", "0.0.0.0:0", "--no-tokens"], "is not a loopback address"),
        (vec!["--tls-certificate", &key, "--tls-key", &key], "the certificate in"),
        (vec!["--tls-certificate", &chain, "--tls-key", "/nowhere"], "the certificate's key in /nowhere"),
        (vec!["--tls-certificate", &chain, "--tls-key", &foreign], "the certificate in"),
        (vec!["--tls-certificate", &chain], "--tls-key"),
        (vec!["--max-connections", "0"], "0 connections are not possible"),
        (vec!["--max-connections", "9999999999"], "connections are not possible"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let told = Server::refused_in(&dir, &arguments);
        assert!(told.contains(sentence), "{arguments:?}: {told}");
        assert!(!dir.path().join("root").exists(), "{arguments:?}");
    }
}

/// A process that ends with the test, whichever way that ends.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _code = self.0.wait();
    }
}

/// Starts the program with variables in its environment, and returns it with the first line that it prints.
fn served_with(environment: &[(&str, &str)], arguments: &[&str]) -> (Ended, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_litefleet"));
    command.args(["--json", "serve"]).args(arguments).envs(environment.iter().copied());
    let mut running = Ended(command.stdout(std::process::Stdio::piped()).spawn().unwrap());
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
    // A flag takes precedence: this organization is not that of the environment.
    for (flags, organization) in [(&[][..], "acme"), (&["--organization", "me"][..], "me")] {
        let (_running, started) = served_with(&environment, flags);
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

    let mut wrong = Command::new(env!("CARGO_BIN_EXE_litefleet"));
    let output = wrong.arg("serve").env("LITEFLEET_LISTEN", "nowhere").output().unwrap();
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
