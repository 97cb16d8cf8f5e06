//! Drafts, and uploads that fail or are cancelled.

use std::{fs, ops::ControlFlow};

use litefleet::{
    ConnectOptions, DatabaseState, ErrorKind, ListDatabases, Phase, Seed, Upload, UploadOptions,
    rusqlite::Connection,
};

use crate::{
    import::{assert_imported, file, input},
    support::{Fleet, refused},
};

#[test]
fn draft_accepts_one_upload() {
    let fleet = Fleet::new();
    let path = file(&fleet, "some", "");
    let draft = input("orders").with_seed(Seed::DatabaseUpload);
    let made = fleet.plane.create_database(draft.clone()).unwrap();
    assert_eq!(fleet.plane.get_database("orders").unwrap().state, DatabaseState::Draft);
    assert_eq!(fleet.plane.list_databases(ListDatabases::default()).unwrap().len(), 1);
    assert_eq!(refused(fleet.plane.connect("orders", ConnectOptions::default())).0, ErrorKind::Invalid);
    assert_eq!(refused(fleet.plane.create_database(draft)).0, ErrorKind::AlreadyExists);
    fleet.assert_no_debris();

    // A failed upload leaves the draft unchanged.
    assert_eq!(
        refused(fleet.plane.upload_database("orders", &mut &b"nonsense"[..], UploadOptions::default())).0,
        ErrorKind::Invalid
    );
    assert_eq!(fleet.plane.get_database("orders").unwrap().state, DatabaseState::Draft);
    fleet.assert_no_debris();
    fleet
        .plane
        .upload_database("orders", &mut fs::File::open(&path).unwrap(), UploadOptions::default())
        .unwrap();
    let found = fleet.plane.get_database("orders").unwrap();
    assert_eq!((found.state, found.id), (DatabaseState::Ready, made.id));
    assert_imported(&fleet, "orders", &path);
    let again = refused(fleet.plane.upload_database(
        "orders",
        &mut fs::File::open(&path).unwrap(),
        UploadOptions::default(),
    ));
    assert_eq!(again.0, ErrorKind::AlreadyExists, "{}", again.1);

    fleet.plane.create_database(input("other").with_seed(Seed::DatabaseUpload)).unwrap();
    fleet.plane.destroy_database("other").unwrap();
    fleet.assert_no_debris();
}

/// A stream that fails after a few reads.
struct Breaks(u64);

impl std::io::Read for Breaks {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0 += 1;
        if self.0 > 3 { Err(std::io::Error::other("the line went dead")) } else { Ok(buffer.len()) }
    }
}

#[test]
fn failed_or_cancelled_upload_leaves_nothing() {
    let fleet = Fleet::new();
    let path = fleet.dir.path().join("large");
    Connection::open(&path)
        .unwrap()
        .execute_batch(
            "CREATE TABLE t(a, b); CREATE INDEX i ON t(b); WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL
             SELECT i + 1 FROM n WHERE i < 300000) INSERT INTO t SELECT i, hex(randomblob(20)) FROM n",
        )
        .unwrap();
    let (kind, text) = refused(fleet.plane.import_database(input("a"), Upload::Reader(&mut Breaks(0))));
    assert_eq!(kind, ErrorKind::Io);
    assert!(text.contains("the line went dead"), "{text}");
    fleet.assert_no_debris();
    for stop_at in [Phase::Copy, Phase::Check, Phase::Sync] {
        let mut seen = 0;
        let answer = fleet.plane.import_database(
            input("a").progress(|progress| {
                seen += i32::from(progress.phase == stop_at);
                // The check reports progress once when it begins, then while it runs.
                if seen > i32::from(stop_at == Phase::Check) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            }),
            path.as_path(),
        );
        match answer {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled, "{stop_at:?}"),
            // The check may finish before it reports progress again.
            Ok(_) if stop_at == Phase::Check => fleet.plane.destroy_database("a").unwrap(),
            Ok(_) => panic!("{stop_at:?} was not cancelled"),
        }
        fleet.assert_no_debris();
    }
}
