//! A root written by an earlier release opens, restores and verifies as it did with that release.

use std::{
    fs::{self, File, FileTimes},
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use litefleet::{
    ConnectOptions, ControlPlane, CreateDatabaseInput, EncryptionKey, ErrorKind, ListDatabases,
    MaintainOptions, RemoteEncryption, Result, Seed, Timestamp, VerifyOptions, rusqlite::Connection,
};
use tempfile::TempDir;

const ROOT: &[u8] = include_bytes!("../../fixtures/roots/8184d97.tar.zst");
const FACTS: &str = include_str!("../../fixtures/roots/8184d97.txt");

/// The databases of the root, with the key length of the encrypted ones.
const DATABASES: [(&str, Option<usize>); 4] =
    [("plain", None), ("sealed", Some(32)), ("interchange", Some(32)), ("pruned", None)];

/// Unpacks the root with its original modes and modification times.
fn unpack() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut archive = tar::Archive::new(zstd::Decoder::new(ROOT).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let extensions = entry.pax_extensions().unwrap().unwrap();
        let modified = extensions
            .map(|extension| extension.unwrap())
            .find(|extension| extension.key() == Ok("mtime"))
            .map(|extension| nanoseconds(extension.value().unwrap()));
        assert!(entry.unpack_in(dir.path()).unwrap());
        if entry.header().entry_type().is_file() {
            let file = File::options().write(true).open(dir.path().join(entry.path().unwrap())).unwrap();
            let modified = UNIX_EPOCH + Duration::from_nanos(modified.unwrap());
            file.set_times(FileTimes::new().set_modified(modified)).unwrap();
        }
    }
    dir
}

/// Parses a PAX time, `seconds.fraction`.
fn nanoseconds(text: &str) -> u64 {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    seconds.parse::<u64>().unwrap() * 1_000_000_000 + format!("{fraction:0<9}").parse::<u64>().unwrap()
}

fn key(name: &str) -> Option<EncryptionKey> {
    let (_, len) = DATABASES.iter().find(|(database, _)| *database == name).unwrap();
    len.map(|len| EncryptionKey::from_bytes(&vec![7; len]).unwrap())
}

fn options(name: &str) -> ConnectOptions {
    key(name).map_or_else(ConnectOptions::default, |key| ConnectOptions::default().encryption_key(key))
}

fn read(connection: &Connection) -> String {
    let sql = "SELECT count(*), coalesce(sum(id * length(value) + unicode(value)), 0) FROM t";
    connection
        .query_row(sql, [], |row| Ok(format!("{} {}", row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
        .unwrap()
}

fn viewed(plane: &ControlPlane, name: &str, at: Timestamp) -> Result<String> {
    plane.connect_at(name, at, options(name)).map(|(view, _)| read(&view))
}

fn restored(plane: &ControlPlane, name: &str, at: Timestamp) -> Result<String> {
    let group = plane.get_database(name)?.group;
    let mut input =
        CreateDatabaseInput::new("restored", group.to_string()).with_seed(Seed::database_at(name, at));
    if let Some(key) = key(name) {
        input = input.with_encryption(RemoteEncryption::inherit_cipher(key));
    }
    plane.create_database(input)?;
    let answer = read(&plane.connect("restored", options(name))?);
    plane.destroy_database("restored")?;
    Ok(answer)
}

/// Checks every recorded instant of a database against the recorded contents.
fn check(
    plane: &ControlPlane,
    name: &str,
    answer: impl Fn(&ControlPlane, &str, Timestamp) -> Result<String>,
) {
    let mut checked = 0;
    for fact in FACTS.lines() {
        let (database, fact) = fact.split_once(' ').unwrap();
        if database != name {
            continue;
        }
        let (at, expected) = fact.split_once(' ').unwrap();
        match answer(plane, name, at.parse().unwrap()) {
            Ok(found) => assert_eq!(found, expected, "{name} at {at}"),
            Err(error) if expected == "refused" || expected == "outside_window" => {
                assert_eq!(error.kind(), ErrorKind::OutsideWindow, "{name} at {at}: {error}");
            }
            Err(error) => panic!("{name} at {at}: {error}"),
        }
        checked += 1;
    }
    assert!(checked > 10, "{name}: {checked} facts");
}

fn verify(plane: &ControlPlane, name: &str) {
    let options =
        key(name).map_or_else(VerifyOptions::default, |key| VerifyOptions::default().encryption_key(key));
    let verified = plane.verify_database(name, options).unwrap();
    let findings: Vec<_> = verified.findings.iter().map(ToString::to_string).collect();
    assert_eq!(findings, [""; 0], "{name}");
    assert!(verified.commits > 10, "{name}: {verified:?}");
}

#[test]
fn root_of_an_earlier_release_opens_restores_and_verifies() {
    let dir = unpack();
    let plane = ControlPlane::open(dir.path().join("root")).unwrap();
    let names: Vec<_> = plane
        .list_databases(ListDatabases::default())
        .unwrap()
        .into_iter()
        .map(|it| it.name.to_string())
        .collect();
    assert_eq!(names, ["branch", "draft", "interchange", "plain", "pruned", "sealed", "unwritten"]);
    let group = plane.get_database("sealed").unwrap().group.to_string();
    assert_eq!(group, "after", "a renamed group");
    for (name, _) in DATABASES {
        verify(&plane, name);
        check(&plane, name, viewed);
        check(&plane, name, restored);
    }
    // The histories continue where they ended, and maintenance changes no answer.
    for (name, _) in DATABASES {
        let connection = plane.connect(name, options(name)).unwrap();
        let before = read(&connection);
        let noted = Timestamp::now();
        connection.execute_batch("UPDATE t SET value = 'after the upgrade' WHERE id = 1").unwrap();
        drop(connection);
        plane.maintain_database(name, MaintainOptions::default()).unwrap();
        assert_eq!(viewed(&plane, name, noted).unwrap(), before, "{name}");
        check(&plane, name, viewed);
        verify(&plane, name);
    }
    assert!(fs::exists(Path::new(dir.path()).join("root/before/sealed/data.db")).unwrap());
}
