//! A server that is killed or stopped while it handles requests.

use std::{collections::BTreeSet, fs, sync::Mutex, time::Duration};

use litefleet::ConnectOptions;
use serde_json::{Value, json};

use crate::server::{API, Server};

#[test]
fn killed_server_keeps_acknowledged_databases_and_no_partial_ones() {
    let mut server = Server::new();
    for round in 0..3 {
        let acknowledged = Mutex::new(BTreeSet::new());
        std::thread::scope(|scope| {
            for client in 0..8 {
                let (server, acknowledged) = (&server, &acknowledged);
                scope.spawn(move || {
                    for number in 0.. {
                        let name = format!("r{round}-c{client}-{number}");
                        let body = json!({ "name": name, "group": "default" });
                        // Without a server there is no response.
                        let response =
                            std::panic::catch_unwind(|| server.request("POST", "/databases", &body).status);
                        match response {
                            Ok(200) => acknowledged.lock().unwrap().insert(name),
                            Ok(status) => panic!("{status}"),
                            Err(_gone) => break,
                        };
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(300));
            let pid = server.pid().to_string();
            std::process::Command::new("kill").args(["-KILL", &pid]).status().unwrap();
        });
        server = server.kill_and_restart();
        let plane = server.plane();
        let acknowledged = acknowledged.into_inner().unwrap();
        assert!(!acknowledged.is_empty());
        for name in &acknowledged {
            plane
                .connect(name, ConnectOptions::default())
                .unwrap()
                .execute_batch("CREATE TABLE t(a)")
                .unwrap();
        }
        let listed = server.ok("GET", "/databases", &Value::Null)["databases"].as_array().unwrap().len();
        let in_group = fs::read_dir(server.root().join("default")).unwrap().map(Result::unwrap);
        assert_eq!(listed, in_group.filter(|entry| entry.file_name() != "group.json").count());
        for debris in [".staging", ".trash"] {
            assert_eq!(fs::read_dir(server.root().join(debris)).unwrap().count(), 0, "{debris}");
        }
    }
}

#[test]
fn stopped_server_completes_running_requests() {
    let mut server = Server::new();
    server.create("source");
    let connection = server.plane().connect("source", ConnectOptions::default()).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE t(a); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000)
             INSERT INTO t SELECT randomblob(1000) FROM n",
        )
        .unwrap();
    let body =
        json!({ "name": "fork", "group": "default", "seed": { "type": "database", "name": "source" } });
    let (token, address) = (server.token.clone(), server.address.clone());
    let forking = std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let body = body.to_string();
        let head = format!(
            "POST {API}/databases HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
        crate::server::read_response(&mut stream).status
    });
    let has_started = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        fs::read_dir(server.root().join(".staging")).unwrap().count() > 0
    });
    assert!(has_started || forking.is_finished());
    assert!(server.stop().success());
    assert_eq!(forking.join().unwrap(), 200);
    assert_eq!(server.plane().list_databases(litefleet::ListDatabases::default()).unwrap().len(), 2);
}
