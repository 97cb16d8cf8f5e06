//! Damaged deltas, sums and bases: every answer is right, or an error that names the file.

use std::{fs, path::Path, thread, time::Duration};

use litefleet::{Cipher, MaintainOptions};

use crate::{
    deltas::{archive, snapshot, snapshots, update, with_base},
    maintain::{CIPHERS, maintain, restart_wal, set_window},
    packs::verified,
    packs_damaged::is_refused,
    support::{Ledger, now},
};

const BASE: &str = "000000000002.db";
const DELTA: &str = "000000000004.delta";
const SUM: &str = "000000000004.sum";

/// A database with deltas before generations 3 and 4, and the number of the first state that the last one precedes.
fn with_deltas(cipher: Option<Cipher>, is_pruned: bool) -> (Ledger, usize) {
    let (mut ledger, connection) = with_base(cipher);
    snapshot(&mut ledger, &connection, 11);
    snapshot(&mut ledger, &connection, 13);
    let first = ledger.states.len() - 1;
    restart_wal(&connection);
    update(&mut ledger, &connection, 17);
    ledger.states.last_mut().unwrap().to = now();
    drop(connection);
    assert_eq!(snapshots(&ledger), ["1.db", "2.db", "3.delta", "4.delta"]);
    if is_pruned {
        thread::sleep(Duration::from_millis(1100));
        set_window(&ledger, "1s");
        assert_eq!(maintain(&ledger).generations, 3);
        set_window(&ledger, "7d");
        assert_eq!(snapshots(&ledger), ["2.db", "4.delta"]);
    }
    (ledger, first)
}

/// Reads the states from `first` on. Returns how many are refused.
fn check(ledger: &mut Ledger, first: usize, name: &str, what: &str) -> usize {
    let states = first..ledger.states.len();
    states.filter(|number| is_refused(ledger, *number, name, what)).count()
}

/// The damaged versions of a file. Each has a description.
fn damages(whole: &[u8], name: &str) -> Vec<(String, Vec<u8>)> {
    let mut offsets: Vec<usize> = (0..whole.len()).step_by(whole.len() / 12).collect();
    match Path::new(name).extension().unwrap().to_str().unwrap() {
        // Every field of the header of the WAL and of a frame.
        "delta" => offsets.extend([0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 4151]),
        // Every word of the header, a checksum, a page number, and the check.
        "sum" => offsets.extend([0, 8, 16, 24, 32, whole.len() - 16, whole.len() - 8, whole.len() - 1]),
        _ => {}
    }
    let flipped = |at: usize| {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 4;
        (format!("{name}: byte {at}"), bytes)
    };
    let mut damages: Vec<_> = offsets.into_iter().map(flipped).collect();
    for len in [0, 31, 56, whole.len() / 2, whole.len() - 8, whole.len() - 1] {
        damages.push((format!("{name}: cut at {len}"), whole[..len].to_vec()));
    }
    damages.push((format!("{name}: zeroed"), vec![0; whole.len()]));
    damages
}

#[test]
fn damage_to_a_delta_is_reported_by_name() {
    for cipher in CIPHERS {
        let (mut ledger, first) = with_deltas(cipher, true);
        let mut refused = 0;
        for name in [BASE, DELTA, SUM] {
            let path = archive(&ledger).join(name);
            let whole = fs::read(&path).unwrap();
            for (what, bytes) in damages(&whole, name) {
                fs::write(&path, &bytes).unwrap();
                let count = check(&mut ledger, first, name, &what);
                refused += count;
                let found = verified(&ledger);
                let is_named = found.iter().any(|found| found.contains(name));
                assert!(is_named || (count == 0 && name == BASE), "{what}: {found:?}");
                // Maintenance neither deletes nor replaces what is damaged, and keeps the base.
                let _refused = ledger.plane.maintain_database("orders", MaintainOptions::default());
                assert!(fs::read(&path).unwrap() == bytes, "{what}");
                assert_eq!(snapshots(&ledger), ["2.db", "4.delta"], "{what}");
            }
            fs::remove_file(&path).unwrap();
            // Without its sums, a snapshot counts as absent.
            let named = if name == SUM { "/archive/" } else { name };
            assert_eq!(check(&mut ledger, first, named, name), ledger.states.len() - first, "{name}");
            assert!(verified(&ledger).iter().any(|found| found.contains(name)), "{name}");
            let _refused = ledger.plane.maintain_database("orders", MaintainOptions::default());
            fs::write(&path, &whole).unwrap();
            assert_eq!(check(&mut ledger, first, name, name), 0);
            assert_eq!(verified(&ledger), [""; 0]);
        }
        assert!(refused > 40, "{refused}");
        // Writers are not affected by a damaged base: a full snapshot begins the history anew.
        let path = archive(&ledger).join(BASE);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..5000]).unwrap();
        let connection = ledger.connect();
        snapshot(&mut ledger, &connection, 19);
        assert_eq!(snapshots(&ledger).last().unwrap(), "6.db");
        let last = ledger.states.last().unwrap().clone();
        assert!(ledger.contents_at(last.from).unwrap() == last.contents);
    }
}

#[test]
fn older_snapshot_replaces_a_damaged_delta() {
    for cipher in CIPHERS {
        let (mut ledger, first) = with_deltas(cipher, false);
        for name in [DELTA, SUM] {
            let path = archive(&ledger).join(name);
            let whole = fs::read(&path).unwrap();
            for (what, bytes) in damages(&whole, name).into_iter().step_by(3) {
                fs::write(&path, &bytes).unwrap();
                assert_eq!(check(&mut ledger, first, name, &what), 0, "{what}");
                assert!(verified(&ledger).iter().any(|found| found.contains(name)), "{what}");
            }
            fs::write(&path, &whole).unwrap();
        }
        // The oldest snapshot replaces the base and both deltas.
        let path = archive(&ledger).join(BASE);
        let whole = fs::read(&path).unwrap();
        for (what, bytes) in damages(&whole, BASE).into_iter().step_by(2) {
            fs::write(&path, &bytes).unwrap();
            assert_eq!(check(&mut ledger, first, BASE, &what), 0, "{what}");
            assert!(verified(&ledger).iter().any(|found| found.contains(BASE)), "{what}");
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(verified(&ledger), [""; 0]);
        ledger.check_all();
    }
}

#[test]
fn base_without_its_sums_is_kept() {
    let (mut ledger, first) = with_deltas(None, false);
    let sum = archive(&ledger).join("000000000002.sum");
    let whole = fs::read(&sum).unwrap();
    fs::remove_file(&sum).unwrap();
    maintain(&ledger);
    assert_eq!(snapshots(&ledger), ["1.db", "2.db", "3.delta", "4.delta"]);
    assert_eq!(check(&mut ledger, first, BASE, "without sums"), 0);
    assert!(verified(&ledger).iter().all(|found| found.contains("000000000002.sum")));
    fs::write(&sum, whole).unwrap();
    assert_eq!(verified(&ledger), [""; 0]);
}

#[test]
fn files_of_another_database_are_refused() {
    let (mut ledger, first) = with_deltas(None, true);
    let (other, _) = with_deltas(None, true);
    let states = ledger.states.len() - first;
    for name in [BASE, DELTA, SUM] {
        let path = archive(&ledger).join(name);
        let whole = fs::read(&path).unwrap();
        fs::copy(archive(&other).join(name), &path).unwrap();
        let refused = check(&mut ledger, first, if name == SUM { "archive" } else { name }, name);
        assert_eq!(refused, states, "{name}");
        assert!(verified(&ledger).iter().any(|found| found.contains(name)), "{name}");
        fs::write(&path, &whole).unwrap();
    }
    // An earlier delta of this database, and the base in place of another snapshot.
    let (mut ledger, first) = with_deltas(None, false);
    for (from, to) in [("000000000003.delta", DELTA), ("000000000001.db", BASE), ("000000000003.sum", SUM)] {
        let path = archive(&ledger).join(to);
        let whole = fs::read(&path).unwrap();
        fs::copy(archive(&ledger).join(from), &path).unwrap();
        assert_eq!(check(&mut ledger, first, to, to), 0, "{to}");
        assert!(verified(&ledger).iter().any(|found| found.contains(to)), "{to}");
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(verified(&ledger), [""; 0]);
}
