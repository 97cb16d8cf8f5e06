//! What the API answers: bodies, statuses and sentences as its clients know them.

use litefleet::{ConnectOptions, Timestamp};
use serde_json::{Value, json};

use crate::server::{API, Server};

#[test]
fn a_new_user_creates_a_database_in_a_fleet_that_was_not_there() {
    let server = Server::new();
    let create =
        |group: &str| server.ask("POST", "/databases", &json!({ "name": "new-database", "group": group }));
    assert_eq!(create("unknown").error(), (400, "group not found".into()));
    let made = create("default");
    assert_eq!(made.status, 200);
    let database = &made.json()["database"];
    assert_eq!(database["Name"], "new-database");
    assert_eq!(database["DbId"].as_str().unwrap().len(), 36);
    assert!(database["Hostname"].as_str().unwrap().starts_with("new-database.localhost:"));
    assert_eq!(database.as_object().unwrap().len(), 3);
    assert_eq!(create("default").error(), (409, "database with name new-database already exists".into()));
    assert_eq!(create("").status, 400);
    // What is said to be created can be used at once.
    let connection = server.plane().connect("new-database", &ConnectOptions::default()).unwrap();
    connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    assert!(server.done("GET", "/databases/new-database/usage", &Value::Null)["database"]["usage"]["storage_bytes"]
        .as_u64()
        .unwrap() > 4096);
}

#[test]
fn databases_are_listed_shown_configured_and_destroyed() {
    let server = Server::new();
    for name in ["b", "a", "c"] {
        server.create(name);
    }
    let names = |path: &str| -> Vec<String> {
        let listed = server.done("GET", path, &Value::Null);
        let names = listed["databases"].as_array().unwrap().iter();
        names.map(|database| database["Name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("/databases"), ["a", "b", "c"]);
    assert_eq!(names("/databases?group=default&limit=2"), ["a", "b"]);
    assert_eq!(names("/databases?limit=2&cursor=b"), ["c"]);
    assert_eq!(names("/databases?type=schema"), [""; 0]);
    assert_eq!(server.ask("GET", "/databases?group=none", &Value::Null).status, 400);
    assert_eq!(server.ask("GET", "/databases?limit=many", &Value::Null).status, 400);
    let page = server.done("GET", "/databases?limit=2", &Value::Null);
    assert_eq!(page["pagination"]["next"], "b");
    assert_eq!(server.done("GET", "/databases", &Value::Null).get("pagination"), None);

    let shown = server.done("GET", "/databases/a", &Value::Null);
    for (key, value) in [
        ("Name", json!("a")),
        ("group", json!("default")),
        ("primaryRegion", json!("local")),
        ("block_reads", json!(false)),
        ("parent", Value::Null),
    ] {
        assert_eq!(shown["database"][key], value, "{key}");
    }

    let changed = server.done(
        "PATCH",
        "/databases/a/configuration",
        &json!({ "size_limit": "1mb", "delete_protection": true, "block_writes": null, "allow_attach": null }),
    );
    assert_eq!(changed, server.done("GET", "/databases/a/configuration", &Value::Null));
    assert_eq!(changed["size_limit"], "1048576");
    assert_eq!(changed["delete_protection"], true);
    assert_eq!(
        server.ask("DELETE", "/databases/a", &Value::Null).error(),
        (409, "database a is delete-protected and cannot be deleted".into())
    );
    let changed = server.done(
        "PATCH",
        "/databases/a/configuration",
        &json!({ "size_limit": "none", "delete_protection": false }),
    );
    assert_eq!((&changed["size_limit"], &changed["delete_protection"]), (&Value::Null, &json!(false)));
    for wrong in [
        json!({ "size_limit": "big" }),
        json!({ "allow_attach": true }),
        json!({ "allowed_ips": ["10.0.0.1"] }),
        json!({ "block_reads": "yes" }),
    ] {
        assert_eq!(server.ask("PATCH", "/databases/a/configuration", &wrong).status, 400, "{wrong}");
    }

    assert_eq!(server.done("DELETE", "/databases/a", &Value::Null), json!({ "database": "a" }));
    for method in ["GET", "DELETE"] {
        assert_eq!(
            server.ask(method, "/databases/a", &Value::Null).error(),
            (404, "could not find database with name a: record not found".into())
        );
    }
}

#[test]
fn groups_are_created_configured_and_destroyed_with_their_databases() {
    let server = Server::new();
    // Keys in the case that the command line client of this API sends.
    let made =
        server.done("POST", "/groups", &json!({ "Name": "eu", "Location": "lhr", "Version": "latest" }));
    assert_eq!(made["group"]["name"], "eu");
    assert_eq!(made["group"]["locations"], json!(["local"]));
    assert_eq!(
        server.ask("POST", "/groups", &json!({ "name": "eu", "location": "lhr" })).error(),
        (409, "group already exists".into())
    );
    assert_eq!(server.ask("GET", "/groups/us", &Value::Null).error(), (404, "group not found".into()));
    let protect = |on: bool| {
        server.done(
            "PATCH",
            "/groups/eu/configuration",
            &json!({ "delete_protection": on, "history_window": "2h" }),
        )
    };
    assert_eq!(protect(true), json!({ "delete_protection": true, "history_window": "2h" }));
    assert_eq!(server.ask("DELETE", "/groups/eu", &Value::Null).status, 409);
    protect(false);
    server.done("POST", "/databases", &json!({ "name": "orders", "group": "eu" }));
    assert_eq!(server.done("DELETE", "/groups/eu", &Value::Null)["group"]["name"], "eu");
    assert_eq!(server.ask("GET", "/databases/orders", &Value::Null).status, 404);
    assert_eq!(
        server.ask("POST", "/groups/default/locations/amss", &Value::Null).error(),
        (400, "invalid location: amss".into())
    );
}

#[test]
fn a_group_is_renamed_and_its_databases_stay_in_it() {
    let server = Server::new();
    server.create("orders");
    let uuid = server.done("GET", "/groups/default", &Value::Null)["group"]["uuid"].clone();
    let rename = |name: &str, body: &Value| server.ask("POST", &format!("/groups/{name}/rename"), body);
    // The key in the case that the command line client sends.
    let renamed = rename("default", &json!({ "Name": "eu" }));
    assert_eq!(renamed.status, 200, "{renamed:?}");
    assert_eq!(renamed.json()["group"]["name"], "eu");
    assert_eq!(renamed.json(), server.done("GET", "/groups/eu", &Value::Null));
    assert_eq!(renamed.json()["group"]["uuid"], uuid);
    assert_eq!(server.done("GET", "/databases/orders", &Value::Null)["database"]["group"], "eu");
    assert_eq!(server.ask("GET", "/groups/default", &Value::Null).error(), (404, "group not found".into()));
    assert_eq!(rename("default", &json!({ "name": "us" })).error(), (404, "group not found".into()));
    server.done("POST", "/groups", &json!({ "name": "default", "location": "local" }));
    assert_eq!(rename("eu", &json!({ "name": "default" })).error(), (409, "group already exists".into()));
    for body in [json!({}), json!({ "name": null }), json!({ "name": 5 }), json!({ "name": "E U" })] {
        assert_eq!(rename("eu", &body).status, 400, "{body}");
    }
    assert_eq!(rename("eu", &json!({ "name": "eu" })).status, 200);
    server.create("other");
    let listed = server.done("GET", "/databases?group=eu", &Value::Null);
    assert_eq!(listed["databases"].as_array().unwrap().len(), 1);
    server.done("DELETE", "/groups/eu", &Value::Null);
    assert_eq!(server.ask("GET", "/databases/orders", &Value::Null).status, 404);
    server.done("GET", "/databases/other/usage", &Value::Null);
}

#[test]
fn what_clients_ask_of_a_cloud_is_answered_at_once() {
    let server = Server::new();
    server.create("orders");
    let shown = server.done("GET", "/groups/default", &Value::Null);
    for (method, path, answer) in [
        ("POST", "/groups/{}/unarchive", shown),
        ("POST", "/groups/{}/update", json!({})),
        ("GET", "/groups/{}/locations/local/wait", json!({})),
    ] {
        assert_eq!(server.done(method, &path.replace("{}", "default"), &Value::Null), answer, "{path}");
        let unknown = server.ask(method, &path.replace("{}", "none"), &Value::Null);
        assert_eq!(unknown.error(), (404, "group not found".into()), "{path}");
    }
    assert_eq!(
        server.ask("GET", "/groups/default/locations/amss/wait", &Value::Null).error(),
        (400, "invalid location: amss".into())
    );
    for (method, path, answer) in
        [("POST", "wakeup", json!({})), ("GET", "stats", json!({ "top_queries": null }))]
    {
        assert_eq!(server.done(method, &format!("/databases/orders/{path}"), &Value::Null), answer, "{path}");
        assert_eq!(
            server.ask(method, &format!("/databases/none/{path}"), &Value::Null).status,
            404,
            "{path}"
        );
    }
}

#[test]
fn a_database_is_forked_as_of_an_instant_and_restored_in_place() {
    let server = Server::new();
    server.create("orders");
    let connection = server.plane().connect("orders", &ConnectOptions::default()).unwrap();
    connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    let before = Timestamp::now();
    connection.execute_batch("DELETE FROM t").unwrap();
    let rows = |name: &str| -> i64 {
        let connection = server.plane().connect(name, &ConnectOptions::default()).unwrap();
        connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
    };
    let fork = |name: &str, timestamp: &str| {
        let seed = json!({ "type": "database", "name": "orders", "timestamp": timestamp });
        server.ask("POST", "/databases", &json!({ "name": name, "group": "default", "seed": seed }))
    };
    assert_eq!(fork("fork", &before.to_string()).status, 200);
    assert_eq!((rows("fork"), rows("orders")), (1, 0));
    assert_eq!(fork("early", "2020-01-01T00:00:00Z").json()["code"], "outside_window");
    assert_eq!(fork("never", "yesterday").status, 400);

    let points = server.done("GET", "/databases/orders/points", &Value::Null);
    assert_eq!(points["points"].as_array().unwrap().len(), 3);
    let until = server.done("GET", &format!("/databases/orders/points?to={before}"), &Value::Null);
    assert_eq!(until["points"].as_array().unwrap().len(), 2);
    assert_eq!(until.get("pagination"), None);
    let restore = |at: &Value| server.done("POST", "/databases/orders/restore", &json!({ "timestamp": at }));
    let restored = restore(&json!(before));
    assert_eq!(restored["kind"], "between");
    assert_eq!(rows("orders"), 1);
    restore(&restored["undo"]);
    assert_eq!(rows("orders"), 0);
    // The curl examples of two documentation pages have a colon within the quotes.
    let seed = json!({ "type:": "database", "name": "orders" });
    let wrong = server.ask("POST", "/databases", &json!({ "name": "x", "group": "default", "seed": seed }));
    assert_eq!(wrong.status, 400);
    let unknown = json!({ "type": "database", "name": "nothing" });
    let wrong =
        server.ask("POST", "/databases", &json!({ "name": "x", "group": "default", "seed": unknown }));
    assert_eq!(wrong.status, 400, "{wrong:?}");
}

#[test]
fn points_are_paged_from_the_latest_back() {
    let server = Server::new();
    server.create("orders");
    let connection = server.plane().connect("orders", &ConnectOptions::default()).unwrap();
    connection.execute_batch("CREATE TABLE t(a)").unwrap();
    for number in 0..4 {
        connection.execute("INSERT INTO t VALUES (?1)", [number]).unwrap();
    }
    let points = |query: &str| server.done("GET", &format!("/databases/orders/points?{query}"), &Value::Null);
    let at = |page: &Value| -> Vec<Value> {
        page["points"].as_array().unwrap().iter().map(|point| point["at"].clone()).collect()
    };
    let all = at(&points(""));
    assert_eq!(all.len(), 5);
    let mut page = points("limit=2");
    assert_eq!(page["windows"], points("")["windows"]);
    let mut found = at(&page);
    assert_eq!(found, all[3..]);
    while let Some(to) = page["pagination"]["next"].as_str() {
        page = points(&format!("limit=2&to={to}"));
        found = [at(&page), found].concat();
    }
    assert_eq!(found, all);
    assert_eq!(points("limit=5")["pagination"]["next"], Value::Null);
    assert_eq!(server.ask("GET", "/databases/orders/points?limit=0", &Value::Null).status, 400);
}

#[test]
fn of_many_that_create_the_same_name_one_wins() {
    let server = Server::new();
    for round in 0..5 {
        let name = format!("race-{round}");
        let body = json!({ "name": name, "group": "default" });
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let (server, body) = (&server, &body);
            let racing: Vec<_> =
                (0..16).map(|_| scope.spawn(|| server.ask("POST", "/databases", body).status)).collect();
            racing.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
        assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 15, "{statuses:?}");
    }
}

#[test]
fn what_is_no_request_of_the_api_gets_one_clear_sentence() {
    let server = Server::new();
    for (path, status) in [
        ("/databases/..%2f..%2fcontrol.db", 400),
        ("/databases/%2e%2e", 400),
        ("/databases/a%00b", 400),
        ("/databases/ORDERS", 400),
        ("/databases/%ff", 400),
        ("/databases/a/../b", 404),
        ("/nothing", 404),
    ] {
        let answer = server.ask("GET", path, &Value::Null);
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(!answer.error().1.is_empty(), "{path}");
    }
    let long = "a".repeat(65);
    for name in ["", "-/-", "ä", "A", ".", long.as_str()] {
        let answer = server.ask("POST", "/databases", &json!({ "name": name, "group": "default" }));
        assert_eq!(answer.status, 400, "{name}: {answer:?}");
    }
    for body in ["{", "[]", "null", "{\"name\": 5}", "{\"name\": \"a\", \"seed\": {\"type\": \"dump\"}}"] {
        let bearer = format!("Bearer {}", server.token);
        let path = format!("{API}/databases");
        let answer = server.send("POST", &path, &[("Authorization", &bearer)], body.as_bytes());
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
    }
    let huge = json!({ "name": "a".repeat(1 << 20), "group": "default" });
    assert_eq!(server.ask("POST", "/databases", &huge).status, 400);
    assert_eq!(server.ask("PUT", "/databases", &Value::Null).status, 405);
    assert_eq!(server.done("GET", "/databases", &Value::Null)["databases"], json!([]));
}

#[test]
fn instants_are_read_as_sqlite_prints_them() {
    let server = Server::new();
    server.create("orders");
    let connection = server.plane().connect("orders", &litefleet::ConnectOptions::default()).unwrap();
    connection.execute_batch("CREATE TABLE t(a)").unwrap();
    let points = |span: &str| {
        let answer = server.done("GET", &format!("/databases/orders/points?{span}"), &Value::Null);
        answer["points"].as_array().unwrap().len()
    };
    assert_eq!(points("from=2026-01-01%2000:00:00&to=2999-01-01+00:00"), 1);
    assert_eq!(points("to=2026-01-01%2000:00"), 0);
    // The instant is read, and lies before the database.
    for instant in ["2026-01-01 00:00:00", "2026-01-01T00:00Z"] {
        let seed = json!({ "type": "database", "name": "orders", "timestamp": instant });
        let body = json!({ "name": "fork", "group": "default", "seed": seed });
        let (_, sentence) = server.ask("POST", "/databases", &body).error();
        assert!(sentence.contains("2026-01-01T00:00:00.000000Z"), "{sentence}");
    }
}
