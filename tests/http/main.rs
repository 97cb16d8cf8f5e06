//! The Platform API, served by the program and used over the wire.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

mod access;
mod api;
mod checks;
mod chunks;
mod client;
mod connections;
mod crash;
mod export;
mod load;
mod openapi;
mod operation;
mod origin;
mod page;
mod pasted;
mod paths;
mod private;
mod server;
mod upkeep;
mod uploads;
