//! Compression of segments changes only the size of the archive: restores, views and verification give equal results.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use litefleet::{
    ControlPlane, Error, ErrorKind, MaintainOptions, Result, Timestamp, VerifyOptions,
    rusqlite::{Connection, config::DbConfig},
    testing::DiskOp,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    maintain::{
        CIPHERS, Stop, a_day_later, empty_report, exported_at, maintain, maintain_a_day_later, maintain_copy,
        restart_wal, set_window, with_history, write,
    },
    support::{Ledger, contains, contents, files, now},
};

pub(crate) fn archive(ledger: &Ledger) -> PathBuf {
    ledger.database_dir().join("archive")
}

/// The names in the archive that end with `kind`.
fn logs(ledger: &Ledger, kind: &str) -> Vec<String> {
    files(&archive(ledger)).into_iter().filter(|name| name.ends_with(kind)).collect()
}

fn size(dir: &Path) -> u64 {
    files(dir).iter().map(|name| fs::metadata(dir.join(name)).unwrap().len()).sum()
}

fn verified(ledger: &Ledger) -> Vec<String> {
    let verified = ledger.plane.verify_database("orders", VerifyOptions::default()).unwrap();
    verified.findings.iter().map(ToString::to_string).collect()
}

/// A plain database without writes in progress, with segments 1 to 4 compressed.
fn compressed() -> (Ledger, Connection) {
    let (ledger, connection) = with_history(None, 5);
    assert_eq!(maintain_a_day_later(&ledger).compressed, 4);
    (ledger, connection)
}

#[test]
fn maintenance_compresses_logs_before_newest_snapshot() {
    for cipher in CIPHERS {
        let (mut ledger, connection) = with_history(cipher, 5);
        let points = ledger.plane.points("orders", ..).unwrap();
        let before = size(&archive(&ledger));
        let wals: Vec<_> =
            (1..=4).map(|log| fs::read(archive(&ledger).join(format!("{log:012}.wal"))).unwrap()).collect();
        let done = maintain_a_day_later(&ledger);
        assert_eq!(done.snapshots, 1);
        if cipher.is_some() {
            // Ciphertext does not compress.
            assert_eq!((done.compressed, done.bytes_saved, logs(&ledger, "zst").len()), (0, 0, 0));
            continue;
        }
        // The new snapshot precedes segment 5, which later instants still need.
        let names: Vec<_> = (1..=4).map(|log| format!("{log:012}.wal.zst")).collect();
        assert_eq!((done.compressed, logs(&ledger, "zst")), (4, names.clone()));
        assert_eq!(logs(&ledger, ".wal"), ["000000000005.wal"]);
        for (name, wal) in names.iter().zip(&wals) {
            let bytes = fs::read(archive(&ledger).join(name)).unwrap();
            assert!(zstd::decode_all(&bytes[..]).unwrap() == *wal, "{name}");
        }
        let snapshot: u64 = ["db", "sum"]
            .map(|kind| fs::metadata(archive(&ledger).join(format!("000000000005.{kind}"))).unwrap().len())
            .iter()
            .sum();
        let indexes: u64 = logs(&ledger, ".index")
            .iter()
            .map(|name| fs::metadata(archive(&ledger).join(name)).unwrap().len())
            .sum();
        assert!(done.bytes_saved > before / 4, "{done:?} of {before}");
        assert!(size(&archive(&ledger)) <= before - done.bytes_saved + snapshot + indexes, "{done:?}");
        assert_eq!(ledger.plane.points("orders", ..).unwrap(), points);
        ledger.check_all();
        assert_eq!(verified(&ledger), [""; 0]);
        assert_eq!(maintain_a_day_later(&ledger), empty_report(&done));
        // Without its index, a segment is read from the start.
        for name in logs(&ledger, ".index") {
            fs::remove_file(archive(&ledger).join(name)).unwrap();
        }
        ledger.check_all();
        // The history continues.
        for _ in 0..4 {
            write(&mut ledger, &connection, 6);
            restart_wal(&connection);
        }
        write(&mut ledger, &connection, 1);
        assert!(maintain_a_day_later(&ledger).compressed > 2);
        ledger.check_all();
        assert_eq!(verified(&ledger), [""; 0]);
    }
}

#[test]
fn logs_needed_for_the_last_day_stay_uncompressed() {
    const DAY: i64 = 86_400_000_000;
    let (mut ledger, connection) = with_history(None, 5);
    assert_eq!(maintain(&ledger).snapshots, 1);
    for _ in 0..4 {
        write(&mut ledger, &connection, 6);
        restart_wal(&connection);
    }
    let (first, second) = (5, 9);
    write(&mut ledger, &connection, 1);
    let maintain_at = |micros: i64| {
        let clock = Arc::new(move || Timestamp::from_micros(micros).unwrap());
        let plane = ControlPlane::builder().clock(clock).open(ledger.plane.root()).unwrap();
        plane.maintain_database("orders", MaintainOptions::default()).unwrap()
    };
    let now = now().as_micros();
    assert_eq!((maintain_at(now).snapshots, maintain_at(now).compressed), (1, 0));
    let began_at = |sequence: u64| {
        let header = fs::read(archive(&ledger).join(format!("{sequence:012}.stamps"))).unwrap();
        i64::from_le_bytes(header[64..72].try_into().unwrap())
    };
    // A restore to the start of the snapshot's generation needs no earlier segment; a restore before it does.
    for (sequence, before) in [(first, 0), (second, 4)] {
        let count = || logs(&ledger, "zst").len();
        assert_eq!((maintain_at(began_at(sequence) + DAY - 1).compressed, count()), (0, before));
        maintain_at(began_at(sequence) + DAY);
        assert_eq!(count(), usize::try_from(sequence).unwrap() - 1);
    }
    ledger.check_all();
    drop(connection);
}

#[test]
fn restorable_range_ends_at_last_commit_of_compressed_log() {
    let (ledger, connection) = compressed();
    // Remove the end records, so that the segment alone shows where it ends.
    let stamps = archive(&ledger).join("000000000002.stamps");
    let mut bytes = fs::read(&stamps).unwrap();
    let is_commit = |record: &[u8]| record[7] & 0x80 == 0;
    bytes[128..].chunks_exact_mut(32).filter(|record| !is_commit(record)).for_each(|record| record.fill(0));
    assert!(bytes != fs::read(&stamps).unwrap());
    fs::write(&stamps, bytes).unwrap();
    fs::write(archive(&ledger).join("000000000003.stamps"), [0; 128]).unwrap();
    let windows = ledger.plane.points("orders", ..).unwrap().windows;
    // The damaged third stamp file makes everything after the last commit of segment 2 unknown.
    for state in &ledger.states[8..13] {
        assert!(contains(&windows, state.from), "{}: {windows:?}", state.from);
        assert!(ledger.viewed_at(state.from).unwrap() == state.contents);
    }
    drop(connection);
}

#[test]
fn incompressible_logs_stay_uncompressed() {
    let mut ledger = Ledger::plain();
    set_window(&ledger, "7d");
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(id INTEGER PRIMARY KEY, value); INSERT INTO t VALUES (1, 0)");
    for _ in 0..4 {
        for _ in 0..6 {
            ledger.commit(&connection, "UPDATE t SET value = randomblob(120000)");
        }
        restart_wal(&connection);
    }
    ledger.commit(&connection, "INSERT INTO t VALUES (2, 0)");
    let done = maintain_a_day_later(&ledger);
    assert_eq!((done.snapshots, done.compressed, done.bytes_saved), (1, 0, 0));
    assert_eq!((logs(&ledger, ".wal").len(), logs(&ledger, "zst").len()), (4, 0));
    assert_eq!(maintain_a_day_later(&ledger), empty_report(&done));
    assert!((1..4).all(|log| is_marked_incompressible(&index(&ledger, log))));
    assert_eq!(verified(&ledger), [""; 0]);
    ledger.check_all();
}

fn index(ledger: &Ledger, log: u64) -> PathBuf {
    archive(ledger).join(format!("{log:012}.index"))
}

fn is_marked_incompressible(index: &Path) -> bool {
    fs::read(index).unwrap()[32] == 1
}

#[test]
fn log_marked_incompressible_is_not_compressed_again() {
    let (mut ledger, connection) = with_history(None, 5);
    assert_eq!(maintain(&ledger).snapshots, 1);
    let index = index(&ledger, 2);
    assert!(!is_marked_incompressible(&index));
    // The mark in the index is authoritative; the segment itself is not tried again.
    let mut bytes = fs::read(&index).unwrap();
    bytes[32] = 1;
    let (words, check) = bytes.split_last_chunk_mut::<8>().unwrap();
    *check = xxh3_64(words).to_le_bytes();
    fs::write(&index, &bytes).unwrap();
    assert_eq!(maintain_a_day_later(&ledger).compressed, 3);
    assert!(logs(&ledger, ".wal").contains(&"000000000002.wal".into()));
    assert_eq!(verified(&ledger), [""; 0]);
    fs::remove_file(&index).unwrap();
    assert_eq!(maintain_a_day_later(&ledger).compressed, 1);
    ledger.check_all();
    drop(connection);
}

#[test]
fn compression_stopped_at_any_step_loses_no_commit() {
    let (mut ledger, connection) = with_history(None, 6);
    ledger.states.last_mut().unwrap().to = now();
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    drop(connection);
    ledger.check_all();
    let original = ledger.plane.clone();
    let elsewhere = tempfile::tempdir().unwrap();
    let whole = maintain_copy(
        a_day_later(ControlPlane::builder()),
        original.root(),
        &elsewhere.path().join("whole"),
        Stop::Fails,
        usize::MAX,
    );
    let (_, steps, done) = whole;
    let done = done.unwrap();
    assert_eq!((done.snapshots, done.compressed, done.generations), (1, 5, 0));
    let first = steps.len() - steps.iter().rev().position(|step| *step == DiskOp::Create).unwrap() - 1;
    let kinds =
        [DiskOp::Create, DiskOp::Write, DiskOp::SyncFile, DiskOp::Rename, DiskOp::SyncDir, DiskOp::Remove];
    assert!(kinds.iter().all(|step| steps[first..].contains(step)), "{:?}", &steps[first..]);
    // The operations on the first compressed segment and on the last.
    let creates: Vec<_> = (0..steps.len()).filter(|at| steps[*at] == DiskOp::Create).collect();
    let [.., one, two, _, _, last] = creates[..] else { panic!("{steps:?}") };
    let all: Vec<_> = (one - 1..=two).chain(last..steps.len()).collect();
    assert!(all.len() > 20);
    let mut both = 0;
    for stop in [Stop::Fails, Stop::Dies] {
        for nth in &all {
            // Consecutive writes to one file are equivalent; test every eighth.
            if steps[*nth] == DiskOp::Write && steps[nth - 1] == DiskOp::Write && nth % 8 > 0 {
                continue;
            }
            let copy = elsewhere.path().join("copy");
            let (plane, seen, result) =
                maintain_copy(a_day_later(ControlPlane::builder()), original.root(), &copy, stop, *nth);
            let at = format!("{stop:?} at {nth}, {:?}", seen.last());
            assert!(result.is_err(), "{at}");
            ledger.plane = plane;
            let check_states = |ledger: &Ledger| {
                for state in ledger.states.iter().step_by(5) {
                    assert!(exported_at(ledger, state.from).unwrap() == state.contents, "{at}");
                }
            };
            check_states(&ledger);
            let (plain, zst) = (logs(&ledger, ".wal"), logs(&ledger, "zst"));
            // Each segment exists once, or twice while one replaces the other.
            assert!((7..=8).contains(&(plain.len() + zst.len())), "{at}: {plain:?} {zst:?}");
            both += plain.len() + zst.len() - 7;
            assert_eq!(verified(&ledger), [""; 0], "{at}");
            let rest = maintain_a_day_later(&ledger);
            assert!(!rest.deferred, "{at}");
            check_states(&ledger);
            let names = files(&archive(&ledger));
            assert!(!names.iter().any(|name| name.contains(".new")), "{at}: {names:?}");
            assert_eq!((logs(&ledger, ".wal").len(), logs(&ledger, "zst").len()), (2, 5), "{at}");
            assert_eq!(maintain_a_day_later(&ledger), empty_report(&rest), "{at}");
            fs::remove_dir_all(&copy).unwrap();
        }
    }
    assert!(both > 2, "{both}");
}

#[test]
fn uncompressed_log_takes_precedence_over_compressed_copy() {
    let (mut ledger, connection) = with_history(None, 5);
    let name = archive(&ledger).join("000000000002.wal");
    let wal = fs::read(&name).unwrap();
    assert_eq!(maintain_a_day_later(&ledger).compressed, 4);
    let compressed = archive(&ledger).join("000000000002.wal.zst");
    let right = fs::read(&compressed).unwrap();
    // An intact copy, a truncated one, a copy of another segment, and an empty file.
    let other = fs::read(archive(&ledger).join("000000000003.wal.zst")).unwrap();
    for zst in [&right, &right[..right.len() / 2].to_vec(), &other, &Vec::new()] {
        fs::write(&name, &wal).unwrap();
        fs::write(&compressed, zst).unwrap();
        ledger.check_all();
        let done = maintain_a_day_later(&ledger);
        assert_eq!((done.compressed, done.deferred), (1, false));
        assert!(!name.exists() && fs::read(&compressed).unwrap() == right);
    }
    // A damaged segment replaces nothing.
    let mut damaged = wal.clone();
    damaged[wal.len() / 2] ^= 1;
    fs::write(&name, &damaged).unwrap();
    assert_eq!(maintain_a_day_later(&ledger).compressed, 0);
    assert!(fs::read(&name).unwrap() == damaged && fs::read(&compressed).unwrap() == right);
    let found = verified(&ledger);
    assert!(!found.is_empty() && found.iter().all(|found| found.contains("000000000002.wal,")), "{found:?}");
    fs::remove_file(&name).unwrap();
    ledger.check_all();
    assert_eq!(verified(&ledger), [""; 0]);
    drop(connection);
}

#[test]
fn compressed_log_that_fails_read_back_replaces_nothing() {
    let (mut ledger, connection) = with_history(None, 5);
    let (archive, armed) = (archive(&ledger), Arc::new(AtomicBool::new(true)));
    let hook = {
        let (archive, armed) = (archive.clone(), Arc::clone(&armed));
        move |step: DiskOp, _: &Path| {
            // Corrupt the written file just before its directory entry is flushed.
            let path = archive.join("000000000003.wal.zst");
            if step == DiskOp::SyncDir && path.exists() && armed.swap(false, SeqCst) {
                let mut bytes = fs::read(&path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(&path, bytes).unwrap();
            }
            Ok(())
        }
    };
    ledger.plane =
        a_day_later(ControlPlane::builder()).fault_hook(Arc::new(hook)).open(ledger.plane.root()).unwrap();
    let error = ledger.plane.maintain_database("orders", MaintainOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("000000000003.wal was compressed, and what was read back"), "{error}");
    assert_eq!(logs(&ledger, "zst"), ["000000000001.wal.zst", "000000000002.wal.zst"]);
    ledger.check_all();
    assert_eq!(maintain_a_day_later(&ledger).compressed, 2);
    ledger.check_all();
    drop(connection);
}

#[test]
fn compression_is_deferred_while_a_view_is_open() {
    let (ledger, connection) = with_history(None, 5);
    let first = ledger.states[1].clone();
    let (view, _) = ledger.plane.connect_at("orders", first.from, ledger.options()).unwrap();
    let done = maintain_a_day_later(&ledger);
    assert_eq!((done.snapshots, done.compressed, done.deferred), (1, 0, true));
    assert_eq!(logs(&ledger, "zst"), [""; 0]);
    assert_eq!(contents(&view), first.contents);
    drop(view);
    let done = maintain_a_day_later(&ledger);
    assert_eq!((done.snapshots, done.compressed, done.deferred), (0, 4, false));
    drop(connection);
}

#[test]
fn concurrent_views_read_correctly_during_compression() {
    let mut ledger = Ledger::plain();
    set_window(&ledger, "7d");
    // Slow down the steps at which a reader could observe an intermediate state.
    let hook = |step: DiskOp, path: &Path| {
        if path.ends_with("compressed.new") && [DiskOp::Rename, DiskOp::SyncFile].contains(&step) {
            thread::sleep(Duration::from_millis(3));
        }
        Ok(())
    };
    let maintaining =
        a_day_later(ControlPlane::builder()).fault_hook(Arc::new(hook)).open(ledger.plane.root()).unwrap();
    let connection = ledger.connect();
    ledger.commit(
        &connection,
        "CREATE TABLE t(id INTEGER PRIMARY KEY, value); INSERT INTO t(value) VALUES (0), (1), (2), (3)",
    );
    let started = Instant::now();
    let (mut compressed, mut views) = (0, 0);
    while compressed < 30 || views < 200 {
        assert!(started.elapsed() < Duration::from_secs(120), "{compressed} {views}");
        for _ in 0..3 {
            write(&mut ledger, &connection, 6);
            restart_wal(&connection);
        }
        write(&mut ledger, &connection, 1);
        // States in the segments that are compressed next.
        let states: Vec<_> = ledger.states.iter().rev().skip(7).take(16).step_by(3).cloned().collect();
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut views = 0;
                for state in states.iter().cycle().take(12) {
                    assert!(ledger.viewed_at(state.from).unwrap() == state.contents);
                    views += 1;
                    thread::sleep(Duration::from_millis(4));
                }
                views
            });
            while !reader.is_finished() {
                compressed +=
                    maintaining.maintain_database("orders", MaintainOptions::default()).unwrap().compressed;
            }
            views += reader.join().unwrap();
        });
    }
}

#[test]
fn pruning_removes_compressed_logs_outside_the_window() {
    let (mut ledger, connection) = compressed();
    set_window(&ledger, "1s");
    thread::sleep(Duration::from_millis(1100));
    let all = size(&archive(&ledger));
    let done = maintain(&ledger);
    assert_eq!((done.generations, done.deferred), (4, false));
    assert_eq!(logs(&ledger, "zst"), [""; 0]);
    assert_eq!(size(&archive(&ledger)), all - done.bytes_freed + 40);
    let error = ledger.restore(ledger.states[1].from).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutsideWindow);
    drop(connection);
}

/// The errors of a view and of a restore at the last state in segment 2.
fn refusals(ledger: &mut Ledger) -> Vec<String> {
    let at = ledger.states[13].from;
    let viewed =
        ledger.plane.connect_at("orders", at, ledger.options()).and_then(|(view, _)| -> Result<()> {
            let sum = view.query_row("SELECT sum(length(value)) FROM t", [], |_| Ok(()));
            sum.map_err(|error| Error::from_sqlite(&view, error))
        });
    let errors = [viewed.unwrap_err(), ledger.restore(at).map(|_| ()).unwrap_err()];
    errors.map(|error| (assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"), error.to_string()).1).into()
}

#[test]
fn damaged_compressed_log_is_reported_by_name() {
    let (mut ledger, connection) = compressed();
    let windows = ledger.plane.points("orders", ..).unwrap().windows;
    // Indexes exist before the damage is done.
    ledger.check_all();
    let path = archive(&ledger).join("000000000002.wal.zst");
    let whole = fs::read(&path).unwrap();
    let middle = whole.len() / 2;
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let third = fs::read(archive(&ledger).join("000000000003.wal.zst")).unwrap();
    // The seek table claims that the first zstd frame holds 4 GiB.
    let mut huge = whole.clone();
    let table = u64::from(u32::from_le_bytes(*whole[..whole.len() - 5].last_chunk().unwrap())) * 8 + 9;
    let first = whole.len() - usize::try_from(table).unwrap();
    huge[first + 4..first + 8].fill(0xff);
    for (what, bytes, words) in [
        ("a bit in the last frame", flipped(first - 3000), "cannot be decompressed"),
        ("a bit in the table", flipped(whole.len() - 20), ""),
        ("a bit in the magic", flipped(whole.len() - 1), "invalid seek table"),
        ("cut off", whole[..middle].to_vec(), "invalid seek table"),
        ("emptied", Vec::new(), "invalid seek table"),
        ("huge", huge, "invalid seek table"),
        ("that of another generation", third, ""),
        ("a log that is not compressed", zstd::decode_all(&whole[..]).unwrap(), "invalid seek table"),
    ] {
        fs::write(&path, &bytes).unwrap();
        for text in refusals(&mut ledger) {
            assert!(
                text.contains("000000000002.wal.zst is damaged") && text.contains(words),
                "{what}: {text}"
            );
        }
        let found = verified(&ledger);
        let named = |found: &String| found.contains("000000000002.wal.zst") && found.contains(words);
        assert!(found.iter().any(named), "{what}: {found:?}");
        // Instants after the newer snapshot do not depend on the damaged segment.
        let last = ledger.states.last().unwrap().clone();
        assert!(ledger.contents_at(last.from).unwrap() == last.contents, "{what}");
        assert_eq!(maintain_a_day_later(&ledger).compressed, 0);
    }
    fs::remove_file(&path).unwrap();
    for text in refusals(&mut ledger) {
        assert!(text.contains("000000000002.wal is missing"), "{text}");
    }
    // Ranges derive from stamps, which are intact.
    assert_eq!(ledger.plane.points("orders", ..).unwrap().windows, windows);
    let found = verified(&ledger);
    assert!(found.iter().any(|found| found.contains("000000000002.wal: it is missing")), "{found:?}");
    fs::write(&path, &whole).unwrap();
    ledger.check_all();

    // An open view reports damage when it reads the damaged page.
    let last = ledger.states[7].clone();
    let (view, _) = ledger.plane.connect_at("orders", last.from, ledger.options()).unwrap();
    let path = archive(&ledger).join("000000000001.wal.zst");
    let len = fs::metadata(&path).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0x55; 64], len - 3000).unwrap();
    let error = view.query_row("SELECT sum(length(value)) FROM t", [], |_| Ok(())).unwrap_err();
    assert!(Error::from_sqlite(&view, error).to_string().contains("000000000001.wal.zst is damaged"));
    drop(connection);
}
