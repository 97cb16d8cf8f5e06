//! A plain and an encrypted database execute the same random SQL and must agree on rows and errors, through several
//! connections, small caches, crashes and copies.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Seek, SeekFrom, Write},
    time::Duration,
};

use litefleet::{
    Cipher, ConnectOptions, CreateDatabaseInput, PageFormat, RemoteEncryption,
    rusqlite::{
        Connection, MAIN_DB,
        backup::{Backup, StepResult},
        types::Value,
    },
};
use proptest::{prelude::*, test_runner::TestCaseResult};

use crate::{
    encryption::{copy_files, key},
    support::{Fleet, contents, names},
};

/// The ciphers, formats and page sizes that are compared with a plain database.
const KINDS: [(Cipher, PageFormat, u32); 7] = [
    (Cipher::Aes256Gcm, PageFormat::Native, 512),
    (Cipher::ChaCha20Poly1305, PageFormat::Native, 1024),
    (Cipher::Aegis128L, PageFormat::Native, 4096),
    (Cipher::Aegis256, PageFormat::Native, 4096),
    (Cipher::Aegis256, PageFormat::Turso, 4096),
    (Cipher::Aegis256X2, PageFormat::Native, 8192),
    (Cipher::Aegis128X4, PageFormat::Turso, 65_536),
];

/// Number of concurrently open connections.
const CONNECTIONS: usize = 3;

/// An operation applied to both databases.
#[derive(Clone, Debug)]
enum Step {
    /// SQL on one of the connections.
    Sql(usize, String),
    /// Writes bytes into a value through incremental I/O, and reads the value.
    Blob(usize, i64, usize, u8),
    /// Copies the database with SQLite's backup API, this many pages at a time.
    Backup(usize, i32),
    /// Opens a copy of the files as they are, as after a crash.
    Crash,
    /// Closes and reopens all connections.
    Reopen,
    /// Reads everything on one connection.
    Read(usize),
}

/// Generates SQL; frequent kinds have several numbers.
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
        9 | 36 => ["BEGIN", "BEGIN IMMEDIATE"][a as usize % 2].into(),
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
        40 => (connection.clone(), 0..38_usize, 0..1000_u32, 0..1000_u32)
            .prop_map(|(connection, kind, a, b)| Step::Sql(connection, sql(kind, a, b))),
        3 => (connection.clone(), 1..60_i64, 0..4000_usize, any::<u8>())
            .prop_map(|(connection, row, at, byte)| Step::Blob(connection, row, at, byte)),
        1 => (connection.clone(), 1..40_i32).prop_map(|(connection, pages)| Step::Backup(connection, pages)),
        2 => Just(Step::Crash),
        1 => Just(Step::Reopen),
        4 => connection.prop_map(Step::Read),
    ]
}

/// The result of a step.
#[derive(Debug, PartialEq)]
enum Answer {
    /// For each statement its rows or its error.
    Sql(Vec<Result<Table, String>>),
    /// The contents of a database, or an error.
    All(Result<BTreeMap<String, Table>, String>),
    Blob(Result<(Option<String>, Vec<u8>), String>),
}

type Table = Vec<Vec<Value>>;

/// A plain or encrypted database, with its connections.
struct TestDatabase {
    fleet: Fleet,
    encryption: Option<RemoteEncryption>,
    connections: Vec<Connection>,
    copies: usize,
}

impl TestDatabase {
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
        let database = Self { fleet, encryption, connections: Vec::new(), copies: 0 };
        database.fleet.plane.import_database(database.input("world"), file.as_path()).unwrap();
        // Crash images are opened under this name: as a fork, it has the salt of its source.
        let fork = database.encrypted(CreateDatabaseInput::fork("crashed", "world"));
        database.fleet.plane.create_database(fork).unwrap();
        database
    }

    fn input(&self, name: &str) -> CreateDatabaseInput {
        self.encrypted(CreateDatabaseInput::new(name, "default"))
    }

    fn encrypted(&self, input: CreateDatabaseInput) -> CreateDatabaseInput {
        match &self.encryption {
            Some(encryption) => input.with_encryption(encryption.clone()),
            None => input,
        }
    }

    fn open(&self, name: &str) -> Connection {
        // All connections belong to one thread, so waiting for a lock is futile.
        let options = ConnectOptions::default().busy_timeout(Duration::ZERO);
        let options = match &self.encryption {
            Some(encryption) => options.encryption_key(encryption.key().clone()),
            None => options,
        };
        self.fleet.plane.connect(name, options.clone()).unwrap()
    }

    fn apply(&mut self, step: &Step) -> Answer {
        match step {
            Step::Sql(at, sql) => self.run_sql(*at, sql),
            Step::Blob(at, row, offset, byte) => Answer::Blob(
                blob(&self.connections[*at], *row, *offset, *byte).map_err(|error| error.to_string()),
            ),
            Step::Backup(at, pages) => self.backup(*at, *pages),
            Step::Crash => self.crash(),
            Step::Reopen => {
                self.reopen();
                self.read(0)
            }
            Step::Read(at) => self.read(*at),
        }
    }

    fn run_sql(&self, at: usize, sql: &str) -> Answer {
        let run = |statement: &str| {
            let mut rows = rows(&self.connections[at], statement).map_err(|error| error.to_string())?;
            // Frame counts may differ, because pages with a tag hold less.
            if statement.contains("wal_checkpoint") {
                for row in &mut rows {
                    row.truncate(1);
                }
            }
            Ok(rows)
        };
        Answer::Sql(sql.split(';').map(run).collect())
    }

    fn read(&self, at: usize) -> Answer {
        // Another connection may have locked the schema.
        let readable = rows(&self.connections[at], "SELECT 1 FROM sqlite_schema");
        Answer::All(readable.map(|_| contents(&self.connections[at])).map_err(|error| error.to_string()))
    }

    fn reopen(&mut self) {
        self.connections.clear();
        self.connections = (0..CONNECTIONS).map(|_| self.open("world")).collect();
    }

    fn crash(&self) -> Answer {
        let dir = self.fleet.database_dir("crashed");
        for file in names(&dir) {
            fs::remove_file(dir.join(file)).unwrap();
        }
        copy_files(&self.fleet.database_dir("world"), &dir, &["data.db", "data.db-wal"]);
        let copy = self.open("crashed");
        let check = rows(&copy, "PRAGMA integrity_check").unwrap();
        assert_eq!(check, [[Value::Text("ok".into())]]);
        Answer::All(Ok(contents(&copy)))
    }

    /// Backs up into an encrypted database and into memory, and compares the copies.
    fn backup(&mut self, at: usize, pages: i32) -> Answer {
        let name = self.next_name();
        let copy = |mut into: Connection| {
            let backup = Backup::new(&self.connections[at], &mut into)?;
            let mut done = StepResult::More;
            // The lock holder is this thread, so waiting is futile.
            while let StepResult::More = done {
                done = backup.step(pages)?;
            }
            drop(backup);
            let rows = matches!(done, StepResult::Done).then(|| contents(&into));
            Ok::<_, litefleet::rusqlite::Error>(rows)
        };
        let in_memory = copy(Connection::open_in_memory().unwrap());
        let file = self.fleet.dir.path().join("seed.db");
        self.fleet.plane.import_database(self.input(&name), file.as_path()).unwrap();
        let beside = copy(self.open(&name));
        let text = |answer: litefleet::rusqlite::Result<Option<_>>| match answer {
            Ok(Some(rows)) => Ok(rows),
            Ok(None) => Err("locked".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let (in_memory, beside) = (text(in_memory), text(beside));
        assert!(in_memory == beside, "the two copies differ");
        Answer::All(beside)
    }

    fn next_name(&mut self) -> String {
        self.copies += 1;
        format!("copy-{}", self.copies)
    }
}

fn rows(connection: &Connection, sql: &str) -> litefleet::rusqlite::Result<Table> {
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push((0..columns).map(|at| row.get(at)).collect::<litefleet::rusqlite::Result<_>>()?);
    }
    Ok(all)
}

/// Writes into a value and reads it. A write beyond its end is an error.
fn blob(
    connection: &Connection,
    row: i64,
    offset: usize,
    byte: u8,
) -> Result<(Option<String>, Vec<u8>), Box<dyn std::error::Error>> {
    let mut blob = connection.blob_open(MAIN_DB, "t", "body", row, false)?;
    let at = offset % (blob.len() + 1);
    blob.seek(SeekFrom::Start(at as u64))?;
    let refused = blob.write_all(&[byte; 700]).err().map(|error| error.to_string());
    blob.seek(SeekFrom::Start(0))?;
    let mut all = Vec::new();
    blob.read_to_end(&mut all)?;
    Ok((refused, all))
}

fn compare((cipher, format, page_size): (Cipher, PageFormat, u32), steps: &[Step]) -> TestCaseResult {
    let encryption = RemoteEncryption::new(key(cipher), cipher).unwrap().with_page_format(format);
    let mut plain = TestDatabase::new(page_size, None);
    let mut sealed = TestDatabase::new(page_size, Some(encryption));
    for database in [&mut plain, &mut sealed] {
        database.reopen();
        let size = rows(&database.connections[0], "PRAGMA page_size").unwrap();
        prop_assert_eq!(size, vec![vec![Value::Integer(page_size.into())]]);
    }
    for (at, step) in steps.iter().chain([&Step::Crash, &Step::Reopen, &Step::Read(0)]).enumerate() {
        let (expected, found) = (plain.apply(step), sealed.apply(step));
        if expected != found {
            let (expected, found) = (format!("{expected:?}"), format!("{found:?}"));
            let differs = expected.bytes().zip(found.bytes()).position(|(one, other)| one != other);
            let from = differs.unwrap_or(0).saturating_sub(100);
            let part = |text: &str| text.chars().skip(from).take(400).collect::<String>();
            let (expected, found) = (part(&expected), part(&found));
            prop_assert!(false, "step {at}, {step:?}:\nplain: {expected}\nsealed: {found}");
        }
    }
    Ok(())
}

/// A few seconds of cases, or many for a soak test.
fn cases() -> u32 {
    if std::env::var_os("LITEFLEET_SOAK").is_some() { 400 } else { 36 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn encrypted_database_behaves_like_a_plain_one(
        kind in 0..KINDS.len(),
        steps in prop::collection::vec(step(), 15..70),
    ) {
        compare(KINDS[kind], &steps)?;
    }
}

#[test]
fn backup_of_plain_database_into_encrypted_one_is_refused() {
    let encryption = RemoteEncryption::new(key(Cipher::Aegis256), Cipher::Aegis256).unwrap();
    let database = TestDatabase::new(4096, Some(encryption));
    let mut into = database.open("world");
    let before = contents(&into);
    // Pages of a plain database have no room for a tag.
    let plain = Connection::open_in_memory().unwrap();
    plain.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (zeroblob(100000))").unwrap();
    let backup = Backup::new(&plain, &mut into).unwrap();
    assert!(backup.step(-1).is_err());
    drop(backup);
    assert!(contents(&into) == before);
    drop(into);
    assert!(contents(&database.open("world")) == before);
}
