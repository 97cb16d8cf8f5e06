//! Opening a control plane, for use or for reading.

use std::{fmt::Display, path::Path, sync::Arc};

use super::{
    lost_catalog,
    reserve::Reserve,
    state::{ControlPlane, Plane},
};
use crate::{
    catalog::{self, Catalog, Durability},
    changes::Changes,
    disk::{Disk, FaultHook},
    error::{Error, ErrorKind, Result},
    id,
    layout::Layout,
    time::{Clock, ClockFn, Timestamp},
};

/// A builder that opens a control plane with settings that [`ControlPlane::open`] does not have.
#[derive(Clone, Debug)]
pub struct ControlPlaneBuilder {
    pub(super) domain: String,
    pub(super) disk: Disk,
    pub(super) clock: Clock,
}

impl ControlPlaneBuilder {
    /// Sets the domain of the host names of databases, as in `orders.<domain>`. The default is `localhost`.
    #[must_use]
    pub fn domain(self, domain: impl Into<String>) -> Self {
        Self { domain: domain.into(), ..self }
    }

    /// Installs a hook for test harnesses that is called before every operation that changes the disk.
    ///
    /// An error of the hook is the result of the operation, so that a test can fail any step of a call or stop the process
    /// there. Writes by SQLite do not reach the hook. The hook must not use the databases of the fleet, whose locks the call
    /// may hold. It may run on a thread with none of the process's file descriptors except the standard ones.
    #[must_use]
    pub fn fault_hook(self, hook: Arc<FaultHook>) -> Self {
        Self { disk: Disk::with_hook(hook), ..self }
    }

    /// Installs a clock for test harnesses in place of the system clock.
    ///
    /// It supplies the times of new databases and of commits, and may step back, stand still or be wrong. It is called while
    /// other writers wait.
    #[must_use]
    pub fn clock(self, clock: Arc<ClockFn>) -> Self {
        Self { clock: Clock::of(clock), ..self }
    }

    /// Opens the control plane in the directory `root`, which is created if it does not exist.
    ///
    /// # Errors
    ///
    /// Fails with
    ///
    /// - [`ErrorKind::Unsupported`] if a newer version of this crate wrote the root,
    /// - [`ErrorKind::Invalid`] if the directory contains something else,
    /// - [`ErrorKind::Corrupt`] if the catalog is [lost](ControlPlane::recover),
    /// - [`ErrorKind::ReadOnly`] if the root is not writable,
    /// - [`ErrorKind::Io`] if a symbolic link takes the place of a directory of the root, or if the disk fails.
    pub fn open(self, root: impl AsRef<Path>) -> Result<ControlPlane> {
        self.disk.make_dirs(root.as_ref())?;
        let layout = Layout::new(Disk::canonical(root.as_ref())?);
        catalog::check_place(&layout.control())?;
        let disk = self.disk.within(layout.root())?;
        // One process at a time opens a root, so that only one creates missing files.
        let opening = Disk::wait_for_dir(layout.root())?;
        lost_catalog::check_not_lost(&layout)?;
        let reserve = Reserve::new(&disk, &layout);
        let (catalog, changes) = reserve.run(|| {
            disk.make_dir(&layout.staging())?;
            disk.make_dir(&layout.trash())?;
            let catalog = Catalog::open(&disk, layout.control(), self.domain.clone())?;
            let changes = Changes::open(&disk, &layout, &id::new_id(Timestamp::now()))?;
            catalog.write(Durability::Lazy, |_| changes.settle())?;
            disk.sync_dir(layout.root())?;
            Ok((catalog, changes))
        })?;
        drop(opening);
        let plane = ControlPlane(Arc::new(Plane {
            disk,
            clock: self.clock,
            reserve,
            layout,
            catalog: Arc::new(catalog),
            changes: Arc::new(changes),
            read_only: false,
        }));
        plane.0.with_reserve(|| plane.0.settle())?;
        plane.0.describe_stale();
        plane.0.reserve.fill();
        Ok(plane)
    }

    /// Opens the control plane in the directory `root` for reading.
    ///
    /// # Errors
    ///
    /// Fails as [`ControlPlane::open_read_only`] does.
    pub fn open_read_only(self, root: impl AsRef<Path>) -> Result<ControlPlane> {
        let root = root.as_ref();
        if !Disk::exists(&Layout::new(root.to_owned()).control())? {
            let sentence = |root: &dyn Display| format!("there is no fleet in {root}");
            return Err(Error::naming(ErrorKind::NotFound, root, sentence));
        }
        let layout = Layout::new(Disk::canonical(root)?);
        let disk = self.disk.within_read_only(layout.root())?;
        let catalog = Catalog::open_read_only(&disk, layout.control(), self.domain)?;
        let changes = Changes::open_to_read(&disk, &layout)?;
        Ok(ControlPlane(Arc::new(Plane {
            reserve: Reserve::new(&disk, &layout),
            disk,
            clock: self.clock,
            layout,
            catalog: Arc::new(catalog),
            changes: Arc::new(changes),
            read_only: true,
        })))
    }
}
