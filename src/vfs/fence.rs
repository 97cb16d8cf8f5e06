//! The actions that the fence refuses to SQL: name another VFS, open a file by its path, load code, or write to the schema
//! table.
//!
//! Two layers enforce it. SQLite's authorizer refuses a statement while it is compiled. The VFS refuses a file when SQLite
//! opens it, since the authorizer cannot tell `ATTACH 'path'` from the `ATTACH` that `VACUUM INTO 'path'` runs. A host that
//! installs its own authorizer keeps the second layer.

use std::{cell::RefCell, path::Path};

use super::{error::VfsError, fenced::Fenced, hand_over, registry};
use crate::{disk::Disk, layout};

/// Pragmas that change settings of the whole process.
const PROCESS_WIDE: [&str; 4] =
    ["temp_store_directory", "data_store_directory", "hard_heap_limit", "soft_heap_limit"];

/// An action that SQLite's authorizer asks about.
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

/// Admits an action of a statement that is compiled. `is_handed_over` says that this thread runs the crate's own `ATTACH`, whose
/// file name is a bound parameter.
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

/// Whether a path lies in the directory of a fleet, through any links. A directory is that of a fleet if it holds at least two of
/// the entries that every root has. A fleet without its catalog, or that was copied without its empty directories, is recognized.
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

thread_local! {
    /// The connection for which the authorizer admitted an `ATTACH` last. The next file is opened for it.
    static ATTACHING: RefCell<Option<usize>> = const { RefCell::new(None) };
    /// Why the fence refused a statement of a connection that is not known, because the host's own authorizer asked.
    static DENIED: RefCell<Option<VfsError>> = const { RefCell::new(None) };
}

/// Admits an action of a connection, or notes why it is refused.
pub(super) fn authorize(action: Action<'_>, connection: Option<usize>) -> bool {
    if let Action::Attach(_) = action {
        ATTACHING.set(connection);
    }
    match judge(action, hand_over::is_waiting()) {
        Ok(()) => true,
        // SQLite's own error names the function, and its result code is not specific.
        Err(Fenced::Function) => false,
        Err(fenced) => {
            deny(connection, VfsError::Fenced(fenced));
            false
        }
    }
}

/// Notes why the file of an `ATTACH` is not opened, and returns the result code.
pub(super) fn deny_open(fenced: Fenced) -> std::ffi::c_int {
    let refusal = VfsError::Fenced(fenced);
    let code = refusal.code();
    deny(ATTACHING.take(), refusal);
    code
}

/// Notes why a statement is refused: in a file of its connection or, if the connection is not known, for this thread.
fn deny(connection: Option<usize>, refusal: VfsError) {
    let is_noted = connection.is_some_and(|connection| registry::note_refusal(connection, &refusal));
    DENIED.set((!is_noted).then_some(refusal));
}

/// Takes the reason why the fence last refused a statement on this thread with `code`, if the connection was not known.
pub(super) fn take_denied(code: std::ffi::c_int) -> Option<VfsError> {
    DENIED.with_borrow_mut(|denied| denied.take_if(|refusal| refusal.code() == code & 0xff))
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
        // The VFS checks a path.
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
