//! The description of a database or a group: its row in the catalog, as JSON in a file beside its data.
//!
//! The catalog is authoritative, and no description is read while it exists. If the catalog is lost, it is recovered from the
//! descriptions. A description contains no key.

use serde::{Deserialize, Serialize};

use crate::{
    cipher::Cipher,
    error::{Error, ErrorKind, Result},
    history_limit::HistoryLimit,
    name::{DatabaseName, GroupName},
    page::{Identity, PageFormat},
    retention::Retention,
    size::SizeLimit,
    time::Timestamp,
};

/// The version of the format. A reader accepts this version only, and ignores unknown fields.
pub(crate) const FORMAT: u32 = 1;

/// The maximum size of a description in bytes.
pub(crate) const LEN_MAX: u64 = 64 << 10;

/// The description of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of a database's row")]
pub(crate) struct DatabaseDescription {
    pub(crate) format: u32,
    pub(crate) id: String,
    pub(crate) name: DatabaseName,
    pub(crate) group: GroupIdentity,
    pub(crate) created_at: Timestamp,
    pub(crate) size_limit: Option<SizeLimit>,
    /// `None` uses the window of the group.
    pub(crate) history_window: Option<Retention>,
    /// `None` uses the limit of the group. Absent from the descriptions of older versions.
    #[serde(default)]
    pub(crate) history_limit: Option<HistoryLimit>,
    pub(crate) history_paused: bool,
    pub(crate) block_reads: bool,
    pub(crate) block_writes: bool,
    pub(crate) delete_protection: bool,
    pub(crate) encryption: Option<Encryption>,
    pub(crate) parent: Option<ParentIdentity>,
}

/// The group of a database. The description of the group is authoritative; this is used if it is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupIdentity {
    pub(crate) id: String,
    pub(crate) name: GroupName,
}

/// The encryption of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Encryption {
    pub(crate) cipher: Cipher,
    page_format: String,
    /// In hexadecimal digits. `None` if the format has no salt.
    salt: Option<String>,
}

/// The source of a fork.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ParentIdentity {
    pub(crate) id: String,
    pub(crate) name: DatabaseName,
    pub(crate) branched_at: Timestamp,
}

/// The description of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupDescription {
    pub(crate) format: u32,
    pub(crate) id: String,
    pub(crate) name: GroupName,
    pub(crate) directory: String,
    pub(crate) created_at: Timestamp,
    pub(crate) history_window: Retention,
    /// Absent from the descriptions of older versions.
    #[serde(default)]
    pub(crate) history_limit: HistoryLimit,
    pub(crate) delete_protection: bool,
}

impl Encryption {
    pub(crate) fn new(cipher: Cipher, identity: &Identity) -> Self {
        let number = |salt: &[u8]| salt.try_into().ok().map(u128::from_be_bytes);
        let salt = identity.salt().and_then(number).map(|number| format!("{number:032x}"));
        Self { cipher, page_format: identity.format().as_str().to_owned(), salt }
    }

    /// Returns the identity of the file. Fails with [`ErrorKind::Corrupt`] if it is invalid.
    pub(crate) fn identity(&self) -> Result<Identity> {
        let format: PageFormat = self.page_format.parse()?;
        let salt = self.salt.as_deref().map(|hex| {
            let number = u128::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 32);
            number.map(u128::to_be_bytes).ok_or_else(|| Error::new(ErrorKind::Corrupt, "invalid salt"))
        });
        Identity::new(format, salt.transpose()?)
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "salt does not match the page format"))
    }
}

impl DatabaseDescription {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        parse(bytes)
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}

impl GroupDescription {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        parse(bytes)
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}

fn parse<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let damaged = |error: serde_json::Error| Error::new(ErrorKind::Corrupt, error.to_string());
    let Version { format: version } = serde_json::from_slice(bytes).map_err(damaged)?;
    if version != FORMAT {
        let message = format!("it has format version {version}, and this litefleet supports {FORMAT}");
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// Serializes a description as indented JSON with a final newline.
fn to_json(description: &impl Serialize) -> Vec<u8> {
    // Strings, numbers and `None` cannot fail to serialize.
    let mut json = serde_json::to_vec_pretty(description).unwrap_or_default();
    json.push(b'\n');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> DatabaseDescription {
        let identity = Identity::new(PageFormat::Native, Some([0xab; 16])).unwrap();
        DatabaseDescription {
            format: FORMAT,
            id: "019a0000-0000-7000-8000-000000000000".into(),
            name: "orders".parse().unwrap(),
            group: GroupIdentity { id: "g".into(), name: "default".parse().unwrap() },
            created_at: Timestamp::from_micros(1_764_000_000_123_456).unwrap(),
            size_limit: Some("256kb".parse().unwrap()),
            history_window: None,
            history_limit: Some(HistoryLimit::NONE),
            history_paused: true,
            block_reads: false,
            block_writes: true,
            delete_protection: false,
            encryption: Some(Encryption::new(Cipher::Aegis256, &identity)),
            parent: None,
        }
    }

    #[test]
    fn description_round_trips() {
        let description = example();
        let json = description.to_json();
        assert_eq!(DatabaseDescription::parse(&json).unwrap(), description);
        let identity = description.encryption.unwrap().identity().unwrap();
        assert_eq!(identity.salt(), Some(&[0xab; 16][..]));
        assert!(String::from_utf8(json).unwrap().contains(r#""created_at": "2025-11-24T16:00:00.123456Z""#));
    }

    #[test]
    fn newer_format_and_damage_are_refused() {
        let json = String::from_utf8(example().to_json()).unwrap();
        let newer = json.replace(r#""format": 1"#, r#""format": 2"#);
        assert_eq!(DatabaseDescription::parse(newer.as_bytes()).unwrap_err().kind(), ErrorKind::Unsupported);
        for damaged in ["", "{}", &json[..json.len() / 2], &json.replace("orders", "../orders")] {
            let error = DatabaseDescription::parse(damaged.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{damaged:?}: {error}");
        }
        let unknown = json.replacen('{', r#"{"later": 1,"#, 1);
        assert_eq!(DatabaseDescription::parse(unknown.as_bytes()).unwrap(), example());
        let older = json.replace("  \"history_limit\": \"none\",\n", "");
        let older = DatabaseDescription::parse(older.as_bytes()).unwrap();
        assert_eq!(older, DatabaseDescription { history_limit: None, ..example() });
        let salt = json.replace("abab", "zzab");
        let encryption = DatabaseDescription::parse(salt.as_bytes()).unwrap().encryption.unwrap();
        assert_eq!(encryption.identity().unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
