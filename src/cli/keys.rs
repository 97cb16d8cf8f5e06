//! Keys on the command line: from an argument, from a file or from the environment.

use std::{env::VarError, ffi::OsString, path::PathBuf};

use clap::Args;
use litefleet::{Cipher, EncryptionKey, Error, ErrorKind, Result};
use zeroize::Zeroizing;

use super::args::CreateArguments;

/// The environment variables that hold keys for every call.
const KEY_VARIABLE: &str = "LITEFLEET_ENCRYPTION_KEY";
const SOURCE_KEY_VARIABLE: &str = "LITEFLEET_SOURCE_ENCRYPTION_KEY";

/// The options that hold keys in the arguments.
const KEY_OPTION: &str = "--remote-encryption-key";
const SOURCE_KEY_OPTION: &str = "--source-encryption-key";

/// The key of an encrypted database. It need not stand in the arguments, where other users of the machine can see it.
#[derive(Clone, Debug, Args)]
pub(crate) struct KeyArguments {
    /// The key of an encrypted database, as base64. Better give it in a file, or in the environment as
    /// `LITEFLEET_ENCRYPTION_KEY`: other users of the machine can see arguments.
    #[arg(long, value_name = "BASE64", visible_alias = "encryption-key")]
    remote_encryption_key: Option<Secret>,
    /// A file that holds the key, as base64.
    #[arg(long, value_name = "FILE", conflicts_with = "remote_encryption_key")]
    key_file: Option<PathBuf>,
}

impl KeyArguments {
    /// Whether the key was given to this call, and not to every one by the environment.
    pub(crate) fn is_given(&self) -> bool {
        self.remote_encryption_key.is_some() || self.key_file.is_some()
    }

    /// The key, if there is one.
    pub(crate) fn key(&self) -> Result<Option<EncryptionKey>> {
        if let Some(path) = &self.key_file {
            let text = std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| {
                Error::new(ErrorKind::Io, format!("reading the key file {}: {error}", path.display()))
                    .caused_by(error)
            })?;
            let key = EncryptionKey::from_base64(&text);
            return key.map(Some).map_err(|error| in_source(&format!("key file {}", path.display()), error));
        }
        key_of(self.remote_encryption_key.as_ref(), KEY_OPTION, KEY_VARIABLE)
    }

    /// The key, checked against the cipher that it is for.
    pub(crate) fn key_for(&self, cipher: Cipher) -> Result<Option<EncryptionKey>> {
        let Some(key) = self.key()? else { return Ok(None) };
        key.check_size(cipher).map_err(|error| in_source(&self.source(), error))?;
        Ok(Some(key))
    }

    /// Where the key was taken from, for a person.
    fn source(&self) -> String {
        match &self.key_file {
            Some(path) => format!("key file {}", path.display()),
            None if self.remote_encryption_key.is_some() => KEY_OPTION.to_owned(),
            None => KEY_VARIABLE.to_owned(),
        }
    }

    /// Completes an error about the key with how to give it, or with where it was taken from.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let message = match error.kind() {
            ErrorKind::KeyRequired => {
                format!("{error}; give it with --key-file FILE or in {KEY_VARIABLE}")
            }
            ErrorKind::WrongKey => {
                let source = self.source();
                format!(
                    "{error}; the key was taken from {source}, and --key-file FILE or {KEY_VARIABLE} gives another"
                )
            }
            _ => return error,
        };
        Error::new(error.kind(), message).caused_by(error)
    }

    /// The option that gives this key again in a command that is printed, as words of the command. A key that stands in the
    /// arguments is not repeated.
    pub(crate) fn again(&self) -> Option<[OsString; 2]> {
        let placeholder = || OsString::from(KEY_FILE_PLACEHOLDER);
        let file = match &self.key_file {
            // A pipe holds the key only once.
            Some(path) if path.is_file() => std::path::absolute(path).ok().map(Into::into),
            Some(_) => Some(placeholder()),
            None => self.remote_encryption_key.as_ref().map(|_| placeholder()),
        };
        file.map(|file| ["--key-file".into(), file])
    }
}

/// What stands for the file with a key in a command that is printed.
pub(crate) const KEY_FILE_PLACEHOLDER: &str = "KEY_FILE";

impl CreateArguments {
    /// The key of the source, if it has one of its own.
    pub(crate) fn source_key(&self) -> Result<Option<EncryptionKey>> {
        key_of(self.source_encryption_key.as_ref(), SOURCE_KEY_OPTION, SOURCE_KEY_VARIABLE)
    }

    /// Completes an error about a key with how to give it.
    pub(crate) fn explain_key(&self, error: Error) -> Error {
        let reads_source = self.from_db.is_some() || self.from_file.is_some();
        let error = self.key.explain(error);
        if error.kind() != ErrorKind::WrongKey || !reads_source {
            return error;
        }
        let message = format!(
            "{error}; {SOURCE_KEY_OPTION} or {SOURCE_KEY_VARIABLE} gives the key of the source if it is another one"
        );
        Error::new(error.kind(), message).caused_by(error)
    }
}

/// A key from an argument, or else from the environment. An empty variable holds none.
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
    EncryptionKey::from_base64(&text.0).map(Some).map_err(|error| in_source(source, error))
}

/// An error about a key, with where the key was taken from.
fn in_source(source: &str, error: Error) -> Error {
    Error::new(error.kind(), format!("{source}: {error}")).caused_by(error)
}

/// A text that is never printed.
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
