//! Groups and databases: create, get, configure, destroy.

use litefleet::{
    ConnectOptions, ControlPlane, CreateDatabaseInput, DatabaseChanges, DatabaseState, ErrorKind,
    GroupChanges, ListDatabases, rusqlite::Connection,
};

use crate::support::{Fleet, names, refused};

#[test]
fn empty_database_is_a_sqlite_file() {
    let fleet = Fleet::new();
    let made = fleet.plane.create_database(CreateDatabaseInput::new("orders", "default")).unwrap();
    assert_eq!((made.name.as_str(), made.hostname.as_str()), ("orders", "orders.localhost"));
    assert_eq!(
        names(&fleet.plane.root().join("default/orders")),
        ["data.db", "description.json", "unwritten"]
    );
    fleet.run("orders", "CREATE TABLE t(a); INSERT INTO t VALUES (1), (2)");

    // Another program can read the file.
    let theirs = Connection::open(fleet.plane.root().join("default/orders/data.db")).unwrap();
    assert_eq!(theirs.query_row("SELECT sum(a) FROM t", [], |row| row.get::<_, i64>(0)).unwrap(), 3);
    let found = fleet.plane.get_database("orders").unwrap();
    assert_eq!((found.id, found.state, found.size_limit), (made.id, DatabaseState::Ready, None));
    fleet.assert_no_debris();
}

#[test]
fn documented_error_texts_are_used_verbatim() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let new = |name, group| fleet.plane.create_database(CreateDatabaseInput::new(name, group));
    for (answer, expected) in [
        (new("other", "nowhere").map(|_| ()), (ErrorKind::NotFound, "group not found")),
        (
            new("orders", "default").map(|_| ()),
            (ErrorKind::AlreadyExists, "database with name orders already exists"),
        ),
        (fleet.plane.create_group("default").map(|_| ()), (ErrorKind::AlreadyExists, "group already exists")),
        (fleet.plane.get_group("nowhere").map(|_| ()), (ErrorKind::NotFound, "group not found")),
        (
            fleet.plane.get_database("gone").map(|_| ()),
            (ErrorKind::NotFound, "could not find database with name gone: record not found"),
        ),
        (
            fleet.plane.destroy_database("gone"),
            (ErrorKind::NotFound, "could not find database with name gone: record not found"),
        ),
    ] {
        assert_eq!(refused(answer), (expected.0, expected.1.to_owned()));
    }
    fleet.assert_no_debris();
}

#[test]
fn invalid_request_leaves_nothing() {
    let fleet = Fleet::new();
    let no_cipher = r#"{"name":"a","group":"default","remote_encryption":
        {"encryption_key":"AAAAAAAAAAAAAAAAAAAAAA=="}}"#;
    let at = r#"{"name":"a","group":"default","seed":{"type":"database","name":"a","timestamp":"2023-12-20T09:46:08Z"}}"#;
    for (body, kind) in [(no_cipher, ErrorKind::Invalid), (at, ErrorKind::NotFound)] {
        let input: CreateDatabaseInput = serde_json::from_str(body).unwrap();
        assert_eq!(refused(fleet.plane.create_database(input)).0, kind);
    }
    for (name, group) in [("A", "default"), ("", "default"), ("../x", "default"), ("a", "../../x"), ("a", "")]
    {
        let answer = fleet.plane.create_database(CreateDatabaseInput::new(name, group));
        assert_eq!(refused(answer).0, ErrorKind::Invalid, "{name:?} {group:?}");
    }
    let input: CreateDatabaseInput = serde_json::from_str(r#"{"name":"a"}"#).unwrap();
    assert_eq!(refused(fleet.plane.create_database(input)), (ErrorKind::Invalid, "group is required".into()));
    assert!(fleet.plane.list_databases(ListDatabases::default()).unwrap().is_empty());
    assert!(!fleet.plane.root().join("default").exists());
    fleet.assert_no_debris();
}

#[test]
fn requests_of_documentation_and_clients_parse() {
    let requests: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("../../fixtures/openapi/requests.json")).unwrap();
    for request in requests {
        let what = &request["what"];
        let body = request["body"].to_string();
        let read = CreateDatabaseInput::read(&mut serde_json::Deserializer::from_str(&body));
        if let Some(complaint) = request["complaint"].as_str() {
            let (kind, text) = refused(read);
            assert_eq!(kind, ErrorKind::Invalid, "{what}");
            assert!(text.contains(complaint), "{what}: {text}");
            assert!(!text.contains("c2Vj"), "{what}: the output contains a key");
            continue;
        }
        // Serialized requests include the key, debug output does not.
        let read = read.unwrap();
        let expected = request.get("read").unwrap_or(&request["body"]);
        assert_eq!(&serde_json::to_value(&read).unwrap(), expected, "{what}");
        assert!(!format!("{read:?}").contains("AAAA"), "{what}: the output contains a key");
    }
}

#[test]
fn delete_protection_applies_to_database_and_group() {
    let fleet = Fleet::new();
    fleet.create("orders");
    fleet.plane.configure_database("orders", DatabaseChanges::default().delete_protection(true)).unwrap();
    let protected =
        (ErrorKind::Protected, "database orders is delete-protected and cannot be deleted".to_owned());
    assert_eq!(refused(fleet.plane.destroy_database("orders")), protected);
    assert_eq!(refused(fleet.plane.destroy_group("default")), protected);
    fleet.plane.configure_database("orders", DatabaseChanges::default().delete_protection(false)).unwrap();
    fleet.plane.configure_group("default", GroupChanges::default().delete_protection(true)).unwrap();
    let protected =
        (ErrorKind::Protected, "group default is delete-protected and cannot be deleted".to_owned());
    assert_eq!(refused(fleet.plane.destroy_database("orders")), protected);
    assert_eq!(refused(fleet.plane.destroy_group("default")), protected);
    assert!(fleet.plane.get_group("default").unwrap().delete_protection);
    fleet.plane.configure_group("default", GroupChanges::default().delete_protection(false)).unwrap();
    fleet.run("orders", "CREATE TABLE still_here(a)");
    fleet.plane.destroy_database("orders").unwrap();
    fleet.assert_no_debris();
}

#[test]
fn destroy_group_destroys_only_its_databases() {
    let fleet = Fleet::new();
    fleet.plane.create_group("other").unwrap();
    fleet.create("a");
    fleet.create("b");
    fleet.plane.create_database(CreateDatabaseInput::new("c", "other")).unwrap();
    let open = fleet.connect("a");
    fleet.plane.destroy_group("default").unwrap();
    assert_eq!(refused(fleet.plane.get_group("default")).0, ErrorKind::NotFound);
    assert_eq!(refused(fleet.plane.get_database("a")).0, ErrorKind::NotFound);
    fleet.plane.get_database("c").unwrap();
    let error = open.execute_batch("CREATE TABLE t(a)").unwrap_err();
    assert_eq!(litefleet::Error::from_sqlite(&open, error).kind(), ErrorKind::Destroyed);
    fleet.assert_no_debris();
    fleet.plane.create_group("default").unwrap();
    fleet.create("a");
}

#[test]
fn name_is_free_after_destroy() {
    let fleet = Fleet::new();
    let mut ids = std::collections::BTreeSet::new();
    for round in 0..20 {
        let made = fleet.plane.create_database(CreateDatabaseInput::new("orders", "default")).unwrap();
        assert!(ids.insert(made.id));
        let connection = fleet.connect("orders");
        connection.execute_batch(&format!("CREATE TABLE t AS SELECT {round} AS round")).unwrap();
        fleet.plane.destroy_database("orders").unwrap();
        assert_eq!(refused(fleet.plane.connect("orders", ConnectOptions::default())).0, ErrorKind::NotFound);
    }
    fleet.assert_no_debris();
}

#[test]
fn threads_racing_for_a_name_have_one_winner() {
    let fleet = Fleet::new();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| fleet.plane.create_database(CreateDatabaseInput::new("orders", "default")))
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    assert!(lost.into_iter().all(|answer| answer.unwrap_err().kind() == ErrorKind::AlreadyExists));
    fleet.assert_no_debris();
}

#[test]
fn root_reopens_and_a_file_is_no_root() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let root = fleet.plane.root().to_owned();
    drop(fleet.plane);
    let plane = ControlPlane::builder().domain("fleet.example").open(&root).unwrap();
    assert_eq!(plane.get_database("orders").unwrap().hostname, "orders.fleet.example");
    assert_eq!(refused(ControlPlane::open(root.join("control.db"))).0, ErrorKind::Io);
}
