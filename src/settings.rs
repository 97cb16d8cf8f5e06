//! Changes to the configuration of a database, and the options of a list.

use crate::{history_limit::HistoryLimit, retention::Retention, size::SizeLimit};

/// A change of an optional setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Change<T> {
    /// Keeps the setting.
    #[default]
    Keep,
    /// Removes the setting, so that the default or the setting of the group applies.
    Reset,
    /// Replaces the setting.
    Set(T),
}

impl<T> Change<T> {
    /// Returns whether the setting is kept.
    pub const fn is_keep(&self) -> bool {
        matches!(self, Self::Keep)
    }

    /// Returns the new setting. `None` if the setting is kept or removed.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Set(setting) => Some(setting),
            Self::Keep | Self::Reset => None,
        }
    }
}

/// Changes to the configuration of a database. The default changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DatabaseChanges {
    /// The size limit. [`Change::Reset`] removes it.
    pub size_limit: Change<SizeLimit>,
    /// The history window. [`Change::Reset`] applies that of the group.
    pub history_window: Change<Retention>,
    /// The limit on the size of the history. [`Change::Reset`] applies that of the group.
    pub history_limit: Change<HistoryLimit>,
    /// Whether reads are refused. `None` keeps the setting.
    pub block_reads: Option<bool>,
    /// Whether writes are refused. `None` keeps the setting.
    pub block_writes: Option<bool>,
    /// Whether destroying the database is refused. `None` keeps the setting.
    pub delete_protection: Option<bool>,
}

impl DatabaseChanges {
    /// Sets the size limit.
    #[must_use]
    pub fn size_limit(self, limit: SizeLimit) -> Self {
        Self { size_limit: Change::Set(limit), ..self }
    }

    /// Removes the size limit.
    #[must_use]
    pub fn remove_size_limit(self) -> Self {
        Self { size_limit: Change::Reset, ..self }
    }

    /// Sets a history window for this database alone.
    #[must_use]
    pub fn history_window(self, window: Retention) -> Self {
        Self { history_window: Change::Set(window), ..self }
    }

    /// Applies the history window of the group.
    #[must_use]
    pub fn inherit_history_window(self) -> Self {
        Self { history_window: Change::Reset, ..self }
    }

    /// Sets a limit on the size of the history for this database alone. [`HistoryLimit::NONE`] sets no limit, whatever the limit
    /// of the group.
    #[must_use]
    pub fn history_limit(self, limit: HistoryLimit) -> Self {
        Self { history_limit: Change::Set(limit), ..self }
    }

    /// Applies the limit of the group on the size of the history.
    #[must_use]
    pub fn inherit_history_limit(self) -> Self {
        Self { history_limit: Change::Reset, ..self }
    }

    /// Blocks or allows reads.
    #[must_use]
    pub fn block_reads(self, block: bool) -> Self {
        Self { block_reads: Some(block), ..self }
    }

    /// Blocks or allows writes.
    #[must_use]
    pub fn block_writes(self, block: bool) -> Self {
        Self { block_writes: Some(block), ..self }
    }

    /// Turns delete protection on or off.
    #[must_use]
    pub fn delete_protection(self, protect: bool) -> Self {
        Self { delete_protection: Some(protect), ..self }
    }
}

/// Which databases to list, and how many at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListDatabases {
    /// Only those of this group.
    pub group: Option<String>,
    /// Only forks of this database, given by its id or its name. A destroyed database is known by its id while it has forks.
    pub parent: Option<String>,
    /// Only those whose name comes after this one: the last name of the page before.
    pub after: Option<String>,
    /// The maximum number of databases. `None` for all.
    pub limit: Option<u32>,
}

impl ListDatabases {
    /// Selects the databases of `group`.
    #[must_use]
    pub fn group(self, group: impl Into<String>) -> Self {
        Self { group: Some(group.into()), ..self }
    }

    /// Selects the forks of the database with the id or the name `parent`.
    #[must_use]
    pub fn parent(self, parent: impl Into<String>) -> Self {
        Self { parent: Some(parent.into()), ..self }
    }

    /// Selects the databases after the name `after`.
    #[must_use]
    pub fn after(self, after: impl Into<String>) -> Self {
        Self { after: Some(after.into()), ..self }
    }

    /// Returns at most `limit` databases.
    #[must_use]
    pub fn limit(self, limit: u32) -> Self {
        Self { limit: Some(limit), ..self }
    }
}
