//! Tokens: whose they are, what they allow, and when they end.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use serde_json::{Value, json};

use crate::server::{API, Server};

#[test]
fn nothing_is_answered_without_a_token_of_this_server() {
    let (server, other) = (Server::new(), Server::new());
    let list = format!("{API}/databases");
    let refused = |headers: &[(&str, &str)]| server.send("GET", &list, headers, b"").error();
    let nameless = server.send("GET", &list, &[], b"");
    assert_eq!(nameless.status, 401);
    assert!(nameless.head.contains("www-authenticate: bearer"), "{nameless:?}");
    assert_eq!(
        refused(&[("Authorization", "Bearer garbage")]),
        (401, "token contains an invalid number of segments".into())
    );
    for token in [other.token.clone(), unsigned(&server.token), tampered(&server.token)] {
        let bearer = format!("Bearer {token}");
        assert_eq!(
            refused(&[("Authorization", &bearer)]),
            (401, "token is not one of this server".into()),
            "{token}"
        );
    }
    for path in ["/groups", "/databases/x", "/databases/x/points", "/groups/default/configuration"] {
        assert_eq!(server.send("GET", &format!("{API}{path}"), &[], b"").status, 401, "{path}");
    }
    assert_eq!(server.send("POST", "/databases/x/v1/upload", &[], b"SQLite").status, 401);
    assert_eq!(server.send("GET", "/health", &[], b"").status, 200);
}

/// The same claims under the algorithm that needs no signature.
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
fn a_token_of_a_database_is_good_for_that_database_until_it_ends() {
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
    // It manages nothing.
    let managing = server.send_as(&token, "GET", &format!("{API}/databases"), &Value::Null);
    assert!(managing.error().1.starts_with("could not parse jwt id"));
    assert_eq!(managing.status, 401);

    let group =
        server.done("POST", "/groups/default/auth/tokens", &Value::Null)["jwt"].as_str().unwrap().to_owned();
    assert_eq!((points(&group, "a"), points(&group, "b")), (200, 200));

    let short = server.token_of("a", "expiration=1s");
    std::thread::sleep(Duration::from_millis(2_100));
    assert_eq!(points(&short, "a"), 401);
    assert_eq!(
        server.ask("POST", "/databases/a/auth/tokens?expiration=soon", &Value::Null).error(),
        (400, "Invalid expiration format".into())
    );
    assert_eq!(server.ask("POST", "/databases/a/auth/tokens?authorization=all", &Value::Null).status, 400);

    assert_eq!(server.done("POST", "/databases/a/auth/rotate", &Value::Null), json!({}));
    assert_eq!((points(&token, "a"), points(&read_only, "a"), points(&group, "a")), (401, 401, 200));
    assert_eq!(points(&server.token_of("a", ""), "a"), 200);
    // Another database of that name is another database.
    let token = server.token_of("b", "");
    server.done("DELETE", "/databases/b", &Value::Null);
    server.create("b");
    assert_eq!(points(&token, "b"), 401);
}

#[test]
fn a_token_of_a_group_stays_good_for_that_group_when_it_is_renamed() {
    let server = Server::new();
    server.create("a");
    let token_of = |group: &str| {
        let minted = server.done("POST", &format!("/groups/{group}/auth/tokens"), &Value::Null);
        minted["jwt"].as_str().unwrap().to_owned()
    };
    let points = |token: &str, name: &str| {
        server.send_as(token, "GET", &format!("{API}/databases/{name}/points"), &Value::Null).status
    };
    let (first, of_database) = (token_of("default"), server.token_of("a", ""));
    // A token of the group itself manages nothing, and so does not rename it.
    let rename = format!("{API}/groups/default/rename");
    assert_eq!(server.send_as(&first, "POST", &rename, &json!({ "name": "eu" })).status, 401);
    server.done("POST", "/groups/default/rename", &json!({ "name": "eu" }));
    server.done("POST", "/groups", &json!({ "name": "default", "location": "local" }));
    server.create("b");
    let second = token_of("default");
    assert_eq!((points(&first, "a"), points(&first, "b")), (200, 401));
    assert_eq!((points(&second, "a"), points(&second, "b")), (401, 200));
    assert_eq!(points(&of_database, "a"), 200);
    server.done("POST", "/groups/default/auth/rotate", &Value::Null);
    assert_eq!((points(&first, "a"), points(&second, "b")), (200, 401));
    server.done("POST", "/groups/eu/auth/rotate", &Value::Null);
    assert_eq!((points(&first, "a"), points(&token_of("eu"), "a")), (401, 200));
}

#[test]
fn servers_that_start_on_a_new_root_at_once_agree_on_its_token() {
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
fn the_token_of_the_organization_is_for_its_owner_alone_and_stays() {
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
    let server = server.killed_and_started();
    assert_eq!(server.token, token);
    server.done("GET", "/databases", &Value::Null);
}

#[test]
fn without_tokens_only_loopback_is_listened_to_and_no_other_origin_is_heard() {
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
    // A page whose own name was made to point here comes under that name.
    let rebound = [("Host", "elsewhere.example"), ("Origin", "http://elsewhere.example")];
    assert_eq!(server.send("GET", "/v1/organizations/us/databases", &rebound, b"").status, 403);
}
