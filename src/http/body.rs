//! JSON bodies and query parameters of the API, except those of Create Database, with the keys that clients expect.
//!
//! The names of these types are those of the components in the `OpenAPI` document, which are stable.

use std::collections::BTreeMap;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{Database, Group, Timestamp};

/// The body of every error response.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    pub(super) error: String,
    pub(super) code: &'static str,
}

/// The claims of a token.
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

/// An empty object, for responses without content: clients expect JSON.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Nothing {}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DatabaseAnswer<T> {
    pub(super) database: T,
}

/// A database, with the constant fields that clients expect.
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
    /// Returns only databases of this group.
    pub(super) group: Option<String>,
    /// Returns only forks of the database with this id or name.
    pub(super) parent: Option<String>,
    /// The maximum number of databases. All are returned by default.
    #[param(format = Int64, maximum = 4_294_967_295_u32)]
    pub(super) limit: Option<u32>,
    /// Returns only databases after this one: `pagination.next` of the previous page.
    pub(super) cursor: Option<String>,
    /// Returns no databases: schema databases are not supported.
    pub(super) schema: Option<String>,
    /// With `schema`, returns no databases: schema databases are not supported.
    pub(super) r#type: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_excessive_bools, reason = "clients read these keys")]
pub(super) struct Configuration {
    #[schema(value_type = Option<crate::SizeLimit>)]
    size_limit: Option<String>,
    #[schema(value_type = crate::Retention)]
    history_window: String,
    #[schema(value_type = crate::HistoryLimit)]
    history_limit: String,
    block_reads: bool,
    block_writes: bool,
    delete_protection: bool,
    allow_attach: bool,
    allowed_ips: [String; 0],
    allowed_aws_vpc_ids: [String; 0],
}

impl Configuration {
    pub(super) fn of(database: &Database) -> Self {
        Self {
            size_limit: database.size_limit.map(|limit| limit.to_string()),
            history_window: database.history_window.to_string(),
            history_limit: database.history_limit.to_string(),
            block_reads: database.block_reads,
            block_writes: database.block_writes,
            delete_protection: database.delete_protection,
            allow_attach: false,
            allowed_ips: [],
            allowed_aws_vpc_ids: [],
        }
    }
}

/// Changes of a configuration. Fields that are omitted or null are unchanged.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ConfigurationChanges {
    /// Bytes, or a number with a unit; `none` removes the limit.
    #[schema(example = "256mb", pattern = r"^([0-9]{4,12}|[1-9][0-9]{0,5}[kmgKMG][iI]?[bB]|none)?$")]
    pub(super) size_limit: Option<String>,
    /// A number of days, hours, minutes or seconds, or `off`; `default` inherits that of the group.
    #[schema(example = "7d", pattern = "^([0-9]{1,9}[dhms]|0|off|default)$")]
    pub(super) history_window: Option<String>,
    /// Bytes, or a number with a unit, or `none`; `default` inherits that of the group.
    #[schema(example = "256mb", pattern = r"^([0-9]{4,12}|[1-9][0-9]{0,5}[kmgKMG][iI]?[bB]|none|default)$")]
    pub(super) history_limit: Option<String>,
    pub(super) block_reads: Option<bool>,
    pub(super) block_writes: Option<bool>,
    pub(super) delete_protection: Option<bool>,
    /// Not supported: `true` is an error.
    pub(super) allow_attach: Option<bool>,
    /// Not supported: a nonempty list is an error.
    pub(super) allowed_ips: Option<Vec<String>>,
    /// Not supported: a nonempty list is an error.
    pub(super) allowed_aws_vpc_ids: Option<Vec<String>>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct SpanQuery {
    /// The start of the span, inclusive.
    #[param(value_type = Timestamp, required = false)]
    pub(super) from: Option<String>,
    /// The end of the span, inclusive.
    #[param(value_type = Timestamp, required = false)]
    pub(super) to: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ExportQuery {
    /// Exports the database as of this instant.
    #[param(value_type = Timestamp, required = false)]
    pub(super) timestamp: Option<String>,
    /// Exports an encrypted database as a plain file.
    #[serde(default)]
    #[param(required = false)]
    pub(super) decrypt: bool,
    /// Exports an encrypted database in this page format, under its own key.
    #[param(inline, value_type = crate::PageFormat, required = false)]
    pub(super) page_format: Option<String>,
}

/// The header with the key of an encrypted database.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only describes the header; the key is read into memory that is wiped")]
pub(super) struct KeyHeader {
    /// The key in base64.
    #[param(rename = "x-turso-encryption-key", value_type = crate::EncryptionKey, required = false)]
    key: Option<String>,
}

/// The headers with the key and cipher of an encrypted database.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only describes the headers; the key is read into memory that is wiped")]
pub(super) struct KeyHeaders {
    /// The key in base64. It requires the cipher header.
    #[param(rename = "x-turso-encryption-key", value_type = crate::EncryptionKey, required = false)]
    key: Option<String>,
    #[param(rename = "x-turso-encryption-cipher", value_type = crate::Cipher, required = false)]
    cipher: Option<String>,
}

/// Usage of a database. Rows are not counted: their fields are always 0.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(super) struct UsageFigures {
    rows_read: u64,
    rows_written: u64,
    pub(super) storage_bytes: u64,
    /// The size of the history. An extension of Turso's API.
    pub(super) history_bytes: u64,
    bytes_synced: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InstanceUsage {
    pub(super) uuid: String,
    pub(super) usage: UsageFigures,
}

/// The usage of a database. The sum has two keys: the documentation names `total`, and clients read `usage`.
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
    uuid: String,
    name: String,
    r#type: &'static str,
    region: String,
    hostname: String,
}

impl Instance {
    pub(super) fn new(database: Database, location: &str) -> Self {
        Self {
            uuid: database.id,
            name: location.to_owned(),
            r#type: "primary",
            region: location.to_owned(),
            hostname: database.hostname,
        }
    }
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
    delete_protection: bool,
    #[schema(value_type = crate::Retention)]
    history_window: String,
    #[schema(value_type = crate::HistoryLimit)]
    history_limit: String,
}

impl GroupConfiguration {
    pub(super) fn of(group: &Group) -> Self {
        Self {
            delete_protection: group.delete_protection,
            history_window: group.history_window.to_string(),
            history_limit: group.history_limit.to_string(),
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct GroupConfigurationChanges {
    pub(super) delete_protection: Option<bool>,
    #[schema(value_type = Option<crate::Retention>)]
    pub(super) history_window: Option<String>,
    #[schema(value_type = Option<crate::HistoryLimit>)]
    pub(super) history_limit: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct TokenQuery {
    /// The lifetime of the token, such as `2w1d30m`. The default is `never`.
    pub(super) expiration: Option<String>,
    /// The access that the token grants: `full-access`, the default, or `read-only`.
    pub(super) authorization: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct TokenBody {
    /// Permissions within a database are not supported: only an empty list of databases is accepted.
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

#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct RenameGroup {
    #[schema(value_type = crate::GroupName)]
    pub(super) name: String,
}

/// Query statistics. Queries are not counted, which clients read as null.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Stats {
    pub(super) top_queries: Option<[String; 0]>,
}

/// The start of a chunked upload.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct StartUpload {
    /// The size of the file in bytes.
    #[schema(minimum = 512)]
    pub(super) db_size_bytes: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StartAnswer {
    /// The size in bytes of every chunk except the last.
    pub(super) chunk_size: u64,
    pub(super) upload_id: String,
}

/// The response to a completed upload. Its body is empty, as Turso's API documents it, unless parts of the file were not checked.
#[derive(Clone, Debug, Serialize)]
pub(super) struct UploadedAnswer {
    /// The parts of the file that the integrity check could not cover, with the reason.
    pub(super) unchecked: Vec<String>,
}

impl IntoResponse for UploadedAnswer {
    fn into_response(self) -> Response {
        if self.unchecked.is_empty() { ().into_response() } else { Json(self).into_response() }
    }
}
