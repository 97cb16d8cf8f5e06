//! An archive that belongs to another database is refused by every reader and set aside by writers.

use std::{collections::BTreeMap, fs, path::Path};

use litefleet::{
    Cipher, CreateDatabaseInput, ErrorKind, ExportOptions, MaintainOptions, RemoteEncryption, RestoreOptions,
    Result, Seed, Timestamp, VerifyOptions,
};

use crate::{
    maintain::{restart_wal, set_window},
    support::{Ledger, State, contents, now},
};

const CIPHERS: [Option<Cipher>; 2] = [None, Some(Cipher::Aegis256)];

/// Two databases with a history each: `orders`, whose states are known, and `other`. If encrypted, `other` is a fork
/// of `orders` under its key, so that only the id distinguishes their pages.
fn pair(cipher: Option<Cipher>) -> Ledger {
    let mut ledger = Ledger::new(cipher);
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
    for _ in 0..3 {
        ledger.commit(&connection, "INSERT INTO t(value) VALUES ('orders')");
        restart_wal(&connection);
    }
    drop(connection);
    let mut input = CreateDatabaseInput::fork("other", "orders");
    if let Some(key) = &ledger.key {
        input = input.with_encryption(RemoteEncryption::inherit_cipher(key.clone()));
    }
    ledger.plane.create_database(input).unwrap();
    let other = ledger.plane.connect("other", ledger.options()).unwrap();
    for _ in 0..4 {
        other.execute_batch("INSERT INTO t(value) VALUES ('other')").unwrap();
        restart_wal(&other);
    }
    drop(other);
    let connection = ledger.connect();
    ledger.commit(&connection, "INSERT INTO t(value) VALUES ('last')");
    drop(connection);
    ledger
}

/// Exchanges the archives of the two databases.
fn swap(ledger: &Ledger) {
    let (ours, theirs) = (ledger.database_dir(), ledger.database_dir().with_file_name("other"));
    let aside = ours.join("swapped");
    fs::rename(ours.join("archive"), &aside).unwrap();
    fs::rename(theirs.join("archive"), ours.join("archive")).unwrap();
    fs::rename(aside, theirs.join("archive")).unwrap();
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap()))
        .collect()
}

fn verify(ledger: &Ledger, name: &str) -> Vec<String> {
    let options = match &ledger.key {
        Some(key) => VerifyOptions::default().encryption_key(key.clone()),
        None => VerifyOptions::default(),
    };
    let verified = ledger.plane.verify_database(name, options).unwrap();
    verified.findings.iter().map(ToString::to_string).collect()
}

type Read = fn(&Ledger, &str, Timestamp) -> Result<()>;

/// Every operation that reads a history.
const READERS: &[(&str, Read)] = &[
    ("points", |ledger, name, _| ledger.plane.points(name, ..).map(|_| ())),
    ("view", |ledger, name, at| ledger.plane.connect_at(name, at, ledger.options()).map(|_| ())),
    ("fork", |ledger, name, at| {
        let mut input = CreateDatabaseInput::new("past", "default").with_seed(Seed::database_at(name, at));
        if let Some(key) = &ledger.key {
            input = input.with_encryption(RemoteEncryption::inherit_cipher(key.clone()));
        }
        ledger.plane.create_database(input)?;
        ledger.plane.destroy_database("past")
    }),
    ("restore", |ledger, name, at| {
        ledger.plane.restore_database(name, at, RestoreOptions::from(ledger.options())).map(|_| ())
    }),
    ("export", |ledger, name, at| {
        let out = ledger.database_dir().with_file_name("out.db");
        let mut options = ExportOptions::default().at(at);
        if let Some(key) = &ledger.key {
            options = options.encryption_key(key.clone()).decrypt(true);
        }
        ledger.plane.export_database(name, &out, options)?;
        fs::remove_file(out).unwrap();
        Ok(())
    }),
    ("export as stored", |ledger, name, at| {
        let out = ledger.database_dir().with_file_name("out.db");
        ledger.plane.export_database(name, &out, ExportOptions::default().at(at))?;
        fs::remove_file(out).unwrap();
        Ok(())
    }),
    ("maintain", |ledger, name, _| {
        ledger.plane.maintain_database(name, MaintainOptions::default()).map(|_| ())
    }),
];

/// Checks that every reader refuses the archive and names its directory.
fn every_reader_refuses(ledger: &Ledger, name: &str, context: &str) {
    let archive = ledger.database_dir().with_file_name(name).join("archive");
    let before = files(&archive);
    for at in [ledger.states[2].from, ledger.states.last().unwrap().from, now()] {
        for (reader, read) in READERS {
            let error = read(ledger, name, at).expect_err(&format!("{context}: {reader} of {name} at {at}"));
            let message = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{context}: {reader}: {message}");
            assert!(message.contains("another database"), "{context}: {reader}: {message}");
            assert!(message.contains(archive.to_str().unwrap()), "{context}: {reader}: {message}");
        }
    }
    let found = verify(ledger, name);
    assert_eq!(found.len(), 1, "{context}: {found:?}");
    assert!(found[0].starts_with(archive.to_str().unwrap()) && found[0].contains("another database"));
    assert!(files(&archive) == before, "{context}: reading changed the archive");
}

#[test]
fn every_reader_refuses_archive_of_another_database() {
    for cipher in CIPHERS {
        let mut ledger = pair(cipher);
        swap(&ledger);
        for name in ["orders", "other"] {
            every_reader_refuses(&ledger, name, &format!("{cipher:?}"));
        }
        // A crash between two renames leaves no live stamps.
        let archive = ledger.database_dir().join("archive");
        let numbers = files(&archive).into_keys().filter(|name| name.ends_with("stamps")).count();
        let numbered = archive.join(format!("{numbers:012}.stamps"));
        fs::rename(archive.join("live.stamps"), &numbered).unwrap();
        every_reader_refuses(&ledger, "orders", &format!("{cipher:?}, without live stamps"));
        fs::rename(&numbered, archive.join("live.stamps")).unwrap();
        // Maintenance removes nothing, even if no history is to be kept.
        set_window(&ledger, "off");
        let before = files(&archive);
        let error = ledger.plane.maintain_database("orders", MaintainOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(files(&archive) == before);
        set_window(&ledger, "1h");
        swap(&ledger);
        ledger.check_all();
        for name in ["orders", "other"] {
            assert_eq!(verify(&ledger, name), [""; 0], "{cipher:?}");
        }
    }
}

#[test]
fn first_commit_sets_archive_of_another_database_aside() {
    for cipher in CIPHERS {
        let mut ledger = pair(cipher);
        for round in 1..=2 {
            swap(&ledger);
            let dir = ledger.database_dir();
            let theirs = files(&dir.join("archive"));
            let before = now();
            let connection = ledger.connect();
            connection.execute_batch("INSERT INTO t(value) VALUES ('gap')").unwrap();
            let found = contents(&connection);
            ledger.states = vec![State { from: now(), to: now(), contents: found }];
            ledger.commit(&connection, "INSERT INTO t(value) VALUES ('after')");
            assert!(files(&dir.join(format!("archive.foreign-{round}"))) == theirs, "{cipher:?}");
            let points = ledger.plane.points("orders", ..).unwrap();
            assert_eq!((points.points.len(), points.windows.len()), (2, 1), "{points:?}");
            assert!(points.windows[0].from > before);
            let refused = ledger.contents_at(before).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::OutsideWindow, "{refused}");
            ledger.check_all();
            drop(connection);
            ledger.check_all();
            ledger.check_windows();
            assert_eq!(verify(&ledger, "orders"), [""; 0], "{cipher:?}");
            // The owner's archive is intact. In the second round the WAL has ended before the archive is set aside.
            let owners = dir.with_file_name("other").join("archive");
            fs::remove_dir_all(&owners).unwrap();
            fs::rename(dir.join(format!("archive.foreign-{round}")), &owners).unwrap();
            fs::create_dir(dir.join(format!("archive.foreign-{round}"))).unwrap();
            assert_eq!(verify(&ledger, "other"), [""; 0], "{cipher:?}");
        }
    }
}

#[test]
fn close_leaves_archive_of_another_database_unchanged() {
    for cipher in CIPHERS {
        let ledger = pair(cipher);
        let connection = ledger.connect();
        connection.execute_batch("INSERT INTO t(value) VALUES ('open')").unwrap();
        swap(&ledger);
        let theirs = files(&ledger.database_dir().join("archive"));
        drop(connection);
        assert!(files(&ledger.database_dir().join("archive")) == theirs);
        assert!(!ledger.database_dir().join("archive.foreign-1").exists());
        let connection = ledger.connect();
        let rows: u32 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 5);
    }
}

/// Replaces each file of an archive with the file of that name from the other archive. Restores must return correct
/// contents or fail.
#[test]
fn single_file_of_another_database_is_detected_or_harmless() {
    for cipher in CIPHERS {
        let mut ledger = pair(cipher);
        ledger.check_all();
        let (ours, theirs) = (
            ledger.database_dir().join("archive"),
            ledger.database_dir().with_file_name("other").join("archive"),
        );
        // Create indexes in both archives.
        let last = ledger.plane.points("other", ..).unwrap().points.last().unwrap().at;
        ledger.plane.connect_at("other", last, ledger.options()).unwrap();
        for (name, own) in files(&ours) {
            let Ok(foreign) = fs::read(theirs.join(&name)) else { continue };
            let same = foreign == own;
            fs::write(ours.join(&name), foreign).unwrap();
            let mut refused = 0;
            for state in ledger.states.clone() {
                match ledger.contents_at(state.from) {
                    Ok(found) => assert!(found == state.contents, "{cipher:?}: {name} at {}", state.from),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Corrupt, "{cipher:?}: {name}: {error}");
                        refused += 1;
                    }
                }
            }
            let is_found = !verify(&ledger, "orders").is_empty();
            // The first snapshots may be equal empty databases, and an index that does not match its segment is
            // rebuilt.
            let is_needed = !(same || name.ends_with("index"));
            assert!(!is_needed || is_found && refused > 0, "{cipher:?}: {name}");
            fs::write(ours.join(&name), own).unwrap();
        }
        ledger.check_all();
        assert_eq!(verify(&ledger, "orders"), [""; 0]);
    }
}

#[test]
fn foreign_live_stamps_do_not_hide_own_generations() {
    let mut ledger = pair(None);
    let (ours, theirs) = (
        ledger.database_dir().join("archive"),
        ledger.database_dir().with_file_name("other").join("archive"),
    );
    let state = ledger.states[2].clone();
    fs::copy(theirs.join("live.stamps"), ours.join("live.stamps")).unwrap();
    let error = ledger.contents_at(state.from).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let connection = ledger.connect();
    ledger.commit(&connection, "INSERT INTO t(value) VALUES ('after')");
    assert!(!ledger.database_dir().join("archive.foreign-1").exists());
    assert!(ledger.contents_at(state.from).unwrap() == state.contents);
    let last = ledger.states.last().unwrap().clone();
    assert!(ledger.contents_at(last.from).unwrap() == last.contents);
    let retained = Path::new("retained");
    fs::write(ours.join(retained), retained_of(7)).unwrap();
    let error = ledger.contents_at(last.from).unwrap_err();
    assert!(error.to_string().contains("retained") && error.kind() == ErrorKind::Corrupt, "{error}");
    assert!(verify(&ledger, "orders").iter().any(|finding| finding.contains("retained")));
    // Writes continue.
    ledger.commit(&connection, "INSERT INTO t(value) VALUES ('later')");
}

/// The bytes of a retention mark of the given database that prunes its first two generations.
fn retained_of(database: u64) -> Vec<u8> {
    let words = [u64::from_le_bytes(*b"LFretain"), 3, database, 0];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let sum = xxhash_rust::xxh3::xxh3_64(&bytes);
    bytes.extend(sum.to_le_bytes());
    bytes
}
