//! How a database reaches the VFS: by thread-local values, not by its file name.
//!
//! SQLite calls `xOpen` on the thread that opens or attaches a database. The policy source that waits on that thread is used for
//! the next main database file, once.

use std::{cell::RefCell, sync::Arc};

use super::{error::VfsError, policy::PolicySource};

thread_local! {
    /// The policy source of the next main database file to be opened on this thread.
    static WAITING: RefCell<Option<Arc<dyn PolicySource>>> = const { RefCell::new(None) };
    /// Why that file was not opened.
    static NOT_OPENED: RefCell<Option<VfsError>> = const { RefCell::new(None) };
}

/// A database that was handed over was not opened.
#[derive(Debug)]
pub(crate) struct NotOpened {
    pub(crate) error: rusqlite::Error,
    /// The reason of the VFS, if the VFS refused.
    pub(crate) refusal: Option<VfsError>,
}

/// Runs `open`, in which the next main database file to be opened on this thread gets the policy of `source`.
pub(super) fn run<T>(
    source: Arc<dyn PolicySource>,
    open: impl FnOnce() -> rusqlite::Result<T>,
) -> Result<T, NotOpened> {
    /// Clears the waiting policy source, also if `open` panics.
    struct Waiting;
    impl Drop for Waiting {
        fn drop(&mut self) {
            WAITING.set(None);
        }
    }
    NOT_OPENED.set(None);
    WAITING.set(Some(source));
    let _waiting = Waiting;
    open().map_err(|error| NotOpened { error, refusal: NOT_OPENED.take() })
}

/// Takes the policy source that waits on this thread.
pub(super) fn take() -> Option<Arc<dyn PolicySource>> {
    WAITING.take()
}

/// Whether a policy source waits on this thread.
pub(super) fn is_waiting() -> bool {
    WAITING.with_borrow(Option::is_some)
}

/// Notes why a call was refused. The file may be gone when the host asks for the reason.
pub(super) fn note_refusal(refusal: VfsError) {
    NOT_OPENED.set(Some(refusal));
}
