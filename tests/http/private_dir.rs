//! The directory of the API's own files, and a root that is replaced while the server runs.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use litefleet::{ControlPlane, Error, ErrorKind, http::HttpApi};
use serde_json::{Value, json};

use crate::server::Server;

fn router(root: &Path) -> Result<(), Error> {
    HttpApi::new(ControlPlane::open(root)?).router().map(drop)
}

#[test]
fn private_directory_is_refused_if_it_is_a_link_or_others_write_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let (root, victim) = (dir.path().join("root"), dir.path().join("victim"));
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("letter"), b"dear").unwrap();
    let private = root.join(".http");
    let refused = |why: &str| {
        let error = router(&root).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        let text = error.to_string();
        assert!(text.contains(private.to_str().unwrap()) && text.contains(why), "{text}");
    };
    ControlPlane::open(&root).unwrap();
    symlink(&victim, &private).unwrap();
    refused("symbolic links are not followed");
    fs::remove_file(&private).unwrap();
    fs::write(&private, b"").unwrap();
    refused("is not a directory");
    fs::remove_file(&private).unwrap();
    for mode in [0o777, 0o770, 0o702] {
        fs::create_dir(&private).unwrap();
        fs::set_permissions(&private, Permissions::from_mode(mode)).unwrap();
        refused("is writable by other users");
        fs::remove_dir(&private).unwrap();
    }
    router(&root).unwrap();
    assert_eq!(fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o700);

    // Leftover exports are removed, without following a symbolic link.
    let exports = private.join("exports");
    let _none_yet = fs::remove_dir(&exports);
    symlink(&victim, &exports).unwrap();
    router(&root).unwrap();
    assert_eq!(fs::read(victim.join("letter")).unwrap(), b"dear");
    fs::remove_file(&exports).unwrap();
    fs::create_dir(&exports).unwrap();
    fs::set_permissions(&exports, Permissions::from_mode(0o700)).unwrap();
    fs::write(exports.join("left.db"), b"").unwrap();
    router(&root).unwrap();
    assert_eq!(fs::read_dir(&exports).unwrap().count(), 0);
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
}

#[test]
fn replaced_root_fails_every_request_and_keeps_its_files() {
    let server = Server::new();
    server.create("a");
    let (root, backup) = (server.root(), server.dir.path().join("backup"));
    assert!(Command::new("cp").arg("-a").args([&root, &backup]).status().unwrap().success());
    // A rename removes the root atomically, while the server maintains its databases.
    fs::rename(&root, server.dir.path().join("removed")).unwrap();
    let gone = [
        ("GET", "/databases/a/export", Value::Null),
        ("GET", "/databases", Value::Null),
        ("PATCH", "/databases/a/configuration", json!({ "block_writes": true })),
        ("DELETE", "/databases/a", Value::Null),
        ("POST", "/databases", json!({ "name": "b", "group": "default" })),
    ];
    let check = || {
        for (method, path, body) in &gone {
            let response = server.request(method, path, body);
            assert_eq!(response.status, 503, "{method} {path}: {response:?}");
            assert_eq!(response.json()["code"], "replaced", "{response:?}");
            assert!(!response.text.contains(root.to_str().unwrap()), "{response:?}");
        }
        let ready = server.send("GET", "/ready", &[], b"");
        assert_eq!(ready.status, 503, "{ready:?}");
        assert_eq!(server.send("GET", "/health", &[], b"").status, 200);
    };
    check();
    assert!(!root.exists());
    fs::rename(&backup, &root).unwrap();
    check();
    let database = server.plane().get_database("a").unwrap();
    assert!(!database.block_writes);
    server.plane().connect("a", litefleet::ConnectOptions::default()).unwrap();
    assert!(server.plane().get_database("b").is_err());
}
