//! The `OpenAPI` document: what it says, and what a tool that tries everything it allows finds. That tool is schemathesis, from
//! `PyPI`; `LITEFLEET_SCHEMATHESIS` names its program, and `.ci/run` installs one.

use std::{collections::HashSet, process::Command};

use serde_json::{Value, json};

use crate::server::Server;

fn document(server: &Server) -> Value {
    let answer = server.send("GET", "/openapi.json", &[], &[]);
    assert_eq!(answer.status, 200);
    answer.json()
}

/// Every object in a document.
fn walk<'a>(value: &'a Value, seen: &mut impl FnMut(&'a serde_json::Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            seen(object);
            object.values().for_each(|value| walk(value, seen));
        }
        Value::Array(values) => values.iter().for_each(|value| walk(value, seen)),
        _ => {}
    }
}

#[test]
fn the_document_is_whole_and_needs_no_token() {
    let server = Server::new();
    let document = document(&server);
    assert_eq!(document["openapi"], "3.1.0");
    let mut operations = HashSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(operations.insert(id), "{method} {path}: {id} is there twice");
            assert!(operation["summary"].is_string(), "{method} {path}");
            let is_described = |name: &str| {
                let parameters = operation["parameters"].as_array().unwrap();
                parameters.iter().any(|known| known["name"] == name && known["description"].is_string())
            };
            for part in path.split('/').filter_map(|part| part.strip_prefix('{')) {
                assert!(is_described(part.trim_end_matches('}')), "{method} {path}");
            }
        }
    }
    for id in [
        "createDatabase",
        "listPoints",
        "restoreDatabase",
        "upload",
        "uploadByPath",
        "uploadChunk",
        "uploadChunkByPath",
    ] {
        assert!(operations.contains(id), "{id}");
    }
    walk(&document, &mut |object| {
        let Some(Value::String(reference)) = object.get("$ref") else { return };
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    });
    // What the library's own documentation shows to those who link it is no part of it.
    assert!(!document.to_string().contains("use litefleet::"));
}

#[test]
fn the_document_asks_for_tokens_where_the_server_does() {
    let server = Server::new();
    assert_eq!(document(&server)["security"], json!([{"token": []}]));
    let server = Server::start(tempfile::tempdir().unwrap(), &["--no-tokens"]);
    assert_eq!(document(&server).get("security"), None);
}

#[test]
fn a_request_without_a_token_is_refused_before_its_body_is_read() {
    let server = Server::new();
    let path = "/v1/organizations/me/databases";
    let answer = server.send("POST", path, &[], b"{ this is no JSON");
    assert_eq!(answer.status, 401);
    let answer = server.send("POST", path, &[("Authorization", "Bearer a.b.c")], b"{ this is no JSON");
    assert_eq!(answer.status, 401);
    let token = format!("Bearer {}", server.token);
    let answer = server.send("POST", path, &[("Authorization", &token)], b"{ this is no JSON");
    assert_eq!(answer.status, 400);
}

#[test]
#[ignore = "needs schemathesis 4.32.5: set LITEFLEET_SCHEMATHESIS to its program"]
fn whatever_the_document_allows_is_answered_as_it_says() {
    let program = std::env::var_os("LITEFLEET_SCHEMATHESIS").expect("LITEFLEET_SCHEMATHESIS is set");
    let server = Server::new();
    let dir = tempfile::tempdir().unwrap();
    // Names that are there, for the calls behind them to be reached.
    for name in ["orders", "copy"] {
        server.create(name);
    }
    for config in [include_str!("schemathesis.toml"), ""] {
        std::fs::write(dir.path().join("schemathesis.toml"), config).unwrap();
        let output = Command::new(&program)
            .current_dir(dir.path())
            .args(["run", &format!("http://{}/openapi.json", server.address)])
            .args(["--header", &format!("Authorization: Bearer {}", server.token)])
            .args([
                "--checks",
                "all",
                "--max-examples",
                "15",
                // CPython 3.11 parses wrongly in two threads at once: "AST constructor recursion depth mismatch".
                "--workers",
                "1",
                "--no-color",
                "--generation-deterministic",
            ])
            // Patterns that few texts match, and a machine that others use, are no findings.
            .args(["--suppress-health-check", "filter_too_much,too_slow"])
            // What a schema cannot say makes a request a bad one, too: that a group must be there, or that a key fits.
            .args(["--exclude-checks", "positive_data_acceptance"])
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{report}{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(server.send("GET", "/health", &[], &[]).status, 200);
}
