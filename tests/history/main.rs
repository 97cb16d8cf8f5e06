//! Every commit is a point that a database can be restored to, exactly, and nothing else is ever restored.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

mod bare;
mod by_hand;
mod claims;
mod clock;
mod cold;
mod compressed;
mod crash;
mod damage;
mod destroyed;
mod detour;
#[expect(dead_code, reason = "others use it too, and more of it")]
#[path = "../beneath/disk.rs"]
mod disk;
mod divided;
mod foreign;
mod full;
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
mod support;
mod unseen;
mod unwritten;
mod verify;
mod versions;
mod view;
mod viewer;
mod wanted;
mod windows;
