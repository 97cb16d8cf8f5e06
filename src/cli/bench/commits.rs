//! Commits per second on a disk: of SQLite itself, and of the kinds of databases of a fleet.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use litefleet::{
    Cipher, ConnectOptions, ControlPlane, CreateDatabaseInput, DatabaseChanges, EncryptionKey, Error,
    RemoteEncryption, Result, Retention,
    rusqlite::{self, Connection},
};

use super::rounds::{ROUNDS, check_cancelled, slice};

/// The group of the temporary databases.
const GROUP: &str = "bench";

/// A database of 10,000 rows of 200 bytes: 2 MB.
const FILL: &str = "CREATE TABLE item(id INTEGER PRIMARY KEY, text TEXT NOT NULL);
    WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
    INSERT INTO item(text) SELECT hex(randomblob(100)) FROM n";

/// A commit of one row.
const COMMIT: &str = "INSERT INTO item(text) VALUES (?1)";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A WAL database of SQLite, without litefleet.
    Sqlite,
    Plain,
    Sealed,
    History,
    SealedWithHistory,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Sqlite, Self::Plain, Self::Sealed, Self::History, Self::SealedWithHistory];

    /// The name in JSON, and of the database.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Plain => "plain",
            Self::Sealed => "sealed",
            Self::History => "history",
            Self::SealedWithHistory => "sealed_history",
        }
    }

    fn is_sealed(self) -> bool {
        matches!(self, Self::Sealed | Self::SealedWithHistory)
    }

    fn has_history(self) -> bool {
        matches!(self, Self::History | Self::SealedWithHistory)
    }
}

/// Commits per second of a database with `synchronous=NORMAL` and with `FULL`: medians.
#[derive(Clone, Copy, Debug)]
pub(super) struct CommitRate {
    pub(super) kind: Kind,
    /// The cipher of a sealed database.
    pub(super) cipher: Option<Cipher>,
    pub(super) normal: f64,
    pub(super) full: f64,
}

/// Measures every kind of database in the empty directory `dir`. Sealed ones are under `cipher`.
pub(super) fn measure(dir: &Path, cipher: Cipher, duration: Duration) -> Result<Vec<CommitRate>> {
    let slice = slice(duration, 2 * Kind::ALL.len());
    let plane = ControlPlane::open(dir.join("fleet"))?;
    plane.create_group(GROUP)?;
    let mut subjects = Vec::new();
    for kind in Kind::ALL {
        check_cancelled()?;
        let connection = match kind {
            Kind::Sqlite => sqlite(&dir.join("sqlite.db"))?,
            kind => database(&plane, kind, cipher)?,
        };
        connection.execute_batch(FILL).map_err(|error| Error::from_sqlite(&connection, error))?;
        subjects.push((kind, connection, Vec::new(), Vec::new()));
    }
    for round in 0..ROUNDS as usize {
        // Each round begins with another one.
        let count = subjects.len();
        subjects.rotate_left(round % count);
        for synchronous in ["NORMAL", "FULL"] {
            for (_, connection, normal, full) in &mut subjects {
                let rate = commits(connection, synchronous, slice)?;
                if synchronous == "FULL" { &mut *full } else { &mut *normal }.push(rate);
            }
        }
    }
    subjects.sort_by_key(|(kind, ..)| Kind::ALL.iter().position(|other| other == kind));
    let rate = |(kind, _, normal, full): (Kind, Connection, Vec<f64>, Vec<f64>)| CommitRate {
        kind,
        cipher: kind.is_sealed().then_some(cipher),
        normal: median(normal),
        full: median(full),
    };
    Ok(subjects.into_iter().map(rate).collect())
}

fn sqlite(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.execute_batch("PRAGMA journal_mode=WAL")?;
    Ok(connection)
}

fn database(plane: &ControlPlane, kind: Kind, cipher: Cipher) -> Result<Connection> {
    let name = kind.as_str().replace('_', "-");
    let mut input = CreateDatabaseInput::new(name.as_str(), GROUP);
    let mut options = ConnectOptions::default();
    if kind.is_sealed() {
        let key = EncryptionKey::generate(cipher)?;
        input = input.with_encryption(RemoteEncryption::new(key.clone(), cipher)?);
        options = options.encryption_key(key);
    }
    plane.create_database(input)?;
    let window = if kind.has_history() { "1h" } else { "off" }.parse::<Retention>()?;
    plane.configure_database(&name, DatabaseChanges::default().history_window(window))?;
    plane.connect(&name, options)
}

/// Commits until `slice` has passed, and returns the rate.
fn commits(connection: &Connection, synchronous: &str, slice: Duration) -> Result<f64> {
    let run = || -> rusqlite::Result<_> {
        connection.execute_batch(&format!("PRAGMA synchronous={synchronous}"))?;
        connection.prepare_cached(COMMIT)
    };
    let mut insert = run().map_err(|error| Error::from_sqlite(connection, error))?;
    let text = "x".repeat(200);
    let started = Instant::now();
    let mut count = 0_u32;
    while count == 0 || started.elapsed() < slice {
        check_cancelled()?;
        insert.execute([&text]).map_err(|error| Error::from_sqlite(connection, error))?;
        count += 1;
    }
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
