//! Every commit is a point that a database can be restored to, exactly, and nothing else is ever restored.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

mod by_hand;
mod clock;
mod cold;
mod compressed;
mod crash;
mod damage;
mod destroyed;
mod detour;
#[expect(dead_code, reason = "others use it too, and more of it")]
#[path = "../io_faults/disk.rs"]
mod disk;
mod failed_commit;
mod foreign;
mod foreign_zstd_frames;
mod forged_page_count;
mod full;
mod header_only_wal;
mod image;
mod in_place;
mod instants;
mod killed;
mod lost;
mod machine;
mod maintain;
mod model;
mod neighbours;
mod paused;
mod policy;
mod power;
mod random;
mod released;
mod snapshot_request;
mod support;
mod unwritten;
mod verify;
mod versions;
mod view;
mod viewer;
mod windows;
