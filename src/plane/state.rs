//! The state of a control plane.

use std::sync::Arc;

use super::reserve::Reserve;
use crate::{catalog::Catalog, changes::Changes, disk::Disk, error::Result, layout::Layout, time::Clock};

/// A fleet of SQLite databases in a directory.
///
/// It is cheap to clone, and any number of threads may use it. Any number of processes may open the same directory at once.
///
/// If the directory or its catalog is replaced or removed, every call fails with [`ErrorKind::Replaced`](crate::ErrorKind::Replaced) and changes no file.
/// Open connections keep their file and the last configuration that they read.
///
/// A call that changes something is complete and flushed to the disk when it returns. A call that fails changes nothing.
/// The next [`open`](Self::open) completes or undoes what a killed process left.
#[derive(Clone, Debug)]
pub struct ControlPlane(pub(super) Arc<Plane>);

/// The state that the clones of a [`ControlPlane`] share.
#[derive(Debug)]
pub(super) struct Plane {
    pub(super) disk: Disk,
    pub(super) clock: Clock,
    pub(super) reserve: Reserve,
    pub(super) layout: Layout,
    pub(super) catalog: Arc<Catalog>,
    pub(super) changes: Arc<Changes>,
    /// Whether the root was opened for reading.
    pub(super) read_only: bool,
}

impl Plane {
    /// Runs a call that frees space, or without which none can be freed. It fails for lack of space only when the reserve is
    /// exhausted. The call must be repeatable.
    pub(super) fn with_reserve<T>(&self, call: impl FnMut() -> Result<T>) -> Result<T> {
        self.reserve.run(call)
    }
}
