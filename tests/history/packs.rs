//! Packs change only the number and the size of the files: restores, views and verification give equal results.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
};

use litefleet::{
    Cipher, ControlPlane, ErrorKind, MaintainOptions, VerifyOptions, rusqlite::config::DbConfig,
    testing::DiskOp,
};

use crate::{
    compressed::archive,
    foreign_zstd_frames::compress_in_frames,
    maintain::{CIPHERS, Stop, empty_report, exported_at, maintain, maintain_copy, set_window},
    support::{Ledger, files, is_index, now},
};

/// Makes generations of one commit each.
pub(crate) fn generations(ledger: &mut Ledger, count: usize) {
    for _ in 0..count {
        // The last connection that closes ends the generation.
        let connection = ledger.connect();
        ledger.commit(&connection, "INSERT INTO t(value) VALUES (hex(randomblob(200)))");
    }
    ledger.states.last_mut().unwrap().to = now();
}

/// A database whose history has this many generations, of one commit each.
pub(crate) fn with_generations(cipher: Option<Cipher>, count: usize) -> Ledger {
    let mut ledger = Ledger::new(cipher);
    set_window(&ledger, "7d");
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
    drop(connection);
    generations(&mut ledger, count - 1);
    ledger
}

pub(crate) fn packs(ledger: &Ledger) -> Vec<String> {
    files(&archive(ledger)).into_iter().filter(|name| name.ends_with(".tar.zst")).collect()
}

fn pack(first: u64, last: u64) -> String {
    format!("{first:012}-{last:012}.tar.zst")
}

pub(crate) fn verified(ledger: &Ledger) -> Vec<String> {
    let verified = ledger.plane.verify_database("orders", VerifyOptions::default()).unwrap();
    verified.findings.iter().map(ToString::to_string).collect()
}

fn loose(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let is_kind = |name: &String| {
        Path::new(name).extension().is_some_and(|extension| extension == "wal" || extension == "stamps")
    };
    let names = files(dir).into_iter().filter(is_kind);
    names.map(|name| (name.clone(), fs::read(dir.join(name)).unwrap())).collect()
}

#[test]
fn maintenance_packs_short_generations() {
    for cipher in CIPHERS {
        let mut ledger = with_generations(cipher, 30);
        let points = ledger.plane.points("orders", ..).unwrap();
        let before = loose(&archive(&ledger));
        let done = maintain(&ledger);
        assert_eq!((done.snapshots, done.generations, done.deferred), (0, 0, false));
        assert_eq!(done.compressed, if cipher.is_none() { 27 } else { 0 });
        assert!(done.bytes_saved > 27 * 3000, "{done:?}");
        assert_eq!(packs(&ledger), [pack(1, 27)]);
        let names = files(&archive(&ledger));
        assert!(names.len() <= 12, "{names:?}");
        assert_eq!(ledger.plane.points("orders", ..).unwrap(), points);
        ledger.check_all();
        assert_eq!(verified(&ledger), [""; 0]);
        // The pack has the indexes, so no reader derives one.
        let indexes = files(&archive(&ledger)).into_iter().filter(|name| is_index(name)).collect::<Vec<_>>();
        assert!(indexes.iter().all(|name| *name >= format!("{:012}", 28)), "{indexes:?}");
        assert_eq!(maintain(&ledger), empty_report(&done));

        // Standard programs extract the files that the pack replaced.
        let extracted = tempfile::tempdir().unwrap();
        let bytes = fs::read(archive(&ledger).join(pack(1, 27))).unwrap();
        let tar = extracted.path().join("pack.tar");
        fs::write(&tar, zstd::decode_all(&bytes[..]).unwrap()).unwrap();
        let mut command = Command::new("tar");
        command.arg("-xf").arg(&tar).current_dir(extracted.path());
        assert!(command.status().unwrap().success());
        for (name, bytes) in loose(extracted.path()) {
            assert!(before[&name] == bytes, "{name}");
        }
        assert_eq!(loose(extracted.path()).len(), 2 * 27);

        // The history continues.
        generations(&mut ledger, 3);
        ledger.check_all();
        assert_eq!(verified(&ledger), [""; 0]);
    }
}

#[test]
fn copied_history_with_packs_continues() {
    for cipher in CIPHERS {
        let mut ledger = with_generations(cipher, 20);
        maintain(&ledger);
        let elsewhere = tempfile::tempdir().unwrap();
        let copy = elsewhere.path().join("copy");
        // The copy has new file times, so the database file is compared with the end of the history page by page.
        assert!(Command::new("cp").arg("-r").arg(ledger.plane.root()).arg(&copy).status().unwrap().success());
        ledger.plane = ControlPlane::open(&copy).unwrap();
        assert_eq!(ledger.plane.points("orders", ..).unwrap().windows.len(), 1);
        ledger.check_all();
        generations(&mut ledger, 12);
        assert!(!maintain(&ledger).deferred);
        ledger.check_all();
        assert_eq!(verified(&ledger), [""; 0]);
    }
}

#[test]
fn extracted_files_replace_the_pack() {
    let mut ledger = with_generations(None, 20);
    assert_eq!(maintain(&ledger).compressed, 17);
    let path = archive(&ledger).join(pack(1, 17));
    let bytes = fs::read(&path).unwrap();
    fs::write(archive(&ledger).join("pack.tar"), zstd::decode_all(&bytes[..]).unwrap()).unwrap();
    fs::remove_file(&path).unwrap();
    let mut command = Command::new("tar");
    command.args(["-xf", "pack.tar"]).current_dir(archive(&ledger));
    assert!(command.status().unwrap().success());
    fs::remove_file(archive(&ledger).join("pack.tar")).unwrap();
    ledger.check_all();
    assert_eq!(verified(&ledger), [""; 0]);
    assert_eq!(maintain(&ledger).compressed, 17);
    ledger.check_all();
}

#[test]
fn packs_merge_as_the_history_grows() {
    let mut ledger = with_generations(None, 11);
    let mut most = 0;
    for _ in 0..12 {
        generations(&mut ledger, 9);
        assert!(!maintain(&ledger).deferred);
        most = most.max(packs(&ledger).len());
        // Each pack continues the one before it.
        let spans: Vec<Vec<u64>> = packs(&ledger)
            .iter()
            .map(|name| name.trim_end_matches(".tar.zst").split('-').map(|n| n.parse().unwrap()).collect())
            .collect();
        assert_eq!(spans[0][0], 1);
        assert!(spans.windows(2).all(|pair| pair[0][1] + 1 == pair[1][0]), "{spans:?}");
    }
    assert!((2..=5).contains(&most), "{most}");
    for state in ledger.states.clone().into_iter().step_by(7) {
        assert!(ledger.contents_at(state.from).unwrap() == state.contents);
    }
    assert_eq!(verified(&ledger), [""; 0]);
}

#[test]
fn pack_replaces_segments_that_were_compressed_alone() {
    let mut ledger = with_generations(None, 14);
    for number in 2..6 {
        let path = archive(&ledger).join(format!("{number:012}.wal"));
        let log = fs::read(&path).unwrap();
        fs::write(path.with_extension("wal.zst"), compress_in_frames(&log, 1000)).unwrap();
        fs::remove_file(path).unwrap();
    }
    ledger.check_all();
    assert_eq!(maintain(&ledger).compressed, 11);
    assert_eq!(packs(&ledger), [pack(1, 11)]);
    assert!(!files(&archive(&ledger)).iter().any(|name| name.ends_with(".wal.zst")));
    ledger.check_all();
}

#[test]
fn pruning_removes_packs_outside_the_window() {
    for cipher in CIPHERS {
        let mut ledger = with_generations(cipher, 20);
        // A snapshot ends the pack.
        let connection = ledger.connect();
        ledger.commit(&connection, "INSERT INTO t(value) VALUES (zeroblob(1500000)), (1)");
        ledger.commit(&connection, "DELETE FROM t WHERE length(value) > 1000");
        drop(connection);
        generations(&mut ledger, 2);
        assert_eq!(maintain(&ledger).snapshots, 1);
        generations(&mut ledger, 14);
        assert!(maintain(&ledger).compressed > 0 || cipher.is_some());
        let before = packs(&ledger);
        assert_eq!(before.len(), 2);
        thread::sleep(std::time::Duration::from_millis(1100));
        set_window(&ledger, "1s");
        let done = maintain(&ledger);
        assert!(done.generations > 19, "{done:?}");
        let kept = packs(&ledger);
        assert_eq!(kept.len(), 1);
        assert!(before.contains(&kept[0]) && kept[0] != before[0]);
        let error = ledger.restore(ledger.states[5].from).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutsideWindow);
        let last = ledger.states.last().unwrap().clone();
        assert!(ledger.contents_at(last.from).unwrap() == last.contents);
        assert_eq!(verified(&ledger), [""; 0]);
        set_window(&ledger, "off");
        maintain(&ledger);
        assert_eq!(packs(&ledger), [""; 0]);
    }
}

#[test]
fn packing_is_deferred_while_a_view_is_open() {
    let ledger = with_generations(None, 14);
    let first = ledger.states[2].clone();
    let (view, _) = ledger.plane.connect_at("orders", first.from, ledger.options()).unwrap();
    let done = maintain(&ledger);
    assert!(done.deferred && done.compressed == 0, "{done:?}");
    assert_eq!(packs(&ledger), [""; 0]);
    assert!(crate::support::contents(&view) == first.contents);
    drop(view);
    assert_eq!(maintain(&ledger).compressed, 11);
}

#[test]
fn damaged_generation_is_not_packed() {
    let mut ledger = with_generations(None, 24);
    let path = archive(&ledger).join("000000000010.wal");
    let whole = fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() - 100] ^= 1;
    fs::write(&path, &damaged).unwrap();
    maintain(&ledger);
    assert_eq!(packs(&ledger), [pack(1, 9), pack(11, 21)]);
    assert!(fs::read(&path).unwrap() == damaged);
    let found = verified(&ledger);
    assert!(found.iter().any(|found| found.contains("000000000010.wal")), "{found:?}");
    fs::write(&path, &whole).unwrap();
    ledger.check_all();
    assert_eq!(verified(&ledger), [""; 0]);
}

#[test]
fn packing_stopped_at_any_step_loses_no_commit() {
    let mut ledger = with_generations(None, 13);
    maintain(&ledger);
    generations(&mut ledger, 9);
    let connection = ledger.connect();
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    drop(connection);
    let original = ledger.plane.clone();
    let elsewhere = tempfile::tempdir().unwrap();
    let whole = elsewhere.path().join("whole");
    let (_, steps, done) =
        maintain_copy(ControlPlane::builder(), original.root(), &whole, Stop::Fails, usize::MAX);
    assert_eq!(done.unwrap().compressed, 9);
    let first = steps.iter().position(|step| *step == DiskOp::Create).unwrap();
    let kinds =
        [DiskOp::Create, DiskOp::Write, DiskOp::SyncFile, DiskOp::Rename, DiskOp::SyncDir, DiskOp::Remove];
    assert!(kinds.iter().all(|step| steps[first..].contains(step)), "{:?}", &steps[first..]);
    let mut both = 0;
    for stop in [Stop::Fails, Stop::Dies] {
        for nth in first - 1..steps.len() {
            let copy = elsewhere.path().join("copy");
            let (plane, seen, result) =
                maintain_copy(ControlPlane::builder(), original.root(), &copy, stop, nth);
            let at = format!("{stop:?} at {nth}, {:?}", seen.last());
            assert!(result.is_err(), "{at}");
            ledger.plane = plane;
            let check_states = |ledger: &Ledger| {
                for state in ledger.states.iter().step_by(4) {
                    assert!(exported_at(ledger, state.from).unwrap() == state.contents, "{at}");
                }
            };
            check_states(&ledger);
            both += usize::from(
                packs(&ledger).len() > 1
                    || packs(&ledger) == [pack(1, 19)] && files(&archive(&ledger)).len() > 12,
            );
            assert_eq!(verified(&ledger), [""; 0], "{at}");
            let rest = maintain(&ledger);
            assert!(!rest.deferred, "{at}");
            check_states(&ledger);
            assert_eq!(packs(&ledger), [pack(1, 19)], "{at}");
            let names = files(&archive(&ledger));
            assert!(!names.iter().any(|name| name.contains(".new")), "{at}: {names:?}");
            assert!(names.len() <= 12, "{at}: {names:?}");
            assert_eq!(maintain(&ledger), empty_report(&rest), "{at}");
            fs::remove_dir_all(&copy).unwrap();
        }
    }
    assert!(both > 10, "{both}");
}

#[test]
fn pack_that_fails_read_back_replaces_nothing() {
    let mut ledger = with_generations(None, 14);
    let (archive, armed) = (archive(&ledger), Arc::new(AtomicBool::new(true)));
    let hook = {
        let (archive, armed) = (archive.clone(), Arc::clone(&armed));
        move |step: DiskOp, path: &Path| {
            if step == DiskOp::SyncFile && path.ends_with("pack.new") && armed.swap(false, SeqCst) {
                let mut bytes = fs::read(path).unwrap();
                bytes[100] ^= 1;
                fs::write(archive.join("pack.new"), bytes).unwrap();
            }
            Ok(())
        }
    };
    ledger.plane = ControlPlane::builder().fault_hook(Arc::new(hook)).open(ledger.plane.root()).unwrap();
    let before = files(&archive);
    let error = ledger.plane.maintain_database("orders", MaintainOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(
        error.to_string().contains(&format!("{} was written, and what was read back", pack(1, 11))),
        "{error}"
    );
    assert_eq!(files(&archive), before);
    ledger.check_all();
    assert_eq!(maintain(&ledger).compressed, 11);
    ledger.check_all();
}

#[test]
fn concurrent_views_and_writers_are_right_during_packing() {
    let mut ledger = with_generations(None, 12);
    let mut rounds = 0;
    while rounds < 12 {
        generations(&mut ledger, 9);
        let states: Vec<_> = ledger.states.iter().rev().step_by(5).take(8).cloned().collect();
        let before = packs(&ledger);
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                for state in states.iter().cycle().take(24) {
                    assert!(ledger.viewed_at(state.from).unwrap() == state.contents);
                }
            });
            while !reader.is_finished() {
                maintain(&ledger);
            }
            reader.join().unwrap();
        });
        maintain(&ledger);
        assert!(packs(&ledger) != before);
        rounds += 1;
    }
    assert_eq!(verified(&ledger), [""; 0]);
}
