//! The request and response bodies of Turso's Create Database page.
//!
//! Parsing is lenient where real clients differ: unknown fields are ignored, `seed.value` is an alias of `seed.name`, and `null`
//! means absent. It is strict where a mistake would go unnoticed: a seed without a type is refused.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeStruct};

pub use crate::settings::{Change, DatabaseChanges, ListDatabases};
use crate::{
    cipher::{Cipher, EncryptionKey},
    error::{Error, ErrorKind, Result},
    history_limit::HistoryLimit,
    page::PageFormat,
    point::ResolvedInstant,
    retention::Retention,
    size::SizeLimit,
    time::Timestamp,
};

/// The request body of Create Database.
///
/// ```
/// use litefleet::{CreateDatabaseInput, Seed};
///
/// let input = CreateDatabaseInput::new("copy", "default").with_seed(Seed::database("orders"));
/// assert_eq!(
///     serde_json::to_string(&input).unwrap(),
///     r#"{"name":"copy","group":"default","seed":{"type":"database","name":"orders"}}"#,
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema), schema(description = "What to create."))]
#[non_exhaustive]
pub struct CreateDatabaseInput {
    /// The name of the new database: 1 to 64 lowercase letters, digits and dashes, unique in the root.
    #[cfg_attr(feature = "http", schema(value_type = crate::name::DatabaseName))]
    pub name: String,
    /// The existing group to create it in. Optional for a fork, whose default is the group of its source.
    #[cfg_attr(feature = "http", schema(value_type = Option<crate::name::GroupName>))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The source of the contents. `None` for an empty database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<Seed>,
    /// The size limit. `None` for no limit, or for the limit of the source of a fork.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_limit: Option<SizeLimit>,
    /// The key and cipher that seal its pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_encryption: Option<RemoteEncryption>,
    /// The key of an encrypted source, if it differs from that of the new database. Turso's API has no such field.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "key_as_base64")]
    pub source_encryption_key: Option<EncryptionKey>,
    /// Whether [`at`](Self::at) was called without a source database.
    #[serde(skip)]
    pub(crate) lacks_source: bool,
}

impl CreateDatabaseInput {
    /// Describes an empty database `name` in `group`.
    pub fn new(name: impl Into<String>, group: impl Into<String>) -> Self {
        Self { group: Some(group.into()), ..Self::named(name) }
    }

    /// Describes a fork `name` of the database `source`, in the group of the source.
    ///
    /// ```
    /// use litefleet::{CreateDatabaseInput, Timestamp};
    ///
    /// let now = CreateDatabaseInput::fork("copy", "orders");
    /// let noon = CreateDatabaseInput::fork("noon", "orders").at("2026-11-30T12:00Z".parse::<Timestamp>()?);
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    pub fn fork(name: impl Into<String>, source: impl Into<String>) -> Self {
        Self { seed: Some(Seed::database(source)), ..Self::named(name) }
    }

    /// Forks the source as of an instant: with every commit stamped at or before it, and no other.
    ///
    /// If the input has no source database when this is called, [`create_database`](crate::ControlPlane::create_database)
    /// fails with [`ErrorKind::Invalid`].
    #[must_use]
    pub fn at(mut self, instant: impl Into<Timestamp>) -> Self {
        match &mut self.seed {
            Some(Seed::Database { timestamp, .. }) => *timestamp = Some(instant.into()),
            _ => self.lacks_source = true,
        }
        self
    }

    fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            group: None,
            seed: None,
            size_limit: None,
            remote_encryption: None,
            source_encryption_key: None,
            lacks_source: false,
        }
    }

    /// Sets the seed.
    #[must_use]
    pub fn with_seed(self, seed: Seed) -> Self {
        Self { seed: Some(seed), ..self }
    }

    /// Sets the size limit.
    #[must_use]
    pub fn with_size_limit(self, limit: SizeLimit) -> Self {
        Self { size_limit: Some(limit), ..self }
    }

    /// Encrypts every page.
    #[must_use]
    pub fn with_encryption(self, encryption: RemoteEncryption) -> Self {
        Self { remote_encryption: Some(encryption), ..self }
    }

    /// Sets the key of an encrypted source, if it differs from that of the new database.
    #[must_use]
    pub fn with_source_key(self, key: EncryptionKey) -> Self {
        Self { source_encryption_key: Some(key), ..self }
    }
}

/// Where the contents of a new database come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Seed {
    /// Another database, now or as of an instant.
    #[non_exhaustive]
    Database {
        /// The name of the source. It is also accepted as `value`, which Turso's command line sends.
        #[serde(alias = "value")]
        name: String,
        /// The instant to restore to. `None` for the current state.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timestamp: Option<Timestamp>,
    },
    /// A SQLite file that is uploaded afterwards.
    DatabaseUpload,
}

impl Seed {
    /// The current state of the database `name`.
    pub fn database(name: impl Into<String>) -> Self {
        Self::Database { name: name.into(), timestamp: None }
    }

    /// The database `name` as of an instant: with every commit stamped at or before it, and no other.
    pub fn database_at(name: impl Into<String>, timestamp: impl Into<Timestamp>) -> Self {
        Self::Database { name: name.into(), timestamp: Some(timestamp.into()) }
    }
}

/// The key and cipher of an encrypted database.
///
/// It serializes as in a request body, **including the key**: serialize it to send a request, never to log it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteEncryption {
    key: EncryptionKey,
    cipher: Option<Cipher>,
    page_format: Option<PageFormat>,
}

impl RemoteEncryption {
    /// Combines a key with `cipher`.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Invalid`] if the key does not have the size that the cipher requires.
    pub fn new(key: EncryptionKey, cipher: Cipher) -> Result<Self> {
        key.check_size(cipher)?;
        Ok(Self { key, cipher: Some(cipher), page_format: None })
    }

    /// Creates the encryption of a fork that inherits the cipher and the page format of its source.
    #[must_use]
    pub fn inherit_cipher(key: EncryptionKey) -> Self {
        Self { key, cipher: None, page_format: None }
    }

    /// Sets the page format. It serializes as `page_format`, which Turso's API does not have.
    #[must_use]
    pub fn with_page_format(self, format: PageFormat) -> Self {
        Self { page_format: Some(format), ..self }
    }

    /// Returns the key.
    #[must_use]
    pub fn key(&self) -> &EncryptionKey {
        &self.key
    }

    /// Returns the cipher. `None` if a fork inherits the cipher of its source.
    #[must_use]
    pub fn cipher(&self) -> Option<Cipher> {
        self.cipher
    }

    /// Returns the page format. `None` for the default: the format of the source of a fork, and [`Native`](PageFormat::Native)
    /// otherwise.
    #[must_use]
    pub fn page_format(&self) -> Option<PageFormat> {
        self.page_format
    }
}

impl Serialize for RemoteEncryption {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut body = serializer.serialize_struct("RemoteEncryption", 3)?;
        body.serialize_field("encryption_key", self.key.to_base64().as_str())?;
        match self.cipher {
            Some(cipher) => body.serialize_field("encryption_cipher", cipher.as_str())?,
            None => body.skip_field("encryption_cipher")?,
        }
        match self.page_format {
            Some(format) => body.serialize_field("page_format", format.as_str())?,
            None => body.skip_field("page_format")?,
        }
        body.end()
    }
}

impl<'de> Deserialize<'de> for RemoteEncryption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Body {
            encryption_key: Option<zeroize::Zeroizing<String>>,
            encryption_cipher: Option<String>,
            page_format: Option<String>,
        }
        // The error of the format repeats an invalid value, which may be a key.
        let body = Body::deserialize(deserializer).map_err(|_| {
            de::Error::custom(
                "remote_encryption must be an object with the strings encryption_key and encryption_cipher",
            )
        })?;
        let cipher =
            body.encryption_cipher.map(|name| name.parse()).transpose().map_err(de::Error::custom)?;
        let page_format = body.page_format.map(|name| name.parse()).transpose().map_err(de::Error::custom)?;
        let key = body.encryption_key.ok_or_else(|| {
            de::Error::custom("remote encryption key must be provided when remote encryption cipher is set")
        })?;
        let key = EncryptionKey::from_base64(&key).map_err(de::Error::custom)?;
        if let Some(cipher) = cipher {
            key.check_size(cipher).map_err(de::Error::custom)?;
        }
        Ok(Self { key, cipher, page_format })
    }
}

/// Serializes an optional key as base64.
mod key_as_base64 {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::cipher::EncryptionKey;

    #[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
    pub(super) fn serialize<S: Serializer>(
        key: &Option<EncryptionKey>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match key {
            Some(key) => serializer.serialize_str(&key.to_base64()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<EncryptionKey>, D::Error> {
        let text = Option::<zeroize::Zeroizing<String>>::deserialize(deserializer)?;
        text.map(|text| EncryptionKey::from_base64(&text)).transpose().map_err(de::Error::custom)
    }
}

/// The created database: the `database` object of the response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct CreateDatabaseOutput {
    /// The id of the database, a UUID.
    #[serde(rename = "DbId")]
    pub id: String,
    /// The host name under which the HTTP API serves it.
    #[serde(rename = "Hostname")]
    pub hostname: String,
    /// The name of the database.
    #[serde(rename = "Name")]
    pub name: String,
    /// The commit to which the requested instant resolved. The body of the API does not contain it.
    #[serde(skip)]
    pub reached: Option<ResolvedInstant>,
    /// The parts of an imported file that could not be checked, each with the reason: see [`Uploaded::unchecked`]. The body of
    /// the API does not contain it.
    #[serde(skip)]
    pub unchecked: Vec<String>,
}

/// The result of [`upload_database`](crate::ControlPlane::upload_database).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Uploaded {
    /// The parts of the file that could not be checked, each with the reason: they need a collation, a function, a module or
    /// a tokenizer of the program that made the file, which is unknown here. Empty if everything was checked.
    pub unchecked: Vec<String>,
}

macro_rules! serde_as_text {
    ($($type:ty)*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

serde_as_text! { SizeLimit Retention HistoryLimit Timestamp Cipher crate::name::GroupName crate::name::DatabaseName }

impl CreateDatabaseInput {
    /// Reads a request body.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Invalid`] if the body is invalid; the message states the fault and its position.
    ///
    /// ```
    /// let body = r#"{"name": "copy", "group": "default", "seed": {"type:": "database", "name": "orders"}}"#;
    /// let mut body = serde_json::Deserializer::from_str(body);
    /// let error = litefleet::CreateDatabaseInput::read(&mut body).unwrap_err();
    /// assert!(error.to_string().contains("missing field `type`"));
    /// ```
    pub fn read<'de, D: Deserializer<'de>>(body: D) -> Result<Self> {
        Self::deserialize(body)
            .map_err(|error| Error::new(ErrorKind::Invalid, format!("invalid request: {error}")))
    }
}

/// A database and its configuration. It serializes as the database object of the API, with the additional fields `state`,
/// `created_at`, `size_limit`, `history_window`, `inherits_history_window`, `history_limit` and `inherits_history_limit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema), schema(description = "A database."))]
#[expect(clippy::struct_excessive_bools, reason = "independent switches")]
#[non_exhaustive]
pub struct Database {
    /// The name, unique in the root.
    #[serde(rename = "Name")]
    pub name: crate::name::DatabaseName,
    /// The id, a UUID that is never reused.
    #[serde(rename = "DbId")]
    pub id: String,
    /// The host name under which the HTTP API serves it.
    #[serde(rename = "Hostname")]
    pub hostname: String,
    /// The group that contains the database.
    pub group: crate::name::GroupName,
    /// Whether the database is ready for use or waits for its upload.
    pub state: DatabaseState,
    /// When it was created.
    pub created_at: Timestamp,
    /// The size limit. `None` if only the disk limits it.
    pub size_limit: Option<SizeLimit>,
    /// The history window.
    pub history_window: Retention,
    /// Whether the history window is inherited from the group.
    pub inherits_history_window: bool,
    /// The limit on the size of the history.
    pub history_limit: HistoryLimit,
    /// Whether the limit on the size of the history is inherited from the group.
    pub inherits_history_limit: bool,
    /// Whether reads are refused.
    pub block_reads: bool,
    /// Whether writes are refused.
    pub block_writes: bool,
    /// Whether destroying the database is refused.
    pub delete_protection: bool,
    /// The cipher that seals the pages. `None` for a plain database. The key is not stored anywhere.
    #[serde(rename = "encryption_cipher", skip_serializing_if = "Option::is_none")]
    pub cipher: Option<Cipher>,
    /// The source of a fork. `None` for any other database.
    pub parent: Option<Parent>,
}

/// The state of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DatabaseState {
    /// The database waits for an upload by [`upload_database`](crate::ControlPlane::upload_database).
    Draft,
    /// The database accepts connections.
    Ready,
}

/// The source of a fork. It may have been destroyed since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct Parent {
    /// The id of the source.
    pub id: String,
    /// The name of the source at the time of the fork.
    pub name: crate::name::DatabaseName,
    /// The instant of the fork.
    pub branched_at: Timestamp,
}

/// A group of databases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct Group {
    /// The name, unique in the root.
    pub name: crate::name::GroupName,
    /// The id of the group, a UUID that is never reused.
    #[serde(rename = "uuid")]
    pub id: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// Whether destroying the group or any database in it is refused.
    pub delete_protection: bool,
    /// The history window of the databases in the group that do not set one.
    pub history_window: Retention,
    /// The limit on the size of the history of each database in the group that does not set one.
    pub history_limit: HistoryLimit,
}
