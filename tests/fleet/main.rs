//! The control plane as a host program uses it, on real files.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

mod bypass;
mod crash;
mod create;
mod disk_full;
mod export;
mod faults;
mod filesystem;
mod foreign_files;
mod fork;
mod import;
mod lease;
mod limits;
mod lists;
mod maintainer;
mod model;
mod name_reuse;
mod ownership;
mod read_only;
mod recover;
mod rename;
mod replaced_root;
mod root;
mod schema_expressions;
mod support;
mod symlinks;
mod trailing_bytes;
mod untrusted_imports;
mod upload;
