//! Every file operation of the control plane itself: the only module that names `std::fs`.
//!
//! SQLite opens its own files. What stands here are the steps of the create and delete protocols, and before each
//! step that changes something a [`FaultHook`] is asked, so that a test harness can make any one of them fail or stop
//! the process there.

mod copy;
mod dirs;
mod files;
mod look;
mod owner;
mod partial;
mod root;

use std::{fmt, io, path::Path, sync::Arc};

use rustix::io::Errno;

pub(crate) use dirs::DirLock;
pub(crate) use look::identity;
use root::Root;

use crate::error::Error;

/// A step that changes what is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DiskOp {
    /// A directory is made.
    MakeDir,
    /// A file is made.
    Create,
    /// Bytes are written, or a file is cut or extended.
    Write,
    /// A file is flushed to the disk.
    SyncFile,
    /// A directory is flushed to the disk.
    SyncDir,
    /// A directory is renamed.
    Rename,
    /// A file or a directory with all that is in it is removed.
    Remove,
}

/// What a test harness is asked before each [`DiskOp`]; the error that it returns is the result of the step.
pub type FaultHook = dyn Fn(DiskOp, &Path) -> io::Result<()> + Send + Sync;

/// The disk, as the control plane uses it.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    hook: Option<Arc<FaultHook>>,
    root: Option<Arc<Root>>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("hooked", &self.hook.is_some()).field("root", &self.root).finish()
    }
}

impl Disk {
    pub(crate) fn with_hook(hook: Arc<FaultHook>) -> Self {
        Self { hook: Some(hook), root: None }
    }

    /// Runs one step, unless the hook lets it fail.
    fn step<T>(&self, step: DiskOp, path: &Path, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.check_writable(path).map_err(io::Error::other)?;
        if let Some(hook) = &self.hook {
            hook(step, path)?;
        }
        run()
    }
}

/// Whether the kernel says that this way of copying is not to be had, and another one may be.
fn no_such_way(error: &io::Error) -> bool {
    [
        Errno::OPNOTSUPP,
        Errno::XDEV,
        Errno::INVAL,
        Errno::NOTTY,
        Errno::NOSYS,
        Errno::PERM,
        Errno::BADF,
        Errno::TXTBSY,
    ]
    .iter()
    .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cold]
fn failed(doing: &str, path: &Path, error: io::Error) -> Error {
    // What a path inside the root leads to may be this crate's own reason.
    error.downcast::<Error>().unwrap_or_else(|error| Error::io_at(doing, path, error))
}
