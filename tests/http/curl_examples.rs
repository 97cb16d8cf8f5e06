//! The curl examples of the Create Database page, run in a shell with host, token and key filled in and no other change.

use std::process::Command;

use litefleet::ConnectOptions;
use serde_json::{Value, json};

use crate::server::Server;

const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

const NEW: &str = r#"curl -L -X POST 'https://api.turso.tech/v1/organizations/{organizationSlug}/databases' \
  -H 'Authorization: Bearer TOKEN' \
  -H 'Content-Type: application/json' \
  -d '{
      "name": "new-database",
      "group": "default"
  }'"#;

const UPLOAD: &str = r#"curl -L -X POST 'https://api.turso.tech/v1/organizations/{organizationSlug}/databases' \
  -H 'Authorization: Bearer TOKEN' \
  -H 'Content-Type: application/json' \
  -d '{
      "name": "new-database",
      "group": "default",
      "seed": {
        "type": "database_upload"
      }
  }'"#;

const ENCRYPTED_UPLOAD: &str = r#"curl -L -X POST 'https://api.turso.tech/v1/organizations/{organizationSlug}/databases' \
  -H 'Authorization: Bearer TOKEN' \
  -H 'Content-Type: application/json' \
  -d '{
      "name": "new-database",
      "group": "default",
      "seed": {
        "type": "database_upload"
      },
      "remote_encryption": {
        "encryption_key": "BASE64_ENCRYPTION_KEY",
        "encryption_cipher": "aes256gcm"
      }
  }'"#;

const ENCRYPTED: &str = r#"curl -L -X POST 'https://api.turso.tech/v1/organizations/{organizationSlug}/databases' \
  -H 'Authorization: Bearer TOKEN' \
  -H 'Content-Type: application/json' \
  -d '{
      "name": "new-database",
      "group": "default",
      "remote_encryption": {
        "encryption_key": "BASE64_ENCRYPTION_KEY",
        "encryption_cipher": "aes256gcm"
      }
  }'"#;

const ENCRYPTED_FORK: &str = r#"curl -L -X POST 'https://api.turso.tech/v1/organizations/{organizationSlug}/databases' \
  -H 'Authorization: Bearer TOKEN' \
  -H 'Content-Type: application/json' \
  -d '{
      "name": "new-database",
      "group": "default",
      "seed": {
        "type": "database",
        "name": "source-encrypted-db"
      },
      "remote_encryption": {
        "encryption_key": "BASE64_ENCRYPTION_KEY",
        "encryption_cipher": "aes256gcm"
      }
  }'"#;

/// Runs an example in a shell, and parses its output.
fn paste(server: &Server, example: &str) -> Value {
    let example = example
        .replace("https://api.turso.tech", &format!("http://{}", server.address))
        .replace("TOKEN", &server.token)
        .replace("BASE64_ENCRYPTION_KEY", KEY);
    let output = Command::new("sh").args(["-c", &example]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Uploads a file to the host name of the draft, as in the example of the page on uploads.
fn upload(server: &Server, headers: &str) {
    let file = server.dir.path().join("mine.db");
    if !file.exists() {
        let mine = litefleet::rusqlite::Connection::open(&file).unwrap();
        mine.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES ('mine')").unwrap();
    }
    let token = server.token_of("new-database", "");
    let port = server.address.rsplit(':').next().unwrap();
    let example = format!(
        "curl --fail-with-body -sS -X POST 'http://new-database.localhost:{port}/v1/upload' \
           --resolve new-database.localhost:{port}:127.0.0.1 \
           -H 'Authorization: Bearer {token}' {headers} --data-binary @'{}'",
        file.display(),
    );
    let output = Command::new("sh").args(["-c", &example]).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
}

/// Reads the only row of the database, with its key or without.
fn row(server: &Server, key: bool) -> litefleet::Result<String> {
    let mut options = ConnectOptions::default();
    if key {
        options = options.encryption_key(litefleet::EncryptionKey::from_base64(KEY).unwrap());
    }
    let database = server.plane().connect("new-database", options.clone())?;
    Ok(database.query_row("SELECT a FROM t", [], |row| row.get(0)).unwrap())
}

#[test]
#[ignore = "needs curl"]
fn curl_examples_of_the_page_work() {
    let server = Server::new();
    let create = |example| {
        let created = paste(&server, example);
        assert_eq!(created["database"]["Name"], "new-database", "{created}");
        let message = "database with name new-database already exists";
        assert_eq!(paste(&server, example)["error"], message);
    };
    let destroy = || server.ok("DELETE", "/databases/new-database", &Value::Null);

    create(NEW);
    destroy();
    create(UPLOAD);
    upload(&server, "");
    assert_eq!(row(&server, false).unwrap(), "mine");
    destroy();
    let key_headers = format!("-H 'x-turso-encryption-key: {KEY}' -H 'x-turso-encryption-cipher: aes256gcm'");
    create(ENCRYPTED_UPLOAD);
    upload(&server, &key_headers);
    assert_eq!(row(&server, true).unwrap(), "mine");
    row(&server, false).unwrap_err();
    destroy();
    create(ENCRYPTED);
    let shown = server.ok("GET", "/databases/new-database", &Value::Null);
    assert_eq!(shown["database"]["encryption_cipher"], "aes256gcm");
    destroy();

    // The source that the last example names.
    let encryption = json!({ "encryption_key": KEY, "encryption_cipher": "aes256gcm" });
    let source =
        json!({ "name": "source-encrypted-db", "group": "default", "remote_encryption": encryption });
    server.ok("POST", "/databases", &source);
    let key = litefleet::EncryptionKey::from_base64(KEY).unwrap();
    let options = ConnectOptions::default().encryption_key(key);
    let database = server.plane().connect("source-encrypted-db", options.clone()).unwrap();
    database.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES ('forked')").unwrap();
    create(ENCRYPTED_FORK);
    assert_eq!(row(&server, true).unwrap(), "forked");
}
