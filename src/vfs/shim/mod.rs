//! The shim: SQLite's tables of functions. All unsafe code of the VFS is here.
//!
//! Each function turns the arguments of C into those of Rust, calls the [`VfsFile`](super::file::VfsFile), and turns a panic into
//! an I/O error: a panic must not cross into C. After a panic, the connection of the file latches.
//!
//! SQLite allocates `szOsFile` bytes for an open file. They hold a [`file::File`], and after it the file of the default VFS.

#[macro_use]
mod real;

mod authorizer;
mod auto_extension;
mod call;
mod close;
mod control;
mod file;
mod io;
mod methods;
mod open;
mod register;
mod registered;
mod shm;
mod wal_index;

pub(crate) use authorizer::drop_modules;
pub(super) use authorizer::raise_fence;
pub(super) use auto_extension::prepare_leased_connections;
pub(super) use control::describe;
pub(crate) use control::reserve_in_vacuum;
pub(super) use register::{NAME, UNFENCED, register};
pub(super) use wal_index::WalIndex;
