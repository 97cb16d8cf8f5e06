//! Conversions between rows and descriptions, and the list of stale descriptions.

use rusqlite::{OptionalExtension, params};

use super::{Entry, Rows, databases, groups};
use crate::{
    cipher::Cipher,
    description::{self, DatabaseDescription, Encryption, GroupDescription, GroupIdentity, ParentIdentity},
    error::Result,
    name::GroupDir,
    sqlite,
};

fn failed(error: rusqlite::Error) -> crate::error::Error {
    sqlite::failed("reading which descriptions are stale", error)
}

impl Entry {
    /// The description that is written beside the database.
    pub(crate) fn description(&self) -> DatabaseDescription {
        let database = &self.database;
        DatabaseDescription {
            format: description::FORMAT,
            id: database.id.clone(),
            name: database.name.clone(),
            group: GroupIdentity { id: self.group_id.clone(), name: database.group.clone() },
            created_at: database.created_at,
            size_limit: database.size_limit,
            history_window: (!database.inherits_history_window).then_some(database.history_window),
            history_limit: (!database.inherits_history_limit).then_some(database.history_limit),
            history_paused: self.history_paused,
            block_reads: database.block_reads,
            block_writes: database.block_writes,
            delete_protection: database.delete_protection,
            encryption: database
                .cipher
                .zip(self.identity.as_ref())
                .map(|(cipher, identity)| Encryption::new(cipher, identity)),
            parent: database.parent.as_ref().map(|parent| ParentIdentity {
                id: parent.id.clone(),
                name: parent.name.clone(),
                branched_at: parent.branched_at,
            }),
        }
    }
}

impl Rows<'_> {
    /// The description and the directory of the group with this id. Returns `None` if it does not exist.
    pub(crate) fn group_description(&self, uuid: &str) -> Result<Option<(GroupDescription, GroupDir)>> {
        let Some(dir) = self.group_dir(uuid)? else { return Ok(None) };
        let group = self.group_by_id(uuid)?;
        let description = GroupDescription {
            format: description::FORMAT,
            id: group.id,
            name: group.name,
            directory: dir.as_str().to_owned(),
            created_at: group.created_at,
            history_window: group.history_window,
            history_limit: group.history_limit,
            delete_protection: group.delete_protection,
        };
        Ok(Some((description, dir)))
    }

    /// Marks the description of a database or a group as stale: its row has changed.
    pub(crate) fn mark_stale(&self, uuid: &str) -> Result<()> {
        self.connection
            .prepare_cached("INSERT OR IGNORE INTO stale_descriptions VALUES (?1)")
            .and_then(|mut insert| insert.execute([uuid]))
            .map(|_| ())
            .map_err(failed)
    }

    /// Marks the description of a database or a group as current, or as deleted with its row.
    pub(crate) fn clear_stale(&self, uuid: &str) -> Result<()> {
        self.connection
            .prepare_cached("DELETE FROM stale_descriptions WHERE uuid = ?1")
            .and_then(|mut delete| delete.execute([uuid]))
            .map(|_| ())
            .map_err(failed)
    }

    /// Whether the description of a database or a group is stale.
    pub(crate) fn is_stale(&self, uuid: &str) -> Result<bool> {
        self.connection
            .prepare_cached("SELECT 1 FROM stale_descriptions WHERE uuid = ?1")
            .and_then(|mut select| select.query_row([uuid], |_| Ok(())).optional())
            .map(|found| found.is_some())
            .map_err(failed)
    }

    /// Returns the ids of at most `limit` databases and groups with stale descriptions. Databases that are not ready are omitted,
    /// because they have no description yet.
    pub(crate) fn stale(&self, limit: u32) -> Result<Vec<String>> {
        let mut select = self
            .connection
            .prepare_cached(
                "SELECT s.uuid FROM stale_descriptions AS s LEFT JOIN database_rows AS d ON d.uuid = s.uuid
                 WHERE ifnull(d.state, 'ready') = 'ready' LIMIT ?1",
            )
            .map_err(failed)?;
        let ids = select.query_map([limit], |row| row.get(0)).map_err(failed)?;
        ids.map(|id| id.map_err(failed)).collect()
    }

    /// Inserts the row of a group from its description.
    pub(crate) fn insert_described_group(&self, group: &GroupDescription) -> Result<()> {
        self.connection
            .execute(
                "INSERT INTO groups
                    (uuid, name, dir, state, created_at, delete_protection, history_window_seconds, history_limit)
                 VALUES (?1, ?2, ?3, 'ready', ?4, ?5, ?6, ?7)",
                params![
                    group.id,
                    group.name.as_str(),
                    group.directory,
                    group.created_at.as_micros(),
                    group.delete_protection,
                    groups::window_column(group.history_window),
                    groups::limit_column(group.history_limit),
                ],
            )
            .map(|_| ())
            .map_err(|error| sqlite::failed("recovering a group", error))
    }

    /// Inserts the row of a database from its description, in the group with the id in the description.
    pub(crate) fn insert_described_database(&self, database: &DatabaseDescription) -> Result<()> {
        let identity = database.encryption.as_ref().map(Encryption::identity).transpose()?;
        let parent = database.parent.as_ref();
        self.connection
            .execute(
                "INSERT INTO database_rows
                    (uuid, name, in_group, state, created_at, size_limit, history_window_seconds, history_paused,
                     cipher, page_format, file_salt, parent_uuid, parent_name, branched_at, block_reads,
                     block_writes, delete_protection, history_limit)
                 VALUES (?1, ?2, (SELECT id FROM groups WHERE uuid = ?3), 'ready', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11,
                     ?12, ?13, ?14, ?15, ?16, ?17)",
                params![
                    database.id,
                    database.name.as_str(),
                    database.group.id,
                    database.created_at.as_micros(),
                    databases::limit_column(database.size_limit),
                    database.history_window.and_then(groups::window_column),
                    database.history_paused,
                    database.encryption.as_ref().map(|encryption| Cipher::as_str(encryption.cipher)),
                    identity.map(|identity| identity.format().as_str()),
                    identity.as_ref().and_then(|identity| identity.salt()),
                    parent.map(|parent| &parent.id),
                    parent.map(|parent| parent.name.as_str()),
                    parent.map(|parent| parent.branched_at.as_micros()),
                    database.block_reads,
                    database.block_writes,
                    database.delete_protection,
                    database.history_limit.and_then(groups::limit_column),
                ],
            )
            .map(|_| ())
            .map_err(|error| sqlite::failed("recovering a database", error))
    }
}
