//! Stamp files of a newer format version are refused, not reported as damage.

use std::{fs, path::Path};

use litefleet::{Error, ErrorKind, MaintainOptions, VerifyOptions};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    maintain::CIPHERS,
    support::{Ledger, now},
};

/// Sets the version in the header, with or without recomputing the header's checksum.
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

fn assert_version_2_refused(error: &Error, name: &str) {
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let text = error.to_string();
    assert!(text.contains(name) && text.contains("has format version 2"), "{text}");
}

#[test]
fn stamps_of_newer_format_version_are_refused_and_left_intact() {
    for cipher in CIPHERS {
        for name in ["live.stamps", "000000000001.stamps"] {
            let mut ledger = Ledger::new(cipher);
            let connection = ledger.connect();
            ledger.commit(&connection, "CREATE TABLE t(a)");
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
            ledger.commit(&connection, "INSERT INTO t VALUES (1)");
            drop(connection);
            let path = ledger.database_dir().join("archive").join(name);
            let whole = fs::read(&path).unwrap();
            let at = if name == "live.stamps" { now() } else { ledger.states[1].from };
            ledger.states.last_mut().unwrap().to = now();

            set_version(&path, 2, true);
            let newer = fs::read(&path).unwrap();
            assert_version_2_refused(&ledger.contents_at(at).unwrap_err(), name);
            assert_version_2_refused(&ledger.plane.points("orders", ..).unwrap_err(), name);
            assert_version_2_refused(
                &ledger.plane.maintain_database("orders", MaintainOptions::default()).unwrap_err(),
                name,
            );
            let verified = ledger.plane.verify_database("orders", VerifyOptions::default());
            assert_version_2_refused(&verified.unwrap_err(), name);
            if name == "live.stamps" {
                // The file of the newer version is not overwritten.
                let connection = ledger.connect();
                let refused = connection.execute_batch("INSERT INTO t VALUES (2)").unwrap_err();
                assert_version_2_refused(&Error::from_sqlite(&connection, refused), name);
            }
            assert!(fs::read(&path).unwrap() == newer);

            // An invalid header is damage, whatever version it states.
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
