//! A history compared with a model: after random operations, each commit is restored to the contents recorded for it.
//!
//! Operations derive from a seed, which a failure prints.

use std::{cell::Cell, collections::BTreeMap, env};

use litefleet::{
    AttachOptions, Cipher, ConnectOptions, ControlPlane, CreateDatabaseInput, EncryptionKey, ErrorKind,
    GroupChanges, MaintainOptions, PruneReason, RemoteEncryption, Result, Seed, Timestamp,
    rusqlite::{Connection, ErrorCode, config::DbConfig},
};
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::{
    maintain::a_day_later,
    support::{Contents, contents, files},
};

/// An operation on one of several connections.
#[derive(Clone, Debug)]
enum Action {
    /// Statements in one transaction, which ends in a commit or a rollback. Statements may fail and be undone
    /// individually.
    Transaction {
        statements: Vec<Statement>,
        end: End,
    },
    Vacuum,
    IncrementalVacuum,
    Checkpoint(&'static str),
    /// Short generations, enough for a pack.
    ManyGenerations,
    Reopen {
        checkpoints: bool,
    },
    Setting(&'static str),
    /// Opens a reader that keeps its snapshot until `Release`.
    Read,
    Release,
    /// A transaction that spans both databases.
    Both,
    Maintain,
    /// Requests a snapshot at the next restart of each WAL.
    Request,
}

#[derive(Clone, Debug)]
enum Statement {
    Insert {
        rows: u32,
        len: u32,
    },
    Update {
        every: u32,
        len: u32,
    },
    Delete {
        every: u32,
    },
    CreateTable(u32),
    DropTable(u32),
    CreateIndex(u32),
    Savepoint {
        rows: u32,
    },
    /// A statement that fails after it has changed rows, and is undone individually.
    Conflict,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Commit,
    Rollback,
}

const SETTINGS: &[&str] = &[
    "cache_size=5",
    "cache_size=2000",
    "cache_spill=1",
    "wal_autocheckpoint=0",
    "wal_autocheckpoint=1",
    "wal_autocheckpoint=20",
    "journal_size_limit=0",
    "journal_size_limit=20000",
    "journal_size_limit=-1",
    "synchronous=OFF",
    "synchronous=NORMAL",
    "synchronous=FULL",
    "secure_delete=ON",
    "user_version=7",
];

fn statement() -> impl Strategy<Value = Statement> {
    prop_oneof![
        4 => (1..30_u32, 0..9000_u32).prop_map(|(rows, len)| Statement::Insert { rows, len }),
        3 => (1..6_u32, 0..6000_u32).prop_map(|(every, len)| Statement::Update { every, len }),
        2 => (1..6_u32).prop_map(|every| Statement::Delete { every }),
        1 => (0..3_u32).prop_map(Statement::CreateTable),
        1 => (0..3_u32).prop_map(Statement::DropTable),
        1 => (0..3_u32).prop_map(Statement::CreateIndex),
        1 => (1..40_u32).prop_map(|rows| Statement::Savepoint { rows }),
        1 => Just(Statement::Conflict),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let end = prop_oneof![5 => Just(End::Commit), 1 => Just(End::Rollback)];
    prop_oneof![
        10 => (prop::collection::vec(statement(), 1..5), end)
            .prop_map(|(statements, end)| Action::Transaction { statements, end }),
        1 => Just(Action::Vacuum),
        1 => Just(Action::IncrementalVacuum),
        4 => prop::sample::select(&["PASSIVE", "FULL", "RESTART", "TRUNCATE"][..]).prop_map(Action::Checkpoint),
        2 => any::<bool>().prop_map(|checkpoints| Action::Reopen { checkpoints }),
        3 => prop::sample::select(SETTINGS).prop_map(Action::Setting),
        1 => Just(Action::Read),
        1 => Just(Action::Release),
        2 => Just(Action::Both),
        3 => Just(Action::Maintain),
        2 => Just(Action::ManyGenerations),
        3 => Just(Action::Request),
    ]
}

impl Statement {
    fn sql(&self, number: u32) -> String {
        match self {
            Self::Insert { rows, len } => format!(
                "WITH RECURSIVE k(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM k WHERE i < {rows})
                 INSERT INTO t(word, bytes) SELECT '{number}-' || i, hex(randomblob((i * 37 + {len}) % 9000 / 2)) FROM k"
            ),
            Self::Update { every, len } => {
                format!("UPDATE t SET bytes = hex(randomblob({len} / 2)), word = word || '.' WHERE id % {every} = 0")
            }
            Self::Delete { every } => format!("DELETE FROM t WHERE id % {every} = 0"),
            Self::CreateTable(table) => {
                format!("CREATE TABLE IF NOT EXISTS x{table} AS SELECT * FROM t LIMIT 50")
            }
            Self::DropTable(table) => format!("DROP TABLE IF EXISTS x{table}"),
            Self::CreateIndex(index) => {
                format!("DROP INDEX IF EXISTS i{index}; CREATE INDEX i{index} ON t(word, length(bytes))")
            }
            Self::Savepoint { rows } => format!(
                "SAVEPOINT s; {}; DELETE FROM t WHERE id % 2; ROLLBACK TO s; RELEASE s",
                Self::Insert { rows: *rows, len: 4000 }.sql(number)
            ),
            Self::Conflict => "INSERT INTO t(id, word) SELECT id + 1000000, word FROM t UNION ALL SELECT max(id), '' FROM t".into(),
        }
    }
}

/// Two databases, and their contents after each commit.
struct Harness {
    _dir: tempfile::TempDir,
    plane: ControlPlane,
    key: Option<EncryptionKey>,
    connections: Vec<Connection>,
    reader: Option<Connection>,
    /// By database: the clock before and after each commit, and the contents after it.
    states: BTreeMap<&'static str, Vec<(i64, i64, Contents)>>,
    restored: u32,
    number: u32,
    /// Number of compressed logs.
    compressed: u64,
    /// Number of pruned generations.
    pruned: u64,
    /// Number of packs after each maintenance, in all.
    packs: usize,
    /// Number of snapshots that refer to older ones, after each maintenance, in all.
    deltas: usize,
}

const NAMES: [&str; 2] = ["orders", "other"];

impl Harness {
    fn new(sealed: bool, limit: &str, auto_vacuum: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plane = ControlPlane::open(dir.path().join("root")).unwrap();
        plane.create_group("default").unwrap();
        plane
            .configure_group(
                "default",
                GroupChanges::default()
                    .history_window("7d".parse().unwrap())
                    .history_limit(limit.parse().unwrap()),
            )
            .unwrap();
        let key = sealed.then(|| EncryptionKey::from_bytes(&[7; 32]).unwrap());
        for name in NAMES {
            let mut input = CreateDatabaseInput::new(name, "default");
            if let Some(key) = &key {
                input = input.with_encryption(RemoteEncryption::new(key.clone(), Cipher::Aegis256).unwrap());
            }
            plane.create_database(input).unwrap();
        }
        let mut harness = Self {
            _dir: dir,
            plane,
            key,
            connections: Vec::new(),
            reader: None,
            states: NAMES.map(|name| (name, Vec::new())).into(),
            restored: 0,
            number: 0,
            compressed: 0,
            pruned: 0,
            packs: 0,
            deltas: 0,
        };
        harness.connections = (0..3).map(|_| harness.connect()).collect();
        let begin = format!("PRAGMA auto_vacuum={auto_vacuum}; VACUUM");
        harness.commit(0, &[], |connection| connection.execute_batch(&begin).unwrap());
        harness.commit(0, &NAMES, |connection| {
            let tables = |schema| {
                format!("CREATE TABLE {schema}.t(id INTEGER PRIMARY KEY, word TEXT NOT NULL, bytes BLOB);")
            };
            connection
                .execute_batch(&format!("BEGIN; {} {} COMMIT", tables("main"), tables("other")))
                .unwrap();
        });
        harness
    }

    fn options(&self) -> ConnectOptions {
        match &self.key {
            Some(key) => ConnectOptions::default().encryption_key(key.clone()),
            None => ConnectOptions::default(),
        }
    }

    fn connect(&self) -> Connection {
        let connection = self.plane.connect(NAMES[0], self.options()).unwrap();
        self.plane
            .attach(
                &connection,
                NAMES[1],
                "other",
                self.key.clone().into_iter().fold(AttachOptions::default(), AttachOptions::encryption_key),
            )
            .unwrap();
        connection.execute_batch("PRAGMA busy_timeout=0").unwrap();
        connection
    }

    /// Applies an atomic change to these databases and records their contents.
    fn commit(&mut self, by: usize, names: &[&'static str], change: impl FnOnce(&Connection)) {
        let clock = || {
            let now = crate::support::now();
            now.as_micros()
        };
        let before = clock();
        change(&self.connections[by]);
        let after = clock();
        for name in names {
            let found = contents(&self.plane.connect(name, self.options()).unwrap());
            self.states.get_mut(name).unwrap().push((before, after, found));
        }
    }

    fn run(&mut self, by: usize, action: &Action) {
        self.number += 1;
        let number = self.number;
        match action {
            Action::Transaction { statements, end } => {
                let change = |connection: &Connection| {
                    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
                    for statement in statements {
                        let answer = connection.execute_batch(&statement.sql(number));
                        if let Err(error) = answer {
                            let code = error.sqlite_error_code();
                            assert_eq!(code, Some(ErrorCode::ConstraintViolation), "{statement:?}: {error}");
                            assert!(!connection.is_autocommit());
                        }
                    }
                    connection.execute_batch(match end {
                        End::Commit => "COMMIT",
                        End::Rollback => "ROLLBACK",
                    }).unwrap();
                };
                self.commit(by, &NAMES[..1], change);
            }
            Action::Vacuum => self.commit(by, &NAMES[..1], |connection| connection.execute_batch("VACUUM").unwrap()),
            Action::IncrementalVacuum => self.commit(by, &NAMES[..1], |connection| {
                connection.execute_batch("PRAGMA incremental_vacuum(3)").unwrap();
            }),
            Action::Both => self.commit(by, &NAMES, |connection| {
                connection
                    .execute_batch(&format!(
                        "BEGIN IMMEDIATE; INSERT INTO main.t(word, bytes) VALUES ('both {number}', randomblob(3000));
                         INSERT INTO other.t(word, bytes) VALUES ('both {number}', randomblob(3000)); COMMIT"
                    ))
                    .unwrap();
            }),
            Action::Checkpoint(mode) => {
                for schema in ["main", "other"] {
                    let sql = format!("PRAGMA {schema}.wal_checkpoint({mode})");
                    // A reader may prevent it.
                    let _busy: i64 = self.connections[by].query_row(&sql, [], |row| row.get(0)).unwrap();
                }
            }
            Action::Reopen { checkpoints } => {
                for connection in &self.connections {
                    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !checkpoints).unwrap();
                }
                (self.reader, self.connections) = (None, Vec::new());
                self.connections = (0..3).map(|_| self.connect()).collect();
            }
            Action::Setting(setting) => {
                self.connections[by].execute_batch(&format!("PRAGMA {setting}")).unwrap_or_else(|error| panic!("{setting}: {error}"));
            }
            Action::Read => {
                let reader = self.connect();
                reader.execute_batch("BEGIN").unwrap();
                reader.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
                self.reader = Some(reader);
            }
            Action::Release => self.reader = None,
            Action::ManyGenerations => {
                for _ in 0..10 {
                    let sql = format!("INSERT INTO t(word, bytes) VALUES ('many {number}', randomblob(300))");
                    self.commit(by, &NAMES[..1], |connection| connection.execute_batch(&sql).unwrap());
                    self.run(by, &Action::Checkpoint("RESTART"));
                }
            }
            Action::Request => {
                for name in NAMES {
                    let archive = self.plane.database_path(name).unwrap().with_file_name("archive");
                    std::fs::write(archive.join("wanted"), b"").unwrap();
                }
            }
            Action::Maintain => {
                let plane = a_day_later(ControlPlane::builder()).open(self.plane.root()).unwrap();
                for name in NAMES {
                    let done = plane.maintain_database(name, MaintainOptions::default()).unwrap();
                    self.compressed += done.compressed;
                    self.pruned += done.generations;
                    let archive = self.plane.database_path(name).unwrap().with_file_name("archive");
                    let count = |kind| files(&archive).iter().filter(|name| name.ends_with(kind)).count();
                    self.packs += count(".tar.zst");
                    self.deltas += count(".delta");
                }
            }
        }
    }

    fn contents_at(&mut self, source: &str, at: i64) -> Result<Contents> {
        self.restored += 1;
        let name = format!("restored-{}", self.restored);
        let at = Timestamp::from_micros(at).unwrap();
        let mut input = CreateDatabaseInput::new(&name, "default").with_seed(Seed::database_at(source, at));
        if let Some(key) = &self.key {
            input = input.with_encryption(RemoteEncryption::inherit_cipher(key.clone()));
        }
        self.plane.create_database(input)?;
        let connection = self.plane.connect(&name, self.options()).unwrap();
        let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok", "{source} at {at}");
        let found = contents(&connection);
        drop(connection);
        self.plane.destroy_database(&name).unwrap();
        Ok(found)
    }

    /// Restores every state of both databases, just after its commit and just before the next. States before the restorable range
    /// are refused, and exist only if a limit has pruned them.
    fn check(&mut self) {
        for (source, states) in self.states.clone() {
            let points = self.plane.points(source, ..).unwrap();
            assert_eq!(points.windows.len(), 1, "{source}");
            let first = points.windows[0].from.as_micros();
            let first = points.pruned_by.map_or(i64::MIN, |by| {
                assert_eq!(by, PruneReason::Limit, "{source}");
                first
            });
            for (number, (_, after, expected)) in states.iter().enumerate() {
                let next = states.get(number + 1).map(|(before, ..)| *before);
                for at in [Some(*after), next].into_iter().flatten() {
                    match self.contents_at(source, at) {
                        Ok(found) => assert!(
                            at >= first && found == *expected,
                            "{source}: wrong contents for state {number} at {at}"
                        ),
                        Err(error) => {
                            assert!(at < first, "{source}: state {number} at {at}: {error}");
                            assert_eq!(error.kind(), ErrorKind::OutsideWindow, "{error}");
                        }
                    }
                }
            }
        }
    }
}

/// Cases of each kind.
fn cases() -> u32 {
    if env::var_os("LITEFLEET_SOAK").is_some() { 60 } else { 2 }
}

/// What maintenance did in the course of a test.
struct Maintained {
    /// Number of compressed logs.
    compressed: u64,
    /// Number of pruned generations.
    pruned: u64,
    /// Number of packs after each maintenance, in all.
    packs: usize,
    /// Number of snapshots that refer to older ones, after each maintenance, in all.
    deltas: usize,
}

/// Runs random operations on databases whose histories have this limit.
fn run(sealed: bool, limit: &str) -> Maintained {
    let seed: u64 = env::var("LITEFLEET_SEED").ok().map_or(11, |seed| seed.parse().unwrap());
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    eprintln!("LITEFLEET_SEED={seed}");
    let config =
        Config { cases: cases(), max_shrink_iters: 30, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let (compressed, pruned, packs, deltas) = (Cell::new(0), Cell::new(0), Cell::new(0), Cell::new(0));
    let auto_vacuum = prop::sample::select(&["NONE", "FULL", "INCREMENTAL"][..]);
    let actions = prop::collection::vec((0..3_usize, action()), 30..60);
    runner
        .run(&(auto_vacuum, actions), |(auto_vacuum, actions)| {
            let mut harness = Harness::new(sealed, limit, auto_vacuum);
            for (by, action) in &actions {
                harness.run(*by, action);
            }
            harness.check();
            (harness.reader, harness.connections) = (None, Vec::new());
            harness.check();
            // Equal results after maintenance.
            harness.run(0, &Action::Maintain);
            harness.check();
            compressed.set(compressed.get() + harness.compressed);
            pruned.set(pruned.get() + harness.pruned);
            packs.set(packs.get() + harness.packs);
            deltas.set(deltas.get() + harness.deltas);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("LITEFLEET_SEED={seed}, sealed {sealed}, limit {limit}: {error}"));
    Maintained {
        compressed: compressed.get(),
        pruned: pruned.get(),
        packs: packs.get(),
        deltas: deltas.get(),
    }
}

#[test]
fn every_commit_is_restored_as_in_the_model() {
    for sealed in [false, true] {
        let done = run(sealed, "none");
        assert_eq!(done.compressed == 0, sealed, "{} logs were compressed", done.compressed);
        assert_eq!(done.pruned, 0);
        assert!(done.packs > 0, "no generations were packed");
        assert!(done.deltas > 0, "no snapshot refers to an older one");
    }
}

#[test]
fn limit_removes_only_the_oldest_states_of_the_model() {
    for (sealed, limit) in [(false, "4kb"), (false, "1mb"), (true, "1mb")] {
        assert!(run(sealed, limit).pruned > 0, "{limit}");
    }
}
