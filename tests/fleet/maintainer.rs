//! The thread that maintains a fleet.

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

/// A fleet with databases, each of which has a history.
fn fleet(names: &[&str]) -> (tempfile::TempDir, ControlPlane) {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::open(dir.path()).unwrap();
    plane.create_group("default").unwrap();
    for name in names {
        plane.create_database(CreateDatabaseInput::new(*name, "default")).unwrap();
        for _ in 0..2 {
            let connection = plane.connect(name, &ConnectOptions::default()).unwrap();
            connection.execute_batch("CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES (1)").unwrap();
        }
    }
    (dir, plane)
}

#[test]
fn every_database_is_maintained_whatever_fails_with_others() {
    let (dir, plane) = fleet(&["a", "b", "c"]);
    let draft = CreateDatabaseInput::new("draft", "default").with_seed(Seed::DatabaseUpload);
    plane.create_database(draft).unwrap();
    let off = DatabaseChanges::default().history_window(Some(Retention::OFF));
    for name in ["a", "c"] {
        plane.configure_database(name, off).unwrap();
    }
    std::fs::write(dir.path().join("default/b/archive/live.stamps"), "nothing").unwrap();
    let history = plane.history_size("a").unwrap();
    let (told, telling) = mpsc::channel();
    let options = MaintainerOptions::every(Duration::from_millis(10)).report(move |name, done| {
        let _nobody_listens_any_more =
            told.send((name.to_string(), done.as_ref().err().map(litefleet::Error::kind)));
    });
    let maintainer = Maintainer::start(plane.clone(), options).unwrap();
    while maintainer.figures().is_none() {
        telling.recv_timeout(SOON).unwrap();
    }
    let mut seen = HashSet::new();
    while seen.len() < 3 {
        seen.insert(telling.recv_timeout(SOON).unwrap());
    }
    let expected = [("a", None), ("b", Some(ErrorKind::Corrupt)), ("c", None)];
    assert_eq!(seen, expected.map(|(name, kind)| (name.to_owned(), kind)).into());
    let figures = maintainer.figures().unwrap();
    assert_eq!((figures.databases, figures.drafts, figures.failed), (3, 1, 1), "{figures:?}");
    assert!(plane.history_size("a").unwrap() < history);
    // It calls nobody when it was dropped.
    drop(maintainer);
    while telling.try_recv().is_ok() {}
    assert_eq!(telling.recv_timeout(Duration::from_millis(50)), Err(RecvTimeoutError::Disconnected));
}

#[test]
fn a_period_of_zero_is_refused() {
    let (_dir, plane) = fleet(&[]);
    let error = Maintainer::start(plane, MaintainerOptions::every(Duration::ZERO)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}
