//! Damaged packs: every answer is right, or an error that names the pack.

use std::fs;

use litefleet::{Error, ErrorKind, MaintainOptions, VerifyOptions};
use xxhash_rust::xxh3::Xxh3;

use crate::{
    compressed::archive,
    maintain::{CIPHERS, maintain},
    packs::{generations, packs, verified, with_generations},
    support::Ledger,
};

/// A database whose history is in one pack, except for the newest generations.
fn packed(cipher: Option<litefleet::Cipher>) -> (Ledger, String) {
    let ledger = with_generations(cipher, 20);
    maintain(&ledger);
    let name = packs(&ledger).pop().unwrap();
    (ledger, name)
}

/// The offsets of the directory and the seek table.
fn tail(pack: &[u8]) -> (usize, usize) {
    let word = |at: usize| u32::from_le_bytes(pack[at..at + 4].try_into().unwrap()) as usize;
    let table = pack.len() - 9 - word(pack.len() - 9) * 8 - 8;
    (table - word(pack.len() - 9 - 8), table)
}

/// Reads a state, which is right or refused with an error that contains `name`. Returns whether it is refused.
pub(crate) fn is_refused(ledger: &mut Ledger, number: usize, name: &str, what: &str) -> bool {
    let state = ledger.states[number].clone();
    match ledger.contents_at(state.from) {
        Ok(contents) => {
            assert!(contents == state.contents, "{what}: state {number}");
            false
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: state {number}: {error}");
            assert!(error.to_string().contains(name), "{what}: state {number}: {error}");
            true
        }
    }
}

/// Reads some states. Returns how many are refused.
fn check(ledger: &mut Ledger, name: &str, what: &str) -> usize {
    let mut refused = 0;
    for number in [1, 2, 9, 17, 18, 20] {
        refused += usize::from(is_refused(ledger, number, name, what));
    }
    refused
}

#[test]
fn damaged_pack_is_reported_by_name() {
    for cipher in CIPHERS {
        let (mut ledger, name) = packed(cipher);
        let path = archive(&ledger).join(&name);
        let whole = fs::read(&path).unwrap();
        let (directory, table) = tail(&whole);
        assert!(directory > 500 && table > directory);
        // Every part of the tail, and positions in the frames: logs, stamps and indexes.
        let frames = (0..directory).step_by(directory / 16);
        let offsets = frames.chain((directory..whole.len()).step_by(41)).chain([table, whole.len() - 1]);
        let mut damages: Vec<(String, Vec<u8>)> = offsets
            .map(|at| {
                let mut bytes = whole.clone();
                bytes[at] ^= 4;
                (format!("byte {at}"), bytes)
            })
            .collect();
        for len in [0, 8, directory / 2, directory, table, whole.len() - 9, whole.len() - 1] {
            damages.push((format!("cut at {len}"), whole[..len].to_vec()));
        }
        let mut refused = 0;
        for (what, bytes) in damages {
            fs::write(&path, &bytes).unwrap();
            let count = check(&mut ledger, &name, &what);
            refused += count;
            let found = verified(&ledger);
            assert!(count == 0 || found.iter().any(|found| found.contains(&name)), "{what}: {found:?}");
            // Maintenance neither deletes nor replaces a damaged pack.
            let _refused = ledger.plane.maintain_database("orders", MaintainOptions::default());
            assert!(fs::read(&path).unwrap() == bytes, "{what}");
        }
        assert!(refused > 40, "{refused}");
        // Writers are not affected, and the generations after the pack get their own.
        fs::write(&path, &whole[..directory]).unwrap();
        generations(&mut ledger, 12);
        maintain(&ledger);
        assert_eq!(packs(&ledger).len(), 2);
        fs::write(&path, &whole).unwrap();
        ledger.check_all();
        assert_eq!(verified(&ledger), [""; 0]);
    }
}

#[test]
fn missing_or_foreign_pack_is_refused() {
    let (mut ledger, name) = packed(None);
    let path = archive(&ledger).join(&name);
    let whole = fs::read(&path).unwrap();
    let (other_ledger, other_name) = packed(None);
    assert_eq!(name, other_name);
    let other = fs::read(archive(&other_ledger).join(&name)).unwrap();
    fs::write(&path, other).unwrap();
    assert_eq!(check(&mut ledger, &name, "another database"), 6);
    assert!(verified(&ledger).iter().any(|found| found.contains(&name)));
    fs::remove_file(&path).unwrap();
    for number in [1, 9, 17] {
        let error = ledger.contents_at(ledger.states[number].from).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
    assert!(!verified(&ledger).is_empty());
    // A file under the name of other generations.
    let renamed = path.with_file_name("000000000001-000000000016.tar.zst");
    fs::write(&renamed, &whole).unwrap();
    let error = ledger.contents_at(ledger.states[9].from).unwrap_err();
    assert!(error.to_string().contains("000000000001-000000000016.tar.zst is damaged"), "{error}");
    fs::rename(&renamed, &path).unwrap();
    ledger.check_all();
    assert_eq!(verified(&ledger), [""; 0]);
}

#[test]
fn pack_of_newer_format_version_is_refused_and_left_intact() {
    for cipher in CIPHERS {
        let (mut ledger, name) = packed(cipher);
        let path = archive(&ledger).join(&name);
        let whole = fs::read(&path).unwrap();
        let (directory, table) = tail(&whole);
        let mut newer = whole.clone();
        newer[directory + 16] = 2;
        let mut hasher = Xxh3::new();
        hasher.update(&newer[directory + 8..table - 8]);
        hasher.update(&newer[table..]);
        let sum = hasher.digest().to_le_bytes();
        newer[table - 8..table].copy_from_slice(&sum);
        fs::write(&path, &newer).unwrap();
        let refused = |error: Error| {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains(&format!("{name} has format version 2")), "{error}");
        };
        refused(ledger.contents_at(ledger.states[3].from).unwrap_err());
        refused(ledger.plane.points("orders", ..).unwrap_err());
        refused(ledger.plane.maintain_database("orders", MaintainOptions::default()).unwrap_err());
        refused(ledger.plane.verify_database("orders", VerifyOptions::default()).unwrap_err());
        // Writers continue.
        generations(&mut ledger, 3);
        assert!(fs::read(&path).unwrap() == newer);
        fs::write(&path, &whole).unwrap();
        ledger.check_all();
    }
}
