//! The rows of databases.

use rusqlite::{OptionalExtension, Row, ToSql, params};

use super::{Rows, groups};
use crate::{
    api::{Database, DatabaseChanges, DatabaseState, ListDatabases, Parent},
    cipher::Cipher,
    error::{Error, ErrorKind, Result},
    history_limit::HistoryLimit,
    name::{DatabaseName, GroupDir, GroupName},
    page::Identity,
    size::SizeLimit,
    sqlite,
    time::Timestamp,
};

const SELECT: &str = "
    SELECT d.uuid, d.name, g.name, d.state, d.created_at, d.size_limit, d.cipher, d.parent_uuid, d.parent_name,
        d.branched_at, d.block_reads, d.block_writes, d.delete_protection, g.delete_protection, g.state,
        d.page_format, d.file_salt, d.history_window_seconds, g.history_window_seconds, d.history_paused,
        g.uuid, g.dir, d.history_limit, g.history_limit
    FROM database_rows d JOIN groups g ON g.id = d.in_group";

/// The state of a database's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The directory is being built in staging.
    Creating,
    /// The database waits for an upload.
    Draft,
    /// The directory is complete and flushed, in staging or at its final path.
    Publishing,
    /// The database can be used.
    Ready,
    /// The directory moves to the trash.
    Deleting,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Draft => "draft",
            Self::Publishing => "publishing",
            Self::Ready => "ready",
            Self::Deleting => "deleting",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        [Self::Creating, Self::Draft, Self::Publishing, Self::Ready, Self::Deleting]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, format!("control.db has a database in state {text:?}"))
            })
    }

    /// Whether a call is changing the database, or was interrupted.
    pub(crate) fn is_unsettled(self) -> bool {
        matches!(self, Self::Creating | Self::Publishing | Self::Deleting)
    }
}

/// A row: a database and its state.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) state: State,
    pub(crate) database: Database,
    /// The id of the group, which a rename does not change.
    pub(crate) group_id: String,
    pub(crate) group_dir: GroupDir,
    pub(crate) group_protected: bool,
    /// The identity of its file. `None` for a plain database and for one without a file.
    pub(crate) identity: Option<Identity>,
    /// Whether its history was ever off.
    pub(crate) history_paused: bool,
    /// Whether the database has a directory at its final path. The state of the group does not matter.
    pub(crate) has_files: bool,
}

/// The group of a new database.
#[derive(Clone, Debug)]
pub(crate) enum InGroup {
    /// The group with this name at the time of the insertion.
    Named(GroupName),
    /// The group with this id.
    Same(String),
}

/// The values of a new row.
#[derive(Clone, Debug)]
pub(crate) struct NewDatabase {
    pub(crate) id: String,
    pub(crate) name: DatabaseName,
    pub(crate) group: InGroup,
    pub(crate) state: State,
    pub(crate) created_at: Timestamp,
    pub(crate) size_limit: Option<SizeLimit>,
    /// `None` uses the limit of the group.
    pub(crate) history_limit: Option<HistoryLimit>,
    pub(crate) cipher: Option<Cipher>,
    pub(crate) parent: Option<Parent>,
}

fn failed(error: rusqlite::Error) -> Error {
    sqlite::failed("reading a database's row", error)
}

/// The documented error for the name of a database that does not exist.
fn not_found(name: &DatabaseName) -> Error {
    Error::new(ErrorKind::NotFound, format!("could not find database with name {name}: record not found"))
}

impl Rows<'_> {
    /// Inserts a row. Fails with [`ErrorKind::NotFound`] if there is no such group, and with [`ErrorKind::AlreadyExists`] if the name
    /// is taken.
    pub(crate) fn insert_database(&self, new: &NewDatabase) -> Result<()> {
        let (select, value) = match &new.group {
            InGroup::Named(name) => {
                ("SELECT id FROM groups WHERE name = ?1 AND state = 'ready'", name.as_str())
            }
            InGroup::Same(id) => ("SELECT id FROM groups WHERE uuid = ?1 AND state = 'ready'", id.as_str()),
        };
        let group: i64 = self
            .connection
            .prepare_cached(select)
            .and_then(|mut select| select.query_row([value], |row| row.get(0)).optional())
            .map_err(failed)?
            .ok_or_else(groups::not_found)?;
        let parent = new.parent.as_ref();
        let inserted = self
            .connection
            .prepare_cached(
                "INSERT INTO database_rows
                    (uuid, name, in_group, state, created_at, size_limit, cipher, parent_uuid, parent_name,
                     branched_at, history_limit, history_paused)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11,
                     (SELECT history_window_seconds IS 0 FROM groups WHERE id = ?3))
                 ON CONFLICT (name) DO NOTHING",
            )
            .and_then(|mut insert| {
                insert.execute(params![
                    new.id,
                    new.name.as_str(),
                    group,
                    new.state.as_str(),
                    new.created_at.as_micros(),
                    limit_column(new.size_limit),
                    new.cipher.map(Cipher::as_str),
                    parent.map(|parent| &parent.id),
                    parent.map(|parent| parent.name.as_str()),
                    parent.map(|parent| parent.branched_at.as_micros()),
                    new.history_limit.and_then(groups::limit_column),
                ])
            })
            .map_err(|error| sqlite::failed("creating a database's row", error))?;
        match inserted {
            0 => Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("database with name {} already exists", new.name),
            )),
            _ => Ok(()),
        }
    }

    /// The row with this name, in any state.
    pub(crate) fn entry(&self, name: &DatabaseName) -> Result<Option<Entry>> {
        self.select_one("d.name", name.as_str())
    }

    /// The row with this id, in any state.
    pub(crate) fn entry_by_id(&self, id: &str) -> Result<Option<Entry>> {
        self.select_one("d.uuid", id)
    }

    /// The row with this name. Fails with [`ErrorKind::NotFound`] unless it is a draft or ready.
    pub(crate) fn settled_entry(&self, name: &DatabaseName) -> Result<Entry> {
        self.entry(name)?.filter(|entry| !entry.state.is_unsettled()).ok_or_else(|| not_found(name))
    }

    /// The rows of databases that a call is changing, or was changing when it was interrupted.
    pub(crate) fn unsettled(&self) -> Result<Vec<Entry>> {
        self.select(
            &format!(
                "{SELECT} WHERE d.state IN ('creating', 'publishing', 'deleting') AND g.state = 'ready'"
            ),
            &[],
        )
    }

    /// The rows of the group with this id, in any state.
    pub(crate) fn entries_of_group(&self, uuid: &str) -> Result<Vec<Entry>> {
        self.select(&format!("{SELECT} WHERE g.uuid = ?1"), &[&uuid])
    }

    /// The drafts and the ready databases that match `which`, by name.
    pub(crate) fn list(&self, which: &ListDatabases) -> Result<Vec<Entry>> {
        let parent = which.parent.as_deref().map(|parent| self.id_of_parent(parent)).transpose()?;
        let mut sql = format!("{SELECT} WHERE d.state IN ('draft', 'ready') AND g.state = 'ready'");
        let mut values: Vec<&dyn ToSql> = Vec::new();
        for (value, condition) in
            [(&which.group, "g.name = ?"), (&parent, "d.parent_uuid = ?"), (&which.after, "d.name > ?")]
        {
            if let Some(value) = value {
                values.push(value);
                sql += " AND ";
                sql += condition;
            }
        }
        // Each order is that of an index, so that a page of the list is not sorted.
        sql += match (&which.group, &parent) {
            (_, Some(_)) | (None, None) => " ORDER BY d.name",
            (Some(_), None) => " ORDER BY d.in_group, d.name",
        };
        if let Some(limit) = &which.limit {
            values.push(limit);
            sql += " LIMIT ?";
        }
        self.select(&sql, &values)
    }

    /// The id of the database whose forks are listed, given its id or name. The id of a destroyed database is accepted as long as it
    /// has forks.
    fn id_of_parent(&self, parent: &str) -> Result<String> {
        let is_settled = |entry: &Entry| !entry.state.is_unsettled();
        let is_id = self.entry_by_id(parent)?.as_ref().is_some_and(is_settled) || self.has_forks(parent)?;
        if is_id {
            return Ok(parent.to_owned());
        }
        Ok(self.settled_entry(&parent.parse()?)?.database.id)
    }

    fn has_forks(&self, id: &str) -> Result<bool> {
        self.connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM database_rows WHERE parent_uuid = ?1)")
            .and_then(|mut select| select.query_row([id], |row| row.get(0)))
            .map_err(failed)
    }

    /// Changes the state of a row. Returns `false` if the row does not exist or is not in the state `from`.
    pub(crate) fn set_state(&self, id: &str, from: State, to: State) -> Result<bool> {
        self.connection
            .prepare_cached("UPDATE database_rows SET state = ?3 WHERE uuid = ?1 AND state = ?2")
            .and_then(|mut update| update.execute(params![id, from.as_str(), to.as_str()]))
            .map(|changed| changed > 0)
            .map_err(|error| sqlite::failed("changing a database's row", error))
    }

    /// Changes the state of a row to `publishing`, and sets the identity of its file. Returns `false` if the row does not exist or
    /// is not in the state `from`.
    pub(crate) fn set_publishing(&self, id: &str, from: State, identity: Option<&Identity>) -> Result<bool> {
        self.connection
            .prepare_cached(
                "UPDATE database_rows SET state = 'publishing', page_format = ?3, file_salt = ?4
                 WHERE uuid = ?1 AND state = ?2",
            )
            .and_then(|mut update| {
                let format = identity.map(|identity| identity.format().as_str());
                update.execute(params![id, from.as_str(), format, identity.and_then(Identity::salt)])
            })
            .map(|changed| changed > 0)
            .map_err(|error| sqlite::failed("changing a database's row", error))
    }

    /// Changes a row from `publishing` back to a draft.
    pub(crate) fn set_draft(&self, id: &str) -> Result<()> {
        self.connection
            .prepare_cached(
                "UPDATE database_rows SET state = 'draft', page_format = NULL, file_salt = NULL
                 WHERE uuid = ?1 AND state = 'publishing'",
            )
            .and_then(|mut update| update.execute([id]))
            .map(|_| ())
            .map_err(|error| sqlite::failed("changing a database's row", error))
    }

    /// Deletes a row if it is in the state `state`.
    pub(crate) fn delete_database(&self, id: &str, state: State) -> Result<()> {
        self.connection
            .prepare_cached("DELETE FROM database_rows WHERE uuid = ?1 AND state = ?2")
            .and_then(|mut delete| delete.execute(params![id, state.as_str()]))
            .map_err(|error| sqlite::failed("deleting a database's row", error))
            .and_then(|deleted| if deleted > 0 { self.clear_stale(id) } else { Ok(()) })
    }

    pub(crate) fn configure(&self, id: &str, changes: &DatabaseChanges) -> Result<()> {
        self.connection
            .prepare_cached(
                "UPDATE database_rows SET
                    size_limit = iif(?2, ?3, size_limit),
                    history_window_seconds = iif(?7, ?8, history_window_seconds),
                    history_limit = iif(?9, ?10, history_limit),
                    block_reads = ifnull(?4, block_reads),
                    block_writes = ifnull(?5, block_writes),
                    delete_protection = ifnull(?6, delete_protection)
                 WHERE uuid = ?1",
            )
            .and_then(|mut update| {
                update.execute(params![
                    id,
                    !changes.size_limit.is_keep(),
                    limit_column(changes.size_limit.value()),
                    changes.block_reads,
                    changes.block_writes,
                    changes.delete_protection,
                    !changes.history_window.is_keep(),
                    changes.history_window.value().and_then(groups::window_column),
                    !changes.history_limit.is_keep(),
                    changes.history_limit.value().and_then(groups::limit_column),
                ])
            })
            .map_err(|error| sqlite::failed("changing a database's row", error))?;
        self.connection
            .prepare_cached(
                "UPDATE database_rows AS d SET history_paused = 1
                 FROM groups AS g
                 WHERE d.uuid = ?1 AND g.id = d.in_group
                    AND ifnull(d.history_window_seconds, g.history_window_seconds) = 0",
            )
            .and_then(|mut update| update.execute([id]))
            .map_err(|error| sqlite::failed("changing a database's row", error))?;
        self.mark_stale(id)
    }

    fn select_one(&self, column: &str, value: &str) -> Result<Option<Entry>> {
        Ok(self.select(&format!("{SELECT} WHERE {column} = ?1"), &[&value])?.pop())
    }

    fn select(&self, sql: &str, values: &[&dyn ToSql]) -> Result<Vec<Entry>> {
        let mut select = self.connection.prepare_cached(sql).map_err(failed)?;
        let rows = select.query_map(values, |row| Ok(self.read(row))).map_err(failed)?;
        rows.map(|row| row.map_err(failed)?).collect()
    }

    fn read(&self, row: &Row<'_>) -> Result<Entry> {
        let text = |at: usize| row.get::<_, Option<String>>(at).map_err(failed);
        let number = |at: usize| row.get::<_, Option<i64>>(at).map_err(failed);
        let flag = |at: usize| row.get::<_, bool>(at).map_err(failed);
        let some = |text: Option<String>| text.unwrap_or_default();
        let name: DatabaseName = some(text(1)?).parse()?;
        let own_state = State::parse(&some(text(3)?))?;
        // The deletion of a group deletes its databases.
        let state = match some(text(14)?).as_str() {
            "ready" => own_state,
            _ => State::Deleting,
        };
        let parent = match (text(7)?, text(8)?, number(9)?) {
            (Some(id), Some(name), Some(at)) => {
                Some(Parent { id, name: name.parse()?, branched_at: Timestamp::from_micros(at)? })
            }
            _ => None,
        };
        let size_limit = number(5)?.and_then(|bytes| u64::try_from(bytes).ok());
        let own_window = groups::window_of(number(17)?)?;
        let own_limit = groups::limit_of(number(22)?)?;
        let database = Database {
            id: some(text(0)?),
            hostname: super::hostname(&name, self.domain),
            name,
            group: some(text(2)?).parse()?,
            state: if state == State::Draft { DatabaseState::Draft } else { DatabaseState::Ready },
            created_at: Timestamp::from_micros(number(4)?.unwrap_or_default())?,
            size_limit: size_limit.map(SizeLimit::from_bytes).transpose()?,
            history_window: own_window.or(groups::window_of(number(18)?)?).unwrap_or_default(),
            inherits_history_window: own_window.is_none(),
            history_limit: own_limit.or(groups::limit_of(number(23)?)?).unwrap_or_default(),
            inherits_history_limit: own_limit.is_none(),
            cipher: text(6)?.map(|cipher| cipher.parse()).transpose()?,
            parent,
            block_reads: flag(10)?,
            block_writes: flag(11)?,
            delete_protection: flag(12)?,
        };
        let salt = row.get::<_, Option<[u8; 16]>>(16).map_err(failed)?;
        let identity = match text(15)? {
            Some(format) => Some(Identity::new(format.parse()?, salt).ok_or_else(|| {
                let message = format!(
                    "control.db has a file salt for database {} that does not match the page format {format}",
                    database.name
                );
                Error::new(ErrorKind::Corrupt, message)
            })?),
            None => None,
        };
        let has_files = own_state == State::Ready;
        let (group_protected, history_paused) = (flag(13)?, flag(19)?);
        let (group_id, group_dir) = (some(text(20)?), some(text(21)?).parse()?);
        Ok(Entry {
            state,
            database,
            group_id,
            group_dir,
            group_protected,
            identity,
            history_paused,
            has_files,
        })
    }
}

pub(super) fn limit_column(limit: Option<SizeLimit>) -> Option<i64> {
    limit.and_then(|limit| i64::try_from(limit.bytes()).ok())
}
