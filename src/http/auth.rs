//! Bearer tokens: signed, scoped to the organization, a group or a database, and revoked by rotation.
//!
//! | file in `<root>/.http/`, readable by its owner only | contents |
//! |---|---|
//! | `access.db` | the secret that signs tokens, and the number of rotations of each subject |
//! | `token` | a token of the organization, created when the server first starts |
//! | `read-only-token` | a read-only token of the organization |

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
    error::{ApiError, ApiResult},
    private_dir::PrivateDir,
};
use crate::{
    Database, Error, ErrorKind, Group, Result, Timestamp,
    sync::{Mutex, Rank},
};

/// Length of the secret in bytes: the output length of the HMAC's hash.
const SECRET_LEN: usize = 32;

const ISSUER: &str = "litefleet";

/// The level of access that a token grants.
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

/// The scope of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Organization,
    /// Every database of the group with this id.
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

/// The authenticated sender of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    subject: Subject,
    access: Access,
}

impl Caller {
    /// A caller with full access, for a server that requires no tokens.
    pub(super) const fn unrestricted() -> Self {
        Self { subject: Subject::Organization, access: Access::Full }
    }

    /// Fails unless the caller has `access` to the whole organization.
    pub(super) fn require(&self, access: Access) -> ApiResult<()> {
        if self.subject != Subject::Organization {
            return Err(ApiError::unauthorized(
                "could not parse jwt id: the Platform API requires a token of the organization, and this is a token of a database or a group",
            ));
        }
        self.require_level(access)
    }

    /// Fails unless the caller has `access` to a database.
    pub(super) fn require_for(&self, database: &Database, group: &Group, access: Access) -> ApiResult<()> {
        let is_in_scope = match &self.subject {
            Subject::Organization => true,
            Subject::Group(id) => *id == group.id,
            Subject::Database(id) => *id == database.id,
        };
        if !is_in_scope {
            let message = format!("the token is not valid for database {}", database.name);
            return Err(ApiError::unauthorized(message));
        }
        self.require_level(access)
    }

    fn require_level(&self, access: Access) -> ApiResult<()> {
        if self.access < access {
            return Err(ApiError::forbidden("the token is read-only"));
        }
        Ok(())
    }
}

/// Mints, verifies and revokes the tokens of a fleet.
pub(super) struct TokenStore {
    encoding_key: EncodingKey,
    decoding_key: DecodingKey,
    rotations: Mutex<Connection>,
    dir: PrivateDir,
}

impl std::fmt::Debug for TokenStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenStore").field("dir", &self.dir.path).finish_non_exhaustive()
    }
}

fn failed(error: rusqlite::Error) -> Error {
    Error::new(ErrorKind::Io, format!("reading .http/access.db: {error}")).caused_by(error)
}

fn io_failed(path: &Path, error: io::Error) -> Error {
    Error::naming(ErrorKind::Io, path, |file| format!("{file}: {error}")).caused_by(error)
}

/// Replaces a file atomically with one that only its owner can read. The caller holds the lock of the directory, because the
/// temporary file has a fixed name.
fn write_private(dir: &PrivateDir, path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    // A file that a crash left behind may have other permissions.
    file.set_permissions(Permissions::from_mode(0o600))?;
    dir.adopt(&file)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    std::fs::File::open(path.parent().unwrap_or(path))?.sync_all()
}

impl TokenStore {
    /// Opens the tokens of the fleet in `root`, and creates the secret if there is none.
    pub(super) fn open(root: &Path) -> Result<Self> {
        let dir = PrivateDir::open(root)?;
        let (connection, secret) = dir.with_lock(|| Self::connect(&dir))?;
        Ok(Self {
            encoding_key: EncodingKey::from_secret(&secret),
            decoding_key: DecodingKey::from_secret(&secret),
            rotations: Mutex::new(Rank::Rotations, connection),
            dir,
        })
    }

    /// Opens `access.db`, and creates it if it does not exist.
    fn connect(dir: &PrivateDir) -> Result<(Connection, Zeroizing<Vec<u8>>)> {
        let path = dir.path.join("access.db");
        // An existing file is not opened here: closing any descriptor of it would drop this process's POSIX locks on it.
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_failed(&path, error));
            }
            Err(_) => {}
            Ok(file) => dir.adopt(&file).map_err(|error| io_failed(&path, error))?,
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
            .map_err(|error| Error::new(ErrorKind::Io, format!("generating a secret: {error}")))?;
        // If several processes race, the first insert wins.
        connection
            .execute("INSERT INTO secret VALUES (1, ?1) ON CONFLICT DO NOTHING", [new.as_slice()])
            .map_err(failed)?;
        let secret: Zeroizing<Vec<u8>> = connection
            .query_row("SELECT secret FROM secret", [], |row| row.get(0).map(Zeroizing::new))
            .map_err(failed)?;
        if secret.len() != SECRET_LEN {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "invalid secret in .http/access.db: it must have 32 bytes; delete the file to create a new one",
            ));
        }
        Ok((connection, secret))
    }

    /// Returns the path of the file with a token of the organization, after writing a new token if it has no valid one.
    pub(super) fn organization_token_file(&self, access: Access) -> Result<PathBuf> {
        self.dir.with_lock(|| self.refresh_token_file(access))
    }

    fn refresh_token_file(&self, access: Access) -> Result<PathBuf> {
        let path = self.dir.path.join(match access {
            Access::ReadOnly => "read-only-token",
            Access::Full => "token",
        });
        let token = std::fs::read_to_string(&path).unwrap_or_default();
        let caller = self.verify(token.trim()).and_then(|claims| self.authenticate(claims));
        if !caller.is_ok_and(|caller| caller.access == access) {
            let token = self.mint(&Subject::Organization, access, None)?;
            write_private(&self.dir, &path, &format!("{token}\n"))
                .map_err(|error| io_failed(&path, error))?;
        }
        Ok(path)
    }

    /// Returns a new token, which expires after `lifetime` if there is one.
    pub(super) fn mint(
        &self,
        subject: &Subject,
        access: Access,
        lifetime: Option<Duration>,
    ) -> Result<String> {
        let now = Timestamp::now().as_micros() / 1_000_000;
        let claims = Claims {
            iss: ISSUER.into(),
            sub: subject.to_text(),
            access: access.as_str().into(),
            rotation: self.rotation(subject)?,
            iat: now,
            exp: lifetime.map(|life| now.saturating_add(i64::try_from(life.as_secs()).unwrap_or(i64::MAX))),
        };
        encode(&Header::new(Algorithm::HS256), &claims, &self.encoding_key)
            .map_err(|error| Error::new(ErrorKind::Io, format!("signing a token: {error}")))
    }

    /// Verifies signature and expiration of a token, and returns its claims. `jsonwebtoken` compares signatures in constant time.
    pub(super) fn verify(&self, token: &str) -> ApiResult<Claims> {
        if token.split('.').count() != 3 {
            return Err(ApiError::unauthorized("token contains an invalid number of segments"));
        }
        let mut rules = Validation::new(Algorithm::HS256);
        rules.set_issuer(&[ISSUER]);
        rules.required_spec_claims.clear();
        rules.leeway = 0;
        let claims =
            decode::<Claims>(token, &self.decoding_key, &rules).map_err(|error| match error.kind() {
                jsonwebtoken::errors::ErrorKind::ExpiredSignature => {
                    ApiError::unauthorized("token has expired")
                }
                _ => ApiError::unauthorized("token was not issued by this server"),
            })?;
        Ok(claims.claims)
    }

    /// Returns the caller that verified claims identify. Fails if the token has been revoked.
    pub(super) fn authenticate(&self, claims: Claims) -> ApiResult<Caller> {
        let Claims { sub, access, rotation, .. } = claims;
        let (Some(subject), Some(access)) = (Subject::parse(&sub), Access::parse(&access)) else {
            return Err(ApiError::unauthorized("token was not issued by this server"));
        };
        if self.rotation(&subject)? != rotation {
            return Err(ApiError::unauthorized("token was revoked"));
        }
        Ok(Caller { subject, access })
    }

    /// Revokes every token of `subject`.
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

    /// The number of times that the tokens of `subject` have been revoked.
    fn rotation(&self, subject: &Subject) -> Result<i64> {
        let connection = self.rotations.lock_or_recover();
        let times = connection
            .prepare_cached("SELECT times FROM rotations WHERE subject = ?1")
            .and_then(|mut select| select.query_row([subject.to_text()], |row| row.get(0)).optional())
            .map_err(failed)?;
        Ok(times.unwrap_or(0))
    }
}
