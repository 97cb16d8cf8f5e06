//! The history of a database: snapshots, segments and stamps. They reconstruct the database at an instant.
//!
//! Each generation of the WAL leaves a *segment* and the stamps of its commits. The segment is the WAL as SQLite wrote it. A
//! *snapshot* is a copy of the database before the first commit of a generation. The image of the database at an instant is a
//! snapshot with the frames of later segments applied, up to the last commit stamped at or before that instant.
//!
//! | files | contents |
//! |---|---|
//! | [`ended`] | the store of the files of ended generations |
//! | `archive`, `pack_file`, `seekable_file` | the files of a generation, in packs or not |
//! | `stamp_file`, `log`, `log_file`, `frame_index`, `snapshot`, `retention` | the files of a history |
//! | [`timeline`] | the generations at one observation |
//! | `generation_log`, `commits`, `locate` | from an instant to a commit |
//! | `plan`, `image`, `frame_store`, `fallback` | from a commit to the pages of the database |
//! | `compare`, `resolve`, `points`, `materialize` | queries |
//! | `base_snapshot`, `delta`, `maintain`, `maintained_snapshot`, `limit`, `damaged_log`, `packing`, `pack_writer`, `compress` | writers |
//! | `verify` | verification |
//!
//! This module has no encryption keys: it copies pages as they are stored.

mod archive;
pub(crate) mod base_snapshot;
mod checksummed;
mod commits;
mod compare;
mod compress;
mod damaged_log;
mod delta;
mod dir_lock;
mod ended;
mod errors;
mod fallback;
mod frame_index;
mod frame_ref;
mod frame_store;
mod generation_log;
mod image;
mod limit;
mod locate;
mod log;
mod log_file;
mod maintain;
mod maintained_snapshot;
mod materialize;
mod overlay;
mod pack_file;
mod pack_writer;
mod packing;
mod page_cache;
mod plan;
mod points;
mod prefetch;
pub(crate) mod pristine;
mod resolve;
mod retention;
mod seekable_file;
mod snapshot;
mod stamp_file;
mod sums;
mod target;
mod timeline;
pub(crate) mod verify;

pub(crate) use checksummed::page_checksum;
pub(crate) use compare::is_at_end;
pub(crate) use fallback::ResilientImage;
pub(crate) use frame_index::{FrameWords, IndexWriter, frame_words};
pub(crate) use image::HistoricalImage;
pub(crate) use log::{Log, commit_at, ends_with};
pub(crate) use maintain::Maintenance;
pub(crate) use materialize::write_pages;
pub(crate) use points::points;
pub(crate) use resolve::{image_at, resilient_image_at};
pub(crate) use retention::RetentionMark;
pub(crate) use stamp_file::{CurrentStamps, current_stamps, read_stamps, state_of};
pub(crate) use timeline::{Birth, Origin};
