//! Shared by the tests: a database together with the contents after each commit and the instants that bracket it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use litefleet::{
    Cipher, ConnectOptions, ControlPlane, CreateDatabaseInput, CreateDatabaseOutput, EncryptionKey, Error,
    RemoteEncryption, RestorableRange, Result, Seed, Timestamp,
    rusqlite::{self, Connection, types::Value},
};
use tempfile::TempDir;

pub(crate) type Contents = BTreeMap<String, Vec<Vec<Value>>>;

/// A database and its known states, oldest first.
pub(crate) struct Ledger {
    _dir: TempDir,
    pub(crate) plane: ControlPlane,
    pub(crate) key: Option<EncryptionKey>,
    pub(crate) states: Vec<State>,
    restored: u32,
}

/// The contents of a database between two commits.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// Read from the clock after the commit that produced this state has returned.
    pub(crate) from: Timestamp,
    /// Read from the clock before the next commit begins.
    pub(crate) to: Timestamp,
    pub(crate) contents: Contents,
}

/// The current time, at least 20 µs from any commit before or after the call, so that instants and stamps differ.
pub(crate) fn now() -> Timestamp {
    thread::sleep(Duration::from_micros(20));
    let now = Timestamp::now();
    thread::sleep(Duration::from_micros(20));
    now
}

/// The names in a directory, sorted.
pub(crate) fn files(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Whether the name of a file has an extension.
pub(crate) fn has_extension(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|found| found == extension)
}

/// Whether a file of an archive is an index. Indexes are derived: the writer or the first reader of a segment stores one.
pub(crate) fn is_index(name: &str) -> bool {
    has_extension(name, "index")
}

impl Ledger {
    pub(crate) fn plain() -> Self {
        Self::new(None)
    }

    pub(crate) fn new(cipher: Option<Cipher>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plane = ControlPlane::open(dir.path().join("root")).unwrap();
        plane.create_group("default").unwrap();
        let key = cipher.map(|cipher| EncryptionKey::from_bytes(&vec![7; cipher.key_len()]).unwrap());
        let mut input = CreateDatabaseInput::new("orders", "default");
        if let (Some(cipher), Some(key)) = (cipher, &key) {
            input = input.with_encryption(RemoteEncryption::new(key.clone(), cipher).unwrap());
        }
        plane.create_database(input).unwrap();
        let mut ledger = Self { _dir: dir, plane, key, states: Vec::new(), restored: 0 };
        let contents = contents(&ledger.connect());
        ledger.states.push(State { from: now(), to: now(), contents });
        ledger
    }

    /// The directory that holds `data.db` and `archive/`.
    pub(crate) fn database_dir(&self) -> PathBuf {
        self.plane.database_path("orders").unwrap().parent().unwrap().to_owned()
    }

    pub(crate) fn options(&self) -> ConnectOptions {
        match &self.key {
            Some(key) => ConnectOptions::default().encryption_key(key.clone()),
            None => ConnectOptions::default(),
        }
    }

    pub(crate) fn connect(&self) -> Connection {
        self.plane.connect("orders", self.options()).unwrap()
    }

    /// Commits SQL and records the resulting state.
    pub(crate) fn commit(&mut self, connection: &Connection, sql: &str) {
        self.states.last_mut().unwrap().to = now();
        connection.execute_batch(sql).unwrap();
        let from = now();
        self.states.push(State { from, to: from, contents: contents(connection) });
    }

    /// Restores the database as of an instant under a new name.
    pub(crate) fn restore(&mut self, at: Timestamp) -> Result<(String, CreateDatabaseOutput)> {
        self.restored += 1;
        let name = format!("restored-{}", self.restored);
        let mut input = CreateDatabaseInput::new(&name, "default").with_seed(Seed::database_at("orders", at));
        if let Some(key) = &self.key {
            input = input.with_encryption(RemoteEncryption::inherit_cipher(key.clone()));
        }
        let output = self.plane.create_database(input)?;
        Ok((name, output))
    }

    /// The contents at an instant, read through a view.
    pub(crate) fn viewed_at(&self, at: Timestamp) -> Result<Contents> {
        let (view, _) = self.plane.connect_at("orders", at, self.options())?;
        read_contents(&view).map_err(|error| Error::from_sqlite(&view, error))
    }

    /// The contents at an instant, read from a restored database, which is then destroyed.
    pub(crate) fn restored_at(&mut self, at: Timestamp) -> Result<Contents> {
        let (name, _) = self.restore(at)?;
        let connection = self.plane.connect(&name, self.options())?;
        let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        let contents = contents(&connection);
        drop(connection);
        self.plane.destroy_database(&name)?;
        Ok(contents)
    }

    /// The contents at an instant. A view and a restore must agree on them, or fail with one kind of error.
    pub(crate) fn contents_at(&mut self, at: Timestamp) -> Result<Contents> {
        let viewed = self.viewed_at(at);
        let restored = self.restored_at(at);
        match (&viewed, &restored) {
            (Ok(viewed), Ok(restored)) => {
                assert!(viewed == restored, "a view at {at}: {}", difference(viewed, restored));
            }
            (Err(viewed), Err(restored)) => assert_eq!(viewed.kind(), restored.kind()),
            _ => panic!("at {at} the view is {:?}, the restore {:?}", viewed.err(), restored.err()),
        }
        restored
    }

    /// Checks that an instant can be restored if and only if it lies in one of the reported ranges.
    pub(crate) fn check_windows(&mut self) {
        self.states.last_mut().unwrap().to = now();
        let windows = self.plane.points("orders", ..).unwrap().windows;
        assert!(windows.iter().all(|window| window.to.is_none_or(|to| window.from < to)), "{windows:?}");
        let joined = windows.windows(2).find(|pair| pair[0].to.is_none_or(|to| to >= pair[1].from));
        assert_eq!(joined, None);
        // An answer can change only at the ends of ranges and at commits.
        let borders = windows.iter().flat_map(|window| [Some(window.from), window.to]).flatten();
        let stamps = self.plane.points("orders", ..).unwrap().points.into_iter().map(|point| point.at);
        let outside = stamps.clone().find(|at| !contains(&windows, *at));
        assert_eq!(outside, None, "a commit outside every range of {windows:?}");
        let around = borders
            .chain(stamps)
            .flat_map(|at| [-1, 0, 1].map(|more| Timestamp::from_micros(at.as_micros() + more).unwrap()));
        let states = self.states.iter().flat_map(|state| [state.from, state.to]);
        let born = self.plane.get_database("orders").unwrap().created_at;
        for at in around.chain(states).filter(|at| *at >= born) {
            let is_in_one = contains(&windows, at);
            let answer = self.viewed_at(at).map(|_| ());
            assert_eq!(answer.is_ok(), is_in_one, "{at}: {answer:?}, {windows:?}");
        }
    }

    /// Checks the contents at both ends of every state.
    pub(crate) fn check_all(&mut self) {
        self.states.last_mut().unwrap().to = now();
        for (number, state) in self.states.clone().into_iter().enumerate() {
            for at in [state.from, state.to] {
                let found =
                    self.contents_at(at).unwrap_or_else(|error| panic!("state {number} at {at}: {error}"));
                assert!(
                    found == state.contents,
                    "state {number} at {at}: {}",
                    difference(&found, &state.contents)
                );
            }
        }
    }
}

/// Whether an instant lies in one of the ranges.
pub(crate) fn contains(windows: &[RestorableRange], at: Timestamp) -> bool {
    windows.iter().any(|window| window.from <= at && window.to.is_none_or(|to| at < to))
}

/// A connection outside the fleet's VFS, as another program opens one.
pub(crate) fn foreign_connection(ledger: &Ledger) -> Connection {
    Connection::open(ledger.database_dir().join("data.db")).unwrap()
}

pub(crate) fn difference(found: &Contents, expected: &Contents) -> String {
    let rows = |contents: &Contents| -> Vec<(String, usize)> {
        contents.iter().map(|(table, rows)| (table.clone(), rows.len())).collect()
    };
    format!("found {:?}, expected {:?}", rows(found), rows(expected))
}

/// The rows of every table, and the schema.
pub(crate) fn contents(connection: &Connection) -> Contents {
    read_contents(connection).unwrap()
}

/// Like [`contents`], for a database that may be damaged.
pub(crate) fn read_contents(connection: &Connection) -> rusqlite::Result<Contents> {
    let rows = |sql: &str| -> rusqlite::Result<Vec<Vec<Value>>> {
        let mut statement = connection.prepare(sql)?;
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| (0..columns).map(|at| row.get(at)).collect())?;
        rows.collect()
    };
    let schema = rows("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name")?;
    let mut all = BTreeMap::new();
    for row in &schema {
        if let (Value::Text(kind), Value::Text(name)) = (&row[0], &row[1])
            && kind == "table"
        {
            let mut found = rows(&format!("SELECT * FROM \"{name}\""))?;
            found.sort_by_cached_key(|row| format!("{row:?}"));
            all.insert(name.clone(), found);
        }
    }
    all.insert("sqlite_schema".into(), schema);
    Ok(all)
}

/// Reports on stderr that a test was skipped, because the output of passing tests is not shown.
pub(crate) fn skipped(reason: &str) {
    let test = std::thread::current();
    let line = format!("{}: skipped: {reason}\n", test.name().unwrap_or_default());
    let _best_effort = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
}
