//! Tampering with the files of an open database by another process.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use litefleet::{Cipher, Error, ErrorKind, PageFormat, rusqlite::Connection};

use super::{
    CIPHERS,
    wal::{frame, frames, relink, versions},
};
use crate::{encryption::copy_files, support::Fleet};

/// Writes bytes into a file from another process: closing a descriptor here would release SQLite's locks.
fn overwrite(path: &Path, at: usize, bytes: &[u8]) {
    let mut child = Command::new("dd")
        .arg(format!("of={}", path.display()))
        .args(["oflag=seek_bytes", "conv=notrunc", "bs=64K", "iflag=fullblock", "status=none"])
        .arg(format!("seek={at}"))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Two similar tables whose newest versions are in the WAL, and a connection that has read neither.
struct Live {
    fleet: Fleet,
    cipher: Cipher,
    log: Vec<u8>,
    /// The frames of the leaves of the two tables.
    frames: [usize; 2],
    reader: Connection,
    _writer: Connection,
}

const ONE: &str = "SELECT group_concat(word) FROM one";
const TWO: &str = "SELECT group_concat(word) FROM two";

impl Live {
    fn new(cipher: Cipher, format: PageFormat) -> Self {
        let fleet = Fleet::new();
        fleet.create_sealed("vault", cipher, format);
        let writer = fleet.unlock("vault", cipher);
        writer
            .execute_batch(
                "CREATE TABLE one(id INTEGER PRIMARY KEY, word TEXT); CREATE TABLE two(id INTEGER PRIMARY KEY, word TEXT);
                 INSERT INTO one VALUES (1, 'one-old'); INSERT INTO two VALUES (1, 'two-old');
                 PRAGMA wal_checkpoint(TRUNCATE);
                 UPDATE one SET word = 'one-mid'; UPDATE two SET word = 'two-mid';
                 UPDATE one SET word = 'one-new'; UPDATE two SET word = 'two-new';",
            )
            .unwrap();
        let pages = ["one", "two"].map(|table| {
            let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
            writer.query_row(sql, [table], |row| row.get::<_, u32>(0)).unwrap() as usize
        });
        let reader = fleet.unlock("vault", cipher);
        assert_eq!(crate::support::count(&reader, "SELECT count(*) FROM sqlite_schema"), 2);
        let copy = fleet.dir.path().join("copy");
        copy_files(&fleet.database_dir("vault"), &copy, &["data.db-wal"]);
        let mut log = std::fs::read(copy.join("data.db-wal")).unwrap();
        let frames = pages.map(|page| *versions(&mut log, page).last().unwrap());
        Self { fleet, cipher, log, frames, reader, _writer: writer }
    }

    /// Overwrites the end of a frame: all of it, or its page only.
    fn put(&self, at: usize, bytes: &[u8]) {
        let end = 32 + (at + 1) * (24 + 4096);
        overwrite(&self.fleet.database_dir("vault").join("data.db-wal"), end - bytes.len(), bytes);
    }

    fn frame(&self, at: usize) -> Vec<u8> {
        frame(&mut self.log.clone(), at).to_vec()
    }

    /// Swaps the two frames, from byte `from` of each.
    fn swap(&self, from: usize) {
        let [one, two] = self.frames;
        let (of_one, of_two) = (self.frame(one), self.frame(two));
        self.put(one, &of_two[from..]);
        self.put(two, &of_one[from..]);
    }

    fn query(&self, sql: &str) -> Result<String, ErrorKind> {
        let answer = self.reader.query_row(sql, [], |row| row.get(0));
        answer.map_err(|error| Error::from_sqlite(&self.reader, error).kind())
    }
}

#[test]
fn swapped_frames_in_an_open_wal_are_corruption() {
    for cipher in CIPHERS {
        // With or without frame headers: SQLite locates pages through the wal-index.
        for from in [0, 24] {
            let live = Live::new(cipher, PageFormat::Native);
            live.swap(from);
            assert_eq!(live.query(ONE), Err(ErrorKind::Corrupt), "{cipher} {from}");
            assert_eq!(live.query(TWO), Err(ErrorKind::Corrupt), "{cipher} {from}");
            // A checkpoint does not copy them into the file.
            assert_eq!(live.query("PRAGMA wal_checkpoint(PASSIVE)").unwrap_err(), ErrorKind::Corrupt);
            // Restoring the frames restores the data.
            live.frames.iter().for_each(|at| live.put(*at, &live.frame(*at)));
            assert_eq!((live.query(ONE), live.query(TWO)), (Ok("one-new".into()), Ok("two-new".into())));
            live.reader.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
            assert_eq!((live.query(ONE), live.query(TWO)), (Ok("one-new".into()), Ok("two-new".into())));

            // In Turso's format a page is not bound to its number.
            let live = Live::new(cipher, PageFormat::Turso);
            live.swap(from);
            assert_eq!((live.query(ONE), live.query(TWO)), (Ok("two-new".into()), Ok("one-new".into())));
        }
    }
}

#[test]
fn damaged_or_truncated_frame_in_an_open_wal_is_an_error() {
    for cipher in CIPHERS {
        for format in [PageFormat::Native, PageFormat::Turso] {
            let live = Live::new(cipher, format);
            let [one, two] = live.frames;
            let mut damaged = live.frame(one);
            damaged[2000] ^= 1;
            live.put(one, &damaged);
            assert_eq!((live.query(ONE), live.query(TWO)), (Err(ErrorKind::Corrupt), Ok("two-new".into())));

            let live = Live::new(cipher, format);
            let log = live.fleet.database_dir("vault").join("data.db-wal");
            let keep = 32 + two * (24 + 4096) + 100;
            let cut = Command::new("truncate").arg(format!("--size={keep}")).arg(&log).status().unwrap();
            assert!(cut.success());
            assert_eq!((live.query(ONE), live.query(TWO)), (Ok("one-new".into()), Err(ErrorKind::Io)));
        }
    }
}

/// A writer reads the header of a WAL that it has not written before it appends.
#[test]
fn open_wal_with_changed_header_is_not_written_to() {
    for cipher in CIPHERS {
        for format in [PageFormat::Native, PageFormat::Turso] {
            let live = Live::new(cipher, format);
            let changed = |change: &dyn Fn(&mut [u8])| {
                let mut log = live.log.clone();
                change(&mut log);
                relink(&mut log);
                log[..32].to_vec()
            };
            for header in [
                vec![0; 32],
                changed(&|log| log[8..12].copy_from_slice(&8192_u32.to_be_bytes())),
                changed(&|log| log[16] ^= 1),
            ] {
                overwrite(&live.fleet.database_dir("vault").join("data.db-wal"), 0, &header);
                let error = live.reader.execute("UPDATE one SET word = 'lost'", []).unwrap_err();
                let error = Error::from_sqlite(&live.reader, error);
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{cipher} {format}: {error}");
                assert!(error.to_string().contains("data.db-wal is damaged"), "{error}");
            }
            overwrite(&live.fleet.database_dir("vault").join("data.db-wal"), 0, &live.log[..32]);
            live.reader.execute("UPDATE one SET word = 'one-more'", []).unwrap();
            assert_eq!((live.query(ONE), live.query(TWO)), (Ok("one-more".into()), Ok("two-new".into())));
        }
    }
}

/// A page does not identify which of its versions it is.
#[test]
fn replayed_frame_in_an_open_wal_is_undetected() {
    for format in [PageFormat::Native, PageFormat::Turso] {
        let live = Live::new(Cipher::Aegis256, format);
        let [one, _] = live.frames;
        assert!(frames(&live.log) > one);
        let page = live.frame(one)[..4].try_into().map(u32::from_be_bytes).unwrap() as usize;
        let old = versions(&mut live.log.clone(), page)[0];
        assert!(old < one);
        live.put(one, &live.frame(old)[24..]);
        assert_eq!((live.query(ONE), live.query(TWO)), (Ok("one-mid".into()), Ok("two-new".into())));
    }
}

#[test]
fn swapped_pages_in_an_open_file_are_corruption() {
    for cipher in CIPHERS {
        let live = Live::new(cipher, PageFormat::Native);
        live.reader.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let reader = live.fleet.unlock("vault", live.cipher);
        assert_eq!(crate::support::count(&reader, "SELECT count(*) FROM sqlite_schema"), 2);
        let copy = live.fleet.dir.path().join("copy");
        copy_files(&live.fleet.database_dir("vault"), &copy, &["data.db"]);
        let data = std::fs::read(copy.join("data.db")).unwrap();
        let file = live.fleet.database_dir("vault").join("data.db");
        overwrite(&file, 4096, &[&data[8192..12288], &data[4096..8192]].concat());
        for sql in [ONE, TWO] {
            let error = reader.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap_err();
            assert_eq!(Error::from_sqlite(&reader, error).kind(), ErrorKind::Corrupt, "{cipher} {sql}");
        }
    }
}
