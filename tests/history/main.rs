//! Every commit is a point that a database can be restored to, exactly, and nothing else is ever restored.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

mod by_hand;
mod clock;
mod crash;
mod damage;
mod full;
mod in_place;
mod instants;
mod killed;
mod maintain;
mod model;
mod policy;
mod random;
mod support;
mod verify;
mod view;
