//! Encryption: the pages of a database in every file that SQLite keeps them in.

pub(super) mod journal;
pub(super) mod pages;
mod readahead;
pub(super) mod scratch;
pub(super) mod temp;
pub(super) mod wal;
