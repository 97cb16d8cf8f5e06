#![doc = include_str!("../README.md")]

#[cfg(not(unix))]
compile_error!("litefleet supports only Unix systems: it relies on POSIX locks, as SQLite does there");

// Lowest layer first. A module imports only modules above it in this list; tests/tidy has the exact table.
mod error;
mod finding;
mod history_limit;
mod id;
mod name;
mod point;
mod progress;
mod result_codes;
mod retention;
mod settings;
mod size;
mod sync;
mod time;
mod units;

#[expect(
    unsafe_code,
    reason = "calls of the operating system and of libaegis, and shared memory; unsafe code is confined to this module and the VFS shim"
)]
mod sys;

mod api;
mod cipher;
mod description;
mod pack;
mod page;
mod pages;
mod seekable;
mod stamps;
mod wal;

mod disk;
mod layout;
mod os_cache;
mod shm;

mod history;

mod sqlite;
mod vfs;

pub mod fence;

mod catalog;
mod changes;
mod live_copy;

mod connect;
mod seed;

mod plane;

mod maintainer;

#[cfg(feature = "http")]
pub mod http;

pub mod docs {
    //! The reference: a guide, and a page for each part of the crate.
    //!
    //! | page | contents |
    //! |---|---|
    //! | [guide] | databases, connections and imports; recipes for pools, tokio and tests |
    //! | [encryption] | ciphers, keys, what is protected |
    //! | [history] | restore, retention, maintenance, verification |
    //! | [cli](mod@cli) | the program `litefleet` |
    //! | [http](mod@http) | the Platform API over HTTP |
    //! | [operations] | a fleet on disk, a service, backup, upgrades, monitoring |
    //! | [benchmarks] | measured ratios |
    //! | [format](mod@format) | every byte on disk, and every crash |
    //! | [architecture] | layers, invariants, the lock order, the glossary |

    #[doc = include_str!("docs/guide.md")]
    pub mod guide {}

    #[doc = include_str!("docs/encryption.md")]
    pub mod encryption {}

    #[doc = include_str!("docs/history.md")]
    pub mod history {}

    #[doc = include_str!("docs/cli.md")]
    pub mod cli {}

    #[doc = include_str!("docs/http.md")]
    pub mod http {}

    #[doc = include_str!("docs/operations.md")]
    pub mod operations {}

    #[doc = include_str!("docs/benchmarks.md")]
    ///
    /// <div style="overflow-x: auto">
    #[doc = include_str!("../benches/sealed.svg")]
    /// </div>
    pub mod benchmarks {}

    #[doc = include_str!("docs/format.md")]
    pub mod format {}

    #[doc = include_str!("docs/architecture.md")]
    pub mod architecture {}
}

#[doc(hidden)]
pub use docs::format;

#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;

pub use api::{
    Change, CreateDatabaseInput, CreateDatabaseOutput, Database, DatabaseChanges, DatabaseState, Group,
    ListDatabases, Parent, RemoteEncryption, Seed, Uploaded,
};
pub use chrono;
pub use cipher::{Cipher, EncryptionKey};
pub use connect::{AttachOptions, ConnectOptions, Lease, Synchronous};
pub use error::{Error, ErrorKind, Result};
pub use finding::{Finding, VerifyReport};
pub use history_limit::HistoryLimit;
pub use maintainer::{FleetFigures, Maintainer, MaintainerOptions};
pub use name::{DatabaseName, GroupName, NAME_LEN_MAX};
pub use page::PageFormat;
pub use plane::{
    ControlPlane, ControlPlaneBuilder, CreateDatabase, DatabaseRef, ExportOptions, GroupChanges, GroupRef,
    MaintainOptions, NameOrId, Recovered, RestoreOptions, UploadOptions, VerifyOptions,
};
pub use point::{
    InstantPosition, MaintenanceReport, Point, Points, PruneReason, ResolvedInstant, RestorableRange,
    Restored,
};
pub use progress::{Phase, Progress};
pub use retention::Retention;
pub use rusqlite;
pub use seed::upload::Upload;
pub use size::SizeLimit;
pub use time::Timestamp;

/// Hooks for test harnesses, failing disk operations and a controlled clock; and the codec of pages, to measure it.
///
/// Install the hooks with [`ControlPlaneBuilder::fault_hook`] and [`ControlPlaneBuilder::clock`].
pub mod testing {
    pub use crate::{
        disk::{DiskOp, FaultHook},
        pages::{BareCipher, Pages},
        time::ClockFn,
    };
}
