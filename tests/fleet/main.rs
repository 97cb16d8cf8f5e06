//! The control plane as a host program uses it, on real files.

mod create;
mod faults;
mod fork;
mod import;
mod limits;
mod lists;
mod support;
