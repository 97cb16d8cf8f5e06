//! What goes to the disk and what comes back from it, as a VFS beneath the crate's sees it: nothing in the clear, nothing
//! lost when the machine stops, nothing wrong when the disk fails.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

mod clear;
mod codes;
mod crash;
mod disk;
mod errors;
mod killed;
mod locks;
mod log;
mod model;
mod power;
mod recorder;
mod super_journal;
mod vault;
mod version_1;
