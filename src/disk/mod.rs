//! The file operations of the control plane: the only module that uses `std::fs`.
//!
//! SQLite opens its own files. [`Disk`] has the steps of the create, rename and delete protocols. Each step that changes something
//! first calls the [`FaultHook`], so that a test can fail it or stop the process there. Every operation goes through a
//! [`Storage`](storage::Storage), which a test can replace.

mod confined;
mod copy;
mod database_file;
mod dirs;
mod files;
mod metadata;
mod owner;
mod publish;
mod root;
#[cfg_attr(not(feature = "internals"), expect(unreachable_pub, reason = "tests replace the storage"))]
pub(crate) mod storage;

use std::{fmt, io, path::Path, sync::Arc};

use rustix::io::Errno;

pub(crate) use copy::FileCopy;
pub(crate) use database_file::{
    DatabaseFile, ExclusiveLock, WalIndexFile, run as open_databases, run_while as open_databases_while,
};
pub(crate) use dirs::DirLock;
pub(crate) use metadata::identity;
use root::Root;
use storage::{Entry, Lock, Metadata, Open};

use crate::error::Error;

/// The errors of a system that does not follow a symbolic link. FreeBSD returns `EMLINK`.
const LINK_REFUSED: &[Errno] = &[Errno::LOOP, Errno::MLINK];

/// The errors of a system that opens something other than a directory as a directory.
const NOT_A_DIRECTORY: &[Errno] = &[Errno::NOTDIR, Errno::LOOP, Errno::MLINK];

/// A step that changes what is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DiskOp {
    /// Makes a directory.
    MakeDir,
    /// Creates a file.
    Create,
    /// Writes to a file, or cuts or extends it.
    Write,
    /// Flushes a file.
    SyncFile,
    /// Flushes a directory.
    SyncDir,
    /// Renames a file or a directory.
    Rename,
    /// Removes a file, or a directory with its contents.
    Remove,
}

/// Called before each [`DiskOp`] of a test. An error that it returns is the result of the step.
pub type FaultHook = dyn Fn(DiskOp, &Path) -> io::Result<()> + Send + Sync;

/// The file operations of one control plane, confined to its root.
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

    /// Runs a step, unless the root is read-only or the hook fails.
    fn step<T>(&self, step: DiskOp, path: &Path, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if let Some(root) = &self.root {
            root.check_writable(path).map_err(io::Error::other)?;
        }
        if let Some(hook) = &self.hook {
            hook(step, path)?;
        }
        run()
    }
}

/// `None` if a file does not exist.
fn if_exists<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

fn is_any(error: &io::Error, codes: &[Errno]) -> bool {
    codes.iter().any(|code| error.raw_os_error() == Some(code.raw_os_error()))
}

#[cold]
fn failed(doing: &str, path: &Path, error: io::Error) -> Error {
    // The resolution of a path inside the root fails with an error of this crate.
    error.downcast::<Error>().unwrap_or_else(|error| Error::io_at(doing, path, error))
}
