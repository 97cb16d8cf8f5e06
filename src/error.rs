//! The one error type: a kind that a caller can act on, and a sentence that a person can act on.

use std::{error::Error as StdError, fmt, io};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an [`Error`].
///
/// A kind exists only where a caller would act differently on it. The set grows; match with a wildcard arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request is wrong as it stands: a name, a size, a file that is not a database. Change it and try again.
    Invalid,
    /// There is no such group, database or file.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// Delete protection is on. Turn it off first.
    Protected,
    /// The database is encrypted, and no key was given.
    KeyRequired,
    /// The key that was given is not the one that the database is encrypted under.
    WrongKey,
    /// Reads or writes of this database are blocked by its configuration.
    Blocked,
    /// The size limit of the database does not admit this much data.
    TooLarge,
    /// The database of this open connection was destroyed.
    Destroyed,
    /// The instant is not one that the database can be restored to. The message names those that are.
    OutsideWindow,
    /// Somebody else is at it. Try again later.
    Busy,
    /// The caller's progress callback asked to stop.
    Cancelled,
    /// A file is damaged.
    Corrupt,
    /// This version of the crate does not do that, or the file was written by a newer one.
    Unsupported,
    /// The disk is full.
    DiskFull,
    /// The operating system refused.
    Io,
    /// SQLite refused a statement, for a reason that is not one of the above.
    Sql,
}

impl ErrorKind {
    /// The kind's stable name, as `litefleet --json` prints it: `not_found`, `already_exists` and so on.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Protected => "protected",
            Self::KeyRequired => "key_required",
            Self::WrongKey => "wrong_key",
            Self::Blocked => "blocked",
            Self::TooLarge => "too_large",
            Self::Destroyed => "destroyed",
            Self::OutsideWindow => "outside_window",
            Self::Busy => "busy",
            Self::Cancelled => "cancelled",
            Self::Corrupt => "corrupt",
            Self::Unsupported => "unsupported",
            Self::DiskFull => "disk_full",
            Self::Io => "io",
            Self::Sql => "sql",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error of this crate: a [kind](ErrorKind), a message, and the error beneath it if there is one.
///
/// Messages that Turso's Platform API documents are used word for word, such as `group not found`. Messages
/// never hold an encryption key.
#[derive(thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Parts>);

#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Parts {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with a sentence for a person.
    #[cold]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Parts { kind, message: message.into(), source: None }))
    }

    /// The same error with the one that caused it.
    #[must_use]
    #[cold]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// A failed call of the operating system, in the middle of `doing`.
    #[cold]
    pub(crate) fn io(doing: impl fmt::Display, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::DiskFull,
            _ => ErrorKind::Io,
        };
        Self::new(kind, format!("{doing}: {source}")).caused_by(source)
    }

    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Error");
        out.field("kind", &self.0.kind).field("message", &self.0.message);
        if let Some(source) = &self.0.source {
            out.field("source", source);
        }
        out.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart_and_the_source_is_kept() {
        let error = Error::io("writing data.db", io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(error.kind(), ErrorKind::DiskFull);
        assert!(error.to_string().starts_with("writing data.db: "), "{error}");
        assert!(error.source().is_some_and(<dyn StdError>::is::<io::Error>));
        assert!(Error::new(ErrorKind::Busy, "later").source().is_none());
    }

    #[test]
    fn an_error_is_one_word_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
