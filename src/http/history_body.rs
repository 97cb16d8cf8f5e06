//! JSON bodies and query parameters for the history of a database: recovery points, restore, maintenance and verification.

use std::{num::NonZeroU32, path::Path};

use serde::{Deserialize, Serialize, Serializer};
use utoipa::{IntoParams, ToSchema};

use super::body::Pagination;
use crate::{
    Finding, MaintenanceReport, Point, ResolvedInstant, RestorableRange, Restored, Timestamp, VerifyReport,
};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PointsQuery {
    /// The start of the span, inclusive.
    #[param(value_type = Timestamp, required = false)]
    pub(super) from: Option<String>,
    /// The end of the span, inclusive.
    #[param(value_type = Timestamp, required = false)]
    pub(super) to: Option<String>,
    /// Returns the latest points, at most this many. `pagination.next` is the `to` of the next page.
    #[param(value_type = u32, required = false, format = Int64, minimum = 1, maximum = 4_294_967_295_u32)]
    pub(super) limit: Option<NonZeroU32>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PointsAnswer {
    pub(super) points: Vec<PointBody>,
    pub(super) windows: Vec<WindowBody>,
    /// Why the oldest instants were removed. Null if none were.
    #[schema(value_type = Option<crate::PruneReason>)]
    pub(super) pruned_by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pagination: Option<Pagination>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PointBody {
    at: Timestamp,
    pages: u32,
    bytes: u64,
    size: u64,
}

impl From<Point> for PointBody {
    fn from(Point { at, pages, bytes, size }: Point) -> Self {
        Self { at, pages, bytes, size }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WindowBody {
    from: Timestamp,
    to: Option<Timestamp>,
}

impl From<RestorableRange> for WindowBody {
    fn from(RestorableRange { from, to }: RestorableRange) -> Self {
        Self { from, to }
    }
}

#[derive(Deserialize, ToSchema)]
pub(super) struct Restore {
    pub(super) timestamp: Timestamp,
    pub(super) remote_encryption: Option<crate::RemoteEncryption>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RestoreAnswer {
    #[schema(value_type = crate::InstantPosition)]
    kind: Kind,
    commit: Option<Timestamp>,
    next: Option<Timestamp>,
    undo: Option<Timestamp>,
}

#[derive(Debug)]
struct Kind(crate::InstantPosition);

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl From<Restored> for RestoreAnswer {
    fn from(Restored { reached: ResolvedInstant { kind, commit, next }, undo }: Restored) -> Self {
        Self { kind: Kind(kind), commit, next, undo }
    }
}

/// The report of a maintenance run.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MaintainedAnswer {
    /// The number of snapshots taken.
    snapshots: u32,
    /// The number of generations removed, which no history window needs any more or a history limit excludes.
    generations: u64,
    /// The size of the removed files in bytes.
    bytes_freed: u64,
    /// The number of logs compressed.
    compressed: u64,
    /// The bytes saved by compression.
    bytes_saved: u64,
    /// Whether a part was in use and is left for the next run.
    deferred: bool,
    /// The ranges of instants that can be restored.
    windows: Vec<WindowBody>,
}

impl From<MaintenanceReport> for MaintainedAnswer {
    fn from(report: MaintenanceReport) -> Self {
        let MaintenanceReport {
            snapshots,
            generations,
            bytes_freed,
            compressed,
            bytes_saved,
            deferred,
            windows,
        } = report;
        let windows = windows.into_iter().map(Into::into).collect();
        Self { snapshots, generations, bytes_freed, compressed, bytes_saved, deferred, windows }
    }
}

/// Options for verifying a database.
#[derive(Deserialize, ToSchema)]
pub(super) struct Verify {
    /// The key of an encrypted database. If it is given, the tag of every page is checked.
    pub(super) remote_encryption: Option<crate::RemoteEncryption>,
}

/// The report of a verification.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct VerifiedAnswer {
    /// Damage that was found. An empty list means that there is none.
    findings: Vec<FindingBody>,
    /// The number of commits with a timestamp.
    commits: u64,
    /// The number of logs read, including the current one.
    logs: u64,
    /// The number of snapshots read.
    snapshots: u64,
    /// The number of bytes read.
    bytes: u64,
    /// Whether the tag of every page was checked.
    tags: bool,
}

/// Damage in a file.
#[derive(Debug, Serialize, ToSchema)]
struct FindingBody {
    /// The file, relative to the directory of the database.
    #[schema(example = "archive/000000000042.wal")]
    file: String,
    /// The number of the frame in the log, from 1.
    frame: Option<u32>,
    /// The number of the page in the database, from 1.
    page: Option<u32>,
    message: String,
}

impl VerifiedAnswer {
    /// Converts the report on the database in the directory `dir`.
    pub(super) fn new(report: VerifyReport, dir: &Path) -> Self {
        let VerifyReport { findings, commits, logs, snapshots, bytes, tags } = report;
        let findings = findings.into_iter().map(|finding| FindingBody::new(finding, dir)).collect();
        Self { findings, commits, logs, snapshots, bytes, tags }
    }
}

impl FindingBody {
    fn new(Finding { file, frame, page, message }: Finding, dir: &Path) -> Self {
        // Absolute paths must not reach a client. Outside the directory, only the name of the file is reported.
        let relative = file.strip_prefix(dir).ok();
        let file = relative.or_else(|| file.file_name().map(Path::new)).unwrap_or(Path::new("data.db"));
        Self { file: file.to_string_lossy().into_owned(), frame, page, message }
    }
}
