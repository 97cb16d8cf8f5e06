//! The tables of the catalog, and the versions they carry.

use rusqlite::Connection;

use crate::{
    error::{Error, ErrorKind, Result},
    sqlite,
};

/// What tells a catalog apart from other SQLite databases: `LFlt`.
const APPLICATION_ID: i64 = 0x4c46_6c74;

/// The version of the tables below, kept in `user_version`.
const SCHEMA_VERSION: i64 = 1;

/// The version of the root's directories and files.
const FORMAT_VERSION: i64 = 1;

/// A database's states: `creating` (its directory is being built), `draft` (it waits for a file), `publishing`
/// (its directory is whole, and moves to its place), `ready`, `deleting`. Times are in microseconds of UTC.
///
/// An encrypted database has the format of its pages in its row as soon as it has a file, and the salt of that file where
/// the format has one, so that no other file under the same key is taken for it.
///
/// `history_window_seconds` is nothing in a database's row for the window of its group, and in a group's for the default.
/// `history_paused` is set once a database's history was off, and stays: nothing then vouches for what it was between its
/// birth and the first commit that is in its archive.
const TABLES: &str = "
    CREATE TABLE root(format_version INTEGER NOT NULL) STRICT;
    CREATE TABLE groups(
        id INTEGER PRIMARY KEY,
        uuid TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL CHECK (state IN ('ready', 'deleting')),
        created_at INTEGER NOT NULL,
        delete_protection INTEGER NOT NULL DEFAULT 0,
        history_window_seconds INTEGER
    ) STRICT;
    CREATE TABLE databases(
        id INTEGER PRIMARY KEY,
        uuid TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL UNIQUE,
        group_id INTEGER NOT NULL REFERENCES groups(id),
        state TEXT NOT NULL CHECK (state IN ('creating', 'draft', 'publishing', 'ready', 'deleting')),
        created_at INTEGER NOT NULL,
        size_limit INTEGER,
        history_window_seconds INTEGER,
        history_paused INTEGER NOT NULL DEFAULT 0,
        cipher TEXT,
        page_format TEXT CHECK (page_format IN ('native', 'turso')),
        file_salt BLOB,
        parent_uuid TEXT,
        parent_name TEXT,
        branched_at INTEGER,
        block_reads INTEGER NOT NULL DEFAULT 0,
        block_writes INTEGER NOT NULL DEFAULT 0,
        delete_protection INTEGER NOT NULL DEFAULT 0,
        CHECK (state NOT IN ('publishing', 'ready') OR (cipher IS NULL) = (page_format IS NULL)),
        CHECK ((page_format IS 'native') = (file_salt IS NOT NULL))
    ) STRICT;
    CREATE INDEX databases_by_group ON databases(group_id, name);
    CREATE INDEX databases_by_parent ON databases(parent_uuid, name) WHERE parent_uuid IS NOT NULL;
    CREATE INDEX databases_unsettled ON databases(state) WHERE state IN ('creating', 'publishing', 'deleting');
";

/// Makes the tables of a new catalog, or checks those of an old one.
pub(super) fn prepare(connection: &Connection) -> Result<()> {
    let failed = |error| sqlite::failed_at(connection.path(), "opening the catalog", error);
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    let objects: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    let ours = |id: i64| if id == APPLICATION_ID { Ok(()) } else { Err(foreign()) };
    if objects > 0 {
        ours(pragma("application_id").map_err(failed)?)?;
    }
    if pragma("user_version").map_err(failed)? == 0 {
        connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(())).map_err(failed)?;
        connection.execute_batch("PRAGMA synchronous=FULL; BEGIN IMMEDIATE").map_err(failed)?;
        let made = create(connection);
        connection.execute_batch(if made.is_ok() { "COMMIT" } else { "ROLLBACK" }).map_err(failed)?;
        made?;
    }
    ours(pragma("application_id").map_err(failed)?)?;
    let newer = |what: &str, version: i64, known: i64| {
        let message = format!(
            "control.db has {what} version {version}; this litefleet knows {known}, so use a newer one"
        );
        Err(Error::new(ErrorKind::Unsupported, message))
    };
    let version = pragma("user_version").map_err(failed)?;
    if version != SCHEMA_VERSION {
        return newer("schema", version, SCHEMA_VERSION);
    }
    let version =
        connection.query_row("SELECT format_version FROM root", [], |row| row.get(0)).map_err(failed)?;
    if version != FORMAT_VERSION {
        return newer("format", version, FORMAT_VERSION);
    }
    Ok(())
}

fn foreign() -> Error {
    Error::new(ErrorKind::Invalid, "control.db is not a catalog of litefleet; choose another root")
}

/// Makes the tables, unless another process was faster, or the database is somebody else's.
fn create(connection: &Connection) -> Result<()> {
    let failed = |error| sqlite::failed_at(connection.path(), "creating the catalog", error);
    let objects: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    if objects > 0 {
        return Ok(());
    }
    let versions = format!(
        "INSERT INTO root VALUES ({FORMAT_VERSION});
         PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={SCHEMA_VERSION};"
    );
    connection.execute_batch(TABLES).and_then(|()| connection.execute_batch(&versions)).map_err(failed)
}
