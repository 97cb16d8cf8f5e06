//! History: every commit can be restored exactly, and a restore never returns anything but a committed state. The
//! tests cover resolution of instants, maintenance, verification, crashes, power failures, damage and foreign
//! processes.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

mod clock;
mod cold_cache;
mod compressed;
mod crash;
mod crash_image;
mod damage;
mod deltas;
mod deltas_damaged;
mod destroyed;
mod disk_full;
mod failed_commit;
mod fallback;
#[expect(dead_code, reason = "shared with io_faults, which uses more of it")]
#[path = "../io_faults/fault_vfs.rs"]
mod fault_vfs;
mod foreign_archive;
mod foreign_reader;
mod foreign_zstd_frames;
mod forged_page_count;
mod format_versions;
mod header_only_wal;
mod history_off;
mod indexes;
mod instants;
mod killed;
mod limit;
mod lost_database;
mod maintain;
mod manual_restore;
mod model;
mod own_locks;
mod packs;
mod packs_damaged;
mod peers;
mod power;
mod pristine;
mod random;
mod released;
mod restorable_ranges;
mod restore_in_place;
mod retention;
mod simulated_disk;
mod snapshot_request;
#[cfg(feature = "internals")]
mod storage;
mod support;
mod torn_snapshot;
mod verify;
mod view;
