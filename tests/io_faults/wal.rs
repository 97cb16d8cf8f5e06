//! The contents of a sealed WAL, and the uniqueness of nonces.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use litefleet::{Cipher, PageFormat, rusqlite::Connection};

use crate::{
    fault_vfs::{self, Call, Kind, Opened, Verdict, Watcher},
    support::{Fleet, query, run, shared_turn},
};

const PAGE_LEN: usize = 4096;
const HEADER_LEN: usize = 32;
const FRAME_HEADER_LEN: usize = 24;
const FRAME_LEN: usize = FRAME_HEADER_LEN + PAGE_LEN;

/// Records the nonces of all sealed pages written below a directory.
struct NonceWatcher {
    root: PathBuf,
    nonce_len: usize,
    seen: Mutex<Nonces>,
}

#[derive(Default)]
struct Nonces {
    /// By nonce: a fingerprint of the page sealed under it, and the kind of file to which it was written first.
    pages_by_nonce: HashMap<Vec<u8>, (u64, Kind)>,
    pages: usize,
    kinds: BTreeSet<Kind>,
    /// Pages that a checkpoint copied unchanged.
    moved: usize,
    /// Pages sealed under a used nonce.
    reused: usize,
}

impl NonceWatcher {
    fn seen(&self) -> MutexGuard<'_, Nonces> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher for NonceWatcher {
    fn covers(&self, file: &Opened) -> bool {
        file.path.as_ref().is_some_and(|path| path.starts_with(&self.root) && !path.ends_with("control.db"))
    }

    fn see(&self, file: &Opened, call: Call<'_>) -> Verdict {
        if let Call::Write { bytes, .. } = call
            && (bytes.len() == PAGE_LEN || bytes.len() == FRAME_LEN)
        {
            let mut seen = self.seen();
            seen.pages += 1;
            seen.kinds.insert(file.kind());
            let (page, kind) = (&bytes[bytes.len() - PAGE_LEN..], file.kind());
            let fingerprint = BuildHasherDefault::<DefaultHasher>::default().hash_one(page);
            let nonce = page[PAGE_LEN - self.nonce_len..].to_vec();
            match seen.pages_by_nonce.insert(nonce, (fingerprint, kind)) {
                None => {}
                Some((same, Kind::Wal)) if same == fingerprint && kind == Kind::Data => seen.moved += 1,
                Some(_) => seen.reused += 1,
            }
        }
        Verdict::Pass
    }
}

#[test]
fn no_nonce_is_used_twice() {
    let _turn = shared_turn();
    // The shortest and the longest nonce. In Turso's format all files share one key.
    for (cipher, format) in [(Cipher::Aes256Gcm, PageFormat::Turso), (Cipher::Aegis256, PageFormat::Native)] {
        let fleet = Fleet::new(Some(cipher), format);
        let watcher = Arc::new(NonceWatcher {
            root: fleet.dir.path().to_owned(),
            nonce_len: cipher.nonce_len(),
            seen: Mutex::default(),
        });
        let _watch = fault_vfs::watch(Arc::clone(&watcher) as _);
        // Alternate two contents, so that plaintext pages repeat.
        let connection = fleet.connect_unfenced();
        run(
            &connection,
            "PRAGMA synchronous=OFF; PRAGMA cache_size=100; PRAGMA cache_spill=100;
             CREATE TABLE t(id INTEGER PRIMARY KEY, bytes BLOB);
             WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 1200)
             INSERT INTO t SELECT i, zeroblob(3500) FROM n",
        )
        .unwrap();
        let copy = fleet.dir.path().join("copy.db");
        connection.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
        connection.execute("ATTACH ?1 AS copy", [copy.to_str().unwrap()]).unwrap();
        let mut round = 0;
        while watcher.seen().pages < 50_000 {
            round += 1;
            let rows = format!("bytes = printf('%.*c', 3500, '{}')", round % 2);
            // Each round uses a new connection with its own nonce generator.
            let another = fleet.connect();
            run(&another, &format!("PRAGMA synchronous=OFF; UPDATE t SET {rows}")).unwrap();
            run(&another, "PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
            run(&connection, &format!("UPDATE copy.t SET {rows}")).unwrap();
        }
        let seen = watcher.seen();
        assert_eq!(seen.kinds, [Kind::Data, Kind::Wal, Kind::Journal].into(), "{cipher}");
        assert_eq!(seen.reused, 0, "{cipher}");
        assert_eq!(seen.pages_by_nonce.len() + seen.moved, seen.pages, "{cipher}");
    }
}

/// Records offset and length of each write to a WAL, and whether it is a commit frame.
struct FrameWatcher {
    wal: PathBuf,
    writes: Mutex<Vec<(u64, usize, bool)>>,
}

impl Watcher for FrameWatcher {
    fn covers(&self, file: &Opened) -> bool {
        file.path.as_ref() == Some(&self.wal)
    }

    fn see(&self, _: &Opened, call: Call<'_>) -> Verdict {
        if let Call::Write { at, bytes } = call {
            let commits = bytes.len() == FRAME_LEN && bytes[4..8] != [0; 4];
            let mut writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
            writes.push((at, bytes.len(), commits));
        }
        Verdict::Pass
    }
}

/// The number of writes of each kind.
#[derive(Debug, Default, PartialEq, Eq)]
struct Writes {
    wal_headers: usize,
    frames: usize,
    /// Pages overwritten within their transaction.
    pages: usize,
    /// Frame headers rewritten at the end of their transaction.
    headers: usize,
}

/// Checks that each write is valid, and counts them by kind.
fn counted(writes: &[(u64, usize, bool)]) -> Writes {
    let mut counted = Writes::default();
    // End offsets of the last frame, of the last transaction, and of the one before.
    let (mut end, mut committed, mut before) = (0, 0, 0);
    for (at, len, commits) in writes.iter().copied() {
        let is_frame = |at: u64| at >= 32 && (at - 32).is_multiple_of(FRAME_LEN as u64);
        match len {
            HEADER_LEN if at == 0 => {
                counted.wal_headers += 1;
                (end, committed, before) = (32, 32, 32);
            }
            FRAME_LEN => {
                assert!(is_frame(at) && at >= committed && at <= end, "a frame at {at} of {end}");
                counted.frames += 1;
                end = at + FRAME_LEN as u64;
                if commits {
                    (before, committed) = (committed, end);
                }
            }
            PAGE_LEN => {
                let frame = at - FRAME_HEADER_LEN as u64;
                assert!(is_frame(frame) && frame >= committed && frame < end, "a page at {at} of {end}");
                counted.pages += 1;
            }
            FRAME_HEADER_LEN => {
                assert!(is_frame(at) && at >= before && at < committed, "a header at {at} of {end}");
                counted.headers += 1;
            }
            _ => panic!("{len} bytes at {at}"),
        }
    }
    counted
}

/// SQLite's running checksum (<https://www.sqlite.org/fileformat2.html#checksum_algorithm>), in the byte order given
/// by the WAL's magic number.
fn checksum(is_big: bool, (mut s0, mut s1): (u32, u32), bytes: &[u8]) -> (u32, u32) {
    let read = |word: &[u8]| {
        let word = word.try_into().unwrap();
        if is_big { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
    };
    for pair in bytes.chunks(8) {
        s0 = s0.wrapping_add(read(&pair[..4])).wrapping_add(s1);
        s1 = s1.wrapping_add(read(&pair[4..])).wrapping_add(s0);
    }
    (s0, s1)
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

/// The number of frames from the start with the header's salts and valid checksums over the stored bytes.
fn frames_in_chain(wal: &Path) -> usize {
    let bytes = fs::read(wal).unwrap();
    let (header, frames) = bytes.split_at(HEADER_LEN);
    let is_big = be32(header) == 0x377f_0683;
    let mut sum = checksum(is_big, (0, 0), &header[..24]);
    assert_eq!(sum, (be32(&header[24..]), be32(&header[28..])));
    frames
        .chunks_exact(FRAME_LEN)
        .take_while(|frame| {
            sum = checksum(is_big, sum, &frame[..8]);
            sum = checksum(is_big, sum, &frame[FRAME_HEADER_LEN..]);
            frame[8..16] == header[16..24] && sum == (be32(&frame[16..]), be32(&frame[20..]))
        })
        .count()
}

const ROWS: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, word TEXT); CREATE INDEX i ON t(word);
    WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
    INSERT INTO t SELECT i, (i * 7919 % 3001) || printf('%.*c', 200, 'x') FROM n";

#[test]
fn frames_are_written_whole_with_checksums_over_ciphertext() {
    let _turn = shared_turn();
    for (cipher, format) in [(Cipher::Aes256Gcm, PageFormat::Native), (Cipher::Aegis128X2, PageFormat::Turso)]
    {
        let fleet = Fleet::new(Some(cipher), format);
        let connection = fleet.connect();
        let wal = fleet.database_dir().join("data.db-wal");
        let watcher = Arc::new(FrameWatcher { wal: wal.clone(), writes: Mutex::default() });
        let _watch = fault_vfs::watch(Arc::clone(&watcher) as _);
        let writes = || std::mem::take(&mut *watcher.writes.lock().unwrap_or_else(PoisonError::into_inner));

        // If the transaction fits into the cache, SQLite writes whole frames only.
        run(&connection, "PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=FULL").unwrap();
        run(&connection, ROWS).unwrap();
        for at in 0..20 {
            run(&connection, &format!("UPDATE t SET word = word || 'y' WHERE id % 20 = {at}")).unwrap();
        }
        let first = counted(&writes());
        assert!(first.frames > 1000, "{first:?}");
        assert_eq!((first.wal_headers, first.pages, first.headers), (1, 0, 0), "{cipher}");
        assert_eq!(frames_in_chain(&wal), first.frames, "{cipher}");

        // Otherwise it overwrites pages in place and rewrites the checksums of all later frames at commit.
        run(&connection, "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA cache_size=5; PRAGMA cache_spill=2")
            .unwrap();
        for at in 0..10 {
            let more = format!(
                "BEGIN; UPDATE t SET word = {at} || word WHERE id % 3 = 0; UPDATE t SET word = word || 'z';
                 SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; UPDATE t SET word = 'w' || word WHERE id % 5 = 0;"
            );
            // A rollback leaves frames outside the chain, which the next transaction overwrites.
            let end = if at % 3 == 1 { "ROLLBACK" } else { "COMMIT" };
            run(&connection, &(more + end)).unwrap();
        }
        run(&connection, "INSERT INTO t(word) VALUES ('the last one')").unwrap();
        let all = writes();
        let spilled = counted(&all);
        assert!(spilled.pages > 100 && spilled.headers > 100, "{spilled:?}");
        let last = all.iter().rfind(|(.., commits)| *commits).unwrap().0;
        assert_eq!(frames_in_chain(&wal), usize::try_from(last).unwrap() / FRAME_LEN + 1, "{cipher}");
        assert_eq!(query::<String>(&connection, "PRAGMA integrity_check").unwrap(), "ok");
    }
}

/// What a connection has cached about the WAL is invalid once another has appended to it or restarted it.
#[test]
fn alternating_writers_keep_one_checksum_chain() {
    let _turn = shared_turn();
    let fleet = Fleet::new(Some(Cipher::Aegis256X2), PageFormat::Native);
    let wal = fleet.database_dir().join("data.db-wal");
    let connections = [fleet.connect(), fleet.connect()];
    for connection in &connections {
        run(connection, "PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=5; PRAGMA cache_spill=2").unwrap();
    }
    run(&connections[0], ROWS).unwrap();
    run(&connections[0], "CREATE TABLE one(n INTEGER); INSERT INTO one VALUES (0)").unwrap();
    let one = |connection: &Connection| run(connection, "UPDATE one SET n = n + 1").unwrap();
    for frames in 1..6 {
        for restarts in [false, true] {
            // Both write equally many frames, so that the offset alone does not identify the WAL.
            run(&connections[1], "PRAGMA wal_checkpoint(RESTART)").unwrap();
            (0..frames).for_each(|_| one(&connections[0]));
            if restarts {
                run(&connections[1], "PRAGMA wal_checkpoint(RESTART)").unwrap();
            } else {
                // Spilled and rolled-back frames are overwritten by the next transaction.
                run(&connections[1], "BEGIN; UPDATE t SET word = 'undone' || word; ROLLBACK").unwrap();
            }
            (0..frames).for_each(|_| one(&connections[1]));
            one(&connections[0]);
            let expected = if restarts { frames + 1 } else { 2 * frames + 1 };
            assert_eq!(frames_in_chain(&wal), expected, "{frames} frames, restarted: {restarts}");
        }
    }
    assert_eq!(
        query::<i64>(&connections[1], "SELECT n FROM one").unwrap(),
        2 * (2 * (1 + 2 + 3 + 4 + 5) + 5)
    );
}
