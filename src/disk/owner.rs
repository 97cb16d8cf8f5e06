//! The owners of the files that the control plane creates.
//!
//! A process that runs as root gives what it creates in a root to the user who owns the fleet, as SQLite does with `-wal` and
//! `-shm`. Otherwise one command of an administrator would deny the service of that user write access. The owner is changed
//! through the descriptor of the file that was just created exclusively, and never through a path.

use std::os::fd::AsFd;

use rustix::{
    fs::{self as unix, Gid, Mode, Uid},
    process::geteuid,
};

use super::Metadata;

/// Gives a file that this process has just created to the owner of `model`, if this process is root.
///
/// A file system or a container may forbid it. The file then stays root's, as SQLite's files do.
pub(super) fn give(created: impl AsFd, model: &Metadata) {
    if geteuid().is_root() && model.owner != (0, 0) {
        let (uid, gid) = model.owner;
        let _stays_with_root = unix::fchown(created, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    }
}

/// Gives a file that this process has just created the mode of `model`, regardless of the umask. A file system may have no modes.
pub(super) fn set_mode(created: impl AsFd, model: &Metadata) {
    let _stays_as_created = unix::fchmod(created, Mode::from_raw_mode(model.mode & 0o777));
}
