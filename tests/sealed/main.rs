//! Encrypted databases, used through the same API as plain ones.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]
#![expect(clippy::default_trait_access, reason = "the call shows the type of its options")]

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
