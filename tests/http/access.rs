//! Tokens: their scope, access level, expiration and revocation.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use serde_json::{Value, json};

use crate::server::{API, Server};

#[test]
fn request_without_valid_token_is_answered_401() {
    let (server, other) = (Server::new(), Server::new());
    let list = format!("{API}/databases");
    let refused = |headers: &[(&str, &str)]| server.send("GET", &list, headers, b"").error();
    let anonymous = server.send("GET", &list, &[], b"");
    assert_eq!(anonymous.status, 401);
    assert!(anonymous.head.contains("www-authenticate: bearer"), "{anonymous:?}");
    assert_eq!(
        refused(&[("Authorization", "Bearer garbage")]),
        (401, "token contains an invalid number of segments".into())
    );
    for token in [other.token.clone(), unsigned(&server.token), tampered(&server.token)] {
        let bearer = format!("Bearer {token}");
        assert_eq!(
            refused(&[("Authorization", &bearer)]),
            (401, "token was not issued by this server".into()),
            "{token}"
        );
    }
    for path in ["/groups", "/databases/x", "/databases/x/points", "/groups/default/configuration"] {
        assert_eq!(server.send("GET", &format!("{API}{path}"), &[], b"").status, 401, "{path}");
    }
    assert_eq!(server.send("POST", "/databases/x/v1/upload", &[], b"SQLite").status, 401);
    assert_eq!(server.send("GET", "/health", &[], b"").status, 200);
}

/// The claims of a token under the algorithm `none`, which needs no signature.
fn unsigned(token: &str) -> String {
    let claims = token.split('.').nth(1).unwrap();
    // {"typ":"JWT","alg":"none"}
    format!("eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0.{claims}.")
}

fn tampered(token: &str) -> String {
    let (rest, signature) = token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    format!("{rest}.{first}{}", &signature[1..])
}

#[test]
fn database_token_is_valid_for_its_database_until_it_expires_or_is_revoked() {
    let server = Server::new();
    for name in ["a", "b"] {
        server.create(name);
    }
    let points = |token: &str, name: &str| {
        server.send_as(token, "GET", &format!("{API}/databases/{name}/points"), &Value::Null).status
    };
    let restore = |token: &str| {
        let body = json!({ "timestamp": "2020-01-01T00:00:00Z" });
        server.send_as(token, "POST", &format!("{API}/databases/a/restore"), &body).status
    };
    let token = server.token_of("a", "expiration=2w1d30m&authorization=full-access");
    assert_eq!((points(&token, "a"), points(&token, "b"), restore(&token)), (200, 401, 400));
    let read_only = server.token_of("a", "authorization=read-only");
    assert_eq!((points(&read_only, "a"), restore(&read_only)), (200, 403));
    // It does not authorize management of the organization.
    let managed = server.send_as(&token, "GET", &format!("{API}/databases"), &Value::Null);
    assert!(managed.error().1.starts_with("could not parse jwt id"));
    assert_eq!(managed.status, 401);

    let group =
        server.ok("POST", "/groups/default/auth/tokens", &Value::Null)["jwt"].as_str().unwrap().to_owned();
    assert_eq!((points(&group, "a"), points(&group, "b")), (200, 200));

    let short = server.token_of("a", "expiration=1s");
    std::thread::sleep(Duration::from_millis(2_100));
    assert_eq!(points(&short, "a"), 401);
    assert_eq!(
        server.request("POST", "/databases/a/auth/tokens?expiration=soon", &Value::Null).error(),
        (400, "Invalid expiration format".into())
    );
    assert_eq!(
        server.request("POST", "/databases/a/auth/tokens?authorization=all", &Value::Null).status,
        400
    );

    assert_eq!(server.ok("POST", "/databases/a/auth/rotate", &Value::Null), json!({}));
    assert_eq!((points(&token, "a"), points(&read_only, "a"), points(&group, "a")), (401, 401, 200));
    assert_eq!(points(&server.token_of("a", ""), "a"), 200);
    // A new database with the name of a destroyed one does not accept its tokens.
    let token = server.token_of("b", "");
    server.ok("DELETE", "/databases/b", &Value::Null);
    server.create("b");
    assert_eq!(points(&token, "b"), 401);
}

#[test]
fn group_token_stays_valid_when_the_group_is_renamed() {
    let server = Server::new();
    server.create("a");
    let token_of = |group: &str| {
        let minted = server.ok("POST", &format!("/groups/{group}/auth/tokens"), &Value::Null);
        minted["jwt"].as_str().unwrap().to_owned()
    };
    let points = |token: &str, name: &str| {
        server.send_as(token, "GET", &format!("{API}/databases/{name}/points"), &Value::Null).status
    };
    let (first, of_database) = (token_of("default"), server.token_of("a", ""));
    // A group token does not authorize renaming the group.
    let rename = format!("{API}/groups/default/rename");
    assert_eq!(server.send_as(&first, "POST", &rename, &json!({ "name": "eu" })).status, 401);
    server.ok("POST", "/groups/default/rename", &json!({ "name": "eu" }));
    server.ok("POST", "/groups", &json!({ "name": "default", "location": "local" }));
    server.create("b");
    let second = token_of("default");
    assert_eq!((points(&first, "a"), points(&first, "b")), (200, 401));
    assert_eq!((points(&second, "a"), points(&second, "b")), (401, 200));
    assert_eq!(points(&of_database, "a"), 200);
    server.ok("POST", "/groups/default/auth/rotate", &Value::Null);
    assert_eq!((points(&first, "a"), points(&second, "b")), (200, 401));
    server.ok("POST", "/groups/eu/auth/rotate", &Value::Null);
    assert_eq!((points(&first, "a"), points(&token_of("eu"), "a")), (401, 200));
}

#[test]
fn servers_that_start_concurrently_share_one_token() {
    const SERVERS: usize = 4;
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let plane = litefleet::ControlPlane::open(dir.path()).unwrap();
        let start = std::sync::Barrier::new(SERVERS);
        let token = || {
            start.wait();
            let api = litefleet::http::HttpApi::new(plane.clone());
            let file = api.organization_token_file().unwrap().unwrap();
            std::fs::read_to_string(file).unwrap()
        };
        let tokens: Vec<_> = std::thread::scope(|scope| {
            let running: Vec<_> = (0..SERVERS).map(|_| scope.spawn(token)).collect();
            running.into_iter().map(|server| server.join().unwrap()).collect()
        });
        assert!(tokens.iter().all(|token| *token == tokens[0] && token.len() > 100), "{tokens:?}");
        let names = std::fs::read_dir(dir.path().join(".http")).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.iter().all(|name| !name.contains(".new")), "{names:?}");
    }
}

#[test]
fn organization_token_is_private_and_survives_restart() {
    let server = Server::new();
    let dir = server.root().join(".http");
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for file in std::fs::read_dir(&dir).unwrap() {
        let path = file.unwrap().path();
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&path), expected, "{}", path.display());
    }
    let token = server.token.clone();
    let server = server.kill_and_restart();
    assert_eq!(server.token, token);
    server.ok("GET", "/databases", &Value::Null);
}

#[test]
fn server_without_tokens_accepts_only_loopback_and_its_own_origin() {
    let refused = Server::refused(&["--no-tokens", "--listen", "0.0.0.0:0"]);
    assert!(refused.contains("not a loopback address"), "{refused}");
    let server = Server::start(tempfile::tempdir().unwrap(), &["--no-tokens", "--organization", "us"]);
    let create = |origin: &str| {
        let body = br#"{"name": "a", "group": "default"}"#;
        server.send("POST", "/v1/organizations/us/databases", &[("Origin", origin)], body).status
    };
    assert_eq!(create("https://elsewhere.example"), 403);
    assert_eq!(create("null"), 403);
    assert_eq!(create(&format!("http://{}", server.address)), 200);
    assert_eq!(server.send("GET", "/v1/organizations/them/databases", &[], b"").status, 403);
    // DNS rebinding: the page's own domain resolves to this server.
    let rebound = [("Host", "elsewhere.example"), ("Origin", "http://elsewhere.example")];
    assert_eq!(server.send("GET", "/v1/organizations/us/databases", &rebound, b"").status, 403);
}
