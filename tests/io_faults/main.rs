//! Disk I/O observed and failed by a VFS below litefleet's: no plaintext is written, no commit is lost in a crash,
//! and no read is wrong when the disk fails.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

mod fault_vfs;
mod io_errors;
mod io_methods_version_1;
mod killed;
mod latch;
mod locks;
mod model;
mod plaintext;
mod power_loss;
mod recorder;
mod result_codes;
mod simulated_disk;
mod super_journal;
mod support;
mod wal;
