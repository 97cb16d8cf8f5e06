//! Who may do what: bearer tokens, what they are good for, and how all of a kind are revoked.
//!
//! | file, in `<root>/.http/`, for the owner's eyes only | what |
//! |---|---|
//! | `access.db` | the secret that signs tokens, and how often the tokens of each subject were rotated |
//! | `token` | a token of the organization, which the server makes when it first starts |
//! | `read-only-token` | one that is good for looking only |

use std::{
    fs::{OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use rusqlite::{Connection, OptionalExtension};
use zeroize::Zeroizing;

use super::{
    body::Claims,
    dir::PrivateDir,
    refusal::{Answer, Refusal},
};
use crate::{
    Database, Error, ErrorKind, Group, Result, Timestamp,
    sync::{Mutex, Rank},
};

/// The size of the secret: that of the hash that signs.
const SECRET_LEN: usize = 32;

const ISSUER: &str = "litefleet";

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    ReadOnly,
    Full,
}

impl Access {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::Full => "full-access",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::ReadOnly, Self::Full].into_iter().find(|access| access.as_str() == text)
    }
}

/// Whose token it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// All of the fleet.
    Organization,
    /// The databases of the group with this id.
    Group(String),
    /// The database with this id.
    Database(String),
}

impl Subject {
    fn to_text(&self) -> String {
        match self {
            Self::Organization => "organization".into(),
            Self::Group(id) => format!("group:{id}"),
            Self::Database(id) => format!("database:{id}"),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None => (text == "organization").then_some(Self::Organization),
            Some(("group", id)) => Some(Self::Group(id.into())),
            Some(("database", id)) => Some(Self::Database(id.into())),
            Some(_) => None,
        }
    }
}

/// Who asks for something, as the token that came with it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    subject: Subject,
    access: Access,
}

impl Caller {
    /// The host program's own user, where no tokens are asked for.
    pub(super) const fn anyone() -> Self {
        Self { subject: Subject::Organization, access: Access::Full }
    }

    /// Refuses a caller who may not do this to the fleet.
    pub(super) fn may(&self, access: Access) -> Answer<()> {
        if self.subject != Subject::Organization {
            return Err(Refusal::unauthorized(
                "could not parse jwt id: this is a token of a database or a group, and the Platform API wants one of the organization",
            ));
        }
        self.reaches(access)
    }

    /// Refuses a caller who may not do this to a database.
    pub(super) fn may_with(&self, database: &Database, group: &Group, access: Access) -> Answer<()> {
        let is_of = match &self.subject {
            Subject::Organization => true,
            Subject::Group(id) => *id == group.id,
            Subject::Database(id) => *id == database.id,
        };
        if !is_of {
            let message = format!("this token is not one of database {}", database.name);
            return Err(Refusal::unauthorized(message));
        }
        self.reaches(access)
    }

    fn reaches(&self, access: Access) -> Answer<()> {
        if self.access < access {
            return Err(Refusal::forbidden("this token is read-only"));
        }
        Ok(())
    }
}

/// The tokens of a fleet.
pub(super) struct Tokens {
    signing: EncodingKey,
    checking: DecodingKey,
    rotations: Mutex<Connection>,
    dir: PrivateDir,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("dir", &self.dir.path).finish_non_exhaustive()
    }
}

fn failed(error: rusqlite::Error) -> Error {
    Error::new(ErrorKind::Io, format!("reading .http/access.db: {error}")).caused_by(error)
}

fn io_failed(path: &Path, error: io::Error) -> Error {
    Error::naming(ErrorKind::Io, path, |file| format!("{file}: {error}")).caused_by(error)
}

/// Writes a file that nobody but its owner can read, whole or not at all. The caller has locked the directory: others would
/// write to the same name beside it.
fn write_private(dir: &PrivateDir, path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    // A file that was left there may be open to others.
    file.set_permissions(Permissions::from_mode(0o600))?;
    dir.give(&file)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    std::fs::File::open(path.parent().unwrap_or(path))?.sync_all()
}

impl Tokens {
    /// Those of the fleet in `root`. Its secret is made if there is none.
    pub(super) fn open(root: &Path) -> Result<Self> {
        let dir = PrivateDir::of(root)?;
        let (connection, secret) = dir.locked(|| Self::connect(&dir))?;
        Ok(Self {
            signing: EncodingKey::from_secret(&secret),
            checking: DecodingKey::from_secret(&secret),
            rotations: Mutex::new(Rank::Rotations, connection),
            dir,
        })
    }

    /// Opens the database of secret and rotations, which is made if it is not there.
    fn connect(dir: &PrivateDir) -> Result<(Connection, Zeroizing<Vec<u8>>)> {
        let path = dir.path.join("access.db");
        // Only one that is new: closing a file that SQLite has open elsewhere in this process would drop its locks.
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_failed(&path, error));
            }
            Err(_) => {}
            Ok(file) => dir.give(&file).map_err(|error| io_failed(&path, error))?,
        }
        let connection = Connection::open(&path).map_err(failed)?;
        connection.busy_timeout(Duration::from_secs(10)).map_err(failed)?;
        connection
            .execute_batch(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
                 CREATE TABLE IF NOT EXISTS secret(one INTEGER PRIMARY KEY CHECK (one = 1), secret BLOB NOT NULL) STRICT;
                 CREATE TABLE IF NOT EXISTS rotations(subject TEXT PRIMARY KEY, times INTEGER NOT NULL) STRICT;",
            )
            .map_err(failed)?;
        let mut new = Zeroizing::new([0; SECRET_LEN]);
        getrandom::fill(new.as_mut())
            .map_err(|error| Error::new(ErrorKind::Io, format!("no random bytes for a secret: {error}")))?;
        // Whichever process is first makes it.
        connection
            .execute("INSERT INTO secret VALUES (1, ?1) ON CONFLICT DO NOTHING", [new.as_slice()])
            .map_err(failed)?;
        let secret: Zeroizing<Vec<u8>> = connection
            .query_row("SELECT secret FROM secret", [], |row| row.get(0).map(Zeroizing::new))
            .map_err(failed)?;
        if secret.len() != SECRET_LEN {
            return Err(Error::new(ErrorKind::Corrupt, ".http/access.db has no secret of 32 bytes"));
        }
        Ok((connection, secret))
    }

    /// The file with a token of the organization, which is made if there is none that is good.
    pub(super) fn organization_token_file(&self, access: Access) -> Result<PathBuf> {
        self.dir.locked(|| self.keep_token_file(access))
    }

    fn keep_token_file(&self, access: Access) -> Result<PathBuf> {
        let path = self.dir.path.join(match access {
            Access::ReadOnly => "read-only-token",
            Access::Full => "token",
        });
        let held = std::fs::read_to_string(&path).unwrap_or_default();
        let caller = self.claims(held.trim()).and_then(|claims| self.caller(claims));
        if !caller.is_ok_and(|caller| caller.access == access) {
            let token = self.mint(&Subject::Organization, access, None)?;
            write_private(&self.dir, &path, &format!("{token}\n"))
                .map_err(|error| io_failed(&path, error))?;
        }
        Ok(path)
    }

    /// A new token.
    pub(super) fn mint(&self, subject: &Subject, access: Access, life: Option<Duration>) -> Result<String> {
        let now = Timestamp::now().as_micros() / 1_000_000;
        let claims = Claims {
            iss: ISSUER.into(),
            sub: subject.to_text(),
            access: access.as_str().into(),
            rotation: self.rotation(subject)?,
            iat: now,
            exp: life.map(|life| now.saturating_add(i64::try_from(life.as_secs()).unwrap_or(i64::MAX))),
        };
        encode(&Header::new(Algorithm::HS256), &claims, &self.signing)
            .map_err(|error| Error::new(ErrorKind::Io, format!("signing a token: {error}")))
    }

    /// What a token says, if this server signed it. The signature is compared in constant time, by the crate that checks it.
    pub(super) fn claims(&self, token: &str) -> Answer<Claims> {
        if token.split('.').count() != 3 {
            return Err(Refusal::unauthorized("token contains an invalid number of segments"));
        }
        let mut rules = Validation::new(Algorithm::HS256);
        rules.set_issuer(&[ISSUER]);
        rules.required_spec_claims.clear();
        rules.leeway = 0;
        let claims = decode::<Claims>(token, &self.checking, &rules).map_err(|error| match error.kind() {
            jsonwebtoken::errors::ErrorKind::ExpiredSignature => Refusal::unauthorized("token has expired"),
            _ => Refusal::unauthorized("token is not one of this server"),
        })?;
        Ok(claims.claims)
    }

    /// Whose token it is, if it was not revoked.
    pub(super) fn caller(&self, claims: Claims) -> Answer<Caller> {
        let Claims { sub, access, rotation, .. } = claims;
        let (Some(subject), Some(access)) = (Subject::parse(&sub), Access::parse(&access)) else {
            return Err(Refusal::unauthorized("token is not one of this server"));
        };
        if self.rotation(&subject)? != rotation {
            return Err(Refusal::unauthorized("token was revoked"));
        }
        Ok(Caller { subject, access })
    }

    /// Revokes every token of a subject.
    pub(super) fn rotate(&self, subject: &Subject) -> Result<()> {
        self.rotations
            .lock_or_recover()
            .execute(
                "INSERT INTO rotations VALUES (?1, 1) ON CONFLICT DO UPDATE SET times = times + 1",
                [subject.to_text()],
            )
            .map(|_| ())
            .map_err(failed)
    }

    /// How often the tokens of a subject were revoked.
    fn rotation(&self, subject: &Subject) -> Result<i64> {
        let connection = self.rotations.lock_or_recover();
        let times = connection
            .prepare_cached("SELECT times FROM rotations WHERE subject = ?1")
            .and_then(|mut select| select.query_row([subject.to_text()], |row| row.get(0)).optional())
            .map_err(failed)?;
        Ok(times.unwrap_or(0))
    }
}
