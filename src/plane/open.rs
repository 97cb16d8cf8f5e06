//! Opening a control plane: to be used, or only to be read.

use std::{fmt::Display, path::Path, sync::Arc};

use super::{ControlPlane, Plane, Reserve, recover};
use crate::{
    catalog::{self, Catalog, Durability},
    changes::Changes,
    disk::{Disk, FaultHook},
    error::{Error, ErrorKind, Result},
    id,
    layout::Layout,
    time::{Clock, ClockFn, Timestamp},
};

/// How to open a control plane, for those who want more than [`ControlPlane::open`].
#[derive(Clone, Debug)]
pub struct ControlPlaneBuilder {
    pub(super) domain: String,
    pub(super) disk: Disk,
    pub(super) clock: Clock,
}

impl ControlPlaneBuilder {
    /// The domain of the databases' host names: `orders.<domain>`. It is `localhost` unless set.
    #[must_use]
    pub fn domain(self, domain: impl Into<String>) -> Self {
        Self { domain: domain.into(), ..self }
    }

    /// Asks `hook` before every step that changes something on the disk; the error that it returns is the result
    /// of that step. This is for test harnesses: it lets any step of a call fail, or the process stop there.
    /// SQLite's own writes are not asked about. The hook must not use the fleet's databases, whose locks the call may
    /// hold, and may be called on a thread where none of the process's file descriptors but the standard ones are open.
    #[must_use]
    pub fn fault_hook(self, hook: Arc<FaultHook>) -> Self {
        Self { disk: Disk::with_hook(hook), ..self }
    }

    /// Asks `clock`, and not the system's clock, when a database is created and when a commit is made. This is for test
    /// harnesses: it lets time step back, stand still or be far off. It is called while other writers wait.
    #[must_use]
    pub fn clock(self, clock: Arc<ClockFn>) -> Self {
        Self { clock: Clock::of(clock), ..self }
    }

    /// Opens the control plane in the directory `root`, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] if a newer version of this crate wrote the root, [`ErrorKind::Invalid`] if
    /// something else lies there, [`ErrorKind::Corrupt`] if the catalog of the databases in it is
    /// [lost](ControlPlane::recover), [`ErrorKind::ReadOnly`] if the root cannot be written to, [`ErrorKind::Io`] if a
    /// symbolic link is in the place of a directory of the root, and what the disk may answer.
    pub fn open(self, root: impl AsRef<Path>) -> Result<ControlPlane> {
        self.disk.make_dirs(root.as_ref())?;
        let layout = Layout::new(Disk::canonical(root.as_ref())?);
        catalog::check_place(&layout.control())?;
        let disk = self.disk.within(layout.root())?;
        // One process at a time opens a root, so that only one makes what is not there yet.
        let opening = Disk::wait_for_dir(layout.root())?;
        recover::check_not_lost(&layout)?;
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

    /// Opens the control plane in the directory `root` to be read, as [`ControlPlane::open_read_only`] does.
    ///
    /// # Errors
    ///
    /// As there.
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
