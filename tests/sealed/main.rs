//! Encrypted databases, used through the same API as plain ones.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]
#![expect(clippy::default_trait_access, reason = "the name of an options type says nothing more to a reader")]

mod attacks;
mod ciphers;
mod differential;
mod encrypted_seeds;
mod encryption;
mod fence;
mod lock_byte_page;
mod logic_tests;
#[path = "../fleet/support.rs"]
mod support;
mod tamper;
mod turso;
