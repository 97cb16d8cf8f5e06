//! File system calls that POSIX does not have.
//!
//! `linux.rs` and `posix.rs` implement these functions with the calls of Linux and with those of POSIX. `--cfg litefleet_posix`
//! selects `posix.rs` on Linux, so that tests cover it.

#[cfg(all(target_os = "linux", not(litefleet_posix)))]
#[path = "linux.rs"]
mod imp;
#[cfg(not(all(target_os = "linux", not(litefleet_posix))))]
#[path = "posix.rs"]
mod imp;

pub(crate) use imp::{
    SEARCH, advise_dont_need, advise_will_need, allocate, clone_file, copy_range, read_cached, rename_new,
};
