//! Tampering while a connection is open: another process writes to the files beneath it.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use litefleet::{Cipher, ErrorKind, PageFormat, explain, rusqlite::Connection};

use super::{
    CIPHERS,
    log::{frame, frames, relink, versions},
};
use crate::{support::Fleet, vault::copy_files};

/// Writes bytes into a file, as a process of its own: this one must not close what SQLite has locked.
fn poke(path: &Path, at: usize, bytes: &[u8]) {
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

/// Two tables that look alike, whose newest versions stand in the log; and a connection that has read neither.
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
        copy_files(&fleet.place("vault"), &copy, &["data.db-wal"]);
        let mut log = std::fs::read(copy.join("data.db-wal")).unwrap();
        let frames = pages.map(|page| *versions(&mut log, page).last().unwrap());
        Self { fleet, cipher, log, frames, reader, _writer: writer }
    }

    /// Writes a frame of the log anew, or its page alone.
    fn put(&self, at: usize, bytes: &[u8]) {
        let end = 32 + (at + 1) * (24 + 4096);
        poke(&self.fleet.place("vault").join("data.db-wal"), end - bytes.len(), bytes);
    }

    fn frame(&self, at: usize) -> Vec<u8> {
        frame(&mut self.log.clone(), at).to_vec()
    }

    /// Swaps the two frames from the given byte on.
    fn swap(&self, from: usize) {
        let [one, two] = self.frames;
        let (of_one, of_two) = (self.frame(one), self.frame(two));
        self.put(one, &of_two[from..]);
        self.put(two, &of_one[from..]);
    }

    fn ask(&self, sql: &str) -> Result<String, ErrorKind> {
        let answer = self.reader.query_row(sql, [], |row| row.get(0));
        answer.map_err(|error| explain(&self.reader, error).kind())
    }
}

#[test]
fn frames_that_are_swapped_in_the_log_of_an_open_database_are_an_error() {
    for cipher in CIPHERS {
        // With their headers or without: the wal-index says which page SQLite looks for.
        for from in [0, 24] {
            let live = Live::new(cipher, PageFormat::Native);
            live.swap(from);
            assert_eq!(live.ask(ONE), Err(ErrorKind::Corrupt), "{cipher} {from}");
            assert_eq!(live.ask(TWO), Err(ErrorKind::Corrupt), "{cipher} {from}");
            // No checkpoint carries them into the file.
            assert_eq!(live.ask("PRAGMA wal_checkpoint(PASSIVE)").unwrap_err(), ErrorKind::Corrupt);
            // What was there is there again.
            live.frames.iter().for_each(|at| live.put(*at, &live.frame(*at)));
            assert_eq!((live.ask(ONE), live.ask(TWO)), (Ok("one-new".into()), Ok("two-new".into())));
            live.reader.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
            assert_eq!((live.ask(ONE), live.ask(TWO)), (Ok("one-new".into()), Ok("two-new".into())));

            // Turso's format does not say where a page belongs.
            let live = Live::new(cipher, PageFormat::Turso);
            live.swap(from);
            assert_eq!((live.ask(ONE), live.ask(TWO)), (Ok("two-new".into()), Ok("one-new".into())));
        }
    }
}

#[test]
fn a_frame_that_is_damaged_or_gone_under_an_open_database_is_an_error() {
    for cipher in CIPHERS {
        for format in [PageFormat::Native, PageFormat::Turso] {
            let live = Live::new(cipher, format);
            let [one, two] = live.frames;
            let mut damaged = live.frame(one);
            damaged[2000] ^= 1;
            live.put(one, &damaged);
            assert_eq!((live.ask(ONE), live.ask(TWO)), (Err(ErrorKind::Corrupt), Ok("two-new".into())));

            let live = Live::new(cipher, format);
            let log = live.fleet.place("vault").join("data.db-wal");
            let keep = 32 + two * (24 + 4096) + 100;
            let cut = Command::new("truncate").arg(format!("--size={keep}")).arg(&log).status().unwrap();
            assert!(cut.success());
            assert_eq!((live.ask(ONE), live.ask(TWO)), (Ok("one-new".into()), Err(ErrorKind::Io)));
        }
    }
}

/// A writer reads the header of the log, which it has not written itself, before it adds to it.
#[test]
fn a_log_whose_header_was_changed_under_an_open_database_is_not_written_to() {
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
                poke(&live.fleet.place("vault").join("data.db-wal"), 0, &header);
                let error = live.reader.execute("UPDATE one SET word = 'lost'", []).unwrap_err();
                let error = explain(&live.reader, error);
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{cipher} {format}: {error}");
                assert!(error.to_string().contains("data.db-wal is damaged"), "{error}");
            }
            poke(&live.fleet.place("vault").join("data.db-wal"), 0, &live.log[..32]);
            live.reader.execute("UPDATE one SET word = 'one-more'", []).unwrap();
            assert_eq!((live.ask(ONE), live.ask(TWO)), (Ok("one-more".into()), Ok("two-new".into())));
        }
    }
}

/// Nothing in a page says which of its versions it is.
#[test]
fn an_old_frame_put_back_under_an_open_database_is_not_noticed() {
    for format in [PageFormat::Native, PageFormat::Turso] {
        let live = Live::new(Cipher::Aegis256, format);
        let [one, _] = live.frames;
        assert!(frames(&live.log) > one);
        let page = live.frame(one)[..4].try_into().map(u32::from_be_bytes).unwrap() as usize;
        let old = versions(&mut live.log.clone(), page)[0];
        assert!(old < one);
        live.put(one, &live.frame(old)[24..]);
        assert_eq!((live.ask(ONE), live.ask(TWO)), (Ok("one-mid".into()), Ok("two-new".into())));
    }
}

#[test]
fn pages_that_are_swapped_in_the_file_of_an_open_database_are_an_error() {
    for cipher in CIPHERS {
        let live = Live::new(cipher, PageFormat::Native);
        live.reader.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let reader = live.fleet.unlock("vault", live.cipher);
        assert_eq!(crate::support::count(&reader, "SELECT count(*) FROM sqlite_schema"), 2);
        let copy = live.fleet.dir.path().join("copy");
        copy_files(&live.fleet.place("vault"), &copy, &["data.db"]);
        let data = std::fs::read(copy.join("data.db")).unwrap();
        let file = live.fleet.place("vault").join("data.db");
        poke(&file, 4096, &[&data[8192..12288], &data[4096..8192]].concat());
        for sql in [ONE, TWO] {
            let error = reader.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap_err();
            assert_eq!(explain(&reader, error).kind(), ErrorKind::Corrupt, "{cipher} {sql}");
        }
    }
}
