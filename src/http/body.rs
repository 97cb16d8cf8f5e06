//! The JSON of the API beside Create Database: what is answered and read, with the keys as clients expect them.

use std::{collections::BTreeMap, num::NonZeroU32};

use serde::{Deserialize, Serialize, Serializer};

use crate::{Database, Group, Point, Reached, Restored, Timestamp, Window};

/// The body of every failure.
#[derive(Debug, Serialize)]
pub(super) struct ErrorBody {
    pub(super) error: String,
    pub(super) code: &'static str,
}

/// What a token says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Claims {
    pub(super) iss: String,
    pub(super) sub: String,
    pub(super) access: String,
    pub(super) rotation: i64,
    pub(super) iat: i64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) exp: Option<i64>,
}

/// An empty answer. Clients read JSON even where there is nothing to say.
#[derive(Debug, Serialize)]
pub(super) struct Nothing {}

#[derive(Debug, Serialize)]
pub(super) struct DatabaseAnswer<T> {
    pub(super) database: T,
}

/// A database as clients read it, with what they want to see beside what there is.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "clients read these keys")]
pub(super) struct DatabaseBody {
    #[serde(flatten)]
    pub(super) database: Database,
    regions: [String; 1],
    #[serde(rename = "primaryRegion")]
    primary_region: String,
    r#type: &'static str,
    database_type: &'static str,
    version: &'static str,
    sleeping: bool,
    archived: bool,
    allow_attach: bool,
    is_schema: bool,
    schema: &'static str,
}

impl DatabaseBody {
    pub(super) fn new(database: Database, location: &str) -> Self {
        Self {
            database,
            regions: [location.to_owned()],
            primary_region: location.to_owned(),
            r#type: "logical",
            database_type: "libsql",
            version: env!("CARGO_PKG_VERSION"),
            sleeping: false,
            archived: false,
            allow_attach: false,
            is_schema: false,
            schema: "",
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct DatabasesAnswer {
    pub(super) databases: Vec<DatabaseBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pagination: Option<Pagination>,
}

#[derive(Debug, Serialize)]
pub(super) struct Pagination {
    pub(super) next: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct DatabasesQuery {
    pub(super) group: Option<String>,
    pub(super) parent: Option<String>,
    pub(super) limit: Option<u32>,
    pub(super) cursor: Option<String>,
    pub(super) schema: Option<String>,
    pub(super) r#type: Option<String>,
}

#[derive(Debug, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "clients read these keys")]
pub(super) struct Configuration {
    pub(super) size_limit: Option<String>,
    pub(super) history_window: String,
    pub(super) block_reads: bool,
    pub(super) block_writes: bool,
    pub(super) delete_protection: bool,
    pub(super) allow_attach: bool,
    pub(super) allowed_ips: [String; 0],
    pub(super) allowed_aws_vpc_ids: [String; 0],
}

/// What is left out, and what is null, stays as it is.
#[derive(Debug, Deserialize)]
pub(super) struct ConfigurationChanges {
    pub(super) size_limit: Option<String>,
    pub(super) history_window: Option<String>,
    pub(super) block_reads: Option<bool>,
    pub(super) block_writes: Option<bool>,
    pub(super) delete_protection: Option<bool>,
    pub(super) allow_attach: Option<bool>,
    pub(super) allowed_ips: Option<Vec<String>>,
    pub(super) allowed_aws_vpc_ids: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct SpanQuery {
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct PointsQuery {
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    pub(super) limit: Option<NonZeroU32>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ExportQuery {
    pub(super) timestamp: Option<String>,
    #[serde(default)]
    pub(super) decrypt: bool,
    pub(super) page_format: Option<String>,
}

/// Nobody counts rows: those figures are always 0.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct UsageFigures {
    rows_read: u64,
    rows_written: u64,
    pub(super) storage_bytes: u64,
    bytes_synced: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct InstanceUsage {
    pub(super) uuid: String,
    pub(super) usage: UsageFigures,
}

/// The sum stands there twice: documents call it `total`, and clients read `usage`.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "clients read this key")]
pub(super) struct Usage {
    pub(super) uuid: String,
    pub(super) instances: [InstanceUsage; 1],
    pub(super) usage: UsageFigures,
    pub(super) total: UsageFigures,
}

#[derive(Debug, Serialize)]
pub(super) struct Instance {
    pub(super) uuid: String,
    pub(super) name: String,
    pub(super) r#type: &'static str,
    pub(super) region: String,
    pub(super) hostname: String,
}

#[derive(Debug, Serialize)]
pub(super) struct InstancesAnswer {
    pub(super) instances: [Instance; 1],
}

#[derive(Debug, Serialize)]
pub(super) struct InstanceAnswer {
    pub(super) instance: Instance,
}

#[derive(Debug, Serialize)]
pub(super) struct GroupAnswer {
    pub(super) group: GroupBody,
}

#[derive(Debug, Serialize)]
pub(super) struct GroupsAnswer {
    pub(super) groups: Vec<GroupBody>,
}

#[derive(Debug, Serialize)]
pub(super) struct GroupBody {
    #[serde(flatten)]
    group: Group,
    version: &'static str,
    locations: [String; 1],
    primary: String,
    archived: bool,
    status: GroupStatus,
}

#[derive(Debug, Serialize)]
struct GroupStatus {
    locations: [LocationStatus; 1],
}

#[derive(Debug, Serialize)]
struct LocationStatus {
    name: String,
    status: &'static str,
}

impl GroupBody {
    pub(super) fn new(group: Group, location: &str) -> Self {
        Self {
            group,
            version: env!("CARGO_PKG_VERSION"),
            locations: [location.to_owned()],
            primary: location.to_owned(),
            archived: false,
            status: GroupStatus { locations: [LocationStatus { name: location.to_owned(), status: "up" }] },
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct CreateGroup {
    pub(super) name: String,
}

#[derive(Debug, Serialize)]
pub(super) struct GroupConfiguration {
    pub(super) delete_protection: bool,
    pub(super) history_window: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct GroupConfigurationChanges {
    pub(super) delete_protection: Option<bool>,
    pub(super) history_window: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TokenQuery {
    pub(super) expiration: Option<String>,
    pub(super) authorization: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TokenBody {
    pub(super) permissions: Option<Permissions>,
    pub(super) fine_grained_permissions: Option<Vec<serde_json::Value>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Permissions {
    pub(super) read_attach: Option<ReadAttach>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ReadAttach {
    pub(super) databases: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct TokenAnswer {
    pub(super) jwt: String,
}

#[derive(Debug, Serialize)]
pub(super) struct OrganizationsAnswer {
    pub(super) organizations: [Organization; 1],
}

#[derive(Debug, Serialize)]
pub(super) struct Organization {
    pub(super) name: String,
    pub(super) slug: String,
    pub(super) r#type: &'static str,
    pub(super) overages: bool,
    pub(super) blocked_reads: bool,
    pub(super) blocked_writes: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct LocationsAnswer {
    pub(super) locations: BTreeMap<String, &'static str>,
}

#[derive(Debug, Serialize)]
pub(super) struct PointsAnswer {
    pub(super) points: Vec<PointBody>,
    pub(super) windows: Vec<WindowBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pagination: Option<Pagination>,
}

#[derive(Debug, Serialize)]
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

#[derive(Debug, Serialize)]
pub(super) struct WindowBody {
    from: Timestamp,
    to: Option<Timestamp>,
}

impl From<Window> for WindowBody {
    fn from(Window { from, to }: Window) -> Self {
        Self { from, to }
    }
}

#[derive(Deserialize)]
pub(super) struct Restore {
    pub(super) timestamp: Timestamp,
    pub(super) remote_encryption: Option<crate::RemoteEncryption>,
}

#[derive(Debug, Serialize)]
pub(super) struct RestoreAnswer {
    kind: Kind,
    commit: Option<Timestamp>,
    next: Option<Timestamp>,
    undo: Option<Timestamp>,
}

#[derive(Debug)]
struct Kind(crate::ReachedKind);

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl From<Restored> for RestoreAnswer {
    fn from(Restored { reached: Reached { kind, commit, next }, undo }: Restored) -> Self {
        Self { kind: Kind(kind), commit, next, undo }
    }
}
