//! The error type: a kind for programs and a message for people.

use std::{
    error::Error as StdError,
    ffi::OsStr,
    fmt, io,
    path::{Path, PathBuf},
};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The category of an [`Error`].
///
/// Each kind calls for a different reaction of the caller. Later versions add kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request is invalid: for example a name, a size, or a file that is not a database. Change it and retry.
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
    /// The database of this call or connection was destroyed. Another database may have its name by now.
    Destroyed,
    /// The database cannot be restored to the instant. The message names the restorable ranges.
    OutsideWindow,
    /// Another connection or call is in the way. Retry later.
    Busy,
    /// The progress callback cancelled the call.
    Cancelled,
    /// A file is damaged.
    Corrupt,
    /// This version of the crate does not support the request, or a newer version wrote the file.
    Unsupported,
    /// The disk is full.
    DiskFull,
    /// A call of the operating system failed.
    Io,
    /// The directory of the control plane or its catalog was replaced or removed after it was opened. Open the control plane
    /// again.
    Replaced,
    /// The control plane is open for reading only, or can only be opened for reading.
    ReadOnly,
    /// SQLite refused a statement for a reason that no other kind covers.
    Sql,
}

impl ErrorKind {
    /// Returns the stable name that `litefleet --json` prints, such as `not_found`.
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
            Self::Replaced => "replaced",
            Self::ReadOnly => "read_only",
            Self::Sql => "sql",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error of this crate: a [kind](ErrorKind), a message, and the underlying error if there is one.
///
/// The message that [`Display`](fmt::Display) prints is complete: it contains the text of the underlying error if that
/// helps. [`source`](StdError::source) skips underlying errors whose text the message contains, so that a report of the whole
/// chain repeats nothing. [`get_ref`](Self::get_ref) always returns the underlying error.
///
/// Messages documented by Turso's Platform API are used verbatim, such as `group not found`. No message contains an encryption
/// key.
pub struct Error(Box<Parts>);

struct Parts {
    kind: ErrorKind,
    message: Message,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// A message about a file in two forms: with the path of the file for its owner, and without it for clients, which must not
/// learn the location of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    text: Box<str>,
    /// The file, and the sentence without its path. `None` if the sentence names no file.
    file: Option<Box<(PathBuf, Box<str>)>>,
}

impl Message {
    /// Calls `sentence` with each name of the file in `path`: the path, and the name that clients are shown.
    pub(crate) fn naming(path: &Path, sentence: impl Fn(&dyn fmt::Display) -> String) -> Self {
        let without_path = sentence(&name_within_database(path));
        let file = (path.to_owned(), without_path.into());
        Self { text: sentence(&path.display()).into(), file: Some(Box::new(file)) }
    }

    /// Puts the sentence into a longer one.
    pub(crate) fn map(self, sentence: impl Fn(&str) -> String) -> Self {
        let file = self.file.map(|file| Box::new((file.0, sentence(&file.1).into())));
        Self { text: sentence(&self.text).into(), file }
    }

    /// Appends another sentence, about this file or another one.
    pub(crate) fn followed_by(self, other: &Self) -> Self {
        let text = format!("{}{}", self.text, other.text).into();
        let without_path = format!("{}{}", self.without_path(), other.without_path()).into();
        let file = self.file.or_else(|| other.file.clone());
        Self { text, file: file.map(|file| Box::new((file.0, without_path))) }
    }

    pub(crate) fn without_path(&self) -> &str {
        self.file.as_ref().map_or(&self.text, |file| &file.1)
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<T: Into<String>> From<T> for Message {
    fn from(text: T) -> Self {
        Self { text: text.into().into(), file: None }
    }
}

/// The name of a file relative to the directory of its database, or to the root if it belongs to no database.
fn name_within_database(path: &Path) -> String {
    let name = path.file_name().map_or_else(|| "a directory".into(), OsStr::to_string_lossy);
    match path.parent().and_then(Path::file_name).and_then(OsStr::to_str) {
        Some(dir @ ("archive" | ".staging" | ".trash" | ".http")) => format!("{dir}/{name}"),
        _ => name.into_owned(),
    }
}

impl Error {
    /// Creates an error with a message for people.
    #[cold]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::with(kind, message.into())
    }

    #[cold]
    pub(crate) fn with(kind: ErrorKind, message: impl Into<Message>) -> Self {
        Self(Box::new(Parts { kind, message: message.into(), source: None }))
    }

    /// An error about the file in `path`, whose name `sentence` is given.
    #[cold]
    pub(crate) fn naming(
        kind: ErrorKind,
        path: &Path,
        sentence: impl Fn(&dyn fmt::Display) -> String,
    ) -> Self {
        Self::with(kind, Message::naming(path, sentence))
    }

    /// Sets the underlying error. The message may contain its text.
    #[must_use]
    #[cold]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// A failed call of the operating system, in the middle of `doing`.
    #[cold]
    pub(crate) fn io(doing: impl fmt::Display, source: io::Error) -> Self {
        Self::new(io_kind(&source), format!("{doing}: {source}")).caused_by(source)
    }

    /// A failed call of the operating system on the file in `path`, such as `doing` "reading" it.
    #[cold]
    pub(crate) fn io_at(doing: impl fmt::Display, path: &Path, source: io::Error) -> Self {
        Self::naming(io_kind(&source), path, |file| format!("{doing} {file}: {source}")).caused_by(source)
    }

    /// The error of a root or catalog at `path` that was replaced since it was opened.
    #[cold]
    pub(crate) fn replaced(path: &Path) -> Self {
        Self::naming(ErrorKind::Replaced, path, |file| {
            format!("{file} was replaced or removed after it was opened; open the control plane again")
        })
    }

    /// Replaces the message with one made from it.
    #[must_use]
    #[cold]
    pub(crate) fn map_message(mut self, sentence: impl Fn(&str) -> String) -> Self {
        self.0.message = self.0.message.clone().map(sentence);
        self
    }

    /// The fleet in `root` was opened read-only.
    #[cold]
    pub(crate) fn read_only(root: &Path) -> Self {
        Self::naming(ErrorKind::ReadOnly, root, |root| {
            format!("the fleet in {root} is open read-only; nothing in it can be changed")
        })
    }

    #[cold]
    pub(crate) fn message(&self) -> Message {
        self.0.message.clone()
    }

    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the file that the error is about. `None` if the message names no file.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.message.file.as_ref().map(|file| file.0.as_path())
    }

    /// Returns the message for clients, which must not learn the location of the files. It names a file relative to the
    /// directory of its database, as in `archive/000001.wal is damaged`.
    #[must_use]
    pub fn without_path(&self) -> &str {
        self.0.message.without_path()
    }

    /// Returns the underlying error, such as an [`io::Error`] or a [`rusqlite::Error`]. `None` if there is none.
    ///
    /// ```
    /// use litefleet::{Error, ErrorKind};
    ///
    /// let cause = std::io::Error::other("no carrier");
    /// let error = Error::new(ErrorKind::Io, format!("sending: {cause}")).caused_by(cause);
    /// assert!(std::error::Error::source(&error).is_none());
    /// assert!(error.get_ref().is_some_and(|cause| cause.is::<std::io::Error>()));
    /// ```
    #[must_use]
    pub fn get_ref(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.0.source.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.message.fmt(f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let mut next = self.get_ref().map(|source| source as &(dyn StdError + 'static));
        while let Some(error) = next {
            let text = error.to_string();
            // Some errors of other crates only repeat their source.
            let is_repeated = error.source().is_some_and(|beneath| beneath.to_string() == text);
            // The parts may be in another order: SQLite puts the path of a file last.
            let is_shown = text.split(": ").all(|part| self.0.message.text.contains(part));
            if !is_repeated && !is_shown {
                break;
            }
            // The source of an SQLite error is the description of its result code, which is redundant.
            next = error.source().filter(|_| !(is_shown && error.is::<rusqlite::Error>()));
        }
        next
    }
}

fn io_kind(source: &io::Error) -> ErrorKind {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::DiskFull,
        _ => ErrorKind::Io,
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Error");
        out.field("kind", &self.0.kind).field("message", &self.0.message.text);
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
    fn full_disk_has_its_own_kind_and_keeps_the_source() {
        let error = Error::io("writing data.db", io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(error.kind(), ErrorKind::DiskFull);
        assert!(error.to_string().starts_with("writing data.db: "), "{error}");
        let source = error.get_ref().and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.map(io::Error::kind), Some(io::ErrorKind::StorageFull));
        assert!(Error::new(ErrorKind::Busy, "later").get_ref().is_none());
    }

    /// The texts of an error and its sources.
    fn chain(error: &Error) -> Vec<String> {
        std::iter::successors(Some(error as &dyn StdError), |&error| error.source())
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn error_chain_repeats_nothing() {
        /// An error of another crate whose text is that of the error beneath.
        #[derive(Debug)]
        struct Transparent(Error);
        impl fmt::Display for Transparent {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl StdError for Transparent {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                Some(&self.0)
            }
        }

        let io = || io::Error::other("no carrier");
        assert_eq!(chain(&Error::io("reading a.db", io())), ["reading a.db: no carrier"]);
        let inner = Error::io("reading a.db", io());
        let outer = Error::new(inner.kind(), format!("opening: {inner}")).caused_by(inner);
        assert_eq!(chain(&outer), ["opening: reading a.db: no carrier"]);
        let reordered = io::Error::other("cannot open: /srv/a.db");
        let reordered = Error::new(ErrorKind::Io, "opening /srv/a.db: cannot open").caused_by(reordered);
        assert_eq!(chain(&reordered), ["opening /srv/a.db: cannot open"]);
        let separate = Error::new(ErrorKind::Busy, "the database is in use").caused_by(io());
        assert_eq!(chain(&separate), ["the database is in use", "no carrier"]);
        let partly = Error::new(ErrorKind::Busy, "the database is in use: wait");
        let partly = Error::new(ErrorKind::Io, "no carrier").caused_by(Transparent(partly));
        assert_eq!(chain(&partly), ["no carrier", "the database is in use: wait"]);
    }

    #[test]
    fn without_path_names_files_within_their_database() {
        let path = Path::new("/srv/fleet/g/orders/archive/000001.wal");
        let error = Error::naming(ErrorKind::Corrupt, path, |file| format!("{file} is missing"));
        assert_eq!(error.to_string(), "/srv/fleet/g/orders/archive/000001.wal is missing");
        assert_eq!(error.without_path(), "archive/000001.wal is missing");
        assert_eq!(error.path(), Some(path));
        let message = error.message().map(|text| format!("no snapshot, because {text}"));
        let error = Error::with(ErrorKind::Corrupt, message);
        assert_eq!(error.without_path(), "no snapshot, because archive/000001.wal is missing");
        let error = Error::io_at("reading", Path::new("/srv/data.db"), io::ErrorKind::NotFound.into());
        assert_eq!(error.without_path(), "reading data.db: entity not found");
        assert_eq!(Error::new(ErrorKind::Busy, "later").without_path(), "later");
        assert_eq!(Error::new(ErrorKind::Busy, "later").path(), None);
    }

    #[test]
    fn an_error_is_one_word_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
