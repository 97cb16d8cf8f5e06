//! Restores a plain database without this crate: with `cp`, `zstd` and `sqlite3`, by the steps of the format
//! document.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use litefleet::rusqlite::{Connection, config::DbConfig};

use crate::{
    deltas::{archive, snapshot, snapshots, with_base},
    maintain::{maintain_a_day_later, restart_wal, with_history},
    support::{Contents, Ledger, contents, files, has_extension},
};

/// The first snapshot, and the segments and live WAL that follow it, in order.
fn logs(ledger: &Ledger) -> (PathBuf, Vec<PathBuf>) {
    let archive = ledger.database_dir().join("archive");
    let mut segments: Vec<_> = fs::read_dir(&archive)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal" || extension == "zst"))
        .collect();
    segments.sort();
    let live = ledger.database_dir().join("data.db-wal");
    segments.extend(live.exists().then_some(live));
    (archive.join("000000000001.db"), segments)
}

/// Checkpoints with the SQLite library of this process and its default VFS.
fn by_library(file: &Path) {
    let connection = Connection::open(file).unwrap();
    let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
    assert_eq!(busy, 0);
}

/// Checkpoints with the `sqlite3` program.
fn by_program(file: &Path) {
    let output = Command::new("sqlite3").arg(file).arg("PRAGMA wal_checkpoint(TRUNCATE)").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0|0|0\n", "{output:?}");
    assert!(output.status.success());
}

fn opened(file: &Path) -> Contents {
    let connection = Connection::open(file).unwrap();
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    contents(&connection)
}

fn log_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// The numbers of the commit frames of a WAL, counted from 1, up to the last frame with the header's salts.
fn commits(log: &[u8], page_size: usize) -> Vec<usize> {
    let frames = log[32..].chunks_exact(24 + page_size).take_while(|frame| frame[8..16] == log[16..24]);
    let commits = (1..).zip(frames).filter(|(_, frame)| frame[4..8] != [0; 4]);
    commits.map(|(number, _)| number).collect()
}

#[test]
fn copy_and_checkpoint_restore_every_commit() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
    for round in 0..12 {
        ledger.commit(&connection, &format!("INSERT INTO t(value) VALUES (randomblob({}))", round * 1500));
        ledger.commit(&connection, &format!("UPDATE t SET value = {round} WHERE id = {round}"));
        match round % 4 {
            1 => ledger.commit(&connection, "DELETE FROM t WHERE id % 3 = 1; VACUUM"),
            2 => connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap(),
            3 => connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap(),
            _ => {}
        }
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    drop(connection);
    assert!(ledger.states.len() > 25);
    restore_by_hand(&mut ledger, 0);
}

#[test]
fn decompressed_segments_restore_every_commit() {
    let (mut ledger, connection) = with_history(None, 5);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    drop(connection);
    assert_eq!(maintain_a_day_later(&ledger).compressed, 4);
    restore_by_hand(&mut ledger, 4);
}

/// The bytes of a WAL or segment. Compressed segments go through the `zstd` program if it is installed, otherwise
/// through the zstd library; neither reads the seek table.
fn log_in(path: &Path) -> Vec<u8> {
    if path.extension().is_none_or(|extension| extension != "zst") {
        return fs::read(path).unwrap();
    }
    match Command::new("zstd").arg("-dc").arg(path).output() {
        Ok(output) => {
            assert!(output.status.success(), "{output:?}");
            output.stdout
        }
        Err(_) => zstd::decode_all(&fs::read(path).unwrap()[..]).unwrap(),
    }
}

/// Restores every commit by hand from a history with `compressed` compressed segments.
fn restore_by_hand(ledger: &mut Ledger, compressed: usize) {
    let points = ledger.plane.points("orders", ..).unwrap().points;
    let states: Vec<_> = points.iter().map(|point| ledger.contents_at(point.at).unwrap()).collect();
    assert_eq!(states.last(), ledger.states.last().map(|state| &state.contents));
    let mut methods: Vec<fn(&Path)> = vec![by_library];
    if Command::new("sqlite3").arg("--version").output().is_ok() {
        methods.push(by_program);
    }
    let (snapshot, logs) = logs(ledger);
    assert!(logs.len() > 5);
    assert_eq!(
        logs.iter().filter(|log| log.extension().is_some_and(|extension| extension == "zst")).count(),
        compressed
    );
    for write in methods {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.db");
        fs::copy(&snapshot, &file).unwrap();
        let mut states = states.iter();
        for log in &logs {
            let bytes = log_in(log);
            // Each commit within the segment, restored from a copy that ends after its commit frame.
            for frame in commits(&bytes, 4096) {
                let part = dir.path().join("part.db");
                fs::copy(&file, &part).unwrap();
                fs::write(log_of(&part), &bytes[..32 + frame * (24 + 4096)]).unwrap();
                write(&part);
                assert!(opened(&part) == *states.next().unwrap(), "{} to frame {frame}", log.display());
            }
            // The whole segment.
            fs::write(log_of(&file), &bytes).unwrap();
            write(&file);
        }
        assert_eq!(states.next(), None);
        assert!(opened(&file) == ledger.states.last().unwrap().contents);
    }
}

#[test]
fn base_and_delta_restore_a_snapshot() {
    let (mut ledger, connection) = with_base(None);
    // The states before the first commit and after the last commit of each generation with a delta.
    let mut before = BTreeMap::new();
    let last = |ledger: &Ledger| ledger.states.last().unwrap().contents.clone();
    // A database of equal size, one that has grown, and one that has become shorter.
    let third = last(&ledger);
    snapshot(&mut ledger, &connection, 11);
    let rows = "INSERT INTO t(id, value) SELECT id + 100, randomblob(3900) FROM t WHERE id <= 20";
    ledger.commit(&connection, rows);
    let fourth = last(&ledger);
    before.insert(3, (third, fourth.clone()));
    snapshot(&mut ledger, &connection, 13);
    ledger.commit(&connection, "DELETE FROM t WHERE id > 90; VACUUM");
    let fifth = last(&ledger);
    before.insert(4, (fourth, fifth.clone()));
    snapshot(&mut ledger, &connection, 17);
    before.insert(5, (fifth, last(&ledger)));
    restart_wal(&connection);
    drop(connection);
    assert_eq!(snapshots(&ledger), ["1.db", "2.db", "3.delta", "4.delta", "5.delta"]);
    let mut methods: Vec<fn(&Path)> = vec![by_library];
    if Command::new("sqlite3").arg("--version").output().is_ok() {
        methods.push(by_program);
    }
    let archive = archive(&ledger);
    for (number, write) in
        [3_u64, 4, 5].into_iter().flat_map(|number| methods.iter().map(move |write| (number, write)))
    {
        let sum = fs::read(archive.join(format!("{number:012}.sum"))).unwrap();
        let base = u64::from_le_bytes(sum[16..24].try_into().unwrap());
        assert_eq!(base, 2);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.db");
        fs::copy(archive.join(format!("{base:012}.db")), &file).unwrap();
        fs::copy(archive.join(format!("{number:012}.delta")), log_of(&file)).unwrap();
        write(&file);
        // The snapshot has the state before its generation, and the log of that leads to the state after it.
        assert!(opened(&file) == before[&number].0, "{number}");
        fs::copy(archive.join(format!("{number:012}.wal")), log_of(&file)).unwrap();
        write(&file);
        assert!(opened(&file) == before[&number].1, "{number}");
    }
    // Each delta has its own salts.
    let salts = |name: &str| fs::read(archive.join(name)).unwrap()[16..24].to_vec();
    let all: BTreeSet<_> = files(&archive)
        .iter()
        .filter(|name| has_extension(name, "delta") || has_extension(name, "wal"))
        .map(|name| salts(name))
        .collect();
    assert_eq!(all.len(), 8);
}
