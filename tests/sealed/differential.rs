//! The same SQL on a plain database and on an encrypted one gives the same answers, the same errors and the same rows:
//! through several connections, small caches, crashes and copies.

use std::{fmt::Write as _, fs, io::Write as _, time::Duration};

use litefleet::{
    Cipher, ConnectOptions, CreateDatabaseInput, PageFormat, RemoteEncryption,
    rusqlite::{Connection, MAIN_DB, backup::Backup, types::Value},
};
use proptest::{prelude::*, test_runner::TestCaseResult};

use crate::{
    support::{Fleet, contents, names},
    vault::{copy_files, key},
};

/// What is compared with a plain database: ciphers, formats and page sizes.
const KINDS: [(Cipher, PageFormat, u32); 7] = [
    (Cipher::Aes256Gcm, PageFormat::Native, 512),
    (Cipher::ChaCha20Poly1305, PageFormat::Native, 1024),
    (Cipher::Aegis128L, PageFormat::Native, 4096),
    (Cipher::Aegis256, PageFormat::Native, 4096),
    (Cipher::Aegis256, PageFormat::Turso, 4096),
    (Cipher::Aegis256X2, PageFormat::Native, 8192),
    (Cipher::Aegis128X4, PageFormat::Turso, 65_536),
];

/// Connections to the database that are open at once.
const CONNECTIONS: usize = 3;

/// One thing that is done to both databases.
#[derive(Clone, Debug)]
enum Step {
    /// SQL on one of the connections.
    Sql(usize, String),
    /// Bytes are written into a value and all of it is read, without SQL.
    Blob(usize, i64, usize, u8),
    /// The pages are copied to another database, so many at a time, by SQLite's backup API.
    Backup(usize, i32),
    /// The machine stops; what is on the disk then is opened.
    Crash,
    /// All connections are closed and opened again.
    Reopen,
    /// Everything is read on one of the connections.
    Read(usize),
}

/// SQL with numbers in it, most of which is done often.
fn sql(kind: usize, a: u32, b: u32) -> String {
    let table = ["t", "u"][b as usize % 2];
    let fill = |count: u32, size: u32| {
        format!(
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             INSERT INTO {table}(word, body)
             SELECT printf('%d words of %d', i * {a} % 997, {b}), CAST(printf('%.*c', i * {b} % {size}, 'x') AS BLOB) FROM n"
        )
    };
    match kind {
        0..3 => fill(a % 60 + 1, 200),
        3 => fill(a % 8 + 1, 20_000),
        4 | 5 => format!("UPDATE {table} SET word = word || '{a}', n = id * {b} WHERE id % {} = 0", a % 7 + 1),
        6 => format!("UPDATE {table} SET body = zeroblob({}) WHERE id % 11 = {}", a * 37 % 30_000, b % 11),
        7 => format!("DELETE FROM {table} WHERE id % {} = 1", a % 5 + 2),
        8 => format!("DELETE FROM {table} WHERE id > {}", b % 300),
        9 => ["BEGIN", "BEGIN IMMEDIATE"][a as usize % 2].into(),
        10 | 11 => "COMMIT".into(),
        12 => "ROLLBACK".into(),
        13 => "SAVEPOINT s".into(),
        14 => ["ROLLBACK TO s", "RELEASE s"][a as usize % 2].into(),
        15 => "VACUUM".into(),
        16 | 17 => {
            format!("PRAGMA wal_checkpoint({})", ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][a as usize % 4])
        }
        18 => format!("PRAGMA cache_size={}", [1, 5, 20, -2000][a as usize % 4]),
        19 => format!("PRAGMA cache_spill={}; PRAGMA temp_store=FILE", a % 3),
        20 => format!(
            "CREATE TEMP TABLE IF NOT EXISTS temps(id INTEGER PRIMARY KEY, word TEXT, body BLOB);
             INSERT INTO temps(word, body) SELECT word, body FROM {table}; DELETE FROM temps WHERE id % 3 = {};
             SELECT count(*), sum(length(word)), sum(length(body)) FROM temps",
            a % 3
        ),
        21 => format!("SELECT id, word FROM {table} ORDER BY substr(word, {}), length(body) DESC, id", a % 9),
        22 => format!(
            "SELECT l.id, count(*), max(r.word) FROM {table} l JOIN t r ON l.n = r.n OR l.word < r.word
             WHERE l.id < {} GROUP BY l.id ORDER BY 3, 2, 1",
            a % 40
        ),
        23 => format!("INSERT INTO f(body) SELECT word FROM {table} WHERE id < {}", a % 200),
        24 => format!("DELETE FROM f WHERE rowid % {} = 0", a % 6 + 2),
        25 => format!("SELECT rowid, body FROM f WHERE f MATCH 'words AND {}' ORDER BY rank, rowid", a % 997),
        26 => "INSERT INTO f(f) VALUES ('optimize'), ('integrity-check')".into(),
        27 => format!(
            "INSERT OR IGNORE INTO r SELECT id + {a}, id % 90, id % 90 + {}, {a}, {a} + id % 7 FROM {table}",
            b % 50
        ),
        28 => format!("SELECT count(*), sum(id) FROM r WHERE x1 > {} AND y0 < {}", a % 90, b),
        29 => format!("CREATE TABLE IF NOT EXISTS v{}(a PRIMARY KEY, b) WITHOUT ROWID", a % 3),
        30 => format!("INSERT OR REPLACE INTO v{} SELECT word, body FROM {table} WHERE id < {b}", a % 3),
        31 => format!("DROP TABLE IF EXISTS v{}", a % 3),
        32 => format!("CREATE INDEX IF NOT EXISTS i{} ON {table}(n, word)", a % 4),
        33 => format!("DROP INDEX IF EXISTS i{}", a % 4),
        34 => format!("ALTER TABLE {table} ADD COLUMN c{} DEFAULT {b}", a % 4),
        35 => ["ANALYZE", "REINDEX"][a as usize % 2].into(),
        _ => "PRAGMA integrity_check".into(),
    }
}

fn step() -> impl Strategy<Value = Step> {
    let connection = 0..CONNECTIONS;
    prop_oneof![
        40 => (connection.clone(), 0..37_usize, 0..1000_u32, 0..1000_u32)
            .prop_map(|(connection, kind, a, b)| Step::Sql(connection, sql(kind, a, b))),
        3 => (connection.clone(), 1..60_i64, 0..4000_usize, any::<u8>())
            .prop_map(|(connection, row, at, byte)| Step::Blob(connection, row, at, byte)),
        1 => (connection.clone(), 1..40_i32).prop_map(|(connection, pages)| Step::Backup(connection, pages)),
        2 => Just(Step::Crash),
        1 => Just(Step::Reopen),
        4 => connection.prop_map(Step::Read),
    ]
}

/// A database, plain or encrypted, with connections to it.
struct World {
    fleet: Fleet,
    encryption: Option<RemoteEncryption>,
    connections: Vec<Connection>,
    copies: usize,
}

impl World {
    fn new(page_size: u32, encryption: Option<RemoteEncryption>) -> Self {
        let fleet = Fleet::new();
        let file = fleet.dir.path().join("seed.db");
        Connection::open(&file)
            .unwrap()
            .execute_batch(&format!(
                "PRAGMA page_size={page_size};
                 CREATE TABLE t(id INTEGER PRIMARY KEY, word TEXT, body BLOB, n INTEGER); CREATE INDEX i0 ON t(n, word);
                 CREATE TABLE u(id INTEGER PRIMARY KEY, word TEXT UNIQUE ON CONFLICT REPLACE, body BLOB, n INTEGER);
                 CREATE TRIGGER twice AFTER DELETE ON t WHEN old.id % 3 = 0 BEGIN DELETE FROM u WHERE id = old.id; END;
                 CREATE VIRTUAL TABLE f USING fts5(body); CREATE VIRTUAL TABLE r USING rtree(id, x0, x1, y0, y1);
                 WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 60)
                 INSERT INTO t SELECT i, 'word ' || i, zeroblob(i * 91), i FROM n;
                 INSERT INTO u SELECT * FROM t"
            ))
            .unwrap();
        let world = Self { fleet, encryption, connections: Vec::new(), copies: 0 };
        world.fleet.plane.import_database(world.input("world"), file.as_path()).unwrap();
        world
    }

    fn input(&self, name: &str) -> CreateDatabaseInput {
        let input = CreateDatabaseInput::new(name, "default");
        match &self.encryption {
            Some(encryption) => input.with_encryption(encryption.clone()),
            None => input,
        }
    }

    fn open(&self, name: &str) -> Connection {
        // All connections are one thread's, so that nobody would give way.
        let options = ConnectOptions::default().busy_timeout(Duration::ZERO);
        let options = match &self.encryption {
            Some(encryption) => options.encryption_key(encryption.key().clone()),
            None => options,
        };
        self.fleet.plane.connect(name, &options).unwrap()
    }

    /// What comes of a step, as text.
    fn take(&mut self, step: &Step) -> String {
        match step {
            Step::Sql(at, sql) => self.ask(*at, sql),
            Step::Blob(at, row, offset, byte) => {
                blob(&self.connections[*at], *row, *offset, *byte).unwrap_or_else(|error| error.to_string())
            }
            Step::Backup(at, pages) => self.back_up(*at, *pages),
            Step::Crash => self.crash(),
            Step::Reopen => {
                self.reopen();
                self.read(0)
            }
            Step::Read(at) => self.read(*at),
        }
    }

    fn ask(&self, at: usize, sql: &str) -> String {
        let mut answers = String::new();
        for statement in sql.split(';') {
            match rows(&self.connections[at], statement) {
                // How many frames a log has is nothing to compare: pages hold less where a tag takes room.
                Ok(rows) if statement.contains("wal_checkpoint") => {
                    writeln!(answers, "{:?}", rows[0][0]).unwrap();
                }
                Ok(rows) => writeln!(answers, "{rows:?}").unwrap(),
                Err(error) => writeln!(answers, "{error}").unwrap(),
            }
        }
        answers
    }

    fn read(&self, at: usize) -> String {
        // The schema may be locked by what another connection does.
        match rows(&self.connections[at], "SELECT 1 FROM sqlite_schema") {
            Ok(_) => format!("{:?}", contents(&self.connections[at])),
            Err(error) => error.to_string(),
        }
    }

    fn reopen(&mut self) {
        self.connections.clear();
        self.connections = (0..CONNECTIONS).map(|_| self.open("world")).collect();
    }

    fn crash(&mut self) -> String {
        self.copies += 1;
        let name = format!("copy-{}", self.copies);
        self.fleet.plane.create_database(self.input(&name)).unwrap();
        let place = self.fleet.place(&name);
        for file in names(&place) {
            fs::remove_file(place.join(file)).unwrap();
        }
        copy_files(&self.fleet.place("world"), &place, &["data.db", "data.db-wal"]);
        let copy = self.open(&name);
        let sound = rows(&copy, "PRAGMA integrity_check");
        format!("{sound:?} {:?}", contents(&copy))
    }

    /// To a database with the same seal, which is read, and to one in memory.
    fn back_up(&mut self, at: usize, pages: i32) -> String {
        self.copies += 1;
        let name = format!("copy-{}", self.copies);
        let copy = |mut into: Connection| {
            let backup = Backup::new(&self.connections[at], &mut into)?;
            backup.run_to_completion(pages, Duration::ZERO, None)?;
            drop(backup);
            Ok::<_, litefleet::rusqlite::Error>(contents(&into))
        };
        let in_memory = copy(Connection::open_in_memory().unwrap());
        self.fleet
            .plane
            .import_database(self.input(&name), self.fleet.dir.path().join("seed.db").as_path())
            .unwrap();
        let beside = copy(self.open(&name));
        let same = match (&in_memory, &beside) {
            (Ok(one), Ok(other)) => one == other,
            (one, other) => one.is_err() == other.is_err(),
        };
        assert!(same, "the copies differ");
        match beside {
            Ok(rows) => format!("{rows:?}"),
            Err(error) => error.to_string(),
        }
    }
}

fn rows(connection: &Connection, sql: &str) -> litefleet::rusqlite::Result<Vec<Vec<Value>>> {
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push((0..columns).map(|at| row.get(at)).collect::<litefleet::rusqlite::Result<_>>()?);
    }
    Ok(all)
}

fn blob(
    connection: &Connection,
    row: i64,
    offset: usize,
    byte: u8,
) -> Result<String, Box<dyn std::error::Error>> {
    use std::io::{Read, Seek, SeekFrom};
    let mut blob = connection.blob_open(MAIN_DB, "t", "body", row, false)?;
    let at = offset % (blob.len() + 1);
    blob.seek(SeekFrom::Start(at as u64))?;
    let written = blob.write(&[byte; 700]).map_err(|error| error.to_string());
    blob.seek(SeekFrom::Start(0))?;
    let mut all = Vec::new();
    blob.read_to_end(&mut all)?;
    Ok(format!("{written:?} {all:?}"))
}

fn compare((cipher, format, page_size): (Cipher, PageFormat, u32), steps: &[Step]) -> TestCaseResult {
    let encryption = RemoteEncryption::new(key(cipher), cipher).unwrap().with_page_format(format);
    let mut plain = World::new(page_size, None);
    let mut sealed = World::new(page_size, Some(encryption));
    for world in [&mut plain, &mut sealed] {
        world.reopen();
        let size = rows(&world.connections[0], "PRAGMA page_size").unwrap();
        prop_assert_eq!(size, vec![vec![Value::Integer(page_size.into())]]);
    }
    for (at, step) in steps.iter().chain([&Step::Crash, &Step::Reopen, &Step::Read(0)]).enumerate() {
        let (expected, found) = (plain.take(step), sealed.take(step));
        if expected != found {
            let differs = expected.bytes().zip(found.bytes()).position(|(one, other)| one != other);
            let from = differs.unwrap_or(0).saturating_sub(100);
            let part = |text: &str| text.chars().skip(from).take(400).collect::<String>();
            prop_assert!(false, "step {at}, {step:?}:\nplain: {}\nsealed: {}", part(&expected), part(&found));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 42, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_sql_gives_the_same_rows(
        kind in 0..KINDS.len(),
        steps in prop::collection::vec(step(), 1..70),
    ) {
        compare(KINDS[kind], &steps)?;
    }
}
