//! The rows of groups.

use rusqlite::{OptionalExtension, Row, params};

use super::Rows;
use crate::{
    api::Group,
    error::{Error, ErrorKind, Result},
    history_limit::HistoryLimit,
    name::{GroupDir, GroupName},
    retention::Retention,
    sqlite,
    time::Timestamp,
};

const COLUMNS: &str = "name, uuid, created_at, delete_protection, history_window_seconds, history_limit";

/// The documented error for the name of a group that does not exist.
pub(super) fn not_found() -> Error {
    Error::new(ErrorKind::NotFound, "group not found")
}

/// The documented error for the name of a group that exists or is being destroyed.
fn already_exists() -> Error {
    Error::new(ErrorKind::AlreadyExists, "group already exists")
}

fn failed(error: rusqlite::Error) -> Error {
    sqlite::failed("reading a group", error)
}

/// Selects the databases that use the window of group `?1`, if that is off: their history ends.
const FOLLOWERS: &str = "history_window_seconds IS NULL AND history_paused = 0
    AND in_group = (SELECT id FROM groups WHERE uuid = ?1 AND history_window_seconds = 0)";

impl Rows<'_> {
    pub(crate) fn insert_group(
        &self,
        name: &GroupName,
        uuid: &str,
        dir: &GroupDir,
        now: Timestamp,
    ) -> Result<Group> {
        let inserted = self
            .connection
            .prepare_cached(
                "INSERT INTO groups(uuid, name, dir, state, created_at) VALUES (?1, ?2, ?3, 'ready', ?4)
                 ON CONFLICT (name) DO NOTHING",
            )
            .and_then(|mut insert| {
                insert.execute(params![uuid, name.as_str(), dir.as_str(), now.as_micros()])
            })
            .map_err(|error| sqlite::failed("creating a group", error))?;
        if inserted == 0 {
            return Err(already_exists());
        }
        Ok(Group {
            name: name.clone(),
            id: uuid.into(),
            created_at: now,
            delete_protection: false,
            history_window: Retention::default(),
            history_limit: HistoryLimit::NONE,
        })
    }

    /// The group with this name, if it is not being deleted.
    pub(crate) fn group(&self, name: &GroupName) -> Result<Group> {
        self.connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM groups WHERE name = ?1 AND state = 'ready'"))
            .and_then(|mut select| select.query_row([name.as_str()], |row| Ok(read(row))).optional())
            .map_err(failed)?
            .ok_or_else(not_found)?
    }

    /// The group with this id, if it is not being deleted.
    pub(crate) fn group_by_id(&self, uuid: &str) -> Result<Group> {
        self.connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM groups WHERE uuid = ?1 AND state = 'ready'"))
            .and_then(|mut select| select.query_row([uuid], |row| Ok(read(row))).optional())
            .map_err(failed)?
            .ok_or_else(not_found)?
    }

    /// Renames a group. Its directory keeps its name.
    pub(crate) fn rename_group(&self, group: Group, new: &GroupName) -> Result<Group> {
        let renamed = self
            .connection
            .execute(
                "UPDATE OR IGNORE groups SET name = ?2 WHERE uuid = ?1",
                [group.id.as_str(), new.as_str()],
            )
            .map_err(|error| sqlite::failed("renaming a group", error))?;
        if renamed == 0 {
            return Err(already_exists());
        }
        self.mark_stale(&group.id)?;
        Ok(Group { name: new.clone(), ..group })
    }

    /// Whether a group in any state has this directory.
    pub(crate) fn is_group_dir(&self, dir: &GroupDir) -> Result<bool> {
        self.connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM groups WHERE dir = ?1)")
            .and_then(|mut select| select.query_row([dir.as_str()], |row| row.get(0)))
            .map_err(failed)
    }

    /// The directory of the group with this id, if it is being deleted.
    pub(crate) fn deleting_group_dir(&self, uuid: &str) -> Result<Option<GroupDir>> {
        let dir = self
            .connection
            .prepare_cached("SELECT dir FROM groups WHERE uuid = ?1 AND state = 'deleting'")
            .and_then(|mut select| select.query_row([uuid], |row| row.get::<_, String>(0)).optional())
            .map_err(failed)?;
        dir.map(|dir| dir.parse()).transpose()
    }

    /// The directory of the group with this id, if it is not being deleted.
    pub(crate) fn group_dir(&self, uuid: &str) -> Result<Option<GroupDir>> {
        let dir = self
            .connection
            .prepare_cached("SELECT dir FROM groups WHERE uuid = ?1 AND state = 'ready'")
            .and_then(|mut select| select.query_row([uuid], |row| row.get::<_, String>(0)).optional())
            .map_err(failed)?;
        dir.map(|dir| dir.parse()).transpose()
    }

    /// The groups that are `ready` or `deleting`, by name.
    pub(crate) fn groups(&self, state: &str) -> Result<Vec<Group>> {
        let mut select = self
            .connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM groups WHERE state = ?1 ORDER BY name"))
            .map_err(failed)?;
        let rows = select.query_map([state], |row| Ok(read(row))).map_err(failed)?;
        rows.map(|row| row.map_err(failed)?).collect()
    }

    /// Changes the configuration of a group that is not being deleted.
    pub(crate) fn configure_group(
        &self,
        uuid: &str,
        delete_protection: Option<bool>,
        history_window: Option<Retention>,
        history_limit: Option<HistoryLimit>,
    ) -> Result<()> {
        let window = history_window.and_then(window_column);
        let limit = history_limit.and_then(limit_column);
        self.connection
            .execute(
                "UPDATE groups SET
                    delete_protection = ifnull(?2, delete_protection),
                    history_window_seconds = ifnull(?3, history_window_seconds),
                    history_limit = ifnull(?4, history_limit)
                 WHERE uuid = ?1 AND state = 'ready'",
                params![uuid, delete_protection, window, limit],
            )
            .map_err(|error| sqlite::failed("changing a group", error))?;
        // The databases that use the window of the group have a pause in their history from now on, as their descriptions must say.
        for change in [
            format!(
                "INSERT OR IGNORE INTO stale_descriptions SELECT uuid FROM database_rows WHERE {FOLLOWERS}"
            ),
            format!("UPDATE database_rows SET history_paused = 1 WHERE {FOLLOWERS}"),
        ] {
            self.connection
                .execute(&change, [uuid])
                .map_err(|error| sqlite::failed("changing a group", error))?;
        }
        self.mark_stale(uuid)
    }

    /// Marks a group and its databases as being deleted, or reverts that.
    pub(crate) fn mark_group_deleting(&self, uuid: &str, deleting: bool) -> Result<()> {
        let state = if deleting { "deleting" } else { "ready" };
        self.connection
            .execute("UPDATE groups SET state = ?2 WHERE uuid = ?1", [uuid, state])
            .map(|_| ())
            .map_err(failed)
    }

    /// Deletes the rows of a group that is being deleted and of its databases.
    pub(crate) fn delete_group(&self, uuid: &str) -> Result<()> {
        for statement in [
            "DELETE FROM stale_descriptions WHERE uuid = ?1 OR uuid IN
                (SELECT uuid FROM database_rows WHERE in_group = (SELECT id FROM groups WHERE uuid = ?1))",
            "DELETE FROM database_rows WHERE in_group = (SELECT id FROM groups WHERE uuid = ?1 AND state = 'deleting')",
            "DELETE FROM groups WHERE uuid = ?1 AND state = 'deleting'",
        ] {
            self.connection
                .execute(statement, [uuid])
                .map_err(|error| sqlite::failed("deleting a group", error))?;
        }
        Ok(())
    }
}

fn read(row: &Row<'_>) -> Result<Group> {
    let name: String = row.get(0).map_err(failed)?;
    Ok(Group {
        name: name.parse()?,
        id: row.get(1).map_err(failed)?,
        created_at: Timestamp::from_micros(row.get(2).map_err(failed)?)?,
        delete_protection: row.get(3).map_err(failed)?,
        history_window: window_of(row.get(4).map_err(failed)?)?.unwrap_or_default(),
        history_limit: limit_of(row.get(5).map_err(failed)?)?.unwrap_or_default(),
    })
}

/// Converts a column to a window. Returns `None` for `NULL`.
pub(super) fn window_of(seconds: Option<i64>) -> Result<Option<Retention>> {
    let seconds = seconds.map(|seconds| u64::try_from(seconds).unwrap_or_default());
    seconds.map(Retention::from_seconds).transpose()
}

pub(super) fn window_column(window: Retention) -> Option<i64> {
    i64::try_from(window.seconds()).ok()
}

/// Converts a column to a limit on a history. Returns `None` for `NULL`.
pub(super) fn limit_of(bytes: Option<i64>) -> Result<Option<HistoryLimit>> {
    let limit = |bytes| match u64::try_from(bytes) {
        Ok(bytes @ 1..) => HistoryLimit::from_bytes(bytes),
        _ => Ok(HistoryLimit::NONE),
    };
    bytes.map(limit).transpose()
}

pub(super) fn limit_column(limit: HistoryLimit) -> Option<i64> {
    i64::try_from(limit.bytes().unwrap_or(0)).ok()
}
