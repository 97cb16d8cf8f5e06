//! Compressed logs of another writer: a restore works with zstd frames of any size.

use std::fs;

use litefleet::ErrorKind;

use crate::{
    compressed::archive,
    maintain::{maintain_a_day_later, restart_wal, set_window},
    support::Ledger,
};

/// Compresses a log in frames of `len` bytes, so that pages straddle frames or share one.
pub(crate) fn compress_in_frames(log: &[u8], len: usize) -> Vec<u8> {
    let (mut bytes, mut table) = (Vec::new(), Vec::new());
    for piece in log.chunks(len) {
        let frame = zstd::bulk::compress(piece, 1).unwrap();
        for len in [frame.len(), piece.len()] {
            table.extend(u32::try_from(len).unwrap().to_le_bytes());
        }
        bytes.extend(frame);
    }
    let count = u32::try_from(table.len() / 8).unwrap();
    for word in [0x184D_2A5E, count * 8 + 9] {
        bytes.extend(u32::to_le_bytes(word));
    }
    bytes.extend(table);
    bytes.extend(count.to_le_bytes());
    bytes.push(0);
    bytes.extend(0x8F92_EAB1_u32.to_le_bytes());
    bytes
}

#[test]
fn restore_reads_logs_with_any_zstd_frame_size() {
    let mut ledger = Ledger::plain();
    set_window(&ledger, "7d");
    let connection = ledger.connect();
    let rows = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 1200)";
    let fill = format!("{rows} INSERT INTO t SELECT i, hex(randomblob(1500)) FROM n");
    ledger.commit(&connection, &format!("CREATE TABLE t(id INTEGER PRIMARY KEY, value); {fill}"));
    for part in 0..4 {
        restart_wal(&connection);
        let update = format!("UPDATE t SET value = hex(randomblob(1500)) WHERE id % 5 = {part}");
        ledger.commit(&connection, &update);
    }
    restart_wal(&connection);
    ledger.commit(&connection, "INSERT INTO t(value) VALUES (0)");
    assert_eq!(maintain_a_day_later(&ledger).compressed, 4);
    // More pages than one batch, none of them in the snapshot, so that several threads read them.
    let states = ledger.states[1..5].to_vec();
    let check = |ledger: &mut Ledger| {
        for state in &states {
            assert!(ledger.contents_at(state.from).unwrap() == state.contents);
        }
    };
    check(&mut ledger);
    let path = archive(&ledger).join("000000000001.wal.zst");
    let whole = fs::read(&path).unwrap();
    let log = zstd::decode_all(&whole[..]).unwrap();
    for len in [1000, 10_000, 128 << 10] {
        let bytes = compress_in_frames(&log, len);
        assert!(bytes.len() > whole.len() / 2 && zstd::decode_all(&bytes[..]).unwrap() == log);
        fs::write(&path, bytes).unwrap();
        check(&mut ledger);
    }
    // An error on one thread fails the restore.
    let mut bytes = whole;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = ledger.restore(ledger.states[3].from).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("000000000001.wal.zst is damaged"), "{error}");
    drop(connection);
}
