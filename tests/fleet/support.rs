//! Shared by the tests: a plane in a temporary directory, and the contents of a database as one value.

use std::{collections::BTreeMap, fs, path::Path};

use litefleet::{
    ControlPlane, CreateDatabaseInput, ErrorKind, ListDatabases, Result,
    rusqlite::{Connection, types::Value},
};
use tempfile::TempDir;

/// A plane with a group `default`, in a temporary directory.
pub(crate) struct Fleet {
    pub(crate) plane: ControlPlane,
    pub(crate) dir: TempDir,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plane = ControlPlane::open(dir.path().join("root")).unwrap();
        plane.create_group("default").unwrap();
        Self { plane, dir }
    }

    pub(crate) fn create(&self, name: &str) {
        self.plane.create_database(CreateDatabaseInput::new(name, "default")).unwrap();
    }

    pub(crate) fn connect(&self, name: &str) -> Connection {
        self.plane.connect(name, litefleet::ConnectOptions::default()).unwrap()
    }

    /// Runs SQL on a database.
    pub(crate) fn run(&self, name: &str, sql: &str) {
        self.connect(name).execute_batch(sql).unwrap();
    }

    /// Checks that every file in the root belongs to a listed database.
    pub(crate) fn assert_no_debris(&self) {
        assert_no_debris(&self.plane);
    }
}

pub(crate) fn assert_no_debris(plane: &ControlPlane) {
    let directory = |name: &str| {
        let path = plane.database_path(name).unwrap();
        path.parent().unwrap().strip_prefix(plane.root()).unwrap().to_str().unwrap().to_owned()
    };
    let listed: Vec<_> = plane
        .list_databases(ListDatabases::default())
        .unwrap()
        .into_iter()
        .filter(|database| database.state == litefleet::DatabaseState::Ready)
        .map(|database| directory(database.name.as_str()))
        .collect();
    let mut found = Vec::new();
    for name in names(plane.root()) {
        match name.as_str() {
            ".staging" | ".trash" => {
                assert_eq!(names(&plane.root().join(&name)), Vec::<String>::new(), "{name}");
            }
            ".changes" | "control.db" | "control.db-wal" | "control.db-shm" => {}
            reserve if reserve.starts_with(".reserve-") => {}
            group => {
                let databases = names(&plane.root().join(group)).into_iter();
                for database in databases.filter(|name| name != "group.json") {
                    found.push(format!("{group}/{database}"));
                    for file in names(&plane.root().join(group).join(&database)) {
                        let known = [
                            "archive",
                            "data.db",
                            "data.db-wal",
                            "data.db-shm",
                            "description.json",
                            "unwritten",
                        ];
                        assert!(known.contains(&file.as_str()), "{file}");
                    }
                }
            }
        }
    }
    found.sort();
    let mut expected = listed;
    expected.sort();
    assert_eq!(found, expected);
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The kind and text of an error.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T>) -> (ErrorKind, String) {
    let error = result.unwrap_err();
    (error.kind(), error.to_string())
}

/// The rows of every table, sorted, and the schema.
pub(crate) fn contents(connection: &Connection) -> BTreeMap<String, Vec<Vec<Value>>> {
    let rows = |sql: &str| -> Vec<Vec<Value>> {
        let mut statement = connection.prepare(sql).unwrap();
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| (0..columns).map(|at| row.get(at)).collect()).unwrap();
        rows.map(Result::unwrap).collect()
    };
    let schema = rows("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name");
    let mut all = BTreeMap::new();
    for row in &schema {
        if let (Value::Text(kind), Value::Text(name)) = (&row[0], &row[1])
            && kind == "table"
        {
            let mut found = rows(&format!("SELECT * FROM \"{name}\""));
            found.sort_by_cached_key(|row| format!("{row:?}"));
            all.insert(name.clone(), found);
        }
    }
    all.insert("sqlite_schema".into(), schema);
    all
}

pub(crate) fn count(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}
