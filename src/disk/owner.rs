//! Who owns what the control plane creates.
//!
//! A process that runs as root gives the files and directories that it creates in a root to the user whose fleet it is, as
//! SQLite does with `-wal` and `-shm`: otherwise one command of an administrator would keep the service that runs as that
//! user from writing. The owner is changed through the descriptor of what was just created, exclusively, and never through
//! a path.

use std::os::fd::AsFd;

use rustix::{
    fs::{self as unix, Gid, Mode, Stat, Uid},
    process::geteuid,
};

/// Gives what this process has just created to the owner of `model`, if it may.
///
/// A file system or a container may forbid it. Then the file stays with root, as SQLite leaves it too.
pub(super) fn give(created: impl AsFd, model: &Stat) {
    if geteuid().is_root() && (model.st_uid, model.st_gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(model.st_uid), Gid::from_raw(model.st_gid));
        let _stays_with_root = unix::fchown(created, Some(uid), Some(gid));
    }
}

/// Gives what this process has just created the mode of `model`, whatever the umask says, if the file system has modes.
pub(super) fn open_as(created: impl AsFd, model: &Stat) {
    let _stays_as_created = unix::fchmod(created, Mode::from_raw_mode(model.st_mode & 0o777));
}
