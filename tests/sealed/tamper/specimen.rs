//! The files that are tampered with: snapshots of one database at several moments, and its contents at each commit.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use litefleet::{
    Cipher, CreateDatabaseInput, Error, ErrorKind, PageFormat, RemoteEncryption,
    rusqlite::{
        self, Connection,
        types::{FromSql, Value},
    },
};

use crate::{
    encryption::{another_key, copy_files, key},
    support::Fleet,
};

pub(super) const PAGE: usize = 4096;

/// Queries that read everything: each table, and an index by itself. `$` is replaced by the schema.
const QUERIES: &[(&str, &str)] = &[
    ("schema", "SELECT type, name, tbl_name, sql FROM $.sqlite_schema ORDER BY rowid"),
    ("one", "SELECT * FROM $.one ORDER BY id"),
    ("two", "SELECT * FROM $.two NOT INDEXED ORDER BY id"),
    ("blobs", "SELECT * FROM $.blobs ORDER BY id"),
    ("words", "SELECT word, id FROM $.two INDEXED BY words ORDER BY word"),
];

type Table = Vec<Vec<Value>>;

/// The rows of a database at one moment.
pub(super) type Rows = BTreeMap<&'static str, Table>;

/// The files of a database.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Files {
    pub(super) data: Vec<u8>,
    pub(super) wal: Option<Vec<u8>>,
    pub(super) journal: Option<Vec<u8>>,
}

impl Files {
    pub(super) fn wal(&mut self) -> &mut Vec<u8> {
        self.wal.as_mut().unwrap()
    }

    pub(super) fn journal(&mut self) -> &mut Vec<u8> {
        self.journal.as_mut().unwrap()
    }

    /// A page of the database file, by its number.
    pub(super) fn page(&mut self, number: usize) -> &mut [u8] {
        &mut self.data[(number - 1) * PAGE..number * PAGE]
    }

    fn capture(dir: &Path, name: &str) -> Self {
        let read = |suffix: &str| fs::read(dir.join(format!("{name}{suffix}"))).ok();
        Self { data: read("").unwrap(), wal: read("-wal"), journal: read("-journal") }
    }
}

/// The result of reading everything.
#[derive(Debug)]
pub(super) struct Reading {
    /// The rows read before the first error.
    pub(super) rows: Rows,
    pub(super) refused: Option<ErrorKind>,
    /// Whether `PRAGMA integrity_check` succeeded.
    pub(super) is_intact: bool,
}

/// One database at several moments, and related databases.
pub(super) struct Specimen {
    pub(super) cipher: Cipher,
    /// At the first commit; with the second in the WAL; at the second; with three more in the WAL; at the last.
    pub(super) first: Files,
    pub(super) first_log: Files,
    pub(super) rest: Files,
    pub(super) log: Files,
    pub(super) newest: Files,
    /// At the last commit, with an uncommitted transaction in the WAL.
    pub(super) unfinished: Files,
    /// At the last commit, outside WAL mode, with a half-written transaction and a journal to roll it back.
    pub(super) hot: Files,
    /// The leaves in `hot`, by table and page number.
    pub(super) hot_leaves: Vec<(String, u32)>,
    /// The contents after each commit.
    pub(super) states: Vec<Rows>,
    /// The contents that the uncommitted transactions would have produced.
    pub(super) uncommitted: Vec<Rows>,
    /// Another database under the same key with the same layout, at its second commit and with the others in its WAL.
    pub(super) twin: Files,
    /// Databases with equal rows in the other page format, and under another key.
    pub(super) other_format: Vec<u8>,
    pub(super) other_key: Vec<u8>,
    /// Owner and kind (`leaf`, `internal` or `overflow`) of each page at the second commit.
    pub(super) pages: Vec<(String, String)>,
    /// The last overflow page of each row that has any.
    pub(super) last_overflows: Vec<usize>,
    fleet: Fleet,
}

impl Specimen {
    /// The pages of one kind.
    pub(super) fn pages_of(&self, table: &str, kind: &str) -> Vec<usize> {
        let is = |page: &(String, String)| page.0 == table && page.1 == kind;
        (1..=self.pages.len()).filter(|number| is(&self.pages[number - 1])).collect()
    }

    /// A leaf of a table that changes between the first two commits, and again later.
    pub(super) fn leaf(&self, table: &str) -> usize {
        self.pages_of(table, "leaf")[0]
    }

    pub(super) fn overflow(&self, at: usize) -> usize {
        self.pages_of("blobs", "overflow")[at]
    }

    pub(super) fn last_overflow(&self, row: usize) -> usize {
        self.last_overflows[row]
    }

    /// Whether a row occurs at some commit or, with `uncommitted`, in an uncommitted transaction. A row that spans
    /// several pages may combine pieces of its versions.
    fn knows(&self, table: &str, row: &[Value], uncommitted: bool) -> bool {
        let states = self.states.iter().chain(self.uncommitted.iter().filter(|_| uncommitted));
        let versions: Vec<_> =
            states.flat_map(|rows| &rows[table]).filter(|known| known[0] == row[0]).collect();
        versions.iter().any(|version| version.as_slice() == row)
            || (table == "blobs"
                && text(row).len() > PAGE
                && text(row)
                    .iter()
                    .enumerate()
                    .all(|(at, byte)| versions.iter().any(|version| text(version).get(at) == Some(byte))))
    }

    /// Whether each row read occurs at some commit, independently of the others.
    pub(super) fn knows_all(&self, rows: &Rows, uncommitted: bool) -> bool {
        rows.iter().all(|(table, rows)| rows.iter().all(|row| self.knows(table, row, uncommitted)))
    }
}

/// The second column of a row as bytes.
fn text(row: &[Value]) -> &[u8] {
    match &row[1] {
        Value::Text(text) => text.as_bytes(),
        _ => &[],
    }
}

/// Reads everything, up to the first error.
pub(super) fn read(connection: &Connection, schema: &str) -> Reading {
    let mut reading = Reading { rows: Rows::new(), refused: None, is_intact: false };
    let mut all = || -> rusqlite::Result<bool> {
        for (table, sql) in QUERIES {
            let found = reading.rows.entry(table).or_default();
            let mut statement = connection.prepare(&sql.replace('$', schema))?;
            let columns = statement.column_count();
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                found.push((0..columns).map(|at| row.get(at)).collect::<rusqlite::Result<_>>()?);
            }
        }
        connection.query_row(&format!("PRAGMA {schema}.integrity_check"), [], |row| {
            Ok(row.get::<_, String>(0)? == "ok")
        })
    };
    match all() {
        Ok(is_intact) => reading.is_intact = is_intact,
        Err(error) => reading.refused = Some(Error::from_sqlite(connection, error).kind()),
    }
    reading
}

fn rows(connection: &Connection) -> Rows {
    let reading = read(connection, "main");
    assert!(reading.is_intact, "{:?}", reading.refused);
    reading.rows
}

fn encryption(cipher: Cipher, format: PageFormat) -> RemoteEncryption {
    RemoteEncryption::new(key(cipher), cipher).unwrap().with_page_format(format)
}

/// The statements of each commit. Every row contains `who`.
fn commits(who: &str) -> [String; 5] {
    // Two similar tables, so that a page of one is valid in the other.
    let update = |table: &str, version: u32, which: &str| {
        format!("UPDATE {table} SET word = replace(word, substr(word, 1, 2), 'v{version}') WHERE {which};")
    };
    let body = |version: u32| format!("replace(hex(zeroblob(2200)), '00', ' v{version} {who} ' || id)");
    [
        format!(
            "CREATE TABLE one(id INTEGER PRIMARY KEY, word TEXT); -- of {who}
             CREATE TABLE two(id INTEGER PRIMARY KEY, word TEXT);
             CREATE TABLE blobs(id INTEGER PRIMARY KEY, body TEXT);
             WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 60)
             INSERT INTO one SELECT i, printf('v0 {who} one %03d ', i) || hex(zeroblob(80)) FROM n;
             INSERT INTO two SELECT id, replace(word, ' one ', ' two ') FROM one;
             CREATE INDEX words ON two(word);
             INSERT INTO blobs(id, body) SELECT id, '' FROM one WHERE id <= 6;
             UPDATE blobs SET body = {};
             CREATE VIEW whose AS SELECT '{who}';",
            body(0)
        ),
        update("one", 1, "true")
            + &update("two", 1, "id <= 30")
            + &format!("UPDATE blobs SET body = {} WHERE id <= 3;", body(1)),
        update("one", 2, "id <= 25") + &update("two", 2, "id % 10 = 0"),
        format!("INSERT INTO blobs(id) VALUES (7), (8); UPDATE blobs SET body = {} WHERE id > 6;", body(3)),
        update("one", 4, "id <= 25")
            + "DELETE FROM two WHERE id = 5;"
            + &format!("UPDATE blobs SET body = {} WHERE id <= 2;", body(4)),
    ]
}

fn query_pairs<T: FromSql, U: FromSql>(connection: &Connection, sql: &str) -> Vec<(T, U)> {
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

fn run(connection: &Connection, sql: &str) {
    connection.execute_batch(&format!("BEGIN; {sql} COMMIT")).unwrap();
}

fn checkpoint(connection: &Connection) {
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
}

/// The statements of a transaction that is never committed, with a cache so small that half of it is written.
fn never_committed(schema: &str) -> String {
    format!(
        "PRAGMA {schema}.cache_size=10; PRAGMA {schema}.cache_spill=1; BEGIN;
         UPDATE {schema}.one SET word = 'v8' || word WHERE id = 1;
         UPDATE {schema}.two SET word = 'v8' || word WHERE id = 1;
         UPDATE {schema}.one SET word = 'v9' || word;
         UPDATE {schema}.two SET word = 'v9' || word;
         UPDATE {schema}.blobs SET body = 'v9' || body;"
    )
}

pub(super) fn specimen(cipher: Cipher, format: PageFormat) -> Specimen {
    let fleet = Fleet::new();
    for name in ["vault", "twins", "host"] {
        fleet.create_sealed(name, cipher, format);
    }
    let capture = |name: &str| {
        let copy = fleet.dir.path().join("copy");
        let _may_be_missing = fs::remove_dir_all(&copy);
        copy_files(&fleet.database_dir(name), &copy, &["data.db", "data.db-wal"]);
        Files::capture(&copy, "data.db")
    };
    let (vault, twin) = (fleet.unlock_unfenced("vault", cipher), fleet.unlock("twins", cipher));
    let [zeroth, first, later @ ..] = commits("vault");
    let mut states = Vec::new();
    let mut commit = |sql: &str| {
        run(&vault, sql);
        states.push(rows(&vault));
    };
    commit(&zeroth);
    checkpoint(&vault);
    let first_files = capture("vault");
    commit(&first);
    let first_log = capture("vault");
    checkpoint(&vault);
    let rest = capture("vault");
    let pages = query_pairs(&vault, "SELECT name, pagetype FROM dbstat ORDER BY pageno");
    // The path of an overflow page names its cell and its position in the chain.
    let last_overflows: Vec<(u32, String)> = query_pairs(
        &vault,
        "SELECT pageno, max(path) FROM dbstat WHERE pagetype = 'overflow'
         GROUP BY substr(path, 1, instr(path, '+')) ORDER BY pageno",
    );
    let last_overflows: Vec<_> = last_overflows.into_iter().map(|(page, _)| page as usize).collect();
    assert_eq!(last_overflows.len(), 6);
    assert_eq!(pages.len(), rest.data.len() / PAGE, "a page belongs to no table");
    for sql in &later {
        commit(sql);
    }
    let log = capture("vault");
    checkpoint(&vault);
    let newest = capture("vault");

    // Two uncommitted transactions: in a WAL, and in a file outside WAL mode.
    let copy = fleet.dir.path().join("hot.db");
    fs::write(&copy, &newest.data).unwrap();
    vault.execute_batch(&never_committed("main")).unwrap();
    let mut uncommitted = vec![rows(&vault)];
    let unfinished = capture("vault");
    vault.execute_batch("ROLLBACK").unwrap();
    vault.execute("ATTACH ?1 AS hot", [copy.to_str().unwrap()]).unwrap();
    // A file that SQL attaches by path may leave WAL mode.
    vault.query_row("PRAGMA hot.journal_mode=DELETE", [], |_| Ok(())).unwrap();
    let hot_leaves = query_pairs(&vault, "SELECT name, pageno FROM dbstat('hot') WHERE pagetype = 'leaf'");
    vault.execute_batch(&never_committed("hot")).unwrap();
    let hot = {
        let dir = fleet.dir.path().join("hot");
        copy_files(fleet.dir.path(), &dir, &["hot.db", "hot.db-journal"]);
        Files::capture(&dir, "hot.db")
    };
    vault.execute_batch("ROLLBACK; DETACH hot").unwrap();
    assert!(rows(&vault) == states[4]);
    uncommitted.push(uncommitted[0].clone());

    for sql in &commits("twins")[..2] {
        run(&twin, sql);
    }
    checkpoint(&twin);
    let twin_rest = capture("twins");
    for sql in &commits("twins")[2..] {
        run(&twin, sql);
    }
    let twin_files = Files { data: twin_rest.data, ..capture("twins") };
    assert_eq!(twin_files.data.len(), rest.data.len(), "the twin has another layout");

    let source = fleet.dir.path().join("source.db");
    fs::write(&source, &rest.data).unwrap();
    let import = |name: &str, encryption: RemoteEncryption| {
        let input = CreateDatabaseInput::new(name, "default").with_encryption(encryption);
        let input = input.with_source_key(key(cipher));
        fleet.plane.import_database(input, source.as_path()).unwrap();
        fs::read(fleet.plane.database_path(name).unwrap()).unwrap()
    };
    let other = if format == PageFormat::Native { PageFormat::Turso } else { PageFormat::Native };
    let other_format = import("format", encryption(cipher, other));
    let other_key = RemoteEncryption::new(another_key(cipher), cipher).unwrap().with_page_format(format);
    let other_key = import("key", other_key);
    drop((vault, twin));
    Specimen {
        cipher,
        first: first_files,
        first_log,
        rest,
        log,
        newest,
        unfinished,
        hot,
        hot_leaves,
        states,
        uncommitted,
        twin: twin_files,
        other_format,
        other_key,
        pages,
        last_overflows,
        fleet,
    }
}

/// The database in whose place files are put to be read.
pub(super) struct Harness<'a> {
    fleet: &'a Fleet,
    cipher: Cipher,
}

impl<'a> Harness<'a> {
    pub(super) fn new(specimen: &'a Specimen) -> Self {
        Self { fleet: &specimen.fleet, cipher: specimen.cipher }
    }

    /// Replaces the files of the database.
    pub(super) fn put(&self, files: &Files) {
        let dir = self.fleet.database_dir("vault");
        for name in crate::support::names(&dir) {
            let path = dir.join(name);
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
        }
        let put = |name: &str, bytes: &[u8]| fs::write(dir.join(name), bytes).unwrap();
        put("data.db", &files.data);
        files.wal.iter().for_each(|bytes| put("data.db-wal", bytes));
        files.journal.iter().for_each(|bytes| put("data.db-journal", bytes));
    }

    /// Writes the files outside the fleet, attaches them by path, and reads everything.
    pub(super) fn read_attached(&self, files: &Files) -> Reading {
        let path = |suffix: &str| self.fleet.dir.path().join(format!("attached.db{suffix}"));
        for (suffix, bytes) in
            [("", Some(&files.data)), ("-wal", files.wal.as_ref()), ("-journal", files.journal.as_ref())]
        {
            match bytes {
                Some(bytes) => fs::write(path(suffix), bytes).unwrap(),
                None => drop(fs::remove_file(path(suffix))),
            }
        }
        let host = self.fleet.unlock_unfenced("host", self.cipher);
        match host.execute("ATTACH ?1 AS attached", [path("").to_str().unwrap()]) {
            Ok(_) => read(&host, "attached"),
            Err(error) => {
                let refused = Some(Error::from_sqlite(&host, error).kind());
                Reading { rows: Rows::new(), refused, is_intact: false }
            }
        }
    }

    /// Opens the database, and reads everything.
    pub(super) fn read(&self) -> Reading {
        match self.fleet.plane.connect("vault", crate::encryption::with_key(key(self.cipher))) {
            Ok(connection) => read(&connection, "main"),
            Err(error) => Reading { rows: Rows::new(), refused: Some(error.kind()), is_intact: false },
        }
    }
}

/// The outcome of tampering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// The newest commit.
    Right,
    /// An earlier commit.
    Earlier(usize),
    /// An error, with only committed rows read before it.
    Refused(&'static str),
    /// `integrity_check` fails, although every page is authentic.
    Malformed,
    /// Rows of different commits.
    Mixed,
    /// Rows that were never committed.
    Uncommitted,
    /// Rows of another table or database.
    Foreign,
}

impl Outcome {
    pub(super) fn of(specimen: &Specimen, newest: usize, reading: &Reading) -> Self {
        let commit = specimen.states.iter().position(|rows| *rows == reading.rows);
        if commit.is_none() && !specimen.knows_all(&reading.rows, true) {
            return Self::Foreign;
        }
        if let Some(kind) = reading.refused {
            let clean = specimen.knows_all(&reading.rows, false);
            return if clean { Self::Refused(kind.as_str()) } else { Self::Uncommitted };
        }
        match commit {
            Some(commit) if reading.is_intact && commit == newest => Self::Right,
            Some(commit) if reading.is_intact => Self::Earlier(commit),
            _ if !specimen.knows_all(&reading.rows, false) => Self::Uncommitted,
            _ if !reading.is_intact => Self::Malformed,
            _ => Self::Mixed,
        }
    }

    /// The wording in the table of outcomes.
    pub(super) fn words(self) -> String {
        match self {
            Self::Right => "right data".into(),
            Self::Earlier(_) => "an earlier commit".into(),
            Self::Refused(kind) => format!("error `{kind}`"),
            Self::Malformed => "`integrity_check` says so".into(),
            Self::Mixed => "**rows of different commits**".into(),
            Self::Uncommitted => "**rows that were not committed**".into(),
            Self::Foreign => "**rows from elsewhere**".into(),
        }
    }
}

/// The distinct wordings, joined.
pub(super) fn words(outcomes: &BTreeSet<Outcome>) -> String {
    let words: BTreeSet<_> = outcomes.iter().map(|outcome| outcome.words()).collect();
    words.into_iter().collect::<Vec<_>>().join(", ")
}
