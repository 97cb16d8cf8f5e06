//! The JSON of the API beside Create Database: what is answered and read, with the keys as clients expect them.

use std::{collections::BTreeMap, num::NonZeroU32};

use serde::{Deserialize, Serialize, Serializer};
use utoipa::{IntoParams, ToSchema};

use crate::{Database, Group, Point, ResolvedInstant, RestorableRange, Restored, Timestamp};

/// The body of every failure.
#[derive(Debug, Serialize, ToSchema)]
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
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Nothing {}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DatabaseAnswer<T> {
    pub(super) database: T,
}

/// A database as clients read it, with what they want to see beside what there is.
#[derive(Debug, Serialize, ToSchema)]
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

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DatabasesAnswer {
    pub(super) databases: Vec<DatabaseBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pagination: Option<Pagination>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Pagination {
    pub(super) next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct DatabasesQuery {
    /// Only those of this group.
    pub(super) group: Option<String>,
    /// Only forks of the database with this id or name.
    pub(super) parent: Option<String>,
    /// At most so many. Without it all are listed.
    #[param(format = Int64, maximum = 4_294_967_295_u32)]
    pub(super) limit: Option<u32>,
    /// Those that follow: `pagination.next` of the answer before.
    pub(super) cursor: Option<String>,
    /// No database has the schema of another.
    pub(super) schema: Option<String>,
    /// `schema` for databases whose schema others have: there are none.
    pub(super) r#type: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_excessive_bools, reason = "clients read these keys")]
pub(super) struct Configuration {
    #[schema(value_type = Option<crate::SizeLimit>)]
    pub(super) size_limit: Option<String>,
    #[schema(value_type = crate::Retention)]
    pub(super) history_window: String,
    pub(super) block_reads: bool,
    pub(super) block_writes: bool,
    pub(super) delete_protection: bool,
    pub(super) allow_attach: bool,
    pub(super) allowed_ips: [String; 0],
    pub(super) allowed_aws_vpc_ids: [String; 0],
}

/// What is left out, and what is null, stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ConfigurationChanges {
    /// Bytes, or a number with a unit; `none` for no limit.
    #[schema(example = "256mb", pattern = r"^([0-9]{4,12}|[1-9][0-9]{0,5}[kmgKMG][iI]?[bB]|none)?$")]
    pub(super) size_limit: Option<String>,
    /// A number of days, hours, minutes or seconds, or `off`; `default` for that of the group.
    #[schema(example = "7d", pattern = "^([0-9]{1,9}[dhms]|0|off|default)$")]
    pub(super) history_window: Option<String>,
    pub(super) block_reads: Option<bool>,
    pub(super) block_writes: Option<bool>,
    pub(super) delete_protection: Option<bool>,
    /// Not supported: `true` is refused.
    pub(super) allow_attach: Option<bool>,
    /// Not supported: a list that is not empty is refused.
    pub(super) allowed_ips: Option<Vec<String>>,
    /// Not supported: a list that is not empty is refused.
    pub(super) allowed_aws_vpc_ids: Option<Vec<String>>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct SpanQuery {
    /// From this instant on.
    #[param(value_type = Timestamp, required = false)]
    pub(super) from: Option<String>,
    /// Up to this instant, and with it.
    #[param(value_type = Timestamp, required = false)]
    pub(super) to: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PointsQuery {
    /// From this instant on.
    #[param(value_type = Timestamp, required = false)]
    pub(super) from: Option<String>,
    /// Up to this instant, and with it.
    #[param(value_type = Timestamp, required = false)]
    pub(super) to: Option<String>,
    /// The latest so many of them; `pagination.next` is the `to` of those before.
    #[param(value_type = u32, required = false, format = Int64, minimum = 1, maximum = 4_294_967_295_u32)]
    pub(super) limit: Option<NonZeroU32>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ExportQuery {
    /// As it was at this instant.
    #[param(value_type = Timestamp, required = false)]
    pub(super) timestamp: Option<String>,
    /// As a plain file, where it is encrypted.
    #[serde(default)]
    #[param(required = false)]
    pub(super) decrypt: bool,
    /// Sealed under the same key in this page format, where it is encrypted.
    #[param(inline, value_type = crate::PageFormat, required = false)]
    pub(super) page_format: Option<String>,
}

/// The key of an encrypted database, in a header.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it is described here, and read where the key is wiped")]
pub(super) struct KeyHeader {
    /// The key in base64.
    #[param(rename = "x-turso-encryption-key", value_type = crate::EncryptionKey, required = false)]
    key: Option<String>,
}

/// The key and the cipher of an encrypted database, in headers.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "they are described here, and read where the key is wiped")]
pub(super) struct KeyHeaders {
    /// The key in base64. It goes with the cipher, or both are left out.
    #[param(rename = "x-turso-encryption-key", value_type = crate::EncryptionKey, required = false)]
    key: Option<String>,
    #[param(rename = "x-turso-encryption-cipher", value_type = crate::Cipher, required = false)]
    cipher: Option<String>,
}

/// Nobody counts rows: those figures are always 0.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(super) struct UsageFigures {
    rows_read: u64,
    rows_written: u64,
    pub(super) storage_bytes: u64,
    bytes_synced: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InstanceUsage {
    pub(super) uuid: String,
    pub(super) usage: UsageFigures,
}

/// The sum stands there twice: documents call it `total`, and clients read `usage`.
#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "clients read this key")]
pub(super) struct Usage {
    pub(super) uuid: String,
    pub(super) instances: [InstanceUsage; 1],
    pub(super) usage: UsageFigures,
    pub(super) total: UsageFigures,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Instance {
    pub(super) uuid: String,
    pub(super) name: String,
    pub(super) r#type: &'static str,
    pub(super) region: String,
    pub(super) hostname: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InstancesAnswer {
    pub(super) instances: [Instance; 1],
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InstanceAnswer {
    pub(super) instance: Instance,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GroupAnswer {
    pub(super) group: GroupBody,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GroupsAnswer {
    pub(super) groups: Vec<GroupBody>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GroupBody {
    #[serde(flatten)]
    group: Group,
    version: &'static str,
    locations: [String; 1],
    primary: String,
    archived: bool,
    status: GroupStatus,
}

#[derive(Debug, Serialize, ToSchema)]
struct GroupStatus {
    locations: [LocationStatus; 1],
}

#[derive(Debug, Serialize, ToSchema)]
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

#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct CreateGroup {
    #[schema(value_type = crate::GroupName)]
    pub(super) name: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GroupConfiguration {
    pub(super) delete_protection: bool,
    #[schema(value_type = crate::Retention)]
    pub(super) history_window: String,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct GroupConfigurationChanges {
    pub(super) delete_protection: Option<bool>,
    #[schema(value_type = Option<crate::Retention>)]
    pub(super) history_window: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct TokenQuery {
    /// How long it is good for, such as `2w1d30m`; `never` unless given.
    pub(super) expiration: Option<String>,
    /// What it is good for: `full-access`, unless given, or `read-only`.
    pub(super) authorization: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct TokenBody {
    /// Permissions within a database are not supported: nothing but an empty list of databases is taken.
    pub(super) permissions: Option<Permissions>,
    pub(super) fine_grained_permissions: Option<Vec<serde_json::Value>>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct Permissions {
    pub(super) read_attach: Option<ReadAttach>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ReadAttach {
    #[serde(default)]
    pub(super) databases: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokenAnswer {
    pub(super) jwt: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OrganizationsAnswer {
    pub(super) organizations: [Organization; 1],
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Organization {
    pub(super) name: String,
    pub(super) slug: String,
    pub(super) r#type: &'static str,
    pub(super) overages: bool,
    pub(super) blocked_reads: bool,
    pub(super) blocked_writes: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LocationsAnswer {
    pub(super) locations: BTreeMap<String, &'static str>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PointsAnswer {
    pub(super) points: Vec<PointBody>,
    pub(super) windows: Vec<WindowBody>,
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

#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct RenameGroup {
    #[schema(value_type = crate::GroupName)]
    pub(super) name: String,
}

/// Nobody counts queries, which clients read as null.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Stats {
    pub(super) top_queries: Option<[String; 0]>,
}

/// How an upload in chunks begins.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct StartUpload {
    /// The size of the file.
    #[schema(minimum = 512)]
    pub(super) db_size_bytes: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StartAnswer {
    /// The size of all chunks but the last.
    pub(super) chunk_size: u64,
    pub(super) upload_id: String,
}
