//! Stamps that a newer version of this crate wrote.

use std::{fs, path::Path};

use litefleet::{Error, ErrorKind, VerifyOptions, explain, no_progress};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    maintain::CIPHERS,
    support::{Ledger, now},
};

/// Makes the header say another version, with or without the check that belongs to it.
fn set_version(path: &Path, version: u8, is_whole: bool) {
    let mut bytes = fs::read(path).unwrap();
    assert_eq!(bytes[8], 1);
    assert_eq!(bytes[120..128], xxh3_64(&bytes[..120]).to_le_bytes());
    bytes[8] = version;
    if is_whole {
        let check = xxh3_64(&bytes[..120]);
        bytes[120..128].copy_from_slice(&check.to_le_bytes());
    }
    fs::write(path, bytes).unwrap();
}

fn is_of_version_2(error: &Error, name: &str) {
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let text = error.to_string();
    assert!(text.contains(name) && text.contains("has format version 2"), "{text}");
}

#[test]
fn stamps_of_a_newer_version_are_refused_by_name_and_not_damaged() {
    for cipher in CIPHERS {
        for name in ["live.stamps", "000000000001.stamps"] {
            let mut ledger = Ledger::new(cipher);
            let connection = ledger.connect();
            ledger.commit(&connection, "CREATE TABLE t(a)");
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
            ledger.commit(&connection, "INSERT INTO t VALUES (1)");
            drop(connection);
            let path = ledger.place().join("archive").join(name);
            let whole = fs::read(&path).unwrap();
            let at = if name == "live.stamps" { now() } else { ledger.states[1].from };
            ledger.states.last_mut().unwrap().to = now();

            set_version(&path, 2, true);
            let newer = fs::read(&path).unwrap();
            is_of_version_2(&ledger.contents_at(at).unwrap_err(), name);
            is_of_version_2(&ledger.plane.points("orders", ..).unwrap_err(), name);
            is_of_version_2(&ledger.plane.maintain_database("orders", &mut no_progress).unwrap_err(), name);
            let verified =
                ledger.plane.verify_database("orders", &VerifyOptions::default(), &mut no_progress);
            is_of_version_2(&verified.unwrap_err(), name);
            if name == "live.stamps" {
                // What the newer one wrote stays what it is.
                let connection = ledger.connect();
                let refused = connection.execute_batch("INSERT INTO t VALUES (2)").unwrap_err();
                is_of_version_2(&explain(&connection, refused), name);
            }
            assert!(fs::read(&path).unwrap() == newer);

            // A header that is not whole is damage, whatever version it says.
            fs::write(&path, &whole).unwrap();
            set_version(&path, 2, false);
            let error = ledger.viewed_at(at).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(error.to_string().contains(name), "{error}");

            fs::write(&path, &whole).unwrap();
            ledger.check_all();
        }
    }
}
