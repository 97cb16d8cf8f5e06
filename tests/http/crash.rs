//! A server that is killed or told to end in the middle of its work.

use std::{collections::BTreeSet, fs, sync::Mutex, time::Duration};

use litefleet::ConnectOptions;
use serde_json::{Value, json};

use crate::server::{API, Server};

#[test]
fn what_was_answered_is_there_after_a_kill_and_nothing_is_left_of_the_rest() {
    let mut server = Server::new();
    for round in 0..3 {
        let answered = Mutex::new(BTreeSet::new());
        std::thread::scope(|scope| {
            for client in 0..8 {
                let (server, answered) = (&server, &answered);
                scope.spawn(move || {
                    for number in 0.. {
                        let name = format!("r{round}-c{client}-{number}");
                        let body = json!({ "name": name, "group": "default" });
                        // A server that is gone answers nothing.
                        let asked =
                            std::panic::catch_unwind(|| server.ask("POST", "/databases", &body).status);
                        match asked {
                            Ok(200) => answered.lock().unwrap().insert(name),
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
        server = server.killed_and_started();
        let plane = server.plane();
        let answered = answered.into_inner().unwrap();
        assert!(!answered.is_empty());
        for name in &answered {
            plane
                .connect(name, &ConnectOptions::default())
                .unwrap()
                .execute_batch("CREATE TABLE t(a)")
                .unwrap();
        }
        let listed = server.done("GET", "/databases", &Value::Null)["databases"].as_array().unwrap().len();
        let in_group = fs::read_dir(server.root().join("default")).unwrap().map(Result::unwrap);
        assert_eq!(listed, in_group.filter(|entry| entry.file_name() != "group.json").count());
        for debris in [".staging", ".trash"] {
            assert_eq!(fs::read_dir(server.root().join(debris)).unwrap().count(), 0, "{debris}");
        }
    }
}

#[test]
fn a_server_that_is_told_to_end_finishes_what_it_began() {
    let mut server = Server::new();
    server.create("source");
    let connection = server.plane().connect("source", &ConnectOptions::default()).unwrap();
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
        crate::server::read_answer(&mut stream).status
    });
    let begun = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        fs::read_dir(server.root().join(".staging")).unwrap().count() > 0
    });
    assert!(begun || forking.is_finished());
    assert!(server.end().success());
    assert_eq!(forking.join().unwrap(), 200);
    assert_eq!(server.plane().list_databases(&litefleet::ListDatabases::default()).unwrap().len(), 2);
}
