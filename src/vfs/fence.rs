//! What SQL on a fenced connection may not do: name another VFS, open a file by its path, load code, or write to the schema
//! table.
//!
//! Two layers enforce it. SQLite's authorizer refuses a statement while it is compiled. The VFS refuses a file when SQLite
//! opens it, since the authorizer cannot tell `ATTACH 'path'` from the `ATTACH` that `VACUUM INTO 'path'` runs. A host that
//! installs its own authorizer keeps the second layer.

use std::{cell::RefCell, fmt, path::Path};

use super::VfsError;
use crate::{disk::Disk, layout};

/// Pragmas that change settings of the whole process.
const PROCESS_WIDE: [&str; 4] =
    ["temp_store_directory", "data_store_directory", "hard_heap_limit", "soft_heap_limit"];

/// What the authorizer is asked about, as far as the fence cares.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action<'a> {
    /// `ATTACH`, and the file name if that is a literal. `VACUUM` and `VACUUM INTO` attach their targets under a literal.
    Attach(Option<&'a [u8]>),
    Pragma {
        name: &'a [u8],
        value: Option<&'a [u8]>,
    },
    Function(&'a [u8]),
    Other,
}

/// Why the fence refused a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fenced {
    /// `ATTACH` of a path, or of a name that is not a literal.
    Attach,
    /// A file name that SQLite may take for a URI, in `ATTACH` or `VACUUM INTO`.
    Uri,
    /// A file in the directory of a fleet.
    FleetFile,
    /// A pragma with a value.
    Pragma(String),
    /// A function of SQL.
    Function,
}

impl fmt::Display for Fenced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attach => f.write_str(
                "ATTACH accepts only '' and ':memory:' on this connection; attach a database of the fleet by its name with \
                 ControlPlane::attach (.attach NAME in the shell), or open the connection with ConnectOptions::unfenced",
            ),
            Self::Uri => f.write_str(
                "ATTACH and VACUUM INTO accept no URI on this connection; name a plain path in VACUUM INTO, or open the \
                 connection with ConnectOptions::unfenced",
            ),
            Self::FleetFile => f.write_str(
                "the file is in the directory of a fleet; attach a database of the fleet by its name with \
                 ControlPlane::attach (.attach NAME in the shell), and VACUUM INTO a file elsewhere",
            ),
            Self::Pragma(name) => write!(
                f,
                "PRAGMA {name} cannot be set on this connection; open it with ConnectOptions::unfenced to do so"
            ),
            Self::Function => f.write_str("the SQL function is disabled on this connection"),
        }
    }
}

/// Whether a statement may be compiled. `is_handed_over` says that this thread runs the crate's own `ATTACH`, whose file name is
/// a bound parameter.
pub(crate) fn judge(action: Action<'_>, is_handed_over: bool) -> Result<(), Fenced> {
    let is = |name: &[u8], other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    let refused = |name: &[u8]| Err(Fenced::Pragma(String::from_utf8_lossy(name).to_ascii_lowercase()));
    match action {
        Action::Attach(None) if !is_handed_over => Err(Fenced::Attach),
        // SQLite compares the scheme exactly; the fence does not depend on that.
        Action::Attach(Some(name)) if name.get(..5).is_some_and(|scheme| is(scheme, "file:")) => {
            Err(Fenced::Uri)
        }
        Action::Pragma { name, value: Some(value) }
            if is(name, "writable_schema")
                && !["off", "0", "no", "false"].iter().any(|off| is(value, off)) =>
        {
            refused(name)
        }
        Action::Pragma { name, value: Some(_) } if PROCESS_WIDE.iter().any(|pragma| is(name, pragma)) => {
            refused(name)
        }
        // Both run code at an address or in a file that SQL names.
        Action::Function(name) if is(name, "load_extension") || is(name, "fts3_tokenizer") => {
            Err(Fenced::Function)
        }
        Action::Attach(_) | Action::Pragma { .. } | Action::Function(_) | Action::Other => Ok(()),
    }
}

/// Whether a path lies in the directory of a fleet, through any links. A directory is that of a fleet if it holds two of the
/// entries that every root has: a fleet whose catalog is lost, or that was copied without its empty directories, is one too.
pub(super) fn is_in_a_fleet(path: &Path) -> bool {
    let is_below = |path: &Path| {
        path.ancestors().skip(1).any(|dir| {
            let exists = |path: &Path| Disk::exists(path).unwrap_or(false);
            let layout = layout::Layout::new(dir.to_owned());
            let own = [layout.control(), layout.staging(), layout.trash(), layout.changes()];
            own.iter().filter(|path| exists(path)).count() >= 2
        })
    };
    // An older SQLite resolves the links of the last component only.
    let resolved = path.parent().and_then(|dir| Some(Disk::canonical(dir).ok()?.join(path.file_name()?)));
    is_below(path) || resolved.is_some_and(|path| is_below(&path))
}

/// A refusal that no file of the connection can explain, since none was opened.
#[derive(Debug)]
struct Denied {
    /// The address of the connection, or `None` if the host's own authorizer asked.
    connection: Option<usize>,
    refusal: VfsError,
}

thread_local! {
    /// The connection for which the authorizer admitted an `ATTACH` last: the next file is opened for it.
    static ATTACHING: RefCell<Option<usize>> = const { RefCell::new(None) };
    static DENIED: RefCell<Option<Denied>> = const { RefCell::new(None) };
}

/// Judges an action on behalf of a connection, and notes why it is refused.
pub(super) fn authorize(action: Action<'_>, connection: Option<usize>) -> bool {
    if let Action::Attach(_) = action {
        ATTACHING.set(connection);
    }
    match judge(action, super::is_handed_over()) {
        Ok(()) => true,
        // SQLite's own error names the function. Its code is that of any error in SQL, and would not tell it.
        Err(Fenced::Function) => false,
        Err(fenced) => {
            DENIED.set(Some(Denied { connection, refusal: VfsError::Fenced(fenced) }));
            false
        }
    }
}

/// Notes that the file of an `ATTACH` is not opened.
pub(super) fn deny_open(fenced: Fenced) -> std::ffi::c_int {
    let refusal = VfsError::Fenced(fenced);
    let code = refusal.code();
    DENIED.set(Some(Denied { connection: ATTACHING.take(), refusal }));
    code
}

/// Why the fence refused a statement of this connection with `code`, if it did. It is told once: it explains one error.
pub(super) fn take_denied(connection: usize, code: std::ffi::c_int) -> Option<VfsError> {
    let is_its = |denied: &mut Denied| {
        denied.connection.is_none_or(|of| of == connection) && denied.refusal.code() == code & 0xff
    };
    DENIED.with_borrow_mut(|denied| denied.take_if(is_its)).map(|denied| denied.refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attach_is_judged_by_its_literal() {
        for refused in [None, Some("file:x"), Some("FILE:x?vfs=unix"), Some("file:")] {
            let action = Action::Attach(refused.map(str::as_bytes));
            assert!(judge(action, false).is_err(), "{refused:?}");
        }
        // The VFS judges a path.
        for passed in ["", ":memory:", "/tmp/x", "files", "file"] {
            assert_eq!(judge(Action::Attach(Some(passed.as_bytes())), false), Ok(()), "{passed:?}");
        }
        assert_eq!(judge(Action::Attach(None), true), Ok(()));
        assert_eq!(judge(Action::Attach(Some(b"file:x")), true), Err(Fenced::Uri));
    }

    #[test]
    fn pragmas_are_refused_with_a_value_only() {
        for name in ["writable_schema", "Temp_Store_Directory", "data_store_directory"] {
            let name = name.as_bytes();
            assert!(judge(Action::Pragma { name, value: Some(b"1") }, false).is_err());
            assert_eq!(judge(Action::Pragma { name, value: None }, false), Ok(()));
        }
        let off = Action::Pragma { name: b"writable_schema", value: Some(b"OFF") };
        assert_eq!(judge(off, false), Ok(()));
    }
}
