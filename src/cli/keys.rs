//! Encryption keys of the command line, from an argument, a file or the environment.

use std::{env::VarError, ffi::OsString, path::PathBuf};

use clap::Args;
use litefleet::{Cipher, ControlPlane, EncryptionKey, Error, ErrorKind, Result};
use zeroize::Zeroizing;

/// The environment variables that contain keys.
const KEY_VARIABLE: &str = "LITEFLEET_ENCRYPTION_KEY";
const SOURCE_KEY_VARIABLE: &str = "LITEFLEET_SOURCE_ENCRYPTION_KEY";

/// The options that contain keys.
const KEY_OPTION: &str = "--remote-encryption-key";
const SOURCE_KEY_OPTION: &str = "--source-encryption-key";

/// The options for the key of an encrypted database.
#[derive(Clone, Debug, Args)]
pub(crate) struct KeyArguments {
    /// The key of an encrypted database, as base64. Other users of the machine can see arguments: prefer `--key-file`, or
    /// the environment variable `LITEFLEET_ENCRYPTION_KEY`.
    #[arg(long, value_name = "BASE64", visible_alias = "encryption-key")]
    remote_encryption_key: Option<Secret>,
    /// A file that contains the key, as base64.
    #[arg(long, value_name = "FILE", conflicts_with = "remote_encryption_key")]
    key_file: Option<PathBuf>,
}

impl KeyArguments {
    /// Whether an option gives the key. The environment variable applies to every command, so it does not count.
    pub(crate) fn is_given(&self) -> bool {
        self.remote_encryption_key.is_some() || self.key_file.is_some()
    }

    /// Returns the key, or `None` if neither an option nor the environment gives one.
    pub(crate) fn key(&self) -> Result<Option<EncryptionKey>> {
        if let Some(path) = &self.key_file {
            let text = std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| {
                Error::new(ErrorKind::Io, format!("reading the key file {}: {error}", path.display()))
                    .caused_by(error)
            })?;
            let key = EncryptionKey::from_base64(&text);
            return key
                .map(Some)
                .map_err(|error| with_source(&format!("key file {}", path.display()), error));
        }
        key_of(self.remote_encryption_key.as_ref(), KEY_OPTION, KEY_VARIABLE)
    }

    /// Returns the key. Fails if its size does not match `cipher`.
    pub(crate) fn key_for(&self, cipher: Cipher) -> Result<Option<EncryptionKey>> {
        let Some(key) = self.key()? else { return Ok(None) };
        key.check_size(cipher).map_err(|error| with_source(&self.source(), error))?;
        Ok(Some(key))
    }

    /// Returns the key for a database, or `None` if the database is plain, because a key in the environment may be for others.
    pub(crate) fn for_database(&self, plane: &ControlPlane, name: &str) -> Result<Option<EncryptionKey>> {
        match plane.get_database(name)?.cipher {
            Some(cipher) => self.key_for(cipher),
            None => Ok(None),
        }
    }

    /// Describes the source of the key.
    fn source(&self) -> String {
        match &self.key_file {
            Some(path) => format!("key file {}", path.display()),
            None if self.remote_encryption_key.is_some() => KEY_OPTION.to_owned(),
            None => KEY_VARIABLE.to_owned(),
        }
    }

    /// Adds to an error about the key how to give one, or which source it came from.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let message = match error.kind() {
            ErrorKind::KeyRequired => {
                format!("{error}; give it with --key-file FILE or in {KEY_VARIABLE}")
            }
            ErrorKind::WrongKey => {
                let source = self.source();
                format!(
                    "{error}; the key came from {source}; give another with --key-file FILE or in {KEY_VARIABLE}"
                )
            }
            _ => return error,
        };
        Error::new(error.kind(), message).caused_by(error)
    }

    /// The option that gives this key in a printed command. A key in the arguments is replaced by a placeholder.
    pub(crate) fn printable_option(&self) -> Option<[OsString; 2]> {
        let placeholder = || OsString::from(KEY_FILE_PLACEHOLDER);
        let file = match &self.key_file {
            // A pipe can be read only once.
            Some(path) if path.is_file() => std::path::absolute(path).ok().map(Into::into),
            Some(_) => Some(placeholder()),
            None => self.remote_encryption_key.as_ref().map(|_| placeholder()),
        };
        file.map(|file| ["--key-file".into(), file])
    }
}

/// The placeholder for a key file in a printed command.
pub(crate) const KEY_FILE_PLACEHOLDER: &str = "KEY_FILE";

/// Returns the key of the source of a new database, or `None` if neither the option nor the environment gives one.
pub(super) fn source_key(argument: Option<&Secret>) -> Result<Option<EncryptionKey>> {
    key_of(argument, SOURCE_KEY_OPTION, SOURCE_KEY_VARIABLE)
}

/// Adds to an error about a key how to give the key of the source.
pub(super) fn explain_source(error: Error) -> Error {
    if error.kind() != ErrorKind::WrongKey {
        return error;
    }
    let message = format!(
        "{error}; if the source has another key, give it with {SOURCE_KEY_OPTION} or in {SOURCE_KEY_VARIABLE}"
    );
    Error::new(error.kind(), message).caused_by(error)
}

/// Returns the key in an argument or, without one, in the environment. An empty variable counts as unset.
fn key_of(argument: Option<&Secret>, option: &str, variable: &str) -> Result<Option<EncryptionKey>> {
    let (text, source) = match argument {
        Some(key) => (key.clone(), option),
        None => match std::env::var(variable) {
            Err(VarError::NotPresent) => return Ok(None),
            Err(VarError::NotUnicode(_)) => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("{variable}: encryption key is not valid base64"),
                ));
            }
            Ok(text) if text.is_empty() => return Ok(None),
            Ok(text) => (Secret::from(text), variable),
        },
    };
    EncryptionKey::from_base64(&text.0).map(Some).map_err(|error| with_source(source, error))
}

/// Prefixes an error about a key with the source of the key.
fn with_source(source: &str, error: Error) -> Error {
    Error::new(error.kind(), format!("{source}: {error}")).caused_by(error)
}

/// A string that is never printed and is wiped on drop.
#[derive(Clone)]
pub(crate) struct Secret(Zeroizing<String>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}
