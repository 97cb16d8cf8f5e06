//! The sqllogictest files in `fixtures/sqllogictest`, on plain and on encrypted databases.

use std::path::{Path, PathBuf};

use litefleet::{
    Cipher, ConnectOptions, ControlPlane, PageFormat,
    rusqlite::{self, Connection, types::ValueRef},
};
use sqllogictest::{DBOutput, DefaultColumnType, Runner};

use crate::{
    encryption::{key, with_key},
    support::{Fleet, contents},
};

/// A connection that formats values as the files do.
struct Db(Connection);

impl sqllogictest::DB for Db {
    type Error = rusqlite::Error;
    type ColumnType = DefaultColumnType;

    fn run(&mut self, sql: &str) -> rusqlite::Result<DBOutput<DefaultColumnType>> {
        let mut statement = self.0.prepare(sql)?;
        let columns = statement.column_count();
        let mut found = statement.query([])?;
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            rows.push((0..columns).map(|at| Ok(shown(row.get_ref(at)?))).collect::<rusqlite::Result<_>>()?);
        }
        if columns == 0 {
            return Ok(DBOutput::StatementComplete(self.0.changes()));
        }
        Ok(DBOutput::Rows { types: vec![DefaultColumnType::Any; columns], rows })
    }
}

fn shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".into(),
        ValueRef::Integer(value) => value.to_string(),
        ValueRef::Real(value) => format!("{value:.3}"),
        ValueRef::Text([]) => "(empty)".into(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(bytes) => {
            let hex = bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
            format!("x'{hex}'")
        }
    }
}

fn files() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/sqllogictest");
    let mut files: Vec<_> = crate::support::names(&dir).into_iter().map(|name| dir.join(name)).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "slt"));
    files
}

/// Runs a file, with as many connections as it names.
fn run(path: &Path, plane: &ControlPlane, options: &ConnectOptions) -> Connection {
    // All connections belong to one thread, so waiting for a lock is futile.
    let options = options.clone().busy_timeout(std::time::Duration::ZERO);
    let mut runner = Runner::new(|| {
        let connected = plane.connect("logic", options.clone()).unwrap();
        std::future::ready(Ok::<_, rusqlite::Error>(Db(connected)))
    });
    if let Err(error) = runner.run_file(path) {
        panic!("{error}");
    }
    drop(runner);
    plane.connect("logic", options.clone()).unwrap()
}

#[test]
fn sqllogictest_files_pass_on_plain_and_encrypted_databases() {
    let files = files();
    assert!(files.len() >= 6, "{files:?}");
    let text = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect::<String>();
    let is_record = |line: &&str| line.starts_with("query ") || line.starts_with("statement ");
    assert!(text.lines().filter(is_record).count() > 250);
    for file in &files {
        let fleet = Fleet::new();
        fleet.create("logic");
        let expected = contents(&run(file, &fleet.plane, &ConnectOptions::default()));
        for (cipher, format) in [
            (Cipher::Aes128Gcm, PageFormat::Native),
            (Cipher::Aegis256X2, PageFormat::Native),
            (Cipher::Aegis256, PageFormat::Turso),
        ] {
            let fleet = Fleet::new();
            fleet.create_sealed("logic", cipher, format);
            let connection = run(file, &fleet.plane, &with_key(key(cipher)));
            assert!(contents(&connection) == expected, "{cipher} {format} {}", file.display());
        }
    }
}
