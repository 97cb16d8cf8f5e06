//! The control plane as a host program uses it, on real files.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]
#![expect(clippy::default_trait_access, reason = "the name of an options type says nothing more to a reader")]

mod border;
mod crash;
mod create;
mod evaluation;
mod export;
mod faults;
mod filesystem;
mod foreign;
mod fork;
mod full;
mod import;
mod limits;
mod links;
mod lists;
mod maintainer;
mod model;
mod outside;
mod owner;
mod read_only;
mod recover;
mod rename;
mod replaced;
mod resolved;
mod root;
mod support;
mod trailing;
mod upload;
