//! Retention windows of groups and databases, and histories that are turned off and on.

use litefleet::{
    Cipher, CreateDatabaseInput, DatabaseChanges, ErrorKind, GroupChanges, MaintainOptions, Retention, Seed,
    Timestamp, rusqlite::Connection,
};

use crate::support::{Ledger, files, now};

const CIPHERS: [Option<Cipher>; 2] = [None, Some(Cipher::Aegis256)];

fn window(text: &str) -> Retention {
    text.parse().unwrap()
}

fn set(ledger: &Ledger, window: Option<Retention>) {
    let changes = DatabaseChanges::default();
    let changes = window.map_or(changes.inherit_history_window(), |window| changes.history_window(window));
    ledger.plane.configure_database("orders", changes).unwrap();
}

#[test]
fn database_inherits_group_window_unless_it_has_its_own() {
    let ledger = Ledger::plain();
    let plane = &ledger.plane;
    let of = |name: &str| {
        let database = plane.get_database(name).unwrap();
        (database.history_window.to_string(), database.inherits_history_window)
    };
    assert_eq!(of("orders"), ("24h".into(), true));
    assert_eq!(plane.get_group("default").unwrap().history_window, Retention::default());
    assert_eq!(
        plane
            .configure_group("default", GroupChanges::default().history_window(window("7d")))
            .unwrap()
            .history_window,
        window("7d")
    );
    assert_eq!(of("orders"), ("7d".into(), true));
    set(&ledger, Some(window("90m")));
    assert_eq!(of("orders"), ("90m".into(), false));
    plane.configure_group("default", GroupChanges::default().history_window(window("0"))).unwrap();
    assert_eq!(of("orders"), ("90m".into(), false));
    // Other changes leave the window unchanged, and a fork inherits the window of the group.
    plane.configure_database("orders", DatabaseChanges::default().block_writes(false)).unwrap();
    plane.create_database(CreateDatabaseInput::fork("fork", "orders")).unwrap();
    assert_eq!((of("orders"), of("fork")), (("90m".into(), false), ("off".into(), true)));
    set(&ledger, None);
    assert_eq!(of("orders"), ("off".into(), true));
    let json = serde_json::to_value(plane.get_database("orders").unwrap()).unwrap();
    assert_eq!((&json["history_window"], &json["inherits_history_window"]), (&"off".into(), &true.into()));
    let none =
        plane.configure_group("none", GroupChanges::default().history_window(window("1h"))).unwrap_err();
    assert_eq!((none.kind(), none.to_string().as_str()), (ErrorKind::NotFound, "group not found"));
}

/// Checks that an instant cannot be restored.
fn refused(ledger: &mut Ledger, at: Timestamp) {
    let error = ledger.restore(at).expect_err("the contents at this instant are unknown");
    assert_eq!(error.kind(), ErrorKind::OutsideWindow, "{error}");
}

fn checkpoint(connection: &Connection, mode: &str) {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
}

/// What ends the WAL while the history is off.
const MEANWHILE: [&str; 4] = ["nothing", "RESTART", "TRUNCATE", "close"];

#[test]
fn open_connections_follow_when_history_is_turned_off_and_on() {
    for (cipher, meanwhile, of_group) in CIPHERS
        .into_iter()
        .flat_map(|cipher| MEANWHILE.map(|meanwhile| (cipher, meanwhile)))
        .flat_map(|(cipher, meanwhile)| [true, false].map(|of_group| (cipher, meanwhile, of_group)))
    {
        let mut ledger = Ledger::new(cipher);
        let turn = |ledger: &Ledger, window: Retention| {
            if of_group {
                ledger
                    .plane
                    .configure_group("default", GroupChanges::default().history_window(window))
                    .unwrap();
            } else {
                set(ledger, Some(window));
            }
        };
        // One connection writes throughout; the other is idle while the history is off.
        let (mut connection, idle) = (ledger.connect(), ledger.connect());
        ledger.commit(&idle, "CREATE TABLE t(a)");
        checkpoint(&connection, "TRUNCATE");
        for value in 0..3 {
            ledger.commit(&connection, &format!("INSERT INTO t VALUES ({value})"));
        }
        checkpoint(&connection, "TRUNCATE");
        ledger.commit(&idle, "INSERT INTO t VALUES ('last')");
        ledger.states.last_mut().unwrap().to = now();
        let before = ledger.states.clone();
        let points = ledger.plane.points("orders", ..).unwrap().points;
        assert_eq!(points.len(), 5);
        turn(&ledger, Retention::OFF);
        let mut idle = Some(idle);
        if meanwhile == "close" {
            (connection, idle) = (ledger.connect(), None);
        }
        connection.execute_batch("INSERT INTO t VALUES ('not kept')").unwrap();
        let in_gap = now();
        if meanwhile == "RESTART" || meanwhile == "TRUNCATE" {
            checkpoint(&connection, meanwhile);
        }
        connection.execute_batch("INSERT INTO t VALUES ('nor this')").unwrap();
        let late_in_gap = now();
        if meanwhile == "close" {
            drop(connection);
            connection = ledger.connect();
        }
        // Neither commits without history nor those in an overwritten WAL have a point.
        let mut listed = points.clone();
        listed.retain(|point| ledger.viewed_at(point.at).is_ok());
        assert_eq!(ledger.plane.points("orders", ..).unwrap().points, listed, "{meanwhile}");
        assert_eq!(listed[..4], points[..4], "{meanwhile}");
        for at in [in_gap, late_in_gap] {
            refused(&mut ledger, at);
        }
        // Archived generations are restorable. The live WAL may have been overwritten.
        for state in &before[..before.len() - 1] {
            assert_eq!(ledger.contents_at(state.from).unwrap(), state.contents, "{meanwhile}");
        }
        let last = before.last().unwrap();
        match ledger.contents_at(last.from) {
            Ok(contents) => assert_eq!(contents, last.contents, "{meanwhile}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::OutsideWindow, "{meanwhile}: {error}"),
        }

        turn(&ledger, window("1h"));
        let states = ledger.states.len();
        ledger.commit(idle.as_ref().unwrap_or(&connection), "INSERT INTO t VALUES ('kept')");
        ledger.commit(&connection, "INSERT INTO t VALUES ('too')");
        let after = ledger.states[states..].to_vec();
        for state in &after {
            assert_eq!(ledger.contents_at(state.from).unwrap(), state.contents, "{meanwhile}");
        }
        for at in [in_gap, late_in_gap] {
            refused(&mut ledger, at);
        }
        checkpoint(&connection, "TRUNCATE");
        drop((connection, idle));
        for state in &after {
            assert_eq!(ledger.contents_at(state.from).unwrap(), state.contents, "{meanwhile}");
        }
    }
}

#[test]
fn idle_connection_archives_wal_after_history_was_turned_on() {
    for (cipher, ending) in
        CIPHERS.into_iter().flat_map(|cipher| ["TRUNCATE", "close"].map(|end| (cipher, end)))
    {
        let mut ledger = Ledger::new(cipher);
        set(&ledger, Some(Retention::OFF));
        let idle = ledger.connect();
        idle.execute_batch("CREATE TABLE t(a)").unwrap();
        set(&ledger, Some(window("1h")));
        let writer = ledger.connect();
        for value in 0..2 {
            ledger.commit(&writer, &format!("INSERT INTO t VALUES ({value})"));
        }
        drop(writer);
        if ending == "TRUNCATE" {
            checkpoint(&idle, ending);
        }
        drop(idle);
        assert_eq!(ledger.plane.points("orders", ..).unwrap().points.len(), 2);
        ledger.states.remove(0);
        ledger.check_all();
    }
}

#[test]
fn instants_without_history_are_refused() {
    for written_before in [false, true] {
        let mut ledger = Ledger::plain();
        ledger
            .plane
            .configure_group("default", GroupChanges::default().history_window(Retention::OFF))
            .unwrap();
        ledger.plane.destroy_database("orders").unwrap();
        ledger.plane.create_database(CreateDatabaseInput::new("orders", "default")).unwrap();
        let born = now();
        let connection = ledger.connect();
        if written_before {
            connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
        } else {
            connection.execute_batch("CREATE TABLE t(a)").unwrap();
        }
        checkpoint(&connection, "TRUNCATE");
        let between = now();
        for at in [born, between] {
            refused(&mut ledger, at);
        }
        assert_eq!(ledger.plane.points("orders", ..).unwrap().windows, []);
        assert!(!ledger.database_dir().join("archive").exists());
        ledger
            .plane
            .configure_group("default", GroupChanges::default().history_window(window("1h")))
            .unwrap();
        for at in [born, between] {
            refused(&mut ledger, at);
        }
        ledger.commit(&connection, "INSERT INTO t VALUES (2)");
        for at in [born, between] {
            refused(&mut ledger, at);
        }
        let last = ledger.states.last().unwrap().clone();
        assert_eq!(ledger.contents_at(last.from).unwrap(), last.contents);
        let windows = ledger.plane.points("orders", ..).unwrap().windows;
        assert!(windows.len() == 1 && between < windows[0].from && windows[0].to.is_none(), "{windows:?}");
    }
}

#[test]
fn maintenance_removes_history_that_is_off() {
    for (cipher, same_log) in CIPHERS.into_iter().flat_map(|cipher| [(cipher, true), (cipher, false)]) {
        let mut ledger = Ledger::new(cipher);
        let connection = ledger.connect();
        ledger.commit(&connection, "CREATE TABLE t(a)");
        checkpoint(&connection, "TRUNCATE");
        ledger.commit(&connection, "INSERT INTO t VALUES (1)");
        let before = ledger.states.clone();
        set(&ledger, Some(Retention::OFF));
        let archive = ledger.database_dir().join("archive");
        assert!(files(&archive).len() > 3);
        let done = ledger.plane.maintain_database("orders", MaintainOptions::default()).unwrap();
        assert!(!done.deferred && done.generations > 0 && done.bytes_freed > 0, "{done:?}");
        assert_eq!(done.windows, []);
        assert_eq!(files(&archive), ["live.stamps", "retained"]);
        for state in &before {
            refused(&mut ledger, state.from);
        }
        connection.execute_batch("INSERT INTO t VALUES ('not kept')").unwrap();
        if !same_log {
            checkpoint(&connection, "TRUNCATE");
        }
        let in_gap = now();
        refused(&mut ledger, in_gap);
        let done = ledger.plane.maintain_database("orders", MaintainOptions::default()).unwrap();
        assert_eq!((done.generations, files(&archive).len()), (0, 2));

        // The next commit starts a new history, in the old WAL or in a new one.
        set(&ledger, None);
        refused(&mut ledger, in_gap);
        let states = ledger.states.len();
        for value in 2..6 {
            ledger.commit(&connection, &format!("INSERT INTO t VALUES ({value})"));
            if value == 3 {
                checkpoint(&connection, "TRUNCATE");
            }
        }
        for maintained in [false, true] {
            if maintained {
                ledger.plane.maintain_database("orders", MaintainOptions::default()).unwrap();
            }
            let after = ledger.states[states..].to_vec();
            for state in &after {
                assert_eq!(ledger.contents_at(state.from).unwrap(), state.contents);
            }
            for at in before.iter().map(|state| state.from).chain([in_gap]) {
                refused(&mut ledger, at);
            }
        }
    }
}

#[test]
fn restored_database_has_its_own_retention() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(a)");
    set(&ledger, Some(window("30s")));
    let at = ledger.states.last().unwrap().from;
    let input = CreateDatabaseInput::new("restored", "default").with_seed(Seed::database_at("orders", at));
    ledger.plane.create_database(input).unwrap();
    let restored = ledger.plane.get_database("restored").unwrap();
    assert_eq!((restored.history_window, restored.inherits_history_window), (Retention::default(), true));
}
