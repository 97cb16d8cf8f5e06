//! Bodies, statuses and error messages that clients of the API rely on.

use litefleet::{ConnectOptions, Timestamp};
use serde_json::{Value, json};

use crate::server::{API, Server};

#[test]
fn first_database_is_created_in_a_new_fleet() {
    let server = Server::new();
    let create = |group: &str| {
        server.request("POST", "/databases", &json!({ "name": "new-database", "group": group }))
    };
    assert_eq!(create("unknown").error(), (400, "group not found".into()));
    let created = create("default");
    assert_eq!(created.status, 200);
    let database = &created.json()["database"];
    assert_eq!(database["Name"], "new-database");
    assert_eq!(database["DbId"].as_str().unwrap().len(), 36);
    assert!(database["Hostname"].as_str().unwrap().starts_with("new-database.localhost:"));
    assert_eq!(database.as_object().unwrap().len(), 3);
    assert_eq!(create("default").error(), (409, "database with name new-database already exists".into()));
    assert_eq!(create("").status, 400);
    // The database is usable as soon as the response arrives.
    let connection = server.plane().connect("new-database", ConnectOptions::default()).unwrap();
    connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    assert!(
        server.ok("GET", "/databases/new-database/usage", &Value::Null)["database"]["usage"]["storage_bytes"]
            .as_u64()
            .unwrap()
            > 4096
    );
}

#[test]
fn database_lifecycle() {
    let server = Server::new();
    for name in ["b", "a", "c"] {
        server.create(name);
    }
    let names = |path: &str| -> Vec<String> {
        let listed = server.ok("GET", path, &Value::Null);
        let names = listed["databases"].as_array().unwrap().iter();
        names.map(|database| database["Name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("/databases"), ["a", "b", "c"]);
    assert_eq!(names("/databases?group=default&limit=2"), ["a", "b"]);
    assert_eq!(names("/databases?limit=2&cursor=b"), ["c"]);
    assert_eq!(names("/databases?type=schema"), [""; 0]);
    assert_eq!(server.request("GET", "/databases?group=none", &Value::Null).status, 400);
    assert_eq!(server.request("GET", "/databases?limit=many", &Value::Null).status, 400);
    let page = server.ok("GET", "/databases?limit=2", &Value::Null);
    assert_eq!(page["pagination"]["next"], "b");
    assert_eq!(server.ok("GET", "/databases", &Value::Null).get("pagination"), None);

    let shown = server.ok("GET", "/databases/a", &Value::Null);
    for (key, value) in [
        ("Name", json!("a")),
        ("group", json!("default")),
        ("primaryRegion", json!("local")),
        ("block_reads", json!(false)),
        ("parent", Value::Null),
    ] {
        assert_eq!(shown["database"][key], value, "{key}");
    }

    let changed = server.ok(
        "PATCH",
        "/databases/a/configuration",
        &json!({ "size_limit": "1mb", "delete_protection": true, "block_writes": null, "allow_attach": null }),
    );
    assert_eq!(changed, server.ok("GET", "/databases/a/configuration", &Value::Null));
    assert_eq!(changed["size_limit"], "1048576");
    assert_eq!(changed["delete_protection"], true);
    assert_eq!(
        server.request("DELETE", "/databases/a", &Value::Null).error(),
        (409, "database a is delete-protected and cannot be deleted".into())
    );
    let changed = server.ok(
        "PATCH",
        "/databases/a/configuration",
        &json!({ "size_limit": "none", "delete_protection": false }),
    );
    assert_eq!((&changed["size_limit"], &changed["delete_protection"]), (&Value::Null, &json!(false)));
    for invalid in [
        json!({ "size_limit": "big" }),
        json!({ "history_limit": "0" }),
        json!({ "allow_attach": true }),
        json!({ "allowed_ips": ["10.0.0.1"] }),
        json!({ "block_reads": "yes" }),
    ] {
        assert_eq!(server.request("PATCH", "/databases/a/configuration", &invalid).status, 400, "{invalid}");
    }

    assert_eq!(server.ok("DELETE", "/databases/a", &Value::Null), json!({ "database": "a" }));
    for method in ["GET", "DELETE"] {
        assert_eq!(
            server.request(method, "/databases/a", &Value::Null).error(),
            (404, "could not find database with name a: record not found".into())
        );
    }
}

#[test]
fn group_lifecycle() {
    let server = Server::new();
    // Turso's command line sends keys in this case.
    let created =
        server.ok("POST", "/groups", &json!({ "Name": "eu", "Location": "lhr", "Version": "latest" }));
    assert_eq!(created["group"]["name"], "eu");
    assert_eq!(created["group"]["locations"], json!(["local"]));
    assert_eq!(
        server.request("POST", "/groups", &json!({ "name": "eu", "location": "lhr" })).error(),
        (409, "group already exists".into())
    );
    assert_eq!(server.request("GET", "/groups/us", &Value::Null).error(), (404, "group not found".into()));
    let protect = |on: bool| {
        server.ok(
            "PATCH",
            "/groups/eu/configuration",
            &json!({ "delete_protection": on, "history_window": "2h" }),
        )
    };
    assert_eq!(
        protect(true),
        json!({ "delete_protection": true, "history_window": "2h", "history_limit": "none" })
    );
    assert_eq!(server.request("DELETE", "/groups/eu", &Value::Null).status, 409);
    protect(false);
    server.ok("POST", "/databases", &json!({ "name": "orders", "group": "eu" }));
    assert_eq!(server.ok("DELETE", "/groups/eu", &Value::Null)["group"]["name"], "eu");
    assert_eq!(server.request("GET", "/databases/orders", &Value::Null).status, 404);
    assert_eq!(
        server.request("POST", "/groups/default/locations/amss", &Value::Null).error(),
        (400, "invalid location: amss".into())
    );
}

#[test]
fn renamed_group_keeps_its_databases() {
    let server = Server::new();
    server.create("orders");
    let uuid = server.ok("GET", "/groups/default", &Value::Null)["group"]["uuid"].clone();
    let rename = |name: &str, body: &Value| server.request("POST", &format!("/groups/{name}/rename"), body);
    // Turso's command line sends the key in this case.
    let renamed = rename("default", &json!({ "Name": "eu" }));
    assert_eq!(renamed.status, 200, "{renamed:?}");
    assert_eq!(renamed.json()["group"]["name"], "eu");
    assert_eq!(renamed.json(), server.ok("GET", "/groups/eu", &Value::Null));
    assert_eq!(renamed.json()["group"]["uuid"], uuid);
    assert_eq!(server.ok("GET", "/databases/orders", &Value::Null)["database"]["group"], "eu");
    assert_eq!(
        server.request("GET", "/groups/default", &Value::Null).error(),
        (404, "group not found".into())
    );
    assert_eq!(rename("default", &json!({ "name": "us" })).error(), (404, "group not found".into()));
    server.ok("POST", "/groups", &json!({ "name": "default", "location": "local" }));
    assert_eq!(rename("eu", &json!({ "name": "default" })).error(), (409, "group already exists".into()));
    for body in [json!({}), json!({ "name": null }), json!({ "name": 5 }), json!({ "name": "E U" })] {
        assert_eq!(rename("eu", &body).status, 400, "{body}");
    }
    assert_eq!(rename("eu", &json!({ "name": "eu" })).status, 200);
    server.create("other");
    let listed = server.ok("GET", "/databases?group=eu", &Value::Null);
    assert_eq!(listed["databases"].as_array().unwrap().len(), 1);
    server.ok("DELETE", "/groups/eu", &Value::Null);
    assert_eq!(server.request("GET", "/databases/orders", &Value::Null).status, 404);
    server.ok("GET", "/databases/other/usage", &Value::Null);
}

#[test]
fn calls_that_only_a_cloud_needs_have_no_effect() {
    let server = Server::new();
    server.create("orders");
    let shown = server.ok("GET", "/groups/default", &Value::Null);
    for (method, path, response) in [
        ("POST", "/groups/{}/unarchive", shown),
        ("POST", "/groups/{}/update", json!({})),
        ("GET", "/groups/{}/locations/local/wait", json!({})),
    ] {
        assert_eq!(server.ok(method, &path.replace("{}", "default"), &Value::Null), response, "{path}");
        let unknown = server.request(method, &path.replace("{}", "none"), &Value::Null);
        assert_eq!(unknown.error(), (404, "group not found".into()), "{path}");
    }
    assert_eq!(
        server.request("GET", "/groups/default/locations/amss/wait", &Value::Null).error(),
        (400, "invalid location: amss".into())
    );
    for (method, path, response) in
        [("POST", "wakeup", json!({})), ("GET", "stats", json!({ "top_queries": null }))]
    {
        assert_eq!(server.ok(method, &format!("/databases/orders/{path}"), &Value::Null), response, "{path}");
        assert_eq!(
            server.request(method, &format!("/databases/none/{path}"), &Value::Null).status,
            404,
            "{path}"
        );
    }
}

#[test]
fn fork_and_restore_as_of_an_instant() {
    let server = Server::new();
    server.create("orders");
    let connection = server.plane().connect("orders", ConnectOptions::default()).unwrap();
    connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    let before = Timestamp::now();
    connection.execute_batch("DELETE FROM t").unwrap();
    let rows = |name: &str| -> i64 {
        let connection = server.plane().connect(name, ConnectOptions::default()).unwrap();
        connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
    };
    let fork = |name: &str, timestamp: &str| {
        let seed = json!({ "type": "database", "name": "orders", "timestamp": timestamp });
        server.request("POST", "/databases", &json!({ "name": name, "group": "default", "seed": seed }))
    };
    assert_eq!(fork("fork", &before.to_string()).status, 200);
    assert_eq!((rows("fork"), rows("orders")), (1, 0));
    assert_eq!(fork("early", "2020-01-01T00:00:00Z").json()["code"], "outside_window");
    assert_eq!(fork("never", "yesterday").status, 400);

    let points = server.ok("GET", "/databases/orders/points", &Value::Null);
    assert_eq!(points["points"].as_array().unwrap().len(), 3);
    let until = server.ok("GET", &format!("/databases/orders/points?to={before}"), &Value::Null);
    assert_eq!(until["points"].as_array().unwrap().len(), 2);
    assert_eq!(until.get("pagination"), None);
    let restore = |at: &Value| server.ok("POST", "/databases/orders/restore", &json!({ "timestamp": at }));
    let restored = restore(&json!(before));
    assert_eq!(restored["kind"], "between");
    assert_eq!(rows("orders"), 1);
    restore(&restored["undo"]);
    assert_eq!(rows("orders"), 0);
    // The curl examples of two documentation pages have this typo: a colon within the quotes.
    let seed = json!({ "type:": "database", "name": "orders" });
    let wrong =
        server.request("POST", "/databases", &json!({ "name": "x", "group": "default", "seed": seed }));
    assert_eq!(wrong.status, 400);
    let unknown = json!({ "type": "database", "name": "nothing" });
    let wrong =
        server.request("POST", "/databases", &json!({ "name": "x", "group": "default", "seed": unknown }));
    assert_eq!(wrong.status, 400, "{wrong:?}");
}

#[test]
fn points_are_paginated_from_the_latest() {
    let server = Server::new();
    server.create("orders");
    let connection = server.plane().connect("orders", ConnectOptions::default()).unwrap();
    connection.execute_batch("CREATE TABLE t(a)").unwrap();
    for number in 0..4 {
        connection.execute("INSERT INTO t VALUES (?1)", [number]).unwrap();
    }
    let points = |query: &str| server.ok("GET", &format!("/databases/orders/points?{query}"), &Value::Null);
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
    assert_eq!(server.request("GET", "/databases/orders/points?limit=0", &Value::Null).status, 400);
}

#[test]
fn concurrent_creates_of_one_name_succeed_once() {
    let server = Server::new();
    for round in 0..5 {
        let name = format!("race-{round}");
        let body = json!({ "name": name, "group": "default" });
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let (server, body) = (&server, &body);
            let racing: Vec<_> =
                (0..16).map(|_| scope.spawn(|| server.request("POST", "/databases", body).status)).collect();
            racing.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
        assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 15, "{statuses:?}");
    }
}

#[test]
fn invalid_request_is_answered_with_an_error_message() {
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
        let response = server.request("GET", path, &Value::Null);
        assert_eq!(response.status, status, "{path}: {response:?}");
        assert!(!response.error().1.is_empty(), "{path}");
    }
    let long = "a".repeat(65);
    for name in ["", "-/-", "ä", "A", ".", long.as_str()] {
        let response = server.request("POST", "/databases", &json!({ "name": name, "group": "default" }));
        assert_eq!(response.status, 400, "{name}: {response:?}");
    }
    for body in ["{", "[]", "null", "{\"name\": 5}", "{\"name\": \"a\", \"seed\": {\"type\": \"dump\"}}"] {
        let bearer = format!("Bearer {}", server.token);
        let path = format!("{API}/databases");
        let response = server.send("POST", &path, &[("Authorization", &bearer)], body.as_bytes());
        assert_eq!(response.status, 400, "{body}: {response:?}");
    }
    let huge = json!({ "name": "a".repeat(1 << 20), "group": "default" });
    assert_eq!(server.request("POST", "/databases", &huge).status, 400);
    assert_eq!(server.request("PUT", "/databases", &Value::Null).status, 405);
    assert_eq!(server.ok("GET", "/databases", &Value::Null)["databases"], json!([]));
}

#[test]
fn instants_are_accepted_in_the_format_of_sqlite() {
    let server = Server::new();
    server.create("orders");
    let connection = server.plane().connect("orders", litefleet::ConnectOptions::default()).unwrap();
    connection.execute_batch("CREATE TABLE t(a)").unwrap();
    let points = |span: &str| {
        let response = server.ok("GET", &format!("/databases/orders/points?{span}"), &Value::Null);
        response["points"].as_array().unwrap().len()
    };
    assert_eq!(points("from=2026-01-01%2000:00:00&to=2999-01-01+00:00"), 1);
    assert_eq!(points("to=2026-01-01%2000:00"), 0);
    // The instant is parsed, and is before the creation of the database.
    for instant in ["2026-01-01 00:00:00", "2026-01-01T00:00Z"] {
        let seed = json!({ "type": "database", "name": "orders", "timestamp": instant });
        let body = json!({ "name": "fork", "group": "default", "seed": seed });
        let (_, message) = server.request("POST", "/databases", &body).error();
        assert!(message.contains("2026-01-01T00:00:00.000000Z"), "{message}");
    }
}
