//! Encrypted databases, through the same connections as plain ones.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]
#![expect(clippy::default_trait_access, reason = "the name of an options type says nothing more to a reader")]

mod big;
mod border;
mod ciphers;
mod differential;
mod fence;
mod logic;
mod seeds;
#[path = "../fleet/support.rs"]
mod support;
mod tamper;
mod turso;
mod vault;
