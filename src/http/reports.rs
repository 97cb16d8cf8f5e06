//! The JSON of what maintaining and verifying a database answers.

use std::path::Path;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::WindowBody;
use crate::{Finding, MaintenanceReport, VerifyReport};

/// What maintaining a database did.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MaintainedAnswer {
    /// Snapshots that were made.
    snapshots: u32,
    /// Parts of the history that no window needs and that were removed.
    generations: u64,
    /// The bytes of the files that were removed.
    bytes_freed: u64,
    /// Logs that were compressed.
    compressed: u64,
    /// The bytes by which that made them shorter.
    bytes_saved: u64,
    /// Whether something was in use, and is left for the next time.
    deferred: bool,
    /// The spans of time that can be restored now.
    windows: Vec<WindowBody>,
}

impl From<MaintenanceReport> for MaintainedAnswer {
    fn from(done: MaintenanceReport) -> Self {
        let MaintenanceReport {
            snapshots,
            generations,
            bytes_freed,
            compressed,
            bytes_saved,
            deferred,
            windows,
        } = done;
        let windows = windows.into_iter().map(Into::into).collect();
        Self { snapshots, generations, bytes_freed, compressed, bytes_saved, deferred, windows }
    }
}

/// How to verify a database.
#[derive(Deserialize, ToSchema)]
pub(super) struct Verify {
    /// The key of an encrypted database: with it the tag of every page is checked.
    pub(super) remote_encryption: Option<crate::RemoteEncryption>,
}

/// What was verified, and what was found.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct VerifiedAnswer {
    /// What is not as it was written. An empty list means that all is well.
    findings: Vec<FindingBody>,
    /// Commits that have stamps.
    commits: u64,
    /// Logs that were read, the live one included.
    logs: u64,
    /// Snapshots that were read.
    snapshots: u64,
    /// Bytes that were read.
    bytes: u64,
    /// Whether the tag of every page was checked.
    tags: bool,
}

/// Something that is not as it was written.
#[derive(Debug, Serialize, ToSchema)]
struct FindingBody {
    /// The file, relative to the directory of the database.
    #[schema(example = "archive/000000000042.wal")]
    file: String,
    /// The frame of the log, from 1.
    frame: Option<u32>,
    /// The page of the database, from 1.
    page: Option<u32>,
    message: String,
}

impl VerifiedAnswer {
    /// What was found of the database in the directory `dir`.
    pub(super) fn new(verified: VerifyReport, dir: &Path) -> Self {
        let VerifyReport { findings, commits, logs, snapshots, bytes, tags } = verified;
        let findings = findings.into_iter().map(|finding| FindingBody::new(finding, dir)).collect();
        Self { findings, commits, logs, snapshots, bytes, tags }
    }
}

impl FindingBody {
    fn new(Finding { file, frame, page, message }: Finding, dir: &Path) -> Self {
        let within = file.strip_prefix(dir).ok();
        // No other file belongs to a database, and a client is not told where any is.
        let file = within.or_else(|| file.file_name().map(Path::new)).unwrap_or(Path::new("data.db"));
        Self { file: file.to_string_lossy().into_owned(), frame, page, message }
    }
}
