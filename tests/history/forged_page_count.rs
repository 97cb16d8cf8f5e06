//! Logs with valid checksums whose frames carry impossible values.

use std::fs;

use litefleet::{ErrorKind, rusqlite::config::DbConfig};

use crate::{
    maintain::CIPHERS,
    support::{Ledger, now},
};

const FRAME_LEN: usize = 24 + 4096;

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Continues the running checksum of a WAL over `bytes`.
fn sum(is_big: bool, [mut s0, mut s1]: [u32; 2], bytes: &[u8]) -> [u32; 2] {
    let read = |bytes: &[u8], at| if is_big { word(bytes, at) } else { word(bytes, at).swap_bytes() };
    for pair in bytes.chunks_exact(8) {
        s0 = s0.wrapping_add(read(pair, 0)).wrapping_add(s1);
        s1 = s1.wrapping_add(read(pair, 4)).wrapping_add(s0);
    }
    [s0, s1]
}

/// Sets the page count of the last commit frame, and with `page_too` its page number, and recomputes the checksum.
fn forge_page_count(log: &mut [u8], pages: u32, page_too: bool) {
    let is_big = word(log, 0) & 1 == 1;
    let mut last = log.len() - FRAME_LEN;
    assert!(log.len() % FRAME_LEN == 32 && word(log, last + 4) > 0);
    let before = if last == 32 { 24 } else { last - FRAME_LEN + 16 };
    let chain = [word(log, before), word(log, before + 4)];
    if page_too {
        log[last..last + 4].copy_from_slice(&pages.to_be_bytes());
    }
    log[last + 4..last + 8].copy_from_slice(&pages.to_be_bytes());
    let [s0, s1] = sum(is_big, sum(is_big, chain, &log[last..last + 8]), &log[last + 24..]);
    last += 16;
    log[last..last + 4].copy_from_slice(&s0.to_be_bytes());
    log[last + 4..last + 8].copy_from_slice(&s1.to_be_bytes());
}

#[test]
fn impossible_page_count_in_commit_frame_is_corruption() {
    for cipher in CIPHERS {
        let mut ledger = Ledger::new(cipher);
        let connection = ledger.connect();
        ledger.commit(&connection, "CREATE TABLE t(a)");
        ledger.commit(&connection, "INSERT INTO t VALUES (1)");
        let whole = ledger.states.last().unwrap().clone();
        ledger.commit(&connection, "INSERT INTO t VALUES (2)");
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        drop(connection);
        let path = ledger.database_dir().join("data.db-wal");
        let log = fs::read(&path).unwrap();
        for pages in [u32::MAX, 100_000] {
            // The tag of a sealed page covers its page number.
            for page_too in [false, true].into_iter().filter(|page_too| !page_too || cipher.is_none()) {
                let mut log = log.clone();
                forge_page_count(&mut log, pages, page_too);
                fs::write(&path, log).unwrap();
                let error = ledger.contents_at(now()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                let says =
                    format!("data.db-wal is damaged: frame 4 says that the database has {pages} pages");
                assert!(error.to_string().contains(&says), "{error}");
                assert_eq!(ledger.contents_at(whole.from).unwrap(), whole.contents);
            }
        }
        // Forging the original value reproduces the original log.
        let pages = word(&log, log.len() - FRAME_LEN + 4);
        let mut same = log.clone();
        forge_page_count(&mut same, pages, false);
        assert!(same == log);
        fs::write(&path, log).unwrap();
        ledger.check_all();
    }
}

#[test]
fn commit_may_add_pages_that_it_never_wrote() {
    for cipher in CIPHERS {
        let mut ledger = Ledger::new(cipher);
        let connection = ledger.connect();
        connection.execute_batch("PRAGMA cache_size = -100000").unwrap();
        ledger.commit(&connection, "CREATE TABLE t(a)");
        let sql =
            "BEGIN; CREATE TABLE big(a); INSERT INTO big VALUES (zeroblob(20000000)); DROP TABLE big; COMMIT";
        ledger.commit(&connection, sql);
        ledger.commit(&connection, "INSERT INTO t VALUES (1)");
        ledger.check_all();
        let size = ledger.plane.points("orders", ..).unwrap().points.last().unwrap().size;
        assert!(size > 20_000_000, "{size}");
    }
}
