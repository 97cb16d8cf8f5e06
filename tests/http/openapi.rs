//! The `OpenAPI` document, and requests generated from it by schemathesis, from `PyPI`. `LITEFLEET_SCHEMATHESIS` names its program;
//! `.ci/run` installs one.

use std::{collections::HashSet, process::Command};

use serde_json::{Value, json};

use crate::server::Server;

fn document(server: &Server) -> Value {
    let response = server.send("GET", "/openapi.json", &[], &[]);
    assert_eq!(response.status, 200);
    response.json()
}

/// Visits every object of a document.
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
fn document_is_complete_and_public() {
    let server = Server::new();
    let document = document(&server);
    assert_eq!(document["openapi"], "3.1.0");
    let mut operations = HashSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(operations.insert(id), "{method} {path}: {id} is not unique");
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
    // Rust examples of the library do not belong in it.
    assert!(!document.to_string().contains("use litefleet::"));
}

#[test]
fn document_requires_tokens_if_the_server_does() {
    let server = Server::new();
    assert_eq!(document(&server)["security"], json!([{"token": []}]));
    let server = Server::start(tempfile::tempdir().unwrap(), &["--no-tokens"]);
    assert_eq!(document(&server).get("security"), None);
}

#[test]
fn token_is_checked_before_the_body() {
    let server = Server::new();
    let path = "/v1/organizations/me/databases";
    let response = server.send("POST", path, &[], b"{ this is no JSON");
    assert_eq!(response.status, 401);
    let response = server.send("POST", path, &[("Authorization", "Bearer a.b.c")], b"{ this is no JSON");
    assert_eq!(response.status, 401);
    let token = format!("Bearer {}", server.token);
    let response = server.send("POST", path, &[("Authorization", &token)], b"{ this is no JSON");
    assert_eq!(response.status, 400);
}

#[test]
#[ignore = "needs schemathesis 4.32.5: set LITEFLEET_SCHEMATHESIS to its program"]
fn generated_requests_are_answered_as_documented() {
    let program = std::env::var_os("LITEFLEET_SCHEMATHESIS").expect("LITEFLEET_SCHEMATHESIS is set");
    let server = Server::new();
    let dir = tempfile::tempdir().unwrap();
    // Existing names, so that requests pass the lookup.
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
                // CPython 3.11 fails with several workers: "AST constructor recursion depth mismatch".
                "--workers",
                "1",
                "--no-color",
                "--generation-deterministic",
            ])
            // Neither patterns that few strings match nor a slow machine are findings.
            .args(["--suppress-health-check", "filter_too_much,too_slow"])
            // A request may be invalid for reasons that a schema cannot express, such as a group that does not exist.
            .args(["--exclude-checks", "positive_data_acceptance"])
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{report}{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(server.send("GET", "/health", &[], &[]).status, 200);
}
