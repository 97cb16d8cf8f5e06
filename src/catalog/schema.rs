//! The tables of the catalog, and their versions.

use rusqlite::Connection;

use crate::{
    error::{Error, ErrorKind, Result},
    sqlite,
};

/// The application id of a catalog: `LFlt`.
const APPLICATION_ID: i64 = 0x4c46_6c74;

/// The version of the tables, which `user_version` has.
const SCHEMA_VERSION: i64 = 5;

/// The steps to each version from the one before, the first from an empty database. A new catalog executes all of them, so that
/// its tables equal those of an upgraded one.
const VERSIONS: [&str; 5] = [TABLES, GROUP_DIRS, STALE_DESCRIPTIONS, HISTORY_LIMITS, PACKS];

/// The version of the layout of the root.
const FORMAT_VERSION: i64 = 1;

/// The states of a database are `creating` (its directory is being built), `draft` (it waits for an upload), `publishing` (its
/// directory is complete and moves to its final path), `ready` and `deleting`. Times are in microseconds of UTC.
///
/// The row of an encrypted database with a file has the page format, and the salt of the file if the format has one, so that
/// another file with the same key is detected.
///
/// `history_window_seconds` is `NULL` in the row of a database that uses the window of its group, and in the row of a group that
/// uses the default. `history_paused` is set when the history of a database is first off, and never cleared: the contents between
/// the creation and the first archived commit are then unknown.
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

/// Since version 2 a group can be renamed: its row has the name of its directory.
///
/// A process of version 1 that still has the root open would use the name of the group as that of the directory. Renaming the
/// column `group_id` and the trigger make its statements fail instead.
const GROUP_DIRS: &str = "
    ALTER TABLE groups ADD COLUMN dir TEXT NOT NULL DEFAULT '';
    UPDATE groups SET dir = name;
    CREATE UNIQUE INDEX groups_by_dir ON groups(dir);
    CREATE TRIGGER groups_have_dirs BEFORE INSERT ON groups WHEN new.dir = '' BEGIN
        SELECT RAISE(ABORT, 'the catalog is of a newer litefleet: use that');
    END;
    ALTER TABLE databases RENAME COLUMN group_id TO in_group;
";

/// Since version 3 each database and group has a description beside it. This table has the ids of those whose description may be
/// older than the row.
const STALE_DESCRIPTIONS: &str = "
    CREATE TABLE stale_descriptions(uuid TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
";

/// Since version 4 a history can have a limit in bytes. It is `NULL` in the row of a database that uses the limit of its group, and
/// 0 for no limit. In the row of a group, both are no limit.
///
/// A process of version 3 with a root of version 4 does not apply the limits, and writes descriptions without them, which the next
/// maintenance by this version replaces.
const HISTORY_LIMITS: &str = "
    ALTER TABLE groups ADD COLUMN history_limit INTEGER;
    ALTER TABLE databases ADD COLUMN history_limit INTEGER;
";

/// Since version 5 a history may have packs.
///
/// A process of an earlier version that still has the root open would not find the generations in them. Its statements read the view
/// `databases`, and fail with an error that contains the name of the table which the view lacks. A later version that alters tables
/// drops the view first, because `ALTER TABLE` checks all views.
const PACKS: &str = "
    ALTER TABLE databases RENAME TO database_rows;
    CREATE VIEW databases AS
        SELECT * FROM \"a newer litefleet has upgraded this root: restart this process with that version\";
";

/// Creates the tables of a new catalog, upgrades those of an older one, or checks those of this version.
pub(super) fn prepare(connection: &Connection) -> Result<()> {
    let failed = |error| sqlite::failed_at(connection.path(), "opening the catalog", error);
    let ours =
        || if pragma(connection, "application_id")? == APPLICATION_ID { Ok(()) } else { Err(foreign()) };
    if has_objects(connection)? {
        ours()?;
    }
    let version = known_version(connection)?;
    if version < SCHEMA_VERSION {
        if version == 0 {
            connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(())).map_err(failed)?;
        }
        connection.execute_batch("PRAGMA synchronous=FULL; BEGIN IMMEDIATE").map_err(failed)?;
        let upgraded = upgrade(connection);
        connection.execute_batch(if upgraded.is_ok() { "COMMIT" } else { "ROLLBACK" }).map_err(failed)?;
        upgraded?;
    }
    ours()?;
    if known_version(connection)? < SCHEMA_VERSION { Err(foreign()) } else { Ok(()) }
}

/// Fails with [`ErrorKind::Unsupported`] unless a read-only catalog has this version.
pub(super) fn check(connection: &Connection) -> Result<()> {
    if pragma(connection, "application_id")? != APPLICATION_ID {
        return Err(foreign());
    }
    let version = known_version(connection)?;
    if version == SCHEMA_VERSION {
        return Ok(());
    }
    let message = format!(
        "control.db has schema version {version}, and a read-only root cannot be upgraded to {SCHEMA_VERSION}; open the fleet \
         once where it is writable"
    );
    Err(Error::new(ErrorKind::Unsupported, message))
}

/// The version of the tables, or 0 if there are none. Fails with [`ErrorKind::Unsupported`] if it or the version of the root is not
/// supported.
fn known_version(connection: &Connection) -> Result<i64> {
    let newer = |what: &str, version: i64, known: i64| {
        let message = format!(
            "control.db has {what} version {version}, and this litefleet supports {known}; use a newer litefleet"
        );
        Err(Error::new(ErrorKind::Unsupported, message))
    };
    let version = pragma(connection, "user_version")?;
    if !(0..=SCHEMA_VERSION).contains(&version) {
        return newer("schema", version, SCHEMA_VERSION);
    }
    if version > 0 {
        let format = connection
            .query_row("SELECT format_version FROM root", [], |row| row.get(0))
            .map_err(|error| sqlite::failed_at(connection.path(), "opening the catalog", error))?;
        if format != FORMAT_VERSION {
            return newer("format", format, FORMAT_VERSION);
        }
    }
    Ok(version)
}

fn pragma(connection: &Connection, name: &str) -> Result<i64> {
    connection
        .query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
        .map_err(|error| sqlite::failed_at(connection.path(), "opening the catalog", error))
}

fn has_objects(connection: &Connection) -> Result<bool> {
    connection
        .query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))
        .map_err(|error| sqlite::failed_at(connection.path(), "opening the catalog", error))
}

fn foreign() -> Error {
    Error::new(ErrorKind::Invalid, "control.db is not a catalog of litefleet; choose another root")
}

/// Upgrades the tables within a transaction. Changes no table if another process has upgraded them, or if the database is not a catalog.
fn upgrade(connection: &Connection) -> Result<()> {
    let version = known_version(connection)?;
    if version == 0 && has_objects(connection)? {
        return Ok(());
    }
    let mut steps: Vec<_> = VERSIONS.into_iter().skip(usize::try_from(version).unwrap_or(0)).collect();
    let made = format!("INSERT INTO root VALUES ({FORMAT_VERSION}); PRAGMA application_id={APPLICATION_ID}");
    if version == 0 {
        steps.push(&made);
    }
    let reached = format!("PRAGMA user_version={SCHEMA_VERSION}");
    steps.push(&reached);
    steps.into_iter().try_for_each(|step| connection.execute_batch(step)).map_err(|error| {
        let what = if version == 0 { "creating the catalog" } else { "upgrading the catalog" };
        sqlite::failed_at(connection.path(), what, error)
    })
}
