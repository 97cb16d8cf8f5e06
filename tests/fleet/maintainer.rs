//! The background thread that maintains a fleet.

use std::{
    collections::HashSet,
    sync::mpsc::{self, RecvTimeoutError},
    time::Duration,
};

use litefleet::{
    ConnectOptions, ControlPlane, CreateDatabaseInput, DatabaseChanges, ErrorKind, Maintainer,
    MaintainerOptions, Retention, Seed,
};

const SOON: Duration = Duration::from_secs(60);

/// A fleet of databases with histories.
fn fleet(names: &[&str]) -> (tempfile::TempDir, ControlPlane) {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::open(dir.path()).unwrap();
    plane.create_group("default").unwrap();
    for name in names {
        plane.create_database(CreateDatabaseInput::new(*name, "default")).unwrap();
        for _ in 0..2 {
            let connection = plane.connect(name, ConnectOptions::default()).unwrap();
            connection.execute_batch("CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES (1)").unwrap();
        }
    }
    (dir, plane)
}

#[test]
fn maintainer_continues_after_a_failure() {
    let (dir, plane) = fleet(&["a", "b", "c"]);
    let draft = CreateDatabaseInput::new("draft", "default").with_seed(Seed::DatabaseUpload);
    plane.create_database(draft).unwrap();
    let off = DatabaseChanges::default().history_window(Retention::OFF);
    for name in ["a", "c"] {
        plane.configure_database(name, off).unwrap();
    }
    std::fs::write(dir.path().join("default/b/archive/live.stamps"), "nothing").unwrap();
    let history = plane.history_size("a").unwrap();
    let (sender, receiver) = mpsc::channel();
    let options = MaintainerOptions::every(Duration::from_millis(10)).report(move |name, done| {
        let _receiver_may_be_gone =
            sender.send((name.to_string(), done.as_ref().err().map(litefleet::Error::kind)));
    });
    let maintainer = Maintainer::start(plane.clone(), options).unwrap();
    while maintainer.figures().is_none() {
        receiver.recv_timeout(SOON).unwrap();
    }
    let mut seen = HashSet::new();
    while seen.len() < 3 {
        seen.insert(receiver.recv_timeout(SOON).unwrap());
    }
    let expected = [("a", None), ("b", Some(ErrorKind::Corrupt)), ("c", None)];
    assert_eq!(seen, expected.map(|(name, kind)| (name.to_owned(), kind)).into());
    let figures = maintainer.figures().unwrap();
    assert_eq!((figures.databases, figures.drafts, figures.failed), (3, 1, 1), "{figures:?}");
    assert!(plane.history_size("a").unwrap() < history);
    // After the drop it makes no further calls.
    drop(maintainer);
    while receiver.try_recv().is_ok() {}
    assert_eq!(receiver.recv_timeout(Duration::from_millis(50)), Err(RecvTimeoutError::Disconnected));
}

#[test]
fn maintainer_refuses_a_period_of_zero() {
    let (_dir, plane) = fleet(&[]);
    let error = Maintainer::start(plane, MaintainerOptions::every(Duration::ZERO)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}
